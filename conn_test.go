package chatconn_test

import (
	"flag"
	"path/filepath"
	"testing"

	"github.com/chatconn/chatconn/conntest"
)

var update = flag.Bool("update", false, "write the transcripts of the scenarios; read the difference")

const scenarios = "testdata/scenarios"

// uncovered are the cells that no scenario walks, each with the reason.
var uncovered = map[string]string{}

// Scenarios: every way in and out of every state, as scripts with transcripts.
// Together they walk every cell of the table that can be walked.
func TestScenarios(t *testing.T) {
	var covered conntest.Coverage
	t.Run("all", func(t *testing.T) {
		conntest.RunDir(t, filepath.FromSlash(scenarios), conntest.Options{Coverage: &covered, Update: *update})
	})
	for _, cell := range covered.Missing() {
		if _, ok := uncovered[cell.String()]; !ok && t.Failed() == false {
			t.Logf("M2: no scenario walks %v", cell)
		}
	}
	t.Logf("\n%s", &covered)
}
