package main

import (
	"bufio"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/chatconn/chatconn/tokens"
)

// The whole way: it connects, survives, and leaves when it is stopped.
func TestConnect(t *testing.T) {
	_, s := startServer(t)
	t.Setenv(tokenEnv, s.Token)
	r := start(t, "connect", "--url", s.URL, "--api-key", s.APIKey, "--user", s.User)
	r.until(t, "Opened")
	s.fault(t, "drop-all")
	r.until(t, "Dropped")
	r.until(t, "Opened")
	r.stop()
	got := r.end(t, "connect")
	got.want(t, ok)
	lines := strings.Split(strings.TrimSpace(got.out), "\n")
	if last := lines[len(lines)-1]; !strings.Contains(last, "Disconnect") || !strings.Contains(last, "Offline") {
		t.Errorf("it does not end with the disconnecting: %s", last)
	}
}

// Without a service there is an embedded one, which tells how to make it fail.
func TestConnectEmbedded(t *testing.T) {
	r := start(t, "connect", "--json", "--name=Johnny")
	server := objects(t, r.until(t, `"server"`))[0]
	s := served{Faults: server["faults"].(string)}
	r.until(t, `"Opened"`)
	s.fault(t, "expire-tokens?kick=true")
	r.until(t, `"TokenRefused"`)
	r.until(t, `"Opened"`)
	s.fault(t, "garbage?text="+url.QueryEscape(`{"type":"odd","x":"\u001b"}`))
	r.until(t, `"odd"`)
	r.stop()
	got := r.end(t, "connect")
	got.want(t, ok)
	var way []string
	connections := make(map[any]bool)
	for _, object := range objects(t, got.out) {
		switch object["type"] {
		case "change":
			way = append(way, object["to"].(string))
			if object["event"] == "Opened" {
				connections[object["connection"]] = true
			}
		case "event":
			if object["name"] != "odd" || object["raw"].(map[string]any)["x"] != "\x1b" {
				t.Errorf("the event became %v", object)
			}
		}
	}
	if got, want := strings.Join(way, " "), "Connecting Connected Refreshing Connecting Connected Offline"; got != want {
		t.Errorf("it went %s, want %s", got, want)
	}
	if len(connections) != 2 || connections[nil] {
		t.Errorf("the ids of the connections: %v, want two", connections)
	}
}

func TestConnectFor(t *testing.T) {
	t.Parallel()
	got := call(t, "connect", "--for=2s")
	got.want(t, ok)
	if !strings.Contains(got.out, "Opened") || !strings.Contains(got.out, "Disconnect") {
		t.Errorf("it prints:\n%s", got.out)
	}
}

// C1: the error of a wait that ended holds the last cause.
func TestConnectForInVain(t *testing.T) {
	_, s := startServer(t)
	s.fault(t, "fail-upgrades?n=-1&status=503")
	t.Setenv(tokenEnv, s.Token)
	call(t, "connect", "--url", s.URL, "--api-key", s.APIKey, "--for=300ms").
		want(t, failed, "not connected within 300ms", "HTTP 503")
}

// Ctrl-C is no failure before there is a connection, either.
func TestConnectStoppedEarly(t *testing.T) {
	_, s := startServer(t)
	s.fault(t, "fail-upgrades?n=-1&status=503")
	t.Setenv(tokenEnv, s.Token)
	r := start(t, "connect", "--url", s.URL, "--api-key", s.APIKey)
	r.until(t, "Dropped")
	r.stop()
	r.end(t, "connect").want(t, ok)
}

// Where a token may come from.
func TestConnectTokenSources(t *testing.T) {
	_, s := startServer(t)
	_, open := startServer(t, "--no-auth")
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(s.Token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	command := "cat " + file
	if runtime.GOOS == "windows" {
		command = "type " + file
	}
	for _, c := range []struct {
		name   string
		env    string
		server served
		flags  []string
	}{
		{"environment", s.Token, s, nil},
		{"flag", "", s, []string{"--token", s.Token}},
		{"file", "", s, []string{"--token-file", file}},
		{"command", "", s, []string{"--token-command", command}},
		{"a flag goes before the environment", "a.b.c", s, []string{"--token-file", file}},
		{"development", "", open, []string{"--dev-token"}},
		{"guest", "", s, []string{"--guest"}},
		{"anonymous", "", s, []string{"--anonymous"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv(tokenEnv, c.env)
			r := start(t, append([]string{"connect", "--url", c.server.URL, "--api-key", c.server.APIKey}, c.flags...)...)
			r.until(t, "Opened")
			r.stop()
			got := r.end(t, "connect")
			got.want(t, ok)
			if strings.Contains(got.out, c.server.Secret) {
				t.Error("the secret is printed")
			}
		})
	}
}

// T2: a file and a command are asked again when the token is refused.
func TestConnectTokenCommandIsAskedAgain(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("needs a POSIX shell")
	}
	t.Setenv(secretEnv, secret)
	_, s := startServer(t)
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(mint(t, -time.Hour)), 0o600); err != nil {
		t.Fatal(err)
	}
	// The first call prints the token that has expired, and puts a good one in its place.
	command := "cat " + file + "; printf %s '" + mint(t, time.Hour) + "' > " + file
	r := start(t, "connect", "--url", s.URL, "--api-key", s.APIKey, "--token-command", command)
	r.until(t, "TokenRefused")
	r.until(t, "TokenLoaded")
	r.until(t, "Opened")
	r.stop()
	r.end(t, "connect").want(t, ok)
}

// E2: errors that no retry can cure end the command with 1, and are said.
func TestConnectFinalErrors(t *testing.T) {
	t.Setenv(secretEnv, secret)
	_, s := startServer(t)
	for _, c := range []struct {
		name, token string
		flags       []string
		says        string
	}{
		{"expired", mint(t, -time.Hour), nil, "code 40"},
		{"of somebody else", mint(t, time.Hour), []string{"--user=eve"}, "another user"},
		{"badly signed", mint(t, time.Hour) + "x", nil, "code 43"},
		{"with a line end", mint(t, time.Hour) + "\n", nil, "line break"},
		{"with Bearer", "Bearer " + mint(t, time.Hour), nil, "Bearer"},
		{"two segments", "a.b", nil, "segments"},
		{"development", tokens.DevToken("john"), nil, "code"},
		{"unknown key", mint(t, time.Hour), []string{"--api-key=other"}, "code 2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv(tokenEnv, c.token)
			got := call(t, append([]string{"connect", "--url", s.URL, "--api-key", s.APIKey}, c.flags...)...)
			got.want(t, failed, c.says)
		})
	}
	t.Run("after the first success", func(t *testing.T) {
		t.Setenv(tokenEnv, mint(t, time.Hour))
		r := start(t, "connect", "--url", s.URL, "--api-key", s.APIKey)
		r.until(t, "Opened")
		s.fault(t, "kick?code=40")
		r.end(t, "connect").want(t, failed, "code 40")
	})
}

// A command that fails is asked again after a wait; --for ends that.
func TestConnectTokenCommandFails(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("needs a POSIX shell")
	}
	_, s := startServer(t)
	for name, command := range map[string]string{
		"fails":           "echo eyJ-not-for-you; exit 7",
		"prints too much": "yes eyJ | head -c 100000",
		"never returns":   "sleep 100",
	} {
		t.Run(name, func(t *testing.T) {
			got := call(t, "connect", "--url", s.URL, "--api-key", s.APIKey, "--token-command", command, "--for=500ms")
			got.want(t, failed, "not connected within 500ms")
		})
	}
}

// A command that still runs at the end is killed before that.
func TestConnectLeavesNoCommandBehind(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("needs a POSIX shell")
	}
	_, s := startServer(t)
	file := filepath.Join(t.TempDir(), "pid")
	call(t, "connect", "--url", s.URL, "--api-key", s.APIKey, "--for=300ms",
		"--token-command", "echo $$ > "+file+"; sleep 100; true").want(t, failed)
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	process, err := os.FindProcess(pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := process.Signal(syscall.Signal(0)); err == nil {
		t.Error("the command runs on")
	}
}

// T8: a development token goes to no other machine, whichever way it came, and
// nothing is even dialed.
func TestConnectDevTokenFence(t *testing.T) {
	dev := tokens.DevToken("john")
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(dev), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ env, flag string }{
		"flag of its own": {"", "--dev-token"},
		"flag":            {"", "--token=" + dev},
		"environment":     {dev, ""},
		"file":            {"", "--token-file=" + file},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(tokenEnv, c.env)
			args := []string{"connect", "--url=https://chat.invalid", "--api-key=key", "--for=20s"}
			if c.flag != "" {
				args = append(args, c.flag)
			}
			got := call(t, args...)
			got.want(t, failed, "development token", "--allow-dev-tokens")
			if strings.Contains(got.out, "dial") {
				t.Errorf("it dialed:\n%s", got.out)
			}
		})
	}
}

// O4: one line for each transition, from the first to the last.
func TestConnectRecord(t *testing.T) {
	name := filepath.Join(t.TempDir(), "record")
	r := start(t, "connect", "--record", name)
	r.until(t, "Opened")
	r.stop()
	r.end(t, "connect").want(t, ok)
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	noToken(t, nil, string(text))
	lines := objects(t, string(text))
	if first, last := lines[0]["event"], lines[len(lines)-1]["event"]; first != "Connect" || last != "Close" {
		t.Errorf("the recording goes from %v to %v:\n%s", first, last, text)
	}
	call(t, "connect", "--record", filepath.Join(name, "below-a-file")).want(t, failed, "--record", "below-a-file")
}

// A recording that cannot be written is no success.
func TestConnectRecordFull(t *testing.T) {
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Skip("there is no /dev/full")
	}
	r := start(t, "connect", "--record", "/dev/full")
	r.until(t, "Opened")
	r.stop()
	r.end(t, "connect").want(t, failed, "--record", "no space")
}

// Ctrl-C in a real process.
func TestInterrupt(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("a process cannot send Ctrl-C to another there")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, "connect")
	cmd.Env = append(os.Environ(), asProgram+"=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var last string
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if last = lines.Text(); strings.Contains(last, "Opened") {
			cmd.Process.Signal(os.Interrupt)
		}
	}
	if err := cmd.Wait(); err != nil || !strings.Contains(last, "Disconnect") {
		t.Errorf("it ended with %v, and said at last: %s", err, last)
	}
}
