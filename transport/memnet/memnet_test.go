package memnet_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chatconn/chatconn/transport/memnet"
)

const addr = "chat.test:443"

// pair returns the two ends of a connection: the dialled one and the accepted.
func pair(t *testing.T, n *memnet.Network) (near, far net.Conn) {
	t.Helper()
	l, err := n.Listen(addr)
	if err != nil {
		t.Fatal(err)
	}
	if near, err = n.DialContext(t.Context(), "tcp", addr); err != nil {
		t.Fatal(err)
	}
	if far, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		near.Close()
		far.Close()
		l.Close()
	})
	return near, far
}

func wantErr(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: error %v, want %v", what, err, want)
	}
}

func wantRead(t *testing.T, c net.Conn, want string) {
	t.Helper()
	b := make([]byte, len(want))
	if _, err := io.ReadFull(c, b); err != nil || string(b) != want {
		t.Errorf("read %q, %v, want %q", b, err, want)
	}
}

// wantSpan checks how much virtual time f takes.
func wantSpan(t *testing.T, what string, want time.Duration, f func()) {
	t.Helper()
	start := time.Now()
	f()
	if got := time.Since(start); got != want {
		t.Errorf("%s took %v, want %v", what, got, want)
	}
}

func write(t *testing.T, c net.Conn, s string) {
	t.Helper()
	if n, err := io.WriteString(c, s); n != len(s) || err != nil {
		t.Errorf("write: %d, %v", n, err)
	}
}

func TestBytesArriveInOrder(t *testing.T) {
	near, far := pair(t, memnet.New()) // no bubble: it works outside, too
	sent := make([]byte, 3<<20)
	for i := range sent {
		sent[i] = byte(i * i >> 3)
	}
	go func() {
		for rest := sent; len(rest) > 0; {
			n := min(len(rest), 70_001)
			near.Write(rest[:n])
			rest = rest[n:]
		}
		near.Close()
	}()
	got, err := io.ReadAll(far)
	if err != nil || !bytes.Equal(got, sent) {
		t.Errorf("%d bytes of %d, equal %t, %v", len(got), len(sent), bytes.Equal(got, sent), err)
	}
}

func TestListenAndDial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New()
		_, err := n.DialContext(t.Context(), "tcp", addr)
		wantErr(t, "dial without listener", err, syscall.ECONNREFUSED)
		if _, err := n.Listen("no-port"); err == nil {
			t.Error("an address without a port was taken")
		}
		if _, err := n.DialContext(t.Context(), "udp", addr); err == nil {
			t.Error("udp was dialled")
		}

		l, err := n.Listen(addr)
		if err != nil {
			t.Fatal(err)
		}
		_, err = n.Listen(addr)
		wantErr(t, "second listener", err, syscall.EADDRINUSE)
		if got := l.Addr().String(); got != addr {
			t.Errorf("address %q", got)
		}

		c, err := n.DialContext(t.Context(), "tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		if got := c.RemoteAddr().String(); got != addr {
			t.Errorf("remote address %q", got)
		}
		if n.Dials() != 1 || n.Open() != 1 {
			t.Errorf("%d dials, %d open, want 1 and 1", n.Dials(), n.Open())
		}
		accepting := make(chan error)
		l.Close()
		go func() { _, err := l.Accept(); accepting <- err }()
		wantErr(t, "accept after close", <-accepting, net.ErrClosed)
		wantErr(t, "second close", l.Close(), net.ErrClosed)
		_, err = c.Read(make([]byte, 1))
		wantErr(t, "read of a connection that nobody accepted", err, syscall.ECONNRESET)
		_, err = n.DialContext(t.Context(), "tcp", addr)
		wantErr(t, "dial after close", err, syscall.ECONNREFUSED)
		if n.Dials() != 1 || n.Open() != 0 {
			t.Errorf("%d dials, %d open, want 1 and 0", n.Dials(), n.Open())
		}
		if again, err := n.Listen(addr); err != nil {
			t.Errorf("the address was not free again: %v", err)
		} else {
			again.Close()
		}
	})
}

func TestCloseIsSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New()
		near, far := pair(t, n)
		write(t, near, "last words")
		near.Close()
		wantErr(t, "second close", near.Close(), net.ErrClosed)
		if n.Open() != 0 {
			t.Errorf("%d open after the dialling end closed", n.Open())
		}
		_, err := near.Read(make([]byte, 1))
		wantErr(t, "read after own close", err, net.ErrClosed)
		_, err = near.Write([]byte("x"))
		wantErr(t, "write after own close", err, net.ErrClosed)
		wantErr(t, "deadline after own close", near.SetDeadline(time.Now()), net.ErrClosed)
		_, err = far.Write([]byte("x"))
		wantErr(t, "write to a closed peer", err, syscall.EPIPE)
		wantRead(t, far, "last words")
		for range 2 {
			if _, err := far.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("read at the end: %v", err)
			}
		}
	})
}

func TestHalfClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := pair(t, memnet.New())
		write(t, near, "question")
		if err := near.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		_, err := near.Write([]byte("x"))
		wantErr(t, "write after CloseWrite", err, syscall.EPIPE)
		if got, err := io.ReadAll(far); string(got) != "question" || err != nil {
			t.Errorf("read %q, %v", got, err)
		}
		write(t, far, "answer")
		wantRead(t, near, "answer")
	})
}

func TestCloseWakesBlocked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, closer := range []string{"own", "peer's", "reset"} {
			n := memnet.New()
			near, far := pair(t, n)
			write(t, near, string(make([]byte, 256<<10)))
			reading, writing := make(chan error, 1), make(chan error, 1)
			go func() { _, err := near.Read(make([]byte, 1)); reading <- err }()
			go func() { _, err := near.Write([]byte("x")); writing <- err }()
			synctest.Wait()
			switch closer {
			case "own":
				near.Close()
				wantErr(t, closer, <-reading, net.ErrClosed)
				wantErr(t, closer, <-writing, net.ErrClosed)
			case "peer's":
				far.Close()
				wantErr(t, closer, <-reading, io.EOF)
				wantErr(t, closer, <-writing, syscall.EPIPE)
			case "reset":
				n.Reset()
				wantErr(t, closer, <-reading, syscall.ECONNRESET)
				wantErr(t, closer, <-writing, syscall.ECONNRESET)
				_, err := far.Read(make([]byte, 1))
				wantErr(t, closer, err, syscall.ECONNRESET)
				n.Reset()
				near.Close()
				if n.Open() != 0 {
					t.Errorf("%d open after a reset", n.Open())
				}
			}
		}
	})
}

func TestDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := pair(t, memnet.New())
		var netErr net.Error
		late := func(what string, err error) {
			t.Helper()
			wantErr(t, what, err, os.ErrDeadlineExceeded)
			if !errors.As(err, &netErr) || !netErr.Timeout() {
				t.Errorf("%s: %v is no timeout", what, err)
			}
		}
		read := func(what string) {
			t.Helper()
			_, err := near.Read(make([]byte, 1))
			late(what, err)
		}

		near.SetReadDeadline(time.Now().Add(3 * time.Second))
		wantSpan(t, "read to its deadline", 3*time.Second, func() { read("read") })
		read("read after it") // at once
		write(t, far, "x")
		read("read of what is there, after it")
		near.SetReadDeadline(time.Time{})
		wantRead(t, near, "x")

		// A deadline set while a read waits counts for it, earlier and later.
		near.SetReadDeadline(time.Now().Add(time.Hour))
		time.AfterFunc(time.Second, func() { near.SetReadDeadline(time.Now().Add(time.Second)) })
		wantSpan(t, "read whose deadline moves", 2*time.Second, func() { read("read") })
		near.SetReadDeadline(time.Now().Add(time.Second))
		time.AfterFunc(time.Second/2, func() { near.SetReadDeadline(time.Time{}) })
		time.AfterFunc(time.Minute, func() { far.Write([]byte("y")) })
		wantSpan(t, "read whose deadline goes", time.Minute, func() { wantRead(t, near, "y") })

		near.SetDeadline(time.Now().Add(time.Second))
		wantSpan(t, "write to its deadline", time.Second, func() {
			n, err := near.Write(make([]byte, 1<<20))
			late("write", err)
			if n != 256<<10 {
				t.Errorf("%d bytes written, want the window's 256 KiB", n)
			}
		})
	})
}

func TestFullWindowBlocksTheWriter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := pair(t, memnet.New())
		done := make(chan struct{})
		go func() {
			near.Write(make([]byte, 256<<10+1))
			close(done)
		}()
		synctest.Wait()
		select {
		case <-done:
			t.Error("a byte more than the window was taken")
		default:
		}
		far.Read(make([]byte, 1))
		<-done
	})
}

func TestLatency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New()
		l, _ := n.Listen(addr)
		defer l.Close()
		n.SetLatency(100 * time.Millisecond)
		var near net.Conn
		wantSpan(t, "dial", 200*time.Millisecond, func() { near, _ = n.DialContext(t.Context(), "tcp", addr) })
		wantSpan(t, "refused dial", 0, func() { n.DialContext(t.Context(), "tcp", "other.test:443") })
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		wantSpan(t, "dial that is given up", 50*time.Millisecond, func() {
			_, err := n.DialContext(ctx, "tcp", addr)
			wantErr(t, "dial", err, context.DeadlineExceeded)
		})
		far, _ := l.Accept()
		defer far.Close()

		wantSpan(t, "write", 0, func() { write(t, near, "slow") })
		n.SetLatency(10 * time.Millisecond)
		write(t, near, "fast") // does not overtake
		wantSpan(t, "first bytes", 100*time.Millisecond, func() { wantRead(t, far, "slow") })
		wantSpan(t, "second bytes", 0, func() { wantRead(t, far, "fast") })
		write(t, near, "slow")
		n.SetLatency(0)
		write(t, near, "fast")
		wantSpan(t, "bytes before fast ones", 10*time.Millisecond, func() { wantRead(t, far, "slow") })
		wantRead(t, far, "fast")
		n.SetLatency(10 * time.Millisecond)
		near.Close()
		write(t, far, "unheard") // the close has not arrived
		wantSpan(t, "the end", 10*time.Millisecond, func() {
			if _, err := far.Read(make([]byte, 1)); err != io.EOF {
				t.Error(err)
			}
		})
	})
}

func TestBlackHole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New()
		near, far := pair(t, n)
		write(t, near, "before ")
		n.SetLatency(time.Second)
		write(t, near, "under way ")
		n.BlackHole(true)
		n.BlackHole(true)
		write(t, near, "meanwhile")
		near.Close()
		far.SetReadDeadline(time.Now().Add(time.Hour))
		wantRead(t, far, "before ") // it had arrived
		wantSpan(t, "read in a black hole", time.Hour, func() {
			_, err := far.Read(make([]byte, 1))
			wantErr(t, "read", err, os.ErrDeadlineExceeded)
		})
		write(t, far, "unheard") // nobody knows of the close
		far.SetReadDeadline(time.Time{})

		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		wantSpan(t, "dial in a black hole", time.Minute, func() {
			_, err := n.DialContext(ctx, "tcp", addr)
			wantErr(t, "dial", err, context.DeadlineExceeded)
		})
		time.AfterFunc(time.Minute, func() { n.BlackHole(false) })
		wantSpan(t, "dial through its end", time.Minute+2*time.Second, func() {
			c, err := n.DialContext(t.Context(), "tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			c.Close()
		})
		if got, err := io.ReadAll(far); string(got) != "under way meanwhile" || err != nil {
			t.Errorf("after the black hole: %q, %v", got, err)
		}
		_, err := far.Write([]byte("x"))
		wantErr(t, "write after the peer's close arrived", err, syscall.EPIPE)
	})
}

// What had arrived before the black hole can be read in it; what is in it when it
// ends needs its way again.
func TestBlackHoleTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New()
		near, far := pair(t, n)
		n.SetLatency(time.Second)
		write(t, near, "arrived")
		time.Sleep(time.Second)
		n.BlackHole(true)
		wantSpan(t, "what had arrived", 0, func() { wantRead(t, far, "arrived") })
		write(t, near, "meanwhile")
		time.AfterFunc(time.Minute, func() { n.BlackHole(false) })
		wantSpan(t, "what had not", time.Minute+time.Second, func() { wantRead(t, far, "meanwhile") })
	})
}

// net/http lives on it, a bubble's clock included.
func TestHTTP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New()
		n.SetLatency(20 * time.Millisecond)
		l, _ := n.Listen("api.test:80")
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(time.Hour)
			fmt.Fprint(w, "hello ", r.URL.Path)
		})}
		served := make(chan error)
		go func() { served <- server.Serve(l) }()
		transport := &http.Transport{DialContext: n.DialContext}
		client := &http.Client{Transport: transport}
		var wait sync.WaitGroup
		for i := range 20 {
			wait.Go(func() {
				answer, err := client.Get(fmt.Sprintf("http://api.test/%d", i))
				if err != nil {
					t.Error(err)
					return
				}
				defer answer.Body.Close()
				if body, err := io.ReadAll(answer.Body); string(body) != fmt.Sprintf("hello /%d", i) || err != nil {
					t.Errorf("%q, %v", body, err)
				}
			})
		}
		wantSpan(t, "all", time.Hour+80*time.Millisecond, wait.Wait)
		synctest.Wait() // until all connections are idle
		transport.CloseIdleConnections()
		synctest.Wait()
		server.Close()
		wantErr(t, "serve", <-served, http.ErrServerClosed)
		if n.Open() != 0 || n.Dials() != 20 {
			t.Errorf("%d open, %d dials", n.Open(), n.Dials())
		}
	})
}
