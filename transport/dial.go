package transport

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Options say where and how to connect. [NewDialer] copies and checks them.
type Options struct {
	BaseURL string // http or https, without userinfo, query and fragment; a path is kept
	APIKey  string // goes into the query
	Client  string // goes into the X-Stream-Client header

	// DialContext opens the connection to the service or the proxy and must obey
	// its context. Nil: net.Dialer.
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)
	// TLS is cloned. Its MinVersion counts as TLS 1.2 if it is less, its NextProtos
	// not at all: a WebSocket starts as HTTP/1.1. Specification: S1.
	TLS *tls.Config
	// Proxy names the proxy for a request, of which it sees method and URL without
	// query: http, https, socks5 or socks5h. Nil, or a nil URL: none.
	Proxy func(*http.Request) (*url.URL, error)

	MaxMessageBytes int64 // of one message, after fragments are joined; positive

	WriteTimeout time.Duration // bounds one write; positive
	CloseTimeout time.Duration // bounds what follows HangUp or a failed write; positive

	// HealthCheckInterval is the longest time without a sent health check; zero or
	// less: none is sent. HealthTimeout is the longest without a received frame;
	// zero or less: silence is allowed. Specification: H1.
	HealthCheckInterval, HealthTimeout time.Duration
}

// Login is who connects. It prints without its token, in every way.
type Login struct {
	UserID   string
	Details  json.RawMessage // user_details, a JSON object; nil: only {"id": UserID}
	AuthType string          // "jwt" or "anonymous"
	Token    string          // sent in the Authorization header and nowhere else; empty: no such header
}

// String shows user and kind, not the token. Specification: T11.
func (l Login) String() string {
	return fmt.Sprintf("login of %q by %s [redacted]", l.UserID, l.AuthType)
}

// Format writes String for every verb.
func (l Login) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, l.String()) }

// GoString is String.
func (l Login) GoString() string { return l.String() }

// LogValue is String, for log/slog.
func (l Login) LogValue() slog.Value { return slog.StringValue(l.String()) }

// MarshalJSON is String as JSON.
func (l Login) MarshalJSON() ([]byte, error) { return json.Marshal(l.String()) }

// Dialer opens sockets. It keeps nothing of an attempt and is safe for concurrent
// use.
type Dialer struct {
	o    Options
	base *url.URL // {base}/connect as http or https, without query
}

// NewDialer checks the options and connects to nothing.
func NewDialer(o Options) (*Dialer, error) {
	base, err := url.Parse(o.BaseURL)
	switch {
	case err != nil: // the parser's error would quote a password
		return nil, errors.New("transport: BaseURL cannot be parsed")
	case base.Scheme != "http" && base.Scheme != "https":
		return nil, errors.New("transport: BaseURL is neither http nor https")
	case base.Hostname() == "":
		return nil, errors.New("transport: BaseURL has no host")
	case base.User != nil || base.RawQuery != "" || base.ForceQuery || strings.Contains(o.BaseURL, "#"):
		return nil, errors.New("transport: BaseURL has userinfo, a query or a fragment")
	case !printable(o.Client):
		return nil, errors.New("transport: Client has characters that a header cannot carry")
	case o.MaxMessageBytes <= 0 || o.WriteTimeout <= 0 || o.CloseTimeout <= 0:
		return nil, errors.New("transport: MaxMessageBytes, WriteTimeout and CloseTimeout must be positive")
	}
	if o.DialContext == nil {
		o.DialContext = new(net.Dialer).DialContext
	}
	if o.TLS == nil {
		o.TLS = new(tls.Config)
	}
	o.TLS = o.TLS.Clone()
	o.TLS.MinVersion = max(o.TLS.MinVersion, tls.VersionTLS12)
	if o.TLS.ServerName == "" {
		o.TLS.ServerName = base.Hostname()
	}
	o.TLS.NextProtos = []string{"http/1.1"}
	return &Dialer{o: o, base: base.JoinPath("connect")}, nil
}

// Dial opens a connection, asks for the WebSocket and waits for the first health
// check that carries a connection id. The context bounds every phase, by deadline
// and by cancel. The error is always an *Error; of an attempt that failed nothing
// is left. The caller must call Serve or HangUp on the socket.
func (d *Dialer) Dial(ctx context.Context, l Login) (*Socket, error) {
	address, header, err := d.request(l)
	if err != nil {
		return nil, &Error{Phase: "dial", Kind: Malformed, Err: err}
	}
	s, failure := d.dial(ctx, address, header, redactor(l.Token))
	if failure == nil {
		return s, nil
	}
	// A context that ends closes the connection; what that looked like from inside
	// does not matter.
	if ctx.Err() != nil && (failure.Kind == Network || failure.Kind == TLS || failure.CloseCode == abnormal) {
		failure = &Error{Phase: failure.Phase, Kind: Network, Err: ended(ctx)}
	}
	return nil, failure
}

// ended returns the error of a context that has ended, with its cause.
func ended(ctx context.Context) error {
	if cause := context.Cause(ctx); !errors.Is(cause, ctx.Err()) {
		return fmt.Errorf("%w: %w", ctx.Err(), cause)
	}
	return ctx.Err()
}

func (d *Dialer) dial(ctx context.Context, address string, header http.Header, redact func(string) string) (*Socket, *Error) {
	raw, addr, proxy, err := d.reach(ctx)
	if err != nil {
		return nil, &Error{Phase: "dial", Kind: Network, Err: err}
	}
	if ctx.Err() != nil { // a dialer that ignores its context; nothing goes out on what it brought
		_ = raw.Close()
		return nil, &Error{Phase: "dial", Kind: Network}
	}
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
	s, failure := d.open(ctx, raw, addr, proxy, address, header, redact)
	if !stop() && failure == nil {
		s.end(&Error{Phase: "hello", Kind: Network})
		<-s.gone
		failure = s.err
	}
	if failure != nil {
		_ = raw.Close()
		return nil, failure
	}
	return s, nil
}

// reach dials the service or the proxy on the way to it, and returns with the
// connection the address of the service.
func (d *Dialer) reach(ctx context.Context) (raw net.Conn, addr string, proxy *url.URL, err error) {
	if err := ctx.Err(); err != nil {
		return nil, "", nil, err
	}
	port := d.base.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[d.base.Scheme]
	}
	addr = net.JoinHostPort(d.base.Hostname(), port)
	next := addr
	if d.o.Proxy != nil {
		target := *d.base
		request := &http.Request{Method: http.MethodGet, URL: &target, Host: target.Host, Header: http.Header{}}
		if proxy, err = d.o.Proxy(request.WithContext(ctx)); err != nil {
			return nil, "", nil, fmt.Errorf("choosing a proxy: %w", err)
		}
	}
	if proxy != nil {
		if next, err = proxyAddress(proxy); err != nil {
			return nil, "", nil, err
		}
	}
	raw, err = d.o.DialContext(ctx, "tcp", next)
	return raw, addr, proxy, err
}

// open makes a socket of a raw connection. It leaves closing that to the caller.
func (d *Dialer) open(ctx context.Context, raw net.Conn, addr string, proxy *url.URL, address string, header http.Header, redact func(string) string) (*Socket, *Error) {
	conn, err := raw, error(nil)
	if proxy != nil {
		if conn, err = tunnel(conn, proxy, addr, d.o.TLS); err != nil {
			return nil, &Error{Phase: "dial", Kind: kindOf(err, Network), Err: fmt.Errorf("proxy: %w", err)}
		}
	}
	if d.base.Scheme == "https" {
		secure := tls.Client(conn, d.o.TLS)
		if err := secure.HandshakeContext(ctx); err != nil {
			return nil, &Error{Phase: "dial", Kind: kindOf(err, TLS), Err: err}
		}
		conn = secure
	}

	w := newWire(conn, raw)
	if answer, err := upgrade(w, address, header); err != nil {
		return nil, upgradeError(w, answer, err, redact)
	}
	s := newSocket(w, &d.o, redact)
	if failure := s.hello(); failure != nil {
		s.end(failure)
		<-s.gone
		return nil, s.err
	}
	return s, nil
}

// upgradeError tells why there is no WebSocket.
func upgradeError(w *wire, answer *http.Response, err error, redact func(string) string) *Error {
	e := &Error{Phase: "upgrade", Err: err}
	switch {
	case errors.Is(err, errUnoffered):
		e.Kind = Unoffered
	case errors.Is(err, errAccept):
		e.Kind = Malformed
	case answer != nil:
		e.Kind, e.Err = Refused, nil
		e.Status = answer.StatusCode
		e.RetryAfter = retryAfter(answer.Header)
		body := w.reread()
		if e.Refusal, _ = ParseRefusal(body); e.Refusal != nil {
			e.Refusal.Message = excerpt([]byte(e.Refusal.Message), redact)
		} else {
			e.Body = excerpt(body, redact)
		}
	case w.handshake.left == 0:
		e.Kind, e.Err = Oversize, errHandshakeTooLong
	case w.failed != nil:
		e.Kind, e.Err = kindOf(w.failed, Network), w.failed
	case w.handshake.head.Len() == 0:
		e.Kind = kindOf(err, Network)
	default:
		// The parser's error quotes the answer, which may echo the request.
		e.Kind, e.Err = Malformed, errors.New("the answer is not HTTP")
		e.Body = excerpt(w.handshake.head.Bytes(), redact)
	}
	return e
}

// retryAfter reads Retry-After, in seconds or as a date; 0 if there is none to
// wait for. A date is compared with the server's own clock, if the answer has it.
func retryAfter(h http.Header) time.Duration {
	const most = 365 * 24 * time.Hour
	value := h.Get("Retry-After")
	if seconds, err := strconv.ParseInt(value, 10, 64); err == nil {
		return time.Duration(min(max(seconds, 0), int64(most/time.Second))) * time.Second
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	now, err := http.ParseTime(h.Get("Date"))
	if err != nil {
		now = time.Now()
	}
	return min(max(at.Sub(now), 0), most)
}

// request returns URL and header of the upgrade.
func (d *Dialer) request(l Login) (string, http.Header, error) {
	if !printable(l.Token) || strings.Contains(l.Token, " ") {
		return "", nil, errors.New("the token has characters that a header cannot carry")
	}
	if !printable(l.AuthType) {
		return "", nil, errors.New("the auth type has characters that a header cannot carry")
	}
	details := l.Details
	if details == nil {
		details, _ = json.Marshal(map[string]string{"id": l.UserID})
	}
	payload, err := json.Marshal(map[string]any{
		"user_id":                         l.UserID,
		"user_details":                    details,
		"server_determines_connection_id": true,
	})
	if err != nil || !members(details, func(_, _ []byte) {}) {
		return "", nil, errors.New("the user's details are no JSON object")
	}

	address := *d.base
	address.Scheme = map[string]string{"http": "ws", "https": "wss"}[d.base.Scheme]
	address.RawQuery = url.Values{
		"json":             {string(payload)},
		"api_key":          {d.o.APIKey},
		"stream-auth-type": {l.AuthType},
	}.Encode()

	header := http.Header{}
	header.Set("Stream-Auth-Type", l.AuthType)
	header.Set("X-Stream-Client", d.o.Client)
	if l.Token != "" {
		header.Set("Authorization", l.Token)
	}
	return address.String(), header, nil
}

// printable reports whether s is ASCII without control characters.
func printable(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}
