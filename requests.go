package chatconn

import (
	"bytes"
	"container/list"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/chatconn/chatconn/fsm"
	"github.com/chatconn/chatconn/tokens"
	"github.com/chatconn/chatconn/transport"
)

// clientName is how the service knows this client (X-Stream-Client).
var clientName = "chatconn-go-v" + Version + "|os=" + runtime.GOOS

// maxErrorBody is how much of an error's body is read to find its code. Specification: S2.
const maxErrorBody = 64 << 10

// maxAnswerHeader is how long the header of an answer may be. Specification: S2.
const maxAnswerHeader = 64 << 10

// HTTPClient returns a client whose requests to the origin of BaseURL carry the
// user's authentication; requests to any other origin pass through untouched.
// The client is ordinary and may be copied to set a Timeout.
//
// With a token at hand a request is sent at once. While the first token is
// loading or the cached one is replaced it waits, at most RequestWait. Offline it
// fails at once with ErrNoUser or ErrDisconnected. When the service refuses the
// token with code 40, the requests that follow wait for one fresh token, and the
// refused request is sent a second time; refused again, or with a source that
// has no other token, its caller gets the answer as it came. Redirects are not
// followed. Disconnect and Close end the requests that wait; one that was sent ends
// with its answer, its context or the client's Timeout, after Close too.
// Specification: Q1 to Q6.
func (c *Conn) HTTPClient() *http.Client {
	return &http.Client{
		Transport:     c.roundTripper(),
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// roundTripper returns the one transport of this Conn, made when it is needed.
func (c *Conn) roundTripper() *roundTripper {
	t := c.requests.Load()
	if t == nil {
		c.requests.CompareAndSwap(nil, newRoundTripper(c))
		t = c.requests.Load()
	}
	return t
}

type roundTripper struct {
	conn *Conn
	base http.RoundTripper
	own  bool   // base is ours, not the program's
	key  string // api_key=…, escaped

	dials dials
}

func newRoundTripper(c *Conn) *roundTripper {
	t := &roundTripper{conn: c, base: c.cfg.HTTPTransport, key: "api_key=" + url.QueryEscape(c.cfg.APIKey)}
	if t.base == nil {
		own := &http.Transport{
			Proxy:                  c.proxy(),
			DialContext:            t.dial,
			ForceAttemptHTTP2:      true,
			MaxIdleConnsPerHost:    64,
			IdleConnTimeout:        90 * time.Second,
			TLSHandshakeTimeout:    10 * time.Second,
			MaxResponseHeaderBytes: maxAnswerHeader,
		}
		if c.cfg.TLS != nil {
			own.TLSClientConfig = c.containTLS(apart) // net/http shakes hands on a goroutine of its own, and waits for it
			own.TLSClientConfig.MinVersion = max(own.TLSClientConfig.MinVersion, tls.VersionTLS12)
		}
		t.base, t.own = own, true
	}
	return t
}

// proxy is Config.Proxy, whose panic is an error. Specification: M4.
func (c *Conn) proxy() func(*http.Request) (*url.URL, error) {
	if c.cfg.Proxy == nil {
		return nil
	}
	return func(req *http.Request) (through *url.URL, err error) {
		err = guard(func() error {
			through, err = c.cfg.Proxy(req)
			return err
		})
		return through, err
	}
}

// dial opens a connection for API requests, within the time of an attempt.
// net/http dials on a goroutine of its own, where a panic would end the program,
// and with a context that outlives the request: the user's end ends it here.
func (t *roundTripper) dial(ctx context.Context, network, addr string) (conn net.Conn, err error) {
	ctx, stop := context.WithTimeout(ctx, t.conn.cfg.AttemptTimeout)
	defer stop()
	ctx, cancel := context.WithCancelCause(ctx)
	leave := t.dials.enter(cancel)
	defer leave()
	open := t.conn.cfg.DialContext
	if open == nil {
		open = new(net.Dialer).DialContext
	}
	err = apart(func() (err error) {
		conn, err = open(ctx, network, addr)
		return err
	})
	if err != nil && context.Cause(ctx) == ErrDisconnected {
		err = ErrDisconnected
	}
	return conn, err
}

// dials are the connections that are being opened for API requests.
type dials struct {
	mu      sync.Mutex
	cancels map[*context.CancelCauseFunc]struct{}
	none    chan struct{} // closed when the last of cancels has left; nil: nobody waits
}

func (d *dials) enter(cancel context.CancelCauseFunc) (leave func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cancels == nil {
		d.cancels = make(map[*context.CancelCauseFunc]struct{})
	}
	d.cancels[&cancel] = struct{}{}
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.cancels, &cancel)
		if len(d.cancels) == 0 && d.none != nil {
			close(d.none)
			d.none = nil
		}
	}
}

// end cancels all of them. The channel is closed when they have returned.
func (d *dials) end() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	for cancel := range d.cancels {
		(*cancel)(ErrDisconnected)
	}
	if d.none == nil {
		d.none = make(chan struct{})
	}
	none := d.none
	if len(d.cancels) == 0 {
		close(none)
		d.none = nil
	}
	return none
}

// CloseIdleConnections lets http.Client reach the transport.
func (t *roundTripper) CloseIdleConnections() {
	if base, ok := t.base.(interface{ CloseIdleConnections() }); ok {
		base.CloseIdleConnections()
	}
}

// closeIdle leaves no connection of an API request behind, unless it is one of
// the program's own transport, which others may use. Those that the program dialled
// may hold that up. Specification: C7.
func (c *Conn) closeIdle() ending {
	over := make(chan struct{})
	closeAll := func() {
		defer close(over)
		if t := c.requests.Load(); t != nil && t.own {
			t.CloseIdleConnections()
		}
	}
	if c.cfg.DialContext != nil {
		go closeAll()
	} else {
		closeAll()
	}
	return ending{done: over}
}

// RoundTrip sends a request as the user who is set. Specification: Q2, Q3.
func (t *roundTripper) RoundTrip(req *http.Request) (*http.Response, error) {
	if !sameOrigin(req.URL, t.conn.base) {
		return t.base.RoundTrip(req)
	}
	body, err := t.body(req)
	if err != nil {
		closeBody(req)
		return nil, err
	}
	p, err := t.conn.admit(req.Context(), &ticket{bytes: body.size})
	if err != nil {
		closeBody(req)
		return nil, err
	}
	resp, p, err := t.send(req, body.first, p)
	if err != nil || resp.StatusCode < 400 || p.login.static || p.token.IsZero() {
		return resp, err
	}
	refusal := readRefusal(resp)
	if refusal == nil || refusal.Code != codeExpired {
		return resp, nil
	}
	again, why := body.again()
	if why != "" {
		t.conn.count.unreplayable.Add(1)
		t.conn.tell(slog.LevelWarn, "chatconn: a request was refused with its token and cannot be sent again", slog.String("why", why))
	}
	k := &ticket{
		login: p.login, refused: p.token, noReplay: why != "", bytes: body.size,
		cause: apiError(refusal, resp.StatusCode, p.token.Reveal()),
	}
	fresh, err := t.conn.admit(req.Context(), k)
	if (err != nil || fresh.asItCame) && again != nil {
		again.Close()
	}
	if err != nil {
		resp.Body.Close()
		return nil, err
	}
	if fresh.asItCame {
		return resp, nil
	}
	resp.Body.Close()
	t.conn.count.replays.Add(1)
	resp, _, err = t.send(req, again, fresh)
	return resp, err
}

// send stamps a copy of the request and sends it, and returns with what it was
// stamped. Specification: Q2.
func (t *roundTripper) send(req *http.Request, body io.ReadCloser, p pass) (*http.Response, pass, error) {
	out := t.stamp(req, body, p)
	// Between the pass and the stamp this goroutine may have slept: what is at hand
	// after the stamp was so before it, too.
	for !t.conn.view.Load().honours(p) {
		now, err := t.conn.admit(req.Context(), new(ticket))
		if err == nil && now.login != p.login {
			err = ErrDisconnected
		}
		if err != nil {
			if body != nil {
				body.Close()
			}
			return nil, p, err
		}
		p = now
		out = t.stamp(req, body, p)
	}
	resp, err := t.base.RoundTrip(out)
	if resp != nil {
		resp.Request = req // the copy holds the token
	}
	return resp, p, err
}

// honours reports whether what a pass permits is still permitted.
func (v *view) honours(p pass) bool { return v.login == p.login && v.token.Equal(p.token) }

// stamp returns a copy of the request that says who sends it.
func (t *roundTripper) stamp(req *http.Request, body io.ReadCloser, p pass) *http.Request {
	out := new(http.Request)
	*out = *req
	out.Body = body
	out.GetBody = nil // the transport would replay it with a token that may be refused by then
	out.URL = new(url.URL)
	*out.URL = *req.URL
	out.URL.RawQuery = t.query(req.URL.RawQuery, p)
	out.Header = make(http.Header, len(req.Header)+3)
	for name, values := range req.Header {
		out.Header[name] = values
	}
	if p.login.anonymous {
		delete(out.Header, "Authorization")
		out.Header["Stream-Auth-Type"] = []string{"anonymous"}
	} else {
		out.Header["Authorization"] = []string{p.token.Reveal()}
		out.Header["Stream-Auth-Type"] = []string{"jwt"}
	}
	out.Header["X-Stream-Client"] = []string{clientName}
	return out
}

// query adds what identifies app, user and connection, over anything of the
// same name.
func (t *roundTripper) query(raw string, p pass) string {
	if raw != "" {
		parts := slices.DeleteFunc(strings.Split(raw, "&"), func(part string) bool {
			name, _, _ := strings.Cut(part, "=")
			return name == "api_key" || name == "user_id" || name == "connection_id"
		})
		raw = strings.Join(parts, "&")
		if raw != "" {
			raw += "&"
		}
	}
	raw += t.key + "&user_id=" + url.QueryEscape(p.userID)
	if p.connectionID != "" {
		raw += "&connection_id=" + url.QueryEscape(p.connectionID)
	}
	return raw
}

// replayable is a request's body, to be sent once and perhaps once more.
type replayable struct {
	first io.ReadCloser
	size  int64
	again func() (body io.ReadCloser, why string) // why it cannot be sent again
}

// body prepares the body of a request. One without GetBody is read into memory
// before anything is sent, as far as MaxReplayBody goes: a transport may go on
// reading a body after its answer has come. Specification: Q5.
func (t *roundTripper) body(req *http.Request) (replayable, error) {
	b := replayable{first: req.Body, size: max(0, req.ContentLength)}
	limit := t.conn.cfg.MaxReplayBody
	switch {
	case req.Body == nil || req.Body == http.NoBody:
		b.again = func() (io.ReadCloser, string) { return req.Body, "" }
		return b, nil
	case req.GetBody != nil:
		b.again = func() (io.ReadCloser, string) {
			body, err := req.GetBody()
			if err != nil {
				return nil, "its GetBody fails"
			}
			return body, ""
		}
		return b, nil
	case limit < 0 || req.ContentLength > limit:
		b.again = func() (io.ReadCloser, string) { return nil, "its body is longer than MaxReplayBody" }
		return b, nil
	}
	var kept bytes.Buffer
	read := make(chan error, 1)
	go func() {
		read <- guard(func() error {
			_, err := io.Copy(&kept, io.LimitReader(req.Body, limit+1))
			return err
		})
	}()
	select {
	case err := <-read:
		if err != nil {
			return b, err
		}
	case <-req.Context().Done(): // nobody writes to the pipe any more; its Close may wake its reader or not
		return b, req.Context().Err()
	}
	b.size = int64(kept.Len())
	if b.size > limit {
		rest := req.Body
		b.first = struct {
			io.Reader
			io.Closer
		}{io.MultiReader(&kept, rest), rest}
		b.again = func() (io.ReadCloser, string) { return nil, "its body is longer than MaxReplayBody" }
		return b, nil
	}
	if err := req.Body.Close(); err != nil {
		return b, err
	}
	b.first = io.NopCloser(bytes.NewReader(kept.Bytes()))
	b.again = func() (io.ReadCloser, string) { return io.NopCloser(bytes.NewReader(kept.Bytes())), "" }
	return b, nil
}

func closeBody(req *http.Request) {
	if req.Body != nil {
		req.Body.Close()
	}
}

// readRefusal returns what an error's body says, and leaves the body as it came.
func readRefusal(resp *http.Response) *transport.Refusal {
	head, err := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
	rest := resp.Body
	var tail io.Reader = rest
	if err != nil {
		tail = failing{err}
	}
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(head), tail), rest}
	refusal, _ := transport.ParseRefusal(head)
	return refusal
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func sameOrigin(u, base *url.URL) bool {
	return u != nil && strings.EqualFold(u.Scheme, base.Scheme) &&
		strings.EqualFold(u.Hostname(), base.Hostname()) && port(u) == port(base)
}

func port(u *url.URL) string {
	if p := u.Port(); p != "" {
		return p
	}
	if strings.EqualFold(u.Scheme, "https") {
		return "443"
	}
	return "80"
}

// ticket is one API request that asks to be sent.
type ticket struct {
	login    *login       // as whom; nil: whoever is set when it is admitted
	refused  tokens.Token // by the API, with cause; zero: it was not sent yet
	cause    error
	noReplay bool // its body is spent: the refusal counts, but its caller gets the answer
	bytes    int64
	answer   chan pass     // takes exactly one; nil until it is needed
	place    *list.Element // among those that wait; the owner's
}

// pass is the permission to send a request, and as whom.
type pass struct {
	login        *login
	userID       string
	token        tokens.Token
	connectionID string
	asItCame     bool // do not send it again
	err          error
}

// pass returns the permission that a view gives to a request, if it does.
func (v *view) pass() (pass, bool) {
	if v.login == nil || v.state == fsm.Offline || v.token.IsZero() && !v.login.anonymous {
		return pass{}, false
	}
	p := pass{login: v.login, userID: v.user.ID, token: v.token}
	if v.session != nil {
		p.connectionID = v.session.id
	}
	return p, true
}

// admit waits until the request may be sent. It asks the owner only when there
// is no token at hand or one was refused.
func (c *Conn) admit(ctx context.Context, k *ticket) (pass, error) {
	v := c.view.Load()
	if k.refused.IsZero() {
		if p, ok := v.pass(); ok {
			return p, nil
		}
		if err := c.unfit(v); err != nil {
			return pass{}, err
		}
		k.login = v.login
	}
	if in := c.inside(ctx); in.holdsUp(v) && in.dial == nil {
		return pass{}, ErrReentrant
	}
	if c.cfg.RequestWait > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, c.cfg.RequestWait, ErrRequestTimeout)
		defer cancel()
	}
	k.answer = make(chan pass, 1)
	if !c.post(&note{ticket: k}) {
		return pass{}, ErrClosed
	}
	var p pass
	select {
	case p = <-k.answer:
	case <-ctx.Done():
		c.post(&note{ticket: k, leave: context.Cause(ctx)}) // if the Conn closed meanwhile, the answer is there
		p = <-k.answer
	}
	return p, p.err
}

// unfit tells why no request can be sent, now or soon; nil: it can.
func (c *Conn) unfit(v *view) error {
	switch {
	case c.isClosed():
		return ErrClosed
	case v.login == nil:
		return ErrNoUser
	case v.state == fsm.Offline:
		return ErrDisconnected
	}
	return nil
}

func (c *Conn) isClosed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}

// tickets are the API requests that wait, in order of arrival. They are the
// owner's.
type tickets struct {
	list.List
	bytes int64
}

// takeTicket admits a request, lets it wait, or takes note that the API refused
// the token it was sent with.
func (c *Conn) takeTicket(n *note) {
	k := n.ticket
	if n.leave != nil {
		if k.place != nil {
			c.tickets.remove(c, k)
			k.answer <- pass{err: n.leave}
		}
		return
	}
	if !k.refused.IsZero() {
		// Whoever else was refused with the same token has come too late to
		// cause a load: the token at hand is not that one any more.
		if k.login == c.login && c.token.Equal(k.refused) {
			c.step(&note{event: fsm.RequestRefused, cause: k.cause})
		}
		if k.login != c.login || k.noReplay || !c.active() {
			k.answer <- pass{asItCame: true}
			return
		}
	}
	if k.login != c.login || c.pos.State == fsm.Offline {
		k.answer <- pass{err: ErrDisconnected}
		return
	}
	if p, ok := c.view.Load().pass(); ok {
		k.answer <- p
		return
	}
	if most := c.cfg.MaxWaitingRequests; most >= 0 && c.tickets.Len() >= most {
		k.answer <- pass{err: fmt.Errorf("%w: %d", ErrTooManyRequests, most)}
		return
	}
	if most := c.cfg.MaxWaitingBytes; most >= 0 && c.tickets.bytes+k.bytes > most {
		k.answer <- pass{err: fmt.Errorf("%w: their bodies would be longer than %d bytes", ErrTooManyRequests, most)}
		return
	}
	k.place = c.tickets.PushBack(k)
	c.tickets.bytes += k.bytes
	c.count.waiting.Add(1)
}

func (t *tickets) remove(c *Conn, k *ticket) {
	t.List.Remove(k.place)
	k.place = nil
	t.bytes -= k.bytes
	c.count.waiting.Add(-1)
}

// release lets every waiting request go, in order of arrival, once the step is
// published.
func (t *tickets) release(c *Conn) {
	c.drain(func(k *ticket) pass {
		p, ok := c.view.Load().pass()
		if !ok {
			p.err = ErrDisconnected
		}
		return p
	})
}

// fail answers every waiting request with an error.
func (t *tickets) fail(c *Conn, cause error) {
	err := cause
	if !errors.Is(cause, ErrDisconnected) && !errors.Is(cause, ErrClosed) {
		err = fmt.Errorf("%w: %w", ErrDisconnected, cause)
	}
	c.drain(func(*ticket) pass { return pass{err: err} })
}

func (c *Conn) drain(give func(*ticket) pass) {
	for e := c.tickets.Front(); e != nil; e = c.tickets.Front() {
		k := e.Value.(*ticket)
		c.tickets.remove(c, k)
		c.reply(func() { k.answer <- give(k) })
	}
}
