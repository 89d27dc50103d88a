package chatconn

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/chatconn/chatconn/fsm"
	"github.com/chatconn/chatconn/tokens"
	"github.com/chatconn/chatconn/transport"
)

// owner is what only the owner touches. The owner is the goroutine that empties
// the inbox: of those who post, the one that finds it unowned. An idle connection
// has none. The owner never blocks: what does runs as work, outside, and reports
// back.
type owner struct {
	pos     fsm.Position
	login   *login
	under   [numKinds]*work // the work under way, one of a kind at most
	ending  []ending
	old     []*login // users gone whose source still runs
	token   tokens.Token
	session *session // of the open socket; nil: none
	callers []*call
	present *call // whose goroutine the owner is; nil: nobody's who waits
	tickets tickets
	replies []func() // given when a step is published

	pace    pace
	attempt int
	retryAt time.Time
	cause   error // the last one since a connection was wanted
	lastErr error // the last one of all
	steps   uint64
	tape    *recorder       // nil until a transition is recorded
	told    Change          // the latest
	dialled <-chan struct{} // closed once the last dial is over; nil: there was none
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
	attempt func()      // the dial that the caller makes while it waits; nil: another goroutine does. Set while the note is posted
}

type result struct {
	session *session
	err     error
	ending  []ending
}

// post puts a note into the inbox and, if nobody owns it, takes it: whoever posts
// first is the owner until the inbox is empty. It never waits for anything, and
// no other goroutine has to wake up for a step. False means that the Conn is
// closed and the note was not taken. The caller holds no lock.
func (c *Conn) post(n *note) bool {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return false
	}
	c.inbox = append(c.inbox, n)
	free := !c.owned
	c.owned = true
	c.mu.Unlock()
	if free {
		caller := n.call
		if n.leave != nil {
			caller = nil
		}
		c.own(caller)
	}
	return true
}

// own takes notes in order until there are none, for the caller who made a call or
// for anybody else.
func (c *Conn) own(caller *call) {
	c.present = caller
	for {
		c.mu.Lock()
		batch := c.inbox
		c.inbox = nil
		if len(batch) == 0 {
			c.present = nil
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
	if n.work.kind == serving && !api.Unrecoverable && !c.token.IsZero() && !c.token.Equal(n.work.token) {
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
	if w := c.under[dialing]; w != nil && w.by == n.call {
		// The attempt goes on for others, and so must this caller.
		left := w.within - w.age()
		c.abandon(dialing)
		c.dial(left)
	}
}

// takeNews takes a report of the program. The grace of the background delays the
// news while a connection is active, and only then. Specification: L1.
func (c *Conn) takeNews(n *note) {
	switch n.event {
	case fsm.Background:
		if c.cfg.BackgroundGrace > 0 && c.active() {
			if c.under[gracing] == nil {
				w := c.begin(&work{kind: gracing})
				w.timer = time.AfterFunc(c.cfg.BackgroundGrace, func() { c.post(&note{event: fsm.Background, work: w}) })
			}
			return
		}
	case fsm.Foreground:
		c.abandon(gracing)
	}
	c.step(n)
}

// active reports whether there is a connection, or an attempt at one.
func (c *Conn) active() bool { return c.pos.State != fsm.Offline && c.pos.State != fsm.Paused }

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
	if n.from == fsm.Connected && t.To.State != fsm.Connected {
		c.pace.lost(time.Now())
	}
	c.pos = t.To
	for _, a := range t.Do {
		c.do(a, n)
	}
	c.publish(t, n)
	if c.under[gracing] != nil && !c.active() {
		c.abandon(gracing) // nothing is left that the grace protects
		if !c.owner.over {
			c.step(&note{event: fsm.Background})
		}
	}
}

// do carries out one action. It never blocks and decides nothing about where
// the connection goes. Actions that name what may not be there (an open socket, a
// wait, a stranger) do nothing without it.
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
		c.count.attempts.Add(1)
		c.dial(c.cfg.AttemptTimeout)
	case fsm.Redial:
		if w := c.under[dialing]; w != nil && w.age() >= max(oldDial, c.cfg.MinDialInterval) {
			c.abandon(dialing)
			c.dial(c.cfg.AttemptTimeout)
		}
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
	w.stop()
	if k == loading && w.cancel != nil {
		c.login.cache.Drop() // what the source answers at this very moment is late as well
	}
}

// begin makes a piece of work the one under way.
func (c *Conn) begin(w *work) *work {
	if c.under[w.kind] != nil {
		panic("BUG: chatconn: two pieces of work of one kind")
	}
	c.under[w.kind] = w
	if w.done != nil {
		c.ending = slices.DeleteFunc(c.ending, ending.isOver)
		c.ending = append(c.ending, ending{w.done, w.kind == serving})
	}
	return w
}

// finish ends the Conn after its last step.
func (c *Conn) finish() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	left := c.ending
	go func() {
		began := time.Now()
		c.hub.close(began.Add(c.cfg.CloseTimeout))
		_ = c.awaitEnd(context.Background(), began, append(left, ending{done: c.side.dry()}, c.closeIdle()))
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
		if c.pace.opened.IsZero() {
			c.pace.opened = time.Now()
		}
	}
	v := &view{
		state: c.pos.State, login: c.login, session: c.session, token: c.token,
		attempt: c.attempt, retryAt: c.retryAt, lastError: c.lastErr,
	}
	if c.session != nil {
		v.opened = c.session.opened
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
	waits := c.under[waiting] != nil // a retry time that has come is not news
	if change.Moved() || change.Attempt != c.told.Attempt || waits && !change.RetryAt.Equal(c.told.RetryAt) {
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
	clear(c.replies) // they hold on to calls that have had their answer
	c.replies = c.replies[:0]
}
