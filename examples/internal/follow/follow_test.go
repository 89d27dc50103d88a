package follow_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chatconn/chatconn"
	"github.com/chatconn/chatconn/chatapi"
	"github.com/chatconn/chatconn/devserver"
	"github.com/chatconn/chatconn/examples/internal/follow"
	"github.com/chatconn/chatconn/tokens"
	"github.com/chatconn/chatconn/transport/memnet"
)

const cid = "messaging:general"

// inChannel gives a test a connected member of a channel, in virtual time.
func inChannel(t *testing.T, test func(t *testing.T, s *devserver.Server, conn *chatconn.Conn, api *chatapi.Client)) {
	synctest.Test(t, func(t *testing.T) {
		net := memnet.New()
		s, err := devserver.Start(devserver.Options{Addr: "127.0.0.1:80", Listen: net.Listen})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if err := s.AddMember(cid, "bot", "ann"); err != nil {
			t.Fatal(err)
		}
		conn, err := chatconn.New(chatconn.Config{APIKey: s.APIKey(), BaseURL: s.URL(), DialContext: net.DialContext})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		source := tokens.Func(func(context.Context) (string, error) { return s.Token("bot", time.Hour), nil })
		if _, err := conn.ConnectUser(t.Context(), chatconn.User{ID: "bot"}, source); err != nil {
			t.Fatal(err)
		}
		test(t, s, conn, chatapi.New(conn.HTTPClient(), s.URL()))
	})
}

func say(t *testing.T, s *devserver.Server, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if err := s.Send(cid, "ann", text); err != nil {
			t.Fatal(err)
		}
	}
}

// What fails is tried again after a pause, and nothing overtakes it; what is
// sent while the server is down, or to another channel, is brought or not.
func TestMessagesInOrder(t *testing.T) {
	inChannel(t, func(t *testing.T, s *devserver.Server, conn *chatconn.Conn, api *chatapi.Client) {
		say(t, s, "1")
		synctest.Wait() // its event has come and gone
		ctx, cancel := context.WithCancelCause(t.Context())
		defer cancel(nil)
		enough := errors.New("enough")
		began := time.Now()
		failures := 2
		var got []string
		err := follow.Messages(ctx, conn, api, cid, func(_ context.Context, m chatapi.Message) error {
			switch {
			case m.Text == "1": // in the history; two more follow as events
				say(t, s, "2", "3")
			case m.Text == "2" && failures > 0:
				failures--
				got = append(got, "failed")
				return errors.New("not now")
			case m.Text == "3":
				s.AddMember("messaging:other", "bot")
				s.Send("messaging:other", "ann", "elsewhere")
				say(t, s, "4")
			case m.Text == "4":
				s.Stop()
				say(t, s, "5")
				s.Restart()
			case m.Text == "5":
				s.FailRequests(1, devserver.Answer{Status: 503}) // of the next catching up
				s.DropAll()
				say(t, s, "6")
			case m.Text == "6":
				cancel(enough)
			}
			got = append(got, m.Text)
			return nil
		})
		if !errors.Is(err, enough) {
			t.Errorf("ended with %v", err)
		}
		if text := fmt.Sprint(got); text != "[1 failed failed 2 3 4 5 6]" {
			t.Errorf("got %s", text)
		}
		if lasted := time.Since(began); lasted < 15*time.Second { // two pauses for the failures, one for the 503
			t.Errorf("it took %v", lasted)
		}
	})
}

// The end of the connection is the end, with its reason.
func TestMessagesEndsWithTheConnection(t *testing.T) {
	for _, c := range []struct {
		name string
		end  func(s *devserver.Server, conn *chatconn.Conn)
		want error
	}{
		{"disconnected", func(_ *devserver.Server, conn *chatconn.Conn) {
			conn.Disconnect(context.Background(), chatconn.KeepPersistence)
		}, chatconn.ErrDisconnected},
		{"closed", func(_ *devserver.Server, conn *chatconn.Conn) { conn.Close() }, nil}, // or disconnected, as seen first
		{"kicked", func(s *devserver.Server, _ *chatconn.Conn) {
			s.Kick("bot", devserver.APIError{Code: 99})
		}, &chatconn.APIError{Code: 99}},
	} {
		t.Run(c.name, func(t *testing.T) {
			inChannel(t, func(t *testing.T, s *devserver.Server, conn *chatconn.Conn, api *chatapi.Client) {
				ended := make(chan error, 1)
				go func() {
					ended <- follow.Messages(t.Context(), conn, api, cid, func(context.Context, chatapi.Message) error { return nil })
				}()
				synctest.Wait()
				c.end(s, conn)
				err := <-ended
				if err == nil {
					t.Error("no reason")
				}
				if api := (*chatconn.APIError)(nil); errors.As(c.want, &api) {
					got := (*chatconn.APIError)(nil)
					if !errors.As(err, &got) || got.Code != api.Code {
						t.Errorf("got %v", err)
					}
				} else if c.want != nil && !errors.Is(err, c.want) {
					t.Errorf("got %v", err)
				}
			})
		})
	}
}
