package tokens

import (
	"regexp"
	"strings"
	"unicode"
)

// tokenLike finds what may be a token or a key in a text that others wrote:
// what begins as base64 of a JSON object, or as base64 of that, up to a space
// or a quote; and any long word of base64 or hexadecimal digits.
var tokenLike = regexp.MustCompile("(?:eyJ|ZXlK)[^\\s\"'`]*|[A-Za-z0-9+_=-]{40,}")

// maxForeign is how much of a foreign text goes into an error, in bytes.
const maxForeign = 512

// scrub returns the end of a foreign text, fit for an error: one line, without
// what looks like a token, and of at most maxForeign bytes.
func scrub(text string) string {
	text = tokenLike.ReplaceAllString(strings.ToValidUTF8(text, "�"), redacted)
	text = strings.Join(strings.FieldsFunc(text, func(r rune) bool {
		return unicode.IsSpace(r) || unicode.IsControl(r)
	}), " ")
	if len(text) > maxForeign {
		text = "…" + strings.ToValidUTF8(text[len(text)-maxForeign+len("…"):], "")
	}
	return text
}

// concealed is a foreign error whose text may quote what a server or a program
// said. It reads as text and unwraps to the error.
type concealed struct {
	text string
	err  error
}

func conceals(what string, err error) error {
	return &concealed{what + ": " + scrub(err.Error()), err}
}

func (c *concealed) Error() string { return c.text }

func (c *concealed) Unwrap() error { return c.err }
