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
	// busyRead is what a busy one reads at once: sixteen events of 1 KiB. It is
	// borrowed while bytes are in it or more are sure to be there.
	busyRead = 16 << 10
	// joinBuffer is where a message is put together that comes in fragments or is
	// longer than busyRead. It is borrowed for one message, and grows with it.
	joinBuffer = 32 << 10
	// maxPooledBuffer keeps one long message from occupying the pool for good.
	maxPooledBuffer = 64 << 10
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
type link struct {
	wire  *wire
	frame func(ping bool, data []byte) // hears of every whole frame, on the reading goroutine
	pause func()                       // called before each read of the wire; nil: nothing is

	buf      []byte  // idle[:] or *borrowed; buf[from:to] was read and not taken
	from, to int     //
	full     bool    // the last read filled all it was given: more is there already
	borrowed *[]byte // of busyBuffers
	joined   *[]byte // of joinBuffers, while the message in it is in use
	idle     [idleRead]byte
}

// next reads one message, which is valid until the next call. The first error is
// the last; a closeError is the regular one.
func (l *link) next(most int64) (message []byte, isText bool, err error) {
	l.giveBackJoined()
	kind := byte(opContinuation) // of the message whose fragments come, if any do
	for {
		final, op, length, err := l.header(kind != opContinuation)
		if err != nil {
			return nil, false, err
		}
		if op >= opClose {
			if err := l.control(op, int(length)); err != nil {
				return nil, false, err
			}
			continue
		}
		if op != opContinuation {
			kind = op
		}
		if length > most-int64(l.joinedLen()) {
			return nil, false, errOversize
		}
		if final && l.joined == nil && length <= busyRead {
			if message, err = l.take(int(length)); err != nil {
				return nil, false, err
			}
			l.frame(false, nil)
			return message, kind == opText, nil
		}
		if err := l.join(int(length)); err != nil {
			return nil, false, err
		}
		l.frame(false, nil)
		if final {
			return *l.joined, kind == opText, nil
		}
	}
}

// header reads the header of a frame, inside a message that comes in fragments or not.
func (l *link) header(inside bool) (final bool, op byte, length int64, err error) {
	if err := l.fill(2); err != nil {
		return false, 0, 0, err
	}
	first, second := l.buf[l.from], l.buf[l.from+1]
	final, op = first&finalBit != 0, first&opBits
	length = int64(second & lengthBits)
	isControl := op >= opClose
	switch {
	case first&reservedBits != 0:
		return false, 0, 0, protocolError("a reserved bit is set")
	case op > opBinary && op < opClose || op > opPong:
		return false, 0, 0, protocolError("an unknown opcode")
	case second&maskBit != 0:
		return false, 0, 0, protocolError("a server's frame is masked")
	case inside && (op == opText || op == opBinary):
		return false, 0, 0, protocolError("a message inside another")
	case !inside && op == opContinuation:
		return false, 0, 0, protocolError("a continuation of nothing")
	case isControl && !final:
		return false, 0, 0, protocolError("a control frame in fragments")
	case isControl && length > maxControl:
		return false, 0, 0, protocolError("a long control frame")
	}
	size := 2
	switch length {
	case 126:
		size = 4
	case 127:
		size = 10
	}
	if err := l.fill(size); err != nil {
		return false, 0, 0, err
	}
	switch b := l.buf[l.from+2:]; size {
	case 4:
		length = int64(binary.BigEndian.Uint16(b))
	case 10:
		if length = int64(binary.BigEndian.Uint64(b)); length < 0 {
			return false, 0, 0, protocolError("a length with its top bit set")
		}
	}
	l.from += size
	return final, op, length, nil
}

// control reads the payload of a control frame. The error of a close frame is a
// closeError.
func (l *link) control(op byte, length int) error {
	data, err := l.take(length)
	if err != nil {
		return err
	}
	l.frame(op == opPing, data)
	if op != opClose {
		return nil
	}
	if length == 0 {
		return &closeError{code: noStatus}
	}
	if length == 1 {
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

// take returns the next n bytes, at most busyRead, in the buffer.
func (l *link) take(n int) ([]byte, error) {
	if err := l.fill(n); err != nil {
		return nil, err
	}
	b := l.buf[l.from : l.from+n]
	l.from += n
	return b, nil
}

// join reads n bytes to the end of the joined message. It grows with what came, not
// with what a header promised.
func (l *link) join(n int) error {
	if l.joined == nil {
		l.joined = joinBuffers.Get().(*[]byte)
		*l.joined = (*l.joined)[:0]
	}
	k := min(n, l.to-l.from)
	*l.joined = append(*l.joined, l.buf[l.from:l.from+k]...)
	l.from += k
	for n -= k; n > 0; n -= k {
		b := *l.joined
		if len(b) == cap(b) {
			b = append(b, 0)[:len(b)]
		}
		var err error
		k, err = l.receive(b[len(b):min(cap(b), len(b)+n)])
		*l.joined = b[:len(b)+k]
		if k == 0 && err != nil {
			return err
		}
	}
	return nil
}

func (l *link) joinedLen() int {
	if l.joined == nil {
		return 0
	}
	return len(*l.joined)
}

// fill reads until n bytes, at most busyRead, can be taken.
func (l *link) fill(n int) error {
	for l.to-l.from < n {
		if l.from == l.to {
			l.from, l.to = 0, 0
			if !l.full {
				l.giveBackBusy() // what comes may be long in coming
			}
		}
		if l.borrowed == nil && (l.full || n > idleRead) {
			l.borrowed = busyBuffers.Get().(*[]byte)
			l.to = copy(*l.borrowed, l.buf[l.from:l.to])
			l.buf, l.from = *l.borrowed, 0
		} else if l.from+n > len(l.buf) {
			l.to = copy(l.buf, l.buf[l.from:l.to])
			l.from = 0
		}
		k, err := l.receive(l.buf[l.to:])
		l.full = k == len(l.buf)-l.to
		l.to += k
		if k == 0 && err != nil {
			return err
		}
	}
	return nil
}

// receive reads from the wire. An error that comes with bytes comes again with the
// next read.
func (l *link) receive(p []byte) (int, error) {
	if l.pause != nil {
		l.pause()
	}
	n, err := l.wire.Read(p)
	if err == io.EOF {
		err = &closeError{code: abnormal}
	}
	return n, err
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
	return err
}

// writeClose sends a close frame.
func (l *link) writeClose(code int, deadline time.Time) error {
	return l.write(opClose, binary.BigEndian.AppendUint16(nil, uint16(code)), deadline)
}
