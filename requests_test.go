package chatconn_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chatconn/chatconn"
	"github.com/chatconn/chatconn/devserver"
	"github.com/chatconn/chatconn/fsm"
	"github.com/chatconn/chatconn/tokens"
)

// wiretap is a transport that notes what API requests are sent with.
type wiretap struct {
	http.Transport
	mu   sync.Mutex
	sent []sending
}

type sending struct {
	at           time.Time
	token, query string
	mark         string // tells the requests of a test apart
}

const markHeader = "X-Mark"

func (t *wiretap) RoundTrip(req *http.Request) (*http.Response, error) {
	t.mu.Lock()
	t.sent = append(t.sent, sending{time.Now(), req.Header.Get("Authorization"), req.URL.RawQuery, req.Header.Get(markHeader)})
	t.mu.Unlock()
	return t.Transport.RoundTrip(req)
}

func (t *wiretap) list() []sending {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]sending(nil), t.sent...)
}

// tapped makes a Conn send its requests through a wiretap.
func tapped(configure func(*chatconn.Config)) (*wiretap, func(*chatconn.Config)) {
	tap := &wiretap{}
	return tap, func(c *chatconn.Config) {
		tap.DialContext = c.DialContext
		tap.MaxIdleConnsPerHost = 2000
		c.HTTPTransport = tap
		if configure != nil {
			configure(c)
		}
	}
}

// outcome is how one request ended.
type outcome struct {
	status int
	body   string
	err    error
	took   time.Duration
}

func (o outcome) String() string {
	return fmt.Sprintf("%d %.200q, %v, after %v", o.status, o.body, o.err, o.took)
}

// send makes n requests at once and returns where each comes to its end. It
// returns when nothing moves any more.
func (w *world) send(ctx context.Context, n int, mark string) <-chan outcome {
	all := make(chan outcome, n)
	client := w.conn.HTTPClient()
	for i := range n {
		go func() { all <- do(ctx, client, w.server.URL()+"/app", fmt.Sprintf("%s-%d", mark, i)) }()
	}
	synctest.Wait()
	return all
}

func do(ctx context.Context, client *http.Client, url, mark string) outcome {
	began := time.Now()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return outcome{err: err}
	}
	req.Header.Set(markHeader, mark)
	resp, err := client.Do(req)
	if err != nil {
		return outcome{err: err, took: time.Since(began)}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return outcome{resp.StatusCode, string(body), err, time.Since(began)}
}

// Q2, Q3, Q4, T4: 1,000 requests are in flight when the token expires, and 200
// more come while it is replaced. Whatever becomes of the replacement, each
// request ends once; there is one load for all; those that wait are released
// together; none is stamped with the refused token once the load has begun.
func TestBurstAtExpiry(t *testing.T) {
	const inFlight, late = 1000, 200
	broken := errors.New("the backend is down")
	is := func(want error) func(outcome) bool { return func(o outcome) bool { return errors.Is(o.err, want) } }
	served := func(o outcome) bool { return o.err == nil && o.status == http.StatusOK }
	for _, c := range []struct {
		name   string
		load   func(ctx context.Context, load int) error // from the first after the expiry
		server func(s *devserver.Server)
		middle func(w *world) // two seconds after the expiry
		refuse bool           // the fresh token as well

		ends   func(outcome) bool
		loads  int64
		within time.Duration
		state  fsm.State
	}{
		{name: "load takes no time", load: func(context.Context, int) error { return nil },
			ends: served, loads: 1, within: time.Second, state: fsm.Connected},
		{name: "load takes a second", load: func(context.Context, int) error { time.Sleep(time.Second); return nil },
			ends: served, loads: 1, within: 2 * time.Second, state: fsm.Connected},
		{name: "load fails twice first",
			load: func(_ context.Context, load int) error {
				if load <= 2 {
					return broken
				}
				return nil
			},
			ends: served, loads: 3, within: 13 * time.Second, state: fsm.Connected},
		{name: "source refuses for ever", load: func(context.Context, int) error { return broken },
			ends: is(chatconn.ErrRequestTimeout), loads: 10, within: 61 * time.Second, state: fsm.Refreshing},
		{name: "source refuses for good", load: func(context.Context, int) error { time.Sleep(time.Second); return tokens.Permanent(broken) },
			ends: func(o outcome) bool { return is(chatconn.ErrDisconnected)(o) && is(broken)(o) }, loads: 1, within: 2 * time.Second, state: fsm.Offline},
		// Those that waited are refused as well, which makes one round more.
		{name: "fresh token is refused as well", load: func(context.Context, int) error { time.Sleep(time.Second); return nil },
			server: func(s *devserver.Server) { s.FailRequests(-1, devserver.Answer{Code: 40}) },
			ends: func(o outcome) bool {
				return o.status == http.StatusUnauthorized && strings.Contains(o.body, `"code":40`)
			},
			loads: 2, within: 8 * time.Second, state: fsm.Connected},
		{name: "Disconnect in the middle", load: obedient,
			middle: func(w *world) { _ = w.conn.Disconnect(w.Context(), chatconn.KeepPersistence) },
			ends:   is(chatconn.ErrDisconnected), loads: 1, within: 3 * time.Second, state: fsm.Offline},
		{name: "DisconnectSocket in the middle", load: obedient,
			middle: func(w *world) { _ = w.conn.DisconnectSocket(w.Context()) },
			ends:   is(chatconn.ErrDisconnected), loads: 1, within: 3 * time.Second, state: fsm.Offline},
		{name: "SwitchUser in the middle", load: obedient,
			middle: func(w *world) {
				if _, err := w.conn.SwitchUser(w.Context(), chatconn.User{ID: "jane"}, w.source("jane")); err != nil {
					w.Error(err)
				}
			},
			ends: is(chatconn.ErrDisconnected), loads: 1, within: 3 * time.Second, state: fsm.Connected},
		{name: "Close in the middle", load: obedient,
			middle: func(w *world) { w.close() },
			ends:   is(chatconn.ErrClosed), loads: 1, within: 3 * time.Second, state: fsm.Offline},
		{name: "a pause in the middle",
			load: func(ctx context.Context, load int) error {
				if load == 1 {
					return obedient(ctx, load)
				}
				return nil
			},
			middle: func(w *world) { w.conn.Background(); time.Sleep(time.Second); w.conn.Foreground() },
			ends:   served, loads: 2, within: 5 * time.Second, state: fsm.Connected},
		{name: "the socket drops in the middle",
			load:   func(context.Context, int) error { time.Sleep(5 * time.Second); return nil },
			middle: func(w *world) { w.server.CloseAll(1012, "") },
			ends:   served, loads: 1, within: 6 * time.Second, state: fsm.Connected},
		{name: "the socket is told the same in the middle",
			load:   func(context.Context, int) error { time.Sleep(5 * time.Second); return nil },
			middle: func(w *world) { w.server.Kick("john", devserver.APIError{Code: 40}) },
			ends:   served, loads: 1, within: 6 * time.Second, state: fsm.Connected},
	} {
		t.Run(c.name, func(t *testing.T) {
			tap, configure := tapped(nil)
			inWorld(t, configure, func(w *world) {
				defer tap.CloseIdleConnections()
				var loading atomic.Int64 // when the first load after the expiry began
				s := w.source("john")
				session := w.login(s)
				s.meddle = func(ctx context.Context, call int) error {
					loading.CompareAndSwap(0, time.Now().UnixNano())
					return c.load(ctx, call-1)
				}
				w.net.SetLatency(10 * time.Millisecond)
				if c.server != nil {
					c.server(w.server)
				}

				began := time.Now()
				first := w.send(w.Context(), inFlight, "in-flight")
				old := tap.list()[0].token
				w.server.ExpireTokens("john", false)
				time.Sleep(45 * time.Millisecond) // dialled, sent, answered
				if loading.Load() == 0 {
					w.Fatal("no load began")
				}
				second := w.send(w.Context(), late, "late")
				if c.name == "load takes a second" {
					if got := w.conn.Stats().Waiting; got != inFlight+late {
						w.Errorf("%d requests wait", got)
					}
					if open, ok := w.conn.Session(); !ok || open.ConnectionID != session.ConnectionID || w.conn.State() != fsm.Refreshing {
						w.Errorf("Q3: %v while the token is replaced, session %v", w.conn.State(), ok)
					}
				}
				if c.middle != nil {
					time.Sleep(2 * time.Second)
					c.middle(w)
				}
				for range inFlight {
					if o := <-first; !c.ends(o) {
						w.Fatalf("a request in flight ended with %v", o)
					}
				}
				for range late {
					if o := <-second; !c.ends(o) {
						w.Fatalf("a late request ended with %v", o)
					}
				}
				if took := time.Since(began); took > c.within {
					w.Errorf("it took %v", took)
				}
				w.is(c.state)
				if got := s.calls.Load() - 1; got != c.loads && !(c.name == "source refuses for ever" && got >= 3 && got <= c.loads) {
					w.Errorf("%d loads, want %d", got, c.loads)
				}
				stats := w.conn.Stats()
				if stats.Waiting != 0 {
					w.Errorf("%d requests are left", stats.Waiting)
				}
				times, replays := map[string]int{}, 0
				for _, sent := range tap.list() {
					times[sent.mark]++
					if times[sent.mark] == 2 {
						replays++
					}
					if times[sent.mark] > 2 {
						w.Fatalf("%s was sent %d times", sent.mark, times[sent.mark])
					}
					if sent.token == old && sent.at.UnixNano() > loading.Load() {
						w.Fatalf("%s was stamped with the refused token %v after the load began", sent.mark, sent.at.Sub(time.Unix(0, loading.Load())))
					}
				}
				if int(stats.Replays) != replays {
					w.Errorf("%d replays counted, %d seen", stats.Replays, replays)
				}
				if now, open := w.conn.Session(); c.middle == nil && open && now.ConnectionID != session.ConnectionID {
					w.Error("Q3: the healthy socket did not stay open")
				}
				w.close()
			})
		})
	}
}

// Q3, R1: a server that refuses every fresh token is not asked in a loop: each
// request costs at most one round, and rounds are paced.
func TestRefusedForEverIsPaced(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		s := w.source("john")
		w.login(s)
		w.server.FailRequests(-1, devserver.Answer{Code: 40})
		client := w.conn.HTTPClient()
		began, requests := time.Now(), 0
		for time.Since(began) < 10*time.Minute {
			o := do(w.Context(), client, w.server.URL()+"/app", "")
			if o.status != http.StatusUnauthorized {
				w.Fatal(o)
			}
			requests++
			time.Sleep(10 * time.Millisecond)
		}
		if n := s.calls.Load(); n > 50 {
			w.Errorf("%d loads in ten minutes for %d requests", n, requests)
		}
		w.close()
	})
}

// Q3, T4: an answer and the socket refuse the same token at the same instant, in
// whatever order the news comes: one load.
func TestSocketAndAnswerRefuseTogether(t *testing.T) {
	for i := range 50 {
		tap, configure := tapped(nil)
		inWorld(t, configure, func(w *world) {
			defer tap.CloseIdleConnections()
			s := w.source("john")
			w.login(s)
			s.meddle = func(context.Context, int) error {
				if i%2 == 0 {
					time.Sleep(time.Second)
				}
				return nil
			}
			w.net.SetLatency(10 * time.Millisecond)
			all := w.send(w.Context(), 20, "")
			// An upgraded socket hears at once what requests hear after their dial
			// and their way there.
			time.Sleep(20 * time.Millisecond)
			w.server.ExpireTokens("john", false)
			time.Sleep(10 * time.Millisecond)
			w.server.Kick("john", devserver.APIError{Code: 40})
			for range 20 {
				if o := <-all; o.status != http.StatusOK {
					w.Error(o)
				}
			}
			w.be(fsm.Connected)
			if n := s.calls.Load(); n != 2 {
				w.Errorf("%d loads, want one for the login and one for the refusal", n)
			}
			w.close()
		})
	}
}

// Q3: the socket drops while the token is replaced: the load goes on, is not
// doubled, and the reconnect uses the fresh token.
func TestSocketDropsWhileRefreshing(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		s := w.source("john")
		session := w.login(s)
		s.meddle = func(context.Context, int) error { time.Sleep(3 * time.Second); return nil }
		w.server.ExpireTokens("john", false)
		all := w.send(w.Context(), 3, "")
		w.is(fsm.Refreshing)
		w.server.DropAll()
		synctest.Wait()
		if _, open := w.conn.Session(); open {
			w.Error("the dropped socket counts as open")
		}
		w.is(fsm.Refreshing)
		for range 3 {
			if o := <-all; o.status != http.StatusOK {
				w.Error(o)
			}
		}
		w.be(fsm.Connected)
		if now, _ := w.conn.Session(); now.ConnectionID == session.ConnectionID {
			w.Error("the old session is still there")
		}
		if stats := w.conn.Stats(); stats.Loads != 2 || stats.Attempts != 2 {
			w.Errorf("%d loads and %d dials, want two of each", stats.Loads, stats.Attempts)
		}
		w.close()
	})
}

// Q1: what is added to a request, over what the caller put there; the caller's
// own request is not touched.
func TestStamps(t *testing.T) {
	tap, configure := tapped(nil)
	inWorld(t, configure, func(w *world) {
		defer tap.CloseIdleConnections()
		session := w.login(w.source("john"))
		req, err := http.NewRequestWithContext(w.Context(), http.MethodGet,
			w.server.URL()+"/app?q=a%20b&user_id=jane&api_key=other&connection_id=x&user_ids=1", nil)
		if err != nil {
			w.Fatal(err)
		}
		req.Header.Set("Authorization", "mine")
		url := req.URL.String()
		resp, err := w.conn.HTTPClient().Do(req)
		if err != nil {
			w.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			w.Errorf("status %d", resp.StatusCode)
		}
		want := "q=a%20b&user_ids=1&api_key=" + w.config.APIKey + "&user_id=john&connection_id=" + session.ConnectionID
		if got := tap.list()[0].query; got != want {
			w.Errorf("query %q, want %q", got, want)
		}
		if req.URL.String() != url || req.Header.Get("Authorization") != "mine" || len(req.Header) != 1 {
			w.Errorf("the caller's request was changed: %v, %v", req.URL, req.Header)
		}
		if resp.Request.Header.Get("Authorization") != "mine" {
			w.Error("T11: the response's request shows the token")
		}
		last := w.server.Log()[len(w.server.Log())-1]
		if last.Auth != "header" || last.ConnectionID != session.ConnectionID || !strings.HasPrefix(last.Client, "chatconn-go-v") {
			w.Errorf("the server saw %+v", last)
		}
		w.close()
	})
}

// Q2: by state.
func TestRequestsByState(t *testing.T) {
	get := func(w *world) outcome {
		ctx, cancel := context.WithTimeout(w.Context(), 10*time.Second)
		defer cancel()
		return do(ctx, w.conn.HTTPClient(), w.server.URL()+"/app", "")
	}
	sent := func(w *world) {
		w.Helper()
		if o := get(w); o.status != http.StatusOK || o.took != 0 {
			w.Errorf("%v, want an answer at once", o)
		}
	}
	refused := func(want error) func(*world) {
		return func(w *world) {
			w.Helper()
			if o := get(w); !errors.Is(o.err, want) || o.took != 0 {
				w.Errorf("%v, want %v at once", o, want)
			}
		}
	}
	waits := func(w *world) {
		w.Helper()
		if o := get(w); !errors.Is(o.err, context.DeadlineExceeded) {
			w.Errorf("%v, want it to wait", o)
		}
	}
	for _, c := range []struct {
		name  string
		reach func(w *world, s *source)
		state fsm.State
		want  func(*world)
	}{
		{"offline, no user", func(*world, *source) {}, fsm.Offline, refused(chatconn.ErrNoUser)},
		{"offline after DisconnectSocket", func(w *world, s *source) {
			w.login(s)
			_ = w.conn.DisconnectSocket(w.Context())
		}, fsm.Offline, refused(chatconn.ErrDisconnected)},
		{"offline after a final error", func(w *world, s *source) {
			w.login(s)
			w.server.Kick("", devserver.APIError{Code: 99})
		}, fsm.Offline, refused(chatconn.ErrDisconnected)},
		{"closed", func(w *world, s *source) { w.close() }, fsm.Offline, refused(chatconn.ErrClosed)},
		{"connecting without a token", func(w *world, s *source) {
			s.meddle = obedient
			w.connect(w.Context(), s)
		}, fsm.Connecting, waits},
		{"connecting with a token", func(w *world, s *source) {
			w.server.Silence(true)
			w.connect(w.Context(), s)
		}, fsm.Connecting, sent},
		{"waiting to reconnect", func(w *world, s *source) {
			w.login(s)
			w.server.CloseAll(1012, "")
			synctest.Wait()
		}, fsm.Connecting, sent},
		{"connected", func(w *world, s *source) { w.login(s) }, fsm.Connected, sent},
		{"refreshing", func(w *world, s *source) {
			w.login(s)
			s.meddle = obedient
			w.server.ExpireTokens("", true)
		}, fsm.Refreshing, waits},
		{"paused with a token", func(w *world, s *source) {
			w.login(s)
			w.conn.Background()
		}, fsm.Paused, sent},
		{"paused before the first token", func(w *world, s *source) {
			w.conn.Background()
			w.connect(w.Context(), s)
		}, fsm.Paused, waits},
	} {
		t.Run(c.name, func(t *testing.T) {
			inWorld(t, nil, func(w *world) {
				c.reach(w, w.source("john"))
				w.is(c.state)
				c.want(w)
				w.close()
			})
		})
	}
}

// Q2: a 40 while Paused goes to its caller; the token is dropped, and loaded anew
// on leaving.
func TestRefusedWhilePaused(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		s := w.source("john")
		w.login(s)
		w.conn.Background()
		w.is(fsm.Paused)
		w.server.ExpireTokens("john", false)
		if o := do(w.Context(), w.conn.HTTPClient(), w.server.URL()+"/app", ""); o.status != http.StatusUnauthorized {
			w.Error(o)
		}
		w.is(fsm.Paused)
		time.Sleep(time.Hour)
		if n := s.calls.Load(); n != 1 {
			w.Errorf("%d loads while Paused", n)
		}
		w.conn.Foreground()
		w.be(fsm.Connected)
		if n := s.calls.Load(); n != 2 {
			w.Errorf("%d loads, want a second one on leaving", n)
		}
		w.close()
	})
}

// Q3: with a static token the caller gets the 40 as it came, and nothing moves.
func TestRefusedStaticToken(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		if _, err := w.conn.ConnectUser(w.Context(), chatconn.User{ID: "john"}, tokens.Static(w.server.Token("john", 0))); err != nil {
			w.Fatal(err)
		}
		w.server.ExpireTokens("john", false)
		for range 3 {
			if o := do(w.Context(), w.conn.HTTPClient(), w.server.URL()+"/app", ""); o.status != http.StatusUnauthorized || !strings.Contains(o.body, `"code":40`) {
				w.Error(o)
			}
		}
		w.is(fsm.Connected)
		if stats := w.conn.Stats(); stats.Replays != 0 || stats.Loads != 1 {
			w.Errorf("%+v", stats)
		}
		w.close()
	})
}

// E: every answer other than a 40 goes to its caller, byte for byte, and moves
// nothing.
func TestOtherAnswersGoToTheirCaller(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		w.login(w.source("john"))
		html := "<html>" + strings.Repeat("x", 200<<10) // longer than what is looked at
		for _, a := range []devserver.Answer{
			{Status: 401, Code: 43}, {Status: 401, Code: 5}, {Status: 403, Code: 17}, {Status: 429, Code: 9, RetryAfter: time.Minute},
			{Status: 500, Body: html, ContentType: "text/html"}, {Status: 401, Body: `{"code":"40"}`}, {Status: 401, Body: `{"CODE":40}`},
			{Status: 401, Body: "[40]"}, {Status: 502, Body: "Bad Gateway"}, {Status: 204},
		} {
			w.server.FailRequests(1, a)
			o := do(w.Context(), w.conn.HTTPClient(), w.server.URL()+"/app", "")
			if o.err != nil || o.status != a.Status || a.Body != "" && o.body != a.Body {
				w.Errorf("%+v ended as %d, %d bytes, %v", a, o.status, len(o.body), o.err)
			}
			w.is(fsm.Connected)
		}
		if stats := w.conn.Stats(); stats.Replays != 0 || stats.Loads != 1 {
			w.Errorf("%+v", stats)
		}
		w.close()
	})
}

// Q4: what waits is bounded by number, bytes, time and the request's context, and
// beyond it there is a typed error at once.
func TestWaitingIsBounded(t *testing.T) {
	post := func(ctx context.Context, w *world, n int) <-chan outcome {
		result := make(chan outcome, 1)
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.server.URL()+"/sync", bytes.NewReader(make([]byte, n)))
		if err != nil {
			w.Fatal(err)
		}
		go func() {
			began := time.Now()
			resp, err := w.conn.HTTPClient().Do(req)
			if err == nil {
				resp.Body.Close()
			}
			result <- outcome{err: err, took: time.Since(began)}
		}()
		synctest.Wait()
		return result
	}
	configure := func(c *chatconn.Config) {
		c.MaxWaitingRequests, c.MaxWaitingBytes, c.RequestWait = 3, 1000, 20*time.Second
	}
	inWorld(t, configure, func(w *world) {
		s := w.source("john")
		s.meddle = obedient
		waits := w.connect(w.Context(), s)

		ctx, cancel := context.WithCancelCause(w.Context())
		first, second := post(ctx, w, 600), post(w.Context(), w, 400)
		if o := <-post(w.Context(), w, 1); !errors.Is(o.err, chatconn.ErrTooManyRequests) || o.took != 0 {
			w.Errorf("one byte too many: %v", o)
		}
		third := post(w.Context(), w, 0)
		if o := <-post(w.Context(), w, 0); !errors.Is(o.err, chatconn.ErrTooManyRequests) || o.took != 0 {
			w.Errorf("one request too many: %v", o)
		}
		if n := w.conn.Stats().Waiting; n != 3 {
			w.Errorf("%d wait", n)
		}
		time.Sleep(5 * time.Second)
		why := errors.New("why")
		cancel(why)
		if o := <-first; !errors.Is(o.err, context.Canceled) && !errors.Is(o.err, why) || o.took != 5*time.Second {
			w.Errorf("cancelled while it waits: %v", o)
		}
		if n := w.conn.Stats().Waiting; n != 2 {
			w.Errorf("%d wait after one left", n)
		}
		fourth := post(w.Context(), w, 600) // its place and its bytes are free again
		for i, c := range []<-chan outcome{second, third, fourth} {
			if o := <-c; !errors.Is(o.err, chatconn.ErrRequestTimeout) || o.took != 20*time.Second {
				w.Errorf("number %d: %v, want the end after 20 s", i+2, o)
			}
		}
		if n := w.conn.Stats().Waiting; n != 0 {
			w.Errorf("%d wait at the end", n)
		}
		w.close()
		wantError(w, "connect", <-waits, chatconn.ErrClosed)
	})
}

// Q5: bodies are replayed with GetBody or a buffer that is filled before anything
// is sent; one that is too long is sent once, and its caller gets the 40.
func TestBodiesAreReplayed(t *testing.T) {
	type unnamed struct{ io.Reader } // hides what http.NewRequest knows about readers
	text := strings.Repeat("0123456789", 1000)
	for _, c := range []struct {
		name   string
		req    func(w *world) (io.Reader, int64, func() (io.ReadCloser, error))
		status int
		counts uint64 // not replayable
	}{
		{"GetBody", func(*world) (io.Reader, int64, func() (io.ReadCloser, error)) {
			return strings.NewReader(text), int64(len(text)), func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(text)), nil }
		}, http.StatusOK, 0},
		{"GetBody that fails", func(*world) (io.Reader, int64, func() (io.ReadCloser, error)) {
			return strings.NewReader(text), int64(len(text)), func() (io.ReadCloser, error) { return nil, errors.New("gone") }
		}, http.StatusUnauthorized, 1},
		{"buffer of known length", func(*world) (io.Reader, int64, func() (io.ReadCloser, error)) {
			return unnamed{strings.NewReader(text)}, int64(len(text)), nil
		}, http.StatusOK, 0},
		{"buffer of unknown length", func(*world) (io.Reader, int64, func() (io.ReadCloser, error)) {
			return unnamed{strings.NewReader(text)}, -1, nil
		}, http.StatusOK, 0},
		{"too long, of known length", func(*world) (io.Reader, int64, func() (io.ReadCloser, error)) {
			return unnamed{strings.NewReader(text + text)}, int64(2 * len(text)), nil
		}, http.StatusUnauthorized, 1},
		{"too long, of unknown length", func(*world) (io.Reader, int64, func() (io.ReadCloser, error)) {
			return unnamed{strings.NewReader(text + text)}, -1, nil
		}, http.StatusUnauthorized, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			var logs lockedBuffer
			configure := func(cfg *chatconn.Config) {
				cfg.MaxReplayBody = 15_000
				cfg.Logger = slog.New(slog.NewTextHandler(&logs, nil))
			}
			inWorld(t, configure, func(w *world) {
				refused := false
				w.front(func(rw http.ResponseWriter, r *http.Request) bool {
					if r.URL.Path != "/echo" {
						return false
					}
					if body, err := io.ReadAll(r.Body); refused {
						rw.Write(body)
					} else if err == nil {
						refused = true
						rw.WriteHeader(http.StatusUnauthorized)
						io.WriteString(rw, `{"code":40,"message":"expired"}`)
					}
					return true
				})
				w.login(w.source("john"))
				body, length, again := c.req(w)
				req, err := http.NewRequestWithContext(w.Context(), http.MethodPost, w.config.BaseURL+"/echo", body)
				if err != nil {
					w.Fatal(err)
				}
				req.ContentLength, req.GetBody = length, again
				resp, err := w.conn.HTTPClient().Do(req)
				if err != nil {
					w.Fatal(err)
				}
				answer, _ := io.ReadAll(resp.Body)
				resp.Body.Close()
				if resp.StatusCode != c.status {
					w.Fatalf("status %d, want %d: %s", resp.StatusCode, c.status, answer)
				}
				if c.status == http.StatusOK && string(answer) != text {
					w.Errorf("%d bytes arrived, want %d", len(answer), len(text))
				}
				if c.status != http.StatusOK && !strings.Contains(string(answer), `"code":40`) {
					w.Errorf("the 40 did not come as it was: %q", answer)
				}
				w.be(fsm.Connected)
				stats := w.conn.Stats()
				if stats.Unreplayable != c.counts || stats.Loads != 2 || stats.Replays != 1-c.counts {
					w.Errorf("%+v", stats)
				}
				w.close()
				if logged := strings.Contains(logs.String(), "cannot be sent again"); logged != (c.counts == 1) {
					w.Errorf("a log line says why: %t", logged)
				}
			})
		})
	}
}

// lockedBuffer may be written and read by several goroutines.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// Q1, Q6: a request to any other origin passes through untouched, and a redirect
// is not followed, so that nothing of the token leaves the origin.
func TestNothingLeavesTheOrigin(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		w.front(func(rw http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path == "/redirect" {
				http.Redirect(rw, r, "http://other.test:80/x?"+r.URL.RawQuery, http.StatusTemporaryRedirect)
			}
			return r.URL.Path == "/redirect"
		})
		ln, err := w.net.Listen("other.test:80")
		if err != nil {
			w.Fatal(err)
		}
		seen := make(chan *http.Request, 10)
		other := &http.Server{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { seen <- r })}
		go other.Serve(ln)
		defer other.Close()
		w.login(w.source("john"))
		client := w.conn.HTTPClient()

		if o := do(w.Context(), client, w.config.BaseURL+"/redirect", ""); o.status != http.StatusTemporaryRedirect {
			w.Error(o)
		}
		if len(seen) != 0 {
			w.Error("the redirect was followed")
		}
		for _, path := range []string{"http://other.test/x?a=b&user_id=1", "http://other.test:80/x?a=b&user_id=1"} {
			if o := do(w.Context(), client, path, "m"); o.status != http.StatusOK {
				w.Fatal(o)
			}
			r := <-seen
			for _, name := range []string{"Authorization", "Stream-Auth-Type", "X-Stream-Client"} {
				if r.Header.Get(name) != "" {
					w.Errorf("%s went to another origin", name)
				}
			}
			if r.URL.RawQuery != "a=b&user_id=1" || r.Header.Get(markHeader) != "m" {
				w.Errorf("the request was changed: %v", r.URL)
			}
		}
		// Nor does it wait for a token, or need a user.
		if err := w.conn.Disconnect(w.Context(), chatconn.KeepPersistence); err != nil {
			w.Error(err)
		}
		if o := do(w.Context(), client, "http://other.test/x", ""); o.status != http.StatusOK {
			w.Error(o)
		}
		<-seen
		w.close()
	})
}

// front puts a handler before the dev server, on an address of its own, and
// remakes the Conn for that address. The handler returns false for what is the
// dev server's.
func (w *world) front(handle func(http.ResponseWriter, *http.Request) bool) {
	w.Helper()
	const addr = "127.0.0.1:81"
	ln, err := w.net.Listen(addr)
	if err != nil {
		w.Fatal(err)
	}
	next := w.server.Handler()
	server := &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if !handle(rw, r) {
			next.ServeHTTP(rw, r)
		}
	})}
	go server.Serve(ln)
	w.Cleanup(func() { server.Close() })
	w.config.BaseURL = "http://" + addr
	w.conn = w.newConn()
}

// C8: requests race SwitchUser a thousand times. The server checks of each that
// its token is its user's, and nothing is lost.
func TestRequestsRaceSwitchUser(t *testing.T) {
	inWorld(t, func(c *chatconn.Config) { c.MinDialInterval = -1 }, func(w *world) {
		w.net.SetLatency(time.Millisecond)
		raceSwitchUser(w, 1000)
	})
}

// raceSwitchUser switches to and fro while requests are made. All of them end, and
// none carries a token of one user and the name of the other.
func raceSwitchUser(w *world, switches int) {
	users := []*source{w.source("john"), w.source("jane")}
	w.login(users[0])
	ctx, cancel := context.WithCancel(w.Context())
	defer cancel()
	var group sync.WaitGroup
	var made, served atomic.Int64
	client := w.conn.HTTPClient()
	for range 8 {
		group.Go(func() {
			for ctx.Err() == nil {
				o := do(w.Context(), client, w.config.BaseURL+"/app", "")
				made.Add(1)
				switch {
				case o.err == nil && o.status == http.StatusOK:
					served.Add(1)
				case errors.Is(o.err, chatconn.ErrDisconnected), errors.Is(o.err, chatconn.ErrNoUser):
				default:
					w.Errorf("a request ended with %d %s, %v", o.status, o.body, o.err)
				}
			}
		})
	}
	for i := range switches {
		s := users[(i+1)%2]
		if _, err := w.conn.SwitchUser(w.Context(), chatconn.User{ID: s.user}, s); err != nil {
			w.Errorf("switch %d: %v", i, err)
		}
	}
	cancel()
	group.Wait()
	if served.Load() < int64(switches)/10 {
		w.Errorf("of %d requests %d were served", made.Load(), served.Load())
	}
	for _, e := range w.server.Log() {
		if e.Kind == devserver.Request && e.Status != http.StatusOK {
			w.Errorf("the server refused a request: %+v", e)
		}
	}
	w.close()
}

// The same on real sockets: a burst at expiry and the race of users.
func TestRequestsOnRealSockets(t *testing.T) {
	server, err := devserver.Start(devserver.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	tap := &wiretap{}
	tap.MaxIdleConnsPerHost = 100
	defer tap.CloseIdleConnections()
	w := &world{T: t, server: server}
	w.config = chatconn.Config{APIKey: server.APIKey(), BaseURL: server.URL(), HTTPTransport: tap, MinDialInterval: -1}
	w.conn = w.newConn()
	s := w.source("john")
	session := w.login(s)

	server.ExpireTokens("john", false)
	client := w.conn.HTTPClient()
	var group sync.WaitGroup
	for range 1000 {
		group.Go(func() {
			if o := do(w.Context(), client, server.URL()+"/app", ""); o.err != nil || o.status != http.StatusOK {
				w.Error(o)
			}
		})
	}
	group.Wait()
	if n := s.calls.Load(); n != 2 {
		w.Errorf("%d loads, want one for the login and one for the refusal", n)
	}
	if now, open := w.conn.Session(); !open || now.ConnectionID != session.ConnectionID {
		w.Error("Q3: the healthy socket did not stay open")
	}
	if err := w.conn.Disconnect(w.Context(), chatconn.KeepPersistence); err != nil {
		w.Error(err)
	}
	server.Heal()

	again, err := devserver.Start(devserver.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	w.server, w.config.BaseURL, w.config.APIKey = again, again.URL(), again.APIKey()
	w.conn = w.newConn()
	raceSwitchUser(w, 200)
}

// Q4: a request ends with its context although nobody writes to its body any more,
// whether the body's Close wakes its reader or not.
func TestBodyThatNeverEnds(t *testing.T) {
	for name, body := range map[string]func(*io.PipeReader) io.Reader{
		"a pipe":            func(r *io.PipeReader) io.Reader { return r },
		"a deaf body":       func(r *io.PipeReader) io.Reader { return io.NopCloser(r) },
		"a reader, no more": func(r *io.PipeReader) io.Reader { return struct{ io.Reader }{r} },
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, nil, func(w *world) {
				w.login(w.source("john"))
				ctx, cancel := context.WithTimeout(w.Context(), time.Second)
				defer cancel()
				r, pipe := io.Pipe()
				req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.server.URL()+"/sync", body(r))
				if err != nil {
					w.Fatal(err)
				}
				time.AfterFunc(time.Hour, func() { pipe.Close() })
				began := time.Now()
				resp, err := w.conn.HTTPClient().Do(req)
				if err == nil {
					resp.Body.Close()
				}
				wantError(w, "the request", err, context.DeadlineExceeded)
				if took := time.Since(began); took != time.Second {
					w.Errorf("it took %v", took)
				}
				if name == "a pipe" {
					if _, err := pipe.Write([]byte("x")); !errors.Is(err, io.ErrClosedPipe) {
						w.Errorf("the body is not closed: %v", err)
					}
				}
				time.Sleep(time.Hour)
				w.close()
			})
		})
	}
}

// C7, C9, Q4: a request that is on its way is the program's. Neither Disconnect nor
// Close waits for it or ends it, and its connection goes with it; one whose
// connection is being opened ends with the user.
func TestRequestsOutliveClose(t *testing.T) {
	for name, leave := range map[string]func(*world) error{
		"Disconnect": func(w *world) error { return w.conn.Disconnect(w.Context(), chatconn.KeepPersistence) },
		"Close":      func(w *world) error { return w.conn.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, nil, func(w *world) {
				w.login(w.source("john"))
				w.server.Slow(10 * time.Second)
				answered := w.send(w.Context(), 1, "answered")
				ctx, cancel := context.WithTimeout(w.Context(), 5*time.Second)
				defer cancel()
				given := w.send(ctx, 1, "given up")
				w.net.BlackHole(true) // and dials hang
				opening := w.send(w.Context(), 1, "opening")
				began := time.Now()
				if err := leave(w); err != nil {
					w.Error(err)
				}
				if took := time.Since(began); took > 1100*time.Millisecond {
					w.Errorf("it took %v", took)
				}
				w.net.BlackHole(false)
				if o := <-opening; !errors.Is(o.err, chatconn.ErrDisconnected) {
					w.Errorf("whose connection was being opened: %v", o)
				}
				if o := <-given; !errors.Is(o.err, context.DeadlineExceeded) || o.took != 5*time.Second {
					w.Errorf("whose context ended: %v", o)
				}
				if o := <-answered; o.status != http.StatusOK || o.took != 10*time.Second {
					w.Errorf("that was answered: %v", o)
				}
				synctest.Wait()
				if n := w.net.Open(); n != 0 {
					w.Errorf("%d connections are open", n)
				}
				if name != "Close" {
					w.close()
				}
			})
		})
	}
}
