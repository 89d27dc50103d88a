package chatconn_test

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chatconn/chatconn"
	"github.com/chatconn/chatconn/devserver"
	"github.com/chatconn/chatconn/fsm"
)

// O1: the first value is the present state; then every change follows the one
// before, and an update without a change brings a new attempt or retry time.
func TestWatch(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		ctx, cancel := context.WithCancel(w.Context())
		var changes []chatconn.Change
		done := make(chan struct{})
		watch := w.conn.Watch(ctx) // subscribes now, not when it is read
		go func() {
			defer close(done)
			for c := range watch {
				changes = append(changes, c)
			}
		}()
		w.server.FailHandshakes(3, devserver.APIError{Code: -1})
		w.login(w.source("john"))
		w.server.ExpireTokens("john", true)
		synctest.Wait()
		w.conn.Background()
		w.conn.Foreground()
		w.conn.Foreground() // changes nothing, so it is not told
		w.be(fsm.Connected)
		if err := w.conn.Disconnect(ctx, chatconn.KeepPersistence); err != nil {
			w.Error(err)
		}
		synctest.Wait()
		cancel()
		<-done

		first := changes[0]
		if first.From != fsm.Offline || first.To != fsm.Offline || first.Event != 0 || first.Moved() || first.Cause != nil {
			w.Errorf("the first value is %+v", first)
		}
		moves, updates := 0, 0
		for i, c := range changes[1:] {
			before := changes[i]
			if c.Seq != before.Seq+1 || c.From != before.To || c.Event == 0 || c.At.Before(before.At) || c.Missed != 0 {
				w.Errorf("%+v follows %+v", c, before)
			}
			switch {
			case c.Moved():
				moves++
			case c.Attempt == before.Attempt && c.RetryAt.Equal(before.RetryAt):
				w.Errorf("%+v brings nothing new", c)
			default:
				updates++
				if c.Attempt > 1 && (c.Cause == nil || !c.RetryAt.After(c.At)) {
					w.Errorf("R4: %+v does not tell why or when", c)
				}
			}
		}
		if last := changes[len(changes)-1]; last.To != fsm.Offline || last.Event != fsm.Disconnect || updates < 3 || moves < 7 {
			w.Errorf("%d moves and %d updates, the last is %+v", moves, updates, last)
		}

		// Who comes later is told what holds now.
		late := <-w.conn.Watch(w.Context())
		if late.To != fsm.Offline || late.From != fsm.Offline || late.Seq != changes[len(changes)-1].Seq || late.Event != 0 {
			w.Errorf("a late watcher is told %+v", late)
		}
		w.close()
	})
}

// O1, O2: State is right when a change is told, for every watcher at once, and a
// call's answer comes after both.
func TestStateIsRight(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		ctx, cancel := context.WithCancel(w.Context())
		var group sync.WaitGroup
		for range 20 {
			watch := w.conn.Watch(ctx)
			group.Go(func() {
				for range watch {
					w.conn.State()
					w.conn.Stats()
					w.conn.Session()
					w.conn.CurrentUser()
				}
			})
		}
		s := w.source("john")
		for range 50 {
			session, err := w.conn.ConnectUser(ctx, chatconn.User{ID: "john"}, s)
			if err != nil {
				w.Fatal(err)
			}
			now, open := w.conn.Session()
			if w.conn.State() != fsm.Connected || !open || now.ConnectionID != session.ConnectionID {
				w.Errorf("connected, and the state is %v, the session %v", w.conn.State(), open)
			}
			if err := w.conn.Disconnect(ctx, chatconn.KeepPersistence); err != nil {
				w.Error(err)
			}
			if _, open := w.conn.Session(); w.conn.State() != fsm.Offline || open {
				w.Errorf("disconnected, and the state is %v, the session %v", w.conn.State(), open)
			}
		}
		cancel()
		group.Wait()
		w.close()
	})
}

// O2: a watcher who does not read loses the oldest and is told how many; nobody
// else notices.
func TestSlowWatcher(t *testing.T) {
	inWorld(t, func(c *chatconn.Config) { c.MinDialInterval = -1 }, func(w *world) {
		slow := w.conn.Watch(w.Context())
		w.login(w.source("john"))
		for range 2000 {
			w.conn.Background()
			w.conn.Foreground()
		}
		w.be(fsm.Connected)
		synctest.Wait()
		now := <-w.conn.Watch(w.Context())
		var last chatconn.Change
		seen := uint64(0)
		for last.Seq != now.Seq {
			c := <-slow
			if c.Seq != last.Seq+1+uint64(c.Missed) && seen > 0 {
				w.Fatalf("%d follows %d, and %d are said to be missed", c.Seq, last.Seq, c.Missed)
			}
			seen, last = seen+1, c
		}
		if seen != 1024+1 { // and the one that was on its way
			w.Errorf("%d changes of %d came", seen, now.Seq)
		}
		if w.conn.State() != last.To {
			w.Errorf("State is %v, the last change %+v", w.conn.State(), last)
		}
		w.close()
	})
}

// O1: events by type, with the raw JSON; health checks and the like are none.
func TestEventsByType(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		all, some := w.conn.Events(w.Context()), w.conn.Events(w.Context(), "message.new", "typing.start")
		w.login(w.source("john"))
		sent := []string{"message.new", "reaction.new", "typing.start", "message.new.x", "message.new"}
		for _, name := range sent {
			if _, err := w.server.Emit("john", map[string]any{"type": name, "cid": "messaging:a", "user": map[string]any{"id": "jane"}}); err != nil {
				w.Fatal(err)
			}
		}
		w.server.Garbage("john", []byte(`null`), false)
		w.server.Garbage("john", []byte(`[{"type":"x"}]`), false)
		w.server.Garbage("john", []byte("{\"type\":\"\xff\""), false)
		w.server.Garbage("john", []byte(`{"type":"x"}`), true)
		time.Sleep(time.Minute) // health checks pass by
		for _, name := range sent {
			e := <-all
			var raw struct{ Type string }
			if err := json.Unmarshal(e.Raw, &raw); e.Type != name || e.CID != "messaging:a" || err != nil || raw.Type != name {
				w.Errorf("%s came as %+v, %v", name, e, err)
			}
			if strings.HasPrefix(name, "reaction") || strings.HasSuffix(name, ".x") {
				continue
			}
			if e := <-some; e.Type != name {
				w.Errorf("%s came as %+v to who asked for some", name, e)
			}
		}
		select {
		case e := <-all:
			w.Errorf("one more came: %+v", e)
		case e := <-some:
			w.Errorf("one more came: %+v", e)
		default:
		}
		w.is(fsm.Connected)
		w.close()
	})
}

// O2: a burst of 65,536 events loses nothing, also for who begins to read late;
// 16 MiB are the other bound. A reader who never reads costs the rest nothing.
func TestBurstOfEvents(t *testing.T) {
	const burst = 65_536
	inWorld(t, nil, func(w *world) {
		late, never := w.conn.Events(w.Context()), w.conn.Events(w.Context())
		prompt := w.conn.Events(w.Context())
		var got atomic.Int64
		go func() {
			for e := range prompt {
				if e.Missed != 0 {
					w.Errorf("a prompt reader missed %d", e.Missed)
				}
				got.Add(1)
			}
		}()
		w.login(w.source("john"))
		emit := func(n int, text string) {
			for i := range n {
				if _, err := w.server.Emit("john", map[string]any{"type": "x", "n": i, "text": text}); err != nil {
					w.Fatal(err)
				}
				if i%1000 == 0 {
					synctest.Wait() // the server drops clients that lag, too
				}
			}
			synctest.Wait()
		}
		emit(burst, "")
		for i := range burst {
			e := <-late
			var v struct{ N int }
			if err := json.Unmarshal(e.Raw, &v); err != nil || v.N != i || e.Missed != 0 {
				w.Fatalf("event %d is %s, %d missed", i, e.Raw, e.Missed)
			}
		}
		if got.Load() != burst || w.conn.Stats().MissedEvents != 0 {
			w.Errorf("%d of %d came, %d missed", got.Load(), burst, w.conn.Stats().MissedEvents)
		}

		// late has read everything, never nothing: 32 MiB more.
		emit(1024, strings.Repeat("x", 32<<10))
		bytes, events, missed := 0, 0, 0
		for open := true; open; {
			select {
			case e := <-late:
				bytes, events, missed = bytes+len(e.Raw), events+1, missed+e.Missed
			default:
				open = false
			}
			synctest.Wait()
		}
		if bytes < 15<<20 || bytes > 16<<20+70*(33<<10) || events+missed != 1024 {
			w.Errorf("a reader who lags 32 MiB got %d events of %d bytes, and missed %d", events, bytes, missed)
		}
		if stats := w.conn.Stats(); stats.MissedEvents < uint64(missed)+burst-512 {
			w.Errorf("%d missed by all readers", stats.MissedEvents)
		}
		w.is(fsm.Connected)
		_ = never
		w.close()
	})
}

// C8: once SwitchUser has begun no event of the first user is delivered, and what
// was not delivered is counted.
func TestSwitchUserPurgesEvents(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		events := w.conn.Events(w.Context())
		w.login(w.source("john"))
		for range 500 {
			_, _ = w.server.Emit("john", map[string]any{"type": "john"})
		}
		synctest.Wait()
		if _, err := w.conn.SwitchUser(w.Context(), chatconn.User{ID: "jane"}, w.source("jane")); err != nil {
			w.Fatal(err)
		}
		_, _ = w.server.Emit("jane", map[string]any{"type": "jane"})
		if e := <-events; e.Type != "jane" || e.Missed != 500 {
			w.Errorf("after the switch came %s, %d missed", e.Type, e.Missed)
		}
		if n := w.conn.Stats().MissedEvents; n != 500 {
			w.Errorf("%d missed events are counted", n)
		}
		w.close()
	})
}

// The same in a race: events of both users pour in while users are switched, and
// none of the first comes after the call has returned.
func TestSwitchUserRacesEvents(t *testing.T) {
	inWorld(t, func(c *chatconn.Config) { c.MinDialInterval = -1 }, func(w *world) {
		ctx, cancel := context.WithCancel(w.Context())
		events := w.conn.Events(ctx)
		var group sync.WaitGroup
		for _, user := range []string{"john", "jane"} {
			group.Go(func() {
				for ctx.Err() == nil {
					_, _ = w.server.Emit(user, map[string]any{"type": user})
					time.Sleep(time.Microsecond)
				}
			})
		}
		w.login(w.source("john"))
		for i := range 200 {
			user := []string{"jane", "john"}[i%2]
			if _, err := w.conn.SwitchUser(ctx, chatconn.User{ID: user}, w.source(user)); err != nil {
				w.Fatal(err)
			}
			for range 3 {
				if e := <-events; e.Type != user {
					w.Fatalf("an event of %s after the switch to %s", e.Type, user)
				}
			}
			time.Sleep(10 * time.Microsecond)
		}
		cancel()
		group.Wait()
		w.close()
	})
}

// The end of a context closes its channel, and so does Close: the last change is
// told, and the events that its user has not been given are counted as missed.
func TestChannelsEnd(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		w.login(w.source("john"))
		ctx, cancel := context.WithCancel(w.Context())
		changes, events := w.conn.Watch(ctx), w.conn.Events(ctx)
		full := w.conn.Events(ctx)
		for range 1000 {
			_, _ = w.server.Emit("john", map[string]any{"type": "x"})
		}
		synctest.Wait()
		cancel()
		synctest.Wait()
		for range changes {
		}
		for range events {
		}
		for range full {
		}

		last, kept := w.conn.Watch(w.Context()), w.conn.Events(w.Context())
		for range 1000 {
			_, _ = w.server.Emit("john", map[string]any{"type": "x"})
		}
		synctest.Wait()
		missed := w.conn.Stats().MissedEvents
		var group sync.WaitGroup
		group.Go(w.close)
		n := 0
		for range kept {
			n++
		}
		var end chatconn.Change
		for end = range last {
		}
		group.Wait()
		if n += int(w.conn.Stats().MissedEvents - missed); n != 1000 || end.To != fsm.Offline || end.Event != fsm.Close {
			w.Errorf("%d events of 1000 are accounted for, the last change is %+v", n, end)
		}
	})
}

// Wait returns at once where it is already, and says so when the Conn ends.
func TestWait(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		if s, err := w.conn.Wait(w.Context(), fsm.Connected, fsm.Offline); s != fsm.Offline || err != nil {
			w.Errorf("%v, %v", s, err)
		}
		ctx, cancel := context.WithTimeout(w.Context(), time.Second)
		defer cancel()
		_, err := w.conn.Wait(ctx, fsm.Connected)
		wantError(w, "wait", err, context.DeadlineExceeded)
		time.AfterFunc(time.Minute, func() { _ = w.conn.Close() })
		_, err = w.conn.Wait(w.Context(), fsm.Connected)
		wantError(w, "wait", err, chatconn.ErrClosed)
		w.close()
	})
}

// O3: the counters.
func TestCounters(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		s := w.source("john")
		if got := w.conn.Stats(); got != (chatconn.Stats{}) {
			w.Errorf("a new Conn has %+v", got)
		}
		w.login(s)
		opened := time.Now()
		time.Sleep(time.Minute)
		w.server.FailHandshakes(2, devserver.APIError{Code: -1})
		w.server.DropAll()
		synctest.Wait()
		if at := w.conn.Stats().ConnectedAt; !at.IsZero() {
			w.Errorf("nothing is open since %v", at)
		}
		w.be(fsm.Connected)
		got := w.conn.Stats()
		if got.Attempts != 4 || got.Reconnects != 1 || got.Loads != 1 || got.State != fsm.Connected || got.LastError == nil || !got.ConnectedAt.After(opened) {
			w.Errorf("%+v", got)
		}
		w.close()
	})
}

// C9, O1: a watcher's context may end while the Conn closes. Closing used to walk
// the very lists from which the end takes the watcher.
func TestCloseBesideTheEndOfWatchers(t *testing.T) {
	for range 200 {
		conn, err := chatconn.New(chatconn.Config{APIKey: "key"})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		for range 20 {
			one, end := context.WithCancel(ctx)
			defer end()
			conn.Watch(one)
			conn.Events(one)
		}
		go cancel()
		conn.Close()
	}
}

// O1, R4: a watcher who was told of a wait is told that a call or news ends it.
func TestSkippedWaitIsTold(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		w.login(w.source("john"))
		w.server.Stop()
		time.Sleep(time.Minute) // where waits are long
		changes := w.conn.Watch(w.Context())
		before := <-changes
		for time.Until(before.RetryAt) < 5*time.Second {
			before = <-changes
		}
		time.Sleep(2 * time.Second)
		w.net.BlackHole(true) // the attempt takes its time
		attempts := w.conn.Stats().Attempts
		w.conn.Foreground()
		synctest.Wait()
		if n := w.conn.Stats().Attempts - attempts; n != 1 {
			w.Fatalf("%d attempts have begun", n)
		}
		select {
		case c := <-changes:
			if c.Moved() || c.Event != fsm.Foreground || c.Seq != before.Seq+1 || c.Attempt != before.Attempt || !c.RetryAt.IsZero() {
				w.Errorf("after %+v the watcher is told %+v", before, c)
			}
		default:
			w.Error("the watcher still waits for the old time")
		}
		select {
		case c := <-changes:
			w.Errorf("one more came: %+v", c)
		default:
		}
		w.net.BlackHole(false)
		w.close()
	})
}

// O2: 16 MiB are all that waits for a reader, its channel included; only the value
// in each hand on the way comes on top.
func TestBurstOfLongEvents(t *testing.T) {
	for longest, burst := range map[int64]int{1 << 20: 40, 6 << 20: 8} {
		inWorld(t, func(c *chatconn.Config) { c.MaxMessageBytes = longest }, func(w *world) {
			events := w.conn.Events(w.Context())
			w.login(w.source("john"))
			text := strings.Repeat("x", int(longest)-1024)
			for range burst {
				if _, err := w.server.Emit("john", map[string]any{"type": "x", "text": text}); err != nil {
					w.Fatal(err)
				}
				synctest.Wait()
			}
			bytes, seen := 0, 0
			for seen < burst {
				e := <-events
				bytes, seen = bytes+len(e.Raw), seen+1+e.Missed
			}
			if most := 16<<20 + 2*int(longest); bytes > most || seen != burst {
				w.Errorf("%d bytes waited, want at most %d; %d of %d events are accounted for", bytes, most, seen, burst)
			}
			w.is(fsm.Connected)
			w.close()
		})
	}
}
