package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/chatconn/chatconn"
	"github.com/chatconn/chatconn/devserver"
	"github.com/chatconn/chatconn/fsm"
	"github.com/chatconn/chatconn/tokens"
)

// stepLimit is far more than any step takes.
const stepLimit = 20 * time.Second

// life is one run of the demo. It belongs to the goroutine that plays it; what a
// step does runs beside it, one at a time, and uses what is safe for that.
type life struct {
	ctx    context.Context
	out    *printer
	server *devserver.Server
	conn   *chatconn.Conn
	rand   *rand.Rand

	changes <-chan chatconn.Change
	seq     uint64 // of the last change that was taken
	moves   int

	events <-chan chatconn.Event
	texts  int            // messages sent
	heard  map[string]int // how often each has arrived
}

func (d demo) Run(ctx context.Context, std streams, wantJSON asJSON) (err error) {
	if d.Stay && d.Inspect == "" {
		return usagef("--stay is for --inspect: it keeps the page up")
	}
	out := newPrinter(std.out, wantJSON)
	live, err := d.inspectFlags.serve(out)
	if err != nil {
		return err
	}
	defer live.close()
	d.new = live.New
	config := config
	if d.Record != "" {
		record, failure := record(d.Record)
		if failure != nil {
			return failure
		}
		// What happened is all in the file when the Conn is closed: play has done that.
		defer func() { err = errors.Join(err, record.close()) }()
		plain := config
		config = func(url, key string) chatconn.Config {
			cfg := plain(url, key)
			cfg.Record = record
			return cfg
		}
	}
	err = d.play(ctx, out, chapters, config)
	if d.Stay && ctx.Err() == nil {
		out.stay(live.url)
		<-ctx.Done()
	}
	return err
}

// play plays chapters until one does not end as it must. The errFailed that it
// returns then has been explained.
func (d demo) play(ctx context.Context, out *printer, chapters []chapter, config func(url, key string) chatconn.Config) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	server, err := devserver.Start(devserver.Options{})
	if err != nil {
		return err
	}
	defer server.Close()
	if d.new == nil {
		d.new = func(_ string, cfg chatconn.Config) (*chatconn.Conn, error) { return chatconn.New(cfg) }
	}
	conn, err := d.new("demo", config(server.URL(), server.APIKey()))
	if err != nil {
		return err
	}
	defer conn.Close()
	l := &life{
		ctx: ctx, out: out, server: server, conn: conn,
		rand:    newRand(d.Seed),
		changes: conn.Watch(ctx), events: conn.Events(ctx, "message.new"),
		heard: make(map[string]int),
	}
	<-l.changes // the first value only tells where it stands
	if err := server.AddMember(room, john, mary); err != nil {
		return err
	}

	out.overture(server.URL())
	good, played := 0, 0
	for i, c := range chapters {
		out.chapter(i+1, c.title)
		r := l.live(c)
		if ctx.Err() != nil {
			return fmt.Errorf("interrupted in chapter %d, %s", i+1, c.title)
		}
		out.result(i+1, c, r)
		played++
		if len(r.wrong) == 0 {
			good++
		}
		if r.stuck {
			break // what follows would not mean anything
		}
	}
	out.summary(summary{len(chapters), good, played, l.moves, conn.Stats(), time.Since(out.start)})
	if err := out.err(); err != nil {
		return err
	}
	if good < len(chapters) {
		return errFailed
	}
	return nil
}

// newRand returns the source of the weather.
func newRand(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 0)) }

// result is what a chapter came to.
type result struct {
	checked []string // what was found, and is as it must be
	wrong   []string // what is not
	stuck   bool     // a step did not end
}

// expect compares what was found with what had to be.
func (r *result) expect(got, want string) {
	if got == want {
		r.checked = append(r.checked, got)
	} else {
		r.wrong = append(r.wrong, got+", want "+want)
	}
}

// expectNo notes what was checked, or the error that came of it.
func (r *result) expectNo(err error, what string) {
	if err == nil {
		r.checked = append(r.checked, what)
	} else {
		r.wrong = append(r.wrong, err.Error())
	}
}

// live plays one chapter and checks how it ended.
func (l *life) live(c chapter) (r result) {
	loads, before := l.conn.Stats().Loads, l.connectionID()
	for _, s := range c.steps {
		if err := l.play(s); err != nil {
			r.wrong, r.stuck = append(r.wrong, err.Error()), true
			return r
		}
	}
	ctx, cancel := context.WithTimeout(l.ctx, stepLimit)
	defer cancel()

	user, _ := l.conn.CurrentUser()
	state, stats := l.conn.State(), l.conn.Stats()
	r.expect(state.String(), c.end.state.String())
	r.expect(as(user.ID), as(c.end.user))
	r.expect(count(stats.Loads-loads, "token load"), count(c.end.loads, "token load"))
	r.expect(string(compare(before, l.connectionID())), string(c.end.socket))
	if stats.Bugs > 0 {
		r.wrong = append(r.wrong, fmt.Sprintf("%d events that the table refuses", stats.Bugs))
	}
	if state != c.end.state {
		return r // the rest would only repeat that
	}

	var open uint64
	if state == fsm.Connected {
		open = 1
	}
	r.expectNo(l.sockets(ctx, int(open)), count(open, "socket")+" open on the server")
	if state == fsm.Connected {
		_, err := l.hear(ctx)
		r.expectNo(err, "the next message arrives")
	}
	return r
}

func as(userID string) string {
	if userID == "" {
		return "no user"
	}
	return "as " + userID
}

func count(n uint64, what string) string {
	switch n {
	case 0:
		return "no " + what
	case 1:
		return "one " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func (l *life) connectionID() string {
	session, _ := l.conn.Session()
	return session.ConnectionID
}

func compare(before, now string) identity {
	switch now {
	case "":
		return none
	case before:
		return same
	}
	return fresh
}

// play takes one step, and follows the connection to where the step must end.
func (l *life) play(s step) error {
	l.out.step(s.say)
	ctx, cancel := context.WithTimeout(l.ctx, stepLimit)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- s.do(ctx, l) }()

	seen := s.until == nil
	var went []fsm.State
	for done != nil || !seen || !s.any && len(went) < len(s.path) {
		select {
		case err := <-done:
			if err != nil {
				return err
			}
			done = nil
		case c, open := <-l.changes:
			if !open {
				l.changes = nil // the Conn is closed: there will be none
				continue
			}
			l.take(c)
			seen = seen || s.until(c)
			if !c.Moved() {
				continue
			}
			if went = append(went, c.To); !s.any && !begins(s.path, went) {
				return fmt.Errorf("it went %s, want %s", way(went), way(s.path))
			}
		case <-ctx.Done():
			return fmt.Errorf("after %v it went %s, want %s", stepLimit, way(went), way(s.path))
		}
	}
	return l.catchUp(ctx, s)
}

// begins reports whether a path begins with the states that were gone through.
func begins(path, went []fsm.State) bool {
	return len(went) <= len(path) && slices.Equal(path[:len(went)], went)
}

// catchUp takes every change that has happened by now. None may lead on.
func (l *life) catchUp(ctx context.Context, s step) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	now, open := <-l.conn.Watch(ctx)
	for open && l.seq < now.Seq {
		select {
		case c := <-l.changes:
			l.take(c)
			if c.Moved() && !s.any {
				return fmt.Errorf("then it went on to %v", c.To)
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func (l *life) take(c chatconn.Change) {
	l.seq = c.Seq
	if c.Moved() {
		l.moves++
	}
	l.out.change(c, "")
}

func way(states []fsm.State) string {
	if len(states) == 0 {
		return "nowhere"
	}
	names := make([]string, len(states))
	for i, s := range states {
		names[i] = s.String()
	}
	return strings.Join(names, ", ")
}

// source asks the server for a user's token, as an app asks its backend.
func (l *life) source(userID string) tokens.Source {
	return tokens.Func(func(context.Context) (string, error) { return l.server.Token(userID, time.Hour), nil })
}

// sockets waits until the server has n open sockets. The server hears of a close
// a moment after the client has moved on.
func (l *life) sockets(ctx context.Context, n int) error {
	look := time.NewTicker(2 * time.Millisecond)
	defer look.Stop()
	for {
		open := l.server.Connections("")
		if open == n {
			return nil
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return fmt.Errorf("there are %d sockets open on the server, want %d", open, n)
		}
	}
}

// nextText returns what nobody has said before.
func (l *life) nextText() string {
	l.texts++
	return fmt.Sprintf("message %d", l.texts)
}

// hear lets mary say something, and waits until it has arrived.
func (l *life) hear(ctx context.Context) (chatconn.Event, error) {
	text := l.nextText()
	if err := l.server.Send(room, mary, text); err != nil {
		return chatconn.Event{}, err
	}
	e, err := l.receive(ctx, text)
	if err == nil && (e.UserID != mary || e.CID != room || e.CreatedAt.IsZero()) {
		err = fmt.Errorf("%q arrived from %q in %q at %v", text, e.UserID, e.CID, e.CreatedAt)
	}
	return e, err
}

// receive takes events until one says text.
func (l *life) receive(ctx context.Context, text string) (chatconn.Event, error) {
	for {
		select {
		case e, open := <-l.events:
			if !open {
				return e, errors.New("the events ended")
			}
			said := messageText(e)
			l.heard[said]++
			if said == text {
				return e, nil
			}
		case <-ctx.Done():
			return chatconn.Event{}, fmt.Errorf("%q did not arrive: %w", text, ctx.Err())
		}
	}
}

// heardOnce takes the events that are left, after Close, and finds what was said
// and did not arrive exactly once.
func (l *life) heardOnce() error {
	for e := range l.events {
		l.heard[messageText(e)]++
	}
	for text, times := range l.heard {
		if times != 1 {
			return fmt.Errorf("%q arrived %d times", text, times)
		}
	}
	if len(l.heard) != l.texts {
		return fmt.Errorf("%d messages were sent, and %d arrived", l.texts, len(l.heard))
	}
	return nil
}

// summary is what the whole life came to.
type summary struct {
	chapters, good, played, moves int
	stats                         chatconn.Stats
	took                          time.Duration
}

func (p *printer) overture(url string) {
	if !p.json {
		p.line("One user's life, with shortened waits, on an embedded server at %s\n", url)
		p.header()
	}
}

func (p *printer) chapter(n int, title string) {
	if p.json {
		p.object(struct {
			Type  string `json:"type"`
			N     int    `json:"n"`
			Title string `json:"title"`
		}{"chapter", n, title})
		return
	}
	p.line("\n%s", p.paint(bold, fmt.Sprintf("%d. %s", n, title)))
}

func (p *printer) step(say string) {
	if p.json {
		p.object(struct {
			Type string `json:"type"`
			Say  string `json:"say"`
		}{"step", say})
		return
	}
	p.line("%8s  %s", "", p.paint(dim, "· "+say))
}

func (p *printer) result(n int, c chapter, r result) {
	good := len(r.wrong) == 0
	if p.json {
		p.object(struct {
			Type    string   `json:"type"`
			N       int      `json:"n"`
			OK      bool     `json:"ok"`
			IDs     []string `json:"ids"`
			Promise string   `json:"promise"`
			Checked []string `json:"checked"`
			Wrong   []string `json:"wrong,omitempty"`
		}{"result", n, good, strings.Fields(c.ids), c.promise, r.checked, r.wrong})
		return
	}
	mark := p.paint(green, "✓")
	if !good {
		mark = p.paint(red, "✗")
	}
	for i, line := range wrap(fmt.Sprintf("%s: %s", c.ids, c.promise), width-4) {
		if i > 0 {
			mark = " "
		}
		p.line("  %s %s", mark, line)
	}
	for _, line := range wrap("checked: "+strings.Join(r.checked, ", "), width-4) {
		p.line("    %s", p.paint(dim, line))
	}
	for _, wrong := range r.wrong {
		p.line("    %s", p.paint(red, "wrong: "+printable(wrong)))
	}
}

func (p *printer) summary(s summary) {
	if p.json {
		p.object(struct {
			Type     string  `json:"type"`
			OK       bool    `json:"ok"`
			Chapters int     `json:"chapters"`
			Good     int     `json:"good"`
			Played   int     `json:"played"`
			Moves    int     `json:"moves"`
			Loads    uint64  `json:"loads"`
			Dials    uint64  `json:"dials"`
			Bugs     uint64  `json:"bugs"`
			Seconds  float64 `json:"seconds"`
		}{"summary", s.good == s.chapters, s.chapters, s.good, s.played, s.moves,
			s.stats.Loads, s.stats.Attempts, s.stats.Bugs, s.took.Seconds()})
		return
	}
	mark, text := p.paint(green, "✓"), fmt.Sprintf("%d of %d chapters ended as promised", s.good, s.chapters)
	if s.good < s.chapters {
		mark = p.paint(red, "✗")
	}
	if s.played < s.chapters {
		text += fmt.Sprintf("; %d were not played", s.chapters-s.played)
	}
	p.line("\n%s %s: %d changes of state, %d dials, %d token loads, %d bugs, %.1f s.", mark, p.paint(bold, text),
		s.moves, s.stats.Attempts, s.stats.Loads, s.stats.Bugs, s.took.Seconds())
}
