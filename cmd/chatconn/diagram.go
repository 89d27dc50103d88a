package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/chatconn/chatconn/diagrams"
)

// formats is every form in which the machine can be drawn.
var formats = []struct {
	name string
	draw func(diagrams.Table) ([]byte, error)
}{
	{"mermaid", text(diagrams.Mermaid)},
	{"dot", text(diagrams.DOT)},
	{"plantuml", text(diagrams.PlantUML)},
	{"svg", text(func(t diagrams.Table) string { return diagrams.SVG(t, diagrams.Options{}) })},
	{"matrix", text(diagrams.Matrix)},
	{"json", diagrams.JSON},
}

func text(draw func(diagrams.Table) string) func(diagrams.Table) ([]byte, error) {
	return func(t diagrams.Table) ([]byte, error) { return []byte(draw(t)), nil }
}

func formatNames() string {
	names := make([]string, len(formats))
	for i, f := range formats {
		names[i] = f.name
	}
	return strings.Join(names, ", ")
}

// diagram draws the machine. Specification: G1.
type diagram struct {
	Format string `short:"f" default:"mermaid" help:"One of ${formats}."`
	Out    string `short:"o" placeholder:"FILE" help:"Write to a file instead of standard output."`
}

// Help is what --help says beyond the flags.
func (diagram) Help() string {
	return `Draws the table by which every connection lives: five states, every event, and what each does in each.

The picture formats are mermaid, dot (Graphviz), plantuml and svg, which needs no other program. "matrix" is Markdown with the reason of every cell; "json" is for programs, and what --json means here.`
}

func (d diagram) Run(std streams, wantJSON asJSON) error {
	if wantJSON && d.Format == "mermaid" { // the default
		d.Format = "json"
	}
	for _, f := range formats {
		if f.name != d.Format {
			continue
		}
		if wantJSON && f.name != "json" {
			return usagef("--json and --format %s contradict each other", f.name)
		}
		picture, err := f.draw(diagrams.Chatconn())
		if err != nil {
			return err
		}
		return d.write(std.out, picture)
	}
	return usagef("--format %s is unknown; there are %s", withoutLongWords(d.Format), formatNames())
}

func (d diagram) write(out io.Writer, picture []byte) error {
	if n := len(picture); n > 0 && picture[n-1] != '\n' {
		picture = append(picture, '\n')
	}
	if d.Out == "" {
		_, err := out.Write(picture)
		return err
	}
	if err := os.WriteFile(d.Out, picture, 0o644); err != nil {
		return fmt.Errorf("--out: %w", err)
	}
	return nil
}
