package devserver_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chatconn/chatconn/devserver"
	"github.com/gorilla/websocket"
)

// T11: tokens are in no entry and no log line, wherever clients put them.
func TestT11_NoTokenIsRecorded(t *testing.T) {
	var lines bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&lines, &slog.HandlerOptions{Level: slog.LevelDebug}))
	inBubble(t, devserver.Options{Logger: logger}, func(w *world) {
		token := w.Token("alice", 0)
		q := w.query("alice", token)
		q.Set("json", fmt.Sprintf(`{"user_id":"alice","user_token":%q,"user_details":{"id":"alice","leak":%q}}`, token, token))
		q.Set("X-Stream-Client", token)
		c, _, err := w.dial(q, nil)
		if err != nil {
			w.Fatal(err)
		}
		c.read()
		c.ws.WriteMessage(websocket.TextMessage, []byte(`{"type":"token.refresh","token":"`+token+`"}`))
		c.read()
		q.Set("json", fmt.Sprintf(`{"user_id":%q}`, token))
		if bad, _, err := w.dial(q, nil); err != nil {
			w.Fatal(err)
		} else {
			bad.refusal()
		}
		w.call("GET", "/"+token, token, nil)
		w.call("GET", "/app?connection_id="+token, token, nil)
		w.Kick("alice", devserver.APIError{Code: 40, Message: "the token " + token})
		c.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(1000, token[:100]), time.Now().Add(time.Second))
		w.ExpireTokens(token, false)
		synctest.Wait()

		record, err := json.Marshal(w.Log())
		if err != nil {
			w.Fatal(err)
		}
		payload := strings.Split(token, ".")[1]
		for name, text := range map[string]string{"record": string(record), "log": lines.String()} {
			if strings.Contains(text, payload) || strings.Contains(text, payload[:20]) {
				w.Errorf("the %s holds a token: %s", name, text)
			}
		}
		if len(lines.String()) == 0 {
			w.Error("entries are logged")
		}
		sum := sha256.Sum256([]byte(token))
		if e := w.seen(devserver.Connect)[0]; e.Token != hex.EncodeToString(sum[:4]) || !json.Valid(e.Details) {
			w.Errorf("%+v", e)
		}
	})
}

// The record tells one socket's whole life in order.
func TestD3_Record(t *testing.T) {
	inBubble(t, devserver.Options{}, func(w *world) {
		c, hello := w.connect("alice")
		c.ws.WriteMessage(websocket.TextMessage, []byte(`{"type":"health.check","client_id":"7"}`))
		c.read()
		w.call("GET", "/app?connection_id=5", w.Token("alice", 0), nil)
		c.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(1000, "bye"), time.Now().Add(time.Second))
		c.closed()
		synctest.Wait()
		var story []string
		for _, e := range w.Log() {
			story = append(story, string(e.Kind))
			if e.UserID != "alice" || !e.At.Equal(time.Now()) {
				w.Errorf("%+v", e)
			}
			if id := e.ConnectionID; e.Kind != devserver.Connect && e.Kind != devserver.Request && id != hello["connection_id"] {
				w.Errorf("%+v", e)
			}
		}
		if got := strings.Join(story, " "); got != "connect hello frame request close gone" {
			w.Error(got)
		}
		if e := w.seen(devserver.Frame)[0]; !strings.Contains(e.Text, `"client_id":"7"`) {
			w.Errorf("%+v", e)
		}
		if e := w.seen(devserver.Request)[0]; e.Method != "GET" || e.Path != "/app" || e.Status != 200 || e.ConnectionID != "5" || e.Auth != "header" {
			w.Errorf("%+v", e)
		}
		if e := w.seen(devserver.Close)[0]; e.By != "client" || e.Code != 1000 || e.Text != "bye" {
			w.Errorf("%+v", e)
		}
	})
}

// The record is bounded: the oldest entries go.
func TestRecordIsBounded(t *testing.T) {
	s, err := devserver.Start(devserver.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	const n = 200_500
	for i := range n {
		s.DropAfter(-i)
	}
	entries := s.Log()
	if len(entries) != 100_000 {
		t.Fatalf("%d entries", len(entries))
	}
	if first, last := entries[0].Text, entries[len(entries)-1].Text; first != fmt.Sprintf("drop-after n=-%d", n-100_000) || last != fmt.Sprintf("drop-after n=-%d", n-1) {
		t.Errorf("from %s to %s", first, last)
	}
}
