package tokens_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"

	"github.com/chatconn/chatconn/tokens"
)

// A source that asks the program's own backend, and tells a failure that waiting
// may heal from one that it does not.
func ExampleFunc() {
	source := tokens.Func(func(ctx context.Context) (string, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://backend.example/chat-token", nil)
		if err != nil {
			return "", err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return "", err // retried after a wait
		}
		defer resp.Body.Close()
		if resp.StatusCode == http.StatusForbidden {
			return "", tokens.Permanent(errors.New("the account is closed"))
		}
		if resp.StatusCode != http.StatusOK {
			return "", errors.New("backend: " + resp.Status)
		}
		body, err := io.ReadAll(io.LimitReader(resp.Body, 16<<10))
		return string(body), err
	})
	fmt.Println(tokens.IsStatic(source))
	// Output: false
}

func ExampleStatic() {
	source := tokens.Static(os.Getenv("CHAT_TOKEN"))
	fmt.Println(tokens.IsStatic(source))
	// Output: true
}

func ExampleDev() {
	token, err := tokens.Dev("john").Token(context.Background())
	fmt.Println(token, err)
	// Output: eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJ1c2VyX2lkIjoiam9obiJ9.devtoken <nil>
}

func ExamplePermanent() {
	err := fmt.Errorf("sign in: %w", tokens.Permanent(errors.New("the account is closed")))
	fmt.Println(err, tokens.IsPermanent(err))
	// Output: sign in: the account is closed true
}

func ExampleParse() {
	_, err := tokens.Parse(tokens.DevToken("john") + "\n")
	fmt.Println(err)

	token, err := tokens.Parse(tokens.DevToken("john"))
	fmt.Println(token.UserID(), token.IsDev(), err)
	// Output:
	// tokens: invalid token: it ends with a line break
	// john true <nil>
}

// A token may stand in any struct that is logged.
func ExampleToken() {
	token, err := tokens.Parse(tokens.DevToken("john"))
	if err != nil {
		fmt.Println(err)
		return
	}
	plain := &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}
	slog.New(slog.NewTextHandler(os.Stdout, plain)).Info("connecting", "user", token.UserID(), "token", token)
	// Output: level=INFO msg=connecting user=john token=[redacted]
}

func ExampleCache() {
	asked := 0
	source := tokens.Func(func(context.Context) (string, error) {
		asked++
		return tokens.DevToken("john"), nil
	})
	cache := tokens.NewCache(source, tokens.CacheOptions{UserID: "john"})
	ctx := context.Background()

	for range 3 {
		if _, err := cache.Load(ctx); err != nil {
			fmt.Println(err)
		}
	}
	fmt.Println("asked", asked)

	token, _ := cache.Cached()
	cache.Refuse(token) // the server answered 40
	_, err := cache.Load(ctx)
	fmt.Println("asked", asked, err)
	// Output:
	// asked 1
	// asked 2 tokens: the source returned the refused token again
}
