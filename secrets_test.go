package chatconn_test

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chatconn/chatconn"
	"github.com/chatconn/chatconn/devserver"
	"github.com/chatconn/chatconn/fsm"
	"github.com/chatconn/chatconn/tokens"
)

// canary collects the tokens of a life and whatever a program could print, write
// or send on, and finds the one in the other.
type canary struct {
	mu     sync.Mutex
	tokens []string
	seen   []string
}

func (c *canary) mark(token string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tokens = append(c.tokens, token)
	return token
}

func (c *canary) see(values ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, v := range values {
		c.seen = append(c.seen, fmt.Sprintf("%v\n%+v\n%#v\n%q", v, v, v, fmt.Sprint(v)))
		if b, err := json.Marshal(v); err == nil {
			c.seen = append(c.seen, string(b))
		}
	}
}

func (c *canary) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen = append(c.seen, string(p))
	return len(p), nil
}

// needles are all that a text must not hold: any 16 bytes of a token, raw,
// percent-encoded or in base64, whatever the bytes before it. The header of a
// token is no secret: it is the same for all.
type needles map[[16]byte]bool

func needlesOf(tokens ...string) needles {
	n := needles{}
	for _, token := range tokens {
		_, secret, _ := strings.Cut(token, ".")
		forms := []string{secret}
		for shift := range 3 {
			for _, encoding := range []*base64.Encoding{base64.StdEncoding, base64.URLEncoding} {
				// The first and the last characters depend on what stands beside them.
				whole := encoding.EncodeToString([]byte(strings.Repeat("x", shift) + secret))
				forms = append(forms, whole[4:len(whole)-4])
			}
		}
		for _, form := range forms {
			for i := 0; i+16 <= len(form); i++ {
				n[[16]byte([]byte(form[i:i+16]))] = true
			}
		}
	}
	return n
}

// in returns what of the tokens is in a text.
func (n needles) in(text string) string {
	plain := text
	if strings.Contains(text, "%") {
		plain = percent.ReplaceAllStringFunc(text, func(code string) string {
			b, _ := hex.DecodeString(code[1:])
			return string(b)
		})
	}
	for _, text := range []string{text, plain} {
		for i := 0; i+16 <= len(text); i++ {
			if n[[16]byte([]byte(text[i:i+16]))] {
				return text[i : i+16]
			}
		}
	}
	return ""
}

var percent = regexp.MustCompile("%[0-9a-fA-F]{2}")

func (c *canary) check(t testing.TB) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	n := needlesOf(c.tokens...)
	for _, text := range c.seen {
		if part := n.in(text); part != "" {
			t.Errorf("T11: %q of a token is in %.400q", part, text)
		}
	}
	t.Logf("%d tokens are in none of %d texts", len(c.tokens), len(c.seen))
}

// The finder finds.
func TestCanarySings(t *testing.T) {
	token, err := tokens.Sign([]byte("0123456789abcdef"), tokens.Claims{UserID: "john"})
	if err != nil {
		t.Fatal(err)
	}
	half := token[len(token)/2:]
	everyByte := ""
	for _, b := range []byte(half) {
		everyByte += fmt.Sprintf("%%%02X", b)
	}
	for name, text := range map[string]string{
		"raw": half, "percent-encoded": everyByte, "escaped": url.QueryEscape("x " + half),
		"base64": base64.StdEncoding.EncodeToString([]byte(token)), "base64, shifted": base64.URLEncoding.EncodeToString([]byte("yz" + token)),
	} {
		if needlesOf(token).in("before "+text+" after") == "" {
			t.Errorf("%s is not found", name)
		}
	}
	if needlesOf(token).in("nothing of the kind, 100 % sure: "+strings.Repeat("x", 100)) != "" {
		t.Error("it finds what is not there")
	}
}

// T11: a life in which everything goes wrong that has to do with tokens, and a
// server that says aloud what it was sent: no part of a token is in logs,
// recordings, changes, counters, errors, panics or dumps.
func TestNoTokenIsEverShown(t *testing.T) {
	var c canary
	configure := func(cfg *chatconn.Config) {
		cfg.Logger = slog.New(slog.NewJSONHandler(&c, &slog.HandlerOptions{Level: slog.LevelDebug}))
		cfg.Record = &c
	}
	inWorld(t, configure, func(w *world) {
		ctx, cancel := context.WithCancel(w.Context())
		defer cancel()
		// The server repeats the token of every request that it refuses, or a part.
		var fault atomic.Int64
		w.front(func(rw http.ResponseWriter, r *http.Request) bool {
			status := int(fault.Load())
			if status == 0 || r.URL.Path != "/connect" {
				return false
			}
			token := r.Header.Get("Authorization")
			rw.WriteHeader(status)
			if status == http.StatusBadGateway {
				fmt.Fprintf(rw, "<html>cannot forward Authorization: %s, %s, %s…</html>", token, url.QueryEscape(token), token[:100])
			} else {
				json.NewEncoder(rw).Encode(devserver.APIError{Code: -1, StatusCode: status, Message: "no good: " + token + " or …" + token[60:]})
			}
			return true
		})
		go func() {
			for change := range w.conn.Watch(ctx) {
				c.see(change, change.Cause)
			}
		}()
		mint := func(user string) string { return c.mark(w.server.Token(user, 0)) }
		source := func(bad func(call int) (string, error)) tokens.Source {
			call := 0
			return tokens.Func(func(context.Context) (string, error) {
				if call++; bad != nil {
					if token, err := bad(call); token != "" || err != nil {
						return token, err
					}
				}
				return mint("john"), nil
			})
		}
		john := chatconn.User{ID: "john"}
		dump := func() {
			synctest.Wait()
			session, _ := w.conn.Session()
			stats := w.conn.Stats()
			stack := make([]byte, 1<<20)
			stack = stack[:runtime.Stack(stack, true)]
			c.see(session, stats, stats.LastError, w.conn, *w.conn.HTTPClient(), string(stack))
		}
		try := func(s tokens.Source) {
			short, cancel := context.WithTimeout(ctx, 5*time.Minute)
			defer cancel()
			session, err := w.conn.ConnectUser(short, john, s)
			c.see(session, err, s)
			dump()
			_ = w.conn.Disconnect(ctx, chatconn.KeepPersistence)
		}

		for _, bad := range []string{mint("john") + "\n", "Bearer " + mint("john"), mint("jane"), mint("john") + ".x", mint("john")[:60], mint("john") + "é"} {
			try(tokens.Static(bad))
			try(source(func(call int) (string, error) {
				if call == 1 {
					return bad, nil
				}
				return "", nil
			}))
		}
		try(source(func(call int) (string, error) {
			if call == 1 {
				panic("cannot parse " + mint("john"))
			}
			return "", nil
		}))
		for _, status := range []int64{http.StatusBadGateway, http.StatusUnauthorized, http.StatusInternalServerError} {
			fault.Store(status)
			time.AfterFunc(time.Minute, func() { fault.Store(0) })
			try(source(nil))
			time.Sleep(time.Minute)
		}
		for _, code := range []int{40, 43, 5, 41, -1, 99} {
			w.server.FailHandshakes(2, devserver.APIError{Code: code})
			try(source(nil))
		}

		w.server.Heal()
		if _, err := w.conn.ConnectUser(ctx, john, source(nil)); err != nil {
			w.Fatal(err)
		}
		dump()
		request := func() {
			short, cancel := context.WithTimeout(ctx, 10*time.Second)
			defer cancel()
			req, _ := http.NewRequestWithContext(short, http.MethodGet, w.config.BaseURL+"/app", nil)
			resp, err := w.conn.HTTPClient().Do(req)
			c.see(err)
			if err == nil {
				c.see(resp.Request.Header, resp.Request.URL.String(), resp.Header)
				resp.Body.Close()
			}
		}
		request()
		w.server.ExpireTokens("john", false)
		request()
		w.server.ExpireTokens("john", true)
		w.be(fsm.Connected)
		w.net.BlackHole(true)
		time.Sleep(time.Minute)
		request()
		w.net.BlackHole(false)
		w.be(fsm.Connected)
		dump()
		w.close()
		dump()
		log, err := json.Marshal(w.server.Log())
		if err != nil {
			w.Error(err)
		}
		c.see(string(log), errors.Join(err))
	})
	c.check(t)
}

// T11: an API answer may quote the token that it refuses, whole or in part. It goes
// to its caller as it came (Q3); what the machine, logs and recordings make of it
// holds nothing of the token, and no more than the beginning of a long text.
func TestAnswerThatQuotesItsToken(t *testing.T) {
	var c canary
	defer c.check(t)
	configure := func(cfg *chatconn.Config) {
		cfg.Logger = slog.New(slog.NewJSONHandler(&c, &slog.HandlerOptions{Level: slog.LevelDebug}))
		cfg.Record = &c
	}
	inWorld(t, configure, func(w *world) {
		w.front(func(rw http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path != "/app" {
				return false
			}
			token := r.Header.Get("Authorization")
			text := fmt.Sprintf("%s, %s or …%s is expired%s", token, url.QueryEscape(token), token[60:], strings.Repeat(", really", 1000))
			rw.WriteHeader(http.StatusUnauthorized)
			json.NewEncoder(rw).Encode(devserver.APIError{Code: 40, StatusCode: http.StatusUnauthorized, Message: text})
			return true
		})
		var latest string
		source := tokens.Func(func(context.Context) (string, error) {
			latest = c.mark(w.server.Token("john", 0))
			return latest, nil
		})
		if _, err := w.conn.ConnectUser(w.Context(), chatconn.User{ID: "john"}, source); err != nil {
			w.Fatal(err)
		}
		changes := w.conn.Watch(w.Context())
		<-changes
		if o := do(w.Context(), w.conn.HTTPClient(), w.config.BaseURL+"/app", ""); o.err != nil || !strings.Contains(o.body, latest) {
			w.Errorf("Q3: the answer did not come as it was: %v", o)
		}
		change := <-changes
		var api *chatconn.APIError
		if !errors.As(change.Cause, &api) || change.Event != fsm.RequestRefused {
			w.Fatalf("the watcher was told %v", change.Event)
		}
		if api.Code != 40 || !strings.Contains(api.Message, "is expired") || len(api.Message) > 600 {
			w.Errorf("the cause is %d with %d bytes of text", api.Code, len(api.Message))
		}
		c.see(change, change.Cause, api, w.conn.Stats().LastError)
		w.close()
	})
}
