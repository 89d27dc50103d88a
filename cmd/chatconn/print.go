package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/chatconn/chatconn"
	"github.com/chatconn/chatconn/fsm"
	"github.com/chatconn/chatconn/transport"
)

// width is the number of columns that lines are made for.
const width = 100

// A printer tells what a connection does: in aligned columns for people, or as
// one JSON object a line for programs. It is safe for concurrent use, and
// remembers the first error of writing.
type printer struct {
	json   bool
	color  bool
	start  time.Time // times are printed as the time since then
	mu     sync.Mutex
	out    io.Writer
	failed error
}

func newPrinter(out io.Writer, wantJSON asJSON) *printer {
	return &printer{out: out, json: bool(wantJSON), color: hasColor(out), start: time.Now()}
}

// hasColor reports whether out is a terminal that shows colours, and nobody
// objects (no-color.org).
func hasColor(out io.Writer) bool {
	file, isFile := out.(*os.File)
	if !isFile || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
		return false
	}
	if runtime.GOOS == "windows" && os.Getenv("WT_SESSION") == "" {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// The colours, as parameters of the escape sequence.
const (
	bold   = "1"
	dim    = "2"
	red    = "31"
	green  = "32"
	yellow = "33"
	blue   = "34"
)

var stateColor = map[fsm.State]string{
	fsm.Offline: dim, fsm.Connecting: yellow, fsm.Connected: green, fsm.Refreshing: yellow, fsm.Paused: blue,
}

// paint colours a text that is padded already: an escape sequence has no width.
func (p *printer) paint(color, text string) string {
	if !p.color {
		return text
	}
	return "\x1b[" + color + "m" + text + "\x1b[0m"
}

// line prints one line for people.
func (p *printer) line(format string, args ...any) {
	p.write(append(fmt.Appendf(nil, format, args...), '\n'))
}

// object prints one object for programs.
func (p *printer) object(v any) {
	data, err := json.Marshal(v)
	if err != nil {
		panic("BUG: chatconn: what is printed is no JSON: " + err.Error())
	}
	p.write(append(data, '\n'))
}

func (p *printer) write(line []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, err := p.out.Write(line); err != nil {
		p.failed = cmp.Or(p.failed, err)
	}
}

// err returns the first error of writing.
func (p *printer) err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.failed
}

func (p *printer) since(at time.Time) time.Duration { return max(0, at.Sub(p.start)) }

// columns are the time, from, event, to, attempt, wait and cause. A cause that
// does not fit stands on the lines below.
const columns = "%8s  %s  %s  %s  %3s  %7s  %s"

const (
	timeWidth  = 8 + 2
	stateWidth = 10 // Connecting
	eventWidth = 19 // ReconnectSocketHeld
	causeWidth = width - timeWidth - stateWidth - 2 - eventWidth - 2 - stateWidth - 2 - 3 - 2 - 7 - 2
)

// header names the columns.
func (p *printer) header() {
	if p.json {
		return
	}
	p.line("%s", p.paint(dim, fmt.Sprintf(columns, "time",
		pad("from", stateWidth), pad("event", eventWidth), pad("to", stateWidth), "try", "in", "cause")))
}

// change prints one transition, or an update of the attempt. connection is the
// id of the socket, where there is one to tell.
func (p *printer) change(c chatconn.Change, connection string) {
	var wait time.Duration
	if !c.RetryAt.IsZero() {
		wait = max(0, c.RetryAt.Sub(c.At))
	}
	if p.json {
		p.object(struct {
			Type       string    `json:"type"`
			Time       time.Time `json:"time"`
			Elapsed    float64   `json:"elapsed"` // seconds
			From       string    `json:"from"`
			Event      string    `json:"event"`
			To         string    `json:"to"`
			Attempt    int       `json:"attempt,omitempty"`
			RetryIn    float64   `json:"retryIn,omitempty"` // seconds
			Cause      string    `json:"cause,omitempty"`
			Connection string    `json:"connection,omitempty"`
			Missed     int       `json:"missed,omitempty"`
		}{"change", c.At, p.since(c.At).Seconds(), c.From.String(), c.Event.String(), c.To.String(),
			c.Attempt, wait.Seconds(), whole(c.Cause), connection, c.Missed})
		return
	}
	p.missed(c.Missed, "transitions")
	event, attempt, in := "", "", ""
	if c.Event != 0 {
		event = c.Event.String()
	}
	if c.Attempt > 0 {
		attempt = fmt.Sprint(c.Attempt)
	}
	if wait > 0 {
		in = seconds(wait)
	}
	cause, below := brief(c.Cause), ""
	switch {
	case cause == "":
		cause = connection
	case utf8.RuneCountInString(cause) > causeWidth:
		cause, below = "", cause
	}
	p.line("%s", strings.TrimRight(fmt.Sprintf(columns, seconds(p.since(c.At)),
		p.paint(stateColor[c.From], pad(c.From.String(), stateWidth)),
		pad(event, eventWidth),
		p.paint(stateColor[c.To], pad(c.To.String(), stateWidth)),
		attempt, in, cause), " "))
	for _, line := range wrap(below, width-timeWidth) {
		p.line("%*s%s", timeWidth, "", line)
	}
}

// event prints one chat event.
func (p *printer) event(e chatconn.Event) {
	now := time.Now()
	if p.json {
		var raw any = e.Raw
		if !json.Valid(e.Raw) {
			raw = string(e.Raw) // a server may send anything
		}
		p.object(struct {
			Type    string    `json:"type"`
			Time    time.Time `json:"time"`
			Elapsed float64   `json:"elapsed"` // seconds
			Name    string    `json:"name"`
			CID     string    `json:"cid,omitempty"`
			UserID  string    `json:"userId,omitempty"`
			Raw     any       `json:"raw"`
			Missed  int       `json:"missed,omitempty"`
		}{"event", now, p.since(now).Seconds(), e.Type, e.CID, e.UserID, raw, e.Missed})
		return
	}
	p.missed(e.Missed, "events")
	text := e.Type
	if e.UserID != "" {
		text += " from " + e.UserID
	}
	if e.CID != "" {
		text += " in " + e.CID
	}
	if said := messageText(e); said != "" {
		text += ": " + said
	}
	p.line("%8s  %s", seconds(p.since(now)), p.paint(bold, fit(printable(text), width-timeWidth)))
}

func (p *printer) missed(n int, what string) {
	if n > 0 {
		p.line("%8s  %s", "", p.paint(red, fmt.Sprintf("%d %s were lost here, since the output is slow", n, what)))
	}
}

// messageText returns what was said, if the event is about a message.
func messageText(e chatconn.Event) string {
	var body struct {
		Message struct {
			Text string `json:"text"`
		} `json:"message"`
	}
	_ = json.Unmarshal(e.Raw, &body) // an event of another form says nothing
	return body.Message.Text
}

// whole is all that an error says; empty for nil.
func whole(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// brief is what people need of a cause: without the packages that report it, and
// without the addresses of a connection that broke.
func brief(err error) string {
	var api *chatconn.APIError
	var failure *transport.Error
	text := whole(err)
	switch {
	case errors.As(err, &api):
		text = fmt.Sprintf("code %d: %s", api.Code, api.Message)
	case errors.As(err, &failure) && failure.Kind == transport.Network && failure.Err != nil:
		text = failure.Phase + ": " + root(failure.Err).Error()
	}
	for _, name := range []string{"chatconn: ", "transport: ", "tokens: "} {
		text = strings.ReplaceAll(text, name, "")
	}
	return printable(text)
}

// root returns the innermost error.
func root(err error) error {
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			return err
		}
		err = inner
	}
}

// printable replaces what a terminal might act upon: texts come from the server
// and from others who use it.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '\uFFFD'
	}, text)
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.3fs", d.Seconds()) }

func pad(text string, n int) string { return fmt.Sprintf("%-*s", n, text) }

// fit cuts a text that is too long for its column.
func fit(text string, n int) string {
	if runes := []rune(text); len(runes) > n {
		return string(runes[:n-1]) + "…"
	}
	return text
}

// wrap breaks a text into lines of at most n columns, none for no text. A longer
// word has a line of its own.
func wrap(text string, n int) (lines []string) {
	for _, word := range strings.Fields(text) {
		last := len(lines) - 1
		if last < 0 || utf8.RuneCountInString(lines[last]+" "+word) > n {
			lines = append(lines, word)
		} else {
			lines[last] += " " + word
		}
	}
	return lines
}

// writeJSON prints one object for programs.
func writeJSON(out io.Writer, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = out.Write(append(data, '\n'))
	return err
}
