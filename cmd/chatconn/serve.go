package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"syscall"
	"time"

	"github.com/chatconn/chatconn/devserver"
)

// serve runs a development server. Specification: D1, D3.
type serve struct {
	Addr        string        `default:"127.0.0.1:8787" help:"Address to listen on; port 0 takes a free one."`
	APIKey      string        `name:"api-key" default:"devkey" help:"The key that clients must send."`
	User        string        `default:"john" help:"The user for whom a token is printed."`
	TTL         time.Duration `name:"ttl" placeholder:"DURATION" help:"How long the printed token is valid, such as 1h. Without it, for ever."`
	NoAuth      bool          `help:"Accept every token that names its user, development tokens included."`
	AllowRemote bool          `help:"Permit an address that other machines can reach."`
	Log         bool          `help:"Print what the server sees and does to standard error."`
	secretFlag
}

// Help is what --help says beyond the flags.
func (serve) Help() string {
	return `Runs a chat server for development on this machine until Ctrl-C. It verifies tokens for real, keeps everything in memory only, and prints its URL, API key and secret, a token that is ready to use, and a line that connects to it. Without a secret it makes a new one each time.

It fails on command: a GET of /_fault/ lists how, a POST to one of these does it.`
}

func (s serve) Run(ctx context.Context, std streams, wantJSON asJSON) error {
	switch {
	case s.User == "":
		return usagef("--user is empty")
	case s.TTL < 0 || s.TTL > 0 && s.TTL < time.Second:
		return usagef("--ttl %v: it must be a second or more", s.TTL)
	}
	secret, err := s.secret()
	if err != nil {
		return err
	}
	if secret == nil {
		secret = newSecret()
	}
	opts := devserver.Options{
		Addr: s.Addr, APIKey: s.APIKey, Secret: secret,
		DisableAuthChecks: s.NoAuth, AllowRemote: s.AllowRemote,
	}
	if s.Log {
		opts.Logger = slog.New(slog.NewTextHandler(std.err, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	server, err := devserver.Start(opts)
	switch {
	case errors.Is(err, devserver.ErrRemote):
		return usagef("%s can be reached by other machines; say --allow-remote if that is meant", s.Addr)
	case errors.Is(err, devserver.ErrShortSecret):
		return usagef("the secret is too short: it needs 16 bytes or more")
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%s is in use; choose another with --addr, such as 127.0.0.1:0 for a free port", s.Addr)
	case err != nil:
		return err
	}
	defer server.Close()
	if err := s.announce(std, wantJSON, server); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

// newSecret returns a secret that can be typed and exported.
func newSecret() []byte { return []byte(rand.Text() + rand.Text()) }

// announce prints all that a client needs to know. It is the one place, besides
// the making of tokens, that prints any, since that is what it is for.
func (s serve) announce(std streams, wantJSON asJSON, server *devserver.Server) error {
	url, key, token := server.URL(), server.APIKey(), server.Token(s.User, s.TTL)
	if wantJSON {
		return writeJSON(std.out, struct {
			URL    string `json:"url"`
			APIKey string `json:"apiKey"`
			Secret string `json:"secret"`
			User   string `json:"user"`
			Token  string `json:"token"`
			Faults string `json:"faults"`
		}{url, key, string(server.Secret()), s.User, token, url + "/_fault/"})
	}
	_, err := fmt.Fprintf(std.out, `A development server listens at %[1]s
Ctrl-C ends it.

  CHATCONN_URL=%[1]s
  CHATCONN_API_KEY=%[2]s
  CHATCONN_SECRET=%[3]s
  CHATCONN_TOKEN=%[4]s

The token is for %[5]s. Connect with it from another terminal:

  CHATCONN_TOKEN=%[4]s \
    chatconn connect --url %[1]s --api-key %[2]s --user %[5]s

Make it fail, and watch; a GET of %[1]s/_fault/ lists how:

  curl -X POST '%[1]s/_fault/restart?for=3s'
  curl -X POST '%[1]s/_fault/expire-tokens?kick=true'
`, url, shellQuote(key), shellQuote(string(server.Secret())), token, shellQuote(s.User))
	return err
}

// shellQuote writes a text so that a shell takes it as one plain word.
func shellQuote(text string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("@%+=:,./_-", r)
	}
	if text != "" && strings.IndexFunc(text, func(r rune) bool { return !plain(r) }) < 0 {
		return text
	}
	return "'" + strings.ReplaceAll(printable(text), "'", `'\''`) + "'"
}
