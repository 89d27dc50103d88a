package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/chatconn/chatconn"
	"github.com/chatconn/chatconn/fsm"
)

// demo walks one user through a whole life. What happens in it is the table of
// chapters below; life.go plays and checks them.
type demo struct {
	Seed   uint64 `default:"1" help:"Chooses the weather in the chapter about bad weather."`
	Record string `placeholder:"FILE" help:"Write one JSON line for each transition, with its actions, to a file."`
	Stay   bool   `help:"Keep the page of --inspect up after the last chapter, until Ctrl-C."`
	inspectFlags

	new func(string, chatconn.Config) (*chatconn.Conn, error) // nil: chatconn.New
}

// Help is what --help says beyond the flags.
func (demo) Help() string {
	return `Starts a development server in this process, connects a user to it over a real socket, and lets happen what happens to connections: lost sockets, a crashed server, expired tokens, the background, a lost network, a server that falls silent, another user, logout. It needs nothing and takes about ten seconds.

Every transition is printed with its time, event and cause. Each chapter ends with what is promised, by its id in docs/promises.md, and what was checked; the exit code is 1 if anything was otherwise. Times and waits are shortened to fit.

With --inspect, a page in the browser follows the life; it goes with the demo, unless you say --stay. What --record writes, chatconn replay takes through the table and draws.`
}

// The people of the demo. Mary's messages are sent by the server itself.
const (
	john = "john"
	jane = "jane"
	mary = "mary"
	room = "messaging:life"
)

// config shortens what would be seconds or minutes in earnest.
func config(url, key string) chatconn.Config {
	return chatconn.Config{
		BaseURL: url, APIKey: key,
		RetryFirst: 200 * time.Millisecond, RetryMax: time.Second, MinDialInterval: 50 * time.Millisecond,
		RetryReset:          time.Microsecond, // each chapter begins a new life
		HealthCheckInterval: time.Second, HealthTimeout: 4 * time.Second,
	}
}

// chapter is one thing that happens in a life.
type chapter struct {
	title   string
	steps   []step
	end     end
	ids     string // of the promises that it shows
	promise string // in words
}

// step is one thing that somebody does, and what the connection makes of it.
type step struct {
	say   string
	do    func(context.Context, *life) error
	path  []fsm.State                // the states it must go through, and no others
	any   bool                       // chance decides the path
	until func(chatconn.Change) bool // what must have happened besides; nil: nothing
}

// end is how things must stand when a chapter is over.
type end struct {
	state  fsm.State
	user   string   // who is set; "": nobody
	loads  uint64   // calls of the token source in this chapter
	socket identity // against the one before the chapter
}

type identity string

const (
	none  identity = "no connection"
	same  identity = "the same connection"
	fresh identity = "a new connection"
)

func path(states ...fsm.State) []fsm.State { return states }

var chapters = []chapter{
	{
		title: "The first connection",
		steps: []step{{
			say: "john connects; the server has never heard of him",
			do: func(ctx context.Context, l *life) error {
				session, err := l.conn.ConnectUser(ctx, chatconn.User{ID: john, Name: "John"}, l.source(john))
				if err == nil && (session.ConnectionID == "" || session.User.ID != john || session.User.Name != "John") {
					err = fmt.Errorf("the session is another one: %+v", session)
				}
				return err
			},
			path: path(fsm.Connecting, fsm.Connected),
		}},
		end: end{fsm.Connected, john, 1, fresh},
		ids: "C1 C4 T2", promise: "ConnectUser returns the session once the server's first health check has come; an unknown user is created; the token source is asked once.",
	},
	{
		title: "Messages",
		steps: []step{{
			say: "mary says three things",
			do: func(ctx context.Context, l *life) error {
				for range 3 {
					e, err := l.hear(ctx)
					if err != nil {
						return err
					}
					l.out.event(e)
				}
				return nil
			},
		}},
		end: end{fsm.Connected, john, 0, same},
		ids: "O1 D2", promise: "A message reaches every member as an event, decoded and with its raw JSON.",
	},
	{
		title: "The socket drops",
		steps: []step{{
			say:  "the server resets the connection without a word",
			do:   func(_ context.Context, l *life) error { l.server.DropAll(); return nil },
			path: path(fsm.Connecting, fsm.Connected),
		}},
		end: end{fsm.Connected, john, 0, fresh},
		ids: "R1 T2", promise: "A lost socket is opened again after a spread wait, with the token at hand.",
	},
	{
		title: "The server crashes and comes back",
		steps: []step{
			{
				say:   "the server stops: nobody listens any more",
				do:    func(_ context.Context, l *life) error { l.server.Stop(); return nil },
				path:  path(fsm.Connecting),
				until: func(c chatconn.Change) bool { return c.Attempt == 3 }, // two have failed
			},
			{
				say:  "the server is started again",
				do:   func(_ context.Context, l *life) error { return l.server.Restart() },
				path: path(fsm.Connected),
			},
		},
		end: end{fsm.Connected, john, 0, fresh},
		ids: "R2 T2", promise: "What may heal is retried for as long as it takes; the token source is not asked.",
	},
	{
		title: "The token expires while connected",
		steps: []step{{
			say:  "the server refuses the token with code 40 and closes",
			do:   func(_ context.Context, l *life) error { l.server.ExpireTokens(john, true); return nil },
			path: path(fsm.Refreshing, fsm.Connecting, fsm.Connected),
		}},
		end: end{fsm.Connected, john, 1, fresh},
		ids: "E T2", promise: "A refused token is replaced by one load, and the connection opens at once with the fresh one.",
	},
	{
		title: "Into the background and back",
		steps: []step{
			{
				say:  "the app goes to the background",
				do:   func(_ context.Context, l *life) error { l.conn.Background(); return nil },
				path: path(fsm.Paused),
			},
			{
				say:  "the app comes back",
				do:   func(ctx context.Context, l *life) error { defer l.conn.Foreground(); return l.sockets(ctx, 0) },
				path: path(fsm.Connecting, fsm.Connected),
			},
		},
		end: end{fsm.Connected, john, 0, fresh},
		ids: "L1 T2", promise: "The background closes the socket; the foreground opens one, with the token at hand.",
	},
	{
		title: "The network goes and returns",
		steps: []step{
			{
				say:  "the network is lost",
				do:   func(_ context.Context, l *life) error { l.conn.NetworkLost(); return nil },
				path: path(fsm.Paused),
			},
			{
				say:  "the network is back",
				do:   func(_ context.Context, l *life) error { l.conn.NetworkAvailable(); return nil },
				path: path(fsm.Connecting, fsm.Connected),
			},
		},
		end: end{fsm.Connected, john, 0, fresh},
		ids: "L2 T2", promise: "Without network nothing is tried; with it the socket is opened at once, with the token at hand.",
	},
	{
		title: "Both at once",
		steps: []step{
			{
				say: "the app goes to the background, then the network is lost",
				do: func(_ context.Context, l *life) error {
					l.conn.Background()
					l.conn.NetworkLost()
					return nil
				},
				path: path(fsm.Paused),
			},
			{
				say: "the app comes back; there is still no network",
				do:  func(_ context.Context, l *life) error { l.conn.Foreground(); return nil },
			},
			{
				say:  "the network is back, too",
				do:   func(_ context.Context, l *life) error { l.conn.NetworkAvailable(); return nil },
				path: path(fsm.Connecting, fsm.Connected),
			},
		},
		end: end{fsm.Connected, john, 0, fresh},
		ids: "L3", promise: "Background and network are independent: connected only when neither stands in the way.",
	},
	{
		title: "An API request is refused",
		steps: []step{{
			say:  "the token expires unnoticed; john sends a message through the API",
			do:   func(ctx context.Context, l *life) error { l.server.ExpireTokens(john, false); return l.post(ctx) },
			path: path(fsm.Refreshing, fsm.Connected),
		}},
		end: end{fsm.Connected, john, 1, same},
		ids: "Q3", promise: "An answer with code 40 makes one load; the request is sent again and succeeds; the healthy socket stays open.",
	},
	{
		title: "A missed health check",
		steps: []step{
			{
				say:  "the server leaves health checks without an answer",
				do:   func(_ context.Context, l *life) error { l.server.StopHealth(true); return nil },
				path: path(fsm.Refreshing, fsm.Connecting, fsm.Connected),
			},
			{
				say: "the server answers again",
				do:  func(_ context.Context, l *life) error { l.server.StopHealth(false); return nil },
			},
		},
		end: end{fsm.Connected, john, 1, fresh},
		ids: "H1 T2", promise: "A connection that is silent too long is unhealthy: it is closed, its token is dropped, and it is opened again with a fresh one.",
	},
	{
		title: "Bad weather",
		steps: []step{
			{
				say: "forty things happen at random, a moment apart",
				do:  func(ctx context.Context, l *life) error { return l.storm(ctx, 40) },
				any: true,
			},
			{
				say: "the weather clears",
				do: func(_ context.Context, l *life) error {
					l.conn.NetworkAvailable()
					l.conn.Foreground()
					return nil
				},
				path: path(fsm.Connecting, fsm.Connected),
			},
		},
		end: end{fsm.Connected, john, 0, fresh},
		ids: "L3 M5 T2", promise: "Whatever happens in whatever order ends the same; what comes late changes nothing; no storm of reconnects asks the token source.",
	},
	{
		title: "The program closes the socket for a while",
		steps: []step{
			{
				say:  "DisconnectSocket",
				do:   func(ctx context.Context, l *life) error { return l.conn.DisconnectSocket(ctx) },
				path: path(fsm.Offline),
			},
			{
				say: "the network goes and returns, the app goes and comes back: nobody asked for a connection",
				do: func(_ context.Context, l *life) error {
					l.conn.NetworkLost()
					l.conn.NetworkAvailable()
					l.conn.Background()
					l.conn.Foreground()
					return nil
				},
			},
			{
				say: "ReconnectSocket",
				do: func(ctx context.Context, l *life) error {
					_, err := l.conn.ReconnectSocket(ctx)
					return err
				},
				path: path(fsm.Connecting, fsm.Connected),
			},
		},
		end: end{fsm.Connected, john, 1, fresh},
		ids: "C5 C6", promise: "DisconnectSocket keeps the user, drops the token, and stays Offline until ReconnectSocket.",
	},
	{
		title: "Another user",
		steps: []step{{
			say: "jane takes over from john",
			do: func(ctx context.Context, l *life) error {
				if err := l.server.AddMember(room, jane); err != nil {
					return err
				}
				_, err := l.conn.SwitchUser(ctx, chatconn.User{ID: jane, Name: "Jane"}, l.source(jane))
				return err
			},
			path: path(fsm.Offline, fsm.Connecting, fsm.Connected),
		}},
		end: end{fsm.Connected, jane, 1, fresh},
		ids: "C8", promise: "SwitchUser disconnects the one and connects the other, with a token of their own.",
	},
	{
		title: "Logout",
		steps: []step{
			{
				say:  "jane logs out",
				do:   func(ctx context.Context, l *life) error { return l.conn.Disconnect(ctx, chatconn.FlushPersistence) },
				path: path(fsm.Offline),
			},
			{
				say: "a request after that",
				do: func(ctx context.Context, l *life) error {
					return refusedWith(chatconn.ErrNoUser)(l.conn.HTTPClient().Get(l.server.URL() + "/app"))
				},
			},
		},
		end: end{fsm.Offline, "", 0, none},
		ids: "C7 Q2", promise: "Disconnect closes the socket and forgets user and token; requests are refused at once.",
	},
	{
		title: "The end",
		steps: []step{{
			say: "the program closes the Conn, then tries to connect with it",
			do: func(ctx context.Context, l *life) error {
				if err := l.conn.Close(); err != nil {
					return err
				}
				_, err := l.conn.ConnectUser(ctx, chatconn.User{ID: john}, l.source(john))
				if !errors.Is(err, chatconn.ErrClosed) {
					return fmt.Errorf("ConnectUser after Close: %v, want %v", err, chatconn.ErrClosed)
				}
				return l.heardOnce()
			},
		}},
		end: end{fsm.Offline, "", 0, none},
		ids: "C9 O2", promise: "Close is final. Over the whole life, every message that was sent while connected has arrived, and arrived once.",
	},
}

// post sends a message as the user who is connected, and takes only a success at
// the second try.
func (l *life) post(ctx context.Context) error {
	text := l.nextText()
	body, _ := json.Marshal(map[string]any{"message": map[string]string{"text": text}})
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, l.server.URL()+"/channels/messaging/life/message", bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	replays := l.conn.Stats().Replays
	resp, err := l.conn.HTTPClient().Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if answer, _ := io.ReadAll(resp.Body); resp.StatusCode/100 != 2 {
		return fmt.Errorf("the API answers %s: %s", resp.Status, answer)
	}
	if n := l.conn.Stats().Replays - replays; n != 1 {
		return fmt.Errorf("the request was sent again %d times, want once", n)
	}
	e, err := l.receive(ctx, text)
	if err == nil {
		l.out.event(e)
	}
	return err
}

// refusedWith takes an answer that must not be one.
func refusedWith(want error) func(*http.Response, error) error {
	return func(resp *http.Response, err error) error {
		if err == nil {
			resp.Body.Close()
		}
		if !errors.Is(err, want) {
			return fmt.Errorf("the request ended with %v, want %v", err, want)
		}
		return nil
	}
}

// storm lets n things happen at random, then goes to the background, so that it
// ends in a state that is known.
func (l *life) storm(ctx context.Context, n int) error {
	weather := []func(){
		l.conn.Background, l.conn.Foreground, l.conn.Foreground,
		l.conn.NetworkLost, l.conn.NetworkAvailable, l.conn.NetworkAvailable,
		l.conn.Woke, l.server.DropAll, func() { l.server.CloseAll(1012, "restart") },
	}
	for range n {
		weather[l.rand.IntN(len(weather))]()
		select {
		case <-time.After(time.Duration(l.rand.IntN(30)) * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	l.conn.Background()
	_, err := l.conn.Wait(ctx, fsm.Paused)
	return err
}
