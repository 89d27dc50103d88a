package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"
)

// page is the specification. A promise is an item of a list that begins with
// its id in bold: "- **T5** …".
const page = "docs/promises.md"

var (
	promise = regexp.MustCompile(`^[-*] \*\*([A-Z][0-9]{0,2})\*\*`)
	// word is an id in running text. The matrix of errors is plain E.
	word = regexp.MustCompile(`\b(?:[A-Z][0-9]{1,2}|E)\b`)
	// part is an id within a test's name, between underscores or before the
	// next capital.
	part = regexp.MustCompile(`^(?:(E)$|([A-Z][0-9]{1,2})(?:$|[A-Z]))`)
	kind = regexp.MustCompile(`^(?:Test|Fuzz|Benchmark|Example)`)
)

// promised returns the ids of the page in its order. An id that stands twice is
// an error, and so is a page without any.
func promised(text string) ([]string, error) {
	var ids []string
	for line := range strings.Lines(text) {
		m := promise.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		if slices.Contains(ids, m[1]) {
			return nil, fmt.Errorf("%s promises %s twice", page, m[1])
		}
		ids = append(ids, m[1])
	}
	if len(ids) == 0 {
		return nil, fmt.Errorf("%s promises nothing", page)
	}
	return ids, nil
}

// cited returns, for each id, the files whose tests name it, sorted. Go tests
// name ids in their function names and comments, scenarios in their comments.
func cited(module fs.FS) (map[string][]string, error) {
	found := make(map[string][]string)
	err := fs.WalkDir(module, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name != "." && strings.HasPrefix(d.Name(), ".") {
				return fs.SkipDir
			}
			return nil
		}
		var read func(string) ([]string, error)
		scenario, _ := path.Match("testdata/scenarios/*.txt", lastThree(name))
		switch {
		case scenario:
			read = inScenario
		case strings.HasSuffix(name, "_test.go") && !slices.Contains(strings.Split(name, "/"), "testdata"):
			read = inTest
		default:
			return nil
		}
		text, err := fs.ReadFile(module, name)
		if err != nil {
			return err
		}
		ids, err := read(string(text))
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		slices.Sort(ids)
		for _, id := range slices.Compact(ids) {
			found[id] = append(found[id], name)
		}
		return nil
	})
	return found, err
}

// lastThree returns the last three elements of a path.
func lastThree(name string) string {
	elements := strings.Split(name, "/")
	return strings.Join(elements[max(0, len(elements)-3):], "/")
}

// inTest returns the ids that a Go test file names.
func inTest(source string) ([]string, error) {
	file, err := parser.ParseFile(token.NewFileSet(), "", source, parser.ParseComments)
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, group := range file.Comments {
		ids = append(ids, word.FindAllString(group.Text(), -1)...) // without directives such as go:build
	}
	for _, decl := range file.Decls {
		f, ok := decl.(*ast.FuncDecl)
		if !ok || f.Recv != nil || !kind.MatchString(f.Name.Name) {
			continue
		}
		for p := range strings.SplitSeq(kind.ReplaceAllString(f.Name.Name, ""), "_") {
			if m := part.FindStringSubmatch(p); m != nil {
				ids = append(ids, m[1]+m[2])
			}
		}
	}
	return ids, nil
}

// inScenario returns the ids that the comments of a scenario name.
func inScenario(script string) ([]string, error) {
	var ids []string
	for line := range strings.Lines(script) {
		if strings.HasPrefix(line, "#") {
			ids = append(ids, word.FindAllString(line, -1)...)
		}
	}
	return ids, nil
}

// compare returns the promises that no test names, in the order of the page,
// and the ids that tests name and the page does not promise, sorted.
func compare(promises []string, named map[string][]string) (untested, unknown []string) {
	for _, id := range promises {
		if len(named[id]) == 0 {
			untested = append(untested, id)
		}
	}
	for id := range named {
		if !slices.Contains(promises, id) {
			unknown = append(unknown, id)
		}
	}
	slices.Sort(unknown)
	return untested, unknown
}
