package chatconn

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/chatconn/chatconn/fsm"
	"github.com/chatconn/chatconn/tokens"
	"github.com/chatconn/chatconn/transport"
)

// told is a refusal as the socket brings it, refused as a handshake's HTTP answer.
func told(code, status int) error {
	return &transport.Error{Phase: "open", Kind: transport.Told, Refusal: &transport.Refusal{Code: code, StatusCode: status, Message: "m"}}
}

func refused(code, status int) error {
	return &transport.Error{Phase: "upgrade", Kind: transport.Refused, Status: status, Refusal: &transport.Refusal{Code: code, Message: "m"}}
}

func of(kind transport.Kind) error { return &transport.Error{Phase: "open", Kind: kind, Err: io.EOF} }

// E: the whole matrix, for the handshake and the socket, with a provider and with
// a static token.
func TestErrorMatrix(t *testing.T) {
	type row struct {
		name             string
		err              error
		provider, static fsm.Event
	}
	rows := []row{
		{"expired", told(40, 401), fsm.TokenRefused, fsm.Denied},
		{"not yet valid", told(41, 401), fsm.TokenUntimely, fsm.Dropped},
		{"from the future", told(42, 401), fsm.TokenUntimely, fsm.Dropped},
		{"bad signature", told(43, 401), fsm.TokenRefused, fsm.Denied},
		{"malformed", told(5, 401), fsm.TokenRefused, fsm.Denied},
		{"unrecoverable, whatever the code", &transport.Error{Kind: transport.Told, Refusal: &transport.Refusal{Code: 40, Unrecoverable: true}}, fsm.Denied, fsm.Denied},
		{"unrecoverable server error", &transport.Error{Kind: transport.Told, Refusal: &transport.Refusal{Code: -1, StatusCode: 500, Unrecoverable: true}}, fsm.Denied, fsm.Denied},
		{"other 4xx", told(1234, 400), fsm.Denied, fsm.Denied},
		{"other 4xx, told by the upgrade's status", refused(1234, 403), fsm.Denied, fsm.Denied},
		{"429 with another code", told(1234, 429), fsm.Dropped, fsm.Dropped},
		{"408 with another code", told(1234, 408), fsm.Dropped, fsm.Dropped},
		{"server error", told(-1, 500), fsm.Dropped, fsm.Dropped},
		{"unknown code", told(1234, 0), fsm.Dropped, fsm.Dropped},
		{"503", refused(0, 503), fsm.Dropped, fsm.Dropped},
		{"an error frame that is no API error", &transport.Error{Kind: transport.Told, Body: "?"}, fsm.Dropped, fsm.Dropped},
		{"a captive portal", &transport.Error{Kind: transport.Refused, Status: 302, Body: "<html>"}, fsm.Dropped, fsm.Dropped},
		{"a proxy's 403", &transport.Error{Kind: transport.Refused, Status: 403, Body: "no"}, fsm.Dropped, fsm.Dropped},
		{"silence", of(transport.Silent), fsm.Unhealthy, fsm.Unhealthy},
		{"no transport error", errors.New("DialLimit"), fsm.Dropped, fsm.Dropped},
	}
	for _, code := range []int{2, 4, 16, 17, 69, 99, 107} {
		for _, status := range []int{0, 200, 401, 403, 404, 500} {
			rows = append(rows, row{fmt.Sprintf("final code %d, status %d", code, status), told(code, status), fsm.Denied, fsm.Denied})
		}
	}
	for _, code := range []int{3, 9, 23, 46, 48, 71, 108, 111} {
		for _, status := range []int{0, 400, 403, 408, 429, 500} {
			rows = append(rows, row{fmt.Sprintf("backoff code %d, status %d", code, status), told(code, status), fsm.Dropped, fsm.Dropped})
		}
	}
	for _, code := range []int{1000, 1001, 1005, 1006, 1011, 1012, 1013, 4040} { // the close code decides nothing
		rows = append(rows, row{fmt.Sprintf("close %d", code), &transport.Error{Kind: transport.Closed, CloseCode: code}, fsm.Dropped, fsm.Dropped})
	}
	for _, kind := range []transport.Kind{transport.Network, transport.TLS, transport.Unanswered, transport.Oversize, transport.Unoffered, transport.Malformed} {
		rows = append(rows, row{kind.String(), of(kind), fsm.Dropped, fsm.Dropped})
	}

	for _, r := range rows {
		for _, wrapped := range []error{r.err, fmt.Errorf("around: %w", r.err)} {
			if got, _ := eventFor(wrapped, false, false, false); got != r.provider {
				t.Errorf("%s with a provider: %v, want %v", r.name, got, r.provider)
			}
			if got, _ := eventFor(wrapped, true, false, false); got != r.static {
				t.Errorf("%s with a static token: %v, want %v", r.name, got, r.static)
			}
		}
	}

	// 43 and 5: one forced load, then it is final. 40 is never.
	for code, want := range map[int]fsm.Event{43: fsm.Denied, 5: fsm.Denied, 40: fsm.TokenRefused, 41: fsm.TokenUntimely} {
		if got, _ := eventFor(told(code, 401), false, true, false); got != want {
			t.Errorf("code %d after a forced load: %v, want %v", code, got, want)
		}
	}
	if got, _ := eventFor(of(transport.Silent), false, false, true); got != fsm.Dropped {
		t.Errorf("T2: KeepTokenWhenUnhealthy makes silence %v", got)
	}
}

// E1: what the service said is a typed error, whoever wraps it.
func TestTypedErrors(t *testing.T) {
	for code, want := range map[int]error{40: ErrTokenExpired, 5: ErrTokenInvalid, 43: ErrTokenInvalid} {
		_, err := eventFor(told(code, 401), true, false, false)
		err = fmt.Errorf("%w: %w", ErrRetriesSpent, err)
		var api *APIError
		if !errors.As(err, &api) || api.Code != code || api.StatusCode != 401 || api.Message != "m" {
			t.Errorf("code %d is %v", code, err)
		}
		for _, target := range []error{ErrTokenExpired, ErrTokenInvalid, ErrRetriesSpent, ErrClosed} {
			if got := errors.Is(err, target); got != (target == want || target == ErrRetriesSpent) {
				t.Errorf("code %d is %v: %t", code, target, got)
			}
		}
	}
	if _, err := eventFor(refused(9, 429), false, false, false); err.(*APIError).StatusCode != 429 {
		t.Errorf("the status of the upgrade is lost: %v", err)
	}
	portal := &transport.Error{Kind: transport.Refused, Status: 502, Body: "Bad Gateway"}
	var failure *transport.Error
	if _, err := eventFor(portal, false, false, false); !errors.As(err, &failure) || failure.Status != 502 || failure.Body == "" {
		t.Errorf("a body that is not the expected JSON lost its status or its bytes: %v", err)
	}
	if (&APIError{Code: 1}).Is(ErrTokenExpired) {
		t.Error("any code is expired")
	}
}

// T3, C3: what ends a load for good, and what does not.
func TestLoadErrors(t *testing.T) {
	plain := errors.New("no network")
	for _, c := range []struct {
		name             string
		err              error
		provider, static fsm.Event
	}{
		{"a failure", plain, fsm.TokenFailed, fsm.TokenDenied},
		{"permanent", fmt.Errorf("x: %w", tokens.Permanent(plain)), fsm.TokenDenied, fsm.TokenDenied},
		{"another user's", fmt.Errorf("x: %w", ErrTokenUserMismatch), fsm.TokenDenied, fsm.TokenDenied},
		{"insecure", fmt.Errorf("x: %w", ErrInsecure), fsm.TokenDenied, fsm.TokenDenied},
		{"malformed", ErrTokenInvalid, fsm.TokenFailed, fsm.TokenDenied},
		{"refused again", tokens.ErrRefusedAgain, fsm.TokenFailed, fsm.TokenDenied},
		{"late", ErrTokenTimeout, fsm.TokenFailed, fsm.TokenDenied},
		{"no source", tokens.ErrNoSource, fsm.TokenDenied, fsm.TokenDenied},
	} {
		if got := eventForLoad(c.err, false); got != c.provider {
			t.Errorf("%s: %v, want %v", c.name, got, c.provider)
		}
		if got := eventForLoad(c.err, true); got != c.static {
			t.Errorf("%s with a static token: %v, want %v", c.name, got, c.static)
		}
	}
}

// O4, T11: the class of a cause is stable and holds no foreign text.
func TestCauseClasses(t *testing.T) {
	_, api := eventFor(told(40, 401), true, false, false)
	for want, err := range map[string]error{
		"": nil, "api-40": fmt.Errorf("around it: %w", api), "network": of(transport.Network), "silent": of(transport.Silent),
		"token-user-mismatch": ErrTokenUserMismatch, "token-refused-again": tokens.ErrRefusedAgain, "token-invalid": ErrTokenInvalid,
		"token-timeout": ErrTokenTimeout, "retries-spent": fmt.Errorf("%w: %w", ErrRetriesSpent, api), "call": ErrDisconnected, "timeout": errOverdue, "other": errors.New("x"),
	} {
		if got := causeClass(err); got != want {
			t.Errorf("%v is of class %q, want %q", err, got, want)
		}
	}
}

// E1, S4: what a server writes into an error reaches logs cut and printable, in
// either form of the guest exchange's refusal.
func TestServerTextsAreCut(t *testing.T) {
	hostile := strings.Repeat("\\u001b[31m\\n", 2000)
	for _, body := range []string{"<html>\x1b[31m\n\xff" + hostile, `{"code":4,"message":"` + hostile + `"}`} {
		var api *APIError
		if err := answerError(400, []byte(body)); !errors.As(err, &api) {
			t.Fatalf("%T is no *APIError", err)
		}
		if api.StatusCode != 400 || len(api.Message) > 512 || strings.ContainsAny(api.Message, "\x1b\n") || !utf8.ValidString(api.Message) {
			t.Errorf("status %d, %d bytes: %.60q", api.StatusCode, len(api.Message), api.Message)
		}
	}
}
