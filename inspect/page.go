// Package inspect shows a program's connections in the browser: the picture of
// the machine with the state lit and the last transition traced, its history with
// causes and actions, counters, and the time to the next attempt, live.
//
// A [Page] is mounted like net/http/pprof, and makes the Conns that it shows:
//
//	var page inspect.Page
//	http.Handle("/debug/chatconn/", &page)
//	conn, err := page.New("john", cfg) // instead of chatconn.New(cfg)
//
// It only shows: nothing on it changes a connection, and no token is on it. But it
// names users and errors, so mount it where only you can reach it, as you would
// pprof; the page asks nobody who they are.
//
// A Conn does not notice the page. Its history is what it records anyway (package
// recording), kept in bounded memory; there is no goroutine and no timer beside it.
// Browsers that follow are bounded in number, and one that does not read is
// dropped. Specification: G2.
package inspect

import (
	"crypto/rand"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/chatconn/chatconn"
	"github.com/chatconn/chatconn/fsm"
	"github.com/chatconn/chatconn/recording"
)

// Page shows the Conns that it made. It is an http.Handler that works below any
// path which ends in a slash. The zero value is ready; fields are set before it is
// used. All methods are safe for concurrent use.
type Page struct {
	// Lines is how many transitions of each Conn are kept, the latest, at 32
	// bytes each. Zero: 256.
	Lines int
	// Closed is how many Conns stay on the page after their Close, the latest.
	// Zero: 100; negative: none.
	Closed int
	// Streams is how many browser pages are kept up to date at a time; others
	// are told to come back later. Zero: 64.
	Streams int

	start    sync.Once
	epoch    string // of this Page: ids of another one mean nothing here
	ended    chan struct{}
	requests chan struct{} // holds one for each request that is being answered
	version  atomic.Uint64 // counts what could be seen
	streams  atomic.Pointer[[]*stream]

	mu       sync.Mutex
	over     bool
	shown    map[string]*entry // by key
	names    map[string]*name
	order    []*entry // of shown, by key; nil: to be made
	closed   []*entry // in the order of their Close
	previous uint64   // the latest entry's number
}

// entry is one Conn on the page. It is its Conn's recorder.
type entry struct {
	page   *Page
	key    string // its name, and a number if others have that name too
	lower  string // key, for the search
	name   string
	number uint64 // counts the entries of a Page, from 1
	conn   *chatconn.Conn
	tape   recording.Tape
	also   io.Writer // the program's own
	closed atomic.Bool
}

// name is how often a name is shown, and how often it was given.
type name struct{ shown, given int }

func (p *Page) begin() {
	p.start.Do(func() {
		p.epoch = rand.Text()[:8]
		p.ended = make(chan struct{})
		p.requests = make(chan struct{}, 64)
		p.streams.Store(new([]*stream))
		p.shown, p.names = make(map[string]*entry), make(map[string]*name)
	})
}

// New makes a Conn as chatconn.New does, and shows it under a name until it is
// closed and a while longer. Names may repeat: later ones are numbered. A long name
// is cut. cfg.Record gets its lines as ever. Its errors are those of chatconn.New.
func (p *Page) New(called string, cfg chatconn.Config) (*chatconn.Conn, error) {
	p.begin()
	e := &entry{page: p, also: cfg.Record, name: shorten(called)}
	e.tape.Lines = p.Lines
	cfg.Record = e
	conn, err := chatconn.New(cfg)
	if err != nil {
		return nil, err
	}
	e.conn = conn
	p.show(e)
	return conn, nil
}

// shorten makes a name that fits into a line and an address.
func shorten(s string) string {
	const most = 200
	s = printable(s)
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	if s == "" {
		return "unnamed"
	}
	return s
}

func (p *Page) show(e *entry) {
	p.mu.Lock()
	n := p.names[e.name]
	if n == nil {
		n = new(name)
		p.names[e.name] = n
	}
	n.shown++
	for e.key == "" || p.shown[e.key] != nil { // a name may look like one with a number
		n.given++
		e.key = e.name
		if n.given > 1 {
			e.key = fmt.Sprintf("%s (%d)", e.name, n.given)
		}
	}
	e.lower = strings.ToLower(e.key)
	p.previous++
	e.number = p.previous
	p.shown[e.key] = e
	p.order = nil
	p.mu.Unlock()
	p.stir()
}

// Write takes a line of the Conn's recording.
func (e *entry) Write(line []byte) (int, error) {
	_, _ = e.tape.Write(line)
	if last, ok := e.tape.Last(); ok && last.Event == fsm.Close && !e.closed.Swap(true) {
		e.page.retire(e)
	}
	e.page.stir()
	if e.also != nil {
		return e.also.Write(line)
	}
	return len(line), nil
}

// retire lets the oldest of the closed Conns go.
func (p *Page) retire(e *entry) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = append(p.closed, e)
	most := p.Closed
	if most == 0 {
		most = 100
	}
	for len(p.closed) > max(0, most) {
		gone := p.closed[0]
		p.closed[0] = nil
		p.closed = p.closed[1:]
		delete(p.shown, gone.key)
		if n := p.names[gone.name]; n.shown == 1 {
			delete(p.names, gone.name)
		} else {
			n.shown--
		}
		p.order = nil
	}
}

// all returns the entries in the order of their keys. Nobody changes the slice.
func (p *Page) all() []*entry {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.order == nil {
		p.order = make([]*entry, 0, len(p.shown))
		for _, e := range p.shown {
			p.order = append(p.order, e)
		}
		slices.SortFunc(p.order, func(a, b *entry) int { return strings.Compare(a.key, b.key) })
	}
	return p.order
}

// find returns the entry of a key; the first one, for none; nil if there is none.
func (p *Page) find(key string) *entry {
	if key == "" {
		if all := p.all(); len(all) > 0 {
			return all[0]
		}
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.shown[key]
}

// stir tells the streams that there is something to be seen. It never waits.
func (p *Page) stir() {
	p.version.Add(1)
	for _, s := range *p.streams.Load() {
		select {
		case s.wake <- struct{}{}:
		default: // it will look anyway
		}
	}
}

// Close ends the streams of all browsers, which an http.Server's Shutdown would
// wait for: give it to the server's RegisterOnShutdown. The Conns are not touched,
// and what is on the page can still be looked at.
func (p *Page) Close() {
	p.begin()
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.over {
		p.over = true
		close(p.ended)
	}
}
