// Command banner shows an app's banner, "No connection", and shows how a program
// describes, draws and tests its own machine around a connection.
//
//	go run ./examples/banner                    a server goes away for a while, and the banner comes and goes
//	go run ./examples/banner -draw > banner.svg the machine that decides when
//
// Its tests play scripts against a real connection in virtual time, and fail if
// they walk too little of the connection's machine.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"time"

	"github.com/chatconn/chatconn"
	"github.com/chatconn/chatconn/devserver"
	"github.com/chatconn/chatconn/diagrams"
	"github.com/chatconn/chatconn/fsm"
	"github.com/chatconn/chatconn/tokens"
)

// machine decides when the banner is there. What runs is this table, so its
// picture cannot be wrong, and a test checks that no cell is missing.
var machine = diagrams.Table{
	Name:   "banner",
	States: []string{"Hidden", "Patient", "Shown"},
	Events: []diagrams.EventInfo{{Name: "Up", Kind: "connection"}, {Name: "Down", Kind: "connection"}, {Name: "Left", Kind: "connection"}, {Name: "Late", Kind: "timer"}},
	Cells: []diagrams.Cell{
		{From: "Hidden", Event: "Up", Verdict: diagrams.Ignore, To: "Hidden", Reason: "there is nothing to take away"},
		{From: "Hidden", Event: "Down", Verdict: diagrams.Move, To: "Patient", Actions: []string{"Wait"}, Reason: "most gaps are short: say nothing yet"},
		{From: "Hidden", Event: "Left", Verdict: diagrams.Ignore, To: "Hidden", Reason: "nothing was said"},
		{From: "Hidden", Event: "Late", Verdict: diagrams.Refuse, To: "Hidden", Reason: "nobody waits"},

		{From: "Patient", Event: "Up", Verdict: diagrams.Move, To: "Hidden", Actions: []string{"StopWaiting"}, Reason: "it was short"},
		{From: "Patient", Event: "Down", Verdict: diagrams.Ignore, To: "Patient", Reason: "the wait runs"},
		{From: "Patient", Event: "Left", Verdict: diagrams.Move, To: "Hidden", Actions: []string{"StopWaiting"}, Reason: "nobody wants a connection any more"},
		{From: "Patient", Event: "Late", Verdict: diagrams.Move, To: "Shown", Actions: []string{"Show"}, Reason: "it is no short gap"},

		{From: "Shown", Event: "Up", Verdict: diagrams.Move, To: "Hidden", Actions: []string{"Hide"}, Reason: "messages come again"},
		{From: "Shown", Event: "Down", Verdict: diagrams.Ignore, To: "Shown", Reason: "it is said already"},
		{From: "Shown", Event: "Left", Verdict: diagrams.Move, To: "Hidden", Actions: []string{"Hide"}, Reason: "nobody wants a connection any more"},
		{From: "Shown", Event: "Late", Verdict: diagrams.Refuse, To: "Shown", Reason: "the wait is over"},
	},
}

// patience is how long a gap may last before the banner tells of it.
const patience = 2 * time.Second

// eventOf is what a state of the connection means to the banner.
var eventOf = map[fsm.State]string{
	fsm.Connected: "Up", fsm.Connecting: "Down", fsm.Refreshing: "Down", fsm.Paused: "Down", fsm.Offline: "Left",
}

// banner shows and hides itself until no change comes any more.
func banner(changes <-chan chatconn.Change, show func(bool)) {
	state := machine.States[0]
	late := time.NewTimer(0)
	late.Stop()
	for {
		var event string
		select {
		case change, more := <-changes:
			if !more {
				return
			}
			event = eventOf[change.To]
		case <-late.C:
			event = "Late"
		}
		for _, cell := range machine.Cells {
			if cell.From != state || cell.Event != event {
				continue
			}
			state = cell.To
			for _, action := range cell.Actions {
				switch action {
				case "Wait":
					late.Reset(patience)
				case "StopWaiting":
					late.Stop()
				case "Show":
					show(true)
				case "Hide":
					show(false)
				}
			}
			break
		}
	}
}

func main() {
	draw := flag.Bool("draw", false, "print the picture of the banner's machine")
	flag.Parse()
	if *draw {
		fmt.Print(diagrams.SVG(machine, diagrams.Options{}))
		return
	}
	if err := run(context.Background(), os.Stdout); err != nil {
		log.Fatal(err)
	}
}

// run connects to a server of its own, which goes away for a while.
func run(ctx context.Context, out io.Writer) error {
	server, err := devserver.Start(devserver.Options{})
	if err != nil {
		return err
	}
	defer server.Close()
	conn, err := chatconn.New(chatconn.Config{BaseURL: server.URL(), APIKey: server.APIKey(), RetryFirst: time.Second, RetryMax: time.Second})
	if err != nil {
		return err
	}
	shown := make(chan bool, 8) // more than this shows: nobody may be there to read the last ones
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		banner(conn.Watch(ctx), func(show bool) { shown <- show })
	}()
	_, err = conn.ConnectUser(ctx, chatconn.User{ID: "john"}, tokens.Static(server.Token("john", time.Hour)))
	if err == nil {
		fmt.Fprintln(out, "connected; the server goes away")
		server.Stop()
		fmt.Fprintln(out, "the banner is shown:", <-shown)
		err = server.Restart()
	}
	if err == nil {
		fmt.Fprintln(out, "the server is back")
		fmt.Fprintln(out, "the banner is shown:", <-shown)
	}
	if err := conn.Close(); err != nil {
		return err
	}
	<-ended
	return err
}
