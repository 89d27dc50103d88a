package transport

import (
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// H1: the checks of many sockets go out together, each 25 ms early at most, and none
// late; those of few keep to their own time, and so do those that are not to join.
func TestChecksTogether(t *testing.T) {
	const opening = 5 * time.Millisecond // between two sockets
	for _, test := range []struct {
		sockets      int
		rounds, most int // moments at which checks went out in one round
		alone        bool
	}{
		{many - 1, 3, many - 1, false},
		{200, 3, 200, true},
		{200, 3, many - 1 + 28, false}, // those that were open when there were many go by themselves, the other 137 opened within 28 moments
	} {
		var (
			mu   sync.Mutex
			sent = map[time.Time]int{}
		)
		inBubble(t, speak([]string{hello}, func(p peer) {
			last := time.Now()
			for {
				if _, _, err := p.ReadMessage(); err != nil {
					return
				}
				now := time.Now()
				mu.Lock()
				sent[now]++
				mu.Unlock()
				gap := now.Sub(last)
				if least := 25*time.Second - 25*time.Millisecond; gap > 25*time.Second || gap <= least || (test.sockets < many || test.alone) && gap != 25*time.Second {
					t.Errorf("%d sockets: a check %v after the one before", test.sockets, gap)
				}
				last = now
				p.say(`{"type":"health.check","connection_id":"id-1"}`)
			}
		}), func(b *bench) {
			b.options.Together = !test.alone
			var all []*session
			for range test.sockets {
				all = append(all, b.serve())
				time.Sleep(opening)
			}
			opened := time.Now()
			for round := range test.rounds {
				time.Sleep(time.Until(opened.Add(time.Duration(round+1) * 25 * time.Second)))
				mu.Lock()
				checks := 0
				for _, n := range sent {
					checks += n
				}
				if checks != test.sockets {
					t.Errorf("%d sockets, round %d: %d checks", test.sockets, round, checks)
				}
				if len(sent) > test.most {
					t.Errorf("%d sockets, round %d: checks at %d moments, want %d at most", test.sockets, round, len(sent), test.most)
				}
				clear(sent)
				mu.Unlock()
			}
			for _, s := range all {
				s.HangUp()
				wantKind(t, s.end(t), "open", HungUp)
			}
		})
		if open := together.open.Load(); open != 0 {
			t.Errorf("%d sockets are counted after their end", open)
		}
	}
}

// H1: beside many, a socket that is not to join keeps to its own time; so does each
// once many are few again.
func TestChecksBesideMany(t *testing.T) {
	var latest atomic.Int64
	inBubble(t, speak([]string{hello}, func(p peer) {
		for {
			if _, _, err := p.ReadMessage(); err != nil {
				return
			}
			latest.Store(time.Now().UnixNano())
			p.say(`{"type":"health.check","connection_id":"id-1"}`)
		}
	}), func(b *bench) {
		hangUp := func(all ...*session) {
			for _, s := range all {
				s.HangUp()
				wantKind(t, s.end(t), "open", HungUp)
			}
		}
		b.options.Together = true
		var all []*session
		for range many {
			all = append(all, b.serve())
		}
		for i, test := range []struct {
			leave    int // before it opens, 7 ms later in the others' interval than the one before
			together bool
			want     time.Duration
		}{
			{0, false, 25 * time.Second},
			{0, true, 25*time.Second - 14*time.Millisecond},
			{2, true, 25 * time.Second},
		} {
			hangUp(all[:test.leave]...)
			all = all[test.leave:]
			time.Sleep(7 * time.Millisecond)
			b.options.Together = test.together
			opened := time.Now()
			newest := b.serve()
			time.Sleep(25 * time.Second)
			synctest.Wait()
			if got := time.Unix(0, latest.Load()).Sub(opened); got != test.want {
				t.Errorf("%d: its first check went out after %v, want %v", i, got, test.want)
			}
			hangUp(newest)
		}
		hangUp(all...)
	})
}

// How much before its time a check goes out, in the cases that take a coincidence.
func TestEarly(t *testing.T) {
	defer func(open int64, since *time.Time) {
		together.open.Store(open)
		together.since.Store(since)
	}(together.open.Load(), together.since.Load())
	now := time.Now()
	for name, test := range map[string]struct {
		open     int64
		since    *time.Time
		due      time.Duration // from now
		interval time.Duration
		want     time.Duration
	}{
		"many":                    {many, &now, 37 * time.Millisecond, 25 * time.Second, 12 * time.Millisecond},
		"few":                     {many - 1, &now, 37 * time.Millisecond, 25 * time.Second, 0},
		"many since this instant": {many, nil, 37 * time.Millisecond, 25 * time.Second, 0},
		"another clock's time":    {many, &now, -time.Millisecond, 25 * time.Second, 0},
		"a tiny interval":         {many, &now, 37 * time.Millisecond, moments - 1, 0},
	} {
		together.open.Store(test.open)
		together.since.Store(test.since)
		if got := early(now.Add(test.due), test.interval); got != test.want {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}
