// Package recording is the format of what a connection did, and the proof that
// it was allowed to.
//
// A recording has one JSON object a line for each transition:
//
//	{"seq":7,"time":"2026-03-01T09:30:00.25Z","from":"Connected","event":"Dropped","verdict":"move","to":"Connecting",
//	 "actions":["HangUp","Retry"],"cause":"network","attempt":1,"conn":"5f1c09a2be77","table":"9d41e07c33aa","sum":"0b6f2c51"}
//
// (shown in two lines here). Every line says which connection it belongs to and
// by which table that one lives, so connections may share a file, files may be
// joined, and a line needs nothing before it to be understood. There is no token,
// no address, no user and no text from a server in it.
//
// A recording begins with the connection, or, if it comes from a [Tape] that does
// not reach back so far, with a line that says after which transition it begins
// and how things stood then:
//
//	{"after":6,"state":"Connected","facts":"SocketOpen","token":true,"met":true,"conn":"5f1c09a2be77","table":"9d41e07c33aa","sum":"5d20a9c4"}
//
// [Replay] takes a recording through the table of package fsm and names the first
// line that does not fit. Specification: O4.
package recording

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"strconv"
	"sync"
	"time"

	"github.com/chatconn/chatconn/fsm"
	"github.com/chatconn/chatconn/internal/object"
)

// Line is one transition as it is recorded.
type Line struct {
	Seq     uint64       // counts the transitions of a connection, from 1, without gaps
	Time    time.Time    // when it happened, by the wall clock; written in UTC
	From    fsm.State    //
	Event   fsm.Event    // as qualified by the facts
	Verdict fsm.Verdict  //
	To      fsm.State    //
	Actions []fsm.Action // in the order in which they were carried out; shared, do not modify
	Cause   string       // the class of the error behind the event, such as "network" or "api-40"; empty: none
	Attempt int          // the attempt that runs or is next, from 1; zero: none is due
	Conn    string       // the connection, by a random name
	Table   string       // the table by which it lives: [TableHash]

	head *life // not a transition, but where a recording takes a connection up
}

// Append adds the line to b, with its line end, and returns the longer slice. It
// allocates only where b has no room and where Cause or Conn need escaping.
//
// The last field is the CRC-32 (IEEE, in hex) of all that stands before its
// comma: the table cannot notice a changed time or cause, the sum does.
func (l *Line) Append(b []byte) []byte {
	start := len(b)
	b = strconv.AppendUint(append(b, `{"seq":`...), l.Seq, 10)
	b = l.Time.UTC().AppendFormat(append(b, `,"time":"`...), time.RFC3339Nano)
	b = append(append(b, `","from":"`...), l.From.String()...)
	b = append(append(b, `","event":"`...), l.Event.String()...)
	b = append(append(b, `","verdict":"`...), l.Verdict.String()...)
	b = append(append(b, `","to":"`...), l.To.String()...)
	b = append(b, `","actions":[`...)
	for i, a := range l.Actions {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(append(append(b, '"'), a.String()...), '"')
	}
	b = append(b, ']')
	if l.Cause != "" {
		b = object.AppendString(append(b, `,"cause":`...), l.Cause)
	}
	if l.Attempt != 0 {
		b = strconv.AppendInt(append(b, `,"attempt":`...), int64(l.Attempt), 10)
	}
	return appendEnd(b, start, l.Conn, l.Table)
}

// appendEnd ends the line that begins at start.
func appendEnd(b []byte, start int, conn, table string) []byte {
	b = object.AppendString(append(b, `,"conn":`...), conn)
	b = object.AppendString(append(b, `,"table":`...), table)
	sum := sumOf(b[start:])
	b = append(append(b, beforeSum...), sum[:]...)
	return append(b, "\"}\n"...)
}

// append adds the line by which a recording takes a connection up where it
// stands, since what came before is not kept.
func (c *life) append(b []byte, conn string) []byte {
	start := len(b)
	b = fmt.Appendf(b, `{"after":%d,"state":"%v","facts":"%v","token":%t,"met":%t`, c.seq, c.at.State, c.at.Facts, c.cached, c.met)
	return appendEnd(b, start, conn, TableHash())
}

const beforeSum = `,"sum":"`

func sumOf(line []byte) (sum [8]byte) {
	n := crc32.ChecksumIEEE(line)
	hex.Encode(sum[:], []byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
	return sum
}

// parse reads a line. It takes names that the table knows,
// and reports whether the line is as it was written.
func parse(text []byte) (l Line, intact bool, err error) {
	text = bytes.TrimRight(text, "\r\n")
	if l, ok := scan(text); ok {
		return l, true, nil
	}
	return decode(text)
}

// decode reads a line as the JSON that it is.
func decode(text []byte) (l Line, intact bool, err error) {
	var in struct {
		Seq                      uint64
		Time                     time.Time
		From, Event, Verdict, To string
		Actions                  []string
		Cause                    string
		Attempt                  int
		Conn, Table              string

		After        uint64 // the line of a head has these
		State, Facts string
		Token, Met   bool
	}
	if err := json.Unmarshal(text, &in); err != nil {
		return Line{}, false, fmt.Errorf("no line of a recording: %w", err)
	}
	switch {
	case in.Conn == "" || in.Table == "":
		return Line{}, false, errors.New("no line of a recording: it names no connection or no table")
	case in.Table != TableHash():
		return Line{}, false, fmt.Errorf("%w: %q, and this one is %q", ErrOtherTable, in.Table, TableHash())
	}
	intact = isIntact(text)
	if in.After > 0 {
		at := fsm.Position{State: states[in.State]}
		for f := range allFacts + 1 {
			if f.String() == in.Facts {
				at.Facts = f
			}
		}
		if at.State.String() != in.State || at.Facts.String() != in.Facts {
			return Line{}, false, fmt.Errorf("there is no state %q with %q", in.State, in.Facts)
		}
		head := &life{seq: in.After, at: at, cached: in.Token, met: in.Met}
		return Line{Conn: in.Conn, Table: in.Table, head: head}, intact, nil
	}
	l = Line{Seq: in.Seq, Time: in.Time, Cause: in.Cause, Attempt: in.Attempt, Conn: in.Conn, Table: in.Table}
	var known [4]bool
	l.From, known[0] = states[in.From]
	l.Event, known[1] = events[in.Event]
	l.Verdict, known[2] = verdicts[in.Verdict]
	l.To, known[3] = states[in.To]
	for i, name := range []string{in.From, in.Event, in.Verdict, in.To} {
		if !known[i] {
			return Line{}, false, fmt.Errorf("the table has no %s %q", [...]string{"state", "event", "verdict", "state"}[i], name)
		}
	}
	for _, name := range in.Actions {
		a, ok := actions[name]
		if !ok {
			return Line{}, false, fmt.Errorf("the table has no action %q", name)
		}
		l.Actions = append(l.Actions, a)
	}
	return l, intact, nil
}

// isIntact reports whether the sum of a line fits.
func isIntact(text []byte) bool {
	end := len(text) - len(beforeSum) - 8 - len(`"}`)
	if end <= 0 {
		return false
	}
	sum := sumOf(text[:end])
	return bytes.Equal(text[end:], fmt.Appendf(nil, `%s%s"}`, beforeSum, sum[:]))
}

var (
	states   = byName(fsm.States())
	events   = byName(fsm.Events())
	actions  = byName(fsm.Actions())
	verdicts = byName([]fsm.Verdict{fsm.Move, fsm.Stay, fsm.Ignore, fsm.Refuse})
)

const allFacts = fsm.InBackground | fsm.NetworkDown | fsm.SocketOpen

func byName[T fmt.Stringer](all []T) map[string]T {
	m := make(map[string]T, len(all))
	for _, v := range all {
		m[v.String()] = v
	}
	return m
}

// TableHash names the table by which connections live, and what facts do to
// events, in twelve hex digits: tables that decide alike have the same. The
// reasons in words do not count.
func TableHash() string { return tableHash() }

var tableHash = sync.OnceValue(func() string {
	h := sha256.New()
	for _, s := range fsm.States() {
		for _, e := range fsm.Events() {
			step, verdict := fsm.Next(s, e)
			fmt.Fprintln(h, s, e, verdict, step.To, step.Do)
		}
	}
	for f := fsm.Facts(0); f <= allFacts; f++ {
		for _, e := range fsm.Events() {
			facts, event := fsm.Qualify(f, e)
			fmt.Fprintln(h, f, e, facts, event)
		}
	}
	return hex.EncodeToString(h.Sum(nil)[:6])
})
