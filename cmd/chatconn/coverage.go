package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/chatconn/chatconn/conntest"
	"github.com/chatconn/chatconn/diagrams"
)

// coverage puts together what tests have walked. Specification: G3.
type coverage struct {
	Dirs   []string `arg:"" name:"dir" help:"Where test binaries have written their coverage."`
	Min    float64  `placeholder:"PERCENT" help:"Fail if less than this share of the cells was walked."`
	Except []string `placeholder:"STATE/EVENT" help:"A cell that need not be walked. May be repeated."`
	Format string   `short:"f" default:"text" help:"One of text (a matrix), markdown, svg (the picture of the machine) and json."`
	Out    string   `short:"o" placeholder:"FILE" help:"Write to a file instead of standard output."`
}

// Help is what --help says beyond the flags.
func (coverage) Help() string {
	return `Adds up which cells of the table the tests of several packages have walked, and shows it. A cell is an event in a state; one that cannot happen need not be walked. Tests whose TestMain calls the method Main of a conntest.Coverage write what they have walked into the directory that ` + conntest.CoverageDir + ` names:

  ` + conntest.CoverageDir + `=/tmp/walked go test -count=1 ./...
  chatconn coverage /tmp/walked --min 80

Below --min the exit code is 1, and the missing cells are named.`
}

func (c coverage) Run(std streams, wantJSON asJSON) error {
	if wantJSON && c.Format == "text" { // the default
		c.Format = "json"
	}
	draw := map[string]func(*conntest.Coverage) string{
		"text": (*conntest.Coverage).String, "markdown": (*conntest.Coverage).Markdown, "svg": (*conntest.Coverage).SVG,
		"json": func(all *conntest.Coverage) string {
			var b strings.Builder
			_ = all.Write(&b) // a string takes anything
			return b.String()
		},
	}[c.Format]
	switch {
	case draw == nil:
		return usagef("--format %s is unknown; there are text, markdown, svg, json", withoutLongWords(c.Format))
	case bool(wantJSON) && c.Format != "json":
		return usagef("--json and --format %s contradict each other", c.Format)
	case c.Min < 0 || c.Min > 100:
		return usagef("--min %v is no percentage", c.Min)
	}
	except, err := c.except()
	if err != nil {
		return err
	}
	var all conntest.Coverage
	for _, dir := range c.Dirs {
		if err := all.ReadDir(dir); err != nil {
			return err
		}
	}
	if err := writeTo(std.out, c.Out, draw(&all)); err != nil {
		return err
	}
	if c.Min > 0 {
		return all.Check(c.Min, except...)
	}
	return nil
}

// except finds the excepted cells by their names.
func (c coverage) except() ([]conntest.Cell, error) {
	var cells []conntest.Cell
	for _, name := range c.Except {
		places, err := placesNamed(diagrams.Chatconn(), name)
		if err != nil {
			return nil, fmt.Errorf("--except %w", err)
		}
		for _, cell := range conntest.Cells() {
			if slices.Contains(places, diagrams.Place{State: cell.From.String(), Event: cell.Event.String()}) {
				cells = append(cells, cell)
			}
		}
	}
	return cells, nil
}
