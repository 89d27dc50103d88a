package chatconn

import (
	"context"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/chatconn/chatconn/transport"
)

// What one slow reader may lag behind before it loses the oldest. Specification: O2.
const (
	maxLagChanges = 1024
	maxLagEvents  = 65_536
	maxLagBytes   = 16 << 20
)

// eventBuffer lets a reader of events take a burst without a goroutine between
// it and the socket.
const eventBuffer = 64

// A feed carries values to one reader, who may be slow or gone. A value that
// finds the channel ready goes straight into it; the rest waits in a queue, and
// a goroutine moves it for as long as the queue lasts. Nobody who puts a value
// in ever waits for the reader.
type feed[T any] struct {
	ch    chan T
	limit int           // values that may wait
	size  func(*T) int  // bytes of a value; nil: not counted
	told  func(*T) *int // where a value says how many were lost before it
	lost  func(int)     // hears of every loss; nil: nobody
	stir  chan struct{} // wakes the mover: the queue was purged or the feed ends
	stop  func() bool   // releases the context
	over  chan struct{} // closed when ch is

	mu      sync.Mutex
	settled sync.Cond // on mu: the mover is not in the middle of a send
	queue   []T
	bytes   int   // of the queue
	sizes   []int // of the latest values that went into ch, a ring
	recent  int   // their sum: what is in ch has no more
	sent    int   // values that went into ch
	missed  int
	moving  bool // the mover runs
	sending bool // it is in the middle of a send
	ended   bool
}

func newFeed[T any](buffer, limit int, size func(*T) int, told func(*T) *int, lost func(int)) *feed[T] {
	f := &feed[T]{
		ch: make(chan T, buffer), limit: limit, size: size, told: told, lost: lost,
		stir: make(chan struct{}, 1), over: make(chan struct{}),
	}
	f.settled.L = &f.mu
	if size != nil {
		f.sizes = make([]int, buffer)
	}
	return f
}

// put hands values over without waiting. It does not modify them: other readers get
// them, too.
func (f *feed[T]) put(values ...T) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range values {
		f.putOne(&values[i])
	}
}

func (f *feed[T]) putOne(v *T) {
	if f.ended {
		return
	}
	size := f.sizeOf(v)
	if !f.moving {
		for f.recent+size > maxLagBytes && f.buffered()+size > maxLagBytes && f.takeBack() {
		}
		next := v
		if f.missed > 0 {
			next = f.telling(*v, f.missed)
		}
		select {
		case f.ch <- *next:
			f.missed = 0
			f.note(size)
			return
		default:
		}
		f.moving = true
		go f.move()
	}
	f.queue = append(f.queue, *v)
	f.bytes += size
	drop, buffered := 0, f.buffered()
	for len(f.queue)-drop > f.limit || f.size != nil && f.bytes+buffered > maxLagBytes && len(f.queue)-drop > 1 {
		f.bytes -= f.sizeOf(&f.queue[drop])
		drop++
	}
	f.drop(drop)
}

// telling returns a value that says how many were lost before it.
func (f *feed[T]) telling(v T, missed int) *T {
	*f.told(&v) = missed
	return &v
}

// note remembers the size of a value that has gone into ch.
func (f *feed[T]) note(size int) {
	if len(f.sizes) > 0 {
		at := &f.sizes[f.sent%len(f.sizes)]
		f.recent += size - *at
		*at = size
		f.sent++
	}
}

// buffered returns the bytes of the values in ch that the reader has not taken.
func (f *feed[T]) buffered() (n int) {
	for i := range min(len(f.ch), len(f.sizes)) {
		n += f.sizes[(f.sent-1-i+len(f.sizes))%len(f.sizes)]
	}
	return n
}

func (f *feed[T]) sizeOf(v *T) int {
	if f.size == nil {
		return 0
	}
	return f.size(v)
}

// drop loses the oldest n values of the queue. The caller holds mu.
func (f *feed[T]) drop(n int) {
	if n == 0 {
		return
	}
	clear(f.queue[:n])
	f.queue = f.queue[n:]
	f.missed += n
	if f.lost != nil {
		f.lost(n)
	}
}

// takeBack loses the oldest value in ch, unless the reader has taken them all. The
// caller holds mu. The next value to go into ch tells of it.
func (f *feed[T]) takeBack() bool {
	select {
	case v := <-f.ch:
		f.missed += 1 + *f.told(&v)
		if f.lost != nil {
			f.lost(1)
		}
		return true
	default:
		return false
	}
}

// move sends what waits, in order, until nothing does.
func (f *feed[T]) move() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for !f.ended && len(f.queue) > 0 {
		next, size := f.queue[0], f.sizeOf(&f.queue[0])
		f.bytes -= size
		f.queue[0] = *new(T)
		f.queue = f.queue[1:]
		missed := f.missed
		if missed > 0 {
			next = *f.telling(next, missed)
		}
		f.missed = 0
		f.sending = true
		f.mu.Unlock()
		sent := false
		select {
		case f.ch <- next:
			sent = true
		case <-f.stir:
		}
		f.mu.Lock()
		f.sending = false
		if sent {
			f.note(size)
		} else { // purged or ended: this one is lost as well
			f.missed += missed + 1
			if f.lost != nil {
				f.lost(1)
			}
		}
		f.settled.Broadcast()
	}
	f.moving = false
	if len(f.queue) == 0 {
		f.queue = nil // a burst does not cost memory for ever
	}
	if f.ended {
		close(f.ch)
		close(f.over)
	}
}

// purge loses everything that the reader has not taken yet. When it returns, no
// value from before can reach the reader.
func (f *feed[T]) purge() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ended {
		return
	}
	f.bytes = 0
	f.drop(len(f.queue))
	f.interrupt()
	for f.sending {
		f.settled.Wait()
	}
	for f.takeBack() {
	}
	select {
	case <-f.stir: // nobody was there to hear it
	default:
	}
}

func (f *feed[T]) interrupt() {
	select {
	case f.stir <- struct{}{}:
	default:
	}
}

// end closes the reader's channel; values it has not taken are dropped.
func (f *feed[T]) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ended {
		return
	}
	f.ended = true
	if f.moving {
		f.interrupt()
		return // the mover closes ch, nobody else sends
	}
	close(f.ch)
	close(f.over)
}

// finish lets a reader who still reads take what waits for it, then ends the
// feed. A reader that takes nothing for a tenth of a second is gone.
func (f *feed[T]) finish(deadline time.Time) {
	const look, looks = 2 * time.Millisecond, 50
	for last, same := -1, 0; same < looks && time.Now().Before(deadline); same++ {
		f.mu.Lock()
		waiting := len(f.queue)
		if f.sending {
			waiting++
		}
		f.mu.Unlock()
		if waiting == 0 {
			break
		}
		if waiting != last {
			last, same = waiting, 0
		}
		time.Sleep(look)
	}
	f.stop()
	f.end()
	<-f.over
}

// hub holds the readers of one Conn.
type hub struct {
	lost func(int) // counts missed events

	mu       sync.Mutex
	last     Change // what a new watcher is told first
	closed   bool
	socket   *work // whose frames are delivered; nil: nobody's
	watchers []*feed[Change]
	readers  []*reader
	batch    *[]Event          // borrowed; events of socket that arrived together, until all of them are here
	names    map[string]string // the strings that repeat from event to event
	lately   [3]string         // type, channel and user of the last event: often the next one's, too
}

// maxBatch is how many events are gathered at most. Waking a reader costs more than
// an event does, so those that arrived together are handed over together.
const maxBatch = 64

var batches = sync.Pool{New: func() any { b := make([]Event, 0, maxBatch); return &b }}

type reader struct {
	feed  *feed[Event]
	types []string // nil: all
}

func (r *reader) wants(kind string) bool { return len(r.types) == 0 || slices.Contains(r.types, kind) }

func (h *hub) watch(ctx context.Context) <-chan Change {
	f := newFeed(0, maxLagChanges, nil, func(c *Change) *int { return &c.Missed }, nil)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed || ctx == nil || ctx.Err() != nil {
		f.end()
		return f.ch
	}
	now := h.last
	now.From, now.Event, now.Cause, now.Missed = now.To, 0, nil, 0
	f.put(now)
	h.watchers = append(h.watchers, f)
	f.stop = context.AfterFunc(ctx, func() {
		f.end()
		h.mu.Lock()
		defer h.mu.Unlock()
		h.watchers = slices.DeleteFunc(h.watchers, func(w *feed[Change]) bool { return w == f })
	})
	return f.ch
}

func (h *hub) read(ctx context.Context, types []string) <-chan Event {
	f := newFeed(eventBuffer, maxLagEvents,
		func(e *Event) int { return len(e.Raw) }, func(e *Event) *int { return &e.Missed }, h.lost)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed || ctx == nil || ctx.Err() != nil {
		f.end()
		return f.ch
	}
	h.handOver() // to those who were there when it came
	h.readers = append(h.readers, &reader{f, slices.Clone(types)})
	f.stop = context.AfterFunc(ctx, func() {
		f.end()
		h.mu.Lock()
		defer h.mu.Unlock()
		h.readers = slices.DeleteFunc(h.readers, func(r *reader) bool { return r.feed == f })
	})
	return f.ch
}

// change tells every watcher.
func (h *hub) change(c Change) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last = c
	for _, f := range h.watchers {
		f.put(c)
	}
}

// listen makes one socket the only source of events; nil: none.
func (h *hub) listen(w *work) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.handOver()
	h.socket = w
}

// event takes a frame of a socket, unless the socket is an abandoned one. It runs on
// the socket's reading goroutine and waits for no reader. Readers have it after the
// next pause, at the latest.
func (h *hub) event(w *work, f transport.Frame) (late bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.socket != w {
		return true
	}
	wanted := false
	for _, r := range h.readers {
		wanted = wanted || r.wants(string(f.Type))
	}
	if !wanted {
		return false
	}
	if h.batch == nil {
		h.batch = batches.Get().(*[]Event)
	}
	*h.batch = append(*h.batch, h.decode(f))
	if len(*h.batch) == maxBatch {
		h.handOver()
	}
	return false
}

// pause hands over what a socket has brought: it has no more at the moment. A reader
// who has not taken the last batch may be waiting for a processor, and gets a turn:
// values that go through the queue cost more than that.
func (h *hub) pause() {
	h.mu.Lock()
	crowded := false
	if h.batch != nil {
		h.handOver()
		for _, r := range h.readers {
			crowded = crowded || len(r.feed.ch) > 0
		}
	}
	h.mu.Unlock()
	if crowded {
		runtime.Gosched()
	}
}

// handOver gives the batch to its readers. The caller holds mu.
func (h *hub) handOver() {
	if h.batch == nil {
		return
	}
	events := *h.batch
	for _, r := range h.readers {
		if len(r.types) == 0 {
			r.feed.put(events...)
			continue
		}
		for _, e := range events {
			if r.wants(e.Type) {
				r.feed.put(e)
			}
		}
	}
	clear(events)
	*h.batch = events[:0]
	batches.Put(h.batch)
	h.batch = nil
}

// decode makes an event that outlives the frame.
func (h *hub) decode(f transport.Frame) Event {
	for i, b := range [...][]byte{f.Type, f.CID, f.UserID} {
		if string(b) != h.lately[i] {
			h.lately[i] = h.name(b)
		}
	}
	raw := make([]byte, len(f.Raw))
	copy(raw, f.Raw) // right after make, which then clears nothing
	e := Event{Type: h.lately[0], CID: h.lately[1], UserID: h.lately[2], Raw: raw}
	if len(f.CreatedAt) > 0 {
		if err := e.CreatedAt.UnmarshalText(f.CreatedAt); err != nil {
			e.CreatedAt = time.Time{} // a hostile or foreign time is no time
		}
	}
	return e
}

// name returns b as a string that is shared with earlier events, since types,
// channels and users repeat. The table is bounded.
func (h *hub) name(b []byte) string {
	const most, longest = 4096, 128
	if len(b) == 0 {
		return ""
	}
	if s, ok := h.names[string(b)]; ok {
		return s
	}
	s := string(b)
	if len(b) <= longest {
		if h.names == nil || len(h.names) >= most {
			h.names = make(map[string]string)
		}
		h.names[s] = s
	}
	return s
}

// purge loses the events that no reader has taken yet. Specification: C8.
func (h *hub) purge() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.handOver() // so that these are counted as well
	for _, r := range h.readers {
		r.feed.purge()
	}
}

// close ends every feed; readers who still read get what waits for them.
func (h *hub) close(deadline time.Time) {
	h.mu.Lock()
	h.closed = true
	watchers, readers := slices.Clone(h.watchers), slices.Clone(h.readers) // a context that ends edits the lists
	h.mu.Unlock()
	var all sync.WaitGroup
	for _, f := range watchers {
		all.Go(func() { f.finish(deadline) })
	}
	for _, r := range readers {
		all.Go(func() { r.feed.finish(deadline) })
	}
	all.Wait()
}
