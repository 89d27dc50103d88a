package main

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chatconn/chatconn/tokens"
)

const secret = "a-secret-of-some-length"

// T7: the published vectors, and what stream-chat-go makes of the same input.
func TestTokenCreateVectors(t *testing.T) {
	t.Setenv(secretEnv, "secret")
	for args, want := range map[string]string{
		"tommaso --no-iat": "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJ1c2VyX2lkIjoidG9tbWFzbyJ9.v-x-jt3ZnBXXbQ0GoWloIZtVnat2IE74U1a4Yuxd63M",
		"--server":         "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzZXJ2ZXIiOnRydWV9.DHnfQolWsEGFcTR7ZwVBbIVUFAvxzDJXzB6UlyU-7JQ",
	} {
		got := call(t, append([]string{"token", "create"}, strings.Fields(args)...)...)
		got.want(t, ok)
		if got.out != want+"\n" {
			t.Errorf("token create %s: %s, want %s", args, got.out, want)
		}
	}
}

func TestTokenCreateTimes(t *testing.T) {
	t.Setenv(secretEnv, secret)
	now := time.Now().Truncate(time.Second)
	got := call(t, "token", "create", "john", "--ttl", "1h", "--json")
	got.want(t, ok)
	made := objects(t, got.out)[0]
	claims, err := tokens.Verify([]byte(secret), made["token"].(string))
	if err != nil || claims.UserID != "john" {
		t.Fatalf("the token is not good: %+v, %v", claims, err)
	}
	if claims.IssuedAt.Before(now) || claims.ExpiresAt.Sub(claims.IssuedAt) != time.Hour {
		t.Errorf("issued %v, expires %v", claims.IssuedAt, claims.ExpiresAt)
	}
	if made["userId"] != "john" || made["expiresAt"] != claims.ExpiresAt.Format(time.RFC3339) {
		t.Errorf("the JSON says something else than the token: %v", made)
	}

	expired := call(t, "token", "create", "john", "--ttl=-1h")
	expired.want(t, ok)
	callWith(t, expired.out, "token", "verify").want(t, failed)
	claims, err = tokens.Verify([]byte(secret), withoutLineEnd(expired.out))
	if err == nil || !claims.IssuedAt.Before(claims.ExpiresAt) {
		t.Errorf("a token that has expired was never valid: %+v, %v", claims, err)
	}

	for args, want := range map[string]bool{"": true, "--no-iat": false} {
		got := call(t, append([]string{"token", "create", "john"}, strings.Fields(args)...)...)
		claims, err := tokens.Verify([]byte(secret), withoutLineEnd(got.out))
		if err != nil || claims.IssuedAt.IsZero() == want || !claims.ExpiresAt.IsZero() {
			t.Errorf("token create john %s: %+v, %v", args, claims, err)
		}
	}
}

// Where the secret comes from, and what is wrong with one.
func TestTokenSecret(t *testing.T) {
	file := func(text string) string {
		name := filepath.Join(t.TempDir(), "secret")
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return "--secret-file=" + name
	}
	for _, c := range []struct {
		name, env, flag string
		code            int
		says            string
	}{
		{"in the environment", secret, "", ok, ""},
		{"in a file", "", file(secret), ok, ""},
		{"in a file with a line end", "", file(secret + "\n"), ok, ""},
		{"in a file with a line end of Windows", "", file(secret + "\r\n"), ok, ""},
		{"the file goes before the environment", "another", file(secret), ok, ""},
		{"nowhere", "", "", misuse, "no secret"},
		{"empty file", "", file("\n"), misuse, "is empty"},
		{"line end in the environment", secret + "\n", "", misuse, "line break"},
		{"two line ends in the file", "", file(secret + "\n\n"), misuse, "line break"},
		{"no such file", "", "--secret-file=" + filepath.Join(t.TempDir(), "none"), failed, "the secret"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv(secretEnv, c.env)
			args := []string{"token", "create", "john"}
			if c.flag != "" {
				args = append(args, c.flag)
			}
			got := call(t, args...)
			got.want(t, c.code, c.says)
			if strings.Contains(got.out+got.err, secret) {
				t.Errorf("the secret is printed: %+v", got)
			}
			if c.code == ok {
				if _, err := tokens.Verify([]byte(secret), withoutLineEnd(got.out)); err != nil {
					t.Errorf("signed with another secret: %v", err)
				}
			}
		})
	}
}

// T8: the form of other clients, padding included.
func TestTokenDev(t *testing.T) {
	for user, want := range map[string]string{
		"john":           "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJ1c2VyX2lkIjoiam9obiJ9.devtoken",
		"luke_skywalker": "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJ1c2VyX2lkIjoibHVrZV9za3l3YWxrZXIifQ==.devtoken",
	} {
		if got := call(t, "token", "dev", user); got.code != ok || got.out != want+"\n" {
			t.Errorf("token dev %s: %+v", user, got)
		}
		if got := call(t, "token", "dev", user, "--json"); objects(t, got.out)[0]["token"] != want {
			t.Errorf("token dev %s --json: %+v", user, got)
		}
	}
	call(t, "token", "dev", "").want(t, misuse, "empty")
}

// T7: each fault has its code; the reason is in words; the exit code is 1.
func TestTokenVerify(t *testing.T) {
	t.Setenv(secretEnv, secret)
	sign := func(c tokens.Claims) string {
		token, err := tokens.Sign([]byte(secret), c)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	now := time.Now()
	good := sign(tokens.Claims{UserID: "john", ExpiresAt: now.Add(time.Hour)})
	none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + strings.Split(good, ".")[1] + "."
	for _, c := range []struct {
		name, token string
		code        float64
		says        string
	}{
		{"good", good, 0, "valid: user john, expires in "},
		{"good with a line end", good + "\n", 0, "valid: user john"},
		{"for ever", sign(tokens.Claims{UserID: "john"}), 0, "never expires"},
		{"a server's", sign(tokens.Claims{Server: true}), 0, "valid: a server"},
		{"expired", sign(tokens.Claims{UserID: "john", ExpiresAt: now.Add(-time.Hour)}), 40, "expired"},
		{"from the future", sign(tokens.Claims{UserID: "john", IssuedAt: now.Add(time.Hour)}), 42, "future"},
		{"badly signed", good[:len(good)-4] + "AAAA", 43, "signature"},
		{"unsigned", none + "x", 43, "signature"},
		{"a development token", tokens.DevToken("john"), 43, "no signature"},
		{"two line ends", good + "\n\n", 5, "line break"},
		{"two segments", strings.Join(strings.Split(good, ".")[:2], "."), 5, "segments"},
		{"Bearer", "Bearer " + good, 5, "Bearer"},
		{"no text at all", "\x00\x01", 5, "control character"},
		{"much too long", strings.Repeat(good, 2000), 5, "limit"},
	} {
		t.Run(c.name, func(t *testing.T) {
			want := ok
			if c.code != 0 {
				want = failed
			}
			got := callWith(t, c.token, "token", "verify")
			got.want(t, want)
			if !strings.Contains(got.out, c.says) {
				t.Errorf("it says %q, want %q", got.out, c.says)
			}
			said := objects(t, callWith(t, c.token, "token", "verify", "--json").out)[0]
			if code, _ := said["code"].(float64); code != c.code || said["valid"] != (c.code == 0) {
				t.Errorf("--json says %v, want code %v", said, c.code)
			}
		})
	}
	call(t, "token", "verify", good).want(t, ok) // as an argument
	t.Setenv(secretEnv, "another")
	callWith(t, good, "token", "verify").want(t, failed)
}

func TestTokenInspect(t *testing.T) {
	token := func(claims string) string {
		return base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"HS256"}`)) + "." +
			base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".c2ln"
	}
	for _, c := range []struct {
		name, token string
		says        []string
	}{
		{"a development token", tokens.DevToken("luke_skywalker"), []string{"user_id      luke_skywalker", "never expires"}},
		{"a server's", token(`{"server":true}`), []string{"server       true", "No user can connect"}},
		{"long expired", token(`{"user_id":"john","exp":1566941272}`), []string{"2019-08-27", "It expired", "ago"}},
		{"valid", mint(t, 48*time.Hour), []string{"It expires in 4"}},
		{"an exp beyond all times", token(`{"user_id":"john","exp":9999999999999999999}`), []string{"9999999999999999999\n", "never expires"}},
		{"an exp in words", token(`{"user_id":"john","exp":"soon"}`), []string{"exp          soon\n", "never expires"}},
		{"claims of other kinds", token(`{"user_id":"john","roles":["a","b"],"x":null}`), []string{`roles        ["a","b"]`, "x            null"}},
		{"claims that differ in case", token(`{"User_Id":"eve"}`), []string{"no user_id"}},
		{"a hostile name", token(`{"user_id":"\u001b[31mred\u0007"}`), []string{"\uFFFD[31mred\uFFFD"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := callWith(t, c.token, "token", "inspect")
			got.want(t, ok)
			for _, text := range append(c.says, "Nothing was verified") {
				if !strings.Contains(got.out, text) {
					t.Errorf("it does not say %q:\n%s", text, got.out)
				}
			}
			if strings.ContainsAny(got.out, "\x1b\x07") {
				t.Errorf("control characters reach the terminal: %q", got.out)
			}
			said := objects(t, call(t, "token", "inspect", "--json", c.token).out)[0]
			if said["verified"] != false || said["claims"] == nil {
				t.Errorf("--json says %v", said)
			}
		})
	}
	for name, bad := range map[string]string{
		"two segments": "a.b", "no base64": "!.!.!", "no JSON": "YQ.YQ.YQ", "null": "bnVsbA.bnVsbA.x", "a blank line": "\n",
	} {
		if got := callWith(t, bad, "token", "inspect"); got.code == ok || got.out != "" {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// mint signs a token for john.
func mint(t *testing.T, ttl time.Duration) string {
	t.Helper()
	token, err := tokens.Sign([]byte(secret), tokens.Claims{UserID: "john", IssuedAt: time.Now().Add(min(0, 2*ttl)), ExpiresAt: time.Now().Add(ttl)})
	if err != nil {
		t.Fatal(err)
	}
	return token
}
