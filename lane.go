package chatconn

import "sync"

// maxLane bounds what waits for a logger or a recording that is stuck.
const maxLane = 4096

// A lane runs functions one after the other, in order, on a goroutine that lasts
// only while there are any. Loggers and recordings, which are the program's
// code, run here: never on the owner, never under a lock. What finds the lane
// full is dropped, and do says so.
type lane struct {
	mu      sync.Mutex
	queue   []func()
	running bool
	start   func()        // run; one for good, so that starting it costs no memory
	idle    chan struct{} // closed when the lane runs dry; nil until somebody waits
}

func (l *lane) do(f func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.queue) >= maxLane {
		return false
	}
	l.queue = append(l.queue, f)
	if !l.running {
		l.running = true
		if l.start == nil {
			l.start = l.run
		}
		go l.start()
	}
	return true
}

func (l *lane) run() {
	const keep = 64 // room for so many functions is held for the next time
	var batch []func()
	next := 0
	defer func() { // the program's code may end the goroutine: the rest has another
		if next < len(batch) {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.queue = append(batch[next+1:], l.queue...)
			go l.start()
		}
	}()
	for {
		l.mu.Lock()
		batch, l.queue = l.queue, batch[:0]
		if len(batch) == 0 {
			if cap(l.queue) > keep {
				l.queue = nil
			}
			l.running = false
			if l.idle != nil {
				close(l.idle)
				l.idle = nil
			}
			l.mu.Unlock()
			return
		}
		l.mu.Unlock()
		for next = 0; next < len(batch); next++ {
			_ = guard(func() error { batch[next](); return nil }) // its panic is its own loss
			batch[next] = nil
		}
	}
}

// dry returns a channel that is closed once everything given so far has run.
func (l *lane) dry() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.running {
		done := make(chan struct{})
		close(done)
		return done
	}
	if l.idle == nil {
		l.idle = make(chan struct{})
	}
	return l.idle
}
