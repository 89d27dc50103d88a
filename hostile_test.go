package chatconn_test

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/sha1"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"runtime"
	"runtime/metrics"
	"runtime/pprof"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chatconn/chatconn"
	"github.com/chatconn/chatconn/fsm"
	"github.com/chatconn/chatconn/tokens"
	"github.com/chatconn/chatconn/transport"
)

// Hostile peers live in another process, on real sockets, so that what they send
// costs memory here only if the Conn keeps it. hostilePeers is the table; this file
// plays it. Nothing here measures a time: a bound that is part of a row is the one
// timeout of its Conn that is short.

// peerEnv tells this program that it is the other process.
const peerEnv = "CHATCONN_TEST_HOSTILE_PEER"

// hostilePeer is a kind of peer, and what must come of it.
type hostilePeer struct {
	part string // of the page, where one begins
	name string
	// serve is the peer's end of one connection. It is closed afterwards.
	serve func(v *victim)
	tls   func(t *testing.T, a, stranger *authority) *tls.Config // it speaks TLS with this, if it succeeds
	https bool                                                   // the Conn wants TLS
	proxy string                                                 // scheme: the peer is a proxy on the way to the service

	// ends is what becomes of the connection: backs off, wait, refresh, final or stays.
	ends ending
	// cause is how each failure is told; empty where there is none.
	cause string
	is    func(error) bool // and what errors.Is or errors.As find in it

	bound  bound  // which limit ends it
	memory bool   // it sends much: what is held meanwhile is measured
	listen bool   // the program reads every event, not only the last
	most   uint64 // bytes above idle that may be held; zero: 4 MiB
	dial   func(dialled int, addr string) (string, error)
	use    func(p *played) // an open connection with an event on it
}

type ending string

const (
	backsOff ending = "backoff, the same token"      // and after two of them the good peer is found
	obeys    ending = "backoff of 5 minutes"         // however long it asks for
	renews   ending = "Refreshing: one fresh token"  // and at once the good peer
	silenced ending = "Refreshing, as unhealthy"     // twice
	denied   ending = "Offline, final"               //
	stays    ending = "ignored: Connected as before" // an event that comes afterwards is delivered
)

// bound is the limit that ends a kind: the one that is short in its Conn.
type bound string

const (
	atOnce    bound = "at once"
	byAttempt bound = "15 s (AttemptTimeout)"
	byHealth  bound = "35 s (HealthTimeout)"
	byWrite   bound = "6 s (WriteTimeout, CloseTimeout)"
	byCaller  bound = "the request's context"
	never     bound = "—"
)

// hostileTurns is how many connections of a peer are hostile before it is good.
func (k *hostilePeer) hostileTurns() int {
	switch k.ends {
	case renews, denied, stays, obeys:
		return 1
	}
	return 2
}

// victim is the peer's end of a connection.
type victim struct {
	net.Conn
	r    *bufio.Reader
	turn int    // of this connection, from 1
	head string // of its last request
	seat *seat

	version string // of HTTP, if it is not 1.1
}

// seat is where a kind of peer listens, and what it saw.
type seat struct {
	Addr    string
	mu      sync.Mutex
	accepts int
	wrongs  []string // things that no client may do
}

func (s *seat) wrong(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wrongs = append(s.wrongs, fmt.Sprintf(format, args...))
}

// report is what the peers' process tells of a seat.
type report struct {
	Accepts int
	Wrongs  []string
}

// stage is what the peers' process says first.
type stage struct {
	Control string
	Addrs   map[string]string
	Other   string // an address that nobody may come to
	Root    string // PEM
}

// servePeers is the peers' process. It ends with its input.
func servePeers(t *testing.T) {
	trusted, stranger := newAuthority(t), newAuthority(t)
	seats := map[string]*seat{}
	listen := func() net.Listener {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return ln
	}
	other := listen()
	out := stage{
		Addrs: map[string]string{}, Other: other.Addr().String(),
		Root: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: trusted.cert.Raw})),
	}
	elsewhere := &seat{}
	seats["elsewhere"] = elsewhere
	go accept(other, elsewhere, func(v *victim) { v.seat.wrong("a connection to another host") })
	otherHost = out.Other
	goodTLS := &tls.Config{Certificates: []tls.Certificate{trusted.issue(t, nil)}}
	for i := range hostilePeers {
		k := &hostilePeers[i]
		ln := listen()
		s := &seat{Addr: ln.Addr().String()}
		seats[k.name], out.Addrs[k.name] = s, s.Addr
		var bad *tls.Config
		if k.tls != nil {
			bad = k.tls(t, trusted, stranger)
		}
		go accept(ln, s, func(v *victim) {
			hostile := v.turn <= k.hostileTurns() || k.use != nil
			config := goodTLS
			if hostile {
				config = bad
			}
			if k.https && config != nil {
				secure := tls.Server(v.Conn, config)
				if secure.Handshake() != nil {
					_, _ = io.Copy(io.Discard, v.Conn) // its alert is read before this end closes
					return
				}
				v.Conn, v.r = secure, bufio.NewReader(secure)
			}
			switch {
			case hostile && k.serve != nil:
				k.serve(v)
			case k.proxy != "":
				v.tunnel(k.proxy)
				v.good()
			default:
				v.good()
			}
		})
	}
	control := listen()
	out.Control = control.Addr().String()
	go func() {
		_ = http.Serve(control, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			s := seats[r.URL.Query().Get("name")]
			s.mu.Lock()
			defer s.mu.Unlock()
			_ = json.NewEncoder(w).Encode(report{s.accepts, s.wrongs})
		}))
	}()
	line, _ := json.Marshal(out)
	fmt.Printf("\n%s\n", line)
	_, _ = io.Copy(io.Discard, os.Stdin)
	os.Exit(0)
}

func accept(ln net.Listener, s *seat, serve func(v *victim)) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		s.accepts++
		turn := s.accepts
		s.mu.Unlock()
		go func() {
			defer c.Close()
			serve(&victim{Conn: c, r: bufio.NewReader(c), turn: turn, seat: s})
		}()
	}
}

// stageOf starts the peers' process.
func stageOf(t *testing.T) stage {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.timeout=10m")
	cmd.Env = append(os.Environ(), peerEnv+"=1")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close(); _ = cmd.Wait() })
	lines := bufio.NewReader(out)
	for {
		line, err := lines.ReadBytes('\n')
		var s stage
		if json.Unmarshal(line, &s) == nil && s.Control != "" {
			go func() { _, _ = io.Copy(os.Stderr, lines) }() // a crash is told
			return s
		}
		if err != nil {
			t.Fatalf("the peers did not start: %v", err)
		}
	}
}

// otherHost is where nobody may come to.
var otherHost string

// What a peer can say.

// ask reads the head of a request, unless it was read.
func (v *victim) ask() string {
	if v.head != "" {
		return v.head
	}
	var head strings.Builder
	for {
		line, err := v.r.ReadString('\n')
		head.WriteString(line)
		if err != nil || strings.TrimRight(line, "\r\n") == "" {
			break
		}
	}
	v.head = head.String()
	for _, field := range []string{"Cookie", "X-Injected"} {
		if strings.Contains(v.head, "\r\n"+field+":") {
			v.seat.wrong("a request has the header %s", field)
		}
	}
	return v.head
}

// token is the one in the last request.
func (v *victim) token() string {
	_, token, _ := strings.Cut(v.head, "\r\nAuthorization: ")
	token, _, _ = strings.Cut(token, "\r\n")
	return token
}

func (v *victim) say(format string, args ...any) { fmt.Fprintf(v.Conn, format, args...) }

func (v *victim) answer(status int, body string, fields ...string) {
	v.ask()
	v.say("HTTP/1.1 %d Whatever\r\nContent-Length: %d\r\n", status, len(body))
	for _, f := range fields {
		v.say("%s\r\n", f)
	}
	v.say("\r\n%s", body)
	v.wait()
}

// agree takes the upgrade; fields replace those of the same name, or omit them if
// they have no value.
func (v *victim) agree(fields ...string) {
	v.ask()
	_, key, _ := strings.Cut(v.head, "Sec-WebSocket-Key: ")
	key, _, _ = strings.Cut(key, "\r\n")
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	standard := []string{"Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Accept: " + base64.StdEncoding.EncodeToString(sum[:])}
	standard = slices.DeleteFunc(standard, func(s string) bool {
		name, _, _ := strings.Cut(s, ":")
		return slices.ContainsFunc(fields, func(f string) bool { return strings.HasPrefix(f, name+":") })
	})
	v.say("HTTP/%s 101 Switching Protocols\r\n", cmp.Or(v.version, "1.1"))
	for _, f := range append(standard, fields...) {
		if _, value, _ := strings.Cut(f, ":"); value != "" {
			v.say("%s\r\n", f)
		}
	}
	v.say("\r\n")
}

const (
	text, binary, closing, ping, pong = 0x81, 0x82, 0x88, 0x89, 0x8a
	welcome                           = `{"type":"health.check","connection_id":"%s","cid":"*","me":{"id":"john"}}`
	fine                              = `{"type":"fine"}`
)

func frame(first byte, payload string) []byte {
	switch n := len(payload); {
	case n < 126:
		return append([]byte{first, byte(n)}, payload...)
	case n < 1<<16:
		return append([]byte{first, 126, byte(n >> 8), byte(n)}, payload...)
	default:
		return append([]byte{first, 127, 0, 0, 0, 0, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}, payload...)
	}
}

func (v *victim) frame(first byte, payload string) { _, _ = v.Write(frame(first, payload)) }

// hello agrees and says the hello.
func (v *victim) hello() {
	v.agree()
	v.frame(text, fmt.Sprintf(welcome, "id"))
}

// flood says something over and over, to the end or n times.
func (v *victim) flood(n int, what []byte) {
	if n > 1000 {
		n /= slow
	}
	block := bytes.Repeat(what, max(1, 16<<10/len(what)))
	for sent := 0; n < 0 || sent < n; sent += len(block) / len(what) {
		if _, err := v.Write(block); err != nil {
			return
		}
	}
}

// upTo says something n bytes long, or until the client leaves. It tells if it could.
func (v *victim) upTo(n int, what string) {
	block := []byte(strings.Repeat(what, max(1, 16<<10/len(what))))
	for sent := 0; sent < n; sent += len(block) {
		if _, err := v.Write(block); err != nil {
			return
		}
	}
	v.seat.wrong("%d MiB were taken", n>>20)
}

// slowly says something byte by byte, and goes on with the last one.
func (v *victim) slowly(what string) {
	for i := 0; ; i = min(i+1, len(what)-1) {
		if _, err := v.Write([]byte{what[i]}); err != nil {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// wait reads until the client leaves.
func (v *victim) wait() { _, _ = io.Copy(io.Discard, v.r) }

func (v *victim) reset() { _ = v.Conn.(*net.TCPConn).SetLinger(0) }

// stay goes on as a good peer does, beginning with an event.
func (v *victim) stay() {
	v.frame(text, fine)
	v.live()
}

// live answers health checks and the close.
func (v *victim) live() {
	for {
		var h [2]byte
		if _, err := io.ReadFull(v.r, h[:]); err != nil {
			return
		}
		n := int64(h[1] & 0x7f)
		switch n {
		case 126:
			var b [2]byte
			_, _ = io.ReadFull(v.r, b[:])
			n = int64(b[0])<<8 | int64(b[1])
		case 127:
			v.seat.wrong("a frame of more than 64 KiB")
			return
		}
		if _, err := io.CopyN(io.Discard, v.r, n+4); err != nil {
			return
		}
		switch h[0] {
		case text:
			v.frame(text, `{"type":"health.check","connection_id":"id"}`)
		case closing:
			v.frame(closing, "\x03\xe8")
			return
		}
	}
}

// good is a good peer, for sockets and for requests.
func (v *victim) good() {
	for v.ask() != "" {
		if strings.HasPrefix(v.head, "GET /connect?") {
			v.hello()
			v.stay()
			return
		}
		v.head = ""
		v.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
	}
}

// tunnel is what a good proxy does.
func (v *victim) tunnel(scheme string) {
	if scheme == "http" {
		v.ask()
		v.head = ""
		v.say("HTTP/1.1 200 OK\r\n\r\n")
		return
	}
	b := make([]byte, 3)
	_, _ = io.ReadFull(v.r, b)
	v.say("\x05\x00")
	b = make([]byte, 4)
	_, _ = io.ReadFull(v.r, b)
	rest := map[byte]int{1: 6, 4: 18}[b[3]]
	_, _ = io.ReadFull(v.r, make([]byte, rest))
	v.say("\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00")
}

// onSocket is a peer that says hello and then does this.
func onSocket(then func(v *victim)) func(v *victim) {
	return func(v *victim) {
		v.hello()
		then(v)
	}
}

// frames is a peer that sends these bytes on an open socket, and waits.
func frames(all ...[]byte) func(v *victim) {
	return onSocket(func(v *victim) {
		_, _ = v.Write(bytes.Join(all, nil))
		v.wait()
	})
}

// harmless is one that sends them and goes on as if nothing were.
func harmless(all ...[]byte) func(v *victim) {
	return onSocket(func(v *victim) {
		_, _ = v.Write(bytes.Join(all, nil))
		v.stay()
	})
}

// api answers requests other than for the socket, which is good.
func api(serve func(v *victim)) func(v *victim) {
	return func(v *victim) {
		if strings.HasPrefix(v.ask(), "GET /connect?") {
			v.good()
			return
		}
		serve(v)
	}
}

// played is a Conn that meets a peer, and what came of it.
type played struct {
	kind    *hostilePeer
	conn    *chatconn.Conn
	base    string
	config  chatconn.Config
	ears    ears
	loads   int
	session chatconn.Session
	err     error // of ConnectUser
	changes []chatconn.Change
	used    string // what use found
}

// ears is a logger that remembers.
type ears struct {
	mu    sync.Mutex
	lines []string
}

func (e *ears) Enabled(context.Context, slog.Level) bool { return true }
func (e *ears) WithAttrs([]slog.Attr) slog.Handler       { return e }
func (e *ears) WithGroup(string) slog.Handler            { return e }
func (e *ears) Handle(_ context.Context, r slog.Record) error {
	line := r.Level.String() + " " + r.Message
	r.Attrs(func(a slog.Attr) bool { line += " " + a.Key + "=" + a.Value.String(); return true })
	e.mu.Lock()
	defer e.mu.Unlock()
	e.lines = append(e.lines, line)
	return nil
}

// play lets a Conn meet its peer and go all the way to the kind's end.
func (p *played) play(at stage) {
	k := p.kind
	addr := at.Addrs[k.name]
	scheme := "http://"
	if k.https {
		scheme = "https://"
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(at.Root))
	p.base = scheme + addr
	p.config = chatconn.Config{
		APIKey: "key", BaseURL: p.base, Logger: slog.New(&p.ears), TLS: &tls.Config{RootCAs: roots},
		RetryFirst: 20 * time.Millisecond, RetryMax: 40 * time.Millisecond, MinDialInterval: -1,
		// Long enough not to come in the way of anything.
		AttemptTimeout: time.Minute, HealthCheckInterval: time.Minute, HealthTimeout: 2 * time.Minute, WriteTimeout: time.Minute,
		CloseTimeout: 2 * time.Second,
	}
	const short = 400 * time.Millisecond
	switch k.bound {
	case byAttempt:
		p.config.AttemptTimeout = short
	case byHealth:
		p.config.HealthCheckInterval, p.config.HealthTimeout = short/2, short
	case byWrite:
		p.config.WriteTimeout, p.config.CloseTimeout = short/2, short/2
		// A window that is full on both ends may stop the peer as well.
		p.config.HealthCheckInterval, p.config.HealthTimeout, p.config.KeepTokenWhenUnhealthy = short/2, short, true
	}
	if k.proxy != "" {
		p.config.Proxy = func(*http.Request) (*url.URL, error) { return url.Parse(k.proxy + "://" + addr) }
	}
	var dialled atomic.Int64
	p.config.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if n := dialled.Add(1); k.dial != nil {
			var err error
			if addr, err = k.dial(int(n), addr); err != nil {
				return nil, err
			}
			if addr == "" {
				<-ctx.Done()
				return nil, ctx.Err()
			}
		}
		c, err := new(net.Dialer).DialContext(ctx, network, addr)
		if err == nil && k.bound == byWrite {
			_ = c.(*net.TCPConn).SetWriteBuffer(4 << 10)
		}
		return c, err
	}
	conn, err := chatconn.New(p.config)
	if err != nil {
		p.err = err
		return
	}
	p.conn = conn

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	watched := make(chan struct{})
	changes := conn.Watch(ctx)
	told := make(chan chatconn.Change, 1000)
	go func() {
		defer close(watched)
		defer close(told)
		for c := range changes {
			p.changes = append(p.changes, c)
			told <- c
		}
	}()
	heard := make(chan struct{}, 1)
	types := []string{"fine"}
	if k.listen {
		types = nil
	}
	events := conn.Events(ctx, types...)
	go func() {
		for e := range events {
			if e.Type == "fine" {
				heard <- struct{}{}
			}
		}
	}()
	source := tokens.Func(func(context.Context) (string, error) {
		p.loads++
		return tokens.Sign([]byte("the secret of the service"), tokens.Claims{UserID: "john", IssuedAt: time.Unix(int64(p.loads), 0)})
	})
	connected := make(chan struct{})
	go func() {
		defer close(connected)
		p.session, p.err = conn.ConnectUser(ctx, chatconn.User{ID: "john"}, source)
	}()
	failures := 0
	over := func(c chatconn.Change) bool {
		if c.Cause != nil {
			failures++
		}
		return k.ends == denied && c.To == fsm.Offline && c.Event != 0 || k.ends == obeys && failures > 0
	}
	stuck := time.NewTimer(90 * time.Second)
	defer stuck.Stop()
	for done := false; !done; {
		select {
		case c := <-told:
			done = over(c)
		case <-heard: // the good peer's event: it was reached, or the hostile one went on
			done = true
		case <-stuck.C:
			p.used = fmt.Sprintf("it is still %v", conn.State())
			done = true
		}
	}
	if k.use != nil && p.used == "" {
		k.use(p)
	}
	_ = conn.Close()
	<-connected
	<-watched
}

// toldAs is how a failure is told, in one line.
func toldAs(err error) string {
	var failure *transport.Error
	var api *chatconn.APIError
	switch {
	case errors.As(err, &api):
		return fmt.Sprintf("API error %d, status %d", api.Code, api.StatusCode)
	case errors.As(err, &failure):
		s := failure.Phase + ": " + failure.Kind.String()
		if failure.Status != 0 {
			s += fmt.Sprintf(", HTTP %d", failure.Status)
		}
		if failure.CloseCode != 0 {
			s += fmt.Sprintf(", close code %d", failure.CloseCode)
		}
		return s
	}
	return fmt.Sprint(err)
}

// check compares what came with the table.
func (p *played) check(t *testing.T, at stage) {
	k, r := p.kind, at.seen(t, p.kind.name)
	for _, wrong := range r.Wrongs {
		t.Errorf("the peer saw what may not be: %s", wrong)
	}
	stats := p.conn.Stats()
	if stats.Bugs != 0 {
		t.Errorf("M2: %d events that the table refuses", stats.Bugs)
	}
	var failed []chatconn.Change
	for _, c := range p.changes {
		if c.Cause != nil && !errors.Is(c.Cause, chatconn.ErrClosed) {
			failed = append(failed, c)
		}
	}
	spoken := strings.Join(p.ears.lines, "\n")
	// When the machine is busy, a timeout that is short may strike a good peer as well,
	// or a hostile one before it does what it is here for.
	busy := k.bound == byAttempt || k.bound == byHealth || k.bound == byWrite
	fitting := 0
	for i, c := range failed {
		got := toldAs(c.Cause)
		switch fits := slices.Contains(strings.Split(k.cause, " or "), got); {
		case fits:
			fitting++
		case busy && (late(c.Cause) || got == "open: silent"):
			continue
		default:
			t.Errorf("failure %d is told as %q, want %q: %v", i+1, got, k.cause, c.Cause)
		}
		if k.is != nil && !k.is(c.Cause) {
			t.Errorf("errors.Is and errors.As do not find what they should in %v", c.Cause)
		}
		if !strings.Contains(spoken, "cause="+c.Cause.Error()) {
			t.Errorf("no log line has the cause %v", c.Cause)
		}
	}
	if strings.Contains(spoken, "eyJ") || strings.Contains(fmt.Sprint(p.changes, p.err), "eyJ") {
		t.Error("T11: a token was told")
	}
	if k.cause != "" && fitting == 0 {
		t.Errorf("no failure is told as %q: %v", k.cause, failed)
	}
	failures, loads := k.hostileTurns(), 1
	switch k.ends {
	case stays:
		failures = 0
	case renews:
		loads = 2
	case silenced:
		loads = 1 + len(failed)
	}
	if n := len(failed); n != failures && !(busy && n > failures) {
		t.Errorf("%d failures, want %d: %v", n, failures, p.changes)
	}
	if p.loads != loads {
		t.Errorf("T2: the source was asked %d times, want %d", p.loads, loads)
	}
	// R1: what the peer saw is what the backoff let through.
	attempts := len(failed) + 1
	if k.ends == denied || k.ends == obeys {
		attempts = 1
	}
	if dials := int(stats.Attempts); dials != attempts || k.use == nil && k.dial == nil && r.Accepts != attempts {
		t.Errorf("%d dials, of which the peer saw %d, want %d", dials, r.Accepts, attempts)
	}
	if k.ends == backsOff || k.ends == silenced {
		for i := 1; i < len(failed); i++ {
			if wait := failed[i].RetryAt.Sub(failed[i-1].RetryAt); wait < p.config.RetryFirst*8/10 {
				t.Errorf("R1: attempt %d begins %v after the one before", failed[i].Attempt, wait)
			}
		}
	}
	switch k.ends {
	case obeys:
		if wait := failed[0].RetryAt.Sub(failed[0].At); wait < 5*time.Minute || wait > 5*time.Minute+p.config.RetryFirst {
			t.Errorf("the next attempt is in %v", wait)
		}
	case denied:
		// Before its first success a call ends with the cause, afterwards it has returned.
		if p.session.ConnectionID == "" && toldAs(p.err) != k.cause {
			t.Errorf("the call ended with %v", p.err)
		}
	default:
		if p.err != nil || p.session.ConnectionID == "" {
			t.Errorf("the call ended with %+v, %v", p.session, p.err)
		}
	}
	if p.used != "" {
		t.Error(p.used)
	}
	if left := remains(k.name); left != "" {
		t.Errorf("C9: after Close there is still\n%s", left)
	}
}

// S1 to S4, R4, T11, E: whatever a peer does, there is a typed error or nothing at
// all, within its bound; the connection ends, backs off or goes on as the table
// says; the log says why, without the token; nothing is left after Close.
func TestHostilePeers(t *testing.T) {
	if os.Getenv(peerEnv) != "" {
		servePeers(t)
	}
	at := stageOf(t)
	results := map[string]chan *played{}
	places := make(chan struct{}, 16) // they take time, not work
	for i := range hostilePeers {
		k := &hostilePeers[i]
		if results[k.name] != nil {
			t.Fatalf("two peers are called %q", k.name)
		}
		result := make(chan *played, 1)
		results[k.name] = result
		if !k.memory {
			go func() {
				places <- struct{}{}
				defer func() { <-places }()
				result <- meet(k, at)
			}()
		}
	}
	for i := range hostilePeers {
		k := &hostilePeers[i]
		if !k.memory {
			t.Run(k.title(), func(t *testing.T) { (<-results[k.name]).check(t, at) })
		}
	}
	if r := at.seen(t, "elsewhere"); r.Accepts != 0 {
		t.Errorf("S1, Q6: %d connections went to another host", r.Accepts)
	}
}

// stopTheWorld makes a garbage collection stop everything else, so that what is held
// after it is what is in use, however much garbage comes at the same time.
const stopTheWorld = "gcstoptheworld=1"

// S2, R4: the same for peers that send much, one after the other. What is held
// meanwhile is less than 4 MiB.
func TestHostilePeersMemory(t *testing.T) {
	if os.Getenv(peerEnv) != "" {
		servePeers(t)
	}
	if !strings.Contains(os.Getenv("GODEBUG"), stopTheWorld) {
		cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=10m")
		cmd.Env = append(os.Environ(), "GODEBUG="+stopTheWorld)
		out, err := cmd.CombinedOutput()
		t.Logf("%s", out)
		if err != nil {
			t.Error(err)
		}
		return
	}
	at := stageOf(t)
	for i := range hostilePeers {
		k := &hostilePeers[i]
		if !k.memory {
			continue
		}
		t.Run(k.title(), func(t *testing.T) {
			stop := measure()
			p := meet(k, at)
			peak := stop()
			p.check(t, at)
			t.Logf("%d KiB above idle: %s", peak>>10, k.name)
			if peak > max(k.most, 4<<20) {
				t.Errorf("S2: %d KiB above idle are held", peak>>10)
			}
		})
	}
}

func (k *hostilePeer) title() string { return strings.ReplaceAll(k.name, "/", "-") }

// meet lets a new Conn meet its peer.
func meet(k *hostilePeer, at stage) *played {
	p := &played{kind: k}
	pprof.Do(context.Background(), pprof.Labels("peer", k.name), func(context.Context) { p.play(at) })
	return p
}

// seen asks the peers' process what it saw.
func (s stage) seen(t *testing.T, name string) (r report) {
	t.Helper()
	resp, err := http.Get("http://" + s.Control + "/?name=" + url.QueryEscape(name))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&r); err != nil {
		t.Fatal(err)
	}
	return r
}

// What the page says is what the table has.
func TestHostilePeersPage(t *testing.T) {
	const page, begin, end = "docs/hostile-peers.md", "<!-- the table: go test . -run TestHostilePeersPage -update -->\n", "<!-- its end -->\n"
	data, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, found := strings.Cut(string(data), begin)
	_, tail, whole := strings.Cut(rest, end)
	if !found || !whole {
		t.Fatalf("%s has no place for the table", page)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "\n%d kinds.\n", len(hostilePeers))
	for _, k := range hostilePeers {
		if k.part != "" {
			fmt.Fprintf(&b, "\n## %s\n\n| the peer | the connection | told as | found |\n|---|---|---|---|\n", k.part)
		}
		cause := k.cause
		if cause != "" {
			cause = "`" + strings.ReplaceAll(cause, " or ", "` or `") + "`"
		}
		name := k.name
		if k.memory {
			name += " *"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", name, k.ends, cause, k.bound)
	}
	b.WriteString("\n")
	want := head + begin + b.String() + end + tail
	if want == string(data) {
		return
	}
	if !*update {
		t.Fatalf("%s is out of date: go test . -run TestHostilePeersPage -update", page)
	}
	if err := os.WriteFile(page, []byte(want), 0o644); err != nil {
		t.Fatal(err)
	}
}

// measure watches the memory that is held, garbage apart, until it is stopped, and
// returns the most above what was held in the beginning.
func measure() (stop func() uint64) {
	held := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/heap/stacks:bytes"}}
	read := func() uint64 {
		runtime.GC()
		metrics.Read(held)
		return held[0].Value.Uint64() + held[1].Value.Uint64()
	}
	read()
	idle, most := read(), uint64(0)
	over, result := make(chan struct{}), make(chan uint64)
	go func() {
		for {
			most = max(most, read())
			select {
			case <-over:
				result <- max(most, idle) - idle
				return
			case <-time.After(2 * time.Millisecond):
			}
		}
	}()
	return func() uint64 { close(over); return <-result }
}

// remains returns the goroutines that were begun for a peer's Conn and are left.
// What ends by itself once Close has returned gets a while.
func remains(name string) (left string) {
	for range 500 {
		var all bytes.Buffer
		_ = pprof.Lookup("goroutine").WriteTo(&all, 1)
		left = ""
		for _, g := range strings.Split(all.String(), "\n\n") {
			label, _ := json.Marshal(map[string]string{"peer": name})
			if strings.Contains(g, "# labels: "+string(label)) {
				left += g + "\n"
			}
		}
		if left == "" {
			return ""
		}
		time.Sleep(10 * time.Millisecond)
	}
	return left
}
