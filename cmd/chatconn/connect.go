package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/chatconn/chatconn"
	"github.com/chatconn/chatconn/devserver"
	"github.com/chatconn/chatconn/fsm"
	"github.com/chatconn/chatconn/tokens"
)

// tokenEnv names the variable that holds the user's token. It is no default of a
// flag, since the flags exclude each other, and those go before it.
const tokenEnv = "CHATCONN_TOKEN"

// connect stays connected and prints what happens.
type connect struct {
	URL    string `name:"url" placeholder:"URL" env:"CHATCONN_URL" help:"The service. Without it, an embedded development server."`
	APIKey string `name:"api-key" placeholder:"KEY" env:"CHATCONN_API_KEY" help:"The app's key."`
	User   string `default:"john" env:"CHATCONN_USER" help:"The user's id."`
	Name   string `placeholder:"NAME" help:"The user's name, as others see it."`

	Token        string `xor:"who" placeholder:"TOKEN" help:"The user's token. Better leave it in $$CHATCONN_TOKEN, which is used without this flag: everyone on this machine can list the flags of a process."`
	TokenFile    string `xor:"who" placeholder:"FILE" help:"File that holds the token; it is read again whenever a fresh token is needed."`
	TokenCommand string `xor:"who" placeholder:"COMMAND" help:"Command for the shell that prints a token; it runs whenever a fresh one is needed."`
	DevToken     bool   `xor:"who" help:"Use an unsigned development token (chatconn serve --no-auth takes them)."`
	Guest        bool   `xor:"who" help:"Connect as a guest, whose id the service chooses."`
	Anonymous    bool   `xor:"who" help:"Connect as nobody in particular."`

	AllowInsecure  bool          `help:"Permit http:// to another machine. Everyone in between can read the token."`
	AllowDevTokens bool          `help:"Permit development tokens to another machine."`
	For            time.Duration `placeholder:"DURATION" help:"End by itself after a while, such as 10s; exits with 1 if it never was connected."`
	Record         string        `placeholder:"FILE" help:"Write one JSON line for each transition, with its actions, to a file."`
	inspectFlags
}

// Help is what --help says beyond the flags.
func (connect) Help() string {
	return `Connects a user, stays connected whatever happens, and prints every transition and chat event until Ctrl-C, which disconnects. It exits with 1 on an error that no retry can cure, such as a static token that has expired.

Without --url it starts a development server of its own and prints how to make that fail. A service that is not yours to run needs its key and a token:

    CHATCONN_TOKEN=... chatconn connect --url https://chat.stream-io-api.com --api-key KEY --user john

With --inspect, a page in the browser shows the machine with its present state, the history with causes, counters and the time to the next attempt, and has the recording to download.

A token file loses one line end, the output of a token command all space around it. Tokens are never printed.`
}

func (c connect) Run(ctx context.Context, std streams, wantJSON asJSON) (err error) {
	if c.For < 0 {
		return usagef("--for %v is negative", c.For)
	}
	out := newPrinter(std.out, wantJSON)
	var source tokens.Source
	if c.URL == "" {
		if c.APIKey != "" || c.Token != "" || c.TokenFile != "" || c.TokenCommand != "" || c.DevToken {
			return usagef("a key or a token is for a service: name it with --url, such as %s", chatconn.DefaultBaseURL)
		}
		server, err := devserver.Start(devserver.Options{})
		if err != nil {
			return err
		}
		defer server.Close()
		c.URL, c.APIKey = server.URL(), server.APIKey()
		source = tokens.Func(func(context.Context) (string, error) { return server.Token(c.User, time.Hour), nil })
		out.embedded(server)
	} else if source, err = c.source(); err != nil {
		return err
	}
	if command, is := source.(*tokenCommand); is {
		defer command.end()
	}

	cfg := chatconn.Config{
		APIKey: c.APIKey, BaseURL: c.URL, AllowInsecure: c.AllowInsecure, AllowDevTokens: c.AllowDevTokens,
	}
	if c.Record != "" {
		record, failure := record(c.Record)
		if failure != nil {
			return failure
		}
		cfg.Record = record
		defer func() { err = errors.Join(err, record.close()) }()
	}
	live, err := c.inspectFlags.serve(out)
	if err != nil {
		return err
	}
	defer live.close()
	conn, err := live.New(c.User, cfg)
	if err != nil {
		return usageError{permitting(err)}
	}
	defer conn.Close()
	if err := c.stay(ctx, conn, source, out); err != nil {
		return permitting(err)
	}
	return out.err()
}

// permitting adds the flags that permit what was refused.
func permitting(err error) error {
	if errors.Is(err, chatconn.ErrInsecure) {
		return fmt.Errorf("%w (here: --allow-insecure, --allow-dev-tokens)", err)
	}
	return err
}

// source returns where the user's tokens come from; nil for users who need none.
func (c connect) source() (tokens.Source, error) {
	switch {
	case c.Guest, c.Anonymous:
		return nil, nil
	case c.DevToken:
		return tokens.Dev(c.User), nil
	case c.TokenFile != "":
		return tokens.Func(func(context.Context) (string, error) {
			text, err := os.ReadFile(c.TokenFile)
			return withoutLineEnd(string(text)), err
		}), nil
	case c.TokenCommand != "":
		return newTokenCommand(c.TokenCommand), nil
	case c.Token != "":
		return tokens.Static(c.Token), nil
	}
	if token := os.Getenv(tokenEnv); token != "" {
		return tokens.Static(token), nil
	}
	return nil, usagef("no token: set $" + tokenEnv + ", or say --token-file, --token-command, --guest or --anonymous")
}

// tokenCommand is a source that asks a command of the shell.
type tokenCommand struct {
	command tokens.Source
	mu      sync.Mutex // held while the command runs
	over    bool
}

func newTokenCommand(line string) *tokenCommand {
	if runtime.GOOS == "windows" {
		return &tokenCommand{command: tokens.Command("cmd", "/C", line)}
	}
	return &tokenCommand{command: tokens.Command("/bin/sh", "-c", line)}
}

func (c *tokenCommand) Token(ctx context.Context) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		return "", context.Canceled
	}
	return c.command.Token(ctx)
}

// end waits for a command that still runs, so that none is left behind. A closed
// Conn has cancelled it, but does not wait for sources.
func (c *tokenCommand) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
}

// stay connects and follows the connection until ctx or the time is over, or an
// error ended it for good.
func (c connect) stay(ctx context.Context, conn *chatconn.Conn, source tokens.Source, out *printer) error {
	// Readers go on until the Conn closes, so that the disconnecting is seen too.
	changes, events := conn.Watch(context.Background()), conn.Events(context.Background())
	var printing sync.WaitGroup
	defer printing.Wait()
	defer conn.Close()
	ended := make(chan error, 1) // a final error, after the first success
	printing.Go(func() {
		for e := range events {
			out.event(e)
		}
	})
	printing.Go(func() {
		header := sync.OnceFunc(out.header)
		for change := range changes {
			if change.Event == 0 {
				continue // the first value only tells where it stands
			}
			header()
			session, _ := conn.Session()
			out.change(change, session.ConnectionID)
			if change.Moved() && change.To == fsm.Offline && change.Event.Kind() != fsm.User {
				ended <- change.Cause
			}
		}
	})

	limit := ctx
	if c.For > 0 {
		var cancel context.CancelFunc
		limit, cancel = context.WithTimeout(ctx, c.For)
		defer cancel()
	}
	if err := c.login(limit, conn, source); err != nil {
		switch {
		case ctx.Err() != nil:
			return nil // Ctrl-C before there was a connection
		case limit.Err() != nil:
			return fmt.Errorf("not connected within %v: %w", c.For, err)
		}
		return err
	}
	select {
	case err := <-ended:
		return err
	case <-limit.Done():
	}
	return conn.Disconnect(context.Background(), chatconn.KeepPersistence)
}

func (c connect) login(ctx context.Context, conn *chatconn.Conn, source tokens.Source) (err error) {
	user := chatconn.User{ID: c.User, Name: c.Name}
	switch {
	case c.Anonymous:
		_, err = conn.ConnectAnonymous(ctx)
	case c.Guest:
		_, err = conn.ConnectGuest(ctx, user)
	default:
		_, err = conn.ConnectUser(ctx, user, source)
	}
	return err
}

// embedded says where the embedded server is.
func (p *printer) embedded(server *devserver.Server) {
	if p.json {
		p.object(struct {
			Type   string `json:"type"`
			URL    string `json:"url"`
			APIKey string `json:"apiKey"`
			Faults string `json:"faults"`
		}{"server", server.URL(), server.APIKey(), server.URL() + "/_fault/"})
		return
	}
	p.line("An embedded server listens at %s\nMake it fail from another terminal, and watch:\n", server.URL())
	p.line("  curl -X POST '%s/_fault/restart?for=3s'", server.URL())
	p.line("  curl -X POST '%s/_fault/expire-tokens?kick=true'\n", server.URL())
}

// recording is the file of --record. It remembers the first error of writing.
type recording struct {
	file *os.File
	err  error
}

func record(name string) (*recording, error) {
	file, err := os.Create(name)
	if err != nil {
		return nil, fmt.Errorf("--record: %w", err)
	}
	return &recording{file: file}, nil
}

func (r *recording) Write(line []byte) (int, error) {
	n, err := r.file.Write(line)
	if r.err == nil {
		r.err = err
	}
	return n, err
}

// close is called when the Conn is closed, and writes no more.
func (r *recording) close() error {
	err := r.file.Close()
	if r.err != nil {
		err = r.err
	}
	if err != nil {
		return fmt.Errorf("--record: %w", err)
	}
	return nil
}
