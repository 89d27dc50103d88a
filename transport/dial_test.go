package transport

import (
	"bytes"
	"context"
	"crypto/sha1"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func TestRequest(t *testing.T) {
	var got *http.Request
	var requestURI string
	service := func(w http.ResponseWriter, r *http.Request) {
		got, requestURI = r, r.RequestURI
		speak([]string{hello}, peer.drain)(w, r)
	}
	login := Login{
		UserID: "ann;b+c d&e=f%g", AuthType: "jwt", Token: secretToken,
		Details: json.RawMessage(`{"id":"ann;b+c d&e=f%g", "name":"Ann; & <Bee> + é","team":{"n":1}}`),
	}
	inBubble(t, service, func(b *bench) {
		b.options.BaseURL = "http://chat.test/a/base/"
		s, err := b.dialer().Dial(b.Context(), login)
		if err != nil {
			t.Fatal(err)
		}
		defer s.HangUp()
		if got.Method != http.MethodGet || got.URL.Path != "/a/base/connect" || got.Host != "chat.test" {
			t.Errorf("%s %s of %s", got.Method, got.URL.Path, got.Host)
		}
		if strings.Contains(requestURI, secretToken) || strings.Contains(requestURI, url.QueryEscape(secretToken)) {
			t.Error("T11: the URL holds the token")
		}
		if strings.ContainsAny(got.URL.RawQuery, "; ") {
			t.Errorf("a semicolon or a space survives in %q", got.URL.RawQuery)
		}
		query, err := url.ParseQuery(got.URL.RawQuery)
		if err != nil || query.Get("api_key") != "key" || query.Get("stream-auth-type") != "jwt" || len(query) != 3 {
			t.Errorf("query %v, %v", query, err)
		}
		var payload struct {
			UserID      string         `json:"user_id"`
			UserDetails map[string]any `json:"user_details"`
			ByServer    bool           `json:"server_determines_connection_id"`
		}
		if err := json.Unmarshal([]byte(query.Get("json")), &payload); err != nil {
			t.Fatal(err)
		}
		if payload.UserID != login.UserID || payload.UserDetails["name"] != "Ann; & <Bee> + é" || !payload.ByServer {
			t.Errorf("payload %+v", payload)
		}
		for header, want := range map[string]string{"Authorization": secretToken, "Stream-Auth-Type": "jwt", "X-Stream-Client": "chatconn-test"} {
			if v := got.Header.Values(header); len(v) != 1 || v[0] != want {
				t.Errorf("%s: %q", header, v)
			}
		}
		for _, header := range []string{"Sec-Websocket-Extensions", "Sec-Websocket-Protocol"} {
			if v := got.Header.Values(header); v != nil {
				t.Errorf("%s: %q was offered", header, v)
			}
		}

		// Without details only the id goes out, without a token no header.
		anonymous, err := b.dialer().Dial(b.Context(), Login{UserID: "!anon", AuthType: "anonymous"})
		if err != nil {
			t.Fatal(err)
		}
		defer anonymous.HangUp()
		if v := got.Header.Values("Authorization"); v != nil {
			t.Errorf("Authorization: %q", v)
		}
		if payload := got.URL.Query().Get("json"); payload != `{"server_determines_connection_id":true,"user_details":{"id":"!anon"},"user_id":"!anon"}` {
			t.Errorf("payload %s", payload)
		}
	})
}

func TestHello(t *testing.T) {
	for name, test := range map[string]struct {
		frames []string
		id, me string
	}{
		"at once":                {[]string{hello}, "id-1", `{"id":"ann","role":"user"}`},
		"without me":             {[]string{`{"type":"health.check","connection_id":"\u0078"}`}, "x", ""},
		"me is no object":        {[]string{`{"type":"health.check","connection_id":"x","me":"ann"}`}, "x", ""},
		"me is malformed":        {[]string{`{"type":"health.check","connection_id":"x","me":{"id":"\x"}}`}, "x", ""},
		"after other frames":     {[]string{`{"type":"user.updated","connection_id":"no"}`, `null`, `[]`, `}`, `{"error":null}`, hello}, "id-1", `{"id":"ann","role":"user"}`},
		"after one without id":   {[]string{`{"type":"health.check"}`, `{"type":"health.check","connection_id":""}`, hello}, "id-1", `{"id":"ann","role":"user"}`},
		"keys in another case":   {[]string{`{"Type":"health.check","connection_id":"no"}`, `{"type":"health.check","Connection_ID":"no"}`, hello}, "id-1", `{"id":"ann","role":"user"}`},
		"an event with an error": {[]string{`{"type":"custom","error":{"code":40}}`, hello}, "id-1", `{"id":"ann","role":"user"}`},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, speak(test.frames, peer.drain), func(b *bench) {
				s := b.dial()
				if s.ConnectionID() != test.id || string(s.Me()) != test.me {
					t.Errorf("id %q, me %s; want %q, %s", s.ConnectionID(), s.Me(), test.id, test.me)
				}
				s.HangUp()
				<-s.Gone()
			})
		})
	}
}

// R4: the context bounds every phase, by deadline and by cancel, and at once.
func TestContextBoundsEveryPhase(t *testing.T) {
	bodyOf := func(head string) func(net.Conn) {
		return func(c net.Conn) {
			readRequest(c)
			io.WriteString(c, head)
			for _, err := c.Write([]byte("a")); err == nil; _, err = c.Write([]byte("a")) {
				time.Sleep(time.Second) // one byte a second
			}
		}
	}
	silent := func(c net.Conn) { io.Copy(io.Discard, c) }
	upgraded := func(c net.Conn) { c.Write(accept(readRequest(c), "")); silent(c) }
	phases := []struct {
		name    string
		service func(net.Conn)
		prepare func(b *bench)
		phase   string
		kind    Kind
	}{
		{"dial", silent, func(b *bench) { b.network.BlackHole(true) }, "dial", Network},
		{"tls", silent, func(b *bench) { b.options.BaseURL = "https://chat.test:80" }, "dial", Network},
		{"http proxy", silent, func(b *bench) { b.options.Proxy = proxyAt("http://chat.test:80") }, "dial", Network},
		{"https proxy", silent, func(b *bench) { b.options.Proxy = proxyAt("https://chat.test:80") }, "dial", Network},
		{"socks proxy", silent, func(b *bench) { b.options.Proxy = proxyAt("socks5://chat.test:80") }, "dial", Network},
		{"request", func(c net.Conn) { hold(c) }, nil, "upgrade", Network},
		{"no answer", silent, nil, "upgrade", Network},
		{"slow status", bodyOf("HTTP/1.1 101 "), nil, "upgrade", Network},
		{"slow header", bodyOf("HTTP/1.1 101 Switching Protocols\r\nX: "), nil, "upgrade", Network},
		{"slow body", bodyOf("HTTP/1.1 502 Bad Gateway\r\n\r\n"), nil, "upgrade", Refused},
		{"no hello", upgraded, nil, "hello", Network},
		{"pings, no hello", func(c net.Conn) {
			c.Write(accept(readRequest(c), ""))
			go silent(c)
			for _, err := c.Write([]byte{0x89, 0}); err == nil; _, err = c.Write([]byte{0x89, 0}) {
				time.Sleep(time.Second)
			}
		}, nil, "hello", Network},
		{"half a frame", func(c net.Conn) { c.Write(append(accept(readRequest(c), ""), 0x81, 0x7e, 0x01)); silent(c) }, nil, "hello", Network},
	}
	for _, p := range phases {
		t.Run(p.name, func(t *testing.T) {
			inRawBubble(t, p.service, func(b *bench) {
				if p.prepare != nil {
					p.prepare(b)
				}
				const span = 15*time.Second + time.Millisecond
				deadline, cancel := context.WithTimeout(b.Context(), span)
				defer cancel()
				wantSpan(t, "dial with a deadline", span, func() {
					e := b.fail(deadline)
					wantKind(t, e, p.phase, p.kind)
					if p.kind == Network && !errors.Is(e, context.DeadlineExceeded) {
						t.Errorf("error %v, want a deadline exceeded", e)
					}
				})
				hurry := errors.New("in a hurry")
				cancelled, stop := context.WithCancelCause(b.Context())
				time.AfterFunc(span, func() { stop(hurry) })
				wantSpan(t, "cancelled dial", span, func() {
					e := b.fail(cancelled)
					wantKind(t, e, p.phase, p.kind)
					if p.kind == Network && !(errors.Is(e, context.Canceled) && errors.Is(e, hurry)) {
						t.Errorf("error %v, want cancelled by its cause", e)
					}
				})
				b.network.BlackHole(false)
			})
		})
	}
}

func TestContextEndedBefore(t *testing.T) {
	inRawBubble(t, hold, func(b *bench) {
		ctx, cancel := context.WithCancel(b.Context())
		cancel()
		if e := b.fail(ctx); !errors.Is(e, context.Canceled) || b.network.Dials() != 0 {
			t.Errorf("error %v after %d dials", e, b.network.Dials())
		}
	})
}

// M5, T11: a dialer that ignores its context may bring a connection to an attempt that
// is over. It is closed, and nothing goes out on it: not the token either.
func TestContextEndedAndTheDialerBringsAConnection(t *testing.T) {
	var came atomic.Int64
	count := func(c net.Conn) {
		n, _ := io.Copy(io.Discard, c)
		came.Add(n)
	}
	for range 20 { // whether bytes went out before the close was chance
		inRawBubble(t, count, func(b *bench) {
			ctx, cancel := context.WithCancel(b.Context())
			b.options.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
				cancel()
				c, err := b.network.DialContext(context.WithoutCancel(ctx), network, addr)
				synctest.Wait()
				return c, err
			}
			e := b.fail(ctx)
			wantKind(t, e, "dial", Network)
			if !errors.Is(e, context.Canceled) {
				t.Errorf("error %v, want cancelled", e)
			}
		})
	}
	if n := came.Load(); n != 0 {
		t.Errorf("%d bytes went out", n)
	}
}

// A context that ends while the hello is read wins: no socket is returned, or left.
func TestContextEndsWithHello(t *testing.T) {
	inBubble(t, speak([]string{hello}, peer.drain), func(b *bench) {
		ctx, cancel := context.WithCancel(b.Context())
		b.options.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := b.network.DialContext(ctx, network, addr)
			return readHook{c, func(p []byte, err error) error {
				if bytes.Contains(p, []byte("id-1")) {
					cancel()
					synctest.Wait()
				}
				return err
			}}, err
		}
		e := b.fail(ctx)
		wantKind(t, e, "hello", Network)
		if !errors.Is(e, context.Canceled) {
			t.Errorf("error %v, want cancelled", e)
		}
	})
}

// A connection that is closed from here may look like one closed from there.
func TestContextEndsAsEOF(t *testing.T) {
	inBubble(t, speak(nil, peer.drain), func(b *bench) {
		b.options.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := b.network.DialContext(ctx, network, addr)
			return readHook{c, func(_ []byte, err error) error {
				if err != nil {
					err = io.EOF
				}
				return err
			}}, err
		}
		ctx, cancel := context.WithTimeout(b.Context(), time.Second)
		defer cancel()
		e := b.fail(ctx)
		wantKind(t, e, "hello", Network)
		if !errors.Is(e, context.DeadlineExceeded) || e.CloseCode != 0 {
			t.Errorf("error %v, want a deadline exceeded", e)
		}
	})
}

// readHook sees what Read returns and chooses its error.
type readHook struct {
	net.Conn
	after func(p []byte, err error) error
}

func (h readHook) Read(p []byte) (int, error) {
	n, err := h.Conn.Read(p)
	return n, h.after(p[:n], err)
}

// The end of Dial's context does not reach the socket.
func TestContextEndsAfterwards(t *testing.T) {
	inBubble(t, speak([]string{hello}, peer.echo), func(b *bench) {
		ctx, cancel := context.WithTimeout(b.Context(), time.Second)
		s, err := b.dialer().Dial(ctx, ann)
		if err != nil {
			t.Fatal(err)
		}
		run := serve(t, s)
		cancel()
		time.Sleep(time.Hour)
		run.HangUp()
		wantKind(t, run.end(t), "open", HungUp)
	})
}

func TestRefusedUpgrade(t *testing.T) {
	long := strings.Repeat("long ", 2000)
	answer := func(status int, header map[string]string, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			for k, v := range header {
				w.Header().Set(k, v)
			}
			w.WriteHeader(status)
			io.WriteString(w, body)
		}
	}
	for name, test := range map[string]struct {
		service http.HandlerFunc
		want    Error
	}{
		"API error": {
			answer(401, nil, `{"code":40,"message":"expired","StatusCode":401,"duration":"0.00ms","more_info":"","details":[]}`),
			Error{Status: 401, Refusal: &Refusal{Code: 40, StatusCode: 401, Message: "expired"}},
		},
		"API error longer than gorilla keeps": {
			answer(403, nil, `{"code":17,"message":"`+long+`","unrecoverable":true}`),
			Error{Status: 403, Refusal: &Refusal{Code: 17, Message: strings.TrimSpace(long[:512]), Unrecoverable: true}},
		},
		"API error of nearly 64 KiB": {
			answer(403, nil, `{"code":17,"message":"`+strings.Repeat("a", 64<<10-30)+`"}`),
			Error{Status: 403, Refusal: &Refusal{Code: 17, Message: strings.Repeat("a", 512)}},
		},
		"API error that echoes the token": {
			answer(401, nil, `{"code":5,"message":"bad `+secretToken+`"}`),
			Error{Status: 401, Refusal: &Refusal{Code: 5, Message: "bad [redacted]"}},
		},
		"captive portal": {
			answer(200, nil, "<html>\x00\x1b[31m\xff"+secretToken+" "+url.QueryEscape(secretToken)+" "+long),
			Error{Status: 200, Body: strings.TrimSpace(("<html>  [31m\ufffd[redacted] [redacted] " + long)[:512])},
		},
		"redirect":     {answer(302, map[string]string{"Location": "http://evil.test/"}, ""), Error{Status: 302}},
		"another case": {answer(401, nil, `{"Code":40}`), Error{Status: 401, Body: `{"Code":40}`}},
		"bytes beyond the cap": {
			answer(500, nil, strings.Repeat(long, 100)),
			Error{Status: 500, Body: strings.TrimSpace(long[:512])},
		},
		"seconds":           {answer(429, map[string]string{"Retry-After": "7"}, ""), Error{Status: 429, RetryAfter: 7 * time.Second}},
		"date by own clock": {answer(503, map[string]string{"Retry-After": "Sat, 01 Jan 2000 00:00:30 GMT"}, ""), Error{Status: 503, RetryAfter: 30 * time.Second}},
		"date by its clock": {answer(503, map[string]string{"Retry-After": "Thu, 01 Jan 2099 00:00:30 GMT", "Date": "Thu, 01 Jan 2099 00:00:00 GMT"}, ""), Error{Status: 503, RetryAfter: 30 * time.Second}},
		"past date":         {answer(503, map[string]string{"Retry-After": "Fri, 31 Dec 1999 00:00:30 GMT"}, ""), Error{Status: 503}},
		"negative":          {answer(503, map[string]string{"Retry-After": "-7"}, ""), Error{Status: 503}},
		"invalid":           {answer(503, map[string]string{"Retry-After": "soon"}, ""), Error{Status: 503}},
		"for ever":          {answer(503, map[string]string{"Retry-After": "9000000000000000000"}, ""), Error{Status: 503, RetryAfter: 365 * 24 * time.Hour}},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, test.service, func(b *bench) {
				e := b.fail(b.Context())
				wantKind(t, e, "upgrade", Refused)
				if e.Status != test.want.Status || e.RetryAfter != test.want.RetryAfter || e.Body != test.want.Body || e.Err != nil {
					t.Errorf("got status %d, retry %v, body %q, err %v\nwant %d, %v, %q", e.Status, e.RetryAfter, e.Body, e.Err, test.want.Status, test.want.RetryAfter, test.want.Body)
				}
				if got, want := fmt.Sprint(e.Refusal), fmt.Sprint(test.want.Refusal); got != want {
					t.Errorf("refusal %.200s, want %.200s", got, want)
				}
				if b.network.Dials() != 1 {
					t.Errorf("%d dials: a redirect was followed", b.network.Dials())
				}
			})
		})
	}
}

// accept returns the answer that a service gives to a request, with more headers.
func accept(request, more string) []byte {
	_, key, _ := strings.Cut(request, "Sec-WebSocket-Key: ")
	key, _, _ = strings.Cut(key, "\r\n")
	return fmt.Appendf(nil, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n%s\r\n", acceptKey(key), more)
}

// text0 is a text frame as a service sends it, of less than 64 KiB.
func text0(s string) []byte {
	return append([]byte{0x81, 126, byte(len(s) >> 8), byte(len(s))}, s...)
}

func TestHostileHandshake(t *testing.T) {
	say := func(answer string) func(net.Conn) {
		return func(c net.Conn) {
			readRequest(c)
			io.WriteString(c, answer)
			c.(interface{ CloseWrite() error }).CloseWrite()
			io.Copy(io.Discard, c)
		}
	}
	agree := func(more string) func(net.Conn) {
		return func(c net.Conn) {
			c.Write(append(accept(readRequest(c), more), text0(hello)...))
			io.Copy(io.Discard, c)
		}
	}
	flood := func(head string) func(net.Conn) {
		return func(c net.Conn) {
			readRequest(c)
			io.WriteString(c, head)
			sent := 0
			for {
				n, err := c.Write(bytes.Repeat([]byte("a"), 1<<10))
				if sent += n; err != nil {
					break
				}
				if sent > 128<<20 {
					panic("S2: the handshake has no cap")
				}
			}
		}
	}
	for name, test := range map[string]struct {
		service func(net.Conn)
		phase   string
		kind    Kind
		body    string
	}{
		// S2: an extension or subprotocol that was not offered ends the attempt.
		"compression":       {agree("Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover\r\n"), "upgrade", Unoffered, ""},
		"takeover":          {agree("Sec-WebSocket-Extensions: permessage-deflate\r\n"), "upgrade", Unoffered, ""},
		"second header":     {agree("Sec-WebSocket-Extensions:\r\nSec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover\r\n"), "upgrade", Unoffered, ""},
		"unknown extension": {agree("sec-websocket-extensions: x-webkit\r\n"), "upgrade", Unoffered, ""},
		"subprotocol":       {agree("Sec-WebSocket-Protocol: chat\r\n"), "upgrade", Unoffered, ""},
		// S2: 64 KiB of handshake.
		"endless status": {flood("HTTP/1.1 101 "), "upgrade", Oversize, ""},
		"endless header": {flood("HTTP/1.1 101 Switching Protocols\r\nX: "), "upgrade", Oversize, ""},
		"wrong accept":   {say("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: AAAA\r\n\r\n"), "upgrade", Malformed, ""},
		"no upgrade":     {say("HTTP/1.1 101 Switching Protocols\r\n\r\n"), "upgrade", Malformed, ""},
		"garbage":        {say("\x00\x01 SMTP ready\r\n"), "upgrade", Malformed, "SMTP ready"},
		"closed at once": {func(c net.Conn) {}, "upgrade", Network, ""},
		"closed later":   {say(""), "upgrade", Network, ""},
		"cut header":     {say("HTTP/1.1 101 Switch"), "upgrade", Network, ""},
		"no body":        {say("HTTP/1.1 401 Unauthorized\r\nContent-Length: 100\r\n\r\nnot all"), "upgrade", Refused, "not all"},
		"only status":    {say("HTTP/1.1 407\r\n\r\n"), "upgrade", Refused, ""},
		"closed instead of hello": {func(c net.Conn) {
			c.Write(accept(readRequest(c), ""))
		}, "hello", Closed, ""},
		"unasked compressed frame": {func(c net.Conn) {
			c.Write(append(accept(readRequest(c), ""), 0xc1, 1, 'x'))
			io.Copy(io.Discard, c)
		}, "hello", Malformed, ""},
	} {
		t.Run(name, func(t *testing.T) {
			inRawBubble(t, test.service, func(b *bench) {
				e := b.fail(b.Context())
				wantKind(t, e, test.phase, test.kind)
				if e.Body != test.body {
					t.Errorf("body %q, want %q", e.Body, test.body)
				}
			})
		})
	}
	// T11: what echoes the request shows neither token nor query.
	t.Run("echo", func(t *testing.T) {
		inRawBubble(t, func(c net.Conn) {
			io.WriteString(c, readRequest(c))
			io.Copy(io.Discard, c)
		}, func(b *bench) {
			e := b.fail(b.Context())
			wantKind(t, e, "upgrade", Malformed)
			for err := error(e); err != nil; err = errors.Unwrap(err) {
				if strings.Contains(err.Error(), "connect?") {
					t.Errorf("%q holds the URL", err)
				}
			}
			if strings.Contains(e.Body, secretToken) {
				t.Errorf("the body %q holds the token", e.Body)
			}
		})
	})
}

// The handshake's cap does not count what follows it.
func TestHelloLongerThanHandshakeCap(t *testing.T) {
	long := `{"type":"health.check","connection_id":"x","me":{"id":"` + strings.Repeat("a", 100<<10) + `"}}`
	inBubble(t, speak([]string{long}, peer.drain), func(b *bench) {
		s := b.dial()
		if len(s.Me()) != 100<<10+9 {
			t.Errorf("me of %d bytes", len(s.Me()))
		}
		s.HangUp()
		<-s.Gone()
	})
}

func TestNobodyListens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		e := b.fail(t.Context())
		wantKind(t, e, "dial", Network)
		if !errors.Is(e, syscall.ECONNREFUSED) {
			t.Errorf("error %v, want refused", e)
		}
	})
}

func TestInputThatCannotBeSent(t *testing.T) {
	inRawBubble(t, hold, func(b *bench) {
		for name, l := range map[string]Login{
			"newline in the token":       {UserID: "a", AuthType: "jwt", Token: secretToken + "\nX: y"},
			"space in the token":         {UserID: "a", AuthType: "jwt", Token: "a b"},
			"letter in the token":        {UserID: "a", AuthType: "jwt", Token: "é"},
			"newline in the auth type":   {UserID: "a", AuthType: "jwt\r\n"},
			"details are no object":      {UserID: "a", Details: json.RawMessage(`[]`)},
			"details are malformed":      {UserID: "a", Details: json.RawMessage(`{"name":"\x"}`)},
			"details are cut off":        {UserID: "a", Details: json.RawMessage(`{"name":`)},
			"details are an empty slice": {UserID: "a", Details: json.RawMessage{}},
		} {
			_, err := b.dialer().Dial(b.Context(), l)
			e := asError(t, err)
			if e.Phase != "dial" || e.Kind != Malformed || b.network.Dials() != 0 {
				t.Errorf("%s: %v, %d dials", name, e, b.network.Dials())
			}
		}
	})
}

func TestNewDialerChecks(t *testing.T) {
	good := newBench(t).options
	for name, spoil := range map[string]func(*Options){
		"no url":        func(o *Options) { o.BaseURL = "" },
		"ws":            func(o *Options) { o.BaseURL = "ws://chat.test" },
		"no host":       func(o *Options) { o.BaseURL = "https:///path" },
		"opaque":        func(o *Options) { o.BaseURL = "https:chat.test" },
		"userinfo":      func(o *Options) { o.BaseURL = "https://ann:pass@chat.test" },
		"query":         func(o *Options) { o.BaseURL = "https://chat.test/?x=1" },
		"empty query":   func(o *Options) { o.BaseURL = "https://chat.test/?" },
		"fragment":      func(o *Options) { o.BaseURL = "https://chat.test/#x" },
		"malformed":     func(o *Options) { o.BaseURL = "https://ann:pass@chat.test:port" },
		"client":        func(o *Options) { o.Client = "a\nb" },
		"no write time": func(o *Options) { o.WriteTimeout = 0 },
		"no close time": func(o *Options) { o.CloseTimeout = -1 },
		"no messages":   func(o *Options) { o.MaxMessageBytes = 0 },
	} {
		o := good
		spoil(&o)
		if _, err := NewDialer(o); err == nil {
			t.Errorf("%s: accepted", name)
		} else if strings.Contains(err.Error(), "pass") {
			t.Errorf("%s: %q holds the password", name, err)
		}
	}
	config := &tls.Config{MinVersion: tls.VersionTLS10, NextProtos: []string{"h2"}}
	good.TLS = config
	d, err := NewDialer(good)
	if err != nil {
		t.Fatal(err)
	}
	// S1: TLS ≥ 1.2, and the caller's configuration is not touched.
	if d.tls().MinVersion != tls.VersionTLS12 || config.MinVersion != tls.VersionTLS10 || config.NextProtos[0] != "h2" || config.ServerName != "" {
		t.Errorf("minimum %x, the caller's %x", d.tls().MinVersion, config.MinVersion)
	}
}

// T11: a login prints without its token, in every way.
func TestLoginIsRedacted(t *testing.T) {
	var printed strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t", "%c"} {
		fmt.Fprintf(&printed, verb, ann)
		fmt.Fprintf(&printed, verb, &ann)
		fmt.Fprintf(&printed, verb, []Login{ann})
		fmt.Fprintf(&printed, verb, struct{ L Login }{ann})
	}
	asJSON, err := json.Marshal(map[string]any{"login": ann})
	if err != nil {
		t.Error(err)
	}
	printed.Write(asJSON)
	slog.New(slog.NewJSONHandler(&printed, nil)).Info("dial", "login", ann)
	slog.New(slog.NewTextHandler(&printed, nil)).Info("dial", "login", &ann)
	printed.WriteString(ann.String() + ann.GoString())
	for _, form := range []string{secretToken, fmt.Sprintf("%x", secretToken), fmt.Sprintf("%X", secretToken), "c2lnbmF0dXJl"} {
		if strings.Contains(printed.String(), form) {
			t.Errorf("the token is in %s", printed.String())
		}
	}
	// A socket keeps the token to hide it, and does not show it either.
	inBubble(t, speak([]string{hello}, peer.drain), func(b *bench) {
		s := b.dial()
		if shown := fmt.Sprintf("%v %+v %#v", s, s, struct{ s *Socket }{s}); strings.Contains(shown, secretToken) {
			t.Errorf("the token is in %s", shown)
		}
		s.HangUp()
		<-s.Gone()
	})
}

func proxyAt(address string) func(*http.Request) (*url.URL, error) {
	return func(*http.Request) (*url.URL, error) { return url.Parse(address) }
}

func TestProxy(t *testing.T) {
	pipe := func(a, b net.Conn) {
		go func() { io.Copy(a, b); a.Close() }()
		io.Copy(b, a)
		b.Close()
	}
	var asked string
	httpProxy := func(b *bench, answer string) func(net.Conn) {
		return func(c net.Conn) {
			asked = readRequest(c)
			io.WriteString(c, answer)
			if !strings.HasPrefix(answer, "HTTP/1.1 200 OK\r\n\r\n") {
				return
			}
			service, err := b.network.DialContext(context.Background(), "tcp", "chat.test:80")
			if err != nil {
				return
			}
			pipe(c, service)
		}
	}
	socksProxy := func(b *bench, method, status byte) func(net.Conn) {
		return func(c net.Conn) {
			in := make([]byte, 300)
			n, _ := c.Read(in)
			asked = string(in[:n])
			c.Write([]byte{5, method})
			if method == 2 {
				n, _ = c.Read(in)
				asked += string(in[:n])
				c.Write([]byte{1, 0})
			}
			n, _ = c.Read(in)
			asked += string(in[:n])
			c.Write([]byte{5, status, 0, 1, 1, 2, 3, 4, 0, 80})
			if status != 0 {
				return
			}
			service, err := b.network.DialContext(context.Background(), "tcp", "chat.test:80")
			if err != nil {
				return
			}
			pipe(c, service)
		}
	}
	const ok = "HTTP/1.1 200 OK\r\n\r\n"
	for name, test := range map[string]struct {
		url   string
		proxy func(b *bench) func(net.Conn)
		asked string // the beginning of what the proxy heard
		fails string // part of the failure
	}{
		"http":            {"http://proxy.test:3128", func(b *bench) func(net.Conn) { return httpProxy(b, ok) }, "CONNECT chat.test:80 HTTP/1.1\r\nHost: chat.test:80\r\n", ""},
		"http, password":  {"http://u:sesame@proxy.test:3128", func(b *bench) func(net.Conn) { return httpProxy(b, ok) }, "CONNECT chat.test:80 HTTP/1.1\r\nHost: chat.test:80\r\nUser-Agent: Go-http-client/1.1\r\nProxy-Authorization: Basic dTpzZXNhbWU=\r\n", ""},
		"http, refused":   {"http://u:sesame@proxy.test:3128", func(b *bench) func(net.Conn) { return httpProxy(b, "HTTP/1.1 407\r\n\r\n") }, "", "HTTP 407"},
		"http, garbage":   {"http://u:sesame@proxy.test:3128", func(b *bench) func(net.Conn) { return httpProxy(b, "sesame\r\n\r\n") }, "", "does not speak HTTP"},
		"http, chatty":    {"http://u:sesame@proxy.test:3128", func(b *bench) func(net.Conn) { return httpProxy(b, ok+"x") }, "", "before the tunnel"},
		"http, gone":      {"http://u:sesame@proxy.test:3128", func(b *bench) func(net.Conn) { return func(net.Conn) {} }, "", ""},
		"socks":           {"socks5://proxy.test:3128", func(b *bench) func(net.Conn) { return socksProxy(b, 0, 0) }, "\x05\x01\x00\x05\x01\x00\x03\x09chat.test\x00\x50", ""},
		"socks, password": {"socks5h://u:sesame@proxy.test:3128", func(b *bench) func(net.Conn) { return socksProxy(b, 2, 0) }, "\x05\x02\x00\x02\x01\x01u\x06sesame\x05\x01\x00\x03\x09chat.test\x00\x50", ""},
		"socks, refused":  {"socks5://proxy.test:3128", func(b *bench) func(net.Conn) { return socksProxy(b, 0, 5) }, "", "SOCKS reply 5"},
		"socks, no way":   {"socks5://proxy.test:3128", func(b *bench) func(net.Conn) { return socksProxy(b, 255, 0) }, "", "another authentication"},
		"unknown":         {"ftp://u:sesame@proxy.test:3128", func(b *bench) func(net.Conn) { return hold }, "", "not an http"},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, speak([]string{hello}, peer.drain), func(b *bench) {
				asked = ""
				l, _ := b.network.Listen("proxy.test:3128")
				defer l.Close()
				go func() {
					if c, err := l.Accept(); err == nil {
						defer c.Close()
						test.proxy(b)(c)
					}
				}()
				b.options.Proxy = func(r *http.Request) (*url.URL, error) {
					if r.URL.String() != "http://chat.test/connect" || len(r.Header) != 0 {
						t.Errorf("the chooser of proxies saw %s, %v", r.URL, r.Header)
					}
					return url.Parse(test.url)
				}
				s, err := b.dialer().Dial(b.Context(), ann)
				if err == nil {
					s.HangUp()
					<-s.Gone()
				}
				switch {
				case test.asked != "" && (err != nil || !strings.HasPrefix(asked, test.asked)):
					t.Errorf("error %v, the proxy heard %q, want %q", err, asked, test.asked)
				case test.asked == "":
					e := asError(t, err)
					wantKind(t, e, "dial", Network)
					if !strings.Contains(e.Error(), test.fails) || strings.Contains(e.Error(), "sesame") {
						t.Errorf("error %q, want it to say %q", e, test.fails)
					}
				}
			})
		})
	}
}

func TestProxyChooserFails(t *testing.T) {
	inRawBubble(t, hold, func(b *bench) {
		b.options.Proxy = func(*http.Request) (*url.URL, error) { return nil, io.ErrNoProgress }
		if e := b.fail(b.Context()); e.Kind != Network || !errors.Is(e, io.ErrNoProgress) {
			t.Error(e)
		}
	})
}

func TestParseRefusal(t *testing.T) {
	for body, want := range map[string]*Refusal{
		`{"code":40,"message":"m","StatusCode":401,"unrecoverable":true,"details":[1],"x":{}}`: {40, 401, "m", true},
		`{"code":0}`:           {},
		`{"code":-1}`:          {Code: -1},
		`{"code":1,"code":40}`: {Code: 40},
		`{"code":7,"message":5,"StatusCode":"401","unrecoverable":"yes"}`: {Code: 7},
		`{"code":7,"Message":"no","statuscode":1,"UNRECOVERABLE":true}`:   {Code: 7},
		`{"Code":7}`: nil, `{"code":null}`: nil, `{"code":"7"}`: nil, `{"code":7.5}`: nil, `{"code":1e999}`: nil, `{"error":{"code":7}}`: nil,
		`{}`: nil, `[]`: nil, `null`: nil, ``: nil, `7`: nil, `{"code":7`: nil, `{"code":7} x`: nil, "\xff": nil,
	} {
		got, ok := ParseRefusal([]byte(body))
		if ok != (want != nil) || ok && *got != *want {
			t.Errorf("%s: %+v, %t", body, got, ok)
		}
	}
}

func TestKindNames(t *testing.T) {
	seen := map[string]bool{}
	for k := Kind(0); k < numKinds; k++ {
		if name := k.String(); name == "" || seen[name] {
			t.Errorf("kind %d is called %q", k, name)
		} else {
			seen[name] = true
		}
	}
	if got := numKinds; Kind(got).String() != "Kind(12)" {
		t.Errorf("an unknown kind is called %q", Kind(got))
	}
}

// acceptKey is RFC 6455, section 4.2.2.
func acceptKey(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}
