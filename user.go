package chatconn

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"time"

	"github.com/chatconn/chatconn/fsm"
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
	l := &login{
		wanted: k.user.ID, user: &k.user, details: k.details, source: k.source,
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
	if err == nil && t.IsDev() && !c.cfg.AllowDevTokens && !isLoopback(c.base.Hostname()) {
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
	c.asking.Store(l, goroutineID())
	defer c.asking.Delete(l)
	return l.source.Token(context.WithValue(ctx, insideKey{c}, l))
}

// insideKey finds, in the context of a source, the user for whom a Conn asks.
type insideKey struct{ conn *Conn }

// insideSource returns the user inside whose token source the caller runs: by
// the context that the source was given, or by the goroutine in which it runs.
func (c *Conn) insideSource(ctx context.Context) (inside *login) {
	marked, _ := ctx.Value(insideKey{c}).(*login)
	here := uint64(0)
	c.asking.Range(func(asked, in any) bool {
		if here == 0 {
			here = goroutineID()
		}
		if asked == marked || in == here {
			inside = asked.(*login)
		}
		return inside == nil
	})
	return inside
}

// wouldWait reports whether a call from inside the source of l would wait for
// the result of that source.
func (l *login) wouldWait(k *call, v *view) bool {
	if k.source != nil && tokens.SameSource(k.source, l.source) {
		return true
	}
	if l != v.login || k.replace || v.state == fsm.Connected {
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
