package recording

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// tapeOf plays lines on a tape.
func tapeOf(t testing.TB, limit int, lines [][]byte) *Tape {
	t.Helper()
	tape := &Tape{Lines: limit}
	for _, line := range lines {
		if n, err := tape.Write(line); n != len(line) || err != nil {
			t.Fatalf("%d, %v", n, err)
		}
	}
	return tape
}

func written(t testing.TB, tape *Tape) string {
	t.Helper()
	var b bytes.Buffer
	if n, err := tape.WriteTo(&b); n != int64(b.Len()) || err != nil {
		t.Fatalf("%d of %d bytes, %v", n, b.Len(), err)
	}
	return b.String()
}

// O4: whatever a tape still holds of a life replays clean, byte for byte the lines
// that were written, with the loads that the whole recording shows; a line removed,
// doubled or changed is caught, also at the place where it takes the life up.
func TestTape(t *testing.T) {
	const steps = 400
	life := walk(t, rand.New(rand.NewPCG(21, 4)), "a", steps)
	var whole []Step
	if err := Replay(join(life), func(s Step) { whole = append(whole, s) }); err != nil {
		t.Fatal(err)
	}
	for _, limit := range []int{1, 2, 3, 50, steps - 1, steps, 2 * steps} {
		tape := tapeOf(t, limit, life)
		n := min(limit, steps)
		text := written(t, tape)
		body := text
		if n < steps {
			head, rest, _ := strings.Cut(text, "\n")
			if !strings.HasPrefix(head, fmt.Sprintf(`{"after":%d,`, steps-n)) {
				t.Errorf("%d lines: it begins with %s", limit, head)
			}
			body = rest
		}
		if body != string(bytes.Join(life[steps-n:], nil)) {
			t.Errorf("%d lines: they are not those that were written", limit)
		}
		i := steps - n
		if err := Replay(strings.NewReader(text), func(s Step) {
			if w := whole[i]; s.Facts != w.Facts || s.After != w.After || s.Loads != w.Loads || s.Seq != w.Seq {
				t.Errorf("%d lines: step %d is %+v, in the whole recording %+v", limit, i+1, s, w)
			}
			i++
		}); err != nil || i != steps {
			t.Errorf("%d lines: the replay stops at step %d: %v", limit, i, err)
		}

		after := tape.After(steps - 3)
		if want := min(3, n); len(after) != want || after[want-1].Seq != steps || after[0].Seq != uint64(steps-want+1) {
			t.Errorf("%d lines: after all but three come %d", limit, len(after))
		}
		if last, ok := tape.Last(); !ok || last.Seq != steps || len(tape.After(steps)) != 0 || len(tape.After(0)) != n {
			t.Errorf("%d lines: the last is %+v", limit, last)
		}
	}

	lines := slices.Collect(strings.Lines(written(t, tapeOf(t, 20, life))))
	stopAt := func(what string, want int, spoiled ...[]string) {
		t.Helper()
		if line, err := stop(strings.NewReader(strings.Join(slices.Concat(spoiled...), ""))); line != want {
			t.Errorf("%s: it stops at %d, want %d: %v", what, line, want, err)
		}
	}
	stopAt("without its head", 1, lines[1:])
	stopAt("two heads", 2, lines[:1], lines)
	stopAt("a head in the middle", 6, lines[:5], lines[:1], lines[5:])
	stopAt("without the line behind the head", 2, lines[:1], lines[2:])
	for i := range len(lines[0]) - 1 {
		changed := []byte(lines[0])
		changed[i] ^= 1
		if line, err := stop(strings.NewReader(string(changed) + strings.Join(lines[1:], ""))); line != 1 {
			t.Errorf("byte %d of the head changed: it stops at %d: %v", i, line, err)
		}
	}
}

// What is no line of its connection does not get onto a tape; what was lost on the
// way to it is missing, and does not hurt the rest.
func TestTapeTakesItsOwnLines(t *testing.T) {
	life := walk(t, rand.New(rand.NewPCG(2, 9)), "a", 60)
	other := walk(t, rand.New(rand.NewPCG(2, 9)), "b", 10)
	tape := tapeOf(t, 10, life[:5])
	before := written(t, tape)
	changed := bytes.Replace(life[5], []byte(`"time":"2`), []byte(`"time":"1`), 1)
	head, _, _ := strings.Cut(written(t, tapeOf(t, 1, life[:9])), "\n")
	for what, line := range map[string][]byte{
		"garbage": []byte("garbage\n"), "nothing": nil, "another connection": other[7], "again": life[4], "earlier": life[1],
		"changed": changed, "a head": []byte(head),
	} {
		if n, err := tape.Write(line); n != 0 || err == nil {
			t.Errorf("%s: %d, %v", what, n, err)
		}
	}
	if written(t, tape) != before {
		t.Error("something got onto the tape")
	}
	for i, line := range life[5:] {
		if i == 3 {
			continue // lost
		}
		if _, err := tape.Write(line); err != nil {
			t.Fatal(err)
		}
	}
	if got := tape.After(0); len(got) != 10 || got[9].Seq != 60 || got[0].Seq != 51 {
		t.Errorf("%d lines are kept, up to %d", len(got), got[len(got)-1].Seq)
	}
	var empty Tape
	if n, err := empty.Write([]byte(head)); n != 0 || err == nil || empty.conn != "" {
		t.Errorf("a head on a new tape: %d, %v; it is of connection %q now", n, err, empty.conn)
	}
	if _, ok := empty.Last(); ok || empty.After(0) != nil || written(t, &empty) != "" {
		t.Error("a tape on which nothing is holds something")
	}
}

// A writer that fails ends the writing.
func TestTapeWriteError(t *testing.T) {
	tape := tapeOf(t, 0, walk(t, rand.New(rand.NewPCG(1, 1)), "a", 300))
	broken := errors.New("broken disk")
	if _, err := tape.WriteTo(failing{broken}); !errors.Is(err, broken) {
		t.Error(err)
	}
	if n := len(tape.After(0)); n != 256 {
		t.Errorf("%d lines are kept without a limit of its own", n)
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

// A tape is small however long it runs: 32 bytes a line.
func TestTapeIsSmall(t *testing.T) {
	life := walk(t, rand.New(rand.NewPCG(8, 8)), "a", 3000)
	const tapes = 64
	all := make([]*Tape, tapes)
	tapeOf(t, 1, life[:2]) // what all share
	var before, after runtime.MemStats
	collect := func() { runtime.GC(); runtime.GC() } // the second takes what pools have kept
	collect()
	runtime.ReadMemStats(&before)
	for i := range all {
		all[i] = tapeOf(t, 256, life)
	}
	collect()
	runtime.ReadMemStats(&after)
	if each := int64(after.HeapAlloc-before.HeapAlloc) / tapes; each > 256*32+1536 {
		t.Errorf("a full tape of 256 lines has %d bytes", each)
	}
	runtime.KeepAlive(all)
	runtime.KeepAlive(life)
}

func BenchmarkTape(b *testing.B) {
	life := walk(b, rand.New(rand.NewPCG(9, 9)), "a", 50_000)
	b.ReportAllocs()
	var tape Tape
	i := 0
	for b.Loop() {
		if i++; i > len(life) {
			tape, i = Tape{}, 1
		}
		tape.Write(life[i-1])
	}
	_, _ = tape.WriteTo(io.Discard)
}
