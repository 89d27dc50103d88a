package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/chatconn/chatconn/devserver"
)

// The development server runs in a process of its own, which is this program again,
// so that it can be killed as a server is: without a word to anybody.

const (
	serverVariable = "CHATCONN_GATEWAY_SERVER" // the address on which the child listens
	secretVariable = "CHATCONN_GATEWAY_SECRET"
)

// child is a running server.
type child struct {
	URL, Addr, APIKey string

	cmd *exec.Cmd
	in  io.WriteCloser
	out *json.Decoder
}

// figures are what a server has seen.
type figures struct {
	Dials int // TCP connections
	Most  int // of them in any one second
}

func startServer(addr string, secret []byte) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	c := &child{cmd: exec.Command(self)}
	c.cmd.Env = append(os.Environ(), serverVariable+"="+addr, secretVariable+"="+string(secret))
	c.cmd.Stderr = os.Stderr
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	c.out = json.NewDecoder(out)
	if err := c.out.Decode(c); err != nil {
		c.close()
		return nil, fmt.Errorf("the server did not start: %w", err)
	}
	return c, nil
}

func (c *child) figures() (f figures, err error) {
	if _, err = fmt.Fprintln(c.in, "figures"); err == nil {
		err = c.out.Decode(&f)
	}
	return f, err
}

// kill ends the server with SIGKILL and returns when it is gone.
func (c *child) kill() error {
	if err := c.cmd.Process.Kill(); err != nil {
		return err
	}
	_ = c.cmd.Wait() // "signal: killed"
	return nil
}

// close ends the server. It may have been killed.
func (c *child) close() {
	c.in.Close() // at which it ends
	_ = c.cmd.Wait()
}

// isServer reports whether this process is to be the server.
func isServer() bool { return os.Getenv(serverVariable) != "" }

// serveUntilEOF is the server's process.
func serveUntilEOF() {
	var seen arrivals
	s, err := devserver.Start(devserver.Options{
		Addr: os.Getenv(serverVariable), Secret: []byte(os.Getenv(secretVariable)),
		Listen: func(addr string) (net.Listener, error) {
			ln, err := net.Listen("tcp", addr)
			return &door{ln, &seen}, err
		},
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	answer := json.NewEncoder(os.Stdout)
	_ = answer.Encode(child{URL: s.URL(), Addr: strings.TrimPrefix(s.URL(), "http://"), APIKey: s.APIKey()})
	for orders := bufio.NewScanner(os.Stdin); orders.Scan(); {
		_ = answer.Encode(seen.figures())
	}
	s.Close()
}

// door notes when connections come.
type door struct {
	net.Listener
	seen *arrivals
}

func (d *door) Accept() (net.Conn, error) {
	conn, err := d.Listener.Accept()
	if err == nil {
		d.seen.add(time.Now())
	}
	return conn, err
}

type arrivals struct {
	mu    sync.Mutex
	times []time.Time
}

func (a *arrivals) add(at time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.times = append(a.times, at)
}

func (a *arrivals) figures() figures {
	a.mu.Lock()
	defer a.mu.Unlock()
	f, first := figures{Dials: len(a.times)}, 0
	for i, at := range a.times {
		for at.Sub(a.times[first]) >= time.Second {
			first++
		}
		f.Most = max(f.Most, i-first+1)
	}
	return f
}
