// Package devserver is a chat server for development and tests, embedded in
// the program that needs it: one call starts it, another ends it. It speaks
// the service's protocol as the official clients do, verifies tokens for real,
// remembers everything in memory only, and fails on command.
//
//	server, err := devserver.Start(devserver.Options{})
//	...
//	defer server.Close()
//	conn, err := chatconn.New(chatconn.Config{BaseURL: server.URL(), APIKey: server.APIKey()})
//
// What it serves: GET /connect (the socket), POST /guest, GET and PATCH /app,
// PATCH /users, POST /sync, and for channels POST /channels/{type}/{id} with
// /query, /message and /read. The faults are methods of [Server] and HTTP
// endpoints under /_fault/, which [Faults] lists. [Server.Log] tells what the
// server saw.
//
// A Server is safe for concurrent use. It starts no goroutine that outlives
// [Server.Close], holds no lock while it reads or writes, and so runs inside a
// testing/synctest bubble when it listens on an in-memory network.
//
// Specification: D1, D2, D3.
package devserver

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Options says how a server runs. The zero value is a server on a free
// loopback port with a random secret that verifies every token.
type Options struct {
	// Addr is the TCP address to listen on; empty means 127.0.0.1:0. An address
	// that is not loopback needs AllowRemote.
	Addr string

	// Listen replaces net.Listen for Addr, which it is given as it stands; an
	// in-memory network's Listen, for example. Restart calls it again.
	Listen func(addr string) (net.Listener, error)

	// Listener is used instead of Addr and Listen, and belongs to the server
	// from then on. It is kept open by Stop, which then resets what it accepts,
	// as nothing could open it again.
	Listener net.Listener

	// APIKey is the only key that the server knows; empty means "devkey".
	APIKey string

	// Secret signs and verifies tokens; nil means 32 random bytes. One under 16
	// bytes is refused.
	Secret []byte

	// DisableAuthChecks accepts any token that names the user, dev tokens
	// included, and a login without one. Nothing about a token is checked then,
	// neither signature nor time nor revocation; but only a signed token makes a
	// backend.
	DisableAuthChecks bool

	// AllowRemote permits an address that other machines can reach. The faults
	// stay loopback only.
	AllowRemote bool

	// TokenTTL is the lifetime of tokens for which [Server.Token] is given none;
	// 0 means that they never expire.
	TokenTTL time.Duration

	// HealthCheckInterval is the time between health checks that the server
	// sends unasked; 0 means that it only answers.
	HealthCheckInterval time.Duration

	// Logger gets every entry of the record at Debug; nil discards.
	Logger *slog.Logger
}

// Errors of [Start].
var (
	ErrRemote      = errors.New("devserver: the address is not loopback; set AllowRemote to serve other machines")
	ErrShortSecret = errors.New("devserver: the secret is shorter than 16 bytes")
)

// ErrClosed is what a closed server answers.
var ErrClosed = errors.New("devserver: the server is closed")

// Server is a running server. Start makes it, Close ends it.
type Server struct {
	opts     Options // as completed by Start
	url      string
	handler  http.Handler
	commands []FaultCommand
	journal  journal
	work     sync.WaitGroup // everything that Close waits for
	done     chan struct{}  // closed by Close

	mu       sync.Mutex // guards all below; nothing blocks while it is held
	closed   bool
	down     bool // between Stop and Restart
	epoch    int  // connections of an earlier epoch were cut
	listener net.Listener
	conns    map[net.Conn]struct{} // that http serves; sockets have left it
	sockets  map[*socket]struct{}  // every upgraded connection
	online   map[string]map[*socket]struct{}
	peak     map[string]int // most sockets of a user at a time
	users    map[string]*user
	channels map[string]*channel
	faults   faults
	serial   uint64            // of the last token minted
	cutoffs  map[string]cutoff // by user id; "" is everyone
	last     time.Time         // the last stamp
}

// Start starts a server. It listens when Start returns.
func Start(opts Options) (*Server, error) {
	if opts.APIKey == "" {
		opts.APIKey = "devkey"
	}
	opts.Secret = bytes.Clone(opts.Secret)
	if opts.Secret == nil {
		opts.Secret = make([]byte, 32)
		rand.Read(opts.Secret)
	}
	if len(opts.Secret) < 16 { // T7
		return nil, ErrShortSecret
	}
	if opts.Addr == "" {
		opts.Addr = "127.0.0.1:0"
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}

	ln, err := listen(opts)
	if err != nil {
		return nil, err
	}
	s := &Server{
		opts:     opts,
		url:      "http://" + reachable(ln.Addr()),
		commands: faultCommands,
		journal:  journal{logger: opts.Logger},
		done:     make(chan struct{}),
		conns:    make(map[net.Conn]struct{}),
		sockets:  make(map[*socket]struct{}),
		online:   make(map[string]map[*socket]struct{}),
		peak:     make(map[string]int),
		users:    make(map[string]*user),
		channels: make(map[string]*channel),
		cutoffs:  make(map[string]cutoff),
	}
	s.opts.Addr = ln.Addr().String() // so that Restart finds the same port
	s.handler = s.routes()
	s.mu.Lock()
	s.serveLocked(ln)
	s.mu.Unlock()
	return s, nil
}

func listen(opts Options) (net.Listener, error) {
	switch {
	case opts.Listener != nil:
		return guard(opts.Listener, opts.AllowRemote)
	case opts.Listen != nil:
		ln, err := opts.Listen(opts.Addr)
		if err != nil {
			return nil, fmt.Errorf("devserver: %w", err)
		}
		return guard(ln, opts.AllowRemote)
	}
	addr, err := net.ResolveTCPAddr("tcp", opts.Addr)
	if err != nil {
		return nil, fmt.Errorf("devserver: %w", err)
	}
	if !opts.AllowRemote && !addr.IP.IsLoopback() {
		return nil, ErrRemote // before the port is open to anyone
	}
	ln, err := net.Listen("tcp", addr.String())
	if err != nil {
		return nil, fmt.Errorf("devserver: %w", err)
	}
	return ln, nil
}

// reachable is the address at which a client on this machine finds a listener.
func reachable(addr net.Addr) string {
	if tcp, ok := addr.(*net.TCPAddr); ok && tcp.IP.IsUnspecified() {
		return net.JoinHostPort("127.0.0.1", strconv.Itoa(tcp.Port))
	}
	return addr.String()
}

// guard closes a listener that other machines can reach without leave.
func guard(ln net.Listener, allowRemote bool) (net.Listener, error) {
	if tcp, ok := ln.Addr().(*net.TCPAddr); ok && !allowRemote && !tcp.IP.IsLoopback() {
		ln.Close()
		return nil, ErrRemote
	}
	return ln, nil
}

// URL returns the base URL, http://host:port without a path.
func (s *Server) URL() string { return s.url }

// APIKey returns the key that clients must send.
func (s *Server) APIKey() string { return s.opts.APIKey }

// Secret returns a copy of the secret that signs the tokens.
func (s *Server) Secret() []byte { return bytes.Clone(s.opts.Secret) }

// Handler returns the server for other listeners, an httptest.Server for
// example. Faults of the listener ([Server.Stop], [Server.RefuseConnections])
// then cut the connection at its first request.
func (s *Server) Handler() http.Handler { return http.HandlerFunc(s.serve) }

// Close stops the server at once: it stops listening, cuts every connection
// without a close frame and waits for its goroutines. It is idempotent.
func (s *Server) Close() error {
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		close(s.done)
	}
	cut := s.cutLocked(nil)
	ln := s.listener
	s.mu.Unlock()

	cut(false)
	if ln != nil {
		ln.Close()
	}
	s.work.Wait()
	return nil
}

// serveLocked serves a listener until it is closed.
func (s *Server) serveLocked(ln net.Listener) {
	srv := &http.Server{
		Handler:           s.Handler(),
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          slog.NewLogLogger(s.opts.Logger.Handler(), slog.LevelDebug),
		ConnState:         s.track,
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, conn)
		},
	}
	s.listener = ln
	s.work.Go(func() { srv.Serve(&gate{Listener: ln, s: s}) })
}

// connKey is where a request's context holds its connection.
type connKey struct{}

// track keeps the connections that the HTTP server serves, and makes Close wait
// for them. A connection is new before Serve returns, so the count never grows
// from zero while Close waits.
func (s *Server) track(conn net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		s.work.Add(1)
		s.mu.Lock()
		s.conns[conn] = struct{}{}
		late := s.closed || s.down // accepted just before
		s.mu.Unlock()
		if late {
			conn.Close()
		}
	case http.StateClosed, http.StateHijacked:
		s.mu.Lock()
		delete(s.conns, conn)
		s.mu.Unlock()
		s.work.Done()
	}
}

// gate turns connections away at the door while a fault says so.
type gate struct {
	net.Listener
	s *Server
}

func (g *gate) Accept() (net.Conn, error) {
	for {
		conn, err := g.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if !g.s.refusing() {
			return conn, nil
		}
		reset(conn)
		g.s.journal.add(Entry{Kind: Refused, Text: "connection"})
	}
}

func (s *Server) refusing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed || s.down || s.faults.refuse
}

// cutLocked begins a new epoch and returns what cuts the connections of the old
// one, but for the kept one; with a TCP reset if abrupt. To be called without
// the lock.
func (s *Server) cutLocked(keep net.Conn) (cut func(abrupt bool)) {
	s.epoch++
	var conns []net.Conn
	for conn := range s.conns {
		if conn != keep {
			conns = append(conns, conn)
		}
	}
	for so := range s.sockets {
		s.shutLocked(so)
		conns = append(conns, so.raw)
	}
	return func(abrupt bool) {
		for _, conn := range conns {
			if abrupt {
				reset(conn)
			} else {
				conn.Close()
			}
		}
	}
}

// Stop closes the listener and resets every connection, as a server does that
// crashes. [Server.Restart] brings it back.
func (s *Server) Stop() { s.stop(nil) }

func (s *Server) stop(keep net.Conn) {
	s.mu.Lock()
	if s.closed || s.down {
		s.mu.Unlock()
		return
	}
	s.down = true
	cut := s.cutLocked(keep)
	ln := s.listener
	s.mu.Unlock()

	if s.opts.Listener == nil {
		ln.Close()
	}
	cut(true)
	s.order("stop", "")
}

// Restart listens again after [Server.Stop], on the same address, with the same
// secret, users, channels and faults. Without a Stop before it does nothing.
func (s *Server) Restart() error {
	s.mu.Lock()
	closed, down := s.closed, s.down
	s.mu.Unlock()
	switch {
	case closed:
		return ErrClosed
	case !down:
		return nil
	}
	var ln net.Listener
	if s.opts.Listener == nil {
		var err error
		if ln, err = listen(s.opts); err != nil {
			return err
		}
	}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		if ln != nil {
			ln.Close()
		}
		return ErrClosed
	}
	s.down = false
	if ln != nil {
		s.serveLocked(ln)
	}
	s.mu.Unlock()
	s.order("restart", "")
	return nil
}

// reset closes a connection the hard way, so that the peer sees a reset where
// the network knows one.
func reset(conn net.Conn) {
	if tcp, ok := conn.(interface{ SetLinger(sec int) error }); ok {
		tcp.SetLinger(0)
	}
	conn.Close()
}

// enter counts a request in. It fails once the server is closed or down.
func (s *Server) enter() (epoch int, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.down || s.faults.refuse {
		return 0, false
	}
	s.work.Add(1)
	return s.epoch, true
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	epoch, ok := s.enter()
	if !ok {
		panic(http.ErrAbortHandler) // net/http closes the connection without a word
	}
	defer s.work.Done()
	if strings.HasPrefix(r.URL.Path, "/_fault/") {
		s.serveFault(w, r)
		return
	}
	if !s.mayAnswer(r) {
		panic(http.ErrAbortHandler)
	}
	// A browser's client is served from another origin than this server. Tokens
	// travel in headers and queries, never in cookies, so any origin may ask.
	w.Header().Set("Access-Control-Allow-Origin", "*")
	w.Header().Set("Access-Control-Expose-Headers", "Retry-After")
	if r.Method == http.MethodOptions {
		w.Header().Set("Access-Control-Allow-Methods", "*")
		w.Header().Set("Access-Control-Allow-Headers", r.Header.Get("Access-Control-Request-Headers")) // "*" would leave out Authorization
		w.WriteHeader(http.StatusNoContent)
		return
	}
	if r.URL.Path == "/connect" && r.Method == http.MethodGet {
		s.connect(w, r, epoch)
		return
	}
	s.handler.ServeHTTP(w, r)
}

// stampLocked returns the time, a little later than any stamp before, so that
// the order of events can be told from their times (P4).
func (s *Server) stampLocked() time.Time {
	now := time.Now().UTC()
	if !now.After(s.last) {
		now = s.last.Add(1)
	}
	s.last = now
	return now
}

// object is a JSON object that the server writes.
type object = map[string]any

// encode renders what cannot fail to be JSON.
func encode(v any) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		panic("BUG: devserver: " + err.Error())
	}
	return data
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }
