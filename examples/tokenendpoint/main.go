// Command tokenendpoint shows both ends of issuing tokens: a backend that knows
// who is signed in and issues tokens to them, and a client that stays connected
// with tokens that expire every few seconds.
//
//	go run ./examples/tokenendpoint
//
// uses a development server of its own. To run it with a service, set
// CHATCONN_URL, CHATCONN_API_KEY and CHATCONN_SECRET. It ends by itself.
package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"os/signal"
	"sync"
	"time"

	"github.com/chatconn/chatconn"
	"github.com/chatconn/chatconn/chatapi"
	"github.com/chatconn/chatconn/examples/internal/service"
	"github.com/chatconn/chatconn/fsm"
	"github.com/chatconn/chatconn/tokens"
)

func main() {
	ttl := flag.Duration("ttl", 2*time.Second, "lifetime of a token, in whole seconds; an hour would do in earnest")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Stdout, *ttl); err != nil {
		log.Fatal(err)
	}
}

// backend is the program's own server. It holds the secret, which clients never
// see.
type backend struct {
	secret []byte
	ttl    time.Duration

	mu       sync.Mutex        // guards sessions
	sessions map[string]string // user ids by the value of their cookie
}

const cookie = "session"

// signIn starts a session. A real backend checks a password here.
func (b *backend) signIn(w http.ResponseWriter, r *http.Request) {
	session := rand.Text()
	b.mu.Lock()
	b.sessions[session] = r.FormValue("user")
	b.mu.Unlock()
	http.SetCookie(w, &http.Cookie{
		Name: cookie, Value: session, Path: "/", HttpOnly: true, SameSite: http.SameSiteStrictMode,
		Secure: r.TLS != nil, // always, but for this loopback
	})
}

// signOut ends the user's sessions.
func (b *backend) signOut(user string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for session, id := range b.sessions {
		if id == user {
			delete(b.sessions, session)
		}
	}
}

// chatToken issues a token to whom the session says, never to whom the request
// names.
func (b *backend) chatToken(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var user string
	if c, err := r.Cookie(cookie); err == nil {
		user = b.sessions[c.Value]
	}
	if user == "" {
		http.Error(w, "not signed in", http.StatusUnauthorized) // the client does not ask again
		return
	}
	now := time.Now()
	token, err := tokens.Sign(b.secret, tokens.Claims{UserID: user, IssuedAt: now, ExpiresAt: now.Add(b.ttl)})
	if err != nil {
		http.Error(w, "no token", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	json.NewEncoder(w).Encode(map[string]string{"token": token})
}

func run(ctx context.Context, out io.Writer, ttl time.Duration) error {
	srv, err := service.Open()
	if err != nil {
		return err
	}
	defer srv.Close()
	b := &backend{secret: srv.Secret, ttl: ttl, sessions: make(map[string]string)}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /sign-in", b.signIn)
	mux.HandleFunc("POST /chat-token", b.chatToken)
	web := httptest.NewServer(mux) // stands for the program's own web server
	defer web.Close()

	// From here on it is the client.
	jar, err := cookiejar.New(nil)
	if err != nil {
		return err
	}
	client := &http.Client{Jar: jar, Timeout: 10 * time.Second}
	const user = "ann"
	resp, err := client.PostForm(web.URL+"/sign-in", url.Values{"user": {user}})
	if err != nil {
		return err
	}
	resp.Body.Close()

	conn, err := chatconn.New(srv.Config)
	if err != nil {
		return err
	}
	defer conn.Close()
	source := tokens.HTTP(web.URL+"/chat-token", tokens.HTTPOptions{Client: client})
	session, err := conn.ConnectUser(ctx, chatconn.User{ID: user}, source)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "connected as %s\n", session.User.ID)

	api := chatapi.New(conn.HTTPClient(), srv.Config.BaseURL)
	for refreshes := 0; refreshes < 2; refreshes++ {
		if err := untilNextToken(ctx, conn, api, user); err != nil {
			return err
		}
		after, _ := conn.Session()
		fmt.Fprintf(out, "the token has expired, a fresh one came, and the request was sent again; same socket: %v\n",
			after.ConnectionID == session.ConnectionID)
		session = after
	}

	b.signOut(user)
	fmt.Fprintf(out, "signed out at the backend\n")
	changes := conn.Watch(ctx)
	if err := untilNextToken(ctx, conn, api, user); !errors.Is(err, chatconn.ErrDisconnected) {
		return fmt.Errorf("still connected without a session: %v", err)
	}
	for change := range changes {
		var answer *tokens.AnswerError
		if change.To == fsm.Offline && errors.As(change.Cause, &answer) {
			fmt.Fprintf(out, "the next token was refused with status %d, and the connection is %v for good\n", answer.StatusCode, change.To)
			break
		}
	}
	return ctx.Err()
}

// untilNextToken makes an API request now and then, until one was refused for
// its token and sent again with a fresh one.
func untilNextToken(ctx context.Context, conn *chatconn.Conn, api *chatapi.Client, user string) error {
	replays := conn.Stats().Replays
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for conn.Stats().Replays == replays {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		if _, err := api.Query(ctx, "messaging:"+user, chatapi.Query{}); err != nil {
			return err
		}
	}
	return nil
}
