package transport

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
	"unicode/utf8"
)

// The frames of RFC 6455, as a client reads and writes them. A message is read in
// the buffer into which the network wrote it, without a reader in between, and an
// idle connection keeps next to nothing: that is why this is not left to gorilla.

const (
	opContinuation = 0x0
	opText         = 0x1
	opBinary       = 0x2
	opClose        = 0x8 // this and those above are control frames
	opPing         = 0x9
	opPong         = 0xa

	finalBit, reservedBits, opBits = 0x80, 0x70, 0x0f // of the first byte
	maskBit, lengthBits            = 0x80, 0x7f       // of the second

	maxControl = 125 // bytes of a control frame's payload

	closeNormal, closeProtocol = 1000, 1002
	noStatus, abnormal         = 1005, 1006 // never on the wire
)

const (
	// idleRead is what an idle connection keeps for reading, which counts ten
	// thousand times. A health check fits.
	idleRead = 256
	// busyRead is what a busy one reads at once: some sixty events of 1 KiB. It is
	// borrowed while bytes are in it or more are sure to be there.
	busyRead = 64 << 10
	// joinBuffer is where a message is put together that comes in fragments or is
	// longer than busyRead. It is borrowed for one message, and grows with it.
	joinBuffer = 64 << 10
	// maxPooledBuffer keeps one long message from occupying the pool for good.
	maxPooledBuffer = 128 << 10
	// emptyReads in a row, which io.Reader discourages, are an error: the program's
	// connection would keep a processor busy.
	emptyReads = 100
)

var (
	errOversize = errors.New("longer than MaxMessageBytes")

	busyBuffers = sync.Pool{New: func() any { b := make([]byte, busyRead); return &b }}
	joinBuffers = sync.Pool{New: func() any { b := make([]byte, 0, joinBuffer); return &b }}
)

// closeError is the end by a close frame, or by the stream's end without one.
type closeError struct {
	code   int
	reason string
}

func (e *closeError) Error() string { return fmt.Sprintf("closed with code %d", e.code) }

// protocolError is a violation of RFC 6455.
type protocolError string

func (e protocolError) Error() string { return "no WebSocket frame: " + string(e) }

// link is a WebSocket connection. One goroutine at a time may read and one may write.
//
// Reading alternates between more, which reads once, and decode, which takes what is
// there. So a goroutine that waits for bytes stands on few frames of its stack, and
// an idle connection's stack need not grow.
type link struct {
	wire  *wire
	frame func(ping bool, data []byte) // hears of every ping and of the first whole frame after each read, on the reading goroutine
	pause func()                       // called before each read; nil: nothing is

	buf      []byte  // idle[:] or *borrowed; buf[from:to] was read and not taken
	from, to int     //
	want     int     // bytes from there on that decode needs in one piece
	full     bool    // the last read filled all it was given: more is there already
	fresh    bool    // no frame has become whole since the last read
	borrowed *[]byte // of busyBuffers

	kind   byte    // of the message that is put together; opContinuation: none is
	joined *[]byte // that message, or the one returned last; of joinBuffers
	inside bool    // a fragment of it is being read
	left   int64   // bytes of that fragment that are still to come
	final  bool    // it is the last one

	idle [idleRead]byte
}

// begin starts with the bytes that came with the answer to the upgrade.
func (l *link) begin(w *wire, frame func(ping bool, data []byte)) {
	l.wire, l.frame, l.buf = w, frame, l.idle[:]
	if len(w.early) > idleRead {
		l.borrow()
	}
	l.to = copy(l.buf, w.early)
	l.fresh = true
	w.early = nil
}

// next reads one message, which is valid until the next call. The first error is
// the last; a closeError is the regular one.
func (l *link) next(most int64) (message []byte, isText bool, err error) {
	for {
		message, kind, err := l.decode(most)
		if kind != opContinuation || err != nil {
			return message, kind == opText, err
		}
		if err := l.more(); err != nil {
			return nil, false, err
		}
	}
}

// decode takes frames until a message is whole, and returns it with its kind. Without
// a kind it wants more bytes.
func (l *link) decode(most int64) (message []byte, kind byte, err error) {
	if l.kind == opContinuation {
		l.giveBackJoined()
	}
	for {
		if l.inside {
			if !l.join() {
				return nil, opContinuation, nil
			}
			l.whole(false, nil)
			if l.final {
				kind, l.kind = l.kind, opContinuation
				return *l.joined, kind, nil
			}
		}
		final, op, size, length, err := l.header()
		if err != nil || size == 0 {
			return nil, opContinuation, err
		}
		if op < opClose {
			if length > most-int64(l.joinedLen()) {
				return nil, opContinuation, errOversize
			}
			if !final || op == opContinuation || length > int64(busyRead-size) {
				if op != opContinuation {
					l.kind = op
				}
				l.from += size
				l.inside, l.left, l.final = true, length, final
				continue
			}
		}
		if l.want = size + int(length); l.to-l.from < l.want {
			return nil, opContinuation, nil
		}
		data := l.buf[l.from+size : l.from+l.want]
		l.from += l.want
		l.whole(op == opPing, data)
		switch {
		case op < opClose:
			return data, op, nil
		case op == opClose:
			return nil, opContinuation, closed(data)
		}
	}
}

// whole tells of a whole frame. Those that came together are one sign of life: reading
// the clock for each would cost more than finding it.
func (l *link) whole(ping bool, data []byte) {
	if l.fresh || ping {
		l.fresh = false
		l.frame(ping, data)
	}
}

// header reads the header of a frame, without taking it. A size of 0 means that it
// wants more bytes.
func (l *link) header() (final bool, op byte, size int, length int64, err error) {
	b := l.buf[l.from:l.to]
	if l.want = 2; len(b) < l.want {
		return false, 0, 0, 0, nil
	}
	first, second := b[0], b[1]
	final, op = first&finalBit != 0, first&opBits
	length = int64(second & lengthBits)
	isControl, joining := op >= opClose, l.kind != opContinuation
	switch {
	case first&reservedBits != 0:
		err = protocolError("a reserved bit is set")
	case op > opBinary && op < opClose || op > opPong:
		err = protocolError("an unknown opcode")
	case second&maskBit != 0:
		err = protocolError("a server's frame is masked")
	case joining && (op == opText || op == opBinary):
		err = protocolError("a message inside another")
	case !joining && op == opContinuation:
		err = protocolError("a continuation of nothing")
	case isControl && !final:
		err = protocolError("a control frame in fragments")
	case isControl && length > maxControl:
		err = protocolError("a long control frame")
	}
	if err != nil {
		return false, 0, 0, 0, err
	}
	switch length {
	case 126:
		l.want = 4
	case 127:
		l.want = 10
	}
	if len(b) < l.want {
		return false, 0, 0, 0, nil
	}
	switch l.want {
	case 4:
		length = int64(binary.BigEndian.Uint16(b[2:]))
	case 10:
		if length = int64(binary.BigEndian.Uint64(b[2:])); length < 0 {
			return false, 0, 0, 0, protocolError("a length with its top bit set")
		}
	}
	return final, op, l.want, length, nil
}

// closed returns what the payload of a close frame says.
func closed(data []byte) error {
	switch len(data) {
	case 0:
		return &closeError{code: noStatus}
	case 1:
		return protocolError("a close code of one byte")
	}
	code, reason := int(binary.BigEndian.Uint16(data)), data[2:]
	// RFC 6455, section 7.4, and the registry of IANA.
	if valid := code >= 1000 && code <= 1014 && code != 1004 && code != noStatus && code != abnormal || code >= 3000 && code <= 4999; !valid {
		return protocolError("an invalid close code")
	}
	if !utf8.Valid(reason) {
		return protocolError("a close reason that is not UTF-8")
	}
	return &closeError{code, string(reason)}
}

// join moves what there is of a fragment to its message, and reports whether it is
// whole. The message grows with what came, not with what a header promised.
func (l *link) join() bool {
	if l.joined == nil {
		l.joined = joinBuffers.Get().(*[]byte)
		*l.joined = (*l.joined)[:0]
	}
	n := int(min(l.left, int64(l.to-l.from)))
	*l.joined = append(*l.joined, l.buf[l.from:l.from+n]...)
	l.from += n
	l.left -= int64(n)
	l.inside = l.left > 0
	l.want = 1
	return !l.inside
}

func (l *link) joinedLen() int {
	if l.joined == nil {
		return 0
	}
	return len(*l.joined)
}

// more reads once, or until something comes. An error that comes with bytes comes again with the next read.
func (l *link) more() error {
	if l.from == l.to {
		l.from, l.to = 0, 0
		if !l.full {
			l.giveBackBusy() // what comes may be long in coming
		}
	}
	if l.borrowed == nil && (l.full || l.want > idleRead) {
		l.borrow()
	} else if l.from+l.want > len(l.buf) {
		l.to = copy(l.buf, l.buf[l.from:l.to])
		l.from = 0
	}
	if l.pause != nil {
		l.pause()
	}
	var n int
	var err error
	for range emptyReads {
		if n, err = l.wire.Conn.Read(l.buf[l.to:]); n != 0 || err != nil {
			break
		}
		err = io.ErrNoProgress
	}
	l.full = n == len(l.buf)-l.to
	l.to += n
	if n > 0 || err == nil {
		l.fresh = true
		return nil
	}
	l.wire.failed = err
	if err == io.EOF {
		return &closeError{code: abnormal}
	}
	return err
}

// borrow changes to a busy connection's buffer.
func (l *link) borrow() {
	l.borrowed = busyBuffers.Get().(*[]byte)
	l.to = copy(*l.borrowed, l.buf[l.from:l.to])
	l.buf, l.from = *l.borrowed, 0
}

func (l *link) giveBackBusy() {
	if l.borrowed != nil {
		busyBuffers.Put(l.borrowed)
		l.borrowed = nil
	}
	l.buf = l.idle[:]
}

func (l *link) giveBackJoined() {
	if l.joined != nil && cap(*l.joined) <= maxPooledBuffer {
		joinBuffers.Put(l.joined)
	}
	l.joined = nil
}

// giveBack ends reading.
func (l *link) giveBack() {
	l.from, l.to = 0, 0
	l.giveBackBusy()
	l.giveBackJoined()
}

// write sends one frame. Without a deadline, a write to a peer that has stopped
// reading would never end.
func (l *link) write(op byte, payload []byte, deadline time.Time) error {
	frame := make([]byte, 2, 2+8+4+maxControl)
	frame[0] = finalBit | op
	switch n := len(payload); {
	case n <= maxControl:
		frame[1] = maskBit | byte(n)
	case n <= 0xffff:
		frame[1] = maskBit | 126
		frame = binary.BigEndian.AppendUint16(frame, uint16(n))
	default:
		frame[1] = maskBit | 127
		frame = binary.BigEndian.AppendUint64(frame, uint64(n))
	}
	var mask [4]byte
	_, _ = rand.Read(mask[:]) // it never fails
	frame = append(frame, mask[:]...)
	start := len(frame)
	frame = append(frame, payload...)
	for i := range payload {
		frame[start+i] ^= mask[i%4]
	}
	if err := l.wire.SetWriteDeadline(deadline); err != nil {
		return err
	}
	_, err := l.wire.Write(frame)
	if err == nil {
		_ = l.wire.SetWriteDeadline(time.Time{}) // else its timer wakes the process for nothing
	}
	return err
}

// writeClose sends a close frame.
func (l *link) writeClose(code int, deadline time.Time) error {
	return l.write(opClose, binary.BigEndian.AppendUint16(nil, uint16(code)), deadline)
}
