package conntest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/chatconn/chatconn/diagrams"
	"github.com/chatconn/chatconn/fsm"
)

// Cell names one place of the table: an event, in the form that the table knows,
// in a state.
type Cell struct {
	From  fsm.State
	Event fsm.Event
}

func (c Cell) String() string { return fmt.Sprintf("%v × %v", c.From, c.Event) }

// Cells returns every cell that can be walked, which is every one that the
// declared table does not refuse, in the order of states and events.
func Cells() []Cell {
	var all []Cell
	for _, s := range fsm.States() {
		for _, e := range fsm.Events() {
			if _, verdict := fsm.Next(s, e); verdict != fsm.Refuse {
				all = append(all, Cell{s, e})
			}
		}
	}
	return all
}

// Coverage counts how often tests have walked each cell. The zero value is empty
// and ready; it is safe for concurrent use.
type Coverage struct {
	mu    sync.Mutex
	walks map[Cell]int
}

// Add counts one walk.
func (c *Coverage) Add(cell Cell) { c.add(cell, 1) }

func (c *Coverage) add(cell Cell, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.walks == nil {
		c.walks = make(map[Cell]int)
	}
	c.walks[cell] += n
}

// Walks returns how often a cell was walked.
func (c *Coverage) Walks(cell Cell) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.walks[cell]
}

// Merge adds what another coverage has counted.
func (c *Coverage) Merge(other *Coverage) {
	other.mu.Lock()
	walks := make(map[Cell]int, len(other.walks))
	for cell, n := range other.walks {
		walks[cell] = n
	}
	other.mu.Unlock()
	for cell, n := range walks {
		c.add(cell, n)
	}
}

// Missing returns the cells that can be walked and were not, without the excepted
// ones, in the order of states and events.
func (c *Coverage) Missing(except ...Cell) []Cell {
	return slices.DeleteFunc(Cells(), func(cell Cell) bool { return c.Walks(cell) > 0 || slices.Contains(except, cell) })
}

// Percent returns the walked share of the cells that can be walked and are not
// excepted; 100 if there is none.
func (c *Coverage) Percent(except ...Cell) float64 {
	all := len(slices.DeleteFunc(Cells(), func(cell Cell) bool { return slices.Contains(except, cell) }))
	if all == 0 {
		return 100
	}
	return 100 * float64(all-len(c.Missing(except...))) / float64(all)
}

// Check returns an error that names the missing cells, if less than min percent of
// the cells that can be walked and are not excepted were walked.
func (c *Coverage) Check(min float64, except ...Cell) error {
	if !(min > 0 && min <= 100) {
		return fmt.Errorf("conntest: coverage: %v %% is no share to ask for", min)
	}
	if percent := c.Percent(except...); percent < min {
		return fmt.Errorf("conntest: coverage: %.1f %% of the cells are walked, and %.1f %% are asked for; missing: %v", percent, min, c.Missing(except...))
	}
	return nil
}

// mark is what a matrix shows for a cell: how often it was walked, or that it was not,
// or that it is refused.
func (c *Coverage) mark(cell Cell, missing, refused string) string {
	if n := c.Walks(cell); n > 0 {
		return fmt.Sprint(n)
	}
	if _, verdict := fsm.Next(cell.From, cell.Event); verdict == fsm.Refuse {
		return refused
	}
	return missing
}

// String is the matrix of states and events with the number of walks; a dot
// stands for a cell that is refused, a dash for one that was not walked.
func (c *Coverage) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-20s", "")
	for _, s := range fsm.States() {
		fmt.Fprintf(&b, " %10s", s)
	}
	for _, e := range fsm.Events() {
		fmt.Fprintf(&b, "\n%-20s", e)
		for _, s := range fsm.States() {
			fmt.Fprintf(&b, " %10s", c.mark(Cell{s, e}, "-", "."))
		}
	}
	fmt.Fprintf(&b, "\n%.1f %% of %d cells\n", c.Percent(), len(Cells()))
	return b.String()
}

// Markdown is the same matrix as a table in Markdown, with the missing cells below.
func (c *Coverage) Markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%.1f %% of %d cells are walked.\n\n| event |", c.Percent(), len(Cells()))
	for _, s := range fsm.States() {
		fmt.Fprintf(&b, " %v |", s)
	}
	b.WriteString("\n| --- |" + strings.Repeat(" ---: |", len(fsm.States())) + "\n")
	for _, e := range fsm.Events() {
		fmt.Fprintf(&b, "| %v |", e)
		for _, s := range fsm.States() {
			fmt.Fprintf(&b, " %s |", c.mark(Cell{s, e}, "**0**", "✗"))
		}
		b.WriteByte('\n')
	}
	b.WriteString("\nA number counts walks; ✗ cannot happen there.\n")
	for i, cell := range c.Missing() {
		if i == 0 {
			b.WriteString("\nNot walked:\n\n")
		}
		fmt.Fprintf(&b, "- %v\n", cell)
	}
	return b.String()
}

// SVG is the picture of the machine, with the number of walks beside each event.
func (c *Coverage) SVG() string {
	walks := make(map[diagrams.Place]int)
	for _, cell := range Cells() {
		walks[diagrams.Place{State: cell.From.String(), Event: cell.Event.String()}] = c.Walks(cell)
	}
	t := diagrams.Chatconn()
	t.Name = "chatconn, as walked by tests"
	return diagrams.SVG(t, diagrams.Options{Walks: walks})
}

// walked is a cell in JSON.
type walked struct {
	From  string `json:"from"`
	Event string `json:"event"`
	Walks int    `json:"walks"`
}

// Write writes the coverage as JSON, in the order of states and events.
func (c *Coverage) Write(w io.Writer) error {
	all := []walked{}
	for _, s := range fsm.States() {
		for _, e := range fsm.Events() {
			if n := c.Walks(Cell{s, e}); n > 0 {
				all = append(all, walked{s.String(), e.String(), n})
			}
		}
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(all)
}

// maxCoverage is more than any coverage has, in bytes.
const maxCoverage = 1 << 20

// Read adds what Write has written, by another test binary perhaps. A state or an
// event that this table does not have is an error, and nothing is added.
func (c *Coverage) Read(r io.Reader) error {
	var all []walked
	in := json.NewDecoder(io.LimitReader(r, maxCoverage))
	if err := in.Decode(&all); err != nil {
		return fmt.Errorf("conntest: coverage: %w", err)
	}
	if _, err := in.Token(); err != io.EOF {
		return errors.New("conntest: coverage: something stands behind its end")
	}
	var read Coverage
	for _, w := range all {
		cell, ok := cellNamed(w.From, w.Event)
		if !ok || w.Walks < 0 {
			return fmt.Errorf("conntest: coverage: the table has no cell %q × %q", w.From, w.Event)
		}
		read.add(cell, w.Walks)
	}
	c.Merge(&read)
	return nil
}

func cellNamed(state, event string) (Cell, bool) {
	for _, s := range fsm.States() {
		for _, e := range fsm.Events() {
			if s.String() == state && e.String() == event {
				return Cell{s, e}, true
			}
		}
	}
	return Cell{}, false
}

// Case says what one event does in one state: where it leads, and what is done in
// which order. To equal to From and no actions is an event that is ignored.
type Case struct {
	From  fsm.State
	Event fsm.Event
	To    fsm.State
	Do    []fsm.Action
}

// Table checks each case against the machine, and counts the cells of those that
// hold in cover, unless that is nil.
func Table(t *testing.T, cover *Coverage, cases []Case) {
	t.Helper()
	for _, c := range cases {
		step, verdict := fsm.Next(c.From, c.Event)
		switch {
		case verdict == 0:
			t.Errorf("%v × %v: there is no such cell", c.From, c.Event)
		case verdict == fsm.Refuse:
			t.Errorf("%v × %v: cannot happen: %s", c.From, c.Event, step.Why)
		case step.To != c.To:
			t.Errorf("%v × %v: leads to %v, want %v: %s", c.From, c.Event, step.To, c.To, step.Why)
		case !slices.Equal(step.Do, c.Do):
			t.Errorf("%v × %v: does %v, want %v: %s", c.From, c.Event, step.Do, c.Do, step.Why)
		case cover != nil:
			cover.Add(Cell{c.From, c.Event})
		}
	}
}
