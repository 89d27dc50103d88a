package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/chatconn/chatconn"
)

// Colours are for terminals whose owner wants them.
func TestColor(t *testing.T) {
	t.Setenv("NO_COLOR", "")
	t.Setenv("TERM", "xterm")
	if hasColor(new(bytes.Buffer)) {
		t.Error("a buffer has colours")
	}
	file, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if hasColor(file) {
		t.Error("a file has colours")
	}
	if runtime.GOOS == "windows" {
		return
	}
	device, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0) // like a terminal, a character device
	if err != nil {
		t.Fatal(err)
	}
	defer device.Close()
	if !hasColor(device) {
		t.Error("a device has no colours")
	}
	t.Setenv("TERM", "dumb")
	if hasColor(device) {
		t.Error("a dumb terminal has colours")
	}
	t.Setenv("TERM", "xterm")
	t.Setenv("NO_COLOR", "1")
	if hasColor(device) {
		t.Error("NO_COLOR is ignored")
	}
}

// Colours change nothing but the colour.
func TestColorKeepsColumns(t *testing.T) {
	change := chatconn.Change{At: time.Now()}
	var plain, colored bytes.Buffer
	for out, on := range map[*bytes.Buffer]bool{&plain: false, &colored: true} {
		p := newPrinter(out, false)
		p.start, p.color = change.At, on
		p.header()
		p.change(change, "")
		p.event(chatconn.Event{Type: "typing.start"})
	}
	stripped := colored.String()
	for _, code := range []string{bold, dim, red, green, yellow, blue, "0"} {
		stripped = strings.ReplaceAll(stripped, "\x1b["+code+"m", "")
	}
	lines := func(s string) string { // without the last, since the event has a time of its own
		s = regexp.MustCompile(` +\n`).ReplaceAllString(s, "\n")
		return s[:strings.LastIndex(strings.TrimSpace(s), "\n")]
	}
	if colored.String() == stripped || lines(stripped) != lines(plain.String()) {
		t.Errorf("with colours\n%q\nwithout\n%q", colored.String(), plain.String())
	}
}

// S4: what a server or another user sends does nothing to a terminal or a program.
func TestHostileEvents(t *testing.T) {
	for _, raw := range []string{
		`{"type":"x","message":{"text":"\u001b]0;pwned\u0007\u202e"}}`,
		`{"type":"x","message":"no object"}`,
		`{"type":"x","a":tru}`,
		"{\"type\":\"x\",\"a\":\"\xff\"}",
		`null`, ``,
	} {
		e := chatconn.Event{Type: "x\x1b[2J", CID: "a:b\r\n", UserID: "eve\u202e", Raw: json.RawMessage(raw)}
		var text, object bytes.Buffer
		newPrinter(&text, false).event(e)
		newPrinter(&object, true).event(e)
		if strings.ContainsAny(strings.TrimSuffix(text.String(), "\n"), "\x1b\x07\r\n\u202e") {
			t.Errorf("%q reaches the terminal as %q", raw, text.String())
		}
		if !json.Valid(object.Bytes()) || strings.Count(object.String(), "\n") != 1 {
			t.Errorf("%q becomes %q", raw, object.String())
		}
	}
}

// brief keeps the reason and leaves out what only repeats itself.
func TestBrief(t *testing.T) {
	if got := brief(nil); got != "" {
		t.Errorf("brief(nil) = %q", got)
	}
	if got := brief(&chatconn.APIError{Code: 40, StatusCode: 401, Message: "expired"}); got != "code 40: expired" {
		t.Errorf("an API error is %q", got)
	}
	if got := brief(errors.New("chatconn: refused as insecure")); got != "refused as insecure" {
		t.Errorf("an error is %q", got)
	}
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

// Output that cannot be written is no success.
func TestBrokenOutput(t *testing.T) {
	t.Setenv(secretEnv, secret)
	for _, line := range []string{
		"connect --for=50ms --guest", "serve --addr=127.0.0.1:0", "serve --addr=127.0.0.1:0 --json",
		"token create john", "token dev john", "token inspect " + mint(t, time.Hour), "token verify " + mint(t, time.Hour),
		"diagram", "diagram --json",
	} {
		var errs bytes.Buffer
		code := run(t.Context(), strings.Fields(line), streams{strings.NewReader(""), broken{}, &errs})
		if code != failed {
			t.Errorf("%.30s: exit code %d: %s", line, code, &errs)
		}
	}
}
