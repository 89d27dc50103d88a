package main

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/chatconn/chatconn/tokens"
)

// tokenCreate signs a token. Specification: T7.
type tokenCreate struct {
	User   string        `arg:"" optional:"" help:"The user's id."`
	TTL    time.Duration `name:"ttl" placeholder:"DURATION" help:"How long the token is valid, such as 1h or 30m. Without it, for ever. A negative one (--ttl=-1h) makes a token that has expired already, for tests."`
	IAT    bool          `name:"iat" negatable:"" default:"true" help:"Say when the token was issued, unless --no-iat is given. Without that, a revocation by time always hits it."`
	Server bool          `help:"Make a server's token instead of a user's: whoever has it acts as the app itself."`
	secretFlag
}

// Help is what --help says beyond the flags.
func (tokenCreate) Help() string {
	return `Signs a token with the app's secret (HS256) and prints it:

    CHATCONN_SECRET=... chatconn token create john --ttl 1h

The secret comes from the environment or a file, never from a flag. It belongs on a server; whoever has it can be any user.`
}

func (t tokenCreate) Run(std streams, wantJSON asJSON) error {
	switch {
	case t.Server == (t.User != ""):
		return usagef("name a user, or say --server for a server's token")
	case t.TTL != 0 && t.TTL.Abs() < time.Second:
		return usagef("--ttl %v: tokens count in seconds", t.TTL)
	}
	secret, err := t.needSecret()
	if err != nil {
		return err
	}
	now := time.Now()
	claims := tokens.Claims{UserID: t.User, Server: t.Server}
	if t.IAT && !t.Server {
		claims.IssuedAt = now
		if t.TTL < 0 {
			claims.IssuedAt = now.Add(2 * t.TTL) // it was valid once
		}
	}
	if t.TTL != 0 {
		claims.ExpiresAt = now.Add(t.TTL)
	}
	token, err := tokens.Sign(secret, claims)
	if err != nil {
		return err
	}
	if wantJSON {
		return writeJSON(std.out, struct {
			Token string `json:"token"`
			claimsJSON
		}{token, jsonClaims(claims)})
	}
	_, err = fmt.Fprintln(std.out, token)
	return err
}

// claimsJSON are claims as programs read them; what is absent is left out.
type claimsJSON struct {
	UserID    string    `json:"userId,omitempty"`
	Server    bool      `json:"server,omitempty"`
	IssuedAt  time.Time `json:"issuedAt,omitzero"`
	ExpiresAt time.Time `json:"expiresAt,omitzero"`
}

func jsonClaims(c tokens.Claims) claimsJSON {
	second := func(t time.Time) time.Time { return t.UTC().Truncate(time.Second) } // a token has no more
	return claimsJSON{c.UserID, c.Server, second(c.IssuedAt), second(c.ExpiresAt)}
}

// tokenDev makes a development token. Specification: T8.
type tokenDev struct {
	User string `arg:"" help:"The user's id."`
}

// Help is what --help says beyond the flags.
func (tokenDev) Help() string {
	return `Prints a development token. It is not signed: a server takes it only while its auth checks are disabled (chatconn serve --no-auth), and chatconn sends it only to this machine.`
}

func (t tokenDev) Run(std streams, wantJSON asJSON) error {
	if t.User == "" {
		return usagef("the user's id is empty")
	}
	token := tokens.DevToken(t.User)
	if wantJSON {
		return writeJSON(std.out, struct {
			Token  string `json:"token"`
			UserID string `json:"userId"`
		}{token, t.User})
	}
	_, err := fmt.Fprintln(std.out, token)
	return err
}

// tokenInspect shows the claims of a token.
type tokenInspect struct {
	tokenArg
}

// Help is what --help says beyond the flags.
func (tokenInspect) Help() string {
	return `Decodes a token and prints its claims and the time it has left. Nothing is verified: anyone can write such a token. "chatconn token verify" checks it.`
}

func (t tokenInspect) Run(std streams, wantJSON asJSON) error {
	token, err := t.given(std.in)
	if err != nil {
		return err
	}
	header, claims, err := decodeToken(token)
	if err != nil {
		return err
	}
	var problem string // why a connection would not use it
	if _, err := tokens.Parse(token); err != nil {
		problem = strings.TrimPrefix(err.Error(), "tokens: ")
	}
	now := time.Now()
	exp, expires := timeOf(claims["exp"])
	if wantJSON {
		out := struct {
			Verified    bool           `json:"verified"`
			Header      map[string]any `json:"header"`
			Claims      map[string]any `json:"claims"`
			ExpiresAt   time.Time      `json:"expiresAt,omitzero"`
			SecondsLeft *int64         `json:"secondsLeft,omitempty"`
			Problem     string         `json:"problem,omitempty"`
		}{Header: header, Claims: claims, Problem: problem}
		if expires {
			left := int64(exp.Sub(now) / time.Second)
			out.ExpiresAt, out.SecondsLeft = exp, &left
		}
		return writeJSON(std.out, out)
	}

	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(header)) {
		fmt.Fprintf(&b, "%-12s %s\n", printable(name), show(header[name]))
	}
	b.WriteString("\n")
	for _, name := range slices.SortedFunc(maps.Keys(claims), userFirst) {
		fmt.Fprintf(&b, "%-12s %s", printable(name), show(claims[name]))
		if at, ok := timeOf(claims[name]); ok && slices.Contains([]string{"exp", "iat", "nbf"}, name) {
			fmt.Fprintf(&b, "  %s, %s", at.Format(time.DateTime+" UTC"), relative(at, now))
		}
		b.WriteString("\n")
	}
	b.WriteString("\n")
	switch {
	case !expires:
		b.WriteString("It never expires.\n")
	case exp.After(now):
		fmt.Fprintf(&b, "It expires %s.\n", relative(exp, now))
	default:
		fmt.Fprintf(&b, "It expired %s.\n", relative(exp, now))
	}
	if problem != "" {
		fmt.Fprintf(&b, "No user can connect with it: %s.\n", problem)
	}
	b.WriteString("Nothing was verified: anyone can write such a token.\n")
	_, err = io.WriteString(std.out, b.String())
	return err
}

// decodeToken returns the header and the claims of a token without looking at
// anything else. Its errors repeat nothing of the token.
func decodeToken(token string) (header, claims map[string]any, err error) {
	segments := strings.Split(token, ".")
	if len(segments) != 3 {
		return nil, nil, fmt.Errorf("this is no token: the number of its segments is %d, not 3", len(segments))
	}
	for i, into := range []*map[string]any{&header, &claims} {
		text := strings.NewReplacer("+", "-", "/", "_").Replace(strings.TrimRight(segments[i], "="))
		data, err := base64.RawURLEncoding.DecodeString(text)
		dec := json.NewDecoder(bytes.NewReader(data))
		dec.UseNumber() // an exp of 19 digits is shown as it is
		if err != nil || dec.Decode(into) != nil || *into == nil {
			return nil, nil, fmt.Errorf("this is no token: segment %d is not a JSON object in base64", i+1)
		}
	}
	return header, claims, nil
}

// userFirst orders claims: who, then when, then the rest by name.
func userFirst(a, b string) int {
	rank := func(name string) int {
		if i := slices.Index([]string{"user_id", "server", "iat", "nbf", "exp"}, name); i >= 0 {
			return i
		}
		return 100
	}
	return cmp.Or(cmp.Compare(rank(a), rank(b)), strings.Compare(a, b))
}

// timeOf reads a claim in seconds, if it is one within the years 1970 to 9999.
func timeOf(claim any) (time.Time, bool) {
	const maxSeconds = 253402300799
	number, _ := claim.(json.Number)
	seconds, err := number.Float64()
	if err != nil || seconds < 0 || seconds > maxSeconds {
		return time.Time{}, false
	}
	return time.Unix(int64(seconds), 0).UTC(), true
}

func relative(at, now time.Time) string {
	if d := at.Sub(now).Round(time.Second); d < 0 {
		return (-d).String() + " ago"
	} else {
		return "in " + d.String()
	}
}

// show writes the value of a claim.
func show(value any) string {
	if text, ok := value.(string); ok {
		return printable(text)
	}
	data, _ := json.Marshal(value) // it came as JSON
	return printable(string(data))
}

// tokenVerify checks a token. Specification: T7.
type tokenVerify struct {
	tokenArg
	secretFlag
}

// Help is what --help says beyond the flags.
func (tokenVerify) Help() string {
	return `Checks a token with the app's secret and exits with 0 if it is good. If not, it prints the reason with the service's code and exits with 1: 5 malformed, 40 expired, 41 not valid yet, 42 issued in the future, 43 bad signature.

    CHATCONN_SECRET=... chatconn token verify < token.txt`
}

func (t tokenVerify) Run(std streams, wantJSON asJSON) error {
	secret, err := t.needSecret()
	if err != nil {
		return err
	}
	token, err := t.given(std.in)
	if err != nil {
		return err
	}
	claims, err := tokens.Verify(secret, token)
	var bad *tokens.VerifyError
	if err != nil && !errors.As(err, &bad) {
		return err
	}
	if wantJSON {
		out := struct {
			Valid  bool   `json:"valid"`
			Code   int    `json:"code,omitempty"`
			Reason string `json:"reason,omitempty"`
			claimsJSON
		}{Valid: bad == nil, claimsJSON: jsonClaims(claims)}
		if bad != nil {
			out.Code, out.Reason = bad.Code, bad.Reason
		}
		err = writeJSON(std.out, out)
	} else {
		_, err = fmt.Fprintln(std.out, verdict(claims, bad))
	}
	if err == nil && bad != nil {
		err = errFailed
	}
	return err
}

// verdict is the result of verifying, in words.
func verdict(claims tokens.Claims, bad *tokens.VerifyError) string {
	if bad != nil {
		return fmt.Sprintf("not valid: %s (code %d)", bad.Reason, bad.Code)
	}
	who := "user " + printable(claims.UserID)
	if claims.Server {
		who = "a server"
	}
	if claims.ExpiresAt.IsZero() {
		return "valid: " + who + ", never expires"
	}
	return fmt.Sprintf("valid: %s, expires %s", who, relative(claims.ExpiresAt, time.Now()))
}
