package recording

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"
	"unicode/utf8"

	"github.com/chatconn/chatconn/fsm"
)

var begin = time.Date(2026, 3, 1, 9, 30, 0, 250e6, time.UTC)

// walk records a random life of so many transitions, in which nothing happens
// that the table refuses.
func walk(t testing.TB, r *rand.Rand, conn string, steps int) [][]byte {
	t.Helper()
	machine, err := fsm.New(fsm.Declared())
	if err != nil {
		t.Fatal(err)
	}
	var at fsm.Position
	var lines [][]byte
	now := begin
	for len(lines) < steps {
		e := fsm.Events()[r.IntN(len(fsm.Events()))]
		if slices.ContainsFunc(fsm.Qualifiers(), func(q fsm.Qualifier) bool { return q.Becomes == e }) || e == fsm.Close {
			continue // facts make the one, the other is the end
		}
		tr, err := machine.Fire(at, e)
		if err != nil {
			t.Fatal(err)
		}
		if tr.Verdict == fsm.Refuse {
			continue
		}
		now = now.Add(time.Duration(r.Int64N(int64(10 * time.Second))))
		l := Line{
			Seq: uint64(len(lines) + 1), Time: now, From: tr.From.State, Event: tr.Event, Verdict: tr.Verdict, To: tr.To.State,
			Actions: tr.Do, Attempt: r.IntN(3), Conn: conn, Table: TableHash(),
		}
		if r.IntN(2) == 0 {
			l.Cause = "network"
		}
		lines = append(lines, l.Append(nil))
		at = tr.To
	}
	return lines
}

func join(lines [][]byte) io.Reader { return bytes.NewReader(bytes.Join(lines, nil)) }

// stop returns the line at which a replay stops, zero for none, and the error.
func stop(r io.Reader) (line int, err error) {
	err = Replay(r, nil)
	var e *Error
	if errors.As(err, &e) {
		return e.Line, err
	}
	return 0, err
}

// The format is what the package says it is, and any JSON reader takes it.
func TestFormat(t *testing.T) {
	l := Line{
		Seq: 7, Time: begin.In(time.FixedZone("far away", 5*3600)), From: fsm.Connected, Event: fsm.Dropped, Verdict: fsm.Move, To: fsm.Connecting,
		Actions: []fsm.Action{fsm.HangUp, fsm.Retry}, Cause: "network", Attempt: 1, Conn: "5f1c09a2be77", Table: "t",
	}
	want := `{"seq":7,"time":"2026-03-01T09:30:00.25Z","from":"Connected","event":"Dropped","verdict":"move","to":"Connecting","actions":["HangUp","Retry"],"cause":"network","attempt":1,"conn":"5f1c09a2be77","table":"t","sum":"f435ae96"}` + "\n"
	if got := string(l.Append([]byte("before "))); got != "before "+want {
		t.Errorf("got  %swant %s", got, want)
	}
	if got := testing.AllocsPerRun(100, func() { l.Append(make([]byte, 0, 512)) }); got > 1 {
		t.Errorf("%v allocations", got)
	}
}

// Whatever stands in the two fields of free text, the line is one line of JSON
// and gives it back.
func FuzzText(f *testing.F) {
	for _, s := range []string{"", `"`, `\`, "a\nb", "\x7f", "é状", "\xff", "\u2028", `","seq":9,"x":"`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		l := Line{Seq: 1, Event: fsm.Connect, Verdict: fsm.Move, To: fsm.Connecting, Cause: s, Conn: s + "x", Table: TableHash()}
		text := l.Append(nil)
		if bytes.IndexByte(text, '\n') != len(text)-1 || !json.Valid(text) {
			t.Fatalf("%q", text)
		}
		back, intact, err := parse(text[:len(text)-1])
		if err != nil || !intact || utf8.ValidString(s) && (back.Cause != s || back.Conn != s+"x") {
			t.Errorf("%+v, %t, %v from %q", back, intact, err, s)
		}
	})
}

// What is read the short way is what JSON says, and all that a Conn writes is read
// that way.
func FuzzScan(f *testing.F) {
	for i, line := range walk(f, rand.New(rand.NewPCG(6, 1)), "a", 300) {
		text := bytes.TrimSuffix(line, []byte("\n"))
		if _, ok := scan(text); !ok {
			f.Errorf("not read the short way: %s", text)
		}
		if i < 20 {
			f.Add(text, uint16(0), byte(0))
			f.Add(text, uint16(40*i), byte(1))
		}
	}
	f.Fuzz(func(t *testing.T, text []byte, at uint16, flip byte) {
		if len(text) > 0 {
			text = bytes.Clone(text)
			text[int(at)%len(text)] ^= flip
		}
		short, ok := scan(text)
		if !ok {
			return
		}
		long, intact, err := decode(text)
		if err != nil || !intact || !slices.Equal(short.Actions, long.Actions) {
			t.Fatalf("%q is taken as %+v, and it is %+v, %t, %v", text, short, long, intact, err)
		}
		short.Actions, long.Actions = nil, nil
		if !reflect.DeepEqual(short, long) {
			t.Errorf("%q is taken as %+v, and it is %+v", text, short, long)
		}
	})
}

// No input makes the replay panic.
func FuzzReplay(f *testing.F) {
	f.Add(bytes.Join(walk(f, rand.New(rand.NewPCG(1, 1)), "a", 5), nil))
	f.Add([]byte("{}\n"))
	f.Add([]byte(written(f, tapeOf(f, 3, walk(f, rand.New(rand.NewPCG(1, 2)), "a", 9)))))
	f.Fuzz(func(t *testing.T, data []byte) {
		var s Summary
		lines := 0
		err := Replay(bytes.NewReader(data), func(step Step) {
			lines++
			s.Add(step)
		})
		if bytes.Contains(bytes.ToLower(data), []byte(`after":`)) {
			return // the line that begins a recording in the middle is no step
		}
		if err == nil && lines != bytes.Count(append(bytes.TrimRight(data, "\n"), '\n'), []byte("\n")) && len(data) > 0 {
			t.Errorf("%d lines were taken from %q", lines, data)
		}
	})
}

// O4: what the table allowed replays clean, line by line, however it is read, also
// with several connections in one file.
func TestReplayOfRandomLives(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 2))
	a, b := walk(t, r, "a", 500), walk(t, r, "b", 500)
	var both [][]byte
	for len(a) > 0 || len(b) > 0 {
		if len(b) == 0 || len(a) > 0 && r.IntN(2) == 0 {
			both, a = append(both, a[0]), a[1:]
		} else {
			both, b = append(both, b[0]), b[1:]
		}
	}
	var lines [][]byte
	err := Replay(iotest.OneByteReader(join(both)), func(s Step) {
		lines = append(lines, s.Append(nil))
		if s.Number != len(lines) {
			t.Fatalf("line %d is called %d", len(lines), s.Number)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(bytes.Join(lines, nil), bytes.Join(both, nil)) {
		t.Error("the lines that came are not those that were read")
	}
	if err := Replay(strings.NewReader(strings.ReplaceAll(string(bytes.Join(both, nil)), "\n", "\r\n")), nil); err != nil {
		t.Errorf("with line ends of another system: %v", err)
	}
}

// O4: one line changed, removed or doubled is caught at that line.
func TestOneLineIsSpoiled(t *testing.T) {
	lines := walk(t, rand.New(rand.NewPCG(7, 7)), "a", 20)
	for i := range lines {
		check := func(what string, at int, spoiled [][]byte) {
			t.Helper()
			if line, err := stop(join(spoiled)); line != at {
				t.Errorf("%s line %d: stopped at %d: %v", what, i+1, line, err)
			}
		}
		with := func(line ...[]byte) [][]byte { return slices.Concat(lines[:i], line, lines[i+1:]) }
		if i < len(lines)-1 { // without the last line it is a recording that ends earlier
			check("removed", i+1, with())
			check("swapped", i+1, slices.Concat(lines[:i], [][]byte{lines[i+1], lines[i]}, lines[i+2:]))
		}
		check("doubled", i+2, with(lines[i], lines[i]))
		for k := range lines[i] {
			if k == len(lines[i])-1 {
				continue // its line end: see TestLastLine
			}
			changed := bytes.Clone(lines[i])
			changed[k] ^= 1
			check(fmt.Sprintf("changed byte %d of", k), i+1, slices.Concat(lines[:i], [][]byte{changed}))
		}
	}
}

// O4: wherever in a long recording a line is removed, doubled, swapped with the next
// or changed in any byte, the replay stops there and nowhere else.
func TestOneLineOfManyIsSpoiled(t *testing.T) {
	r := rand.New(rand.NewPCG(13, 31))
	lines := walk(t, r, "a", 1000)
	for range 50 {
		i := r.IntN(len(lines) - 1)
		changed := bytes.Clone(lines[i])
		k := r.IntN(len(changed) - 1) // not its line end
		changed[k] += byte(1 + r.IntN(255))
		for _, c := range []struct {
			what    string
			at      int
			spoiled [][]byte
		}{
			{"removed", i + 1, [][]byte{lines[i+1]}},
			{"doubled", i + 2, [][]byte{lines[i], lines[i], lines[i+1]}},
			{"swapped", i + 1, [][]byte{lines[i+1], lines[i]}},
			{fmt.Sprintf("byte %d is %q", k, changed[k]), i + 1, [][]byte{changed, lines[i+1]}},
		} {
			if line, err := stop(io.MultiReader(join(lines[:i]), join(c.spoiled), join(lines[min(i+2, len(lines)):]))); line != c.at {
				t.Errorf("line %d, %s: stopped at %d: %v; want %d\n%s", i+1, c.what, line, err, c.at, changed)
			}
		}
	}
}

// The table's own words come first: whoever changes a step and mends the sum, or
// records by a machine of his own, is told what the table says.
func TestTheTableSays(t *testing.T) {
	life := func(lines ...Line) io.Reader {
		var b []byte
		for i, l := range lines {
			l.Conn, l.Table, l.Time = "a", TableHash(), begin
			if l.Seq == 0 {
				l.Seq = uint64(i + 1)
			}
			b = l.Append(b)
		}
		return bytes.NewReader(b)
	}
	connect := Line{From: fsm.Offline, Event: fsm.Connect, Verdict: fsm.Move, To: fsm.Connecting, Actions: []fsm.Action{fsm.Retry}}
	for _, c := range []struct {
		name  string
		lines []Line
		at    int
		want  string
	}{
		{"another state", []Line{{From: fsm.Offline, Event: fsm.Connect, Verdict: fsm.Move, To: fsm.Connected, Actions: []fsm.Action{fsm.Retry}}},
			1, "it says Offline -Connect-> Connected / Retry; the table says Offline -Connect-> Connecting / Retry: a user is wanted"},
		{"other actions", []Line{{From: fsm.Offline, Event: fsm.Connect, Verdict: fsm.Move, To: fsm.Connecting, Actions: []fsm.Action{fsm.Retry, fsm.Dial}}},
			1, "it says Offline -Connect-> Connecting / Retry Dial; the table says"},
		{"another verdict", []Line{{From: fsm.Offline, Event: fsm.Woke, Verdict: fsm.Stay, To: fsm.Offline}},
			1, "it says Offline -Woke-> Offline /; the table says Offline -Woke-> Offline, ignored: there is no socket"},
		{"a jump", []Line{connect, {From: fsm.Connected, Event: fsm.Woke, Verdict: fsm.Stay, To: fsm.Connected, Actions: []fsm.Action{fsm.Probe}}},
			2, "it says Connected -Woke-> Connected / Probe; the connection was Connecting"},
		{"refused", []Line{{From: fsm.Offline, Event: fsm.Opened, Verdict: fsm.Refuse, To: fsm.Offline}},
			1, "Opened cannot happen in Offline: no dial runs while Offline"},
		{"held without a hold", []Line{{From: fsm.Offline, Event: fsm.ConnectHeld, Verdict: fsm.Move, To: fsm.Paused}},
			1, "the table says Offline -Connect-> Connecting"},
		{"not held in the background", []Line{{From: fsm.Offline, Event: fsm.Background, Verdict: fsm.Ignore, To: fsm.Offline}, {From: fsm.Offline, Event: fsm.Connect, Verdict: fsm.Move, To: fsm.Connecting, Actions: []fsm.Action{fsm.Retry}}},
			2, "the table says Offline -ConnectHeld-> Paused"},
		{"a name that the facts do not give", []Line{{From: fsm.Offline, Event: fsm.NetworkLost, Verdict: fsm.Ignore, To: fsm.Offline}, {From: fsm.Offline, Event: fsm.Foreground, Verdict: fsm.Ignore, To: fsm.Offline}},
			2, "the table says Offline -ForegroundHeld-> Offline, ignored"},
		{"after the end", []Line{{From: fsm.Offline, Event: fsm.Close, Verdict: fsm.Stay, To: fsm.Offline, Actions: []fsm.Action{fsm.ForgetUser, fsm.Finish}}, connect},
			2, "the connection was over"},
		{"a late beginning", []Line{{Seq: 2, From: fsm.Offline, Event: fsm.Woke, Verdict: fsm.Ignore, To: fsm.Offline}},
			1, "transition 1 is missing before it"},
		{"a gap", []Line{connect, {Seq: 9}}, 2, "transitions 2 to 8 are missing before it"},
		{"a repetition", []Line{connect, {Seq: 1}}, 2, "transition 1 again"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for i := range c.lines {
				if c.lines[i].Verdict == 0 { // of no matter here, but it must have names
					c.lines[i].Event, c.lines[i].Verdict = fsm.Connect, fsm.Move
				}
			}
			if line, err := stop(life(c.lines...)); line != c.at || !strings.Contains(fmt.Sprint(err), c.want) {
				t.Errorf("line %d: %v; want line %d: %q", line, err, c.at, c.want)
			}
		})
	}
}

// Bad input: what is wrong is said with its line, and nothing unbounded is kept.
func TestBadInput(t *testing.T) {
	good := string(bytes.Join(walk(t, rand.New(rand.NewPCG(3, 3)), "a", 3), nil))
	other := Line{Seq: 1, Event: fsm.Connect, Verdict: fsm.Move, To: fsm.Connecting, Conn: "b", Table: "0123456789ab"}
	for _, c := range []struct{ name, text, want string }{
		{"garbage", good + "garbage\n" + good, "line 4: no line of a recording"},
		{"an empty line", good + "\n" + good, "line 4: no line of a recording"},
		{"no object", good + "[]\n", "line 4: no line of a recording"},
		{"another kind of JSON", `{"seq":1,"event":"Connect"}` + "\n", "line 1: no line of a recording: it names no connection"},
		{"a picture", "\x89PNG\r\n\x1a\n\x00\x00", "line 1: no line of a recording"},
		{"a line without end", good + strings.Repeat("x", 10*maxLine), "line 4: no line of a recording: it is longer than 4096 bytes"},
		{"another table", good + string(other.Append(nil)), "line 4: recorded by another table: \"0123456789ab\", and this one is \"" + TableHash() + `"`},
		{"an unknown event", strings.Replace(good, `"event":"`, `"event":"Un`, 1), `line 1: the table has no event "Un`},
		{"an unknown state", strings.Replace(good, `"to":"`, `"to":"Un`, 1), `line 1: the table has no state "Un`},
		{"an unknown verdict", strings.Replace(good, `"verdict":"`, `"verdict":"un`, 1), `line 1: the table has no verdict "un`},
		{"an unknown action", strings.Replace(good, `"actions":[`, `"actions":["Stand"],"x":[`, 1), `the table has no action "Stand"`},
		{"control characters", strings.Replace(good, `"event":"`, `"event":"\u001b[2J`, 1), `the table has no event "\x1b[2J`},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := stop(strings.NewReader(c.text))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
	if _, err := stop(bytes.NewReader(other.Append(nil))); !errors.Is(err, ErrOtherTable) {
		t.Errorf("another table: %v", err)
	}
	nameless := Line{Seq: 1, Event: fsm.Connect, Verdict: fsm.Move, To: fsm.Connecting, Actions: []fsm.Action{fsm.Retry}, Table: TableHash()}
	if _, err := stop(bytes.NewReader(nameless.Append(nil))); err == nil {
		t.Error("a line of no connection is taken")
	}
	broken := errors.New("broken disk")
	if line, err := stop(io.MultiReader(strings.NewReader(good), iotest.ErrReader(broken))); line != 4 || !errors.Is(err, broken) {
		t.Errorf("line %d: %v, want the reader's error at line 4", line, err)
	}
	var many []byte // connections, each with its first line
	for i := range maxConns + 1 {
		l := Line{Seq: 1, Event: fsm.Connect, Verdict: fsm.Move, To: fsm.Connecting, Actions: []fsm.Action{fsm.Retry}, Conn: fmt.Sprint(i), Table: TableHash()}
		many = l.Append(many)
	}
	if line, err := stop(bytes.NewReader(many)); line != maxConns+1 || !strings.Contains(err.Error(), "more than 32768 connections") {
		t.Errorf("too many connections: line %d: %v", line, err)
	}
}

// A recording may end anywhere. If that is within a line, all before it counts.
func TestLastLine(t *testing.T) {
	whole := bytes.Join(walk(t, rand.New(rand.NewPCG(5, 5)), "a", 4), nil)
	for end := range len(whole) + 1 {
		steps := 0
		err := Replay(bytes.NewReader(whole[:end]), func(Step) { steps++ })
		full := bytes.Count(whole[:end], []byte("\n"))
		switch cut := end > 0 && whole[end-1] != '\n'; {
		case cut && whole[end-1] == '}':
			if err != nil || steps != full+1 {
				t.Errorf("%d bytes, only the line end is missing: %d steps, %v", end, steps, err)
			}
		case cut:
			var e *Error
			if !errors.Is(err, ErrTruncated) || !errors.As(err, &e) || e.Line != full+1 || steps != full {
				t.Errorf("%d bytes: %d steps, %v", end, steps, err)
			}
		case err != nil || steps != full:
			t.Errorf("%d bytes: %d steps, %v", end, steps, err)
		}
	}
}

// endless is a long recording that is never whole in memory: one life, over and
// over, each time of another connection.
type endless struct {
	life  [][]byte
	left  int
	conn  int
	queue []byte
}

func (e *endless) Read(p []byte) (int, error) {
	if len(e.queue) == 0 {
		if e.left == 0 {
			return 0, io.EOF
		}
		e.left--
		e.conn++
		for i, line := range e.life {
			l, _, err := parse(bytes.TrimSpace(line))
			if err != nil {
				return 0, err
			}
			l.Conn, l.Seq = fmt.Sprint(e.conn), uint64(i+1)
			e.queue = l.Append(e.queue)
		}
	}
	n := copy(p, e.queue)
	e.queue = e.queue[n:]
	return n, nil
}

// A replay holds no more than it needs to go on: its memory does not grow with the
// recording. The summary adds up.
func TestReplayStreams(t *testing.T) {
	life := walk(t, rand.New(rand.NewPCG(9, 9)), "a", 500)
	var one, all Summary
	if err := Replay(join(life), one.Add); err != nil {
		t.Fatal(err)
	}
	const lives = 20
	if err := Replay(&endless{life: life, left: lives}, all.Add); err != nil {
		t.Fatal(err)
	}
	if all.Transitions != lives*one.Transitions || all.Attempts != lives*one.Attempts || all.Loads != lives*one.Loads || all.Drops != lives*one.Drops || all.Failed != lives*one.Failed || all.Conns() != lives {
		t.Errorf("%d lives: %+v, each %+v", lives, all, one)
	}
	if one.Attempts == 0 || one.Loads == 0 || one.Drops == 0 {
		t.Errorf("the life shows too little: %+v", one)
	}
	var total time.Duration
	for _, s := range fsm.States() {
		total += one.In(s)
		if all.In(s) != lives*one.In(s) {
			t.Errorf("%v for %v, each %v", s, all.In(s), one.In(s))
		}
	}
	if total != one.Last.Sub(one.First) {
		t.Errorf("%v in all states, %v from first to last", total, one.Last.Sub(one.First))
	}
}

// A wall clock that is set back gives no state time twice, or less than none.
func TestClockSetBack(t *testing.T) {
	var s Summary
	for i, at := range []int{0, 10, 5, 8, 12} {
		s.Add(Step{Line: Line{Seq: uint64(i + 1), Conn: "a", Event: fsm.Woke, To: fsm.Offline, Time: begin.Add(time.Duration(at) * time.Second)}})
	}
	if got := s.In(fsm.Offline); got != 12*time.Second {
		t.Errorf("%v in Offline, want 12s", got)
	}
}

// What the replay knows beside the line: attempts, loads and drops.
func TestStepsAreUnderstood(t *testing.T) {
	for _, c := range []struct {
		name   string
		events []fsm.Event
		want   string
	}{
		{"a life", []fsm.Event{
			fsm.Connect, fsm.RetryDue, fsm.TokenLoaded, fsm.Dropped, // a failed attempt
			fsm.RetryDue, fsm.TokenLoaded, fsm.Opened, fsm.RequestRefused, // another, with the cached token
			fsm.RetryDue, fsm.TokenLoaded, fsm.Background, fsm.Foreground, // a fresh token
			fsm.RetryDue, fsm.TokenLoaded, fsm.Opened, fsm.TokenRefused, // the socket refuses it
		}, "2 loads, 3 dials, 4 fails, 6 dials, 9 loads, 14 dials, 16 drops"},
		{"a stranger is forgotten, and the token with them", []fsm.Event{
			fsm.Connect, fsm.RetryDue, fsm.TokenLoaded, fsm.Dropped, fsm.RetriesSpent, fsm.Connect, fsm.RetryDue,
		}, "2 loads, 3 dials, 4 fails, 7 loads"},
		{"who was connected stays, and so does the token", []fsm.Event{
			fsm.Connect, fsm.RetryDue, fsm.TokenLoaded, fsm.Opened, fsm.Dropped, fsm.RetriesSpent, fsm.ReconnectSocket, fsm.RetryDue,
		}, "2 loads, 3 dials, 5 drops"},
		{"a program that leaves loses nothing", []fsm.Event{
			fsm.Connect, fsm.RetryDue, fsm.TokenLoaded, fsm.Opened, fsm.DisconnectSocket, fsm.ReconnectSocket, fsm.RetryDue,
		}, "2 loads, 3 dials, 7 loads"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got []string
			if err := Replay(bytes.NewReader(record(t, c.events)), func(s Step) {
				for _, m := range []struct {
					what string
					is   bool
				}{{"dials", s.Dials()}, {"fails", s.Fails()}, {"loads", s.Loads}, {"drops", s.Drops()}} {
					if m.is {
						got = append(got, fmt.Sprint(s.Number, " ", m.what))
					}
				}
			}); err != nil {
				t.Fatal(err)
			}
			if strings.Join(got, ", ") != c.want {
				t.Errorf("got  %s\nwant %s", strings.Join(got, ", "), c.want)
			}
		})
	}
}

// record is the recording of a life in which these events happen.
func record(t *testing.T, life []fsm.Event) (recording []byte) {
	t.Helper()
	machine, err := fsm.New(fsm.Declared())
	if err != nil {
		t.Fatal(err)
	}
	var at fsm.Position
	for i, e := range life {
		tr, err := machine.Fire(at, e)
		if err != nil || tr.Verdict == fsm.Refuse {
			t.Fatal(tr, err)
		}
		l := Line{Seq: uint64(i + 1), Time: begin, From: at.State, Event: tr.Event, Verdict: tr.Verdict, To: tr.To.State, Actions: tr.Do, Conn: "a", Table: TableHash()}
		recording, at = l.Append(recording), tr.To
	}
	return recording
}

func BenchmarkAppend(b *testing.B) {
	l := Line{Seq: 12345, Time: time.Now(), From: fsm.Connected, Event: fsm.Dropped, Verdict: fsm.Move, To: fsm.Connecting, Actions: []fsm.Action{fsm.HangUp, fsm.Retry}, Cause: "network", Attempt: 1, Conn: "5f1c09a2be77", Table: TableHash()}
	buf := make([]byte, 0, 512)
	b.ReportAllocs()
	for b.Loop() {
		l.Append(buf)
	}
}

func BenchmarkReplay(b *testing.B) {
	life := bytes.Join(walk(b, rand.New(rand.NewPCG(9, 9)), "a", 10_000), nil)
	b.SetBytes(int64(len(life)))
	b.ReportAllocs()
	for b.Loop() {
		if err := Replay(bytes.NewReader(life), nil); err != nil {
			b.Fatal(err)
		}
	}
}
