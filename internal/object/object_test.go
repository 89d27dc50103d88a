package object

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// Package transport compares its use with encoding/json and fuzzes it.
func TestMembers(t *testing.T) {
	list := func(text string) (got []string, ok bool) {
		ok = Members([]byte(text), func(key, value []byte) { got = append(got, string(key)+"="+string(value)) })
		return got, ok
	}
	for text, want := range map[string]string{
		`{}`:                              "[] true",
		` { "a" : 1 , "A":[2,{"a":3}] } `: `[a=1 A=[2,{"a":3}]] true`,
		`{"a":1,"a":"two"}`:               `[a=1 a="two"] true`,
		`{"\u0061\"":null}`:               `[a"=null] true`,
		`{"long key, of more than 32 bytes, with an \"escape\" in it":0}`: `[long key, of more than 32 bytes, with an "escape" in it=0] true`,
		`{"a":1} {}`: "[a=1] false",
		`{"a":1`:     "[a=1] false",
		`[]`:         "[] false",
		`{"a":"` + strings.Repeat("x", 40) + `\"}`: "[] false",
	} {
		got, ok := list(text)
		if fmt.Sprint(got, " ", ok) != want {
			t.Errorf("%s: %v %v, want %s", text, got, ok, want)
		}
	}
}

// A string of nothing but escapes is scanned once, not once for each of them: this
// would not end otherwise.
func TestEscapesCostOnce(t *testing.T) {
	for _, escape := range []string{`\"`, `\\`, `\n`} {
		if !Members([]byte(`{"a":"`+strings.Repeat(escape, 4<<20)+`"}`), func(_, _ []byte) {}) {
			t.Errorf("a string of %s is refused", escape)
		}
	}
}

func TestAppendString(t *testing.T) {
	for _, s := range []string{"", "plain", "with \"quotes\"", `a\b`, "line\n", "é", "<b>&", "\xff", "\u2028"} {
		var back string
		if err := json.Unmarshal(AppendString([]byte{}, s), &back); err != nil || back != strings.ToValidUTF8(s, "\ufffd") {
			t.Errorf("%q comes back as %q, %v", s, back, err)
		}
	}
}
