package halfopen

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/chatconn/chatconn"
	"github.com/chatconn/chatconn/devserver"
	"github.com/chatconn/chatconn/fsm"
	"github.com/chatconn/chatconn/tokens"
)

var defaults = flag.Bool("defaults", false, "run with the times of the zero Config, and hold what is found against the promises")

// The test binary plays other parts when the environment says so.
const roleVariable = "CHATCONN_HALFOPEN_ROLE"

func TestMain(m *testing.M) {
	if os.Getenv(roleVariable) == "server" {
		if err := serve(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	flag.Parse()
	_ = flag.Set("test.parallel", "8") // they mostly wait, so they are not bound by processors
	os.Exit(m.Run())
}

// The two ends of the link, inside the namespaces that a test makes itself.
const (
	clientIP, clientMAC = "10.77.0.1", "02:00:00:00:00:01"
	serverIP, serverMAC = "10.77.0.2", "02:00:00:00:00:02"
	nobodysMAC          = "02:00:00:00:00:99"
	port                = "8080"
	secret              = "the secret of the half-open test"
)

func ip(args string) error {
	out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ip %s: %w: %s", args, err, bytes.TrimSpace(out))
	}
	return nil
}

// neighbour says under which hardware address the other end of the link is.
func neighbour(addr, mac, dev string) error {
	return ip("neigh replace " + addr + " lladdr " + mac + " dev " + dev + " nud permanent")
}

// report is what the server says after each order.
type report struct {
	Err    string
	Open   int // sockets now
	Most   int // sockets at a time, ever
	Logins int
}

// serve is the server's process. It carries out one order a line, answers each
// with a report, and ends with its input.
func serve(in io.Reader, out io.Writer) error {
	server := (*devserver.Server)(nil)
	defer func() {
		if server != nil {
			server.Close()
		}
	}()
	orders := bufio.NewScanner(in)
	for orders.Scan() {
		order, arg, _ := strings.Cut(orders.Text(), " ")
		var err error
		switch order {
		case "start":
			for _, args := range []string{"link set lo up", "addr add " + serverIP + "/24 dev far", "link set far up"} {
				err = errors.Join(err, ip(args))
			}
			if err = errors.Join(err, neighbour(clientIP, clientMAC, "far")); err == nil {
				server, err = devserver.Start(devserver.Options{
					Addr: net.JoinHostPort(serverIP, port), AllowRemote: true, Secret: []byte(secret),
				})
			}
		case "lose":
			err = neighbour(clientIP, nobodysMAC, "far")
		case "heal":
			err = neighbour(clientIP, clientMAC, "far")
		case "emit":
			n, _ := strconv.Atoi(arg)
			for i := range n {
				if _, e := server.Emit("john", map[string]any{"type": "custom", "n": i, "pad": strings.Repeat("x", 16<<10)}); e != nil {
					err = e
				}
			}
		case "report":
		default:
			err = errors.New("an unknown order")
		}
		var r report
		if err != nil {
			r.Err = err.Error()
		}
		if server != nil {
			r.Open, r.Most = server.Connections("john"), server.MaxSockets("john")
			for _, e := range server.Log() {
				if e.Kind == devserver.Connect {
					r.Logins++
				}
			}
		}
		if err := json.NewEncoder(out).Encode(r); err != nil {
			return err
		}
	}
	return orders.Err()
}

// isolated runs the calling test again, in a process with a network namespace of
// its own, and is true in that process.
func isolated(t *testing.T) bool {
	t.Helper()
	if os.Getenv(roleVariable) == "client" {
		return true
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("needs the ip command of iproute2, to make a link that can be cut")
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+strings.ReplaceAll(t.Name(), "/", "$/^")+"$", "-test.v", "-test.timeout=5m",
		"-defaults="+strconv.FormatBool(*defaults))
	cmd.Env = append(os.Environ(), roleVariable+"=client")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Skipf("needs the right to make network namespaces, as root has: %v", err)
	}
	err := cmd.Wait()
	switch text := out.String(); {
	case strings.Contains(text, "--- SKIP: "+t.Name()):
		t.Skip(text)
	case err != nil || !strings.Contains(text, "--- PASS: "+t.Name()):
		t.Errorf("in its namespace: %v\n%s", err, text)
	default:
		t.Log("\n" + text)
	}
	return false
}

// link is a client and the server at the other end of the veth pair.
type link struct {
	*testing.T
	in    io.Writer
	out   *json.Decoder
	conn  *chatconn.Conn
	loads atomic.Int64
	wires wires
	// changes has all that a watcher saw.
	changes <-chan chatconn.Change
}

// timing are the times that the tests run with.
var timing struct {
	interval, silence, attempt, first, most time.Duration
}

func newLink(t *testing.T) *link {
	t.Helper()
	l := &link{T: t}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), roleVariable+"=server")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	l.in, l.out = in, json.NewDecoder(out)
	if err := cmd.Start(); err != nil {
		t.Skipf("needs the right to make network namespaces, as root has: %v", err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("the server: %v", err)
		}
	})
	pair := fmt.Sprintf("link add near address %s type veth peer name far address %s netns %d", clientMAC, serverMAC, cmd.Process.Pid)
	if err := ip(pair); err != nil {
		t.Skipf("needs a kernel with veth and the right to make a pair: %v", err)
	}
	for _, args := range []string{"link set lo up", "addr add " + clientIP + "/24 dev near", "link set near up"} {
		l.must(ip(args))
	}
	l.must(neighbour(serverIP, serverMAC, "near"))
	l.order("start")

	cfg := chatconn.Config{APIKey: "devkey", BaseURL: "http://" + net.JoinHostPort(serverIP, port), AllowInsecure: true,
		DialContext: l.wires.dial,
		// API requests have connections of their own, which are not counted.
		HTTPTransport: &http.Transport{DialContext: new(net.Dialer).DialContext},
	}
	tm := &timing
	tm.interval, tm.silence, tm.attempt, tm.first, tm.most = 25*time.Second, 35*time.Second, 15*time.Second, 5*time.Second, 25*time.Second
	if !*defaults {
		tm.interval, tm.silence, tm.attempt, tm.first, tm.most = time.Second, 2500*time.Millisecond, 2*time.Second, 200*time.Millisecond, time.Second
		cfg.HealthCheckInterval, cfg.HealthTimeout, cfg.AttemptTimeout, cfg.RetryFirst, cfg.RetryMax = tm.interval, tm.silence, tm.attempt, tm.first, tm.most
		cfg.MinDialInterval, cfg.CloseTimeout = 100*time.Millisecond, 200*time.Millisecond
	}
	if l.conn, err = chatconn.New(cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		l.conn.Close()
		if bugs := l.conn.Stats().Bugs; bugs != 0 {
			t.Errorf("%d events that the table refuses", bugs)
		}
	})
	l.changes = l.conn.Watch(context.Background())
	source := tokens.Func(func(context.Context) (string, error) {
		now := time.Now()
		return tokens.Sign([]byte(secret), tokens.Claims{UserID: "john", IssuedAt: now, ExpiresAt: now.Add(time.Hour + time.Duration(l.loads.Add(1))*time.Minute)})
	})
	if _, err := l.conn.ConnectUser(t.Context(), chatconn.User{ID: "john"}, source); err != nil {
		t.Fatal(err)
	}
	l.until("connected", func(c chatconn.Change) bool { return c.Moved() && c.To == fsm.Connected })
	return l
}

func (l *link) must(err error) {
	l.Helper()
	if err != nil {
		l.Fatal(err)
	}
}

// order has the server do something.
func (l *link) order(what string) (r report) {
	l.Helper()
	_, err := fmt.Fprintln(l.in, what)
	l.must(err)
	l.must(l.out.Decode(&r))
	if r.Err != "" {
		l.Fatalf("the server: %s: %s", what, r.Err)
	}
	return r
}

// lose cuts the link and returns when it was whole for the last time.
func (l *link) lose() time.Time {
	l.Helper()
	at := time.Now()
	l.must(neighbour(serverIP, nobodysMAC, "near"))
	l.order("lose")
	return at
}

// heal mends the link and returns when that had begun.
func (l *link) heal() time.Time {
	l.Helper()
	at := time.Now()
	l.order("heal")
	l.must(neighbour(serverIP, serverMAC, "near"))
	return at
}

// until reads changes up to one that fits.
func (l *link) until(what string, fits func(chatconn.Change) bool) chatconn.Change {
	l.Helper()
	limit := time.After(2 * time.Minute)
	for {
		select {
		case c, ok := <-l.changes:
			switch {
			case !ok:
				l.Fatalf("the Conn ended before: %s", what)
			case fits(c):
				return c
			}
		case <-limit:
			l.Fatalf("there was no such change: %s", what)
		}
	}
}

// found waits until the silence is noticed. H1, H2: at most HealthTimeout after the
// link was cut, as the last frame came before.
func (l *link) found(lost time.Time) time.Time {
	l.Helper()
	c := l.until("found", func(c chatconn.Change) bool { return c.From == fsm.Connected })
	if c.Event != fsm.Unhealthy || c.To != fsm.Refreshing || c.Cause == nil {
		l.Errorf("H1: the silence is told as %v to %v by %v (%v)", c.From, c.To, c.Event, c.Cause)
	}
	took := c.At.Sub(lost)
	l.Logf("found %.2f s after the link was cut", took.Seconds())
	const margin = time.Second // for a busy machine, where the promise is held against a clock
	if *defaults && took > 35*time.Second+margin {
		l.Errorf("H2: found after %v", took)
	}
	return c.At
}

// back waits until the connection is there again and tells how long that took.
func (l *link) back(healed time.Time) time.Duration {
	l.Helper()
	c := l.until("back", func(c chatconn.Change) bool { return c.Moved() && c.To == fsm.Connected })
	took := c.At.Sub(healed)
	l.Logf("back %.2f s after the link healed, with %d attempts in all", took.Seconds(), l.conn.Stats().Attempts)
	return took
}

// survived checks what holds at the end of each test that found the link dead.
func (l *link) survived() {
	l.Helper()
	if n := l.loads.Load(); n != 2 {
		l.Errorf("T2: %d token loads, want the first and one more", n)
	}
	if open, most := l.wires.count(); open != 1 || most != 1 {
		l.Errorf("M5: the client has %d sockets, and had %d at a time", open, most)
	}
	if n := l.established(); n != 1 {
		l.Errorf("M5: the kernel has %d established sockets of the client", n)
	}
	r := l.order("report")
	l.Logf("the server has %d sockets now, had %d at a time, and saw %d logins", r.Open, r.Most, r.Logins)
	if !*defaults {
		return
	}
	// The server cannot know that its half of the old connection is dead before the
	// kernel has sent the lost close frame again, which it tries ever more seldom.
	began := time.Now()
	for r.Open != 1 && time.Since(began) < time.Minute {
		time.Sleep(100 * time.Millisecond)
		r = l.order("report")
	}
	l.Logf("the server has %d sockets %.1f s later", r.Open, time.Since(began).Seconds())
	if r.Open != 1 {
		l.Error("the server was not told that the old socket is closed")
	}
}

// wires counts the Conn's own TCP connections. One counts from its dial until its
// close frame is out or it is closed.
type wires struct {
	mu      sync.Mutex
	open    int
	most    int
	ports   []string     // local ones, of all
	dialing atomic.Int64 // the dial under way since, in Unix nanoseconds; 0: none
}

func (w *wires) count() (open, most int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.open, w.most
}

func (w *wires) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	w.dialing.Store(time.Now().UnixNano())
	defer w.dialing.Store(0)
	conn, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.open++
	w.most = max(w.most, w.open)
	_, port, _ := net.SplitHostPort(conn.LocalAddr().String())
	w.ports = append(w.ports, port)
	return &wire{Conn: conn, all: w}, nil
}

type wire struct {
	net.Conn
	all  *wires
	gone sync.Once
}

func (w *wire) Write(p []byte) (int, error) {
	if len(p) > 0 && p[0] == 0x88 { // a close frame: FIN and the opcode 8
		w.gone.Do(w.leave)
	}
	return w.Conn.Write(p)
}

func (w *wire) Close() error {
	w.gone.Do(w.leave)
	return w.Conn.Close()
}

func (w *wire) leave() {
	w.all.mu.Lock()
	defer w.all.mu.Unlock()
	w.all.open--
}

// kernel returns the Conn's TCP connections as the kernel of this namespace sees
// them: the state of each, and the bytes sent and not acknowledged.
func (l *link) kernel() (states []int64, queued int64) {
	l.Helper()
	table, err := os.ReadFile("/proc/self/net/tcp")
	l.must(err)
	l.wires.mu.Lock()
	ports := slices.Clone(l.wires.ports)
	l.wires.mu.Unlock()
	for line := range strings.Lines(string(table)) {
		field := strings.Fields(line)
		if len(field) < 5 {
			continue
		}
		_, hex, _ := strings.Cut(field[1], ":")
		local, err := strconv.ParseInt(hex, 16, 32)
		if err != nil || !slices.Contains(ports, strconv.FormatInt(local, 10)) {
			continue
		}
		state, _ := strconv.ParseInt(field[3], 16, 32)
		waiting, _, _ := strings.Cut(field[4], ":")
		n, _ := strconv.ParseInt(waiting, 16, 64)
		states, queued = append(states, state), queued+n
	}
	return states, queued
}

func (l *link) established() (n int) {
	l.Helper()
	states, _ := l.kernel()
	for _, s := range states {
		if s == 1 { // TCP_ESTABLISHED
			n++
		}
	}
	return n
}

// H1, H2, T2, L2: nothing is under way when the link dies. It heals while the Conn
// waits for its next attempt, and the program reports that.
func TestH2_IdleLink(t *testing.T) {
	t.Parallel()
	if !isolated(t) {
		return
	}
	l := newLink(t)
	l.found(l.lose())
	l.until("the second attempt's wait", func(c chatconn.Change) bool { return c.Attempt == 2 && !c.RetryAt.IsZero() })
	l.returns()
}

// returns heals the link, reports it, and checks that the connection is back within
// the 2 s that are promised.
func (l *link) returns() {
	l.Helper()
	healed := l.heal()
	l.conn.NetworkAvailable()
	if took := l.back(healed); *defaults && took > 2*time.Second {
		l.Errorf("L2: back after %v", took)
	}
	l.survived()
}

// H2, L2: the link heals in the midst of a dial, whose first packets were lost.
func TestH2_LinkHealsDuringADial(t *testing.T) {
	t.Parallel()
	if !isolated(t) {
		return
	}
	l := newLink(t)
	l.found(l.lose())
	// Of a dial that has run for so long, the kernel sends the next packet too late.
	tick := time.NewTicker(timing.attempt / 100)
	defer tick.Stop()
	for range tick.C {
		if began := l.wires.dialing.Load(); began != 0 && time.Since(time.Unix(0, began)) > timing.attempt*8/15 {
			break
		}
	}
	l.returns()
}

// H1, H2, Q4: the link dies with a health check, an API request and events of the
// server in the buffers of both kernels.
func TestH2_UnsentData(t *testing.T) {
	t.Parallel()
	if !isolated(t) {
		return
	}
	l := newLink(t)
	lost := l.lose()
	l.order("emit 20") // 320 KiB that the server's kernel cannot deliver
	ctx, cancel := context.WithTimeout(t.Context(), timing.silence*8/7)
	defer cancel()
	const requests = 4
	ends := make(chan error, 2*requests)
	for range requests {
		go func() {
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+net.JoinHostPort(serverIP, port)+"/channels/messaging/general/message",
				strings.NewReader(strings.Repeat(" ", 512<<10)))
			if err == nil {
				_, err = l.conn.HTTPClient().Do(req)
			}
			ends <- err
		}()
	}
	most := make(chan int64)
	stop := make(chan struct{})
	go func() { // until the silence is found
		tick := time.NewTicker(timing.interval / 50)
		defer tick.Stop()
		unacknowledged := int64(0)
		for {
			select {
			case <-tick.C:
				_, queued := l.kernel()
				unacknowledged = max(unacknowledged, queued)
			case <-stop:
				most <- unacknowledged
				return
			}
		}
	}()
	l.found(lost)
	close(stop)
	if n := <-most; n == 0 {
		l.Error("no health check was in the client's buffer: the test shows nothing")
	} else {
		l.Logf("%d bytes of the socket were unacknowledged", n)
	}
	for range requests {
		if err := <-ends; !errors.Is(err, context.DeadlineExceeded) {
			l.Errorf("Q4: a request ended with %v", err)
		}
	}
	l.until("the second attempt's wait", func(c chatconn.Change) bool { return c.Attempt == 2 && !c.RetryAt.IsZero() })
	l.returns()
	if len(ends) != 0 {
		l.Error("Q4: a request ended twice")
	}
}

// H1, T2: a link that heals in time was never dead: the same socket goes on, and
// nobody asks for a token.
func TestH1_LinkHealsInTime(t *testing.T) {
	t.Parallel()
	if !isolated(t) {
		return
	}
	l := newLink(t)
	before, _ := l.conn.Session()
	attempts := l.conn.Stats().Attempts
	events := l.conn.Events(context.Background(), "custom")
	lost := l.lose()
	// Until the first health check, which the kernel sends again by itself.
	for {
		if _, queued := l.kernel(); queued > 0 {
			break
		}
		if time.Since(lost) > timing.silence {
			l.Fatal("no health check was in the client's buffer: the test shows nothing")
		}
		time.Sleep(timing.interval / 100)
	}
	l.heal()
	// Had nothing come since the link was cut, this would be beyond HealthTimeout.
	time.Sleep(time.Until(lost.Add(timing.silence + timing.interval/5)))
	l.order("emit 3")
	for range 3 {
		<-events
	}
	if now, open := l.conn.Session(); !open || now.ConnectionID != before.ConnectionID {
		l.Error("the session is another one")
	}
	if s := l.conn.Stats(); s.Attempts != attempts || s.Reconnects != 0 || l.loads.Load() != 1 {
		l.Errorf("%d attempts, %d reconnects, %d loads", s.Attempts, s.Reconnects, l.loads.Load())
	}
	select {
	case c := <-l.changes:
		l.Errorf("something changed: %+v", c)
	default:
	}
}

// R1: nobody reports that the link has healed. The connection comes back by
// itself, no later than the running attempt, the longest wait and a new attempt
// take.
func TestR1_NobodyReportsThatTheLinkHealed(t *testing.T) {
	t.Parallel()
	if !isolated(t) {
		return
	}
	l := newLink(t)
	l.found(l.lose())
	l.until("the second attempt's wait", func(c chatconn.Change) bool { return c.Attempt == 2 && !c.RetryAt.IsZero() })
	took := l.back(l.heal())
	if limit := timing.attempt + timing.most*6/5 + 2*time.Second; *defaults && took > limit {
		l.Errorf("R1: back after %v, more than %v", took, limit)
	}
	l.survived()
}

// H3, L2: a program that reports a new network has the socket asked at once: a dead
// one is found in 10 s, and its token is kept.
func TestL2_NetworkAvailableFindsADeadLink(t *testing.T) {
	t.Parallel()
	if !isolated(t) {
		return
	}
	l := newLink(t)
	lost := l.lose()
	l.conn.NetworkAvailable()
	c := l.until("found", func(c chatconn.Change) bool { return c.From == fsm.Connected })
	took := c.At.Sub(lost)
	l.Logf("found %.2f s after the link was cut", took.Seconds())
	if c.Event != fsm.Dropped {
		l.Errorf("H3: the probe's end is told as %v (%v)", c.Event, c.Cause)
	}
	if *defaults && took > 11*time.Second {
		l.Errorf("H3: found after %v", took)
	}
	healed := l.heal()
	l.conn.NetworkAvailable()
	if took := l.back(healed); *defaults && took > 2*time.Second {
		l.Errorf("L2: back after %v", took)
	}
	if n := l.loads.Load(); n != 1 {
		l.Errorf("T2: %d token loads", n)
	}
}
