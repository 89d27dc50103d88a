package chatconn_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chatconn/chatconn"
	"github.com/chatconn/chatconn/devserver"
	"github.com/chatconn/chatconn/fsm"
	"github.com/chatconn/chatconn/transport/memnet"
)

// verdict is how a schedule ended.
type verdict struct {
	Check   string        // the promise that was broken, such as "T2"; empty: none
	What    string        // in words
	At      time.Duration // since the beginning
	History []string      // what happened last, only if something was broken
	Guilty  int           // the number of the Conn, from 1; 0: nobody's
	Tally   tally
}

// tally counts what happened, so that a run in which nothing did is noticed.
type tally struct {
	Items, Calms, Dials, Sockets, Loads, Refusals, Silences, Requests, Calls, Transitions, Events int
	Heap                                                                                          []uint64 // bytes in use at the end of each day
}

// chaos is a world in which a schedule is played: a server, a network and Conns
// whose every contact with the world is watched.
type chaos struct {
	net    *memnet.Network
	server *devserver.Server
	began  time.Time
	rate   time.Duration // between two dials of all Conns; zero: no limit
	all    []*subject

	silent  map[string]bool // faults that stand and leave somebody waiting
	expired bool            // tokens were refused since the last calm
	serial  int             // of emitted events

	mu      sync.Mutex
	release chan struct{} // closed when what hangs is to hang no longer; made anew by a calm
	next    time.Time     // when DialLimit lets the next dial through
	history []string
	guilty  int
	tally   tally
}

const secretOfWeek = "a secret of thirty-two bytes...."

// befall plays a schedule and never returns if a promise is broken: the verdict goes
// to standard output, and the process ends. So nothing has to be undone, whatever
// state the Conns are in.
func befall(t *testing.T, s schedule) {
	synctest.Test(t, func(t *testing.T) {
		w := &chaos{net: memnet.New(), began: time.Now(), silent: map[string]bool{}, release: make(chan struct{})}
		if s.conns > 1 {
			w.rate = 50 * time.Millisecond
		}
		w.serve()
		for n := range s.conns {
			w.all = append(w.all, w.subject(n, s.seed%2 == 0, s.seed%4 == 2))
		}
		for i, item := range s.items {
			w.until(item.at)
			w.note("--- %s", item)
			w.tally.Items++
			if err := w.do(item); err != nil {
				t.Fatalf("item %d, %s: %v", i, item, err)
			}
		}
		w.until(time.Since(w.began) + time.Second)
		w.end()
		say(verdict{Tally: w.tally})
	})
}

// say writes a verdict where the parent reads it.
func say(v verdict) {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	fmt.Printf("\n%s%s\n", verdictMark, data)
}

const verdictMark = "VERDICT "

func (w *chaos) fail(check, format string, args ...any) {
	const most = 100
	w.mu.Lock()
	say(verdict{check, fmt.Sprintf(format, args...), time.Since(w.began), w.history[max(0, len(w.history)-most):], w.guilty, w.tally})
	os.Exit(0)
}

// note remembers what happened, for the history of a failure.
func (w *chaos) note(format string, args ...any) {
	most := 60 * len(w.all)
	text := fmt.Sprintf("%v ", time.Since(w.began)) + fmt.Sprintf(format, args...)
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.history) >= 2*most {
		w.history = append(w.history[:0], w.history[most:]...)
	}
	w.history = append(w.history, text)
}

func (w *chaos) serve() {
	server, err := devserver.Start(devserver.Options{Addr: "127.0.0.1:80", Listen: w.net.Listen, Secret: []byte(secretOfWeek)})
	if err != nil {
		panic(err)
	}
	w.server = server
}

// until lets time pass, and looks at everybody now and then.
func (w *chaos) until(at time.Duration) {
	for {
		left := at - time.Since(w.began)
		step := 13*time.Second + 700*time.Millisecond
		if w.quiet() {
			step = 10 * time.Minute
		}
		time.Sleep(max(0, min(left, step)))
		synctest.Wait()
		for _, s := range w.all {
			s.inspect()
		}
		if left <= step {
			return
		}
	}
}

// quiet reports whether all are Connected.
func (w *chaos) quiet() bool {
	for _, s := range w.all {
		if s.conn.State() != fsm.Connected {
			return false
		}
	}
	return true
}

// heal ends every fault, those of the programs included.
func (w *chaos) heal() {
	if err := w.server.Restart(); err != nil {
		panic(err)
	}
	w.server.Heal()
	w.server.RevokeTokens("", time.Time{})
	w.net.BlackHole(false)
	w.net.SetLatency(0)
	clear(w.silent)
	for _, s := range w.all {
		s.mu.Lock()
		s.dialMode, s.dialTimes = "", 0
		for _, f := range s.sources {
			f.mode, f.times = "", 0
		}
		s.mu.Unlock()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	close(w.release)
	w.release = make(chan struct{})
}

// released is closed by the next calm.
func (w *chaos) released() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.release
}

// calm ends all faults and waits until everybody must be Connected again.
// The limit is 30 s, 35 s more where somebody waits for an answer that will not come,
// and another wait where the token at hand was refused meanwhile and nobody can know;
// 2 s are for the interval between attempts.
func (w *chaos) calm(news bool) {
	silent, limit := len(w.silent) > 0, 32*time.Second
	for _, s := range w.all {
		silent = silent || s.hangs()
	}
	if silent {
		limit += 35 * time.Second
	}
	if w.expired && (silent || !news) {
		limit += 31 * time.Second
	}
	if w.rate > 0 {
		limit += 2 * w.rate * time.Duration(len(w.all))
	}
	w.heal()
	w.expired = false
	w.tally.Calms++
	var group sync.WaitGroup
	deadline := time.Now().Add(limit)
	for _, s := range w.all {
		if news || s.background {
			s.local()
			s.background = false
			s.conn.Foreground()
		}
		if news || s.down {
			s.local()
			s.down = false
			s.conn.NetworkAvailable()
		}
		group.Go(func() { s.keep(deadline) })
	}
	group.Wait()
	synctest.Wait()
	for _, s := range w.all {
		s.inspect()
		s.fine(limit)
	}
}

// newDay replaces the server, whose record grows, and weighs the memory.
func (w *chaos) newDay() {
	w.server.Close()
	w.serve()
	w.calm(true)
	var m runtime.MemStats
	w.mu.Lock()
	w.history = nil
	w.mu.Unlock()
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	w.tally.Heap = append(w.tally.Heap, m.HeapAlloc)
	const slack = 1 << 20
	if first, last := w.tally.Heap[0], m.HeapAlloc; last > first+slack+uint64(len(w.all))*4<<10 {
		w.fail("memory", "%d bytes after the first day, %d after day %d", first, last, len(w.tally.Heap))
	}
}

// end closes the Conns as they are and looks for what is left.
func (w *chaos) end() {
	var group sync.WaitGroup
	began := time.Now()
	for _, s := range w.all {
		group.Go(func() {
			if err := s.conn.Close(); err != nil {
				w.fail("C9", "Close: %v", err)
			}
			if took := time.Since(began); took > 1200*time.Millisecond {
				w.fail("C9", "Close took %v", took)
			}
			s.lines.Close()
		})
	}
	group.Wait()
	synctest.Wait()
	w.note("closed")
	for _, s := range w.all {
		s.closed(false)
	}
	w.heal()
	before := w.tallies()
	time.Sleep(time.Hour)
	synctest.Wait()
	for _, s := range w.all {
		s.closed(true)
		if n := s.running(); n != 0 {
			w.fail("C9", "%d sources run an hour after Close", n)
		}
	}
	if after := w.tallies(); after.Dials != before.Dials || after.Loads != before.Loads || after.Transitions != before.Transitions {
		w.fail("C9", "something happened after Close: before %+v, after %+v", before, after)
	}
	if n := w.net.Open(); n != 0 {
		w.fail("C9", "%d connections are open", n)
	}
	w.server.Close()
}

func (w *chaos) tallies() tally {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.tally
}

func (w *chaos) count(n *int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	*n++
}

// limit is the DialLimit that all Conns share.
func (w *chaos) limit(ctx context.Context) error {
	if w.rate == 0 {
		return ctx.Err()
	}
	w.mu.Lock()
	now := time.Now()
	if w.next.Before(now) {
		w.next = now
	}
	turn := w.next.Sub(now)
	w.next = w.next.Add(w.rate)
	w.mu.Unlock()
	timer := time.NewTimer(turn)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Errors of sources.
var errBackend, errNever = errors.New("the backend is down"), errors.New("this account is gone")

// documented are the errors in which each kind of call may end.
var documented = map[string]func(error) bool{
	"connect": func(err error) bool {
		var api *chatconn.APIError
		return errors.As(err, &api) || isOneOf(err, chatconn.ErrUserAlreadySet, chatconn.ErrDisconnected, chatconn.ErrClosed, chatconn.ErrTokenUserMismatch,
			chatconn.ErrNoUser, errNever, context.DeadlineExceeded, context.Canceled)
	},
	"leave": func(err error) bool { return isOneOf(err, chatconn.ErrClosed, context.DeadlineExceeded) },
	"request": func(err error) bool {
		var op *net.OpError
		return errors.As(err, &op) || isOneOf(err, chatconn.ErrNoUser, chatconn.ErrDisconnected, chatconn.ErrClosed, chatconn.ErrRequestTimeout,
			context.DeadlineExceeded, context.Canceled, io.EOF, io.ErrUnexpectedEOF) || strings.Contains(err.Error(), "server closed idle connection") ||
			errors.Is(err, errNoWay) || asPanic(err)
	},
}

func asPanic(err error) bool {
	var p *chatconn.PanicError
	return errors.As(err, &p)
}

func isOneOf(err error, all ...error) bool {
	return slices.ContainsFunc(all, func(target error) bool { return errors.Is(err, target) })
}

// do carries out one item of a schedule.
func (w *chaos) do(item item) error {
	args := strings.Fields(item.what)
	number := func(i int) int { n, _ := strconv.Atoi(arg(args, i)); return n }
	span := func(i int) time.Duration { d, _ := time.ParseDuration(arg(args, i)); return d }
	if item.conn >= 0 {
		if item.conn >= len(w.all) {
			return errors.New("there is no such Conn")
		}
		return w.all[item.conn].do(args, number, span)
	}
	refusal := devserver.APIError{Code: number(2)}
	s := w.server
	switch args[0] + " " + arg(args, 1) {
	case "calm news", "calm quiet":
		w.calm(args[1] == "news")
	case "new day":
		w.newDay()
	case "server refuse":
		s.RefuseConnections(true)
	case "server silence":
		w.silent["silence"] = true
		s.Silence(true)
	case "server no-answer":
		w.silent["no-answer"] = true
		s.SilenceHTTP(true)
	case "server stop-health":
		w.silent["stop-health"] = true
		s.StopHealth(true)
	case "server heal":
		// Whoever was left without an answer still waits for it.
		s.Heal()
		_ = s.Restart()
	case "server bare-errors":
		s.BareErrors(true)
	case "server compress":
		s.Compress(true)
	case "server slow":
		w.silent["slow"] = true
		s.Slow(span(2))
	case "server drop-after":
		s.DropAfter(number(2))
	case "server drop-all":
		s.DropAll()
	case "server close":
		s.CloseAll(number(2), "")
	case "server kick":
		w.expired = true
		s.Kick("", refusal)
	case "server kick-for-good":
		refusal.Unrecoverable = true
		s.Kick("", refusal)
	case "server error-frame": // and no close
		s.Garbage("", fmt.Appendf(nil, `{"type":"connection.error","error":{"code":%d,"message":"x","StatusCode":401}}`, number(2)), false)
		w.expired = true
	case "server fail-handshakes":
		w.expired = true
		s.FailHandshakes(number(3), refusal)
	case "server fail-upgrades":
		s.FailUpgrades(number(3), devserver.Answer{Status: number(2), RetryAfter: span(4)})
	case "server fail-requests":
		w.expired = true
		if number(2) >= 200 {
			s.FailRequests(number(3), devserver.Answer{Status: number(2), RetryAfter: span(4)})
		} else {
			s.FailRequests(number(3), devserver.Answer{Code: number(2)})
		}
	case "server expire", "server expire-kick":
		w.expired = true
		s.ExpireTokens("", args[1] == "expire-kick")
	case "server revoke":
		w.expired = true
		s.RevokeTokens("", time.Now())
	case "server stop":
		s.Stop()
	case "server restart":
		s.Stop()
		return s.Restart()
	case "server oversize":
		s.Oversize("", number(2))
	case "server garbage":
		s.Garbage("", []byte(garbage[number(2)%len(garbage)]), number(2)%2 == 1)
	case "wire black-hole":
		w.silent["black hole"] = true
		w.net.BlackHole(true)
	case "wire open":
		w.net.BlackHole(false)
	case "wire reset":
		w.net.Reset()
	case "wire latency":
		w.net.SetLatency(span(2))
	case "emit events":
		for range number(2) {
			for _, s := range w.all {
				s.emit()
			}
		}
	default:
		return errors.New("there is no such item")
	}
	return nil
}

func arg(args []string, i int) string {
	if i < len(args) {
		return args[i]
	}
	return ""
}

// garbage is what a server may send and must not.
var garbage = []string{
	"null", "[]", "", "{", `{"type":7}`, `{"type":"health.check"}`, "\xff\xfe", `{"type":"x","type":"health.check"}`,
	strings.Repeat(`{"a":`, 10_000) + "1" + strings.Repeat("}", 10_000), `{"error":null}`, `{"error":{"code":1e999}}`, `{"error":{"code":"40"}}`,
	`{"type":"message.new","created_at":"yesterday"}`,
}

// do carries out an item that is about one Conn.
func (s *subject) do(args []string, number func(int) int, span func(int) time.Duration) error {
	c := s.conn
	switch args[0] + " " + arg(args, 1) {
	case "app background":
		s.background = true
		c.Background()
	case "app foreground":
		s.background = false
		s.local()
		c.Foreground()
	case "app woke":
		s.local()
		c.Woke()
	case "network lost":
		s.down = true
		c.NetworkLost()
	case "network available":
		s.down = false
		s.local()
		c.NetworkAvailable()
	case "call connect":
		f := s.sources[number(2)]
		s.wants(s.conn.State() == fsm.Offline)
		s.call("connect", span(3), func(ctx context.Context) error {
			session, err := c.ConnectUser(ctx, chatconn.User{ID: f.user, Name: "a name"}, f)
			return s.session(session, err)
		})
	case "call switch":
		f := s.sources[number(2)]
		s.wants(true)
		s.call("connect", span(3), func(ctx context.Context) error {
			session, err := c.SwitchUser(ctx, chatconn.User{ID: f.user}, f)
			return s.session(session, err)
		})
	case "call guest":
		s.wants(s.conn.State() == fsm.Offline)
		s.call("connect", span(2), func(ctx context.Context) error {
			_, err := c.ConnectGuest(ctx, chatconn.User{ID: "someone"})
			return err
		})
	case "call anonymous":
		s.wants(s.conn.State() == fsm.Offline)
		s.call("connect", span(2), func(ctx context.Context) error {
			_, err := c.ConnectAnonymous(ctx)
			return err
		})
	case "call reconnect":
		s.local()
		s.call("connect", span(2), func(ctx context.Context) error {
			session, err := c.ReconnectSocket(ctx)
			return s.session(session, err)
		})
	case "call disconnect-socket":
		s.drops()
		s.call("leave", span(2), c.DisconnectSocket)
	case "call disconnect":
		s.drops()
		s.call("leave", span(2), func(ctx context.Context) error { return c.Disconnect(ctx, chatconn.FlushPersistence) })
	case "call requests":
		for range number(2) {
			s.call("request", span(3), s.request)
		}
	case "read changes": // a reader who takes one in a while, and then none
		ctx, cancel := context.WithTimeout(context.Background(), span(3))
		changes := c.Watch(ctx)
		go func() {
			defer cancel()
			s.follow("a slow watcher", changes, span(2))
		}()
	case "read events":
		ctx, cancel := context.WithTimeout(context.Background(), span(3))
		events := c.Events(ctx)
		go func() {
			defer cancel()
			for range events {
				time.Sleep(span(2))
			}
		}()
	case "source ok", "source fail", "source slow", "source hang", "source deaf", "source wrong", "source never", "source same", "source garbage", "source panic", "source exit":
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, f := range s.sources {
			f.mode, f.times, f.span = args[1], number(2), span(3)
		}
	case "dial ok", "dial fail", "dial block", "dial hold", "dial panic", "dial exit":
		s.mu.Lock()
		defer s.mu.Unlock()
		s.dialMode, s.dialTimes = args[1], number(2)
	default:
		return errors.New("there is no such item")
	}
	return nil
}

// session checks what a connecting call returned.
func (s *subject) session(session chatconn.Session, err error) error {
	if err == nil && (session.ConnectionID == "" || session.User.ID == "") {
		s.fail("C1", "a call returned the session %+v", session)
	}
	return err
}

// call makes a call of the program, which has to end within its time in a
// documented way.
func (s *subject) call(kind string, limit time.Duration, f func(context.Context) error) {
	w := s.w
	w.count(&w.tally.Calls)
	open := &s.calls
	if kind == "request" {
		open = &s.requests
	}
	s.mu.Lock()
	*open++
	s.mu.Unlock()
	if kind == "connect" {
		s.waiting(1)
	}
	go func() {
		began := time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		err := f(ctx)
		took := time.Since(began)
		most := limit
		if kind == "leave" {
			most = min(limit, 1200*time.Millisecond)
		}
		w.note("%d: %s returns %v", s.n, kind, err)
		if took > most {
			s.fail("C1", "Conn %d: a call (%s) took %v of %v: %v", s.n, kind, took, most, err)
		}
		if err != nil && !documented[kind](err) {
			s.fail("M4", "Conn %d: a call (%s) ended in %T: %v", s.n, kind, err, err)
		}
		if kind == "connect" {
			s.waiting(-1)
		}
		s.mu.Lock()
		*open--
		s.mu.Unlock()
	}()
}

// waiting counts the calls that connect.
func (s *subject) waiting(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waits += n
}

func (s *subject) request(ctx context.Context) error {
	s.w.count(&s.w.tally.Requests)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.w.server.URL()+"/app", nil)
	if err != nil {
		return err
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}

// keep does what a program does whose connection was given up: it connects
// again. It returns at the deadline.
func (s *subject) keep(deadline time.Time) {
	ctx, cancel := context.WithDeadline(context.Background(), deadline)
	defer cancel()
	for ctx.Err() == nil {
		if s.conn.State() == fsm.Offline {
			f := s.sources[0]
			connect := s.conn.ConnectUser
			if user, set := s.conn.CurrentUser(); set {
				switch user.ID {
				case s.sources[0].user:
				case s.sources[1].user:
					f = s.sources[1]
				default:
					connect = s.conn.SwitchUser
				}
			}
			s.wants(true)
			s.waiting(1)
			_, err := connect(ctx, chatconn.User{ID: f.user}, f)
			s.waiting(-1)
			s.w.note("%d: keep returns %v", s.n, err)
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
		}
	}
}
