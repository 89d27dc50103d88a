package transport

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"net"
	"net/http"
	"net/url"
	"time"
)

// Options say where and how to connect. [NewDialer] copies and checks them.
type Options struct {
	BaseURL     string // http or https, no userinfo, query or fragment; a path is kept
	APIKey      string
	Client      string // value of the X-Stream-Client header
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)
	TLS         *tls.Config
	Proxy       func(*http.Request) (*url.URL, error)

	MaxMessageBytes int64

	WriteTimeout, CloseTimeout, HealthCheckInterval, HealthTimeout time.Duration
}

// Dialer opens sockets. It is safe for concurrent use.
type Dialer struct{ o Options }

func NewDialer(o Options) (*Dialer, error) { return &Dialer{o}, nil }

// Login is who connects.
type Login struct {
	UserID   string
	Details  json.RawMessage
	AuthType string
	Token    string
}

func (d *Dialer) Dial(ctx context.Context, l Login) (*Socket, error) {
	return nil, &Error{Phase: "dial", Kind: Network}
}

// Socket is one open connection.
type Socket struct{ hung, gone chan struct{} }

func (s *Socket) ConnectionID() string            { return "" }
func (s *Socket) Me() json.RawMessage             { return nil }
func (s *Socket) Serve(receive func(Frame)) error { return &Error{Phase: "open", Kind: HungUp} }
func (s *Socket) Probe()                          {}
func (s *Socket) HangUp()                         {}
func (s *Socket) Hung() <-chan struct{}           { return s.hung }
func (s *Socket) Gone() <-chan struct{}           { return s.gone }

// Frame is one text message.
type Frame struct{ Type, CID, UserID, CreatedAt, Raw []byte }
