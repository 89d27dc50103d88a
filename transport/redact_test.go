package transport

import (
	"strings"
	"testing"
)

// T11: of a token that a peer repeats, whole or in part, no 16 bytes are left.
func TestRedactorHidesParts(t *testing.T) {
	const token = "eyJhbGciOiJIUzI1NiJ9.eyJ1c2VyX2lkIjoiam9obiJ9.c2lnbmF0dXJlIG9mIGpvaG4="
	redact := redactor(token)
	for text, want := range map[string]string{
		"":                                   "",
		"nothing to hide":                    "nothing to hide",
		token:                                "[redacted]",
		"a " + token + token + " z":          "a [redacted][redacted] z",
		"a " + token[:16] + " z":             "a [redacted] z",
		"a " + token[:15] + " z":             "a " + token[:15] + " z",
		"a " + token[5:40] + "…":             "a [redacted]…",
		"a " + token[5:30] + token[20:50]:    "a [redacted]",
		token[:20] + " and " + token[40:]:    "[redacted] and [redacted]",
		"a " + token[40:len(token)-1] + "%3": "a [redacted]",
	} {
		if got := redact(text); got != want {
			t.Errorf("%q became %q, want %q", text, got, want)
		}
	}
	if long := strings.Repeat("x", 1<<20); redact(long) != long {
		t.Error("a long text without a token is changed")
	}
}
