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
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/chatconn/chatconn/internal/object"
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
	// Together: where a process has 64 such sockets or more open, it sends several
	// health checks together, each up to a thousandth of the interval early.
	Together bool
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
	o      Options
	url    string   // {base}/connect as http or https, without query
	host   string   // the name or address in it
	addr   string   // host and port
	client []string // the value of X-Stream-Client
}

// dialDirect is shared: a net.Dialer is larger than what a Dialer keeps.
var dialDirect = new(net.Dialer).DialContext

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
		o.DialContext = dialDirect
	}
	if o.TLS != nil {
		o.TLS = o.TLS.Clone()
	}
	port := base.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[base.Scheme]
	}
	return &Dialer{
		o: o, url: base.JoinPath("connect").String(), host: base.Hostname(), addr: net.JoinHostPort(base.Hostname(), port),
		client: []string{o.Client},
	}, nil
}

// tls returns the configuration of one handshake. An idle connection over TLS keeps
// one; a dialer that has dialled nothing, or without TLS, needs none.
func (d *Dialer) tls() *tls.Config {
	cfg := new(tls.Config)
	if d.o.TLS != nil {
		cfg = d.o.TLS.Clone()
	}
	cfg.MinVersion = max(cfg.MinVersion, tls.VersionTLS12)
	if cfg.ServerName == "" {
		cfg.ServerName = d.host
	}
	cfg.NextProtos = []string{"http/1.1"}
	return cfg
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
	raw, proxy, err := d.reach(ctx)
	if err != nil {
		return nil, &Error{Phase: "dial", Kind: Network, Err: err}
	}
	if ctx.Err() != nil { // a dialer that ignores its context; nothing goes out on what it brought
		_ = raw.Close()
		return nil, &Error{Phase: "dial", Kind: Network}
	}
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
	s, failure := d.open(ctx, raw, proxy, address, header, redact)
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

// reach dials the service or the proxy on the way to it.
func (d *Dialer) reach(ctx context.Context) (raw net.Conn, proxy *url.URL, err error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	next := d.addr
	if d.o.Proxy != nil {
		target, err := url.Parse(d.url)
		if err != nil {
			return nil, nil, err
		}
		request := &http.Request{Method: http.MethodGet, URL: target, Host: target.Host, Header: http.Header{}}
		if proxy, err = d.o.Proxy(request.WithContext(ctx)); err != nil {
			return nil, nil, fmt.Errorf("choosing a proxy: %w", err)
		}
	}
	if proxy != nil {
		if next, err = proxyAddress(proxy); err != nil {
			return nil, nil, err
		}
	}
	raw, err = d.o.DialContext(ctx, "tcp", next)
	return raw, proxy, err
}

// open makes a socket of a raw connection. It leaves closing that to the caller.
func (d *Dialer) open(ctx context.Context, raw net.Conn, proxy *url.URL, address string, header http.Header, redact func(string) string) (*Socket, *Error) {
	conn, err := raw, error(nil)
	if proxy != nil {
		if conn, err = tunnel(conn, proxy, d.addr, d.tls()); err != nil {
			return nil, &Error{Phase: "dial", Kind: kindOf(err, Network), Err: fmt.Errorf("proxy: %w", err)}
		}
	}
	if strings.HasPrefix(d.url, "https:") {
		secure := tls.Client(conn, d.tls())
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
	id := object.AppendString(nil, l.UserID)
	details := l.Details
	if details == nil {
		details = slices.Concat([]byte(`{"id":`), id, []byte(`}`))
	} else if !json.Valid(details) || !object.Members(details, func(_, _ []byte) {}) {
		return "", nil, errors.New("the user's details are no JSON object")
	}
	payload := slices.Concat([]byte(`{"server_determines_connection_id":true,"user_details":`), details, []byte(`,"user_id":`), id, []byte("}"))

	address := "ws" + strings.TrimPrefix(d.url, "http") + "?api_key=" + url.QueryEscape(d.o.APIKey) + "&json=" + url.QueryEscape(string(payload)) + "&stream-auth-type=" + url.QueryEscape(l.AuthType)
	header := http.Header{"Stream-Auth-Type": {l.AuthType}, "X-Stream-Client": d.client}
	if l.Token != "" {
		header["Authorization"] = []string{l.Token}
	}
	return address, header, nil
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
