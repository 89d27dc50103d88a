package chatconn_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chatconn/chatconn"
	"github.com/chatconn/chatconn/devserver"
	"github.com/chatconn/chatconn/fsm"
	"github.com/chatconn/chatconn/transport/memnet"
)

// world is a dev server on a network in memory and a Conn that is to connect to
// it. It lives in a bubble, so whatever goroutine is left at the end fails the
// test.
type world struct {
	*testing.T
	net    *memnet.Network
	server *devserver.Server
	config chatconn.Config
	conn   *chatconn.Conn
}

// inWorld runs a test in a bubble of its own. The Conn is not closed: a test that
// leaves it connected has to say how it ends.
func inWorld(t *testing.T, configure func(*chatconn.Config), test func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{T: t, net: memnet.New()}
		server, err := devserver.Start(devserver.Options{Addr: "127.0.0.1:80", Listen: w.net.Listen})
		if err != nil {
			t.Fatal(err)
		}
		w.server = server
		w.config = chatconn.Config{APIKey: server.APIKey(), BaseURL: server.URL(), DialContext: w.net.DialContext}
		if configure != nil {
			configure(&w.config)
		}
		w.conn = w.newConn()
		defer func() {
			if t.Failed() {
				w.conn.Close() // what is left would hide the failure
			}
			server.Close()
			if bugs := w.conn.Stats().Bugs; bugs != 0 {
				t.Errorf("%d events that the table refuses", bugs)
			}
		}()
		test(w)
	})
}

func (w *world) newConn() *chatconn.Conn {
	w.Helper()
	conn, err := chatconn.New(w.config)
	if err != nil {
		w.Fatal(err)
	}
	return conn
}

// login connects a user and fails the test if that does not work.
func (w *world) login(s *source) chatconn.Session {
	w.Helper()
	session, err := w.conn.ConnectUser(w.Context(), chatconn.User{ID: s.user}, s)
	if err != nil {
		w.Fatalf("connect %s: %v", s.user, err)
	}
	return session
}

// connect lets a user connect in the background and returns where the result
// comes. It returns when nothing moves any more.
func (w *world) connect(ctx context.Context, s *source) <-chan error {
	result := make(chan error, 1)
	go func() {
		_, err := w.conn.ConnectUser(ctx, chatconn.User{ID: s.user}, s)
		result <- err
	}()
	synctest.Wait()
	return result
}

// be waits until the Conn is in a state, for at most an hour.
func (w *world) be(state fsm.State) {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), time.Hour)
	defer cancel()
	if got, err := w.conn.Wait(ctx, state); err != nil {
		w.Fatalf("the Conn is %v, not %v: %v", got, state, err)
	}
}

// is checks the state once nothing moves any more.
func (w *world) is(state fsm.State) {
	w.Helper()
	synctest.Wait()
	if got := w.conn.State(); got != state {
		w.Errorf("the Conn is %v, not %v", got, state)
	}
}

func (w *world) close() {
	w.Helper()
	if err := w.conn.Close(); err != nil {
		w.Error(err)
	}
}

// source mints tokens of one user, which do not expire. A test may get in its way.
type source struct {
	server *devserver.Server
	user   string
	// meddle is called with the number of the call, from 1. Its error is the
	// source's; it may block.
	meddle  func(ctx context.Context, call int) error
	calls   atomic.Int64
	running atomic.Int64
	most    atomic.Int64 // calls that ran at a time
}

func (w *world) source(user string) *source { return &source{server: w.server, user: user} }

func (s *source) Token(ctx context.Context) (string, error) {
	n := s.calls.Add(1)
	if r := s.running.Add(1); r > s.most.Load() {
		s.most.Store(r)
	}
	defer s.running.Add(-1)
	if s.meddle != nil {
		if err := s.meddle(ctx, int(n)); err != nil {
			return "", err
		}
	}
	return s.server.Token(s.user, 0), nil
}

// obedient blocks until the source is not wanted any more.
func obedient(ctx context.Context, _ int) error {
	<-ctx.Done()
	return ctx.Err()
}

func wantError(t testing.TB, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: error %v, want %v", what, err, want)
	}
}
