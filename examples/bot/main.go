// Command bot answers every message in a channel, across lost connections,
// expired tokens and restarts of its own.
//
//	go run ./examples/bot
//
// shows it with a development server of its own, and ends. To run it with a
// service, set CHATCONN_URL, CHATCONN_API_KEY and CHATCONN_SECRET:
//
//	go run ./examples/bot -channel messaging:general
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"

	"github.com/chatconn/chatconn"
	"github.com/chatconn/chatconn/chatapi"
	"github.com/chatconn/chatconn/devserver"
	"github.com/chatconn/chatconn/examples/internal/follow"
	"github.com/chatconn/chatconn/examples/internal/service"
)

func main() {
	cid := flag.String("channel", "messaging:general", "where to answer; the bot must be a member")
	most := flag.Int("answers", 0, "end after so many answers; 0: go on until interrupted")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Stdout, *cid, *most); err != nil && !errors.Is(err, context.Canceled) {
		log.Fatal(err)
	}
}

const botID = "bot"

// run answers messages until ctx ends or it has given the most answers.
func run(ctx context.Context, out io.Writer, cid string, most int) error {
	srv, err := service.Open()
	if err != nil {
		return err
	}
	defer srv.Close()
	var next func(answers int) // what happens in the demonstration
	if srv.Dev != nil {
		next, most = demonstrate(out, srv.Dev, cid), len(script)
		next(0)
	}

	conn, err := chatconn.New(srv.Config)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := conn.ConnectUser(ctx, chatconn.User{ID: botID, Name: "Bot"}, srv.Source(botID)); err != nil {
		return err
	}
	api := chatapi.New(conn.HTTPClient(), srv.Config.BaseURL)

	answers := 0
	done := errors.New("done")
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	err = follow.Messages(ctx, conn, api, cid, func(ctx context.Context, m chatapi.Message) error {
		if m.User.ID == botID {
			return nil
		}
		// The id is made of the question's: however often this is sent, it is one answer.
		answer, err := api.Send(ctx, cid, "re-"+m.ID, fmt.Sprintf("%s, you said %q.", m.User.ID, m.Text))
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "%s: %s\n%s: %s\n", m.User.ID, m.Text, botID, answer.Text)
		answers++
		if answers == most {
			cancel(done)
		} else if next != nil {
			next(answers)
		}
		return nil
	})
	if errors.Is(err, done) {
		stats := conn.Stats()
		fmt.Fprintf(out, "%d answers, %d reconnects, %d tokens\n", answers, stats.Reconnects, stats.Loads)
		return nil
	}
	return err
}

// script is the demonstration: what ann says, and what happens just before.
var script = []struct {
	event string
	makes func(*devserver.Server, func())
	says  string
}{
	{"", nil, "hello"},
	{"the server restarts", func(s *devserver.Server, say func()) {
		s.Stop()
		say() // nobody is connected
		s.Restart()
	}, "are you still there?"},
	{"the bot's token expires", func(s *devserver.Server, say func()) {
		s.ExpireTokens(botID, false)
		say()
	}, "and now?"},
}

// demonstrate returns what plays a line of the script after so many answers.
func demonstrate(out io.Writer, s *devserver.Server, cid string) func(answers int) {
	s.AddMember(cid, botID, "ann")
	return func(answers int) {
		line := script[answers]
		say := func() { s.Send(cid, "ann", line.says) }
		if line.makes == nil {
			say()
			return
		}
		fmt.Fprintf(out, "(%s)\n", line.event)
		line.makes(s, say)
	}
}
