package conntest_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chatconn/chatconn"
	"github.com/chatconn/chatconn/conntest"
	"github.com/chatconn/chatconn/fsm"
)

// banner is a program's own code: it shows a banner while messages cannot come.
func banner(w *conntest.World) {
	changes := w.Conn().Watch(w.Context())
	go func() {
		for change := range changes {
			if change.Moved() && change.To.Simple() != change.From.Simple() {
				w.Print("banner: %v", change.To.Simple())
			}
		}
	}()
}

// G3: a program tests how its own code reacts, with a command of its own.
func TestProgramsReaction(t *testing.T) {
	r := conntest.Run(t, `
connect john
server kick 40
server fail-handshakes -1 43
server drop-all
until Offline
shout hello
`, conntest.Options{
		Start: banner,
		Commands: map[string]func(*conntest.World, ...string) error{
			"shout": func(w *conntest.World, args ...string) error {
				w.Print("%s", strings.ToUpper(args[0]))
				return nil
			},
		},
	})
	var said []string
	for line := range strings.Lines(r.Transcript) {
		if text, ok := strings.CutPrefix(strings.TrimSpace(line), "banner: "); ok {
			said = append(said, text)
		}
	}
	if got, want := strings.Join(said, " "), "Connecting Connected Connecting Connected Connecting Offline"; got != want {
		t.Errorf("the banner said %q, want %q\n%s", got, want, r.Transcript)
	}
	if !strings.Contains(r.Transcript, "shout hello\n  HELLO\n") {
		t.Errorf("the program's own command said nothing:\n%s", r.Transcript)
	}
	if n := r.Coverage.Walks(conntest.Cell{From: fsm.Connected, Event: fsm.TokenRefused}); n != 1 {
		t.Errorf("%d walks of Connected × TokenRefused, want 1", n)
	}
}

// A transcript keeps what stands around it, and playing it again changes nothing.
func TestUpdate(t *testing.T) {
	file := filepath.Join(t.TempDir(), "story.txt")
	const story = "# Once.\nconfig retry_first=1s\n\nconnect john\n  what was here before\n# The end.\n"
	if err := os.WriteFile(file, []byte(story), 0o600); err != nil {
		t.Fatal(err)
	}
	conntest.RunFile(t, file, conntest.Options{Update: true})
	first, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	text := string(first)
	if !strings.HasPrefix(text, "# Once.\nconfig retry_first=1s\n\nconnect john\n  Offline -Connect-> Connecting") || !strings.HasSuffix(text, "\n# The end.\n") || strings.Contains(text, "before") {
		t.Errorf("written:\n%s", text)
	}
	conntest.RunFile(t, file, conntest.Options{})
}

// What is wrong fails the test of a script, and the failure says what it is.
func TestFailures(t *testing.T) {
	failures := map[string]struct {
		script string
		says   []string
		run    func(*conntest.World, ...string) error
	}{
		"another transcript": {"connect john\n  connect john: ErrNoUser\n", []string{"differs", "-  connect john: ErrNoUser", "+  Offline -Connect-> Connecting"}, nil},
		"no such command":    {"\nconect john\n", []string{"story.txt:2: conect john", "no such command", "reconnect-socket"}, nil},
		"no such field":      {"config retry_furst=1s\n", []string{"story.txt:1", "RetryFurst"}, nil},
		"config too late":    {"state\nconfig retry_first=1s\n", []string{"story.txt:2", "config comes first"}, nil},
		"no such fault":      {"server explode\n", []string{"explode"}, nil},
		"a command fails":    {"run\n", []string{"no luck"}, func(*conntest.World, ...string) error { return errors.New("no luck") }},
		"a call is left": {"run\n", []string{"C9: sleep has not returned"}, func(w *conntest.World, _ ...string) error {
			w.Call("sleep", func(ctx context.Context) string { <-ctx.Done(); return "" })
			return nil
		}},
		"a connection is left": {"run\n", []string{"C9: connections are open after Close: 1"}, func(w *conntest.World, _ ...string) error {
			_, err := w.Network().DialContext(w.Context(), "tcp", "127.0.0.1:8080")
			return err
		}},
		"two sockets": {"connect john\nrun\n", []string{"M1: john had 2 sockets at once"}, func(w *conntest.World, _ ...string) error {
			second, err := chatconn.New(chatconn.Config{APIKey: w.Server().APIKey(), BaseURL: w.Server().URL(), DialContext: w.Network().DialContext})
			if err != nil {
				return err
			}
			_, err = second.ConnectUser(w.Context(), chatconn.User{ID: "john"}, token(w.Server().Token("john", 0)))
			return errors.Join(err, second.Close())
		}},
	}
	if name := os.Getenv("CONNTEST_FAILURE"); name != "" {
		file := filepath.Join(t.TempDir(), "story.txt")
		if err := os.WriteFile(file, []byte(failures[name].script), 0o600); err != nil {
			t.Fatal(err)
		}
		conntest.RunFile(t, file, conntest.Options{Commands: map[string]func(*conntest.World, ...string) error{"run": failures[name].run}})
		return
	}
	for name, f := range failures {
		t.Run(name, func(t *testing.T) {
			cmd := exec.Command(os.Args[0], "-test.run=^TestFailures$")
			cmd.Env = append(os.Environ(), "CONNTEST_FAILURE="+name)
			out, err := cmd.CombinedOutput()
			if err == nil {
				t.Fatalf("it passes:\n%s", out)
			}
			for _, want := range f.says {
				if !strings.Contains(string(out), want) {
					t.Errorf("it does not say %q:\n%s", want, out)
				}
			}
		})
	}
}

// token is a source of one token.
type token string

func (t token) Token(context.Context) (string, error) { return string(t), nil }

// G3: a table of transitions is checked, and counts as walked.
func TestTable(t *testing.T) {
	var cover conntest.Coverage
	conntest.Table(t, &cover, []conntest.Case{
		{fsm.Offline, fsm.Connect, fsm.Connecting, []fsm.Action{fsm.Retry}},
		{fsm.Connected, fsm.Background, fsm.Paused, []fsm.Action{fsm.HangUp}},
		{fsm.Paused, fsm.NetworkLost, fsm.Paused, nil},
	})
	all := len(conntest.Cells())
	if missing := len(cover.Missing()); missing != all-3 {
		t.Errorf("%d of %d cells are missing after three cases", missing, all)
	}
}

// Coverage of several test binaries is merged by way of JSON.
func TestCoverage(t *testing.T) {
	one, two := conntest.Cell{From: fsm.Offline, Event: fsm.Connect}, conntest.Cell{From: fsm.Paused, Event: fsm.Woke}
	var a, b conntest.Coverage
	a.Add(one)
	a.Add(one)
	b.Add(one)
	b.Add(two)
	var file bytes.Buffer
	if err := a.Write(&file); err != nil {
		t.Fatal(err)
	}
	if err := b.Read(&file); err != nil {
		t.Fatal(err)
	}
	if b.Walks(one) != 3 || b.Walks(two) != 1 {
		t.Errorf("%v: %d walks, %v: %d, want 3 and 1", one, b.Walks(one), two, b.Walks(two))
	}
	for _, bad := range []string{`[{"from":"Online","event":"Connect","walks":1}]`, `[{"from":"Offline","event":"Connect","walks":-1}]`, `{`} {
		var c conntest.Coverage
		if err := c.Read(strings.NewReader(bad)); err == nil || c.Percent() != 0 {
			t.Errorf("Read(%s): %v, %.0f %%", bad, err, c.Percent())
		}
	}
	for _, cell := range conntest.Cells() {
		a.Add(cell)
	}
	if a.Percent() != 100 || len(a.Missing()) != 0 {
		t.Errorf("everything walked: %.1f %%, missing %v", a.Percent(), a.Missing())
	}
}
