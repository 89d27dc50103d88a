package devserver_test

import (
	"bytes"
	"compress/flate"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chatconn/chatconn/devserver"
	"github.com/chatconn/chatconn/tokens"
	"github.com/gorilla/websocket"
)

// ordered tells whether a fault was recorded.
func (w *world) ordered(name string) bool {
	for _, e := range w.seen(devserver.Fault) {
		if e.Text == name || strings.HasPrefix(e.Text, name+" ") {
			return true
		}
	}
	return false
}

// login connects a user with a token and returns the code of the refusal, 0 for
// a hello.
func (w *world) login(userID, token string) float64 {
	w.Helper()
	c, _, err := w.dial(w.query(userID, token), nil)
	if err != nil {
		w.Fatal(err)
	}
	defer c.ws.Close()
	e, _ := c.read()["error"].(m)
	code, _ := e["code"].(float64)
	return code
}

func TestD3_RefuseConnections(t *testing.T) {
	inBubble(t, devserver.Options{}, func(w *world) {
		alice, _ := w.connect("alice")
		if status, _ := w.call("GET", "/app", w.Token("alice", 0), nil); status != 200 {
			w.Fatal(status)
		}
		w.RefuseConnections(true)
		if _, _, err := w.dial(w.query("bob", w.Token("bob", 0)), nil); err == nil {
			w.Error("a connection came through")
		}
		if resp, err := w.http.Get(w.URL() + "/app"); err == nil { // on a connection that is open
			w.Error("a request was answered:", resp.Status)
		}
		w.Emit("alice", m{"type": "still here"})
		if alice.read()["type"] != "still here" {
			w.Error("open sockets stay")
		}
		w.RefuseConnections(false)
		w.connect("bob")
		if len(w.seen(devserver.Refused)) == 0 || !w.ordered("refuse") {
			w.Error("not recorded")
		}
	})
}

func TestD3_Silence(t *testing.T) {
	inBubble(t, devserver.Options{HealthCheckInterval: time.Minute}, func(w *world) {
		open, _ := w.connect("alice")
		w.Silence(true)
		late, _, err := w.dial(w.query("bob", w.Token("bob", 0)), nil)
		if err != nil {
			w.Fatal("it upgrades:", err)
		}
		open.ws.SetPongHandler(func(string) error { w.Error("pong"); return nil })
		for _, c := range []*client{open, late} {
			c.ws.WriteMessage(websocket.TextMessage, []byte("{}"))
			c.ws.WriteControl(websocket.PingMessage, nil, time.Now().Add(time.Second))
		}
		w.Emit("", m{"type": "lost"})
		w.CloseAll(1000, "")
		late.ws.WriteControl(websocket.CloseMessage, nil, time.Now().Add(time.Second))
		open.silence(time.Hour)
		late.silence(time.Hour)
		if n := len(w.seen(devserver.Frame)); n != 2 {
			w.Errorf("%d frames recorded: the silent still listen", n)
		}
		w.Silence(false)
		w.connect("bob")
	})
}

func TestD3_SilenceHTTP(t *testing.T) {
	inBubble(t, devserver.Options{}, func(w *world) {
		w.SilenceHTTP(true)
		ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
		defer cancel()
		began := time.Now()
		for _, method := range []string{"GET", "POST"} {
			req, _ := http.NewRequestWithContext(ctx, method, w.URL()+"/guest", strings.NewReader(strings.Repeat("x", 100<<10)))
			if resp, err := w.http.Do(req); err == nil || time.Since(began) != time.Hour {
				w.Errorf("%s: %v, %v after %s", method, resp, err, time.Since(began))
			}
		}
		var err error
		go func() { _, _, err = w.dial(w.query("alice", w.Token("alice", 0)), nil) }()
		synctest.Wait()
		if err != nil {
			w.Error("an upgrade is not answered either:", err)
		}
		w.SilenceHTTP(false)
		synctest.Wait()
		if err == nil {
			w.Error("who waited is cut")
		}
		w.connect("alice")
	})
}

func TestD3_StopHealth(t *testing.T) {
	inBubble(t, devserver.Options{HealthCheckInterval: time.Second}, func(w *world) {
		c, _ := w.connect("alice")
		w.StopHealth(true)
		c.ws.SetPongHandler(func(string) error { w.Error("pong"); return nil })
		c.ws.WriteMessage(websocket.TextMessage, []byte("{}"))
		c.ws.WriteControl(websocket.PingMessage, nil, time.Now().Add(time.Second))
		time.Sleep(time.Minute)
		w.Emit("alice", m{"type": "event"})
		if got := c.read(); got["type"] != "event" {
			w.Error(got)
		}
		w.StopHealth(false)
		if got := c.read(); got["type"] != "health.check" {
			w.Error(got)
		}
	})
}

func TestD3_Slow(t *testing.T) {
	inBubble(t, devserver.Options{}, func(w *world) {
		w.Slow(3 * time.Second)
		took := func(what string, want time.Duration, do func()) {
			began := time.Now()
			do()
			if d := time.Since(began); d != want {
				w.Errorf("%s took %s, want %s", what, d, want)
			}
		}
		var c *client
		took("upgrade and hello", 6*time.Second, func() { c, _ = w.connect("alice") })
		took("a request", 3*time.Second, func() { w.call("GET", "/app", w.Token("alice", 0), nil) })
		took("a health check", 3*time.Second, func() {
			c.ws.WriteMessage(websocket.TextMessage, nil)
			c.read()
		})
		w.Slow(0)
		took("when it is over", 0, func() { w.call("GET", "/app", w.Token("alice", 0), nil) })
	})
}

func TestD3_CloseAll(t *testing.T) {
	for code, want := range map[int]int{0: 1000, 1000: 1000, 1005: 1005, 1011: 1011, 1013: 1013, 4001: 4001} {
		inBubble(t, devserver.Options{}, func(w *world) {
			one, _ := w.connect("alice")
			two, _ := w.connect("bob")
			w.CloseAll(code, "why")
			for _, c := range []*client{one, two} {
				if got := c.closed(); got != want {
					w.Errorf("code %d came as %d", code, got)
				}
			}
		})
	}
}

func TestD3_Kick(t *testing.T) {
	inBubble(t, devserver.Options{}, func(w *world) {
		alice, _ := w.connect("alice")
		bob, _ := w.connect("bob")
		if n := w.Kick("alice", devserver.APIError{Code: 99, Unrecoverable: true}); n != 1 {
			w.Error(n)
		}
		e := alice.read()["error"].(m)
		if e["code"] != 99.0 || e["StatusCode"] != 403.0 || e["unrecoverable"] != true || e["message"] == "" {
			w.Error(e)
		}
		if code := alice.closed(); code != 1000 {
			w.Error(code)
		}
		bob.silence(time.Hour)
	})
}

func TestD3_DropAfter(t *testing.T) {
	inBubble(t, devserver.Options{}, func(w *world) {
		open, _ := w.connect("alice")
		w.DropAfter(2)
		late, _ := w.connect("bob") // the hello is the first
		for i := range 3 {
			w.Emit("", m{"i": i})
		}
		open.read()
		open.read()
		late.read()
		for _, c := range []*client{open, late} {
			if code := c.closed(); code != websocket.CloseAbnormalClosure {
				w.Error("a close frame came:", code)
			}
		}
		if w.Connections("") != 0 {
			w.Error("still connected")
		}
		w.DropAfter(0)
		c, _ := w.connect("alice")
		for i := range 5 {
			w.Emit("alice", m{"i": i})
			c.read()
		}
	})
}

func TestD3_DropAll(t *testing.T) {
	inBubble(t, devserver.Options{}, func(w *world) {
		c, _ := w.connect("alice")
		w.Emit("alice", m{"type": "late"})
		w.DropAll()
		if w.Connections("alice") != 0 {
			w.Error("still connected")
		}
		c.ws.SetReadDeadline(time.Now().Add(time.Minute))
		for {
			if _, _, err := c.ws.ReadMessage(); err != nil {
				if _, told := err.(*websocket.CloseError); told && err.(*websocket.CloseError).Code != 1006 {
					w.Error(err)
				}
				break
			}
		}
		w.connect("alice")
	})
}

func TestD3_FailHandshakes(t *testing.T) {
	inBubble(t, devserver.Options{}, func(w *world) {
		w.FailHandshakes(2, devserver.APIError{Code: 9})
		for i, want := range []float64{9, 9, 0} {
			if code := w.login("alice", w.Token("alice", 0)); code != want {
				w.Errorf("login %d: %v", i, code)
			}
		}
		w.FailHandshakes(-1, devserver.APIError{Code: 43, StatusCode: 418, Message: "so it is"})
		for range 5 {
			c, _, err := w.dial(w.query("alice", w.Token("alice", 0)), nil)
			if err != nil {
				w.Fatal(err)
			}
			if code, status, _ := c.refusal(); code != 43 || status != 418 {
				w.Error(code, status)
			}
		}
		w.FailHandshakes(0, devserver.APIError{})
		w.connect("alice")
	})
}

func TestD3_FailUpgrades(t *testing.T) {
	inBubble(t, devserver.Options{}, func(w *world) {
		for name, c := range map[string]struct {
			answer               devserver.Answer
			status               int
			retry, kind, contain string
		}{
			"a captive portal": {devserver.Answer{Status: 503, Body: "<html>pay</html>", ContentType: "text/html"}, 503, "", "text/html", "pay"},
			"a rate limit":     {devserver.Answer{Code: 9, RetryAfter: 1500 * time.Millisecond}, 429, "2", "application/json", `"code":9`},
			"an error of ours": {devserver.Answer{Status: 403, Code: 99, Message: "gone"}, 403, "", "application/json", "gone"},
			"no status at all": {devserver.Answer{Status: 7}, 500, "", "text/plain", ""},
			"nothing said":     {devserver.Answer{}, 500, "", "text/plain", ""},
		} {
			w.FailUpgrades(1, c.answer)
			_, resp, err := w.dial(w.query("alice", w.Token("alice", 0)), nil)
			if err == nil || resp == nil {
				w.Fatalf("%s: %v", name, err)
			}
			body, _ := io.ReadAll(resp.Body)
			if resp.StatusCode != c.status || resp.Header.Get("Retry-After") != c.retry || !strings.HasPrefix(resp.Header.Get("Content-Type"), c.kind) || !strings.Contains(string(body), c.contain) {
				w.Errorf("%s: %s %v %s", name, resp.Status, resp.Header, body)
			}
		}
		w.connect("alice")
	})
}

func TestD3_FailRequests(t *testing.T) {
	inBubble(t, devserver.Options{}, func(w *world) {
		token := w.Token("alice", 0)
		w.FailRequests(3, devserver.Answer{Code: 40})
		for i := range 4 {
			status, answer := w.call("POST", "/channels/messaging/x/query", token, m{})
			if i < 3 && (status != 401 || answer["code"] != 40.0) || i == 3 && status != 201 {
				w.Errorf("request %d: %d %v", i, status, answer)
			}
		}
		w.FailRequests(1, devserver.Answer{Status: 502, Body: "bad gateway"})
		if status, _, body := w.raw("GET", "/app", token, nil); status != 502 || string(body) != "bad gateway" {
			w.Error(status, string(body))
		}
		w.FailRequests(1, devserver.Answer{Code: 9})
		w.connect("alice") // sockets are no requests
		faults := 0
		for _, e := range w.seen(devserver.Request) {
			if e.Text == "fault" {
				faults++
			}
		}
		if faults != 4 {
			w.Errorf("%d recorded", faults)
		}
	})
}

// ExpireTokens draws its line between two tokens of the same instant.
func TestD3_ExpireTokens(t *testing.T) {
	inBubble(t, devserver.Options{}, func(w *world) {
		old, bobs := w.Token("alice", time.Hour), w.Token("bob", time.Hour)
		foreign, _ := tokens.Sign(w.Secret(), tokens.Claims{UserID: "alice", IssuedAt: time.Now()})
		timeless, _ := tokens.Sign(w.Secret(), tokens.Claims{UserID: "alice"})
		alice, _ := w.connect("alice")
		bob, _ := w.connect("bob")

		w.ExpireTokens("alice", false)
		fresh := w.Token("alice", time.Hour)
		for name, token := range map[string]string{"old": old, "foreign": foreign, "timeless": timeless} {
			if code := w.login("alice", token); code != 40 {
				w.Errorf("%s: %v", name, code)
			}
			if status, answer := w.call("GET", "/app", token, nil); status != 401 || answer["code"] != 40.0 {
				w.Errorf("%s by API: %v", name, answer)
			}
		}
		if code := w.login("alice", fresh); code != 0 {
			w.Errorf("fresh: %v", code)
		}
		if code := w.login("bob", bobs); code != 0 {
			w.Errorf("bob: %v", code)
		}
		time.Sleep(time.Second)
		if foreign, _ = tokens.Sign(w.Secret(), tokens.Claims{UserID: "alice", IssuedAt: time.Now()}); w.login("alice", foreign) != 0 {
			w.Error("minted elsewhere, later")
		}
		synctest.Wait() // the logins above have hung up
		if w.Connections("alice") != 1 {
			w.Error("open sockets stay unless asked")
		}

		w.ExpireTokens("", true)
		for _, c := range []*client{alice, bob} {
			if code, status, _ := c.refusal(); code != 40 || status != 401 {
				w.Error(code, status)
			}
		}
		if w.login("alice", fresh) != 40 || w.login("bob", bobs) != 40 {
			w.Error("everyone's tokens are expired")
		}
		if w.login("bob", w.Token("bob", 0)) != 0 {
			w.Error("a new one is good")
		}
	})
}

// Protocol 2.1: revocation compares iat; tokens without one are revoked, too.
func TestD3_RevokeTokens(t *testing.T) {
	for name, revoke := range map[string]func(w *world, server string, userID string, before time.Time){
		"the method": func(w *world, _, userID string, before time.Time) { w.RevokeTokens(userID, before) },
		"the API": func(w *world, server, userID string, before time.Time) {
			var at any
			if !before.IsZero() {
				at = before
			}
			path, body := "/app", m{"revoke_tokens_issued_before": at}
			if userID != "" {
				path, body = "/users", m{"users": []any{m{"id": userID, "set": body}}}
			}
			if status, answer := w.call("PATCH", path, server, body); status != 200 {
				w.Fatal(answer)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, devserver.Options{}, func(w *world) {
				server, _ := tokens.Sign(w.Secret(), tokens.Claims{Server: true})
				timeless, _ := tokens.Sign(w.Secret(), tokens.Claims{UserID: "alice"})
				old, bobs := w.Token("alice", 0), w.Token("bob", 0)
				time.Sleep(time.Minute)
				cut := time.Now()
				fresh := w.Token("alice", 0)
				expect := func(when string, want ...float64) {
					w.Helper()
					for i, token := range []string{old, timeless, fresh} {
						if code := w.login("alice", token); code != want[i] {
							w.Errorf("%s, token %d: %v", when, i, code)
						}
					}
					if code := w.login("bob", bobs); code != want[3] {
						w.Errorf("%s, bob: %v", when, code)
					}
				}
				expect("before", 0, 0, 0, 0)
				revoke(w, server, "alice", cut)
				expect("revoked alice's", 40, 40, 0, 0)
				revoke(w, server, "alice", time.Time{})
				expect("undone", 0, 0, 0, 0)
				revoke(w, server, "", cut)
				expect("revoked all", 40, 40, 0, 40)
				revoke(w, server, "", time.Time{})
				expect("undone", 0, 0, 0, 0)
			})
		})
	}
}

func TestD3_GarbageAndOversize(t *testing.T) {
	inBubble(t, devserver.Options{}, func(w *world) {
		c, _ := w.connect("alice")
		w.Garbage("alice", []byte("\xff{["), false)
		w.Garbage("", []byte{0, 1}, true)
		w.Oversize("alice", 3<<20)
		for _, want := range []struct {
			op   int
			data []byte
		}{{websocket.TextMessage, []byte("\xff{[")}, {websocket.BinaryMessage, []byte{0, 1}}} {
			if op, data, err := c.ws.ReadMessage(); op != want.op || !bytes.Equal(data, want.data) || err != nil {
				w.Error(op, data, err)
			}
		}
		if _, data, err := c.ws.ReadMessage(); len(data) != 3<<20 || !json.Valid(data) {
			w.Error(len(data), err)
		}
	})
}

// The answer announces an extension that nobody offered, and frames use it.
func TestD3_Compress(t *testing.T) {
	inBubble(t, devserver.Options{}, func(w *world) {
		w.Compress(true)
		raw, err := w.net.DialContext(context.Background(), "tcp", "chat.test:80")
		if err != nil {
			w.Fatal(err)
		}
		defer raw.Close()
		io.WriteString(raw, "GET /connect?"+w.query("alice", w.Token("alice", 0)).Encode()+" HTTP/1.1\r\nHost: chat.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
		synctest.Wait()
		buf := make([]byte, 4096)
		n, _ := raw.Read(buf)
		head, frame, _ := bytes.Cut(buf[:n], []byte("\r\n\r\n"))
		if !strings.Contains(string(head), "permessage-deflate") {
			w.Errorf("the answer: %s", head)
		}
		for len(frame) < 4 || len(frame) < 4+int(frame[2])<<8+int(frame[3]) {
			n, err := raw.Read(buf)
			if err != nil {
				w.Fatal(err)
			}
			frame = append(frame, buf[:n]...)
		}
		if frame[0] != 0xc1 || frame[1] != 126 { // FIN, RSV1, text; a length of 16 bits
			w.Fatalf("the frame begins with %x", frame[:2])
		}
		hello, _ := io.ReadAll(flate.NewReader(io.MultiReader(bytes.NewReader(frame[4:]), strings.NewReader("\x00\x00\xff\xff\x01\x00\x00\xff\xff"))))
		if !bytes.Contains(hello, []byte("health.check")) {
			w.Errorf("inflated: %q", hello)
		}
	})
}

func TestD3_StopAndRestart(t *testing.T) {
	inBubble(t, devserver.Options{}, func(w *world) {
		w.AddMember("messaging:x", "alice")
		c, hello := w.connect("alice")
		token, url := w.Token("alice", 0), w.URL()
		if err := w.Restart(); err != nil { // nothing to do
			w.Error(err)
		}
		w.Stop()
		w.Stop()
		if code := c.closed(); code != websocket.CloseAbnormalClosure {
			w.Error(code)
		}
		if _, _, err := w.dial(w.query("alice", token), nil); err == nil {
			w.Error("connected while stopped")
		}
		if err := w.Restart(); err != nil || w.URL() != url {
			w.Fatal(err)
		}
		_, again := w.connect("alice")
		if again["me"].(m)["created_at"] != hello["me"].(m)["created_at"] {
			w.Error("users are kept")
		}
		if status, _ := w.call("POST", "/channels/messaging/x/query", token, nil); status != 200 {
			w.Error("channels and secret are kept:", status)
		}
	})
}

func TestD3_Heal(t *testing.T) {
	inBubble(t, devserver.Options{}, func(w *world) {
		open, _ := w.connect("alice")
		w.Silence(true)
		w.SilenceHTTP(true)
		w.StopHealth(true)
		w.Slow(time.Hour)
		w.DropAfter(1)
		w.Compress(true)
		w.BareErrors(true)
		w.RefuseConnections(true)
		w.FailHandshakes(-1, devserver.APIError{Code: 1})
		w.FailUpgrades(-1, devserver.Answer{})
		w.FailRequests(-1, devserver.Answer{})
		w.Heal()
		began := time.Now()
		for range 3 {
			w.Emit("alice", m{"type": "event"})
			open.read()
		}
		c, _ := w.connect("alice")
		c.ws.WriteMessage(websocket.TextMessage, nil)
		c.read()
		if status, _ := w.call("GET", "/app", w.Token("alice", 0), nil); status != 200 || time.Since(began) != 0 {
			w.Error(status, time.Since(began))
		}
	})
}

// D3: every fault is an HTTP endpoint, too, with the parameters it lists.
func TestD3_FaultEndpoints(t *testing.T) {
	inBubble(t, devserver.Options{}, func(w *world) {
		post := func(path, body string) (int, string) {
			w.Helper()
			resp, err := w.http.Post(w.URL()+"/_fault/"+path, "application/json", strings.NewReader(body))
			if err != nil {
				w.Fatalf("%s: %v", path, err)
			}
			defer resp.Body.Close()
			answer, _ := io.ReadAll(resp.Body)
			return resp.StatusCode, string(answer)
		}
		names := make(map[string]bool)
		for _, f := range devserver.Faults() {
			if names[f.Name] || f.Doc == "" {
				w.Errorf("%s: twice, or without a word", f.Name)
			}
			names[f.Name] = true
			if status, answer := post(f.Name, ""); status != 200 {
				w.Errorf("%s: %d %s", f.Name, status, answer)
			}
			time.Sleep(time.Minute)
			synctest.Wait()
			if !w.ordered(f.Name) {
				w.Errorf("%s is not recorded", f.Name)
			}
			w.Heal()
		}
		resp, err := w.http.Get(w.URL() + "/_fault/")
		if err != nil {
			w.Fatal(err)
		}
		defer resp.Body.Close()
		var list struct{ Faults []devserver.FaultCommand }
		if json.NewDecoder(resp.Body).Decode(&list); len(list.Faults) != len(names) {
			w.Errorf("%d listed", len(list.Faults))
		}

		// Parameters come from the body or the query, in the types that people write.
		post("fail-requests", `{"n":1,"code":9,"retry_after":"90s"}`)
		if status, header, _ := w.raw("GET", "/app", w.Token("alice", 0), nil); status != 429 || header.Get("Retry-After") != "90" {
			w.Error(status, header)
		}
		post("fail-requests?n=1&status=503&body=17&retry_after=1.5", "")
		if status, header, body := w.raw("GET", "/app", w.Token("alice", 0), nil); status != 503 || header.Get("Retry-After") != "2" || string(body) != "17" {
			w.Error(status, header, string(body))
		}
		user := "12345"
		c, _ := w.connect(user)
		post("garbage?user="+user+"&base64=AAE%3D&binary=true", "")
		if op, data, _ := c.ws.ReadMessage(); op != websocket.BinaryMessage || !bytes.Equal(data, []byte{0, 1}) {
			w.Error(op, data)
		}
		post("expire-tokens?kick=true&user="+user, "")
		if code, _, _ := c.refusal(); code != 40 {
			w.Error(code)
		}
		post("silence?on=false", "")
		w.connect("alice")

		for path, want := range map[string]int{"nonsense": 404, "slow?delay=fast": 400, "slow?n=1": 400, "slow?a=%zz": 400} {
			if status, answer := post(path, ""); status != want || answer == "" {
				w.Errorf("%s: %d %s", path, status, answer)
			}
		}
		if status, _ := post("slow", "[]"); status != 400 {
			w.Error("a body that is no object:", status)
		}
		if status, _, _ := w.raw("GET", "/_fault/slow", "", nil); status != 405 {
			w.Error("GET orders nothing:", status)
		}
	})
}

// A restart over HTTP answers before it cuts its own connection, and comes back.
func TestD3_RestartOverHTTP(t *testing.T) {
	inBubble(t, devserver.Options{}, func(w *world) {
		c, _ := w.connect("alice")
		resp, err := w.http.Post(w.URL()+"/_fault/restart?for=10", "", nil)
		if err != nil || resp.StatusCode != 200 {
			w.Fatal(resp, err)
		}
		resp.Body.Close()
		if code := c.closed(); code != websocket.CloseAbnormalClosure {
			w.Error(code)
		}
		if _, _, err := w.dial(w.query("alice", w.Token("alice", 0)), nil); err == nil {
			w.Error("it is down")
		}
		time.Sleep(11 * time.Second)
		w.connect("alice")
	})
}

// D3: faults are ordered from this machine, not by web pages or through proxies.
func TestD3_FaultsAreLocal(t *testing.T) {
	s, err := devserver.Start(devserver.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	cases := map[string]struct {
		change func(r *http.Request)
		want   int
	}{
		"this machine":   {func(r *http.Request) {}, 200},
		"by its name":    {func(r *http.Request) { r.Host = "localhost:80" }, 200},
		"IPv6":           {func(r *http.Request) { r.RemoteAddr, r.Host = "[::1]:5", "[::1]" }, 200},
		"its own page":   {func(r *http.Request) { r.Header.Set("Origin", "http://127.0.0.1:80") }, 200},
		"another":        {func(r *http.Request) { r.RemoteAddr = "192.0.2.7:5" }, 403},
		"a proxy":        {func(r *http.Request) { r.Header.Set("X-Forwarded-For", "192.0.2.7") }, 403},
		"a web page":     {func(r *http.Request) { r.Header.Set("Origin", "https://example.com") }, 403},
		"a rebound name": {func(r *http.Request) { r.Host = "evil.example" }, 403},
		"no origin":      {func(r *http.Request) { r.Header.Set("Origin", "null") }, 403},
	}
	for name, c := range cases {
		r := httptest.NewRequest("POST", "http://127.0.0.1:80/_fault/heal", nil)
		r.RemoteAddr = "127.0.0.1:5"
		c.change(r)
		answer := httptest.NewRecorder()
		s.Handler().ServeHTTP(answer, r)
		if answer.Code != c.want {
			t.Errorf("%s: %d", name, answer.Code)
		}
	}
}
