package devserver

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/gorilla/websocket"
)

// faults is what is wrong with the server at present. Guarded by Server.mu.
type faults struct {
	refuse     bool
	silent     bool
	mute       chan struct{} // non-nil while HTTP is not answered; closed when that ends
	noHealth   bool
	bareErrors bool
	compress   bool
	slow       time.Duration
	dropAfter  int
	logins     failing[APIError]
	upgrades   failing[Answer]
	requests   failing[Answer]
}

// failing is the outcome of the next n tries; all of them if n is negative.
type failing[T any] struct {
	n int
	T T
}

func (f *failing[T]) take() (T, bool) {
	if f.n == 0 {
		var none T
		return none, false
	}
	if f.n > 0 {
		f.n--
	}
	return f.T, true
}

// Answer is an HTTP answer that a fault puts in the place of the true one.
type Answer struct {
	Status      int           // 200 to 599; 0: the one that goes with Code, or 500
	Code        int           // of an API error body; 0: Body is sent as it stands
	Message     string        // of an API error body; empty: the usual one
	Body        string        // sent instead of an API error
	ContentType string        // of Body; empty: text/plain
	RetryAfter  time.Duration // Retry-After in whole seconds, rounded up; 0: no header
}

func (s *Server) silent() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.faults.silent
}

func (s *Server) compressing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.faults.compress
}

// pause waits as long as Slow says; it reports whether nothing ended the wait.
func (s *Server) pause(gone <-chan struct{}) bool {
	s.mu.Lock()
	d := s.faults.slow
	s.mu.Unlock()
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-gone:
	case <-s.done:
	}
	return false
}

// mayAnswer holds a request back as the faults say; it reports whether the
// request is to be answered at all.
func (s *Server) mayAnswer(r *http.Request) bool {
	s.mu.Lock()
	mute := s.faults.mute
	s.mu.Unlock()
	if mute != nil {
		s.journal.add(Entry{Kind: Refused, Method: r.Method, Path: r.URL.Path, Text: "left without an answer"})
		select {
		case <-mute:
		case <-s.done:
		case <-r.Context().Done():
		}
		return false
	}
	return s.pause(r.Context().Done())
}

func (s *Server) failUpgrade() (Answer, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.faults.upgrades.take()
}

func (s *Server) failHandshake() *APIError {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e, ok := s.faults.logins.take(); ok {
		return e.completed()
	}
	return nil
}

func (s *Server) failRequest() (Answer, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.faults.requests.take()
}

// order records that a fault was ordered.
func (s *Server) order(name, format string, args ...any) {
	s.journal.add(Entry{Kind: Fault, Text: strings.TrimSpace(name + " " + fmt.Sprintf(format, args...))})
}

// set changes the faults under the lock and records it.
func (s *Server) set(change func(f *faults), name, format string, args ...any) {
	s.mu.Lock()
	change(&s.faults)
	s.mu.Unlock()
	s.order(name, format, args...)
}

// RefuseConnections makes the server reset every connection that it accepts, and
// every one on which a request comes. Open sockets stay.
func (s *Server) RefuseConnections(on bool) {
	s.set(func(f *faults) { f.refuse = on }, "refuse", "on=%t", on)
}

// Silence makes every socket dead: it upgrades, but nothing is sent on it, not on
// those that are open either: no hello, no answer, no event, no close frame.
// What was to be sent meanwhile is lost.
func (s *Server) Silence(on bool) {
	s.set(func(f *faults) { f.silent = on }, "silence", "on=%t", on)
}

// SilenceHTTP makes the server take requests, upgrades included, without ever
// answering. When it ends, the connections of those that wait are closed.
func (s *Server) SilenceHTTP(on bool) {
	s.set(func(f *faults) {
		switch {
		case on && f.mute == nil:
			f.mute = make(chan struct{})
		case !on && f.mute != nil:
			close(f.mute)
			f.mute = nil
		}
	}, "silence-http", "on=%t", on)
}

// StopHealth leaves messages and pings of clients without an answer and sends no
// health checks, while events go out as before.
func (s *Server) StopHealth(on bool) {
	s.set(func(f *faults) { f.noHealth = on }, "stop-health", "on=%t", on)
}

// BareErrors selects the envelope of error frames: {"error":{…}} alone, or (off)
// {"type":"connection.error",…,"error":{…}}. The service uses both.
func (s *Server) BareErrors(on bool) {
	s.set(func(f *faults) { f.bareErrors = on }, "bare-errors", "on=%t", on)
}

// Compress makes new sockets use permessage-deflate although the client did not
// offer it.
func (s *Server) Compress(on bool) {
	s.set(func(f *faults) { f.compress = on }, "compress", "on=%t", on)
}

// Slow delays every HTTP answer, an upgrade's included, and every message on a
// socket, one after the other. 0 ends it.
func (s *Server) Slow(d time.Duration) {
	s.set(func(f *faults) { f.slow = d }, "slow", "delay=%s", d)
}

// DropAfter resets every socket, open now or later, once n more messages have
// been sent on it; a hello counts. 0 ends it.
func (s *Server) DropAfter(n int) {
	s.set(func(f *faults) {
		f.dropAfter = max(n, 0)
		for so := range s.sockets {
			so.left = f.dropAfter
		}
	}, "drop-after", "n=%d", n)
}

// DropAll resets every connection without a word.
func (s *Server) DropAll() { s.dropAll(nil) }

func (s *Server) dropAll(keep net.Conn) {
	s.mu.Lock()
	cut := s.cutLocked(keep)
	s.mu.Unlock()
	cut(true)
	s.order("drop-all", "")
}

// CloseAll sends a close frame on every open socket and closes it. Code 0 is
// 1000, and 1005 a frame without code; a code that no frame may carry is sent
// all the same.
func (s *Server) CloseAll(code int, reason string) {
	if code == 0 {
		code = websocket.CloseNormalClosure
	}
	s.order("close-all", "code=%d reason=%q", code, reason)
	s.broadcast("", closing(code, reason))
}

// Kick sends an error frame on every open socket of a user, of everyone for the
// empty id, and closes them with 1000, as the service does. It returns how many
// those were.
func (s *Server) Kick(userID string, e APIError) int {
	s.order("kick", "user=%q code=%d", userID, e.Code)
	return s.broadcast(userID, s.errorFrame("", e.completed()), closing(websocket.CloseNormalClosure, ""))
}

// FailHandshakes refuses the next n logins with an error; all of them if n is
// negative, until it is called with 0.
func (s *Server) FailHandshakes(n int, e APIError) {
	s.set(func(f *faults) { f.logins = failing[APIError]{n, e} }, "fail-handshakes", "n=%d code=%d", n, e.Code)
}

// FailUpgrades gives the next n requests for a socket an HTTP answer instead of
// an upgrade; all of them if n is negative, until it is called with 0.
func (s *Server) FailUpgrades(n int, a Answer) {
	s.set(func(f *faults) { f.upgrades = failing[Answer]{n, a} }, "fail-upgrades", "n=%d status=%d code=%d", n, a.Status, a.Code)
}

// FailRequests gives the next n API requests another answer than the true one
// and does not carry them out; all of them if n is negative, until it is called
// with 0.
func (s *Server) FailRequests(n int, a Answer) {
	s.set(func(f *faults) { f.requests = failing[Answer]{n, a} }, "fail-requests", "n=%d status=%d code=%d", n, a.Status, a.Code)
}

// ExpireTokens makes every token of a user that was issued before now answer 40,
// of everyone for the empty id; with kick, their open sockets are told so and
// closed. Tokens that [Server.Token] mints later are good. Of tokens minted
// elsewhere, those of this second and those without iat count as issued before.
func (s *Server) ExpireTokens(userID string, kick bool) {
	s.mu.Lock()
	c := s.cutoffs[userID]
	c.serial = s.serial
	c.expired = time.Now().Truncate(time.Second).Add(time.Second)
	s.cutoffs[userID] = c
	s.mu.Unlock()
	s.order("expire-tokens", "user=%q kick=%t", userID, kick)
	if kick {
		s.Kick(userID, APIError{Code: 40})
	}
}

// RevokeTokens revokes the tokens of a user, of everyone for the empty id, whose
// iat is before a time, and those without iat. The zero time undoes it. Sockets
// stay open.
func (s *Server) RevokeTokens(userID string, before time.Time) {
	s.revoke(userID, before)
	s.order("revoke-tokens", "user=%q before=%s", userID, stamp(before))
}

func (s *Server) revoke(userID string, before time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.cutoffs[userID]
	c.revoked = before
	s.cutoffs[userID] = c
}

// Garbage sends bytes as they are, in one text or binary message, on every open
// socket of a user, of everyone for the empty id. It returns how many those
// were.
func (s *Server) Garbage(userID string, data []byte, binary bool) int {
	f := textFrame(bytes.Clone(data))
	if binary {
		f.op = websocket.BinaryMessage
	}
	s.order("garbage", "user=%q bytes=%d binary=%t", userID, len(data), binary)
	return s.broadcast(userID, f)
}

// Oversize sends a well-formed event of n bytes, at least the few that the
// smallest takes and at most 256 MiB, on every open socket of a user, of everyone for the empty id. It
// returns how many those were.
func (s *Server) Oversize(userID string, n int) int {
	const head, tail = `{"type":"oversize","padding":"`, `"}`
	data := head + strings.Repeat("x", max(0, min(n, 256<<20)-len(head)-len(tail))) + tail
	s.order("oversize", "user=%q bytes=%d", userID, n)
	return s.broadcast(userID, textFrame([]byte(data)))
}

// Heal ends every fault that stands. Expired and revoked tokens stay so.
func (s *Server) Heal() {
	s.SilenceHTTP(false)
	s.set(func(f *faults) {
		*f = faults{}
		for so := range s.sockets {
			so.left = 0
		}
	}, "heal", "")
}
