package fsm

// Decide is what a table makes of an event, without an executor.
func Decide(t *Table, p Position, e Event) Transition { return t.decide(p, e) }
