package chatconn

import (
	"encoding/json"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chatconn/chatconn/transport"
)

type item struct{ n, size, missed int }

func newItems(buffer, limit int) (*feed[item], *atomic.Int64) {
	var lost atomic.Int64
	f := newFeed(buffer, limit, func(i *item) int { return i.size }, func(i *item) *int { return &i.missed },
		func(n int) { lost.Add(int64(n)) })
	f.stop = func() bool { return true }
	return f, &lost
}

// drain reads what a feed still gives to a reader who is not interrupted.
func drain(f *feed[item]) (got []item) {
	for {
		synctest.Wait()
		select {
		case v, ok := <-f.ch:
			if !ok {
				return got
			}
			got = append(got, v)
		default:
			return got
		}
	}
}

// O2: what fits is delivered, whole and in order; beyond it the oldest go, and the
// next one tells how many.
func TestFeedKeepsTheNewest(t *testing.T) {
	for _, buffer := range []int{0, 4} {
		synctest.Test(t, func(t *testing.T) {
			const limit = 100
			f, lost := newItems(buffer, limit)
			defer f.end()
			const burst = limit + 1 // one more is on its way to the reader
			for i := range burst + buffer {
				f.put(item{n: i})
				synctest.Wait()
			}
			for i, v := range drain(f) {
				if v.n != i || v.missed != 0 {
					t.Fatalf("value %d is %+v", i, v)
				}
			}
			if lost.Load() != 0 {
				t.Errorf("a burst that fits lost %d", lost.Load())
			}

			total := 0
			for range 3 {
				for i := range 10 * limit {
					f.put(item{n: i})
				}
				got := drain(f)
				seen := 0
				for i, v := range got {
					seen += 1 + v.missed
					if i > 0 && v.n != got[i-1].n+1+v.missed {
						t.Fatalf("%+v follows %+v", v, got[i-1])
					}
				}
				if last := got[len(got)-1]; last.n != 10*limit-1 {
					t.Errorf("the newest is lost: the last is %+v", last)
				}
				if seen != 10*limit {
					t.Errorf("%d values are accounted for, of %d", seen, 10*limit)
				}
				total += 10*limit - len(got)
			}
			if int64(total) != lost.Load() {
				t.Errorf("%d lost, %d counted", total, lost.Load())
			}
		})
	}
}

// O2: the bound by bytes, which one huge value may pass alone.
func TestFeedBoundsBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, _ := newItems(0, maxLagEvents)
		defer f.end()
		for i := range 100 {
			f.put(item{n: i, size: 1 << 20})
			synctest.Wait()
		}
		f.mu.Lock()
		if f.bytes > maxLagBytes || len(f.queue) != 16 {
			t.Errorf("%d values of %d bytes wait", len(f.queue), f.bytes)
		}
		f.mu.Unlock()
		f.put(item{n: 100, size: 2 * maxLagBytes})
		got := drain(f)
		if last := got[len(got)-1]; last.n != 100 || len(got) != 2 || last.missed != 99 {
			t.Errorf("got %+v", got)
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.bytes != 0 || f.queue != nil || f.moving {
			t.Errorf("%d bytes and room for %d are kept after the burst", f.bytes, cap(f.queue))
		}
	})
}

// O2: what waits in the channel counts, and where it is too much by itself the
// oldest go from there. None is forgotten that a lost value would have told of.
func TestFeedBoundsItsChannel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, lost := newItems(64, maxLagEvents)
		defer f.end()
		put := func(n int) {
			for range n {
				f.put(item{size: 1 << 20})
				synctest.Wait()
			}
		}
		for range 3 {
			put(60)
			held, seen := 0, 0
			for _, v := range drain(f) {
				held, seen = held+v.size, seen+1+v.missed
			}
			if held != maxLagBytes || seen != 60 {
				t.Errorf("%d bytes waited, %d of 60 values are accounted for", held, seen)
			}
		}
		if n := lost.Load(); n != 3*(60-16) {
			t.Errorf("%d lost values are counted", n)
		}
		put(20)
		f.purge()
		put(1)
		if got := drain(f); len(got) != 1 || got[0].missed != 20 {
			t.Errorf("after a purge of 20 came %+v", got)
		}
		f.put(item{size: 2 * maxLagBytes})
		if got := drain(f); len(got) != 1 || got[0].missed != 0 {
			t.Errorf("one that is longer than all came as %+v", got)
		}
	})
}

// O2: what waited in the queue before it went into the channel counts there as well.
func TestFeedBoundsWhatWasMoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, _ := newItems(64, maxLagEvents)
		defer f.end()
		for range 64 {
			f.put(item{})
		}
		for range 16 {
			f.put(item{size: 1 << 20})
		}
		for range 64 {
			<-f.ch
			synctest.Wait()
		}
		for range 10 {
			f.put(item{size: 1 << 20})
		}
		held, seen := 0, 0
		for _, v := range drain(f) {
			held, seen = held+v.size, seen+1+v.missed
		}
		if held != maxLagBytes || seen != 26 {
			t.Errorf("%d bytes waited, %d of 26 values are accounted for", held, seen)
		}
	})
}

// O2: what one reader has missed is not told to the others who get the same events.
func TestMissedIsEachReadersOwn(t *testing.T) {
	h := hub{lost: func(int) {}}
	slow, other := h.read(t.Context(), nil), h.read(t.Context(), nil)
	socket := new(work)
	h.listen(socket)
	event := func() {
		h.event(socket, transport.Frame{Type: []byte("a"), Raw: []byte(`{}`)})
		h.pause()
	}
	event()
	<-other
	h.purge() // which only the slow one has something to lose by
	event()
	if e := <-slow; e.Missed != 1 {
		t.Errorf("the slow reader is told of %d", e.Missed)
	}
	if e := <-other; e.Missed != 0 {
		t.Errorf("the other reader is told of %d", e.Missed)
	}
}

// C8: after a purge nothing from before reaches the reader, and the next value
// counts what was lost, the one that was in the mover's hand included.
func TestFeedPurge(t *testing.T) {
	for _, buffer := range []int{0, 4} {
		for _, n := range []int{0, 1, 3, 5, 50} {
			synctest.Test(t, func(t *testing.T) {
				f, lost := newItems(buffer, 100)
				defer f.end()
				for i := range n {
					f.put(item{n: i})
				}
				f.purge()
				if got := drain(f); len(got) != 0 {
					t.Errorf("after the purge came %+v", got)
				}
				if lost.Load() != int64(n) {
					t.Errorf("%d of %d are counted", lost.Load(), n)
				}
				f.purge() // of nothing
				f.put(item{n: 1000})
				if got := drain(f); len(got) != 1 || got[0] != (item{n: 1000, missed: n}) {
					t.Errorf("the next is %+v, want it to have missed %d", got, n)
				}
			})
		}
	}
}

// A purge may meet readers and writers; afterwards nothing old is delivered.
func TestFeedPurgeUnderLoad(t *testing.T) {
	for range 200 {
		f, _ := newItems(2, 50)
		var generation atomic.Int64
		var group sync.WaitGroup
		group.Go(func() {
			for {
				oldest := generation.Load()
				v, open := <-f.ch
				if !open {
					return
				}
				if int64(v.n) < oldest {
					t.Errorf("a value of generation %d was taken in generation %d", v.n, oldest)
				}
			}
		})
		for g := range 20 {
			for range 30 {
				f.put(item{n: g})
			}
			f.purge()
			generation.Store(int64(g) + 1)
		}
		f.end()
		group.Wait()
	}
}

// A feed ends once, with or without a reader, and takes nothing afterwards.
func TestFeedEnds(t *testing.T) {
	for _, n := range []int{0, 1, 10} {
		synctest.Test(t, func(t *testing.T) {
			f, _ := newItems(0, 100)
			for i := range n {
				f.put(item{n: i})
			}
			synctest.Wait()
			f.end()
			f.end()
			<-f.over
			f.put(item{n: 1})
			f.purge()
			if _, open := <-f.ch; open {
				t.Error("it delivers after its end")
			}
		})
	}
}

// Close: a reader who reads gets what waits, one who does not is given up soon.
func TestFeedFinish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, lost := newItems(0, 1000)
		for i := range 500 {
			f.put(item{n: i})
		}
		got := make(chan int)
		go func() {
			n := 0
			for range f.ch {
				n++
			}
			got <- n
		}()
		f.finish(time.Now().Add(time.Second))
		if n := <-got; n != 500 || lost.Load() != 0 {
			t.Errorf("a reader got %d of 500", n)
		}

		f, _ = newItems(0, 1000)
		f.put(item{})
		f.put(item{})
		began := time.Now()
		f.finish(time.Now().Add(time.Second))
		if took := time.Since(began); took > 200*time.Millisecond {
			t.Errorf("nobody reads, and it took %v", took)
		}
	})
}

// S4, O1: an event outlives its frame; names that repeat are shared, and the table
// of names is bounded; a time that is none is the zero time.
func TestDecode(t *testing.T) {
	var h hub
	raw := []byte(`{"type":"message.new"}`)
	f := transport.Frame{Type: []byte("message.new"), CID: []byte("messaging:general"), UserID: []byte("jane"),
		CreatedAt: []byte("2026-01-02T03:04:05.123456Z"), Raw: json.RawMessage(raw)}
	e := h.decode(f)
	clear(raw)
	if e.Type != "message.new" || e.CID != "messaging:general" || e.UserID != "jane" || string(e.Raw) != `{"type":"message.new"}` ||
		!e.CreatedAt.Equal(time.Date(2026, 1, 2, 3, 4, 5, 123456000, time.UTC)) {
		t.Errorf("%+v", e)
	}
	f.CreatedAt = []byte("yesterday")
	if e := h.decode(f); !e.CreatedAt.IsZero() {
		t.Errorf("a hostile time is %v", e.CreatedAt)
	}
	for i := range 10_000 {
		h.name([]byte{byte(i), byte(i >> 8), 'x'})
	}
	if n := len(h.names); n > 4096 {
		t.Errorf("%d names are kept", n)
	}
	h.names = nil
	h.name(make([]byte, 1<<20))
	if len(h.names) != 0 {
		t.Error("a name of a megabyte is kept")
	}
}

// O2, C8: events that arrived together are handed over together: at the pause, when
// the batch is full, and before another socket is listened to or another
// reader comes. Those that a purge finds count as lost.
func TestEventsAreHandedOverTogether(t *testing.T) {
	var lost atomic.Int64
	h := hub{lost: func(n int) { lost.Add(int64(n)) }}
	all, some := h.read(t.Context(), nil), h.read(t.Context(), []string{"b"})
	frame := func(kind string) transport.Frame {
		return transport.Frame{Type: []byte(kind), Raw: []byte(`{}`)}
	}
	want := func(what string, nAll, nSome int) {
		t.Helper()
		if len(all) != nAll || len(some) != nSome {
			t.Errorf("%s: %d and %d events are there, want %d and %d", what, len(all), len(some), nAll, nSome)
		}
		for range len(all) {
			<-all
		}
		for range len(some) {
			if e := <-some; e.Type != "b" {
				t.Errorf("%s: got %q", what, e.Type)
			}
		}
	}
	first, second := new(work), new(work)
	h.listen(first)
	h.event(first, frame("a"))
	h.event(first, frame("b"))
	want("before the pause", 0, 0)
	h.pause()
	want("after the pause", 2, 1)
	for range maxBatch {
		h.event(first, frame("b"))
	}
	want("a full batch", maxBatch, maxBatch)
	h.event(first, frame("a"))
	h.listen(second)
	want("another socket", 1, 0)
	if late := h.event(first, frame("a")); !late {
		t.Error("an abandoned socket is listened to")
	}
	h.event(second, frame("b"))
	h.purge()
	h.pause()
	want("purged", 0, 0)
	if n := lost.Load(); n != 2 {
		t.Errorf("%d are lost, want 1 of each reader", n)
	}
	h.event(second, frame("a"))
	late := h.read(t.Context(), nil)
	if h.pause(); len(late) != 0 {
		t.Error("a new reader has an event from before it came")
	}
	want("a new reader", 1, 0)
}
