package chatconn_test

import (
	"flag"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/chatconn/chatconn"
	"github.com/chatconn/chatconn/conntest"
)

var update = flag.Bool("update", false, "write the transcripts of the scenarios; read the difference")

const scenarios = "testdata/scenarios"

// M2: every way in and out of every state, as scripts with transcripts. Together
// they walk every cell of the table that can be walked.
func TestScenarios(t *testing.T) {
	var covered conntest.Coverage
	var played atomic.Int64
	t.Run("all", func(t *testing.T) {
		conntest.RunDir(t, scenarios, conntest.Options{
			Configure: func(*chatconn.Config) { played.Add(1) },
			Coverage:  &covered,
			Update:    *update,
		})
	})
	files, err := filepath.Glob(filepath.Join(scenarios, "*.txt"))
	if err != nil {
		t.Fatal(err)
	}
	if int(played.Load()) < len(files) {
		return // only some were asked for
	}
	if missing := covered.Missing(); len(missing) > 0 {
		t.Errorf("no scenario walks %v\n%s", missing, &covered)
	}
}
