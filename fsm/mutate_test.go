package fsm_test

import (
	"fmt"
	"sync"
	"testing"

	. "github.com/chatconn/chatconn/fsm"
	"github.com/chatconn/chatconn/internal/mutants"
)

// survivors are the mutants that no law can notice, each with the reason.
var survivors = map[string]string{
	"Connecting × Abandoned: ForgetStranger in place of ForgetUser": everyoneIsAStranger,
	"Refreshing × Abandoned: ForgetStranger in place of ForgetUser": everyoneIsAStranger,
	"Paused × Abandoned: ForgetStranger in place of ForgetUser":     everyoneIsAStranger,
}

const everyoneIsAStranger = "C1: an attempt is abandoned before the first success only, when every user is a stranger: the two do the same"

// M2: in whatever way one cell is wrong, the laws of the exploration notice.
func TestEveryMutantIsNoticed(t *testing.T) {
	all, visits := mutants.All(), exploreDeclared().visits
	notices := make([]string, len(all))
	var wg sync.WaitGroup
	const workers = 4
	for worker := range workers {
		wg.Go(func() {
			for i := worker; i < len(all); i += workers {
				notices[i] = noticed(all[i], len(visits[cell{all[i].State, all[i].Event}]) > 0)
			}
		})
	}
	wg.Wait()

	unused := make(map[string]bool)
	for name := range survivors {
		unused[name] = true
	}
	for i, m := range all {
		switch reason, listed := survivors[m.Name]; {
		case notices[i] == "" && !listed:
			t.Errorf("%s: nobody noticed", m.Name)
		case notices[i] != "" && listed:
			t.Errorf("%s: listed as a survivor (%s), but %s", m.Name, reason, notices[i])
		}
		delete(unused, m.Name)
	}
	for name := range unused {
		t.Errorf("%s: listed as a survivor, but there is no such mutant", name)
	}
	t.Logf("%d mutants, %d cannot be noticed", len(all), len(survivors))
}

func exploreDeclared() exploration {
	declared := Declared()
	return explore(func(p Position, e Event) Transition { return Decide(&declared, p, e) })
}

// noticed tells how the laws notice a mutant; it is empty if they do not. A cell
// that the declared table never reaches leads nowhere new, so it is not explored.
func noticed(m mutants.Mutant, reached bool) string {
	if !reached && m.Cell.Verdict != Refuse {
		return "it is not refused, and never reached"
	}
	table := m.Table()
	decide := func(p Position, e Event) Transition { return Decide(&table, p, e) }
	x := explore(decide)
	if x.broken != "" {
		return x.broken
	}
	if idle := idle(decide, x.visits[cell{m.State, m.Event}]); idle != nil {
		return fmt.Sprintf("%v never does anything", idle)
	}
	return ""
}

// No law is idle: each notices some mutant.
func TestEveryLawNotices(t *testing.T) {
	visits := exploreDeclared().visits
	notices := make(map[string]int)
	for _, m := range mutants.All() {
		table := m.Table()
		for _, v := range visits[cell{m.State, m.Event}] {
			s := v.from.take(func(p Position, e Event) Transition { return Decide(&table, p, e) }, v.on, nothing)
			for _, text := range s.brokenLaws() {
				notices[text]++
			}
		}
	}
	for _, law := range laws {
		if notices[law.text] == 0 {
			t.Errorf("nothing breaks %q", law.text)
		}
	}
}
