package transport

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// These tests use real sockets: what the kernel and crypto/tls do is part of the
// proof. Nothing in them waits for a clock to pass.

func loopbackOptions(url string) Options {
	return Options{
		BaseURL: url, APIKey: "key", MaxMessageBytes: 1 << 20, WriteTimeout: 5 * time.Second, CloseTimeout: time.Minute,
		HealthCheckInterval: 25 * time.Second, HealthTimeout: 35 * time.Second,
	}
}

func mustDialer(t testing.TB, o Options) *Dialer {
	t.Helper()
	d, err := NewDialer(o)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func quiet(s *httptest.Server) { s.Config.ErrorLog = log.New(io.Discard, "", 0) }

// life goes through a socket's whole life.
func life(t *testing.T, o Options) {
	t.Helper()
	s, err := mustDialer(t, o).Dial(t.Context(), ann)
	if err != nil {
		t.Fatal(err)
	}
	run := serve(t, s)
	for i := range 100 {
		if got, want := <-run.frames, fmt.Sprintf(`{"type":"n","n":%d}`, i); got != want {
			t.Fatalf("frame %s, want %s", got, want)
		}
	}
	run.Probe()
	if got := <-run.frames; got != `{"type":"probed"}` {
		t.Fatal(got)
	}
	run.HangUp()
	wantKind(t, run.end(t), "open", HungUp)
}

var lively = speak([]string{hello}, func(p peer) {
	for i := range 100 {
		p.say(fmt.Sprintf(`{"type":"n","n":%d}`, i))
	}
	for {
		if _, _, err := p.ReadMessage(); err != nil {
			return
		}
		p.say(`{"type":"probed"}`)
	}
})

func TestLoopback(t *testing.T) {
	server := httptest.NewServer(lively)
	defer server.Close()
	life(t, loopbackOptions(server.URL))
}

func TestLoopbackTLS(t *testing.T) {
	server := httptest.NewUnstartedServer(lively)
	quiet(server)
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	o := loopbackOptions(server.URL)

	// A certificate that nobody vouches for.
	_, err := mustDialer(t, o).Dial(t.Context(), ann)
	var unknown x509.UnknownAuthorityError
	wantKind(t, asError(t, err), "dial", TLS)
	if !errors.As(err, &unknown) {
		t.Errorf("error %v holds no x509.UnknownAuthorityError", err)
	}

	// One for another name.
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	o.TLS = &tls.Config{RootCAs: roots, ServerName: "chat.invalid"}
	_, err = mustDialer(t, o).Dial(t.Context(), ann)
	var name x509.HostnameError
	wantKind(t, asError(t, err), "dial", TLS)
	if !errors.As(err, &name) {
		t.Errorf("error %v holds no x509.HostnameError", err)
	}

	// The right one. A configuration that is shared with HTTP/2 does no harm.
	o.TLS = &tls.Config{RootCAs: roots, NextProtos: []string{"h2", "http/1.1"}}
	life(t, o)

	// A server that speaks no TLS.
	plain := httptest.NewServer(lively)
	quiet(plain)
	defer plain.Close()
	o.BaseURL = "https://" + strings.TrimPrefix(plain.URL, "http://")
	_, err = mustDialer(t, o).Dial(t.Context(), ann)
	wantKind(t, asError(t, err), "dial", TLS)
}

// S1: TLS 1.1 is refused, whatever the configuration says.
func TestLoopbackOldTLS(t *testing.T) {
	server := httptest.NewUnstartedServer(lively)
	quiet(server)
	server.TLS = &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}
	server.StartTLS()
	defer server.Close()
	o := loopbackOptions(server.URL)
	o.TLS = &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10}
	_, err := mustDialer(t, o).Dial(t.Context(), ann)
	wantKind(t, asError(t, err), "dial", TLS)
}

// A server that wants a certificate says so after the handshake.
func TestLoopbackClientCertificate(t *testing.T) {
	server := httptest.NewUnstartedServer(lively)
	quiet(server)
	server.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
	server.StartTLS()
	defer server.Close()
	o := loopbackOptions(server.URL)
	o.TLS = &tls.Config{InsecureSkipVerify: true}
	_, err := mustDialer(t, o).Dial(t.Context(), ann)
	// The alert may be overtaken by the reset that follows it.
	if e := asError(t, err); e.Kind != TLS && e.Kind != Network {
		t.Errorf("ended by %v", e)
	}
}

// Through an https proxy to an https service: TLS inside TLS.
func TestLoopbackProxy(t *testing.T) {
	server := httptest.NewTLSServer(lively)
	defer server.Close()
	proxy := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		service, err := net.Dial("tcp", r.Host)
		if err != nil {
			panic(err)
		}
		client, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		io.WriteString(client, "HTTP/1.1 200 OK\r\n\r\n")
		go func() { io.Copy(service, client); service.Close() }()
		io.Copy(client, service)
		client.Close()
	}))
	defer proxy.Close()
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	roots.AddCert(proxy.Certificate())
	o := loopbackOptions(server.URL)
	o.TLS = &tls.Config{RootCAs: roots}
	o.Proxy = proxyAt(proxy.URL)
	life(t, o)

	// A proxy's bad certificate is as clear as the service's.
	o.TLS = nil
	_, err := mustDialer(t, o).Dial(t.Context(), ann)
	var unknown x509.UnknownAuthorityError
	wantKind(t, asError(t, err), "dial", TLS)
	if !errors.As(err, &unknown) {
		t.Errorf("error %v holds no x509.UnknownAuthorityError", err)
	}
	o.Proxy = func(*http.Request) (*url.URL, error) { return nil, nil }
	if _, err := mustDialer(t, o).Dial(t.Context(), ann); err == nil {
		t.Error("a nil proxy URL does not mean a direct way")
	}
}

// BenchmarkDelivery is a socket that receives events of a KiB, beside a bare loop.
func BenchmarkDelivery(b *testing.B) {
	prepared, _ := websocket.NewPreparedMessage(websocket.TextMessage, []byte(event))
	server := httptest.NewServer(speak([]string{hello}, func(p peer) {
		for p.WritePreparedMessage(prepared) == nil {
		}
	}))
	defer server.Close()
	b.Run("transport", func(b *testing.B) {
		b.SetBytes(int64(len(event)))
		b.ReportAllocs()
		s, err := mustDialer(b, loopbackOptions(server.URL)).Dial(b.Context(), ann)
		if err != nil {
			b.Fatal(err)
		}
		n := 0
		b.ResetTimer()
		s.Serve(Handler{Receive: func(Frame) {
			if n++; n == b.N {
				s.end(&Error{})
			}
		}})
	})
	b.Run("bare", func(b *testing.B) {
		b.SetBytes(int64(len(event)))
		b.ReportAllocs()
		ws, _, err := websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(server.URL, "http")+"/connect", nil)
		if err != nil {
			b.Fatal(err)
		}
		defer ws.Close()
		b.ResetTimer()
		for range b.N {
			if _, _, err := ws.ReadMessage(); err != nil {
				b.Fatal(err)
			}
		}
	})
}
