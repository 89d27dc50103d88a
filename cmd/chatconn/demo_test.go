package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/chatconn/chatconn"
	"github.com/chatconn/chatconn/fsm"
)

// The whole life, over real sockets, as people see it.
func TestDemo(t *testing.T) {
	t.Parallel()
	got := call(t, "demo")
	got.want(t, ok)
	for _, c := range chapters {
		if !strings.Contains(got.out, ". "+c.title+"\n") || !strings.Contains(got.out, "✓ "+c.ids+": ") {
			t.Errorf("chapter %q is missing, or did not end well", c.title)
		}
	}
	if strings.Contains(got.out, "✗") || !strings.Contains(got.out, "15 of 15 chapters ended as promised") {
		t.Error("something went wrong")
	}
	for line := range strings.Lines(got.out) {
		if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > width {
			t.Errorf("a line has %d columns: %s", n, line)
		}
	}
	if t.Failed() {
		t.Log(got.out)
	}
}

// The same for programs, in another weather. O4: what it records replays clean,
// and can be drawn.
func TestDemoJSON(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "demo.jsonl")
	got := call(t, "demo", "--json", "--seed=7", "--record", file)
	got.want(t, ok)
	var found replayed
	replay := call(t, "replay", file, "--json")
	replay.want(t, ok)
	if err := json.Unmarshal([]byte(replay.out), &found); err != nil || found.Wrong != nil || found.Truncated || found.Connections != 1 || found.Transitions < 50 {
		t.Errorf("the recording of the demo: %v, %s", err, replay.out)
	}
	call(t, "replay", file, "-f", "svg").want(t, ok)
	call(t, "replay", file, "-f", "mermaid").want(t, ok)
	good := 0
	var last map[string]any
	for _, object := range objects(t, got.out) {
		last = object
		if object["type"] == "result" && object["ok"] == true {
			good++
		}
	}
	if good != len(chapters) || last["type"] != "summary" || last["ok"] != true || last["bugs"] != 0.0 {
		t.Errorf("%d of %d chapters are good; the last line is %v", good, len(chapters), last)
	}
}

// A demo that cannot fail would show nothing. Each way in which a life can be
// otherwise is found, said, and ends with an error.
func TestDemoFails(t *testing.T) {
	first := chapters[0]
	with := func(change func(*chapter)) []chapter {
		c := first
		c.steps = slices.Clone(c.steps)
		change(&c)
		return []chapter{c, chapters[1]}
	}
	for _, c := range []struct {
		name  string
		life  []chapter
		says  string
		plays int
	}{
		{"another state", with(func(c *chapter) { c.end.state = fsm.Paused }), "Connected, want Paused", 2},
		{"another user", with(func(c *chapter) { c.end.user = jane }), "as john, want as jane", 2},
		{"a load too few", with(func(c *chapter) { c.end.loads = 2 }), "one token load, want 2 token loads", 2},
		{"another connection", with(func(c *chapter) { c.end.socket = same }), "a new connection, want the same connection", 2},
		{"another way", with(func(c *chapter) { c.steps[0].path = path(fsm.Connected) }), "it went Connecting, want Connected", 1},
		{"a step too far", with(func(c *chapter) { c.steps[0].path = path(fsm.Connecting) }), "", 1},
		{"an error", with(func(c *chapter) {
			c.steps[0].do = func(context.Context, *life) error { return errors.New("no such luck") }
			c.steps[0].path = nil
		}), "no such luck", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out bytes.Buffer
			err := demo{}.play(t.Context(), newPrinter(&out, false), c.life, config)
			if !errors.Is(err, errFailed) {
				t.Errorf("it ends with %v", err)
			}
			if !strings.Contains(out.String(), "wrong: "+c.says) || !strings.Contains(out.String(), "✗ C1") {
				t.Errorf("it does not say %q:\n%s", c.says, &out)
			}
			if n := strings.Count(out.String(), "· "); n != c.plays {
				t.Errorf("%d chapters were played, want %d:\n%s", n, c.plays, &out)
			}
		})
	}
}

// What arrives twice or not at all is found at the end.
func TestDemoCountsWhatArrives(t *testing.T) {
	for name, harm := range map[string]func(*life){
		`"message 1" arrived 2 times`:               func(l *life) { l.heard["message 1"]++ },
		"2 messages were sent, and 1 arrived":       func(l *life) { l.texts++ },
		`"message 1" arrived 2 times (as an event)`: func(l *life) { l.heard = map[string]int{"message 1": 2} },
	} {
		closed := make(chan chatconn.Event)
		close(closed)
		l := &life{events: closed, texts: 1, heard: map[string]int{"message 1": 1}}
		if err := l.heardOnce(); err != nil {
			t.Errorf("nothing was wrong: %v", err)
		}
		harm(l)
		if err := l.heardOnce(); err == nil || !strings.HasPrefix(name, err.Error()) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Ctrl-C ends the demo at once, and not as a success.
func TestDemoInterrupted(t *testing.T) {
	r := start(t, "demo")
	r.until(t, "Opened")
	r.stop()
	r.end(t, "demo").want(t, failed, "interrupted")
}

// The weather is the same for the same seed, and another for another.
func TestDemoSeed(t *testing.T) {
	weather := func(seed uint64) string {
		var out bytes.Buffer
		r := newRand(seed)
		for range 40 {
			out.WriteByte(byte('a' + r.IntN(9)))
		}
		return out.String()
	}
	if one, again, two := weather(1), weather(1), weather(2); one != again || one == two {
		t.Errorf("the seed does not choose the weather: %s, %s, %s", one, again, two)
	}
}

func TestColumns(t *testing.T) {
	var out bytes.Buffer
	p := newPrinter(&out, false)
	at := p.start.Add(1500 * time.Millisecond)
	p.header()
	p.change(chatconn.Change{From: fsm.Offline, Event: fsm.Connect, To: fsm.Connecting, Attempt: 1, At: at}, "")
	p.change(chatconn.Change{From: fsm.Connecting, Event: fsm.NetworkAvailable, To: fsm.Connecting, Attempt: 12, RetryAt: at.Add(25 * time.Second), At: at, Cause: errors.New("chatconn: because")}, "")
	p.change(chatconn.Change{From: fsm.Connecting, Event: fsm.Opened, To: fsm.Connected, At: at, Missed: 3}, "an-id")
	p.change(chatconn.Change{From: fsm.Connected, Event: fsm.Denied, To: fsm.Offline, At: at, Cause: &chatconn.APIError{Code: 4, Message: "\x1b[2J" + strings.Repeat("long ", 30)}}, "")
	want := strings.Join([]string{
		`    time  from        event                to          try       in  cause`,
		`  1.500s  Offline     Connect              Connecting    1`,
		`  1.500s  Connecting  NetworkAvailable     Connecting   12  25.000s  because`,
		`          3 transitions were lost here, since the output is slow`,
		`  1.500s  Connecting  Opened               Connected                 an-id`,
		`  1.500s  Connected   Denied               Offline`,
		`          code 4: ` + "\uFFFD" + `[2J` + strings.Repeat("long ", 14) + `long`,
		`          ` + strings.Repeat("long ", 14) + `long`,
	}, "\n") + "\n"
	if out.String() != want {
		t.Errorf("it prints\n%s\nwant\n%s", &out, want)
	}
}
