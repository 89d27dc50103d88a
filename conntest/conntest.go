// Package conntest tells stories about a connection and checks how they end.
//
// A script is a text file: one command a line, and below each, indented, the
// transcript of everything that happened because of it. Run plays it with a real
// Conn, WebSocket and HTTP server over a network in memory, in the virtual time
// of testing/synctest, so that an hour takes milliseconds and every run gives the
// same transcript. Programs play scripts with their own code beside the Conn
// (Options.Start) to test how it reacts.
//
//	# The first connection asks the source once.
//	connect john
//	  Offline -Connect-> Connecting / Retry  (attempt 1, at once)
//	  …
//	  connect john: connected, session #1
//
// A transcript holds no chance: connections and tokens are numbered in the order
// in which they appear, a time since the line before stands where it is exact
// ("+15s"), and a random wait is shown as the band that is promised for it; a wait
// outside its band is shown as it is. Lines of one moment stand in this order:
// transitions, what the source was asked, what readers got, what calls returned,
// what the program printed.
//
// Every script ends with Close, and fails its test if the machine met an event
// that cannot happen, an error was logged, a call did not return, a connection
// stayed open, a user had two sockets at once, or a goroutine is left.
//
// [Table] tests single transitions of the machine. Both fill a [Coverage]: which
// cells of the table a test has walked. [Coverage.Main] fails a package whose tests
// walk too little; "chatconn coverage" puts several packages together and paints
// the picture of the machine.
//
// The commands are listed by [Commands].
package conntest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/chatconn/chatconn"
)

// Options say how scripts are run. The zero value runs them with a plain Conn.
type Options struct {
	// Configure changes the configuration before the script's own config
	// commands do.
	Configure func(*chatconn.Config)
	// New makes the Conn; nil: chatconn.New.
	New func(chatconn.Config) (*chatconn.Conn, error)
	// Start runs before the first command, for the program's own code beside the
	// Conn. What it starts must end when the Conn closes.
	Start func(*World)
	// Commands are commands of the program's own, by name.
	Commands map[string]func(w *World, args ...string) error
	// Coverage, if not nil, learns which cells the scripts walk.
	Coverage *Coverage
	// Update makes RunFile and RunDir write the transcripts instead of comparing
	// them. Read the difference before you commit it.
	Update bool
}

// Result is what came of a script.
type Result struct {
	Transcript string   // the script, with new transcripts
	Observed   []string // all that a program, its source and the server could see, without the names of events and actions
	Coverage   *Coverage
}

// RunFile plays the script in a file and compares the transcript with the one
// that stands there.
func RunFile(t *testing.T, path string, o Options) Result {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text := string(data)
	r := play(t, filepath.Base(path), text, o)
	switch {
	case r.Transcript == text:
	case o.Update:
		if err := os.WriteFile(path, []byte(r.Transcript), 0o644); err != nil {
			t.Fatal(err)
		}
	default:
		t.Errorf("%s: the transcript differs:\n%s", path, diff(text, r.Transcript))
	}
	return r
}

// RunDir plays every script (*.txt) of a directory as a parallel subtest.
func RunDir(t *testing.T, dir string, o Options) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "*.txt"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("%s: no scripts (%v)", dir, err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) {
			t.Parallel()
			RunFile(t, path, o)
		})
	}
}

// Run plays a script. Transcripts in it are not compared.
func Run(t *testing.T, script string, o Options) Result {
	t.Helper()
	return play(t, "script", script, o)
}

func play(t *testing.T, name, text string, o Options) Result {
	t.Helper()
	s := parse(text)
	var r Result
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, o)
		for i := range s.commands {
			c := &s.commands[i]
			if err := w.perform(c); err != nil {
				t.Errorf("%s:%d: %s: %v", name, c.line, c.text, err)
				break
			}
		}
		for _, problem := range w.end() {
			t.Errorf("%s: %s", name, problem)
		}
		r = Result{Transcript: s.String(), Observed: w.observed, Coverage: &w.coverage}
	})
	if o.Coverage != nil && r.Coverage != nil {
		o.Coverage.Merge(r.Coverage)
	}
	return r
}

// script is a parsed file.
type script struct {
	commands []command
	rest     []string // lines after the last command
}

type command struct {
	before     []string // comments and blank lines above it, as they stand
	line       int
	text       string
	transcript []string
}

func parse(text string) *script {
	s := new(script)
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	for i, line := range lines {
		switch {
		case strings.HasPrefix(line, "  "): // a transcript, to be made anew
		case strings.TrimSpace(line) == "" || strings.HasPrefix(line, "#"):
			s.rest = append(s.rest, strings.TrimSpace(line))
		default:
			s.commands = append(s.commands, command{before: s.rest, line: i + 1, text: strings.TrimSpace(line)})
			s.rest = nil
		}
	}
	return s
}

// String is the script with its transcripts.
func (s *script) String() string {
	var b strings.Builder
	print := func(indent string, lines ...string) {
		for _, line := range lines {
			fmt.Fprintln(&b, indent+line)
		}
	}
	for _, c := range s.commands {
		print("", c.before...)
		print("", c.text)
		print("  ", c.transcript...)
	}
	print("", s.rest...)
	return b.String()
}

// words splits a command; what stands in double quotes is one word.
func words(text string) []string {
	var all []string
	var word strings.Builder
	quoted, begun := false, false
	for _, r := range text {
		switch {
		case r == '"':
			quoted, begun = !quoted, true
		case r == ' ' && !quoted:
			if begun {
				all = append(all, word.String())
			}
			word.Reset()
			begun = false
		default:
			word.WriteRune(r)
			begun = true
		}
	}
	if begun {
		all = append(all, word.String())
	}
	return all
}

// diff shows the lines in which two texts differ, with the command above them.
func diff(want, got string) string {
	a, b := strings.Split(want, "\n"), strings.Split(got, "\n")
	common := make([][]int, len(a)+1) // the longest common subsequence from here on
	for i := range common {
		common[i] = make([]int, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			if a[i] == b[j] {
				common[i][j] = common[i+1][j+1] + 1
			} else {
				common[i][j] = max(common[i+1][j], common[i][j+1])
			}
		}
	}
	var out strings.Builder
	heading, shown := "", ""
	show := func(sign, line string) {
		if shown != heading {
			shown = heading
			fmt.Fprintln(&out, " "+heading)
		}
		fmt.Fprintln(&out, sign+line)
	}
	i, j := 0, 0
	for i < len(a) || j < len(b) {
		switch {
		case i < len(a) && j < len(b) && a[i] == b[j]:
			if !strings.HasPrefix(a[i], " ") {
				heading = a[i]
			}
			i, j = i+1, j+1
		case j == len(b) || i < len(a) && common[i+1][j] >= common[i][j+1]:
			show("-", a[i])
			i++
		default:
			show("+", b[j])
			j++
		}
	}
	return out.String()
}
