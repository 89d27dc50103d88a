package chatconn

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/chatconn/chatconn/fsm"
	"github.com/chatconn/chatconn/internal/loopback"
	"github.com/chatconn/chatconn/tokens"
)

// login is one user's stay, from ConnectUser to Disconnect. The owner writes it;
// others may read source, static, anonymous and cache.
type login struct {
	wanted    string // the id that the program gave; a guest's own is another
	user      *User  // immutable
	source    tokens.Source
	static    bool
	anonymous bool // needs no token
	cache     *tokens.Cache
	details   json.RawMessage
	sent      json.RawMessage   // the details that the server has; nil: none
	after     []<-chan struct{} // earlier calls of the same source must have returned
	met       bool              // was connected once
}

// enrol sets the user of a call, or gives the one who is set a new source.
func (c *Conn) enrol(k *call) {
	user := k.user // not a pointer into the call, which would live as long
	l := &login{
		wanted: user.ID, user: &user, details: k.details, source: k.source,
		static: tokens.IsStatic(k.source),
	}
	expect := k.user.ID
	switch k.source.(type) {
	case anonymous:
		l.static, l.anonymous = true, true
	case *guest:
		l.static, expect = true, "" // the exchange tells who they are
	}
	if c.login != nil {
		// Details that the server has already are not sent again: they may have
		// been changed elsewhere meanwhile. Specification: C4.
		l.met, l.sent = c.login.met, c.login.sent
		if was, ok := c.login.source.(*guest); ok && was.made() && k.asksGuest() {
			// They are that guest until they are forgotten: another exchange would
			// bring another person. Specification: T9.
			l.source, l.user, l.details = was, c.login.user, c.login.details
		}
		c.retire()
	}
	for _, o := range c.old {
		if tokens.SameSource(o.source, l.source) {
			l.after = append(l.after, o.cache.Done())
		}
	}
	source := l.source
	if !tokens.IsStatic(source) { // one that is cannot call back, and answers at once
		source = tokens.Func(func(ctx context.Context) (string, error) { return c.ask(ctx, l) })
	}
	l.cache = tokens.NewCache(source, tokens.CacheOptions{UserID: expect, Timeout: c.cfg.TokenTimeout, Early: max(0, c.cfg.RefreshEarly)})
	c.login = l
	c.pace.reset()
}

// is reports whether a call is for this user. A guest goes by the id that was
// asked for with those who ask for a guest, and by their own with everybody else.
func (l *login) is(k *call) bool {
	_, isGuest := l.source.(*guest)
	switch {
	case k.asksGuest():
		return isGuest && l.wanted == k.user.ID
	case isGuest && l.user.ID == l.wanted:
		return false // they have no id of their own yet
	}
	return l.user.ID == k.user.ID
}

func (k *call) asksGuest() bool {
	_, ok := k.source.(*guest)
	return ok
}

// retire lets go of a user. A call of their source that still runs is
// remembered, so that the same source is not called twice at once.
func (c *Conn) retire() {
	c.old = slices.DeleteFunc(c.old, func(o *login) bool { return !o.cache.Running() })
	if c.login.cache.Running() {
		c.old = append(c.old, c.login)
	}
	c.login.cache.Drop()
	c.login, c.token = nil, tokens.Token{}
}

func (c *Conn) forget() {
	if t := c.requests.Load(); t != nil {
		c.ending = append(c.ending, ending{done: t.dials.end()})
	}
	if c.login == nil {
		return
	}
	c.retire()
	c.hub.purge()
}

// identify takes over the user whom the guest exchange has brought.
func (c *Conn) identify() {
	g, ok := c.login.source.(*guest)
	if !ok {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	c.login.user, c.login.details = g.user, g.details
}

// fetch loads a token from the source of the user, and fences development tokens.
func (c *Conn) fetch(ctx context.Context, l *login) (tokens.Token, error) {
	if len(l.after) > 0 {
		if err := awaitAll(ctx, l.after, c.cfg.TokenTimeout); err != nil {
			return tokens.Token{}, err
		}
	}
	t, err := l.cache.Load(ctx)
	if err == nil && t.IsDev() && !c.cfg.AllowDevTokens && !loopback.Is(c.base.Hostname()) {
		l.cache.Drop()
		return tokens.Token{}, fmt.Errorf("%w: a development token goes to loopback hosts only; use AllowDevTokens", ErrInsecure)
	}
	return t, err
}

func awaitAll(ctx context.Context, all []<-chan struct{}, limit time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, ErrTokenTimeout)
	defer cancel()
	for _, done := range all {
		select {
		case <-done:
		case <-ctx.Done():
			return fmt.Errorf("%w: an earlier call of the source has not returned", context.Cause(ctx))
		}
	}
	return nil
}

// ask calls the program's source, and marks the call so that one of ours from
// inside it is recognised.
func (c *Conn) ask(ctx context.Context, l *login) (string, error) {
	c.count.loads.Add(1)
	ctx, leave := c.enter(ctx, &inside{login: l})
	defer leave()
	return l.source.Token(ctx)
}

// inside is a place where the program's own code runs and a call of ours may
// wait for itself: the token source of a user, or, with a context, what opens a
// connection for them (DialLimit, Proxy, DialContext, the callbacks of TLS).
type inside struct {
	login     *login
	dial      context.Context // of the attempt; nil: in the source
	goroutine uint64
}

// insideKey finds, in the context that such code is given, where it runs.
type insideKey struct{ conn *Conn }

// places are those where the program's code runs now: none, most of the time.
type places struct {
	mu  sync.Mutex
	all []*inside
}

// enter marks the context and this goroutine until leave.
func (c *Conn) enter(ctx context.Context, in *inside) (marked context.Context, leave func()) {
	in.goroutine = goroutineID()
	p := &c.places
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all = append(p.all, in)
	return context.WithValue(ctx, insideKey{c}, in), func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.all = slices.DeleteFunc(p.all, func(other *inside) bool { return other == in })
	}
}

// inside returns in which place of the program's code the caller runs: by the
// context that this was given, or by the goroutine. Nil: in none.
func (c *Conn) inside(ctx context.Context) *inside {
	p := &c.places
	p.mu.Lock()
	all := slices.Clone(p.all)
	p.mu.Unlock()
	if len(all) == 0 {
		return nil
	}
	marked, _ := ctx.Value(insideKey{c}).(*inside)
	here := goroutineID()
	for _, in := range all {
		if in == marked || in.goroutine == here {
			return in
		}
	}
	return nil
}

// holdsUp reports whether the caller holds up the connection of the user whom a
// view shows: their source, or their attempt, waits for the caller's return.
func (in *inside) holdsUp(v *view) bool {
	return in != nil && in.login == v.login && (in.dial == nil || in.dial.Err() == nil)
}

// wouldWait reports whether a call from inside would wait for its own return.
func (in *inside) wouldWait(k *call, v *view) bool {
	if in == nil {
		return false
	}
	if in.dial == nil && k.source != nil && tokens.SameSource(k.source, in.login.source) {
		return true
	}
	if !in.holdsUp(v) || k.replace || v.state == fsm.Connected {
		return false
	}
	return k.verb == fsm.ReconnectSocket || k.user.ID == v.user.ID
}

// goroutineID returns the number that the runtime prints for this goroutine.
// There is no other way to recognise a caller who was given no context.
func goroutineID() uint64 {
	var buf [64]byte
	fields := bytes.Fields(buf[:runtime.Stack(buf[:], false)])
	if len(fields) < 2 {
		return 0
	}
	id, _ := strconv.ParseUint(string(fields[1]), 10, 64)
	return id
}
