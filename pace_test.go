package chatconn

import (
	"errors"
	"math"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chatconn/chatconn/fsm"
)

func newPace(configure func(*Config)) *pace {
	cfg := Config{APIKey: "key"}
	if configure != nil {
		configure(&cfg)
	}
	if _, err := cfg.complete(); err != nil {
		panic(err)
	}
	return &pace{cfg: &cfg}
}

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// R1: the first delay after a loss is uniform over 0 to 5 s; the second is one
// first delay and up to 20 %; from there delays grow by 1.3 to 25 s, ± 20 %.
func TestDelaysOfAnOutage(t *testing.T) {
	const clients = 20_000
	delays := make([][]time.Duration, 12)
	for range clients {
		p := newPace(nil)
		for i := range delays {
			d, spent := p.next(&note{event: fsm.Dropped}, epoch)
			if spent {
				t.Fatal("R2: no attempt is left")
			}
			delays[i] = append(delays[i], d)
		}
	}

	first := delays[0]
	slices.Sort(first)
	// Kolmogorov and Smirnov: a uniform sample of this size stays closer than
	// this but for one time in a million.
	if gap := distanceFromUniform(first, 5*time.Second); gap > 2.69/math.Sqrt(clients) {
		t.Errorf("the first delay is %.4f away from uniform", gap)
	}
	nominal := 5 * time.Second
	for i, sample := range delays[1:] {
		least, most := slices.Min(sample), slices.Max(sample)
		low, high := time.Duration(0.8*float64(nominal)), time.Duration(1.2*float64(nominal))
		if i == 0 {
			low = nominal // folded upwards, see pace.shared
		}
		width := float64(high - low)
		if least < low || most > high+1 || float64(least-low) > 0.01*width || float64(high-most) > 0.01*width {
			t.Errorf("delay %d is %v to %v, want %v to %v", i+2, least, most, low, high)
		}
		nominal = min(time.Duration(1.3*float64(nominal)), 25*time.Second)
	}
}

// distanceFromUniform is the largest gap between a sorted sample and what it would
// be if it were uniform over 0 to most.
func distanceFromUniform(sample []time.Duration, most time.Duration) (gap float64) {
	for i, d := range sample {
		want := float64(d) / float64(most)
		gap = max(gap, math.Abs(want-float64(i)/float64(len(sample))), math.Abs(want-float64(i+1)/float64(len(sample))))
	}
	return gap
}

// R1: causes that no other client shares do not wait, but for the last attempt.
func TestLocalCausesDoNotWait(t *testing.T) {
	local := []fsm.Event{fsm.Connect, fsm.ReconnectSocket, fsm.Foreground, fsm.NetworkAvailable}
	for _, e := range local {
		p := newPace(nil)
		if d, _ := p.next(&note{event: e}, epoch); d != 0 {
			t.Errorf("%v: the first attempt waits %v", e, d)
		}
		p.began = epoch
		for _, ago := range []time.Duration{0, 300 * time.Millisecond, time.Second, time.Hour} {
			want := max(0, time.Second-ago)
			if d, _ := p.next(&note{event: e}, epoch.Add(ago)); d != want {
				t.Errorf("%v, %v after the last attempt: waits %v, want %v", e, ago, d, want)
			}
		}
		if p.failures != 0 {
			t.Errorf("%v counts as a failure", e)
		}
		p.cfg.MinDialInterval = -1
		if d, _ := p.next(&note{event: e}, epoch); d != 0 {
			t.Errorf("%v: waits %v although MinDialInterval is off", e, d)
		}
	}
	p := newPace(nil)
	if d, _ := p.next(&note{event: fsm.Dropped, fresh: true}, epoch); d != 0 || p.failures != 0 {
		t.Errorf("a newer token is at hand: waits %v after %d failures", d, p.failures)
	}
}

// E: the first refused token is replaced at once, the next ones are paced, also
// when API answers refuse them (R1). An answer that refuses is no failed attempt:
// its socket is healthy (R2).
func TestRefusedTokensArePaced(t *testing.T) {
	for _, e := range []fsm.Event{fsm.TokenRefused, fsm.RequestRefused} {
		failed := 0 // a refusal that counts
		if e == fsm.TokenRefused {
			failed = 1
		}
		p := newPace(nil)
		if d, _ := p.next(&note{event: e}, epoch); d != 0 {
			t.Errorf("%v: the first load waits %v", e, d)
		}
		for i := range 3 {
			if p.next(&note{event: e}, epoch); p.backoff == nil || p.failures != (i+1)*failed {
				t.Errorf("%v: refusal %d is not paced", e, i+2)
			}
		}
		p.relax() // a pause does not make the server like the token
		if p.next(&note{event: e}, epoch); p.backoff == nil || p.failures != failed {
			t.Errorf("%v: not paced after a pause", e)
		}
		p.opened = epoch
		p.lost(epoch.Add(29 * time.Second))
		if p.next(&note{event: e}, epoch); p.backoff == nil || p.failures != 2*failed {
			t.Errorf("%v: not paced after a short life", e)
		}
		p.opened = epoch
		p.lost(epoch.Add(30 * time.Second)) // R3
		if d, _ := p.next(&note{event: e}, epoch); d != 0 {
			t.Errorf("%v: waits %v after a healthy life", e, d)
		}
	}
}

// R3: the backoff starts afresh after 30 s of health, not when a socket opens.
func TestBackoffResetsAfterHealth(t *testing.T) {
	for _, life := range []time.Duration{0, time.Second, 30*time.Second - 1, 30 * time.Second, time.Hour} {
		p := newPace(nil)
		for range 5 {
			p.next(&note{event: fsm.Dropped}, epoch)
		}
		p.opened = epoch
		p.lost(epoch.Add(life))
		d, _ := p.next(&note{event: fsm.Dropped}, epoch)
		if fresh := d <= 5*time.Second; fresh != (life >= 30*time.Second) {
			t.Errorf("after a life of %v the delay is %v", life, d)
		}
		if !p.opened.IsZero() {
			t.Error("the lost socket counts as open")
		}
	}
}

// R2: days and thousands of failures later there is still a next attempt. The
// library's own clock runs, which would stop it after 15 minutes.
func TestRetryForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPace(nil)
		for i := range 10_000 {
			d, spent := p.next(&note{event: fsm.Dropped}, time.Now())
			if spent || d < 0 || d > 30*time.Second || i > 0 && d < 4*time.Second {
				t.Fatalf("attempt %d: in %v, spent %t", i, d, spent)
			}
			time.Sleep(d)
		}
	})
}

// R2: the optional bound.
func TestRetriesAreSpent(t *testing.T) {
	p := newPace(func(c *Config) { c.RetryLimit = 3 })
	for i := range 5 {
		if _, spent := p.next(&note{event: fsm.Dropped, cause: errors.New("x")}, epoch); spent != (i >= 3) {
			t.Errorf("failure %d of 3 permitted: spent %t", i+1, spent)
		}
	}
}

// E: Retry-After is honoured and capped, and the crowd that was told the same
// time is spread behind it.
func TestRetryAfter(t *testing.T) {
	for _, c := range []struct{ told, least, most time.Duration }{
		{time.Minute, time.Minute, time.Minute + 5*time.Second},
		{24 * time.Hour, 5 * time.Minute, 5*time.Minute + 5*time.Second},
	} {
		least, most := time.Duration(math.MaxInt64), time.Duration(0)
		for range 1000 {
			d, _ := newPace(nil).next(&note{event: fsm.Dropped, retryAfter: c.told}, epoch)
			least, most = min(least, d), max(most, d)
		}
		if least < c.least || most > c.most || most-least < 4500*time.Millisecond {
			t.Errorf("told %v: waits %v to %v", c.told, least, most)
		}
	}
}
