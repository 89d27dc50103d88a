package chatconn

import (
	"math/rand/v2"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/chatconn/chatconn/fsm"
)

// retryAfterMax bounds how long a server can make a client wait.
const retryAfterMax = 5 * time.Minute

// pace decides how long an attempt waits before it begins. It belongs to the
// owner. Specification: R1 to R3.
//
// A loss that many clients may share is spread: the first delay is uniform over
// 0 to RetryFirst, the second one RetryFirst plus up to 20 %, and from there
// delays grow by 1.3 to RetryMax, each ± 20 %. A local cause waits for nobody
// but the last attempt.
type pace struct {
	cfg      *Config
	backoff  *backoff.ExponentialBackOff // nil until something fails
	failures int                         // failed attempts since the last reset
	refusals int                         // refused tokens since the last reset
	forged   int                         // of these, refused for their signature or form
	began    time.Time                   // the latest attempt, once its wait was over
	told     time.Time                   // before which the server wants no attempt (Retry-After)
	opened   time.Time                   // when it became Connected; zero: it is not
}

// reset begins afresh: a connection was healthy, or the user is a new one.
func (p *pace) reset() {
	p.relax()
	p.refusals, p.forged, p.told = 0, 0, time.Time{}
}

// relax forgets failed attempts, but not that tokens were refused: a server
// that accepts a token and then refuses it must not be asked in a loop.
func (p *pace) relax() {
	p.backoff = nil
	p.failures = 0
}

// lost notes that the connection is not healthy any more: its socket is gone, or
// its token was refused. A long healthy life starts the backoff afresh; the
// opening alone does not.
func (p *pace) lost(now time.Time) {
	if !p.opened.IsZero() && now.Sub(p.opened) >= p.cfg.RetryReset {
		p.reset()
	}
	p.opened = time.Time{}
}

// next returns the delay of the attempt that the event causes, and whether the
// limit of failed attempts is spent.
func (p *pace) next(n *note, now time.Time) (delay time.Duration, spent bool) {
	switch n.event {
	case fsm.Connect, fsm.ReconnectSocket, fsm.Foreground, fsm.NetworkAvailable:
		return p.local(now), false
	case fsm.TokenRefused, fsm.RequestRefused:
		p.refusals++
		if p.refusals == 1 {
			return 0, false // E: one load, then reconnect at once
		}
	case fsm.Dropped:
		if n.fresh {
			return p.local(now), false
		}
	}
	if n.event != fsm.RequestRefused { // the socket is healthy: no attempt has failed
		p.failures++
	}
	if p.cfg.RetryLimit > 0 && p.failures > p.cfg.RetryLimit {
		return 0, true
	}
	delay = p.shared()
	if least := p.local(now); least > 0 {
		// Attempts keep their distance, and a crowd that has just tried together
		// stays spread over what is left of the time.
		left := max(0, p.cfg.RetryFirst-least)
		delay = max(delay, least+time.Duration(float64(delay)*float64(left)/float64(p.cfg.RetryFirst)))
	}
	if n.retryAfter > 0 {
		// The whole crowd was told the same time, so it is spread behind it.
		least := min(n.retryAfter, retryAfterMax)
		p.told = now.Add(least)
		delay = max(delay, least+rand.N(p.cfg.RetryFirst))
	}
	return delay, false
}

// local is the delay after a cause that no other client shares. The server's own
// word outweighs it.
func (p *pace) local(now time.Time) time.Duration {
	delay := max(0, p.told.Sub(now))
	if !p.began.IsZero() && p.cfg.MinDialInterval > 0 {
		delay = max(delay, p.began.Add(p.cfg.MinDialInterval).Sub(now))
	}
	return delay
}

// shared is the next delay after a cause that many clients may share.
//
// The traps of the library are fenced here: it is made with its constructor, and
// MaxElapsedTime is off, since it counts from the last reset and would end a
// retry after an hour of health at once.
func (p *pace) shared() time.Duration {
	if p.backoff == nil {
		p.backoff = backoff.NewExponentialBackOff(
			backoff.WithInitialInterval(p.cfg.RetryFirst/2),
			backoff.WithRandomizationFactor(1), // uniform over 0 to RetryFirst
			backoff.WithMultiplier(2),          // the next interval is RetryFirst
			backoff.WithMaxInterval(p.cfg.RetryMax),
			backoff.WithMaxElapsedTime(0),
		)
		return max(0, p.backoff.NextBackOff())
	}
	second := p.backoff.RandomizationFactor == 1
	p.backoff.RandomizationFactor, p.backoff.Multiplier = 0.2, 1.3
	delay := p.backoff.NextBackOff()
	if second && delay < p.cfg.RetryFirst {
		// The first delays fill 0 to RetryFirst. A second one below RetryFirst
		// would put early birds among the last of the first wave.
		delay = 2*p.cfg.RetryFirst - delay
	}
	return max(0, delay)
}
