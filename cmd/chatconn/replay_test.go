package main

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chatconn/chatconn/fsm"
	tape "github.com/chatconn/chatconn/recording"
)

// recorded is the recording of a short life of a connection.
func recorded(t *testing.T, conn string) []string {
	t.Helper()
	machine, err := fsm.New(fsm.Declared())
	if err != nil {
		t.Fatal(err)
	}
	var at fsm.Position
	var lines []string
	for i, e := range []fsm.Event{
		fsm.Connect, fsm.RetryDue, fsm.TokenLoaded, fsm.Dropped, fsm.RetryDue, fsm.TokenLoaded, fsm.Opened, fsm.Dropped,
		fsm.RetryDue, fsm.TokenLoaded, fsm.Opened, fsm.Background, fsm.Close,
	} {
		tr, err := machine.Fire(at, e)
		if err != nil || tr.Verdict == fsm.Refuse {
			t.Fatal(tr, err)
		}
		l := tape.Line{
			Seq: uint64(i + 1), Time: time.Date(2026, 3, 1, 9, 30, i, 0, time.UTC), From: at.State, Event: tr.Event, Verdict: tr.Verdict,
			To: tr.To.State, Actions: tr.Do, Conn: conn, Table: tape.TableHash(),
		}
		lines, at = append(lines, string(l.Append(nil))), tr.To
	}
	return lines
}

func saved(t *testing.T, lines []string) (file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "recording.jsonl")
	if err := os.WriteFile(file, []byte(strings.Join(lines, "")), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// O4: a recording that the table allows is summed up, for people and for programs.
func TestReplay(t *testing.T) {
	lines := recorded(t, "a")
	got := call(t, "replay", saved(t, lines))
	got.want(t, ok)
	const want = `13 transitions of 1 connection, from 2026-03-01 09:30:00 to 2026-03-01 09:30:12 UTC

     Offline  0s   0.0 %
  Connecting  9s  75.0 %
   Connected  2s  16.7 %
  Refreshing  0s   0.0 %
      Paused  1s   8.3 %

3 attempts, 1 of them failed; 1 token load; 1 drop
`
	if got.out != want || got.err != "" {
		t.Errorf("got\n%s%s\nwant\n%s", got.out, got.err, want)
	}

	var found replayed
	got = callWith(t, strings.Join(lines, ""), "replay", "-", "--json")
	got.want(t, ok)
	if err := json.Unmarshal([]byte(got.out), &found); err != nil {
		t.Fatal(err)
	}
	if found.Transitions != 13 || found.Attempts != 3 || found.Loads != 1 || found.Drops != 1 || found.Failed != 1 || found.Connections != 1 ||
		found.Seconds["Connecting"] != 9 || found.Wrong != nil || found.Truncated || !found.First.Equal(time.Date(2026, 3, 1, 9, 30, 0, 0, time.UTC)) {
		t.Errorf("%+v in %s", found, got.out)
	}
	if got := callWith(t, "", "replay", "-"); got.code != ok || got.out != "Nothing is recorded.\n" {
		t.Errorf("an empty recording: %+v", got)
	}
}

// O4: the first line that does not fit is named and the exit code is 1; what comes
// before it is shown.
func TestReplayNamesTheFirstWrongLine(t *testing.T) {
	lines := recorded(t, "a")
	for _, c := range []struct {
		name  string
		lines []string
		want  string
	}{
		{"removed", slices.Delete(slices.Clone(lines), 6, 7), "line 7: transition 7 is missing before it"},
		{"doubled", slices.Insert(slices.Clone(lines), 6, lines[6]), "line 8: transition 7 again"},
		{"changed", slices.Replace(slices.Clone(lines), 6, 7, strings.Replace(lines[6], "Connected", "Paused", 1)), "line 7: it says Connecting -Opened-> Paused / Listen Settle; the table says Connecting -Opened-> Connected"},
		{"garbage", slices.Insert(slices.Clone(lines), 6, "garbage\n"), "line 7: no line of a recording"},
		{"another table", slices.Replace(slices.Clone(lines), 6, 7, strings.Replace(lines[6], tape.TableHash(), "0123456789ab", 1)), "line 7: recorded by another table"},
	} {
		t.Run(c.name, func(t *testing.T) {
			file := saved(t, c.lines)
			got := call(t, "replay", file)
			got.want(t, failed, c.want)
			if before := 6; !strings.HasPrefix(got.out, fmt.Sprint(before)) && c.name != "doubled" {
				t.Errorf("the summary is not of the %d lines before:\n%s", before, got.out)
			}
			call(t, "replay", file, "--format", "svg").want(t, failed, c.want)
			got = call(t, "replay", file, "--json")
			got.want(t, failed, c.want)
			var found replayed
			if err := json.Unmarshal([]byte(got.out), &found); err != nil || found.Wrong == nil || !strings.HasPrefix(c.want, fmt.Sprintf("line %d: ", found.Wrong.Line)) {
				t.Errorf("%+v, %v", found, err)
			}
		})
	}
}

// A recording that ends within a line is in order, and it is said.
func TestReplayOfATruncatedRecording(t *testing.T) {
	lines := recorded(t, "a")
	lines[len(lines)-1] = lines[len(lines)-1][:40]
	got := call(t, "replay", saved(t, lines))
	got.want(t, ok, "line 13: the last line is cut off; all before it is in order")
	if !strings.HasPrefix(got.out, "12 transitions") {
		t.Errorf("got %s", got.out)
	}
	if got := call(t, "replay", saved(t, lines), "--json"); !strings.Contains(got.out, `"truncated":true`) {
		t.Errorf("got %s", got.out)
	}
}

// O4: a recording is drawn, to standard output or a file; of several connections
// the one that is named.
func TestReplayDraws(t *testing.T) {
	lines := recorded(t, "a")
	got := call(t, "replay", saved(t, lines), "--format", "mermaid", "--steps", "5")
	got.want(t, ok)
	if !strings.HasPrefix(got.out, "sequenceDiagram\n") || !strings.Contains(got.out, "8 earlier steps are left out") {
		t.Errorf("got %s", got.out)
	}
	picture := filepath.Join(t.TempDir(), "life.svg")
	got = call(t, "replay", saved(t, lines), "-f", "svg", "-o", picture)
	got.want(t, ok)
	svg, err := os.Open(picture)
	if err != nil || got.out != "" {
		t.Fatal(err, got.out)
	}
	defer svg.Close()
	for d := xml.NewDecoder(svg); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}

	both := saved(t, append(lines, recorded(t, "b")...))
	got = call(t, "replay", both)
	got.want(t, ok)
	if !strings.HasPrefix(got.out, "26 transitions of 2 connections") {
		t.Errorf("got %s", got.out)
	}
	call(t, "replay", both, "-f", "svg").want(t, misuse, "2 connections (a, b)", "--conn")
	call(t, "replay", both, "-f", "svg", "--conn", "c").want(t, misuse, `no connection "c"`)
	got = call(t, "replay", both, "-f", "svg", "--conn", "b")
	got.want(t, ok)
	if !strings.Contains(got.out, "b · from 2026-03-01 09:30:00 UTC · 12s") {
		t.Error("it is not b's life")
	}
}

func TestReplayMisuse(t *testing.T) {
	file := saved(t, recorded(t, "a"))
	call(t, "replay").want(t, misuse, "<file>")
	call(t, "replay", file, "-f", "gif").want(t, misuse, "gif is unknown; there are text, mermaid, svg")
	call(t, "replay", file, "-f", "svg", "--json").want(t, misuse, "contradict")
	call(t, "replay", file, "--steps", "0").want(t, misuse, "--steps 0")
	call(t, "replay", file+".not").want(t, failed, "no such file")
	call(t, "replay", file, "-o", filepath.Join(t.TempDir(), "no", "where")).want(t, failed, "--out: ", "no such file")
	call(t, "replay", t.TempDir()).want(t, failed, "is a directory")
}
