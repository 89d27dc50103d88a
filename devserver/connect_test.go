package devserver_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chatconn/chatconn/devserver"
	"github.com/chatconn/chatconn/tokens"
	"github.com/gorilla/websocket"
)

// sign makes a token that tokens.Sign would not.
func sign(secret []byte, header, payload string) string {
	encoding := base64.RawURLEncoding
	unsigned := encoding.EncodeToString([]byte(header)) + "." + encoding.EncodeToString([]byte(payload))
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(unsigned))
	return unsigned + "." + encoding.EncodeToString(mac.Sum(nil))
}

const hs256 = `{"alg":"HS256","typ":"JWT"}`

// D1: every form in which the official clients log in (protocol 1.2).
func TestD1_LoginForms(t *testing.T) {
	inBubble(t, devserver.Options{}, func(w *world) {
		forms := map[string]struct {
			query                url.Values
			header               http.Header
			auth, client, detail string
		}{
			"JS": {
				query: url.Values{
					"json":    {`{"user_id":"john","user_details":{"id":"john","name":"J; + ü","favorite":{"a":[1]}},"device":{"id":"d","push_provider":"apn"},"client_request_id":"1"}`},
					"api_key": {"devkey"}, "authorization": {w.Token("john", 0)}, "stream-auth-type": {"jwt"},
					"X-Stream-Client": {"stream-chat-js-v9.53.0-node|client_bundle=node-cjs"},
				},
				auth: "query", client: "stream-chat-js-v9.53.0-node|client_bundle=node-cjs", detail: "favorite",
			},
			"Swift": {
				query: url.Values{
					"json":    {`{"user_id":"john","user_details":{"id":"john","invisible":false,"privacy_settings":{"read_receipts":{"enabled":true}}},"server_determines_connection_id":true}`},
					"api_key": {"devkey"},
				},
				header: http.Header{"Authorization": {w.Token("john", 0)}, "Stream-Auth-Type": {"jwt"}, "X-Stream-Client": {"swift"}},
				auth:   "header", client: "swift", detail: "privacy_settings",
			},
			"Flutter": {
				query: url.Values{
					"json":    {`{"user_id":"john","user_details":{"id":"john"},"user_token":"` + w.Token("john", 0) + `","server_determines_connection_id":true}`},
					"api_key": {"devkey"}, "authorization": {w.Token("john", 0)}, "stream-auth-type": {"jwt"}, "X-Stream-Client": {`"flutter|os=linux"`},
				},
				auth: "query", client: "flutter|os=linux", detail: `"id"`,
			},
			"no details": {
				query: url.Values{
					"json": {`{"user_id":"john"}`}, "api_key": {"devkey"}, "authorization": {w.Token("john", 0)}, "stream-auth-type": {"jwt"},
				},
				auth: "query",
			},
			"null details": {
				query: url.Values{
					"json": {`{"user_id":"john","user_details":null}`}, "api_key": {"devkey"}, "authorization": {w.Token("john", 0)}, "stream-auth-type": {"jwt"},
				},
				auth: "query",
			},
			"the header first": {
				query: url.Values{
					"json": {`{"user_details":{"id":"john"}}`}, "api_key": {"devkey"}, "authorization": {"nonsense"}, "stream-auth-type": {"jwt"},
				},
				header: http.Header{"Authorization": {w.Token("john", 0)}},
				auth:   "header",
			},
		}
		for name, form := range forms {
			c, _, err := w.dial(form.query, form.header)
			if err != nil {
				w.Fatalf("%s: %v", name, err)
			}
			hello := c.read()
			if me, _ := hello["me"].(map[string]any); me["id"] != "john" {
				w.Errorf("%s: %v", name, hello)
			}
			entries := w.seen(devserver.Connect)
			e := entries[len(entries)-1]
			if e.UserID != "john" || e.Auth != form.auth || e.Client != form.client || !strings.Contains(string(e.Details), form.detail) || len(e.Token) != 8 || e.Code != 0 {
				w.Errorf("%s: %+v", name, e)
			}
		}
	})
}

func TestD1_UnusualIDs(t *testing.T) {
	inBubble(t, devserver.Options{}, func(w *world) {
		for _, id := range []string{"a b", "a+b;c&d=e", "jürgen@x.org", `quo"te\`, "<b>", "日本", "!x/../y%20"} {
			_, hello := w.connect(id)
			if me := hello["me"].(map[string]any); me["id"] != id {
				w.Errorf("%q became %q", id, me["id"])
			}
			if w.Connections(id) != 1 {
				w.Errorf("%q is not connected", id)
			}
		}
	})
}

// D1, T7: every refusal upgrades first, says why in a frame and closes with 1000.
func TestD1_Refusals(t *testing.T) {
	story := func(w *world) {
		secret, now := w.Secret(), time.Now()
		minted := func(claims tokens.Claims) string {
			token, err := tokens.Sign(secret, claims)
			if err != nil {
				w.Fatal(err)
			}
			return token
		}
		good := w.Token("alice", 0)
		cases := map[string]struct {
			change       func(q url.Values)
			code, status float64
		}{
			"unknown api key":   {func(q url.Values) { q.Set("api_key", "other") }, 2, 401},
			"no api key":        {func(q url.Values) { q.Del("api_key") }, 2, 401},
			"no auth type":      {func(q url.Values) { q.Del("stream-auth-type") }, 2, 401},
			"unknown auth type": {func(q url.Values) { q.Set("stream-auth-type", "basic") }, 2, 401},
			"no token":          {func(q url.Values) { q.Del("authorization") }, 5, 401},
			"two segments":      {func(q url.Values) { q.Set("authorization", good[:strings.LastIndex(good, ".")]) }, 5, 401},
			"a Bearer prefix":   {func(q url.Values) { q.Set("authorization", "Bearer "+good) }, 5, 401},
			"expired":           {func(q url.Values) { q.Set("authorization", w.Token("alice", -time.Second)) }, 40, 401},
			"not yet valid": {func(q url.Values) {
				q.Set("authorization", sign(secret, hs256, fmt.Sprintf(`{"user_id":"alice","nbf":%d}`, now.Unix()+60)))
			}, 41, 401},
			"issued in the future": {func(q url.Values) {
				q.Set("authorization", minted(tokens.Claims{UserID: "alice", IssuedAt: now.Add(time.Minute)}))
			}, 42, 401},
			"another secret":       {func(q url.Values) { q.Set("authorization", sign([]byte("another"), hs256, `{"user_id":"alice"}`)) }, 43, 401},
			"another user's token": {func(q url.Values) { q.Set("authorization", w.Token("bob", 0)) }, 5, 401},
			"a server token":       {func(q url.Values) { q.Set("authorization", minted(tokens.Claims{Server: true})) }, 5, 401},
			"no json":              {func(q url.Values) { q.Del("json") }, 4, 400},
			"json that is none":    {func(q url.Values) { q.Set("json", `{"user_id":`) }, 4, 400},
			"no user id":           {func(q url.Values) { q.Set("json", `{"user_details":{"name":"x"}}`) }, 4, 400},
			"an id of 256 bytes":   {func(q url.Values) { q.Set("json", `{"user_id":"`+strings.Repeat("x", 256)+`"}`) }, 4, 400},
			"details of 6 KB": {func(q url.Values) {
				q.Set("json", `{"user_id":"alice","user_details":{"x":"`+strings.Repeat("x", 6<<10)+`"}}`)
			}, 4, 400},
			"details in an array": {func(q url.Values) { q.Set("json", `{"user_id":"alice","user_details":[]}`) }, 4, 400},
		}
		for name, c := range cases {
			for _, bare := range []bool{false, true} {
				w.BareErrors(bare)
				q := w.query("alice", good)
				c.change(q)
				client, _, err := w.dial(q, nil)
				if err != nil {
					w.Fatalf("%s: %v", name, err)
				}
				if code, status, alone := client.refusal(); code != c.code || status != c.status || alone != bare {
					w.Errorf("%s: code %v, status %v, bare %t", name, code, status, alone)
				}
				client.ws.Close()
			}
		}
		if n := w.MaxSockets("alice"); n != 0 {
			w.Errorf("refused logins counted as %d sockets", n)
		}
		if got, want := len(w.seen(devserver.Refused)), 2*len(cases); got != want {
			w.Errorf("%d refusals recorded, want %d", got, want)
		}
	}
	inBubble(t, devserver.Options{}, story)
}

// T8: dev tokens and unverified ones are good only with auth checks disabled.
func TestT8_DisableAuthChecks(t *testing.T) {
	logins := map[string]func(w *world) url.Values{
		"a dev token": func(w *world) url.Values { return w.query("luke_skywalker", tokens.DevToken("luke_skywalker")) },
		"a foreign token": func(w *world) url.Values {
			return w.query("john", sign([]byte("x"), hs256, `{"user_id":"john","exp":1}`))
		},
		"no token":          func(w *world) url.Values { return w.query("john", "") },
		"another's token":   func(w *world) url.Values { return w.query("john", tokens.DevToken("mary")) },
		"no token, no name": func(w *world) url.Values { q := w.query("", ""); q.Set("json", "{}"); return q },
		"not a token":       func(w *world) url.Values { return w.query("john", "a.b") },
	}
	welcome := map[string]bool{"a dev token": true, "a foreign token": true, "no token": true}
	for _, disabled := range []bool{true, false} {
		inBubble(t, devserver.Options{DisableAuthChecks: disabled}, func(w *world) {
			for name, login := range logins {
				c, _, err := w.dial(login(w), nil)
				if err != nil {
					w.Fatal(err)
				}
				first := c.read()
				if got := first["type"] == "health.check"; got != (disabled && welcome[name]) {
					w.Errorf("disabled %t, %s: %v", disabled, name, first)
				}
				c.ws.Close()
			}
		})
	}
}

// C4: the server creates whom it does not know, and a login with nothing but the
// id changes nothing.
func TestC4_DetailsAreKept(t *testing.T) {
	inBubble(t, devserver.Options{}, func(w *world) {
		login := func(details string) map[string]any {
			q := w.query("alice", w.Token("alice", 0))
			q.Set("json", `{"user_id":"alice","user_details":`+details+`}`)
			c, _, err := w.dial(q, nil)
			if err != nil {
				w.Fatal(err)
			}
			return c.read()["me"].(map[string]any)
		}
		first := login(`{"id":"alice","name":"Alice","score":7,"tags":["a"],"role":"admin","created_at":"1999-01-01T00:00:00Z"}`)
		if first["name"] != "Alice" || first["score"] != 7.0 || fmt.Sprint(first["tags"]) != "[a]" {
			w.Errorf("custom fields stand at the root: %v", first)
		}
		if first["role"] != "user" || first["online"] != true || first["created_at"] == "1999-01-01T00:00:00Z" {
			w.Errorf("what only the server sets: %v", first)
		}
		for _, field := range []string{"devices", "mutes", "channel_mutes"} {
			if list, ok := first[field].([]any); !ok || len(list) != 0 {
				w.Errorf("%s: %v", field, first[field])
			}
		}
		if first["total_unread_count"] != 0.0 || first["unread_channels"] != 0.0 {
			w.Errorf("unread counts: %v", first)
		}
		time.Sleep(time.Minute)
		again := login(`{"id":"alice"}`)
		if again["name"] != "Alice" || again["updated_at"] != first["updated_at"] || again["created_at"] != first["created_at"] {
			w.Errorf("a login with the id alone changed %v into %v", first, again)
		}
		if changed := login(`{"id":"alice","name":"Al"}`); changed["name"] != "Al" || changed["score"] != 7.0 || changed["updated_at"] == first["updated_at"] {
			w.Errorf("an update: %v", changed)
		}
	})
}

func TestT10_Anonymous(t *testing.T) {
	inBubble(t, devserver.Options{}, func(w *world) {
		for _, id := range []string{"!anon", "b2c6-random", "__anonymous__x"} {
			q := w.query(id, "")
			q.Set("stream-auth-type", "anonymous")
			q.Set("json", `{"user_id":"`+id+`","user_details":{"id":"`+id+`","name":"somebody"}}`)
			c, _, err := w.dial(q, nil)
			if err != nil {
				w.Fatal(err)
			}
			if me := c.read()["me"].(map[string]any); me["id"] != "!anon" || me["role"] != "anonymous" || me["name"] != nil {
				w.Errorf("%s: %v", id, me)
			}
		}
		if w.Connections("!anon") != 3 || w.Connections("b2c6-random") != 0 || w.Connections("") != 3 {
			w.Error("all of them are !anon")
		}
	})
}

// Protocol 1.9: whatever a client sends is answered with a health check.
func TestD1_AnyFrameIsAHealthCheck(t *testing.T) {
	inBubble(t, devserver.Options{}, func(w *world) {
		c, hello := w.connect("alice")
		var pong string
		c.ws.SetPongHandler(func(data string) error { pong = data; return nil })
		frames := []struct {
			op   int
			data string
		}{
			{websocket.TextMessage, `[{"type":"health.check","client_id":"alice--1"}]`},
			{websocket.TextMessage, `{"type":"health.check","client_id":"x"}`},
			{websocket.TextMessage, `null`},
			{websocket.TextMessage, ``},
			{websocket.TextMessage, strings.Repeat("x", 300<<10)},
			{websocket.BinaryMessage, "\x00\xff"},
			{websocket.PingMessage, "hey"},
		}
		for _, f := range frames {
			if f.op == websocket.PingMessage {
				c.ws.WriteControl(f.op, []byte(f.data), time.Now().Add(time.Second))
			} else {
				c.ws.WriteMessage(f.op, []byte(f.data))
			}
			got := c.read()
			if _, me := got["me"]; got["type"] != "health.check" || got["connection_id"] != hello["connection_id"] || me || got["cid"] != "*" {
				w.Errorf("after %.20q: %v", f.data, got)
			}
			if _, err := time.Parse(time.RFC3339Nano, got["created_at"].(string)); err != nil {
				w.Error(err)
			}
		}
		synctest.Wait()
		if pong == "" {
			c.ws.WriteMessage(websocket.TextMessage, nil)
			c.read() // the pong handler runs while reading
		}
		if pong != "hey" {
			w.Errorf("pong %q", pong)
		}
		if n := len(w.seen(devserver.Frame)) + len(w.seen(devserver.Ping)); n < len(frames) {
			w.Errorf("%d frames recorded", n)
		}
		c.silence(time.Hour) // unasked it sends nothing
	})
}

func TestHealthCheckInterval(t *testing.T) {
	inBubble(t, devserver.Options{HealthCheckInterval: 20 * time.Second}, func(w *world) {
		c, _ := w.connect("alice")
		began := time.Now()
		for range 3 {
			if got := c.read(); got["type"] != "health.check" {
				w.Error(got)
			}
		}
		if d := time.Since(began); d != time.Minute {
			w.Errorf("three checks in %s", d)
		}
	})
}

// A socket whose close frame came or left no longer counts.
func TestConnections(t *testing.T) {
	inBubble(t, devserver.Options{}, func(w *world) {
		one, _ := w.connect("alice")
		two, _ := w.connect("alice")
		w.connect("bob")
		if w.Connections("alice") != 2 || w.Connections("") != 3 || w.MaxSockets("alice") != 2 || w.MaxSockets("nobody") != 0 {
			w.Error(w.Connections("alice"), w.Connections(""), w.MaxSockets("alice"))
		}
		one.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(1000, "bye"), time.Now().Add(time.Second))
		synctest.Wait()
		if w.Connections("alice") != 1 {
			w.Error("a close frame came")
		}
		if code := one.closed(); code != 1000 {
			w.Errorf("it is answered: %d", code)
		}
		w.connect("alice")
		if w.MaxSockets("alice") != 2 {
			w.Error("one after the other is not at a time")
		}
		w.CloseAll(1012, "restart")
		synctest.Wait()
		if w.Connections("") != 0 {
			w.Error("close frames left")
		}
		if code := two.closed(); code != 1012 {
			w.Error(code)
		}
		w.connect("alice")
		w.DropAll()
		if w.Connections("") != 0 {
			w.Error("all were cut")
		}
		for _, e := range w.seen(devserver.Close) {
			if e.By == "client" && (e.Code != 1000 && e.Code != 1012 || e.UserID == "") || e.By == "" {
				w.Errorf("%+v", e)
			}
		}
	})
}

// The server gives a client 1 s to answer its close frame.
func TestClose_WaitsForThePeer(t *testing.T) {
	inBubble(t, devserver.Options{}, func(w *world) {
		c, _ := w.connect("alice")
		c.ws.SetCloseHandler(func(int, string) error { return nil }) // does not answer
		w.CloseAll(1000, strings.Repeat("ü", 100))
		if _, _, err := c.ws.ReadMessage(); err.(*websocket.CloseError).Text != strings.Repeat("ü", 61) {
			w.Errorf("a reason is cut to fit: %v", err)
		}
		began := time.Now()
		raw := c.ws.NetConn()
		if _, err := raw.Read(make([]byte, 1)); err == nil || time.Since(began) != time.Second {
			w.Errorf("hung up after %s: %v", time.Since(began), err)
		}
	})
}

// A client that does not read is dropped; nobody else waits for it.
func TestSlowClientIsDropped(t *testing.T) {
	inBubble(t, devserver.Options{}, func(w *world) {
		w.connect("sleeper")
		awake, _ := w.connect("awake")
		padding := strings.Repeat("x", 100<<10)
		for range 20 { // far more than the network buffers
			w.Emit("", map[string]any{"type": "burst", "padding": padding})
		}
		began := time.Now()
		for range 20 {
			if got := awake.read(); got["type"] != "burst" {
				w.Fatal(got)
			}
		}
		if d := time.Since(began); d != 0 {
			w.Errorf("the reader waited %s for the sleeper", d)
		}
		time.Sleep(11 * time.Second)
		synctest.Wait()
		if w.Connections("sleeper") != 0 || w.Connections("awake") != 1 {
			w.Error("the sleeper alone is dropped once a write took 10 s")
		}
	})
}

func TestQueueIsBounded(t *testing.T) {
	inBubble(t, devserver.Options{}, func(w *world) {
		w.connect("sleeper")
		for range 7 {
			w.Oversize("sleeper", 10<<20)
		}
		if w.Connections("sleeper") != 1 {
			w.Error("the first may be on its way, and 60 MiB wait")
		}
		w.Oversize("sleeper", 10<<20)
		w.Oversize("sleeper", 10<<20)
		if w.Connections("sleeper") != 0 {
			w.Error("more than 64 MiB are waiting")
		}
		synctest.Wait()
		if len(w.seen(devserver.Gone)) != 1 {
			w.Error("it is not cut at once")
		}
	})
}
