package mutants

import (
	"reflect"
	"testing"

	"github.com/chatconn/chatconn/fsm"
)

// Every mutant is a table that could have been declared, differs from the
// declared one in its own cell only, and from every other mutant.
func TestMutants(t *testing.T) {
	type place struct {
		s fsm.State
		e fsm.Event
	}
	seen := map[string]bool{}
	cells := map[place]int{}
	for _, m := range All() {
		table, declared := m.Table(), fsm.Declared()
		if _, err := fsm.New(table); err != nil {
			t.Errorf("%s: %v", m.Name, err)
		}
		was, is := declared[m.State][m.Event], table[m.State][m.Event]
		was.Why = is.Why
		if reflect.DeepEqual(was, is) {
			t.Errorf("%s: changes nothing", m.Name)
		}
		table[m.State][m.Event] = declared[m.State][m.Event]
		if !reflect.DeepEqual(table, declared) {
			t.Errorf("%s: changes another cell", m.Name)
		}
		if seen[m.Name] {
			t.Errorf("%s: stands twice", m.Name)
		}
		seen[m.Name] = true
		cells[place{m.State, m.Event}]++
	}
	for _, s := range fsm.States() {
		for _, e := range fsm.Events() {
			if cells[place{s, e}] < 5 {
				t.Errorf("%v × %v has %d mutants", s, e, cells[place{s, e}])
			}
		}
	}
	t.Logf("%d mutants", len(seen))
}
