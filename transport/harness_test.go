package transport

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chatconn/chatconn/transport/memnet"
	"github.com/gorilla/websocket"
)

const (
	secretToken = "eyJhbGciOiJIUzI1NiJ9.eyJ1c2VyX2lkIjoiYW5uIn0=.c2lnbmF0dXJl"
	hello       = `{"type":"health.check","connection_id":"id-1","cid":"*","me":{"id":"ann","role":"user"},"created_at":"2026-01-02T03:04:05Z"}`
)

var ann = Login{UserID: "ann", AuthType: "jwt", Token: secretToken}

// bench is a network with one service on it.
type bench struct {
	*testing.T
	network *memnet.Network
	options Options
}

// inBubble runs a test in virtual time, with a service that handles every
// connection as told. Nothing may be left at its end.
func inBubble(t *testing.T, service http.HandlerFunc, test func(b *bench)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		l := b.listen()
		var services sync.WaitGroup
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			services.Add(1)
			defer services.Done()
			service(w, r)
		})}
		go server.Serve(l)
		defer services.Wait()
		defer server.Close()
		test(b)
	})
}

// inRawBubble is inBubble for a service below HTTP. What is left of a connection
// is closed when its handler returns.
func inRawBubble(t *testing.T, service func(net.Conn), test func(b *bench)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		l := b.listen()
		var services sync.WaitGroup
		services.Go(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				services.Go(func() {
					defer c.Close()
					service(c)
				})
			}
		})
		defer services.Wait()
		defer l.Close()
		test(b)
	})
}

func newBench(t *testing.T) *bench {
	n := memnet.New()
	return &bench{t, n, Options{
		BaseURL: "http://chat.test", APIKey: "key", Client: "chatconn-test", DialContext: n.DialContext,
		MaxMessageBytes: 1 << 20, WriteTimeout: 5 * time.Second, CloseTimeout: time.Second,
		HealthCheckInterval: 25 * time.Second, HealthTimeout: 35 * time.Second,
	}}
}

func (b *bench) listen() net.Listener {
	b.Helper()
	l, err := b.network.Listen("chat.test:80")
	if err != nil {
		b.Fatal(err)
	}
	return l
}

func (b *bench) dialer() *Dialer {
	b.Helper()
	d, err := NewDialer(b.options)
	if err != nil {
		b.Fatal(err)
	}
	return d
}

func (b *bench) dial() *Socket {
	b.Helper()
	s, err := b.dialer().Dial(b.Context(), ann)
	if err != nil {
		b.Fatal(err)
	}
	return s
}

// fail dials and returns the failure, after which nothing may be open.
func (b *bench) fail(ctx context.Context) *Error {
	b.Helper()
	s, err := b.dialer().Dial(ctx, ann)
	if s != nil {
		b.Fatal("the dial succeeded")
	}
	e := asError(b.T, err)
	if open := b.network.Open(); open != 0 {
		b.Errorf("%d connections open after a failed dial", open)
	}
	return e
}

// session is a socket that is served, and what came of it.
type session struct {
	*Socket
	frames chan string // raw, as they come
	ended  chan *Error
}

func (b *bench) serve() *session {
	b.Helper()
	return serve(b.T, b.dial())
}

func serve(t *testing.T, s *Socket) *session {
	run := &session{s, make(chan string, 10_000), make(chan *Error, 1)}
	go func() {
		err := s.Serve(Handler{Receive: func(f Frame) { run.frames <- string(f.Raw) }})
		run.ended <- asError(t, err)
	}()
	return run
}

// end waits for the socket to end, and checks that nothing is left of it.
func (s *session) end(t *testing.T) *Error {
	t.Helper()
	e := <-s.ended
	<-s.Gone()
	<-s.Hung()
	return e
}

func asError(t *testing.T, err error) *Error {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("error %v (%T) is no *Error", err, err)
	}
	if strings.Contains(err.Error(), secretToken) || strings.Contains(err.Error(), "server_determines_connection_id") {
		t.Errorf("T11: %q holds the token or the URL", err)
	}
	return e
}

func wantKind(t *testing.T, e *Error, phase string, kind Kind) {
	t.Helper()
	if e.Phase != phase || e.Kind != kind {
		t.Errorf("ended by %v: phase %q, kind %v; want %q, %v", e, e.Phase, e.Kind, phase, kind)
	}
}

func wantSpan(t *testing.T, what string, want time.Duration, f func()) {
	t.Helper()
	start := time.Now()
	f()
	if got := time.Since(start); got != want {
		t.Errorf("%s took %v, want %v", what, got, want)
	}
}

// peer is the service's end of a WebSocket, by bare gorilla.
type peer struct{ *websocket.Conn }

func upgradePeer(w http.ResponseWriter, r *http.Request) peer {
	u := websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }}
	ws, err := u.Upgrade(w, r, nil)
	if err != nil {
		panic(err)
	}
	return peer{ws}
}

// speak is a service that upgrades, says these text frames and does then.
func speak(frames []string, then func(peer)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		p := upgradePeer(w, r)
		defer p.Close()
		p.say(frames...)
		then(p)
	}
}

func (p peer) say(frames ...string) {
	for _, f := range frames {
		p.WriteMessage(websocket.TextMessage, []byte(f))
	}
}

// bye sends a close frame and waits for the answer.
func (p peer) bye(code int, reason string) {
	p.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(code, reason), time.Time{})
	p.drain()
}

// drain reads, and so answers pings and a close, until the end.
func (p peer) drain() {
	for {
		if _, _, err := p.ReadMessage(); err != nil {
			return
		}
	}
}

// echo answers every health check as the service does, until the end.
func (p peer) echo() {
	for {
		if _, _, err := p.ReadMessage(); err != nil {
			return
		}
		p.say(`{"type":"health.check","connection_id":"id-1"}`)
	}
}

// hold keeps a connection without reading, until the client closes it: a full
// window is no obstacle to that, since the end is seen by writing.
func hold(c net.Conn) {
	for {
		time.Sleep(time.Minute)
		if _, err := c.Write(nil); err != nil {
			return
		}
	}
}

// readRequest reads the head of an HTTP request and returns it.
func readRequest(c net.Conn) string {
	var head []byte
	b := make([]byte, 1)
	for !strings.HasSuffix(string(head), "\r\n\r\n") {
		if _, err := io.ReadFull(c, b); err != nil {
			break
		}
		head = append(head, b[0])
	}
	return string(head)
}
