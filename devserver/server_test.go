package devserver_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chatconn/chatconn/devserver"
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

func TestSmoke(t *testing.T) {
	inBubble(t, devserver.Options{}, func(w *world) {
		alice, _ := w.connect("alice")
		bob, _ := w.connect("bob")
		alice.ws.WriteMessage(websocket.TextMessage, []byte(`[{"type":"health.check"}]`))
		if got := alice.read(); got["type"] != "health.check" || got["me"] != nil {
			w.Fatal(got)
		}
		status, body := w.call("POST", "/channels/messaging/x/query", w.Token("alice", 0), map[string]any{"data": map[string]any{"members": []string{"alice", "bob"}}})
		if status != 201 {
			w.Fatal(status, body)
		}
		status, body = w.call("POST", "/channels/messaging/x/message", w.Token("alice", 0), map[string]any{"message": map[string]any{"text": "hi"}})
		if status != 201 {
			w.Fatal(status, body)
		}
		if got := bob.read(); got["type"] != "message.new" {
			w.Fatal(got)
		}
	})
}
