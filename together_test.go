package chatconn_test

import (
	"testing"
	"time"

	"github.com/chatconn/chatconn"
	"github.com/chatconn/chatconn/devserver"
)

// H1: however many connections a test has in virtual time, here or beside it, each
// sends its health checks at the same times in every run.
func TestChecksInVirtualTime(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		const connections, hours = 100, 2
		source := w.source("john")
		for range connections {
			conn := w.newConn()
			defer conn.Close()
			if _, err := conn.ConnectUser(w.Context(), chatconn.User{ID: "john"}, source); err != nil {
				w.Fatal(err)
			}
			time.Sleep(3 * time.Millisecond)
		}
		time.Sleep(hours*time.Hour - time.Second)
		last, checks := map[string]time.Time{}, 0
		for _, e := range w.server.Log() {
			switch e.Kind {
			case devserver.Frame:
				checks++
				if gap := e.At.Sub(last[e.ConnectionID]); gap != 25*time.Second {
					w.Fatalf("a check %v after the one before", gap)
				}
				fallthrough
			case devserver.Hello:
				last[e.ConnectionID] = e.At
			}
		}
		if want := connections * (hours*3600/25 - 1); checks != want {
			w.Errorf("%d checks, want %d", checks, want)
		}
	})
}
