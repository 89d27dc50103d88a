package chatconn

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/chatconn/chatconn/fsm"
	"github.com/chatconn/chatconn/tokens"
	"github.com/chatconn/chatconn/transport"
)

// Change is one transition as a watcher sees it. Specification: O1.
type Change struct {
	Seq      uint64    // counts the changes of a Conn; the first value of Watch repeats the latest
	From, To fsm.State // equal in the first value of Watch and in an update of Attempt or RetryAt
	Event    fsm.Event // zero in the first value of Watch
	Cause    error     // why, where an error caused it; never contains a token
	Attempt  int       // the attempt that runs or is next, from 1; zero where none is due
	RetryAt  time.Time // when it begins; zero: at once, or none is due
	At       time.Time // when it happened
	Missed   int       // changes before this one that a slow reader lost
}

// Moved reports whether the state differs.
func (c Change) Moved() bool { return c.From != c.To }

// Event is one chat event. Raw is the whole message as it came; it is shared
// with other readers and must not be modified. Fields that the message does not
// have are zero.
type Event struct {
	Type      string
	CID       string // the channel, such as "messaging:general"
	UserID    string
	CreatedAt time.Time
	Raw       json.RawMessage
	Missed    int // events before this one that a slow reader lost
}

// User is a chat user. Specification: C4.
type User struct {
	ID    string
	Name  string
	Image string
	// Extra holds custom fields, which stand at the root of the user's JSON.
	Extra map[string]any
}

// Session is one open connection.
type Session struct {
	// ConnectionID is the id that the socket opened with. It changes with every
	// reconnect and only then: another id in a later health check is not taken.
	ConnectionID string
	User         User // the server's view of the user when the socket opened
}

// APIError is what the service said: in an error frame, in the answer to a
// refused handshake, or in the answer to an API request. errors.Is finds
// ErrTokenExpired in code 40 and ErrTokenInvalid in codes 5 and 43.
// Specification: E1.
type APIError struct {
	Code          int // of the service; 0 if it gave none
	StatusCode    int // of HTTP; 0 if it gave none
	Message       string
	Unrecoverable bool // the service itself says that a retry is of no use
}

func (e *APIError) Error() string {
	return fmt.Sprintf("chatconn: the server says %q (code %d, status %d)", e.Message, e.Code, e.StatusCode)
}

// Is makes the token errors of the service findable by their names.
func (e *APIError) Is(target error) bool {
	switch e.Code {
	case codeExpired:
		return target == ErrTokenExpired
	case codeMalformed, codeSignature:
		return target == ErrTokenInvalid
	}
	return false
}

// Errors that calls return, alone or wrapped around their cause.
var (
	ErrClosed            = errors.New("chatconn: the Conn is closed")
	ErrNoUser            = errors.New("chatconn: no user is set")
	ErrUserAlreadySet    = errors.New("chatconn: another user is set; use SwitchUser, or Disconnect first")
	ErrTokenUserMismatch = tokens.ErrUserMismatch
	ErrTokenExpired      = errors.New("chatconn: the token has expired or was revoked")
	ErrTokenInvalid      = tokens.ErrInvalid
	ErrTokenTimeout      = tokens.ErrTimeout
	ErrDisconnected      = errors.New("chatconn: disconnected")
	ErrReentrant         = errors.New("chatconn: called from inside the token source or the dial whose result it would wait for")
	ErrRetriesSpent      = errors.New("chatconn: no attempt is left")
	ErrTooManyRequests   = errors.New("chatconn: too many API requests are waiting")
	ErrRequestTimeout    = errors.New("chatconn: the API request waited too long for a token")
	ErrInsecure          = tokens.ErrInsecure
)

// Causes that only a Change, a log or a wrapped error shows.
var (
	errAbandoned = errors.New("chatconn: every caller left before the first success")
	errEnded     = errors.New("chatconn: the program's code ended the goroutine that it was called on")
	errOverdue   = fmt.Errorf("chatconn: the attempt was not over: %w", context.DeadlineExceeded)
)

// The codes of the service that mean something to a connection.
const (
	codeMalformed   = 5
	codeRateLimited = 9
	codeExpired     = 40
	codeNotYetValid = 41
	codeFromFuture  = 42
	codeSignature   = 43
	codeTooMany     = 71
)

// eventFor is the one place where an error becomes an event: it goes by the
// code of the service, never by a message's text, and by the close code not at
// all. The first match wins. It returns the error as callers and watchers see it.
// Specification: E, E1.
//
// static says that the user's source has nothing but the refused token, again
// that it was asked anew after a bad signature already, keep that a silent
// connection keeps its token.
func eventFor(err error, static, again, keep bool) (fsm.Event, error) {
	var failure *transport.Error
	if !errors.As(err, &failure) {
		return fsm.Dropped, err
	}
	switch failure.Kind {
	case transport.Silent:
		if keep {
			return fsm.Dropped, err
		}
		return fsm.Unhealthy, err
	case transport.Told, transport.Refused:
	default:
		return fsm.Dropped, err
	}
	if failure.Refusal == nil {
		return fsm.Dropped, err // a proxy or a captive portal spoke, not the service
	}
	api := apiError(failure.Refusal, failure.Status, "") // the transport knows its token
	return eventForAPI(api, static, again), api
}

// eventForAPI is the matrix of what the service's own errors mean.
func eventForAPI(api *APIError, static, again bool) fsm.Event {
	switch status := api.StatusCode; {
	case api.Unrecoverable:
		return fsm.Denied
	case api.Code == codeExpired && static:
		return fsm.Denied
	case api.Code == codeExpired:
		return fsm.TokenRefused
	case api.Code == codeNotYetValid || api.Code == codeFromFuture:
		if static {
			return fsm.Dropped
		}
		return fsm.TokenUntimely
	case api.Code == codeSignature || api.Code == codeMalformed:
		if static || again {
			return fsm.Denied
		}
		return fsm.TokenRefused
	case isOneOf(api.Code, 2, 4, 16, 17, 69, 99, 107):
		return fsm.Denied
	case api.Code == codeRateLimited || api.Code == codeTooMany || status == http.StatusTooManyRequests:
		return fsm.Dropped
	case status == http.StatusRequestTimeout || isOneOf(api.Code, 3, 23, 46, 48, 108, 111):
		return fsm.Dropped
	case status >= 400 && status < 500:
		return fsm.Denied
	}
	return fsm.Dropped
}

// apiError is what the service said, with the status of the answer that it came in
// if it names none itself. Its text is cut to what a log can bear, without the
// token, if one was sent (T11).
func apiError(r *transport.Refusal, status int, token string) *APIError {
	api := &APIError{
		Code: r.Code, StatusCode: r.StatusCode, Message: transport.Redact(r.Message, token), Unrecoverable: r.Unrecoverable,
	}
	if api.StatusCode == 0 {
		api.StatusCode = status
	}
	return api
}

// eventForLoad turns the failure of a token load into an event. A source that
// has one token only will not have a better one later.
func eventForLoad(err error, static bool) fsm.Event {
	if tokens.IsPermanent(err) { // ErrTokenUserMismatch and ErrInsecure are
		return fsm.TokenDenied
	}
	if static && !errors.Is(err, context.Canceled) {
		return fsm.TokenDenied
	}
	return fsm.TokenFailed
}

func isOneOf(code int, codes ...int) bool {
	for _, c := range codes {
		if c == code {
			return true
		}
	}
	return false
}

// causeClass names the class of a cause for recordings: it is stable and free
// of texts that a server or a program chose.
func causeClass(err error) string {
	if err == nil {
		return ""
	}
	var found struct { // errors.As moves what it fills to the heap: once for both
		api     *APIError
		failure *transport.Error
	}
	switch {
	case errors.Is(err, ErrRetriesSpent): // around the last cause
		return "retries-spent"
	case errors.As(err, &found.api):
		return "api-" + strconv.Itoa(found.api.Code)
	case errors.As(err, &found.failure):
		return found.failure.Kind.String()
	case errors.Is(err, ErrTokenUserMismatch):
		return "token-user-mismatch"
	case errors.Is(err, tokens.ErrRefusedAgain):
		return "token-refused-again"
	case errors.Is(err, ErrTokenInvalid):
		return "token-invalid"
	case errors.Is(err, ErrTokenTimeout):
		return "token-timeout"
	case errors.Is(err, ErrDisconnected), errors.Is(err, ErrClosed), errors.Is(err, errAbandoned):
		return "call"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, errOverdue):
		return "timeout"
	case errors.Is(err, context.Canceled):
		return "cancelled"
	}
	return "other"
}
