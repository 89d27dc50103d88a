package chatconn_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chatconn/chatconn"
	"github.com/chatconn/chatconn/devserver"
	"github.com/chatconn/chatconn/fsm"
)

// phase is a moment in the life of a connection. reach brings a world there; the
// result of the ConnectUser that waits, if one does, comes on the channel.
type phase struct {
	name      string
	configure func(*chatconn.Config)
	reach     func(w *world, ctx context.Context, s *source) <-chan error
	state     fsm.State
	waits     bool // a call waits
	deaf      bool // the source runs until it is let go
	dead      bool // the peer does not answer a close frame
}

var phases = []phase{
	{name: "never connected", state: fsm.Offline,
		reach: func(w *world, ctx context.Context, s *source) <-chan error { return nil }},
	{name: "blocked source", state: fsm.Connecting, waits: true,
		reach: func(w *world, ctx context.Context, s *source) <-chan error {
			s.meddle = obedient
			return w.connect(ctx, s)
		}},
	{name: "source that ignores its context", state: fsm.Connecting, waits: true, deaf: true,
		reach: func(w *world, ctx context.Context, s *source) <-chan error {
			return w.connect(ctx, s)
		}},
	{name: "blocked dial limit", state: fsm.Connecting, waits: true,
		configure: func(c *chatconn.Config) {
			c.DialLimit = func(ctx context.Context) error { return obedient(ctx, 0) }
		},
		reach: func(w *world, ctx context.Context, s *source) <-chan error { return w.connect(ctx, s) }},
	{name: "dial that hangs", state: fsm.Connecting, waits: true,
		reach: func(w *world, ctx context.Context, s *source) <-chan error {
			w.net.BlackHole(true)
			return w.connect(ctx, s)
		}},
	{name: "silence before the upgrade", state: fsm.Connecting, waits: true,
		reach: func(w *world, ctx context.Context, s *source) <-chan error {
			w.server.SilenceHTTP(true)
			return w.connect(ctx, s)
		}},
	{name: "upgrade without hello", state: fsm.Connecting, waits: true,
		reach: func(w *world, ctx context.Context, s *source) <-chan error {
			w.server.Silence(true)
			return w.connect(ctx, s)
		}},
	{name: "waiting to retry", state: fsm.Connecting, waits: true,
		reach: func(w *world, ctx context.Context, s *source) <-chan error {
			w.server.Stop()
			return w.connect(ctx, s)
		}},
	{name: "waiting for the source to recover", state: fsm.Connecting, waits: true,
		reach: func(w *world, ctx context.Context, s *source) <-chan error {
			s.meddle = func(context.Context, int) error { return errors.New("no network") }
			return w.connect(ctx, s)
		}},
	{name: "connected", state: fsm.Connected,
		reach: func(w *world, ctx context.Context, s *source) <-chan error {
			w.login(s)
			return nil
		}},
	{name: "connected to a peer that is gone", state: fsm.Connected, dead: true,
		reach: func(w *world, ctx context.Context, s *source) <-chan error {
			w.login(s)
			w.net.BlackHole(true)
			return nil
		}},
	{name: "reconnecting after a loss", state: fsm.Connecting,
		reach: func(w *world, ctx context.Context, s *source) <-chan error {
			w.login(s)
			w.server.Stop()
			time.Sleep(time.Minute)
			return nil
		}},
	{name: "refreshing with an open socket", state: fsm.Refreshing,
		reach: func(w *world, ctx context.Context, s *source) <-chan error {
			w.login(s)
			s.meddle = obedient
			w.server.ExpireTokens(s.user, false)
			waits := w.get(w.Context(), "/app")
			w.Cleanup(func() {
				if err := <-waits; !errors.Is(err, chatconn.ErrDisconnected) && !errors.Is(err, chatconn.ErrClosed) {
					w.Errorf("the waiting request ended with %v", err)
				}
			})
			return nil
		}},
	{name: "refreshing without a socket", state: fsm.Refreshing,
		reach: func(w *world, ctx context.Context, s *source) <-chan error {
			w.login(s)
			s.meddle = obedient
			w.server.ExpireTokens(s.user, true)
			return nil
		}},
	{name: "refreshing, and the load waits for its next round", state: fsm.Refreshing,
		reach: func(w *world, ctx context.Context, s *source) <-chan error {
			w.login(s)
			s.meddle = func(context.Context, int) error { return errors.New("no network") }
			w.server.ExpireTokens(s.user, true)
			time.Sleep(time.Minute)
			return nil
		}},
	{name: "in the background before the first connect", state: fsm.Paused, waits: true,
		reach: func(w *world, ctx context.Context, s *source) <-chan error {
			w.conn.Background()
			return w.connect(ctx, s)
		}},
	{name: "without network before the first connect", state: fsm.Paused, waits: true,
		reach: func(w *world, ctx context.Context, s *source) <-chan error {
			w.conn.NetworkLost()
			return w.connect(ctx, s)
		}},
	{name: "in the background", state: fsm.Paused,
		reach: func(w *world, ctx context.Context, s *source) <-chan error {
			w.login(s)
			w.conn.Background()
			return nil
		}},
	{name: "without network", state: fsm.Paused,
		reach: func(w *world, ctx context.Context, s *source) <-chan error {
			w.login(s)
			w.conn.NetworkLost()
			return nil
		}},
	{name: "held by both", state: fsm.Paused,
		reach: func(w *world, ctx context.Context, s *source) <-chan error {
			w.login(s)
			w.conn.Background()
			w.conn.NetworkLost()
			return nil
		}},
	{name: "connected, and the background waits for its grace", state: fsm.Connected,
		configure: func(c *chatconn.Config) { c.BackgroundGrace = time.Hour },
		reach: func(w *world, ctx context.Context, s *source) <-chan error {
			w.login(s)
			w.conn.Background()
			return nil
		}},
	{name: "socket disconnected", state: fsm.Offline,
		reach: func(w *world, ctx context.Context, s *source) <-chan error {
			w.login(s)
			if err := w.conn.DisconnectSocket(ctx); err != nil {
				w.Error(err)
			}
			return nil
		}},
	{name: "denied", state: fsm.Offline,
		reach: func(w *world, ctx context.Context, s *source) <-chan error {
			w.login(s)
			w.server.Kick(s.user, devserver.APIError{Code: 99})
			return nil
		}},
}

// way is a way out. It returns what the call that waits has to end with.
type way struct {
	name  string
	leave func(w *world, cancel func()) error
	want  error
	keeps bool // the user stays set
	final bool
	calls bool // only where a call waits
}

var ways = []way{
	{name: "Disconnect", want: chatconn.ErrDisconnected,
		leave: func(w *world, _ func()) error {
			return w.conn.Disconnect(w.Context(), chatconn.KeepPersistence)
		}},
	{name: "Disconnect and flush", want: chatconn.ErrDisconnected,
		leave: func(w *world, _ func()) error {
			return w.conn.Disconnect(w.Context(), chatconn.FlushPersistence)
		}},
	{name: "DisconnectSocket", want: chatconn.ErrDisconnected, keeps: true,
		leave: func(w *world, _ func()) error { return w.conn.DisconnectSocket(w.Context()) }},
	{name: "Close", want: chatconn.ErrClosed, final: true,
		leave: func(w *world, _ func()) error { return w.conn.Close() }},
	{name: "end of the context", want: context.Canceled, calls: true,
		leave: func(w *world, cancel func()) error { cancel(); return nil }},
}

// C7, C9, C5, C1: every way out works in every phase, within a second, and leaves
// nothing: no connection, no goroutine (the bubble would notice: the Conn is not
// closed afterwards), nothing that happens later.
func TestLeaveFromEveryPhase(t *testing.T) {
	for _, p := range phases {
		for _, out := range ways {
			if out.calls && !p.waits {
				continue
			}
			t.Run(p.name+"/"+out.name, func(t *testing.T) {
				inWorld(t, p.configure, func(w *world) {
					ctx, cancel := context.WithCancel(w.Context())
					defer cancel()
					s := w.source("john")
					free := make(chan struct{})
					if p.deaf {
						s.meddle = func(context.Context, int) error { <-free; return nil }
					}
					waits := p.reach(w, ctx, s)
					w.is(p.state)

					began := time.Now()
					if err := out.leave(w, cancel); err != nil {
						w.Errorf("%s: %v", out.name, err)
					}
					if waits != nil {
						wantError(w, "the call that waited", <-waits, out.want)
					}
					took := time.Since(began)
					if took > time.Second {
						w.Errorf("it took %v", took)
					}
					if !p.deaf && !p.dead && took != 0 {
						w.Errorf("it took %v although nobody is stubborn", took)
					}
					w.nothingHappens(s)

					if _, set := w.conn.CurrentUser(); set != (out.keeps && p.name != "never connected") {
						w.Errorf("a user is set: %t", set)
					}
					if err := out.leave(w, cancel); err != nil {
						w.Errorf("again: %v", err)
					}
					if out.final {
						_, err := w.conn.ConnectUser(w.Context(), chatconn.User{ID: "john"}, s)
						wantError(w, "connect after Close", err, chatconn.ErrClosed)
					}
					close(free)
				})
			})
		}
	}
}

// nothingHappens checks that the Conn is Offline and stays so, and that nothing
// of it is left.
func (w *world) nothingHappens(s *source) {
	w.Helper()
	w.is(fsm.Offline)
	if n := w.net.Open(); n != 0 {
		w.Errorf("%d connections are open", n)
	}
	before, dials, calls := w.conn.Stats(), w.net.Dials(), s.calls.Load()
	for _, news := range []func(){w.conn.Background, w.conn.NetworkLost, w.conn.Foreground, w.conn.NetworkAvailable, w.conn.Woke} {
		news()
	}
	time.Sleep(time.Hour)
	w.is(fsm.Offline)
	after := w.conn.Stats()
	after.LateDrops = before.LateDrops // late news is expected here
	if after != before || w.net.Dials() != dials || s.calls.Load() != calls {
		w.Errorf("something happened later: before %+v, after %+v", before, after)
	}
	if after.Waiting != 0 {
		w.Errorf("%d requests are left", after.Waiting)
	}
}

// get sends an API request and returns where its error comes, or nil for any
// answer. It returns when nothing moves any more.
func (w *world) get(ctx context.Context, path string) <-chan error {
	result := make(chan error, 1)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.server.URL()+path, nil)
	if err != nil {
		w.Fatal(err)
	}
	go func() {
		resp, err := w.conn.HTTPClient().Do(req)
		if err == nil {
			resp.Body.Close()
		}
		result <- err
	}()
	synctest.Wait()
	return result
}

// C8: SwitchUser works in every phase, and brings the second user in as soon as
// the first one's connection is closed. Nothing of the first is left.
func TestSwitchFromEveryPhase(t *testing.T) {
	for _, p := range phases {
		t.Run(p.name, func(t *testing.T) {
			limited := func(c *chatconn.Config) {
				if p.configure != nil {
					p.configure(c)
				}
				if c.DialLimit != nil { // only the first dial is held
					hold, first := c.DialLimit, true
					c.DialLimit = func(ctx context.Context) error {
						if first {
							first = false
							return hold(ctx)
						}
						return nil
					}
				}
			}
			inWorld(t, limited, func(w *world) {
				first, second := w.source("john"), w.source("jane")
				free := make(chan struct{})
				if p.deaf {
					first.meddle = func(context.Context, int) error { <-free; return nil }
				}
				waits := p.reach(w, w.Context(), first)
				w.is(p.state)
				calls := first.calls.Load()

				switched := make(chan error, 1)
				go func() {
					_, err := w.conn.SwitchUser(w.Context(), chatconn.User{ID: "jane"}, second)
					switched <- err
				}()
				synctest.Wait()
				if u, ok := w.conn.CurrentUser(); !ok || u.ID != "jane" {
					w.Errorf("the user is %+v", u)
				}
				if waits != nil {
					wantError(w, "the first user's call", <-waits, chatconn.ErrDisconnected)
				}
				// The obstacle goes, if one is left.
				w.net.BlackHole(false)
				w.server.Heal()
				if err := w.server.Restart(); err != nil {
					w.Error(err)
				}
				w.conn.NetworkAvailable()
				w.conn.Foreground()
				if err := <-switched; err != nil {
					w.Errorf("switch: %v", err)
				}
				w.is(fsm.Connected)
				time.Sleep(2 * time.Second)
				if n := w.server.Connections("john"); n != 0 {
					w.Errorf("%d sockets of the first user are open", n)
				}
				if n := w.server.Connections(""); n != 1 {
					w.Errorf("%d sockets are open, want one", n)
				}
				if n := first.calls.Load(); n != calls {
					w.Errorf("the first user's source was asked %d times more", n-calls)
				}
				close(free)
				w.close()
			})
		})
	}
}

// C9, T3: a source that ignores its context keeps its goroutine and nothing else,
// and is not asked again before it has returned, whoever asks.
func TestStubbornSourceIsNotAskedTwice(t *testing.T) {
	leave := map[string]func(w *world) error{
		"Disconnect":       ways[0].with(),
		"DisconnectSocket": ways[2].with(),
	}
	for name, out := range leave {
		t.Run(name, func(t *testing.T) {
			inWorld(t, nil, func(w *world) {
				s := w.source("john")
				free := make(chan struct{})
				s.meddle = func(context.Context, int) error { <-free; return nil }
				waits := w.connect(w.Context(), s)
				if err := out(w); err != nil {
					w.Error(err)
				}
				wantError(w, "connect", <-waits, chatconn.ErrDisconnected)
				waits = w.connect(w.Context(), s)
				time.Sleep(10 * time.Minute) // many token timeouts
				if n := s.calls.Load(); n != 1 {
					w.Errorf("asked %d times before the first call returned", n)
				}
				wantError(w, "the cause", w.conn.Stats().LastError, chatconn.ErrTokenTimeout)
				close(free)
				if err := <-waits; err != nil {
					w.Error(err)
				}
				if n := s.most.Load(); n != 1 {
					w.Errorf("%d calls at a time", n)
				}
				w.close()
			})
		})
	}
}

func (out way) with() func(w *world) error {
	return func(w *world) error { return out.leave(w, nil) }
}

// A dialer of the program that ignores its context is left behind: nobody waits
// for it, and what it opens at last is closed.
func TestStubbornDialer(t *testing.T) {
	for _, out := range ways {
		t.Run(out.name, func(t *testing.T) {
			free := make(chan struct{})
			configure := func(c *chatconn.Config) {
				dial := c.DialContext
				c.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
					<-free
					return dial(context.WithoutCancel(ctx), network, addr)
				}
			}
			inWorld(t, configure, func(w *world) {
				free = make(chan struct{}) // of this bubble
				ctx, cancel := context.WithCancel(w.Context())
				defer cancel()
				waits := w.connect(ctx, w.source("john"))
				time.Sleep(5 * time.Second)
				began := time.Now()
				if err := out.leave(w, cancel); err != nil {
					w.Error(err)
				}
				wantError(w, "connect", <-waits, out.want)
				if took := time.Since(began); took > time.Second {
					w.Errorf("it took %v", took)
				}
				w.is(fsm.Offline)
				close(free)
				synctest.Wait()
				if n := w.net.Open(); n != 0 {
					w.Errorf("%d connections are open", n)
				}
				w.is(fsm.Offline)
			})
		})
	}
}

// C1: the attempt ends with the last waiter, not with the first; its error holds
// the last cause as well.
func TestAttemptEndsWithItsLastWaiter(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		cause := errors.New("the backend is down")
		s := w.source("john")
		s.meddle = func(context.Context, int) error { return cause }
		short, cancelShort := context.WithTimeout(w.Context(), 10*time.Second)
		defer cancelShort()
		long, cancelLong := context.WithTimeout(w.Context(), time.Minute)
		defer cancelLong()
		first, second := w.connect(short, s), w.connect(long, w.source("john"))

		err := <-first
		wantError(w, "the first to leave", err, context.DeadlineExceeded)
		wantError(w, "the first to leave", err, cause)
		w.is(fsm.Connecting)
		calls := s.calls.Load()

		err = <-second
		wantError(w, "the last to leave", err, context.DeadlineExceeded)
		wantError(w, "the last to leave", err, cause)
		if s.calls.Load() == calls {
			w.Error("nothing was tried for the second")
		}
		if _, set := w.conn.CurrentUser(); set {
			w.Error("the user is still set")
		}
		w.nothingHappens(s)
	})
}

// C1: after the first success a caller's context ends only its own wait.
func TestWaiterLeavesAfterFirstSuccess(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		s := w.source("john")
		w.login(s)
		w.server.Stop()
		w.is(fsm.Connecting)
		ctx, cancel := context.WithTimeout(w.Context(), 10*time.Second)
		defer cancel()
		wantError(w, "connect", <-w.connect(ctx, s), context.DeadlineExceeded)
		w.is(fsm.Connecting)
		if err := w.server.Restart(); err != nil {
			w.Fatal(err)
		}
		w.be(fsm.Connected)
		w.close()
	})
}

// A call whose context has ended before it began changes nothing.
func TestEndedContext(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		ctx, cancel := context.WithCancel(w.Context())
		cancel()
		s := w.source("john")
		_, err := w.conn.ConnectUser(ctx, chatconn.User{ID: "john"}, s)
		wantError(w, "connect", err, context.Canceled)
		_, err = w.conn.SwitchUser(ctx, chatconn.User{ID: "john"}, s)
		wantError(w, "switch", err, context.Canceled)
		w.is(fsm.Offline)
		if s.calls.Load() != 0 {
			w.Error("the source was asked")
		}
		w.login(s)
		_, err = w.conn.SwitchUser(ctx, chatconn.User{ID: "jane"}, w.source("jane"))
		wantError(w, "switch", err, context.Canceled)
		w.is(fsm.Connected)

		// Leaving is not undone by a context: it ends the wait for the peer alone.
		w.net.BlackHole(true)
		began := time.Now()
		wantError(w, "disconnect", w.conn.Disconnect(ctx, chatconn.KeepPersistence), context.Canceled)
		if took := time.Since(began); took != 0 {
			w.Errorf("it waited %v", took)
		}
		w.is(fsm.Offline)
		time.Sleep(time.Second)
		w.nothingHappens(s)
	})
}

// C9: Close from anywhere, any number of times at once; every one returns when
// everything is over.
func TestCloseFromManyGoroutines(t *testing.T) {
	for _, p := range phases {
		if p.deaf {
			continue
		}
		t.Run(p.name, func(t *testing.T) {
			inWorld(t, p.configure, func(w *world) {
				s := w.source("john")
				waits := p.reach(w, w.Context(), s)
				changes := w.conn.Watch(w.Context())
				began := time.Now()
				var all sync.WaitGroup
				for range 64 {
					all.Go(func() {
						w.close()
						if n := w.net.Open(); n != 0 {
							w.Errorf("%d connections are open after Close", n)
						}
					})
				}
				for range changes { // to its end
				}
				all.Wait()
				if took := time.Since(began); took > time.Second {
					w.Errorf("it took %v", took)
				}
				if waits != nil {
					wantError(w, "connect", <-waits, chatconn.ErrClosed)
				}
				w.nothingHappens(s)
			})
		})
	}
}

// C7, C8, C9 at once: whatever the order in which leaving calls meet, each
// returns, and Close has the last word.
func TestLeavingCallsMeet(t *testing.T) {
	for _, p := range phases {
		if p.deaf {
			continue
		}
		t.Run(p.name, func(t *testing.T) {
			inWorld(t, p.configure, func(w *world) {
				s := w.source("john")
				waits := p.reach(w, w.Context(), s)
				ctx, cancel := context.WithTimeout(w.Context(), time.Minute)
				defer cancel()
				var all sync.WaitGroup
				for i := range 8 {
					all.Go(func() { _ = w.conn.Disconnect(ctx, chatconn.KeepPersistence) })
					all.Go(func() { _ = w.conn.DisconnectSocket(ctx) })
					all.Go(func() {
						_, _ = w.conn.SwitchUser(ctx, chatconn.User{ID: "jane"}, w.source("jane"))
					})
					all.Go(func() { _, _ = w.conn.ReconnectSocket(ctx) })
					if i == 7 {
						all.Go(w.close)
					}
				}
				all.Wait()
				if waits != nil {
					if err := <-waits; !errors.Is(err, chatconn.ErrDisconnected) && !errors.Is(err, chatconn.ErrClosed) {
						w.Errorf("connect: %v", err)
					}
				}
				w.nothingHappens(s)
			})
		})
	}
}

// stuck is a connection whose writes may get stuck, until it is closed.
type stuck struct {
	net.Conn
	hold   *atomic.Pointer[chan struct{}] // writes wait for its end; nil: they go out
	closed chan struct{}
	once   *sync.Once
}

func (s stuck) Write(p []byte) (int, error) {
	if hold := s.hold.Load(); hold != nil {
		select {
		case <-*hold:
		case <-s.closed:
			return 0, net.ErrClosed
		}
	}
	return s.Conn.Write(p)
}

func (s stuck) Close() error {
	s.once.Do(func() { close(s.closed) })
	return s.Conn.Close()
}

// M1: a dial begins when the close frame of the socket before is out, or when its
// time is over.
func TestDialAwaitsTheCloseFrame(t *testing.T) {
	for _, c := range []struct{ free, want time.Duration }{{0, 0}, {300 * time.Millisecond, 300 * time.Millisecond}, {time.Hour, time.Second}} {
		t.Run(c.free.String(), func(t *testing.T) {
			var hold atomic.Pointer[chan struct{}]
			var dialled []time.Time
			inWorld(t, func(cfg *chatconn.Config) {
				dial := cfg.DialContext
				cfg.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
					dialled = append(dialled, time.Now())
					conn, err := dial(ctx, network, addr)
					if len(dialled) == 1 && err == nil {
						conn = stuck{conn, &hold, make(chan struct{}), new(sync.Once)}
					}
					return conn, err
				}
			}, func(w *world) {
				w.login(w.source("john"))
				time.Sleep(10 * time.Second)
				free := make(chan struct{})
				hold.Store(&free)
				began := time.Now()
				time.AfterFunc(c.free, func() {
					hold.Store(nil)
					close(free)
				})
				w.conn.Background()
				w.conn.Foreground()
				time.Sleep(c.want + time.Millisecond)
				synctest.Wait()
				if len(dialled) != 2 || dialled[1].Sub(began) != c.want {
					w.Errorf("dials at %v, want one %v after %v", dialled, c.want, began)
				}
				w.be(fsm.Connected)
				w.close()
			})
		})
	}
}
