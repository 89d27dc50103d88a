// Package chatconn keeps a chat user connected.
//
// A [Conn] is the connection of one user at a time to a chat service that
// authenticates with JSON Web Tokens over a WebSocket and an HTTP API. One
// declared table (package fsm) says what every call, lifecycle news, network
// news, token and error does in each of five states: Offline, Connecting,
// Connected, Refreshing and Paused. The picture of it is diagrams/generated/chatconn.svg.
//
//	conn, err := chatconn.New(chatconn.Config{APIKey: key})
//	session, err := conn.ConnectUser(ctx, chatconn.User{ID: "john"}, tokens.Func(load))
//
// Three nouns: a user is set by ConnectUser and forgotten by Disconnect; a
// session is one open socket of that user; a change is one transition of the
// state, which Watch tells of.
//
// All methods may be called from any goroutine, also from inside a token source,
// a logger or a loop over Watch or Events. Calls that wait take a context. Whoever
// owns a connection for a moment never runs the program's own code, so a slow or
// stuck callback delays nothing but itself.
//
// Limits: the connection reports what it sees, it does not store messages; an
// event that is sent while no socket is open is not delivered later; a token
// source that ignores its context keeps its goroutine until it returns.
package chatconn

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/chatconn/chatconn/fsm"
	"github.com/chatconn/chatconn/internal/object"
	"github.com/chatconn/chatconn/tokens"
	"github.com/chatconn/chatconn/transport"
)

// Version is the version of this module, as the service sees it.
const Version = "0.1.0"

// Persistence says what Disconnect does with stored data.
type Persistence uint8

const (
	KeepPersistence  Persistence = iota // leave it for the next time
	FlushPersistence                    // clear it, as on logout
)

// Conn keeps one user connected. Make one with New; end it with Close. All
// methods are safe for concurrent use.
type Conn struct {
	cfg     Config
	base    *url.URL
	machine *fsm.Machine // shared by all Conns
	dialer  *transport.Dialer
	hub     hub
	side    lane
	count   counters
	view    atomic.Pointer[view] // what the owner last published

	requests   atomic.Pointer[roundTripper] // nil until HTTPClient is called
	places     places                       // where the program's code runs now
	closedDown chan struct{}                // closed when Close has waited for everything

	mu     sync.Mutex // guards the inbox, and is never held for longer than that
	inbox  []*note
	owned  bool // an owner runs
	closed bool // nothing is accepted any more

	owner // belongs to the goroutine that owns the inbox; see owner.go
}

// view is an immutable picture of the owner's state for everybody else.
type view struct {
	state     fsm.State
	login     *login // nil: no user is set
	user      *User  // of login
	session   *session
	token     tokens.Token // zero: none at hand
	opened    time.Time
	attempt   int
	retryAt   time.Time
	lastError error
}

type counters struct {
	attempts, reconnects, loads, replays, lateDrops, missed, bugs atomic.Uint64
	unreplayable                                                  atomic.Uint64
	waiting                                                       atomic.Int64
}

// Stats are counters of one Conn, from New on, and what holds now.
type Stats struct {
	State        fsm.State
	Attempts     uint64    // attempts that came to a dial; one that is begun anew counts once
	Reconnects   uint64    // sockets opened after a user's first
	Loads        uint64    // calls of token sources
	Replays      uint64    // API requests sent a second time with a fresh token
	Unreplayable uint64    // API requests refused with their token whose body could not be sent again
	LateDrops    uint64    // news of abandoned work, ignored
	MissedEvents uint64    // events that readers were too slow for, all readers together
	Bugs         uint64    // events that the table refuses; zero, or this package is wrong
	Waiting      int       // API requests that wait for a token
	ConnectedAt  time.Time // when the open socket opened; zero: none is open
	Attempt      int       // the attempt that runs, is next, or made this connection, from 1; zero: none
	RetryAt      time.Time // when it begins; zero: it runs, or none is due
	LastError    error     // the last error of an attempt or a socket
}

var shared = sync.OnceValues(func() (*fsm.Machine, error) { return fsm.New(fsm.Declared()) })

// New checks the configuration and returns a Conn that is Offline. It starts
// nothing. The error is an *InvalidError, or wraps ErrInsecure.
func New(cfg Config) (*Conn, error) {
	base, err := cfg.complete()
	if err != nil {
		return nil, err
	}
	machine, err := shared()
	if err != nil {
		return nil, err
	}
	c := &Conn{cfg: cfg, base: base, machine: machine, closedDown: make(chan struct{})}
	if cfg.DialContext != nil {
		c.cfg.DialContext = dialer(cfg.DialContext).contained()
	}
	c.dialer, err = transport.NewDialer(transport.Options{
		BaseURL: base.String(), APIKey: cfg.APIKey, Client: clientName,
		DialContext: c.cfg.DialContext, TLS: c.containTLS(guard), Proxy: cfg.Proxy,
		MaxMessageBytes: cfg.MaxMessageBytes, WriteTimeout: cfg.WriteTimeout, CloseTimeout: cfg.CloseTimeout,
		HealthCheckInterval: cfg.HealthCheckInterval, HealthTimeout: cfg.HealthTimeout,
		// Virtual time takes a network of its own, and what happens in it must not depend
		// on which tests run beside it.
		Together: cfg.DialContext == nil,
	})
	if err != nil {
		return nil, &InvalidError{"Config", err.Error()}
	}
	c.pace.cfg = &c.cfg
	c.hub.lost = func(n int) { c.count.missed.Add(uint64(n)) }
	c.hub.last = Change{At: time.Now()}
	c.view.Store(&view{})
	return c, nil
}

// ConnectUser sets the user and waits until they are Connected. It returns the
// session, or a final error (*APIError, ErrTokenExpired, ErrTokenInvalid,
// ErrTokenUserMismatch, ErrRetriesSpent, what the source calls permanent), or
// the context's error around the last cause. Transient failures are retried
// until the context ends. A user whose first connect fails is not set any more.
//
// The same user may be connected again at any time: the running attempt or the
// session is shared. Another user is refused with ErrUserAlreadySet. In the
// background or without network the call waits for both to come back.
// Specification: C1 to C4, C10.
func (c *Conn) ConnectUser(ctx context.Context, user User, source tokens.Source) (Session, error) {
	return c.connect(ctx, user, source, false)
}

// SwitchUser disconnects the present user, keeping what is stored, and connects
// another as ConnectUser does. Nothing of the first user is delivered once it
// has begun. If it fails, no user is set. Arguments that cannot be used change
// nothing. Specification: C8.
func (c *Conn) SwitchUser(ctx context.Context, user User, source tokens.Source) (Session, error) {
	return c.connect(ctx, user, source, true)
}

func (c *Conn) connect(ctx context.Context, user User, source tokens.Source, replace bool) (Session, error) {
	details, err := checkUser(user)
	if err != nil {
		return Session{}, err
	}
	if source == nil {
		return Session{}, &InvalidError{"source", "is nil"}
	}
	k := c.connectCall(user, details, source)
	k.replace = replace
	return c.wait(ctx, k)
}

func (c *Conn) connectCall(user User, details json.RawMessage, source tokens.Source) *call {
	user.Extra = maps.Clone(user.Extra)
	return &call{verb: fsm.Connect, user: user, details: details, source: source}
}

// ReconnectSocket opens the socket of the current user again after
// DisconnectSocket or a final error, and waits until Connected. Already
// connecting or connected, it ends a wait between attempts and waits for the
// session. Without a user: ErrNoUser. Specification: C6.
func (c *Conn) ReconnectSocket(ctx context.Context) (Session, error) {
	return c.wait(ctx, &call{verb: fsm.ReconnectSocket})
}

// wait makes a call that is answered with a session.
func (c *Conn) wait(ctx context.Context, k *call) (Session, error) {
	if ctx == nil {
		return Session{}, errNilContext
	}
	if err := ctx.Err(); err != nil {
		return Session{}, err
	}
	if c.inside(ctx).wouldWait(k, c.view.Load()) {
		return Session{}, ErrReentrant
	}
	k.answer = make(chan result, 1)
	if !c.post(&note{call: k}) {
		return Session{}, ErrClosed
	}
	leave := func() { c.post(&note{call: k, leave: ctx.Err()}) } // if the Conn closed meanwhile, the answer is there
	if k.attempt != nil {
		stop := context.AfterFunc(ctx, leave)
		k.attempt()
		stop()
	}
	select {
	case r := <-k.answer:
		return r.session.public(), r.err
	case <-ctx.Done():
	}
	leave()
	r := <-k.answer
	return r.session.public(), r.err
}

// DisconnectSocket closes the socket and stays Offline until ReconnectSocket or
// ConnectUser: lifecycle and network news do not reconnect. The user stays set,
// the cached token is dropped. It waits for the peer's close frame, at most
// CloseTimeout; the context ends only that wait. Specification: C5.
func (c *Conn) DisconnectSocket(ctx context.Context) error {
	return c.leave(ctx, fsm.DisconnectSocket)
}

// Disconnect ends the connection and forgets the user and their token. It works
// in every state, may be repeated, and waits for the peer's close frame, at most
// CloseTimeout; the context ends only that wait. Calls and API requests that
// wait get ErrDisconnected. Specification: C7.
func (c *Conn) Disconnect(ctx context.Context, data Persistence) error {
	if data > FlushPersistence {
		return &InvalidError{"data", "is neither KeepPersistence nor FlushPersistence"}
	}
	return c.leave(ctx, fsm.Disconnect)
}

func (c *Conn) leave(ctx context.Context, verb fsm.Event) error {
	if ctx == nil {
		return errNilContext
	}
	if c.inside(ctx) != nil {
		ctx = context.WithoutCancel(ctx) // the call itself is what ends this context
	}
	k := &call{verb: verb, answer: make(chan result, 1)}
	if !c.post(&note{call: k}) {
		return ErrClosed
	}
	began := time.Now()
	r := <-k.answer // the owner never blocks
	if r.err != nil {
		return r.err
	}
	return c.awaitEnd(ctx, began, append(r.ending, c.closeIdle()))
}

// Close ends the Conn for good: it disconnects, closes the channels of Watch and
// Events, and waits for all that the Conn started, except the program's own code
// that still runs. Later calls get ErrClosed. It may be repeated, and be called
// from anywhere. It always returns nil. Specification: C9.
func (c *Conn) Close() error {
	c.post(&note{call: &call{verb: fsm.Close, answer: make(chan result, 1)}})
	<-c.closedDown
	return nil
}

// CurrentUser returns the user who is set, as the program gave them, and whether
// there is one. A guest is whom the service made of them, once it has.
func (c *Conn) CurrentUser() (User, bool) {
	user := c.view.Load().user
	if user == nil {
		return User{}, false
	}
	u := *user
	u.Extra = maps.Clone(u.Extra)
	return u, true
}

// State returns the state of the connection: one atomic read.
func (c *Conn) State() fsm.State { return c.view.Load().state }

// Session returns the open socket's session, and whether one is open. While
// Refreshing it may be.
func (c *Conn) Session() (Session, bool) {
	s := c.view.Load().session
	return s.public(), s != nil
}

// Stats returns the counters.
func (c *Conn) Stats() Stats {
	v := c.view.Load()
	return Stats{
		State:        v.state,
		Attempts:     c.count.attempts.Load(),
		Reconnects:   c.count.reconnects.Load(),
		Loads:        c.count.loads.Load(),
		Replays:      c.count.replays.Load(),
		Unreplayable: c.count.unreplayable.Load(),
		LateDrops:    c.count.lateDrops.Load(),
		MissedEvents: c.count.missed.Load(),
		Bugs:         c.count.bugs.Load(),
		Waiting:      int(c.count.waiting.Load()),
		ConnectedAt:  v.opened,
		Attempt:      v.attempt,
		RetryAt:      v.retryAt,
		LastError:    v.lastError,
	}
}

// Wait blocks until the connection is in one of the states, and returns which;
// at once if it is already. The error is the context's or ErrClosed.
func (c *Conn) Wait(ctx context.Context, states ...fsm.State) (fsm.State, error) {
	if ctx == nil {
		return c.State(), errNilContext
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	changes := c.Watch(ctx)
	if c.inside(ctx).holdsUp(c.view.Load()) && !slices.Contains(states, c.State()) {
		return c.State(), ErrReentrant
	}
	for change := range changes {
		if slices.Contains(states, change.To) {
			return change.To, nil
		}
	}
	if err := ctx.Err(); err != nil {
		return c.State(), err
	}
	return c.State(), ErrClosed
}

// Watch tells of every change from now on, beginning with the present state. The
// channel is unbuffered; it closes when the context ends or the Conn closes. A
// reader that lags more than 1,024 changes behind loses the oldest and is told
// how many. Specification: O1, O2.
func (c *Conn) Watch(ctx context.Context) <-chan Change { return c.hub.watch(ctx) }

// Events delivers chat events of the given types, or of all types if none is
// given, from now on. The channel closes when the context ends or the Conn
// closes. A reader that lags more than 65,536 events or 16 MiB behind loses the
// oldest and is told how many. Undelivered events are dropped when their user is
// disconnected or switched. Specification: O1, O2.
func (c *Conn) Events(ctx context.Context, types ...string) <-chan Event {
	return c.hub.read(ctx, types)
}

// Background reports that the app went to the background: the connection
// pauses, after BackgroundGrace. Reports never block and may repeat.
// Specification: L1, L3.
func (c *Conn) Background() { c.post(&note{event: fsm.Background}) }

// Foreground reports that the app came back: a paused connection is opened
// again with the cached token.
func (c *Conn) Foreground() { c.post(&note{event: fsm.Foreground}) }

// NetworkLost reports that there is no network: the connection pauses at once.
// Specification: L2, L3.
func (c *Conn) NetworkLost() { c.post(&note{event: fsm.NetworkLost}) }

// NetworkAvailable reports that there is a network, or another one: a paused
// connection is opened again, a waiting one does not wait any longer, a dial
// that has run for 2 s begins anew, an open socket is probed. Specification: L2.
func (c *Conn) NetworkAvailable() { c.post(&note{event: fsm.NetworkAvailable}) }

// Woke reports that the machine slept: an open connection is probed at once,
// instead of being found dead by a missed health check. Specification: H3.
func (c *Conn) Woke() { c.post(&note{event: fsm.Woke}) }

var errNilContext = &InvalidError{"ctx", "is nil"}

// checkText accepts a short name without control characters.
func checkText(field, s string, most int) error {
	switch {
	case s == "":
		return &InvalidError{field, "is empty"}
	case len(s) > most:
		return &InvalidError{field, fmt.Sprintf("is longer than %d bytes", most)}
	case !utf8.ValidString(s):
		return &InvalidError{field, "is not valid UTF-8"}
	}
	for _, r := range s {
		if unicode.IsControl(r) {
			return &InvalidError{field, "contains a control character"}
		}
	}
	return nil
}

// checkUser returns the program's user as JSON.
func checkUser(u User) (json.RawMessage, error) {
	if err := checkText("User.ID", u.ID, 255); err != nil {
		return nil, err
	}
	if u.ID == anonymousID {
		return nil, &InvalidError{"User.ID", "is the anonymous user's; use ConnectAnonymous"}
	}
	return userJSON(u)
}

// userJSON returns a user as JSON, custom fields at the root.
func userJSON(u User) (json.RawMessage, error) {
	if len(u.Extra) == 0 { // as most are, and then in the order that encoding/json gives to a map
		b := object.AppendString([]byte(`{"id":`), u.ID)
		if u.Image != "" {
			b = object.AppendString(append(b, `,"image":`...), u.Image)
		}
		if u.Name != "" {
			b = object.AppendString(append(b, `,"name":`...), u.Name)
		}
		return append(b, '}'), nil
	}
	fields := maps.Clone(u.Extra)
	for name, value := range map[string]string{"id": u.ID, "name": u.Name, "image": u.Image} {
		if _, ok := u.Extra[name]; ok {
			return nil, &InvalidError{"User.Extra", fmt.Sprintf("must not hold %q, which has a field of its own", name)}
		}
		if value != "" {
			fields[name] = value
		}
	}
	b, err := json.Marshal(fields)
	if err != nil {
		return nil, &InvalidError{"User.Extra", "cannot be JSON: " + err.Error()}
	}
	return b, nil
}

// session is a Session before anybody asks for it. Most are never asked for, and
// the server's view of a user is large once decoded.
type session struct {
	id     string
	me     json.RawMessage
	given  *User
	opened time.Time
}

// public decodes the server's view of the user; without one, or if it is none or
// would take too much memory, the user is as given. A nil session is the zero Session.
func (s *session) public() Session {
	if s == nil {
		return Session{}
	}
	if decodedSize(s.me) <= maxUserSize {
		if u, ok := parseUser(s.me); ok && u.ID != "" {
			return Session{s.id, u}
		}
	}
	u := *s.given
	u.Extra = maps.Clone(u.Extra)
	return Session{s.id, u}
}

// parseUser decodes a user's JSON, which is texts for the most part, as encoding/json
// would.
func parseUser(b []byte) (u User, ok bool) {
	numbers := true // are within float64
	ok = object.Members(b, func(key, value []byte) {
		text := object.Text(value)
		switch string(key) {
		case "id":
			u.ID = string(text)
			return
		case "name":
			u.Name = string(text)
			return
		case "image":
			u.Image = string(text)
			return
		}
		var decoded any
		if text != nil {
			decoded = string(text)
		} else if json.Unmarshal(value, &decoded) != nil {
			numbers = false
		}
		if u.Extra == nil {
			u.Extra = make(map[string]any)
		}
		name := string(key)
		if !utf8.ValidString(name) {
			name = string([]rune(name)) // as encoding/json reads it
		}
		u.Extra[name] = decoded
	})
	return u, ok && numbers
}

// maxUserSize is about how many bytes a user may take once decoded. Specification: S2.
const maxUserSize = 2 << 20

// decodedSize is about how many bytes well-formed JSON takes as maps and slices,
// which may be forty times its length.
func decodedSize(b []byte) (n int) {
	inside := false // a string
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case c == '\\':
			i++
		case c == '"':
			inside = !inside
		case inside:
		case c == '{':
			n += 320
		case c == '[' || c == ',':
			n += 48
		}
	}
	return n
}
