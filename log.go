package chatconn

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"sync"

	"github.com/chatconn/chatconn/fsm"
	"github.com/chatconn/chatconn/recording"
)

// log tells the program's logger of changes, losses and failed attempts. The
// logger runs on the side lane. Causes contain no token: they are made of what
// the floors report, which leave tokens and URLs out. Specification: O3, T11.
func (c *Conn) log(t fsm.Transition, change Change) {
	if c.cfg.Logger == nil {
		return
	}
	failed := change.Cause != nil && t.Event.Kind() != fsm.User
	level := slog.LevelDebug
	switch {
	case failed:
		level = slog.LevelWarn
	case change.Moved():
		level = slog.LevelInfo
	}
	attrs := []slog.Attr{
		slog.String("from", change.From.String()),
		slog.String("event", t.Event.String()),
		slog.String("to", change.To.String()),
	}
	if change.Attempt > 0 {
		attrs = append(attrs, slog.Int("attempt", change.Attempt))
	}
	if !change.RetryAt.IsZero() {
		attrs = append(attrs, slog.Duration("in", change.RetryAt.Sub(change.At)))
	}
	if change.Cause != nil {
		attrs = append(attrs, slog.String("cause", change.Cause.Error()))
	}
	c.tell(level, "chatconn: "+t.Why, attrs...)
}

// logBug reports an event that the table refuses, or a table that its executor
// contradicts.
func (c *Conn) logBug(t fsm.Transition, err error) {
	attrs := []slog.Attr{
		slog.String("state", t.From.State.String()),
		slog.String("facts", t.From.Facts.String()),
		slog.String("event", t.Event.String()),
	}
	if err != nil {
		attrs = append(attrs, slog.String("error", err.Error()))
	}
	c.tell(slog.LevelError, "chatconn: BUG: an event that cannot happen: "+t.Why, attrs...)
}

func (c *Conn) tell(level slog.Level, message string, attrs ...slog.Attr) {
	if logger := c.cfg.Logger; logger != nil {
		c.side.do(func() { logger.LogAttrs(context.Background(), level, message, attrs...) })
	}
}

// recorder turns transitions into lines on the owner and writes them on the side
// lane, one Write a line. Its two buffers take turns, so that in the long run a
// transition costs no memory.
type recorder struct {
	conn  string // the name of the Conn in its recording; the owner's
	write func()

	mu      sync.Mutex
	waiting []byte // lines
	lines   int    // how many of them
	spare   []byte
	given   bool // to the lane: write will run
}

// record writes one JSON line for a transition. What a stuck writer leaves no
// room for is missing from the recording, and a replay says so. Specification: O4.
func (c *Conn) record(t fsm.Transition, change Change) {
	if c.cfg.Record == nil {
		return
	}
	if c.tape == nil {
		r := &recorder{conn: fmt.Sprintf("%012x", rand.Uint64()>>16)}
		r.write = func() { r.flush(c.cfg.Record) }
		c.tape = r
	}
	r := c.tape
	line := recording.Line{
		Seq: c.steps, Time: change.At, From: change.From, Event: t.Event, Verdict: t.Verdict, To: change.To, Actions: t.Do,
		Cause: causeClass(change.Cause), Attempt: change.Attempt, Conn: r.conn, Table: recording.TableHash(),
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.lines < maxLane {
		r.waiting = line.Append(r.waiting)
		r.lines++
	}
	if !r.given {
		r.given = c.side.do(r.write)
	}
}

// flush writes what waits.
func (r *recorder) flush(out io.Writer) {
	r.mu.Lock()
	lines := r.waiting
	r.waiting, r.spare, r.lines, r.given = r.spare[:0], nil, 0, false
	r.mu.Unlock()
	for rest := lines; len(rest) > 0; {
		end := bytes.IndexByte(rest, '\n') + 1
		line := rest[:end:end]
		rest = rest[end:]
		_ = guard(func() error { _, err := out.Write(line); return err }) // a panic loses its own line only
	}
	const keep = 4 << 10 // more than this is not held for the next time
	if cap(lines) <= keep {
		r.mu.Lock()
		r.spare = lines
		r.mu.Unlock()
	}
}
