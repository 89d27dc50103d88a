package main

import (
	"encoding/base64"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chatconn/chatconn/tokens"
)

// window is how much of a token makes a leak.
const window = 16

// leaks returns a piece of a token that a text holds, raw, percent-encoded or in
// base64; empty if there is none.
func leaks(text, token string) string {
	forms := []string{token, url.QueryEscape(token), url.PathEscape(token)}
	for shift := range 3 { // base64 begins anew every three bytes
		forms = append(forms, base64.StdEncoding.EncodeToString([]byte(token[shift:])), base64.URLEncoding.EncodeToString([]byte(token[shift:])))
	}
	for _, form := range forms {
		for i := 0; i+window <= len(form); i++ {
			if strings.Contains(text, form[i:i+window]) {
				return form[i : i+window]
			}
		}
	}
	return ""
}

func TestLeaks(t *testing.T) {
	token := tokens.DevToken("someone+else?")
	for _, text := range []string{
		token, "x" + token[10:30], url.QueryEscape(token), base64.StdEncoding.EncodeToString([]byte("a" + token)),
	} {
		if leaks(text, token) == "" {
			t.Errorf("the leak in %q is not found", text)
		}
	}
	if piece := leaks("nothing of it, "+token[:10], token); piece != "" {
		t.Errorf("%q is no leak", piece)
	}
}

// T11: whatever a command is told to do with a token, in whatever wrong place it
// stands, it prints nothing of it.
func TestNoOutputHoldsAToken(t *testing.T) {
	t.Setenv(secretEnv, secret)
	_, s := startServer(t, "--log")
	good, expired, dev := mint(t, time.Hour), mint(t, -time.Hour), tokens.DevToken("john")
	for _, token := range []string{good, expired, dev, good + "\n", "Bearer " + good, good[:len(good)-3] + "AAA"} {
		dir := t.TempDir()
		file := filepath.Join(dir, "token")
		if err := os.WriteFile(file, []byte(token), 0o600); err != nil {
			t.Fatal(err)
		}
		record := filepath.Join(dir, "record")
		connect := []string{"connect", "--url", s.URL, "--api-key", s.APIKey, "--for=100ms", "--record", record}
		for _, c := range []struct {
			stdin string
			args  []string
		}{
			{"", append(connect, "--token", token)},
			{"", append(connect, "--token-file", file)},
			{"", append(connect, "--json", "--token", token)},
			{"", append(connect, token)},
			{"", append(connect, "--user", "eve", "--token", token)},
			{"", append(connect, "--dev-token="+token)},
			{"", []string{"connect", "--url", "https://" + token + "@chat.invalid", "--api-key=k", "--anonymous"}},
			{"", []string{"connect", "--url", s.URL + "?authorization=" + token, "--api-key=k", "--anonymous"}},
			{"", []string{"connect", "--url", token, "--api-key=k", "--anonymous"}},
			{"", []string{"connect", "--for", token}},
			{"", []string{token}},
			{"", []string{"demo", token}},
			{"", []string{"demo", "--inspect", token}},
			{"", append(connect, "--anonymous", "--inspect", token+":80")},
			{"", []string{"demo", "--seed", token}},
			{"", []string{"diagram", "--format", token}},
			{"", []string{"replay", token}},
			{token, []string{"replay", "-"}},
			{"", []string{"token", token}},
			{"", []string{"token", "inspect", token}},
			{token, []string{"token", "inspect"}},
			{token, []string{"token", "inspect", "--json"}},
			{token, []string{"token", "verify"}},
			{token, []string{"token", "verify", "--json"}},
			{"", []string{"token", "verify", token, token}},
			{"", []string{"token", "create", "john", "--ttl", token}},
			{"", []string{"serve", "--ttl", token}},
			{"", []string{"serve", "--addr", token}},
		} {
			got := callWith(t, c.stdin, c.args...)
			written, _ := os.ReadFile(record) // few of them make one
			os.Remove(record)
			for _, part := range []string{token, secret} {
				if piece := leaks(got.out+got.err+string(written), part); piece != "" {
					t.Errorf("%.12q prints %q, a piece of a token:\n%s%s%s", c.args, piece, got.out, got.err, written)
				}
			}
		}
	}
}
