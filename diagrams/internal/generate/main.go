// Command generate writes what package diagrams makes of the declared table
// into the directory generated/. Run it as "go generate ./diagrams".
package main

import (
	"log"
	"os"
	"path/filepath"

	"github.com/chatconn/chatconn/diagrams"
)

func main() {
	files, err := generated()
	if err != nil {
		log.Fatal(err)
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join("generated", name), content, 0o644); err != nil {
			log.Fatal(err)
		}
	}
}

// generated returns the files by name, as they must be for the declared table.
func generated() (map[string][]byte, error) {
	t := diagrams.Chatconn()
	j, err := diagrams.JSON(t)
	if err != nil {
		return nil, err
	}
	return map[string][]byte{
		"chatconn.json": j,
		"chatconn.mmd":  []byte(diagrams.Mermaid(t)),
		"chatconn.dot":  []byte(diagrams.DOT(t)),
		"chatconn.md":   []byte(diagrams.Matrix(t)),
		"chatconn.puml": []byte(diagrams.PlantUML(t)),
		"chatconn.svg":  []byte(diagrams.SVG(t, diagrams.Options{})),
	}, nil
}
