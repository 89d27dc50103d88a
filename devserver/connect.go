package devserver

import (
	"cmp"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/gorilla/websocket"
)

const (
	writeTimeout = 10 * time.Second // of one frame; a client that is slower is dropped
	closeTimeout = time.Second      // wait for the client's close frame after ours
	queueFrames  = 100_000          // a client that lags further behind is dropped
	queueBytes   = 64 << 20
	maxDetails   = 5 << 10  // user_details, as documented by the service
	maxFrame     = 64 << 10 // of a client's message
	maxIDLength  = 255
)

// socket is one upgraded connection: a reader, which is the goroutine of its
// HTTP request, and a writer, which alone sends messages.
type socket struct {
	s      *Server
	ws     *websocket.Conn
	raw    net.Conn
	userID string        // empty: the login was refused
	id     string        // connection id
	wake   chan struct{} // holds one: the queue has grown
	gone   chan struct{} // closed when the reader has left

	// Guarded by Server.mu.
	queue    []frame
	queued   int        // bytes in queue
	open     bool       // logged in, and no close frame went either way
	left     int        // frames until DropAfter cuts it; 0 is never
	watching []*channel // whose watchers it is among
}

// frame is something for the writer to send.
type frame struct {
	op   int
	data []byte
	code int  // of a close frame
	kind Kind // what to record when it is sent; empty for nothing
}

func textFrame(data []byte) frame { return frame{op: websocket.TextMessage, data: data} }

func closing(code int, reason string) frame {
	for len(reason) > 123 { // a control frame holds 125 bytes
		_, size := utf8.DecodeLastRuneInString(reason)
		reason = reason[:len(reason)-size]
	}
	return frame{op: websocket.CloseMessage, data: []byte(reason), code: code}
}

// login is what a client asks for at /connect.
type login struct {
	UserID  string          `json:"user_id"`
	Details json.RawMessage `json:"user_details"`
	details map[string]json.RawMessage
}

// parseLogin reads the json parameter. Clients differ in what else they put
// there (device, client_request_id, user_token): it is ignored.
func parseLogin(param string) (login, *APIError) {
	var l login
	if err := json.Unmarshal([]byte(param), &l); err != nil {
		return login{}, refuse(4, "the json parameter is missing or not an object")
	}
	if len(l.Details) > maxDetails {
		l.Details = nil // too much for the record, too
		return l, refuse(4, "user_details is larger than 5 KB")
	}
	if len(l.Details) > 0 && json.Unmarshal(l.Details, &l.details) != nil {
		return l, refuse(4, "user_details is not an object")
	}
	if l.UserID == "" {
		json.Unmarshal(l.details["id"], &l.UserID) // a wrong type leaves it empty, which is refused next
	}
	if !validID(l.UserID) {
		return l, refuse(4, "user_id is missing or not valid")
	}
	return l, nil
}

// validID is lenient: the service allows letters, digits and a few signs.
func validID(id string) bool {
	if id == "" || len(id) > maxIDLength || !utf8.ValidString(id) {
		return false
	}
	for _, r := range id {
		if r < ' ' || r == 0x7f {
			return false
		}
	}
	return true
}

var writeBuffers sync.Pool

// connect serves GET /connect. A refusal, too, upgrades first: the service
// tells the reason in a frame and closes with 1000 (protocol 1.5).
func (s *Server) connect(w http.ResponseWriter, r *http.Request, epoch int) {
	id, refusal := s.authenticate(r)
	l, bad := parseLogin(r.URL.Query().Get("json"))
	seen := Entry{Kind: Connect, UserID: cmp.Or(id.userID, l.UserID), Method: r.Method, Path: r.URL.Path, Details: l.Details,
		Auth: id.auth, Token: id.fingerprint, Client: id.client}
	if fault, ok := s.failUpgrade(); ok {
		seen.Kind, seen.Code, seen.Text = Refused, fault.Code, "upgrade"
		seen.Status = fault.write(w)
		s.journal.add(seen)
		return
	}
	if refusal == nil && !id.anonymous {
		if refusal = bad; refusal == nil {
			refusal = id.allow(l.UserID)
		}
		if refusal == nil && id.server {
			refusal = refuse(5, "JWTAuth error: a server token cannot open a socket")
		}
	}
	if fault := s.failHandshake(); fault != nil {
		refusal = fault
	}
	if refusal != nil {
		seen.Code, seen.Status = refusal.Code, refusal.StatusCode
	}
	s.journal.add(seen)

	ws, err := s.upgrade(w, r)
	if err != nil {
		s.journal.add(Entry{Kind: Refused, UserID: seen.UserID, Text: err.Error()})
		return
	}
	so := &socket{
		s: s, ws: ws, raw: ws.NetConn(),
		wake: make(chan struct{}, 1), gone: make(chan struct{}),
	}
	defer so.raw.Close()
	if refusal != nil {
		refusal = refusal.in("Connect")
		s.journal.add(Entry{Kind: Refused, UserID: seen.UserID, Code: refusal.Code, Status: refusal.StatusCode, Text: refusal.Message})
		so.run(s.admit(so, epoch, s.errorFrame("", refusal), closing(websocket.CloseNormalClosure, "")))
		return
	}
	so.userID, so.id = id.userID, newConnectionID()
	if id.anonymous {
		l.details = nil // they share one user
	}
	so.run(s.welcome(so, epoch, l.details))
}

func (s *Server) upgrade(w http.ResponseWriter, r *http.Request) (*websocket.Conn, error) {
	if s.compressing() {
		// A server that compresses unasked: gorilla believes that it was offered.
		r.Header.Set("Sec-WebSocket-Extensions", "permessage-deflate")
	}
	upgrader := websocket.Upgrader{
		ReadBufferSize:    1 << 10,
		WriteBufferSize:   4 << 10,
		WriteBufferPool:   &writeBuffers,
		EnableCompression: true,
		CheckOrigin:       func(*http.Request) bool { return true }, // see serve
		HandshakeTimeout:  writeTimeout,
	}
	return upgrader.Upgrade(w, r, nil)
}

func newConnectionID() string {
	var b [16]byte
	rand.Read(b[:])
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// admit takes in a connection with its first frames. It fails if everything was
// cut since the request came.
func (s *Server) admit(so *socket, epoch int, frames ...frame) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.admitLocked(so, epoch, frames...)
}

func (s *Server) admitLocked(so *socket, epoch int, frames ...frame) bool {
	if s.closed || s.epoch != epoch {
		return false
	}
	s.sockets[so] = struct{}{}
	so.left = s.faults.dropAfter
	so.queue = frames
	return true
}

// welcome logs a user in: it creates them if need be (C4), counts the socket and
// queues the hello before any event can reach it.
func (s *Server) welcome(so *socket, epoch int, details map[string]json.RawMessage) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.admitLocked(so, epoch) {
		return false
	}
	so.open = true
	mine := s.online[so.userID]
	if mine == nil {
		mine = make(map[*socket]struct{})
		s.online[so.userID] = mine
	}
	mine[so] = struct{}{}
	s.peak[so.userID] = max(s.peak[so.userID], len(mine))

	u := s.userLocked(so.userID)
	u.update(details, s.stampLocked())
	u.active = s.last
	so.queue = append(so.queue, frame{op: websocket.TextMessage, kind: Hello, data: encode(object{
		"type": "health.check", "connection_id": so.id, "cid": "*",
		"me": s.ownLocked(u), "created_at": stamp(s.last),
	})})
	return true
}

// shutLocked takes a socket out of those that count as open; it reports whether
// it was.
func (s *Server) shutLocked(so *socket) bool {
	if !so.open {
		return false
	}
	so.open = false
	mine := s.online[so.userID]
	if delete(mine, so); len(mine) == 0 {
		delete(s.online, so.userID)
		s.userLocked(so.userID).active = time.Now().UTC()
	}
	return true
}

func (s *Server) shut(so *socket) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.shutLocked(so)
}

// pushLocked queues frames for sockets, under one lock so that all of them see
// events in the same order. It returns those without room: pass them to drop
// when the lock is gone.
func (s *Server) pushLocked(sockets []*socket, frames ...frame) (slow []*socket) {
	for _, so := range sockets {
		if !so.queueLocked(frames) {
			slow = append(slow, so)
		}
	}
	return slow
}

func (so *socket) queueLocked(frames []frame) bool {
	for _, f := range frames {
		if len(so.queue) >= queueFrames || len(so.queue) > 0 && so.queued+len(f.data) > queueBytes {
			return false
		}
		so.queue = append(so.queue, f)
		so.queued += len(f.data)
	}
	select {
	case so.wake <- struct{}{}:
	default:
	}
	return true
}

// drop cuts clients that do not read what they are sent.
func (s *Server) drop(slow []*socket) {
	for _, so := range slow {
		s.journal.add(Entry{Kind: Refused, UserID: so.userID, ConnectionID: so.id, Text: "client too slow"})
		s.shut(so)
		reset(so.raw)
	}
}

// onlineLocked returns the sockets of a user that count as open; of everyone
// for the empty id.
func (s *Server) onlineLocked(userID string) []*socket {
	var all []*socket
	if userID != "" {
		for so := range s.online[userID] {
			all = append(all, so)
		}
		return all
	}
	for _, sockets := range s.online {
		for so := range sockets {
			all = append(all, so)
		}
	}
	return all
}

// Connections returns how many sockets of a user are open now, of everyone for
// the empty id. One whose close frame came or left is not.
func (s *Server) Connections(userID string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.onlineLocked(userID))
}

// MaxSockets returns the most sockets that a user ever had open at a time.
func (s *Server) MaxSockets(userID string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.peak[userID]
}

// run reads the socket until it ends. Its writer has ended, too, when Close
// returns.
func (so *socket) run(admitted bool) {
	if !admitted {
		reset(so.raw)
		return
	}
	s := so.s
	s.work.Go(so.write)
	err := so.read()
	if _, told := err.(*websocket.CloseError); told && s.silent() {
		io.Copy(io.Discard, so.raw) // the silent do not hang up either
	}
	so.raw.Close()
	close(so.gone)

	s.mu.Lock()
	delete(s.sockets, so)
	s.shutLocked(so)
	for _, ch := range so.watching {
		delete(ch.watchers, so)
	}
	so.queue = nil
	s.mu.Unlock()
	s.journal.add(Entry{Kind: Gone, UserID: so.userID, ConnectionID: so.id})
}

// read takes in what the client sends: any message and any ping is answered
// with a health check, whatever it says (protocol 1.9).
func (so *socket) read() error {
	s, ws := so.s, so.ws
	control := func(op int, data []byte) {
		if !s.silent() {
			ws.WriteControl(op, data, time.Now().Add(closeTimeout))
		}
	}
	ws.SetPingHandler(func(data string) error {
		s.journal.add(Entry{Kind: Ping, UserID: so.userID, ConnectionID: so.id})
		if so.answer() {
			control(websocket.PongMessage, []byte(data))
		}
		return nil
	})
	ws.SetCloseHandler(func(code int, reason string) error {
		s.journal.add(Entry{Kind: Close, By: "client", UserID: so.userID, ConnectionID: so.id, Code: code, Text: reason})
		if s.shut(so) { // else it answers ours
			control(websocket.CloseMessage, websocket.FormatCloseMessage(code, ""))
		}
		return nil
	})
	for {
		_, r, err := ws.NextReader()
		if err != nil {
			return err
		}
		data, err := io.ReadAll(io.LimitReader(r, maxFrame))
		if err != nil {
			return err
		}
		s.journal.add(Entry{Kind: Frame, UserID: so.userID, ConnectionID: so.id, Text: string(data[:min(len(data), 512)])})
		so.answer()
	}
}

// answer sends a health check unless a fault forbids it.
func (so *socket) answer() bool {
	s := so.s
	s.mu.Lock()
	if !so.open || s.faults.silent || s.faults.noHealth {
		s.mu.Unlock()
		return false
	}
	slow := s.pushLocked([]*socket{so}, so.healthLocked())
	s.mu.Unlock()
	s.drop(slow)
	return true
}

func (so *socket) healthLocked() frame {
	return textFrame(encode(object{
		"type": "health.check", "connection_id": so.id, "cid": "*", "created_at": stamp(so.s.stampLocked()),
	}))
}

// write sends what is queued until the socket ends or a close frame has left.
func (so *socket) write() {
	var tick <-chan time.Time
	if d := so.s.opts.HealthCheckInterval; d > 0 {
		ticker := time.NewTicker(d)
		defer ticker.Stop()
		tick = ticker.C
	}
	for {
		f, ok := so.next()
		if !ok {
			select {
			case <-so.wake:
			case <-tick:
				so.answer()
			case <-so.gone:
				return
			}
			continue
		}
		if !so.s.pause(so.gone) {
			return
		}
		if so.s.silent() {
			continue
		}
		if f.op == websocket.CloseMessage {
			so.hangUp(f)
			return
		}
		if f.kind != "" { // before the client can react to it
			so.s.journal.add(Entry{Kind: f.kind, UserID: so.userID, ConnectionID: so.id})
		}
		so.ws.SetWriteDeadline(time.Now().Add(writeTimeout))
		if err := so.ws.WriteMessage(f.op, f.data); err != nil {
			so.raw.Close()
			return
		}
		if so.spent() {
			so.s.journal.add(Entry{Kind: Fault, UserID: so.userID, ConnectionID: so.id, Text: "drop-after: cut"})
			reset(so.raw)
			return
		}
	}
}

func (so *socket) next() (frame, bool) {
	so.s.mu.Lock()
	defer so.s.mu.Unlock()
	if len(so.queue) == 0 {
		so.queue = nil // an idle socket holds no memory for its queue
		return frame{}, false
	}
	f := so.queue[0]
	so.queue[0] = frame{}
	so.queue = so.queue[1:]
	so.queued -= len(f.data)
	return f, true
}

// spent counts a sent frame; it reports whether DropAfter cuts the socket now.
func (so *socket) spent() bool {
	so.s.mu.Lock()
	defer so.s.mu.Unlock()
	if so.left == 0 {
		return false
	}
	so.left--
	return so.left == 0 && so.s.shutLocked(so)
}

// hangUp sends a close frame and gives the client a moment to answer it.
func (so *socket) hangUp(f frame) {
	so.s.shut(so)
	so.s.journal.add(Entry{Kind: Close, By: "server", UserID: so.userID, ConnectionID: so.id, Code: f.code, Text: string(f.data)})
	so.ws.SetReadDeadline(time.Now().Add(closeTimeout))
	so.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(f.code, string(f.data)), time.Now().Add(closeTimeout))
}

// errorFrame is the last text frame of a socket, in one of the two envelopes
// that the service uses (protocol 1.5).
func (s *Server) errorFrame(connectionID string, e *APIError) frame {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.faults.bareErrors {
		return textFrame(encode(object{"error": e}))
	}
	return textFrame(encode(object{
		"type": "connection.error", "connection_id": connectionID, "cid": "*", "created_at": stamp(s.stampLocked()), "error": e,
	}))
}
