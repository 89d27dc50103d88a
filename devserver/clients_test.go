package devserver_test

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chatconn/chatconn/devserver"
	"github.com/chatconn/chatconn/tokens"
	"github.com/gorilla/websocket"
)

// kind is how one official client speaks. Each is written down as it is on the
// wire (protocol 1.2, 1.3, 1.9, 2.3, 2.4): what one has in a header another has in
// the query, and each escapes in its own way.
type kind struct {
	name   string
	client string // X-Stream-Client, as the server understands it

	login   func(u person) (query string, header http.Header)
	deflate bool // it offers compression

	// decorate makes a request the client's. wish is the guest who is asked for,
	// empty for any other request.
	decorate func(r *http.Request, u person, wish string)

	// check sends one health check; every so often. An answer in JSON must have
	// come within a time.
	check         func(c *client, u person) error
	every, within time.Duration

	anonymous string // the id that it gives to an anonymous user
	guestAs   string // the id with which a guest logs in: "theirs" or the "wished" one
}

// person is whom a client connects.
type person struct {
	id, token    string // no token: anonymous
	details      m      // besides the id
	connectionID string // once there is one
}

func (u person) authType() string {
	if u.token == "" {
		return "anonymous"
	}
	return "jwt"
}

// user is user_details with the id.
func (u person) user() m {
	user := m{"id": u.id}
	for key, value := range u.details {
		user[key] = value
	}
	return user
}

// asForm and asPercent are the two ways to escape a query: a space is + or %20.
func asForm(s string) string    { return url.QueryEscape(s) }
func asPercent(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "+", "%20") }

// query joins names and values in their order.
func query(escape func(string) string, pairs ...string) string {
	var parts []string
	for i := 0; i < len(pairs); i += 2 {
		parts = append(parts, escape(pairs[i])+"="+escape(pairs[i+1]))
	}
	return strings.Join(parts, "&")
}

func text(v any) string {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(data)
}

func textCheck(c *client, v any) error {
	return c.ws.WriteMessage(websocket.TextMessage, []byte(text(v)))
}

const swiftClient = "stream-chat-swift-client-v5.4.0|app=Demo App|os=iOS 26.0|device_model=iPhone"

// swift is both of its generations: what differs between them is not on the wire.
func swift(name string) kind {
	headers := func(u person) http.Header {
		h := http.Header{"Stream-Auth-Type": {u.authType()}, "X-Stream-Client": {swiftClient}}
		if u.token != "" {
			h["Authorization"] = []string{u.token}
		}
		return h
	}
	return kind{
		name: name, client: swiftClient,
		login: func(u person) (string, http.Header) {
			return query(asPercent, "api_key", "devkey",
				"json", text(m{"user_id": u.id, "user_details": u.user(), "server_determines_connection_id": true})), headers(u)
		},
		decorate: func(r *http.Request, u person, wish string) {
			pairs := []string{"api_key", "devkey"}
			if u.connectionID != "" && strings.HasSuffix(r.URL.Path, "/query") {
				pairs = append(pairs, "connection_id", u.connectionID)
			}
			r.URL.RawQuery = query(asPercent, pairs...) // no user_id, ever
			for key, values := range headers(u) {
				r.Header[key] = values
			}
		},
		check: func(c *client, _ person) error {
			return c.ws.WriteControl(websocket.PingMessage, nil, time.Now().Add(time.Second))
		},
		every: 25 * time.Second, within: 3 * time.Second,
		anonymous: "__anonymous__7E0B5B0F-7C5C-4E5C-9F7D-1B9D2C9A3A11", guestAs: "wished",
	}
}

const flutterClient = "stream-chat-dart-v10.2.0|app=demo|os=Android 15|device_model=Pixel 9"

// flutter is the released client and the one to come: they differ in what they
// put into json and in the health check.
func flutter(name string, now bool, check func(c *client, u person) error, every, within time.Duration, anonymous string) kind {
	return kind{
		name: name, client: flutterClient,
		login: func(u person) (string, http.Header) {
			login := m{"user_id": u.id, "user_details": u.user(), "server_determines_connection_id": true}
			if now {
				login["user_token"] = u.token
			}
			return query(asForm, "json", text(login), "api_key", "devkey", "authorization", u.token,
				"stream-auth-type", u.authType(), "X-Stream-Client", text(flutterClient)), nil
		},
		decorate: func(r *http.Request, u person, wish string) {
			pairs := []string{"api_key", "devkey", "user_id", cmp.Or(wish, u.id)}
			if u.connectionID != "" {
				pairs = append(pairs, "connection_id", u.connectionID)
			}
			r.URL.RawQuery = query(asForm, pairs...)
			r.Header.Set("Authorization", u.token) // empty for the anonymous, but there
			r.Header.Set("stream-auth-type", u.authType())
			r.Header.Set("X-Stream-Client", flutterClient)
			r.Header.Set("Content-Encoding", "application/gzip") // which it is not
		},
		check: check, every: every, within: within,
		anonymous: anonymous, guestAs: "theirs",
	}
}

const (
	jsClient      = "stream-chat-js-v9.53.0-node|client_bundle=node-cjs"
	androidClient = "stream-chat-android-client-6.14.0|os=Android 15|api_version=35|device_vendor=Google"
)

var kinds = []kind{
	{
		name: "JavaScript", client: jsClient, deflate: true,
		login: func(u person) (string, http.Header) {
			return query(asForm,
				"json", text(m{"user_id": u.id, "user_details": u.user(), "client_request_id": "7b1f5a57-6a3e-4d5e-8b0a-0c8b4f0b2d11",
					"device": m{"id": "device", "push_provider": "firebase", "push_provider_name": "p"}}),
				"api_key", "devkey", "authorization", u.token, "stream-auth-type", u.authType(), "X-Stream-Client", jsClient), nil
		},
		decorate: func(r *http.Request, u person, wish string) {
			pairs := []string{"user_id", u.id}
			if u.connectionID != "" {
				pairs = append(pairs, "connection_id", u.connectionID)
			}
			if wish != "" {
				pairs = nil
			}
			r.URL.RawQuery = query(asForm, append(pairs, "api_key", "devkey")...)
			if u.token != "" {
				r.Header.Set("Authorization", u.token)
			}
			r.Header.Set("stream-auth-type", u.authType())
			r.Header.Set("X-Stream-Client", jsClient)
			r.Header.Set("x-client-request-id", "0b9a2c1e-2a55-4c38-9d33-1f5f6cc2a0d4")
		},
		check: func(c *client, u person) error {
			return textCheck(c, []any{m{"type": "health.check", "client_id": u.id + "--7b1f5a57-6a3e-4d5e-8b0a-0c8b4f0b2d11"}})
		},
		every: 25 * time.Second, within: 10 * time.Second,
		anonymous: "5d4b6f0e-51c0-4a43-8a63-3c1a4a5f5a0e", guestAs: "theirs",
	},
	swift("Swift 4"),
	swift("Swift 5"),
	flutter("Flutter 10.2", true,
		func(c *client, u person) error {
			return textCheck(c, m{"type": "health.check", "connection_id": u.connectionID,
				"created_at": time.Now().UTC().Format(time.RFC3339Nano), "is_local": true})
		},
		20*time.Second, 20*time.Second, "V1StGXR8_Z5jdHi6B-myT"),
	flutter("Flutter next", false,
		func(c *client, u person) error {
			return textCheck(c, m{"type": "health.check", "client_id": u.connectionID})
		},
		25*time.Second, 3*time.Second, "!anon"),
	{
		name: "Android", client: androidClient,
		login: func(u person) (string, http.Header) {
			q := query(asForm,
				"json", text(m{"user_id": strings.TrimPrefix(u.id, "!"), "user_details": u.user(),
					"server_determines_connection_id": true, "X-Stream-Client": androidClient}),
				"api_key", "devkey")
			if u.token != "" {
				q += "&authorization=" + u.token // as it stands
			}
			return q + "&stream-auth-type=" + u.authType(), nil
		},
		decorate: func(r *http.Request, u person, wish string) {
			pairs := []string{"user_id", u.id, "api_key", "devkey"}
			if u.connectionID != "" {
				pairs = append(pairs, "connection_id", u.connectionID)
			}
			if wish != "" {
				pairs = []string{"api_key", "devkey"}
			}
			r.URL.RawQuery = query(asPercent, pairs...)
			if u.token != "" {
				r.Header.Set("Authorization", u.token)
			}
			r.Header.Set("stream-auth-type", u.authType())
			r.Header.Set("X-Stream-Client", androidClient)
		},
		check: func(c *client, u person) error {
			return textCheck(c, m{"type": "health.check", "connection_id": u.connectionID, "client_id": u.connectionID})
		},
		every: 10 * time.Second, within: 20 * time.Second,
		anonymous: "!anon", guestAs: "theirs",
	},
}

// enter logs a person in as a kind of client and completes the person.
func (w *world) enter(k kind, u *person) (*client, m) {
	w.Helper()
	q, header := k.login(*u)
	dialer := websocket.Dialer{NetDialContext: w.net.DialContext, HandshakeTimeout: time.Minute, EnableCompression: k.deflate}
	ws, answer, err := dialer.Dial("ws"+strings.TrimPrefix(w.URL(), "http")+"/connect?"+q, header)
	if err != nil {
		w.Fatalf("%s: %v", k.name, err)
	}
	if offered := strings.HasPrefix(answer.Header.Get("Sec-Websocket-Extensions"), "permessage-deflate"); offered != k.deflate {
		w.Errorf("%s: compression %t, offered %t", k.name, offered, k.deflate)
	}
	c := &client{w, ws}
	hello := c.read()
	u.connectionID, _ = hello["connection_id"].(string)
	if hello["type"] != "health.check" || u.connectionID == "" {
		w.Fatalf("%s, %q: %v", k.name, u.id, hello)
	}
	return c, hello
}

// ask makes a request as a kind of client.
func (w *world) ask(k kind, u person, wish, method, path string, body any) (int, m) {
	w.Helper()
	var reader io.Reader
	if body != nil {
		reader = strings.NewReader(text(body))
	}
	r, err := http.NewRequest(method, w.URL()+path, reader)
	if err != nil {
		w.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	k.decorate(r, u, wish)
	resp, err := w.http.Do(r)
	if err != nil {
		w.Fatal(err)
	}
	defer resp.Body.Close()
	var answer m
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		w.Fatalf("%s: %s %s: %v", k.name, method, path, err)
	}
	return resp.StatusCode, answer
}

// byKind runs a story once for each kind of client, each with a server of its own.
func byKind(t *testing.T, opts devserver.Options, story func(w *world, k kind)) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			inBubble(t, opts, func(w *world) { story(w, k) })
		})
	}
}

// awkward are ids of which every sign means something somewhere on the way.
var awkward = []string{"john", "a+b", "a;b", "john@example.org", "a b", "é", "a%2Bb&c=d", "日本", `quo"te\`}

// D1: every client logs in as it does, and finds its fields where it put them.
func TestD1_ClientsLogIn(t *testing.T) {
	byKind(t, devserver.Options{}, func(w *world, k kind) {
		for _, id := range awkward {
			u := person{id: id, token: w.Token(id, 0), details: m{
				"name": "J; + ü", "image": "https://example.org/a?b=c&d", "language": "en", "invisible": false,
				"privacy_settings": m{"typing_indicators": m{"enabled": true}, "read_receipts": m{"enabled": false}},
				"favourite":        m{"colours": []any{"red"}}, "score": 1.5,
				"role": "admin", "banned": true, "online": false, // not for the client to say
			}}
			c, hello := w.enter(k, &u)
			me := hello["me"].(m)
			for key, want := range u.details {
				switch key {
				case "role", "banned", "online":
				default:
					if text(me[key]) != text(want) {
						w.Errorf("%q: %s is %v, want %v", id, key, me[key], want)
					}
				}
			}
			if me["id"] != id || me["role"] != "user" || me["banned"] != false || me["online"] != true {
				w.Errorf("%q became %v, role %v, banned %v, online %v", id, me["id"], me["role"], me["banned"], me["online"])
			}
			auth, client := "query", k.client
			if strings.HasPrefix(k.name, "Swift") {
				auth = "header"
			}
			if k.name == "Android" {
				client = "" // it is in json
			}
			entries := w.seen(devserver.Connect)
			if e := entries[len(entries)-1]; e.UserID != id || e.Auth != auth || e.Client != client || e.Code != 0 {
				w.Errorf("recorded: %+v", e)
			}
			c.ws.Close()
		}
	})
}

// Old releases put json into the URL as it stands.
func TestD1_UnescapedLogin(t *testing.T) {
	inBubble(t, devserver.Options{}, func(w *world) {
		raw := kind{name: "old Android", login: func(u person) (string, http.Header) {
			return `json={"user_id":"john","user_details":{"id":"john","name":"J"},"user_token":"` + u.token +
				`","server_determines_connection_id":true}&api_key=devkey&authorization=` + u.token + `&stream-auth-type=jwt`, nil
		}}
		u := person{id: "john", token: w.Token("john", 0)}
		if _, hello := w.enter(raw, &u); hello["me"].(m)["name"] != "J" {
			w.Error(hello)
		}
	})
}

// D1: for an hour every client checks health in its rhythm, and each check is
// answered in the way and the time that this client expects.
func TestD1_ClientsCheckHealth(t *testing.T) {
	byKind(t, devserver.Options{}, func(w *world, k kind) {
		u := person{id: "john", token: w.Token("john", 0)}
		c, _ := w.enter(k, &u)
		pongs := 0
		c.ws.SetPongHandler(func(string) error { pongs++; return nil })
		for range int(time.Hour / k.every) {
			time.Sleep(k.every)
			if err := k.check(c, u); err != nil {
				w.Fatal(err)
			}
			c.ws.SetReadDeadline(time.Now().Add(k.within))
			var got m
			if err := c.ws.ReadJSON(&got); err != nil {
				w.Fatalf("no answer within %s: %v", k.within, err)
			}
			if _, me := got["me"]; got["type"] != "health.check" || got["connection_id"] != u.connectionID || me {
				w.Fatalf("the answer: %v", got)
			}
		}
		checks := int(time.Hour / k.every)
		if pings := len(w.seen(devserver.Ping)); pings > 0 {
			// The last pong comes after the health check that was read last.
			if pings != checks || pongs < checks-1 {
				w.Errorf("%d pings, %d pongs", pings, pongs)
			}
		} else if frames := len(w.seen(devserver.Frame)); frames != checks || pongs != 0 {
			w.Errorf("%d frames, %d pongs", frames, pongs)
		}
	})
}

// D1: every client's requests are its user's, and what it watches comes over its
// socket.
func TestD1_ClientsRequest(t *testing.T) {
	byKind(t, devserver.Options{}, func(w *world, k kind) {
		for i, id := range awkward {
			u := person{id: id, token: w.Token(id, 0)}
			c, _ := w.enter(k, &u)
			path := "/channels/livestream/" + url.PathEscape(fmt.Sprint(i, " ", id))
			status, state := w.ask(k, u, "", "POST", path+"/query",
				m{"state": true, "watch": true, "presence": false, "data": m{"name": id}, "messages": m{"limit": 5}})
			if status != 201 || state["channel"].(m)["created_by"].(m)["id"] != id || state["channel"].(m)["name"] != id || state["watcher_count"] != 1.0 {
				w.Fatalf("%q: %d %v", id, status, state)
			}
			status, answer := w.ask(k, u, "", "POST", path+"/message",
				m{"message": m{"id": id + "-1", "text": "hi", "attachments": []any{}, "mentioned_users": []any{}, "custom": 1}})
			if message, _ := answer["message"].(m); status != 201 || message["user"].(m)["id"] != id || message["custom"] != 1.0 || message["id"] != id+"-1" {
				w.Errorf("%q: %d %v", id, status, answer)
			}
			if event := c.read(); event["type"] != "message.new" || event["cid"] != fmt.Sprint("livestream:", i, " ", id) {
				w.Errorf("%q: %v", id, event)
			}
			if status, answer := w.ask(k, u, "", "POST", path+"/read", m{}); status != 201 {
				w.Errorf("%q: %d %v", id, status, answer)
			}
			if status, answer := w.ask(k, u, "", "GET", "/app", nil); status != 200 || answer["app"] == nil {
				w.Errorf("%q: %d %v", id, status, answer)
			}
			entries := w.seen(devserver.Request)
			for _, e := range entries[len(entries)-4:] {
				if e.UserID != id || e.Auth != "header" || e.Client != k.client {
					w.Errorf("recorded: %+v", e)
				}
			}
			if e := entries[len(entries)-4]; e.ConnectionID != u.connectionID {
				w.Errorf("the query is of connection %q, want %q", e.ConnectionID, u.connectionID)
			}
			c.ws.Close()
		}
	})
}

// T10: an anonymous user, under whatever name a client gives them.
func TestT10_ClientsAnonymous(t *testing.T) {
	byKind(t, devserver.Options{}, func(w *world, k kind) {
		w.AddMember("livestream:show", "alice")
		u := person{id: k.anonymous, details: m{"anon": true}}
		c, hello := w.enter(k, &u)
		if me := hello["me"].(m); me["id"] != "!anon" || me["role"] != "anonymous" {
			w.Error(me)
		}
		if status, answer := w.ask(k, u, "", "POST", "/channels/livestream/show/query", m{"watch": true}); status != 200 {
			w.Error(status, answer)
		}
		if status, answer := w.ask(k, u, "", "POST", "/channels/livestream/show/message", m{"message": m{"text": "x"}}); status != 403 || answer["code"] != 17.0 {
			w.Error(status, answer)
		}
		w.Send("livestream:show", "alice", "on air")
		if event := c.read(); event["type"] != "message.new" {
			w.Error(event)
		}
	})
}

// T9: the guest exchange, and how each client goes on with it.
func TestT9_ClientsGuests(t *testing.T) {
	byKind(t, devserver.Options{}, func(w *world, k kind) {
		for _, wish := range awkward {
			status, answer := w.ask(k, person{id: k.anonymous}, wish, "POST", "/guest", m{"user": m{"id": wish, "name": "G", "custom": 1}})
			guest, _ := answer["user"].(m)
			token, _ := answer["access_token"].(string)
			if status != 201 || guest["role"] != "guest" || guest["name"] != "G" || guest["custom"] != 1.0 || guest["id"] == wish || answer["duration"] == nil {
				w.Fatalf("%q: %d %v", wish, status, answer)
			}
			id := guest["id"].(string)
			u := person{id: id, token: token, details: guest}
			if k.guestAs == "wished" {
				u.id = wish
				u.details = m{"name": "G"}
			}
			c, hello := w.enter(k, &u)
			if me := hello["me"].(m); me["id"] != id || me["role"] != "guest" || me["custom"] != 1.0 {
				w.Errorf("%q: %v", wish, me)
			}
			u.id = id // requests carry the token's id
			if status, answer := w.ask(k, u, "", "GET", "/app", nil); status != 200 {
				w.Errorf("%q: %d %v", wish, status, answer)
			}
			c.ws.Close()
		}
	})
}

// A guest's wish is a name for this guest only: it opens nobody else's door.
func TestT9_AWishIsNotAnIdentity(t *testing.T) {
	inBubble(t, devserver.Options{}, func(w *world) {
		guest, token := w.guest("alice")
		w.AddMember("messaging:hers", "alice")
		other, _ := w.guest("bob")
		for id, want := range map[string]float64{"alice": 0, guest: 0, "bob": 5, other: 5} {
			if code := w.login(id, token); code != want {
				w.Errorf("as %s: code %v, want %v", id, code, want)
			}
		}
		if w.MaxSockets("alice") != 0 || w.MaxSockets(guest) == 0 {
			w.Error("the token tells who it is")
		}
		if status, _ := w.call("POST", "/channels/messaging/hers/query?user_id=alice", token, nil); status != 403 {
			w.Errorf("the guest reads what is alice's: %d", status)
		}
		if code := w.login(guest, w.Token("alice", 0)); code != 5 {
			w.Errorf("alice as the guest: %v", code)
		}
	})
}

// backend asks as stream-chat-go does, with a server token.
func (w *world) backend(method, path string, body any) (int, m) {
	w.Helper()
	server, err := tokens.Sign(w.Secret(), tokens.Claims{Server: true})
	if err != nil {
		w.Fatal(err)
	}
	k := kind{name: "stream-chat-go", decorate: func(r *http.Request, _ person, _ string) {
		r.URL.RawQuery = query(asForm, "api_key", "devkey")
		r.Header.Set("X-Stream-Client", "stream-go-client-8.4.1")
		r.Header.Set("Authorization", server)
		r.Header.Set("Stream-Auth-Type", "jwt")
	}}
	return w.ask(k, person{}, "", method, path, body)
}

// D2: what a backend does with stream-chat-go, whether auth checks are on or not.
func TestD2_Backend(t *testing.T) {
	for _, disabled := range []bool{false, true} {
		inBubble(t, devserver.Options{DisableAuthChecks: disabled}, func(w *world) {
			status, state := w.backend("POST", "/channels/messaging/"+url.PathEscape("a b+c"),
				nil)
			if status != 404 || state["code"] != 16.0 {
				w.Error("no such channel yet:", status, state)
			}
			status, state = w.backend("POST", "/channels/messaging/team/query",
				m{"data": m{"created_by": m{"id": "boss"}, "members": []any{"ann", "bob"}, "name": "Team"}})
			channel, _ := state["channel"].(m)
			if status != 201 || channel["created_by"].(m)["id"] != "boss" || channel["member_count"] != 2.0 || channel["name"] != "Team" {
				w.Fatal(status, state)
			}
			if _, state := w.backend("POST", "/channels/messaging/other/query", m{"data": m{"created_by_id": "boss"}}); state["channel"].(m)["created_by"].(m)["id"] != "boss" || state["channel"].(m)["created_by_id"] != nil {
				w.Error(state)
			}
			ann, _ := w.connect("ann")
			status, answer := w.backend("POST", "/channels/messaging/team/message",
				m{"message": m{"text": "hi", "attachments": nil, "user": m{"id": "bob"}, "mentioned_users": nil, "parent_id": "", "show_in_channel": false, "silent": false}})
			if status != 201 || answer["message"].(m)["user"].(m)["id"] != "bob" {
				w.Error(status, answer)
			}
			if event := ann.read(); event["type"] != "message.new" || event["user"].(m)["id"] != "bob" {
				w.Error(event)
			}
			if status, answer = w.backend("POST", "/channels/messaging/team/read", m{"user": m{"id": "ann"}}); status != 201 {
				w.Error(status, answer)
			}
			if event := ann.read(); event["type"] != "message.read" || event["user"].(m)["id"] != "ann" {
				w.Error(event)
			}
			if status, answer = w.backend("POST", "/channels/messaging/team", m{"add_members": []any{"carl"}, "assign_roles": nil, "hide_history": false}); status != 201 || len(answer["members"].([]any)) != 3 {
				w.Error(status, answer)
			}
			if status, answer = w.backend("POST", "/channels/messaging/team", m{"remove_members": []any{"carl"}}); status != 201 || len(answer["members"].([]any)) != 2 {
				w.Error(status, answer)
			}
			if status, answer = w.backend("POST", "/guest", m{"user": m{"id": "g"}}); status != 201 || answer["access_token"] == "" {
				w.Error(status, answer)
			}
			for name, body := range map[string]m{"a message of nobody": {"message": m{"text": "x"}}, "of an id that is none": {"message": m{"text": "x", "user": m{"id": 7}}}} {
				if status, answer := w.backend("POST", "/channels/messaging/team/message", body); status != 400 || answer["code"] != 4.0 {
					w.Errorf("%s: %d %v", name, status, answer)
				}
			}
			if status, answer := w.backend("POST", "/channels/messaging/team/read", m{}); status != 400 || answer["code"] != 4.0 {
				w.Error("read by nobody:", status, answer)
			}
			if status, answer := w.backend("POST", "/channels/messaging/new/query", m{"data": m{"created_by_id": "\x00"}}); status != 400 || answer["code"] != 4.0 {
				w.Error("created by no id:", status, answer)
			}
		})
	}
}

// T8: with auth checks disabled a forged token makes a user, not a backend.
func TestT8_NobodyForgesABackend(t *testing.T) {
	inBubble(t, devserver.Options{DisableAuthChecks: true}, func(w *world) {
		forged := sign([]byte("another secret"), hs256, `{"server":true}`)
		both := sign([]byte("another secret"), hs256, `{"server":true,"user_id":"eve"}`)
		for token, want := range map[string]int{forged: 401, both: 403} {
			if status, answer := w.call("PATCH", "/app", token, m{"revoke_tokens_issued_before": time.Now()}); status != want {
				w.Error(status, answer)
			}
		}
	})
}

// A page in a browser may send what its client sends, and read what it is told.
func TestD1_BrowsersAskFirst(t *testing.T) {
	inBubble(t, devserver.Options{}, func(w *world) {
		for name, headers := range map[string]string{
			"JavaScript": "authorization,content-type,stream-auth-type,x-client-request-id,x-stream-client",
			"Flutter":    "authorization,content-encoding,content-type,stream-auth-type,x-stream-client",
		} {
			r, err := http.NewRequest("OPTIONS", w.URL()+"/channels/messaging/x/query?api_key=devkey", nil)
			if err != nil {
				w.Fatal(err)
			}
			r.Header.Set("Origin", "http://localhost:3000")
			r.Header.Set("Access-Control-Request-Method", "POST")
			r.Header.Set("Access-Control-Request-Headers", headers)
			resp, err := w.http.Do(r)
			if err != nil {
				w.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != 204 || resp.Header.Get("Access-Control-Allow-Headers") != headers || resp.Header.Get("Access-Control-Allow-Origin") != "*" {
				w.Errorf("%s: %s %v", name, resp.Status, resp.Header)
			}
		}
		w.FailRequests(1, devserver.Answer{Code: 9, RetryAfter: time.Minute})
		if status, header, _ := w.raw("GET", "/app", w.Token("a", 0), nil); status != 429 || header.Get("Retry-After") != "60" ||
			header.Get("Access-Control-Expose-Headers") != "Retry-After" || header.Get("Access-Control-Allow-Origin") != "*" {
			w.Error(status, header)
		}
	})
}

// D2: the whole permission table, row by row: who, in which kind of channel, as a
// member or not, does what.
func TestD2_PermissionTable(t *testing.T) {
	actions := []struct{ name, path string }{
		{"read", "/query"}, {"create", "/query"}, {"send", "/message"}, {"members", ""}, {"mark", "/read"},
	}
	// The letters say who may: r(ead), c(reate), s(end), change m(embers), M(ark read).
	const letters = "rcsmM"
	table := map[string]map[string]string{
		"livestream": {
			"user": "rcs", "user, member": "rcsmM",
			"guest": "rs", "guest, member": "rsM",
			"anonymous": "r", "server": "rcsmM",
		},
		"messaging": {
			"user": "c", "user, member": "rcsmM",
			"guest": "", "guest, member": "rsM",
			"anonymous": "", "server": "rcsmM",
		},
	}
	for kind, rows := range table {
		for who, may := range rows {
			t.Run(kind+"/"+who, func(t *testing.T) {
				inBubble(t, devserver.Options{}, func(w *world) {
					id, token := "bob", w.Token("bob", 0)
					role, member, _ := strings.Cut(who, ", ")
					switch role {
					case "guest":
						id, token = w.guest("bob")
					case "anonymous":
						id, token = "!anon", ""
					case "server":
						token, _ = tokens.Sign(w.Secret(), tokens.Claims{Server: true})
					}
					w.AddMember(kind+":there", "alice")
					if member != "" {
						w.AddMember(kind+":there", id)
					}
					for i, action := range actions {
						channel := "there"
						if action.name == "create" {
							channel = "new"
						}
						before := len(w.history(kind + "/there"))
						status, answer := w.call("POST", "/channels/"+kind+"/"+channel+action.path, token,
							m{"message": m{"text": "x", "user_id": "alice"}, "user_id": "alice", "add_members": []any{"carl"}})
						allowed := strings.ContainsRune(may, rune(letters[i]))
						switch {
						case allowed && status/100 != 2:
							w.Errorf("%s: %d %v", action.name, status, answer)
						case !allowed && (status != 403 || answer["code"] != 17.0 || answer["StatusCode"] != 403.0):
							w.Errorf("%s is not refused: %d %v", action.name, status, answer)
						case !allowed && len(w.history(kind+"/there")) != before:
							w.Errorf("%s is refused, and done", action.name)
						}
					}
				})
			})
		}
	}
}

// D2: nobody writes to a channel that is not there; a query alone creates one.
func TestD2_NoSuchChannel(t *testing.T) {
	inBubble(t, devserver.Options{}, func(w *world) {
		for _, path := range []string{"", "/message", "/read"} {
			if status, answer := w.call("POST", "/channels/messaging/nowhere"+path, w.Token("bob", 0), m{"message": m{"text": "x"}}); status != 404 || answer["code"] != 16.0 {
				w.Errorf("%q: %d %v", path, status, answer)
			}
		}
	})
}

// history returns the messages and members of a channel of which alice is one.
func (w *world) history(channel string) []any {
	w.Helper()
	status, state := w.queryChannel("alice", channel, nil)
	if status != 200 {
		w.Fatal(status, state)
	}
	return append(state["messages"].([]any), state["members"].([]any)...)
}

// D2: what is not a channel's has its own rules.
func TestD2_OtherEndpoints(t *testing.T) {
	inBubble(t, devserver.Options{}, func(w *world) {
		w.AddMember("livestream:show", "alice")
		w.AddMember("messaging:room", "alice")
		since := time.Now().Add(-time.Second)
		w.Send("livestream:show", "alice", "1")
		w.Send("messaging:room", "alice", "2")
		_, guest := w.guest("g")
		for who, token := range map[string]string{"anonymous": "", "guest": guest, "user": w.Token("bob", 0)} {
			if status, answer := w.call("GET", "/app", token, nil); status != 200 {
				w.Errorf("%s, /app: %d %v", who, status, answer)
			}
			status, answer := w.call("POST", "/sync", token, m{"channel_cids": []any{"livestream:show", "messaging:room"}, "last_sync_at": since})
			if status != 200 || len(answer["events"].([]any)) != 1 || text(answer["inaccessible_cids"]) != `["messaging:room"]` {
				w.Errorf("%s, /sync: %d %v", who, status, answer)
			}
			for _, path := range []string{"/app", "/users"} {
				if status, answer := w.call("PATCH", path, token, m{"revoke_tokens_issued_before": time.Now(), "users": []any{m{"id": "alice"}}}); status != 403 || answer["code"] != 17.0 {
					w.Errorf("%s, %s: %d %v", who, path, status, answer)
				}
			}
		}
		if status, _ := w.queryChannel("alice", "messaging/room", nil); status != 200 {
			w.Error("nobody's token was revoked:", status)
		}
	})
}

// D2: tokens that have expired or were revoked are refused over HTTP as over the
// socket, on every endpoint, before anything else is looked at.
func TestD2_DeadTokensOverHTTP(t *testing.T) {
	inBubble(t, devserver.Options{}, func(w *world) {
		w.AddMember("messaging:room", "alice")
		revoked := w.Token("alice", 0)
		time.Sleep(time.Minute)
		w.RevokeTokens("alice", time.Now())
		expiring := w.Token("alice", time.Minute)
		time.Sleep(time.Minute)
		for name, token := range map[string]string{"revoked": revoked, "expired": expiring} {
			for _, endpoint := range []string{"GET /app", "PATCH /app", "PATCH /users", "POST /sync", "POST /guest", "POST /channels/messaging/room",
				"POST /channels/messaging/room/query", "POST /channels/messaging/room/message", "POST /channels/messaging/room/read", "GET /nowhere"} {
				method, path, _ := strings.Cut(endpoint, " ")
				status, answer := w.call(method, path, token, m{"message": m{"text": "x"}})
				message, _ := answer["message"].(string)
				if status != 401 || answer["code"] != 40.0 || answer["StatusCode"] != 401.0 || !strings.Contains(message, name) {
					w.Errorf("%s, %s: %d %v", name, endpoint, status, answer)
				}
			}
		}
		if got := w.history("messaging/room"); len(got) != 1 {
			w.Errorf("a dead token wrote: %v", got)
		}
	})
}

// D3: the answers of a proxy or of a server in trouble, as they are on the wire.
func TestD3_TroubledAnswers(t *testing.T) {
	inBubble(t, devserver.Options{}, func(w *world) {
		token := w.Token("alice", 0)
		const page = "<html><body><h1>502 Bad Gateway</h1></body></html>"
		for name, c := range map[string]struct {
			fault       devserver.Answer
			status      int
			contentType string
			retryAfter  string
			body        string // a part of it
		}{
			"rate limited":          {devserver.Answer{Code: 9, RetryAfter: 90 * time.Second}, 429, "application/json", "90", `"code":9`},
			"a part of a second":    {devserver.Answer{Code: 9, RetryAfter: 1500 * time.Millisecond}, 429, "application/json", "2", `"StatusCode":429`},
			"the edge rate limits":  {devserver.Answer{Status: 429, Body: "slow down", RetryAfter: time.Second}, 429, "text/plain; charset=utf-8", "1", "slow down"},
			"internal":              {devserver.Answer{Code: -1}, 500, "application/json", "", `"code":-1`},
			"unavailable":           {devserver.Answer{Status: 503, Code: -1}, 503, "application/json", "", `"StatusCode":503`},
			"a page":                {devserver.Answer{Status: 502, Body: page, ContentType: "text/html"}, 502, "text/html", "", page},
			"text":                  {devserver.Answer{Status: 504, Body: "upstream request timeout"}, 504, "text/plain; charset=utf-8", "", "upstream"},
			"nothing":               {devserver.Answer{Status: 500}, 500, "text/plain; charset=utf-8", "", ""},
			"a code and its status": {devserver.Answer{Code: 17, Status: 418}, 418, "application/json", "", `"code":17`},
		} {
			w.FailRequests(1, c.fault)
			status, header, body := w.raw("POST", "/guest", token, m{})
			if status != c.status || header.Get("Content-Type") != c.contentType || header.Get("Retry-After") != c.retryAfter || !bytes.Contains(body, []byte(c.body)) {
				w.Errorf("%s: %d %v %s", name, status, header, body)
			}
		}
		entries := w.seen(devserver.Request)
		if !slices.ContainsFunc(entries, func(e devserver.Entry) bool { return e.Status == 502 && e.Text == "fault" }) {
			w.Error("faults are recorded")
		}
	})
}
