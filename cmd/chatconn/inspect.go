package main

import (
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/chatconn/chatconn"
	"github.com/chatconn/chatconn/inspect"
	"github.com/chatconn/chatconn/internal/loopback"
)

// inspectFlags show a command's connection in the browser.
type inspectFlags struct {
	Inspect     string `placeholder:"ADDR" help:"Show the connection live in the browser, at an address such as 127.0.0.1:0 (0: any free port)."`
	AllowRemote bool   `help:"Permit an address for --inspect that other machines can reach. The page asks nobody who they are."`
}

// livePage is the page of a command; nil if none is wanted.
type livePage struct {
	page   inspect.Page
	server http.Server
	url    string
}

// serve starts the page and tells where it is.
func (f inspectFlags) serve(out *printer) (*livePage, error) {
	if f.Inspect == "" {
		if f.AllowRemote {
			return nil, usagef("--allow-remote is for --inspect")
		}
		return nil, nil
	}
	host, _, err := net.SplitHostPort(f.Inspect)
	if err != nil {
		return nil, usagef("--inspect wants a host and a port, such as 127.0.0.1:0")
	}
	if !f.AllowRemote && !loopback.Is(host) {
		return nil, usagef("--inspect: %s can be reached by other machines; say --allow-remote if that is meant", f.Inspect)
	}
	listener, err := net.Listen("tcp", f.Inspect)
	if err != nil {
		return nil, fmt.Errorf("--inspect: %w", err)
	}
	l := &livePage{page: inspect.Page{Lines: 10_000}, url: "http://" + listener.Addr().String() + "/"}
	l.server = http.Server{Handler: &l.page, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 64 << 10}
	if !f.AllowRemote {
		l.server.Handler = onlyLocal(&l.page)
	}
	go func() { _ = l.server.Serve(listener) }()
	out.inspect(l.url)
	return l, nil
}

// New makes a Conn, and shows it if there is a page.
func (l *livePage) New(name string, cfg chatconn.Config) (*chatconn.Conn, error) {
	if l == nil {
		return chatconn.New(cfg)
	}
	return l.page.New(name, cfg)
}

func (l *livePage) close() {
	if l != nil {
		_ = l.server.Close()
	}
}

// onlyLocal answers only requests to this machine by its own name: a name of
// somebody else's that leads here would let their web pages read this one.
func onlyLocal(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := r.Host
		if name, _, err := net.SplitHostPort(host); err == nil {
			host = name
		}
		if !loopback.Is(strings.Trim(host, "[]")) {
			http.Error(w, "this page is at 127.0.0.1 or localhost", http.StatusMisdirectedRequest)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// inspect says where the page is.
func (p *printer) inspect(url string) {
	if p.json {
		p.object(struct {
			Type string `json:"type"`
			URL  string `json:"url"`
		}{"inspect", url})
		return
	}
	p.line("Watch the connection live at %s\n", url)
}

// stay says that the page is still there.
func (p *printer) stay(url string) {
	if !p.json {
		p.line("\nThe page stays at %s until Ctrl-C.", url)
	}
}
