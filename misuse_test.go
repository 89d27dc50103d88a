package chatconn_test

import (
	"context"
	"crypto"
	crand "crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"io"
	"log"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
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
	"github.com/chatconn/chatconn/internal/hooked"
	"github.com/chatconn/chatconn/tokens"
)

// New refuses what cannot work, says which field it is, and repeats no value.
func TestBadConfig(t *testing.T) {
	const secret = "hunter2"
	for name, c := range map[string]struct {
		field string
		set   func(*chatconn.Config)
	}{
		"no key":              {"Config.APIKey", func(c *chatconn.Config) { c.APIKey = "" }},
		"key with a space":    {"Config.APIKey", func(c *chatconn.Config) { c.APIKey = "a " + secret }},
		"key with a newline":  {"Config.APIKey", func(c *chatconn.Config) { c.APIKey = secret + "\n" }},
		"key of bytes":        {"Config.APIKey", func(c *chatconn.Config) { c.APIKey = secret + "\xff" }},
		"long key":            {"Config.APIKey", func(c *chatconn.Config) { c.APIKey = strings.Repeat(secret, 100) }},
		"no URL":              {"Config.BaseURL", func(c *chatconn.Config) { c.BaseURL = "https://%zz" + secret }},
		"no scheme":           {"Config.BaseURL", func(c *chatconn.Config) { c.BaseURL = secret + ".example" }},
		"another scheme":      {"Config.BaseURL", func(c *chatconn.Config) { c.BaseURL = "wss://" + secret }},
		"no host":             {"Config.BaseURL", func(c *chatconn.Config) { c.BaseURL = "https:///" + secret }},
		"password":            {"Config.BaseURL", func(c *chatconn.Config) { c.BaseURL = "https://u:" + secret + "@host" }},
		"password, no URL":    {"Config.BaseURL", func(c *chatconn.Config) { c.BaseURL = "https://u:" + secret + "@ho st" }},
		"query":               {"Config.BaseURL", func(c *chatconn.Config) { c.BaseURL = "https://host?a=" + secret }},
		"empty query":         {"Config.BaseURL", func(c *chatconn.Config) { c.BaseURL = "https://host/?" }},
		"fragment":            {"Config.BaseURL", func(c *chatconn.Config) { c.BaseURL = "https://host#" + secret }},
		"negative timeout":    {"Config.AttemptTimeout", func(c *chatconn.Config) { c.AttemptTimeout = -1 }},
		"max less than first": {"Config.RetryMax", func(c *chatconn.Config) { c.RetryMax = time.Second }},
		"deaf health check":   {"Config.HealthTimeout", func(c *chatconn.Config) { c.HealthTimeout = time.Second }},
		"negative message":    {"Config.MaxMessageBytes", func(c *chatconn.Config) { c.MaxMessageBytes = -1 }},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := chatconn.Config{APIKey: "key"}
			c.set(&cfg)
			_, err := chatconn.New(cfg)
			var invalid *chatconn.InvalidError
			if !errors.As(err, &invalid) || invalid.Field != c.field {
				t.Fatalf("error %v, want one about %s", err, c.field)
			}
			if strings.Contains(err.Error(), secret) {
				t.Errorf("the value is in %q", err)
			}
		})
	}
}

// S1: plain HTTP goes to loopback, or where it is permitted.
func TestInsecureBaseURL(t *testing.T) {
	for base, fine := range map[string]bool{
		"": true, "https://chat.example": true, "http://127.0.0.1:1": true, "http://[::1]:1/x/": true,
		"http://localhost": true, "http://LOCALHOST:80": true, "http://[::ffff:127.0.0.1]": true, "http://127.8.8.8": true,
		"http://chat.example": false, "http://10.0.0.1": false, "http://localhost.example": false, "http://0.0.0.0": false,
	} {
		_, err := chatconn.New(chatconn.Config{APIKey: "key", BaseURL: base})
		if fine && err != nil || !fine && !errors.Is(err, chatconn.ErrInsecure) {
			t.Errorf("%q: %v", base, err)
		}
		if _, err := chatconn.New(chatconn.Config{APIKey: "key", BaseURL: base, AllowInsecure: true}); err != nil {
			t.Errorf("%q with AllowInsecure: %v", base, err)
		}
	}
}

// What a call is given is checked before anything happens.
func TestBadArguments(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		ctx, s := w.Context(), w.source("john")
		john := chatconn.User{ID: "john"}
		var none context.Context // a nil that vet lets pass
		calls := map[string]func() error{
			"empty id": func() error { _, err := w.conn.ConnectUser(ctx, chatconn.User{}, s); return err },
			"newline":  func() error { _, err := w.conn.ConnectUser(ctx, chatconn.User{ID: "a\nb"}, s); return err },
			"bytes":    func() error { _, err := w.conn.ConnectUser(ctx, chatconn.User{ID: "\xff"}, s); return err },
			"long id": func() error {
				_, err := w.conn.ConnectUser(ctx, chatconn.User{ID: strings.Repeat("x", 256)}, s)
				return err
			},
			"anonymous":              func() error { _, err := w.conn.ConnectUser(ctx, chatconn.User{ID: "!anon"}, s); return err },
			"nil source":             func() error { _, err := w.conn.ConnectUser(ctx, john, nil); return err },
			"switch, nil":            func() error { _, err := w.conn.SwitchUser(ctx, john, nil); return err },
			"guest":                  func() error { _, err := w.conn.ConnectGuest(ctx, chatconn.User{}); return err },
			"guest token":            func() error { _, _, err := w.conn.GuestToken(ctx, chatconn.User{}); return err },
			"guest, anonymous":       func() error { _, err := w.conn.ConnectGuest(ctx, chatconn.User{ID: "!anon"}); return err },
			"guest token, anonymous": func() error { _, _, err := w.conn.GuestToken(ctx, chatconn.User{ID: "!anon"}); return err },
			"second id": func() error {
				_, err := w.conn.ConnectUser(ctx, chatconn.User{ID: "john", Extra: map[string]any{"id": "jane"}}, s)
				return err
			},
			"no JSON": func() error {
				_, err := w.conn.ConnectUser(ctx, chatconn.User{ID: "john", Extra: map[string]any{"f": func() {}}}, s)
				return err
			},
			"persistence":         func() error { return w.conn.Disconnect(ctx, 7) },
			"nil ctx: connect":    func() error { _, err := w.conn.ConnectUser(none, john, s); return err },
			"nil ctx: switch":     func() error { _, err := w.conn.SwitchUser(none, john, s); return err },
			"nil ctx: guest":      func() error { _, err := w.conn.ConnectGuest(none, john); return err },
			"nil ctx: anonymous":  func() error { _, err := w.conn.ConnectAnonymous(none); return err },
			"nil ctx: token":      func() error { _, _, err := w.conn.GuestToken(none, john); return err },
			"nil ctx: reconnect":  func() error { _, err := w.conn.ReconnectSocket(none); return err },
			"nil ctx: socket":     func() error { return w.conn.DisconnectSocket(none) },
			"nil ctx: disconnect": func() error { return w.conn.Disconnect(none, chatconn.KeepPersistence) },
			"nil ctx: wait":       func() error { _, err := w.conn.Wait(none, fsm.Connected); return err },
		}
		for _, connected := range []bool{false, true} {
			if connected {
				w.login(s)
			}
			before := w.conn.Stats()
			for name, call := range calls {
				var invalid *chatconn.InvalidError
				if err := call(); !errors.As(err, &invalid) {
					w.Errorf("%s: error %v", name, err)
				}
			}
			synctest.Wait()
			if after := w.conn.Stats(); after != before {
				w.Errorf("something happened: before %+v, after %+v", before, after)
			}
			if _, open := <-w.conn.Watch(none); open {
				w.Error("Watch of no context is open")
			}
			if _, open := <-w.conn.Events(none); open {
				w.Error("Events of no context are open")
			}
		}
		w.close()
	})
}

// The text of a token is checked before it is used (S3). A static token that
// cannot be used is final; a source may do better next time (T3). Another user's
// token is final for every source, and not cached (C3).
func TestBadTokens(t *testing.T) {
	var good string
	for name, c := range map[string]struct {
		token func() string
		want  error
	}{
		"empty":            {func() string { return "" }, chatconn.ErrTokenInvalid},
		"trailing newline": {func() string { return good + "\n" }, chatconn.ErrTokenInvalid},
		"Bearer":           {func() string { return "Bearer " + good }, chatconn.ErrTokenInvalid},
		"two segments":     {func() string { return good[:strings.LastIndex(good, ".")] }, chatconn.ErrTokenInvalid},
		"five segments":    {func() string { return good + ".a.b" }, chatconn.ErrTokenInvalid},
		"20 MiB":           {func() string { return good + strings.Repeat("x", 20<<20) }, chatconn.ErrTokenInvalid},
		"not ASCII":        {func() string { return good + "é" }, chatconn.ErrTokenInvalid},
		"header injection": {func() string { return good + "\r\nX-Evil: 1" }, chatconn.ErrTokenInvalid},
		"another user":     {nil, chatconn.ErrTokenUserMismatch},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, nil, func(w *world) {
				good = w.server.Token("john", 0)
				bad := w.server.Token("jane", 0)
				if c.token != nil {
					bad = c.token()
				}
				check := func(what string, err error) {
					w.Helper()
					wantError(w, what, err, c.want)
					if err != nil && (strings.Contains(err.Error(), bad) && bad != "" || len(err.Error()) > 1000) {
						w.Errorf("%s: T11: the error holds the token", what)
					}
				}
				_, err := w.conn.ConnectUser(w.Context(), chatconn.User{ID: "john"}, tokens.Static(bad))
				check("static", err)
				w.nothingHappens(w.source("john"))

				calls := 0
				source := tokens.Func(func(context.Context) (string, error) {
					if calls++; calls <= 2 {
						return bad, nil
					}
					return good, nil
				})
				_, err = w.conn.ConnectUser(w.Context(), chatconn.User{ID: "john"}, source)
				if c.want == chatconn.ErrTokenUserMismatch {
					check("source", err)
					if calls != 1 {
						w.Errorf("asked %d times", calls)
					}
				} else if err != nil || calls != 3 {
					w.Errorf("after %d calls: %v", calls, err)
				} else {
					check("the last error", w.conn.Stats().LastError)
				}
				if n := len(w.server.Log()); c.want == chatconn.ErrTokenUserMismatch && n != 0 {
					w.Errorf("the server saw %d things", n)
				}
				w.close()
			})
		})
	}
}

// T3, T5: a source that panics, blocks, fails or brings the refused token again is
// a failed load: paced, its cause kept.
func TestBadSources(t *testing.T) {
	for name, c := range map[string]struct {
		first func(ctx context.Context) (string, error) // its first three calls
		cause func(error) bool
		least time.Duration
	}{
		"panics": {func(context.Context) (string, error) { panic("a secret") },
			func(err error) bool { return err != nil && strings.Contains(err.Error(), "panicked") }, 5 * time.Second},
		"ends its goroutine": {func(context.Context) (string, error) { panic(http.ErrAbortHandler) },
			func(err error) bool { return err != nil }, 5 * time.Second},
		"fails": {func(context.Context) (string, error) { return "", net.ErrClosed },
			func(err error) bool { return errors.Is(err, net.ErrClosed) }, 5 * time.Second},
		"blocks": {func(ctx context.Context) (string, error) { <-ctx.Done(); return "", ctx.Err() },
			func(err error) bool { return errors.Is(err, chatconn.ErrTokenTimeout) }, 90 * time.Second},
		"is late": {func(ctx context.Context) (string, error) { time.Sleep(40 * time.Second); return "late", nil },
			func(err error) bool { return errors.Is(err, chatconn.ErrTokenTimeout) }, 90 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, nil, func(w *world) {
				calls := 0
				began := time.Now()
				_, err := w.conn.ConnectUser(w.Context(), chatconn.User{ID: "john"}, tokens.Func(func(ctx context.Context) (string, error) {
					if calls++; calls <= 3 {
						return c.first(ctx)
					}
					return w.server.Token("john", 0), nil
				}))
				if err != nil {
					w.Error(err)
				}
				if cause := w.conn.Stats().LastError; !c.cause(cause) {
					w.Errorf("the last error is %v", cause)
				}
				if took := time.Since(began); took < c.least || calls != 4 {
					w.Errorf("connected after %v and %d calls", took, calls)
				}
				w.close()
			})
		})
	}
	t.Run("brings the refused token again", func(t *testing.T) {
		inWorld(t, nil, func(w *world) {
			token := w.server.Token("john", 0)
			w.server.ExpireTokens("john", false)
			calls := 0
			began := time.Now()
			ctx, cancel := context.WithTimeout(w.Context(), 10*time.Minute)
			defer cancel()
			_, err := w.conn.ConnectUser(ctx, chatconn.User{ID: "john"}, tokens.Func(func(context.Context) (string, error) {
				calls++
				return token, nil
			}))
			wantError(w, "connect", err, context.DeadlineExceeded)
			wantError(w, "connect", err, tokens.ErrRefusedAgain)
			if calls > 40 || calls < 15 || time.Since(began) != 10*time.Minute {
				w.Errorf("asked %d times in %v", calls, time.Since(began))
			}
			if n := w.conn.Stats().Attempts; n != 1 {
				w.Errorf("the server saw the refused token %d times", n)
			}
		})
	})
}

// verbs are all calls of a Conn. Those that may have to wait for a connection get
// a context that ends.
var verbs = map[string]func(ctx context.Context, w *world, s tokens.Source) error{
	"ConnectUser": func(ctx context.Context, w *world, s tokens.Source) error {
		_, err := w.conn.ConnectUser(ctx, chatconn.User{ID: "john"}, s)
		return err
	},
	"ConnectUser another": func(ctx context.Context, w *world, s tokens.Source) error {
		_, err := w.conn.ConnectUser(ctx, chatconn.User{ID: "jane"}, w.source("jane"))
		return err
	},
	"SwitchUser": func(ctx context.Context, w *world, s tokens.Source) error {
		_, err := w.conn.SwitchUser(ctx, chatconn.User{ID: "jane"}, w.source("jane"))
		return err
	},
	"ConnectGuest": func(ctx context.Context, w *world, s tokens.Source) error {
		_, err := w.conn.ConnectGuest(ctx, chatconn.User{ID: "guest"})
		return err
	},
	"ConnectAnonymous": func(ctx context.Context, w *world, s tokens.Source) error {
		_, err := w.conn.ConnectAnonymous(ctx)
		return err
	},
	"GuestToken": func(ctx context.Context, w *world, s tokens.Source) error {
		_, _, err := w.conn.GuestToken(ctx, chatconn.User{ID: "guest"})
		return err
	},
	"ReconnectSocket": func(ctx context.Context, w *world, s tokens.Source) error {
		_, err := w.conn.ReconnectSocket(ctx)
		return err
	},
	"DisconnectSocket": func(ctx context.Context, w *world, s tokens.Source) error { return w.conn.DisconnectSocket(ctx) },
	"Disconnect": func(ctx context.Context, w *world, s tokens.Source) error {
		return w.conn.Disconnect(ctx, chatconn.FlushPersistence)
	},
	"Close": func(ctx context.Context, w *world, s tokens.Source) error { return w.conn.Close() },
	"Wait": func(ctx context.Context, w *world, s tokens.Source) error {
		_, err := w.conn.Wait(ctx, fsm.Connected)
		return err
	},
	"request": func(ctx context.Context, w *world, s tokens.Source) error {
		return do(ctx, w.conn.HTTPClient(), w.config.BaseURL+"/app", "").err
	},
	"the rest": func(ctx context.Context, w *world, s tokens.Source) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		w.conn.Watch(ctx)
		w.conn.Events(ctx)
		w.conn.CurrentUser()
		w.conn.Session()
		w.conn.Stats()
		w.conn.State()
		w.conn.Background()
		w.conn.Foreground()
		w.conn.NetworkLost()
		w.conn.NetworkAvailable()
		w.conn.Woke()
		return nil
	},
}

// callbacks are all places where the program's code runs. Each makes it run where
// the world is lively.
var callbacks = map[string]func(w *world, s *source, run func(ctx context.Context)){
	"source": func(w *world, s *source, run func(context.Context)) {
		s.meddle = func(ctx context.Context, _ int) error { run(ctx); return nil }
	},
	"source, with a context of its own": func(w *world, s *source, run func(context.Context)) {
		s.meddle = func(context.Context, int) error { run(context.Background()); return nil }
	},
	"logger": func(w *world, s *source, run func(context.Context)) {
		w.config.Logger = slog.New(handler(func() { run(context.Background()) }))
	},
	"Record": func(w *world, s *source, run func(context.Context)) {
		w.config.Record = writer(func() { run(context.Background()) })
	},
	"DialLimit": func(w *world, s *source, run func(context.Context)) {
		w.config.DialLimit = func(ctx context.Context) error { run(ctx); return nil }
	},
	"DialContext": func(w *world, s *source, run func(context.Context)) {
		dial := w.config.DialContext
		w.config.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			run(ctx)
			return dial(ctx, network, addr)
		}
	},
	"DialContext, with a context of its own": func(w *world, s *source, run func(context.Context)) {
		dial := w.config.DialContext
		w.config.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			run(context.Background())
			return dial(ctx, network, addr)
		}
	},
	"Proxy": func(w *world, s *source, run func(context.Context)) {
		w.config.Proxy = func(r *http.Request) (*url.URL, error) { run(r.Context()); return nil, nil }
	},
	"GetClientCertificate": func(w *world, s *source, run func(context.Context)) {
		w.secure().GetClientCertificate = func(asked *tls.CertificateRequestInfo) (*tls.Certificate, error) {
			run(asked.Context())
			return new(tls.Certificate), nil
		}
	},
	"VerifyPeerCertificate, with a context of its own": func(w *world, s *source, run func(context.Context)) {
		w.secure().VerifyPeerCertificate = func([][]byte, [][]*x509.Certificate) error { run(context.Background()); return nil }
	},
	"VerifyConnection, with a context of its own": func(w *world, s *source, run func(context.Context)) {
		w.secure().VerifyConnection = func(tls.ConnectionState) error { run(context.Background()); return nil }
	},
	"Time, with a context of its own": func(w *world, s *source, run func(context.Context)) {
		w.secure().Time = func() time.Time { run(context.Background()); return time.Now() }
	},
	"Rand, with a context of its own": func(w *world, s *source, run func(context.Context)) {
		w.secure().Rand = readFunc(func(p []byte) (int, error) { run(context.Background()); return crand.Read(p) })
	},
	"a private key, with a context of its own": func(w *world, s *source, run func(context.Context)) {
		cfg := w.secure()
		cert := newAuthority(w.T).issue(w.T, nil)
		cert.PrivateKey = hookedKey{cert.PrivateKey.(crypto.Signer), func() { run(context.Background()) }}
		cfg.Certificates = []tls.Certificate{cert}
	},
	"the public key of a certificate that was asked for, with a context of its own": func(w *world, s *source, run func(context.Context)) {
		cert := newAuthority(w.T).issue(w.T, nil)
		cert.PrivateKey = publicKey{cert.PrivateKey.(crypto.Signer), func() { run(context.Background()) }}
		w.secure().GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil }
	},
	"Get of ClientSessionCache, with a context of its own": func(w *world, s *source, run func(context.Context)) {
		w.secure().ClientSessionCache = hookedCache{tls.NewLRUClientSessionCache(1), func() { run(context.Background()) }, func() {}}
	},
	"Put of ClientSessionCache": func(w *world, s *source, run func(context.Context)) {
		w.secure().ClientSessionCache = hookedCache{tls.NewLRUClientSessionCache(1), func() {}, func() { run(context.Background()) }}
	},
	"KeyLogWriter": func(w *world, s *source, run func(context.Context)) {
		w.secure().KeyLogWriter = writer(func() { run(context.Background()) })
	},
	"Read of a connection, with a context of its own": func(w *world, s *source, run func(context.Context)) {
		w.hookConnections(func(method string) {
			if method == "Read" {
				run(context.Background())
			}
		})
	},
	"Write of a connection, with a context of its own": func(w *world, s *source, run func(context.Context)) {
		w.hookConnections(func(method string) {
			if method == "Write" {
				run(context.Background())
			}
		})
	},
	"watcher loop": nil,
	"event loop":   nil,
}

// hookConnections has a hook called in the methods of every connection that is dialled,
// after their work is done.
func (w *world) hookConnections(hook func(method string)) {
	w.config.DialContext = hooked.Dialer(w.config.DialContext, hook)
}

type hookedKey struct {
	crypto.Signer
	hook func()
}

func (k hookedKey) Sign(rand io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	k.hook()
	return k.Signer.Sign(rand, digest, opts)
}

type publicKey struct {
	crypto.Signer
	hook func()
}

func (k publicKey) Public() crypto.PublicKey {
	k.hook()
	return k.Signer.Public()
}

type hookedCache struct {
	tls.ClientSessionCache
	get, put func()
}

func (c hookedCache) Get(key string) (*tls.ClientSessionState, bool) {
	c.get()
	return c.ClientSessionCache.Get(key)
}

func (c hookedCache) Put(key string, state *tls.ClientSessionState) {
	c.put()
	c.ClientSessionCache.Put(key, state)
}

type readFunc func(p []byte) (int, error)

func (f readFunc) Read(p []byte) (int, error) { return f(p) }

// secure puts TLS before the server and returns the configuration of the next Conn,
// which trusts it.
func (w *world) secure() *tls.Config {
	w.Helper()
	trusted := newAuthority(w.T)
	plain, err := w.net.Listen("127.0.0.1:443")
	if err != nil {
		w.Fatal(err)
	}
	front := &http.Server{Handler: w.server.Handler(), ErrorLog: log.New(io.Discard, "", 0)}
	go front.Serve(tls.NewListener(plain, &tls.Config{Certificates: []tls.Certificate{trusted.issue(w.T, nil)}, ClientAuth: tls.RequestClientCert}))
	w.Cleanup(func() { front.Close() })
	w.config.BaseURL = "https://127.0.0.1:443"
	w.config.TLS = &tls.Config{RootCAs: x509.NewCertPool()}
	w.config.TLS.RootCAs.AddCert(trusted.cert)
	return w.config.TLS
}

type handler func()

func (h handler) Enabled(context.Context, slog.Level) bool  { return true }
func (h handler) Handle(context.Context, slog.Record) error { h(); return nil }
func (h handler) WithAttrs([]slog.Attr) slog.Handler        { return h }
func (h handler) WithGroup(string) slog.Handler             { return h }

type writer func()

func (f writer) Write(p []byte) (int, error) { f(); return len(p), nil }

// inCallback lets run be called once from inside a callback of a Conn that
// connects john, and hears events.
func inCallback(w *world, name string, s *source, run func(ctx context.Context)) {
	var once atomic.Bool
	first := func(ctx context.Context) {
		if !once.Swap(true) {
			run(ctx)
		}
	}
	if install := callbacks[name]; install != nil {
		install(w, s, first)
	}
	w.conn = w.newConn()
	switch name {
	case "watcher loop":
		go func() {
			for range w.conn.Watch(w.Context()) {
				first(w.Context())
			}
		}()
	case "event loop":
		go func() {
			for range w.conn.Events(w.Context()) {
				first(w.Context())
			}
		}()
	}
	_ = w.connect(w.Context(), s)
	_, _ = w.server.Emit("john", map[string]any{"type": "x"})
	synctest.Wait()
}

// afterwards is what the program's code does when its call has returned.
var afterwards = map[string]func(free <-chan struct{}){
	"returns":            func(<-chan struct{}) {},
	"panics":             func(<-chan struct{}) { panic("hunter2") },
	"ends its goroutine": func(<-chan struct{}) { runtime.Goexit() },
	"blocks":             func(free <-chan struct{}) { <-free },
}

// M4, C9: every call is legal from inside every callback, whatever that does then.
// None of them waits for itself for ever: what would is ErrReentrant, at once, inside
// a token source and inside what opens a connection. Every call ends in a documented
// way, and the Conn is as good as before.
func TestCallsFromInsideCallbacks(t *testing.T) {
	for callback := range callbacks {
		for verb, call := range verbs {
			for then, act := range afterwards {
				if strings.HasSuffix(callback, " loop") && (then == "panics" || then == "ends its goroutine") {
					continue // that is the program's own goroutine
				}
				t.Run(callback+"/"+verb+"/"+then, func(t *testing.T) {
					inWorld(t, nil, func(w *world) {
						s := w.source("john")
						returned, free := make(chan error, 1), make(chan struct{})
						began := time.Now()
						inCallback(w, callback, s, func(ctx context.Context) {
							ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
							defer cancel()
							returned <- call(ctx, w, s)
							act(free)
						})
						w.ended(callback, verb, <-returned, time.Since(began))
						if verb == "Close" {
							w.is(fsm.Offline)
						} else if _, err := w.conn.SwitchUser(w.Context(), chatconn.User{ID: "joe"}, w.source("joe")); err != nil {
							w.Errorf("afterwards: %v", err)
						}
						began = time.Now()
						w.close()
						if took := time.Since(began); took > time.Second {
							w.Errorf("Close took %v", took)
						}
						close(free)
					})
				})
			}
		}
	}
}

// ended checks how a call from inside a callback ended.
func (w *world) ended(callback, verb string, err error, took time.Duration) {
	w.Helper()
	if took > 10*time.Second {
		w.Errorf("it took %v", took)
	}
	if !documentedFor(verb, err) {
		w.Errorf("%s ended in %v", verb, err)
	}
	inSource, opens := false, false
	switch callback {
	case "source", "source, with a context of its own":
		inSource = true
	case "DialLimit", "DialContext", "DialContext, with a context of its own", "Proxy",
		"GetClientCertificate", "VerifyPeerCertificate, with a context of its own", "VerifyConnection, with a context of its own",
		"Time, with a context of its own", "Rand, with a context of its own", "a private key, with a context of its own",
		"the public key of a certificate that was asked for, with a context of its own",
		"Get of ClientSessionCache, with a context of its own",
		"Read of a connection, with a context of its own", "Write of a connection, with a context of its own":
		opens = true
	default:
		return
	}
	if took > 2*time.Second { // between two attempts, and the wait for a dial that goes on
		w.Errorf("it took %v", took)
	}
	switch verb {
	case "ConnectUser", "ReconnectSocket", "Wait":
		wantError(w, verb, err, chatconn.ErrReentrant)
	case "request":
		if inSource {
			wantError(w, verb, err, chatconn.ErrReentrant)
		}
	case "ConnectUser another", "ConnectGuest", "ConnectAnonymous":
		wantError(w, verb, err, chatconn.ErrUserAlreadySet)
	case "SwitchUser": // it ends the context of the code it is in
		if !strings.HasSuffix(callback, "of its own") {
			wantError(w, verb, err, context.Canceled)
		} else if err != nil {
			w.Errorf("%s: %v", verb, err)
		}
	default:
		if err != nil && !opens {
			w.Errorf("%s: %v", verb, err)
		}
	}
}

// documentedFor reports whether a call may end so, when the world is well and the
// program is not. A request's error may also be the network's or a panic's.
func documentedFor(verb string, err error) bool {
	var api *chatconn.APIError
	var wire *url.Error
	is := func(all ...error) bool {
		return err == nil || slices.ContainsFunc(all, func(target error) bool { return errors.Is(err, target) })
	}
	always := []error{chatconn.ErrClosed, context.Canceled, context.DeadlineExceeded}
	switch verb {
	case "ConnectUser", "ConnectUser another", "SwitchUser", "ConnectGuest", "ConnectAnonymous", "ReconnectSocket":
		return errors.As(err, &api) || is(append(always, chatconn.ErrUserAlreadySet, chatconn.ErrNoUser, chatconn.ErrDisconnected, chatconn.ErrReentrant,
			chatconn.ErrTokenUserMismatch, chatconn.ErrTokenExpired, chatconn.ErrTokenInvalid)...)
	case "Wait":
		return is(append(always, chatconn.ErrReentrant)...)
	case "Disconnect", "DisconnectSocket":
		return is(always...)
	case "GuestToken":
		return errors.As(err, &api) || errors.As(err, new(*net.OpError)) || is(append(always, io.EOF, io.ErrUnexpectedEOF, chatconn.ErrDisconnected)...)
	case "request":
		return errors.As(err, &wire) || is(always...)
	}
	return err == nil
}

// M4: the program's code may panic anywhere without taking the program along, and
// the Conn survives it.
func TestCallbacksThatPanic(t *testing.T) {
	for callback := range callbacks {
		if strings.HasSuffix(callback, " loop") {
			continue // that is the program's own goroutine
		}
		t.Run(callback, func(t *testing.T) {
			inWorld(t, nil, func(w *world) {
				s := w.source("john")
				inCallback(w, callback, s, func(context.Context) { panic("hunter2") })
				w.be(fsm.Connected)
				if err := w.conn.Stats().LastError; err != nil && !strings.HasPrefix(callback, "source") && strings.Contains(err.Error(), "hunter2") {
					w.Errorf("T11: the panic's value is in %q", err)
				}
				w.close()
			})
		})
	}
}

// C9, O2: the program's code may block for ever. The connection goes on where it
// does not need that code, and Close does not wait for it.
func TestCallbacksThatBlock(t *testing.T) {
	holdsUp := map[string]bool{"source": true, "source, with a context of its own": true, "DialLimit": true} // all else is left behind
	for callback := range callbacks {
		t.Run(callback, func(t *testing.T) {
			inWorld(t, nil, func(w *world) {
				s := w.source("john")
				free := make(chan struct{})
				inCallback(w, callback, s, func(context.Context) { <-free })
				time.Sleep(10 * time.Minute)
				for range 2000 {
					_, _ = w.server.Emit("john", map[string]any{"type": "x"})
				}
				if holdsUp[callback] {
					w.is(fsm.Connecting)
				} else {
					w.is(fsm.Connected)
				}
				began := time.Now()
				w.close()
				if took := time.Since(began); took > time.Second {
					w.Errorf("Close took %v", took)
				}
				w.nothingHappens(s)
				close(free)
			})
		})
	}
}

// C9: after Close every call fails with ErrClosed, at once, and channels are
// closed.
func TestCallsAfterClose(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		s := w.source("john")
		w.login(s)
		client := w.conn.HTTPClient()
		w.close()
		began := time.Now()
		for name, call := range verbs {
			err := call(w.Context(), w, s)
			switch name {
			case "Close", "the rest":
				if err != nil {
					w.Errorf("%s: %v", name, err)
				}
			default:
				wantError(w, name, err, chatconn.ErrClosed)
			}
		}
		wantError(w, "a client from before", do(w.Context(), client, w.server.URL()+"/app", "").err, chatconn.ErrClosed)
		if _, open := <-w.conn.Watch(w.Context()); open {
			w.Error("Watch is open")
		}
		if _, open := <-w.conn.Events(w.Context()); open {
			w.Error("Events are open")
		}
		if took := time.Since(began); took != 0 {
			w.Errorf("it took %v", took)
		}
		if _, set := w.conn.CurrentUser(); set {
			w.Error("a user is set")
		}
		w.nothingHappens(s)
	})
}

// Everything at once: 64 goroutines call what they like while the server fails as
// it likes. Whatever happens, there is one socket and one load at a time, the
// table is never asked what it refuses, and Close ends it all.
func TestRandomCalls(t *testing.T) {
	inWorld(t, func(c *chatconn.Config) {
		c.Logger = slog.New(handler(func() {}))
		c.BackgroundGrace = 2 * time.Second
		c.RequestWait = 20 * time.Second
	}, func(w *world) {
		randomCalls(w, time.Hour, 20*time.Second)
		oneSocketAtATime(w)
	})
}

var randomFor = flag.Duration("random.for", 3*time.Second, "how long 64 goroutines make random calls on real sockets")

// The same for a moment on real sockets. Every call ends in a documented way.
func TestRandomCallsOnRealSockets(t *testing.T) {
	server, err := devserver.Start(devserver.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	w := &world{T: t, server: server}
	w.config = chatconn.Config{
		APIKey: server.APIKey(), BaseURL: server.URL(), MinDialInterval: -1,
		RetryFirst: 20 * time.Millisecond, RetryMax: 50 * time.Millisecond, AttemptTimeout: 200 * time.Millisecond,
		TokenTimeout: 100 * time.Millisecond, RequestWait: 100 * time.Millisecond, CloseTimeout: 100 * time.Millisecond,
		HealthCheckInterval: 50 * time.Millisecond, HealthTimeout: 100 * time.Millisecond,
	}
	w.conn = w.newConn()
	randomCalls(w, *randomFor, 20*time.Millisecond)
	if bugs := w.conn.Stats().Bugs; bugs != 0 {
		t.Errorf("%d events that the table refuses", bugs)
	}
}

func randomCalls(w *world, length, pause time.Duration) {
	ctx, cancel := context.WithTimeout(w.Context(), length)
	defer cancel()
	s := w.source("john")
	broken := errors.New("the backend is down")
	s.meddle = func(ctx context.Context, _ int) error {
		switch rand.N(8) {
		case 0:
			return broken
		case 1:
			return obedient(ctx, 0)
		case 2:
			time.Sleep(rand.N(pause)) // and ignores its context
		}
		return nil
	}
	var calls []func(context.Context, *world, tokens.Source)
	for name, call := range verbs {
		if name != "Close" {
			calls = append(calls, func(ctx context.Context, w *world, s tokens.Source) {
				err := call(ctx, w, s)
				if !documentedFor(name, err) && !errors.Is(err, broken) {
					w.Errorf("%s ended in %T: %v", name, err, err)
				}
			})
		}
	}
	faults := []func(){
		w.server.DropAll, w.server.Heal, w.server.Heal,
		func() { w.server.ExpireTokens("john", rand.N(2) == 0) },
		func() { w.server.Kick("john", devserver.APIError{Code: []int{-1, 5, 9, 40, 41, 43, 99}[rand.N(7)]}) },
		func() { w.server.FailHandshakes(2, devserver.APIError{Code: []int{-1, 5, 9, 40, 41, 43}[rand.N(6)]}) },
		func() { w.server.FailRequests(2, devserver.Answer{Code: []int{-1, 9, 40}[rand.N(3)]}) },
		func() { w.server.CloseAll([]int{1000, 1006, 1011, 1012}[rand.N(4)], "") },
		func() { w.server.DropAfter(1 + rand.N(5)) },
		func() { w.server.Silence(true) },
		func() { w.server.StopHealth(true) },
		func() { w.server.Stop(); time.Sleep(rand.N(pause)); _ = w.server.Restart() },
	}
	var group sync.WaitGroup
	for range 64 {
		group.Go(func() {
			for ctx.Err() == nil {
				short, cancel := context.WithTimeout(ctx, rand.N(pause))
				var source tokens.Source = s
				if rand.N(2) == 0 { // with a token at hand a caller makes the attempt itself
					source = tokens.Static(w.server.Token("john", 0))
				}
				calls[rand.N(len(calls))](short, w, source)
				cancel()
				time.Sleep(rand.N(pause))
			}
		})
	}
	for range 3 {
		group.Go(func() { // two readers who read, and one who does not
			for range w.conn.Events(ctx) {
			}
		})
		group.Go(func() {
			var last uint64
			for c := range w.conn.Watch(ctx) {
				if c.Seq < last || c.Missed == 0 && last != 0 && c.Seq != last+1 {
					w.Errorf("O1: change %d follows %d", c.Seq, last)
				}
				last = c.Seq
			}
		})
	}
	w.conn.Watch(ctx)
	w.conn.Events(ctx)
	group.Go(func() {
		for ctx.Err() == nil {
			faults[rand.N(len(faults))]()
			time.Sleep(rand.N(pause))
		}
	})
	group.Wait()
	w.server.Heal()
	_ = w.server.Restart()

	before := w.conn.Stats()
	w.close()
	stats := w.conn.Stats()
	w.Logf("%d dials, %d reconnects, %d loads, %d replays, %d late news", stats.Attempts, stats.Reconnects, stats.Loads, stats.Replays, stats.LateDrops)
	if stats.Waiting != 0 || stats.State != fsm.Offline || !stats.ConnectedAt.IsZero() {
		w.Errorf("after Close: %+v, before: %+v", stats, before)
	}
	if n := s.most.Load(); n > 1 {
		w.Errorf("T4: %d loads at a time", n)
	}
	if stats.Attempts < 10 || stats.Loads < 10 {
		w.Errorf("too little happened: %+v", stats)
	}
}

// oneSocketAtATime checks in the server's record that no two sockets of the Conn
// were open for longer than the instant in which one's close frame and the
// other's request cross.
func oneSocketAtATime(w *world) {
	open := map[string]time.Time{}
	for _, e := range w.server.Log() {
		switch e.Kind {
		case devserver.Hello:
			open[e.ConnectionID] = e.At
		case devserver.Close, devserver.Gone:
			began := open[e.ConnectionID]
			delete(open, e.ConnectionID)
			for other, since := range open {
				if since.Before(began) {
					since = began
				}
				if e.At.After(since) && !began.IsZero() {
					w.Errorf("%s and %s were open together, from %v to %v", e.ConnectionID, other, since, e.At)
				}
			}
		}
	}
}

// M4: net/http dials and shakes hands for a request on goroutines of its own, where a
// panic of the program's code would end the program, and whose end it would wait for.
// Either is that request's error, at once, and the next one goes out.
func TestOpeningFailsUnderARequest(t *testing.T) {
	bad := map[string]func(){"panics": func() { panic("hunter2") }, "ends its goroutine": runtime.Goexit}
	const (
		fails   = iota
		inWords // crypto/tls keeps the text of the error
		goesOn  // without the hook
	)
	for callback, end := range map[string]int{"DialContext": fails, "Proxy": fails, "GetClientCertificate": fails,
		"VerifyPeerCertificate, with a context of its own": fails, "VerifyConnection, with a context of its own": fails,
		"Rand, with a context of its own": inWords, "a private key, with a context of its own": inWords,
		"the public key of a certificate that was asked for, with a context of its own": inWords,
		"Read of a connection, with a context of its own":                               fails, "Write of a connection, with a context of its own": fails,
		"Time, with a context of its own": goesOn, "Get of ClientSessionCache, with a context of its own": goesOn,
		"Put of ClientSessionCache": goesOn, "KeyLogWriter": goesOn} {
		for how, act := range bad {
			if how != "panics" && (callback == "Proxy" || strings.HasSuffix(callback, "of a connection, with a context of its own")) {
				continue // that is the goroutine of the request, or one of net/http
			}
			t.Run(callback+"/"+how, func(t *testing.T) {
				inWorld(t, nil, func(w *world) {
					s := w.source("john")
					var broken atomic.Bool
					callbacks[callback](w, s, func(context.Context) {
						if broken.Load() {
							act()
						}
					})
					w.conn = w.newConn()
					w.login(s)
					client := w.conn.HTTPClient()
					broken.Store(true)
					o := do(w.Context(), client, w.config.BaseURL+"/app", "")
					if (o.err == nil) != (end == goesOn) || o.err != nil && strings.Contains(o.err.Error(), "hunter2") || o.took != 0 {
						w.Errorf("the request ended after %v with %v", o.took, o)
					}
					var panicked *chatconn.PanicError
					if how == "panics" && end == fails && !errors.As(o.err, &panicked) {
						w.Errorf("the request ended with %v", o.err)
					}
					broken.Store(false)
					if o := do(w.Context(), client, w.config.BaseURL+"/app", ""); o.status != http.StatusOK {
						w.Errorf("the next request ended with %v", o)
					}
					w.is(fsm.Connected)
					w.close()
				})
			})
		}
	}
}

// M4, H2: a connection that the program made may panic, end the goroutine that it is
// called on, or block for ever, also when its socket is long open. The socket ends, within
// the time in which silence is found, another opens, and Close waits for nothing.
func TestConnectionsThatMisbehave(t *testing.T) {
	// The first health check goes out after 25 s, and is answered. What fails then is found
	// then, a write after the second in which the peer may say why, a late one 5 s later. An
	// answer that is stuck is found by silence, after 35 s.
	found := map[string]time.Duration{
		"Read/panics": 25 * time.Second, "Read/ends its goroutine": 25 * time.Second, "Read/blocks": 35 * time.Second,
		"Write/panics": 26 * time.Second, "Write/ends its goroutine": 26 * time.Second, "Write/blocks": 31 * time.Second,
		"SetWriteDeadline/panics": 26 * time.Second, "SetWriteDeadline/ends its goroutine": 35 * time.Second, "SetWriteDeadline/blocks": 35 * time.Second, // no check goes out
	}
	for _, method := range []string{"Read", "Write", "SetWriteDeadline", "Close"} {
		for then, act := range afterwards {
			if then == "returns" {
				continue
			}
			t.Run(method+"/"+then, func(t *testing.T) {
				inWorld(t, nil, func(w *world) {
					var armed atomic.Bool
					free := make(chan struct{})
					w.hookConnections(func(called string) {
						if called == method && armed.CompareAndSwap(true, false) {
							act(free)
						}
					})
					w.conn = w.newConn()
					w.login(w.source("john"))
					armed.Store(true)
					if method == "Close" {
						w.server.DropAll()
					}
					began := time.Now()
					changes := w.conn.Watch(w.Context())
					for c := range changes {
						if c.From == fsm.Connected && c.To != fsm.Connected {
							if took := time.Since(began).Round(time.Second); took != found[method+"/"+then] {
								w.Errorf("the loss was found after %v", took)
							}
							break
						}
					}
					w.be(fsm.Connected)
					if armed.Load() {
						w.Error("nothing misbehaved")
					}
					if err := w.conn.Stats().LastError; err == nil || strings.Contains(err.Error(), "hunter2") {
						w.Errorf("the last error is %v", err)
					}
					began = time.Now()
					w.close()
					if took := time.Since(began); took > 1100*time.Millisecond {
						w.Errorf("Close took %v", took)
					}
					close(free)
				})
			})
		}
	}
}

// M4, C7, C9: net/http closes idle connections under locks, and says goodbye on those
// with TLS. Leaving does not wait for one that the program made and that is stuck in that.
func TestConnectionsStuckInClosing(t *testing.T) {
	for _, method := range []string{"Close", "Write"} {
		t.Run(method, func(t *testing.T) {
			w := realWorld(t, func(c *chatconn.Config) { c.CloseTimeout = 100 * time.Millisecond })
			trusted, slow := newAuthority(t), make(chan struct{})
			w.config.BaseURL = secure(t, w.server, &tls.Config{Certificates: []tls.Certificate{trusted.issue(t, nil)}})
			w.config.TLS = &tls.Config{RootCAs: x509.NewCertPool()}
			w.config.TLS.RootCAs.AddCert(trusted.cert)
			w.config.DialContext = new(net.Dialer).DialContext
			var armed atomic.Bool
			w.hookConnections(func(called string) {
				if called == method && armed.Load() {
					<-slow
				}
			})
			defer close(slow)
			w.conn = w.newConn()
			w.login(w.source("john"))
			if o := do(t.Context(), w.conn.HTTPClient(), w.config.BaseURL+"/app", ""); o.status != http.StatusOK {
				t.Fatal(o)
			}
			armed.Store(true)
			if err := w.conn.Disconnect(t.Context(), chatconn.KeepPersistence); err != nil {
				t.Error(err)
			}
			w.close()
		})
	}
}

// M4, Q4: a request that is given up does not wait for its connection to close.
func TestRequestWhoseConnectionIsStuckInClosing(t *testing.T) {
	w := realWorld(t, func(c *chatconn.Config) { c.DialContext = new(net.Dialer).DialContext })
	slow := make(chan struct{})
	w.hookConnections(func(called string) {
		if called == "Close" {
			<-slow
		}
	})
	w.conn = w.newConn()
	ctx, cancel := context.WithCancel(t.Context())
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		cancel()
		<-slow
	}))
	defer other.Close()
	defer close(slow)
	wantError(t, "the request", do(ctx, w.conn.HTTPClient(), other.URL, "").err, context.Canceled)
	w.close()
}

// M4: what a hook of TLS returns is not believed blindly: crypto/tls would panic on a
// goroutine of net/http.
func TestImpossibleAnswersOfHooks(t *testing.T) {
	for name, want := range map[string]int{"no certificate": 0, "an empty session": http.StatusOK} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, nil, func(w *world) {
				var lie atomic.Bool
				cert := newAuthority(t).issue(t, nil)
				cfg := w.secure()
				cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
					if lie.Load() && name == "no certificate" {
						return nil, nil
					}
					return &cert, nil
				}
				cfg.ClientSessionCache = emptySessions{&lie}
				w.conn = w.newConn()
				w.login(w.source("john"))
				lie.Store(true)
				if o := do(w.Context(), w.conn.HTTPClient(), w.config.BaseURL+"/app", ""); o.status != want || (o.err == nil) != (want != 0) {
					t.Errorf("the request ended with %v", o)
				}
				w.close()
			})
		})
	}
}

type emptySessions struct{ lie *atomic.Bool }

func (c emptySessions) Get(string) (*tls.ClientSessionState, bool) {
	return &tls.ClientSessionState{}, c.lie.Load()
}

func (emptySessions) Put(string, *tls.ClientSessionState) {}

// M4: net/http asks a connection to a SOCKS proxy for its address.
func TestConnectionsWithoutAddress(t *testing.T) {
	for name, addr := range map[string]func() net.Addr{"none": func() net.Addr { return nil }, "a panic": func() net.Addr { panic("hunter2") }} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, nil, func(w *world) {
				dial := w.config.DialContext
				w.config.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
					conn, err := dial(ctx, network, "127.0.0.1:80")
					return unaddressed{conn, addr}, err
				}
				w.config.Proxy = func(*http.Request) (*url.URL, error) { return url.Parse("socks5://127.0.0.1") }
				w.conn = w.newConn()
				if o := do(w.Context(), w.conn.HTTPClient(), "http://127.0.0.1:81/", ""); o.err == nil || !strings.Contains(o.err.Error(), "socks connect") {
					t.Errorf("the request ended with %v", o)
				}
				w.close()
			})
		})
	}
}

type unaddressed struct {
	net.Conn
	addr func() net.Addr
}

func (c unaddressed) RemoteAddr() net.Addr { return c.addr() }

// M4: what a dialer of the program returns is not believed blindly.
func TestImpossibleConnections(t *testing.T) {
	for _, n := range []int{-1, 1 << 40} {
		inWorld(t, nil, func(w *world) {
			var lie, none atomic.Bool
			dial := w.config.DialContext
			w.config.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
				conn, err := dial(ctx, network, addr)
				if err != nil {
					return nil, err
				}
				if none.CompareAndSwap(true, false) {
					return nil, conn.Close()
				}
				return miscounting{conn, &lie, n}, nil
			}
			w.conn = w.newConn()
			w.login(w.source("john"))
			none.Store(true)
			lie.Store(true)
			_, _ = w.server.Emit("john", map[string]any{"type": "x"})
			synctest.Wait()
			w.be(fsm.Connected)
			if s := w.conn.Stats(); s.Attempts != 3 || s.Reconnects != 1 || s.Loads != 1 || s.LastError == nil {
				w.Errorf("a count of %d: %+v", n, s)
			}
			w.close()
		})
	}
}

// miscounting lies once about what it has read.
type miscounting struct {
	net.Conn
	lie *atomic.Bool
	n   int
}

func (c miscounting) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.lie.CompareAndSwap(true, false) {
		return c.n, err
	}
	return n, err
}

// M4: the program's code may end the goroutine that it is called on. That is a
// failed attempt where there is one to fail, and Close waits for nothing.
func TestCallbacksThatEndTheirGoroutine(t *testing.T) {
	for callback := range callbacks {
		if strings.HasSuffix(callback, " loop") {
			continue // that is the program's own goroutine
		}
		t.Run(callback, func(t *testing.T) {
			inWorld(t, nil, func(w *world) {
				s := w.source("john")
				inCallback(w, callback, s, func(context.Context) { runtime.Goexit() })
				w.be(fsm.Connected)
				synctest.Wait()
				began := time.Now()
				w.close()
				if took := time.Since(began); took != 0 {
					w.Errorf("Close took %v", took)
				}
			})
		})
	}
}

// M4, O3: a logger that ends its goroutine every time still hears all that it would
// hear otherwise.
func TestLoggerEndsItsGoroutine(t *testing.T) {
	lines := func(exit bool) int64 {
		var n atomic.Int64
		inWorld(t, func(c *chatconn.Config) {
			c.Logger = slog.New(handler(func() {
				if n.Add(1); exit {
					runtime.Goexit()
				}
			}))
		}, func(w *world) {
			w.login(w.source("john"))
			w.conn.Background()
			w.conn.Foreground()
			w.be(fsm.Connected)
			if err := w.conn.Disconnect(w.Context(), chatconn.KeepPersistence); err != nil {
				w.Error(err)
			}
			w.close()
		})
		return n.Load()
	}
	if got, want := lines(true), lines(false); got != want || want < 5 {
		t.Errorf("%d lines came of %d", got, want)
	}
}

// C9: a source that Disconnect has left behind may ask for its own user again,
// with no context that tells where it is. It would wait for its own return; with
// another source it would not.
func TestLeftoverSourceConnectsAgain(t *testing.T) {
	for name, want := range map[string]error{"its own source": chatconn.ErrReentrant, "another source": nil} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, nil, func(w *world) {
				s, other := w.source("john"), w.source("john")
				free, inner := make(chan struct{}), make(chan error, 1)
				s.meddle = func(_ context.Context, call int) error {
					if call > 1 {
						return nil
					}
					<-free
					again := s
					if want == nil {
						again = other
					}
					ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
					defer cancel()
					_, err := w.conn.ConnectUser(ctx, chatconn.User{ID: "john"}, again)
					inner <- err
					return nil
				}
				waits := w.connect(w.Context(), s)
				if err := w.conn.Disconnect(w.Context(), chatconn.KeepPersistence); err != nil {
					w.Error(err)
				}
				wantError(w, "connect", <-waits, chatconn.ErrDisconnected)
				close(free)
				wantError(w, "connect from inside", <-inner, want)
				w.login(other)
				w.close()
			})
		})
	}
}
