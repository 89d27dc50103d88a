package chatconn

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"

	"github.com/chatconn/chatconn/fsm"
	"github.com/chatconn/chatconn/tokens"
	"github.com/chatconn/chatconn/transport"
)

// anonymousID is the user whom the service sees in everybody without a name.
const anonymousID = "!anon"

// maxGuestAnswer bounds the answer of the guest exchange: decoded, it takes many
// times its length. Specification: S2.
const maxGuestAnswer = 64 << 10

// ConnectGuest asks the service for a guest like user and connects as the guest.
// It waits as ConnectUser does. The guest's id differs from user.ID; Session and
// CurrentUser tell it. The exchange is made once: a guest's token does not
// expire, and a second exchange would bring a different person. Connecting the
// same guest again shares the session, or opens another for the same person, and
// fails for good if their token was refused; only Disconnect lets go of them.
// Specification: T9.
func (c *Conn) ConnectGuest(ctx context.Context, user User) (Session, error) {
	details, err := checkUser(user)
	if err != nil {
		return Session{}, err
	}
	return c.wait(ctx, c.connectCall(user, details, &guest{conn: c, wanted: details}))
}

// GuestToken makes the guest exchange alone and returns the guest and their
// token; connect them with ConnectUser and tokens.Static. The error is an
// *APIError where the service answered. Specification: T9.
func (c *Conn) GuestToken(ctx context.Context, user User) (User, string, error) {
	details, err := checkUser(user)
	if err != nil {
		return User{}, "", err
	}
	if ctx == nil {
		return User{}, "", errNilContext
	}
	if c.isClosed() {
		return User{}, "", ErrClosed
	}
	g := &guest{conn: c, wanted: details}
	token, err := g.Token(ctx)
	if err != nil {
		return User{}, "", err
	}
	return *g.user, token, nil
}

// ConnectAnonymous connects as nobody in particular, without a token. An
// anonymous user may read livestream channels and little else. It waits as
// ConnectUser does. Specification: T10.
func (c *Conn) ConnectAnonymous(ctx context.Context) (Session, error) {
	return c.wait(ctx, c.connectCall(User{ID: anonymousID}, nil, anonymous{}))
}

// anonymous is the source of a user who needs no token.
type anonymous struct{}

func (anonymous) Token(context.Context) (string, error) {
	panic("BUG: chatconn: an anonymous user has no token")
}

// guest is a token source that makes the guest exchange, once. Its user is the
// service's answer, and set when Token has returned a token.
type guest struct {
	conn   *Conn
	wanted json.RawMessage // the user who is asked for

	mu      sync.Mutex // not held during the exchange: a source is asked once at a time
	token   string
	user    *User
	details json.RawMessage // of the guest, without what the server alone decides
}

func (g *guest) Token(ctx context.Context) (string, error) {
	g.mu.Lock()
	token := g.token
	g.mu.Unlock()
	if token != "" {
		return token, nil
	}
	answer, err := g.exchange(ctx)
	if err != nil {
		return "", err
	}
	parsed, err := tokens.Parse(answer.Token)
	if err != nil {
		return "", fmt.Errorf("chatconn: the answer to POST /guest: %w", err)
	}
	user, ok := parseUser(answer.User)
	switch {
	case answer.User != nil && !ok:
		return "", errGuestAnswer
	case parsed.UserID() != user.ID:
		return "", fmt.Errorf("chatconn: the answer to POST /guest: %w", ErrTokenUserMismatch)
	}
	for _, name := range []string{"created_at", "updated_at", "last_active", "online", "role"} {
		delete(user.Extra, name)
	}
	details, _ := userJSON(user) // it came as JSON; what the service calls a user is not for us to refuse
	g.mu.Lock()
	defer g.mu.Unlock()
	g.user, g.details, g.token = &user, details, answer.Token
	return g.token, nil
}

// made reports whether the service has made the guest.
func (g *guest) made() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.token != ""
}

type guestAnswer struct {
	User  json.RawMessage `json:"user"`
	Token string          `json:"access_token"`
}

var errGuestAnswer = errors.New("chatconn: POST /guest: the answer is not the expected JSON")

// exchange sends POST /guest. It goes past the queue of requests, which waits for
// the very token that it brings.
func (g *guest) exchange(ctx context.Context) (guestAnswer, error) {
	c := g.conn
	target := c.base.JoinPath("guest")
	target.RawQuery = url.Values{"api_key": {c.cfg.APIKey}}.Encode()
	body, _ := json.Marshal(map[string]json.RawMessage{"user": g.wanted})
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target.String(), bytes.NewReader(body))
	if err != nil {
		return guestAnswer{}, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Stream-Auth-Type", "anonymous")
	req.Header.Set("X-Stream-Client", clientName)
	resp, err := c.roundTripper().base.RoundTrip(req)
	if err != nil {
		return guestAnswer{}, fmt.Errorf("chatconn: POST /guest: %w", err)
	}
	defer resp.Body.Close()
	limit := int64(maxGuestAnswer + 1)
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		limit = maxErrorBody
	}
	raw, err := io.ReadAll(io.LimitReader(resp.Body, limit))
	if err != nil {
		return guestAnswer{}, fmt.Errorf("chatconn: POST /guest: %w", err)
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return guestAnswer{}, answerError(resp.StatusCode, raw)
	}
	var answer guestAnswer
	if err := json.Unmarshal(raw, &answer); err != nil || len(raw) > maxGuestAnswer {
		return guestAnswer{}, errGuestAnswer
	}
	return answer, nil
}

// answerError is what an answer other than a success says. Only the service itself
// can refuse for good; a proxy in between cannot. Specification: E, E1.
func answerError(status int, body []byte) error {
	refusal, ok := transport.ParseRefusal(body)
	if !ok {
		return &APIError{StatusCode: status, Message: transport.Redact(string(body), "")}
	}
	api := apiError(refusal, status, "")
	if eventForAPI(api, true, true) == fsm.Denied {
		return tokens.Permanent(api)
	}
	return api
}
