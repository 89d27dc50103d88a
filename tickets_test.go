package chatconn

import (
	"errors"
	"net/http"
	"testing"

	"github.com/chatconn/chatconn/fsm"
	"github.com/chatconn/chatconn/tokens"
)

// queue makes a Conn with requests that wait. Nobody owns it: the test does.
func queue(t *testing.T, n int) (*Conn, []*ticket) {
	c, err := New(Config{APIKey: "key"})
	if err != nil {
		t.Fatal(err)
	}
	l := &login{user: &User{ID: "john"}}
	c.login, c.pos.State = l, fsm.Refreshing
	c.view.Store(&view{state: fsm.Refreshing, login: l, user: l.user})
	waits := make([]*ticket, n)
	for i := range waits {
		waits[i] = &ticket{login: l, bytes: 10, answer: make(chan pass, 1)}
		c.takeTicket(&note{ticket: waits[i]})
	}
	if got := c.Stats().Waiting; got != n || c.tickets.bytes != int64(10*n) {
		t.Fatalf("%d requests of %d bytes wait", got, c.tickets.bytes)
	}
	return c, waits
}

// Q2: those that wait are released in order of arrival, and not before everybody
// can see the fresh token.
func TestReleaseInOrder(t *testing.T) {
	c, waits := queue(t, 1000)
	gone := waits[500]
	c.takeTicket(&note{ticket: gone, leave: errors.New("gone")})
	if p := <-gone.answer; p.err == nil {
		t.Error("who leaves gets no error")
	}
	waits = append(waits[:500:500], waits[501:]...)

	c.tickets.release(c)
	for _, k := range waits {
		if len(k.answer) != 0 {
			t.Fatal("released before the step was published")
		}
	}
	token, err := tokens.Parse(tokens.DevToken("john"))
	if err != nil {
		t.Fatal(err)
	}
	c.view.Store(&view{state: fsm.Connected, login: c.login, user: c.login.user, token: token})
	for i, answer := range c.replies {
		answer()
		if len(waits[i].answer) != 1 || i+1 < len(waits) && len(waits[i+1].answer) != 0 {
			t.Fatalf("number %d is not released in its turn", i)
		}
		if p := <-waits[i].answer; p.err != nil || !p.token.Equal(token) || p.userID != "john" {
			t.Fatalf("number %d got %+v", i, p)
		}
	}
	if c.Stats().Waiting != 0 || c.tickets.Len() != 0 || c.tickets.bytes != 0 {
		t.Errorf("%d requests are left, %d bytes", c.tickets.Len(), c.tickets.bytes)
	}
	c.takeTicket(&note{ticket: waits[0], leave: errors.New("too late")})
	if len(waits[0].answer) != 0 {
		t.Error("answered twice")
	}
}

// Q4: a failure reaches all of them, typed, with its cause.
func TestFailReachesAll(t *testing.T) {
	c, waits := queue(t, 100)
	cause := errors.New("final")
	c.tickets.fail(c, cause)
	for _, answer := range c.replies {
		answer()
	}
	for _, k := range waits {
		if p := <-k.answer; !errors.Is(p.err, ErrDisconnected) || !errors.Is(p.err, cause) {
			t.Fatal(p.err)
		}
	}
	if c.Stats().Waiting != 0 || c.tickets.Len() != 0 || c.tickets.bytes != 0 {
		t.Errorf("%d requests are left, %d bytes", c.tickets.Len(), c.tickets.bytes)
	}
}

// Q2, C8: a request whose goroutine slept between its pass and its stamp goes out with
// the token that is at hand then, and not at all as a user who is gone.
func TestStaleStamp(t *testing.T) {
	c, err := New(Config{APIKey: "key"})
	if err != nil {
		t.Fatal(err)
	}
	parse := func(user string) tokens.Token {
		token, err := tokens.Parse(tokens.DevToken(user))
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	stale, fresh := parse("stale"), parse("fresh")
	john, jane := &login{user: &User{ID: "john"}}, &login{user: &User{ID: "jane"}}
	c.view.Store(&view{state: fsm.Connected, login: john, user: john.user, token: fresh})
	var sent []string
	trip := &roundTripper{conn: c, base: roundTrip(func(r *http.Request) (*http.Response, error) {
		sent = append(sent, r.Header.Get("Authorization"))
		return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody}, nil
	})}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://127.0.0.1:1/", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, p, err := trip.send(req, nil, pass{login: john, userID: "john", token: stale})
	if err != nil || len(sent) != 1 || sent[0] != fresh.Reveal() || !p.token.Equal(fresh) {
		t.Fatalf("%d requests went out, not all with the fresh token: %v", len(sent), err)
	}
	resp.Body.Close()
	if _, _, err := trip.send(req, nil, pass{login: jane, userID: "jane", token: stale}); !errors.Is(err, ErrDisconnected) || len(sent) != 1 {
		t.Errorf("a request of a user who is gone: %v, %d sent", err, len(sent))
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
