package recording

import (
	"errors"
	"io"
	"math"
	"slices"
	"sync"
	"time"
	"unique"

	"github.com/chatconn/chatconn/fsm"
)

// Tape keeps the latest lines of one connection in memory, 32 bytes each. It is
// meant for Config.Record of one Conn: what it holds can be looked at while the
// connection lives, and written out as a recording that [Replay] accepts. All
// methods are safe for concurrent use. Specification: O4.
type Tape struct {
	// Lines is how many are kept, the latest; set it before the first Write. Zero: 256.
	Lines int

	mu    sync.Mutex
	conn  string
	ring  []kept // grows to Lines; from there on the oldest is at first
	first int
	gone  life // where the lines led to that are not kept any more
}

// kept is a line, but for what the table says anyway.
type kept struct {
	seq      uint64
	at       int64 // in nanoseconds of Unix time
	cause    unique.Handle[string]
	attempt  int32
	from, to fsm.State
	event    fsm.Event
	verdict  fsm.Verdict
}

// Write takes one line. The error says that it is none, or not the tape's next.
func (t *Tape) Write(text []byte) (int, error) {
	l, intact, err := parse(text)
	switch {
	case err != nil:
		return 0, err
	case l.head != nil || !intact || !slices.Equal(l.Actions, doneBy(l.From, l.Event, l.Verdict)):
		return 0, errors.New("recording: no line that a Conn writes")
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.conn == "" {
		t.conn = l.Conn
	}
	if l.Conn != t.conn || l.Seq <= t.last() {
		return 0, errors.New("recording: a line of another connection, or one that was there already")
	}
	k := kept{
		seq: l.Seq, at: l.Time.UnixNano(), cause: unique.Make(l.Cause), attempt: int32(min(l.Attempt, math.MaxInt32)),
		from: l.From, to: l.To, event: l.Event, verdict: l.Verdict,
	}
	limit := t.Lines
	if limit <= 0 {
		limit = 256
	}
	if len(t.ring) < limit {
		if len(t.ring) == cap(t.ring) {
			t.ring = append(make([]kept, 0, min(max(8, 2*len(t.ring)), limit)), t.ring...)
		}
		t.ring = append(t.ring, k)
		return len(text), nil
	}
	t.forget(t.line(0))
	t.ring[t.first] = k
	t.first = (t.first + 1) % limit
	return len(text), nil
}

// forget lets a line go, and remembers where it led to. A life that is not whole,
// since lines were lost on their way here, is followed as well as can be.
func (t *Tape) forget(l Line) {
	if machine, err := shared(); err == nil {
		if _, err := t.gone.take(machine, l); err == nil {
			return
		}
	}
	t.gone.seq, t.gone.at.State = l.Seq, l.To
	t.gone.keep(l)
}

var shared = sync.OnceValues(func() (*fsm.Machine, error) { return fsm.New(fsm.Declared()) })

// doneBy returns the actions that the table has for a step.
func doneBy(from fsm.State, e fsm.Event, v fsm.Verdict) []fsm.Action {
	if v != fsm.Move && v != fsm.Stay {
		return nil
	}
	step, _ := fsm.Next(from, e)
	return step.Do
}

// line returns the line that is the i-th oldest. The caller holds mu.
func (t *Tape) line(i int) Line {
	k := t.ring[(t.first+i)%len(t.ring)]
	return Line{
		Seq: k.seq, Time: time.Unix(0, k.at).UTC(), From: k.from, Event: k.event, Verdict: k.verdict, To: k.to,
		Actions: doneBy(k.from, k.event, k.verdict), Cause: k.cause.Value(), Attempt: int(k.attempt), Conn: t.conn, Table: TableHash(),
	}
}

// last returns the number of the latest line; zero: none has come.
func (t *Tape) last() uint64 {
	if len(t.ring) == 0 {
		return 0
	}
	return t.ring[(t.first+len(t.ring)-1)%len(t.ring)].seq
}

// Last returns the latest line, and whether there is one.
func (t *Tape) Last() (Line, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.ring) == 0 {
		return Line{}, false
	}
	return t.line(len(t.ring) - 1), true
}

// After returns the lines that are kept and come after the transition seq; all
// of them, for zero. If the first is not seq+1, those between are not kept, or
// never came.
func (t *Tape) After(seq uint64) []Line {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.after(seq)
}

func (t *Tape) after(seq uint64) (lines []Line) {
	begin := len(t.ring)
	for begin > 0 && t.ring[(t.first+begin-1)%len(t.ring)].seq > seq {
		begin--
	}
	if begin == len(t.ring) {
		return nil
	}
	lines = make([]Line, 0, len(t.ring)-begin)
	for i := begin; i < len(t.ring); i++ {
		lines = append(lines, t.line(i))
	}
	return lines
}

// WriteTo writes the recording. Where earlier lines are not kept, its first line
// says after which transition it begins, and how things stood then.
func (t *Tape) WriteTo(w io.Writer) (n int64, err error) {
	t.mu.Lock()
	lines, before, conn := t.after(0), t.gone, t.conn
	t.mu.Unlock()
	var b []byte
	if before.seq > 0 {
		b = before.append(b, conn)
	}
	for i, l := range lines {
		if b = l.Append(b); len(b) < 32<<10 && i < len(lines)-1 {
			continue
		}
		wrote, err := w.Write(b)
		n += int64(wrote)
		if err != nil {
			return n, err
		}
		b = b[:0]
	}
	return n, nil
}
