// Package chatapi makes the three API calls that a program which listens to a
// chat needs first: read a channel, send a message, mark a channel as read. It
// is not an SDK; for anything else use the same *http.Client.
//
//	api := chatapi.New(conn.HTTPClient(), config.BaseURL)
//	channel, err := api.Query(ctx, "messaging:general", chatapi.Query{Watch: true})
//
// Authentication is the client's: the one of chatconn.Conn adds the user's
// token, and waits where it is being replaced.
package chatapi

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Client calls the API of one service. It is safe for concurrent use.
type Client struct {
	http *http.Client
	base string
}

// New returns a Client that sends its requests with client to the service at
// baseURL, the one in chatconn.Config; empty is the same default.
func New(client *http.Client, baseURL string) *Client {
	return &Client{client, strings.TrimRight(cmp.Or(baseURL, "https://chat.stream-io-api.com"), "/")}
}

// Query says what Client.Query wants of a channel. The zero value asks for the
// channel and the latest messages that the service sends unasked.
type Query struct {
	// Watch subscribes the open connection to the channel's events, which members
	// get anyway. It ends with the connection; ask again after a reconnect.
	Watch bool
	// Messages is how many of the latest messages to return. 0: the service's
	// choice.
	Messages int
	// Members are the ids of the members of a channel that this call creates.
	Members []string
}

// Channel is what a query returns.
type Channel struct {
	CID      string // "type:id"
	Members  []User
	Messages []Message // the latest, oldest first
}

// User is the author of a message or a member of a channel.
type User struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

// Message is one message of a channel.
type Message struct {
	ID        string    `json:"id"`
	CID       string    `json:"cid"`
	Text      string    `json:"text"`
	User      User      `json:"user"`
	CreatedAt time.Time `json:"created_at"`
}

// NewMessage is what the raw text of an event of type "message.new" holds, for
// json.Unmarshal.
type NewMessage struct {
	Message Message `json:"message"`
}

// Error is a refusal: an answer other than 2xx. Code and Message are the
// service's; where the answer is none of its own (a proxy's, say), Code is 0 and
// Message the first 512 bytes.
type Error struct {
	Code       int
	StatusCode int // of HTTP
	Message    string
}

func (e *Error) Error() string {
	return fmt.Sprintf("chatapi: %q (code %d, status %d)", e.Message, e.Code, e.StatusCode)
}

// Query returns a channel, which is created if there is none and the user may.
// Errors are an *Error, or wrap the client's.
func (c *Client) Query(ctx context.Context, cid string, q Query) (Channel, error) {
	in := map[string]any{"state": true, "watch": q.Watch, "data": map[string]any{}}
	if len(q.Members) > 0 {
		in["data"] = map[string]any{"members": q.Members}
	}
	if q.Messages > 0 {
		in["messages"] = map[string]any{"limit": q.Messages}
	}
	var out struct {
		Channel struct {
			CID string `json:"cid"`
		} `json:"channel"`
		Members []struct {
			User User `json:"user"`
		} `json:"members"`
		Messages []Message `json:"messages"`
	}
	if err := c.post(ctx, cid, "query", in, &out); err != nil {
		return Channel{}, err
	}
	channel := Channel{CID: out.Channel.CID, Messages: out.Messages}
	for _, m := range out.Members {
		channel.Members = append(channel.Members, m.User)
	}
	return channel, nil
}

// Send posts a message to a channel and returns it as the service keeps it. An
// empty id is chosen by the service. With an id of the caller's, a message may be
// sent again when it is unknown whether it has arrived: it is kept once.
func (c *Client) Send(ctx context.Context, cid, id, text string) (Message, error) {
	message := map[string]any{"text": text}
	if id != "" {
		message["id"] = id
	}
	var out struct {
		Message Message `json:"message"`
	}
	err := c.post(ctx, cid, "message", map[string]any{"message": message}, &out)
	return out.Message, err
}

// MarkRead tells the channel that the user has read all of it.
func (c *Client) MarkRead(ctx context.Context, cid string) error {
	return c.post(ctx, cid, "read", map[string]any{}, nil)
}

const (
	maxAnswer  = 16 << 20
	maxError   = 64 << 10
	maxMessage = 512 // of an error that is not the service's
)

// post sends in to a channel's endpoint and decodes the answer into out, unless
// it is nil.
func (c *Client) post(ctx context.Context, cid, endpoint string, in, out any) error {
	kind, id, ok := strings.Cut(cid, ":")
	if isPath := func(s string) bool { return s == "" || s == "." || s == ".." }; !ok || isPath(kind) || isPath(id) {
		return fmt.Errorf("chatapi: %q is not a cid, type:id", cid)
	}
	body, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("chatapi: %w", err)
	}
	target := c.base + "/channels/" + url.PathEscape(kind) + "/" + url.PathEscape(id) + "/" + endpoint
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("chatapi: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("chatapi: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return refusal(resp)
	}
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return fmt.Errorf("chatapi: %s: %w", endpoint, err)
	case len(answer) > maxAnswer:
		return fmt.Errorf("chatapi: %s: the answer has more than %d bytes", endpoint, maxAnswer)
	case out != nil && json.Unmarshal(answer, out) != nil:
		return errors.New("chatapi: " + endpoint + ": the answer is not the expected JSON")
	}
	return nil
}

func refusal(resp *http.Response) *Error {
	body, _ := io.ReadAll(io.LimitReader(resp.Body, maxError)) // what came counts
	var said struct {
		Code    *int   `json:"code"`
		Message string `json:"message"`
	}
	if json.Unmarshal(body, &said) != nil || said.Code == nil {
		return &Error{StatusCode: resp.StatusCode, Message: strings.ToValidUTF8(string(body[:min(len(body), maxMessage)]), "")}
	}
	return &Error{*said.Code, resp.StatusCode, said.Message}
}
