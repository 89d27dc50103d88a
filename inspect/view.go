package inspect

import (
	"html/template"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/chatconn/chatconn/diagrams"
	"github.com/chatconn/chatconn/fsm"
	"github.com/chatconn/chatconn/recording"
)

// closed is what the page calls the state of a Conn after its Close.
const closed = "Closed"

// stateNames are what connections are listed and filtered by.
var stateNames = func() (names []string) {
	for _, s := range fsm.States() {
		names = append(names, s.String())
	}
	return append(names, closed)
}()

func (e *entry) state() string {
	if e.closed.Load() {
		return closed
	}
	return e.conn.State().String()
}

// list is a part of the connections that were searched for. Times here and below
// are milliseconds of Unix time, by this machine's clock; zero is none.
type list struct {
	Now     int64          `json:"now"`
	Total   int            `json:"total"`   // connections on the page
	Found   int            `json:"found"`   // of these, by their name
	Counts  map[string]int `json:"counts"`  // of those found, by state
	Matched int            `json:"matched"` // of those found, in the state asked for
	From    int            `json:"from"`
	Rows    []row          `json:"rows"`
}

type row struct {
	Key     string `json:"key"`
	State   string `json:"state"`
	Since   int64  `json:"since"` // the last transition
	Attempt int    `json:"attempt,omitempty"`
	RetryAt int64  `json:"retryAt,omitempty"`
	Cause   string `json:"cause,omitempty"`
}

// list finds connections whose name contains text, in whatever letters, and that
// are in a state, if one is given; it returns n of them from one on.
func (p *Page) list(text, state string, from, n int) list {
	text = strings.ToLower(text)
	l := list{Now: time.Now().UnixMilli(), Counts: make(map[string]int, len(stateNames)), From: from, Rows: make([]row, 0, n)}
	for _, name := range stateNames {
		l.Counts[name] = 0
	}
	all := p.all()
	l.Total = len(all)
	for _, e := range all {
		if text != "" && !strings.Contains(e.lower, text) {
			continue
		}
		l.Found++
		is := e.state()
		l.Counts[is]++
		if state != "" && is != state {
			continue
		}
		if l.Matched++; l.Matched > from && len(l.Rows) < n {
			l.Rows = append(l.Rows, e.row(is))
		}
	}
	return l
}

func (e *entry) row(state string) row {
	r := row{Key: e.key, State: state}
	if last, ok := e.tape.Last(); ok {
		r.Since, r.Cause = last.Time.UnixMilli(), last.Cause
	}
	if state == fsm.Connecting.String() || state == fsm.Refreshing.String() {
		stats := e.conn.Stats()
		r.Attempt, r.RetryAt = stats.Attempt, milli(stats.RetryAt)
	}
	return r
}

// detail is how a connection stands.
type detail struct {
	Key          string `json:"key"`
	User         string `json:"user"`
	State        string `json:"state"`
	Attempt      int    `json:"attempt"`
	RetryAt      int64  `json:"retryAt"`
	ConnectedAt  int64  `json:"connectedAt"`
	Attempts     uint64 `json:"attempts"`
	Reconnects   uint64 `json:"reconnects"`
	Loads        uint64 `json:"loads"`
	Replays      uint64 `json:"replays"`
	Unreplayable uint64 `json:"unreplayable"`
	LateDrops    uint64 `json:"lateDrops"`
	Missed       uint64 `json:"missed"`
	Bugs         uint64 `json:"bugs"`
	Waiting      int    `json:"waiting"`
	Error        string `json:"error"`
}

func (e *entry) detail() detail {
	s := e.conn.Stats()
	d := detail{
		Key: e.key, State: e.state(), Attempt: s.Attempt, RetryAt: milli(s.RetryAt), ConnectedAt: milli(s.ConnectedAt),
		Attempts: s.Attempts, Reconnects: s.Reconnects, Loads: s.Loads, Replays: s.Replays, Unreplayable: s.Unreplayable,
		LateDrops: s.LateDrops, Missed: s.MissedEvents, Bugs: s.Bugs, Waiting: s.Waiting,
	}
	if s.LastError != nil {
		d.Error = safe(s.LastError.Error())
	}
	if user, ok := e.conn.CurrentUser(); ok {
		d.User = printable(user.ID)
	}
	return d
}

// counter is one of the counters, for people.
type counter struct {
	ID, Name, Means string
	Value           any
}

func (d detail) Counters() []counter {
	return []counter{
		{"attempts", "attempts", "attempts that came to a dial", d.Attempts},
		{"reconnects", "reconnects", "sockets opened after a user's first", d.Reconnects},
		{"loads", "token loads", "calls of token sources", d.Loads},
		{"waiting", "waiting", "API requests that wait for a token", d.Waiting},
		{"replays", "replays", "API requests sent a second time with a fresh token", d.Replays},
		{"unreplayable", "not replayable", "API requests refused with their token whose body could not be sent again", d.Unreplayable},
		{"lateDrops", "late drops", "news of abandoned work, ignored", d.LateDrops},
		{"missed", "missed events", "events that readers were too slow for", d.Missed},
		{"bugs", "bugs", "events that the table refuses: a fault of this library", d.Bugs},
	}
}

// step is a transition for people.
type step struct {
	Seq     uint64   `json:"seq"`
	At      int64    `json:"at"`
	From    string   `json:"from"`
	Event   string   `json:"event"`
	Kind    string   `json:"kind"`
	To      string   `json:"to"`
	Verdict string   `json:"verdict"`
	Actions []string `json:"actions"`
	Cause   string   `json:"cause"`
	Attempt int      `json:"attempt"`
	Why     string   `json:"why"`
}

func stepOf(l recording.Line) step {
	cell, _ := fsm.Next(l.From, l.Event)
	s := step{
		Seq: l.Seq, At: l.Time.UnixMilli(), From: l.From.String(), Event: l.Event.String(), Kind: l.Event.Kind().String(),
		To: l.To.String(), Verdict: l.Verdict.String(), Actions: make([]string, len(l.Actions)), Cause: l.Cause, Attempt: l.Attempt, Why: cell.Why,
	}
	for i, a := range l.Actions {
		s.Actions[i] = a.String()
	}
	return s
}

func (s step) Moved() bool  { return s.From != s.To }
func (s step) Time() string { return time.UnixMilli(s.At).UTC().Format("15:04:05.000") }
func (s step) Does() string { return strings.Join(s.Actions, ", ") }
func (s step) Full() string { return time.UnixMilli(s.At).UTC().Format(time.RFC3339Nano) }
func (s step) Acts() bool   { return len(s.Actions) > 0 }

// shownSteps is how much of a history the page shows; the recording may have more.
const shownSteps = 500

// history returns the latest steps, oldest first, and how many came before them.
func (e *entry) history() (steps []step, earlier uint64) {
	lines := e.tape.After(0)
	if over := len(lines) - shownSteps; over > 0 {
		lines = lines[over:]
	}
	steps = make([]step, len(lines))
	for i, l := range lines {
		steps[i] = stepOf(l)
	}
	if len(lines) > 0 {
		earlier = lines[0].Seq - 1
	}
	return steps, earlier
}

func milli(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// drawing is the machine's picture, without its colours, which stand in the style
// sheet: the page's policy takes no style from its text.
func drawing(current string, last *step) template.HTML {
	o := diagrams.Options{Current: current}
	if last != nil {
		o.Highlight = []diagrams.Place{{State: last.From, Event: last.Event}}
	}
	svg := diagrams.SVG(table(), o)
	before, rest, _ := strings.Cut(svg, "<style>")
	_, after, _ := strings.Cut(rest, "</style>")
	return template.HTML(strings.ReplaceAll(before+after, ` faded"`, `"`)) // what is not traced stays as it is
}

var table = sync.OnceValue(diagrams.Chatconn)

// colours is the style of the picture.
var colours = sync.OnceValue(func() string {
	_, rest, _ := strings.Cut(diagrams.SVG(table(), diagrams.Options{}), "<style>")
	style, _, _ := strings.Cut(rest, "</style>")
	return style
})

// tokenLike finds what may be a token or a key in a text that others wrote, as
// package tokens does: an error of the program's own source comes here as it is.
var tokenLike = regexp.MustCompile("(?:eyJ|ZXlK)[^\\s\"'`]*|[A-Za-z0-9+/_=-]{40,}")

// safe is an error's text, fit for the page. Specification: T11.
func safe(text string) string {
	const most = 500
	text = percent.ReplaceAllStringFunc(text, func(code string) string {
		n, _ := strconv.ParseUint(code[1:], 16, 7)
		return string(rune(n))
	})
	text = tokenLike.ReplaceAllString(text, "[redacted]")
	text = printable(text)
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	return text
}

// percent finds a character as a query may write it.
var percent = regexp.MustCompile("%[2-7][0-9a-fA-F]")

// printable replaces what a browser would not show, or would turn around the text
// with.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || r == '\u2028' || r == '\u2029' {
			return '\uFFFD'
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
}
