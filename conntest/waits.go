package conntest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/chatconn/chatconn"
	"github.com/chatconn/chatconn/transport"
)

// record is one line of a recording.
type record struct {
	Time    time.Time
	From    string
	Event   string
	Verdict string
	To      string
	Actions []string
	Cause   string
	Attempt int
}

// is reports whether a change tells of this transition.
func (r record) is(c chatconn.Change) bool {
	return r.Time.Equal(c.At) && r.From == c.From.String() && r.Event == c.Event.String() &&
		r.To == c.To.String() && r.Attempt == c.Attempt
}

func (r record) does(action string) bool { return slices.Contains(r.Actions, action) }

// waits knows the band in which each random wait must lie. It follows the
// promises R1 and R3, not the code that keeps them.
type waits struct {
	first, most, reset, interval time.Duration
	limit                        int // of failures in a row; 0: none

	static     bool          // the user's source has one token only
	retryAfter time.Duration // what the server asks for at present

	rounds   int       // random waits in a row
	failures int       // of these, after attempts that failed
	refusals int       // of tokens, since a connection was healthy
	since    time.Time // Connected, now or the last time
}

func newWaits(cfg chatconn.Config) waits {
	or := func(d, standard time.Duration) time.Duration {
		if d == 0 {
			return standard
		}
		return d
	}
	return waits{
		first: or(cfg.RetryFirst, 5*time.Second), most: or(cfg.RetryMax, 25*time.Second),
		reset: or(cfg.RetryReset, 30*time.Second), interval: or(cfg.MinDialInterval, time.Second),
		limit: cfg.RetryLimit,
	}
}

// band returns the least and the longest of the nth random wait in a row.
func (w *waits) band(n int) (least, longest time.Duration) {
	switch n {
	case 1:
		return 0, w.first
	case 2:
		return min(w.first, w.most), w.first + w.first/5
	}
	mean := float64(w.first)
	for range n - 2 {
		mean = min(mean*1.3, float64(w.most))
	}
	return time.Duration(0.8 * mean), time.Duration(1.2 * mean)
}

// tell is a transition as the transcript shows it.
func (w *waits) tell(r record, change *chatconn.Change) string {
	text := fmt.Sprintf("%s -%s-> %s", r.From, r.Event, r.To)
	switch {
	case r.Verdict == "ignore":
		text += "  ignored"
	case r.Verdict == "refuse":
		text += "  REFUSED"
	case len(r.Actions) > 0:
		text += " / " + strings.Join(r.Actions, " ")
	}
	var notes []string
	if in := w.next(r, change); in == spent {
		notes = append(notes, in)
	} else if in != "" {
		notes = append(notes, fmt.Sprintf("attempt %d, %s", r.Attempt, in))
	}
	if r.Cause != "" {
		notes = append(notes, r.Cause)
	}
	if notes != nil {
		text += "  (" + strings.Join(notes, "; ") + ")"
	}
	return text
}

const spent = "no attempt is left"

// next tells when the attempt begins that a transition causes or hastens.
func (w *waits) next(r record, change *chatconn.Change) string {
	if r.From == "Offline" && (r.Event == "Connect" || r.Event == "ConnectHeld") {
		w.rounds, w.failures, w.refusals = 0, 0, 0
	}
	switch {
	case r.From == "Connected" && r.To != "Connected":
		if r.Time.Sub(w.since) >= w.reset {
			w.rounds, w.failures, w.refusals = 0, 0, 0 // R3
		}
	case r.From != "Connected" && r.To == "Connected":
		w.since = r.Time
	}
	var wait time.Duration
	var cause error
	if change != nil {
		cause = change.Cause
		if !change.RetryAt.IsZero() {
			wait = change.RetryAt.Sub(r.Time)
		}
	}
	switch {
	case r.does("SkipWait") && change != nil:
		return w.local(wait)
	case !r.does("Retry"):
		return ""
	}
	if r.From == "Offline" || r.From == "Paused" {
		w.rounds, w.failures = 0, 0
	}
	switch r.Event {
	case "Connect", "ReconnectSocket", "Foreground", "NetworkAvailable":
		return w.local(wait)
	case "TokenRefused", "RequestRefused":
		if w.refusals++; w.refusals == 1 {
			return w.local(wait)
		}
	case "Dropped":
		switch r.Cause {
		case "api-5", "api-40", "api-41", "api-42", "api-43":
			if !w.static { // a fresh token is there already
				return w.local(wait)
			}
		}
	}
	if r.Event != "RequestRefused" { // then the socket is healthy, and no attempt has failed
		w.failures++
	}
	if w.limit > 0 && w.failures > w.limit {
		return spent
	}
	w.rounds++
	least, longest := w.band(w.rounds)
	if after := w.asked(cause); after > 0 {
		least, longest = max(least, after), max(longest, after+w.first)
	}
	// A band is told to the tenth of a second.
	tenth := func(d time.Duration) string { return short(d.Round(100 * time.Millisecond)) }
	if wait < least || wait > longest {
		return fmt.Sprintf("in %v, which is not within %s–%s", wait, tenth(least), tenth(longest))
	}
	return fmt.Sprintf("in %s–%s", tenth(least), tenth(longest))
}

// local tells a wait that nobody else shares: none, or the rest of the interval
// between two dials.
func (w *waits) local(wait time.Duration) string {
	switch {
	case wait <= 0:
		return "at once"
	case wait > w.interval:
		return fmt.Sprintf("in %v, which is more than %v", wait, w.interval)
	case exact(wait):
		return "in " + short(wait)
	}
	return "within " + short(w.interval)
}

// asked returns the Retry-After that came with an error.
func (w *waits) asked(cause error) time.Duration {
	var failure *transport.Error
	if errors.As(cause, &failure) {
		return min(failure.RetryAfter, 5*time.Minute)
	}
	var api *chatconn.APIError
	if errors.As(cause, &api) {
		return min(w.retryAfter, 5*time.Minute)
	}
	return 0
}
