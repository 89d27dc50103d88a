package fsm_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	. "github.com/chatconn/chatconn/fsm"
)

// world is one connection and its owner: all that an action can touch and all
// that decides what may happen next. Callers and requests count as none or some,
// since one more of them is no new place.
type world struct {
	at Position

	wait, load, dial bool // work under way
	skipped          bool // the wait was told to end now
	socket, reading  bool // ours, until we hang up
	token            bool // cached
	user, known      bool // set; connected at least once
	caller, request  bool // somebody waits
	background, down bool // the truth, which the facts must equal
	closed           bool
}

func (w world) held() bool { return w.background || w.down }

func (w world) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v[%v]", w.at.State, w.at.Facts)
	for _, f := range []struct {
		is   bool
		name string
	}{
		{w.wait, "wait"}, {w.skipped, "skipped"}, {w.load, "load"}, {w.dial, "dial"}, {w.socket, "socket"}, {w.reading, "reading"}, {w.token, "token"}, {w.user, "user"},
		{w.known, "known"}, {w.caller, "caller"}, {w.request, "request"}, {w.background, "background"}, {w.down, "down"}, {w.closed, "closed"},
	} {
		if f.is {
			b.WriteString(" " + f.name)
		}
	}
	return b.String()
}

// calls and news are what may come from outside the connection.
var (
	calls = []Event{Connect, ReconnectSocket, DisconnectSocket, Disconnect, Close, Abandoned}
	news  = []Event{Background, Foreground, Woke, NetworkLost, NetworkAvailable, RequestRefused}
)

// legal returns the events that may be posted here.
func (w world) legal() []Event {
	if w.closed {
		return nil
	}
	var all []Event
	for _, e := range slices.Concat(calls, news) {
		switch {
		case e == ReconnectSocket && !w.user: // ErrNoUser
		case e == Abandoned && (!w.caller || w.known): // there is nobody to leave, or it matters no more (C1)
		case e == RequestRefused && !w.token: // an answer about another token is not about this one
		default:
			all = append(all, e)
		}
	}
	if w.wait {
		all = append(all, Answers(Retry)...)
	}
	if w.load && w.token {
		all = append(all, TokenLoaded) // the cached one: nothing can fail
	} else if w.load {
		all = append(all, Answers(LoadToken)...)
	}
	if w.dial {
		all = append(all, Answers(Dial)...)
	}
	if w.reading {
		for _, e := range Answers(Listen) {
			if !slices.Contains(all, e) {
				all = append(all, e)
			}
		}
	}
	return all
}

// quietly returns the worlds to which the outside goes without telling the machine.
func (w world) quietly() []world {
	var all []world
	if !w.token && w.user && w.at.State != Offline { // Q2: a request comes and must wait
		next := w
		next.request = true
		all = append(all, next)
	}
	if w.request { // Q4: its own context ends
		next := w
		next.request = false
		all = append(all, next)
	}
	if w.caller && w.known { // C1: a caller's context ends its own wait
		next := w
		next.caller = false
		all = append(all, next)
	}
	return all
}

// meets is what an event brings about by itself, before the machine acts.
func (w world) meets(e Event) world {
	switch e {
	case Connect, ReconnectSocket:
		w.user, w.caller = true, true
	case Abandoned:
		w.caller = false
	case Background:
		w.background = true
	case Foreground:
		w.background = false
	case NetworkLost:
		w.down = true
	case NetworkAvailable:
		w.down = false
	case RetryDue, RetriesSpent:
		w.wait, w.skipped = false, false
	case TokenLoaded:
		w.load, w.token = false, true
	case TokenFailed, TokenDenied:
		w.load = false
	case Opened:
		w.dial, w.socket, w.known = false, true, true
	case Dropped, TokenRefused, TokenUntimely, Denied:
		if w.dial {
			w.dial = false
		} else {
			w.reading = false // the socket is dead, and still ours
		}
	case Unhealthy:
		w.reading = false
	case RequestRefused:
		if w.at.State != Offline && w.at.State != Paused {
			w.request = true // Q3: it will be replayed
		}
	}
	return w
}

// deeds are what the actions of one step did that the world does not show.
type deeds struct {
	settled, failed, released bool // somebody waited, and was answered
	probed, skipped           bool
	redialled                 bool
	remembered                bool // as refused
	loads, dials              bool // began
	broken                    string
}

// do carries out one action, as the comments of the actions say.
func (w *world) do(a Action, d *deeds) {
	must := func(ok bool, why string) {
		if !ok && d.broken == "" {
			d.broken = a.String() + ": " + why
		}
	}
	switch a {
	case Halt:
		w.wait, w.skipped, w.load, w.dial = false, false, false, false
	case HangUp:
		w.socket, w.reading = false, false
	case DropToken:
		w.token = false
	case RefuseToken:
		d.remembered = d.remembered || w.token
		w.token = false
	case ForgetUser:
		w.user, w.known, w.token = false, false, false
	case ForgetStranger:
		if !w.known {
			w.user, w.token = false, false
		}
	case Retry:
		must(!w.wait && !w.load && !w.dial, "M5: the attempt before still runs")
		w.wait, w.skipped = true, false
	case SkipWait:
		d.skipped = w.wait && !w.skipped
		w.skipped = w.wait
	case LoadToken:
		must(!w.load, "T4: a second load")
		w.load, d.loads = true, true
	case Release:
		must(w.token, "Q2: there is no token for the requests")
		d.released = w.request
		w.request = false
	case Dial:
		must(w.token, "M1: there is no token to dial with")
		must(!w.dial && !w.socket, "M1: a second socket")
		w.dial, d.dials = true, true
	case Redial:
		d.redialled = w.dial
	case Listen:
		must(w.socket && !w.reading, "M1: no socket to read, or a second reader")
		w.reading = true
	case Probe:
		d.probed = w.socket
	case Settle:
		must(w.reading && w.token, "C1: there is no session to answer with")
		d.settled = w.caller
		w.caller = false
	case Fail:
		d.failed = w.caller || w.request
		w.caller, w.request = false, false
	case Finish:
		w.closed = true
	default:
		panic("BUG: the model does not know " + a.String())
	}
}

// step is one event and what came of it.
type step struct {
	before, after world
	event         Event // as posted
	Transition
	deeds
}

func (s step) String() string {
	return fmt.Sprintf("%v\n\ton %v (%v, %v)\n\tto %v", s.before, s.Event, s.Verdict, s.Do, s.after)
}

func (s step) is(events ...Event) bool { return slices.Contains(events, s.event) }

// take lets a machine decide what to do about an event in a world, and does it,
// but for the action at index leave.
func (w world) take(decide func(Position, Event) Transition, e Event, leave int) step {
	s := step{before: w, event: e, Transition: decide(w.at, e)}
	w = w.meets(e)
	for i, a := range s.Do {
		if i != leave {
			w.do(a, &s.deeds)
		}
	}
	w.at = s.To
	s.after = w
	return s
}

const nothing = -1 // leave nothing out

// wanted tells whether a connection is wanted after the step: calls and final
// errors alone decide that (M1, C1, C5–C7, C9, E2).
func (s step) wanted() bool {
	switch {
	case s.is(Connect, ReconnectSocket):
		return true
	case s.is(DisconnectSocket, Disconnect, Close, Abandoned), s.is(TokenDenied, Denied, RetriesSpent):
		return false
	}
	return s.before.at.State != Offline
}

// active tells whether a connection is wanted and allowed after the step.
func (s step) active() bool { return s.wanted() && !s.after.held() }

// stale tells whether a token that was refused or dropped is to be replaced
// before anything else can go on (M1, T2, E).
func (s step) stale() bool {
	lost := s.is(TokenRefused, TokenUntimely, RequestRefused, Unhealthy)
	return s.active() && (lost || s.before.at.State == Refreshing && !s.is(TokenLoaded))
}

// session tells whether the connection has a good socket after the step: nothing
// closes it but the end of the wish, a hold, or its own failure (Q3, C5, L1, L2, H1).
func (s step) session() bool {
	return s.is(Opened) || s.before.socket && s.active() && !s.is(Dropped, Unhealthy, TokenRefused, TokenUntimely, Denied)
}

// keepsUser tells whether a user is set after the step (C1, C5, C7).
func (s step) keepsUser() bool {
	final := s.is(TokenDenied, Denied, RetriesSpent)
	return s.is(Connect) || s.before.user && !s.is(Disconnect, Close, Abandoned) && (!final || s.before.known)
}

// keepsToken tells whether a token is cached after the step: T2 lists all that
// may cost it, and E and H1 what must.
func (s step) keepsToken() bool {
	lost := s.is(TokenRefused, TokenUntimely, RequestRefused, Unhealthy, Denied, DisconnectSocket)
	return s.keepsUser() && (s.before.token || s.is(TokenLoaded)) && !lost
}

// impatient tells whether somebody or something close by does not want to wait.
func (s step) impatient() bool {
	return s.is(Connect, ReconnectSocket, Foreground, NetworkAvailable, Woke)
}

func count(bs ...bool) (n int) {
	for _, b := range bs {
		if b {
			n++
		}
	}
	return n
}

// laws are what every step must hold, each from the promise that it names. They
// speak of what an event means, wherever it comes; the table is written state by
// state. That both say the same is the proof.
var laws = []struct {
	text  string
	holds func(s step) bool
}{
	{"M2: what cannot happen does not", func(s step) bool { return s.Verdict == Move || s.Verdict == Stay || s.Verdict == Ignore }},
	{"M4: no action is asked of an owner who cannot do it", func(s step) bool { return s.broken == "" }},
	{"M2, M4: a cell acts in the order of all actions: what ends, what begins, who is answered", func(s step) bool { return slices.IsSorted(s.Do) }},

	{"M1, C5, C7, E2: Offline exactly while nothing is wanted", func(s step) bool { return (s.after.at.State == Offline) == !s.wanted() }},
	{"M1, L3, C10: Paused exactly while a connection is wanted and a hold stands", func(s step) bool { return (s.after.at.State == Paused) == (s.wanted() && s.after.held()) }},
	{"M1, E: Refreshing exactly while a lost token is replaced", func(s step) bool { return (s.after.at.State == Refreshing) == s.stale() }},
	{"M1: Connected exactly while a good socket and a good token are there", func(s step) bool {
		return (s.after.at.State == Connected) == (s.active() && !s.stale() && s.session())
	}},
	{"L3: the facts are the truth", func(s step) bool {
		f := s.after.at.Facts
		return f.Has(InBackground) == s.after.background && f.Has(NetworkDown) == s.after.down && f.Has(SocketOpen) == s.after.socket
	}},

	{"M1: Offline, Paused and Connected are quiet", func(s step) bool {
		busy := s.after.wait || s.after.load || s.after.dial
		return !busy || s.after.at.State == Connecting || s.after.at.State == Refreshing
	}},
	{"M1: Connecting has exactly one of wait, load and dial: it is never stuck", func(s step) bool {
		return s.after.at.State != Connecting || count(s.after.wait, s.after.load, s.after.dial) == 1
	}},
	{"M1: Refreshing has exactly one of wait and load", func(s step) bool {
		return s.after.at.State != Refreshing || !s.after.dial && count(s.after.wait, s.after.load) == 1
	}},
	{"R1, T3, E: an attempt goes on from wait to load to dial, and never skips one", func(s step) bool {
		return s.loads == s.is(RetryDue) && s.dials == (s.is(TokenLoaded) && !s.session())
	}},
	{"C2, C6: impatience does not begin anew what runs already", func(s step) bool {
		return !s.impatient() || s.after.held() || (!s.before.load || s.after.load) && (!s.before.dial || s.after.dial)
	}},
	{"R1, C6, L2, H3: a wait ends early exactly when somebody is impatient", func(s step) bool {
		return s.skipped == (s.before.wait && !s.before.skipped && s.impatient())
	}},

	{"L2: a dial begins anew exactly when the network is another one", func(s step) bool {
		return s.redialled == (s.before.dial && s.is(NetworkAvailable))
	}},

	{"Q3, C5, L1, L2, H1: a socket is open exactly as long as it is good, wanted and allowed", func(s step) bool { return s.after.socket == s.session() }},
	{"M1: every open socket is read", func(s step) bool { return s.after.reading == s.after.socket }},
	{"H3, L2: the open socket is asked for life after a sleep and a change of route, and only then", func(s step) bool {
		return s.probed == (s.before.socket && s.is(Woke, NetworkAvailable))
	}},

	{"T2, E, C5, C7: the cached token goes for the causes listed, and for no other", func(s step) bool { return s.after.token == s.keepsToken() }},
	{"T5: a token is remembered as refused exactly when the server said so", func(s step) bool {
		return s.remembered == (s.before.token && s.is(TokenRefused, RequestRefused))
	}},
	{"C1, C5, C7: the user is forgotten on leaving and on an end before the first success", func(s step) bool { return s.after.user == s.keepsUser() }},
	{"C9: the last event of all is Close, which leaves nothing", func(s step) bool {
		return s.after.closed == s.is(Close) && (!s.after.closed || s.after == world{at: s.after.at, closed: true, background: s.after.background, down: s.after.down})
	}},

	{"C1, C6: a caller is answered at once when Connected or Offline, and waits anywhere else", func(s step) bool {
		waits := s.before.meets(s.event).caller
		return s.after.caller == (waits && s.after.at.State != Connected && s.after.at.State != Offline)
	}},
	{"C1: before the first success, an attempt lasts as long as somebody waits for it", func(s step) bool {
		return s.after.known || s.after.at.State == Offline || s.after.caller
	}},
	{"Q2, Q3: a request waits exactly while there is no token, and not Offline", func(s step) bool {
		waits := s.before.meets(s.event).request
		return s.after.request == (waits && !s.after.token && s.after.at.State != Offline)
	}},
	{"C1, E2, Q2: who is answered with an error is so by Offline, who with a session by Connected", func(s step) bool {
		return (!s.failed || s.after.at.State == Offline) && (!s.settled || s.after.at.State == Connected) && (!s.released || s.after.token)
	}},
}

// brokenLaws returns the laws that a step breaks, and how.
func (s step) brokenLaws() []string {
	var all []string
	for _, law := range laws {
		if !law.holds(s) {
			all = append(all, law.text)
		}
	}
	if s.deeds.broken != "" {
		all = append(all, s.deeds.broken)
	}
	return all
}

// cell names a place in the table.
type cell struct {
	state State
	event Event
}

// visit is a cell as the exploration came by it: on this event (unqualified), here.
type visit struct {
	from world
	on   Event
}

// exploration is every place that can be reached, and how.
type exploration struct {
	worlds map[world]bool
	visits map[cell][]visit
	broken string // the first step that broke a law, and the law
}

// explore visits every world that can be reached from a new connection, and stops
// at the first broken law.
func explore(decide func(Position, Event) Transition) exploration {
	x := exploration{worlds: map[world]bool{}, visits: map[cell][]visit{}}
	queue := []world{{}}
	x.worlds[world{}] = true
	reach := func(w world) {
		if !x.worlds[w] {
			x.worlds[w] = true
			queue = append(queue, w)
		}
	}
	for len(queue) > 0 {
		w := queue[0]
		queue = queue[1:]
		for _, next := range w.quietly() {
			reach(next)
		}
		for _, e := range w.legal() {
			s := w.take(decide, e, nothing)
			if laws := s.brokenLaws(); laws != nil {
				x.broken = fmt.Sprintf("%v\n\tbreaks %q", s, laws)
				return x
			}
			c := cell{w.at.State, s.Event}
			x.visits[c] = append(x.visits[c], visit{w, e})
			reach(s.after)
		}
	}
	return x
}

// idle returns the actions of a cell that never change anything: what comes of
// each visit is the same without them.
func idle(decide func(Position, Event) Transition, visits []visit) []Action {
	if len(visits) == 0 {
		return nil
	}
	do := decide(visits[0].from.at, visits[0].on).Do
	var all []Action
	for i, a := range do {
		matters := slices.ContainsFunc(visits, func(v visit) bool {
			with, without := v.from.take(decide, v.on, nothing), v.from.take(decide, v.on, i)
			return with.after != without.after || with.deeds != without.deeds
		})
		if !matters {
			all = append(all, a)
		}
	}
	return all
}

// declare fires events through the machine that runs in every connection.
func declare(t *testing.T) func(Position, Event) Transition {
	m, err := New(Declared())
	if err != nil {
		t.Fatal(err)
	}
	return func(p Position, e Event) Transition {
		transition, err := m.Fire(p, e)
		if err != nil {
			t.Error(err)
		}
		return transition
	}
}

// Every reachable combination of state, facts, work, socket, token, user and
// waiters keeps every law.
func TestEveryReachablePlaceKeepsTheLaws(t *testing.T) {
	x := explore(declare(t))
	if x.broken != "" {
		t.Fatal(x.broken)
	}
	steps := 0
	for _, visits := range x.visits {
		steps += len(visits)
	}
	t.Logf("%d places, %d steps, %d cells", len(x.worlds), steps, len(x.visits))
}

// M2: a refused cell is never reached, every other one is.
func TestEveryCellIsReachedOrRefused(t *testing.T) {
	x := explore(declare(t))
	for _, s := range States() {
		for _, e := range Events() {
			_, verdict := Next(s, e)
			if reached := len(x.visits[cell{s, e}]) > 0; reached == (verdict == Refuse) {
				t.Errorf("%v × %v: %v, reached: %t", s, e, verdict, reached)
			}
		}
	}
}

// M2: a cell orders nothing that would never do anything.
func TestNoActionIsIdle(t *testing.T) {
	decide := declare(t)
	for c, visits := range explore(decide).visits {
		if idle := idle(decide, visits); idle != nil {
			t.Errorf("%v × %v: %v never does anything", c.state, c.event, idle)
		}
	}
}

// L3: the holds commute. From everywhere, whatever the order of the background,
// the loss and their ends, the end is the same place.
func TestHoldsCommute(t *testing.T) {
	orders := [][]Event{
		{Background, Foreground, NetworkLost, NetworkAvailable},
		{Background, NetworkLost, Foreground, NetworkAvailable},
		{Background, NetworkLost, NetworkAvailable, Foreground},
		{NetworkLost, Background, Foreground, NetworkAvailable},
		{NetworkLost, Background, NetworkAvailable, Foreground},
		{NetworkLost, NetworkAvailable, Background, Foreground},
	}
	decide := declare(t)
	for from := range explore(decide).worlds {
		if from.closed {
			continue
		}
		ends := map[world]bool{}
		for _, order := range orders {
			w := from
			for _, e := range order {
				w = w.take(decide, e, nothing).after
			}
			w.skipped = false // one more reason to hurry is no other place
			ends[w] = true
			if w.held() {
				t.Fatalf("%v: a hold is left: %v", from, w)
			}
		}
		if len(ends) != 1 {
			t.Errorf("%v ends in %d places: %v", from, len(ends), ends)
		}
	}
}

// L1, L2, R2: from everywhere a wanted connection comes back by itself, when the holds
// go, the source answers and the server opens.
func TestWantedConnectionsComeBack(t *testing.T) {
	decide := declare(t)
	for from := range explore(decide).worlds {
		w := from
		if w.closed || w.at.State == Offline {
			continue
		}
		for _, e := range []Event{Foreground, NetworkAvailable, RetryDue, TokenLoaded, Opened} {
			if slices.Contains(w.legal(), e) {
				w = w.take(decide, e, nothing).after
			}
		}
		if w.at.State != Connected {
			t.Errorf("%v came only to %v", from, w)
		}
	}
}

// C7, C9: from everywhere Disconnect and Close end everything in one step, and
// doing it twice is doing it once.
func TestLeavingIsOneStep(t *testing.T) {
	decide := declare(t)
	for from := range explore(decide).worlds {
		if from.closed {
			continue
		}
		for _, e := range []Event{Disconnect, Close} {
			once := from.take(decide, e, nothing).after
			left := world{at: once.at, background: from.background, down: from.down, closed: e == Close}
			if once != left || once.at.State != Offline {
				t.Errorf("%v: %v leaves %v", from, e, once)
			}
			if twice := once.take(decide, e, nothing).after; twice != once {
				t.Errorf("%v: a second %v goes on to %v", from, e, twice)
			}
		}
	}
}

// C5: after DisconnectSocket only a call leads anywhere, and the user is still set.
func TestOnlyACallLeavesOffline(t *testing.T) {
	decide := declare(t)
	for from := range explore(decide).worlds {
		if from.at.State != Offline {
			continue
		}
		for _, e := range from.legal() {
			s := from.take(decide, e, nothing)
			if s.Verdict == Move && !s.is(Connect, ReconnectSocket) {
				t.Errorf("%v leaves on %v", from, e)
			}
		}
	}
}
