package tokens

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"time"
)

// CacheOptions says how a [Cache] treats its user's source. The zero value of a
// field switches off what it is about.
type CacheOptions struct {
	// UserID is the user: a token of anyone else is ErrUserMismatch. Empty: the
	// token itself tells who they are, as a guest's does. Specification: C3.
	UserID string
	// Timeout bounds one call of the source. A call that lasts longer is
	// abandoned: its waiters get ErrTimeout, and its late result is ignored.
	// Zero or negative: no bound. Specification: T3.
	Timeout time.Duration
	// Early is how long before its expiry a cached token counts as absent. A
	// token that was already that close to its expiry when it came is kept: the
	// clock is wrong or the life short, and a load for every use would cure
	// neither. Zero or negative: the expiry is not looked at. Specification: T6.
	Early time.Duration
}

// Cache keeps one user's token and asks their source for it, one call at a
// time. It asks only when Load finds no token; Drop and Refuse make it forget
// the one it has. Specification: T2–T5.
//
// The source runs on a goroutine of its own, without a lock, and never again
// before its last call has returned, even if that call was given up long ago
// (C9). Once nobody waits, nothing is left of a load but a source that ignores
// its context.
type Cache struct {
	source Source
	opts   CacheOptions

	mu      sync.Mutex // guards what follows; never held while foreign code runs
	token   Token
	due     time.Time         // when token counts as absent (Early); zero: never
	refused [sha256.Size]byte // hash of the token that the server refused; zero: none
	load    *load             // the load that callers join; nil: none
	idle    chan struct{}     // closed when no call of the source runs; nil: none runs
}

// load is one wish for a token, shared by everyone who waits for it. It ends
// exactly once: with the source's answer, at its time limit, when its last
// waiter leaves, or by Drop. The call of the source may outlive it.
type load struct {
	ctx     context.Context // the source's; ends with the load
	cancel  context.CancelFunc
	disarm  func() bool   // stops the watch over ctx's deadline
	waiters int           // guarded by Cache.mu
	done    chan struct{} // closed at the end; then token and err are set
	token   Token
	err     error
}

// errDropped ends a load whose result is no longer wanted: its waiters begin
// another.
var errDropped = errors.New("tokens: dropped")

// NewCache returns an empty cache in front of src. It asks nothing yet.
func NewCache(src Source, o CacheOptions) *Cache { return &Cache{source: src, opts: o} }

// Cached returns the token at hand, and whether there is one.
func (c *Cache) Cached() (Token, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cached()
}

// cached is Cached for callers that hold mu.
func (c *Cache) cached() (Token, bool) {
	if !c.due.IsZero() && !time.Now().Before(c.due) {
		c.token, c.due = Token{}, time.Time{}
	}
	return c.token, !c.token.IsZero()
}

// Load returns the cached token, or else the answer of one call of the source,
// which everyone who waits at the time shares.
//
// ctx ends this caller's wait only; the context of the source ends with the
// last wait. While an abandoned call still runs, Load waits for its return
// before it asks again; the Timeout covers both. A Drop meanwhile makes the
// source be asked anew.
//
// The error wraps the source's, ErrInvalid, ErrUserMismatch, ErrRefusedAgain,
// ErrTimeout or ErrNoSource, or is ctx's; a panic of the source is an error,
// too. Nothing is cached then. A source must not call Load of its own cache: it
// would wait for itself.
func (c *Cache) Load(ctx context.Context) (Token, error) {
	if s, ok := c.source.(*static); ok {
		return c.fixed(s)
	}
	for {
		l, token, err := c.join(ctx)
		if l == nil {
			return token, err
		}
		select {
		case <-l.done:
			if l.err != errDropped {
				return l.token, l.err
			}
		case <-ctx.Done():
			c.leave(l)
			return Token{}, ctx.Err()
		}
	}
}

// fixed is Load for a source that has its answer at hand: nobody has to wait.
func (c *Cache) fixed(s *static) (Token, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if token, ok := c.cached(); ok {
		return token, nil
	}
	token, err := c.check(s.token())
	if err != nil {
		return Token{}, err
	}
	if c.refuses(token) {
		return Token{}, ErrRefusedAgain
	}
	c.keep(token)
	return token, nil
}

// join counts the caller as a waiter of the load under way, which it begins if
// there is none. A nil load means that there is nothing to wait for.
func (c *Cache) join(ctx context.Context) (*load, Token, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if token, ok := c.cached(); ok {
		return nil, token, nil
	}
	if err := ctx.Err(); err != nil {
		return nil, Token{}, err
	}
	if c.load == nil {
		c.begin()
	}
	c.load.waiters++
	return c.load, Token{}, nil
}

// leave takes back what join did; the last to leave ends the load.
func (c *Cache) leave(l *load) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if l.waiters--; l.waiters == 0 {
		c.end(l, Token{}, context.Canceled)
	}
}

// begin starts a load. If an abandoned call still runs, the new one starts on
// its return (see answered). The caller holds mu.
func (c *Cache) begin() {
	l := &load{done: make(chan struct{})}
	if c.opts.Timeout > 0 {
		l.ctx, l.cancel = context.WithTimeout(context.Background(), c.opts.Timeout)
	} else {
		l.ctx, l.cancel = context.WithCancel(context.Background())
	}
	l.disarm = context.AfterFunc(l.ctx, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.end(l, Token{}, fmt.Errorf("%w: %w", ErrTimeout, context.DeadlineExceeded))
	})
	c.load = l
	if c.idle == nil {
		c.idle = make(chan struct{})
		go c.call(l)
	}
}

// end ends a load, unless it has ended. The caller holds mu.
func (c *Cache) end(l *load, token Token, err error) {
	if c.load != l {
		return
	}
	c.load = nil
	l.token, l.err = token, err
	l.disarm()
	l.cancel()
	close(l.done)
}

// call asks the source for l and hands on the answer, also when the source
// panics or ends its goroutine.
func (c *Cache) call(l *load) {
	var raw string
	err := errors.New("tokens: the source ended its goroutine")
	defer func() {
		if v := recover(); v != nil {
			err = panicked(v)
		}
		c.answered(l, raw, err)
	}()
	raw, err = c.ask(l.ctx)
}

func (c *Cache) ask(ctx context.Context) (string, error) {
	if err := ctx.Err(); err != nil { // given up before it began
		return "", err
	}
	if c.source == nil {
		return "", ErrNoSource
	}
	raw, err := c.source.Token(ctx)
	if err != nil {
		return "", fmt.Errorf("tokens: the source failed: %w", err)
	}
	return raw, nil
}

// answered takes the answer to l. Then the call is over, and the load that has
// begun since, if any, may have its own.
func (c *Cache) answered(l *load, raw string, err error) {
	var token Token
	if err == nil {
		token, err = c.check(raw)
	}

	c.mu.Lock()
	defer c.mu.Unlock()
	if c.load == l { // else nobody wants the answer any more
		switch {
		case err == nil && c.refuses(token):
			token, err = Token{}, ErrRefusedAgain
		case err == nil:
			c.keep(token)
		case l.ctx.Err() != nil: // the source saw the deadline before our watch did
			err = fmt.Errorf("%w: %w", ErrTimeout, err)
		}
		c.end(l, token, err)
	}
	if c.load != nil {
		go c.call(c.load)
		return
	}
	close(c.idle)
	c.idle = nil
}

func (c *Cache) check(raw string) (Token, error) {
	token, err := Parse(raw)
	if err != nil {
		return Token{}, err
	}
	if c.opts.UserID != "" && token.UserID() != c.opts.UserID {
		return Token{}, fmt.Errorf("%w: user %.64q wants a token, and got one of %.64q",
			ErrUserMismatch, c.opts.UserID, token.UserID())
	}
	return token, nil
}

// keep caches an accepted token. The caller holds mu.
func (c *Cache) keep(token Token) {
	c.token, c.due = token, time.Time{}
	c.refused = [sha256.Size]byte{}
	if expires, ok := token.ExpiresAt(); ok && c.opts.Early > 0 {
		if due := expires.Add(-c.opts.Early); time.Now().Before(due) {
			c.due = due
		}
	}
}

// Drop forgets the token. The result of a load that has begun is thrown away;
// for those who still wait for it the source is asked again.
func (c *Cache) Drop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.token, c.due = Token{}, time.Time{}
	if c.load != nil {
		c.end(c.load, Token{}, errDropped)
	}
}

// Refuse reports that the server refused t. If t is the cached token it is
// forgotten. From then on the source's bringing t again is ErrRefusedAgain,
// until it has brought a different one. News about a token that another has
// replaced changes nothing, and a load under way goes on: however many report
// one refusal, one load follows. Specification: T4, T5.
func (c *Cache) Refuse(t Token) {
	if t.IsZero() {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.token.Equal(t):
		c.token, c.due = Token{}, time.Time{}
		c.refused = hash(t)
	case c.token.IsZero() && c.refused == [sha256.Size]byte{}: // dropped before the news came
		c.refused = hash(t)
	}
}

// refuses tells whether the server has refused this very token. The caller holds mu.
func (c *Cache) refuses(t Token) bool {
	return c.refused != [sha256.Size]byte{} && c.refused == hash(t)
}

func hash(t Token) [sha256.Size]byte { return sha256.Sum256([]byte(t.Reveal())) }

// Running tells whether a call of the source runs, wanted or abandoned.
func (c *Cache) Running() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.idle != nil
}

// Done returns a channel that is closed when no call of the source runs; it is
// closed already if none runs now. Specification: C9.
func (c *Cache) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.idle == nil {
		return closed
	}
	return c.idle
}

var closed = func() <-chan struct{} {
	ch := make(chan struct{})
	close(ch)
	return ch
}()

// panicked makes an error of what a source panicked with, without tokens.
func panicked(v any) error {
	return fmt.Errorf("tokens: the source panicked: %T: %s", v, scrub(fmt.Sprint(v)))
}
