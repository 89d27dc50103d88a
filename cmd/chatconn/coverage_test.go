package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chatconn/chatconn/conntest"
	"github.com/chatconn/chatconn/fsm"
)

// walkedIn writes what one test binary has walked: every cell of some states.
func walkedIn(t *testing.T, dir, name string, states ...fsm.State) *conntest.Coverage {
	t.Helper()
	var c conntest.Coverage
	for _, cell := range conntest.Cells() {
		for _, s := range states {
			if cell.From == s {
				c.Add(cell)
			}
		}
	}
	f, err := os.Create(filepath.Join(dir, name+".coverage.json"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := c.Write(f); err != nil {
		t.Fatal(err)
	}
	return &c
}

// G3: what several packages have walked is added up, shown in each form, and fails
// below a threshold, with the names of the missing cells.
func TestCoverage(t *testing.T) {
	here, there := t.TempDir(), t.TempDir()
	var all conntest.Coverage
	one := walkedIn(t, here, "one", fsm.Offline, fsm.Connecting)
	two := walkedIn(t, here, "two", fsm.Connecting, fsm.Refreshing)
	three := walkedIn(t, there, "three", fsm.Paused)
	all.Merge(one)
	all.Merge(two)
	all.Merge(three)
	var asJSON strings.Builder
	if err := all.Write(&asJSON); err != nil {
		t.Fatal(err)
	}
	for flags, want := range map[string]string{
		"":                  all.String(),
		"--format text":     all.String(),
		"--format markdown": all.Markdown(),
		"-f svg":            all.SVG(),
		"-f json":           asJSON.String(),
		"--json":            asJSON.String(),
	} {
		got := call(t, append([]string{"coverage", here, there}, strings.Fields(flags)...)...)
		got.want(t, ok)
		if got.out != want {
			t.Errorf("coverage %s prints\n%s\nwant\n%s", flags, got.out, want)
		}
	}
	picture := filepath.Join(t.TempDir(), "walked.svg")
	call(t, "coverage", here, there, "-f", "svg", "-o", picture, "--min", "70").want(t, ok)
	if written, err := os.ReadFile(picture); err != nil || string(written) != all.SVG() {
		t.Errorf("the file holds something else (%v)", err)
	}

	call(t, "coverage", here, there, "--min", "100").want(t, failed, "100.0 % are asked for; missing: [Connected × Connect ")
	got := call(t, "coverage", here, there, "--min", "100")
	if got.out != all.String() {
		t.Errorf("below the threshold the matrix is not printed: %q", got.out)
	}
	call(t, "coverage", here, there, "--min", "100", "--except", "Connected").want(t, ok)
	call(t, "coverage", here, there, "--min", "100", "--except", "Connected/Connect").want(t, failed, "missing: [Connected × ReconnectSocket ")

	call(t, "coverage").want(t, misuse, "<dir>")
	call(t, "coverage", here, "--min", "101").want(t, misuse, "--min 101 is no percentage")
	call(t, "coverage", here, "--min", "-1").want(t, misuse)
	call(t, "coverage", here, "--except", "Online").want(t, misuse, "--except Online: ", "Offline, Connecting, Connected")
	call(t, "coverage", here, "--format", "gif").want(t, misuse, "gif is unknown; there are text, markdown, svg, json")
	call(t, "coverage", here, "--format", "svg", "--json").want(t, misuse, "contradict")
	call(t, "coverage", t.TempDir()).want(t, failed, "no file in")
	call(t, "coverage", filepath.Join(here, "no", "where")).want(t, failed, "no such file")
	call(t, "coverage", here, "--out", filepath.Join(here, "no", "where")).want(t, failed, "--out: ")
}
