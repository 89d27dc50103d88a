// Package transport opens the WebSocket of the chat service and keeps it honest.
//
// A [Dialer] makes one attempt at a time into a [Socket] or an [Error]. The
// socket reads on its caller's goroutine, sends health checks and finds a peer
// that has gone silent. Text messages come as a [Frame], with the few fields that
// a client sorts by, found without decoding the rest.
//
// The package knows facts and no policy: it does not retry, and what an error
// means is for its reader to say. An idle socket costs one goroutine, the one in
// Serve, one timer and a read buffer.
package transport

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/chatconn/chatconn/internal/object"
)

// Socket is one open connection. All methods are safe for concurrent use; none but
// Serve blocks. It ends once, for the first reason that comes: the peer's, the
// network's, silence, or HangUp.
type Socket struct {
	link   link
	o      *Options // the dialer's
	id     string
	me     json.RawMessage
	redact func(string) string
	began  time.Time // moments below are counted from here, by the monotonic clock

	seen   atomic.Int64 // moment of the last received frame
	asked  atomic.Bool  // a health check is due or was sent, and no frame has come since
	answer bool         // the reader's: one came, and the timer is not set anew yet
	quiet  atomic.Bool  // HangUp was called
	taken  atomic.Bool  // somebody reads: Serve or, without it, the writer that hangs up

	hung, gone chan struct{}
	handler    Handler // Serve's

	// All that is not reading is done by one timer, whose function judges what has
	// taken too long, and by one writer, which lives while there is something to send.
	mu    sync.Mutex // never held over I/O
	timer *time.Timer
	work  int    // the timer, if it is set, its function and the writer
	err   *Error // why the socket ended; nil while it is open
	phase string

	checkAt, probeBy, drainBy, hangBy time.Duration // moments; never if none is set
	writeBy                           time.Duration // when a write is so late that it will not fail any more

	writing           bool // the writer lives
	checkDue, pongDue bool // what it is to send, besides the close frame once hangBy is set
	pong              []byte
	writeErr          error // the first failed write; no check or pong is sent after it
	hungUp            bool  // hung is closed
}

const never = time.Duration(math.MaxInt64)

func newSocket(w *wire, o *Options, redact func(string) string) *Socket {
	s := &Socket{
		o: o, redact: redact, began: time.Now(), phase: "hello",
		hung: make(chan struct{}), gone: make(chan struct{}),
		checkAt: never, probeBy: never, drainBy: never, hangBy: never, writeBy: never,
	}
	s.link.begin(w, s.heard)
	return s
}

// ConnectionID returns the id that the server gave to the connection.
func (s *Socket) ConnectionID() string { return s.id }

// Me returns the server's view of the user as it came with the first health check,
// or nil. The caller must not modify it.
func (s *Socket) Me() json.RawMessage { return s.me }

// Hung is closed once the close frame of HangUp is written or cannot be written,
// at the latest with Gone.
func (s *Socket) Hung() <-chan struct{} { return s.hung }

// Gone is closed when the socket has ended, the raw connection is closed and no
// goroutine or timer is left but the caller's in Serve.
func (s *Socket) Gone() <-chan struct{} { return s.gone }

// Handler is what a served socket calls. Nothing is read while Receive or Pause runs, so
// they must not block: their time counts as the peer's silence. What is nil is not called.
type Handler struct {
	// Receive gets every text frame that is a JSON object, except health checks and
	// error frames. Frames that are anything else prove life and are dropped.
	Receive func(Frame)
	// Pause is called when all that had arrived was received, before the socket waits
	// for more, and when it ends: a receiver may gather frames and hand them on together.
	Pause func()
	// Ended is called once, with why, as soon as the socket has ended. That may be before
	// Serve returns, and then on another goroutine: a connection that the program dialled
	// may hold up whoever reads it, for ever.
	Ended func(*Error)
}

// Serve reads until the socket ends and returns why, always as an *Error. It calls the
// handler on its own goroutine, but for Ended. An error frame ends the socket. Serve is
// called at most once.
func (s *Socket) Serve(h Handler) error {
	s.mu.Lock()
	s.handler = h
	over := s.err
	s.mu.Unlock()
	if over != nil && h.Ended != nil {
		h.Ended(over)
	}
	if s.taken.CompareAndSwap(false, true) {
		s.link.pause = h.Pause
		s.serve(h)
	} else {
		<-s.gone
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

func (s *Socket) serve(h Handler) {
	var why *Error
	defer func() {
		if why == nil {
			why = &Error{Phase: "open", Kind: Network, Err: errGoroutine}
		}
		s.end(why)
	}()
	why = s.read(h.Receive)
	if h.Pause != nil {
		h.Pause()
	}
}

// errGoroutine is the end of a socket whose connection, which a program may have made,
// ended the goroutine that read it.
var errGoroutine = errors.New("the connection ended the goroutine that read it")

// Probe asks the peer for a sign of life: a health check goes out at once, and if
// no frame comes within HealthTimeout less HealthCheckInterval the socket ends as
// Unanswered. If the two do not leave a time, WriteTimeout counts instead.
// Specification: H3.
func (s *Socket) Probe() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil || s.writeErr != nil || s.hangBy != never {
		return
	}
	now := s.now()
	s.ask(now)
	if s.probeBy == never {
		window := s.o.HealthTimeout - s.o.HealthCheckInterval
		if s.o.HealthCheckInterval <= 0 || s.o.HealthTimeout <= 0 || window <= 0 {
			window = s.o.WriteTimeout
		}
		s.probeBy = now + window
	}
	s.armNext()
	s.send()
}

// HangUp says goodbye: it sends a close frame, reads on until the peer's comes and
// closes the raw connection, all within CloseTimeout of the call, whether or not
// Serve runs. No call of receive begins after it; Serve ends as HungUp.
func (s *Socket) HangUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil || s.hangBy != never {
		return
	}
	s.quiet.Store(true)
	s.hangBy = s.now() + s.o.CloseTimeout
	s.armNext()
	s.send()
}

func (s *Socket) now() time.Duration { return time.Since(s.began) }

// alive notes that a frame has come.
func (s *Socket) alive() {
	s.seen.Store(int64(s.now()))
	if s.asked.Load() {
		s.asked.Store(false)
		s.answer = true
	}
}

// ask makes a health check due, and the next one later. The caller holds the lock.
func (s *Socket) ask(now time.Duration) {
	s.checkDue = true
	if !s.asked.Swap(true) {
		s.probeBy = never // that one was answered
	}
	s.setCheck(now)
}

// setCheck sets the time of the next health check. The caller holds the lock.
func (s *Socket) setCheck(now time.Duration) {
	if every := s.o.HealthCheckInterval; every > 0 {
		s.checkAt = now + every
		if s.o.Together {
			s.checkAt -= early(s.began.Add(s.checkAt), every)
		}
	}
}

// answered sets the timer anew after a sign of life that was asked for: it would find
// at the moment of the silence that there was none. The reader calls it where it stands
// on few frames of its stack.
func (s *Socket) answered() {
	s.answer = false
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.armNext()
	}
}

// heard takes a frame of any kind as a sign of life. It runs on the reading
// goroutine and leaves the answer to a ping to a writer: a stuck writer must not
// stall reading. Of pings that come faster than they can be answered the last is
// answered, as RFC 6455 allows.
func (s *Socket) heard(ping bool, data []byte) {
	s.alive()
	if !ping {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.pong, s.pongDue = append(s.pong[:0], data...), true
		s.send()
	}
}

// hello waits for the health check that opens the socket.
func (s *Socket) hello() *Error {
	for s.id == "" {
		message, isText, err := s.link.next(s.o.MaxMessageBytes)
		if err != nil {
			return s.fault(err)
		}
		var e envelope
		if !isText || !e.parse(message) {
			continue
		}
		switch kind := object.Text(e.typ); {
		case e.isError(kind):
			return s.told(&e, message)
		case string(kind) == healthCheck:
			s.welcome(message)
		}
	}
	if len(s.id) > maxConnectionID {
		return &Error{Phase: "hello", Kind: Malformed, Err: errLongID}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil { // a pong could not be written, and the time to read on is over
		return s.err
	}
	s.phase = "open"
	now := s.now()
	s.seen.Store(int64(now))
	if s.o.Together {
		joinOthers()
	}
	s.setCheck(now)
	s.armNext()
	return nil
}

// welcome takes connection id and user from a health check, if they are there.
func (s *Socket) welcome(message []byte) {
	var id, me []byte
	object.Members(message, func(key, value []byte) {
		switch string(key) {
		case "connection_id":
			id = value
		case "me":
			me = value
		}
	})
	if s.id = string(object.Text(id)); s.id != "" && len(me) > 0 && me[0] == '{' && json.Valid(me) {
		s.me = bytes.Clone(me)
	}
}

// read reads until the socket ends and returns why.
func (s *Socket) read(receive func(Frame)) *Error {
	defer s.link.giveBack()
	for {
		message, isText, err := s.link.next(s.o.MaxMessageBytes)
		if err != nil {
			s.farewell(err)
			return s.fault(err)
		}
		if s.answer {
			s.answered()
		}
		if isText && !s.quiet.Load() {
			if failure := s.take(message, receive); failure != nil {
				return failure
			}
		}
	}
}

// farewell answers the peer's close frame, or the violation of the protocol, with
// one. It runs on the reading goroutine. A writer that is busy, or has said goodbye, spares
// the answer: the connection ends anyway.
func (s *Socket) farewell(err error) {
	var (
		closing  *closeError
		violated protocolError
		code     int
	)
	switch {
	case errors.As(err, &closing) && closing.code == noStatus:
		code = closeNormal
	case errors.As(err, &closing) && closing.code != abnormal:
		code = closing.code
	case errors.As(err, &violated):
		code = closeProtocol
	default:
		return
	}
	s.mu.Lock()
	free := !s.writing && s.hangBy == never && s.err == nil && s.writeErr == nil
	s.writing = s.writing || free // for good: the socket ends
	s.mu.Unlock()
	if free {
		_ = s.link.writeClose(code, time.Now().Add(s.o.CloseTimeout))
	}
}

func (s *Socket) take(message []byte, receive func(Frame)) *Error {
	var e envelope
	if !e.parse(message) {
		return nil
	}
	switch kind := object.Text(e.typ); {
	case e.isError(kind):
		return s.told(&e, message)
	case string(kind) != healthCheck && receive != nil:
		e.deliver(message, receive)
	}
	return nil
}

// deliver is not part of take, whose stack a health check needs as well: an idle
// connection's need not grow for frames that it does not get.
//
//go:noinline
func (e *envelope) deliver(message []byte, receive func(Frame)) { receive(e.frame(message)) }

const healthCheck = "health.check"

// isError reports whether a message of the given type is an error frame, in either
// envelope: of the type "connection.error", or an error without a type. A type of
// its own makes any other message an event, which a user may have given an error
// field.
func (e *envelope) isError(kind []byte) bool {
	return string(kind) == "connection.error" || len(kind) == 0 && e.err != nil && string(e.err) != "null"
}

// told is the end by an error frame.
func (s *Socket) told(e *envelope, message []byte) *Error {
	failure := &Error{Phase: s.phase, Kind: Told}
	if failure.Refusal, _ = ParseRefusal(e.err); failure.Refusal != nil {
		failure.Refusal.Message = excerpt([]byte(failure.Refusal.Message), s.redact)
	} else {
		failure.Body = excerpt(message, s.redact)
	}
	return failure
}

// fault is the end by an error of reading.
func (s *Socket) fault(err error) *Error {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := &Error{Phase: s.phase}
	code, reason := 0, ""
	var closing *closeError
	if errors.As(err, &closing) {
		code, reason = closing.code, closing.reason
	}
	switch {
	case s.writeErr != nil && (code == abnormal || code == 0 && s.link.wire.failed != nil):
		e.Kind, e.Err = Network, s.writeErr
	case code == abnormal:
		e.Kind, e.CloseCode, e.Err = Closed, code, io.ErrUnexpectedEOF
	case code != 0:
		e.Kind, e.CloseCode, e.Body = Closed, code, excerpt([]byte(reason), s.redact)
	case err == errOversize:
		e.Kind, e.Err = Oversize, err
	case s.link.wire.failed != nil:
		e.Kind, e.Err = kindOf(err, Network), err
	default:
		e.Kind, e.Err = Malformed, err
	}
	return e
}

// end ends the socket, unless it has ended. After HangUp no other reason counts.
func (s *Socket) end(why *Error) {
	s.mu.Lock()
	if s.err != nil {
		s.mu.Unlock()
		return
	}
	if s.hangBy != never {
		why = &Error{Phase: s.phase, Kind: HungUp}
	}
	s.err = why
	if s.o.Together && s.phase == "open" {
		leaveOthers()
	}
	if s.timer != nil && s.timer.Stop() {
		s.work--
	}
	s.work++
	ended := s.handler.Ended
	s.mu.Unlock()
	defer s.leave() // even if a connection that the program dialled ends the goroutine
	if ended != nil {
		ended(why)
	}
	_ = s.link.wire.raw.Close()
}

// leave counts one piece of work as done. After the end no work begins, so the
// last one closes the door.
func (s *Socket) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.work--; s.work == 0 && s.err != nil {
		s.hangs()
		close(s.gone)
	}
}

// hangs closes hung. The caller holds the lock.
func (s *Socket) hangs() {
	if !s.hungUp {
		s.hungUp = true
		close(s.hung)
	}
}

// arm sets the timer. The caller holds the lock and knows that the socket is open.
func (s *Socket) arm(d time.Duration) {
	if s.timer == nil {
		s.timer = time.AfterFunc(d, s.tick)
		s.work++
	} else if !s.timer.Reset(d) {
		s.work++ // it had run or was stopped; else it runs once, and was counted
	}
}

// armNext sets the timer to the next moment at which something is due, if any is.
// It and overdue look at the same moments: one that only armNext knew would make
// the timer spin.
func (s *Socket) armNext() {
	var next time.Duration
	switch {
	case s.hangBy != never:
		next = s.hangBy
	case s.drainBy != never:
		next = s.drainBy
	default:
		next = min(s.checkAt, s.silentAt())
		if s.asked.Load() {
			next = min(next, s.probeBy)
		}
	}
	if next != never {
		s.arm(max(next-s.now(), 0))
	}
}

// silentAt returns when the socket ends if no frame comes.
func (s *Socket) silentAt() time.Duration {
	if s.o.HealthTimeout <= 0 || s.phase != "open" {
		return never
	}
	return time.Duration(s.seen.Load()) + s.o.HealthTimeout
}

// tick is the timer's function. It has a goroutine of its own, which becomes the
// writer if a health check is due and there is none.
func (s *Socket) tick() {
	defer s.leave()
	switch why, writer := s.judge(); {
	case why != nil:
		s.end(why)
	case writer:
		s.write()
	}
}

// judge tells why the socket must end, if something has taken too long. Else it sets the
// timer again, and reports whether the caller is the writer now.
func (s *Socket) judge() (why *Error, writer bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return nil, false
	}
	if why := s.overdue(); why != nil {
		return why, false
	}
	if now := s.now(); now >= s.checkAt {
		s.ask(now)
		writer = s.claim()
	}
	s.armNext()
	return nil, writer
}

// errNoWriter is the end of a socket whose connection, which a program may have made, holds
// up the goroutine that writes, deadline or not, or ended it.
var errNoWriter = errors.New("the connection holds up the goroutine that writes, or ended it")

// overdue tells what has taken too long, if anything has. The caller holds the lock.
func (s *Socket) overdue() *Error {
	now, e := s.now(), &Error{Phase: s.phase}
	switch {
	case s.hangBy != never:
		if now < s.hangBy {
			return nil
		}
		e.Kind = HungUp
	case s.drainBy != never:
		if now < s.drainBy {
			return nil
		}
		e.Kind, e.Err = Network, s.writeErr
	case s.asked.Load() && now >= s.probeBy:
		e.Kind = Unanswered
	case now >= s.silentAt():
		e.Kind = Silent
	case now >= s.writeBy: // no timer waits for that: the next health check's finds it
		e.Kind, e.Err = Network, errNoWriter
	default:
		return nil
	}
	return e
}

// send has what is due written, by a writer under way or a new one. The caller
// holds the lock and knows that the socket is open.
func (s *Socket) send() {
	if s.claim() {
		go s.write()
	}
}

// claim reports whether there was no writer: now it is the caller, who must call write.
func (s *Socket) claim() bool {
	if s.writing {
		return false
	}
	s.writing = true
	s.work++
	return true
}

// write is the writer.
func (s *Socket) write() {
	defer s.leave()
	for {
		op, payload, deadline := s.due()
		switch op {
		case opContinuation:
			return
		case opClose:
			_ = s.link.writeClose(closeNormal, deadline)
			s.mu.Lock()
			s.hangs()
			s.mu.Unlock()
			if s.taken.CompareAndSwap(false, true) {
				s.end(s.read(nil)) // nobody else reads on
			}
			return // still as the writer: nothing follows a close frame
		}
		if err := s.link.write(op, payload, deadline); err != nil {
			s.failed(err)
		}
	}
}

// due returns the next frame for the writer; opContinuation: there is none, and the
// caller is not the writer any more.
func (s *Socket) due() (op byte, payload []byte, deadline time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	by := s.now() + s.o.WriteTimeout
	deadline, s.writeBy = s.began.Add(by), by+s.o.CloseTimeout
	switch {
	case s.err != nil:
		return opContinuation, nil, deadline
	case s.hangBy != never:
		return opClose, nil, s.began.Add(s.hangBy)
	case s.pongDue && s.writeErr == nil:
		payload, s.pong, s.pongDue = s.pong, nil, false
		return opPong, payload, deadline
	case s.checkDue && s.writeErr == nil:
		s.checkDue = false
		return opText, s.check(), deadline
	}
	s.writing, s.writeBy = false, never
	return opContinuation, nil, deadline
}

// failed takes a failed write. The peer may have said why before it stopped reading:
// reading goes on for a while.
func (s *Socket) failed(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil && s.hangBy == never {
		s.writeErr = fmt.Errorf("write: %w", err)
		s.drainBy = s.now() + s.o.CloseTimeout
		s.armNext()
	}
}

// check is the health check that the client sends.
func (s *Socket) check() []byte {
	b := append(make([]byte, 0, 128), `{"type":"`+healthCheck+`","client_id":`...)
	return append(object.AppendString(b, s.id), '}')
}
