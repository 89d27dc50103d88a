package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/chatconn/chatconn/diagrams"
	tape "github.com/chatconn/chatconn/recording"
)

// format is a form in which the machine can be drawn.
type format struct {
	name string
	draw func(diagrams.Table) ([]byte, error)
}

var formats = []format{
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
	Format    string   `short:"f" placeholder:"FORMAT" help:"One of ${formats}. Default: mermaid, or svg where something is brought out."`
	Out       string   `short:"o" placeholder:"FILE" help:"Write to a file instead of standard output."`
	Highlight []string `placeholder:"NAME" help:"Bring out a state, an event or a cell, such as Paused, Dropped or Connected/Dropped. May be repeated. For svg."`
	Path      string   `placeholder:"FILE" help:"Bring out the way of a script with its transcript, or of a recording. For svg."`
	Current   string   `placeholder:"STATE" help:"Light up a state. For svg."`
}

// Help is what --help says beyond the flags.
func (diagram) Help() string {
	return `Draws the table by which every connection lives: five states, every event, and what each does in each.

The picture formats are mermaid, dot (Graphviz), plantuml and svg, which needs no other program. "matrix" is Markdown with the reason of every cell; "json" is for programs, and what --json means here.`
}

func (d diagram) Run(std streams, wantJSON asJSON) error {
	bringsOut := len(d.Highlight) > 0 || d.Path != "" || d.Current != ""
	if d.Format == "" {
		switch {
		case bool(wantJSON):
			d.Format = "json"
		case bringsOut:
			d.Format = "svg"
		default:
			d.Format = "mermaid"
		}
	}
	i := slices.IndexFunc(formats, func(f format) bool { return f.name == d.Format })
	switch {
	case i < 0:
		return usagef("--format %s is unknown; there are %s", withoutLongWords(d.Format), formatNames())
	case bool(wantJSON) && d.Format != "json":
		return usagef("--json and --format %s contradict each other", d.Format)
	case bringsOut && d.Format != "svg":
		return usagef("--highlight, --path and --current are for --format svg, not %s", d.Format)
	}
	table := diagrams.Chatconn()
	var picture []byte
	var err error
	if bringsOut {
		var o diagrams.Options
		o, err = d.options(table)
		picture = []byte(diagrams.SVG(table, o))
	} else {
		picture, err = formats[i].draw(table)
	}
	if err != nil {
		return err
	}
	if n := len(picture); n > 0 && picture[n-1] != '\n' {
		picture = append(picture, '\n')
	}
	return writeTo(std.out, d.Out, string(picture))
}

// options is what is to be brought out.
func (d diagram) options(t diagrams.Table) (o diagrams.Options, err error) {
	o.Current = d.Current
	if d.Current != "" && !slices.Contains(t.States, d.Current) {
		return o, usagef("--current %s: there is no such state; there are %s", withoutLongWords(d.Current), strings.Join(t.States, ", "))
	}
	for _, name := range d.Highlight {
		places, err := placesNamed(t, name)
		if err != nil {
			return o, fmt.Errorf("--highlight %w", err)
		}
		if c, drawn := shown(t, places); !drawn {
			return o, usagef("--highlight %s: no picture shows it; the verdict of %s × %s is %q: %s", name, c.From, c.Event, c.Verdict, c.Reason)
		}
		o.Highlight = append(o.Highlight, places...)
	}
	if d.Path != "" {
		places, err := placesOf(t, d.Path)
		if err != nil {
			return o, fmt.Errorf("--path: %w", err)
		}
		o.Highlight = append(o.Highlight, places...)
	}
	return o, nil
}

// placesNamed returns the cells that a name means: those of a state, those of an
// event, or the one that both name.
func placesNamed(t diagrams.Table, name string) ([]diagrams.Place, error) {
	state, event, isCell := strings.Cut(name, "/")
	var places []diagrams.Place
	for _, c := range t.Cells {
		if isCell && c.From == state && c.Event == event || !isCell && (c.From == name || c.Event == name) {
			places = append(places, diagrams.Place{State: c.From, Event: c.Event})
		}
	}
	if len(places) == 0 {
		events := make([]string, len(t.Events))
		for i, e := range t.Events {
			events[i] = e.Name
		}
		return nil, usagef("%s: there is no such state, event or cell (STATE/EVENT); there are the states %s and the events %s",
			withoutLongWords(name), strings.Join(t.States, ", "), strings.Join(events, ", "))
	}
	return places, nil
}

// shown reports whether a picture shows one of the places at least, which it does
// where something is done, and else returns a cell that it does not show.
func shown(t diagrams.Table, places []diagrams.Place) (hidden diagrams.Cell, ok bool) {
	for _, c := range t.Cells {
		if !slices.Contains(places, diagrams.Place{State: c.From, Event: c.Event}) {
			continue
		}
		if c.Verdict == diagrams.Move || c.Verdict == diagrams.Stay {
			return diagrams.Cell{}, true
		}
		hidden = c
	}
	return hidden, false
}

// maxScript is more than any script with its transcript has, in bytes.
const maxScript = 1 << 20

// placesOf returns the cells that a script or a recording walks.
func placesOf(t diagrams.Table, file string) (places []diagrams.Place, err error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	beginning := make([]byte, 1)
	if _, err := io.ReadFull(f, beginning); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	all := io.MultiReader(bytes.NewReader(beginning), f)
	if beginning[0] == '{' {
		seen := make(map[diagrams.Place]bool)
		if err := tape.Replay(all, func(s tape.Step) { seen[diagrams.Place{State: s.From.String(), Event: s.Event.String()}] = true }); err != nil && !errors.Is(err, tape.ErrTruncated) {
			return nil, err
		}
		for p := range seen {
			places = append(places, p)
		}
		return places, nil
	}
	text, err := io.ReadAll(io.LimitReader(all, maxScript+1))
	switch {
	case err != nil:
		return nil, err
	case len(text) > maxScript:
		return nil, fmt.Errorf("%s is too long for a script", file)
	}
	path, err := diagrams.Walked(t, string(text))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	for _, c := range path {
		places = append(places, diagrams.Place{State: c.From, Event: c.Event})
	}
	return places, nil
}

// writeTo writes to a file, or to out if there is none. A file has the whole
// content in the end, or what it had before.
func writeTo(out io.Writer, file, content string) (err error) {
	if file == "" {
		_, err := io.WriteString(out, content)
		return err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("--out: %w", err)
		}
	}()
	if name, err := filepath.EvalSymlinks(file); err == nil {
		file = name
	}
	mode := fs.FileMode(0o644)
	info, err := os.Stat(file)
	if err == nil {
		if !info.Mode().IsRegular() {
			return os.WriteFile(file, []byte(content), 0o644) // a device or a pipe is written to, never replaced
		}
		mode = info.Mode().Perm()
	}
	part := fmt.Sprintf("%s.%08x", file, rand.Uint32())
	f, err := os.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.WriteString(content)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(part, file)
	}
	if err != nil {
		os.Remove(part)
	}
	return err
}
