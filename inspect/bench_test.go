package inspect_test

import (
	"bufio"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/chatconn/chatconn"
	"github.com/chatconn/chatconn/inspect"
)

// crowd is a page with so many connections that have lived a little.
func crowd(b *testing.B, many int) (*inspect.Page, []*chatconn.Conn) {
	page := new(inspect.Page)
	conns := make([]*chatconn.Conn, many)
	for i := range conns {
		conns[i] = add(b, page, fmt.Sprintf("user-%05d", i))
		conns[i].Background()
		conns[i].Foreground()
	}
	return page, conns
}

// What a browser asks for, on a page with 10,000 connections: the whole page, a
// part of the list, and a search.
func BenchmarkRequest(b *testing.B) {
	page, _ := crowd(b, 10_000)
	for name, path := range map[string]string{
		"page": "/?conn=user-05000", "list": "/list?from=5000&n=100", "search": "/list?q=USER-09&n=100", "nothing": "/list?q=nobody&n=100",
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if w := get(page, path); w.Code != http.StatusOK {
					b.Fatal(w.Code)
				}
			}
		})
	}
}

// What a transition costs its connection's side lane: with a recording that is
// thrown away, on the page, and on the page while 64 browsers follow it.
func BenchmarkTransition(b *testing.B) {
	run := func(b *testing.B, conn *chatconn.Conn) {
		b.ReportAllocs()
		for b.Loop() {
			conn.Background()
			conn.Foreground()
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(2*b.N), "ns/transition")
		conn.Close() // its lane runs dry
	}
	b.Run("recorded", func(b *testing.B) {
		cfg := idle
		cfg.Record = writerFunc(func([]byte) {})
		conn, err := chatconn.New(cfg)
		if err != nil {
			b.Fatal(err)
		}
		run(b, conn)
	})
	b.Run("shown", func(b *testing.B) { run(b, add(b, new(inspect.Page), "john")) })
	b.Run("followed", func(b *testing.B) {
		page := new(inspect.Page)
		conn := add(b, page, "john")
		server := httptest.NewServer(page)
		defer server.Close()
		for range 64 {
			resp, err := http.Get(server.URL + "/events?conn=john")
			if err != nil {
				b.Fatal(err)
			}
			go func() {
				defer resp.Body.Close()
				for in := bufio.NewReader(resp.Body); ; {
					if _, err := in.Discard(4096); err != nil {
						return
					}
				}
			}()
		}
		defer server.CloseClientConnections()
		run(b, conn)
	})
}
