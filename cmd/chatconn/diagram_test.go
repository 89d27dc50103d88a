package main

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/chatconn/chatconn/diagrams"
)

// G1: what the command prints is what package diagrams draws.
func TestDiagram(t *testing.T) {
	asJSON, err := diagrams.JSON(diagrams.Chatconn())
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"":                  diagrams.Mermaid(diagrams.Chatconn()),
		"--format mermaid":  diagrams.Mermaid(diagrams.Chatconn()),
		"--format dot":      diagrams.DOT(diagrams.Chatconn()),
		"--format plantuml": diagrams.PlantUML(diagrams.Chatconn()),
		"--format svg":      diagrams.SVG(diagrams.Chatconn(), diagrams.Options{}),
		"--format matrix":   diagrams.Matrix(diagrams.Chatconn()),
		"--format json":     string(asJSON),
		"--json":            string(asJSON),
	}
	for flags, picture := range want {
		got := call(t, append([]string{"diagram"}, strings.Fields(flags)...)...)
		got.want(t, ok)
		if strings.TrimSpace(got.out) != strings.TrimSpace(picture) {
			t.Errorf("diagram %s prints another picture", flags)
		}
		if !strings.HasSuffix(got.out, "\n") {
			t.Errorf("diagram %s ends without a line end", flags)
		}
	}
	for _, f := range formats {
		if _, tested := want["--format "+f.name]; !tested {
			t.Errorf("format %s is not tested", f.name)
		}
	}
}

func TestDiagramIntoAFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "machine.dot")
	got := call(t, "diagram", "--format", "dot", "--out", name)
	got.want(t, ok)
	written, err := os.ReadFile(name)
	if err != nil || string(written) != call(t, "diagram", "--format", "dot").out || got.out != "" {
		t.Errorf("the file holds something else (%v), or standard output is not empty: %q", err, got.out)
	}
	call(t, "diagram", "--out", filepath.Join(name, "below-a-file")).want(t, failed, "--out", "below-a-file")
}

// G1: states, events, cells, and the ways of scripts and recordings are brought out;
// a name that is none comes back with those that there are.
func TestDiagramBringsOut(t *testing.T) {
	const scenario = "../../testdata/scenarios/denied_for_good.txt"
	script, err := os.ReadFile(scenario)
	if err != nil {
		t.Fatal(err)
	}
	path, err := diagrams.Walked(diagrams.Chatconn(), string(script))
	if err != nil {
		t.Fatal(err)
	}
	var walked []diagrams.Place
	for _, c := range path {
		walked = append(walked, diagrams.Place{State: c.From, Event: c.Event})
	}
	of := func(is func(diagrams.Cell) bool) (places []diagrams.Place) {
		for _, c := range diagrams.Chatconn().Cells {
			if is(c) {
				places = append(places, diagrams.Place{State: c.From, Event: c.Event})
			}
		}
		return places
	}
	played := saved(t, recorded(t, "a"))
	for flags, want := range map[string]diagrams.Options{
		"--highlight Connected/Dropped":     {Highlight: []diagrams.Place{{State: "Connected", Event: "Dropped"}}},
		"--highlight Dropped --format svg":  {Highlight: of(func(c diagrams.Cell) bool { return c.Event == "Dropped" })},
		"--highlight Paused":                {Highlight: of(func(c diagrams.Cell) bool { return c.From == "Paused" })},
		"--highlight Paused,Connected/Woke": {Highlight: of(func(c diagrams.Cell) bool { return c.From == "Paused" || c.From == "Connected" && c.Event == "Woke" })},
		"--current Refreshing":              {Current: "Refreshing"},
		"--path " + scenario:                {Highlight: walked},
		"--current Offline --path " + played: {Current: "Offline", Highlight: of(func(c diagrams.Cell) bool {
			switch c.From + " " + c.Event {
			case "Offline Connect", "Connecting RetryDue", "Connecting TokenLoaded", "Connecting Dropped", "Connecting Opened", "Connected Dropped", "Connected Background", "Paused Close":
				return true
			}
			return false
		})},
	} {
		got := call(t, append([]string{"diagram"}, strings.Fields(flags)...)...)
		got.want(t, ok)
		if got.out != diagrams.SVG(diagrams.Chatconn(), want) {
			t.Errorf("diagram %s prints another picture", flags)
		}
	}

	states, events := "Offline, Connecting, Connected, Refreshing, Paused", "Connect, ConnectHeld, ReconnectSocket"
	call(t, "diagram", "--highlight", "Online").want(t, misuse, "--highlight Online: ", states, events)
	call(t, "diagram", "--highlight", "Dropped/Connected").want(t, misuse, "--highlight Dropped/Connected: ", states, events)
	call(t, "diagram", "--highlight", "Offline/Opened").want(t, misuse, `no picture shows it; the verdict of Offline × Opened is "refuse": no dial runs while Offline`)
	call(t, "diagram", "--current", "Online").want(t, misuse, "--current Online: ", states)
	call(t, "diagram", "--format", "gif").want(t, misuse, "gif is unknown; there are mermaid, dot, plantuml, svg, matrix, json")
	call(t, "diagram", "--format", "dot", "--highlight", "Paused").want(t, misuse, "for --format svg, not dot")
	call(t, "diagram", "--json", "--highlight", "Paused").want(t, misuse, "for --format svg, not json")
	call(t, "diagram", "--path", "diagram.go").want(t, failed, "diagram.go: diagrams: no transition")
	call(t, "diagram", "--path", "nowhere.txt").want(t, failed, "--path: ", "nowhere.txt")
	call(t, "diagram", "--path", t.TempDir()).want(t, failed, "--path: ", "is a directory")
	call(t, "diagram", "--path", saved(t, []string{"{}\n"})).want(t, failed, "--path: ", "line 1: no line of a recording")
}

// A file has all of the picture, or what it had before; nothing is left beside it,
// and what is no file is not replaced by one.
func TestOutIsWholeOrUntouched(t *testing.T) {
	dir := t.TempDir()
	name, link := filepath.Join(dir, "machine.svg"), filepath.Join(dir, "link.svg")
	if err := os.WriteFile(name, []byte("before"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(name, link); err != nil {
		t.Skip(err)
	}
	call(t, "diagram", "--format", "svg", "--out", link).want(t, ok)
	info, err := os.Lstat(link)
	if err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link is no link any more: %v, %v", info, err)
	}
	if written, err := os.ReadFile(name); err != nil || string(written) != diagrams.SVG(diagrams.Chatconn(), diagrams.Options{}) {
		t.Errorf("behind the link is something else: %v", err)
	}
	if info, err := os.Stat(name); err != nil || info.Mode().Perm() != 0o600 && runtime.GOOS != "windows" {
		t.Errorf("the file's mode is %v: %v", info.Mode(), err)
	}
	if err := os.Mkdir(filepath.Join(dir, "sub"), 0o700); err != nil {
		t.Fatal(err)
	}
	call(t, "diagram", "--out", filepath.Join(dir, "sub")).want(t, failed, "--out: ", "is a directory")
	if left, err := os.ReadDir(dir); err != nil || len(left) != 3 {
		t.Errorf("the directory has %v: %v", left, err)
	}
	if _, err := os.Stat("/dev/full"); err == nil {
		call(t, "diagram", "--out", "/dev/full").want(t, failed, "--out: ", "no space left")
		if info, err := os.Stat("/dev/full"); err != nil || info.Mode().IsRegular() {
			t.Errorf("/dev/full is %v now: %v", info, err)
		}
	}
}
