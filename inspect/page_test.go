package inspect_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chatconn/chatconn"
	"github.com/chatconn/chatconn/devserver"
	"github.com/chatconn/chatconn/fsm"
	"github.com/chatconn/chatconn/inspect"
	"github.com/chatconn/chatconn/recording"
	"github.com/chatconn/chatconn/tokens"
	"github.com/chatconn/chatconn/transport/memnet"
)

// idle is a configuration of a Conn that is never connected.
var idle = chatconn.Config{APIKey: "key"}

// add shows a Conn that is closed when the test ends.
func add(t testing.TB, page *inspect.Page, name string) *chatconn.Conn {
	t.Helper()
	conn, err := page.New(name, idle)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// get asks for a path as a browser would.
func get(h http.Handler, target string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodGet, target, nil)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// stage is a dev server, a page, and a web server that shows it, all in the memory
// of one bubble.
type stage struct {
	*testing.T
	net    *memnet.Network // of the connections
	server *devserver.Server
	page   *inspect.Page
	web    *memnet.Network // of the browsers
	http   *http.Server
}

func onStage(t *testing.T, play func(s *stage)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &stage{T: t, net: memnet.New(), web: memnet.New(), page: new(inspect.Page)}
		server, err := devserver.Start(devserver.Options{Addr: "127.0.0.1:80", Listen: s.net.Listen})
		if err != nil {
			t.Fatal(err)
		}
		s.server = server
		defer server.Close()
		listener, err := s.web.Listen("127.0.0.1:81")
		if err != nil {
			t.Fatal(err)
		}
		s.http = &http.Server{Handler: s.page}
		go s.http.Serve(listener)
		defer s.http.Close()
		play(s)
	})
}

func (s *stage) conn(name string, change ...func(*chatconn.Config)) *chatconn.Conn {
	s.Helper()
	cfg := chatconn.Config{APIKey: s.server.APIKey(), BaseURL: s.server.URL(), DialContext: s.net.DialContext}
	for _, c := range change {
		c(&cfg)
	}
	conn, err := s.page.New(name, cfg)
	if err != nil {
		s.Fatal(err)
	}
	return conn
}

func (s *stage) source(user string) tokens.Source {
	return tokens.Func(func(context.Context) (string, error) { return s.server.Token(user, 0), nil })
}

// message is one server-sent event.
type message struct {
	id, event string
	data      map[string]any
}

// browser reads a stream of events.
type browser struct {
	t      *testing.T
	status int
	body   io.ReadCloser
	in     *bufio.Scanner
	lastID string
}

// follow opens a stream, as a page that shows key does.
func (s *stage) follow(key, lastID string) *browser {
	s.Helper()
	client := &http.Client{Transport: &http.Transport{DialContext: s.web.DialContext, DisableKeepAlives: true}}
	req, _ := http.NewRequestWithContext(s.Context(), http.MethodGet, "http://127.0.0.1:81/events?conn="+url.QueryEscape(key), nil)
	if lastID != "" {
		req.Header.Set("Last-Event-ID", lastID)
	}
	resp, err := client.Do(req)
	if err != nil {
		s.Fatal(err)
	}
	b := &browser{t: s.T, status: resp.StatusCode, body: resp.Body, in: bufio.NewScanner(resp.Body), lastID: lastID}
	b.in.Buffer(nil, 16<<20)
	return b
}

// next returns the next event; false at the end of the stream.
func (b *browser) next() (m message, ok bool) {
	b.t.Helper()
	for b.in.Scan() {
		name, value, _ := strings.Cut(b.in.Text(), ": ")
		switch name {
		case "id":
			m.id, b.lastID = value, value
		case "event":
			m.event = value
		case "data":
			var data any
			if err := json.Unmarshal([]byte(value), &data); err != nil {
				b.t.Fatalf("%v: %.200s", err, value)
			}
			m.data, _ = data.(map[string]any)
		case "":
			if m.event != "" {
				return m, true
			}
		}
	}
	return m, false
}

// steps reads until so many steps have come, and returns their numbers; a reset
// brings several, and clears what was there.
func (b *browser) steps(n int) (seqs []uint64, resets int) {
	b.t.Helper()
	for len(seqs) < n {
		m, ok := b.next()
		if !ok {
			b.t.Fatalf("the stream ended after %v", seqs)
		}
		switch m.event {
		case "reset":
			seqs = nil
			resets++
			for _, s := range m.data["steps"].([]any) {
				seqs = append(seqs, uint64(s.(map[string]any)["seq"].(float64)))
			}
		case "step":
			seqs = append(seqs, uint64(m.data["seq"].(float64)))
		}
	}
	return seqs, resets
}

// G2: what the page is made of permits no script and no other origin, is not to be
// framed or guessed at, and changes nothing.
func TestHeaders(t *testing.T) {
	page := new(inspect.Page)
	add(t, page, "john")
	for _, path := range []string{"/", "/page.js", "/page.css", "/icon.svg", "/list", "/recording?conn=john", "/events?conn=john", "/nothing"} {
		w := get(page, path)
		h := w.Result().Header
		for name, want := range map[string]string{
			"Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; " +
				"base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
			"X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer",
			"Cross-Origin-Resource-Policy": "same-origin", "Cache-Control": "no-store",
		} {
			if h.Get(name) != want {
				t.Errorf("%s: %s is %q", path, name, h.Get(name))
			}
		}
		if want := map[bool]int{true: 404, false: 200}[path == "/nothing"]; w.Code != want || h.Get("Content-Type") == "" {
			t.Errorf("%s: %d, %s", path, w.Code, h.Get("Content-Type"))
		}
		for _, method := range []string{"POST", "PUT", "DELETE", "PATCH", "OPTIONS", "CONNECT"} {
			w := httptest.NewRecorder()
			page.ServeHTTP(w, httptest.NewRequest(method, path, nil))
			if w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") != "GET, HEAD" {
				t.Errorf("%s %s: %d", method, path, w.Code)
			}
		}
		w = httptest.NewRecorder()
		page.ServeHTTP(w, httptest.NewRequest("HEAD", path, nil))
		if w.Code == http.StatusMethodNotAllowed {
			t.Errorf("HEAD %s: %d", path, w.Code)
		}
		// Another site may link to the page, and load nothing of it.
		for _, site := range []string{"cross-site", "same-site"} {
			if w := get(page, path, "Sec-Fetch-Site", site, "Sec-Fetch-Mode", "no-cors"); w.Code != http.StatusForbidden {
				t.Errorf("%s from a page that is %s: %d", path, site, w.Code)
			}
		}
	}
	if w := get(page, "/", "Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate"); w.Code != 200 {
		t.Errorf("a link from another site: %d", w.Code)
	}
	text := get(page, "/").Body.String()
	for _, bad := range []string{"<style", "style=", "<script>", "onclick", "javascript:", "http-equiv=\"Content-Security"} {
		if strings.Contains(text, bad) {
			t.Errorf("the page contains %s", bad)
		}
	}
	for _, address := range regexp.MustCompile(`(?:src|href|action)="([^"]*)"`).FindAllStringSubmatch(text, -1) {
		if strings.Contains(address[1], "//") || strings.HasPrefix(address[1], "/") {
			t.Errorf("the page leads to %s", address[1])
		}
	}
}

// The page works wherever it is mounted.
func TestMount(t *testing.T) {
	page := new(inspect.Page)
	add(t, page, "john")
	mux := http.NewServeMux()
	mux.Handle("/debug/chatconn/", page)
	mux.Handle("/a/", http.StripPrefix("/a", page))
	mux.Handle("/b", http.StripPrefix("/b", page))
	mux.Handle("GET example.com/c/", page)
	for path, want := range map[string]int{
		"/debug/chatconn/": 200, "/debug/chatconn/page.js": 200, "/debug/chatconn/list": 200, "/debug/chatconn": http.StatusMovedPermanently,
		"/a/": 200, "/a/page.css": 200, "/b": http.StatusMovedPermanently, "/c/": 200, "/c/events": 200, "/debug/chatconn/nothing": 404,
	} {
		w := get(mux, path)
		if w.Code != want && !(want == http.StatusMovedPermanently && w.Code == http.StatusTemporaryRedirect) {
			t.Errorf("%s: %d, want %d", path, w.Code, want)
		}
		if to := w.Header().Get("Location"); want == http.StatusMovedPermanently && !strings.HasSuffix(to, path[strings.LastIndexByte(path, '/')+1:]+"/") {
			t.Errorf("%s leads to %q", path, to)
		}
	}
}

// G2: without JavaScript it is a plain page that refreshes: the list with its
// search, filters and pages, the picture with the state lit, history and counters.
func TestPlainPage(t *testing.T) {
	onStage(t, func(s *stage) {
		for i := range 250 {
			defer s.conn(fmt.Sprintf("user-%03d", i)).Close()
		}
		conn := s.conn("john")
		if _, err := conn.ConnectUser(s.Context(), chatconn.User{ID: "j&j"}, tokens.Func(func(context.Context) (string, error) { return s.server.Token("j&j", 0), nil })); err != nil {
			s.Fatal(err)
		}
		s.server.Stop()
		synctest.Wait()
		show := func(query string, has ...string) string {
			s.Helper()
			text := get(s.page, "/?"+query).Body.String()
			for _, want := range has {
				if !strings.Contains(text, want) {
					s.Errorf("?%s does not show %s: %q", query, want, regexp.MustCompile(`class="cause">[^<]*`).FindAllString(text, -1))
				}
			}
			return text
		}
		text := show("conn=john", `<noscript><meta http-equiv="refresh" content="3"></noscript>`, `name="q"`,
			`<g class="state current" data-state="Connecting">`, `<h2 id="key"><bdi>john</bdi>`, "user <bdi>j&amp;j</bdi>",
			`<dd id="c-attempts">1</dd>`, `<dd id="c-loads">1</dd>`, "attempt 1 in ", "Dropped", `<span class="cause">closed</span>`, "Retry", "251", "user-098", `href="?conn=john&amp;from=100"`)
		if !strings.Contains(text, `<g class="arrow lit" data-from="Connected" data-to="Connecting">`) || strings.Contains(text, "faded") {
			s.Error("the last transition is not traced")
		}
		order := regexp.MustCompile(`data-seq="(\d+)"`).FindAllStringSubmatch(text, -1)
		if len(order) < 5 || order[0][1] != fmt.Sprint(len(order)) || order[len(order)-1][1] != "1" {
			s.Errorf("the history is %v", order)
		}
		if n := strings.Count(show("q=USER-24", "user-240", "user-249"), `class="row"`); n != 10 {
			s.Errorf("the search finds %d", n)
		}
		if n := strings.Count(show("state=Connecting", "data-key=\"john\""), `class="row"`); n != 1 {
			s.Errorf("the filter finds %d", n)
		}
		if n := strings.Count(show("from=200", "earlier"), `class="row"`); n != 51 {
			s.Errorf("the third page has %d", n)
		}
		show("q=nobody-of-that-name", "No connection of this name and state.")
		show("conn=gone", "This connection is not there, or not any more.", "gone")
		show("state=%22%3E&from=-5&n=x&q="+strings.Repeat("y", 9999), "No connection of this name")
		conn.Close()
		show("conn=john", `class="pill Closed"`)
	})
}

// G2, O1: a page hears of every transition of its connection, in order, once; also
// if its stream is cut in the middle.
func TestStreamHasEveryStepInOrder(t *testing.T) {
	onStage(t, func(s *stage) {
		var record bytes.Buffer
		conn := s.conn("john", func(cfg *chatconn.Config) { cfg.Record = &record })
		s.conn("other").Close()
		b := s.follow("john", "")
		defer func() { b.body.Close() }()
		if m, _ := b.next(); m.event != "hello" || m.data["edition"] == "" {
			s.Errorf("it begins with %v", m)
		}
		if _, err := conn.ConnectUser(s.Context(), chatconn.User{ID: "john"}, s.source("john")); err != nil {
			s.Fatal(err)
		}
		seqs, resets := b.steps(4)
		for range 20 {
			conn.Background()
			conn.Foreground()
			s.server.DropAll()
			time.Sleep(30 * time.Second)
		}
		s.server.ExpireTokens("john", true)
		time.Sleep(30 * time.Second)
		synctest.Wait()
		n := bytes.Count(record.Bytes(), []byte("\n"))
		more, again := b.steps(n - 4 - 50)
		seqs, resets = append(seqs, more...), resets+again

		// The browser loses its stream, and comes back when more has happened.
		b.body.Close()
		time.Sleep(time.Minute)
		b = s.follow("john", b.lastID)
		more, again = b.steps(50)
		if seqs = append(seqs, more...); again != 0 || resets != 1 {
			s.Errorf("it was sent all of it %d times more, and %d before", again, resets)
		}
		for i, seq := range seqs {
			if seq != uint64(i+1) {
				s.Fatalf("step %d is number %d", i+1, seq)
			}
		}
		if len(seqs) != n {
			s.Errorf("%d steps of %d", len(seqs), n)
		}
		// What it has of another life of the program, or of another connection,
		// means nothing.
		for _, id := range []string{"x.1.3", strings.Replace(b.lastID, ".1.", ".2.", 1), b.lastID + "0", "..", "garbage"} {
			c := s.follow("john", id)
			if _, again := c.steps(n); again != 1 {
				s.Errorf("with the id of something else it was not sent all")
			}
			c.body.Close()
		}
		conn.Close()
		for {
			m, ok := b.next()
			if !ok {
				s.Fatal("the stream ended")
			}
			if m.event == "detail" && m.data["state"] == "Closed" {
				break
			}
		}
	})
}

// The counters and the time of the next attempt come as they change; beats, when
// nothing does.
func TestStreamTellsTheRest(t *testing.T) {
	onStage(t, func(s *stage) {
		conn := s.conn("john")
		b := s.follow("john", "")
		defer b.body.Close()
		until := func(event string, is func(map[string]any) bool) map[string]any {
			s.Helper()
			for {
				m, ok := b.next()
				if !ok {
					s.Fatal("the stream ended")
				}
				if m.event == event && (is == nil || is(m.data)) {
					return m.data
				}
			}
		}
		s.server.Stop()
		ctx, cancel := context.WithCancel(s.Context())
		go conn.ConnectUser(ctx, chatconn.User{ID: "john"}, s.source("john"))
		d := until("detail", func(d map[string]any) bool { return d["attempt"] == 2.0 })
		if in := time.Until(time.UnixMilli(int64(d["retryAt"].(float64)))); in <= 0 || in > 6*time.Second || d["error"] == "" || d["user"] != "john" {
			s.Errorf("in %v: %v", in, d)
		}
		until("list", nil)
		cancel()
		until("detail", func(d map[string]any) bool { return d["state"] == "Offline" })
		began := time.Now()
		until("beat", nil)
		if silent := time.Since(began); silent > 20*time.Second {
			s.Errorf("it was silent for %v", silent)
		}
		conn.Close()
	})
}

// A page may come before its connection, and go on when the connection made room.
func TestStreamWaitsForItsConnection(t *testing.T) {
	onStage(t, func(s *stage) {
		s.page.Closed = -1
		b := s.follow("john", "")
		defer b.body.Close()
		until := func(event string) message {
			s.Helper()
			for {
				m, ok := b.next()
				if !ok {
					s.Fatal("the stream ended")
				}
				if m.event == event {
					return m
				}
			}
		}
		if m := until("none"); m.data["key"] != "john" {
			s.Errorf("%v", m)
		}
		for range 2 {
			conn := s.conn("john")
			if m := until("reset"); m.data["detail"].(map[string]any)["key"] != "john" {
				s.Errorf("%v", m)
			}
			conn.Close()
			until("none")
		}
	})
}

// G2: a browser that does not read is dropped, and the connection never notices.
func TestSlowBrowser(t *testing.T) {
	onStage(t, func(s *stage) {
		s.page.Lines = 10_000
		conn := s.conn("john")
		if _, err := conn.ConnectUser(s.Context(), chatconn.User{ID: "john"}, s.source("john")); err != nil {
			s.Fatal(err)
		}
		for range 3 {
			c, err := s.web.DialContext(s.Context(), "tcp", "127.0.0.1:81")
			if err != nil {
				s.Fatal(err)
			}
			defer c.Close()
			fmt.Fprintf(c, "GET /events?conn=john HTTP/1.1\r\nHost: localhost\r\n\r\n")
		}
		synctest.Wait()
		if n := s.page.Open(); n != 3 {
			s.Fatalf("%d streams are open", n)
		}
		before := conn.Stats().Attempts
		began := time.Now()
		rounds := 0
		for ; s.page.Open() > 0 && rounds < 5000; rounds++ {
			conn.Background()
			conn.Foreground()
			if _, err := conn.Wait(s.Context(), fsm.Connected); err != nil {
				s.Fatal(err)
			}
			time.Sleep(2 * time.Second)
		}
		if n := s.page.Open(); n != 0 {
			s.Errorf("%d streams that nobody reads are still open after %v", n, time.Since(began))
		}
		if got := conn.Stats(); got.Attempts-before != uint64(rounds) || got.State != fsm.Connected {
			s.Errorf("the connection noticed: %+v after %d rounds", got, rounds)
		}
		conn.Close()
	})
}

// G2: a thousand browsers that open streams and never read: 64 of them may, the
// others are told so, and the connection goes on.
func TestThousandBrowsers(t *testing.T) {
	page := new(inspect.Page)
	conn := add(t, page, "john")
	var lines int
	other, err := page.New("other", chatconn.Config{APIKey: "key", Record: writerFunc(func([]byte) { lines++ })})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(page)
	defer server.Close()
	const many = 1000
	conns := make([]net.Conn, many)
	for i := range conns {
		c, err := net.Dial("tcp", server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		conns[i] = c
		fmt.Fprintf(c, "GET /events?conn=john HTTP/1.1\r\nHost: localhost\r\n\r\n")
	}
	answered := 0
	for _, c := range conns { // each was let in or sent away
		if line, err := bufio.NewReaderSize(c, 16).ReadString('\n'); err != nil && !strings.HasPrefix(line, "HTTP/1.1 ") {
			t.Errorf("the answer is %q, %v", line, err)
		} else {
			answered++
		}
	}
	if n := page.Open(); n != 64 || answered != many {
		t.Errorf("%d streams are open, want 64", n)
	}
	for range 1000 {
		conn.Background()
		conn.Foreground()
		other.Background()
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
	if err := other.Close(); err != nil || lines != 1001 {
		t.Errorf("%d lines were recorded, %v", lines, err)
	}
	resp, err := http.Get(server.URL + "/events")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" {
		t.Errorf("one more is answered %s", resp.Status)
	}
	if w := get(page, "/?conn=john"); w.Code != 200 {
		t.Errorf("the page itself is answered %d", w.Code)
	}
	server.CloseClientConnections()
}

type writerFunc func([]byte)

func (f writerFunc) Write(p []byte) (int, error) {
	f(p)
	return len(p), nil
}

// The limits of the program's web server do not end a stream.
func TestServersLimits(t *testing.T) {
	onStage(t, func(s *stage) {
		s.http.Close()
		listener, err := s.web.Listen("127.0.0.1:82")
		if err != nil {
			s.Fatal(err)
		}
		strict := &http.Server{Handler: s.page, ReadTimeout: time.Second, WriteTimeout: 2 * time.Second, IdleTimeout: time.Second}
		go strict.Serve(listener)
		defer strict.Close()
		c, err := s.web.DialContext(s.Context(), "tcp", "127.0.0.1:82")
		if err != nil {
			s.Fatal(err)
		}
		defer c.Close()
		conn := s.conn("john")
		defer conn.Close()
		fmt.Fprintf(c, "GET /events?conn=john HTTP/1.1\r\nHost: localhost\r\n\r\n")
		s.stillStreams(conn, c)
	})
}

// stillStreams checks that a stream tells of a change after a minute without one.
func (s *stage) stillStreams(conn *chatconn.Conn, stream io.Reader) {
	s.Helper()
	in := bufio.NewScanner(stream)
	time.Sleep(time.Minute)
	conn.Background()
	for in.Scan() {
		if strings.Contains(in.Text(), `"event":"Background"`) {
			return
		}
	}
	s.Errorf("the stream ended: %v", in.Err())
}

// Over HTTP/2 the time to write ends no stream on which nothing is to be written.
func TestStreamOverHTTP2(t *testing.T) {
	onStage(t, func(s *stage) {
		s.http.Close()
		listener, err := s.web.Listen("127.0.0.1:82")
		if err != nil {
			s.Fatal(err)
		}
		var only http.Protocols
		only.SetUnencryptedHTTP2(true)
		server := &http.Server{Handler: s.page, Protocols: &only}
		go server.Serve(listener)
		defer server.Close()
		transport := &http.Transport{Protocols: &only, DialContext: s.web.DialContext}
		defer transport.CloseIdleConnections()
		conn := s.conn("john")
		defer conn.Close()
		resp, err := (&http.Client{Transport: transport}).Get("http://127.0.0.1:82/events?conn=john")
		if err != nil {
			s.Fatal(err)
		}
		defer resp.Body.Close()
		if resp.ProtoMajor != 2 {
			s.Fatal(resp.Proto)
		}
		s.stillStreams(conn, resp.Body)
	})
}

// Close ends the streams, so that a web server can be shut down, and leaves the
// page and the connections alone.
func TestClose(t *testing.T) {
	onStage(t, func(s *stage) {
		conn := s.conn("john")
		s.http.RegisterOnShutdown(s.page.Close)
		b := s.follow("john", "")
		b.steps(0)
		done := make(chan error, 1)
		go func() { done <- s.http.Shutdown(s.Context()) }()
		for ok := true; ok; _, ok = b.next() {
		}
		if err := <-done; err != nil {
			s.Error(err)
		}
		s.page.Close()
		if w := get(s.page, "/events"); w.Code != http.StatusServiceUnavailable {
			s.Errorf("a stream after the end is answered %d", w.Code)
		}
		if w := get(s.page, "/"); w.Code != 200 || conn.State() != fsm.Offline {
			s.Errorf("the page is answered %d", w.Code)
		}
		conn.Close()
	})
}

// G2, O4: the download is a recording that replays clean, also when it does not
// reach back to the beginning.
func TestDownload(t *testing.T) {
	for _, lines := range []int{0, 7} {
		onStage(t, func(s *stage) {
			s.page.Lines = lines
			var record bytes.Buffer
			conn := s.conn(`a "name"`, func(cfg *chatconn.Config) { cfg.Record = &record })
			if _, err := conn.ConnectUser(s.Context(), chatconn.User{ID: "john"}, s.source("john")); err != nil {
				s.Fatal(err)
			}
			s.server.DropAll()
			time.Sleep(time.Minute)
			s.server.ExpireTokens("john", true)
			time.Sleep(time.Minute)
			conn.Close()
			w := get(s.page, "/recording?conn="+url.QueryEscape(`a "name"`))
			if got := w.Header().Get("Content-Disposition"); w.Code != 200 || got != `attachment; filename="chatconn-a__name_.jsonl"` {
				s.Errorf("%d, %s", w.Code, got)
			}
			text := w.Body.String()
			n := 0
			if err := recording.Replay(strings.NewReader(text), func(recording.Step) { n++ }); err != nil || n == 0 {
				s.Errorf("%d steps, %v", n, err)
			}
			if lines == 0 && text != record.String() {
				s.Error("it is not what was recorded")
			}
			if lines > 0 && (n != lines || !strings.HasSuffix(record.String(), text[strings.IndexByte(text, '\n')+1:])) {
				s.Errorf("%d lines, and they are not the last of what was recorded", n)
			}
		})
	}
	if w := get(new(inspect.Page), "/recording?conn=nobody"); w.Code != 404 {
		t.Errorf("nobody's recording is answered %d", w.Code)
	}
}

// Names may repeat, be empty, or look like numbered ones; whoever is closed goes
// after a while.
func TestNames(t *testing.T) {
	page := &inspect.Page{Closed: 2}
	keys := func() (all []string) {
		var l struct {
			Total  int
			Counts map[string]int
			Rows   []struct{ Key, State string }
		}
		if err := json.Unmarshal(get(page, "/list?n=500").Body.Bytes(), &l); err != nil {
			t.Fatal(err)
		}
		for _, r := range l.Rows {
			all = append(all, r.Key)
		}
		if l.Total != len(all) {
			t.Errorf("%d of %d", len(all), l.Total)
		}
		return all
	}
	first := add(t, page, "a")
	add(t, page, "a (2)")
	third := add(t, page, "a")
	add(t, page, "")
	add(t, page, strings.Repeat("long ", 100))
	want := []string{"a", "a (2)", "a (3)", strings.Repeat("long ", 40) + "…", "unnamed"}
	if got := keys(); !slices.Equal(got, want) {
		t.Errorf("the names are %q", got)
	}
	first.Close()
	third.Close()
	if got := keys(); !slices.Equal(got, want) {
		t.Errorf("two closed ones may stay, and there are %q", got)
	}
	add(t, page, "b").Close()
	if got := keys(); slices.Contains(got, "a") || !slices.Contains(got, "a (3)") || !slices.Contains(got, "b") {
		t.Errorf("the oldest of three closed ones must go, and there are %q", got)
	}
	for i := range 1000 {
		add(t, page, fmt.Sprint("c", i)).Close()
	}
	if got := keys(); len(got) != 5 {
		t.Errorf("there are %d", len(got))
	}
	if conn, err := page.New("x", chatconn.Config{}); conn != nil || err == nil || len(keys()) != 5 {
		t.Errorf("a Conn that cannot be is shown, or its error lost: %v", err)
	}
}

// hostile are names that would do harm if they got onto a page as they are.
var hostile = []string{
	`<script>document.title="harm"</script>`, `"><img src=x onerror=alert(1)>`, `' onmouseover='alert(1)`, "]]><script>alert(1)</script>",
	"</title><script>alert(1)</script>", "a\nb\r\n\r\nevent: harm\ndata: {}", "\u202eevil\u2066", "{{.}}${x}`", "javascript:alert(1)", "\x00\x1b[2J\xff", "&lt;b&gt;&amp;", "名前 שם الاسم 🙂",
	"\u2028\u2029", "../../etc/passwd", "?conn=a&q=b#c", strings.Repeat("<", 500),
}

func FuzzNames(f *testing.F) {
	for _, name := range hostile {
		f.Add(name, name)
	}
	f.Fuzz(func(t *testing.T, name, search string) { checkName(t, name, search) })
}

// checkName finds markup that came from a name: the elements of a page are the
// same, and of the same kinds, whatever the name.
func checkName(t *testing.T, name, search string) {
	page := new(inspect.Page)
	conn, err := page.New(name, idle)
	if err != nil {
		t.Fatal(err)
	}
	conn.Background()
	conn.Close()
	plain := new(inspect.Page)
	other, _ := plain.New("john", idle)
	other.Background()
	other.Close()
	var l struct{ Rows []struct{ Key string } }
	if err := json.Unmarshal(get(page, "/list").Body.Bytes(), &l); err != nil || len(l.Rows) != 1 {
		t.Fatalf("%v, %d rows", err, len(l.Rows))
	}
	query := "/?conn=" + url.QueryEscape(l.Rows[0].Key)
	got, want := outline(t, get(page, query).Body.String()), outline(t, get(plain, "/?conn=john").Body.String())
	if got != want {
		t.Errorf("the name %q changes the page:\n%s\n%s", name, got, want)
	}
	outline(t, get(page, query+"&q="+url.QueryEscape(search)).Body.String())
	events := get(page, "/events?conn="+url.QueryEscape(l.Rows[0].Key)).Body.String()
	for line := range strings.Lines(events) {
		if field, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": "); field == "event" && !slices.Contains([]string{"hello", "reset", "detail", "list"}, value) ||
			!slices.Contains([]string{"retry", "id", "event", "data", ""}, field) {
			t.Errorf("the name %q brings the line %q into the stream", name, line)
		}
	}
	if strings.ContainsAny(get(page, "/recording"+query[1:]).Header().Get("Content-Disposition"), "\r\n\\<>") {
		t.Errorf("the name %q is in a header", name)
	}
}

// outline is every element of a page with the names of its attributes, outside the
// picture. The page's HTML is read as XML, which is stricter about what a name may
// hold.
func outline(t *testing.T, text string) string {
	t.Helper()
	d := xml.NewDecoder(strings.NewReader(text))
	d.Strict, d.AutoClose, d.Entity = false, xml.HTMLAutoClose, xml.HTMLEntity
	var b strings.Builder
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return b.String()
		}
		if err != nil {
			t.Fatalf("the page is not well-formed: %v", err)
		}
		if e, ok := token.(xml.StartElement); ok {
			b.WriteString("<" + e.Name.Local)
			for _, a := range e.Attr {
				b.WriteString(" " + a.Name.Local)
				if strings.HasPrefix(strings.ToLower(a.Name.Local), "on") {
					t.Errorf("<%s> has %s", e.Name.Local, a.Name.Local)
				}
			}
		}
	}
}

// T11, G2: whatever errors say, no token is on the page, in its stream, in its
// list or in what can be downloaded.
func TestNoTokenOnThePage(t *testing.T) {
	onStage(t, func(s *stage) {
		conn := s.conn("john")
		b := s.follow("john", "")
		var seen, stream bytes.Buffer
		streamed := make(chan struct{})
		go func() {
			defer close(streamed)
			io.Copy(&stream, b.body)
		}()
		var mu sync.Mutex
		var minted []string
		every := func(token string) (text string) {
			for i := range len(token) {
				text += fmt.Sprintf("%%%02X", token[i])
			}
			return text
		}
		forms := []func(string) string{
			func(token string) string { return token }, url.QueryEscape, every,
			func(token string) string { return base64.StdEncoding.EncodeToString([]byte(token)) },
			func(token string) string { return base64.URLEncoding.EncodeToString([]byte("x" + token)) },
			func(token string) string { return "https://h/connect?authorization=" + token + "&x=y" },
			func(token string) string { return "bad token (" + strings.ReplaceAll(token, ".", "\n.") + ")" },
		}
		source := tokens.Func(func(context.Context) (string, error) {
			token := s.server.Token("john", time.Hour)
			mu.Lock()
			defer mu.Unlock()
			minted = append(minted, token)
			return "", errors.New("cannot take " + forms[(len(minted)-1)%len(forms)](token))
		})
		ctx, cancel := context.WithCancel(s.Context())
		failed := make(chan error, 1)
		go func() {
			_, err := conn.ConnectUser(ctx, chatconn.User{ID: "john"}, source)
			failed <- err
		}()
		for n := 0; n < 2*len(forms); {
			time.Sleep(5 * time.Second)
			synctest.Wait()
			mu.Lock()
			n = len(minted)
			mu.Unlock()
			for _, path := range []string{"/?conn=john", "/list", "/recording?conn=john"} {
				seen.WriteString(get(s.page, path).Body.String())
			}
		}
		cancel()
		<-failed
		conn.Close()
		s.page.Close()
		<-streamed
		text := seen.String() + stream.String()
		if !strings.Contains(stream.String(), "cannot take") || !strings.Contains(text, "[redacted]") {
			s.Error("the errors are not shown at all")
		}
		for _, token := range minted {
			_, secret, _ := strings.Cut(token, ".")
			for _, form := range forms[:5] {
				whole := form(secret)
				for i := 4; i+20 <= len(whole); i++ {
					if strings.Contains(text, whole[i:i+16]) {
						s.Fatalf("a part of a token is on the page, %d bytes from its beginning", i)
					}
				}
			}
		}
		s.Logf("%d tokens are not in %d bytes", len(minted), len(text))
	})
}

// G2: beside a Conn the page costs little memory and no goroutine.
func TestManyAreCheap(t *testing.T) {
	const many = 500
	measure := func(make func(i int) *chatconn.Conn) (bytes, goroutines int) {
		conns := [many]*chatconn.Conn{}
		var before, after runtime.MemStats
		runtime.GC()
		n := runtime.NumGoroutine()
		runtime.ReadMemStats(&before)
		for i := range conns {
			conns[i] = make(i)
			for range 4 { // as many transitions as a connection that opens and stays
				conns[i].Background()
				conns[i].Foreground()
			}
		}
		for _, c := range conns { // the lanes have run dry
			_ = c.DisconnectSocket(t.Context())
		}
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&after)
		goroutines = runtime.NumGoroutine() - n
		for _, c := range conns {
			c.Close()
		}
		return int(after.HeapAlloc-before.HeapAlloc) / many, goroutines
	}
	plain, _ := measure(func(int) *chatconn.Conn { c, _ := chatconn.New(idle); return c })
	recorded, _ := measure(func(int) *chatconn.Conn {
		cfg := idle
		cfg.Record = io.Discard
		c, _ := chatconn.New(cfg)
		return c
	})
	page := new(inspect.Page)
	shown, more := measure(func(i int) *chatconn.Conn {
		c, err := page.New(fmt.Sprint("user-", i), idle)
		if err != nil {
			t.Fatal(err)
		}
		return c
	})
	t.Logf("%d bytes each, %d with a recording, %d on the page", plain, recorded, shown)
	if shown-recorded > 2048 {
		t.Errorf("the page costs %d bytes a Conn", shown-recorded)
	}
	if more > many/10 { // lanes that have not quite run dry
		t.Errorf("the page costs %d goroutines for %d Conns", more, many)
	}
}
