// Command gateway keeps many users connected in one process, as a gateway does
// that speaks for people without a connection of their own.
//
//	go run ./examples/gateway
//	go run ./examples/gateway -users 10000 -dials 500
//
// starts a development server of its own, in a process of its own, connects the
// users, kills the server with SIGKILL, starts it again, and ends when all users are
// back. To run it with a service, set CHATCONN_URL, CHATCONN_API_KEY and
// CHATCONN_SECRET; then it goes on until it is interrupted.
//
// Each user takes one file descriptor. If there are too few, it says so.
package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/chatconn/chatconn"
	"github.com/chatconn/chatconn/examples/internal/service"
	"github.com/chatconn/chatconn/fsm"
)

func main() {
	if isServer() {
		serveUntilEOF()
		return
	}
	var g gateway
	flag.IntVar(&g.users, "users", 100, "how many users to keep connected")
	flag.IntVar(&g.dials, "dials", 200, "how many dials a second all of them together may begin")
	flag.DurationVar(&g.down, "down", 2*time.Second, "how long the killed server stays away")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if _, err := g.run(ctx, os.Stdout); err != nil && !errors.Is(err, context.Canceled) {
		log.Fatal(err)
	}
}

type gateway struct {
	users, dials int
	down         time.Duration
	retryFirst   time.Duration // zero: chatconn's default
	conns        []*chatconn.Conn
	began        time.Time
}

// result is what the demonstration measured.
type result struct {
	Connected, Back time.Duration // until all users were so
	Loads           int           // of tokens after the first connect of each user
	Goroutines      int           // in this process, for all users, while nothing happened
	Before, After   figures       // what the killed server saw, and the one after it
}

// run connects the users and keeps them connected. With a server of its own it
// kills that once and ends when all are back.
func (g *gateway) run(ctx context.Context, out io.Writer) (r result, err error) {
	if g.users < 1 || g.dials < 1 {
		return r, errors.New("-users and -dials must be positive")
	}
	if have, need := descriptors(), uint64(g.users)+50; have < need {
		return r, fmt.Errorf("%d users need %d file descriptors, and this process may open %d: run it after \"ulimit -n %d\"",
			g.users, need, have, need)
	}
	var own *child
	srv := new(service.Service)
	if os.Getenv("CHATCONN_URL") != "" {
		if srv, err = service.Open(); err != nil {
			return r, err
		}
	} else {
		secret := make([]byte, 16)
		_, _ = rand.Read(secret)
		srv.Secret = []byte(hex.EncodeToString(secret))
		if own, err = startServer("127.0.0.1:0", srv.Secret); err != nil {
			return r, err
		}
		defer func() { own.close() }()
		srv.Config = chatconn.Config{BaseURL: own.URL, APIKey: own.APIKey}
	}
	srv.Config.RetryFirst = g.retryFirst
	srv.Config.DialLimit = atMost(g.dials) // one limit for all

	idle := runtime.NumGoroutine()
	g.began = time.Now()
	defer g.close()
	failed := make(chan error, g.users)
	for i := range g.users {
		conn, err := chatconn.New(srv.Config)
		if err != nil {
			return r, err
		}
		g.conns = append(g.conns, conn)
		id := fmt.Sprintf("user-%d", i+1)
		go func() {
			_, err := conn.ConnectUser(ctx, chatconn.User{ID: id}, srv.Source(id))
			failed <- err
		}()
	}
	every := time.NewTicker(time.Second)
	defer every.Stop()
	for range g.users {
		for waits := true; waits; {
			select {
			case err := <-failed:
				if err != nil {
					return r, err
				}
				waits = false
			case <-every.C:
				g.print(out)
			}
		}
	}
	r.Connected = time.Since(g.began)
	fmt.Fprintf(out, "all %d users are connected after %.1f s\n", g.users, r.Connected.Seconds())
	if own == nil {
		for ctx.Err() == nil {
			select {
			case <-every.C:
				g.print(out)
			case <-ctx.Done():
			}
		}
		return r, ctx.Err()
	}

	<-every.C // until what connecting needed has gone
	r.Goroutines = runtime.NumGoroutine() - idle
	debug.FreeOSMemory()
	fmt.Fprintf(out, "%d goroutines, %.1f MB resident\n", r.Goroutines, resident()/1e6)
	if r.Before, err = own.figures(); err != nil {
		return r, err
	}
	fmt.Fprintf(out, "the server saw %d dials, at most %d in a second\nkill -9 %d\n", r.Before.Dials, r.Before.Most, own.cmd.Process.Pid)
	loads := g.loads()
	if err := own.kill(); err != nil {
		return r, err
	}
	g.began = time.Now()
	away := time.After(g.down)
	for g.count()[fsm.Connected] < g.users || g.reconnects() < g.users {
		select {
		case <-away:
			if own, err = startServer(own.Addr, srv.Secret); err != nil {
				return r, err
			}
			fmt.Fprintf(out, "the server is there again, after %.1f s\n", time.Since(g.began).Seconds())
		case <-every.C:
			g.print(out)
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return r, ctx.Err()
		}
	}
	r.Back = time.Since(g.began)
	r.Loads = g.loads() - loads
	if r.After, err = own.figures(); err != nil {
		return r, err
	}
	g.print(out)
	fmt.Fprintf(out, "all users are back %.1f s after the kill, with %d token loads\nthe new server saw %d dials, at most %d in a second\n",
		r.Back.Seconds(), r.Loads, r.After.Dials, r.After.Most)
	return r, nil
}

func (g *gateway) close() {
	done := make(chan struct{})
	for _, conn := range g.conns {
		go func() { conn.Close(); done <- struct{}{} }()
	}
	for range g.conns {
		<-done
	}
}

func (g *gateway) count() map[fsm.State]int {
	count := make(map[fsm.State]int)
	for _, conn := range g.conns {
		count[conn.State()]++
	}
	return count
}

// print writes how many users are in which state.
func (g *gateway) print(out io.Writer) {
	count := g.count()
	fmt.Fprintf(out, "%4.0f s ", time.Since(g.began).Seconds())
	for _, state := range fsm.States() {
		fmt.Fprintf(out, "  %v %d", state, count[state])
	}
	attempts := uint64(0)
	for _, conn := range g.conns {
		attempts += conn.Stats().Attempts
	}
	fmt.Fprintf(out, "  attempts %d\n", attempts)
}

func (g *gateway) loads() (n int) {
	for _, conn := range g.conns {
		n += int(conn.Stats().Loads)
	}
	return n
}

// reconnects counts the users who have come back at least once.
func (g *gateway) reconnects() (n int) {
	for _, conn := range g.conns {
		n += int(min(conn.Stats().Reconnects, 1))
	}
	return n
}

// atMost is a DialLimit: it lets so many callers a second go on, each a moment after
// the one before, in any second and not only on average. Conns that share it share
// the limit.
func atMost(perSecond int) func(context.Context) error {
	distance := time.Second / time.Duration(perSecond)
	last := make(chan time.Time, 1) // whose holder is next
	last <- time.Time{}
	return func(ctx context.Context) error {
		select {
		case before := <-last:
			wait := time.NewTimer(time.Until(before.Add(distance)))
			defer wait.Stop()
			select {
			case <-wait.C:
			case <-ctx.Done():
			}
			if ctx.Err() == nil { // both may be ready
				last <- time.Now()
				return nil
			}
			last <- before
		case <-ctx.Done():
		}
		return cmp.Or(context.Cause(ctx), ctx.Err())
	}
}

// resident is the memory of this process, in bytes.
func resident() float64 {
	var total, pages float64
	if data, err := os.ReadFile("/proc/self/statm"); err == nil {
		fmt.Sscan(string(data), &total, &pages)
		return pages * float64(os.Getpagesize())
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.Sys - m.HeapReleased) // near enough, where the system does not tell
}
