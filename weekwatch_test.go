package chatconn_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing/synctest"
	"time"

	"github.com/chatconn/chatconn"
	"github.com/chatconn/chatconn/fsm"
	"github.com/chatconn/chatconn/recording"
	"github.com/chatconn/chatconn/tokens"
)

// subject is one Conn and all that is seen of it from outside: its dials, what it
// writes, the calls of its sources, what it tells its watchers and its recorder.
type subject struct {
	w       *chaos
	n       int
	own     bool // its dials are not the program's
	conn    *chatconn.Conn
	client  *http.Client
	lines   *io.PipeWriter // the recording
	sources [2]*flaky      // of its two users

	background, down bool // the news that it was told last; the player's

	mu        sync.Mutex
	dialMode  string
	dialTimes int  // for so many dials
	calls     int  // that have not returned
	waits     int  // of these, and of the player's own, that connect
	met       bool // the user who is set has been Connected
	requests  int  // of API requests; they are the caller's, and outlive Close until their contexts end
	dials     map[*dialling]struct{}
	ends      map[*endpoint]struct{} // not closed yet
	latest    *endpoint
	attempts  []time.Time // the latest, as DialLimit saw them
	change    chatconn.Change
	connected time.Time // since when, by the watcher
	seen      int       // the serial of the latest event

	// R1: attempts since the last local cause, and how many need no wait.
	window time.Time
	made   int
	grants int
	word   time.Duration // the Retry-After of the answer to the latest dial
	told   time.Time     // before which there must be no attempt for that

	// T2: what justifies a load, what was loaded, and which tokens are dead.
	reasons []time.Time
	loads   []*loading
	counted struct{ loads, calls int }
	good    time.Time // the latest good answer of a source
	token   string    // of that
	dead    map[string]death
}

type death struct {
	at      time.Time
	refused bool // by the server: the same again is no fresh token
	why     string
}

type dialling struct {
	ctx  context.Context
	left time.Time // the context ended
}

// loading is one call of a source.
type loading struct {
	began, ended, left time.Time // left: its context ended
	good               bool
}

// subject makes a Conn. Its requests go through a transport of the program's, or
// through its own, which dials through DialContext as well. What opens its sockets is
// the program's code, or, without a dialer and a limit of the program's, a caller's.
func (w *chaos) subject(n int, tapped, own bool) *subject {
	s := &subject{
		w: w, n: n, own: own, dials: map[*dialling]struct{}{}, ends: map[*endpoint]struct{}{}, dead: map[string]death{}, window: time.Now(),
	}
	for i, name := range []string{"u", "v"} {
		s.sources[i] = &flaky{s: s, user: fmt.Sprint(name, n)}
	}
	recorded, lines := io.Pipe()
	s.lines = lines
	cfg := chatconn.Config{
		APIKey: w.server.APIKey(), BaseURL: w.server.URL(), DialContext: s.dial, DialLimit: s.limit, Record: lines,
	}
	if tapped {
		cfg.HTTPTransport = &http.Transport{DialContext: w.net.DialContext, DisableKeepAlives: true}
	}
	var err error
	if s.conn, err = chatconn.New(cfg); err != nil {
		panic(err)
	}
	if own {
		s.conn.OwnDials()
	}
	s.client = s.conn.HTTPClient()
	go func() {
		err := recording.Replay(recorded, func(step recording.Step) {
			w.note("%d: %v -%v-> %v %v %s", n, step.From, step.Event, step.To, step.Actions, step.Cause)
			s.mu.Lock()
			defer s.mu.Unlock()
			s.took(step)
		})
		if err != nil {
			s.fail("O4", "Conn %d: %v", n, err)
		}
	}()
	changes := s.conn.Watch(context.Background())
	go s.follow("the watcher", changes, 0)
	events := s.conn.Events(context.Background(), "numbered")
	go func() {
		for e := range events {
			var serial int
			if _, err := fmt.Sscanf(string(e.Raw), `{"n":%d`, &serial); err != nil {
				s.fail("O1", "Conn %d: an event cannot be read: %.100q", n, e.Raw)
			}
			s.mu.Lock()
			if serial <= s.seen {
				s.fail("O2", "Conn %d: event %d came after %d", n, serial, s.seen)
			}
			s.seen = serial
			s.mu.Unlock()
			w.count(&w.tally.Events)
		}
	}()
	return s
}

// fail reports a broken promise of this Conn, with its own history.
func (s *subject) fail(check, format string, args ...any) {
	mine := fmt.Sprintf(" %d: ", s.n)
	s.w.mu.Lock()
	s.w.history = slices.DeleteFunc(s.w.history, func(line string) bool { return !strings.Contains(line, " --- ") && !strings.Contains(line, mine) })
	s.w.guilty = s.n + 1
	s.w.mu.Unlock()
	s.w.fail(check, format, args...)
}

// follow checks that a watcher sees a path of the table, and is told of every step
// that it is too slow for. Spec: O1, O2.
func (s *subject) follow(who string, changes <-chan chatconn.Change, pause time.Duration) {
	var last chatconn.Change
	for c := range changes {
		switch {
		case c.Event == 0:
			if last.Seq != 0 || c.From != c.To {
				s.fail("O1", "Conn %d: %s is told a present state late: %+v", s.n, who, c)
			}
		case c.Missed == 0 && (c.From != last.To || c.Seq != last.Seq+1):
			s.fail("O1", "Conn %d: %s sees %v → %v (%d) after %v → %v (%d)", s.n, who, c.From, c.To, c.Seq, last.From, last.To, last.Seq)
		case c.Seq != last.Seq+1+uint64(c.Missed):
			s.fail("O2", "Conn %d: %s sees change %d after %d, and %d missed", s.n, who, c.Seq, last.Seq, c.Missed)
		}
		if step, v := fsm.Next(c.From, c.Event); c.Event != 0 && (step.To != c.To || v != fsm.Move && v != fsm.Stay) {
			s.fail("O1", "Conn %d: %s sees %v × %v lead to %v; the table says %v, %v", s.n, who, c.From, c.Event, c.To, v, step.To)
		}
		if pause == 0 {
			s.saw(c)
		}
		last = c
		time.Sleep(pause)
	}
}

// saw follows the fast watcher.
func (s *subject) saw(c chatconn.Change) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.change = c
	switch {
	case c.To == fsm.Connected && c.From != fsm.Connected:
		s.connected = c.At
		s.w.count(&s.w.tally.Sockets)
	case c.From == fsm.Connected && c.To != fsm.Connected:
		const health, first = 30 * time.Second, 5 * time.Second
		if c.At.Sub(s.connected) < health {
			return
		}
		s.grants += 2 // one wait from 0 on, one refusal that costs none
		if wait := c.RetryAt.Sub(c.At); !c.RetryAt.IsZero() && wait > first {
			s.fail("R3", "Conn %d waits %v after %v of health (%v)", s.n, wait, c.At.Sub(s.connected), c.Event)
		}
	}
}

// local notes a cause of attempts that no other client shares.
func (s *subject) local() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.window, s.made, s.grants = time.Now(), 0, 0
}

// wants notes a call that connects. If it sets the user, their source is asked.
func (s *subject) wants(sets bool) {
	s.local()
	if sets {
		s.drops()
	}
}

// drops notes a call that drops the token.
func (s *subject) drops() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reasons = append(s.reasons, time.Now())
}

// limit is the Conn's DialLimit, and the first to know of an attempt.
func (s *subject) limit(ctx context.Context) error {
	now := time.Now()
	s.mu.Lock()
	s.attempts = append(s.attempts, now)
	s.made++
	// R1: one attempt a second, one refusal and what a close frame held up aside.
	const most, within = 14, 10 * time.Second
	if n := len(s.attempts); n > most {
		if took := now.Sub(s.attempts[n-1-most]); took < within {
			s.fail("R1", "Conn %d: %d attempts within %v", s.n, most+1, took)
		}
		s.attempts = s.attempts[n-most:]
	}
	if now.Before(s.told) {
		s.fail("R1", "Conn %d: an attempt %v before the time that the server asked for", s.n, s.told.Sub(now))
	}
	// R1: one for the cause, one that waits 0 to 5 s, then one for every 5 s.
	if allowed := 3 + s.grants + int(now.Sub(s.window)/(5*time.Second)); s.made > allowed {
		s.fail("R1", "Conn %d: %d attempts within %v of the last local cause; %d are allowed", s.n, s.made, now.Sub(s.window), allowed)
	}
	s.mu.Unlock()
	return s.w.limit(ctx)
}

var errNoWay = errors.New("no way")

// dial is the Conn's DialContext.
func (s *subject) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if !forSocket() {
		return s.w.net.DialContext(ctx, network, addr)
	}
	w := s.w
	if s.own {
		if err := s.limit(ctx); err != nil {
			return nil, err
		}
	}
	w.count(&w.tally.Dials)
	d := &dialling{ctx: ctx}
	s.mu.Lock()
	if live, dials := s.live(); live+dials > 0 {
		s.fail("M1", "Conn %d dials beside %d sockets and %d dials", s.n, live, dials)
	}
	// Nobody waits for a dial that ignores the end of its context, but for a moment.
	for other := range s.dials {
		if since := time.Since(other.left); !other.left.IsZero() && since < time.Second {
			s.fail("M1", "Conn %d dials %v after the end of a dial that has not returned", s.n, since)
		}
	}
	s.word = 0
	mode := ""
	if s.dialTimes > 0 {
		s.dialTimes--
		mode = s.dialMode
	}
	if s.own && mode != "" { // which obeys its context and never panics
		mode = map[bool]string{true: "block", false: "fail"}[mode == "block" || mode == "hold"]
	}
	s.dials[d] = struct{}{}
	release := w.released()
	s.mu.Unlock()
	w.note("%d: dials %s", s.n, mode)
	stop := context.AfterFunc(ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		d.left = time.Now()
	})
	defer func() {
		stop()
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.dials, d)
	}()
	deaf := false
	switch mode {
	case "fail":
		return nil, errNoWay
	case "panic":
		panic("hunter2")
	case "exit":
		runtime.Goexit()
	case "block":
		<-ctx.Done()
		return nil, ctx.Err()
	case "hold": // ignores its context, and brings a connection that nobody wants
		select {
		case <-release:
		case <-time.After(20 * time.Second):
		}
		deaf = true
	}
	open := ctx
	if deaf {
		open = context.WithoutCancel(ctx)
	}
	conn, err := w.net.DialContext(open, network, addr)
	if err != nil {
		return nil, err
	}
	e := &endpoint{Conn: conn, s: s, read: time.Now()}
	s.mu.Lock()
	defer s.mu.Unlock()
	if deaf && ctx.Err() != nil { // nobody waits for it any more: it is closed, and no socket
		e.over = e.read
	}
	s.ends[e] = struct{}{}
	return e, nil
}

// forSocket reports whether a dial is for the socket, and not for an API request.
func forSocket() bool {
	var pcs [32]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(3, pcs[:])])
	for {
		f, more := frames.Next()
		if strings.Contains(f.Function, "transport.(*Dialer)") {
			return true
		}
		if !more {
			return false
		}
	}
}

// live returns how many sockets have sent no close frame yet, and how many dials
// somebody waits for. The caller holds mu.
func (s *subject) live() (sockets, dials int) {
	for e := range s.ends {
		if e.over.IsZero() {
			sockets++
		}
	}
	for d := range s.dials {
		if d.ctx.Err() == nil {
			dials++
		}
	}
	return sockets, dials
}

// endpoint is the Conn's end of a connection for a socket. It reads along.
type endpoint struct {
	net.Conn
	s *subject

	// Guarded by s.mu.
	sent     []byte // what is not understood yet
	upgraded bool
	read     time.Time // the latest bytes came
	came     []byte    // what is not understood yet of those
	body     int       // bytes of the frame under way that are still to come
	answered bool      // with 101, whose headers are over
	frame    time.Time // the latest whole frame came
	over     time.Time // the close frame went, or the connection was closed
}

func (e *endpoint) Read(p []byte) (int, error) {
	n, err := e.Conn.Read(p)
	if n > 0 {
		e.s.mu.Lock()
		e.read = time.Now()
		e.receive(p[:n])
		e.s.mu.Unlock()
	}
	return n, err
}

// receive follows the frames of the server, which are not masked. The caller holds
// s.mu.
func (e *endpoint) receive(p []byte) {
	e.came = append(e.came, p...)
	if !e.answered {
		head, rest, whole := bytes.Cut(e.came, []byte("\r\n\r\n"))
		if !whole {
			return
		}
		if _, wait, found := bytes.Cut(head, []byte("\r\nRetry-After: ")); found && !bytes.HasPrefix(head, []byte("HTTP/1.1 101")) {
			seconds, _, _ := bytes.Cut(wait, []byte("\r\n"))
			n, _ := strconv.Atoi(string(seconds))
			e.s.word = time.Duration(n) * time.Second
		}
		e.came, e.answered = slices.Clone(rest), true
	}
	for len(e.came) > 0 {
		if e.body > 0 {
			n := min(e.body, len(e.came))
			e.came, e.body = e.came[n:], e.body-n
		} else {
			size, head := int64(0), 2
			if len(e.came) < head {
				return
			}
			size = int64(e.came[1] & 0x7f)
			wide := map[int64]int{126: 2, 127: 8}[size]
			if head += wide; len(e.came) < head {
				return
			}
			if wide > 0 {
				size = 0
			}
			for _, b := range e.came[2:head] {
				size = size<<8 | int64(b)
			}
			e.came, e.body = e.came[head:], int(size)
		}
		if e.body == 0 {
			e.frame = time.Now()
		}
	}
	e.came = nil
}

func (e *endpoint) Write(p []byte) (int, error) {
	e.s.mu.Lock()
	e.sent = append(e.sent, p...)
	if !e.upgraded {
		e.request()
	}
	if e.upgraded {
		e.frames()
	}
	e.s.mu.Unlock()
	return e.Conn.Write(p)
}

// request reads the request for the socket. Spec: T2, E: no token goes out that was
// refused or dropped.
func (e *endpoint) request() {
	head, rest, whole := bytes.Cut(e.sent, []byte("\r\n\r\n"))
	if !whole {
		return
	}
	s := e.s
	for line := range strings.Lines(string(head)) {
		name, token, _ := strings.Cut(strings.TrimSpace(line), ": ")
		if d, ok := s.dead[token]; ok && strings.EqualFold(name, "Authorization") && time.Now().After(d.at) {
			s.fail("T2", "Conn %d connects with a token that is dead since %v (%s)", s.n, d.at.Sub(s.w.began), d.why)
		}
	}
	s.latest = e
	e.upgraded, e.sent = true, slices.Clone(rest)
}

// frames finds the close frame among what a client sends, masked.
func (e *endpoint) frames() {
	for len(e.sent) >= 2 {
		head, size := 6, int(e.sent[1]&0x7f)
		switch {
		case size == 126 && len(e.sent) >= 4:
			head, size = 8, int(e.sent[2])<<8|int(e.sent[3])
		case size >= 126:
			return
		}
		if e.sent[0]&0xf == 8 && e.over.IsZero() {
			e.over = time.Now()
		}
		if len(e.sent) < head+size {
			return
		}
		e.sent = e.sent[head+size:]
	}
}

func (e *endpoint) Close() error {
	e.s.mu.Lock()
	if e.over.IsZero() {
		e.over = time.Now()
	}
	delete(e.s.ends, e)
	e.s.mu.Unlock()
	return e.Conn.Close()
}

// CloseWrite is what the transport looks for beyond net.Conn.
func (e *endpoint) CloseWrite() error { return e.Conn.(interface{ CloseWrite() error }).CloseWrite() }

// flaky is a source that does what the schedule says.
type flaky struct {
	s    *subject
	user string

	// Guarded by s.mu.
	mode  string
	times int // for so many calls
	span  time.Duration
	runs  int
	ctx   context.Context // of the call that runs
	last  string          // the token that it minted last
}

func (f *flaky) Token(ctx context.Context) (token string, err error) {
	s, w := f.s, f.s.w
	w.count(&w.tally.Loads)
	l := &loading{began: time.Now()}
	s.mu.Lock()
	mode, span, release := "", f.span, w.released()
	if f.times > 0 {
		f.times--
		mode = f.mode
	}
	if f.runs++; f.runs > 1 {
		s.fail("T4", "Conn %d: %d calls of one source at a time", s.n, f.runs)
	}
	for _, other := range s.sources {
		if other != f && other.runs > 0 && other.ctx.Err() == nil {
			s.fail("T4", "Conn %d: the sources of two users are asked at a time", s.n)
		}
	}
	f.ctx = ctx
	s.loads = append(s.loads, l)
	s.mu.Unlock()
	w.note("%d: source of %s is asked, %s", s.n, f.user, mode)
	stop := context.AfterFunc(ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		l.left = time.Now()
	})
	good := false
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		f.runs--
		l.ended = time.Now()
		if !stop() && l.left.IsZero() {
			l.left = l.ended
		}
		l.good = good && err == nil && l.left.IsZero()
		if l.good {
			s.token = token
			delete(s.dead, token)
		}
		w.note("%d: source of %s answers, good %t, %v", s.n, f.user, l.good, err)
	}()
	time.Sleep(3*time.Millisecond + 217*time.Nanosecond)
	switch mode {
	case "fail":
		return "", errBackend
	case "never":
		return "", tokens.Permanent(errNever)
	case "panic":
		panic("hunter2")
	case "exit":
		runtime.Goexit()
	case "garbage":
		return "no token\n", nil
	case "wrong":
		return w.server.Token("somebody else", 0), nil
	case "hang":
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-release:
			return "", errBackend
		}
	case "deaf":
		select {
		case <-time.After(span):
		case <-release:
		}
	case "slow":
		select {
		case <-time.After(span):
		case <-ctx.Done():
			return "", ctx.Err()
		}
	case "same":
		s.mu.Lock()
		last := f.last
		d := s.dead[last]
		s.mu.Unlock()
		if last != "" {
			good = !d.refused
			return last, nil
		}
	}
	good = true
	minted := w.server.Token(f.user, 0)
	s.mu.Lock()
	defer s.mu.Unlock()
	f.last = minted
	return minted, nil
}

// hangs reports whether the Conn waits for an answer that may not come.
func (s *subject) hangs() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.dials) > 0 || s.runningLocked() > 0 || s.conn.State() == fsm.Connecting && len(s.ends) > 0
}

func (s *subject) running() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.runningLocked()
}

func (s *subject) runningLocked() int { return s.sources[0].runs + s.sources[1].runs }

// inspect looks at the Conn when nothing moves. Spec: M1, H1, T2.
func (s *subject) inspect() {
	state := s.conn.State()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.account()
	now := time.Now()
	sockets, dials := s.live()
	loads := 0
	for _, f := range s.sources {
		if f.runs > 0 && f.ctx.Err() == nil {
			loads++
		}
	}
	under := s.conn.UnderWay()
	busy := under.Waits + under.Loads + under.Dials
	wrong := false
	switch state {
	case fsm.Offline, fsm.Paused:
		wrong = sockets+dials+loads+busy+under.Sockets+under.Timers != 0
	case fsm.Connecting:
		wrong = sockets+dials+loads > 1 || busy != 1 || under.Sockets != 0 || sockets > 0 && under.Dials == 0
	case fsm.Connected:
		wrong = sockets != 1 || dials+loads+busy != 0 || under.Sockets != 1
	case fsm.Refreshing:
		wrong = sockets > 1 || sockets != under.Sockets || dials != 0 || loads > 1 || busy != 1
	}
	if wrong || under.Timers > 1 || loads > under.Loads || dials > under.Dials {
		s.fail("M1", "Conn %d is %v with %d sockets, %d dials, %d loads; under way is %+v", s.n, state, sockets, dials, loads, under)
	}
	for e := range s.ends {
		if silence := now.Sub(e.read); e.over.IsZero() && silence > 35*time.Second+time.Millisecond {
			s.fail("H1", "Conn %d keeps a socket that has been silent for %v", s.n, silence)
		}
		if !e.over.IsZero() && now.Sub(e.over) > 1200*time.Millisecond {
			s.fail("C7", "Conn %d has not closed a connection %v after its close frame", s.n, now.Sub(e.over))
		}
	}
	stats := s.conn.Stats()
	switch {
	case (state == fsm.Connected || state == fsm.Offline) && s.waits != 0:
		s.fail("C1", "Conn %d is %v, and %d calls that connect have not returned", s.n, state, s.waits)
	case (state == fsm.Connected || state == fsm.Offline) && stats.Waiting != 0:
		s.fail("Q2", "Conn %d is %v, and %d requests wait", s.n, state, stats.Waiting)
	case state != fsm.Offline && !s.met && s.waits == 0:
		s.fail("C1", "Conn %d is %v for a user who was never Connected, and for whom nobody waits", s.n, state)
	}
	if state != s.change.To {
		s.fail("O1", "Conn %d is %v, and its watcher was told %v", s.n, state, s.change.To)
	}
	if stats.Bugs != 0 {
		s.fail("M2", "Conn %d: %d events that the table refuses", s.n, stats.Bugs)
	}
}

// took notes what a step means for the token. Spec: T2, H1. The caller holds mu.
func (s *subject) took(step recording.Step) {
	w := s.w
	w.count(&w.tally.Transitions)
	if step.Loads {
		s.counted.loads++
	}
	if step.To == fsm.Connected {
		s.met = true
	}
	if step.From == fsm.Connecting && step.Event == fsm.Dropped && s.word > 0 { // R1, E: whatever comes then, but for a new user
		s.told = step.Time.Add(min(s.word, 5*time.Minute))
	}
	switch step.Event {
	case fsm.Connect, fsm.ConnectHeld:
		if step.From == fsm.Offline { // a new cache, which knows of no refusal
			s.told = time.Time{}
			for token, d := range s.dead {
				d.refused = false
				s.dead[token] = d
			}
		}
	case fsm.TokenRefused, fsm.TokenUntimely, fsm.RequestRefused, fsm.Denied:
		s.told = time.Time{} // E: the first refusal brings a load and an attempt at once
		w.count(&w.tally.Refusals)
		s.reasons = append(s.reasons, step.Time)
	case fsm.Unhealthy:
		w.count(&w.tally.Silences)
		s.reasons = append(s.reasons, step.Time)
		if silence := step.Time.Sub(s.latest.frame); step.From == fsm.Connected && silence < 35*time.Second {
			s.fail("H1", "Conn %d: unhealthy after %v of silence", s.n, silence)
		}
	case fsm.Abandoned:
		s.reasons = append(s.reasons, step.Time)
	case fsm.Dropped:
		if strings.HasPrefix(step.Cause, "api-") {
			s.grants++ // a fresh token is at hand
		}
	}
	for _, a := range step.Actions {
		s.met = s.met && a != fsm.ForgetUser
		switch {
		case s.token == "":
		case a == fsm.DropToken || a == fsm.RefuseToken || a == fsm.ForgetUser:
			if _, dead := s.dead[s.token]; !dead || a == fsm.RefuseToken {
				s.dead[s.token] = death{step.Time, a == fsm.RefuseToken, fmt.Sprintf("%v × %v", step.From, step.Event)}
			}
		}
	}
	for token, d := range s.dead { // nobody has it any more
		if step.Time.Sub(d.at) > time.Hour && token != s.sources[0].last && token != s.sources[1].last {
			delete(s.dead, token)
		}
	}
}

// account goes through what was asked of the sources since the last time. Every call of a source needs a reason of its own: the user was set,
// the token was refused or dropped, or the call before brought none. A good answer
// voids all reasons before it. Spec: T2, T4. The caller holds mu.
func (s *subject) account() {
	w := s.w
	for len(s.loads) > 0 && !s.loads[0].ended.IsZero() {
		l := s.loads[0]
		s.loads = s.loads[1:]
		s.counted.calls++
		s.reasons = slices.DeleteFunc(s.reasons, func(at time.Time) bool { return at.Before(s.good) })
		slices.SortFunc(s.reasons, time.Time.Compare)
		if len(s.reasons) == 0 || s.reasons[0].After(l.began) {
			s.fail("T2", "Conn %d: the source was asked at %v for no reason; its last good answer was at %v", s.n, l.began.Sub(w.began), s.good.Sub(w.began))
		}
		s.reasons = s.reasons[1:]
		switch {
		case l.good:
			s.good = l.ended
		case l.left.IsZero():
			s.reasons = append(s.reasons, l.ended)
		default:
			s.reasons = append(s.reasons, l.left)
		}
	}
	if s.counted.calls > s.counted.loads {
		s.fail("T2", "Conn %d: %d calls of sources for %d loads", s.n, s.counted.calls, s.counted.loads)
	}
}

// fine checks that all is well at the end of the time in which it has to be.
func (s *subject) fine(limit time.Duration) {
	w := s.w
	if state := s.conn.State(); state != fsm.Connected {
		s.fail("calm", "Conn %d is %v %v after the world turned calm: %v", s.n, state, limit, s.conn.Stats().LastError)
	}
	s.mu.Lock()
	loads := s.runningLocked()
	s.mu.Unlock()
	if waiting := s.conn.Stats().Waiting; waiting != 0 || loads != 0 {
		s.fail("Q4", "Conn %d: %d requests wait and %d loads run while Connected", s.n, waiting, loads)
	}
	if user, _ := s.conn.CurrentUser(); user.ID != "!anon" {
		if err := s.request(context.Background()); err != nil {
			s.fail("Q2", "Conn %d: a request while all is well: %v", s.n, err)
		}
		if sent := s.emit(); sent {
			synctest.Wait()
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.seen != w.serial {
				s.fail("O2", "Conn %d: event %d has not come; the last was %d", s.n, w.serial, s.seen)
			}
		}
	}
}

// emit lets the server send a numbered event to the user.
func (s *subject) emit() bool {
	user, set := s.conn.CurrentUser()
	if !set || user.ID == "!anon" {
		return false
	}
	s.w.serial++
	n, err := s.w.server.Emit(user.ID, numbered{s.w.serial, "numbered"})
	return err == nil && n > 0
}

type numbered struct {
	N    int    `json:"n"`
	Type string `json:"type"`
}

// closed checks that nothing is left after Close.
func (s *subject) closed(requests bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sockets, dials := s.live()
	if sockets+dials+s.calls+len(s.ends) != 0 || requests && s.requests != 0 {
		s.fail("C9", "Conn %d: after Close there are %d sockets, %d dials, %d connections, and %d calls and %d requests have not returned",
			s.n, sockets, dials, len(s.ends), s.calls, s.requests)
	}
}
