package devserver_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chatconn/chatconn/devserver"
	"github.com/gorilla/websocket"
)

type m = map[string]any

// query and send are the two requests that most stories need.
func (w *world) queryChannel(userID, channel string, body any) (int, m) {
	w.Helper()
	return w.call("POST", "/channels/"+channel+"/query", w.tokenOf(userID), body)
}

func (w *world) send(userID, channel, text string) (int, m) {
	w.Helper()
	return w.call("POST", "/channels/"+channel+"/message", w.tokenOf(userID), m{"message": m{"text": text}})
}

// tokenOf is a user's token, none for the anonymous.
func (w *world) tokenOf(userID string) string {
	if userID == "" {
		return ""
	}
	return w.Token(userID, 0)
}

// guest exchanges a wish for a guest.
func (w *world) guest(id string) (userID, token string) {
	w.Helper()
	status, answer := w.call("POST", "/guest", "", m{"user": m{"id": id, "name": "G"}})
	if status != 201 {
		w.Fatal(status, answer)
	}
	return answer["user"].(m)["id"].(string), answer["access_token"].(string)
}

// D2: a message reaches every connected member, on all their sockets, and nobody else.
func TestD2_MessagesReachTheMembers(t *testing.T) {
	inBubble(t, devserver.Options{}, func(w *world) {
		status, state := w.queryChannel("alice", "messaging/general", m{"data": m{"members": []any{"alice", m{"user_id": "bob"}}, "name": "General"}})
		channel := state["channel"].(m)
		if status != 201 || channel["cid"] != "messaging:general" || channel["name"] != "General" || channel["member_count"] != 2.0 || len(state["members"].([]any)) != 2 {
			w.Fatal(status, state)
		}
		alice, _ := w.connect("alice")
		bob1, hello := w.connect("bob")
		bob2, _ := w.connect("bob")
		carol, _ := w.connect("carol")
		for range 2 { // who is a member and watches, too, is told once
			if status, answer := w.call("POST", "/channels/messaging/general/query?connection_id="+hello["connection_id"].(string), w.Token("bob", 0), m{"watch": true}); status != 200 {
				w.Fatal(answer)
			}
		}
		status, answer := w.send("alice", "messaging/general", "hi <there>")
		message := answer["message"].(m)
		if status != 201 || message["text"] != "hi <there>" || message["id"] == "" || answer["duration"] == nil {
			w.Error(status, answer)
		}
		for _, c := range []*client{alice, bob1, bob2} {
			event := c.read()
			if event["type"] != "message.new" || event["cid"] != "messaging:general" || event["message"].(m)["id"] != message["id"] || event["user"].(m)["id"] != "alice" {
				w.Error(event)
			}
			if _, err := time.Parse(time.RFC3339Nano, event["created_at"].(string)); err != nil {
				w.Error(err)
			}
		}
		carol.silence(time.Hour)
		bob1.silence(time.Hour)

		status, state = w.queryChannel("bob", "messaging/general", nil)
		if status != 200 || len(state["messages"].([]any)) != 1 {
			w.Error(status, state)
		}
		if status, state = w.queryChannel("carol", "messaging/hers", nil); status != 201 || state["members"].([]any)[0].(m)["user_id"] != "carol" {
			w.Error("whoever creates a channel without members is its member:", state)
		}
	})
}

// D2: a message under an id that is known already is dropped and answered as the first.
func TestD2_RepeatsAreDropped(t *testing.T) {
	inBubble(t, devserver.Options{}, func(w *world) {
		w.AddMember("messaging:x", "alice")
		alice, _ := w.connect("alice")
		for range 3 {
			status, answer := w.call("POST", "/channels/messaging/x/message", w.Token("alice", 0), m{"message": m{"id": "stable", "text": "once"}})
			if status != 201 || answer["message"].(m)["id"] != "stable" {
				w.Error(status, answer)
			}
		}
		if alice.read()["type"] != "message.new" {
			w.Error("the first is told")
		}
		alice.silence(time.Hour)
		if _, state := w.queryChannel("alice", "messaging/x", nil); len(state["messages"].([]any)) != 1 {
			w.Error(state["messages"])
		}
	})
}

// T9: a guest is somebody else than asked for, and their token never expires.
func TestT9_Guests(t *testing.T) {
	inBubble(t, devserver.Options{TokenTTL: time.Minute}, func(w *world) {
		id, token := w.guest("gina")
		if !strings.HasPrefix(id, "guest-") || !strings.HasSuffix(id, "-gina") {
			w.Error(id)
		}
		if other, _ := w.guest("gina"); other == id {
			w.Error("a second exchange makes a second guest")
		}
		time.Sleep(24 * time.Hour)
		c, _, err := w.dial(w.query(id, token), nil)
		if err != nil {
			w.Fatal(err)
		}
		if me := c.read()["me"].(m); me["id"] != id || me["role"] != "guest" || me["name"] != "G" {
			w.Error(me)
		}
		for name, body := range map[string]any{"no user": m{}, "no id": m{"user": m{"name": "x"}}, "a number": m{"user": m{"id": 7}}} {
			if status, answer := w.call("POST", "/guest", "", body); status != 400 || answer["code"] != 4.0 {
				w.Errorf("%s: %d %v", name, status, answer)
			}
		}
	})
}

// T10: an anonymous socket can watch a livestream channel.
func TestT10_AnonymousWatches(t *testing.T) {
	inBubble(t, devserver.Options{}, func(w *world) {
		w.AddMember("livestream:show", "alice")
		q := w.query("!anon", "")
		q.Set("stream-auth-type", "anonymous")
		c, _, err := w.dial(q, nil)
		if err != nil {
			w.Fatal(err)
		}
		id := c.read()["connection_id"].(string)
		if status, answer := w.call("POST", "/channels/livestream/show/query?connection_id="+id, "", m{"watch": true}); status != 200 {
			w.Fatal(status, answer)
		}
		if status, answer := w.call("POST", "/channels/livestream/show/query?connection_id=other", "", m{"watch": true}); status != 400 || answer["code"] != 4.0 {
			w.Error("watching takes a socket:", status, answer)
		}
		if err := w.Send("livestream:show", "alice", "on air"); err != nil {
			w.Fatal(err)
		}
		if event := c.read(); event["type"] != "message.new" {
			w.Error(event)
		}
		c.ws.Close()
		synctest.Wait()
		if _, state := w.queryChannel("alice", "livestream/show", nil); state["watcher_count"] != 0.0 {
			w.Error("who left does not watch:", state)
		}
	})
}

func TestUnreadCounts(t *testing.T) {
	inBubble(t, devserver.Options{}, func(w *world) {
		w.AddMember("messaging:a", "alice", "bob")
		w.AddMember("messaging:b", "alice", "bob")
		w.Send("messaging:a", "alice", "1")
		w.Send("messaging:a", "alice", "2")
		w.Send("messaging:b", "alice", "3")
		unread := func() string {
			c, hello := w.connect("bob")
			defer c.ws.Close()
			me := hello["me"].(m)
			return fmt.Sprint(me["total_unread_count"], " in ", me["unread_channels"])
		}
		if got := unread(); got != "3 in 2" {
			w.Error(got)
		}
		alice, _ := w.connect("alice")
		if status, answer := w.call("POST", "/channels/messaging/a/read", w.Token("bob", 0), nil); status != 201 || answer["event"].(m)["type"] != "message.read" {
			w.Error(status, answer)
		}
		if event := alice.read(); event["type"] != "message.read" || event["user"].(m)["id"] != "bob" {
			w.Error(event)
		}
		if got := unread(); got != "1 in 1" {
			w.Error(got)
		}
	})
}

// D2: what was missed, once each, in order.
func TestD2_Sync(t *testing.T) {
	inBubble(t, devserver.Options{}, func(w *world) {
		sync := func(since time.Time, cids ...string) (int, m) {
			return w.call("POST", "/sync", w.Token("alice", 0), m{"channel_cids": cids, "last_sync_at": since})
		}
		start := time.Now()
		w.AddMember("messaging:a", "alice", "bob")
		w.AddMember("messaging:b", "alice", "bob")
		w.AddMember("messaging:secret", "bob")
		for i := range 6 { // all at one instant
			w.Send([]string{"messaging:a", "messaging:b", "messaging:secret"}[i%3], "bob", fmt.Sprint(i))
		}
		status, answer := sync(start, "messaging:b", "messaging:a", "messaging:a", "messaging:secret", "messaging:none")
		if status != 200 {
			w.Fatal(answer)
		}
		var texts []string
		var times []time.Time
		for _, e := range answer["events"].([]any) {
			texts = append(texts, e.(m)["message"].(m)["text"].(string))
			at, err := time.Parse(time.RFC3339Nano, e.(m)["created_at"].(string))
			if err != nil {
				w.Fatal(err)
			}
			times = append(times, at)
		}
		if got := strings.Join(texts, ""); got != "0134" {
			w.Errorf("events %s", got)
		}
		if got := fmt.Sprint(answer["inaccessible_cids"]); got != "[messaging:none messaging:secret]" {
			w.Error(got)
		}
		if _, answer := sync(times[2], "messaging:a", "messaging:b"); len(answer["events"].([]any)) != 1 {
			w.Error("only what came after:", answer)
		}
		many := make([]string, 256)
		for i := range many {
			many[i] = fmt.Sprint("messaging:", i)
		}
		if status, _ := sync(start, many...); status != 400 {
			w.Error("256 channels:", status)
		}
		if status, _ := sync(start, many[:255]...); status != 200 {
			w.Error("255 channels:", status)
		}
		if status, _ := sync(start); status != 400 {
			w.Error("no channel:", status)
		}
		for range 2_001 {
			w.Send("messaging:a", "bob", "flood")
		}
		if status, answer := sync(start, "messaging:a"); status != 400 || answer["code"] != 4.0 {
			w.Error("too many:", status)
		}
		time.Sleep(31 * 24 * time.Hour)
		if status, _ := sync(start, "messaging:b"); status != 400 {
			w.Error("older than 30 days:", status)
		}
	})
}

// Protocol 1.6: the body of a refused request.
func TestAPIErrors(t *testing.T) {
	inBubble(t, devserver.Options{}, func(w *world) {
		cases := map[string]struct {
			method, path, token string
			status              int
			code                float64
		}{
			"no token":          {"GET", "/app?stream-auth-type=jwt", "x", 401, 5},
			"expired":           {"GET", "/app", w.Token("alice", -time.Second), 401, 40},
			"another user":      {"GET", "/app?user_id=bob", w.Token("alice", 0), 401, 5},
			"no such endpoint":  {"GET", "/nothing", w.Token("alice", 0), 404, 16},
			"a wrong method":    {"GET", "/channels/a/b/message", w.Token("alice", 0), 404, 16},
			"for backends only": {"PATCH", "/app", w.Token("alice", 0), 403, 17},
		}
		for name, c := range cases {
			status, body := w.call(c.method, c.path, c.token, nil)
			if status != c.status || body["code"] != c.code || body["StatusCode"] != float64(c.status) || body["message"] == "" {
				w.Errorf("%s: %d %v", name, status, body)
			}
			if details, ok := body["details"].([]any); !ok || len(details) != 0 || body["duration"] == nil || body["more_info"] == nil {
				w.Errorf("%s: %v", name, body)
			}
		}
		if status, body := w.call("GET", "/app?user_id=alice", w.Token("alice", 0), nil); status != 200 || body["app"] == nil {
			w.Error(status, body)
		}
		if status, body := w.call("POST", "/channels/a/b/query", w.Token("alice", 0), strings.Repeat("x", 2<<20)); status != 413 || body["code"] != 22.0 {
			w.Error("2 MiB:", status, body)
		}
		if status, _ := w.call("POST", "/channels/a/b/query", w.Token("alice", 0), "text"); status != 400 {
			w.Error("not an object:", status)
		}
		if status, _ := w.call("POST", "/channels/a/b/query", w.Token("alice", 0), m{"data": m{"members": []any{7}}}); status != 400 {
			w.Error("a member that is a number:", status)
		}
		if err := w.Send("nocolon", "alice", "x"); err == nil {
			w.Error("not a cid")
		}
	})
}

// Members come and go by API, too.
func TestUpdateChannel(t *testing.T) {
	inBubble(t, devserver.Options{}, func(w *world) {
		w.AddMember("messaging:x", "alice")
		update := func(body m) m {
			status, answer := w.call("POST", "/channels/messaging/x", w.Token("alice", 0), body)
			if status != 201 {
				w.Fatal(answer)
			}
			return answer
		}
		if answer := update(m{"add_members": []any{"bob", "carol", "bob"}}); len(answer["members"].([]any)) != 3 {
			w.Error(answer)
		}
		update(m{"remove_members": []any{"bob", "nobody"}})
		if status, _ := w.queryChannel("bob", "messaging/x", nil); status != 403 {
			w.Error("bob left:", status)
		}
		if status, _ := w.queryChannel("carol", "messaging/x", nil); status != 200 {
			w.Error("carol stayed:", status)
		}
	})
}

func TestEmit(t *testing.T) {
	inBubble(t, devserver.Options{}, func(w *world) {
		one, _ := w.connect("alice")
		two, _ := w.connect("alice")
		bob, _ := w.connect("bob")
		if n, err := w.Emit("alice", m{"type": "custom", "x": 1}); n != 2 || err != nil {
			w.Error(n, err)
		}
		if n, err := w.Emit("", json.RawMessage(`{"type":"custom","Type":"other"}`)); n != 3 || err != nil {
			w.Error(n, err)
		}
		for _, c := range []*client{one, two} {
			if got := c.read(); got["x"] != 1.0 {
				w.Error(got)
			}
		}
		for _, c := range []*client{one, two, bob} {
			if got := c.read(); got["Type"] != "other" {
				w.Error(got)
			}
		}
		if _, err := w.Emit("alice", json.RawMessage("{")); err == nil {
			w.Error("not JSON")
		}
		if n, err := w.Emit("nobody", nil); n != 0 || err != nil {
			w.Error(n, err)
		}
	})
}

// O2's other end: a burst reaches a reader whole and in order.
func TestBurst(t *testing.T) {
	inBubble(t, devserver.Options{}, func(w *world) {
		c, _ := w.connect("alice")
		const n = 20_000
		go func() {
			for i := range n {
				w.Emit("alice", m{"i": i})
			}
		}()
		for i := range n {
			if got := c.read(); got["i"] != float64(i) {
				w.Fatalf("%v at %d", got, i)
			}
		}
	})
}

// A browser asks first, from another origin.
func TestBrowsers(t *testing.T) {
	inBubble(t, devserver.Options{}, func(w *world) {
		status, header, _ := w.raw("OPTIONS", "/guest", "", nil)
		if status != 204 || header.Get("Access-Control-Allow-Origin") != "*" {
			w.Error(status, header)
		}
		c, _, err := w.dial(w.query("alice", w.Token("alice", 0)), map[string][]string{"Origin": {"http://localhost:3000"}})
		if err != nil {
			w.Fatal(err)
		}
		if c.read()["type"] != "health.check" {
			w.Error("no hello")
		}
		c.ws.WriteMessage(websocket.TextMessage, nil)
		c.read()
	})
}
