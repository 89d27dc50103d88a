package devserver_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chatconn/chatconn/devserver"
	"github.com/chatconn/chatconn/tokens"
	"github.com/chatconn/chatconn/transport/memnet"
	"github.com/gorilla/websocket"
)

// world is a server and bare clients, in memory and in virtual time.
type world struct {
	*testing.T
	*devserver.Server
	net  *memnet.Network
	http *http.Client
}

// inBubble runs a story in a synctest bubble with a server.
func inBubble(t *testing.T, opts devserver.Options, story func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{T: t, net: memnet.New()}
		opts.Addr, opts.Listen = "chat.test:80", w.net.Listen
		if opts.Secret == nil {
			opts.Secret = []byte("a secret of 24 bytes ...")
		}
		server, err := devserver.Start(opts)
		if err != nil {
			t.Fatal(err)
		}
		w.Server = server
		transport := &http.Transport{DialContext: w.net.DialContext}
		w.http = &http.Client{Transport: transport}
		defer transport.CloseIdleConnections()
		defer server.Close()
		story(w)
	})
}

// client is one bare socket and what came over it.
type client struct {
	w  *world
	ws *websocket.Conn
}

// query returns the connect query of a user in the way of the JS client.
func (w *world) query(userID, token string) url.Values {
	login, _ := json.Marshal(map[string]any{"user_id": userID, "user_details": map[string]any{"id": userID}})
	return url.Values{
		"json": {string(login)}, "api_key": {w.APIKey()}, "authorization": {token}, "stream-auth-type": {"jwt"},
		"X-Stream-Client": {"test"},
	}
}

// dial opens a socket and reads nothing.
func (w *world) dial(query url.Values, header http.Header) (*client, *http.Response, error) {
	dialer := websocket.Dialer{NetDialContext: w.net.DialContext, HandshakeTimeout: time.Minute}
	ws, resp, err := dialer.Dial("ws"+strings.TrimPrefix(w.URL(), "http")+"/connect?"+query.Encode(), header)
	if err != nil {
		return nil, resp, err
	}
	return &client{w, ws}, resp, nil
}

// connect logs a user in and returns the socket and its hello.
func (w *world) connect(userID string) (*client, map[string]any) {
	w.Helper()
	c, _, err := w.dial(w.query(userID, w.Token(userID, 0)), nil)
	if err != nil {
		w.Fatalf("connecting %s: %v", userID, err)
	}
	hello := c.read()
	if hello["type"] != "health.check" || hello["connection_id"] == "" || hello["me"] == nil {
		w.Fatalf("hello of %s: %v", userID, hello)
	}
	return c, hello
}

// read returns the next message, which must come within 30 s.
func (c *client) read() map[string]any {
	c.w.Helper()
	c.ws.SetReadDeadline(time.Now().Add(30 * time.Second))
	var event map[string]any
	if err := c.ws.ReadJSON(&event); err != nil {
		c.w.Fatalf("reading: %v", err)
	}
	return event
}

// silence fails the test if anything comes within d. The socket is of no use
// afterwards: a read that timed out is final.
func (c *client) silence(d time.Duration) {
	c.w.Helper()
	c.ws.SetReadDeadline(time.Now().Add(d))
	_, data, err := c.ws.ReadMessage()
	if timeout := net.Error(nil); !errors.As(err, &timeout) || !timeout.Timeout() {
		c.w.Fatalf("want silence, got %s, %v", data, err)
	}
}

// closed returns the close code that ends the socket; 1006 if none comes.
func (c *client) closed() int {
	c.w.Helper()
	for {
		_, data, err := c.ws.ReadMessage()
		if told := (*websocket.CloseError)(nil); errors.As(err, &told) {
			return told.Code
		}
		if err != nil {
			return websocket.CloseAbnormalClosure
		}
		c.w.Fatalf("want the end, got %s", data)
	}
}

// call makes an API request and decodes the answer.
func (w *world) call(method, path, token string, body any) (int, map[string]any) {
	w.Helper()
	status, _, answer := w.raw(method, path, token, body)
	var object map[string]any
	if err := json.Unmarshal(answer, &object); err != nil {
		w.Fatalf("%s %s: %s", method, path, answer)
	}
	return status, object
}

func (w *world) raw(method, path, token string, body any) (int, http.Header, []byte) {
	w.Helper()
	data, _ := json.Marshal(body)
	separator := "?"
	if strings.Contains(path, "?") {
		separator = "&"
	}
	req, err := http.NewRequestWithContext(context.Background(), method, w.URL()+path+separator+"api_key="+w.APIKey(), bytes.NewReader(data))
	if err != nil {
		w.Fatal(err)
	}
	req.Header.Set("Stream-Auth-Type", "jwt")
	if token == "" {
		req.Header.Set("Stream-Auth-Type", "anonymous")
	} else {
		req.Header.Set("Authorization", token)
	}
	resp, err := w.http.Do(req)
	if err != nil {
		w.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		w.Fatal(err)
	}
	return resp.StatusCode, resp.Header, answer
}

// seen returns the entries of a kind.
func (w *world) seen(kind devserver.Kind) (entries []devserver.Entry) {
	for _, e := range w.Log() {
		if e.Kind == kind {
			entries = append(entries, e)
		}
	}
	return entries
}

// refusal reads an error frame and the close frame after it.
func (c *client) refusal() (code, status float64, bare bool) {
	c.w.Helper()
	frame := c.read()
	e, _ := frame["error"].(map[string]any)
	code, _ = e["code"].(float64)
	status, _ = e["StatusCode"].(float64)
	if end := c.closed(); end != websocket.CloseNormalClosure {
		c.w.Fatalf("an error frame is followed by close 1000, got %d", end)
	}
	return code, status, frame["type"] == nil
}

func TestD1_Defaults(t *testing.T) {
	one, err := devserver.Start(devserver.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer one.Close()
	two, err := devserver.Start(devserver.Options{Addr: "localhost:0", APIKey: "key"})
	if err != nil {
		t.Fatal(err)
	}
	defer two.Close()
	if !strings.HasPrefix(one.URL(), "http://127.0.0.1:") || one.APIKey() != "devkey" || two.APIKey() != "key" {
		t.Error(one.URL(), one.APIKey(), two.APIKey())
	}
	if len(one.Secret()) != 32 || bytes.Equal(one.Secret(), two.Secret()) {
		t.Error("secrets are 32 random bytes")
	}
	one.Secret()[0]++
	if _, err := tokens.Verify(one.Secret(), one.Token("alice", 0)); err != nil {
		t.Errorf("Secret is a copy: %v", err)
	}
}

func TestD1_LoopbackUnlessAllowed(t *testing.T) {
	open, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	for name, opts := range map[string]devserver.Options{
		"every interface": {Addr: ":0"},
		"an address":      {Addr: "0.0.0.0:0"},
		"a listener":      {Listener: open},
		"an opener":       {Listen: func(string) (net.Listener, error) { return net.Listen("tcp", "0.0.0.0:0") }},
	} {
		if s, err := devserver.Start(opts); !errors.Is(err, devserver.ErrRemote) {
			t.Errorf("%s: %v", name, err)
			s.Close()
		}
	}
	s, err := devserver.Start(devserver.Options{Addr: ":0", AllowRemote: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if !strings.HasPrefix(s.URL(), "http://127.0.0.1:") {
		t.Error(s.URL())
	}
}

func TestT7_ShortSecretIsRefused(t *testing.T) {
	for _, n := range []int{0, 1, 15} {
		if s, err := devserver.Start(devserver.Options{Secret: make([]byte, n)}); !errors.Is(err, devserver.ErrShortSecret) {
			t.Errorf("%d bytes: %v", n, err)
			s.Close()
		}
	}
	s, err := devserver.Start(devserver.Options{Secret: make([]byte, 16)})
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
}

func TestStart_AddressInUse(t *testing.T) {
	net := memnet.New()
	s, err := devserver.Start(devserver.Options{Addr: "a:1", Listen: net.Listen})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := devserver.Start(devserver.Options{Addr: "a:1", Listen: net.Listen}); err == nil {
		t.Error("the address is taken")
	}
}

func TestToken(t *testing.T) {
	inBubble(t, devserver.Options{TokenTTL: time.Hour}, func(w *world) {
		now := time.Now().Truncate(time.Second)
		for name, c := range map[string]struct{ ttl, want time.Duration }{
			"the options' ttl": {0, time.Hour},
			"its own":          {time.Minute, time.Minute},
			"expired":          {-time.Minute, -time.Minute},
		} {
			claims, err := tokens.Verify(w.Secret(), w.Token("alice", c.ttl))
			if refused := (*tokens.VerifyError)(nil); c.ttl < 0 && (!errors.As(err, &refused) || refused.Code != 40) {
				w.Errorf("%s: %v", name, err)
			}
			if !claims.ExpiresAt.Equal(now.Add(c.want)) || !claims.IssuedAt.Equal(now) || claims.UserID != "alice" {
				w.Errorf("%s: %+v", name, claims)
			}
		}
		if one, two := w.Token("alice", 0), w.Token("alice", 0); one == two {
			w.Error("every token is a new one")
		}
	})
}

// Close in every phase ends at once, and the bubble finds what it leaves behind.
func TestClose_EndsEverything(t *testing.T) {
	phases := map[string]func(w *world){
		"idle":   func(w *world) {},
		"open":   func(w *world) { w.connect("alice") },
		"closed": func(w *world) { w.Close() },
		"a connection without a request": func(w *world) {
			if _, err := w.net.DialContext(context.Background(), "tcp", "chat.test:80"); err != nil {
				w.Fatal(err)
			}
		},
		"a muted request": func(w *world) {
			w.SilenceHTTP(true)
			go w.http.Post(w.URL()+"/guest", "application/json", strings.NewReader("{}"))
		},
		"a slow request": func(w *world) {
			w.Slow(time.Hour)
			go w.http.Get(w.URL() + "/app")
		},
		"a silent socket that said goodbye": func(w *world) {
			alice, _ := w.connect("alice")
			w.Silence(true)
			alice.ws.WriteControl(websocket.CloseMessage, nil, time.Now().Add(time.Second))
		},
		"refusing": func(w *world) { w.RefuseConnections(true) },
		"stopped":  func(w *world) { w.Stop() },
	}
	for name, phase := range phases {
		t.Run(name, func(t *testing.T) {
			inBubble(t, devserver.Options{HealthCheckInterval: time.Minute}, func(w *world) {
				phase(w)
				synctest.Wait()
				began := time.Now()
				if err := w.Close(); err != nil || time.Since(began) != 0 {
					w.Errorf("closed after %s: %v", time.Since(began), err)
				}
				if err := w.Close(); err != nil {
					w.Errorf("again: %v", err)
				}
				if err := w.Restart(); !errors.Is(err, devserver.ErrClosed) {
					w.Errorf("restarted: %v", err)
				}
			})
		})
	}
}

// A foreign listener is closed by Close only; meanwhile it resets what it accepts.
func TestStop_KeepsForeignListener(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := memnet.New()
		ln, err := network.Listen("chat.test:80")
		if err != nil {
			t.Fatal(err)
		}
		s, err := devserver.Start(devserver.Options{Listener: ln})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		transport := &http.Transport{DialContext: network.DialContext, DisableKeepAlives: true}
		get := func() error {
			resp, err := (&http.Client{Transport: transport}).Get(s.URL() + "/app")
			if err == nil {
				resp.Body.Close()
			}
			return err
		}
		if err := get(); err != nil {
			t.Error(err)
		}
		s.Stop()
		if get() == nil {
			t.Error("answered while stopped")
		}
		if err := s.Restart(); err != nil {
			t.Error(err)
		}
		if err := get(); err != nil {
			t.Errorf("after the restart: %v", err)
		}
	})
}

func TestHandler_OnAnotherListener(t *testing.T) {
	s, err := devserver.Start(devserver.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	other := httptest.NewServer(s.Handler())
	defer other.Close()
	w := &world{T: t, Server: s, http: other.Client()}
	ws, _, err := websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(other.URL, "http")+"/connect?"+w.query("alice", s.Token("alice", 0)).Encode(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if hello := (&client{w, ws}).read(); hello["connection_id"] == nil {
		t.Error(hello)
	}
	s.Close() // ends sockets of other listeners as well
	if _, _, err := ws.ReadMessage(); err == nil {
		t.Error("the socket outlived the server")
	}
	if resp, err := other.Client().Get(other.URL + "/app"); err == nil {
		t.Error("answered after Close:", resp.Status)
	}
}

// D3: the one story on a real network: what a TCP reset and a closed port look like.
func TestD3_RealSockets(t *testing.T) {
	s, err := devserver.Start(devserver.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	w := &world{T: t, Server: s}
	dial := func() (*client, error) {
		ws, _, err := websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(s.URL(), "http")+"/connect?"+w.query("alice", s.Token("alice", 0)).Encode(), nil)
		if err != nil {
			return nil, err
		}
		c := &client{w, ws}
		c.read()
		return c, nil
	}
	alice, err := dial()
	if err != nil {
		t.Fatal(err)
	}
	s.DropAll()
	if _, _, err := alice.ws.ReadMessage(); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("DropAll resets: %v", err)
	}
	if alice, err = dial(); err != nil {
		t.Fatal(err)
	}
	url := s.URL()
	s.Stop()
	if _, _, err := alice.ws.ReadMessage(); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("Stop resets: %v", err)
	}
	if _, err := dial(); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a stopped server refuses: %v", err)
	}
	if err := s.Restart(); err != nil || s.URL() != url {
		t.Fatal(err, s.URL())
	}
	if _, err = dial(); err != nil {
		t.Fatal(err)
	}
	s.RefuseConnections(true)
	if _, err := dial(); err == nil {
		t.Error("connected while refusing")
	}
	if s.Connections("alice") != 1 {
		t.Error("open sockets stay")
	}
}
