package chatconn

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/chatconn/chatconn/internal/loopback"
)

// DefaultBaseURL is the service that a Config without a BaseURL talks to.
const DefaultBaseURL = "https://chat.stream-io-api.com"

// Config says where and how to connect. New copies and checks it. The zero
// value of each field is the default named beside it; a negative duration or
// count turns the matter off where that makes sense.
type Config struct {
	// APIKey names the app. It is the only field that must be set.
	APIKey string
	// BaseURL is the service, http or https; a path in it is kept. Zero:
	// DefaultBaseURL.
	BaseURL string
	// Logger hears of state changes (Info), lost connections and failed
	// attempts (Warn) and bugs (Error). It runs on a goroutine of its own, so a
	// slow one delays nothing; it never hears a token. Nil: nobody.
	Logger *slog.Logger

	// AllowInsecure permits http and ws to hosts that are not loopback.
	AllowInsecure bool
	// AllowDevTokens permits development tokens to hosts that are not loopback.
	AllowDevTokens bool
	// KeepTokenWhenUnhealthy reconnects with the cached token after a missed
	// health check, instead of asking the source.
	KeepTokenWhenUnhealthy bool

	AttemptTimeout time.Duration // one dial up to the first health check; 15 s
	TokenTimeout   time.Duration // one call of the token source; 30 s
	CloseTimeout   time.Duration // the wait for the peer's close frame; 1 s
	WriteTimeout   time.Duration // one write to the socket; 5 s

	HealthCheckInterval time.Duration // from one sent health check to the next, at most; 25 s; negative: none
	HealthTimeout       time.Duration // silence after which a connection is unhealthy; 35 s; negative: never

	RetryFirst      time.Duration // the first delay is uniform over 0 to this, the second about this; 5 s
	RetryMax        time.Duration // where delays stop growing; 25 s
	RetryReset      time.Duration // health after which the backoff starts afresh; 30 s
	MinDialInterval time.Duration // between attempts that local causes start; 1 s; negative: none
	RetryLimit      int           // failed attempts in a row before ErrRetriesSpent; 0: for ever

	// BackgroundGrace delays the news of Background while a connection is
	// wanted; a Foreground within it cancels the news. Zero: none.
	BackgroundGrace time.Duration
	// RefreshEarly replaces a cached token that expires within this time
	// before it is used for an attempt. Zero: off, since device clocks lie.
	RefreshEarly time.Duration

	RequestWait        time.Duration // how long an API request waits for a token; 60 s
	MaxWaitingRequests int           // API requests that wait at once; 10,000
	MaxWaitingBytes    int64         // their bodies together; 16 MiB
	MaxReplayBody      int64         // a body kept for replay; 1 MiB
	MaxMessageBytes    int64         // one message from the server; 1 MiB

	// DialLimit, if set, is called before each dial and blocks until the dial
	// may go on. One function shared by many Conns spreads their dials. It
	// must obey its context; an error fails the attempt. Here, in Proxy, in
	// DialContext and in the callbacks of TLS, a call that would wait for the
	// attempt itself gets ErrReentrant.
	DialLimit func(context.Context) error
	// DialContext opens the TCP connection. Nil: net.Dialer. Methods of the
	// connection may panic or block: the socket ends, and another one opens.
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)
	// TLS is copied, and its MinVersion raised to TLS 1.2. Nil: the defaults.
	// Its KeyLogWriter is written to and its ClientSessionCache filled a moment
	// later, where they hold up nothing; what finds 4,096 waiting there is lost.
	// Conns may share a KeyLogWriter. One that others write to as well must be
	// safe for concurrent use.
	TLS *tls.Config
	// Proxy chooses a proxy, as in http.Transport. Nil: none.
	Proxy func(*http.Request) (*url.URL, error)
	// HTTPTransport carries API requests. Nil: one made from the fields above.
	HTTPTransport http.RoundTripper
	// Record gets one JSON line for each transition, in one Write each, which
	// package recording explains and replays. It runs on a goroutine of its
	// own, so a slow one delays nothing; lines beyond 4,096 that wait are lost.
	// Conns may share one that is safe for concurrent use. Nil: off.
	Record io.Writer
}

// InvalidError reports an argument or a Config field that cannot be used.
type InvalidError struct {
	Field  string // what is wrong, such as "Config.APIKey" or "User.ID"
	Reason string // why, without the value
}

func (e *InvalidError) Error() string { return "chatconn: " + e.Field + ": " + e.Reason }

// complete checks the configuration and fills in the defaults.
func (cfg *Config) complete() (base *url.URL, err error) {
	if err := checkText("Config.APIKey", cfg.APIKey, 255); err != nil {
		return nil, err
	}
	if strings.ContainsRune(cfg.APIKey, ' ') {
		return nil, &InvalidError{"Config.APIKey", "contains a space"}
	}
	if cfg.BaseURL == "" {
		cfg.BaseURL = DefaultBaseURL
	}
	if base, err = parseBase(cfg.BaseURL); err != nil {
		return nil, err
	}
	if base.Scheme == "http" && !loopback.Is(base.Hostname()) && !cfg.AllowInsecure {
		return nil, fmt.Errorf("%w: Config.BaseURL is http to a host that is not loopback; use https or AllowInsecure", ErrInsecure)
	}
	for _, d := range []struct {
		name     string
		value    *time.Duration
		standard time.Duration
		off      bool
	}{
		{"AttemptTimeout", &cfg.AttemptTimeout, 15 * time.Second, false},
		{"TokenTimeout", &cfg.TokenTimeout, 30 * time.Second, false},
		{"CloseTimeout", &cfg.CloseTimeout, time.Second, false},
		{"WriteTimeout", &cfg.WriteTimeout, 5 * time.Second, false},
		{"HealthCheckInterval", &cfg.HealthCheckInterval, 25 * time.Second, true},
		{"HealthTimeout", &cfg.HealthTimeout, 35 * time.Second, true},
		{"RetryFirst", &cfg.RetryFirst, 5 * time.Second, false},
		{"RetryMax", &cfg.RetryMax, 25 * time.Second, false},
		{"RetryReset", &cfg.RetryReset, 30 * time.Second, false},
		{"MinDialInterval", &cfg.MinDialInterval, time.Second, true},
		{"BackgroundGrace", &cfg.BackgroundGrace, 0, true},
		{"RefreshEarly", &cfg.RefreshEarly, 0, true},
		{"RequestWait", &cfg.RequestWait, time.Minute, true},
	} {
		switch {
		case *d.value == 0:
			*d.value = d.standard
		case *d.value < 0 && !d.off:
			return nil, &InvalidError{"Config." + d.name, "is negative, and it cannot be off"}
		case *d.value < 0:
			*d.value = -1
		}
	}
	for _, n := range []struct {
		name     string
		value    *int64
		standard int64
	}{
		{"MaxWaitingBytes", &cfg.MaxWaitingBytes, 16 << 20},
		{"MaxReplayBody", &cfg.MaxReplayBody, 1 << 20},
		{"MaxMessageBytes", &cfg.MaxMessageBytes, 1 << 20},
	} {
		if *n.value == 0 {
			*n.value = n.standard
		}
	}
	if cfg.MaxMessageBytes < 0 {
		return nil, &InvalidError{"Config.MaxMessageBytes", "is negative, and it cannot be off"}
	}
	if cfg.MaxWaitingRequests == 0 {
		cfg.MaxWaitingRequests = 10_000
	}
	if cfg.RetryLimit < 0 {
		cfg.RetryLimit = 0
	}
	if cfg.RetryMax < cfg.RetryFirst {
		return nil, &InvalidError{"Config.RetryMax", "is less than RetryFirst"}
	}
	if cfg.HealthCheckInterval > 0 && cfg.HealthTimeout > 0 && cfg.HealthTimeout <= cfg.HealthCheckInterval {
		return nil, &InvalidError{"Config.HealthTimeout", "is not longer than HealthCheckInterval"}
	}
	return base, nil
}

// takesPart reports whether the program's own code takes part in opening a connection.
func (cfg *Config) takesPart() bool {
	return cfg.DialContext != nil || cfg.Proxy != nil || cfg.TLS != nil
}

func parseBase(raw string) (*url.URL, error) {
	invalid := func(reason string) (*url.URL, error) { return nil, &InvalidError{"Config.BaseURL", reason} }
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		return invalid("is no URL") // the parser's error would repeat the URL, userinfo and all
	case u.Scheme != "http" && u.Scheme != "https":
		return invalid("must begin with https:// (or http:// for loopback)")
	case u.Hostname() == "":
		return invalid("names no host")
	case u.User != nil:
		return invalid("contains a user or password")
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return invalid("contains a query or fragment")
	}
	u.Path = strings.TrimRight(u.Path, "/")
	u.RawPath = ""
	return u, nil
}
