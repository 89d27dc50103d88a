package fsm

import (
	"context"
	"errors"
	"fmt"
	"sync"

	looplab "github.com/looplab/fsm"
)

// Table holds one cell for every state and event. It is a value: a copy may be
// changed and made into a [Machine] of its own without touching the original.
type Table [numStates][numEvents]Cell

// Cell is one entry of a [Table].
type Cell struct {
	Verdict Verdict
	Step
}

// Declared returns a copy of the table by which every connection lives. The
// slices inside are shared; replace them, do not write to them.
func Declared() Table { return declared }

// Next looks up a cell, as the function [Next] does.
func (t *Table) Next(s State, e Event) (Step, Verdict) {
	if s >= numStates || e == 0 || e >= numEvents {
		return Step{}, 0
	}
	c := &t[s][e]
	return c.Step, c.Verdict
}

// Position is where one connection stands.
type Position struct {
	State State
	Facts Facts
}

// Transition is what became of one event.
type Transition struct {
	From, To Position
	Event    Event // as qualified by the facts
	Verdict  Verdict
	Do       []Action // shared; do not modify
	Why      string
}

// Machine executes a table. One machine serves any number of connections at
// once: it holds no position, only executors that are lent for one transition.
type Machine struct {
	table     Table
	executors sync.Pool // of *looplab.FSM, built from table
}

// New checks the table and returns a machine that executes it. The error names
// the first cell that is incomplete or contradicts itself.
func New(t Table) (*Machine, error) {
	if err := t.validate(); err != nil {
		return nil, err
	}
	m := &Machine{table: t}
	rows := t.rows()
	m.executors.New = func() any { return looplab.NewFSM(Offline.String(), rows, nil) }
	return m, nil
}

// Fire takes the event from where the connection stands. The decision is the
// table's, the execution looplab/fsm's; an error means that the two disagree
// or that the arguments are no state or event, which is a bug. The transition
// is the table's in every case, and keeps the position where there is none.
// Specification: M3.
func (m *Machine) Fire(p Position, e Event) (Transition, error) {
	t := m.table.decide(p, e)
	if t.Verdict == 0 {
		return t, fmt.Errorf("BUG: fsm: no cell for %v in %v", t.Event, p.State)
	}
	to, took, err := m.execute(p.State, t.Event)
	switch {
	case err != nil:
		return t, fmt.Errorf("BUG: fsm: %v in %v: %w", t.Event, p.State, err)
	case to != t.To.State || took != (t.Verdict == Move || t.Verdict == Stay):
		return t, fmt.Errorf("BUG: fsm: %v in %v: the table says %v to %v, the executor is in %v (taken: %t)", t.Event, p.State, t.Verdict, t.To.State, to, took)
	}
	return t, nil
}

// decide is what the table makes of an event. It is pure.
func (t *Table) decide(p Position, e Event) Transition {
	facts, event := Qualify(p.Facts, e)
	step, verdict := t.Next(p.State, event)
	d := Transition{From: p, To: p, Event: event, Verdict: verdict, Do: step.Do, Why: step.Why}
	switch verdict {
	case Move, Stay:
		d.To = Position{step.To, facts.after(step.Do)}
	case Ignore:
		d.To.Facts = facts
	}
	return d
}

// execute lets looplab/fsm take one transition, and tells where it ended and
// whether there was a row for it. Its traps are fenced here: it gets no
// callback, never a caller's context (a cancelled one wedges it for good), and
// only ever one goroutine, which borrows it for the call.
func (m *Machine) execute(s State, e Event) (to State, took bool, err error) {
	x := m.executors.Get().(*looplab.FSM)
	defer m.executors.Put(x)
	x.SetState(s.String())
	switch err := x.Event(context.Background(), e.String()); err.(type) {
	case nil, looplab.NoTransitionError: // the latter: a row that ends where it began
		return stateNamed(x.Current()), true, nil
	case looplab.InvalidEventError, looplab.UnknownEventError: // no row here, no row anywhere
		return stateNamed(x.Current()), false, nil
	default:
		return stateNamed(x.Current()), false, err
	}
}

func stateNamed(s string) State {
	for i, n := range stateNames {
		if n == s {
			return State(i)
		}
	}
	return numStates
}

// rows are the moves and stays of the table in the executor's form.
func (t *Table) rows() looplab.Events {
	var rows looplab.Events
	for _, s := range States() {
		for _, e := range Events() {
			if c := t[s][e]; c.Verdict == Move || c.Verdict == Stay {
				rows = append(rows, looplab.EventDesc{Name: e.String(), Src: []string{s.String()}, Dst: c.To.String()})
			}
		}
	}
	return rows
}

// validate finds what the executor would accept in silence: missing cells,
// verdicts that contradict their step, repeated actions.
func (t *Table) validate() error {
	for _, s := range States() {
		for _, e := range Events() {
			if err := t[s][e].validate(s); err != nil {
				return fmt.Errorf("fsm: cell %v × %v: %w", s, e, err)
			}
		}
	}
	return nil
}

func (c *Cell) validate(s State) error {
	seen := [numActions]bool{}
	for _, a := range c.Do {
		if a == 0 || a >= numActions {
			return fmt.Errorf("%v is no action", a)
		}
		if seen[a] {
			return fmt.Errorf("%v stands twice", a)
		}
		seen[a] = true
	}
	switch {
	case c.Verdict == 0 || c.Verdict >= numVerdicts:
		return errors.New("nobody declared it")
	case c.To >= numStates:
		return fmt.Errorf("%v is no state", c.To)
	case c.Why == "":
		return errors.New("it gives no reason")
	case c.Verdict == Move && c.To == s:
		return errors.New("a move that stays")
	case c.Verdict != Move && c.To != s:
		return fmt.Errorf("%v, but it names %v", c.Verdict, c.To)
	case c.Verdict == Stay && len(c.Do) == 0:
		return errors.New("a stay that does nothing: ignore it, with the reason")
	case (c.Verdict == Ignore || c.Verdict == Refuse) && len(c.Do) != 0:
		return fmt.Errorf("%v, but it has actions", c.Verdict)
	}
	return nil
}
