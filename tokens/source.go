// Package tokens holds what a chat connection knows about tokens: where they
// come from, whether they are fit to be sent, how long one is kept, and, for
// servers, how they are made and verified.
//
// Three nouns:
//
//   - A [Source] brings tokens. It is one method and may block; [Static],
//     [Func] and [Dev] make the usual ones.
//   - A [Token] is a text that [Parse] has checked. It prints as "[redacted]"
//     wherever it turns up; only [Token.Reveal] gives the text.
//   - A [Cache] keeps one user's token and asks their source, one call at a
//     time, only when it has none.
//
// A program that connects needs a Source and nothing else. [Sign] and [Verify]
// belong on a server, which holds the app's secret; a secret never belongs in
// an app.
//
// Everything here is safe for concurrent use. No error, log or dump of this
// package contains a token (specification: T11). What a source writes into its
// own errors is its own care.
package tokens

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
)

// Source brings the user's token, usually from the program's own backend.
//
// Token may block; it should return when ctx ends, which happens when nobody
// waits for the token any more or the time for one call is over. It is never
// called again before it has returned. A failure is retried after a wait,
// unless it is marked by [Permanent]. Specification: T1, T3.
type Source interface {
	Token(ctx context.Context) (string, error)
}

// What can be wrong with a token or its source. Errors of this package wrap
// these; compare with errors.Is.
var (
	// ErrInvalid: the text is not a well-formed token (see Parse).
	ErrInvalid = errors.New("tokens: invalid token")
	// ErrUserMismatch: the token is another user's. It is permanent: the source
	// serves the wrong user, and asking it again does not change that.
	ErrUserMismatch = Permanent(errors.New("tokens: the token belongs to another user"))
	// ErrTimeout: the source did not answer in time.
	ErrTimeout = errors.New("tokens: the source did not answer in time")
	// ErrRefusedAgain: the source brought the very token that the server has
	// refused.
	ErrRefusedAgain = errors.New("tokens: the source returned the refused token again")
	// ErrNoSource: there is no source to ask. It is permanent.
	ErrNoSource = Permanent(errors.New("tokens: no source"))
)

// Static returns a source of one token, which never changes. When the server
// refuses it there is nothing left to try; an app whose tokens expire wants
// [Func].
func Static(token string) Source { return &static{token: conceal(token)} }

// Dev returns a source of the user's development token (see [DevToken]).
func Dev(userID string) Source { return Static(DevToken(userID)) }

// IsStatic tells whether asking src again cannot bring a new token: true for
// the results of [Static] and [Dev].
func IsStatic(src Source) bool {
	_, ok := src.(*static)
	return ok
}

type static struct{ token secret }

func (s *static) Token(context.Context) (string, error) { return s.token(), nil }

// Func returns a source that calls load. Each result is a source of its own:
// two made of one function are not the same (see [SameSource]). A nil load
// makes a source that answers ErrNoSource.
func Func(load func(ctx context.Context) (string, error)) Source { return &function{load} }

type function struct {
	load func(ctx context.Context) (string, error)
}

func (f *function) Token(ctx context.Context) (string, error) {
	if f.load == nil {
		return "", ErrNoSource
	}
	return f.load(ctx)
}

// SameSource tells whether a and b are one source. Values that Go cannot
// compare, such as a struct with a slice in it, are never the same; make such a
// source a pointer. Nor is nil, which is no source.
func SameSource(a, b Source) bool { return reflect.ValueOf(a).Comparable() && a == b }

// Permanent marks an error of a source as final: the load is not retried, and
// the connection goes Offline with err as its cause. The result wraps err and
// reads like it; Permanent(nil) is nil. Specification: T3.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return &permanent{err}
}

// IsPermanent tells whether err, or an error that it wraps, was marked by
// [Permanent].
func IsPermanent(err error) bool {
	var p *permanent
	return errors.As(err, &p)
}

type permanent struct{ error }

func (p *permanent) Unwrap() error { return p.error }

const (
	devHeader    = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9" // {"alg":"HS256","typ":"JWT"}
	devSignature = "devtoken"
)

// DevToken returns the development token of a user. It is not signed: servers
// take it only while their auth checks are disabled. The text is the same as
// other clients make it, the payload in standard base64 with padding.
// Specification: T8.
func DevToken(userID string) string {
	var id strings.Builder
	enc := json.NewEncoder(&id)
	enc.SetEscapeHTML(false) // other clients do not escape <, > and &
	if err := enc.Encode(userID); err != nil {
		panic("BUG: tokens: a string did not encode: " + err.Error())
	}
	payload := `{"user_id":` + strings.TrimSuffix(id.String(), "\n") + `}`
	return devHeader + "." + base64.StdEncoding.EncodeToString([]byte(payload)) + "." + devSignature
}
