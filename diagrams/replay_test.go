package diagrams

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/chatconn/chatconn/fsm"
	"github.com/chatconn/chatconn/recording"
)

// happening is an event and how long after the one before it comes.
type happening struct {
	after time.Duration
	event fsm.Event
	cause string
}

// tale is a life with everything that the drawings tell apart: a failed attempt,
// a token at hand, a drop, a refusal on the socket and by the API, holds, an end.
var tale = []happening{
	{0, fsm.Connect, ""}, {0, fsm.RetryDue, ""}, {20e6, fsm.TokenLoaded, ""}, {300e6, fsm.Dropped, "network"},
	{3e9, fsm.RetryDue, ""}, {0, fsm.TokenLoaded, ""}, {80e6, fsm.Opened, ""},
	{42e9, fsm.Dropped, "network"}, {1e9, fsm.RetryDue, ""}, {0, fsm.TokenLoaded, ""}, {150e6, fsm.Opened, ""},
	{10e9, fsm.TokenRefused, "api-40"}, {0, fsm.RetryDue, ""}, {2e9, fsm.TokenFailed, "other"}, {4e9, fsm.RetryDue, ""}, {1e9, fsm.TokenLoaded, ""}, {90e6, fsm.Opened, ""},
	{5e9, fsm.RequestRefused, "api-40"}, {0, fsm.RetryDue, ""}, {100e6, fsm.TokenRenewed, ""},
	{20e9, fsm.Background, ""}, {3e9, fsm.Woke, ""}, {30e9, fsm.Foreground, ""}, {0, fsm.RetryDue, ""}, {0, fsm.TokenLoaded, ""}, {60e6, fsm.Opened, ""},
	{1e9, fsm.NetworkAvailable, ""}, {9e9, fsm.Denied, "api-2"}, {1e9, fsm.Close, "call"},
}

// replay takes a life through the machine and its recording through the replay.
func replay(t testing.TB, life []happening, draw func(recording.Step)) {
	t.Helper()
	machine, err := fsm.New(fsm.Declared())
	if err != nil {
		t.Fatal(err)
	}
	var at fsm.Position
	var b []byte
	attempt := 0
	now := time.Date(2026, 3, 1, 9, 30, 0, 0, time.UTC)
	for i, h := range life {
		e := h.event
		if e == fsm.TokenRenewed {
			e = fsm.TokenLoaded // the facts make it the other
		}
		tr, err := machine.Fire(at, e)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range tr.Do {
			if a == fsm.Retry {
				attempt++
			} else if a == fsm.Listen {
				attempt = 0
			}
		}
		now = now.Add(h.after)
		l := recording.Line{
			Seq: uint64(i + 1), Time: now, From: at.State, Event: tr.Event, Verdict: tr.Verdict, To: tr.To.State, Actions: tr.Do,
			Cause: h.cause, Attempt: attempt, Conn: "5f1c09a2be77", Table: recording.TableHash(),
		}
		b, at = l.Append(b), tr.To
	}
	if err := recording.Replay(bytes.NewReader(b), draw); err != nil {
		t.Fatal(err)
	}
}

func compareGolden(t *testing.T, name, got string) {
	t.Helper()
	golden := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("differs from %s (run with -update and read the diff):\n%s", golden, got)
	}
}

// O4: a recording is drawn as a sequence of messages and as a timeline.
func TestDrawingsOfARecording(t *testing.T) {
	sequence, timeline := NewSequence(100), new(Timeline)
	replay(t, tale, func(s recording.Step) {
		sequence.Add(s)
		timeline.Add(s)
	})
	compareGolden(t, "tale.mmd", sequence.Mermaid())
	compareGolden(t, "tale.svg", timeline.SVG())
	mermaid, svg := sequence.Mermaid(), timeline.SVG()
	if sequence.Mermaid() != mermaid || timeline.SVG() != svg {
		t.Error("the same recording gives two drawings")
	}
}

// A socket that is not open is neither closed nor asked.
func TestSequenceKnowsTheSocket(t *testing.T) {
	sequence := NewSequence(100)
	replay(t, append(tale[:12:12], happening{0, fsm.Woke, ""}, happening{0, fsm.Background, ""}), sequence.Add)
	text := sequence.Mermaid()
	if strings.Count(text, "C-xS: HangUp") != 2 || strings.Contains(text, "Probe") {
		t.Errorf("two sockets were open:\n%s", text)
	}
}

// A wall clock that is set back draws nothing over what was.
func TestTimelineOfAClockSetBack(t *testing.T) {
	var l Timeline
	for _, at := range []int64{0, 10, 5, 12} {
		l.Add(recording.Step{Line: recording.Line{Event: fsm.Woke, Time: time.Unix(at, 0)}})
	}
	var total time.Duration
	for _, s := range l.slices {
		total += s.in[fsm.Offline]
	}
	if total != 12*time.Second || l.end != total {
		t.Errorf("%v in Offline of %v, want 12s", total, l.end)
	}
}

// The drawing of a long recording shows the last steps, and says how many are left out.
func TestSequenceIsBounded(t *testing.T) {
	whole := NewSequence(len(tale))
	replay(t, tale, whole.Add)
	// Where a load is left out, nobody knows whether the token was at hand.
	alike := func(text string) string { return strings.ReplaceAll(text, "C->>C: TokenLoaded", "T-->>C: TokenLoaded") }
	for n := 1; n < len(tale); n++ {
		some := NewSequence(n)
		replay(t, tale, some.Add)
		lines := strings.SplitN(some.Mermaid(), "\n", 8)
		if want := fmt.Sprintf("    Note over P,S: %d earlier steps are left out", len(tale)-n); lines[5] != want {
			t.Fatalf("of %d steps: %q, want %q", n, lines[5], want)
		}
		if tail := lines[7]; strings.Count(tail, "\n") < n || !strings.HasSuffix(alike(whole.Mermaid()), alike(tail)) {
			t.Errorf("the last %d steps are not the end of the whole:\n%s", n, tail)
		}
	}
	if none := NewSequence(0); none.Mermaid() == "" {
		t.Error("nothing is no diagram")
	}
}

var sequenceLine = regexp.MustCompile(`^(sequenceDiagram|    participant [PCTS] as [A-Z][A-Za-z ]+|    Note over (C|P,S): ([^":;<>\n]|#\d+;|<br/>)+|    [PCTS](->>|-->>|-x|--x)[PCTS]: ([^":;<>\n]|#\d+;)+)$`)

// Every line is one of a sequence diagram, whatever the cause says; and the
// timeline stays the same picture, whatever the connection is called.
func FuzzDrawings(f *testing.F) {
	for _, s := range []string{"", "network", "a\nb", "x;end", "#quot;", "<script>", "]]>", "end", "-->>", "%%{init}%%", "état 状態", "\u202e", "\xff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, wild string) {
		sequence, timeline, tame := NewSequence(100), new(Timeline), new(Timeline)
		replay(t, tale, func(s recording.Step) {
			tame.Add(s)
			s.Cause, s.Conn = wild, wild
			sequence.Add(s)
			timeline.Add(s)
		})
		for line := range strings.Lines(sequence.Mermaid()) {
			if !sequenceLine.MatchString(strings.TrimSuffix(line, "\n")) {
				t.Errorf("no line of a sequence diagram: %q", line)
			}
		}
		got, _ := parse(t, timeline.SVG())
		want, _ := parse(t, tame.SVG())
		if len(got) != len(want) {
			t.Errorf("%d elements, want %d", len(got), len(want))
		}
	})
}

// random is a life of so many steps, as it comes.
func random(t testing.TB, steps int, longest time.Duration) []happening {
	t.Helper()
	r := rand.New(rand.NewPCG(1, 2))
	machine, err := fsm.New(fsm.Declared())
	if err != nil {
		t.Fatal(err)
	}
	var at fsm.Position
	var life []happening
	for len(life) < steps {
		e := fsm.Events()[r.IntN(len(fsm.Events()))]
		if strings.HasSuffix(e.String(), "Held") || e == fsm.TokenRenewed || e == fsm.Close {
			continue
		}
		tr, err := machine.Fire(at, e)
		if err != nil {
			t.Fatal(err)
		}
		if tr.Verdict != fsm.Refuse {
			life, at = append(life, happening{time.Duration(r.Int64N(int64(longest))), e, ""}), tr.To
		}
	}
	return life
}

// O4: in a timeline of any length no text meets another or leaves the picture, the
// times and marks add up, and the file stays small.
func TestTimelines(t *testing.T) {
	for _, c := range []struct {
		name string
		life []happening
	}{
		{"nothing", nil},
		{"one step", tale[:1]},
		{"no time", []happening{{0, fsm.Connect, ""}, {0, fsm.RetryDue, ""}}},
		{"a nanosecond", []happening{{0, fsm.Connect, ""}, {1, fsm.RetryDue, ""}}},
		{"tale", tale},
		{"milliseconds", random(t, 500, time.Millisecond)},
		{"days", random(t, 3000, 10*time.Minute)},
		{"years", random(t, 2000, 100*time.Hour)},
	} {
		t.Run(c.name, func(t *testing.T) {
			var l Timeline
			var sum recording.Summary
			replay(t, c.life, func(s recording.Step) {
				l.Add(s)
				sum.Add(s)
			})
			svg := l.SVG()
			if len(svg) > 512<<10 {
				t.Errorf("%d bytes", len(svg))
			}
			var in [numBands]time.Duration
			var marks [numMarks]int
			for _, s := range l.slices {
				for i, d := range s.in {
					in[i] += d
				}
				for i, n := range s.marks {
					marks[i] += n
				}
			}
			for _, s := range fsm.States() {
				if in[s] != sum.In(s) {
					t.Errorf("%v in %v, the summary says %v", in[s], s, sum.In(s))
				}
			}
			if marks != [numMarks]int{attempts: sum.Attempts, loads: sum.Loads, drops: sum.Drops} {
				t.Errorf("marks %v, the summary says %d, %d, %d", marks, sum.Attempts, sum.Loads, sum.Drops)
			}
			for _, problem := range collisions(t, svg) {
				t.Error(problem)
			}
			all, root := parse(t, svg)
			for _, e := range all {
				if e.name != "rect" || e.is("paper") {
					continue
				}
				x, y := e.num(t, "x"), e.num(t, "y")
				if x < plotLeft-1.05 || x+e.num(t, "width") > plotLeft+plotWidth+1.05 || y < plotTop || y+e.num(t, "height") > root.num(t, "height") {
					t.Errorf("%+v leaves the plot", e)
				}
			}
		})
	}
}

// The bands and marks can be told from the paper (WCAG AA for graphics: 3).
func TestTimelineContrast(t *testing.T) {
	for _, c := range append(bandColours[:], markColours[:]...) {
		for _, pair := range [][2]string{{c.light, "#ffffff"}, {c.dark, "#0d1117"}} {
			if r := contrast(t, pair[0], pair[1]); r < 3 {
				t.Errorf("%s on %s: %.2f", pair[0], pair[1], r)
			}
		}
	}
}

// G1: the table of one state shows every cell of it once, and nothing breaks out
// of its row.
func TestStateMarkdown(t *testing.T) {
	for _, m := range []Table{Chatconn(), door(), hostile("|\n<b>`*[x](y)")} {
		for _, s := range m.States {
			text := StateMarkdown(m, s)
			shown := 0
			for line := range strings.Lines(text) {
				if row := strings.Count(line, "|"); strings.HasPrefix(line, "|") && row != 5 {
					t.Errorf("%d bars in %q", row, line)
				} else if strings.HasPrefix(line, "|") {
					shown++
				} else if names, _, found := strings.Cut(line, ": "); found && strings.HasPrefix(line, "- ") {
					shown += strings.Count(names, ",") + 1
				}
				if strings.ContainsAny(line, "<>`[]") {
					t.Errorf("markup in %q", line)
				}
			}
			if want := len(m.Events) + 2; shown != want { // with the two lines of the header
				t.Errorf("%s shows %d lines and names, want %d:\n%s", s, shown, want, text)
			}
		}
	}
	if got := StateMarkdown(Chatconn(), "Nowhere"); got != "" {
		t.Errorf("of no state: %q", got)
	}
}
