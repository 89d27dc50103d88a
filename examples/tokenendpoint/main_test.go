package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/chatconn/chatconn/tokens"
)

// T3, Q3: tokens expire and are replaced under the open socket, until the
// backend refuses.
func TestQ3_TokensExpireAndAreReplaced(t *testing.T) {
	t.Setenv("CHATCONN_URL", "")
	var out strings.Builder
	if err := run(t.Context(), &out, 2*time.Second); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	want := `connected as ann
the token has expired, a fresh one came, and the request was sent again; same socket: true
the token has expired, a fresh one came, and the request was sent again; same socket: true
signed out at the backend
the next token was refused with status 401, and the connection is Offline for good
`
	if out.String() != want {
		t.Errorf("got:\n%s", &out)
	}
}

// T7: the endpoint issues tokens to whom the session says, and to nobody else.
func TestT7_TheSessionDecides(t *testing.T) {
	b := &backend{secret: []byte("0123456789abcdef"), ttl: time.Hour, sessions: map[string]string{"s1": "ann"}}
	for _, c := range []struct {
		cookie string
		status int
	}{{"s1", 200}, {"s2", 401}, {"", 401}} {
		req := httptest.NewRequest("POST", "/chat-token?user=bob&user_id=bob", nil)
		if c.cookie != "" {
			req.AddCookie(&http.Cookie{Name: cookie, Value: c.cookie})
		}
		w := httptest.NewRecorder()
		b.chatToken(w, req)
		if w.Code != c.status {
			t.Errorf("cookie %q: status %d, want %d", c.cookie, w.Code, c.status)
		}
		if c.status != 200 {
			continue
		}
		_, token, _ := strings.Cut(w.Body.String(), `"token":"`)
		token, _, _ = strings.Cut(token, `"`)
		if claims, err := tokens.Verify(b.secret, token); err != nil || claims.UserID != "ann" {
			t.Errorf("got %+v, %v", claims, err)
		}
	}
}
