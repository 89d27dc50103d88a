package main

import (
	"context"
	"errors"
	"flag"
	"io"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chatconn/chatconn"
)

var users = flag.Int("users", 200, "how many users TestGatewaySurvivesKill9 connects")

func TestMain(m *testing.M) {
	if isServer() {
		serveUntilEOF()
		return
	}
	os.Exit(m.Run())
}

// R1, T2: the server is killed with SIGKILL while everybody is connected. All come back,
// no faster than the limit, no token is loaded, and one goroutine keeps each idle user.
func TestGatewaySurvivesKill9(t *testing.T) {
	t.Setenv("CHATCONN_URL", "")
	g := gateway{users: *users, dials: 150, down: 500 * time.Millisecond, retryFirst: 500 * time.Millisecond}
	out := io.Discard
	if *users > 200 { // not the everyday test
		g.dials, g.retryFirst, out = 500, 0, os.Stdout
	}
	r, err := g.run(t.Context(), out)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", r)
	if r.Loads != 0 {
		t.Errorf("T2: %d token loads after the first connect", r.Loads)
	}
	if r.Goroutines > g.users+5 { // the standard library's own
		t.Errorf("%d goroutines for %d idle users", r.Goroutines, g.users)
	}
	if r.Before.Dials != g.users || r.After.Dials != g.users {
		t.Errorf("%d dials, then %d", r.Before.Dials, r.After.Dials)
	}
	if r.Before.Most > g.dials || r.After.Most > g.dials {
		t.Errorf("R1: the servers saw %d and %d dials in a second; the limit is %d", r.Before.Most, r.After.Most, g.dials)
	}
}

// R1: in no second more than the limit, even after a pause, and a caller who leaves
// takes nobody's turn.
func TestAtMost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limit := atMost(10)
		time.Sleep(time.Hour)
		began := time.Now()
		gone, leave := context.WithCancel(t.Context())
		leave()
		for i := range 30 {
			for range 20 { // in the first round the turn is free
				if err := limit(gone); !errors.Is(err, context.Canceled) {
					t.Fatalf("turn %d: %v, want %v", i, err, context.Canceled)
				}
			}
			if err := limit(t.Context()); err != nil {
				t.Fatal(err)
			}
			if took, want := time.Since(began), time.Duration(i)*100*time.Millisecond; took != want {
				t.Errorf("turn %d came after %v, want %v", i, took, want)
			}
		}
	})
}

func TestGatewaySaysWhatIsWrong(t *testing.T) {
	t.Setenv("CHATCONN_URL", "")
	for want, g := range map[string]gateway{
		"-users and -dials": {users: 0, dials: 1},
		"ulimit -n":         {users: 1 << 40, dials: 1},
	} {
		if descriptors() > 1<<50 && want == "ulimit -n" {
			continue // no such limit
		}
		if _, err := g.run(t.Context(), io.Discard); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in: %v", want, err)
		}
	}
}

var _ = chatconn.Config{DialLimit: atMost(1)} // it is one
