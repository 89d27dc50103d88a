package memnet

import (
	"bytes"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// window is how many bytes a connection takes for one direction before its
// writer has to wait: what is under way and what is not read yet.
const window = 256 << 10

// conn is one end of a connection. It belongs to its network's lock, and so does
// the state of its peer.
type conn struct {
	network       *Network
	peer          *conn
	local, remote address
	dialled       bool
	changed       sync.Cond // anything below changed, at this end or at the peer

	in      bytes.Buffer // what the peer wrote and was not read; the tail is under way
	arrived int          // how much of in can be read
	flight  []packet     // what is under way, in order
	ended   bool         // the peer's FIN has arrived: nothing follows what is in in
	gone    bool         // ... and it was a Close: the peer reads nothing any more

	finished bool  // CloseWrite was called here
	broken   error // why nothing works here any more: net.ErrClosed, ECONNRESET

	readBy, writeBy time.Time
}

// packet is a number of bytes under way, or the FIN.
type packet struct {
	at        time.Time // the arrival; zero: lost in the black hole, to be sent again
	bytes     int
	fin, gone bool
}

// send puts a packet on the way to c.
func (c *conn) send(p packet) {
	switch {
	case c.network.hole:
	case c.network.latency == 0 && len(c.flight) == 0:
		c.take(p)
		c.changed.Broadcast()
		return
	default:
		p.at = time.Now().Add(c.network.latency)
	}
	c.flight = append(c.flight, p)
	c.changed.Broadcast()
}

// arrive takes in what has reached c by now, and tells when more will, if it is
// known.
func (c *conn) arrive(now time.Time) (next time.Time) {
	for len(c.flight) > 0 {
		p := c.flight[0]
		if p.at.IsZero() || p.at.After(now) {
			return p.at
		}
		c.flight = c.flight[1:]
		c.take(p)
	}
	return time.Time{}
}

func (c *conn) take(p packet) {
	c.arrived += p.bytes
	c.ended = c.ended || p.fin
	c.gone = c.gone || p.gone
}

func (c *conn) Read(p []byte) (int, error) {
	c.network.mu.Lock()
	defer c.network.mu.Unlock()
	for {
		now := time.Now()
		next := c.arrive(now)
		switch {
		case c.broken != nil:
			return 0, c.fail("read", c.broken)
		case passed(c.readBy, now):
			return 0, c.fail("read", os.ErrDeadlineExceeded)
		case len(p) == 0:
			return 0, nil
		case c.arrived > 0:
			n := copy(p, c.in.Next(min(c.arrived, len(p))))
			c.arrived -= n
			c.peer.changed.Broadcast()
			return n, nil
		case c.ended:
			return 0, io.EOF
		}
		c.network.wait(&c.changed, sooner(next, c.readBy))
	}
}

func (c *conn) Write(p []byte) (int, error) {
	c.network.mu.Lock()
	defer c.network.mu.Unlock()
	written := 0
	for {
		now := time.Now()
		next := c.arrive(now)
		switch {
		case c.broken != nil:
			return written, c.fail("write", c.broken)
		case passed(c.writeBy, now):
			return written, c.fail("write", os.ErrDeadlineExceeded)
		case c.finished || c.gone:
			return written, c.fail("write", os.NewSyscallError("write", syscall.EPIPE))
		case written == len(p):
			return written, nil
		}
		if room := window - c.peer.in.Len(); room > 0 {
			n := min(room, len(p)-written)
			c.peer.in.Write(p[written : written+n])
			c.peer.send(packet{bytes: n})
			written += n
			if written == len(p) {
				return written, nil
			}
			continue
		}
		c.network.wait(&c.changed, sooner(next, c.writeBy))
	}
}

// CloseWrite ends the direction to the peer, who reads io.EOF after what was
// written; the other direction stays open.
func (c *conn) CloseWrite() error {
	c.network.mu.Lock()
	defer c.network.mu.Unlock()
	if c.broken != nil {
		return c.fail("close", c.broken)
	}
	if !c.finished {
		c.finished = true
		c.peer.send(packet{fin: true})
		c.changed.Broadcast()
	}
	return nil
}

// Close ends both directions. The peer reads what was written, then io.EOF; its
// writes fail with syscall.EPIPE once it could know.
func (c *conn) Close() error {
	c.network.mu.Lock()
	defer c.network.mu.Unlock()
	if c.broken == net.ErrClosed {
		return c.fail("close", net.ErrClosed)
	}
	if c.broken == nil {
		c.peer.send(packet{fin: true, gone: true})
	}
	c.leave(net.ErrClosed)
	return nil
}

func (c *conn) reset() {
	if c.broken == nil {
		c.leave(syscall.ECONNRESET)
	}
}

// leave makes the end unusable and forgets what nobody will read.
func (c *conn) leave(why error) {
	if c.broken == nil && c.dialled {
		c.network.open--
	}
	c.broken = why
	c.in, c.arrived, c.flight = bytes.Buffer{}, 0, nil
	delete(c.network.conns, c)
	c.changed.Broadcast()
}

func (c *conn) LocalAddr() net.Addr  { return c.local }
func (c *conn) RemoteAddr() net.Addr { return c.remote }

func (c *conn) SetDeadline(t time.Time) error      { return c.setDeadlines(t, &c.readBy, &c.writeBy) }
func (c *conn) SetReadDeadline(t time.Time) error  { return c.setDeadlines(t, &c.readBy) }
func (c *conn) SetWriteDeadline(t time.Time) error { return c.setDeadlines(t, &c.writeBy) }

func (c *conn) setDeadlines(t time.Time, deadlines ...*time.Time) error {
	c.network.mu.Lock()
	defer c.network.mu.Unlock()
	if c.broken == net.ErrClosed {
		return c.fail("set", net.ErrClosed)
	}
	for _, d := range deadlines {
		*d = t
	}
	c.changed.Broadcast()
	return nil
}

func (c *conn) fail(op string, err error) error {
	return &net.OpError{Op: op, Net: "tcp", Source: c.local, Addr: c.remote, Err: err}
}

func passed(deadline, now time.Time) bool { return !deadline.IsZero() && !deadline.After(now) }

// sooner returns the earlier of two moments, where zero means never.
func sooner(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
