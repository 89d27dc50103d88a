package chatconn_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chatconn/chatconn"
	"github.com/chatconn/chatconn/devserver"
	"github.com/chatconn/chatconn/fsm"
)

// These few tests run on real loopback sockets, because only those show what the
// system's own network does. None of them measures a time: each waits for what has
// to happen.

func realWorld(t *testing.T, configure func(*chatconn.Config)) *world {
	t.Helper()
	server, err := devserver.Start(devserver.Options{})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{T: t, server: server}
	w.config = chatconn.Config{
		APIKey: server.APIKey(), BaseURL: server.URL(), MinDialInterval: -1,
		RetryFirst: 50 * time.Millisecond, RetryMax: 100 * time.Millisecond,
	}
	if configure != nil {
		configure(&w.config)
	}
	w.conn = w.newConn()
	t.Cleanup(func() {
		w.conn.Close()
		server.Close()
		if bugs := w.conn.Stats().Bugs; bugs != 0 {
			t.Errorf("%d events that the table refuses", bugs)
		}
	})
	return w
}

// until reads changes up to one that fits, and fails the test if the Conn ends
// before.
func (w *world) until(changes <-chan chatconn.Change, what string, fits func(chatconn.Change) bool) chatconn.Change {
	w.Helper()
	for c := range changes {
		if fits(c) {
			return c
		}
	}
	w.Fatalf("there was no change like this: %s", what)
	return chatconn.Change{}
}

func opened(c chatconn.Change) bool { return c.Moved() && c.To == fsm.Connected }

// T2: the server is killed and comes back: the connection does, too, with the same
// token and a new session.
func TestServerIsKilledAndRestarted(t *testing.T) {
	w := realWorld(t, nil)
	s := w.source("john")
	changes := w.conn.Watch(t.Context())
	events := w.conn.Events(t.Context())
	first := w.login(s)
	w.until(changes, "opened", opened)
	for range 3 {
		w.server.Stop()
		lost := w.until(changes, "lost", func(c chatconn.Change) bool { return c.From == fsm.Connected })
		if lost.Event != fsm.Dropped || lost.Cause == nil {
			t.Errorf("the loss is told as %+v", lost)
		}
		// The port is closed: at least one dial is refused before it opens again.
		w.until(changes, "refused", func(c chatconn.Change) bool { return c.Attempt > 1 && errors.As(c.Cause, new(*net.OpError)) })
		if err := w.server.Restart(); err != nil {
			t.Fatal(err)
		}
		w.until(changes, "opened again", opened)
		now, open := w.conn.Session()
		if !open || now.ConnectionID == first.ConnectionID {
			t.Errorf("the session is %+v", now)
		}
		first = now
		if _, err := w.server.Emit("john", map[string]any{"type": "hello.again"}); err != nil {
			t.Fatal(err)
		}
		if e := <-events; e.Type != "hello.again" {
			t.Errorf("%+v came", e)
		}
	}
	if n := s.calls.Load(); n != 1 {
		t.Errorf("the source was asked %d times", n)
	}
}

// proxy forwards bytes until it is told to lose them.
type proxy struct {
	net.Listener
	target string
	mu     sync.Mutex
	lost   bool
	conns  []net.Conn
	all    sync.WaitGroup
}

func newProxy(t *testing.T, target string) *proxy {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{Listener: ln, target: target}
	p.all.Go(func() {
		for {
			near, err := ln.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", p.target)
			if err != nil {
				near.Close()
				continue
			}
			p.mu.Lock()
			p.conns = append(p.conns, near, far)
			p.mu.Unlock()
			p.all.Go(func() { p.forward(far, near) })
			p.all.Go(func() { p.forward(near, far) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		p.mu.Lock()
		for _, c := range p.conns {
			c.Close()
		}
		p.mu.Unlock()
		p.all.Wait()
	})
	return p
}

// forward keeps reading while bytes are lost, and keeps an end to itself, so that
// neither side notices anything but silence.
func (p *proxy) forward(to, from net.Conn) {
	buf := make([]byte, 4096)
	for {
		n, err := from.Read(buf)
		p.mu.Lock()
		lost := p.lost
		p.mu.Unlock()
		if err != nil {
			if !lost {
				to.Close()
			}
			return
		}
		if !lost {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
	}
}

func (p *proxy) lose(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lost = on
}

// H1, H2, T2: a link that is half open, its peer gone without a word, is found by
// its silence (within HealthTimeout, which is shortened here), and survived.
func TestHalfOpenLink(t *testing.T) {
	var p *proxy
	w := realWorld(t, func(c *chatconn.Config) {
		p = newProxy(t, strings.TrimPrefix(c.BaseURL, "http://"))
		c.BaseURL = "http://" + p.Addr().String()
		c.HealthCheckInterval, c.HealthTimeout = 100*time.Millisecond, 400*time.Millisecond
		c.AttemptTimeout, c.CloseTimeout = 500*time.Millisecond, 100*time.Millisecond
	})
	s := w.source("john")
	changes := w.conn.Watch(t.Context())
	w.login(s)
	at := w.until(changes, "opened", opened).At
	p.lose(true)
	found := w.until(changes, "found", func(c chatconn.Change) bool { return c.From == fsm.Connected })
	if found.Event != fsm.Unhealthy {
		t.Errorf("the silence is told as %+v", found)
	}
	if silence := found.At.Sub(at); silence < 400*time.Millisecond {
		t.Errorf("found after %v, before the timeout", silence)
	}
	w.until(changes, "an attempt fails", func(c chatconn.Change) bool { return c.Attempt > 1 })
	p.lose(false)
	w.until(changes, "opened again", opened)
	if n := s.calls.Load(); n != 2 {
		t.Errorf("T2: the source was asked %d times", n)
	}
}

// authority issues certificates for 127.0.0.1.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert, key}
}

func (a *authority) issue(t *testing.T, change func(*x509.Certificate)) tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "test server"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if change != nil {
		change(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// secure serves the dev server over TLS and returns its base URL.
func secure(t *testing.T, server *devserver.Server, config *tls.Config) string {
	ln, err := tls.Listen("tcp", "127.0.0.1:0", config)
	if err != nil {
		t.Fatal(err)
	}
	front := &http.Server{Handler: server.Handler(), ErrorLog: log.New(io.Discard, "", 0)}
	go front.Serve(ln)
	t.Cleanup(func() { front.Close() })
	return "https://" + ln.Addr().String()
}

// S1, E: a certificate that is not good is a clear error, retried (it may be a
// captive portal); with the right root the socket and API requests work.
func TestTLS(t *testing.T) {
	trusted, stranger := newAuthority(t), newAuthority(t)
	roots := x509.NewCertPool()
	roots.AddCert(trusted.cert)
	for _, c := range []struct {
		name   string
		serve  *tls.Config
		client *tls.Config
		check  func(error) bool // nil: it works
	}{
		{"own root", &tls.Config{Certificates: []tls.Certificate{trusted.issue(t, nil)}}, &tls.Config{RootCAs: roots}, nil},
		{"another's root", &tls.Config{Certificates: []tls.Certificate{stranger.issue(t, nil)}}, &tls.Config{RootCAs: roots},
			func(err error) bool { return errors.As(err, new(x509.UnknownAuthorityError)) }},
		{"the system's roots", &tls.Config{Certificates: []tls.Certificate{trusted.issue(t, nil)}}, nil,
			func(err error) bool { return errors.As(err, new(x509.UnknownAuthorityError)) }},
		{"another host", &tls.Config{Certificates: []tls.Certificate{trusted.issue(t, func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(10, 0, 0, 1)} })}},
			&tls.Config{RootCAs: roots}, func(err error) bool { return errors.As(err, new(x509.HostnameError)) }},
		{"expired", &tls.Config{Certificates: []tls.Certificate{trusted.issue(t, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })}},
			&tls.Config{RootCAs: roots}, func(err error) bool {
				var invalid x509.CertificateInvalidError
				return errors.As(err, &invalid) && invalid.Reason == x509.Expired
			}},
		{"TLS 1.1", &tls.Config{Certificates: []tls.Certificate{trusted.issue(t, nil)}, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11},
			&tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS10}, func(err error) bool { return strings.Contains(err.Error(), "protocol version") }},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := realWorld(t, func(cfg *chatconn.Config) { cfg.TLS = c.client; cfg.RetryLimit = 1 })
			w.config.BaseURL = secure(t, w.server, c.serve)
			w.conn = w.newConn()
			defer w.conn.Close()
			_, err := w.conn.ConnectUser(t.Context(), chatconn.User{ID: "john"}, w.source("john"))
			if c.check == nil {
				if err != nil {
					t.Fatal(err)
				}
				if o := do(t.Context(), w.conn.HTTPClient(), w.config.BaseURL+"/app", ""); o.status != http.StatusOK {
					t.Error(o)
				}
				return
			}
			wantError(t, "connect", err, chatconn.ErrRetriesSpent) // it was retried
			if !c.check(err) {
				t.Errorf("the error is not clear: %v", err)
			}
			if n := w.conn.Stats().Attempts; n != 2 {
				t.Errorf("%d attempts, want two", n)
			}
		})
	}
}

// signer is a key that crypto/tls does not know, as of a device.
type signer struct{ crypto.Signer }

// messageSigner is a device that hashes by itself.
type messageSigner struct{ crypto.Signer }

func (messageSigner) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, errors.New("it wants the message")
}

func (s messageSigner) SignMessage(rand io.Reader, message []byte, opts crypto.SignerOpts) ([]byte, error) {
	return crypto.SignMessage(s.Signer, rand, message, opts)
}

// tellingCache tells when it has been filled.
type tellingCache struct {
	tls.ClientSessionCache
	filled chan<- struct{}
}

func (c tellingCache) Put(key string, state *tls.ClientSessionState) {
	c.ClientSessionCache.Put(key, state)
	c.filled <- struct{}{}
}

// M4: the fence around the hooks of TLS lets through what it fences: certificates of every
// kind of key, shared ones among them, sessions that are resumed, and HTTP/2.
func TestHooksOfTLSWork(t *testing.T) {
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	curve, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	modulus, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	trusted := newAuthority(t)
	roots := x509.NewCertPool()
	roots.AddCert(trusted.cert)
	for name, key := range map[string]crypto.Signer{"Ed25519": edwards, "ECDSA": curve, "RSA": modulus, "a device": signer{modulus}, "a device that hashes": messageSigner{modulus}} {
		template := &x509.Certificate{
			SerialNumber: big.NewInt(3), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		}
		der, err := x509.CreateCertificate(rand.Reader, template, trusted.cert, key.Public(), trusted.key)
		if err != nil {
			t.Fatal(err)
		}
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			for _, asked := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%s/%t", name, tls.VersionName(version), asked), func(t *testing.T) {
					w := realWorld(t, nil)
					w.config.BaseURL = secure(t, w.server, &tls.Config{
						Certificates: []tls.Certificate{trusted.issue(t, nil)}, NextProtos: []string{"h2", "http/1.1"},
						ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: roots, MaxVersion: version,
					})
					given := tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
					filled := make(chan struct{}, 100)
					var resumed, second atomic.Int32
					w.config.TLS = &tls.Config{
						RootCAs: roots, ClientSessionCache: tellingCache{tls.NewLRUClientSessionCache(0), filled}, Rand: rand.Reader, Time: time.Now,
						VerifyConnection: func(state tls.ConnectionState) error {
							if state.DidResume {
								resumed.Add(1)
							}
							if state.NegotiatedProtocol == "h2" {
								second.Add(1)
							}
							return nil
						},
					}
					if asked {
						w.config.TLS.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &given, nil }
					} else {
						w.config.TLS.Certificates = []tls.Certificate{given}
					}
					w.conn = w.newConn()
					w.login(w.source("john"))
					<-filled
					for i := range 3 {
						if o := do(t.Context(), w.conn.HTTPClient(), w.config.BaseURL+"/app", ""); o.status != http.StatusOK {
							t.Errorf("request %d: %v", i, o)
						}
						w.conn.HTTPClient().CloseIdleConnections()
					}
					w.close()
					if resumed.Load() == 0 {
						t.Error("no session was resumed")
					}
					if second.Load() == 0 {
						t.Error("no request went by HTTP/2")
					}
					if !asked {
						given = w.config.TLS.Certificates[0]
					}
					if got := fmt.Sprintf("%T", given.PrivateKey); got != fmt.Sprintf("%T", key) {
						t.Errorf("the program's certificate has a key of type %s now", got)
					}
				})
			}
		}
	}
}

// M4: Conns may share a KeyLogWriter that is not safe for concurrent use, as crypto/tls
// allows. Its lines come whole, and those of a handshake in order.
func TestKeyLogWriterIsShared(t *testing.T) {
	trusted := newAuthority(t)
	w := realWorld(t, nil)
	w.config.BaseURL = secure(t, w.server, &tls.Config{Certificates: []tls.Certificate{trusted.issue(t, nil)}, MinVersion: tls.VersionTLS13})
	w.config.TLS = &tls.Config{RootCAs: x509.NewCertPool()}
	w.config.TLS.RootCAs.AddCert(trusted.cert)
	keys := new(keyLog)
	w.config.TLS.KeyLogWriter = keys
	const conns, handshakes = 8, 5
	var all sync.WaitGroup
	for range conns {
		conn := w.newConn()
		all.Go(func() {
			defer conn.Close()
			for range handshakes {
				if _, err := conn.ConnectUser(t.Context(), chatconn.User{ID: "john"}, w.source("john")); err != nil {
					t.Error(err)
				}
				if err := conn.Disconnect(t.Context(), chatconn.KeepPersistence); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if keys.together.Load() {
		t.Error("two lines were written at a time")
	}
	labels := map[string]string{}
	for line := range strings.Lines(keys.text.String()) {
		if words := strings.Fields(line); len(words) == 3 {
			labels[words[1]] += words[0] + " "
		} else {
			t.Errorf("a line is %q", line)
		}
	}
	if len(labels) != conns*handshakes {
		t.Errorf("%d handshakes are in the log", len(labels))
	}
	for _, got := range labels {
		if want := "CLIENT_HANDSHAKE_TRAFFIC_SECRET SERVER_HANDSHAKE_TRAFFIC_SECRET CLIENT_TRAFFIC_SECRET_0 SERVER_TRAFFIC_SECRET_0 "; got != want {
			t.Errorf("a handshake left %q", got)
		}
	}
}

type keyLog struct {
	text     strings.Builder
	busy     atomic.Bool
	together atomic.Bool
}

func (k *keyLog) Write(line []byte) (int, error) {
	if !k.busy.CompareAndSwap(false, true) {
		k.together.Store(true)
		return 0, nil
	}
	defer k.busy.Store(false)
	runtime.Gosched()
	return k.text.Write(line)
}
