package tokens_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/chatconn/chatconn/tokens"
)

var key = []byte("a secret for tests")

// mint makes user's token; another n makes another token.
func mint(t testing.TB, userID string, n int64) string {
	t.Helper()
	raw, err := tokens.Sign(key, tokens.Claims{UserID: userID, IssuedAt: time.Unix(n, 0)})
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func parsed(t testing.TB, raw string) tokens.Token {
	t.Helper()
	token, err := tokens.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// withPayload returns a token with the payload, in base64 of enc.
func withPayload(enc *base64.Encoding, payload string) string {
	return "eyJhbGciOiJIUzI1NiJ9." + enc.EncodeToString([]byte(payload)) + ".c2ln"
}

func raw(payload string) string { return withPayload(base64.RawURLEncoding, payload) }

// S3: what Parse accepts.
func TestS3_ParseAccepts(t *testing.T) {
	const payload = `{"user_id":"ü?~>ÿ~~"}` // has + and / in the standard alphabet
	for _, c := range []struct{ name, raw, userID string }{
		{"minted", mint(t, "john", 1), "john"},
		{"raw url", withPayload(base64.RawURLEncoding, payload), "ü?~>ÿ~~"},
		{"padded url", withPayload(base64.URLEncoding, payload), "ü?~>ÿ~~"},
		{"raw standard", withPayload(base64.RawStdEncoding, payload), "ü?~>ÿ~~"},
		{"padded standard", withPayload(base64.StdEncoding, payload), "ü?~>ÿ~~"},
		{"escaped key", raw(`{"user\u005fid":"john"}`), "john"},
		{"other claims", raw(` { "a":[1,{"user_id":"x"}], "user_id" : "john", "exp":null } `), "john"},
		{"key in other case beside", raw(`{"User_Id":"mary","user_id":"john","USER_ID":"x"}`), "john"},
		{"16 KiB", sized(16 << 10), "john"},
	} {
		t.Run(c.name, func(t *testing.T) {
			token, err := tokens.Parse(c.raw)
			if err != nil {
				t.Fatal(err)
			}
			if token.UserID() != c.userID || token.Reveal() != c.raw || token.IsZero() || token.IsDev() {
				t.Errorf("user %q, zero %v, dev %v, unchanged %v",
					token.UserID(), token.IsZero(), token.IsDev(), token.Reveal() == c.raw)
			}
		})
	}
}

// sized returns john's token of n bytes.
func sized(n int) string {
	head := raw(`{"user_id":"john"}`)
	return head + strings.Repeat("A", n-len(head))
}

// S2, S3: what Parse rejects, and that it says why without quoting.
func TestS3_ParseRejects(t *testing.T) {
	good := mint(t, "john", 1)
	for _, c := range []struct{ name, raw, says string }{
		{"nothing", "", "is empty"},
		{"16 KiB + 1", sized(16<<10 + 1), "limit is 16384"},
		{"20 MiB", strings.Repeat("x", 20<<20), "limit is 16384"},
		{"bearer", "Bearer " + good, `"Bearer "`},
		{"bearer in lower case", "bearer " + good, `"Bearer "`},
		{"trailing newline", good + "\n", "ends with a line break"},
		{"trailing CRLF", good + "\r\n", "ends with a line break"},
		{"header injection", good + "\r\nX-Evil: 1", "control character"},
		{"NUL", good[:9] + "\x00" + good[9:], "byte 9 is a control character"},
		{"DEL", good + "\x7f", "control character"},
		{"leading space", " " + good, "byte 0 is a space"},
		{"tab", "\t" + good, "control character"},
		{"not ASCII", good + "é", "not ASCII"},
		{"not UTF-8", good + "\xff", "not ASCII"},
		{"one segment", "abc", "is 1, not 3"},
		{"two segments", good[:strings.LastIndex(good, ".")], "is 2, not 3"},
		{"five segments", good + ".a.b", "is 5, not 3"},
		{"no header", good[strings.Index(good, "."):], "segments is empty"},
		{"no payload", "eyJ9..c2ln", "segments is empty"},
		{"no signature", good[:strings.LastIndex(good, ".")+1], "segments is empty"},
		{"not base64", "eyJ9.****.c2ln", "not base64"},
		{"padding inside", "eyJ9.eyJ1=c2VyX2lkIjoiam9obiJ9.c2ln", "not base64"},
		{"too much padding", "eyJ9.eyJ1c2VyX2lkIjoiam9obiJ9===.c2ln", "not base64"},
		{"not JSON", raw("sesame"), "not a JSON object"},
		{"null", raw("null"), "not a JSON object"},
		{"array", raw(`["user_id","john"]`), "not a JSON object"},
		{"text", raw(`"user_id"`), "not a JSON object"},
		{"open end", raw(`{"user_id":"john"`), "not a JSON object"},
		{"open claim", raw(`{"user_id"`), "not a JSON object"},
		{"bad value", raw(`{"a":01,"user_id":"john"}`), "not a JSON object"},
		{"something behind", raw(`{"user_id":"john"}{}`), "not a JSON object"},
		{"garbage behind", raw(`{"user_id":"john"}sesame`), "not a JSON object"},
		{"not UTF-8 inside", raw("{\"user_id\":\"jo\xffhn\"}"), "not a JSON object"},
		{"deep", raw(strings.Repeat(`{"a":`, 2000)), "not a JSON object"},
		{"no user_id", raw(`{"sub":"john"}`), "no user_id"},
		{"user_id in other case", raw(`{"User_Id":"john"}`), "no user_id"},
		{"nested user_id", raw(`{"a":{"user_id":"john"}}`), "no user_id"},
		{"server token", raw(`{"server":true}`), "no user_id"},
		{"user_id null", raw(`{"user_id":null}`), "not a string"},
		{"user_id number", raw(`{"user_id":7}`), "not a string"},
		{"user_id empty", raw(`{"user_id":""}`), "user_id is empty"},
		{"user_id twice", raw(`{"user_id":"john","user_id":"mary"}`), "names a claim twice"},
		{"user_id twice, escaped", raw(`{"user_id":"john","user\u005fid":"mary"}`), "names a claim twice"},
	} {
		t.Run(c.name, func(t *testing.T) {
			token, err := tokens.Parse(c.raw)
			if !errors.Is(err, tokens.ErrInvalid) || !token.IsZero() {
				t.Fatalf("got zero %v, %v", token.IsZero(), err)
			}
			if !strings.Contains(err.Error(), c.says) {
				t.Errorf("%q does not say %q", err, c.says)
			}
			// T11: the error quotes nothing.
			for _, leak := range []string{good[:20], "john", "mary", "sesame", "Evil"} {
				if strings.Contains(err.Error(), leak) {
					t.Errorf("%q quotes the token", err)
				}
			}
		})
	}
}

// T6: an exp that is huge, negative or no number is no expiry, and an expired
// token is as good as any.
func TestT6_ExpiresAt(t *testing.T) {
	for _, c := range []struct {
		exp  string
		want int64 // 0: none
	}{
		{`1566941272`, 1566941272},
		{`1566941272.9`, 1566941272},
		{`1.566941272e9`, 1566941272},
		{`1`, 1},
		{`253402300799`, 253402300799},
		{`253402300800`, 0},
		{`9999999999999999999`, 0},
		{`1e400`, 0},
		{`0`, 0},
		{`-1`, 0},
		{`-9999999999999999999`, 0},
		{`"1566941272"`, 0},
		{`"Infinity"`, 0},
		{`null`, 0},
		{`true`, 0},
		{`[1566941272]`, 0},
		{`{}`, 0},
	} {
		t.Run(c.exp, func(t *testing.T) {
			token := parsed(t, raw(`{"user_id":"john","exp":`+c.exp+`}`))
			at, ok := token.ExpiresAt()
			if ok != (c.want != 0) {
				t.Fatalf("got %v, %v", at, ok)
			}
			if ok && at.Unix() != c.want {
				t.Errorf("got %v, want second %d", at, c.want)
			}
		})
	}
	if at, ok := parsed(t, raw(`{"user_id":"john"}`)).ExpiresAt(); ok {
		t.Errorf("no exp, but expires at %v", at)
	}
}

func TestZeroToken(t *testing.T) {
	var zero tokens.Token
	if _, ok := zero.ExpiresAt(); ok || !zero.IsZero() || zero.IsDev() || zero.Reveal() != "" || zero.UserID() != "" {
		t.Error("the zero token is something")
	}
	if got := fmt.Sprint(zero); got != "[redacted]" {
		t.Errorf("prints %q", got)
	}
}

func TestTokenEqual(t *testing.T) {
	a, again, b := parsed(t, mint(t, "john", 1)), parsed(t, mint(t, "john", 1)), parsed(t, mint(t, "john", 2))
	if !a.Equal(again) || a.Equal(b) || a.Equal(tokens.Token{}) || !(tokens.Token{}).Equal(tokens.Token{}) {
		t.Error("Equal is not the equality of texts")
	}
}

// formats returns every verb with every flag.
func formats() (all []string) {
	for _, verb := range "vTtbcdoOqxXUeEfFgGspw" {
		for _, flag := range []string{"", "+", "#", " ", "0", "-", "64", "-64", ".3", "+#.99"} {
			all = append(all, "%"+flag+string(verb))
		}
	}
	return append(all, "no verb", "%d %d", "%[3]v", "%*d", "%!")
}

// assertHidden looks for the token in a text: as it is, its parts, in hex,
// percent-encoded, as a list of numbers.
func assertHidden(t *testing.T, raw, how, text string) {
	t.Helper()
	parts := strings.Split(raw, ".")
	for _, leak := range append(parts, raw,
		url.QueryEscape(raw), hex.EncodeToString([]byte(raw))[:32],
		base64.StdEncoding.EncodeToString([]byte(raw))[:32], strings.Trim(fmt.Sprint([]byte(raw[:12])), "[]")) {
		if strings.Contains(strings.ToLower(text), strings.ToLower(leak)) {
			t.Errorf("%s shows the token: %s", how, text)
			return
		}
	}
}

// assertUnreachable follows every pointer, exported or not, as a dumper that
// ignores methods does, and finds no part of the token.
func assertUnreachable(t *testing.T, raw string, v any) {
	t.Helper()
	seen := map[uintptr]bool{}
	var walk func(path string, v reflect.Value)
	walk = func(path string, v reflect.Value) {
		switch v.Kind() {
		case reflect.String:
			assertHidden(t, raw, path, v.String())
		case reflect.Pointer:
			if !v.IsNil() && !seen[v.Pointer()] {
				seen[v.Pointer()] = true
				walk(path, v.Elem())
			}
		case reflect.Interface:
			walk(path, v.Elem())
		case reflect.Struct:
			for i := range v.NumField() {
				walk(path+"."+v.Type().Field(i).Name, v.Field(i))
			}
		case reflect.Slice, reflect.Array:
			for i := range v.Len() {
				walk(path+"[]", v.Index(i))
			}
		case reflect.Map:
			for _, k := range v.MapKeys() {
				walk(path+"[]", k)
				walk(path+"[]", v.MapIndex(k))
			}
		}
	}
	walk(fmt.Sprintf("%T", v), reflect.ValueOf(v))
}

// T11: a token shows itself to no printer, encoder or logger, wherever it sits.
func TestT11_TokenIsRedactedEverywhere(t *testing.T) {
	raw := mint(t, "john", 1)
	token := parsed(t, raw)
	type exported struct{ T tokens.Token }
	type hidden struct{ t tokens.Token }
	type deep struct {
		E exported
		h *hidden
		a any
		s []hidden
	}

	for _, v := range []any{
		token, &token, []tokens.Token{token}, [1]tokens.Token{token},
		map[string]tokens.Token{"a": token}, map[tokens.Token]int{token: 1},
		exported{token}, &exported{token}, hidden{token}, &hidden{token}, []hidden{{token}}, []*hidden{{token}},
		deep{exported{token}, &hidden{token}, token, []hidden{{token}}},
		&deep{exported{token}, &hidden{token}, &token, []hidden{{token}}},
		struct{ any }{hidden{token}}, reflect.ValueOf(token), reflect.ValueOf(hidden{token}).Field(0),
	} {
		t.Run(fmt.Sprintf("%T", v), func(t *testing.T) {
			for _, format := range formats() {
				assertHidden(t, raw, format, fmt.Sprintf(format, v))
				assertHidden(t, raw, format, fmt.Errorf(format, v).Error())
			}
			text, _ := json.Marshal(v)
			assertHidden(t, raw, "json", string(text))
			text, _ = xml.Marshal(v)
			assertHidden(t, raw, "xml", string(text))
			var log bytes.Buffer
			for _, handler := range []slog.Handler{
				slog.NewTextHandler(&log, nil), slog.NewJSONHandler(&log, nil),
			} {
				slog.New(handler).Info("m", "v", v, slog.Group("g", "v", v))
			}
			assertHidden(t, raw, "slog", log.String())
			if _, ok := v.(reflect.Value); !ok {
				assertUnreachable(t, raw, v)
			}
		})
	}
}

// T11: on its own a token reads "[redacted]", so that nobody wonders.
func TestT11_Redacted(t *testing.T) {
	token := parsed(t, mint(t, "john", 1))
	const want = "[redacted]"
	for _, verb := range "vtbcdoOqxXUeEfFgGs" {
		for _, flag := range []string{"", "+", "#", " ", "0", ".3", "40"} {
			format := "%" + flag + string(verb)
			if got := fmt.Sprintf(format, token); got != want {
				t.Errorf("%s: %s", format, got)
			}
			if got := fmt.Sprintf(format, &token); got != want {
				t.Errorf("%s of a pointer: %s", format, got)
			}
		}
	}
	text, err := token.MarshalText()
	if string(text) != want || err != nil {
		t.Errorf("text: %s, %v", text, err)
	}
	asJSON, err := json.Marshal(map[string]any{"t": token, "p": &token})
	if string(asJSON) != `{"p":"[redacted]","t":"[redacted]"}` || err != nil {
		t.Errorf("JSON: %s, %v", asJSON, err)
	}
	if token.String() != want || token.GoString() != want || token.LogValue().String() != want {
		t.Errorf("%s, %s, %s", token.String(), token.GoString(), token.LogValue())
	}
}

func FuzzParse(f *testing.F) {
	f.Add(mint(f, "john", 1))
	f.Add(tokens.DevToken("luke_skywalker"))
	f.Add(mint(f, "john", 1) + "\n")
	f.Add("Bearer a.b.c")
	f.Add(raw(`{"user_id":"john","user_id":"mary"}`))
	f.Add(raw(`{"user_id":"john","exp":1e400}`))
	f.Add(raw(strings.Repeat("[", 5000)))
	f.Add("..")
	f.Fuzz(func(t *testing.T, raw string) {
		token, err := tokens.Parse(raw)
		if err != nil {
			if !errors.Is(err, tokens.ErrInvalid) || !token.IsZero() {
				t.Fatalf("zero %v, %v", token.IsZero(), err)
			}
			if len(raw) > 60 && strings.Contains(err.Error(), raw) {
				t.Fatalf("%v quotes its input", err)
			}
			return
		}
		if token.Reveal() != raw || token.UserID() == "" || len(raw) > 16<<10 || strings.Count(raw, ".") != 2 ||
			strings.ContainsFunc(raw, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
			t.Fatalf("accepted %q", raw)
		}
		if at, ok := token.ExpiresAt(); ok && (at.Unix() <= 0 || at.Year() > 9999) {
			t.Fatalf("expires at %v", at)
		}
		if again := parsed(t, token.Reveal()); !again.Equal(token) || again.UserID() != token.UserID() {
			t.Fatal("parsed twice, two tokens")
		}
	})
}
