package main

import (
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/chatconn/chatconn/conntest"
	"github.com/chatconn/chatconn/diagrams"
	"github.com/chatconn/chatconn/fsm"
)

var update = flag.Bool("update", false, "write the transcripts of the scripts; read the difference")

// walked is what all tests here walk of the connection's machine. They must walk
// 23.5 % of it, or the package fails.
var walked conntest.Coverage

func TestMain(m *testing.M) { os.Exit(walked.Main(m, 23.5)) }

// The banner's machine has an answer to every event in every state.
func TestMachineIsComplete(t *testing.T) {
	if err := diagrams.Check(machine); err != nil {
		t.Fatal(err)
	}
}

// What the banner says in each script of testdata stands there, between the
// transitions of the connection. "go test -update" writes it; read the difference.
func TestBanner(t *testing.T) {
	conntest.RunDir(t, "testdata", conntest.Options{
		Start: func(w *conntest.World) {
			changes := w.Conn().Watch(w.Context())
			go banner(changes, func(show bool) { w.Print("banner shown: %t", show) })
		},
		Coverage: &walked,
		Update:   *update,
	})
}

// What ends a connection, and what the banner makes of it.
func TestWhatEndsAConnection(t *testing.T) {
	cases := []conntest.Case{
		{From: fsm.Connected, Event: fsm.DisconnectSocket, To: fsm.Offline, Do: []fsm.Action{fsm.HangUp, fsm.DropToken}},
		{From: fsm.Connected, Event: fsm.Disconnect, To: fsm.Offline, Do: []fsm.Action{fsm.HangUp, fsm.ForgetUser}},
		{From: fsm.Connected, Event: fsm.Close, To: fsm.Offline, Do: []fsm.Action{fsm.HangUp, fsm.ForgetUser, fsm.Finish}},
		{From: fsm.Connected, Event: fsm.Background, To: fsm.Paused, Do: []fsm.Action{fsm.HangUp}},
		{From: fsm.Connected, Event: fsm.NetworkLost, To: fsm.Paused, Do: []fsm.Action{fsm.HangUp}},
		{From: fsm.Connected, Event: fsm.RequestRefused, To: fsm.Refreshing, Do: []fsm.Action{fsm.RefuseToken, fsm.Retry}},
		{From: fsm.Connected, Event: fsm.Dropped, To: fsm.Connecting, Do: []fsm.Action{fsm.HangUp, fsm.Retry}},
		{From: fsm.Connected, Event: fsm.Unhealthy, To: fsm.Refreshing, Do: []fsm.Action{fsm.HangUp, fsm.DropToken, fsm.Retry}},
		{From: fsm.Connected, Event: fsm.TokenRefused, To: fsm.Refreshing, Do: []fsm.Action{fsm.HangUp, fsm.RefuseToken, fsm.Retry}},
		{From: fsm.Connected, Event: fsm.TokenUntimely, To: fsm.Refreshing, Do: []fsm.Action{fsm.HangUp, fsm.DropToken, fsm.Retry}},
		{From: fsm.Connected, Event: fsm.Denied, To: fsm.Offline, Do: []fsm.Action{fsm.HangUp, fsm.DropToken}},
	}
	conntest.Table(t, &walked, cases)
	for _, c := range cases {
		want := "Down"
		if c.To == fsm.Offline {
			want = "Left"
		}
		if eventOf[c.To] != want {
			t.Errorf("after %v the banner hears %s, want %s", c.Event, eventOf[c.To], want)
		}
	}
}

// The program does what it says.
func TestRun(t *testing.T) {
	var out strings.Builder
	if err := run(t.Context(), &out); err != nil {
		t.Fatal(err)
	}
	const want = `connected; the server goes away
the banner is shown: true
the server is back
the banner is shown: false
`
	if out.String() != want {
		t.Errorf("got:\n%s", &out)
	}
}
