package chatconn

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/chatconn/chatconn/fsm"
	"github.com/chatconn/chatconn/tokens"
	"github.com/chatconn/chatconn/transport"
)

// kind is a kind of work.
type kind uint8

const (
	waiting kind = iota
	loading
	dialing
	serving
	gracing // the delay of the background news, see takeNews

	numKinds
)

// work is something under way outside the owner. Its answer counts only while it
// is the one under way of its kind: the answer of an abandoned one is late, and
// late news changes nothing. Specification: M5.
type work struct {
	kind   kind
	timer  *time.Timer               // of a wait
	cancel context.CancelFunc        // of a load or a dial
	socket *transport.Socket         // of a socket
	token  tokens.Token              // with which a socket was opened
	user   *User                     // as whom a dial connects
	sent   json.RawMessage           // the user's details that a dial sends; nil: only the id
	turned atomic.Pointer[time.Time] // when it was a dial's turn; nil: it waits for that
	done   chan struct{}             // closed when nothing of it is left
	within time.Duration             // a dial's time, from its turn on
	by     *call                     // the caller who makes a dial; nil: a goroutine of its own
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

// age tells how long ago it was a dial's turn; zero while it waits for that.
func (w *work) age() time.Duration {
	if turned := w.turned.Load(); turned != nil {
		return time.Since(*turned)
	}
	return 0
}

// ending is the end of a piece of work.
type ending struct {
	done   <-chan struct{}
	socket bool // it may take CloseTimeout by itself; else only the program's own code takes so long
}

func (e ending) isOver() bool {
	select {
	case <-e.done:
		return true
	default:
		return false
	}
}

// awaitEnd waits until nothing is left of what was abandoned, or until the
// context ends. Code of the program that ignores its context is left behind after
// CloseTimeout; a socket ends by itself at that time, so it gets a moment more.
func (c *Conn) awaitEnd(ctx context.Context, began time.Time, all []ending) error {
	const moment = 100 * time.Millisecond
	for _, e := range all {
		if e.isOver() {
			continue
		}
		limit := c.cfg.CloseTimeout - time.Since(began)
		if e.socket {
			limit += moment
		}
		timer := time.NewTimer(limit)
		select {
		case <-e.done:
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
		timer.Stop()
	}
	return nil
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
	if tokens.IsStatic(l.source) {
		c.count.loads.Add(1)
		t, err := c.fetch(context.Background(), l)
		c.post(&note{event: fsm.TokenLoaded, work: c.begin(&work{kind: loading}), token: t, err: err})
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

// oldDial is the age from which a dial is begun anew when the network is another
// one. What a system has sent by then into a dead link it repeats so seldom that
// the link may be whole for long before the peer hears of it.
const oldDial = 2 * time.Second

// dial opens a socket within a time, once the close frame of the one before is out.
func (c *Conn) dial(within time.Duration) {
	c.pace.began = time.Now() // again: its token may have taken long
	l := c.login
	before := slices.DeleteFunc([]<-chan struct{}{c.dialled, c.hung}, func(over <-chan struct{}) bool {
		return over == nil || ending{done: over}.isOver()
	})
	ctx, cancel := context.Background(), context.CancelFunc(nil)
	if len(before) > 0 || c.cfg.DialLimit != nil {
		ctx, cancel = context.WithCancel(ctx) // the deadline is set when the wait is over
	} else {
		ctx, cancel = context.WithTimeout(ctx, within)
	}
	w := c.begin(&work{kind: dialing, within: within, cancel: cancel, done: make(chan struct{}), token: c.token, user: l.user})
	if !bytes.Equal(l.sent, l.details) {
		w.sent = l.details
	}
	c.dialled = w.done
	attempt := func() {
		over := func() { cancel(); close(w.done) }
		used := make(chan bool, 1)
		n := &note{event: fsm.Opened, work: w, used: used, err: errEnded}
		defer func() { // also when the program's code ends the goroutine
			if kept := c.post(n) && <-used; kept || n.socket == nil {
				over()
				return
			}
			n.socket.HangUp()
			go func() { // a caller has no reason to wait for that
				<-n.socket.Gone()
				over()
			}()
		}()
		n.err = guard(func() error {
			if c.cfg.DialLimit != nil || c.cfg.takesPart() {
				var leave func()
				ctx, leave = c.enter(ctx, &inside{login: l, dial: ctx})
				defer leave()
			}
			if err := c.turn(ctx, before); err != nil {
				return err
			}
			return c.open(ctx, w, l.anonymous, n)
		})
	}
	// Waking other goroutines costs more than the rest of a step. So a caller who waits
	// for the attempt makes it, if nothing but our own code can hold it up, which ends
	// with its context.
	if k := c.present; k != nil && k.attempt == nil && len(before) == 0 && c.cfg.DialLimit == nil && !c.cfg.takesPart() && slices.Contains(c.callers, k) {
		w.by, k.attempt = k, attempt
		return
	}
	go attempt()
}

// turn waits until the dial may begin: the dial before is over, and the close frame
// of the socket before is out. The program's own dialer may be stuck in the former,
// and is not waited for any longer than a close.
func (c *Conn) turn(ctx context.Context, before []<-chan struct{}) error {
	began := time.Now()
	for _, over := range before {
		limit := time.NewTimer(c.cfg.CloseTimeout - time.Since(began))
		select {
		case <-over:
		case <-limit.C:
		case <-ctx.Done():
		}
		limit.Stop()
	}
	if err := ctx.Err(); err != nil {
		return err
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
	now := time.Now()
	w.turned.Store(&now)
	if c.cfg.takesPart() {
		const grace = 100 * time.Millisecond // for an attempt that obeys, to say what it was doing
		left := time.AfterFunc(w.within+grace, func() { c.post(&note{work: w, err: errOverdue}) })
		defer left.Stop()
	}
	if _, limited := ctx.Deadline(); !limited {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, w.within)
		defer cancel()
	}
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
	c.session.opened = time.Now()
	w := c.begin(&work{kind: serving, socket: n.socket, token: n.work.token, done: make(chan struct{})})
	c.hung = n.socket.Hung()
	c.hub.listen(w)
	go func() {
		defer close(w.done)
		_ = w.socket.Serve(transport.Handler{
			Receive: func(f transport.Frame) {
				if c.hub.event(w, f) {
					c.count.lateDrops.Add(1)
				}
			},
			Pause: c.hub.pause,
			Ended: func(why *transport.Error) {
				if why.Kind != transport.HungUp { // that was us
					c.post(&note{work: w, err: why})
				}
			},
		})
		<-w.socket.Gone()
	}()
}
