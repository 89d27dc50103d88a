// Package memnet is a network in memory, for tests in virtual time.
//
// A [Network] has listeners and connections that behave like TCP on a link whose
// faults are at the test's command: latency, a black hole, a reset. Whatever
// waits in it waits on a condition or a timer, so that it may live in a bubble
// of testing/synctest, where an hour of it takes a millisecond; it works outside
// one, too. All types are safe for concurrent use.
//
//	network := memnet.New()
//	listener, err := network.Listen("chat.test:443")
//	go server.Serve(listener)
//	conn, err := network.DialContext(ctx, "tcp", "chat.test:443")
package memnet

import (
	"context"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// Network is a set of listeners and the connections to them. Make one with [New].
type Network struct {
	mu      sync.Mutex // guards everything, the listeners and connections included; never held while waiting
	changed sync.Cond  // the black hole ended, or a dial's context did
	latency time.Duration
	hole    bool
	dials   int
	open    int

	listeners map[string]*listener
	conns     map[*conn]struct{} // both ends of every connection, until closed
}

// New returns a network without latency and without listeners.
func New() *Network {
	n := &Network{listeners: map[string]*listener{}, conns: map[*conn]struct{}{}}
	n.changed.L = &n.mu
	return n
}

// Listen takes connections to addr, a host and a port such as "chat.test:443".
// The host is a name and nothing more: it is compared, not resolved. An address
// that is taken is an error that wraps syscall.EADDRINUSE; it is free again once
// its listener is closed. Closing refuses later dials and resets the
// connections that nobody has accepted.
func (n *Network) Listen(addr string) (net.Listener, error) {
	if _, _, err := net.SplitHostPort(addr); err != nil {
		return nil, &net.OpError{Op: "listen", Net: "tcp", Err: err}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.listeners[addr] != nil {
		return nil, &net.OpError{Op: "listen", Net: "tcp", Addr: address(addr), Err: os.NewSyscallError("bind", syscall.EADDRINUSE)}
	}
	l := &listener{network: n, addr: address(addr)}
	l.changed.L = &n.mu
	n.listeners[addr] = l
	return l, nil
}

// DialContext connects to a listener; network must be "tcp", "tcp4" or "tcp6".
// It takes a round trip, twice the latency. Without a listener it fails at once
// with an error that wraps syscall.ECONNREFUSED; in a black hole it waits for
// its end or the context's.
func (n *Network) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	fail := func(err error) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Net: network, Addr: address(addr), Err: err}
	}
	switch network {
	case "tcp", "tcp4", "tcp6":
	default:
		return fail(net.UnknownNetworkError(network))
	}
	stop := context.AfterFunc(ctx, func() { n.wake(&n.changed) })
	defer stop()

	n.mu.Lock()
	defer n.mu.Unlock()
	answered := time.Now().Add(2 * n.latency)
	for {
		if err := ctx.Err(); err != nil {
			return fail(err)
		}
		if n.hole {
			n.changed.Wait()
			answered = time.Now().Add(2 * n.latency)
			continue
		}
		l := n.listeners[addr]
		if l == nil {
			return fail(os.NewSyscallError("connect", syscall.ECONNREFUSED))
		}
		if left := time.Until(answered); left > 0 {
			n.wait(&n.changed, answered)
			continue
		}
		return n.connect(l), nil
	}
}

// connect makes a connection and queues its far end for Accept.
func (n *Network) connect(l *listener) *conn {
	n.dials++
	n.open++
	local := address(fmt.Sprintf("192.0.2.1:%d", 1024+n.dials%64512)) // TEST-NET-1, RFC 5737
	near := &conn{network: n, local: local, remote: l.addr, dialled: true}
	far := &conn{network: n, local: l.addr, remote: local}
	near.peer, far.peer = far, near
	for _, c := range []*conn{near, far} {
		c.changed.L = &n.mu
		n.conns[c] = struct{}{}
	}
	l.backlog = append(l.backlog, far)
	l.changed.Signal()
	return near
}

// SetLatency sets the time that bytes need for one way. It counts for all that
// is written later; what is under way is not overtaken.
func (n *Network) SetLatency(d time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.latency = max(d, 0)
}

// BlackHole makes packets vanish silently, both ways, while it is on. What is
// under way or written meanwhile, a close included, arrives after it is off, as
// TCP would send it again. Dials wait.
func (n *Network) BlackHole(on bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.hole == on {
		return
	}
	n.hole = on
	now := time.Now()
	for c := range n.conns {
		c.arrive(now)
		for i := range c.flight {
			c.flight[i].at = time.Time{}
			if !on {
				c.flight[i].at = now.Add(n.latency)
			}
		}
		c.changed.Broadcast()
	}
	n.changed.Broadcast()
}

// Reset fails every open connection with syscall.ECONNRESET, at both ends and at
// once; bytes that were not read are lost. It needs no working link, so it
// reaches through a black hole.
func (n *Network) Reset() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for c := range n.conns {
		c.reset()
	}
}

// Dials returns how many dials have succeeded.
func (n *Network) Dials() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.dials
}

// Open returns how many connections are open: neither reset nor closed by the
// end that dialled.
func (n *Network) Open() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.open
}

// wake wakes all who wait for a condition. It takes the lock first: whoever has
// looked already waits.
func (n *Network) wake(changed *sync.Cond) {
	n.mu.Lock()
	defer n.mu.Unlock()
	changed.Broadcast()
}

// wait waits for a condition, and no longer than to a moment unless that is zero.
// The caller holds the lock, and looks again afterwards.
func (n *Network) wait(changed *sync.Cond, until time.Time) {
	if !until.IsZero() {
		timer := time.AfterFunc(time.Until(until), func() { n.wake(changed) })
		defer timer.Stop()
	}
	changed.Wait()
}

// listener belongs to its network's lock.
type listener struct {
	network *Network
	addr    address
	changed sync.Cond
	backlog []*conn
	closed  bool
}

func (l *listener) Accept() (net.Conn, error) {
	l.network.mu.Lock()
	defer l.network.mu.Unlock()
	for len(l.backlog) == 0 {
		if l.closed {
			return nil, &net.OpError{Op: "accept", Net: "tcp", Addr: l.addr, Err: net.ErrClosed}
		}
		l.changed.Wait()
	}
	c := l.backlog[0]
	l.backlog = l.backlog[1:]
	return c, nil
}

func (l *listener) Close() error {
	l.network.mu.Lock()
	defer l.network.mu.Unlock()
	if l.closed {
		return &net.OpError{Op: "close", Net: "tcp", Addr: l.addr, Err: net.ErrClosed}
	}
	l.closed = true
	delete(l.network.listeners, string(l.addr))
	for _, c := range l.backlog {
		c.reset()
		c.peer.reset()
	}
	l.backlog = nil
	l.changed.Broadcast()
	return nil
}

func (l *listener) Addr() net.Addr { return l.addr }

type address string

func (address) Network() string  { return "tcp" }
func (a address) String() string { return string(a) }
