// Command bridge carries messages between two channels, in both directions.
//
//	go run ./examples/bridge
//
// shows it with a development server of its own, and ends. To run it with a
// service, set CHATCONN_URL, CHATCONN_API_KEY and CHATCONN_SECRET:
//
//	go run ./examples/bridge -left messaging:one -right messaging:two
//
// It has a user in each channel, with a connection each, so the channels might
// as well be two services'. A copy is written by the bridge's user there, whose
// messages are never carried: that is what keeps them from going round for ever.
// Two bridges with other user ids between the same channels would do so.
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
	"sync"

	"github.com/chatconn/chatconn"
	"github.com/chatconn/chatconn/chatapi"
	"github.com/chatconn/chatconn/devserver"
	"github.com/chatconn/chatconn/examples/internal/follow"
	"github.com/chatconn/chatconn/examples/internal/service"
)

func main() {
	left := flag.String("left", "messaging:left", "one channel; bridge-left must be a member")
	right := flag.String("right", "messaging:right", "the other; bridge-right must be a member")
	most := flag.Int("messages", 0, "end after so many messages; 0: go on until interrupted")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Stdout, *left, *right, *most); err != nil && !errors.Is(err, context.Canceled) {
		log.Fatal(err)
	}
}

// side is one end of the bridge.
type side struct {
	userID, cid string
	conn        *chatconn.Conn
	api         *chatapi.Client
}

var errDone = errors.New("done")

// run carries messages until ctx ends, an end is Offline for good, or most
// messages were carried.
func run(ctx context.Context, out io.Writer, left, right string, most int) error {
	srv, err := service.Open()
	if err != nil {
		return err
	}
	defer srv.Close()
	ends := [2]*side{{userID: "bridge-left", cid: left}, {userID: "bridge-right", cid: right}}
	for _, s := range ends {
		if s.conn, err = chatconn.New(srv.Config); err != nil {
			return err
		}
		defer s.conn.Close()
		s.api = chatapi.New(s.conn.HTTPClient(), srv.Config.BaseURL)
	}
	var next func(carried int)
	if srv.Dev != nil {
		next, most = demonstrate(srv.Dev, left, right), len(script)
		next(0)
	}
	for _, s := range ends {
		if _, err := s.conn.ConnectUser(ctx, chatconn.User{ID: s.userID, Name: "Bridge"}, srv.Source(s.userID)); err != nil {
			return err
		}
	}

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var mu sync.Mutex // guards carried and out
	carried := 0
	tell := func(from, to *side, m chatapi.Message) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintf(out, "%s -> %s  %s: %s\n", from.cid, to.cid, m.User.ID, m.Text)
		carried++
		if carried == most {
			cancel(errDone)
		} else if next != nil {
			next(carried)
		}
	}
	var both sync.WaitGroup
	for i, from := range ends {
		to := ends[1-i]
		both.Go(func() { cancel(carry(ctx, from, to, tell)) })
	}
	both.Wait()
	if err := context.Cause(ctx); err != errDone {
		return err
	}
	return nil
}

// carry copies what others write in one channel to the other one.
func carry(ctx context.Context, from, to *side, tell func(from, to *side, m chatapi.Message)) error {
	return follow.Messages(ctx, from.conn, from.api, from.cid, func(ctx context.Context, m chatapi.Message) error {
		if m.User.ID == from.userID {
			return nil // a copy from the other side
		}
		if _, err := to.api.Send(ctx, to.cid, "copy-"+m.ID, m.User.ID+": "+m.Text); err != nil {
			return err
		}
		tell(from, to, m)
		return nil
	})
}

// script is the demonstration: who says what where, while the bridge runs.
var script = []struct {
	right, restart bool
	userID, text   string
}{
	{false, false, "ann", "is anybody there?"},
	{true, false, "bob", "I am"},
	{false, true, "ann", "the server went away for a moment"},
	{true, false, "bob", "I saw nothing"},
}

// demonstrate returns what says a line of the script after so many messages.
func demonstrate(s *devserver.Server, left, right string) func(carried int) {
	s.AddMember(left, "bridge-left", "ann")
	s.AddMember(right, "bridge-right", "bob")
	return func(carried int) {
		line := script[carried]
		cid := left
		if line.right {
			cid = right
		}
		if line.restart {
			s.Stop()
			defer s.Restart()
		}
		s.Send(cid, line.userID, line.text)
	}
}
