// Package oauth2tokens makes a [tokens.Source] of a TokenSource of
// golang.org/x/oauth2, for services whose chat tokens are issued by the OAuth2
// provider itself: as the access token, or as the ID token of OpenID Connect.
//
// The token must be one that the chat service accepts, with the user's id in
// user_id. Where the provider only signs the user in, and the program's backend
// issues the chat token, this package is not needed: [tokens.HTTP] takes
// oauth2.NewClient as its Client.
//
// The sources of x/oauth2 keep a token until about its expiry. If the chat
// service refuses it earlier, since it was revoked, the same token comes again;
// that is a failed load, retried until the provider is asked anew.
package oauth2tokens

import (
	"context"
	"errors"
	"fmt"
	"net/url"

	"golang.org/x/oauth2"

	"github.com/chatconn/chatconn/tokens"
)

// AccessToken returns a source of src's access tokens.
//
// An invalid_grant is permanent: the user has to sign in again. Whatever else
// the provider answers, and the lack of an answer, is retried. The error wraps an
// *oauth2.RetrieveError where the provider answered, but shows nothing of its body.
//
// A TokenSource has no context. When the context of a call ends, the call
// returns, but src goes on: its goroutine stays until src returns, its late
// token is dropped, and the next call waits for that. Specification: T1, T3, C9.
func AccessToken(src oauth2.TokenSource) tokens.Source {
	return from(src, func(t *oauth2.Token) (string, error) { return t.AccessToken, nil })
}

// IDToken returns a source of the ID tokens that come with src's access tokens.
// It does as [AccessToken] does. A provider's answer without an ID token is
// permanent: the scope openid was not asked for, or the provider sends none on a
// refresh.
func IDToken(src oauth2.TokenSource) tokens.Source {
	return from(src, func(t *oauth2.Token) (string, error) {
		id, _ := t.Extra("id_token").(string)
		if id == "" {
			return "", tokens.Permanent(errors.New("oauth2tokens: the provider's answer holds no id_token"))
		}
		return id, nil
	})
}

func from(src oauth2.TokenSource, pick func(*oauth2.Token) (string, error)) tokens.Source {
	if src == nil {
		return tokens.Func(nil)
	}
	s := &source{src, pick, make(chan struct{}, 1)}
	return tokens.Func(s.token) // which prints as an address: src may hold tokens
}

type source struct {
	src  oauth2.TokenSource
	pick func(*oauth2.Token) (string, error)
	busy chan struct{} // full while src runs
}

type result struct {
	token string
	err   error
}

func (s *source) token(ctx context.Context) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	select {
	case s.busy <- struct{}{}:
	case <-ctx.Done():
		return "", ctx.Err()
	}
	answer := make(chan result, 1)
	go func() {
		r := result{err: errors.New("oauth2tokens: the TokenSource ended its goroutine")}
		defer func() {
			if v := recover(); v != nil {
				r.err = fmt.Errorf("oauth2tokens: the TokenSource panicked: %T", v) // its text may quote a token
			}
			<-s.busy
			answer <- r
		}()
		r.token, r.err = s.ask()
	}()
	select {
	case r := <-answer:
		return r.token, r.err
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

func (s *source) ask() (string, error) {
	t, err := s.src.Token()
	switch {
	case err != nil:
		return "", explain(err)
	case t == nil:
		return "", errors.New("oauth2tokens: the TokenSource returned no token and no error")
	}
	return s.pick(t)
}

// failure is an error of a TokenSource without what the provider said, and
// without the URL that was asked.
type failure struct {
	text string
	err  error
}

func (f *failure) Error() string { return f.text }

func (f *failure) Unwrap() error { return f.err }

func explain(err error) error {
	var answer *oauth2.RetrieveError
	var network *url.Error
	switch {
	case errors.As(err, &answer):
		text := "oauth2tokens: the provider refuses"
		status := 0
		if answer.Response != nil {
			status = answer.Response.StatusCode
			text += fmt.Sprintf(" with status %d", status)
		}
		if known[answer.ErrorCode] {
			text += ": " + answer.ErrorCode
		}
		err = &failure{text, err}
		if answer.ErrorCode == "invalid_grant" && status >= 400 && status < 500 {
			return tokens.Permanent(err)
		}
		return err
	case errors.As(err, &network):
		return fmt.Errorf("oauth2tokens: the provider was not reached: %w", network.Err)
	}
	return fmt.Errorf("oauth2tokens: %w", err)
}

// known are the error codes of RFC 6749, section 5.2, and of RFC 6750. Any other
// text in their place is the provider's own.
var known = map[string]bool{
	"invalid_request": true, "invalid_client": true, "invalid_grant": true, "unauthorized_client": true,
	"unsupported_grant_type": true, "invalid_scope": true, "invalid_token": true,
	"temporarily_unavailable": true, "server_error": true,
}
