package chatconn

import (
	"bytes"
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// What the program gives us to call may panic, and may end the goroutine that calls it.
// Here either becomes an error, before it reaches code that expects neither: crypto/tls,
// net/http, the goroutine that reads. Specification: M4.

// PanicError reports a panic in the program's own code: a dialer, a connection that it
// made, a hook of TLS, a limit, a logger. Its value is left out, since it may hold a
// secret.
type PanicError struct{ Type string }

func (e *PanicError) Error() string {
	return "chatconn: a panic of type " + e.Type + " in the program's code"
}

// A fence runs code of the program. Its error is the code's, or tells what else the code
// did.
type fence func(code func() error) error

// guard turns a panic into an error. What ends the goroutine ends the caller's.
func guard(code func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &PanicError{fmt.Sprintf("%T", p)}
		}
	}()
	return code()
}

// apart runs the code on a goroutine of its own, which it may end.
func apart(code func() error) error { return <-begin(code) }

// within is apart for code that may take too long: it is left behind then, and the error
// is errLate.
func within(limit time.Duration, code func() error) error {
	over := begin(code)
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case err := <-over:
		return err
	case <-timer.C:
		return errLate
	}
}

// begin runs the code on a goroutine of its own and returns where its error comes.
func begin(code func() error) <-chan error {
	over := make(chan error, 1)
	go func() {
		err := errEnded
		defer func() { over <- err }()
		err = guard(code)
	}()
	return over
}

var (
	errNoConnection  = errors.New("chatconn: DialContext returned neither a connection nor an error")
	errNoCertificate = errors.New("chatconn: GetClientCertificate returned neither a certificate nor an error")
	errCount         = errors.New("chatconn: the program's code says that it read more than there was room for")
	errLate          = fmt.Errorf("chatconn: the program's connection holds up its caller: %w", os.ErrDeadlineExceeded)
)

type dialer func(ctx context.Context, network, addr string) (net.Conn, error)

// contained is the dialer whose connections are contained. What the dialer itself does is
// for its callers to fence: they know the goroutine.
func (dial dialer) contained() dialer {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		switch {
		case err != nil:
			return nil, err
		case conn == nil:
			return nil, errNoConnection
		}
		return &containedConn{Conn: conn}, nil
	}
}

// containedConn is a connection that the program made. Others read and write it, on
// goroutines where a panic would end the program.
type containedConn struct {
	net.Conn
	writeBy atomic.Pointer[time.Time] // nil: a write may take its time
}

// aMoment is how much longer than it should a method of a connection may take to come
// back by itself.
const aMoment = 100 * time.Millisecond

func (c *containedConn) Read(p []byte) (n int, err error) { return transfer(guard, p, c.Conn.Read) }

// Write keeps to its deadline, whatever the program's connection does: crypto/tls and
// net/http say goodbye under locks. Specification: H2.
func (c *containedConn) Write(p []byte) (n int, err error) {
	by := c.writeBy.Load()
	if by == nil {
		return transfer(guard, p, c.Conn.Write)
	}
	written := func(code func() error) error { return within(time.Until(*by)+aMoment, code) }
	return transfer(written, bytes.Clone(p), c.Conn.Write) // what is late keeps it
}

// Close does not wait for a connection that is stuck: net/http closes under locks that
// every request needs.
func (c *containedConn) Close() error {
	return within(aMoment, c.Conn.Close)
}

func (c *containedConn) LocalAddr() net.Addr { return containedAddr(c.Conn.LocalAddr) }

func (c *containedConn) RemoteAddr() net.Addr { return containedAddr(c.Conn.RemoteAddr) }

// containedAddr is never nil: net/http asks for the name of what it gets.
func containedAddr(code func() net.Addr) (addr net.Addr) {
	_ = guard(func() error {
		addr = code()
		return nil
	})
	if addr == nil {
		return nowhere{}
	}
	return addr
}

// nowhere is the address of a connection that does not tell.
type nowhere struct{}

func (nowhere) Network() string { return "tcp" }
func (nowhere) String() string  { return "unknown" }

func (c *containedConn) SetDeadline(t time.Time) error {
	c.setWriteBy(t)
	return guard(func() error { return c.Conn.SetDeadline(t) })
}

func (c *containedConn) SetReadDeadline(t time.Time) error {
	return guard(func() error { return c.Conn.SetReadDeadline(t) })
}

func (c *containedConn) SetWriteDeadline(t time.Time) error {
	c.setWriteBy(t)
	return guard(func() error { return c.Conn.SetWriteDeadline(t) })
}

func (c *containedConn) setWriteBy(t time.Time) {
	if t.IsZero() {
		c.writeBy.Store(nil)
	} else {
		c.writeBy.Store(&t)
	}
}

// transfer reads or writes in a fence, and believes no impossible count.
func transfer(in fence, p []byte, code func([]byte) (int, error)) (int, error) {
	n := 0
	err := in(func() (err error) {
		n, err = code(p)
		return err
	})
	switch {
	case err == errLate: // the code still runs, and the count is its own
		return 0, err
	case n < 0 || n > len(p):
		return 0, errors.Join(errCount, err)
	}
	return n, err
}

// containTLS returns a copy of Config.TLS whose hooks run in a fence. The two that have
// no say run in the side lane, where they hold up nobody: one is called under a lock that
// all connections of the process share, the other on the goroutine that reads.
func (c *Conn) containTLS(in fence) *tls.Config {
	if c.cfg.TLS == nil {
		return nil
	}
	cfg := c.cfg.TLS.Clone()
	if f := cfg.GetClientCertificate; f != nil {
		cfg.GetClientCertificate = func(asked *tls.CertificateRequestInfo) (cert *tls.Certificate, err error) {
			err = in(func() (err error) {
				cert, err = f(asked)
				return err
			})
			switch {
			case err != nil:
				return nil, err
			case cert == nil:
				return nil, errNoCertificate
			}
			contained := containCertificate(in, *cert)
			return &contained, nil
		}
	}
	if f := cfg.VerifyPeerCertificate; f != nil {
		cfg.VerifyPeerCertificate = func(raw [][]byte, chains [][]*x509.Certificate) error {
			return in(func() error { return f(raw, chains) })
		}
	}
	if f := cfg.VerifyConnection; f != nil {
		cfg.VerifyConnection = func(state tls.ConnectionState) error {
			return in(func() error { return f(state) })
		}
	}
	if f := cfg.EncryptedClientHelloRejectionVerify; f != nil {
		cfg.EncryptedClientHelloRejectionVerify = func(state tls.ConnectionState) error {
			return in(func() error { return f(state) })
		}
	}
	if f := cfg.Time; f != nil {
		cfg.Time = func() (now time.Time) {
			if in(func() error {
				now = f()
				return nil
			}) != nil {
				return time.Now()
			}
			return now
		}
	}
	if r := cfg.Rand; r != nil {
		cfg.Rand = readFunc(func(p []byte) (int, error) { return transfer(in, p, r.Read) })
	}
	if w := cfg.KeyLogWriter; w != nil {
		cfg.KeyLogWriter = writeFunc(func(line []byte) {
			line = bytes.Clone(line)
			c.side.do(func() {
				keyLogs.Lock()
				defer keyLogs.Unlock()
				_, _ = w.Write(line)
			})
		})
	}
	if cache := cfg.ClientSessionCache; cache != nil {
		cfg.ClientSessionCache = &containedCache{cache, in, &c.side}
	}
	cfg.Certificates = slices.Clone(cfg.Certificates)
	for i, cert := range cfg.Certificates {
		cfg.Certificates[i] = containCertificate(in, cert)
	}
	return cfg
}

// keyLogs lets one line at a time be written: a KeyLogWriter may be shared, and need not be
// safe for concurrent use in crypto/tls, which has such a lock, either.
var keyLogs sync.Mutex

type readFunc func(p []byte) (int, error)

func (f readFunc) Read(p []byte) (int, error) { return f(p) }

type writeFunc func(p []byte)

func (f writeFunc) Write(p []byte) (int, error) {
	f(p)
	return len(p), nil
}

type containedCache struct {
	cache tls.ClientSessionCache
	in    fence
	side  *lane
}

func (c *containedCache) Get(key string) (state *tls.ClientSessionState, ok bool) {
	if c.in(func() error {
		state, ok = c.cache.Get(key)
		return nil
	}) != nil {
		return nil, false
	}
	if _, session, _ := state.ResumptionState(); session == nil {
		return nil, false // a state that holds none would be a panic in crypto/tls
	}
	return state, ok
}

func (c *containedCache) Put(key string, state *tls.ClientSessionState) {
	c.side.do(func() { c.cache.Put(key, state) })
}

// containCertificate fences the private key, which may be a device or a remote service.
func containCertificate(in fence, cert tls.Certificate) tls.Certificate {
	if key, ok := cert.PrivateKey.(crypto.Signer); ok {
		contained := &containedKey{key, in}
		cert.PrivateKey = contained
		if key, ok := key.(crypto.MessageSigner); ok {
			cert.PrivateKey = &containedMessageKey{contained, key}
		}
	}
	return cert
}

type containedKey struct {
	key crypto.Signer
	in  fence
}

func (k *containedKey) Public() (public crypto.PublicKey) {
	_ = k.in(func() error {
		public = k.key.Public()
		return nil
	})
	return public // nil is the key of no algorithm
}

func (k *containedKey) Sign(rand io.Reader, digest []byte, opts crypto.SignerOpts) (signature []byte, err error) {
	err = k.in(func() (err error) {
		signature, err = k.key.Sign(rand, digest, opts)
		return err
	})
	return signature, err
}

type containedMessageKey struct {
	*containedKey
	key crypto.MessageSigner
}

func (k *containedMessageKey) SignMessage(rand io.Reader, message []byte, opts crypto.SignerOpts) (signature []byte, err error) {
	err = k.in(func() (err error) {
		signature, err = k.key.SignMessage(rand, message, opts)
		return err
	})
	return signature, err
}
