// Command speccheck compares what the project promises with what its tests
// name. The page docs/promises.md gives every promise an id; a test names the
// promises that it proves, in its own name or in a comment. An id that no test
// names, and an id in a test that the page does not have, are both listed, and
// the exit status is 1.
//
// Usage, from anywhere in the module:
//
//	go run ./internal/speccheck      what is wrong
//	go run ./internal/speccheck -v   and every promise with the files that prove it
package main

import (
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

func main() {
	verbose := flag.Bool("v", false, "list every promise with the files whose tests name it")
	flag.Parse()
	root, err := moduleRoot()
	if err == nil {
		err = run(os.Stdout, os.DirFS(root), *verbose)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "speccheck:", err)
		os.Exit(1)
	}
}

// moduleRoot returns the nearest directory above that holds a go.mod.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", fmt.Errorf("no go.mod here or above")
		}
		dir = up
	}
}

// run writes the report on a module to w. Its error says how much is wrong.
func run(w io.Writer, module fs.FS, verbose bool) error {
	text, err := fs.ReadFile(module, page)
	if err != nil {
		return err
	}
	promises, err := promised(string(text))
	if err != nil {
		return err
	}
	named, err := cited(module)
	if err != nil {
		return err
	}
	untested, unknown := compare(promises, named)
	if verbose {
		for _, id := range promises {
			fmt.Fprintf(w, "%-4s %d", id, len(named[id]))
			for _, file := range named[id] {
				fmt.Fprint(w, " ", file)
			}
			fmt.Fprintln(w)
		}
	}
	for _, id := range untested {
		fmt.Fprintf(w, "%s: promised, and no test names it\n", id)
	}
	for _, id := range unknown {
		for _, file := range named[id] {
			fmt.Fprintf(w, "%s: named by %s, and %s does not promise it\n", id, file, page)
		}
	}
	if len(untested)+len(unknown) > 0 {
		return fmt.Errorf("%d of %d promises are untested, %d ids are unknown", len(untested), len(promises), len(unknown))
	}
	fmt.Fprintf(w, "%d promises, each named by a test\n", len(promises))
	return nil
}
