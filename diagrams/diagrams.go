// Package diagrams draws a state machine from its table: as JSON, as a matrix
// in Markdown, and as a picture for Mermaid, Graphviz, PlantUML and the browser.
//
// A [Table] is plain data. [Chatconn] is the machine by which every connection
// lives; a program that wraps it can describe its own machine in the same form,
// [Check] that no cell is missing, and draw it with the same functions.
//
// Every renderer is a pure function: the same table gives the same bytes, in
// the order of the table's states and events. Names and reasons may hold
// anything; each format escapes them, and shows a control character as its
// picture (a newline as ␊). What stands in generated/ comes from these
// functions, and a test fails when it is out of date.
package diagrams

//go:generate go run ./internal/generate

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/chatconn/chatconn/fsm"
)

// Table describes a machine. Everything is drawn in the order of States and
// Events; the machine begins in the first state.
type Table struct {
	Name    string
	States  []string
	Events  []EventInfo
	Cells   []Cell
	Facts   []string // what the machine knows besides its state
	Qualify []Rule   // how facts rename events, the first match wins
}

// EventInfo is one event of a [Table] and who causes it. Events of one kind are
// drawn in one colour; the kind may be empty.
type EventInfo struct{ Name, Kind string }

// The verdicts of a [Cell].
const (
	Move   = "move"   // to another state, perhaps with actions
	Stay   = "stay"   // in the same state, with actions
	Ignore = "ignore" // nothing is to be done, for the reason given
	Refuse = "refuse" // cannot happen, for the reason given
)

// Cell says what one event does in one state. To equals From unless the verdict
// is [Move].
type Cell struct {
	From    string   `json:"from"`
	Event   string   `json:"event"`
	Verdict string   `json:"verdict"`
	To      string   `json:"to"`
	Actions []string `json:"actions"`
	Reason  string   `json:"reason"`
}

// Rule says that an event becomes another one while all facts of When stand; a
// fact after an exclamation mark must not stand.
type Rule struct {
	Event   string   `json:"event"`
	When    []string `json:"when"`
	Becomes string   `json:"becomes"`
}

// Chatconn returns the machine by which every connection lives.
func Chatconn() Table { return Of(fsm.Declared()) }

// Of describes a table of the connection's machine.
func Of(machine fsm.Table) Table {
	t := Table{Name: "chatconn", Facts: fsm.FactNames()}
	for _, s := range fsm.States() {
		t.States = append(t.States, s.String())
	}
	for _, e := range fsm.Events() {
		t.Events = append(t.Events, EventInfo{e.String(), e.Kind().String()})
	}
	for _, s := range fsm.States() {
		for _, e := range fsm.Events() {
			step, verdict := machine.Next(s, e)
			c := Cell{From: s.String(), Event: e.String(), Verdict: verdict.String(), To: step.To.String(), Reason: step.Why}
			for _, a := range step.Do {
				c.Actions = append(c.Actions, a.String())
			}
			t.Cells = append(t.Cells, c)
		}
	}
	for _, q := range fsm.Qualifiers() {
		t.Qualify = append(t.Qualify, Rule{q.Event.String(), strings.Split(q.When.String(), "+"), q.Becomes.String()})
	}
	return t
}

// Check reports the first thing that is missing from a table or contradicts the
// rest: a name that is blank or stands twice, a state and event without a cell or
// with two, a move that stays, a stay without actions, an ignored or refused
// event with actions or without a reason, a rule about an unknown event or fact.
// Specification: M2, for any machine.
func Check(t Table) error {
	events := make([]string, len(t.Events))
	for i, e := range t.Events {
		events[i] = e.Name
	}
	if len(t.States) == 0 {
		return errors.New("diagrams: the table has no states")
	}
	if len(t.Events) == 0 {
		return errors.New("diagrams: the table has no events")
	}
	for _, list := range []struct {
		what  string
		names []string
	}{{"state", t.States}, {"event", events}, {"fact", t.Facts}} {
		if err := distinct(list.what, list.names); err != nil {
			return fmt.Errorf("diagrams: %w", err)
		}
	}
	cells := make(map[Place]bool, len(t.Cells))
	for _, c := range t.Cells {
		if err := checkCell(t, events, c); err != nil {
			return fmt.Errorf("diagrams: cell %q × %q: %w", c.From, c.Event, err)
		}
		if cells[Place{c.From, c.Event}] {
			return fmt.Errorf("diagrams: cell %q × %q: it stands twice", c.From, c.Event)
		}
		cells[Place{c.From, c.Event}] = true
	}
	for _, s := range t.States {
		for _, e := range events {
			if !cells[Place{s, e}] {
				return fmt.Errorf("diagrams: cell %q × %q: nobody declared it", s, e)
			}
		}
	}
	for _, r := range t.Qualify {
		if err := checkRule(t, events, r); err != nil {
			return fmt.Errorf("diagrams: rule %q to %q: %w", r.Event, r.Becomes, err)
		}
	}
	return nil
}

func distinct(what string, names []string) error {
	seen := make(map[string]bool, len(names))
	for _, n := range names {
		switch {
		case strings.TrimSpace(n) == "":
			return fmt.Errorf("%s without a name", what)
		case seen[n]:
			return fmt.Errorf("the %s %q stands twice", what, n)
		}
		seen[n] = true
	}
	return nil
}

func checkCell(t Table, events []string, c Cell) error {
	switch {
	case !slices.Contains(t.States, c.From):
		return fmt.Errorf("%q is no state", c.From)
	case !slices.Contains(t.States, c.To):
		return fmt.Errorf("%q is no state", c.To)
	case !slices.Contains(events, c.Event):
		return fmt.Errorf("%q is no event", c.Event)
	}
	if err := distinct("action", c.Actions); err != nil {
		return err
	}
	if c.Verdict != Move && c.To != c.From {
		return fmt.Errorf("%s, but it names %q", c.Verdict, c.To)
	}
	switch c.Verdict {
	case Move:
		if c.To == c.From {
			return errors.New("a move that stays")
		}
	case Stay:
		if len(c.Actions) == 0 {
			return errors.New("a stay that does nothing: ignore it, with the reason")
		}
	case Ignore, Refuse:
		if len(c.Actions) != 0 {
			return fmt.Errorf("%s, but it has actions", c.Verdict)
		}
		if strings.TrimSpace(c.Reason) == "" {
			return fmt.Errorf("%s, but it gives no reason", c.Verdict)
		}
	default:
		return fmt.Errorf("%q is no verdict", c.Verdict)
	}
	return nil
}

func checkRule(t Table, events []string, r Rule) error {
	for _, e := range []string{r.Event, r.Becomes} {
		if !slices.Contains(events, e) {
			return fmt.Errorf("%q is no event", e)
		}
	}
	if len(r.When) == 0 {
		return errors.New("it names no fact")
	}
	for _, f := range r.When {
		if !slices.Contains(t.Facts, f) && !slices.Contains(t.Facts, strings.TrimPrefix(f, "!")) {
			return fmt.Errorf("%q is no fact", f)
		}
	}
	return nil
}

// arrow gathers the events that lead from one state to another.
type arrow struct {
	from, to int // indices into States
	events   []EventInfo
}

// arrows returns the events on which each state acts and stays, and the moves,
// from state to state.
func (t Table) arrows() (stays [][]EventInfo, moves []arrow) {
	stays = make([][]EventInfo, len(t.States))
	cells := t.cells()
	for from, s := range t.States {
		to := make([][]EventInfo, len(t.States))
		for _, e := range t.Events {
			switch c := cells[Place{s, e.Name}]; c.Verdict {
			case Stay:
				stays[from] = append(stays[from], e)
			case Move:
				if i := slices.Index(t.States, c.To); i >= 0 {
					to[i] = append(to[i], e)
				}
			}
		}
		for i, events := range to {
			if len(events) > 0 {
				moves = append(moves, arrow{from, i, events})
			}
		}
	}
	return stays, moves
}

func (t Table) cells() map[Place]Cell {
	cells := make(map[Place]Cell, len(t.Cells))
	for _, c := range t.Cells {
		cells[Place{c.From, c.Event}] = c
	}
	return cells
}

// kinds returns the kinds of the events in the order of their first event.
func (t Table) kinds() []string {
	var kinds []string
	for _, e := range t.Events {
		if !slices.Contains(kinds, e.Kind) {
			kinds = append(kinds, e.Kind)
		}
	}
	return kinds
}

// ids returns a word for each state that stands for it in Mermaid and PlantUML: the
// names, if all are words that mean nothing else there, else s0, s1, ….
func (t Table) ids() []string {
	plain := !slices.ContainsFunc(t.States, func(s string) bool { return !isWord(s) || reserved[strings.ToLower(s)] })
	if plain {
		return t.States
	}
	ids := make([]string, len(t.States))
	for i := range ids {
		ids[i] = fmt.Sprintf("s%d", i)
	}
	return ids
}

// reserved are the words of Mermaid and PlantUML that cannot name a state.
var reserved = map[string]bool{
	"as": true, "class": true, "classdef": true, "default": true, "direction": true, "end": true, "fork": true,
	"graph": true, "hide": true, "join": true, "left": true, "note": true, "right": true, "scale": true, "skin": true,
	"skinparam": true, "state": true, "statediagram": true, "style": true, "subgraph": true, "title": true,
	"href": true, "click": true, "acctitle": true, "accdescr": true, "footer": true, "header": true, "legend": true,
	"caption": true, "show": true, "remove": true, "restore": true, "json": true, "set": true, "concurrent": true,
}

func isWord(s string) bool {
	for i, r := range s {
		if r != '_' && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (i == 0 || r < '0' || r > '9') {
			return false
		}
	}
	return s != "" && s[0] != '_'
}
