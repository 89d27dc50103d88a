package tokens_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/chatconn/chatconn/tokens"
)

// A source that asks the program's own backend, with the session that it has
// there.
func ExampleHTTP() {
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Session") != "of john" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		fmt.Fprintf(w, `{"token":%q}`, tokens.DevToken("john"))
	}))
	defer backend.Close()

	session := "of john"
	source := tokens.HTTP(backend.URL+"/chat-token", tokens.HTTPOptions{
		Prepare: func(r *http.Request) error {
			r.Header.Set("X-Session", session)
			return nil
		},
	})
	raw, err := source.Token(context.Background())
	token, _ := tokens.Parse(raw)
	fmt.Println(token.UserID(), err)

	session = "that has ended"
	_, err = source.Token(context.Background())
	var answer *tokens.AnswerError
	fmt.Println(errors.As(err, &answer), answer.StatusCode, tokens.IsPermanent(err))
	// Output:
	// john <nil>
	// true 401 true
}
