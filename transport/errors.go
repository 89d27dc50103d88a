package transport

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/chatconn/chatconn/internal/object"
)

// Kind tells what ended an attempt or a socket. The zero value is no kind.
type Kind uint8

const (
	_ Kind = iota

	Network    // no way to the peer, or the way broke: a dial, a read or a write failed or was late, or the context ended
	TLS        // the TLS handshake failed, or the peer ended the session with an alert
	Refused    // the upgrade got an HTTP answer other than 101
	Told       // an error frame came
	Closed     // a close frame came, or the stream ended (code 1006), without an error frame
	Silent     // no frame for HealthTimeout
	Unanswered // no frame after a Probe
	Oversize   // the handshake or a message was longer than its cap
	Unoffered  // the peer switched on an extension or a subprotocol that was not offered
	Malformed  // the peer speaks no WebSocket, or the call's own input cannot be sent
	HungUp     // HangUp was called

	numKinds = iota
)

var kindNames = [numKinds]string{
	"none", "network", "tls", "refused", "told", "closed", "silent", "unanswered",
	"oversize", "unoffered", "malformed", "hung up",
}

// String returns the name of the kind, in lower case.
func (k Kind) String() string {
	if k < numKinds {
		return kindNames[k]
	}
	return fmt.Sprintf("Kind(%d)", k)
}

// Error tells how an attempt or a socket ended. It holds facts and no verdict:
// whether to come back, and with what, is for its reader. No field of it holds
// the token or the URL. Specification: E1, T11.
type Error struct {
	Phase      string        // "dial" (proxy and TLS included), "upgrade", "hello" (up to the first health check) or "open"
	Kind       Kind          // what happened
	Refusal    *Refusal      // what an error frame or an API error body said; nil if none
	Status     int           // HTTP status of a refused upgrade, else 0
	RetryAfter time.Duration // Retry-After of a refused upgrade, 0 if it had none that is valid
	CloseCode  int           // code of the close frame; 1005 if it had none, 1006 without a frame; 0 if Kind is not Closed
	Body       string        // the beginning, at most 512 bytes, of an answer or a frame that is no API error, or a close frame's reason; printable
	Err        error         // the cause, for errors.Is and errors.As; nil if the fields above say it all
}

// Error says the phase, the kind and what is known of the cause, in one line.
func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "transport: %s: %s", e.Phase, e.Kind)
	if e.Status != 0 {
		fmt.Fprintf(&b, ", HTTP %d", e.Status)
	}
	if e.CloseCode != 0 {
		fmt.Fprintf(&b, ", close code %d", e.CloseCode)
	}
	switch {
	case e.Refusal != nil:
		fmt.Fprintf(&b, ", code %d: %s", e.Refusal.Code, e.Refusal.Message)
	case e.Err != nil:
		fmt.Fprintf(&b, ": %v", e.Err)
	case e.Body != "":
		fmt.Fprintf(&b, ": %q", e.Body)
	}
	return b.String()
}

// Unwrap returns the cause, which may be nil.
func (e *Error) Unwrap() error { return e.Err }

// Refusal is what the service says when it refuses. The service sets Code and
// StatusCode independently of each other.
type Refusal struct {
	Code          int
	StatusCode    int
	Message       string
	Unrecoverable bool // the service says: do not come back
}

// ParseRefusal reads an API error: one JSON object with an integral code. Its
// keys count in their exact case only. StatusCode, message and unrecoverable may
// be missing, and one of a wrong type counts as missing, as does everything
// else that the service may add. It reports false for anything that is no API
// error. Specification: E1.
func ParseRefusal(body []byte) (*Refusal, bool) {
	if len(body) > maxErrorBody {
		body = brief(body)
	}
	// A map, since encoding/json matches the keys of a struct in any case.
	var object map[string]json.RawMessage
	if json.Unmarshal(body, &object) != nil {
		return nil, false
	}
	var code *int // a pointer tells null from a number
	if json.Unmarshal(object["code"], &code) != nil || code == nil {
		return nil, false
	}
	r := &Refusal{Code: *code}
	for key, value := range map[string]any{"StatusCode": &r.StatusCode, "message": &r.Message, "unrecoverable": &r.Unrecoverable} {
		_ = json.Unmarshal(object[key], value) // a wrong type leaves the zero value
	}
	return r, true
}

// brief is a long error without what nobody looks at, and without the end of its
// message: a map of all of it would hold several times its length. It is nil if
// there is no well-formed object.
func brief(body []byte) []byte {
	const most = 16 << 10 // of a value, as it stands
	names := [...]string{"code", "StatusCode", "message", "unrecoverable"}
	var values [len(names)][]byte // the last counts
	if !object.Members(body, func(key, value []byte) {
		if i := slices.Index(names[:], string(key)); i >= 0 {
			values[i] = value
		}
	}) {
		return nil
	}
	b := []byte(`{"":0`)
	for i, value := range values {
		switch {
		case value == nil:
			continue
		case len(value) > most && value[0] != '"':
			value = []byte("null") // no number and no truth is that long
		case len(value) > most:
			value = append(slices.Clip(cut(value[:most])), '"')
		}
		b = append(append(append(append(b, `,"`...), names[i]...), `":`...), value...)
	}
	return append(b, '}')
}

// cut takes from the end of a raw string what may be part of an escape, of which the
// longest is a pair of surrogates.
func cut(raw []byte) []byte {
	const longest = len(`\ud83d\ude00`)
	if i := bytes.IndexByte(raw[len(raw)-longest:], '\\'); i >= 0 {
		raw = raw[:len(raw)-longest+i]
	}
	if i := len(raw) - longest/2; raw[i] == '\\' {
		raw = raw[:i] // perhaps the first of the pair
	}
	return bytes.TrimRight(raw, `\`)
}

// kindOf tells a network that broke from a TLS session that failed, and both from
// anything else.
func kindOf(err error, otherwise Kind) Kind {
	var (
		op          *net.OpError
		certificate *tls.CertificateVerificationError
		network     net.Error
	)
	switch {
	case errors.As(err, &certificate):
		return TLS
	case errors.As(err, &op) && (op.Op == "remote error" || op.Op == "local error"):
		return TLS // so crypto/tls marks its alerts
	case errors.As(err, &network), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return Network
	}
	return otherwise
}

// redactor returns a function that hides what a peer repeats of a token, raw or
// percent-encoded: the whole, and any part that is long enough to tell something,
// since servers shorten what they quote. It is a function so that nothing which
// holds it can print the token. Specification: T11.
func redactor(token string) func(string) string {
	if token == "" {
		return func(s string) string { return s }
	}
	return func(s string) string {
		escaped := url.QueryEscape(token)
		return hideParts(strings.ReplaceAll(strings.ReplaceAll(s, token, hidden), escaped, hidden), token, escaped)
	}
}

// Redact hides a token in a text that a peer wrote, and every part of it that is
// 16 bytes or longer, and cuts the text to what a log can bear. Specification: T11.
func Redact(text, token string) string { return excerpt([]byte(text), redactor(token)) }

// maxConnectionID bounds the id of a connection, which every health check and
// every API request repeats. Specification: S2.
const maxConnectionID = 1 << 10

var errLongID = errors.New("the connection id is longer than 1 KiB")

const hidden = "[redacted]"

// hideParts hides every run of 16 bytes or more that a text shares with secrets.
func hideParts(text string, secrets ...string) string {
	const most = 15 // bytes in a row that may be seen
	if len(text) <= most {
		return text
	}
	parts := make(map[string]struct{})
	for _, secret := range secrets {
		for i := 0; i+most < len(secret); i++ {
			parts[secret[i:i+most+1]] = struct{}{}
		}
	}
	var b strings.Builder
	shown := 0 // what is before it is in b
	for i := 0; i+most < len(text); i++ {
		if _, found := parts[text[i:i+most+1]]; !found {
			continue
		}
		if shown == 0 || i > shown {
			b.WriteString(text[shown:i])
			b.WriteString(hidden)
		}
		shown = i + most + 1
	}
	if shown == 0 {
		return text
	}
	b.WriteString(text[shown:])
	return b.String()
}

// excerpt returns the beginning of what a peer sent, fit to be shown: at most 512
// bytes of valid UTF-8, blanks for what cannot be printed, no token.
func excerpt(sent []byte, redact func(string) string) string {
	printable := func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}
	sent = sent[:min(len(sent), maxErrorBody)]
	s := redact(strings.Map(printable, strings.ToValidUTF8(string(sent), "\uFFFD")))
	end := min(len(s), 512)
	for end < len(s) && !utf8.RuneStart(s[end]) {
		end--
	}
	return strings.TrimSpace(s[:end])
}
