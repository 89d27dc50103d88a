package chatconn_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chatconn/chatconn"
	"github.com/chatconn/chatconn/devserver"
	"github.com/chatconn/chatconn/fsm"
	"github.com/chatconn/chatconn/tokens"
)

// E, E2, C1 end to end: what the server says, over the handshake or an open
// socket, in either envelope, to a provider or a static token. A final error ends
// Offline, is returned to whoever waits, and is on the change.
func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		code                   int
		finalFunc, finalStatic bool
		loads                  uint64 // of a provider whose second token is good
		static                 error
	}{
		{code: 40, finalStatic: true, loads: 2, static: chatconn.ErrTokenExpired},
		{code: 41, loads: 2},
		{code: 42, loads: 2},
		{code: 43, finalStatic: true, loads: 2, static: chatconn.ErrTokenInvalid},
		{code: 5, finalStatic: true, loads: 2, static: chatconn.ErrTokenInvalid},
		{code: 2, finalFunc: true, finalStatic: true},
		{code: 17, finalFunc: true, finalStatic: true},
		{code: 99, finalFunc: true, finalStatic: true},
		{code: 9, loads: 1},
		{code: -1, loads: 1},
	} {
		for _, static := range []bool{false, true} {
			for _, open := range []bool{false, true} {
				for _, bare := range []bool{false, true} {
					name := fmt.Sprintf("code %d/", c.code) + map[bool]string{false: "provider", true: "static"}[static] + "/" +
						map[bool]string{false: "handshake", true: "open socket"}[open] + map[bool]string{true: ", bare"}[bare]
					t.Run(name, func(t *testing.T) {
						inWorld(t, nil, func(w *world) {
							w.server.BareErrors(bare)
							ctx, cancel := context.WithTimeout(w.Context(), time.Minute)
							defer cancel()
							changes := w.conn.Watch(ctx)
							s := w.source("john")
							var source tokens.Source = s
							if static {
								source = tokens.Static(w.server.Token("john", 0))
							}
							final := c.finalFunc || static && c.finalStatic
							if !open {
								w.server.FailHandshakes(1, devserver.APIError{Code: c.code})
							}
							_, err := w.conn.ConnectUser(ctx, chatconn.User{ID: "john"}, source)
							if open {
								if err != nil {
									w.Fatal(err)
								}
								synctest.Wait()
								w.server.Kick("john", devserver.APIError{Code: c.code})
								synctest.Wait()
							}
							if !final {
								w.be(fsm.Connected)
								if loads := w.conn.Stats().Loads; !static && loads != c.loads {
									w.Errorf("%d loads, want %d", loads, c.loads)
								}
								w.close()
								return
							}
							w.is(fsm.Offline)
							var last chatconn.Change
							for last = range changes {
								if last.Event == fsm.Denied {
									break
								}
							}
							told := []error{last.Cause, w.conn.Stats().LastError}
							if !open {
								told = append(told, err)
							}
							for _, err := range told {
								var api *chatconn.APIError
								if !errors.As(err, &api) || api.Code != c.code {
									w.Errorf("E2: told %v", err)
								}
								if static && c.static != nil {
									wantError(w, "E1", err, c.static)
								}
							}
							if _, set := w.conn.CurrentUser(); set != open {
								w.Errorf("C1: a user is set: %t", set)
							}
							w.nothingHappens(s)
							w.close()
						})
					})
				}
			}
		}
	}
}

// E: a provider whose second token is bad in the same way: 43 ends, 40 goes on for
// ever in paced rounds, 41 and 42 as well.
func TestRefusedAgain(t *testing.T) {
	for _, code := range []int{40, 41, 42, 43, 5} {
		t.Run(fmt.Sprint("code ", code), func(t *testing.T) {
			inWorld(t, nil, func(w *world) {
				ctx, cancel := context.WithTimeout(w.Context(), 10*time.Minute)
				defer cancel()
				w.server.FailHandshakes(-1, devserver.APIError{Code: code})
				s := w.source("john")
				_, err := w.conn.ConnectUser(ctx, chatconn.User{ID: "john"}, s)
				var api *chatconn.APIError
				if !errors.As(err, &api) || api.Code != code {
					w.Errorf("connect: %v", err)
				}
				stats := w.conn.Stats()
				if final := code == 43 || code == 5; final {
					if stats.Attempts != 2 || stats.Loads != 2 || errors.Is(err, context.DeadlineExceeded) {
						w.Errorf("%v after %+v", err, stats)
					}
				} else if stats.Attempts < 20 || stats.Attempts > 40 || stats.Loads != stats.Attempts || !errors.Is(err, context.DeadlineExceeded) {
					w.Errorf("C1: %v after %+v", err, stats)
				}
				w.nothingHappens(s)
			})
		})
	}
}

// C3: another user's token is final, whatever the source, also when the source
// brings it only later.
func TestAnotherUsersTokenLater(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		first := true
		_, err := w.conn.ConnectUser(w.Context(), chatconn.User{ID: "john"}, tokens.Func(func(context.Context) (string, error) {
			if first {
				first = false
				return w.server.Token("john", 0), nil
			}
			return w.server.Token("jane", 0), nil
		}))
		if err != nil {
			w.Fatal(err)
		}
		w.server.ExpireTokens("john", true)
		w.be(fsm.Offline)
		wantError(w, "the last error", w.conn.Stats().LastError, chatconn.ErrTokenUserMismatch)
		for _, e := range w.server.Log() {
			if e.UserID == "jane" {
				w.Errorf("the server saw the other user: %+v", e)
			}
		}
		w.close()
	})
}

// E: unrecoverable is the first that matches. A socket may say so of a token that
// has been replaced since it opened; the same without it is no reason to stop.
func TestUnrecoverableAfterTheTokenWasReplaced(t *testing.T) {
	for _, unrecoverable := range []bool{true, false} {
		inWorld(t, nil, func(w *world) {
			s := w.source("john")
			w.login(s)
			w.server.ExpireTokens("john", false)
			if o := do(w.Context(), w.conn.HTTPClient(), w.server.URL()+"/app", ""); o.status != http.StatusOK {
				w.Fatal(o)
			}
			w.is(fsm.Connected)
			w.server.Kick("john", devserver.APIError{Code: 40, Unrecoverable: unrecoverable})
			synctest.Wait()
			if unrecoverable {
				var api *chatconn.APIError
				if err := w.conn.Stats().LastError; !errors.As(err, &api) || !api.Unrecoverable {
					w.Errorf("the last error is %v", err)
				}
				w.conn.HTTPClient().CloseIdleConnections() // the answer's
				w.nothingHappens(s)
			} else {
				w.be(fsm.Connected)
			}
			if n := s.calls.Load(); n != 2 {
				w.Errorf("%d loads, want one for the login and one for the answer", n)
			}
			w.close()
		})
	}
}
