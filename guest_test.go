package chatconn_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
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

// gina is whom the tests ask a guest for.
var gina = chatconn.User{ID: "gina", Name: "Gina", Extra: map[string]any{"score": 1.5}}

// guest connects a guest and fails the test if that does not work.
func (w *world) guest() chatconn.Session {
	w.Helper()
	session, err := w.conn.ConnectGuest(w.Context(), gina)
	if err != nil {
		w.Fatalf("connect a guest: %v", err)
	}
	return session
}

// exchanges counts the guest exchanges that reached the server.
func (w *world) exchanges() (n int) {
	for _, e := range w.server.Log() {
		if e.Kind == devserver.Request && e.Path == "/guest" {
			n++
		}
	}
	return n
}

// call makes an API request and returns the status and the code of its answer.
func (w *world) call(path, body string) (status, code int) {
	w.Helper()
	resp, err := w.conn.HTTPClient().Post(w.server.URL()+path, "application/json", strings.NewReader(body))
	if err != nil {
		w.Fatal(err)
	}
	defer resp.Body.Close()
	var answer struct{ Code int }
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		w.Fatal(err)
	}
	return resp.StatusCode, answer.Code
}

// may checks what the server lets the connected user do: "rcsm" for reading,
// creating, sending and marking as read.
func (w *world) may(channel, want string) {
	w.Helper()
	got := ""
	for _, do := range []struct{ letter, path string }{
		{"r", "/query"}, {"c", fmt.Sprintf("-%d/query", len(w.server.Log()))}, {"s", "/message"}, {"m", "/read"},
	} {
		status, code := w.call("/channels/"+channel+do.path, `{"message":{"text":"x"}}`)
		switch {
		case status/100 == 2:
			got += do.letter
		case status != http.StatusForbidden || code != 17:
			w.Errorf("%s%s: status %d, code %d", channel, do.path, status, code)
		}
	}
	if got != want {
		w.Errorf("in %s the user may %q, want %q", channel, got, want)
	}
}

// T9: a guest is another person than the one asked for, made by one exchange that
// carries no token; everything after it is theirs.
func TestT9_Guest(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		session := w.guest()
		guest := session.User
		if guest.ID == gina.ID || !strings.HasPrefix(guest.ID, "guest-") || guest.Name != "Gina" || guest.Extra["score"] != 1.5 || guest.Extra["role"] != "guest" {
			w.Errorf("the session's user: %+v", guest)
		}
		user, ok := w.conn.CurrentUser()
		if !ok || user.ID != guest.ID || user.Name != "Gina" || user.Extra["score"] != 1.5 || user.Extra["role"] != nil {
			w.Errorf("the current user: %+v, %t", user, ok)
		}
		w.call("/channels/livestream/show/query", "{}")
		for _, e := range w.server.Log() {
			switch {
			case e.Path == "/guest":
				if e.UserID != "!anon" || e.Auth != "" || e.Client == "" || e.Status != http.StatusCreated {
					w.Errorf("the exchange: %+v", e)
				}
			case e.Kind == devserver.Connect:
				var details map[string]any
				if err := json.Unmarshal(e.Details, &details); err != nil || e.UserID != guest.ID || e.Auth != "header" || details["id"] != guest.ID ||
					details["name"] != "Gina" || details["role"] != nil || details["created_at"] != nil || details["online"] != nil {
					w.Errorf("the login: %+v %s", e, e.Details)
				}
			case e.Kind == devserver.Request:
				if e.UserID != guest.ID || e.Auth != "header" || e.ConnectionID != session.ConnectionID {
					w.Errorf("the request: %+v", e)
				}
			}
		}
		if w.exchanges() != 1 {
			w.Errorf("%d exchanges", w.exchanges())
		}
		w.close()
	})
}

// T9, T10, D2: the server tells guests, members and the anonymous apart; its "no" is
// an answer to the caller and nothing to the connection.
func TestT9_Permissions(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		add := func(cid string, users ...string) {
			if err := w.server.AddMember(cid, users...); err != nil {
				w.Fatal(err)
			}
		}
		add("livestream:show", "alice")
		add("messaging:room", "alice")

		guest := w.guest().User.ID
		w.may("livestream/show", "rs")
		w.may("messaging/room", "")
		add("messaging:room", guest)
		w.may("messaging/room", "rsm")
		w.is(fsm.Connected)

		if _, err := w.conn.SwitchUser(w.Context(), chatconn.User{ID: "alice"}, w.source("alice")); err != nil {
			w.Fatal(err)
		}
		w.may("livestream/show", "rcsm")
		w.may("messaging/room", "rcsm")

		if err := w.conn.Disconnect(w.Context(), chatconn.KeepPersistence); err != nil {
			w.Fatal(err)
		}
		if _, err := w.conn.ConnectAnonymous(w.Context()); err != nil {
			w.Fatal(err)
		}
		w.may("livestream/show", "r")
		w.may("messaging/room", "")
		w.is(fsm.Connected)
		w.close()
	})
}

// T9: whatever becomes of the connection, the guest stays the same person: nothing
// but Disconnect leads to a second exchange.
func TestT9_NeverASecondPerson(t *testing.T) {
	reconnect := func(w *world) {
		if _, err := w.conn.ReconnectSocket(w.Context()); err != nil {
			w.Error(err)
		}
	}
	for name, trouble := range map[string]func(w *world){
		"a lost socket": func(w *world) { w.server.DropAll() },
		"a restart":     func(w *world) { w.server.Stop(); time.Sleep(time.Minute); _ = w.server.Restart() },
		"silence":       func(w *world) { w.net.BlackHole(true); time.Sleep(time.Minute); w.net.BlackHole(false) },
		"background":    func(w *world) { w.conn.Background(); time.Sleep(time.Hour); w.conn.Foreground() },
		"too early":     func(w *world) { w.server.Kick("", devserver.APIError{Code: 41}) },
		"no socket":     func(w *world) { _ = w.conn.DisconnectSocket(w.Context()); reconnect(w) },
		"no socket, and asked for again": func(w *world) {
			_ = w.conn.DisconnectSocket(w.Context())
			w.guest()
		},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, nil, func(w *world) {
				before := w.guest()
				time.Sleep(time.Minute)
				trouble(w)
				synctest.Wait()
				w.be(fsm.Connected)
				after, ok := w.conn.Session()
				if !ok || after.User.ID != before.User.ID || after.ConnectionID == before.ConnectionID || w.exchanges() != 1 {
					w.Errorf("%+v became %+v after %d exchanges", before, after, w.exchanges())
				}
				if user, _ := w.conn.CurrentUser(); user.ID != before.User.ID {
					w.Errorf("the current user is %+v", user)
				}
				w.close()
			})
		})
	}
	inWorld(t, nil, func(w *world) {
		before := w.guest()
		if err := w.conn.Disconnect(w.Context(), chatconn.KeepPersistence); err != nil {
			w.Error(err)
		}
		if after := w.guest(); after.User.ID == before.User.ID || w.exchanges() != 2 {
			w.Error("after Disconnect it is somebody new")
		}
		w.close()
	})
}

// T9, C4: the guest who is set is that guest while they are connected again, and
// the server is not told again who they are; a wish that was never granted may
// still change.
func TestT9_AskedForAgain(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		guest := w.guest().User.ID
		if err := w.conn.DisconnectSocket(w.Context()); err != nil {
			w.Error(err)
		}
		w.server.Stop()
		result := make(chan error, 1)
		go func() {
			_, err := w.conn.ConnectGuest(w.Context(), gina)
			result <- err
		}()
		synctest.Wait()
		if user, ok := w.conn.CurrentUser(); !ok || user.ID != guest {
			w.Errorf("the current user is %+v, %t", user, ok)
		}
		if err := w.server.Restart(); err != nil {
			w.Error(err)
		}
		if err := <-result; err != nil {
			w.Error(err)
		}
		var logins []string
		for _, e := range w.server.Log() {
			if e.Kind == devserver.Connect {
				logins = append(logins, string(e.Details))
			}
		}
		if want := fmt.Sprintf(`{"id":%q}`, guest); len(logins) != 2 || logins[0] == want || logins[1] != want {
			w.Errorf("logins with %v", logins)
		}
		w.close()
	})
	inWorld(t, nil, func(w *world) {
		w.server.SilenceHTTP(true)
		go func() { _, _ = w.conn.ConnectGuest(w.Context(), gina) }()
		synctest.Wait()
		if err := w.conn.DisconnectSocket(w.Context()); err != nil {
			w.Error(err)
		}
		w.server.SilenceHTTP(false)
		if s, err := w.conn.ConnectGuest(w.Context(), chatconn.User{ID: "gina", Name: "Regina"}); err != nil || s.User.Name != "Regina" {
			w.Errorf("%+v, %v", s, err)
		}
		w.close()
	})
}

// T9: the service names its guests as it likes, even as no program may name a user.
func TestT9_AnyIDOfTheService(t *testing.T) {
	for _, id := range []string{"guest-" + strings.Repeat("x", 300), "guest\t1"} {
		onWire(t, func(p *peer) {
			p.accept()
			p.say(`{"type":"health.check","connection_id":"first"}`)
			p.serve(`{"type":"health.check","connection_id":"first"}`)
		}, func(w *wire) {
			w.api = func(p *peer) {
				token, err := tokens.Sign([]byte("the secret of the wire"), tokens.Claims{UserID: id})
				if err != nil {
					w.Error(err)
				}
				answer, _ := json.Marshal(map[string]any{"user": map[string]any{"id": id}, "access_token": token})
				p.answer(201, string(answer), "Content-Type: application/json")
			}
			ctx, cancel := context.WithTimeout(w.Context(), time.Minute)
			defer cancel()
			if session, err := w.conn.ConnectGuest(ctx, gina); err != nil || session.User.ID != id {
				w.Errorf("the guest is %q, %v", session.User.ID, err)
			}
		})
	}
}

// T9, E: a guest's token is not refreshed: 40 on the socket is final, 40 on a
// request is its caller's.
func TestT9_ExpiredIsFinal(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		guest := w.guest().User.ID
		w.server.ExpireTokens(guest, false)
		if status, code := w.call("/channels/livestream/show/query", "{}"); status != 401 || code != 40 {
			w.Errorf("the request: %d, code %d", status, code)
		}
		w.is(fsm.Connected)

		w.server.ExpireTokens(guest, true)
		w.be(fsm.Offline)
		wantError(t, "the socket", w.conn.Stats().LastError, chatconn.ErrTokenExpired)
		if user, ok := w.conn.CurrentUser(); !ok || user.ID != guest {
			w.Errorf("a later final error keeps the user: %+v, %t", user, ok)
		}
		_, err := w.conn.ReconnectSocket(w.Context())
		wantError(t, "ReconnectSocket", err, chatconn.ErrTokenExpired)
		_, err = w.conn.ConnectGuest(w.Context(), gina)
		wantError(t, "ConnectGuest", err, chatconn.ErrTokenExpired)
		if w.exchanges() != 1 {
			w.Errorf("%d exchanges", w.exchanges())
		}
		w.is(fsm.Offline)
		w.close()
	})
}

// T9: the exchange goes past the requests that wait: for its own token, or for
// another user's while that is replaced, however many there may be.
func TestT9_PastTheQueue(t *testing.T) {
	one := func(c *chatconn.Config) { c.MaxWaitingRequests = 1 }
	t.Run("ConnectGuest", func(t *testing.T) {
		inWorld(t, one, func(w *world) {
			w.server.Slow(time.Second)
			result := make(chan error, 1)
			go func() {
				_, err := w.conn.ConnectGuest(w.Context(), gina)
				result <- err
			}()
			synctest.Wait()
			waits := w.get(w.Context(), "/app")
			if n := w.conn.Stats().Waiting; n != 1 {
				w.Errorf("%d requests wait", n)
			}
			wantError(t, "a request too many", <-w.get(w.Context(), "/app"), chatconn.ErrTooManyRequests)
			if err := <-waits; err != nil {
				w.Errorf("the request that waited: %v", err)
			}
			if err := <-result; err != nil {
				w.Error(err)
			}
			user, _ := w.conn.CurrentUser()
			for _, e := range w.server.Log() {
				if e.Path == "/app" && e.UserID != user.ID {
					w.Errorf("the request went as %q", e.UserID)
				}
			}
			w.close()
		})
	})
	t.Run("GuestToken", func(t *testing.T) {
		inWorld(t, one, func(w *world) {
			s := w.source("john")
			session := w.login(s)
			s.meddle = obedient
			w.server.ExpireTokens("john", false)
			waits := w.get(w.Context(), "/app")
			w.is(fsm.Refreshing)
			guest, token, err := w.conn.GuestToken(w.Context(), gina)
			if err != nil || !strings.HasPrefix(guest.ID, "guest-") {
				w.Fatalf("%+v, %v", guest, err)
			}
			if now, _ := w.conn.Session(); now.ConnectionID != session.ConnectionID || w.conn.State() != fsm.Refreshing || w.conn.Stats().Waiting != 1 {
				w.Error("the exchange alone changes nothing")
			}
			as, err := w.conn.SwitchUser(w.Context(), guest, tokens.Static(token))
			if err != nil || as.User.ID != guest.ID || as.User.Name != "Gina" || as.User.Extra["role"] != "guest" {
				w.Errorf("%+v, %v", as, err)
			}
			wantError(t, "the request of john", <-waits, chatconn.ErrDisconnected)
			w.close()
		})
	})
}

// T9: what the server may answer to the exchange, and what comes of it.
func TestT9_ExchangeAnswers(t *testing.T) {
	sign := func(claims tokens.Claims) string {
		token, err := tokens.Sign([]byte("the secret of the wire"), claims)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	good := sign(tokens.Claims{UserID: "guest-1-gina"})
	const jsonType, page = "Content-Type: application/json", "Content-Type: text/html"
	var api *chatconn.APIError
	for name, row := range map[string]struct {
		status int
		field  string
		body   string
		final  error // nil: it is asked again, and succeeds
		code   int   // of an APIError
	}{
		"502 in HTML":              {status: 502, field: page, body: "<html>Bad Gateway</html>"},
		"503 in text":              {status: 503, body: "upstream connect error"},
		"429 in text":              {status: 429, field: "Retry-After: 1", body: "slow down"},
		"429 in JSON":              {status: 429, field: jsonType, body: `{"code":9,"StatusCode":429}`},
		"500 in JSON":              {status: 500, field: jsonType, body: `{"code":-1,"StatusCode":500}`},
		"401 in HTML":              {status: 401, field: page, body: "<html>log in</html>"},
		"403 in foreign JSON":      {status: 403, field: jsonType, body: `{"message":"Forbidden"}`},
		"a captive portal":         {status: 200, field: page, body: "<html>welcome</html>"},
		"a redirect":               {status: 307, field: "Location: http://127.0.0.1:80/elsewhere"},
		"an empty answer":          {status: 201},
		"an empty object":          {status: 201, field: jsonType, body: `{}`},
		"a token that is none":     {status: 201, field: jsonType, body: `{"user":{"id":"guest-1-gina"},"access_token":"a.b"}`},
		"more than a MiB":          {status: 201, field: jsonType, body: `{"user":{"id":"guest-1-gina"},"access_token":"` + good + `"}` + strings.Repeat(" ", 1<<20)},
		"a user who is none":       {status: 201, field: jsonType, body: `{"user":"guest-1-gina","access_token":"` + good + `"}`},
		"a number beyond all":      {status: 201, field: jsonType, body: `{"user":{"id":"guest-1-gina","score":1e999},"access_token":"` + good + `"}`},
		"input error":              {400, jsonType, `{"code":4,"message":"user.id is not valid"}`, api, 4},
		"not allowed":              {403, jsonType, `{"code":17,"StatusCode":403,"message":"guests are disabled"}`, api, 17},
		"an unknown key":           {401, jsonType, `{"code":2}`, api, 2},
		"in text, but the service": {403, "Content-Type: text/plain", `{"code":17}`, api, 17},
		"unrecoverable":            {500, jsonType, `{"code":-1,"StatusCode":500,"unrecoverable":true}`, api, -1},
		"another's token":          {201, jsonType, `{"user":{"id":"guest-2-gina"},"access_token":"` + good + `"}`, chatconn.ErrTokenUserMismatch, 0},
		"no user":                  {201, jsonType, `{"access_token":"` + good + `"}`, chatconn.ErrTokenUserMismatch, 0},
	} {
		t.Run(name, func(t *testing.T) {
			// The server of the wire as in wire_test.go, whose sockets are fine.
			onWire(t, func(p *peer) {
				p.accept()
				p.say(`{"type":"health.check","connection_id":"first","me":{"id":"guest-1-gina"}}`)
				p.serve(`{"type":"health.check","connection_id":"first"}`)
			}, func(w *wire) {
				asked := 0
				w.api = func(p *peer) {
					if p.r.Method != http.MethodPost || p.r.URL.Path != "/guest" || p.r.URL.Query().Get("api_key") != "key" ||
						p.r.Header.Get("Stream-Auth-Type") != "anonymous" || p.r.Header["Authorization"] != nil {
						p.t.Errorf("the exchange: %s %s %v", p.r.Method, p.r.URL, p.r.Header)
					}
					body, _ := io.ReadAll(p.r.Body)
					if want := `{"user":{"id":"gina","name":"Gina","score":1.5}}`; string(body) != want {
						p.t.Errorf("it asks for %s, want %s", body, want)
					}
					if asked++; asked == 1 {
						p.answer(row.status, row.body, row.field)
						return
					}
					p.answer(201, `{"user":{"id":"guest-1-gina","name":"Gina"},"access_token":"`+good+`"}`, jsonType)
				}
				began := time.Now()
				ctx, cancel := context.WithTimeout(w.Context(), time.Hour)
				defer cancel()
				session, err := w.conn.ConnectGuest(ctx, gina)
				var refusal *chatconn.APIError
				_, isSet := w.conn.CurrentUser()
				switch {
				case row.final == nil:
					if waited := time.Since(began); err != nil || session.User.ID != "guest-1-gina" || asked != 2 || waited == 0 || waited > 5*time.Second {
						w.Errorf("%+v, %v after %d exchanges and %v", session, err, asked, waited)
					}
				case errors.As(row.final, &refusal):
					if !errors.As(err, &refusal) || refusal.Code != row.code || refusal.StatusCode != row.status {
						w.Errorf("the error is %v", err)
					}
					fallthrough
				default:
					if row.code == 0 && !errors.Is(err, row.final) || asked != 1 || time.Since(began) != 0 || isSet || w.conn.State() != fsm.Offline {
						w.Errorf("%v after %d exchanges and %v, %v, user set %t", err, asked, time.Since(began), w.conn.State(), isSet)
					}
				}
				if strings.Contains(fmt.Sprint(err, w.conn.Stats()), good[:40]) {
					w.Error("T11: the token is in an error")
				}
				// The exchange alone says the same, once.
				asked = 0
				guest, token, err := w.conn.GuestToken(w.Context(), gina)
				if err == nil || guest.ID != "" || token != "" || asked != 1 || row.code != 0 && (!errors.As(err, &refusal) || refusal.Code != row.code) {
					w.Errorf("GuestToken: %+v, %v after %d exchanges", guest, err, asked)
				}
			})
		})
	}
}

// T9, R4, T3: a server that is down is waited for, one that never answers is given
// up after the time of a token load and asked again.
func TestT9_ServerDown(t *testing.T) {
	for name, outage := range map[string]struct{ begin, end func(w *world) }{
		"down":   {func(w *world) { w.server.Stop() }, func(w *world) { _ = w.server.Restart() }},
		"silent": {func(w *world) { w.server.SilenceHTTP(true) }, func(w *world) { w.server.SilenceHTTP(false) }},
		"gone":   {func(w *world) { w.net.BlackHole(true) }, func(w *world) { w.net.BlackHole(false) }},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, nil, func(w *world) {
				outage.begin(w)
				result := make(chan error, 1)
				go func() {
					_, err := w.conn.ConnectGuest(w.Context(), gina)
					result <- err
				}()
				time.Sleep(10 * time.Minute)
				w.is(fsm.Connecting)
				if w.conn.Stats().Loads < 10 || w.conn.Stats().LastError == nil {
					w.Errorf("%+v", w.conn.Stats())
				}
				outage.end(w)
				if err := <-result; err != nil || w.exchanges() != 1 {
					w.Errorf("%v after %d exchanges", err, w.exchanges())
				}
				w.close()
			})
		})
	}
}

// C7, C8, C9, C1: leaving in the middle of the exchange, in every way.
func TestT9_LeaveDuringTheExchange(t *testing.T) {
	type leaving struct {
		leave func(w *world, cancel context.CancelFunc) error
		want  error
		user  string
	}
	for name, row := range map[string]leaving{
		"Disconnect":       {func(w *world, _ context.CancelFunc) error { return w.conn.Disconnect(w.Context(), 0) }, chatconn.ErrDisconnected, ""},
		"DisconnectSocket": {func(w *world, _ context.CancelFunc) error { return w.conn.DisconnectSocket(w.Context()) }, chatconn.ErrDisconnected, "gina"},
		"Close":            {func(w *world, _ context.CancelFunc) error { return w.conn.Close() }, chatconn.ErrClosed, ""},
		"its context":      {func(w *world, cancel context.CancelFunc) error { cancel(); return nil }, context.Canceled, ""},
		"SwitchUser": {func(w *world, _ context.CancelFunc) error {
			w.server.SilenceHTTP(false)
			_, err := w.conn.SwitchUser(w.Context(), chatconn.User{ID: "john"}, w.source("john"))
			return err
		}, chatconn.ErrDisconnected, "john"},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, nil, func(w *world) {
				w.server.SilenceHTTP(true)
				ctx, cancel := context.WithCancel(w.Context())
				defer cancel()
				result := make(chan error, 1)
				go func() {
					_, err := w.conn.ConnectGuest(ctx, gina)
					result <- err
				}()
				synctest.Wait()
				began := time.Now()
				if err := row.leave(w, cancel); err != nil {
					w.Error(err)
				}
				wantError(t, "ConnectGuest", <-result, row.want)
				if d := time.Since(began); d > time.Second {
					w.Errorf("it took %v", d)
				}
				if user, ok := w.conn.CurrentUser(); ok != (row.user != "") || user.ID != row.user {
					w.Errorf("the current user is %+v, %t", user, ok)
				}
				w.server.SilenceHTTP(false)
				time.Sleep(time.Hour)
				if w.exchanges() != 0 {
					w.Errorf("%d exchanges", w.exchanges())
				}
				w.close()
				synctest.Wait()
				if n := w.net.Open(); n != 0 {
					w.Errorf("%d connections are left", n)
				}
			})
		})
	}
}

// T9, C8: an answer that comes when the guest is not wanted any more is nobody's.
func TestT9_LateExchange(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		w.net.SetLatency(time.Second)
		go func() { _, _ = w.conn.ConnectGuest(w.Context(), gina) }()
		for w.exchanges() == 0 { // until the answer is on its way
			time.Sleep(10 * time.Millisecond)
		}
		session, err := w.conn.SwitchUser(w.Context(), chatconn.User{ID: "john"}, w.source("john"))
		if err != nil || session.User.ID != "john" {
			w.Errorf("%+v, %v", session, err)
		}
		time.Sleep(time.Hour)
		if user, _ := w.conn.CurrentUser(); user.ID != "john" || w.server.Connections("") != 1 || w.server.Connections("john") != 1 {
			w.Errorf("the current user is %+v, and %d sockets are open", user, w.server.Connections(""))
		}
		w.close()
	})
}

// C2, T9: everyone who asks for the same guest gets the one guest; nobody else's
// session is taken for theirs, not even under the id that was asked for.
func TestT9_Shared(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		w.server.Slow(time.Second)
		var all sync.WaitGroup
		sessions := make(chan chatconn.Session, 100)
		for range cap(sessions) {
			all.Go(func() { sessions <- w.guest() })
		}
		synctest.Wait()
		refused := func(when string) {
			w.Helper()
			_, err := w.conn.ConnectGuest(w.Context(), chatconn.User{ID: "gino"})
			wantError(w.T, when+": another guest", err, chatconn.ErrUserAlreadySet)
			_, err = w.conn.ConnectUser(w.Context(), chatconn.User{ID: "gina"}, w.source("gina"))
			wantError(w.T, when+": a user of the guest's wished id", err, chatconn.ErrUserAlreadySet)
			_, err = w.conn.ConnectAnonymous(w.Context())
			wantError(w.T, when+": anonymous", err, chatconn.ErrUserAlreadySet)
		}
		refused("during the exchange")
		all.Wait()
		first := <-sessions
		for range cap(sessions) - 1 {
			if s := <-sessions; s.ConnectionID != first.ConnectionID || s.User.ID != first.User.ID {
				w.Errorf("%+v and %+v", first, s)
			}
		}
		refused("connected")
		if again := w.guest(); again.ConnectionID != first.ConnectionID {
			w.Errorf("%+v and %+v", first, again)
		}
		if s, err := w.conn.ConnectUser(w.Context(), chatconn.User{ID: first.User.ID}, w.source("nobody")); err != nil || s.ConnectionID != first.ConnectionID {
			w.Errorf("the guest by their own id: %+v, %v", s, err)
		}
		if w.exchanges() != 1 || w.server.MaxSockets(first.User.ID) != 1 {
			w.Errorf("%d exchanges, %d sockets", w.exchanges(), w.server.MaxSockets(first.User.ID))
		}
		w.close()
	})
	inWorld(t, nil, func(w *world) { // a guest whose wish is the name of the anonymous
		var invalid *chatconn.InvalidError
		if _, err := w.conn.ConnectGuest(w.Context(), chatconn.User{ID: "!anon"}); !errors.As(err, &invalid) {
			t.Errorf("a guest by the name of the anonymous: %v", err)
		}
		w.close()
	})
	inWorld(t, nil, func(w *world) { // the other way round
		w.login(w.source("gina"))
		_, err := w.conn.ConnectGuest(w.Context(), gina)
		wantError(t, "a guest while the user of that id is set", err, chatconn.ErrUserAlreadySet)
		w.close()
	})
}

// T9: the exchange alone sets nobody; its result connects as any user does.
func TestT9_GuestToken(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		guest, token, err := w.conn.GuestToken(w.Context(), gina)
		if err != nil || !strings.HasPrefix(guest.ID, "guest-") || guest.Name != "Gina" || guest.Extra["score"] != 1.5 {
			w.Fatalf("%+v, %v", guest, err)
		}
		if claims, err := tokens.Verify(w.server.Secret(), token); err != nil || claims.UserID != guest.ID || !claims.ExpiresAt.IsZero() {
			w.Errorf("%+v, %v", claims, err)
		}
		if _, ok := w.conn.CurrentUser(); ok || w.conn.State() != fsm.Offline || w.conn.Stats().Loads != 0 {
			w.Error("it has set somebody")
		}
		session, err := w.conn.ConnectUser(w.Context(), guest, tokens.Static(token))
		if err != nil || session.User.ID != guest.ID || session.User.Extra["role"] != "guest" {
			w.Errorf("%+v, %v", session, err)
		}

		w.server.SilenceHTTP(true)
		ctx, cancel := context.WithTimeout(w.Context(), time.Second)
		defer cancel()
		_, _, err = w.conn.GuestToken(ctx, gina)
		wantError(t, "out of time", err, context.DeadlineExceeded)
		w.server.SilenceHTTP(false)
		var invalid *chatconn.InvalidError
		if _, _, err := w.conn.GuestToken(w.Context(), chatconn.User{}); !errors.As(err, &invalid) {
			w.Errorf("nobody: %v", err)
		}
		if _, err := w.conn.ConnectGuest(w.Context(), chatconn.User{ID: "x", Extra: map[string]any{"id": "y"}}); !errors.As(err, &invalid) {
			w.Errorf("two ids: %v", err)
		}
		w.close()
		_, _, err = w.conn.GuestToken(w.Context(), gina)
		wantError(t, "closed", err, chatconn.ErrClosed)
		_, err = w.conn.ConnectGuest(w.Context(), gina)
		wantError(t, "closed", err, chatconn.ErrClosed)
	})
}

// T10: an anonymous user connects, comes back and asks without any token, and no
// source is ever asked.
func TestT10_Anonymous(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		if err := w.server.AddMember("livestream:show", "alice"); err != nil {
			w.Fatal(err)
		}
		session, err := w.conn.ConnectAnonymous(w.Context())
		if err != nil || session.User.ID != "!anon" || session.User.Extra["role"] != "anonymous" {
			w.Fatalf("%+v, %v", session, err)
		}
		if user, ok := w.conn.CurrentUser(); !ok || user.ID != "!anon" {
			w.Errorf("the current user: %+v, %t", user, ok)
		}
		if again, err := w.conn.ConnectAnonymous(w.Context()); err != nil || again.ConnectionID != session.ConnectionID {
			w.Errorf("%+v, %v", again, err)
		}
		_, err = w.conn.ConnectUser(w.Context(), chatconn.User{ID: "john"}, w.source("john"))
		wantError(t, "john", err, chatconn.ErrUserAlreadySet)

		events := w.conn.Events(w.Context(), "message.new")
		if status, _ := w.call("/channels/livestream/show/query", `{"watch":true}`); status != http.StatusOK {
			w.Errorf("watching: %d", status)
		}
		if err := w.server.Send("livestream:show", "alice", "on air"); err != nil {
			w.Fatal(err)
		}
		if e := <-events; e.CID != "livestream:show" || e.UserID != "alice" {
			w.Errorf("%+v", e)
		}
		for _, trouble := range []func(){
			w.server.DropAll,
			func() { w.conn.Background(); w.conn.Foreground() },
			func() { w.net.BlackHole(true); time.Sleep(time.Minute); w.net.BlackHole(false) },
		} {
			trouble()
			synctest.Wait()
			w.be(fsm.Connected)
		}
		if s := w.conn.Stats(); s.Loads != 0 || s.Reconnects != 3 {
			w.Errorf("%+v", s)
		}
		for _, e := range w.server.Log() {
			if (e.Kind == devserver.Connect || e.Kind == devserver.Request) && (e.UserID != "!anon" || e.Auth != "" || e.Token != "") {
				w.Errorf("%+v", e)
			}
		}
		w.server.Kick("", devserver.APIError{Code: 40}) // there is nothing to refresh
		w.be(fsm.Offline)
		w.close()

		var invalid *chatconn.InvalidError
		if _, err := w.newConn().ConnectUser(w.Context(), chatconn.User{ID: "!anon"}, w.source("!anon")); !errors.As(err, &invalid) {
			w.Errorf("ConnectUser as !anon: %v", err)
		}
	})
}

// devSources are the ways in which a program can come by a development token.
var devSources = map[string]func(w *world) tokens.Source{
	"Dev":    func(*world) tokens.Source { return tokens.Dev("john") },
	"Static": func(*world) tokens.Source { return tokens.Static(tokens.DevToken("john")) },
	"Func": func(*world) tokens.Source {
		return tokens.Func(func(context.Context) (string, error) { return tokens.DevToken("john"), nil })
	},
	"padded": func(*world) tokens.Source {
		return tokens.Static("eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJ1c2VyX2lkIjoiam9obiIgIH0=.devtoken")
	},
}

// T8: a development token goes to a loopback host, or to any with AllowDevTokens,
// whatever source it comes from; no other host sees so much as a dial.
func TestT8_Sources(t *testing.T) {
	for name, make := range devSources {
		for _, row := range []struct {
			url            string
			allowed, sends bool
		}{
			{"http://127.0.0.1:80", false, true},
			{"http://127.0.0.1:80", true, true},
			{"http://chat.test:80", false, false},
			{"http://chat.test:80", true, true},
		} {
			t.Run(fmt.Sprintf("%s to %s, allowed %t", name, row.url, row.allowed), func(t *testing.T) {
				var all dials
				inWorld(t, func(c *chatconn.Config) {
					dial := c.DialContext
					c.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
						return dial(ctx, network, "127.0.0.1:80")
					}
					all.count(c)
					c.BaseURL, c.AllowInsecure, c.AllowDevTokens = row.url, true, row.allowed
				}, func(w *world) {
					ctx, cancel := context.WithTimeout(w.Context(), time.Minute) // Func goes on trying (T5)
					defer cancel()
					_, err := w.conn.ConnectUser(ctx, chatconn.User{ID: "john"}, make(w))
					synctest.Wait()
					if row.sends { // this server verifies, and knows it for what it is
						refused := w.conn.Stats().LastError
						if err == nil || !errors.Is(refused, chatconn.ErrTokenInvalid) && !errors.Is(refused, tokens.ErrRefusedAgain) || len(all.times) == 0 {
							w.Errorf("%v, %v after %d dials", err, refused, len(all.times))
						}
					} else {
						wantError(t, "the fence", err, chatconn.ErrInsecure)
						if len(all.times) != 0 || len(w.server.Log()) != 0 {
							w.Errorf("%d dials; the server saw %v", len(all.times), w.server.Log())
						}
					}
					w.is(fsm.Offline)
					w.close()
				})
			})
		}
	}
}

// T8: the fence stands for every load: a source that turns to development tokens
// when its first token is refused gets no further, on the socket nor with requests.
func TestT8_LaterLoads(t *testing.T) {
	inWorld(t, func(c *chatconn.Config) {
		dial := c.DialContext
		c.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
			return dial(ctx, network, "127.0.0.1:80")
		}
		c.BaseURL, c.AllowInsecure = "http://chat.test:80", true
	}, func(w *world) {
		s := w.source("john")
		loads := 0
		turning := tokens.Func(func(ctx context.Context) (string, error) {
			if loads++; loads > 1 {
				return tokens.DevToken("john"), nil
			}
			return s.Token(ctx)
		})
		if _, err := w.conn.ConnectUser(w.Context(), chatconn.User{ID: "john"}, turning); err != nil {
			w.Fatal(err)
		}
		w.server.ExpireTokens("john", false)
		_, err := w.conn.HTTPClient().Get("http://chat.test:80/app")
		wantError(t, "the request", err, chatconn.ErrInsecure)
		w.be(fsm.Offline)
		prints := make(map[string]bool)
		for _, e := range w.server.Log() {
			if e.Token != "" {
				prints[e.Token] = true
			}
		}
		if len(prints) != 1 {
			w.Errorf("the server saw the tokens %v", prints)
		}
		w.close()
	})
}

// T8: nor does a guest exchange that brings a development token open the fence.
func TestT8_GuestExchange(t *testing.T) {
	answer := []byte(`{"user":{"id":"guest-1"},"access_token":"` + tokens.DevToken("guest-1") + `"}`)
	bringing := roundTrip(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: http.StatusCreated, Header: http.Header{}, Body: io.NopCloser(bytes.NewReader(answer))}, nil
	})
	for allowed, want := range map[bool]error{false: chatconn.ErrInsecure, true: chatconn.ErrTokenInvalid} {
		inWorld(t, func(c *chatconn.Config) {
			dial := c.DialContext
			c.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
				return dial(ctx, network, "127.0.0.1:80")
			}
			c.BaseURL, c.AllowInsecure, c.AllowDevTokens, c.HTTPTransport = "http://chat.test:80", true, allowed, bringing
		}, func(w *world) {
			_, err := w.conn.ConnectGuest(w.Context(), gina)
			wantError(t, fmt.Sprintf("allowed %t", allowed), err, want)
			if seen := len(w.server.Log()); allowed != (seen > 0) {
				w.Errorf("allowed %t: the server saw %d things", allowed, seen)
			}
			w.close()
		})
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// T8: what is no loopback host in full is none, however much it looks like one.
func TestT8_URLs(t *testing.T) {
	for base, loopback := range map[string]bool{
		"https://127.0.0.1":                 true,
		"https://127.8.9.10:8443/base/path": true,
		"https://[::1]":                     true,
		"https://[::ffff:127.0.0.1]":        true,
		"https://localhost":                 true,
		"https://LocalHost:1":               true,

		"":                              false, // the service itself
		"https://chat.example.com":      false,
		"https://127.0.0.1.example.com": false,
		"https://localhost.example.com": false,
		"https://example.com/127.0.0.1": false,
		"https://example.com/localhost": false,
		"https://my-localhost":          false,
		"https://localhost.":            false,
		"https://0.0.0.0":               false,
		"https://[::]":                  false,
		"https://127.1":                 false,
		"https://2130706433":            false,
		"https://0x7f.0.0.1":            false,
		"https://0177.0.0.1":            false,
		"https://128.0.0.1":             false,
		"https://10.0.0.1":              false,
		"https://169.254.1.1":           false,
		"https://[fe80::1]":             false,
		"https://[::ffff:10.0.0.1]":     false,
		"https://１２７.0.0.1":             false,
	} {
		t.Run(base, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var dialled atomic.Int64
				conn, err := chatconn.New(chatconn.Config{APIKey: "key", BaseURL: base, RetryLimit: 1,
					DialContext: func(context.Context, string, string) (net.Conn, error) {
						dialled.Add(1)
						return nil, errors.New("no such host")
					}})
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				_, err = conn.ConnectUser(t.Context(), chatconn.User{ID: "john"}, tokens.Dev("john"))
				if loopback {
					wantError(t, "loopback", err, chatconn.ErrRetriesSpent)
				} else {
					wantError(t, "elsewhere", err, chatconn.ErrInsecure)
				}
				if (dialled.Load() > 0) != loopback {
					t.Errorf("%d dials", dialled.Load())
				}
			})
		})
	}
	for _, base := range []string{"https://127.0.0.1@example.com", "https://example.com#@127.0.0.1", "https://example.com?127.0.0.1", "https://127.0.0.1\\.example.com", "https://127.0.0.1%2eexample.com", "https://exa mple.com"} {
		var invalid *chatconn.InvalidError
		if _, err := chatconn.New(chatconn.Config{APIKey: "key", BaseURL: base}); !errors.As(err, &invalid) {
			t.Errorf("%s: %v", base, err)
		}
	}
}

// T8, S1: no variable of the environment sends anything another way: neither a
// proxy, nor permission, nor a token.
func TestT8_Environment(t *testing.T) {
	const inside = "CHATCONN_TEST_T8"
	if os.Getenv(inside) == "" {
		// A process of its own: net/http reads the environment once.
		again := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestT8_Environment$", "-test.timeout=1m")
		again.Env = append(os.Environ(), inside+"=1")
		for _, name := range []string{"HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"} {
			again.Env = append(again.Env, name+"=http://proxy.test:3128")
		}
		for _, name := range []string{"ALLOW_DEV_TOKENS", "ALLOW_INSECURE", "DEV_TOKENS"} {
			for _, prefix := range []string{"", "CHATCONN_", "STREAM_", "STREAM_CHAT_"} {
				again.Env = append(again.Env, prefix+name+"=true")
			}
		}
		for _, name := range []string{"CHATCONN_TOKEN", "STREAM_TOKEN"} {
			again.Env = append(again.Env, name+"="+tokens.DevToken("john"))
		}
		if out, err := again.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("PASS")) {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	inWorld(t, func(c *chatconn.Config) {
		dial := c.DialContext
		c.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			if addr != "chat.test:80" {
				t.Errorf("a dial to %s", addr)
			}
			return dial(ctx, network, "127.0.0.1:80")
		}
		c.BaseURL, c.AllowInsecure = "http://chat.test:80", true
	}, func(w *world) {
		_, err := w.conn.ConnectUser(w.Context(), chatconn.User{ID: "john"}, tokens.Dev("john"))
		wantError(t, "the fence", err, chatconn.ErrInsecure)
		w.login(w.source("john"))
		resp, err := w.conn.HTTPClient().Get("http://chat.test:80/app")
		if err != nil {
			w.Fatal(err)
		}
		resp.Body.Close()
		if _, _, err := w.conn.GuestToken(w.Context(), gina); err != nil {
			w.Error(err)
		}
		w.close()
	})
}

// T8: the server takes a development token with its auth checks disabled and
// never otherwise, on the socket and with requests alike.
func TestT8_Server(t *testing.T) {
	for _, disabled := range []bool{true, false} {
		inWorld(t, nil, func(w *world) {
			server, err := devserver.Start(devserver.Options{Addr: "127.0.0.1:81", Listen: w.net.Listen, DisableAuthChecks: disabled})
			if err != nil {
				w.Fatal(err)
			}
			defer server.Close()
			w.server, w.config.BaseURL = server, server.URL()
			w.conn = w.newConn()
			for name, make := range devSources {
				if !disabled {
					for _, e := range w.refusals(make(w)) {
						if e.Code != 43 {
							w.Errorf("%s: %+v", name, e)
						}
					}
					continue
				}
				session, err := w.conn.ConnectUser(w.Context(), chatconn.User{ID: "john"}, make(w))
				if err != nil || session.User.ID != "john" {
					w.Errorf("%s: %+v, %v", name, session, err)
				}
				if status, code := w.call("/channels/messaging/room/query", "{}"); status/100 != 2 {
					w.Errorf("%s: status %d, code %d", name, status, code)
				}
				if err := w.conn.Disconnect(w.Context(), chatconn.KeepPersistence); err != nil {
					w.Error(err)
				}
			}
			w.close()
		})
	}
}

// refusals connects john, who is not let in, and returns how often and why.
func (w *world) refusals(source tokens.Source) []devserver.Entry {
	w.Helper()
	before := len(w.server.Log())
	ctx, cancel := context.WithTimeout(w.Context(), time.Minute)
	defer cancel()
	if _, err := w.conn.ConnectUser(ctx, chatconn.User{ID: "john"}, source); err == nil {
		w.Error("john is let in")
	}
	synctest.Wait()
	refused := slices.DeleteFunc(w.server.Log()[before:], func(e devserver.Entry) bool { return e.Kind != devserver.Refused })
	if len(refused) == 0 {
		w.Error("the server has refused nobody")
	}
	return refused
}

// C7, C9, R4: the dial of an exchange ends with its user, however the network
// swallows it; net/http alone would leave it behind. While the user stays it ends
// with the time of an attempt.
func TestT9_LeaveDuringTheDial(t *testing.T) {
	for name, row := range map[string]struct {
		leave  func(w *world, cancel context.CancelFunc) error
		within time.Duration
	}{
		"Disconnect":       {func(w *world, _ context.CancelFunc) error { return w.conn.Disconnect(w.Context(), 0) }, 0},
		"Close":            {func(w *world, _ context.CancelFunc) error { return w.conn.Close() }, 0},
		"its context":      {func(w *world, cancel context.CancelFunc) error { cancel(); return nil }, 0},
		"DisconnectSocket": {func(w *world, _ context.CancelFunc) error { return w.conn.DisconnectSocket(w.Context()) }, 15 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			var dials atomic.Int64
			inWorld(t, func(c *chatconn.Config) {
				dial := c.DialContext
				c.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
					dials.Add(1)
					defer dials.Add(-1)
					return dial(ctx, network, addr)
				}
			}, func(w *world) {
				w.net.BlackHole(true)
				ctx, cancel := context.WithCancel(w.Context())
				defer cancel()
				result := make(chan error, 1)
				go func() {
					_, err := w.conn.ConnectGuest(ctx, gina)
					result <- err
				}()
				synctest.Wait()
				if n := dials.Load(); n != 1 {
					w.Fatalf("%d dials are under way", n)
				}
				began := time.Now()
				if err := row.leave(w, cancel); err != nil {
					w.Error(err)
				}
				if name == "Disconnect" || name == "Close" { // they wait for it
					if n := dials.Load(); n != 0 {
						w.Errorf("%d dials are left", n)
					}
				}
				<-result
				if took := time.Since(began); took != 0 {
					w.Errorf("it took %v", took)
				}
				time.Sleep(row.within)
				synctest.Wait()
				if n := dials.Load(); n != 0 {
					w.Errorf("%d dials are left after %v", n, row.within)
				}
				w.net.BlackHole(false)
				w.close()
			})
		})
	}
}
