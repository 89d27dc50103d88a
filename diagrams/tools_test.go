package diagrams

import (
	"os/exec"
	"strings"
	"testing"
)

// G1: Graphviz and PlantUML, where they are installed, take what is written for
// them, whatever the names.
func TestOtherToolsTakeIt(t *testing.T) {
	const wild = "<b>\"x\" & ]]> ~`//a//\n\\:;#{}%[]|\\n 'é' 状態 "
	for _, tool := range []struct {
		argv   []string
		render func(Table) string
		want   string
	}{
		{[]string{"dot", "-Tsvg"}, DOT, "</svg>"},
		{[]string{"plantuml", "-syntax"}, PlantUML, "STATE"},
	} {
		t.Run(tool.argv[0], func(t *testing.T) {
			if _, err := exec.LookPath(tool.argv[0]); err != nil {
				t.Skip(err)
			}
			for _, m := range []Table{Chatconn(), door(), hostile(wild)} {
				cmd := exec.Command(tool.argv[0], tool.argv[1:]...)
				cmd.Stdin = strings.NewReader(tool.render(m))
				out, err := cmd.CombinedOutput()
				if err != nil || !strings.Contains(string(out), tool.want) || strings.Contains(strings.ToLower(string(out)), "error") {
					t.Errorf("%s: %v\n%s", m.Name, err, out)
				}
			}
		})
	}
}
