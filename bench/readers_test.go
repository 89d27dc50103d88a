package bench

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/chatconn/chatconn"
	"github.com/chatconn/chatconn/fsm"
	"github.com/chatconn/chatconn/tokens"
)

var crowds = []int{1, 10, 100}

// readers reports what one of n things cost with so many readers, and the share of
// each reader. Linear means that the share does not grow with the crowd.
func readers(b *testing.B, crowd, n int, f func()) {
	var took time.Duration
	var allocs, bytes uint64
	rounds := 0
	for b.Loop() {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		began := time.Now()
		f()
		took += time.Since(began)
		runtime.ReadMemStats(&after)
		allocs += after.Mallocs - before.Mallocs
		bytes += after.TotalAlloc - before.TotalAlloc
		rounds++
	}
	all := float64(rounds * n)
	b.ReportMetric(float64(took)/all, "ns/op")
	b.ReportMetric(float64(allocs)/all, "allocs/all")
	b.ReportMetric(float64(bytes)/all, "B/all")
	b.ReportMetric(float64(took)/all/float64(crowd), "ns/reader")
	b.ReportMetric(float64(allocs)/all/float64(crowd), "allocs/reader")
}

// One event of 1 KiB from the socket to each of 1, 10 and 100 readers of Events.
func BenchmarkEventsToReaders(b *testing.B) {
	const events = 5000 // fewer than a reader may lag behind
	for _, crowd := range crowds {
		b.Run(fmt.Sprint(crowd), func(b *testing.B) {
			base := base(b)
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			conn := newConn(base)
			defer conn.Close()
			all := make([]<-chan chatconn.Event, crowd)
			for i := range all {
				all[i] = conn.Events(ctx)
			}
			if _, err := conn.ConnectUser(ctx, john, tokens.Static(token)); err != nil {
				b.Fatal(err)
			}
			readers(b, crowd, events, func() {
				var group sync.WaitGroup
				for _, feed := range all {
					group.Go(func() {
						for i := range events {
							if e := <-feed; e.Type != "message.new" || e.Missed != 0 {
								b.Errorf("event %d: %s, %d missed", i, e.Type, e.Missed)
								return
							}
						}
					})
				}
				order(b, "/push", url.Values{"n": {fmt.Sprint(events)}})
				group.Wait()
			})
		})
	}
}

// One change of state to each of 1, 10 and 100 readers of Watch. The network goes and
// comes back under a dial that gets nowhere, so an op holds a share of what an attempt costs.
func BenchmarkWatchToReaders(b *testing.B) {
	const flaps = 200 // each is two changes: fewer than a reader may lag behind
	for _, crowd := range crowds {
		b.Run(fmt.Sprint(crowd), func(b *testing.B) {
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			conn, err := chatconn.New(chatconn.Config{APIKey: "key", BaseURL: "http://127.0.0.1", MinDialInterval: -1,
				DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
					<-ctx.Done()
					return nil, ctx.Err()
				}})
			if err != nil {
				b.Fatal(err)
			}
			defer conn.Close()
			go conn.ConnectUser(ctx, john, tokens.Static(token))
			if _, err := conn.Wait(ctx, fsm.Connecting); err != nil {
				b.Fatal(err)
			}
			all := make([]<-chan chatconn.Change, crowd)
			for i := range all {
				all[i] = conn.Watch(ctx)
				<-all[i] // the present state
			}
			readers(b, crowd, 2*flaps, func() {
				var group sync.WaitGroup
				for _, changes := range all {
					group.Go(func() {
						for paused := 0; paused < flaps; {
							c := <-changes
							if c.Missed != 0 {
								b.Errorf("%d missed", c.Missed)
								return
							}
							if c.Moved() && c.To == fsm.Paused {
								paused++
							}
						}
					})
				}
				for range flaps {
					conn.NetworkLost()
					conn.NetworkAvailable()
				}
				group.Wait()
			})
		})
	}
}
