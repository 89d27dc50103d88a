// Package service tells the examples where to connect: to the service that the
// environment names, or to a development server of their own.
package service

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/chatconn/chatconn"
	"github.com/chatconn/chatconn/devserver"
	"github.com/chatconn/chatconn/tokens"
)

// Service is where an example connects.
type Service struct {
	Config chatconn.Config   // what New needs
	Secret []byte            // signs tokens; it belongs on servers, never in an app
	Dev    *devserver.Server // nil: a real service
}

// Open reads CHATCONN_URL, CHATCONN_API_KEY and CHATCONN_SECRET. Without
// CHATCONN_URL it starts a development server, which Close ends.
func Open() (*Service, error) {
	s := &Service{Secret: []byte(os.Getenv("CHATCONN_SECRET"))}
	s.Config.BaseURL, s.Config.APIKey = os.Getenv("CHATCONN_URL"), os.Getenv("CHATCONN_API_KEY")
	switch {
	case s.Config.BaseURL == "":
		dev, err := devserver.Start(devserver.Options{})
		if err != nil {
			return nil, err
		}
		s.Dev, s.Secret = dev, dev.Secret()
		s.Config = chatconn.Config{BaseURL: dev.URL(), APIKey: dev.APIKey(), RetryFirst: time.Second}
	case s.Config.APIKey == "" || len(s.Secret) == 0:
		return nil, errors.New("with CHATCONN_URL, set CHATCONN_API_KEY and CHATCONN_SECRET as well")
	}
	return s, nil
}

// Close ends the development server, if there is one.
func (s *Service) Close() {
	if s.Dev != nil {
		s.Dev.Close()
	}
}

// Source mints tokens for a user of this program's own, such as a bot. It runs
// on a server and holds the secret, so it needs to ask nobody.
func (s *Service) Source(userID string) tokens.Source {
	return tokens.Func(func(context.Context) (string, error) {
		if s.Dev != nil {
			return s.Dev.Token(userID, time.Hour), nil // which the demonstrations can expire
		}
		now := time.Now()
		return tokens.Sign(s.Secret, tokens.Claims{UserID: userID, IssuedAt: now, ExpiresAt: now.Add(time.Hour)})
	})
}
