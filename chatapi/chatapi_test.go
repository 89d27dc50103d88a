package chatapi_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chatconn/chatconn"
	"github.com/chatconn/chatconn/chatapi"
	"github.com/chatconn/chatconn/devserver"
	"github.com/chatconn/chatconn/tokens"
	"github.com/chatconn/chatconn/transport/memnet"
)

// connect starts a server in memory and connects users to it.
func connect(t *testing.T, users ...string) (server *devserver.Server, conns []*chatconn.Conn, apis []*chatapi.Client) {
	t.Helper()
	net := memnet.New()
	server, err := devserver.Start(devserver.Options{Addr: "127.0.0.1:80", Listen: net.Listen})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	for _, id := range users {
		conn, err := chatconn.New(chatconn.Config{APIKey: server.APIKey(), BaseURL: server.URL(), DialContext: net.DialContext})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		source := tokens.Func(func(context.Context) (string, error) { return server.Token(id, time.Hour), nil })
		if _, err := conn.ConnectUser(t.Context(), chatconn.User{ID: id}, source); err != nil {
			t.Fatal(err)
		}
		conns, apis = append(conns, conn), append(apis, chatapi.New(conn.HTTPClient(), server.URL()+"/"))
	}
	return server, conns, apis
}

// D2: a channel is created and read, a message reaches the other member as an
// event, a repeated one does not, and reading it counts.
func TestD2_QuerySendMarkRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		_, conns, apis := connect(t, "ann", "bob")
		ann, bob := apis[0], apis[1]
		const cid = "messaging:a room/1"

		channel, err := ann.Query(ctx, cid, chatapi.Query{Members: []string{"ann", "bob"}})
		if err != nil || channel.CID != cid || len(channel.Members) != 2 || channel.Members[1].ID != "bob" {
			t.Fatalf("got %+v, %v", channel, err)
		}
		events := conns[1].Events(ctx, "message.new")
		sent, err := ann.Send(ctx, cid, "first", "hello")
		if err != nil || sent.ID != "first" || sent.CID != cid || sent.Text != "hello" || sent.User.ID != "ann" || sent.CreatedAt.IsZero() {
			t.Errorf("sent %+v, %v", sent, err)
		}
		if _, err := ann.Send(ctx, cid, "first", "hello again"); err != nil {
			t.Error(err)
		}
		if again, err := ann.Send(ctx, cid, "", "second"); err != nil || again.ID == "" {
			t.Errorf("sent %+v, %v", again, err)
		}
		for _, want := range []string{"hello", "second"} {
			var got chatapi.NewMessage
			if err := json.Unmarshal((<-events).Raw, &got); err != nil || got.Message.Text != want || got.Message.User.ID != "ann" {
				t.Errorf("event %+v, %v; want %q", got, err, want)
			}
		}
		if err := bob.MarkRead(ctx, cid); err != nil {
			t.Error(err)
		}
		channel, err = bob.Query(ctx, cid, chatapi.Query{Messages: 1})
		if err != nil || len(channel.Messages) != 1 || channel.Messages[0].Text != "second" {
			t.Errorf("got %+v, %v", channel, err)
		}
	})
}

// D2: a watched channel's events come without membership.
func TestD2_Watch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, conns, apis := connect(t, "ann")
		if err := server.AddMember("livestream:news", "bob"); err != nil {
			t.Fatal(err)
		}
		events := conns[0].Events(t.Context(), "message.new")
		if _, err := apis[0].Query(t.Context(), "livestream:news", chatapi.Query{Watch: true}); err != nil {
			t.Fatal(err)
		}
		if err := server.Send("livestream:news", "bob", "breaking"); err != nil {
			t.Fatal(err)
		}
		if e := <-events; e.CID != "livestream:news" {
			t.Errorf("got %+v", e)
		}
	})
}

// E1: a refusal of the service is an *Error with its code.
func TestE1_Refusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, _, apis := connect(t, "ann")
		if err := server.AddMember("messaging:private", "bob"); err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			name         string
			call         func() error
			code, status int
			says         string
		}{
			{"not a member", func() error {
				_, err := apis[0].Query(t.Context(), "messaging:private", chatapi.Query{})
				return err
			}, 17, 403, "not allowed"},
			{"no channel", func() error { return apis[0].MarkRead(t.Context(), "messaging:none") }, 16, 404, "Can't find channel"},
			{"input", func() error {
				_, err := apis[0].Send(t.Context(), "messaging:private", "", strings.Repeat("x", 20_001))
				return err
			}, 20, 400, "too long"},
		} {
			var refusal *chatapi.Error
			if err := c.call(); !errors.As(err, &refusal) || refusal.Code != c.code || refusal.StatusCode != c.status || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%s: %v", c.name, err)
			}
		}
	})
}

// E1: what is not the service's answer keeps its status and first bytes; what is
// no answer at all is the client's error.
func TestE1_OtherAnswers(t *testing.T) {
	var answer func(w http.ResponseWriter)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { answer(w) }))
	defer s.Close()
	says := func(status int, body string) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) {
			w.WriteHeader(status)
			io.WriteString(w, body)
		}
	}
	for _, c := range []struct {
		name   string
		answer func(http.ResponseWriter)
		want   chatapi.Error // zero: no *Error
		says   string
	}{
		{"html", says(502, "<html>"+strings.Repeat("é", 1000)), chatapi.Error{StatusCode: 502, Message: "<html>" + strings.Repeat("é", 253)}, ""},
		{"foreign JSON", says(429, `{"message":"slow down"}`), chatapi.Error{StatusCode: 429, Message: `{"message":"slow down"}`}, ""},
		{"array", says(500, `[]`), chatapi.Error{StatusCode: 500, Message: `[]`}, ""},
		{"empty", says(503, ""), chatapi.Error{StatusCode: 503}, ""},
		{"negative code", says(500, `{"code":-1,"message":"internal","StatusCode":500}`), chatapi.Error{Code: -1, StatusCode: 500, Message: "internal"}, ""},
		{"redirect", says(302, ""), chatapi.Error{StatusCode: 302}, ""},
		{"success that is no JSON", says(200, "<html>"), chatapi.Error{}, "not the expected JSON"},
		{"too much", says(200, strings.Repeat(" ", 16<<20+1)), chatapi.Error{}, "more than 16777216 bytes"},
		{"broken off", func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", "9")
			io.WriteString(w, "{}")
		}, chatapi.Error{}, "unexpected EOF"},
	} {
		t.Run(c.name, func(t *testing.T) {
			answer = c.answer
			_, err := chatapi.New(s.Client(), s.URL).Query(t.Context(), "messaging:x", chatapi.Query{})
			var refusal *chatapi.Error
			if err == nil || errors.As(err, &refusal) != (c.want != chatapi.Error{}) || !strings.Contains(err.Error(), c.says) {
				t.Fatalf("got %v", err)
			}
			if refusal != nil && *refusal != c.want {
				t.Errorf("got %+v", *refusal)
			}
		})
	}
}

// A cid that cannot be one is not sent; any other is one segment of the path each.
func TestCIDs(t *testing.T) {
	var path string
	client := &http.Client{Transport: sends(func(req *http.Request) { path = req.URL.EscapedPath() })}
	for _, c := range []struct{ cid, path string }{
		{"messaging:general", "/base/channels/messaging/general/read"},
		{"messaging:a:b", "/base/channels/messaging/a:b/read"},
		{"messaging:../../app?x#y", "/base/channels/messaging/..%2F..%2Fapp%3Fx%23y/read"},
		{"messaging:..", ""}, {"..:a", ""}, {".:a", ""}, {"general", ""}, {":general", ""}, {"messaging:", ""}, {"", ""},
	} {
		path = ""
		err := chatapi.New(client, "https://chat.example/base/").MarkRead(t.Context(), c.cid)
		if path != c.path || (err == nil) != (c.path != "") {
			t.Errorf("%q went to %q, %v", c.cid, path, err)
		}
	}
}

// The default is the Conn's.
func TestDefaultBaseURL(t *testing.T) {
	client := &http.Client{Transport: sends(func(req *http.Request) {
		if got := req.URL.Scheme + "://" + req.URL.Host; got != chatconn.DefaultBaseURL {
			t.Errorf("sent to %s", got)
		}
	})}
	if err := chatapi.New(client, "").MarkRead(t.Context(), "messaging:x"); err != nil {
		t.Error(err)
	}
}

// sends answers every request with an empty object.
type sends func(*http.Request)

func (see sends) RoundTrip(req *http.Request) (*http.Response, error) {
	see(req)
	return &http.Response{StatusCode: 200, Header: http.Header{}, Body: io.NopCloser(strings.NewReader("{}")), Request: req}, nil
}
