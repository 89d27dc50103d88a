package fsm

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	looplab "github.com/looplab/fsm"
)

// M2: every cell is declared, its verdict agrees with its step, and it says why.
func TestEveryCellIsDeclared(t *testing.T) {
	if err := declared.validate(); err != nil {
		t.Fatal(err)
	}
	for _, s := range States() {
		for _, e := range Events() {
			step, verdict := Next(s, e)
			if verdict == 0 || step.Why == "" {
				t.Errorf("%v × %v: %v, %q", s, e, verdict, step.Why)
			}
			if (verdict == Move) != (step.To != s) {
				t.Errorf("%v × %v: %v to %v", s, e, verdict, step.To)
			}
			if busy := verdict == Move || verdict == Stay; !busy && len(step.Do) > 0 || verdict == Stay && len(step.Do) == 0 {
				t.Errorf("%v × %v: %v with %v", s, e, verdict, step.Do)
			}
		}
	}
}

// M2: a value that is no state or no event has no cell.
func TestNoCell(t *testing.T) {
	m := mustNew(t, Declared())
	for _, c := range []struct {
		s State
		e Event
	}{{numStates, Connect}, {255, Connect}, {Offline, 0}, {Offline, numEvents}, {Offline, 255}} {
		if step, verdict := Next(c.s, c.e); verdict != 0 || step.Do != nil || step.To != 0 || step.Why != "" {
			t.Errorf("%v × %v: %+v, %v", c.s, c.e, step, verdict)
		}
		from := Position{c.s, NetworkDown}
		if got, err := m.Fire(from, c.e); err == nil || got.To != from || got.Verdict != 0 {
			t.Errorf("%v × %v: fired to %+v, %v", c.s, c.e, got.To, err)
		}
	}
}

// M2: a table that is not whole makes no machine, and the error names the cell.
func TestBadTables(t *testing.T) {
	cases := []struct {
		name string
		cell Cell
		want string
	}{
		{"missing", Cell{}, "nobody declared it"},
		{"unknown verdict", Cell{numVerdicts, Step{To: Connecting, Do: []Action{Retry}, Why: "w"}}, "nobody declared it"},
		{"unknown state", Cell{Move, Step{To: numStates, Why: "w"}}, "State(5) is no state"},
		{"unexplained", Cell{Ignore, Step{To: Connecting}}, "gives no reason"},
		{"move that stays", Cell{Move, Step{To: Connecting, Do: []Action{Retry}, Why: "w"}}, "a move that stays"},
		{"stay that moves", Cell{Stay, Step{To: Connected, Do: []Action{Retry}, Why: "w"}}, "stay, but it names Connected"},
		{"ignore that moves", Cell{Ignore, Step{To: Connected, Why: "w"}}, "ignore, but it names Connected"},
		{"refuse that moves", Cell{Refuse, Step{To: Connected, Why: "w"}}, "refuse, but it names Connected"},
		{"idle stay", Cell{Stay, Step{To: Connecting, Why: "w"}}, "a stay that does nothing"},
		{"busy ignore", Cell{Ignore, Step{To: Connecting, Do: []Action{Retry}, Why: "w"}}, "ignore, but it has actions"},
		{"busy refuse", Cell{Refuse, Step{To: Connecting, Do: []Action{Retry}, Why: "w"}}, "refuse, but it has actions"},
		{"repeated action", Cell{Move, Step{To: Connected, Do: []Action{Retry, Dial, Retry}, Why: "w"}}, "Retry stands twice"},
		{"zero action", Cell{Move, Step{To: Connected, Do: []Action{0}, Why: "w"}}, "none is no action"},
		{"unknown action", Cell{Move, Step{To: Connected, Do: []Action{numActions}, Why: "w"}}, "is no action"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			table := Declared()
			table[Connecting][Dropped] = c.cell
			m, err := New(table)
			if err == nil || m != nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "Connecting × Dropped") {
				t.Errorf("got %v, want an error about Connecting × Dropped with %q", err, c.want)
			}
		})
	}
}

// M3: the machine notices an executor that runs something else than the table.
func TestExecutorThatDisagrees(t *testing.T) {
	cases := []struct {
		name  string
		event Event
		cell  Cell // what the executor runs in Connecting instead
	}{
		{"another destination", Opened, Cell{Move, Step{To: Paused}}},
		{"a move that is a stay", Opened, Cell{Stay, Step{To: Connecting}}},
		{"a missing move", Opened, Cell{Ignore, Step{To: Connecting}}},
		{"a missing stay", Dropped, Cell{Ignore, Step{To: Connecting}}},
		{"a stay that is refused", ConnectHeld, Cell{Stay, Step{To: Connecting}}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			m, other := mustNew(t, Declared()), Declared()
			other[Connecting][c.event] = c.cell
			rows := other.rows()
			m.executors.New = func() any { return looplab.NewFSM(Offline.String(), rows, nil) }
			if _, err := m.Fire(Position{State: Connecting}, c.event); err == nil {
				t.Error("nobody noticed")
			}
		})
	}
}

// agree fires one event and compares what the machine says with the table.
func agree(m *Machine, p Position, e Event) (Position, error) {
	facts, event := Qualify(p.Facts, e)
	step, verdict := Next(p.State, event)
	want := Position{step.To, facts.after(step.Do)}
	if verdict == Refuse {
		want = p
	}
	got, err := m.Fire(p, e)
	if err != nil {
		return got.To, err
	}
	if got.From != p || got.To != want || got.Event != event || got.Verdict != verdict || !slices.Equal(got.Do, step.Do) || got.Why != step.Why {
		return got.To, fmt.Errorf("%+v on %v: the machine says %+v, the table %v to %+v, %+v", p, e, got, verdict, want, step)
	}
	return got.To, nil
}

// walk fires random events, and begins somewhere else from time to time, so that
// it is not caught in a corner.
func walk(m *Machine, r *rand.Rand, events int) error {
	var p Position
	for i := range events {
		if i%64 == 0 {
			p = Position{State(r.IntN(numStates)), Facts(r.IntN(int(allFacts) + 1))}
		}
		var err error
		if p, err = agree(m, p, Event(1+r.IntN(numEvents-1))); err != nil {
			return fmt.Errorf("event %d: %w", i, err)
		}
	}
	return nil
}

// M3: looplab and the table agree on every cell, under all facts.
func TestExecutorAgreesOnEveryCell(t *testing.T) {
	m := mustNew(t, Declared())
	for _, s := range States() {
		for f := range allFacts + 1 {
			for _, e := range Events() {
				if _, err := agree(m, Position{s, f}, e); err != nil {
					t.Error(err)
				}
			}
		}
	}
}

// M3: looplab and the table agree on a million random events.
func TestExecutorAgreesOnRandomWalks(t *testing.T) {
	m, seed := mustNew(t, Declared()), rand.Uint64()
	// One walker needs one executor. The race detector has the pool throw away
	// every fourth, and building another costs more than the walk.
	only := m.executors.New()
	m.executors.New = func() any { return only }
	if err := walk(m, rand.New(rand.NewPCG(seed, 0)), 1_000_000); err != nil {
		t.Errorf("seed %d: %v", seed, err)
	}
}

// Many connections share one machine.
func TestConcurrentUse(t *testing.T) {
	m, seed := mustNew(t, Declared()), rand.Uint64()
	var wg sync.WaitGroup
	for walker := range uint64(16) {
		wg.Go(func() {
			if err := walk(m, rand.New(rand.NewPCG(seed, walker)), 2_000); err != nil {
				t.Errorf("seed %d, walker %d: %v", seed, walker, err)
			}
		})
	}
	wg.Wait()
}

const allFacts = InBackground | NetworkDown | SocketOpen

// M2: facts rename events by the rules that Qualifiers lists, and by nothing
// else; the only events that change facts are news.
func TestQualify(t *testing.T) {
	for f := range allFacts + 1 {
		for _, e := range append(Events(), 0, numEvents, 255) {
			facts, event := Qualify(f, e)
			if again, same := Qualify(f, e); again != facts || same != event {
				t.Fatalf("%v %v: not pure", f, e)
			}
			want := f
			switch e {
			case Background:
				want |= InBackground
			case Foreground:
				want &^= InBackground
			case NetworkLost:
				want |= NetworkDown
			case NetworkAvailable:
				want &^= NetworkDown
			case Opened:
				want |= SocketOpen
			}
			if facts != want {
				t.Errorf("%v on %v: facts %v, want %v", f, e, facts, want)
			}
			becomes := e
			for _, q := range Qualifiers() {
				if q.Event == e && facts.Has(q.When) {
					becomes = q.Becomes
					break
				}
			}
			if event != becomes {
				t.Errorf("%v on %v: becomes %v, want %v", f, e, event, becomes)
			}
			if fixed, same := Qualify(facts, event); fixed != facts || same != event {
				t.Errorf("%v on %v: qualified again it becomes %v (%v)", f, e, same, fixed)
			}
		}
	}
}

// L3, C10: no event that would begin an attempt passes while a hold stands.
func TestHeldEventsAreNamed(t *testing.T) {
	for f := range allFacts + 1 {
		for _, e := range []Event{Connect, ReconnectSocket, Foreground, NetworkAvailable} {
			facts, event := Qualify(f, e)
			if held := strings.HasSuffix(event.String(), "Held"); held != facts.Held() {
				t.Errorf("%v on %v is %v", f, e, event)
			}
		}
	}
}

// What callers get cannot change the machine.
func TestReturnedSlicesAreCopies(t *testing.T) {
	Qualifiers()[0].Becomes = Close
	Answers(Dial)[0] = Close
	Events()[0] = Close
	FactNames()[0] = "x"
	if Qualifiers()[0].Becomes == Close || Answers(Dial)[0] == Close || Events()[0] == Close || FactNames()[0] == "x" {
		t.Error("a caller changed the machine")
	}
	table := Declared()
	table[Offline][Connect] = Cell{}
	if _, verdict := Next(Offline, Connect); verdict != Move {
		t.Error("a copy of the table changed the declared one")
	}
}

// One word, one meaning: nothing shares a name with anything else.
func TestNamesAreUnique(t *testing.T) {
	owner := map[string]string{}
	claim := func(name, kind string) {
		if other, taken := owner[name]; taken {
			t.Errorf("%q is a %s and a %s", name, kind, other)
		}
		owner[name] = kind
	}
	for _, s := range States() {
		claim(s.String(), "state")
	}
	for _, e := range Events() {
		claim(e.String(), "event")
	}
	for _, a := range Actions() {
		claim(a.String(), "action")
	}
	for _, f := range FactNames() {
		claim(f, "fact")
	}
	for _, k := range Kinds() {
		claim(k.String(), "kind")
	}
	for v := Verdict(0); v < numVerdicts; v++ {
		claim(v.String(), "verdict")
	}
	for name := range maps.Keys(owner) {
		if strings.TrimSpace(name) == "" || strings.Contains(name, "(") {
			t.Errorf("%q is no name", name)
		}
	}
}

func TestEnumerations(t *testing.T) {
	if got := States(); len(got) != numStates || got[0] != Offline || !slices.IsSorted(got) {
		t.Errorf("states %v", got)
	}
	if got := Events(); len(got) != numEvents-1 || got[0] != Connect || got[len(got)-1] != RetriesSpent || !slices.IsSorted(got) {
		t.Errorf("events %v", got)
	}
	if got := Actions(); len(got) != numActions-1 || got[0] != Halt || got[len(got)-1] != Finish || !slices.IsSorted(got) {
		t.Errorf("actions %v", got)
	}
	if got := Kinds(); len(got) != numKinds || !slices.IsSorted(got) {
		t.Errorf("kinds %v", got)
	}
}

// A value outside its enumeration prints its number and never panics.
func TestStringsOfAnyValue(t *testing.T) {
	for got, want := range map[string]string{
		State(numStates).String():     "State(5)",
		State(255).String():           "State(255)",
		Event(0).String():             "none",
		Event(255).String():           "Event(255)",
		Action(0).String():            "none",
		Action(255).String():          "Action(255)",
		Kind(numKinds).String():       "Kind(6)",
		Verdict(0).String():           "invalid",
		Verdict(numVerdicts).String(): "Verdict(5)",
		Facts(0).String():             "",
		allFacts.String():             "InBackground+NetworkDown+SocketOpen",
		Facts(0x80).String():          "",
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	for v := range 256 {
		_ = Event(v).String() + Action(v).String() + State(v).String() + Facts(v).String()
		_ = Answers(Action(v))
	}
}

// Every event has one kind; the zero event and what is no event have none.
func TestKinds(t *testing.T) {
	seen := map[Kind]int{}
	for _, e := range Events() {
		seen[e.Kind()]++
	}
	for _, k := range Kinds() {
		if seen[k] == 0 {
			t.Errorf("no event is caused by %v", k)
		}
	}
	for e, want := range map[Event]Kind{Connect: User, Abandoned: User, Woke: Lifecycle, NetworkAvailableHeld: Network, RequestRefused: Token, TokenRefused: Transport, RetriesSpent: Timer} {
		if e.Kind() != want {
			t.Errorf("%v is of kind %v, want %v", e, e.Kind(), want)
		}
	}
	for _, e := range []Event{0, numEvents, 255} {
		mustPanic(t, "BUG: fsm:", func() { e.Kind() })
	}
}

// M6: the five states fold into the three that many apps show.
func TestSimple(t *testing.T) {
	want := map[State]State{Offline: Offline, Paused: Offline, Connecting: Connecting, Refreshing: Connecting, Connected: Connected}
	for _, s := range States() {
		if got := s.Simple(); got != want[s] {
			t.Errorf("%v is simply %v, want %v", s, got, want[s])
		}
	}
	mustPanic(t, "BUG: fsm: State(5)", func() { State(numStates).Simple() })
}

// M5: only events that work can end in come from work, and a hold, a call or an
// answer of the API never does.
func TestAnswers(t *testing.T) {
	for _, a := range Actions() {
		for _, e := range Answers(a) {
			if k := e.Kind(); k != Token && k != Transport && k != Timer || e == RequestRefused {
				t.Errorf("%v is answered by %v", a, e)
			}
		}
	}
}

// Firing is cheap enough for every event of thousands of connections.
func BenchmarkFire(b *testing.B) {
	m, err := New(Declared())
	if err != nil {
		b.Fatal(err)
	}
	for _, c := range []struct {
		name string
		p    Position
		e    Event
	}{{"move", Position{State: Connected}, Dropped}, {"stay", Position{State: Connected}, Woke}, {"ignore", Position{}, Woke}} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := m.Fire(c.p, c.e); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func mustNew(t *testing.T, table Table) *Machine {
	t.Helper()
	m, err := New(table)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func mustPanic(t *testing.T, want string, f func()) {
	t.Helper()
	defer func() {
		t.Helper()
		if r := recover(); r == nil || !strings.Contains(r.(string), want) {
			t.Errorf("panic %v, want %q", r, want)
		}
	}()
	f()
}
