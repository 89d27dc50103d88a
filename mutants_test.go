package chatconn_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chatconn/chatconn"
	"github.com/chatconn/chatconn/conntest"
	"github.com/chatconn/chatconn/fsm"
	"github.com/chatconn/chatconn/internal/mutants"
)

// unnoticed are the mutants that no scenario can notice but by chance, each with the
// reason.
var unnoticed = map[string]string{
	"Offline × Close: without Finish":    finishIsDoubled,
	"Connecting × Close: without Finish": finishIsDoubled,
	"Connected × Close: without Finish":  finishIsDoubled,
	"Refreshing × Close: without Finish": finishIsDoubled,
	"Paused × Close: without Finish":     finishIsDoubled,
}

const finishIsDoubled = "Close shuts the inbox; Finish is for what was in it at that moment, which a script cannot arrange"

// M2: whichever cell leads elsewhere, decides otherwise or leaves out an action, a
// program, its source or the server notices when the scenarios are played: another
// result, another state, another call of the source, another frame, a panic, an
// endless loop, something left behind. What the transcripts say about events and
// actions does not count. Mutants with an action too many, or in another order,
// are for the laws of package fsm.
//
// A mutant may end its process, so they run in children.
func TestScenariosNoticeMutants(t *testing.T) {
	if plays := os.Getenv(childEnv); plays != "" {
		serveMutants(t, plays)
		return
	}
	if testing.Short() {
		t.Skip("long")
	}
	plays := filepath.Join(t.TempDir(), "plays.json")
	rehearse(t, plays)
	var wanted []int
	all := mutants.All()
	for i, m := range all {
		step, verdict := fsm.Next(m.State, m.Event)
		if verdict == fsm.Refuse { // never reached
			continue
		}
		if len(m.Cell.Do) < len(step.Do) || slices.Equal(m.Cell.Do, step.Do) {
			wanted = append(wanted, i)
		}
	}
	queue := make(chan int)
	notices := make([]string, len(all))
	var children sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		children.Go(func() {
			var c *child
			for i := range queue {
				if c == nil {
					c = newChild(t, plays)
				}
				if notices[i] = c.ask(i); c.gone {
					c = nil
				}
			}
			if c != nil {
				c.stop()
			}
		})
	}
	for _, i := range wanted {
		queue <- i
	}
	close(queue)
	children.Wait()

	listed, how := 0, map[string]int{}
	for _, i := range wanted {
		if _, ok := unnoticed[all[i].Name]; ok {
			listed++
			continue
		}
		if notices[i] == "" {
			t.Errorf("%s: nobody noticed", all[i].Name)
		}
		by, _, _ := strings.Cut(notices[i], ":")
		how[by]++
	}
	if listed != len(unnoticed) {
		t.Errorf("of the %d mutants that nobody can notice, %d are none", len(unnoticed), len(unnoticed)-listed)
	}
	t.Logf("%d mutants, %d cannot be noticed; the others were by %v", len(wanted), listed, how)
}

// play is a scenario, and what comes of it with the declared table.
type play struct {
	Name, Script string
	Observed     []string
	Cells        []conntest.Cell
}

// chancy are scenarios in which the server may or may not see something.
var chancy = map[string]string{
	"dropped_for_an_extension_nobody_offered.txt": "the client leaves while the hello is being sent",
}

// rehearse plays the scenarios with the declared table, twice, and writes down
// what is to be expected.
func rehearse(t *testing.T, file string) {
	paths, err := filepath.Glob(filepath.Join(scenarios, "*.txt"))
	if err != nil {
		t.Fatal(err)
	}
	var plays []play
	for _, path := range paths {
		if chancy[filepath.Base(path)] != "" {
			continue
		}
		script, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		p := play{Name: filepath.Base(path), Script: string(script)}
		first, again := conntest.Run(t, p.Script, conntest.Options{}), conntest.Run(t, p.Script, conntest.Options{})
		if !slices.Equal(first.Observed, again.Observed) {
			t.Errorf("%s: two plays differ, so what it notices may be chance:\n%s\n\n%s", p.Name,
				strings.Join(first.Observed, "\n"), strings.Join(again.Observed, "\n"))
		}
		p.Observed = first.Observed
		for _, cell := range conntest.Cells() {
			if first.Coverage.Walks(cell) > 0 {
				p.Cells = append(p.Cells, cell)
			}
		}
		plays = append(plays, p)
	}
	// The shortest first: it is over fastest.
	slices.SortStableFunc(plays, func(a, b play) int { return len(a.Observed) - len(b.Observed) })
	data, err := json.Marshal(plays)
	if err == nil {
		err = os.WriteFile(file, data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

const childEnv = "CHATCONN_MUTANTS"

// child is a process that plays scenarios with mutants.
type child struct {
	cmd  *exec.Cmd
	in   *os.File
	out  *os.File
	said *bufio.Scanner
	gone bool
}

func newChild(t *testing.T, plays string) *child {
	inR, inW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	outR, outW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestScenariosNoticeMutants$")
	cmd.Env = append(os.Environ(), childEnv+"="+plays, "GOMAXPROCS=1")
	cmd.Stdin = inR
	cmd.ExtraFiles = []*os.File{outW}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	inR.Close()
	outW.Close()
	return &child{cmd: cmd, in: inW, out: outR, said: bufio.NewScanner(outR)}
}

// ask has scenarios played with a mutant and returns how it was noticed; empty: it
// was not.
func (c *child) ask(i int) string {
	const limit = 20 * time.Second // of real time: virtual time stands still in an endless loop
	timer := time.AfterFunc(limit, func() { c.cmd.Process.Kill() })
	fmt.Fprintln(c.in, i)
	answered := c.said.Scan()
	if timer.Stop() && answered {
		return c.said.Text()
	}
	c.stop()
	return "crash"
}

// stop ends the child, which may be dead. How it ends says nothing: mutants fail.
func (c *child) stop() {
	c.gone = true
	c.in.Close()
	_ = c.cmd.Wait()
	c.out.Close()
}

// serveMutants is the child: it reads numbers of mutants and writes how each was
// noticed, a line each.
func serveMutants(t *testing.T, file string) {
	var plays []play
	data, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(data, &plays)
	}
	if err != nil {
		t.Fatal(err)
	}
	answers := os.NewFile(3, "answers")
	all := mutants.All()
	for numbers := bufio.NewScanner(os.Stdin); numbers.Scan(); {
		i, err := strconv.Atoi(numbers.Text())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(answers, noticed(t, all[i], plays))
	}
}

// noticed plays the scenarios that walk the mutant's cell until one notices.
func noticed(t *testing.T, m mutants.Mutant, plays []play) string {
	machine, err := fsm.New(m.Table())
	if err != nil {
		t.Fatal(err)
	}
	options := conntest.Options{New: func(cfg chatconn.Config) (*chatconn.Conn, error) {
		c, err := chatconn.New(cfg)
		if err == nil {
			c.SetMachine(machine)
		}
		return c, err
	}}
	for _, p := range plays {
		if !slices.Contains(p.Cells, conntest.Cell{From: m.State, Event: m.Event}) {
			continue
		}
		var r conntest.Result
		switch ok := t.Run(p.Name, func(t *testing.T) { r = conntest.Run(t, p.Script, options) }); {
		case !ok:
			return "failed: " + p.Name
		case !slices.Equal(r.Observed, p.Observed):
			return "differs: " + p.Name
		}
	}
	return ""
}
