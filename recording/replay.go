package recording

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/chatconn/chatconn/fsm"
)

const (
	maxLine  = 4096    // bytes; a real line has about 250
	maxConns = 1 << 15 // in one recording, so that none can fill the memory
)

var (
	// ErrOtherTable: the recording comes from a version whose table decides
	// differently. Replay it with that version.
	ErrOtherTable = errors.New("recorded by another table")
	// ErrTruncated: the last line is cut off, as after a crash; all before it
	// is in order.
	ErrTruncated = errors.New("the last line is cut off")
)

var errChanged = errors.New("the line was changed after it had been written: its sum does not fit")

// Error says at which line a replay stopped and why.
type Error struct {
	Line int // from 1
	Err  error
}

func (e *Error) Error() string { return fmt.Sprintf("recording: line %d: %v", e.Line, e.Err) }
func (e *Error) Unwrap() error { return e.Err }

// Step is a line with what the replay knows beside it.
type Step struct {
	Line
	Number int       // of the line in the recording, from 1
	Facts  fsm.Facts // before the step
	After  fsm.Facts // and after it
	// Loads: the source is asked. The recording shows no cache, so this is
	// LoadToken while no token was at hand; an anonymous user's first counts.
	Loads bool
}

// Dials reports whether the step begins a dial.
func (s Step) Dials() bool { return slices.Contains(s.Actions, fsm.Dial) }

// Drops reports whether the step loses an open socket that nobody asked to close.
func (s Step) Drops() bool {
	return s.Event.Kind() == fsm.Transport && s.Facts.Has(fsm.SocketOpen) && !s.After.Has(fsm.SocketOpen)
}

// Fails reports whether the step ends a dial without a socket.
func (s Step) Fails() bool {
	return s.From == fsm.Connecting && s.Event.Kind() == fsm.Transport && s.Event != fsm.Opened
}

// Replay takes every line of a recording through the table, hands it to fn (which
// may be nil) if it fits, and stops at the first that does not with an [*Error]:
// text that is no line, another table ([ErrOtherTable]), a line missing, repeated
// or changed, a step that the table does not allow or decides otherwise, an event
// that it refuses. A recording may end anywhere; where its last line is cut off,
// the error is [ErrTruncated] and fn has had all others.
//
// Each connection must begin with its first transition, or with the line of a
// [Tape] that says where it begins instead. Memory does not grow with
// the length of the recording, only with the number of connections in it.
func Replay(r io.Reader, fn func(Step)) error {
	machine, err := fsm.New(fsm.Declared())
	if err != nil {
		return err
	}
	in := bufio.NewReaderSize(r, maxLine)
	conns := make(map[string]*life)
	for n := 1; ; n++ {
		text, err := in.ReadSlice('\n')
		ended := errors.Is(err, io.EOF)
		switch {
		case ended && len(text) == 0:
			return nil
		case errors.Is(err, bufio.ErrBufferFull):
			return &Error{n, fmt.Errorf("no line of a recording: it is longer than %d bytes", maxLine)}
		case err != nil && !ended:
			return &Error{n, err}
		}
		text = bytes.TrimRight(text, "\r\n")
		if ended && !bytes.HasSuffix(text, []byte("}")) {
			return &Error{n, ErrTruncated}
		}
		l, intact, err := parse(text)
		if err != nil {
			return &Error{n, err}
		}
		c := conns[l.Conn]
		if c == nil {
			if len(conns) == maxConns {
				return &Error{n, fmt.Errorf("more than %d connections", maxConns)}
			}
			c = new(life)
			conns[l.Conn] = c
		} else if l.head != nil {
			return &Error{n, errors.New("the recording of this connection has begun before")}
		}
		if l.head != nil {
			if !intact {
				return &Error{n, errChanged}
			}
			*c = *l.head
			continue
		}
		s, err := c.take(machine, l)
		if err == nil && !intact {
			err = errChanged
		}
		if err != nil {
			return &Error{n, err}
		}
		if s.Number = n; fn != nil {
			fn(s)
		}
	}
}

// life is how far a replay has followed one connection.
type life struct {
	seq    uint64
	at     fsm.Position
	cached bool // a token is at hand
	met    bool // the user was connected once
	over   bool
}

// take follows one line, or says what is wrong with it.
func (c *life) take(machine *fsm.Machine, l Line) (Step, error) {
	switch {
	case l.Seq <= c.seq:
		return Step{}, fmt.Errorf("transition %d again: the one before is %d", l.Seq, c.seq)
	case l.Seq == c.seq+2:
		return Step{}, fmt.Errorf("transition %d is missing before it", c.seq+1)
	case l.Seq > c.seq+2:
		return Step{}, fmt.Errorf("transitions %d to %d are missing before it", c.seq+1, l.Seq-1)
	case l.From != c.at.State:
		return Step{}, fmt.Errorf("it says %v; the connection was %v", say(l.From, l.Event, l.Verdict, l.To, l.Actions), c.at.State)
	case c.over:
		return Step{}, fmt.Errorf("it says %v; the connection was over", say(l.From, l.Event, l.Verdict, l.To, l.Actions))
	}
	t, err := machine.Fire(c.at, plain(l.Event))
	if err != nil {
		return Step{}, err
	}
	if t.Event != l.Event || t.Verdict != l.Verdict || t.To.State != l.To || !slices.Equal(t.Do, l.Actions) {
		return Step{}, fmt.Errorf("it says %s; the table says %s: %s",
			say(l.From, l.Event, l.Verdict, l.To, l.Actions), say(l.From, t.Event, t.Verdict, t.To.State, t.Do), t.Why)
	}
	if t.Verdict == fsm.Refuse {
		return Step{}, fmt.Errorf("%v cannot happen in %v: %s", l.Event, l.From, t.Why)
	}
	s := Step{Line: l, Facts: t.From.Facts, After: t.To.Facts}
	s.Loads = c.keep(l)
	c.seq, c.at = l.Seq, t.To
	return s, nil
}

// keep follows the token through a step, and reports whether the source is asked.
func (c *life) keep(l Line) (loads bool) {
	switch l.Event {
	case fsm.TokenLoaded, fsm.TokenRenewed:
		c.cached = true
	case fsm.Opened:
		c.met = true
	}
	for _, a := range l.Actions {
		switch a {
		case fsm.DropToken, fsm.RefuseToken:
			c.cached = false
		case fsm.ForgetUser:
			c.cached, c.met = false, false
		case fsm.ForgetStranger:
			c.cached = c.cached && c.met
		case fsm.LoadToken:
			loads = !c.cached
		case fsm.Finish:
			c.over = true
		}
	}
	return loads
}

// plain is the event as it was before a fact gave it another name.
func plain(e fsm.Event) fsm.Event {
	for _, q := range qualifiers {
		if q.Becomes == e {
			return q.Event
		}
	}
	return e
}

var qualifiers = fsm.Qualifiers()

// say is a step in a few words.
func say(from fsm.State, e fsm.Event, v fsm.Verdict, to fsm.State, do []fsm.Action) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v -%v-> %v", from, e, to)
	switch v {
	case fsm.Ignore:
		b.WriteString(", ignored")
	case fsm.Refuse:
		b.WriteString(", refused")
	case fsm.Move, fsm.Stay:
		b.WriteString(" /")
		for _, a := range do {
			b.WriteString(" " + a.String())
		}
	}
	return b.String()
}
