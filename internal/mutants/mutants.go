// Package mutants enumerates the ways in which one cell of the declared table
// could be wrong: another destination, another verdict, an action too few, too
// many, in place of another or at another place. Tests run them to learn what
// they would notice.
package mutants

import (
	"fmt"
	"slices"

	"github.com/chatconn/chatconn/fsm"
)

// Mutant is the declared table with one other cell. [fsm.New] accepts it.
type Mutant struct {
	Name  string // the cell and the change
	State fsm.State
	Event fsm.Event
	Cell  fsm.Cell // stands in place of the declared one
}

// Table returns the whole table of the mutant.
func (m Mutant) Table() fsm.Table {
	t := fsm.Declared()
	t[m.State][m.Event] = m.Cell
	return t
}

// All returns every mutant, cell by cell.
func All() []Mutant {
	var all []Mutant
	for _, s := range fsm.States() {
		for _, e := range fsm.Events() {
			all = append(all, of(s, e)...)
		}
	}
	return all
}

// of returns the mutants of one cell.
func of(s fsm.State, e fsm.Event) []Mutant {
	declared := fsm.Declared()[s][e]
	to, do := declared.To, declared.Do
	var all []Mutant
	add := func(v fsm.Verdict, to fsm.State, do []fsm.Action, format string, args ...any) {
		cell := fsm.Cell{Verdict: v, Step: fsm.Step{To: to, Do: do, Why: "a mutant"}}
		all = append(all, Mutant{fmt.Sprintf("%v × %v: ", s, e) + fmt.Sprintf(format, args...), s, e, cell})
	}
	for _, other := range fsm.States() {
		if other != s && other != to {
			add(fsm.Move, other, do, "moves to %v", other)
		}
	}
	if declared.Verdict == fsm.Move && len(do) > 0 {
		add(fsm.Stay, s, do, "stays")
	}
	if declared.Verdict != fsm.Ignore {
		add(fsm.Ignore, s, nil, "is ignored")
	}
	if declared.Verdict != fsm.Refuse {
		add(fsm.Refuse, s, nil, "is refused")
	}

	acts := declared.Verdict
	if acts != fsm.Move {
		acts = fsm.Stay // what ignores or refuses would have to stay in order to act
	}
	for i, a := range do {
		without := slices.Delete(slices.Clone(do), i, i+1)
		if acts == fsm.Move || len(without) > 0 {
			add(acts, to, without, "without %v", a)
		}
		for _, other := range fsm.Actions() {
			if !slices.Contains(do, other) {
				add(acts, to, with(without, other), "%v in place of %v", other, a)
			}
		}
		if i > 0 {
			swapped := slices.Clone(do)
			swapped[i-1], swapped[i] = a, do[i-1]
			add(acts, to, swapped, "%v before %v", a, do[i-1])
		}
	}
	for _, a := range fsm.Actions() {
		if !slices.Contains(do, a) {
			add(acts, to, with(do, a), "with %v", a)
		}
	}
	return all
}

// with puts an action where the order of all actions has it.
func with(do []fsm.Action, a fsm.Action) []fsm.Action {
	i := 0
	for i < len(do) && do[i] < a {
		i++
	}
	return slices.Insert(slices.Clone(do), i, a)
}
