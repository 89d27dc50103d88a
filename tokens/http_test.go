package tokens_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chatconn/chatconn/tokens"
)

// endpoint serves one handler on loopback.
func endpoint(t *testing.T, handler http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(handler)
	t.Cleanup(s.Close)
	return s
}

// transport is an http.RoundTripper made of a function.
type transport func(*http.Request) (*http.Response, error)

func (f transport) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// T1: the endpoint is asked as the options say, and the token is what it
// answers.
func TestT1_HTTP(t *testing.T) {
	raw := mint(t, "john", 1)
	inJSON := func(field string) string {
		body, _ := json.Marshal(map[string]any{"n": 1, "Token": "another", field: raw})
		return string(body)
	}
	for _, c := range []struct {
		name   string
		opts   tokens.HTTPOptions
		answer string
		asked  string // method, accepted type, content type, body, cookie
		want   string
	}{
		{"zero", tokens.HTTPOptions{}, inJSON("token"), "POST application/json   ", raw},
		{"other field", tokens.HTTPOptions{Field: "access.token"}, inJSON("access.token"), "POST application/json   ", raw},
		{"get", tokens.HTTPOptions{Method: "GET"}, inJSON("token"), "GET application/json   ", raw},
		{"plain text", tokens.HTTPOptions{PlainText: true}, "\r\n " + raw + "\n\n", "POST text/plain   ", raw},
		{"JSON is taken as it stands", tokens.HTTPOptions{}, `{"token":" a\n"}`, "POST application/json   ", " a\n"},
		{"body", tokens.HTTPOptions{Body: []byte(`{}`)}, inJSON("token"), "POST application/json application/json {} ", raw},
		{"form", tokens.HTTPOptions{Body: []byte("a=b"), ContentType: "application/x-www-form-urlencoded"}, inJSON("token"),
			"POST application/json application/x-www-form-urlencoded a=b ", raw},
		{"prepared", tokens.HTTPOptions{Prepare: func(r *http.Request) error {
			r.Header.Set("Cookie", "session=1")
			return nil
		}}, inJSON("token"), "POST application/json   session=1", raw},
	} {
		t.Run(c.name, func(t *testing.T) {
			var asked string
			s := endpoint(t, func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				asked = strings.Join([]string{r.Method, r.Header.Get("Accept"), r.Header.Get("Content-Type"), string(body), r.Header.Get("Cookie")}, " ")
				io.WriteString(w, c.answer)
			})
			got, err := tokens.HTTP(s.URL+"/chat-token", c.opts).Token(t.Context())
			if got != c.want || err != nil {
				t.Errorf("got %q, %v", got, err)
			}
			if asked != c.asked {
				t.Errorf("asked %q, want %q", asked, c.asked)
			}
		})
	}
}

// The Client's cookies go out and are kept, and its CheckRedirect stays as it was.
func TestHTTPUsesTheClientsCookies(t *testing.T) {
	var seen []string
	s := endpoint(t, func(w http.ResponseWriter, r *http.Request) {
		seen = append(seen, r.Header.Get("Cookie"))
		http.SetCookie(w, &http.Cookie{Name: "session", Value: fmt.Sprint(len(seen))})
		io.WriteString(w, `{"token":"t"}`)
	})
	jar, _ := cookiejar.New(nil)
	client := &http.Client{Jar: jar}
	source := tokens.HTTP(s.URL, tokens.HTTPOptions{Client: client})
	for range 3 {
		if _, err := source.Token(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if got := strings.Join(seen, ","); got != ",session=1,session=2" {
		t.Errorf("cookies %q", got)
	}
	if client.CheckRedirect != nil {
		t.Error("the caller's client was changed")
	}
}

// T3: 401 and 403 are final, whatever else is no token is retried.
// T11: no error holds anything of the body.
func TestT3_HTTPAnswersWithoutToken(t *testing.T) {
	raw := mint(t, "john", 1)
	for _, c := range []struct {
		name   string
		status int
		kind   string // Content-Type
		body   string
		plain  bool
		final  bool
		reason string
	}{
		{"unauthorized", 401, "", raw, false, true, "refuses this user"},
		{"forbidden", 403, "", `{"token":"` + raw + `"}`, false, true, "refuses this user"},
		{"bad request", 400, "", raw, false, false, "status tells of an error"},
		{"not found", 404, "", raw, false, false, "status tells of an error"},
		{"proxy wants a login", 407, "", raw, false, false, "status tells of an error"},
		{"timeout", 408, "", raw, false, false, "status tells of an error"},
		{"gone", 410, "", raw, false, false, "status tells of an error"},
		{"too many requests", 429, "", raw, false, false, "status tells of an error"},
		{"server error", 500, "", raw, false, false, "status tells of an error"},
		{"unavailable", 503, "", raw, false, false, "status tells of an error"},
		{"empty", 200, "", "", false, false, "it is empty"},
		{"no content", 204, "", "", false, false, "it is empty"},
		{"blank", 200, "", " \r\n", true, false, "it is empty"},
		{"HTML", 200, "", "\n<html>" + raw, false, false, "it is HTML"},
		{"HTML as text", 200, "", "<!doctype html>" + raw, true, false, "it is HTML"},
		{"text said to be HTML", 200, "text/html; charset=utf-8", raw, true, false, "it is HTML"},
		{"text for JSON", 200, "", raw, false, false, "not a JSON object"},
		{"array", 200, "", `["` + raw + `"]`, false, false, "not a JSON object"},
		{"two values", 200, "", `{"token":"` + raw + `"} {}`, false, false, "not a JSON object"},
		{"null", 200, "", `null`, false, false, `no field "token" with a string`},
		{"no field", 200, "", `{"access_token":"` + raw + `"}`, false, false, `no field "token" with a string`},
		{"field in capitals", 200, "", `{"Token":"` + raw + `"}`, false, false, `no field "token" with a string`},
		{"null field", 200, "", `{"token":null}`, false, false, `no field "token" with a string`},
		{"number", 200, "", `{"token":1}`, false, false, `no field "token" with a string`},
		{"object", 200, "", `{"token":{"token":"` + raw + `"}}`, false, false, `no field "token" with a string`},
		{"64 KiB and a byte", 200, "", `{"token":"` + raw + strings.Repeat("x", 64<<10-len(raw)-11) + `"}`, false, false, "more than 65536 bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := endpoint(t, func(w http.ResponseWriter, r *http.Request) {
				if c.kind != "" {
					w.Header().Set("Content-Type", c.kind)
				} else {
					w.Header().Set("Content-Type", "application/octet-stream")
				}
				w.WriteHeader(c.status)
				io.WriteString(w, c.body)
			})
			got, err := tokens.HTTP(s.URL, tokens.HTTPOptions{PlainText: c.plain}).Token(t.Context())
			var answer *tokens.AnswerError
			if got != "" || !errors.As(err, &answer) || answer.StatusCode != c.status || !strings.Contains(answer.Reason, c.reason) {
				t.Fatalf("got %q, %v; want %d, %s", got, err, c.status, c.reason)
			}
			if tokens.IsPermanent(err) != c.final {
				t.Errorf("permanent %v: %v", tokens.IsPermanent(err), err)
			}
			assertHidden(t, raw, "the error", err.Error())
			assertUnreachable(t, raw, err)
		})
	}
}

// S2: of 10 MiB no more than the limit is read, compressed or not.
func TestS2_HTTPReadsNoMoreThanItsLimit(t *testing.T) {
	body := &counter{Reader: io.LimitReader(zeros{}, 10<<20)}
	client := &http.Client{Transport: transport(func(req *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, Header: http.Header{}, Body: body, Request: req}, nil
	})}
	_, err := tokens.HTTP("https://backend.example", tokens.HTTPOptions{Client: client}).Token(t.Context())
	if answer := (*tokens.AnswerError)(nil); !errors.As(err, &answer) || !strings.Contains(answer.Reason, "65536") {
		t.Errorf("got %v", err)
	}
	if body.n != 64<<10+1 || !body.closed {
		t.Errorf("read %d bytes, closed %v", body.n, body.closed)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

type counter struct {
	io.Reader
	n      int
	closed bool
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += n
	return n, err
}

func (c *counter) Close() error {
	c.closed = true
	return nil
}

// A redirect is not followed, so nothing of the request reaches another host.
func TestHTTPFollowsNoRedirect(t *testing.T) {
	elsewhere := endpoint(t, func(w http.ResponseWriter, r *http.Request) {
		t.Errorf("%s %s reached the target", r.Method, r.URL)
	})
	raw := mint(t, "john", 1)
	asked := 0
	for _, c := range []struct {
		name, target, reason string
		status               int
	}{
		{"another host", elsewhere.URL + "/login?secret=1", "to another host, \"" + strings.TrimPrefix(elsewhere.URL, "http://") + `"`, 302},
		{"another host, same request", elsewhere.URL, "to another host", 307},
		{"for good", elsewhere.URL, "to another host", 308},
		{"a token as host", "https://" + raw, "to another host", 302},
		{"same host", "/login?secret=1", "within its host", 303},
		{"same host by https", "https", "to https", 301},
		{"no target", "", "to no URL", 302},
	} {
		t.Run(c.name, func(t *testing.T) {
			asked = 0
			s := endpoint(t, func(w http.ResponseWriter, r *http.Request) {
				asked++
				target := c.target
				if target == "https" {
					target = "https://" + r.Host + "/"
				}
				if target != "" {
					w.Header().Set("Location", target)
				}
				w.WriteHeader(c.status)
			})
			_, err := tokens.HTTP(s.URL, tokens.HTTPOptions{}).Token(t.Context())
			var answer *tokens.AnswerError
			if !errors.As(err, &answer) || answer.StatusCode != c.status || !strings.Contains(answer.Reason, c.reason) || tokens.IsPermanent(err) {
				t.Errorf("got %v, want %s", err, c.reason)
			}
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("%v repeats the target", err)
			}
			assertHidden(t, raw, "the error", err.Error())
			if asked != 1 {
				t.Errorf("asked %d times", asked)
			}
		})
	}
}

// S1, T3: what cannot work or is not safe is final, and nothing is sent.
func TestS1_HTTPRefusesURLs(t *testing.T) {
	client := &http.Client{Transport: transport(func(req *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(`{"token":"sent"}`)), Request: req}, nil
	})}
	for _, c := range []struct {
		url  string
		opts tokens.HTTPOptions
		want error
	}{
		{"https://backend.example/t", tokens.HTTPOptions{}, nil},
		{"http://localhost:1/t", tokens.HTTPOptions{}, nil},
		{"http://LOCALHOST/t", tokens.HTTPOptions{}, nil},
		{"http://127.0.0.1/t", tokens.HTTPOptions{}, nil},
		{"http://[::1]:8080/t", tokens.HTTPOptions{}, nil},
		{"http://backend.example/t", tokens.HTTPOptions{AllowInsecure: true}, nil},
		{"http://backend.example/t", tokens.HTTPOptions{}, tokens.ErrInsecure},
		{"http://localhost.example/t", tokens.HTTPOptions{}, tokens.ErrInsecure},
		{"http://192.168.0.1/t", tokens.HTTPOptions{}, tokens.ErrInsecure},
		{"https://backend.example/t", tokens.HTTPOptions{Prepare: func(r *http.Request) error {
			r.URL.Scheme = "http"
			return nil
		}}, tokens.ErrInsecure},
		{"", tokens.HTTPOptions{}, tokens.ErrNoSource},
		{"backend.example/t", tokens.HTTPOptions{}, tokens.ErrNoSource},
		{"ftp://backend.example/t", tokens.HTTPOptions{}, tokens.ErrNoSource},
		{"https:///t", tokens.HTTPOptions{}, tokens.ErrNoSource},
		{"https://backend.example/%zz?secret", tokens.HTTPOptions{}, tokens.ErrNoSource},
		{"https://backend.example/t", tokens.HTTPOptions{Method: "PUT"}, tokens.ErrNoSource},
		{"https://backend.example/t", tokens.HTTPOptions{Method: "GET\nX"}, tokens.ErrNoSource},
	} {
		c.opts.Client = client
		got, err := tokens.HTTP(c.url, c.opts).Token(t.Context())
		if !errors.Is(err, c.want) || (got == "sent") != (c.want == nil) {
			t.Errorf("%q: got %q, %v; want %v", c.url, got, err, c.want)
		}
		if err != nil && (!tokens.IsPermanent(err) || strings.Contains(err.Error(), "secret")) {
			t.Errorf("%q: %v", c.url, err)
		}
	}
}

// T3: an error of Prepare is kept, its mark included, and nothing is sent.
func TestT3_HTTPKeepsTheErrorOfPrepare(t *testing.T) {
	cause := errors.New("signed out")
	s := endpoint(t, func(http.ResponseWriter, *http.Request) { t.Error("the request was sent") })
	for _, err := range []error{cause, tokens.Permanent(cause)} {
		_, got := tokens.HTTP(s.URL, tokens.HTTPOptions{Prepare: func(*http.Request) error { return err }}).Token(t.Context())
		if !errors.Is(got, cause) || tokens.IsPermanent(got) != tokens.IsPermanent(err) || !strings.Contains(got.Error(), "signed out") {
			t.Errorf("got %v", got)
		}
	}
}

// T3, T11: no answer is a failure to be retried, and its error shows neither the
// URL nor what came instead of an answer.
func TestT3_HTTPWithoutAnswer(t *testing.T) {
	raw := mint(t, "john", 1)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			conn.Read(make([]byte, 4096))
			io.WriteString(conn, raw+"\r\n\r\n")
			conn.Close()
		}
	}()
	refused := endpoint(t, nil)
	refused.Close()
	short := endpoint(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "100")
		io.WriteString(w, raw[:50])
	})
	for _, c := range []struct{ name, url, says string }{
		{"no HTTP", "http://" + ln.Addr().String(), "malformed HTTP"},
		{"nobody there", refused.URL, "refused"},
		{"broken off", short.URL, "broke off: unexpected EOF"},
	} {
		t.Run(c.name, func(t *testing.T) {
			source := tokens.HTTP(c.url+"/path-secret?session=secret", tokens.HTTPOptions{Body: []byte(raw)})
			_, err := source.Token(t.Context())
			if err == nil || tokens.IsPermanent(err) || !strings.Contains(err.Error(), c.says) {
				t.Fatalf("got %v, want %s", err, c.says)
			}
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("%v repeats the URL", err)
			}
			assertHidden(t, raw, "the error", err.Error())
			for _, format := range formats() {
				assertHidden(t, raw, format, fmt.Sprintf(format, source))
			}
			assertUnreachable(t, raw, source)
		})
	}
}

// T1: the context ends a request that hangs, and the error tells that it did.
func TestT1_HTTPEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := &http.Client{Transport: transport(func(req *http.Request) (*http.Response, error) {
			<-req.Context().Done()
			return nil, context.Cause(req.Context())
		})}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		began := time.Now()
		_, err := tokens.HTTP("https://backend.example", tokens.HTTPOptions{Client: client}).Token(ctx)
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != time.Minute {
			t.Errorf("got %v after %v", err, time.Since(began))
		}
		if wrapped := (*url.Error)(nil); errors.As(err, &wrapped) {
			t.Errorf("%v wraps the URL", err)
		}
	})
}
