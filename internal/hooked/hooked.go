// Package hooked makes connections for tests that misbehave where a program's might.
package hooked

import (
	"context"
	"net"
	"time"
)

// DialFunc is a dialer, as net.Dialer has it.
type DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error)

// Dialer returns a dialer whose connections call hook with a method's name in Read, Write,
// SetWriteDeadline and Close, after the method's work is done.
func Dialer(dial DialFunc, hook func(method string)) DialFunc {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return conn{c, hook}, nil
	}
}

type conn struct {
	net.Conn
	hook func(method string)
}

func (c conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.hook("Read")
	return n, err
}

func (c conn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.hook("Write")
	return n, err
}

func (c conn) SetWriteDeadline(t time.Time) error {
	err := c.Conn.SetWriteDeadline(t)
	c.hook("SetWriteDeadline")
	return err
}

func (c conn) Close() error {
	err := c.Conn.Close()
	c.hook("Close")
	return err
}
