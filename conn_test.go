package chatconn_test

import (
	"flag"
	"testing"

	"github.com/chatconn/chatconn/conntest"
)

var update = flag.Bool("update", false, "write the transcripts of the scenarios; read the difference")

const scenarios = "testdata/scenarios"

// M2: every way in and out of every state, as scripts with transcripts. Together
// they walk every cell of the table that can be walked.
func TestScenarios(t *testing.T) {
	var covered conntest.Coverage
	if !t.Run("all", func(t *testing.T) {
		conntest.RunDir(t, scenarios, conntest.Options{Coverage: &covered, Update: *update})
	}) || filtered() {
		return
	}
	if missing := covered.Missing(); len(missing) > 0 {
		t.Errorf("M2: no scenario walks %v\n%s", missing, &covered)
	}
}

// filtered reports whether only some tests were asked for.
func filtered() bool {
	run := flag.Lookup("test.run").Value.String()
	skip := flag.Lookup("test.skip").Value.String()
	return skip != "" || run != "" && run != "TestScenarios"
}
