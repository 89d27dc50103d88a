package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// G1: what is committed is what the table says today, no more and no less.
func TestGeneratedFilesAreFresh(t *testing.T) {
	const dir = "../../generated"
	want, err := generated()
	if err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if _, ok := want[e.Name()]; !ok {
			t.Errorf("%s is in %s, but nothing generates it", e.Name(), dir)
		}
	}
	for name, content := range want {
		got, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Error(err)
		} else if !bytes.Equal(got, content) {
			t.Errorf("%s is stale: run go generate ./diagrams and read the diff", name)
		}
	}
}
