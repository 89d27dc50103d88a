package tokens

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/chatconn/chatconn/internal/object"
)

// secret keeps a text inside a func, where no printer, encoder or logger looks.
// A method that redacts would not do: fmt calls none on an unexported field.
type secret func() string

func conceal(text string) secret { return func() string { return text } }

// Token is a checked token of one user. It prints as "[redacted]" under every
// verb of fmt, in JSON, as text and in slog; inside a struct's unexported field,
// where fmt asks no method, an address appears. The zero value is no token.
// Compare with Equal. Specification: S3, T11.
type Token struct{ content *content }

type content struct {
	raw     secret
	userID  string
	expires time.Time // zero: never
	dev     bool
}

// Parse checks the text of a token: at most 16 KiB; three segments; printable
// ASCII without spaces; in the middle a JSON object, in base64 of either
// alphabet with or without padding, that names no claim twice and has a
// non-empty user_id. The signature is the server's to check, and so is the
// expiry: the clock of a device lies.
//
// Every error wraps ErrInvalid, says what is wrong, and repeats no part of the
// text. Specification: S2, S3, T6.
func Parse(raw string) (Token, error) {
	payload, err := checkText(raw)
	if err != nil {
		return Token{}, err
	}
	claims, err := decodePayload(payload)
	if err != nil {
		return Token{}, err
	}
	claim, ok := claims["user_id"]
	userID := object.Text(claim)
	switch {
	case !ok:
		return Token{}, invalid("its payload has no user_id")
	case userID == nil:
		return Token{}, invalid("its user_id is not a string")
	case len(userID) == 0:
		return Token{}, invalid("its user_id is empty")
	}
	return Token{&content{
		raw:     conceal(raw),
		userID:  string(userID),
		expires: expiry(claims["exp"]),
		dev:     strings.HasSuffix(raw, "."+devSignature),
	}}, nil
}

// Reveal returns the text of the token, "" for the zero value. It is meant for
// the wire and for nothing else.
func (t Token) Reveal() string {
	if t.content == nil {
		return ""
	}
	return t.content.raw()
}

// UserID returns the id of the user to whom the token belongs, "" for the zero
// value.
func (t Token) UserID() string {
	if t.content == nil {
		return ""
	}
	return t.content.userID
}

// IsZero tells whether t is no token.
func (t Token) IsZero() bool { return t.content == nil }

// IsDev tells whether t is a development token (see [DevToken]).
func (t Token) IsDev() bool { return t.content != nil && t.content.dev }

// ExpiresAt returns the time that the token's exp claim names, and whether it
// names one. An exp that is no number, not positive, or beyond the year 9999
// counts as none. Specification: T6.
func (t Token) ExpiresAt() (time.Time, bool) {
	if t.content == nil || t.content.expires.IsZero() {
		return time.Time{}, false
	}
	return t.content.expires, true
}

// Equal tells whether t and u are the same text, or both no token.
func (t Token) Equal(u Token) bool { return t.Reveal() == u.Reveal() }

const redacted = "[redacted]"

// Format implements fmt.Formatter: "[redacted]", whatever the verb and flags.
func (t Token) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }

// String returns "[redacted]".
func (t Token) String() string { return redacted }

// GoString returns "[redacted]".
func (t Token) GoString() string { return redacted }

// LogValue returns "[redacted]".
func (t Token) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText returns "[redacted]".
func (t Token) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// MarshalJSON returns the JSON string "[redacted]".
func (t Token) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

// maxSize is the longest token, in bytes. Specification: S2.
const maxSize = 16 << 10

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrInvalid}, args...)...)
}

// checkText checks what can be seen without decoding, the size first, and
// returns the middle segment.
func checkText(raw string) (payload string, err error) {
	const bearer = "bearer "
	switch {
	case raw == "":
		return "", invalid("it is empty")
	case len(raw) > maxSize:
		return "", invalid("it has %d bytes, and the limit is %d", len(raw), maxSize)
	case len(raw) >= len(bearer) && strings.EqualFold(raw[:len(bearer)], bearer):
		return "", invalid(`it begins with "Bearer "; pass the token alone`)
	case strings.HasSuffix(raw, "\n"), strings.HasSuffix(raw, "\r"):
		return "", invalid("it ends with a line break")
	}
	for i := range len(raw) {
		switch b := raw[i]; {
		case b == ' ':
			return "", invalid("byte %d is a space", i)
		case b < ' ' || b == 0x7f:
			return "", invalid("byte %d is a control character", i)
		case b > 0x7f:
			return "", invalid("byte %d is not ASCII", i)
		}
	}
	if n := strings.Count(raw, ".") + 1; n != 3 {
		return "", invalid("the number of its segments is %d, not 3", n)
	}
	header, rest, _ := strings.Cut(raw, ".")
	payload, signature, _ := strings.Cut(rest, ".")
	if header == "" || payload == "" || signature == "" {
		return "", invalid("one of its segments is empty")
	}
	return payload, nil
}

var urlAlphabet = strings.NewReplacer("+", "-", "/", "_")

// decodePayload decodes the middle segment into its claims, by exact key. The
// errors of the decoders are dropped: they quote their input.
func decodePayload(segment string) (map[string]json.RawMessage, error) {
	segment = strings.TrimSuffix(strings.TrimSuffix(segment, "="), "=")
	segment = urlAlphabet.Replace(segment)
	payload, err := base64.RawURLEncoding.DecodeString(segment)
	if err != nil {
		return nil, invalid("its payload is not base64")
	}

	claims := make(map[string]json.RawMessage)
	twice := false
	ok := utf8.Valid(payload) && json.Valid(payload) && object.Members(payload, func(key, value []byte) {
		_, again := claims[string(key)]
		twice = twice || again
		claims[string(key)] = value
	})
	switch {
	case !ok:
		return nil, invalid("its payload is not a JSON object")
	case twice:
		return nil, invalid("its payload names a claim twice")
	}
	return claims, nil
}

// maxSeconds is the last second of the year 9999: the last that JSON can write
// as a time, and within what int64 and time.Time can hold.
const maxSeconds = 253402300799

// expiry reads an exp claim; zero means that it names no usable time.
func expiry(claim json.RawMessage) time.Time {
	if claim == nil {
		return time.Time{}
	}
	seconds, err := strconv.ParseFloat(string(claim), 64)
	if err != nil || !(seconds > 0 && seconds <= maxSeconds) {
		return time.Time{}
	}
	return time.Unix(int64(seconds), 0).UTC()
}
