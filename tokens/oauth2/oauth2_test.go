package oauth2tokens_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/oauth2"

	"github.com/chatconn/chatconn/tokens"
	oauth2tokens "github.com/chatconn/chatconn/tokens/oauth2"
)

// sourceFunc is an oauth2.TokenSource made of a function.
type sourceFunc func() (*oauth2.Token, error)

func (f sourceFunc) Token() (*oauth2.Token, error) { return f() }

// provider is a token endpoint, and a TokenSource that refreshes there.
func provider(t *testing.T, answer http.HandlerFunc) oauth2.TokenSource {
	t.Helper()
	s := httptest.NewServer(answer)
	t.Cleanup(s.Close)
	conf := &oauth2.Config{ClientID: "app", Endpoint: oauth2.Endpoint{TokenURL: s.URL + "/token?secret", AuthStyle: oauth2.AuthStyleInParams}}
	return conf.TokenSource(t.Context(), &oauth2.Token{RefreshToken: "refresh-secret"})
}

func says(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		io.WriteString(w, body)
	}
}

// T1: a real refresh brings the access token or the ID token.
func TestT1_Tokens(t *testing.T) {
	const both = `{"access_token":"a.b.c","token_type":"bearer","expires_in":3600,"id_token":"d.e.f"}`
	for _, c := range []struct {
		name   string
		source func(oauth2.TokenSource) tokens.Source
		answer string
		want   string
	}{
		{"access token", oauth2tokens.AccessToken, both, "a.b.c"},
		{"ID token", oauth2tokens.IDToken, both, "d.e.f"},
	} {
		source := c.source(provider(t, says(200, c.answer)))
		for range 2 {
			if got, err := source.Token(t.Context()); got != c.want || err != nil {
				t.Errorf("%s: got %q, %v", c.name, got, err)
			}
		}
	}
}

// T3: invalid_grant, and an answer that can never hold the token, are final; the
// rest is retried. T11: nothing that the provider said is in the error.
func TestT3_Errors(t *testing.T) {
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	nobody := (&oauth2.Config{Endpoint: oauth2.Endpoint{TokenURL: "http://" + gone.Addr().String() + "/secret", AuthStyle: oauth2.AuthStyleInParams}}).
		TokenSource(t.Context(), &oauth2.Token{RefreshToken: "secret"})
	plain := errors.New("no network")
	for _, c := range []struct {
		name   string
		src    oauth2.TokenSource
		idOnly bool
		final  bool
		status int // of the RetrieveError; 0: none
		says   string
	}{
		{"invalid grant", provider(t, says(400, `{"error":"invalid_grant","error_description":"secret"}`)), false, true, 400, "status 400: invalid_grant"},
		{"invalid grant, oddly", provider(t, says(500, `{"error":"invalid_grant"}`)), false, false, 500, "status 500"},
		{"invalid client", provider(t, says(401, `{"error":"invalid_client"}`)), false, false, 401, "status 401: invalid_client"},
		{"own code", provider(t, says(400, `{"error":"secret"}`)), false, false, 400, "status 400"},
		{"text", provider(t, says(400, `secret`)), false, false, 400, "status 400"},
		{"server error", provider(t, says(503, `<html>secret`)), false, false, 503, "status 503"},
		{"no access token", provider(t, says(200, `{"id_token":"secret"}`)), false, false, 0, "missing access_token"},
		{"no ID token", provider(t, says(200, `{"access_token":"secret"}`)), true, true, 0, "no id_token"},
		{"ID token of another type", provider(t, says(200, `{"access_token":"secret","id_token":7}`)), true, true, 0, "no id_token"},
		{"nobody there", nobody, false, false, 0, "was not reached: dial tcp"},
		{"an answer without response", sourceFunc(func() (*oauth2.Token, error) {
			return nil, &oauth2.RetrieveError{ErrorCode: "invalid_grant"}
		}), false, false, -1, "invalid_grant"},
		{"other error", sourceFunc(func() (*oauth2.Token, error) { return nil, plain }), false, false, 0, "no network"},
		{"marked error", sourceFunc(func() (*oauth2.Token, error) { return nil, tokens.Permanent(plain) }), false, true, 0, "no network"},
		{"nothing", sourceFunc(func() (*oauth2.Token, error) { return nil, nil }), false, false, 0, "no token and no error"},
		{"panic", sourceFunc(func() (*oauth2.Token, error) { panic("secret") }), false, false, 0, "panicked: string"},
		{"goexit", sourceFunc(func() (*oauth2.Token, error) { runtime.Goexit(); return nil, nil }), false, false, 0, "ended its goroutine"},
		{"nil", nil, false, true, 0, "no source"},
	} {
		t.Run(c.name, func(t *testing.T) {
			source := oauth2tokens.AccessToken(c.src)
			if c.idOnly {
				source = oauth2tokens.IDToken(c.src)
			}
			got, err := source.Token(t.Context())
			if got != "" || err == nil || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "secret") {
				t.Fatalf("got %q, %v; want %s", got, err, c.says)
			}
			if tokens.IsPermanent(err) != c.final {
				t.Errorf("permanent %v: %v", tokens.IsPermanent(err), err)
			}
			answer := (*oauth2.RetrieveError)(nil)
			if errors.As(err, &answer) != (c.status != 0) || c.status > 0 && answer.Response.StatusCode != c.status {
				t.Errorf("wraps %v", answer)
			}
		})
	}
}

// C9: a call returns with its context; the TokenSource is not called again
// before it has returned, and what it brings late is dropped.
func TestC9_ContextAndLateReturn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls, running atomic.Int32
		source := oauth2tokens.AccessToken(sourceFunc(func() (*oauth2.Token, error) {
			n := calls.Add(1)
			if running.Add(1) != 1 {
				t.Error("two calls at once")
			}
			defer running.Add(-1)
			time.Sleep(10 * time.Second)
			return &oauth2.Token{AccessToken: fmt.Sprint("token ", n)}, nil
		}))
		ask := func(limit, lasts time.Duration, want string, wantErr error) {
			t.Helper()
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			began := time.Now()
			got, err := source.Token(ctx)
			if got != want || !errors.Is(err, wantErr) || time.Since(began) != lasts {
				t.Errorf("got %q, %v after %v; want %q, %v after %v", got, err, time.Since(began), want, wantErr, lasts)
			}
		}
		ask(time.Second, time.Second, "", context.DeadlineExceeded) // the first call goes on
		ask(time.Second, time.Second, "", context.DeadlineExceeded) // and is waited for
		ask(time.Minute, 18*time.Second, "token 2", nil)            // 8 s until its end, then a call of its own
		ask(-time.Second, 0, "", context.DeadlineExceeded)          // no call
		if ask(time.Minute, 10*time.Second, "token 3", nil); calls.Load() != 3 {
			t.Errorf("%d calls", calls.Load())
		}
	})
}

// T11: a dump of the source shows nothing of the TokenSource in it.
func TestT11_SourceHidesItsTokens(t *testing.T) {
	source := oauth2tokens.AccessToken(oauth2.StaticTokenSource(&oauth2.Token{AccessToken: "secret", RefreshToken: "secret"}))
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
		for _, v := range []any{source, &source, []any{source}} {
			if text := fmt.Sprintf(format, v); strings.Contains(text, "secret") || strings.Contains(text, "736563726574") {
				t.Errorf("%s shows the token: %s", format, text)
			}
		}
	}
}

// Sign in with a provider that issues the chat tokens.
func ExampleAccessToken() {
	var conf oauth2.Config                                      // of the app at the provider
	signedIn := &oauth2.Token{RefreshToken: "from the sign-in"} // conf.Exchange returned it
	source := oauth2tokens.AccessToken(conf.TokenSource(context.Background(), signedIn))
	fmt.Println(tokens.IsStatic(source)) // pass it to ConnectUser
	// Output: false
}
