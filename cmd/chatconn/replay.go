package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/chatconn/chatconn/diagrams"
	"github.com/chatconn/chatconn/fsm"
	tape "github.com/chatconn/chatconn/recording"
)

// replay takes a recording through the table. Specification: O4.
type replay struct {
	File   string `arg:"" help:"The recording, as written by \"connect --record\" or Config.Record; - for standard input."`
	Format string `short:"f" default:"text" help:"One of text (a summary), mermaid (a sequence diagram) and svg (a timeline)."`
	Out    string `short:"o" placeholder:"FILE" help:"Write to a file instead of standard output."`
	Conn   string `placeholder:"NAME" help:"Draw this connection, where the recording has several."`
	Steps  int    `default:"100" help:"How many of the last steps the sequence diagram shows."`
}

// Help is what --help says beyond the flags.
func (replay) Help() string {
	return `Takes every line of a recording through the table by which connections live. A line that is missing, repeated or changed, and a step that the table does not allow, is named with its number, and the exit code is 1; what came before it is shown all the same. A recording that ends within a line is in order up to there.

The recording holds no token, address, user or message, so it can be attached to a bug report. It is read as a stream and may be of any length.`
}

// replayed is what a replay found, also as JSON.
type replayed struct {
	Transitions int                `json:"transitions"`
	Connections int                `json:"connections"`
	Attempts    int                `json:"attempts"`
	Failed      int                `json:"failed"`
	Loads       int                `json:"loads"`
	Drops       int                `json:"drops"`
	First       *time.Time         `json:"first,omitempty"`
	Last        *time.Time         `json:"last,omitempty"`
	Seconds     map[string]float64 `json:"seconds"` // in each state
	Truncated   bool               `json:"truncated,omitempty"`
	Wrong       *wrongLine         `json:"wrong,omitempty"`
}

// wrongLine is the first that the table does not allow.
type wrongLine struct {
	Line   int    `json:"line"`
	Reason string `json:"reason"`
}

func (r replay) Run(std streams, wantJSON asJSON) error {
	switch {
	case !slices.Contains([]string{"text", "mermaid", "svg"}, r.Format):
		return usagef("--format %s is unknown; there are text, mermaid, svg", withoutLongWords(r.Format))
	case bool(wantJSON) && r.Format != "text":
		return usagef("--json and --format %s contradict each other", r.Format)
	case r.Steps < 1:
		return usagef("--steps %d: a drawing has one step at least", r.Steps)
	}
	in := std.in
	if r.File != "-" {
		f, err := os.Open(r.File)
		if err != nil {
			return err
		}
		defer f.Close()
		in = f
	}

	var summary tape.Summary
	sequence, timeline := diagrams.NewSequence(r.Steps), new(diagrams.Timeline)
	var names []string // of the first few connections
	drawn := 0
	wrong := tape.Replay(in, func(s tape.Step) {
		summary.Add(s)
		if len(names) < 5 && !slices.Contains(names, s.Conn) {
			names = append(names, s.Conn)
		}
		if s.Conn == cmp.Or(r.Conn, names[0]) {
			sequence.Add(s)
			timeline.Add(s)
			drawn++
		}
	})
	var at *tape.Error
	if wrong != nil && !errors.As(wrong, &at) {
		return wrong
	}
	if r.Format != "text" {
		switch {
		case r.Conn == "" && summary.Conns() > 1:
			if summary.Conns() > len(names) {
				names = append(names, "…")
			}
			return usagef("the recording has %d connections (%s): choose one with --conn", summary.Conns(), strings.Join(names, ", "))
		case r.Conn != "" && drawn == 0:
			return usagef("the recording has no connection %q", r.Conn)
		}
	}

	var out string
	switch {
	case r.Format == "mermaid":
		out = sequence.Mermaid()
	case r.Format == "svg":
		out = timeline.SVG()
	case bool(wantJSON):
		var line strings.Builder
		if err := writeJSON(&line, found(&summary, at)); err != nil {
			return err
		}
		out = line.String()
	default:
		out = summaryText(&summary)
	}
	if err := writeTo(std.out, r.Out, out); err != nil {
		return err
	}
	if errors.Is(wrong, tape.ErrTruncated) {
		fmt.Fprintf(std.err, "chatconn: line %d: %v; all before it is in order\n", at.Line, at.Err)
		return nil
	}
	return wrong
}

func found(s *tape.Summary, at *tape.Error) replayed {
	r := replayed{
		Transitions: s.Transitions, Connections: s.Conns(), Attempts: s.Attempts, Failed: s.Failed, Loads: s.Loads, Drops: s.Drops,
		Seconds: make(map[string]float64),
	}
	if s.Transitions > 0 {
		r.First, r.Last = &s.First, &s.Last
	}
	for _, state := range fsm.States() {
		r.Seconds[state.String()] = s.In(state).Seconds()
	}
	switch {
	case at == nil:
	case errors.Is(at, tape.ErrTruncated):
		r.Truncated = true
	default:
		r.Wrong = &wrongLine{at.Line, at.Err.Error()}
	}
	return r
}

// summaryText is a summary for people.
func summaryText(s *tape.Summary) string {
	var b strings.Builder
	if s.Transitions == 0 {
		return "Nothing is recorded.\n"
	}
	fmt.Fprintf(&b, "%s of %s, from %s to %s\n\n", counted(s.Transitions, "transition"), counted(s.Conns(), "connection"),
		s.First.UTC().Format(time.DateTime), s.Last.UTC().Format("2006-01-02 15:04:05 MST"))
	var all time.Duration
	for _, state := range fsm.States() {
		all += s.In(state)
	}
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	for _, state := range fsm.States() {
		d := s.In(state)
		fmt.Fprintf(w, "%v\t%v\t%.1f %%\t\n", state, d.Round(time.Millisecond), 100*float64(d)/float64(max(all, 1)))
	}
	w.Flush()
	fmt.Fprintf(&b, "\n%s, %d of them failed; %s; %s\n", counted(s.Attempts, "attempt"), s.Failed, counted(s.Loads, "token load"), counted(s.Drops, "drop"))
	return b.String()
}

// counted is a number of things.
func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
