package chatconn_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

var (
	weekSeed  = flag.Uint64("week.seed", 0, "play the schedule of this seed only; 0: a few fixed ones")
	weekHours = flag.Int("week.hours", 0, "the length of a schedule in virtual hours; 0: 24; 168 is the week")
	weekConns = flag.Int("week.conns", 1, "connections in one schedule")
	weekRuns  = flag.Int("week.runs", 0, "play so many fresh seeds")
	weekPrint = flag.Bool("week.print", false, "print the schedules instead of playing them")
	weekPlay  = flag.String("week.play", "", "play the schedule in this file")
)

// A schedule is what befalls a number of Conns, and when. It is data: whoever plays
// it decides nothing.
type schedule struct {
	seed  uint64
	conns int
	items []item
}

// item is one thing that befalls one Conn, or the world (-1).
type item struct {
	at   time.Duration
	conn int
	what string
}

func (i item) String() string {
	if i.conn < 0 {
		return fmt.Sprintf("%v * %s", i.at, i.what)
	}
	return fmt.Sprintf("%v %d %s", i.at, i.conn, i.what)
}

// String is the form in which a schedule is kept in a file.
func (s schedule) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d conns %d\n", s.seed, s.conns)
	for _, i := range s.items {
		fmt.Fprintln(&b, i)
	}
	return b.String()
}

// parseSchedule reads what String wrote; lines that begin with # are comments.
func parseSchedule(text string) (s schedule, err error) {
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		if s.conns == 0 {
			if _, err := fmt.Sscanf(line, "seed %d conns %d", &s.seed, &s.conns); err != nil {
				return s, fmt.Errorf("%q: %w", line, err)
			}
			continue
		}
		at, rest, _ := strings.Cut(line, " ")
		who, what, _ := strings.Cut(rest, " ")
		i := item{conn: -1, what: what}
		if i.at, err = time.ParseDuration(at); err != nil {
			return s, err
		}
		if who != "*" {
			if i.conn, err = strconv.Atoi(who); err != nil {
				return s, err
			}
		}
		s.items = append(s.items, i)
	}
	if s.conns == 0 {
		return s, errors.New("it does not say for how many connections")
	}
	return s, nil
}

// invent makes the schedule of a seed: rough times and calm ones in turn, from the
// first connect to the moment in which Close comes.
func invent(seed uint64, length time.Duration, conns int) schedule {
	g := &inventor{rand.New(rand.NewPCG(seed, 4)), schedule{seed: seed, conns: conns}, 0}
	for n := range conns {
		g.at = time.Duration(g.N(5e9))
		g.add(n, "call connect 0 10m")
	}
	g.at = 6 * time.Second
	day := 24 * time.Hour
	pace := 20 * time.Second // between two faults
	if conns > 1 {
		pace = 3 * time.Second
	}
	for g.at < length {
		for end := g.at + time.Duration(g.N(25)+1)*time.Minute; g.at < end; {
			g.fault()
			if g.N(4) > 0 { // else several at a time
				g.at += time.Duration(g.ExpFloat64() * float64(pace))
			}
		}
		g.add(-1, "calm %s", g.one("news", "news", "quiet"))
		g.at += 3 * time.Minute // no calm takes longer
		if g.N(4) == 0 {
			for end := g.at + time.Duration(g.N(3*60))*time.Minute; g.at < end; g.at += time.Duration(g.ExpFloat64() * float64(10*time.Minute)) {
				g.life()
			}
		}
		if length > day && g.at > day {
			day += 24 * time.Hour
			g.add(-1, "new day")
			g.at += 3 * time.Minute
		}
	}
	for range g.N(8) { // Close may come at a bad time
		g.fault()
		g.at += time.Duration(g.N(4e9))
	}
	return g.schedule
}

type inventor struct {
	*rand.Rand
	schedule
	at time.Duration
}

// add adds an item. A few nanoseconds keep it apart from timers of whole seconds,
// since who comes first at one instant is chance.
func (g *inventor) add(conn int, format string, args ...any) {
	g.at += time.Duration(1_000 + g.N(1_000_000))
	g.items = append(g.items, item{g.at, conn, fmt.Sprintf(format, args...)})
}

func (g *inventor) one(all ...string) string { return all[g.N(len(all))] }

func (g *inventor) N(n int) int { return g.IntN(n) }

// life is what happens in good times.
func (g *inventor) life() {
	n := g.N(g.conns)
	switch g.N(5) {
	case 0:
		g.add(n, "app background")
		g.at += time.Duration(g.ExpFloat64() * float64(time.Minute))
		g.add(n, "app foreground")
	case 1:
		g.add(n, "network lost")
		g.at += time.Duration(g.ExpFloat64() * float64(10*time.Second))
		g.add(n, "network available")
	case 2:
		g.add(n, "app woke")
	case 3:
		g.add(n, "call requests %d 20s", 1+g.N(5))
	case 4:
		g.add(-1, "emit events %d", 1+g.N(20))
	}
}

// later adds, mostly, what makes up for the item before, soon or after a while.
func (g *inventor) later(conn int, what string) {
	if g.N(5) > 0 {
		g.at += time.Duration(g.ExpFloat64() * float64(g.N(10_000)) * float64(time.Millisecond))
		g.add(conn, "%s", what)
	}
}

// fault is one bad thing.
func (g *inventor) fault() {
	n := g.N(g.conns)
	codes := []string{"-1", "1", "5", "9", "40", "40", "40", "41", "42", "43", "48", "71", "111"}
	if g.N(6) == 0 {
		codes = []string{"2", "4", "16", "17", "99"} // final
	}
	code := g.one(codes...)
	short := time.Duration(1+g.N(60_000)) * time.Millisecond
	if g.N(40) == 0 { // flapping, faster than anybody should connect
		news := g.one("network available;network lost", "app foreground;app background", "app foreground;network available;app woke",
			"call connect 0 200ms;call disconnect 200ms", "call reconnect 200ms;call disconnect-socket 200ms")
		for range 5 + g.N(20) {
			for _, what := range strings.Split(news, ";") {
				g.add(n, "%s", what)
				g.at += time.Duration(g.N(300)) * time.Millisecond
			}
		}
		return
	}
	switch g.N(14) {
	case 0, 1:
		g.add(n, "app %s", g.one("background", "background", "foreground", "woke"))
		g.later(n, "app foreground")
	case 2, 3:
		g.add(n, "network %s", g.one("lost", "lost", "available"))
		g.later(n, "network available")
	case 4:
		g.add(n, "source %s %d %v", g.one("fail", "fail", "slow", "hang", "deaf", "wrong", "never", "same", "same", "garbage", "panic", "exit"), 1+g.N(4), short)
	case 5:
		g.add(n, "dial %s %d", g.one("fail", "fail", "block", "hold", "panic", "exit"), 1+g.N(3))
	case 6, 7:
		switch g.N(12) {
		case 0, 1, 2, 3:
			g.add(n, "call connect %d %v", g.N(5)/4, short)
		case 4, 5:
			g.add(n, "call reconnect %v", short)
		case 6, 7:
			g.add(n, "call disconnect-socket %v", short)
			g.later(n, "call reconnect 1m")
		case 8:
			g.add(n, "call disconnect %v", short)
			g.later(n, "call connect 0 2m")
		case 9, 10:
			g.add(n, "call switch %d %v", g.N(2), short)
		case 11:
			g.add(n, "call %s %v", g.one("guest", "anonymous"), short)
		}
	case 8:
		g.add(n, "call requests %d %v", 1+g.N(6), short)
	case 9:
		g.add(n, "read %s %v %v", g.one("changes", "events"), time.Duration(g.N(30_000))*time.Millisecond, 10*short)
	case 10:
		g.add(-1, "emit events %d", 1+g.N(200))
	case 11:
		g.add(-1, "wire %s", g.one("black-hole", "open", "open", "reset", fmt.Sprintf("latency %v", time.Duration(g.N(800))*time.Millisecond), "latency 0s"))
	default:
		g.add(-1, "server %s", g.one(
			"refuse", "silence", "no-answer", "stop-health", "heal", "heal", "heal", "heal", "heal", "bare-errors", "compress",
			fmt.Sprintf("slow %v", time.Duration(g.N(3000))*time.Millisecond),
			fmt.Sprintf("drop-after %d", 1+g.N(5)),
			"drop-all", "stop", "restart", "restart",
			"close "+g.one("1000", "1001", "1006", "1011", "1012", "1013", "4000"),
			"kick "+code, "kick 40", "kick-for-good "+code, "error-frame "+code,
			fmt.Sprintf("fail-handshakes %s %d", code, 1+g.N(3)),
			fmt.Sprintf("fail-handshakes 40 %d", 1+g.N(3)),
			fmt.Sprintf("fail-upgrades %s %d %ds", g.one("401", "403", "429", "429", "500", "502", "503", "302"), 1+g.N(3), g.N(15)),
			fmt.Sprintf("fail-requests %s %d", code, 1+g.N(4)),
			fmt.Sprintf("fail-requests %s %d %ds", g.one("401", "429", "500", "503"), 1+g.N(4), g.N(15)),
			fmt.Sprintf("fail-requests 40 %d", 1+g.N(4)),
			"expire", "expire", "expire-kick", "revoke",
			fmt.Sprintf("oversize %d", 1<<20-512+g.N(2048)),
			fmt.Sprintf("garbage %d", g.N(100)),
		))
	}
}

// actor plays schedules in a child, since a broken promise may be a panic, an endless
// loop or something left behind.
func actor(t *testing.T, s schedule, limit time.Duration) verdict {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, "-test.run=^TestWeekActor$", "-test.v", fmt.Sprintf("-test.timeout=%v", limit))
	// Waits are drawn from math/rand: its seed is the schedule's.
	cmd.Env = append(os.Environ(), actorEnv+"=1", "GODEBUG=randseednop=0")
	cmd.Stdin = strings.NewReader(s.String())
	out, err := cmd.CombinedOutput()
	if _, result, found := bytes.Cut(out, []byte("\n"+verdictMark)); found {
		line, rest, _ := bytes.Cut(result, []byte("\n"))
		var v verdict
		if err := json.Unmarshal(line, &v); err != nil {
			t.Fatalf("%v: %.200s", err, line)
		}
		if v.Check == "" && err != nil { // all was well but for what is left
			return verdict{Check: "left", What: cut(rest), Tally: v.Tally}
		}
		return v
	}
	what := cut(out)
	check := "crash"
	if strings.Contains(what, "test timed out") {
		check = "endless"
	}
	if line := regexp.MustCompile(`(?m)^(panic|fatal error): .*`).Find(out); check == "crash" && line != nil {
		check += " " + regexp.MustCompile(`\d+|\[recovered.*`).ReplaceAllString(string(line), "")
	}
	return verdict{Check: check, What: what}
}

// shrinkFor bounds the search for a short schedule.
const shrinkFor = 45 * time.Second

const actorEnv = "CHATCONN_WEEK_ACTOR"

func cut(out []byte) string { return string(out[:min(len(out), 4000)]) }

func TestWeekActor(t *testing.T) {
	if os.Getenv(actorEnv) == "" {
		t.Skip("it is for children of TestVirtualWeek")
	}
	text, err := io.ReadAll(os.Stdin)
	if err != nil {
		t.Fatal(err)
	}
	s, err := parseSchedule(string(text))
	if err != nil {
		t.Fatal(err)
	}
	seedWaits(s.seed)
	befall(t, s)
}

// shrink makes a schedule that breaks a promise as short as it can within a time:
// first what came long before, then any part without which it is broken all the
// same (delta debugging).
func shrink(s schedule, broken verdict, limit time.Duration, try func(schedule) verdict) (schedule, verdict) {
	end := time.Now().Add(limit)
	best := broken
	breaks := func(items []item) bool {
		if time.Now().After(end) {
			return false
		}
		candidate := schedule{s.seed, s.conns, items}
		v := try(candidate)
		if v.Check == broken.Check {
			s, best = candidate, v
			return true
		}
		return false
	}
	if broken.Guilty > 0 {
		breaks(slices.DeleteFunc(slices.Clone(s.items), func(i item) bool { return i.conn >= 0 && i.conn != broken.Guilty-1 || i.at > broken.At }))
	}
	if broken.At > 0 {
		breaks(slices.DeleteFunc(slices.Clone(s.items), func(i item) bool { return i.at > broken.At }))
	}
	for keep := 16; keep < len(s.items); keep *= 2 { // what came last
		if breaks(earlier(s.items, keep)) {
			break
		}
	}
	for size := max(1, len(s.items)/2); ; {
		cutAny := false
		for from := 0; from < len(s.items); {
			if breaks(slices.Delete(slices.Clone(s.items), from, min(from+size, len(s.items)))) {
				cutAny = true
			} else {
				from += size
			}
		}
		if size == 1 && !cutAny || time.Now().After(end) {
			if len(s.items) > 0 {
				breaks(earlier(s.items, len(s.items)))
			}
			return s, best
		}
		size = max(1, size/2)
	}
}

// earlier returns the last n items, moved to where the first item of all was.
func earlier(items []item, n int) []item {
	last := slices.Clone(items[max(0, len(items)-n):])
	for i, by := 0, last[0].at.Truncate(time.Second)-10*time.Second; i < len(last) && by > 0; i++ {
		last[i].at -= by
	}
	return last
}

// run plays a schedule, and if a promise is broken reports the shortest one that
// breaks it.
func run(t *testing.T, s schedule, limit time.Duration) tally {
	t.Helper()
	began := time.Now()
	v := actor(t, s, limit)
	if v.Check == "" {
		h := v.Tally
		t.Logf("seed %d: %v of %d Conns in %.1fs: %d items, %d calms, %d dials, %d sessions, %d loads, %d refusals, %d silences, %d calls, %d transitions, %d events, heap %v",
			s.seed, s.length(), s.conns, time.Since(began).Seconds(), h.Items, h.Calms, h.Dials, h.Sockets, h.Loads, h.Refusals, h.Silences, h.Calls, h.Transitions, h.Events, h.Heap)
		return h
	}
	t.Errorf("seed %d: %s: %s\nafter %v. To see it again: go test -run TestVirtualWeek . -week.seed=%d -week.hours=%d -week.conns=%d",
		s.seed, v.Check, v.What, v.At, s.seed, int(s.length().Hours()), s.conns)
	short, v := shrink(s, v, shrinkFor, func(s schedule) verdict { return actor(t, s, limit) })
	t.Errorf("%s\n%s\nthe shortest schedule, for testdata/week:\n# %s: %.200s\n%s", v.What, strings.Join(v.History, "\n"), v.Check, strings.ReplaceAll(v.What, "\n", " "), short)
	return v.Tally
}

func (s schedule) length() time.Duration {
	if len(s.items) == 0 {
		return 0
	}
	return s.items[len(s.items)-1].at
}

// M1, M5, C7, C9, T2, T4, T5, R1, R3, H1, O1, O2, O4, Q4: a connection lives through
// whatever befalls it. Every run is a schedule that a seed names; rough times and
// calm ones take turns. Checked all along: one socket, dial, load and timer at most,
// none while Paused or Offline; Connected within 30 s after the world turned calm
// (35 s more where somebody waits for a silent peer); a load for the first connect,
// for each refusal, silence and call that drops the token, and no other; no dead
// token on the wire; attempts within the bound of the backoff; every call ended in a
// documented way and in time; watchers and the recording follow the table; nothing
// left at the end; memory flat from day to day.
func TestVirtualWeek(t *testing.T) {
	if *weekPlay != "" {
		text, err := os.ReadFile(*weekPlay)
		if err != nil {
			t.Fatal(err)
		}
		s, err := parseSchedule(string(text))
		if err != nil {
			t.Fatal(err)
		}
		run(t, s, 10*time.Minute)
		return
	}
	seeds, hours := []uint64{1, 2, 3, 4}, 24
	if *weekHours > 0 {
		hours = *weekHours
	}
	switch {
	case *weekSeed != 0:
		seeds = []uint64{*weekSeed}
	case *weekRuns > 0:
		seeds = nil
		for range *weekRuns {
			seeds = append(seeds, rand.Uint64N(1e9))
		}
	}
	for _, seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			if *weekPrint {
				fmt.Print(invent(seed, time.Duration(hours)*time.Hour, *weekConns))
				return
			}
			h := run(t, invent(seed, time.Duration(hours)*time.Hour, *weekConns), time.Duration(2*60+hours**weekConns)*time.Second)
			if h.Calms < hours/4 || h.Sockets < 5 || h.Loads < 5 || h.Transitions < 50 {
				t.Errorf("too little happened: %+v", h)
			}
		})
	}
}

// The shortest schedules of faults that were found, which must be well now.
func TestWeekRegressions(t *testing.T) {
	files, err := filepath.Glob("testdata/week/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		s, err := parseSchedule(string(text))
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if back, err := parseSchedule(s.String()); err != nil || back.String() != s.String() {
			t.Errorf("%s: it is not what was read: %v", file, err)
		}
		if v := actor(t, s, time.Minute); v.Check != "" {
			t.Errorf("%s: %s: %s\n%s", file, v.Check, v.What, strings.Join(v.History, "\n"))
		}
	}
}
