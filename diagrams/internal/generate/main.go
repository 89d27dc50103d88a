// Command generate writes what is made of the declared table: the drawings in
// diagrams/generated, among them the paths of some scenarios, and the tables in
// docs/machine.md. Run it as "go generate ./diagrams".
package main

import (
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strings"

	"github.com/chatconn/chatconn/diagrams"
)

func main() {
	const root = ".." // go generate runs in the package's directory
	files, err := generated(root)
	if err != nil {
		log.Fatal(err)
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(root, name), content, 0o644); err != nil {
			log.Fatal(err)
		}
	}
}

const (
	drawings    = "diagrams/generated"
	walkthrough = "docs/machine.md"
	scenarios   = "testdata/scenarios"
)

// paths are the scenarios whose way through the machine is drawn.
var paths = []string{
	"connect_first_time",
	"connect_last_waiter_leaves",
	"denied_for_good",
	"dropped_without_a_word",
	"token_expired_on_the_open_socket",
	"request_refused_once_is_replayed",
	"background_and_foreground",
}

// generated returns the files by name, relative to the module's root, as they must
// be for the declared table and the scenarios.
func generated(root string) (map[string][]byte, error) {
	t := diagrams.Chatconn()
	j, err := diagrams.JSON(t)
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{
		drawings + "/chatconn.json": j,
		drawings + "/chatconn.mmd":  []byte(diagrams.Mermaid(t)),
		drawings + "/chatconn.dot":  []byte(diagrams.DOT(t)),
		drawings + "/chatconn.md":   []byte(diagrams.Matrix(t)),
		drawings + "/chatconn.puml": []byte(diagrams.PlantUML(t)),
		drawings + "/chatconn.svg":  []byte(diagrams.SVG(t, diagrams.Options{})),
	}
	parts := make(map[string]string)
	for _, s := range t.States {
		parts[s] = diagrams.StateMarkdown(t, s)
	}
	for _, name := range paths {
		text, err := os.ReadFile(filepath.Join(root, scenarios, name+".txt"))
		if err != nil {
			return nil, err
		}
		path, err := diagrams.Walked(t, string(text))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		drawn := t
		drawn.Name = "chatconn, " + strings.ReplaceAll(name, "_", " ")
		files[drawings+"/"+name+".svg"] = []byte(diagrams.SVG(drawn, diagrams.Options{Highlight: places(path)}))
		parts[name] = story(name, path)
	}
	page, err := os.ReadFile(filepath.Join(root, walkthrough))
	if err != nil {
		return nil, err
	}
	filled, err := fill(string(page), parts)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", walkthrough, err)
	}
	files[walkthrough] = []byte(filled)
	return files, nil
}

func places(path []diagrams.Cell) []diagrams.Place {
	all := make([]diagrams.Place, len(path))
	for i, c := range path {
		all[i] = diagrams.Place{State: c.From, Event: c.Event}
	}
	return all
}

// story shows the way of a scenario, as picture and in words.
func story(name string, path []diagrams.Cell) string {
	var b strings.Builder
	fmt.Fprintf(&b, "![The way of this scenario through the states](../%s/%s.svg)\n\n", drawings, name)
	b.WriteString("| in | on | to | actions |\n| --- | --- | --- | --- |\n")
	for _, c := range path {
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", c.From, c.Event, c.To, strings.Join(c.Actions, ", "))
	}
	fmt.Fprintf(&b, "\nThe whole script and what it must print: [%s.txt](../%s/%s.txt).\n", name, scenarios, name)
	return b.String()
}

// fill puts each part between its markers, which stay. A part without markers, and
// markers without a part, are errors: the page and the table have come apart.
func fill(page string, parts map[string]string) (string, error) {
	const begin, end = "<!-- generated: ", "<!-- end -->"
	var b strings.Builder
	seen := make(map[string]bool)
	for {
		before, rest, found := strings.Cut(page, begin)
		b.WriteString(before)
		if !found {
			break
		}
		name, rest, found := strings.Cut(rest, " -->")
		part, known := parts[name]
		_, after, ended := strings.Cut(rest, end)
		switch {
		case !found || !known:
			return "", fmt.Errorf("nothing is generated for %.40q", name)
		case !ended:
			return "", fmt.Errorf("%q has no end", name)
		case seen[name]:
			return "", fmt.Errorf("%q stands twice", name)
		}
		seen[name] = true
		b.WriteString(begin + name + " -->\n\n" + part + "\n" + end)
		page = after
	}
	for name := range parts {
		if !seen[name] {
			return "", fmt.Errorf("it has no place for %q", name)
		}
	}
	return b.String(), nil
}
