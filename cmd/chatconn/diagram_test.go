package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chatconn/chatconn/diagrams"
)

// G1: what the command prints is what package diagrams draws.
func TestDiagram(t *testing.T) {
	asJSON, err := diagrams.JSON(diagrams.Chatconn())
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"":                  diagrams.Mermaid(diagrams.Chatconn()),
		"--format mermaid":  diagrams.Mermaid(diagrams.Chatconn()),
		"--format dot":      diagrams.DOT(diagrams.Chatconn()),
		"--format plantuml": diagrams.PlantUML(diagrams.Chatconn()),
		"--format svg":      diagrams.SVG(diagrams.Chatconn(), diagrams.Options{}),
		"--format matrix":   diagrams.Matrix(diagrams.Chatconn()),
		"--format json":     string(asJSON),
		"--json":            string(asJSON),
	}
	for flags, picture := range want {
		got := call(t, append([]string{"diagram"}, strings.Fields(flags)...)...)
		got.want(t, ok)
		if strings.TrimSpace(got.out) != strings.TrimSpace(picture) {
			t.Errorf("diagram %s prints another picture", flags)
		}
		if !strings.HasSuffix(got.out, "\n") {
			t.Errorf("diagram %s ends without a line end", flags)
		}
	}
	for _, f := range formats {
		if _, tested := want["--format "+f.name]; !tested {
			t.Errorf("format %s is not tested", f.name)
		}
	}
}

func TestDiagramIntoAFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "machine.dot")
	got := call(t, "diagram", "--format", "dot", "--out", name)
	got.want(t, ok)
	written, err := os.ReadFile(name)
	if err != nil || string(written) != call(t, "diagram", "--format", "dot").out || got.out != "" {
		t.Errorf("the file holds something else (%v), or standard output is not empty: %q", err, got.out)
	}
	call(t, "diagram", "--out", filepath.Join(name, "below-a-file")).want(t, failed, "--out", "below-a-file")
}
