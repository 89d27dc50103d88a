package transport

import (
	"sync/atomic"
	"time"
)

// A process with many sockets sends their health checks together: to wake up for each
// check costs more than the check. An interval has so many moments at which checks go
// out, and each goes out at the last one before it is due, 25 ms early at most by
// default. The moments are counted from when there were many, so that each process has
// its own. Few sockets keep to their own time, and so do those without Options.Together.
const (
	many    = 64
	moments = 1000
)

// together counts the open sockets of the process that have Options.Together.
var together struct {
	open  atomic.Int64
	since atomic.Pointer[time.Time] // when there were many, the last time that this came to be
}

func joinOthers() {
	if together.open.Add(1) == many {
		now := time.Now()
		together.since.Store(&now)
	}
}

func leaveOthers() { together.open.Add(-1) }

// early returns how much before its time a check goes out.
func early(due time.Time, interval time.Duration) time.Duration {
	since := together.since.Load()
	if together.open.Load() < many || since == nil || due.Before(*since) || interval < moments {
		return 0
	}
	return due.Sub(*since) % (interval / moments)
}
