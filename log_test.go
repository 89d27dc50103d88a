package chatconn

import (
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chatconn/chatconn/fsm"
)

// What a transition costs that is recorded: O4. The lane is idle before each,
// which is the dearest case.
func BenchmarkRecord(b *testing.B) {
	for _, bench := range []struct {
		name  string
		out   io.Writer
		cause error
	}{
		{"on", io.Discard, nil},
		{"on with a cause", io.Discard, &APIError{Code: 40}},
		{"off", nil, &APIError{Code: 40}},
	} {
		b.Run(bench.name, func(b *testing.B) {
			b.ReportAllocs()
			record, idle := taped(bench.out, bench.cause)
			for b.Loop() {
				record()
				for !idle() {
					runtime.Gosched()
				}
			}
		})
	}
}

// taped returns a function that records a transition, and one that reports
// whether everything is written.
func taped(out io.Writer, cause error) (record func(), idle func() bool) {
	c := Conn{cfg: Config{Record: out}}
	step, verdict := fsm.Next(fsm.Connected, fsm.Dropped)
	t := fsm.Transition{Event: fsm.Dropped, Verdict: verdict, Do: step.Do}
	change := Change{From: fsm.Connected, To: step.To, At: time.Now(), Cause: cause, Attempt: 1}
	record = func() {
		c.steps++
		c.record(t, change)
	}
	idle = func() bool {
		c.side.mu.Lock()
		defer c.side.mu.Unlock()
		return !c.side.running
	}
	return record, idle
}

// O4: a recorded transition costs two allocations at most; nothing when off.
func TestRecordAllocations(t *testing.T) {
	for _, c := range []struct {
		what  string
		out   io.Writer
		cause error
		most  float64
	}{{"on", io.Discard, &APIError{Code: 40}, 2}, {"off", nil, &APIError{Code: 40}, 0}} {
		record, idle := taped(c.out, c.cause)
		got := testing.AllocsPerRun(1000, func() {
			record()
			for !idle() {
				runtime.Gosched()
			}
		})
		if got > c.most {
			t.Errorf("%s: %v allocations, want at most %v", c.what, got, c.most)
		}
	}
}

// stuck is a writer that waits before each Write until it may go on.
type stuck struct {
	lines []string
	next  chan struct{}
}

func (w *stuck) Write(p []byte) (int, error) {
	<-w.next
	w.lines = append(w.lines, string(p))
	return len(p), nil
}

// O4, M4: each line is one Write, in order; a stuck writer delays nobody, and what
// it leaves no room for is missing as whole lines.
func TestRecordForAStuckWriter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &stuck{next: make(chan struct{})}
		record, _ := taped(out, nil)
		record()
		synctest.Wait() // the first line is being written
		for range maxLane + 10 {
			record()
		}
		close(out.next)
		synctest.Wait()
		record()
		synctest.Wait()
		for i, line := range out.lines {
			seq := i + 1
			if i == maxLane+1 {
				seq = maxLane + 12
			}
			if !strings.HasPrefix(line, fmt.Sprintf(`{"seq":%d,`, seq)) || strings.Index(line, "\n") != len(line)-1 {
				t.Fatalf("line %d is %q", i+1, line)
			}
		}
		if want := 1 + maxLane + 1; len(out.lines) != want {
			t.Errorf("%d lines, want %d", len(out.lines), want)
		}
	})
}
