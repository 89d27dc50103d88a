package tokens_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/chatconn/chatconn/tokens"
)

// T1: a source is one method; static, function and dev are sources.
func TestT1_Sources(t *testing.T) {
	ctx := context.WithValue(t.Context(), ctxKey{}, "mine")
	cause := errors.New("backend down")

	for _, c := range []struct {
		name    string
		source  tokens.Source
		want    string
		wantErr error
	}{
		{"static", tokens.Static("abc"), "abc", nil},
		{"dev", tokens.Dev("john"), tokens.DevToken("john"), nil},
		{"func", tokens.Func(func(ctx context.Context) (string, error) {
			return ctx.Value(ctxKey{}).(string), nil
		}), "mine", nil},
		{"failing func", tokens.Func(func(context.Context) (string, error) { return "", cause }), "", cause},
		{"nil func", tokens.Func(nil), "", tokens.ErrNoSource},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := c.source.Token(ctx)
			if got != c.want || !errors.Is(err, c.wantErr) {
				t.Errorf("got %q, %v; want %q, %v", got, err, c.want, c.wantErr)
			}
		})
	}
}

type ctxKey struct{}

func TestIsStatic(t *testing.T) {
	for _, c := range []struct {
		name   string
		source tokens.Source
		want   bool
	}{
		{"static", tokens.Static("abc"), true},
		{"dev", tokens.Dev("john"), true},
		{"func", tokens.Func(nil), false},
		{"nil", nil, false},
		{"own type", comparable1{1}, false},
	} {
		if got := tokens.IsStatic(c.source); got != c.want {
			t.Errorf("%s: got %v", c.name, got)
		}
	}
}

// T8: the bytes of dev tokens, as other clients make them.
func TestT8_DevToken(t *testing.T) {
	const header = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9."
	for _, c := range []struct{ userID, want string }{
		{"john", header + "eyJ1c2VyX2lkIjoiam9obiJ9.devtoken"},
		{"jlahey", header + "eyJ1c2VyX2lkIjoiamxhaGV5In0=.devtoken"},
		{"luke_skywalker", header + "eyJ1c2VyX2lkIjoibHVrZV9za3l3YWxrZXIifQ==.devtoken"},
	} {
		if got := tokens.DevToken(c.userID); got != c.want {
			t.Errorf("%s: got %s, want %s", c.userID, got, c.want)
		}
	}
}

// T8: an id with characters that JSON escapes stays this id; no other character
// is escaped.
func TestT8_DevTokenOfUnusualIDs(t *testing.T) {
	for _, id := range []string{`a"b\c`, "<&>", "żółw", "a\nb", "日本", "???>>>~~~", "\u2028"} {
		token, err := tokens.Parse(tokens.DevToken(id))
		if err != nil {
			t.Errorf("%q: %v", id, err)
			continue
		}
		if token.UserID() != id || !token.IsDev() {
			t.Errorf("%q became %q, dev %v", id, token.UserID(), token.IsDev())
		}
	}
	payload := strings.Split(tokens.DevToken("<&>"), ".")[1]
	if text, err := base64.StdEncoding.DecodeString(payload); err != nil || string(text) != `{"user_id":"<&>"}` {
		t.Errorf("payload %q, %v", text, err)
	}
}

// T3: Permanent says "do not retry".
func TestT3_Permanent(t *testing.T) {
	cause := errors.New("account closed")
	err := tokens.Permanent(cause)
	if !errors.Is(err, cause) || err.Error() != cause.Error() {
		t.Errorf("got %v, which hides its cause", err)
	}
	for _, c := range []struct {
		name string
		err  error
		want bool
	}{
		{"marked", err, true},
		{"wrapped", fmt.Errorf("load: %w", err), true},
		{"joined", errors.Join(errors.New("x"), err), true},
		{"plain", cause, false},
		{"nil", nil, false},
		{"nil, marked", tokens.Permanent(nil), false},
		{"user mismatch", tokens.ErrUserMismatch, true},
		{"no source", tokens.ErrNoSource, true},
		{"invalid", tokens.ErrInvalid, false},
		{"timeout", tokens.ErrTimeout, false},
		{"refused again", tokens.ErrRefusedAgain, false},
	} {
		if got := tokens.IsPermanent(c.err); got != c.want {
			t.Errorf("%s: IsPermanent = %v", c.name, got)
		}
	}
	if tokens.Permanent(nil) != nil {
		t.Error("Permanent(nil) is an error")
	}
}

type comparable1 struct{ n int }

func (comparable1) Token(context.Context) (string, error) { return "", nil }

type uncomparable struct{ _ []int }

func (uncomparable) Token(context.Context) (string, error) { return "", nil }

type holder struct{ inner any } // comparable by its type, not always by its value

func (holder) Token(context.Context) (string, error) { return "", nil }

func TestSameSource(t *testing.T) {
	load := func(context.Context) (string, error) { return "", nil }
	f, s, u := tokens.Func(load), tokens.Static("a"), uncomparable{}
	for _, c := range []struct {
		name string
		a, b tokens.Source
		want bool
	}{
		{"one func source", f, f, true},
		{"two of one func", f, tokens.Func(load), false},
		{"one static", s, s, true},
		{"two statics", s, tokens.Static("a"), false},
		{"equal values", comparable1{1}, comparable1{1}, true},
		{"other values", comparable1{1}, comparable1{2}, false},
		{"other types", comparable1{1}, f, false},
		{"uncomparable", u, u, false},
		{"uncomparable inside", holder{[]int{1}}, holder{[]int{1}}, false},
		{"comparable inside", holder{1}, holder{1}, true},
		{"mixed inside", holder{1}, holder{[]int{1}}, false},
		{"pointer to uncomparable", &u, &u, true},
		{"nil and some", nil, f, false},
		{"some and nil", f, nil, false},
		{"both nil", nil, nil, false},
	} {
		if got := tokens.SameSource(c.a, c.b); got != c.want {
			t.Errorf("%s: got %v", c.name, got)
		}
	}
}

// T11: a static source does not tell its token, nor does a cache that is
// dumped as a whole.
func TestT11_SourceAndCacheHideTheToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		raw := mint(t, "john", 1)
		source := tokens.Static(raw)
		cache := tokens.NewCache(source, tokens.CacheOptions{UserID: "john"})
		load(t, cache)
		synctest.Wait() // the call's goroutine is gone: a dump reads without a lock
		for _, v := range []any{source, struct{ s tokens.Source }{source}, cache, []tokens.Source{source}} {
			for _, format := range formats() {
				assertHidden(t, raw, format, fmt.Sprintf(format, v))
			}
			text, _ := json.Marshal(v)
			assertHidden(t, raw, "json", string(text))
			assertUnreachable(t, raw, v)
		}
	})
}
