package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// G1: what is committed is what the table and the scenarios say today, no more and
// no less.
func TestGeneratedFilesAreFresh(t *testing.T) {
	const root = "../../.."
	want, err := generated(root)
	if err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(filepath.Join(root, drawings))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if _, ok := want[drawings+"/"+e.Name()]; !ok {
			t.Errorf("%s is in %s, but nothing generates it", e.Name(), drawings)
		}
	}
	for name, content := range want {
		got, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Error(err)
		} else if !bytes.Equal(got, content) {
			t.Errorf("%s is stale: run go generate ./diagrams and read the diff", name)
		}
	}
}

// The page and what is generated for it must fit, name by name.
func TestFill(t *testing.T) {
	const page = "a\n<!-- generated: one -->\nold\n<!-- end -->\nb\n<!-- generated: two --><!-- end -->\n"
	const want = "a\n<!-- generated: one -->\n\n1\n\n<!-- end -->\nb\n<!-- generated: two -->\n\n2\n\n<!-- end -->\n"
	parts := map[string]string{"one": "1\n", "two": "2\n"}
	got, err := fill(page, parts)
	if err != nil || got != want {
		t.Fatalf("%q, %v; want %q", got, err, want)
	}
	if again, err := fill(got, parts); err != nil || again != want {
		t.Errorf("again: %q, %v", again, err)
	}
	for _, c := range []struct{ page, want string }{
		{"<!-- generated: one --><!-- end -->", `no place for "two"`},
		{page + "<!-- generated: three --><!-- end -->", `nothing is generated for "three"`},
		{page + "<!-- generated: one --><!-- end -->", `"one" stands twice`},
		{page + "<!-- generated: one -->", `"one" has no end`},
		{page + "<!-- generated: one", "nothing is generated"},
	} {
		if _, err := fill(c.page, parts); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v, want %q", c.page, err, c.want)
		}
	}
}
