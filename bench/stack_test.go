package bench

import (
	"fmt"
	"net/http"
	"runtime"
	"testing"
	"time"

	"github.com/chatconn/chatconn"
	"github.com/chatconn/chatconn/tokens"
)

// The goroutine that reads an idle connection stays within the 2 KiB that it began with,
// after health checks, too: a stack that grew once would double what the connection takes.
func TestStackOfIdleConnections(t *testing.T) {
	if race {
		t.Skip("the race detector needs stack")
	}
	const connections = 200
	base := base(t)
	for range connections {
		conn, err := chatconn.New(chatconn.Config{APIKey: "key", BaseURL: base, HealthCheckInterval: 100 * time.Millisecond, HealthTimeout: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := conn.ConnectUser(t.Context(), john, tokens.Static(token)); err != nil {
			t.Fatal(err)
		}
	}
	runtime.GC() // what connecting needed
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	before := m.StackInuse
	for answered, goal := checks(t), checks(t)+5*connections; answered < goal; answered = checks(t) {
		time.Sleep(10 * time.Millisecond)
	}
	runtime.ReadMemStats(&m)
	if grown := (int64(m.StackInuse) - int64(before)) / connections; grown > 1024 {
		t.Errorf("the stacks grew by %d bytes a connection", grown)
	}
}

// checks returns how many health checks the server has answered.
func checks(t *testing.T) (n int) {
	t.Helper()
	resp, err := http.Get(server.base + "/checks")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := fmt.Fscan(resp.Body, &n); err != nil {
		t.Fatal(err)
	}
	return n
}
