package chatconn_test

import (
	"cmp"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/chatconn/chatconn"

// place says what a package may import, besides the standard library. Imports
// point downward, so the order of places is from the bottom to the top.
type place struct {
	dir    string   // relative to the root of the module; "x/..." is all below x
	ours   []string // packages of this module, by directory; ".": the root
	theirs []string // of other modules; it imports each of them
	tests  []string // what its tests may import as well; "...": all of ours
}

const (
	looplab = "github.com/looplab/fsm"
	gorilla = "github.com/gorilla/websocket"
	jwt     = "github.com/golang-jwt/jwt/v5"
	backoff = "github.com/cenkalti/backoff/v4"
	kong    = "github.com/alecthomas/kong"
	oauth2  = "golang.org/x/oauth2"
)

var places = []place{
	// The floors know nothing of each other. Each keeps one library to itself.
	{dir: "fsm", theirs: []string{looplab}, tests: []string{"internal/mutants"}},
	{dir: "tokens", ours: []string{"internal/loopback", "internal/object"}, theirs: []string{jwt}},
	{dir: "transport", ours: []string{"internal/object"}, theirs: []string{gorilla}, tests: []string{"internal/hooked", "transport/memnet"}},
	{dir: "transport/memnet"},
	{dir: "internal/hooked"},
	{dir: "internal/loopback"},
	{dir: "internal/object"},

	{dir: "tokens/oauth2", ours: []string{"tokens"}, theirs: []string{oauth2}},
	{dir: "chatapi", tests: []string{".", "devserver", "tokens", "transport/memnet"}},

	{dir: "recording", ours: []string{"fsm", "internal/object"}},
	{dir: "diagrams", ours: []string{"fsm", "recording"}},
	{dir: "diagrams/internal/...", ours: []string{"diagrams", "fsm"}},
	{dir: "devserver", ours: []string{"tokens"}, theirs: []string{gorilla}, tests: []string{"transport/memnet"}},

	{dir: ".", ours: []string{"fsm", "internal/loopback", "internal/object", "recording", "tokens", "transport"}, theirs: []string{backoff}, tests: []string{"...", gorilla}},

	{dir: "inspect", ours: []string{".", "diagrams", "fsm", "recording"}, tests: []string{"devserver", "tokens", "transport/memnet"}},
	{dir: "conntest", ours: []string{".", "devserver", "diagrams", "fsm", "tokens", "transport", "transport/memnet"}},
	{dir: "cmd/chatconn", ours: []string{".", "conntest", "devserver", "diagrams", "fsm", "internal/loopback", "inspect", "recording", "tokens", "transport"}, theirs: []string{kong}},

	{dir: "docs", tests: []string{"devserver"}},
	{dir: "examples/...", ours: []string{".", "chatapi", "devserver", "diagrams", "examples/internal/follow", "examples/internal/service", "fsm", "tokens"}, tests: []string{"conntest", "transport/memnet"}},

	{dir: "internal/halfopen", tests: []string{".", "devserver", "fsm", "tokens"}},
	{dir: "internal/mutants", ours: []string{"fsm"}},
	{dir: "internal/speccheck"},
	{dir: "bench", ours: []string{"."}, tests: []string{"...", gorilla}},
}

func TestImportsPointDownward(t *testing.T) {
	used := make(map[string][]string) // by directory, outside its tests
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && name != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || isModule(name)):
			return fs.SkipDir
		case d.IsDir() || path.Ext(name) != ".go":
			return nil
		}
		name = filepath.ToSlash(name)
		dir := path.Dir(name)
		at := placeOf(dir)
		if at == nil {
			t.Errorf("%s: its package has no place among the imports; this test knows all that have", name)
			return nil
		}
		// The parser sees every file, whatever system it is for.
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		isTest := strings.HasSuffix(name, "_test.go")
		for _, spec := range file.Imports {
			imported, _ := strconv.Unquote(spec.Path.Value)
			if !at.mayImport(dir, imported, isTest) {
				t.Errorf("%s imports %s, and may not", name, imported)
			}
			if !isTest {
				used[at.dir] = append(used[at.dir], imported)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range places {
		for _, library := range p.theirs {
			if used[p.dir] != nil && !slices.Contains(used[p.dir], library) {
				t.Errorf("%s may import %s, and does not", p.dir, library)
			}
		}
	}
	if used["."] == nil {
		t.Error("the root package was not found")
	}
}

// isModule reports whether a directory is a module of its own.
func isModule(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "go.mod"))
	return err == nil
}

func placeOf(dir string) *place {
	for i, p := range places {
		below, isTree := strings.CutSuffix(p.dir, "...")
		if p.dir == dir || isTree && strings.HasPrefix(dir, below) {
			return &places[i]
		}
	}
	return nil
}

func (p *place) mayImport(dir, imported string, isTest bool) bool {
	if first, _, _ := strings.Cut(imported, "/"); !strings.Contains(first, ".") {
		return true // the standard library
	}
	own, isOurs := strings.CutPrefix(imported+"/", module+"/")
	if !isOurs {
		return slices.Contains(p.theirs, imported) || isTest && slices.Contains(p.tests, imported)
	}
	own = cmp.Or(strings.TrimSuffix(own, "/"), ".")
	return slices.Contains(p.ours, own) ||
		isTest && (own == dir || slices.Contains(p.tests, own) || slices.Contains(p.tests, "..."))
}

// What the root package brings into a program, on every system: four libraries.
func TestTheRootBringsFourLibraries(t *testing.T) {
	want := []string{backoff, jwt, gorilla, looplab}
	for _, system := range []string{"linux", "darwin", "windows", "freebsd"} {
		list := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", ".")
		list.Env = append(list.Environ(), "GOOS="+system, "CGO_ENABLED=0")
		var errs strings.Builder
		list.Stderr = &errs
		out, err := list.Output()
		if err != nil {
			t.Fatalf("%s: %v: %s", list, err, &errs)
		}
		got := slices.DeleteFunc(strings.Fields(string(out)), func(p string) bool {
			return strings.HasPrefix(p+"/", module+"/")
		})
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("on %s the root package needs %v, want %v", system, got, want)
		}
	}
}
