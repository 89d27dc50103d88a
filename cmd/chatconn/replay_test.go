package main

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chatconn/chatconn/fsm"
	tape "github.com/chatconn/chatconn/recording"
)

// recorded is the recording of a short life of a connection.
func recorded(t *testing.T, conn string) []string {
	t.Helper()
	machine, err := fsm.New(fsm.Declared())
	if err != nil {
		t.Fatal(err)
	}
	var at fsm.Position
	var lines []string
	for i, e := range []fsm.Event{
		fsm.Connect, fsm.RetryDue, fsm.TokenLoaded, fsm.Dropped, fsm.RetryDue, fsm.TokenLoaded, fsm.Opened, fsm.Dropped,
		fsm.RetryDue, fsm.TokenLoaded, fsm.Opened, fsm.Background, fsm.Close,
	} {
		tr, err := machine.Fire(at, e)
		if err != nil || tr.Verdict == fsm.Refuse {
			t.Fatal(tr, err)
		}
		l := tape.Line{
			Seq: uint64(i + 1), Time: time.Date(2026, 3, 1, 9, 30, i, 0, time.UTC), From: at.State, Event: tr.Event, Verdict: tr.Verdict,
			To: tr.To.State, Actions: tr.Do, Conn: conn, Table: tape.TableHash(),
		}
		lines, at = append(lines, string(l.Append(nil))), tr.To
	}
	return lines
}

func saved(t *testing.T, lines []string) (file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "recording.jsonl")
	if err := os.WriteFile(file, []byte(strings.Join(lines, "")), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// O4: a recording that the table allows is summed up, for people and for programs.
func TestReplay(t *testing.T) {
	lines := recorded(t, "a")
	got := call(t, "replay", saved(t, lines))
	got.want(t, ok)
	const want = `13 transitions of 1 connection, from 2026-03-01 09:30:00 to 2026-03-01 09:30:12 UTC

     Offline  0s   0.0 %
  Connecting  9s  75.0 %
   Connected  2s  16.7 %
  Refreshing  0s   0.0 %
      Paused  1s   8.3 %

3 attempts, 1 of them failed; 1 token load; 1 drop
`
	if got.out != want || got.err != "" {
		t.Errorf("got\n%s%s\nwant\n%s", got.out, got.err, want)
	}

	var found replayed
	got = callWith(t, strings.Join(lines, ""), "replay", "-", "--json")
	got.want(t, ok)
	if err := json.Unmarshal([]byte(got.out), &found); err != nil {
		t.Fatal(err)
	}
	if found.Transitions != 13 || found.Attempts != 3 || found.Loads != 1 || found.Drops != 1 || found.Failed != 1 || found.Connections != 1 ||
		found.Seconds["Connecting"] != 9 || found.Wrong != nil || found.Truncated || !found.First.Equal(time.Date(2026, 3, 1, 9, 30, 0, 0, time.UTC)) {
		t.Errorf("%+v in %s", found, got.out)
	}
	if got := callWith(t, "", "replay", "-"); got.code != ok || got.out != "Nothing is recorded.\n" {
		t.Errorf("an empty recording: %+v", got)
	}
}

// O4: the first line that does not fit is named and the exit code is 1; what comes
// before it is shown.
func TestReplayNamesTheFirstWrongLine(t *testing.T) {
	lines := recorded(t, "a")
	for _, c := range []struct {
		name  string
		lines []string
		want  string
	}{
		{"removed", slices.Delete(slices.Clone(lines), 6, 7), "line 7: transition 7 is missing before it"},
		{"doubled", slices.Insert(slices.Clone(lines), 6, lines[6]), "line 8: transition 7 again"},
		{"changed", slices.Replace(slices.Clone(lines), 6, 7, strings.Replace(lines[6], "Connected", "Paused", 1)), "line 7: it says Connecting -Opened-> Paused / Listen Settle; the table says Connecting -Opened-> Connected"},
		{"garbage", slices.Insert(slices.Clone(lines), 6, "garbage\n"), "line 7: no line of a recording"},
		{"another table", slices.Replace(slices.Clone(lines), 6, 7, strings.Replace(lines[6], tape.TableHash(), "0123456789ab", 1)), "line 7: recorded by another table"},
	} {
		t.Run(c.name, func(t *testing.T) {
			file := saved(t, c.lines)
			got := call(t, "replay", file)
			got.want(t, failed, c.want)
			if before := 6; !strings.HasPrefix(got.out, fmt.Sprint(before)) && c.name != "doubled" {
				t.Errorf("the summary is not of the %d lines before:\n%s", before, got.out)
			}
			call(t, "replay", file, "--format", "svg").want(t, failed, c.want)
			got = call(t, "replay", file, "--json")
			got.want(t, failed, c.want)
			var found replayed
			if err := json.Unmarshal([]byte(got.out), &found); err != nil || found.Wrong == nil || !strings.HasPrefix(c.want, fmt.Sprintf("line %d: ", found.Wrong.Line)) {
				t.Errorf("%+v, %v", found, err)
			}
		})
	}
}

var mebibytes = flag.Int64("mib", 32, "how long a recording TestReplayStreams replays, in MiB")

// stream is a recording of one connection's random life that is made while it is
// read. As it goes it measures the memory of the program.
type stream struct {
	t         *testing.T
	left      int64 // bytes; it ends with the line that begins before
	machine   *fsm.Machine
	at        fsm.Position
	line      tape.Line
	queue     []byte
	unread    []byte
	random    *rand.Rand
	next      int64 // measure when so many bytes are left
	low, high uint64
}

func newStream(t *testing.T, bytes int64) *stream {
	machine, err := fsm.New(fsm.Declared())
	if err != nil {
		t.Fatal(err)
	}
	return &stream{
		t: t, left: bytes, next: bytes - bytes/8, machine: machine, random: rand.New(rand.NewPCG(64, 1024)), low: math.MaxUint64,
		line: tape.Line{Time: time.Date(2026, 3, 1, 9, 30, 0, 0, time.UTC), Conn: "5f1c09a2be77", Table: tape.TableHash()},
	}
}

func (s *stream) Read(p []byte) (int, error) {
	if len(s.unread) == 0 {
		if s.left <= 0 {
			return 0, io.EOF
		}
		s.step()
	}
	n := copy(p, s.unread)
	s.unread = s.unread[n:]
	return n, nil
}

// step makes the next line.
func (s *stream) step() {
	for {
		e := fsm.Events()[s.random.IntN(len(fsm.Events()))]
		if e == fsm.Close || e == fsm.TokenRenewed || strings.HasSuffix(e.String(), "Held") {
			continue // the end, and names that facts give
		}
		tr, err := s.machine.Fire(s.at, e)
		if err != nil {
			s.t.Error(err)
		}
		if tr.Verdict == fsm.Refuse {
			continue
		}
		l := &s.line
		l.Seq++
		l.Time = l.Time.Add(time.Duration(s.random.Int64N(int64(time.Minute))))
		l.From, l.Event, l.Verdict, l.To, l.Actions = s.at.State, tr.Event, tr.Verdict, tr.To.State, tr.Do
		s.at = tr.To
		break
	}
	s.queue = s.line.Append(s.queue[:0])
	s.unread = s.queue
	s.left -= int64(len(s.queue))
	if s.left <= s.next {
		s.next -= 8 << 20
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		s.low, s.high = min(s.low, m.HeapAlloc), max(s.high, m.HeapAlloc)
	}
}

// O4: a recording of any length is read as a stream: from its first eighth on, the
// replay and its drawings keep no more memory than before. A random life of more than
// 100,000 transitions replays clean.
func TestReplayStreams(t *testing.T) {
	in := newStream(t, *mebibytes<<20)
	var out, errs strings.Builder
	began := time.Now()
	if code := run(t.Context(), []string{"replay", "-", "--format", "svg"}, streams{in, &out, &errs}); code != ok {
		t.Fatalf("exit code %d: %s", code, &errs)
	}
	t.Logf("%d transitions, %d MiB in %v, heap %d to %d KiB", in.line.Seq, *mebibytes, time.Since(began).Round(time.Millisecond), in.low>>10, in.high>>10)
	if status, err := os.ReadFile("/proc/self/status"); err == nil {
		_, peak, _ := strings.Cut(string(status), "VmHWM:")
		peak, _, _ = strings.Cut(peak, "\n")
		t.Log("peak memory of the process:", strings.TrimSpace(peak))
	}
	if in.high-in.low > 1<<20 {
		t.Errorf("the heap grew from %d to %d bytes", in.low, in.high)
	}
	if in.line.Seq < 100_000 && *mebibytes >= 32 {
		t.Errorf("only %d transitions", in.line.Seq)
	}
	if !strings.HasSuffix(out.String(), "</svg>\n") || out.Len() > 512<<10 {
		t.Errorf("%d bytes of picture", out.Len())
	}
}

// A recording that ends within a line is in order, and it is said.
func TestReplayOfATruncatedRecording(t *testing.T) {
	lines := recorded(t, "a")
	lines[len(lines)-1] = lines[len(lines)-1][:40]
	got := call(t, "replay", saved(t, lines))
	got.want(t, ok, "line 13: the last line is cut off; all before it is in order")
	if !strings.HasPrefix(got.out, "12 transitions") {
		t.Errorf("got %s", got.out)
	}
	if got := call(t, "replay", saved(t, lines), "--json"); !strings.Contains(got.out, `"truncated":true`) {
		t.Errorf("got %s", got.out)
	}
}

// O4: a recording is drawn, to standard output or a file; of several connections
// the one that is named.
func TestReplayDraws(t *testing.T) {
	lines := recorded(t, "a")
	got := call(t, "replay", saved(t, lines), "--format", "mermaid", "--steps", "5")
	got.want(t, ok)
	if !strings.HasPrefix(got.out, "sequenceDiagram\n") || !strings.Contains(got.out, "8 earlier steps are left out") {
		t.Errorf("got %s", got.out)
	}
	picture := filepath.Join(t.TempDir(), "life.svg")
	got = call(t, "replay", saved(t, lines), "-f", "svg", "-o", picture)
	got.want(t, ok)
	svg, err := os.Open(picture)
	if err != nil || got.out != "" {
		t.Fatal(err, got.out)
	}
	defer svg.Close()
	for d := xml.NewDecoder(svg); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}

	both := saved(t, append(lines, recorded(t, "b")...))
	got = call(t, "replay", both)
	got.want(t, ok)
	if !strings.HasPrefix(got.out, "26 transitions of 2 connections") {
		t.Errorf("got %s", got.out)
	}
	call(t, "replay", both, "-f", "svg").want(t, misuse, "2 connections (a, b)", "--conn")
	call(t, "replay", both, "-f", "svg", "--conn", "c").want(t, misuse, `no connection "c"`)
	got = call(t, "replay", both, "-f", "svg", "--conn", "b")
	got.want(t, ok)
	if !strings.Contains(got.out, "b · from 2026-03-01 09:30:00 UTC · 12s") {
		t.Error("it is not b's life")
	}
}

func TestReplayMisuse(t *testing.T) {
	file := saved(t, recorded(t, "a"))
	call(t, "replay").want(t, misuse, "<file>")
	call(t, "replay", file, "-f", "gif").want(t, misuse, "gif is unknown; there are text, mermaid, svg")
	call(t, "replay", file, "-f", "svg", "--json").want(t, misuse, "contradict")
	call(t, "replay", file, "--steps", "0").want(t, misuse, "--steps 0")
	call(t, "replay", file+".not").want(t, failed, "no such file")
	call(t, "replay", file, "-o", filepath.Join(t.TempDir(), "no", "where")).want(t, failed, "--out: ", "no such file")
	call(t, "replay", t.TempDir()).want(t, failed, "is a directory")
}
