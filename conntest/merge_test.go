package conntest_test

import (
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/chatconn/chatconn/conntest"
	"github.com/chatconn/chatconn/fsm"
)

// inner is what the tests of a test binary within the test have walked.
var inner conntest.Coverage

func TestMain(m *testing.M) {
	if min := os.Getenv("CONNTEST_MIN"); min != "" {
		percent, err := strconv.ParseFloat(min, 64)
		if err != nil {
			panic(err)
		}
		os.Exit(inner.Main(m, percent))
	}
	os.Exit(m.Run())
}

// TestInner is the only test of the binary within the test.
func TestInner(t *testing.T) {
	walk := os.Getenv("CONNTEST_WALK")
	if walk == "" {
		return
	}
	for _, cell := range conntest.Cells() {
		if walk == "all" || cell.From.String() == walk {
			inner.Add(cell)
		}
	}
	if os.Getenv("CONNTEST_CHOSEN") == "" {
		flag.Set("test.run", "") // as if nobody had chosen
	}
	if walk == "fail" {
		t.Error("so be it")
	}
}

// runInner runs this test binary in another process, and tells what it printed.
func runInner(t *testing.T, env ...string) (out string, err error) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestInner$")
	cmd.Env = append(os.Environ(), env...)
	b, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return string(b), err
}

// G3: a test binary fails if its tests have walked too little, and says what is
// missing; it is not asked if somebody chose some of its tests.
func TestMainAsksForCoverage(t *testing.T) {
	file, err := filepath.Abs("merge_test.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		env  string
		want string // empty: it passes
	}{
		{"all", "CONNTEST_MIN=100 CONNTEST_WALK=all", ""},
		{"too little", "CONNTEST_MIN=50 CONNTEST_WALK=Offline", "missing: [Connecting × Connect "},
		{"enough", "CONNTEST_MIN=10 CONNTEST_WALK=Offline", ""},
		{"nothing is asked", "CONNTEST_MIN=0 CONNTEST_WALK=Offline", ""},
		{"more than all", "CONNTEST_MIN=101 CONNTEST_WALK=all", "101 % is no share"},
		{"chosen", "CONNTEST_MIN=50 CONNTEST_WALK=Offline CONNTEST_CHOSEN=1", ""},
		{"a test fails", "CONNTEST_MIN=50 CONNTEST_WALK=fail", "so be it"},
		{"no absolute path", "CONNTEST_MIN=50 CONNTEST_WALK=all CHATCONN_COVERAGE=here", `CHATCONN_COVERAGE: "here" is no absolute path`},
		{"no directory", "CONNTEST_MIN=50 CONNTEST_WALK=all CHATCONN_COVERAGE=" + file, "conntest: CHATCONN_COVERAGE: "},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, err := runInner(t, strings.Fields(c.env)...)
			if (err == nil) != (c.want == "") || !strings.Contains(out, c.want) {
				t.Errorf("%v, want %q:\n%s", err, c.want, out)
			}
		})
	}
}

// G3: what several test binaries have walked is put together from a directory.
func TestReadDir(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "here")
	for _, state := range []string{"Offline", "Paused", "Offline"} {
		if out, err := runInner(t, "CONNTEST_MIN=0", "CONNTEST_WALK="+state, conntest.CoverageDir+"="+dir); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	var c conntest.Coverage
	if err := c.ReadDir(dir); err != nil {
		t.Fatal(err)
	}
	for _, cell := range conntest.Cells() {
		want := map[fsm.State]int{fsm.Offline: 2, fsm.Paused: 1}[cell.From]
		if got := c.Walks(cell); got != want {
			t.Errorf("%v: %d walks, want %d", cell, got, want)
		}
	}

	if err := c.ReadDir(t.TempDir()); err == nil || !strings.Contains(err.Error(), "no file in") {
		t.Errorf("an empty directory: %v", err)
	}
	if err := c.ReadDir(filepath.Join(dir, "nowhere")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "x.coverage.json"), []byte(`[{"from":"Offline","event":"Fly","walks":1}]`), 0o600); err != nil {
		t.Fatal(err)
	}
	var none conntest.Coverage
	if err := none.ReadDir(dir); err == nil || !strings.Contains(err.Error(), `no cell "Offline" × "Fly", in `) || none.Percent() != 0 {
		t.Errorf("a file of another machine: %v, %.1f %%", err, none.Percent())
	}
}

// fakeTest is a test that notes its failure.
type fakeTest struct {
	testing.TB
	failure string
}

func (f *fakeTest) Helper()                           {}
func (f *fakeTest) Errorf(format string, args ...any) { f.failure = fmt.Sprintf(format, args...) }

// G3: a test fails below its threshold. Excepted cells count on neither side.
func TestRequire(t *testing.T) {
	var c conntest.Coverage
	var paused []conntest.Cell
	for _, cell := range conntest.Cells() {
		if cell.From == fsm.Paused {
			paused = append(paused, cell)
		} else {
			c.Add(cell)
		}
	}
	var whole, excepted, over fakeTest
	c.Require(&whole, 100)
	c.Require(&excepted, 100, paused...)
	c.Require(&over, 100.1, paused...)
	if !strings.Contains(whole.failure, "missing: ["+paused[0].String()) || !strings.Contains(whole.failure, "RetriesSpent") {
		t.Errorf("without Paused: %q", whole.failure)
	}
	if excepted.failure != "" || c.Percent(paused...) != 100 || len(c.Missing(paused...)) != 0 {
		t.Errorf("Paused is excepted: %q", excepted.failure)
	}
	if !strings.Contains(over.failure, "no share") {
		t.Errorf("more than all is asked for: %q", over.failure)
	}
	if got := new(conntest.Coverage).Percent(conntest.Cells()...); got != 100 {
		t.Errorf("%v %% of nothing", got)
	}
}

// G3: the coverage as a matrix, as Markdown and on the picture: one number for each
// cell that can be walked.
func TestCoverageIsShown(t *testing.T) {
	var c conntest.Coverage
	for i, cell := range conntest.Cells() {
		for range i % 3 {
			c.Add(cell)
		}
	}
	share := fmt.Sprintf("%.1f %%", c.Percent())

	states, events := fsm.States(), fsm.Events()
	rows := strings.Split(c.Markdown(), "\n")[4:]
	matrix := strings.Split(c.String(), "\n")[1:]
	for k, e := range events {
		inMarkdown, inMatrix := strings.Split(rows[k], " | "), strings.Fields(matrix[k])
		for i, s := range states {
			n := c.Walks(conntest.Cell{From: s, Event: e})
			wantMarkdown, wantMatrix := fmt.Sprint(n), fmt.Sprint(n)
			if _, verdict := fsm.Next(s, e); verdict == fsm.Refuse {
				wantMarkdown, wantMatrix = "✗", "."
			} else if n == 0 {
				wantMarkdown, wantMatrix = "**0**", "-"
			}
			if got := strings.TrimSuffix(inMarkdown[i+1], " |"); got != wantMarkdown || inMatrix[i+1] != wantMatrix {
				t.Errorf("%v × %v: %q and %q, want %q and %q", s, e, got, inMatrix[i+1], wantMarkdown, wantMatrix)
			}
		}
	}
	if text := c.Markdown(); strings.Count(text, "\n- ") != len(c.Missing()) || !strings.HasPrefix(text, share) {
		t.Errorf("Markdown:\n%s", text)
	}

	svg := c.SVG()
	for d := xml.NewDecoder(strings.NewReader(svg)); ; {
		if _, err := d.Token(); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	for _, cell := range conntest.Cells() {
		label := fmt.Sprintf(">%v %d<title>", cell.Event, c.Walks(cell))
		if _, verdict := fsm.Next(cell.From, cell.Event); verdict != fsm.Ignore && !strings.Contains(svg, label) {
			t.Errorf("the picture does not say %q", label)
		}
	}
	if !strings.Contains(svg, share) {
		t.Errorf("the picture does not say %s", share)
	}
}

// A coverage that is no coverage, or too long for one, adds nothing.
func TestReadTakesCoverageOnly(t *testing.T) {
	for _, bad := range []string{"", "null x", "[] []", "<svg/>", "[" + strings.Repeat(`{"from":"Offline","event":"Woke","walks":1},`, 1<<15) + `{"from":"Offline","event":"Woke","walks":1}]`} {
		var c conntest.Coverage
		if err := c.Read(strings.NewReader(bad)); err == nil || c.Percent() != 0 {
			t.Errorf("%.40q: %v, %.1f %%", bad, err, c.Percent())
		}
	}
}
