package main

import (
	"encoding/json"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/chatconn/chatconn/tokens"
)

// served is the line that serve --json prints.
type served struct {
	URL, APIKey, Secret, User, Token, Faults string
}

// startServer runs serve --json on a free port.
func startServer(t *testing.T, flags ...string) (*running, served) {
	t.Helper()
	r := start(t, append([]string{"serve", "--addr=127.0.0.1:0", "--json"}, flags...)...)
	var s served
	if err := json.Unmarshal([]byte(r.until(t, "url")), &s); err != nil {
		t.Fatal(err)
	}
	return r, s
}

// fault orders a fault from a server.
func (s served) fault(t *testing.T, command string) {
	t.Helper()
	resp, err := http.Post(s.Faults+command, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("POST %s: %s", s.Faults+command, resp.Status)
	}
}

// D1: one line says all that a client and a backend need, and holds.
func TestServe(t *testing.T) {
	r, s := startServer(t, "--user=mary", "--ttl=1h")
	claims, err := tokens.Verify([]byte(s.Secret), s.Token)
	if err != nil || claims.UserID != "mary" || claims.ExpiresAt.Sub(claims.IssuedAt) != time.Hour {
		t.Errorf("the token that it prints: %+v, %v", claims, err)
	}
	if s.User != "mary" || s.APIKey == "" || len(s.Secret) < 16 {
		t.Errorf("it prints %+v", s)
	}
	if _, another := startServer(t); another.Secret == s.Secret {
		t.Error("two servers have the same secret")
	}
	s.fault(t, "heal")

	r.stop()
	got := r.end(t, "serve")
	got.want(t, ok)
	if n := strings.Count(got.out, "\n"); n != 1 {
		t.Errorf("%d lines, want one:\n%s", n, got.out)
	}
	if conn, err := net.Dial("tcp", strings.TrimPrefix(s.URL, "http://")); err == nil {
		conn.Close()
		t.Error("the port is open after the end")
	}
}

func TestServeForPeople(t *testing.T) {
	t.Setenv(secretEnv, secret)
	r := start(t, "serve", "--addr=127.0.0.1:0", "--api-key=k 1")
	r.until(t, "expire-tokens")
	r.stop()
	got := r.end(t, "serve")
	got.want(t, ok)
	for _, text := range []string{
		"CHATCONN_URL=http://127.0.0.1:", "CHATCONN_API_KEY='k 1'", "CHATCONN_SECRET=" + secret, "CHATCONN_TOKEN=eyJ",
		"chatconn connect --url http://127.0.0.1:", "--user john", "/_fault/ lists how",
	} {
		if !strings.Contains(got.out, text) {
			t.Errorf("it does not print %q:\n%s", text, got.out)
		}
	}
}

func TestServeCannot(t *testing.T) {
	_, s := startServer(t)
	call(t, "serve", "--addr", strings.TrimPrefix(s.URL, "http://")).want(t, failed, "in use", "127.0.0.1:0")
	call(t, "serve", "--addr=nowhere").want(t, failed, "nowhere")
	t.Setenv(secretEnv, "short")
	call(t, "serve", "--addr=127.0.0.1:0").want(t, misuse, "16 bytes")
}

// T11: what the server logs has no tokens in it.
func TestServeLog(t *testing.T) {
	r, s := startServer(t, "--log")
	t.Setenv(tokenEnv, s.Token)
	c := start(t, "connect", "--url", s.URL, "--api-key", s.APIKey)
	c.until(t, "Opened")
	c.stop()
	c.end(t, "connect").want(t, ok)
	r.stop()
	got := r.end(t, "serve")
	if !strings.Contains(got.err, "devserver: hello") || strings.Contains(got.err, "eyJ") {
		t.Errorf("the log has no hello, or a token in it:\n%s", got.err)
	}
}

func TestShellQuote(t *testing.T) {
	for text, want := range map[string]string{
		"john": "john", "a@b.c": "a@b.c", "": "''", "o'brien": `'o'\''brien'`, "$(rm)": "'$(rm)'", "two words": "'two words'", "\x1b": "'\uFFFD'",
	} {
		if got := shellQuote(text); got != want {
			t.Errorf("shellQuote(%q) = %s, want %s", text, got, want)
		}
	}
}
