package tokens

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"

	"github.com/chatconn/chatconn/internal/loopback"
)

// HTTPOptions says how [HTTP] asks an endpoint. The zero value is a POST
// without a body, answered by a JSON object with the token in its field "token".
type HTTPOptions struct {
	// Method is GET or POST. Empty: POST.
	Method string
	// Body is sent with each request, as ContentType. Nil: none.
	Body []byte
	// ContentType of Body. Empty: application/json.
	ContentType string
	// Field is the field of the answer's JSON object that holds the token; its
	// name is matched exactly, its value is taken as it stands. Empty: "token".
	Field string
	// PlainText says that the answer is the token alone. Spaces and line breaks
	// around it are dropped.
	PlainText bool
	// Prepare, if not nil, is called with each request before it is sent, to add
	// what tells the backend who asks: a cookie, a header. Its error fails the
	// load; one marked by Permanent is final.
	Prepare func(*http.Request) error
	// Client sends the requests, with its transport and its cookies; its
	// CheckRedirect is not used. Nil: http.DefaultClient.
	Client *http.Client
	// AllowInsecure permits http to hosts that are not loopback.
	AllowInsecure bool
}

// ErrInsecure: a token would travel in the clear, or be no secret. It is permanent.
var ErrInsecure = Permanent(errors.New("tokens: refused as insecure"))

// AnswerError reports an endpoint that answered, but not with a token. It holds
// nothing of the answer's body, where a token may be.
type AnswerError struct {
	StatusCode int    // of HTTP
	Reason     string // what is wrong, such as "it is HTML"
}

func (e *AnswerError) Error() string {
	return fmt.Sprintf("tokens: the answer of the endpoint (status %d) is no token: %s", e.StatusCode, e.Reason)
}

// maxAnswer bounds the body of an endpoint's answer, in bytes.
const maxAnswer = 64 << 10

// HTTP returns a source that asks an endpoint of the program's own backend, once
// for each token that is needed.
//
// The answers 401 and 403 are permanent: the backend says that this user gets no
// token. Whatever else is wrong is retried, other 4xx included, since routes
// come and go with deployments and their mistakes. The error is then an
// *AnswerError: for any status but 2xx; for a redirect, which is never
// followed, so that what Prepare has added goes nowhere else; for HTML, an
// empty body, one over 64 KiB, or one without the field. Where no answer came, it
// wraps the network's error. No error repeats the URL's path or query, or any of
// the body.
//
// The URL is https, or http to a loopback host. Any other is permanent on the
// first call: ErrInsecure or ErrNoSource. Specification: T1, T3, T11.
func HTTP(url string, o HTTPOptions) Source {
	e := &endpoint{url: url, opts: o}
	e.opts.Body = bytes.Clone(o.Body)
	if e.opts.Method == "" {
		e.opts.Method = http.MethodPost
	}
	if e.opts.Field == "" {
		e.opts.Field = "token"
	}
	client := o.Client
	if client == nil {
		client = http.DefaultClient
	}
	e.client = *client
	e.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return Func(e.token) // which prints as an address: URL and body may hold secrets
}

type endpoint struct {
	url    string
	opts   HTTPOptions // complete
	client http.Client // follows no redirect
}

func (e *endpoint) token(ctx context.Context) (string, error) {
	req, err := e.request(ctx)
	if err != nil {
		return "", err
	}
	resp, err := e.client.Do(req)
	if err != nil {
		if wrapped := (*url.Error)(nil); errors.As(err, &wrapped) {
			err = wrapped.Err // without the URL
		}
		return "", conceals("tokens: "+req.Method+" to "+req.URL.Host, err)
	}
	defer resp.Body.Close()
	return e.read(resp)
}

func (e *endpoint) request(ctx context.Context) (*http.Request, error) {
	unusable := func(why string) (*http.Request, error) {
		return nil, fmt.Errorf("%w: the endpoint's %s", ErrNoSource, why)
	}
	if e.opts.Method != http.MethodGet && e.opts.Method != http.MethodPost {
		return unusable("method is neither GET nor POST")
	}
	req, err := http.NewRequestWithContext(ctx, e.opts.Method, e.url, bytes.NewReader(e.opts.Body))
	if err != nil {
		return unusable("URL is none") // the parser's error would repeat it
	}
	if e.opts.PlainText {
		req.Header.Set("Accept", "text/plain")
	} else {
		req.Header.Set("Accept", "application/json")
	}
	if e.opts.Body != nil {
		req.Header.Set("Content-Type", "application/json")
		if e.opts.ContentType != "" {
			req.Header.Set("Content-Type", e.opts.ContentType)
		}
	}
	if e.opts.Prepare != nil {
		if err := e.opts.Prepare(req); err != nil {
			return nil, conceals("tokens: the request could not be prepared", err)
		}
	}
	switch {
	case req.URL.Scheme != "http" && req.URL.Scheme != "https":
		return unusable("URL does not begin with https:// (or http:// for loopback)")
	case req.URL.Hostname() == "":
		return unusable("URL names no host")
	case req.URL.Scheme == "http" && !loopback.Is(req.URL.Hostname()) && !e.opts.AllowInsecure:
		return nil, fmt.Errorf("%w: the endpoint's URL is http to a host that is not loopback; use https or AllowInsecure", ErrInsecure)
	}
	return req, nil
}

// read takes the token out of an answer.
func (e *endpoint) read(resp *http.Response) (string, error) {
	no := func(format string, args ...any) (string, error) {
		return "", &AnswerError{resp.StatusCode, fmt.Sprintf(format, args...)}
	}
	switch status := resp.StatusCode; {
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		_, err := no("the backend refuses this user")
		return "", Permanent(err)
	case status >= 300 && status < 400:
		return no("it redirects %s, and redirects are not followed", whither(resp))
	case status < 200 || status > 299:
		return no("the status tells of an error")
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch text := bytes.TrimSpace(body); {
	case err != nil:
		return "", conceals("tokens: the endpoint's answer broke off", err)
	case len(body) > maxAnswer:
		return no("it has more than %d bytes", maxAnswer)
	case len(text) == 0:
		return no("it is empty")
	case text[0] == '<' || mediaType(resp) == "text/html":
		return no("it is HTML")
	case e.opts.PlainText:
		return string(text), nil
	}
	var fields map[string]json.RawMessage
	if json.Unmarshal(body, &fields) != nil {
		return no("it is not a JSON object")
	}
	var token *string
	if json.Unmarshal(fields[e.opts.Field], &token) != nil || token == nil {
		return no("it has no field %q with a string", e.opts.Field)
	}
	return *token, nil
}

// whither names the host of a redirect; the path of its target may hold secrets.
func whither(resp *http.Response) string {
	target, err := resp.Location()
	switch {
	case err != nil:
		return "to no URL"
	case target.Host != resp.Request.URL.Host:
		return fmt.Sprintf("to another host, %q", scrub(target.Host))
	case target.Scheme != resp.Request.URL.Scheme:
		return "to " + target.Scheme
	}
	return "within its host"
}

func mediaType(resp *http.Response) string {
	t, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	return t
}
