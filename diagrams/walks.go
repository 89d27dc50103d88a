package diagrams

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// walksHint explains in the legend how walks are shown.
const walksHint = "3: walked three times · underlined, 0: not walked · dashed: nothing of it walked"

// share is how many cells of all were walked.
type share struct{ walked, all int }

func (s *share) add(walks int) {
	s.all++
	if walks > 0 {
		s.walked++
	}
}

// caption is an event as the picture shows it.
func (o Options) caption(state string, e EventInfo) string {
	if o.Walks == nil {
		return e.Name
	}
	return fmt.Sprintf("%s %d", e.Name, o.Walks[Place{state, e.Name}])
}

func (s share) String() string { return fmt.Sprintf("ignored: %d of %d", s.walked, s.all) }

// sum says how much of a table was walked. What cannot happen does not count.
func (o Options) sum(t Table) string {
	var s share
	for _, c := range t.Cells {
		if c.Verdict != Refuse {
			s.add(o.Walks[Place{c.From, c.Event}])
		}
	}
	return fmt.Sprintf("walked: %d of %d cells, %.1f %%", s.walked, s.all, 100*float64(s.walked)/float64(max(s.all, 1)))
}

// never is a class for what is made of these places and of which none was walked.
func (w *svgWriter) never(state string, events []EventInfo) string {
	if w.Walks == nil || slices.ContainsFunc(events, func(e EventInfo) bool { return w.Walks[Place{state, e.Name}] > 0 }) {
		return ""
	}
	return " never"
}

// ignores says how many of the events that a state ignores were walked, and names
// the others in the tooltip.
func (w *svgWriter) ignores(state int, x, y float64) {
	s, class := w.States[state], ""
	var never []string
	for _, e := range w.Events {
		if at := (Place{s, e.Name}); w.cells[at].Verdict == Ignore && w.Walks[at] == 0 {
			never = append(never, e.Name)
		}
	}
	tip := "each was walked"
	if len(never) > 0 {
		class, tip = ` class="never"`, "not walked: "+strings.Join(never, ", ")
	}
	w.add(`<text%s x="%.0f" y="%.0f">%s<title>%s</title></text>`, class, x, y, w.ignored[state], xmlText(tip))
}

// Walked returns the cells that the transcript of a script walks, each once, in
// order. A line of a transition reads "  Offline -Connect-> Connecting / Retry  (…)",
// perhaps with the time that has passed before it. A step that the table does not
// have is an error, and so is a transcript without any.
func Walked(t Table, transcript string) ([]Cell, error) {
	var path []Cell
	for line := range strings.Lines(transcript) {
		rest, isOutput := strings.CutPrefix(line, "  ")
		fields := strings.Fields(rest)
		if isOutput && len(fields) > 0 && strings.HasPrefix(fields[0], "+") {
			fields = fields[1:]
		}
		if !isOutput || len(fields) < 3 || !strings.HasPrefix(fields[1], "-") || !strings.HasSuffix(fields[1], "->") {
			continue
		}
		event := strings.TrimSuffix(strings.TrimPrefix(fields[1], "-"), "->")
		same := func(c Cell) bool { return c.From == fields[0] && c.Event == event }
		i := slices.IndexFunc(t.Cells, same)
		if i < 0 || t.Cells[i].To != fields[2] {
			return nil, fmt.Errorf("diagrams: the table has no such step: %s", strings.TrimSpace(line))
		}
		if !slices.ContainsFunc(path, same) {
			path = append(path, t.Cells[i])
		}
	}
	if len(path) == 0 {
		return nil, errors.New("diagrams: no transition is in the transcript")
	}
	return path, nil
}
