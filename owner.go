package chatconn

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/chatconn/chatconn/fsm"
	"github.com/chatconn/chatconn/tokens"
	"github.com/chatconn/chatconn/transport"
)

// owner is what only the owner touches. The owner is the goroutine that empties
// the inbox; it lives while there is anything in it, so an idle connection has
// none. It never blocks: what does runs as work, outside, and reports back.
type owner struct {
	pos     fsm.Position
	login   *login
	under   [numKinds]*work // the work under way, one of a kind at most
	ending  []<-chan struct{}
	old     []*login // users gone whose source still runs
	token   tokens.Token
	session *session // of the open socket; nil: none
	callers []*call
	tickets tickets
	replies []func() // given when a step is published
	grace   *time.Timer

	pace    pace
	attempt int
	retryAt time.Time
	seq     uint64
	cause   error // the last one since a connection was wanted
	lastErr error // the last one of all
	steps   uint64
	told    Change          // the latest
	hung    <-chan struct{} // closed once the last socket's close frame is out; nil: there was none
	over    bool            // Finish was done
}

// note is what the inbox holds: a call, a report of the program, or the answer
// of work.
type note struct {
	event fsm.Event
	cause error
	from  fsm.State // set by step

	work    *work // whose answer this is; nil: nobody's
	err     error // of a load, a dial or a socket: the owner classifies it
	socket  *transport.Socket
	session *session
	used    chan<- bool  // hears whether the socket is kept
	token   tokens.Token // loaded, or refused by the API

	call   *call
	leave  error // the context's error: the caller does not wait any more
	ticket *ticket
	graced bool // Background, after its grace

	retryAfter time.Duration
	fresh      bool // a token newer than the one that failed is at hand
}

// call is one call of the program.
type call struct {
	verb    fsm.Event
	replace bool // SwitchUser
	user    User
	details json.RawMessage
	source  tokens.Source
	answer  chan result // takes exactly one
}

type result struct {
	session *session
	err     error
	ending  []<-chan struct{}
}

// kind is a kind of work.
type kind uint8

const (
	waiting kind = iota
	loading
	dialing
	serving

	numKinds
)

// work is something under way outside the owner. Its answer counts only while it
// is the one under way of its kind: the answer of an abandoned one is late, and
// late news changes nothing. Specification: M5.
type work struct {
	kind   kind
	timer  *time.Timer        // of a wait
	cancel context.CancelFunc // of a load or a dial
	socket *transport.Socket  // of a socket
	token  tokens.Token       // with which a socket was opened
	user   *User              // as whom a dial connects
	sent   json.RawMessage    // the user's details that a dial sends; nil: only the id
	done   chan struct{}      // closed when nothing of it is left
}

// stop abandons the work. It never blocks.
func (w *work) stop() {
	if w.timer != nil {
		w.timer.Stop()
	}
	if w.cancel != nil {
		w.cancel()
	}
	if w.socket != nil {
		w.socket.HangUp()
	}
}

// login is one user's stay, from ConnectUser to Disconnect. The owner writes it;
// others may read source, static, anonymous, cache and inside.
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
	inside    atomic.Uint64     // the goroutine in which the source runs; 0: it does not
}

// post puts a note into the inbox. It never blocks; false means that the Conn is
// closed and the note was not taken.
func (c *Conn) post(n *note) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.inbox = append(c.inbox, n)
	if !c.owned {
		c.owned = true
		go c.own()
	}
	return true
}

// own takes notes in order until there are none.
func (c *Conn) own() {
	for {
		c.mu.Lock()
		batch := c.inbox
		c.inbox = nil
		if len(batch) == 0 {
			c.owned = false
			c.mu.Unlock()
			return
		}
		c.mu.Unlock()
		for _, n := range batch {
			c.take(n)
		}
	}
}

// take turns one note into events of the machine.
func (c *Conn) take(n *note) {
	switch {
	case c.owner.over:
		c.tooLate(n)
	case n.work != nil:
		c.takeAnswer(n)
	case n.ticket != nil:
		c.takeTicket(n)
	case n.leave != nil:
		c.takeLeave(n)
	case n.call != nil:
		c.takeCall(n)
	default:
		c.takeNews(n)
	}
}

// takeAnswer takes what work brought back.
func (c *Conn) takeAnswer(n *note) {
	w := n.work
	if c.under[w.kind] != w {
		c.count.lateDrops.Add(1)
		n.discard()
		return
	}
	if n.used != nil {
		n.used <- true
	}
	c.under[w.kind] = nil // its answer is its end
	if w.kind == serving {
		c.pace.lost(time.Now())
	}
	if n.err != nil {
		c.classify(n)
	}
	c.step(n)
}

// discard lets go of what late news brought along.
func (n *note) discard() {
	if n.used != nil {
		n.used <- false
	}
}

// classify names the event of a failure.
func (c *Conn) classify(n *note) {
	l := c.login
	if n.work.kind == loading {
		n.event, n.cause = eventForLoad(n.err, tokens.IsStatic(l.source)), n.err
		return
	}
	n.event, n.cause = eventFor(n.err, l.static, c.pace.forged > 0, c.cfg.KeepTokenWhenUnhealthy)
	var failure *transport.Error
	if errors.As(n.err, &failure) {
		n.retryAfter = failure.RetryAfter
	}
	var api *APIError
	if !errors.As(n.cause, &api) || !isOneOf(api.Code, codeMalformed, codeExpired, codeNotYetValid, codeFromFuture, codeSignature) {
		return
	}
	if n.work.kind == serving && !c.token.IsZero() && !c.token.Equal(n.work.token) {
		// The token that is refused has been replaced since the socket opened.
		n.event, n.fresh = fsm.Dropped, true
	} else if n.event == fsm.TokenRefused && api.Code != codeExpired {
		c.pace.forged++
	}
}

// takeCall takes a call of the program.
func (c *Conn) takeCall(n *note) {
	k := n.call
	switch k.verb {
	case fsm.Connect:
		if k.replace {
			c.step(&note{event: fsm.Disconnect, cause: ErrDisconnected})
		}
		if c.login != nil && !c.login.is(k) {
			k.answer <- result{err: ErrUserAlreadySet}
			return
		}
		if c.pos.State == fsm.Offline {
			c.enrol(k)
		}
	case fsm.ReconnectSocket:
		if c.login == nil {
			k.answer <- result{err: ErrNoUser}
			return
		}
	case fsm.DisconnectSocket, fsm.Disconnect:
		c.step(&note{event: k.verb, cause: ErrDisconnected})
		k.answer <- result{ending: slices.Clone(c.ending)}
		return
	case fsm.Close:
		c.step(&note{event: fsm.Close, cause: ErrClosed})
		c.finish()
		return
	}
	c.callers = append(c.callers, k)
	c.step(&note{event: k.verb})
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
		c.retire()
	}
	for _, o := range c.old {
		if tokens.SameSource(o.source, l.source) {
			l.after = append(l.after, o.cache.Done())
		}
	}
	l.cache = tokens.NewCache(tokens.Func(func(ctx context.Context) (string, error) {
		return c.ask(ctx, l)
	}), tokens.CacheOptions{UserID: expect, Timeout: c.cfg.TokenTimeout, Early: max(0, c.cfg.RefreshEarly)})
	c.login = l
	c.pace.reset()
}

// is reports whether a call is for this user.
func (l *login) is(k *call) bool {
	if _, asGuest := k.source.(*guest); asGuest {
		_, isGuest := l.source.(*guest)
		return isGuest && l.wanted == k.user.ID
	}
	return l.user.ID == k.user.ID
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

// takeLeave takes back a caller who does not want to wait any more.
func (c *Conn) takeLeave(n *note) {
	i := slices.Index(c.callers, n.call)
	if i < 0 {
		return // answered already
	}
	c.callers = slices.Delete(c.callers, i, i+1)
	err := n.leave
	if c.cause != nil {
		err = fmt.Errorf("chatconn: %w; the last cause: %w", n.leave, c.cause)
	}
	if len(c.callers) == 0 && !c.login.met {
		c.step(&note{event: fsm.Abandoned, cause: errAbandoned})
	}
	n.call.answer <- result{err: err}
}

// takeNews takes a report of the program. The grace of the background delays the
// news while a connection is wanted, and only then. Specification: L1.
func (c *Conn) takeNews(n *note) {
	switch n.event {
	case fsm.Background:
		if !n.graced && c.cfg.BackgroundGrace > 0 && c.wanted() {
			if c.grace == nil {
				c.grace = time.AfterFunc(c.cfg.BackgroundGrace, func() { c.post(&note{event: fsm.Background, graced: true}) })
			}
			return
		}
		if n.graced && c.grace == nil {
			return // cancelled, or given already
		}
		c.endGrace()
	case fsm.Foreground:
		c.endGrace()
	}
	c.step(n)
}

// wanted reports whether there is a connection, or an attempt at one.
func (c *Conn) wanted() bool { return c.pos.State != fsm.Offline && c.pos.State != fsm.Paused }

func (c *Conn) endGrace() (ran bool) {
	if ran = c.grace != nil; ran {
		c.grace.Stop()
		c.grace = nil
	}
	return ran
}

// tooLate answers what comes after Close.
func (c *Conn) tooLate(n *note) {
	switch {
	case n.work != nil:
		n.discard()
	case n.ticket != nil && n.leave == nil:
		n.ticket.answer <- pass{err: ErrClosed}
	case n.call != nil && n.leave == nil:
		n.call.answer <- result{err: ErrClosed}
	}
}

// step takes one event: the table decides, the actions follow in its order, then
// everybody is told.
func (c *Conn) step(n *note) {
	t, err := c.machine.Fire(c.pos, n.event)
	if err != nil || t.Verdict == fsm.Refuse {
		c.count.bugs.Add(1)
		c.logBug(t, err)
	}
	if n.work != nil && n.cause != nil {
		c.cause, c.lastErr = n.cause, n.cause
	}
	n.event, n.from = t.Event, t.From.State
	c.pos = t.To
	for _, a := range t.Do {
		c.do(a, n)
	}
	c.publish(t, n)
	if c.grace != nil && !c.wanted() && c.endGrace() {
		c.step(&note{event: fsm.Background}) // nothing is left that the grace protects
	}
}

// do carries out one action. It never blocks and decides nothing about where
// the connection goes.
func (c *Conn) do(a fsm.Action, n *note) {
	switch a {
	case fsm.Halt:
		c.abandon(waiting)
		c.abandon(loading)
		c.abandon(dialing)
	case fsm.HangUp:
		c.abandon(serving)
		c.session = nil
		c.hub.listen(nil)
	case fsm.DropToken:
		if c.login != nil {
			c.login.cache.Drop()
		}
		c.token = tokens.Token{}
	case fsm.RefuseToken:
		c.login.cache.Refuse(c.token)
		c.token = tokens.Token{}
	case fsm.ForgetUser:
		c.forget()
	case fsm.ForgetStranger:
		if !c.login.met {
			c.forget()
		}
	case fsm.Retry:
		c.retry(n)
	case fsm.SkipWait:
		if w := c.under[waiting]; w != nil && w.timer != nil {
			left := time.Until(c.retryAt)
			c.abandon(waiting)
			c.delay(min(left, c.pace.local(time.Now())))
		}
	case fsm.LoadToken:
		c.load()
	case fsm.Release:
		c.token = n.token
		c.identify()
		c.tickets.release(c)
	case fsm.Dial:
		c.dial()
	case fsm.Listen:
		c.listen(n)
	case fsm.Probe:
		if w := c.under[serving]; w != nil {
			w.socket.Probe()
		}
	case fsm.Settle:
		for _, k := range c.callers {
			s := c.session
			c.reply(func() { k.answer <- result{session: s} })
		}
		c.callers = nil
	case fsm.Fail:
		for _, k := range c.callers {
			c.reply(func() { k.answer <- result{err: n.cause} })
		}
		c.callers = nil
		c.tickets.fail(c, n.cause)
	case fsm.Finish:
		c.owner.over = true
	default:
		panic("BUG: chatconn: nobody does " + a.String())
	}
}

// reply answers somebody once the step is published.
func (c *Conn) reply(f func()) { c.replies = append(c.replies, f) }

// abandon stops the work of a kind, if any is under way.
func (c *Conn) abandon(k kind) {
	w := c.under[k]
	if w == nil {
		return
	}
	c.under[k] = nil
	if k == serving {
		c.pace.lost(time.Now())
	}
	w.stop()
}

// begin makes a piece of work the one under way.
func (c *Conn) begin(w *work) *work {
	if c.under[w.kind] != nil {
		panic("BUG: chatconn: two pieces of work of one kind")
	}
	c.under[w.kind] = w
	if w.done != nil {
		c.ending = slices.DeleteFunc(c.ending, isClosed)
		c.ending = append(c.ending, w.done)
	}
	return w
}

func isClosed(done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	default:
		return false
	}
}

func (c *Conn) forget() {
	if c.login == nil {
		return
	}
	c.retire()
	c.hub.purge()
}

// retry begins an attempt with its wait.
func (c *Conn) retry(n *note) {
	if n.from != fsm.Connecting && n.from != fsm.Refreshing {
		c.attempt = 0
	}
	if n.from == fsm.Offline || n.from == fsm.Paused {
		c.pace.relax()
	}
	delay, spent := c.pace.next(n, time.Now())
	if spent {
		w := c.begin(&work{kind: waiting})
		c.post(&note{event: fsm.RetriesSpent, work: w, cause: fmt.Errorf("%w: %w", ErrRetriesSpent, n.cause)})
		return
	}
	c.attempt++
	c.delay(delay)
}

// delay lets the wait of an attempt run. One of no length is a note, not a timer.
func (c *Conn) delay(d time.Duration) {
	w := c.begin(&work{kind: waiting})
	due := &note{event: fsm.RetryDue, work: w}
	c.retryAt = time.Time{}
	if d <= 0 {
		c.post(due)
		return
	}
	c.retryAt = time.Now().Add(d)
	w.timer = time.AfterFunc(d, func() { c.post(due) })
}

// load gets a token: the cached one, else from the source.
func (c *Conn) load() {
	c.pace.began = time.Now()
	c.retryAt = time.Time{}
	l := c.login
	if t, ok := l.cache.Cached(); ok || l.anonymous {
		c.post(&note{event: fsm.TokenLoaded, work: c.begin(&work{kind: loading}), token: t})
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	w := c.begin(&work{kind: loading, cancel: cancel, done: make(chan struct{})})
	go func() {
		defer close(w.done)
		defer cancel()
		t, err := c.fetch(ctx, l)
		c.post(&note{event: fsm.TokenLoaded, work: w, token: t, err: err})
	}()
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
	l.inside.Store(goroutineID())
	defer l.inside.Store(0)
	return l.source.Token(context.WithValue(ctx, insideKey{c}, l))
}

// insideKey finds, in the context of a source, the user for whom a Conn asks.
type insideKey struct{ conn *Conn }

// insideSource returns the user inside whose token source the caller runs: by
// the context that the source was given, or by the goroutine in which it runs.
func (c *Conn) insideSource(ctx context.Context) *login {
	if l, ok := ctx.Value(insideKey{c}).(*login); ok && l.inside.Load() != 0 {
		return l
	}
	if l := c.view.Load().login; l != nil {
		if id := l.inside.Load(); id != 0 && id == goroutineID() {
			return l
		}
	}
	return nil
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

// dial opens a socket, once the close frame of the one before is out.
func (c *Conn) dial() {
	c.count.attempts.Add(1)
	l := c.login
	ctx, cancel := context.WithCancel(context.Background())
	w := c.begin(&work{kind: dialing, cancel: cancel, done: make(chan struct{}), token: c.token, user: l.user})
	if !bytes.Equal(l.sent, l.details) {
		w.sent = l.details
	}
	hung := c.hung
	go func() {
		defer close(w.done)
		defer cancel()
		used := make(chan bool, 1)
		n := &note{event: fsm.Opened, work: w, used: used}
		n.err = guard(func() error {
			if err := c.turn(ctx, hung); err != nil {
				return err
			}
			return c.open(ctx, w, l.anonymous, n)
		})
		if kept := c.post(n) && <-used; !kept && n.socket != nil {
			n.socket.HangUp()
			<-n.socket.Gone()
		}
	}()
}

// turn waits until the dial may begin.
func (c *Conn) turn(ctx context.Context, hung <-chan struct{}) error {
	if hung != nil {
		select {
		case <-hung:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if c.cfg.DialLimit != nil {
		if err := c.cfg.DialLimit(ctx); err != nil {
			return fmt.Errorf("chatconn: DialLimit: %w", err)
		}
	}
	return nil
}

// open makes one attempt within its deadline. A dialer of the program that
// ignores its context is left behind.
func (c *Conn) open(ctx context.Context, w *work, anonymous bool, n *note) error {
	const grace = 100 * time.Millisecond // for an attempt that obeys, to say what it was doing
	left := time.AfterFunc(c.cfg.AttemptTimeout+grace, func() { c.post(&note{work: w, err: errSilent}) })
	defer left.Stop()
	ctx, cancel := context.WithTimeout(ctx, c.cfg.AttemptTimeout)
	defer cancel()
	login := transport.Login{UserID: w.user.ID, Details: w.sent, AuthType: "jwt", Token: w.token.Reveal()}
	if anonymous {
		login.AuthType = "anonymous"
	}
	socket, err := c.dialer.Dial(ctx, login)
	if err != nil {
		return err
	}
	n.socket = socket
	n.session = &session{id: socket.ConnectionID(), me: socket.Me(), given: w.user}
	return nil
}

// listen reads the socket that a dial has opened.
func (c *Conn) listen(n *note) {
	l := c.login
	if l.met {
		c.count.reconnects.Add(1)
	}
	l.met = true
	if n.work.sent != nil {
		l.sent = n.work.sent
	}
	c.session = n.session
	c.pace.opened = time.Now()
	w := c.begin(&work{kind: serving, socket: n.socket, token: n.work.token, done: make(chan struct{})})
	c.hung = n.socket.Hung()
	c.hub.listen(w)
	go func() {
		defer close(w.done)
		err := w.socket.Serve(func(f transport.Frame) {
			if c.hub.event(w, f) {
				c.count.lateDrops.Add(1)
			}
		})
		var failure *transport.Error
		if !errors.As(err, &failure) || failure.Kind != transport.HungUp { // that was us
			c.post(&note{work: w, err: err})
		}
		w.socket.HangUp()
		<-w.socket.Gone()
	}()
}

// guard turns a panic of the program's code into an error.
func guard(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &PanicError{fmt.Sprintf("%T", p)}
		}
	}()
	return f()
}

// PanicError reports a panic in the program's own code: a dialer, a limit, a
// logger. Its value is left out, since it may hold a secret.
type PanicError struct{ Type string }

func (e *PanicError) Error() string {
	return "chatconn: a panic of type " + e.Type + " in the program's code"
}

// finish ends the Conn after its last step.
func (c *Conn) finish() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	ending := c.ending
	go func() {
		deadline := time.Now().Add(c.cfg.CloseTimeout)
		c.hub.close(deadline)
		limit := time.NewTimer(time.Until(deadline))
		defer limit.Stop()
		for _, done := range append(ending, c.side.dry()) {
			select {
			case <-done:
				continue
			case <-limit.C: // only the program's own code can be that late
			}
			break
		}
		if t := c.requests.Load(); t != nil {
			t.CloseIdleConnections()
		}
		close(c.closedDown)
	}()
}

// publish tells everybody what a step has changed: first those who look, then
// those who watch, then those who wait.
func (c *Conn) publish(t fsm.Transition, n *note) {
	switch c.pos.State {
	case fsm.Offline, fsm.Paused:
		c.attempt, c.retryAt = 0, time.Time{}
	case fsm.Connected:
		c.retryAt = time.Time{}
	}
	v := &view{
		state: c.pos.State, login: c.login, session: c.session, token: c.token, lastError: c.lastErr,
	}
	if c.session != nil {
		v.opened = c.pace.opened
	}
	if c.login != nil {
		v.user = c.login.user
	}
	c.view.Store(v)
	now := time.Now()
	change := Change{
		Seq: c.told.Seq, From: t.From.State, To: t.To.State, Event: n.event, Cause: n.cause,
		Attempt: c.attempt, RetryAt: c.retryAt, At: now,
	}
	if change.Moved() || change.Attempt != c.told.Attempt || !change.RetryAt.IsZero() && !change.RetryAt.Equal(c.told.RetryAt) {
		change.Seq++
		c.told = change
		c.hub.change(change)
	}
	c.steps++
	c.log(t, change)
	c.record(t, change)
	if c.pos.State == fsm.Connected || c.pos.State == fsm.Offline {
		c.cause = nil
	}
	for _, answer := range c.replies {
		answer()
	}
	c.replies = c.replies[:0]
}
