package inspect

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	pauseAfter = 100 * time.Millisecond // between two writes: what happens meanwhile goes together
	listPause  = 300 * time.Millisecond // between two words about the list
	lookAgain  = time.Second            // counters change without a transition
	beatAfter  = 15 * time.Second       // of silence
)

// stream is one browser page that is kept up to date. It belongs to the goroutine
// of its request. There is no queue: it remembers what it has sent, and takes what
// came since from the tape, which is bounded.
type stream struct {
	page *Page
	key  string // of the Conn that it follows; empty: the first one
	wake chan struct{}
	out  bytes.Buffer

	entry    *entry // nil: none of that key is there
	told     bool   // what is there, or that nothing is
	seq      uint64 // the latest step that was sent
	detail   detail
	version  uint64
	listedAt time.Time
}

// serveEvents keeps a browser page up to date, until it goes, or takes too long to
// read. Where the program's ResponseWriter knows no deadlines it sends once how
// things stand and ends, and the browser comes back for more.
func (p *Page) serveEvents(w http.ResponseWriter, r *http.Request) {
	s := &stream{page: p, key: queryOf(r).key, wake: make(chan struct{}, 1)}
	if !p.enter(s) {
		tooMany(w)
		return
	}
	defer p.leave(s)
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("X-Accel-Buffering", "no")
	if r.Method == http.MethodHead {
		return
	}
	control := http.NewResponseController(w)
	deadlines := true
	s.resume(r.Header.Get("Last-Event-ID"))
	fmt.Fprintf(&s.out, "retry: 2000\n")
	s.say("", "hello", map[string]any{"edition": edition(), "now": time.Now().UnixMilli()})
	look := time.NewTicker(lookAgain)
	defer look.Stop()
	wroteAt := time.Now()
	for {
		s.look()
		if s.out.Len() == 0 && time.Since(wroteAt) >= beatAfter {
			s.say("", "beat", map[string]any{"now": time.Now().UnixMilli()})
		}
		if s.out.Len() > 0 {
			wroteAt = time.Now()
			deadlines = control.SetWriteDeadline(wroteAt.Add(writeLimit)) == nil
			if _, err := w.Write(s.out.Bytes()); err != nil {
				return
			}
			if err := control.Flush(); err != nil {
				return
			}
			s.out.Reset()
			_ = control.SetWriteDeadline(time.Time{}) // over HTTP/2 one that passes ends the stream, though nothing is written
			if !deadlines {
				return
			}
			if !s.wait(r, time.After(pauseAfter), nil) {
				return
			}
		}
		if !s.wait(r, look.C, s.wake) {
			return
		}
	}
}

// wait returns false if the stream is over.
func (s *stream) wait(r *http.Request, until <-chan time.Time, wake <-chan struct{}) bool {
	select {
	case <-until:
	case <-wake:
	case <-r.Context().Done():
		return false
	case <-s.page.ended:
		return false
	}
	return true
}

func (p *Page) enter(s *stream) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	most := p.Streams
	if most <= 0 {
		most = 64
	}
	all := *p.streams.Load()
	if p.over || len(all) >= most {
		return false
	}
	all = append(slices.Clip(all), s)
	p.streams.Store(&all)
	return true
}

func (p *Page) leave(s *stream) {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := slices.DeleteFunc(slices.Clone(*p.streams.Load()), func(o *stream) bool { return o == s })
	p.streams.Store(&all)
}

// look writes down what is new since the last time.
func (s *stream) look() {
	s.follow()
	if e := s.entry; e != nil {
		if lines := e.tape.After(s.seq); len(lines) > 0 && lines[0].Seq != s.seq+1 || !s.told {
			s.reset()
		} else {
			for _, l := range lines {
				s.seq = l.Seq
				s.say(s.id(), "step", stepOf(l))
			}
		}
		if d := e.detail(); d != s.detail {
			s.detail = d
			s.say("", "detail", d)
		}
	} else if !s.told {
		s.told = true
		s.say("", "none", map[string]string{"key": s.key})
	}
	if v := s.page.version.Load(); v != s.version && time.Since(s.listedAt) >= listPause {
		s.version, s.listedAt = v, time.Now()
		s.say("", "list", v)
	}
}

// follow finds the Conn that the browser shows: it may come later than its page,
// or have made room for others.
func (s *stream) follow() {
	if s.entry != nil {
		if !s.entry.closed.Load() || s.page.find(s.entry.key) == s.entry {
			return
		}
		s.entry, s.told, s.seq = nil, false, 0
	}
	if e := s.page.find(s.key); e != nil {
		s.entry, s.key, s.told, s.seq = e, e.key, false, 0
	}
}

// reset sends all that the page shows of a Conn.
func (s *stream) reset() {
	steps, earlier := s.entry.history()
	s.seq = 0
	if len(steps) > 0 {
		s.seq = steps[len(steps)-1].Seq
	}
	s.told = true
	s.detail = s.entry.detail()
	s.say(s.id(), "reset", map[string]any{"detail": s.detail, "steps": steps, "earlier": earlier})
}

// id names the latest step that the browser has: on its return it says so.
func (s *stream) id() string {
	return fmt.Sprintf("%s.%d.%d", s.page.epoch, s.entry.number, s.seq)
}

// resume goes on behind what a browser has that was here before.
func (s *stream) resume(id string) {
	parts := strings.Split(id, ".")
	e := s.page.find(s.key)
	if len(parts) != 3 || e == nil || s.key == "" || parts[0] != s.page.epoch || parts[1] != strconv.FormatUint(e.number, 10) {
		return
	}
	seq, err := strconv.ParseUint(parts[2], 10, 64)
	if last, ok := e.tape.Last(); err != nil || ok && seq > last.Seq || !ok && seq > 0 {
		return
	}
	s.entry, s.seq, s.told = e, seq, true
}

// say adds an event.
func (s *stream) say(id, event string, data any) {
	text, err := json.Marshal(data)
	if err != nil {
		panic("BUG: inspect: " + err.Error())
	}
	if id != "" {
		fmt.Fprintf(&s.out, "id: %s\n", id)
	}
	fmt.Fprintf(&s.out, "event: %s\ndata: %s\n\n", event, text)
}
