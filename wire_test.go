package chatconn_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"github.com/chatconn/chatconn"
	"github.com/chatconn/chatconn/devserver"
	"github.com/chatconn/chatconn/fsm"
	"github.com/chatconn/chatconn/tokens"
	"github.com/chatconn/chatconn/transport/memnet"
)

// This file holds servers that the client must understand, beside the one of
// package devserver: what services, their edges and the proxies on the way send.
// Each is bare gorilla and net/http.

// peer is the server's end of one request, and of the socket that it may become.
type peer struct {
	t  *testing.T
	w  http.ResponseWriter
	r  *http.Request
	ws *websocket.Conn
}

// accept upgrades. Frames that are written byte by byte go out in fragments of 16.
func (p *peer) accept() {
	upgrader := websocket.Upgrader{WriteBufferSize: 16}
	ws, err := upgrader.Upgrade(p.w, p.r, nil)
	if err != nil {
		p.t.Errorf("upgrade: %v", err)
		panic(http.ErrAbortHandler)
	}
	p.ws = ws
}

const hello = `{"type":"health.check","connection_id":"first","cid":"*","me":{"id":"john","name":"John of the server"},"created_at":"2026-06-01T10:00:00Z"}`

// say sends text frames. The client may have left already.
func (p *peer) say(frames ...string) {
	for _, frame := range frames {
		_ = p.ws.WriteMessage(websocket.TextMessage, []byte(frame))
	}
}

// bye closes as RFC 6455 has it; code 0 sends no code.
func (p *peer) bye(code int, reason string) {
	var body []byte
	if code != 0 {
		body = websocket.FormatCloseMessage(code, reason)
	}
	_ = p.ws.WriteControl(websocket.CloseMessage, body, time.Now().Add(time.Second))
	_ = p.ws.SetReadDeadline(time.Now().Add(time.Second))
	p.read()
}

// read reads until the client leaves.
func (p *peer) read() {
	for {
		if _, _, err := p.ws.ReadMessage(); err != nil {
			return
		}
	}
}

// serve answers every message of the client with frames, until it leaves.
func (p *peer) serve(answers ...string) {
	for {
		if _, _, err := p.ws.ReadMessage(); err != nil {
			return
		}
		p.say(answers...)
	}
}

// answer is an HTTP answer; fields are "Name: value".
func (p *peer) answer(status int, body string, fields ...string) {
	for _, field := range fields {
		name, value, _ := strings.Cut(field, ": ")
		p.w.Header().Set(name, value)
	}
	p.w.WriteHeader(status)
	_, _ = io.WriteString(p.w, body)
}

// wire is a Conn and the server that a test writes for it.
type wire struct {
	*testing.T
	net      *memnet.Network
	conn     *chatconn.Conn
	attempts atomic.Int64 // requests for a socket
	loads    atomic.Int64
	changes  []chatconn.Change // from New on; complete when nothing moves
	api      func(p *peer)     // every other request; nil: 404
}

// onWire runs a test in a bubble. The server meets the first request for a socket
// with first, and every later one as it should be.
func onWire(t *testing.T, first func(p *peer), test func(w *wire)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &wire{T: t, net: memnet.New()}
		listener, err := w.net.Listen("127.0.0.1:80")
		if err != nil {
			t.Fatal(err)
		}
		server := &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			p := &peer{t: t, w: rw, r: r}
			defer func() {
				if p.ws != nil {
					_ = p.ws.Close()
				}
			}()
			switch {
			case r.URL.Path != "/connect" && w.api != nil:
				w.api(p)
			case r.URL.Path != "/connect":
				http.NotFound(rw, r)
			case w.attempts.Add(1) == 1:
				first(p)
			default:
				p.accept()
				p.say(strings.Replace(hello, "first", "second", 1))
				p.serve(strings.Replace(hello, "first", "second", 1))
			}
		})}
		go func() { _ = server.Serve(listener) }()
		defer server.Close()

		w.conn, err = chatconn.New(chatconn.Config{APIKey: "key", BaseURL: "http://127.0.0.1:80", DialContext: w.net.DialContext})
		if err != nil {
			t.Fatal(err)
		}
		watched := make(chan struct{})
		changes := w.conn.Watch(t.Context())
		go func() {
			defer close(watched)
			for change := range changes {
				w.changes = append(w.changes, change)
			}
		}()
		test(w)
		if err := w.conn.Close(); err != nil {
			t.Error(err)
		}
		<-watched
		if bugs := w.conn.Stats().Bugs; bugs != 0 {
			t.Errorf("%d events that the table refuses", bugs)
		}
	})
}

var john = chatconn.User{ID: "john", Name: "John"}

// source mints another token for each load.
func (w *wire) source() tokens.Source {
	return tokens.Func(func(context.Context) (string, error) {
		return tokens.Sign([]byte("the secret of the wire"), tokens.Claims{UserID: "john", IssuedAt: time.Unix(w.loads.Add(1), 0)})
	})
}

// connect logs john in. It has ten minutes.
func (w *wire) connect() (chatconn.Session, error) {
	ctx, cancel := context.WithTimeout(w.Context(), 10*time.Minute)
	defer cancel()
	return w.conn.ConnectUser(ctx, john, w.source())
}

// fate says in a word what has become of the connection since its first trouble:
//
//	fine     nothing happened to it
//	final    it went Offline
//	refresh  it asked for another token and came back at once
//	later    it asked for another token and came back after a wait
//	backoff  it came back after a wait, with the token that it had
//
// and the error that caused it. It lets ten minutes pass.
func (w *wire) fate() (string, error) {
	w.Helper()
	time.Sleep(10 * time.Minute)
	synctest.Wait()
	i := slices.IndexFunc(w.changes, func(change chatconn.Change) bool { return change.Cause != nil })
	if i < 0 {
		return "fine", nil
	}
	trouble, loads := w.changes[i], w.loads.Load()
	for _, change := range w.changes[i:] {
		waited := change.At.Sub(trouble.At)
		switch {
		case change.To == fsm.Offline:
			if loads != 1 {
				w.Errorf("%d loads for a final error", loads)
			}
			return "final", trouble.Cause
		case change.To != fsm.Connected:
		case loads == 2 && waited == 0:
			return "refresh", trouble.Cause
		case loads == 2:
			return "later", trouble.Cause
		case loads == 1 && waited > 0:
			return "backoff", trouble.Cause
		default:
			return fmt.Sprintf("back after %v and %d loads", waited, loads), trouble.Cause
		}
	}
	return "lost", trouble.Cause
}

// wantFate checks what a row of a table says: the fate, and what the service said,
// if it is the service that spoke.
func (w *wire) wantFate(fate string, code, status int) {
	w.Helper()
	got, cause := w.fate()
	if got != fate {
		w.Errorf("the connection: %s, want %s; the cause: %v", got, fate, cause)
	}
	if fate == "fine" {
		return
	}
	var api *chatconn.APIError
	switch {
	case !errors.As(cause, &api):
		if code != 0 || cause == nil {
			w.Errorf("the cause is %v, want code %d", cause, code)
		}
	case api.Code != code || api.StatusCode != status:
		w.Errorf("the cause has code %d and status %d, want %d and %d", api.Code, api.StatusCode, code, status)
	}
	attempts := int64(2)
	if fate == "final" {
		attempts = 1
	}
	if n := w.attempts.Load(); n != attempts {
		w.Errorf("%d attempts, want %d", n, attempts)
	}
}

// during runs a row in both phases of a socket: before its hello, and after.
func during(t *testing.T, name string, then func(p *peer), check func(w *wire)) {
	t.Run(name+"/before the hello", func(t *testing.T) {
		onWire(t, func(p *peer) { p.accept(); then(p) }, func(w *wire) {
			session, err := w.connect()
			if (err == nil) != (session.ConnectionID != "") {
				w.Errorf("session %+v, error %v", session, err)
			}
			check(w)
		})
	})
	t.Run(name+"/after the hello", func(t *testing.T) {
		onWire(t, func(p *peer) {
			p.accept()
			p.say(hello)
			time.Sleep(time.Second)
			then(p)
		}, func(w *wire) {
			if _, err := w.connect(); err != nil {
				w.Error(err)
			}
			check(w)
		})
	})
}

// real is an error frame as it was seen in the field: no details, no more_info.
const real = `{"error":{"code":40,"message":"Connect failed with error: \"JWTAuth error: token is expired (exp)\"","StatusCode":401,"duration":"0.00ms"}}`

// E, E1: an error frame is understood by its code, in every envelope and in every
// form in which the object may come.
func TestWire_ErrorFrames(t *testing.T) {
	for name, row := range map[string]struct {
		frame        string
		fate         string
		code, status int
	}{
		"the whole object in the whole envelope": {`{"type":"connection.error","connection_id":"","cid":"*","created_at":"2026-06-01T10:00:00Z",
			"error":{"code":40,"message":"expired","StatusCode":401,"duration":"0.1ms","more_info":"https://example.org","details":[],"exception_fields":{"a":"b"}}}`, "refresh", 40, 401},
		"bare, as seen":              {real, "refresh", 40, 401},
		"a code alone":               {`{"error":{"code":40}}`, "refresh", 40, 0},
		"pretty-printed":             {"\r\n{\n\t\"error\" : {\n\t\t\"code\" : 40 ,\n\t\t\"StatusCode\" : 401\n\t}\n}\n", "refresh", 40, 401},
		"an empty type":              {`{"type":"","error":{"code":40,"StatusCode":401}}`, "refresh", 40, 401},
		"a null type":                {`{"error":{"code":40,"StatusCode":401},"type":null}`, "refresh", 40, 401},
		"other fields, other types":  {`{"error":{"code":40,"StatusCode":"401","details":null,"duration":7,"more_info":null,"message":null,"new":[{}]},"received_at":"x","custom":{}}`, "refresh", 40, 0},
		"a bad signature":            {`{"error":{"code":43,"StatusCode":401,"message":"signature is not valid"}}`, "refresh", 43, 401},
		"malformed":                  {`{"error":{"code":5,"StatusCode":401}}`, "refresh", 5, 401},
		"not yet valid":              {`{"type":"connection.error","error":{"code":41,"StatusCode":401}}`, "later", 41, 401},
		"issued in the future":       {`{"error":{"code":42}}`, "later", 42, 0},
		"an unknown key":             {`{"error":{"code":2,"message":"api_key not valid"}}`, "final", 2, 0},
		"a deleted user":             {`{"error":{"code":16,"StatusCode":404,"message":"the user john was deleted"}}`, "final", 16, 404},
		"suspended":                  {`{"type":"connection.error","error":{"code":99,"StatusCode":403}}`, "final", 99, 403},
		"an unknown code of 4xx":     {`{"error":{"code":7777,"StatusCode":403}}`, "final", 7777, 403},
		"an unknown code":            {`{"error":{"code":7777}}`, "backoff", 7777, 0},
		"StatusCode in another case": {`{"error":{"code":7777,"statusCode":403}}`, "backoff", 7777, 0},
		"rate limited":               {`{"error":{"code":9,"StatusCode":429}}`, "backoff", 9, 429},
		"a status of 429":            {`{"error":{"code":7777,"StatusCode":429}}`, "backoff", 7777, 429},
		"internal":                   {`{"error":{"code":-1,"StatusCode":500,"message":"internal error"}}`, "backoff", -1, 500},
		"unrecoverable":              {`{"error":{"code":-1,"StatusCode":500,"unrecoverable":true}}`, "final", -1, 500},
		"unrecoverable but expired":  {`{"error":{"code":40,"StatusCode":401,"unrecoverable":true}}`, "final", 40, 401},
		"recoverable, it says":       {`{"error":{"code":2,"StatusCode":401,"unrecoverable":false}}`, "final", 2, 401},
		"a text that lies":           {`{"error":{"code":-1,"StatusCode":500,"message":"token is expired, code 40, StatusCode 401"}}`, "backoff", -1, 500},

		// Errors of nobody's: the socket ends, but not for good.
		"no object":               {`{"type":"connection.error","created_at":"2026-06-01T10:00:00Z"}`, "backoff", 0, 0},
		"a null object":           {`{"type":"connection.error","error":null}`, "backoff", 0, 0},
		"a text":                  {`{"error":"token is expired"}`, "backoff", 0, 0},
		"no code":                 {`{"error":{"message":"token is expired","StatusCode":401}}`, "backoff", 0, 0},
		"a code that is a string": {`{"error":{"code":"40","StatusCode":401}}`, "backoff", 0, 0},
		"a code in another case":  {`{"error":{"Code":40}}`, "backoff", 0, 0},
	} {
		during(t, name, func(p *peer) {
			p.say(row.frame)
			p.bye(websocket.CloseNormalClosure, "")
		}, func(w *wire) { w.wantFate(row.fate, row.code, row.status) })
	}
}

// E: the error frame comes first and is what counts, however the socket ends
// after it.
func TestWire_TheFrameBeforeTheClose(t *testing.T) {
	endings := map[string]func(p *peer){
		"close 1000":               func(p *peer) { p.bye(1000, "") },
		"close 1000 with a reason": func(p *peer) { p.bye(1000, "bye") },
		"close 1011":               func(p *peer) { p.bye(1011, "") },
		"close without a code":     func(p *peer) { p.bye(0, "") },
		"no close frame":           func(p *peer) {},
		"no end":                   func(p *peer) { p.read() },
		"a second, other error":    func(p *peer) { p.say(`{"error":{"code":-1,"StatusCode":500}}`); p.bye(1000, "") },
	}
	tellings := map[string]func(p *peer, frame string){
		"": func(p *peer, frame string) { p.say(frame) },
		"in fragments, ": func(p *peer, frame string) {
			w, err := p.ws.NextWriter(websocket.TextMessage)
			if err != nil {
				return
			}
			for i := range len(frame) {
				_, _ = io.WriteString(w, frame[i:i+1])
			}
			_ = w.Close()
		},
		"after events, ": func(p *peer, frame string) {
			p.say(`{"type":"message.new","error":{"code":2}}`, `{"type":"health.check","connection_id":"first"}`, frame)
		},
	}
	for how, tell := range tellings {
		for name, end := range endings {
			during(t, how+name, func(p *peer) {
				tell(p, real)
				end(p)
			}, func(w *wire) { w.wantFate("refresh", 40, 401) })
		}
	}
}

// E: without an error frame a close says nothing but that the socket is gone:
// neither its code nor its reason makes the end final or costs the token.
func TestWire_CloseCodes(t *testing.T) {
	for _, code := range []int{0, 1000, 1001, 1003, 1007, 1008, 1009, 1011, 1012, 1013, 3000, 4001, 4999} {
		for _, reason := range []string{"", `{"code":40}`, "token is expired"} {
			if code == 0 && reason != "" {
				continue
			}
			during(t, fmt.Sprintf("%d %s", code, reason), func(p *peer) { p.bye(code, reason) },
				func(w *wire) { w.wantFate("backoff", 0, 0) })
		}
	}
	for name, end := range map[string]func(p *peer){
		"1006: the stream ends":     func(p *peer) {},
		"1006: in the middle":       func(p *peer) { _, _ = p.ws.NetConn().Write([]byte{0x81, 0x7e, 0x01, 0x00, '{'}) },
		"no frame at all":           func(p *peer) { _, _ = p.ws.NetConn().Write([]byte("HTTP/1.1 502 Bad Gateway\r\n\r\n")); p.read() },
		"a frame of a reserved bit": func(p *peer) { _, _ = p.ws.NetConn().Write([]byte{0xf1, 0x00}); p.read() },
		"a close code of nobody":    func(p *peer) { _, _ = p.ws.NetConn().Write([]byte{0x88, 0x02, 0x03, 0xed}); p.read() },
	} {
		during(t, name, end, func(w *wire) { w.wantFate("backoff", 0, 0) })
	}
}

// E: an upgrade that is refused is the service's word only with an API error body;
// what a proxy, an edge or a captive portal says is waited out.
func TestWire_RefusedUpgrades(t *testing.T) {
	const (
		page = "Content-Type: text/html"
		json = "Content-Type: application/json"
		text = "Content-Type: text/plain"
	)
	html := "<!DOCTYPE html><html><body><h1>Bad Gateway</h1>" + strings.Repeat("<hr>", 100) + "</body></html>"
	for name, row := range map[string]struct {
		status       int
		head         []string
		body         string
		fate         string
		code, answer int // what the APIError says
		wait         time.Duration
	}{
		"502 in HTML":                   {502, []string{page}, html, "backoff", 0, 0, 0},
		"504 in text":                   {504, []string{text}, "upstream request timeout", "backoff", 0, 0, 0},
		"503 without a word":            {503, nil, "", "backoff", 0, 0, 0},
		"500 in long HTML":              {500, []string{page}, strings.Repeat(html, 1000), "backoff", 0, 0, 0},
		"429 in text, seconds":          {429, []string{text, "Retry-After: 60"}, "too many requests", "backoff", 0, 0, time.Minute},
		"429 in text, a date":           {429, []string{text, "Date: Sat, 01 Jan 2000 00:00:00 GMT", "Retry-After: Sat, 01 Jan 2000 00:01:00 GMT"}, "slow down", "backoff", 0, 0, time.Minute},
		"429 in text, nonsense":         {429, []string{text, "Retry-After: soon"}, "slow down", "backoff", 0, 0, 0},
		"429 in JSON":                   {429, []string{json, "Retry-After: 60"}, `{"code":9,"StatusCode":429,"message":"Too many requests"}`, "backoff", 9, 429, time.Minute},
		"503 and a time":                {503, []string{page, "Retry-After: 60"}, html, "backoff", 0, 0, time.Minute},
		"a captive portal":              {200, []string{page}, html, "backoff", 0, 0, 0},
		"a captive portal elsewhere":    {302, []string{"Location: http://127.0.0.1:80/elsewhere"}, "", "backoff", 0, 0, 0},
		"401 in HTML":                   {401, []string{page, "WWW-Authenticate: Basic"}, html, "backoff", 0, 0, 0},
		"403 in text":                   {403, []string{text}, "forbidden: token is expired", "backoff", 0, 0, 0},
		"404 in HTML":                   {404, []string{page}, html, "backoff", 0, 0, 0},
		"407":                           {407, nil, "", "backoff", 0, 0, 0},
		"426":                           {426, []string{text}, "Upgrade Required", "backoff", 0, 0, 0},
		"403 in foreign JSON":           {403, []string{json}, `{"message":"Forbidden"}`, "backoff", 0, 0, 0},
		"401 in foreign JSON":           {401, []string{json}, `{"error":"unauthorized","status":401}`, "backoff", 0, 0, 0},
		"401 in a JSON array":           {401, []string{json}, `[{"code":2}]`, "backoff", 0, 0, 0},
		"JSON that breaks off":          {403, []string{json}, `{"code":2,"StatusCode":4`, "backoff", 0, 0, 0},
		"expired":                       {401, []string{json}, `{"code":40,"StatusCode":401,"message":"m","duration":"0.00ms","more_info":"","details":[]}`, "refresh", 40, 401, 0},
		"expired, a code alone":         {401, []string{json}, `{"code":40}`, "refresh", 40, 401, 0},
		"expired, pretty-printed":       {401, []string{json}, "{\n  \"code\": 40,\n  \"StatusCode\": 401\n}\n", "refresh", 40, 401, 0},
		"expired, in text":              {401, []string{text}, `{"code":40,"StatusCode":401}`, "refresh", 40, 401, 0},
		"expired, says a page's server": {401, []string{page}, `{"code":40,"StatusCode":401}`, "refresh", 40, 401, 0},
		"expired, no type":              {400, nil, `{"code":40,"StatusCode":401}`, "refresh", 40, 401, 0},
		"not allowed":                   {403, []string{json}, `{"code":17,"message":"not allowed"}`, "final", 17, 403, 0},
		"an unknown code of 4xx":        {403, []string{json}, `{"code":7777}`, "final", 7777, 403, 0},
		"a status of its own":           {403, []string{json}, `{"code":7777,"StatusCode":503}`, "backoff", 7777, 503, 0},
		"a long message":                {401, []string{json}, `{"message":"` + strings.Repeat("x", 10_000) + `","code":2}`, "final", 2, 401, 0},
		"a timeout":                     {408, []string{json}, `{"code":48,"StatusCode":408}`, "backoff", 48, 408, 0},
		"internal":                      {500, []string{json}, `{"code":-1,"StatusCode":500}`, "backoff", -1, 500, 0},
		"unrecoverable":                 {500, []string{json}, `{"code":-1,"StatusCode":500,"unrecoverable":true}`, "final", -1, 500, 0},
	} {
		t.Run(name, func(t *testing.T) {
			onWire(t, func(p *peer) { p.answer(row.status, row.body, row.head...) }, func(w *wire) {
				w.api = func(p *peer) { p.t.Errorf("a request for %s", p.r.URL.Path) } // redirects are not followed
				began := time.Now()
				_, err := w.connect()
				if d := time.Since(began); d < row.wait || d > row.wait+5*time.Second {
					w.Errorf("connected or failed after %v, want %v and at most 5 s more", d, row.wait)
				}
				w.wantFate(row.fate, row.code, row.answer)
				if row.fate == "final" {
					var api *chatconn.APIError
					if !errors.As(err, &api) || api.Code != row.code {
						w.Errorf("ConnectUser: %v", err)
					}
				} else if err != nil {
					w.Errorf("ConnectUser: %v", err)
				}
				// E1: what is no API error keeps its status and first bytes.
				if cause := fmt.Sprint(w.cause()); row.code == 0 {
					start := strings.TrimSpace(row.body[:min(len(row.body), 20)])
					if !strings.Contains(cause, fmt.Sprint("HTTP ", row.status)) || !strings.Contains(strings.ReplaceAll(cause, `\"`, `"`), start) {
						w.Errorf("the cause %q, want status %d and %q", cause, row.status, start)
					}
				}
			})
		})
	}
}

// cause returns the first error that a change tells of.
func (w *wire) cause() error {
	for _, change := range w.changes {
		if change.Cause != nil {
			return change.Cause
		}
	}
	return nil
}

// R4: an upgrade that no health check follows is given up at its deadline,
// whatever else comes meanwhile.
func TestWire_NoHello(t *testing.T) {
	for name, frames := range map[string][]string{
		"nothing":         nil,
		"events":          {`{"type":"message.new","connection_id":"x"}`, `{"type":"connection.ok","connection_id":"y"}`},
		"no id":           {`{"type":"health.check"}`, `{"type":"health.check","connection_id":""}`, `{"type":"health.check","connection_id":null}`, `{"type":"health.check","connection_id":7}`},
		"another case":    {`{"Type":"health.check","Connection_ID":"x"}`, `{"type":"Health.Check","connection_id":"x"}`},
		"not an object":   {`[{"type":"health.check","connection_id":"x"}]`, `"health.check"`, `null`, ``, `{"type":"health.check","connection_id":"x"`},
		"no error either": {`{"error":null}`, `{}`},
	} {
		t.Run(name, func(t *testing.T) {
			onWire(t, func(p *peer) {
				p.accept()
				p.say(frames...)
				_ = p.ws.WriteMessage(websocket.BinaryMessage, []byte(hello)) // messages are text
				p.read()
			}, func(w *wire) {
				began := time.Now()
				session, err := w.connect()
				if err != nil || session.ConnectionID != "second" || time.Since(began) < 15*time.Second || time.Since(began) > 20*time.Second {
					w.Errorf("%+v, %v after %v", session, err, time.Since(began))
				}
				w.wantFate("backoff", 0, 0)
			})
		})
	}
}

// C1: what opens a connection is a health check with a connection id; all else in
// it may be missing, and more may ride along.
func TestWire_Hellos(t *testing.T) {
	given := chatconn.User{ID: "john", Name: "John"}
	theirs := chatconn.User{ID: "john", Name: "J", Image: "i", Extra: map[string]any{"score": 1.5, "role": "user"}}
	const me = `"me":{"id":"john","name":"J","image":"i","score":1.5,"role":"user"}`
	for name, row := range map[string]struct {
		frames []string // the last one opens
		user   chatconn.User
	}{
		"all":                    {[]string{`{"type":"health.check","connection_id":"first","cid":"*",` + me + `,"created_at":"2026-06-01T10:00:00.123456789Z"}`}, theirs},
		"no me, cid, created_at": {[]string{`{"type":"health.check","connection_id":"first"}`}, given},
		"null for what is none":  {[]string{`{"type":"health.check","connection_id":"first","me":null,"cid":null,"created_at":null,"error":null}`}, given},
		"me is no object":        {[]string{`{"type":"health.check","connection_id":"first","me":["john"]}`}, given},
		"me has no id":           {[]string{`{"type":"health.check","connection_id":"first","me":{"name":"x"}}`}, given},
		"another order":          {[]string{`{` + me + `,"created_at":"x","connection_id":"first","type":"health.check"}`}, theirs},
		"pretty-printed":         {[]string{"\n{\n  \"type\" : \"health.check\",\r\n\t\"connection_id\" : \"first\",\n  " + me + "\n}\n"}, theirs},
		"escaped":                {[]string{`{"\u0074ype":"health\u002echeck","connection_id":"f\u0069rst",` + me + `}`}, theirs},
		"unknown fields":         {[]string{`{"received_at":"2026-06-01T10:00:00Z","custom":{"error":{"code":2}},"type":"health.check","new":[[{}]],"connection_id":"first",` + me + `}`}, theirs},
		"invalid UTF-8": {[]string{"{\"type\":\"health.check\",\"connection_id\":\"first\",\"me\":{\"id\":\"john\",\"k\xff\":\"v\xff\"}}"},
			chatconn.User{ID: "john", Extra: map[string]any{"k\ufffd": "v\ufffd"}}},
		"twice the same key": {[]string{`{"type":"x","connection_id":"nobody","type":"health.check","connection_id":"first"}`}, given},
		"after other frames": {[]string{`{"type":"notification.added_to_channel","connection_id":"nobody","error":{"code":40}}`, `{"type":"health.check"}`, `not JSON`,
			`{"type":"health.check","connection_id":"first",` + me + `}`}, theirs},
	} {
		t.Run(name, func(t *testing.T) {
			onWire(t, func(p *peer) {
				p.accept()
				_ = p.ws.WriteControl(websocket.PingMessage, []byte("early"), time.Now().Add(time.Second))
				pong := ""
				p.ws.SetPongHandler(func(data string) error { pong = data; return nil })
				p.say(row.frames...)
				p.serve(row.frames[len(row.frames)-1])
				if pong != "early" {
					p.t.Errorf("a ping before the hello is answered with pong %q", pong)
				}
			}, func(w *wire) {
				session, err := w.connect()
				if err != nil || session.ConnectionID != "first" || fmt.Sprint(session.User) != fmt.Sprint(row.user) {
					w.Errorf("%+v, %v; want the user %+v", session, err, row.user)
				}
				w.wantFate("fine", 0, 0)
			})
		})
	}
}

// H1, C1: every frame proves life, whatever it says, and none of them changes the
// session: its connection id is that of the open socket, until another is open.
func TestWire_Answers(t *testing.T) {
	control := func(kind int) func(p *peer) {
		return func(p *peer) { _ = p.ws.WriteControl(kind, []byte("x"), time.Now().Add(time.Second)) }
	}
	text := func(frames ...string) func(p *peer) { return func(p *peer) { p.say(frames...) } }
	for name, answer := range map[string]func(p *peer){
		"a health check without me":   text(`{"type":"health.check","connection_id":"first","cid":"*"}`),
		"me again":                    text(hello),
		"another me":                  text(`{"type":"health.check","connection_id":"first","me":{"id":"eve","name":"Eve"}}`),
		"another connection id":       text(`{"type":"health.check","connection_id":"third","cid":"*"}`),
		"no connection id":            text(`{"type":"health.check"}`),
		"pretty-printed":              text("{\n  \"type\": \"health.check\",\n  \"connection_id\": \"first\"\n}\n"),
		"an array":                    text(`[{"type":"health.check"}]`),
		"a field called error":        text(`{"type":"health.check","error":{"code":2}}`),
		"an error that is none":       text(`{"error":null}`),
		"no JSON":                     text("pong", "", "\xff"),
		"a binary frame":              func(p *peer) { _ = p.ws.WriteMessage(websocket.BinaryMessage, []byte(real)) },
		"a ping":                      control(websocket.PingMessage),
		"a pong that nobody asked of": control(websocket.PongMessage),
	} {
		t.Run(name, func(t *testing.T) {
			onWire(t, func(p *peer) {
				p.accept()
				p.say(hello)
				for {
					if _, _, err := p.ws.ReadMessage(); err != nil {
						return
					}
					answer(p)
				}
			}, func(w *wire) {
				ids := make(chan string, 1)
				w.api = func(p *peer) { ids <- p.r.URL.Query().Get("connection_id") }
				opened, err := w.connect()
				if err != nil {
					w.Fatal(err)
				}
				events := w.conn.Events(w.Context(), "health.check", "connection.error")
				time.Sleep(time.Hour)
				if session, ok := w.conn.Session(); !ok || fmt.Sprint(session) != fmt.Sprint(opened) || session.ConnectionID != "first" || session.User.Name != "John of the server" {
					w.Errorf("%+v, %t; want %+v", session, ok, opened)
				}
				if resp, err := w.conn.HTTPClient().Get("http://127.0.0.1:80/app"); err != nil {
					w.Error(err)
				} else if resp.Body.Close(); <-ids != "first" {
					w.Error("a request carries another connection id")
				}
				select {
				case event := <-events:
					w.Errorf("an event: %s", event.Raw)
				default:
				}
				w.wantFate("fine", 0, 0)
			})
		})
	}
}

// O1: an event is delivered as it came, however little it says.
func TestWire_Events(t *testing.T) {
	rows := []struct {
		frame           string
		typ, cid, user  string
		created, binary bool
	}{
		{`{"type":"message.new","cid":"messaging:x","user":{"id":"ann"},"created_at":"2026-06-01T10:00:00.5Z"}`, "message.new", "messaging:x", "ann", true, false},
		{`{"type":"typing.start"}`, "typing.start", "", "", false, false},
		{`{"type":"a","cid":null,"user":null,"user_id":"bob","created_at":"yesterday"}`, "a", "", "bob", false, false},
		{`{"type":"b","cid":7,"user":"ann","created_at":1780000000}`, "b", "", "", false, false},
		{`{"type":"c","error":{"code":40,"StatusCode":401}}`, "c", "", "", false, false},
		{`{"type":"skipped"}`, "", "", "", false, true},
		{"{\n  \"type\": \"d\",\n  \"cid\": \"messaging:y\"\n}\n", "d", "messaging:y", "", false, false},
		{`{"received_at":"x","custom":{"type":"nested"},"type":"e"}`, "e", "", "", false, false},
		{`{"hello":"no type"}`, "", "", "", false, false},
	}
	onWire(t, func(p *peer) {
		p.accept()
		p.say(hello)
		time.Sleep(time.Second)
		for _, row := range rows {
			if row.binary {
				_ = p.ws.WriteMessage(websocket.BinaryMessage, []byte(row.frame))
			} else {
				p.say(row.frame)
			}
		}
		p.serve(hello)
	}, func(w *wire) {
		if _, err := w.connect(); err != nil {
			w.Fatal(err)
		}
		events := w.conn.Events(w.Context())
		for _, row := range rows {
			if row.binary {
				continue
			}
			e := <-events
			if e.Type != row.typ || e.CID != row.cid || e.UserID != row.user || e.CreatedAt.IsZero() == row.created || string(bytes.TrimSpace(e.Raw)) != strings.TrimSpace(row.frame) {
				w.Errorf("%s became %+v", row.frame, e)
			}
		}
		w.wantFate("fine", 0, 0)
	})
}

// Q3, E1: an API answer is a refused token by its code alone; anything else goes to
// its caller as it came.
func TestWire_APIAnswers(t *testing.T) {
	const json, page = "application/json", "text/html"
	for name, row := range map[string]struct {
		status     int
		kind, body string
		replayed   bool
	}{
		"the whole object":       {401, json, `{"code":40,"message":"QueryChannels failed with error: \"x\"","StatusCode":401,"duration":"0ms","more_info":"","details":[]}`, true},
		"a code alone":           {401, json, `{"code":40}`, true},
		"pretty-printed":         {401, json, "{\n\t\"code\": 40\n}\n", true},
		"in text":                {401, "text/plain", `{"code":40,"StatusCode":401}`, true},
		"under another status":   {403, json, `{"code":40,"StatusCode":401}`, true},
		"in an envelope":         {401, json, `{"error":{"code":40}}`, false},
		"another case":           {401, json, `{"Code":40}`, false},
		"a string":               {401, json, `{"code":"40"}`, false},
		"a success":              {200, json, `{"code":40}`, false},
		"a bad signature":        {401, json, `{"code":43,"StatusCode":401}`, false},
		"too early":              {401, json, `{"code":42,"StatusCode":401}`, false},
		"rate limited":           {429, json, `{"code":9,"StatusCode":429}`, false},
		"a page":                 {401, page, "<html>log in</html>", false},
		"a gateway":              {502, page, "<html>Bad Gateway</html>", false},
		"nothing":                {401, "", "", false},
		"JSON that breaks off":   {401, json, `{"code":40`, false},
		"unrecoverable":          {403, json, `{"code":99,"StatusCode":403,"unrecoverable":true}`, false},
		"a body beyond the caps": {401, json, `{"code":40,"message":"` + strings.Repeat("x", 1<<20) + `"}`, false},
	} {
		t.Run(name, func(t *testing.T) {
			onWire(t, func(p *peer) { p.accept(); p.say(hello); p.serve(hello) }, func(w *wire) {
				requests := 0
				w.api = func(p *peer) {
					if requests++; requests == 1 {
						p.answer(row.status, row.body, "Content-Type: "+row.kind)
						return
					}
					p.answer(200, "done")
				}
				if _, err := w.connect(); err != nil {
					w.Fatal(err)
				}
				resp, err := w.conn.HTTPClient().Get("http://127.0.0.1:80/app")
				if err != nil {
					w.Fatal(err)
				}
				defer resp.Body.Close()
				body, err := io.ReadAll(resp.Body)
				if err != nil {
					w.Fatal(err)
				}
				status, want, loads := row.status, row.body, int64(1)
				if row.replayed {
					status, want, loads = 200, "done", 2
				}
				if resp.StatusCode != status || string(body) != want || w.loads.Load() != loads {
					w.Errorf("status %d, body %.80q, %d loads; want %d, %.80q, %d", resp.StatusCode, body, w.loads.Load(), status, want, loads)
				}
				if session, ok := w.conn.Session(); !ok || session.ConnectionID != "first" || w.conn.State() != fsm.Connected || w.attempts.Load() != 1 {
					w.Errorf("the socket did not stay: %+v, %t, %v", session, ok, w.conn.State())
				}
			})
		})
	}
}

// D1: this client and the dev server agree on every id that needs escaping.
func TestWire_AwkwardIDs(t *testing.T) {
	for _, id := range []string{"a+b", "a;b", "john@example.org", "a b", "é", "a%2Bb&c=d#e?f", "日本", `quo"te\`, "<b>", "!x/../y"} {
		t.Run(id, func(t *testing.T) {
			inWorld(t, nil, func(w *world) {
				user := chatconn.User{ID: id, Name: id, Extra: map[string]any{"custom": id}}
				session, err := w.conn.ConnectUser(w.Context(), user, w.source(id))
				if err != nil {
					w.Fatal(err)
				}
				if session.User.ID != id || session.User.Name != id || session.User.Extra["custom"] != id {
					w.Errorf("%+v", session.User)
				}
				if answer := <-w.get(w.Context(), "/app"); answer != nil {
					w.Error(answer)
				}
				for _, e := range w.server.Log() {
					if (e.Kind == devserver.Connect || e.Kind == devserver.Request) && (e.UserID != id || e.Auth != "header") {
						w.Errorf("the server saw %+v", e)
					}
				}
				w.close()
			})
		})
	}
}
