package devserver

import (
	"context"
	"encoding/json"
	"log/slog"
	"regexp"
	"strings"
	"sync"
	"time"
)

// Kind says what an [Entry] records.
type Kind string

const (
	Connect Kind = "connect" // a request for a socket came, and was judged
	Hello   Kind = "hello"   // the first health check left
	Refused Kind = "refused" // a connection, an upgrade or a login was turned away
	Frame   Kind = "frame"   // a client's message came
	Ping    Kind = "ping"    // a client's ping frame came
	Close   Kind = "close"   // a close frame came (By client) or left (By server)
	Gone    Kind = "gone"    // the socket's TCP connection is over
	Request Kind = "request" // an API request was answered
	Fault   Kind = "fault"   // a fault was ordered
)

// Entry is one thing that the server saw or did. Fields that mean nothing for
// its kind are empty. No entry holds a token.
type Entry struct {
	At           time.Time       `json:"at"`
	Kind         Kind            `json:"kind"`
	By           string          `json:"by,omitempty"` // of a close: "client" or "server"
	UserID       string          `json:"user_id,omitempty"`
	ConnectionID string          `json:"connection_id,omitempty"`
	Code         int             `json:"code,omitempty"`   // API error code; of a close, the close code
	Status       int             `json:"status,omitempty"` // HTTP status
	Method       string          `json:"method,omitempty"`
	Path         string          `json:"path,omitempty"`    // without the query
	Details      json.RawMessage `json:"details,omitempty"` // of a connect: user_details as received
	Auth         string          `json:"auth,omitempty"`    // where the token was: "header", "query" or ""
	Token        string          `json:"token,omitempty"`   // its fingerprint: 8 hex digits of its SHA-256
	Client       string          `json:"client,omitempty"`  // X-Stream-Client, unquoted
	Text         string          `json:"text,omitempty"`    // the frame's first 512 bytes, the reason, the fault's arguments
}

// logLimit is how many entries are kept; older ones go.
const logLimit = 100_000

// journal is the record. Its lock is a leaf: nothing is called under it.
type journal struct {
	logger *slog.Logger

	mu      sync.Mutex
	entries []Entry // up to twice logLimit, so that trimming is rare
}

func (j *journal) add(e Entry) {
	e.At = time.Now()
	for _, field := range []*string{&e.UserID, &e.ConnectionID, &e.Path, &e.Client, &e.Text} {
		*field = redact(*field)
	}
	e.Details = json.RawMessage(redact(string(e.Details)))

	j.mu.Lock()
	if len(j.entries) == 2*logLimit {
		j.entries = append(j.entries[:0], j.entries[logLimit:]...)
	}
	j.entries = append(j.entries, e)
	j.mu.Unlock()

	if ctx := context.Background(); j.logger.Enabled(ctx, slog.LevelDebug) {
		j.logger.LogAttrs(ctx, slog.LevelDebug, "devserver: "+string(e.Kind),
			slog.String("by", e.By), slog.String("user", e.UserID), slog.String("connection", e.ConnectionID),
			slog.Int("code", e.Code), slog.Int("status", e.Status),
			slog.String("method", e.Method), slog.String("path", e.Path), slog.String("text", e.Text))
	}
}

func (j *journal) list() []Entry {
	j.mu.Lock()
	defer j.mu.Unlock()
	return append([]Entry(nil), j.entries[max(0, len(j.entries)-logLimit):]...)
}

// Log returns what the server saw and did, oldest first: the last 100,000
// entries. Details of the entries are shared; do not write to them.
func (s *Server) Log() []Entry { return s.journal.list() }

// tokenShape finds tokens wherever a client may have put them: a JWT's header
// is a JSON object, whose base64 begins with "eyJ".
var tokenShape = regexp.MustCompile(`eyJ[A-Za-z0-9_+/=-]*(\.[A-Za-z0-9_+/=-]*){1,2}`)

func redact(s string) string {
	if !strings.Contains(s, "eyJ") {
		return s
	}
	return tokenShape.ReplaceAllString(s, "[redacted]")
}
