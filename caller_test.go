package chatconn

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/chatconn/chatconn/devserver"
	"github.com/chatconn/chatconn/fsm"
	"github.com/chatconn/chatconn/tokens"
)

// diverted is a listener whose first connection goes to the test.
type diverted struct {
	net.Listener
	first chan net.Conn
	taken bool
}

func (d *diverted) Accept() (net.Conn, error) {
	c, err := d.Listener.Accept()
	if err != nil || d.taken {
		return c, err
	}
	d.taken = true
	d.first <- c
	return d.Listener.Accept()
}

// callerWorld is a Conn on real sockets, where a caller may make the attempt, and a
// service that leaves its first connection without an answer.
func callerWorld(t *testing.T) (c *Conn, source tokens.Source, silent <-chan net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d := &diverted{Listener: ln, first: make(chan net.Conn, 1)}
	server, err := devserver.Start(devserver.Options{Listener: d})
	if err != nil {
		t.Fatal(err)
	}
	c, err = New(Config{APIKey: server.APIKey(), BaseURL: server.URL(), MinDialInterval: -1, AttemptTimeout: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		server.Close()
	})
	return c, tokens.Static(server.Token("john", 0)), d.first
}

type outcome struct {
	session Session
	err     error
}

func (c *Conn) connectLater(ctx context.Context, source tokens.Source) <-chan outcome {
	ended := make(chan outcome, 1)
	go func() {
		s, err := c.ConnectUser(ctx, User{ID: "john"}, source)
		ended <- outcome{s, err}
	}()
	return ended
}

// gone reads a connection to its end: the client has left it.
func gone(peer net.Conn) {
	defer peer.Close()
	_, _ = io.Copy(io.Discard, peer)
}

// C1: a caller who makes the attempt leaves when their context ends, and with the
// last one the attempt ends.
func TestCallerLeavesTheirAttempt(t *testing.T) {
	c, source, silent := callerWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	ended := c.connectLater(ctx, source)
	peer := <-silent
	cancel()
	if o := <-ended; !errors.Is(o.err, context.Canceled) {
		t.Errorf("the call ended with %v", o.err)
	}
	gone(peer)
	if _, set := c.CurrentUser(); set || c.State() != fsm.Offline {
		t.Errorf("in %v, with a user: %t", c.State(), set)
	}
}

// C1: the attempt goes on for those who still wait.
func TestCallerLeavesTheirAttemptToOthers(t *testing.T) {
	c, source, silent := callerWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	ended := c.connectLater(ctx, source)
	peer := <-silent
	second := c.connectCall(User{ID: "john"}, []byte(`{"id":"john"}`), source)
	second.answer = make(chan result, 1)
	c.post(&note{call: second}) // taken when it returns: nobody else owns the inbox
	if second.attempt != nil {
		t.Error("a second attempt was begun")
	}
	cancel()
	if o := <-ended; !errors.Is(o.err, context.Canceled) {
		t.Errorf("the first call ended with %v", o.err)
	}
	gone(peer)
	if r := <-second.answer; r.err != nil || r.session.id == "" {
		t.Errorf("the second call got %v", r.err)
	}
	if s := c.Stats(); s.Attempts != 1 || s.Loads != 1 || s.State != fsm.Connected {
		t.Errorf("%+v", s)
	}
}

// C7: whoever makes the attempt hears at once that somebody disconnects.
func TestCallerIsDisconnectedDuringTheirAttempt(t *testing.T) {
	for name, leave := range map[string]struct {
		call func(c *Conn) error
		want error
	}{
		"Disconnect":       {func(c *Conn) error { return c.Disconnect(context.Background(), KeepPersistence) }, ErrDisconnected},
		"DisconnectSocket": {func(c *Conn) error { return c.DisconnectSocket(context.Background()) }, ErrDisconnected},
		"Close":            {(*Conn).Close, ErrClosed},
	} {
		t.Run(name, func(t *testing.T) {
			c, source, silent := callerWorld(t)
			ended := c.connectLater(t.Context(), source)
			peer := <-silent
			if err := leave.call(c); err != nil {
				t.Error(err)
			}
			if o := <-ended; !errors.Is(o.err, leave.want) {
				t.Errorf("the call ended with %v", o.err)
			}
			gone(peer)
		})
	}
}

// C1: a caller makes the attempt that they wait for, and none that is under way already.
func TestCallerMakesTheAttempt(t *testing.T) {
	c, source, silent := callerWorld(t)
	post := func() *call {
		k := c.connectCall(User{ID: "john"}, []byte(`{"id":"john"}`), source)
		k.answer = make(chan result, 1)
		c.post(&note{call: k}) // taken when it returns: nobody else owns the inbox
		return k
	}
	ended := c.connectLater(t.Context(), source)
	peer := <-silent
	c.NetworkLost()
	gone(peer)
	c.NetworkAvailable() // begins an attempt on a goroutine of its own
	second := post()
	if second.attempt != nil {
		t.Error("the attempt under way is made twice")
	}
	if o := <-ended; o.err != nil {
		t.Error(o.err)
	}
	if r := <-second.answer; r.err != nil {
		t.Error(r.err)
	}

	if err := c.Disconnect(t.Context(), KeepPersistence); err != nil {
		t.Fatal(err)
	}
	third := post()
	if third.attempt == nil {
		t.Fatal("another goroutine makes the attempt")
	}
	third.attempt()
	if r := <-third.answer; r.err != nil || r.session.id == "" {
		t.Errorf("the call that made the attempt got %v", r.err)
	}
}
