package main

import (
	"strings"
	"testing"
)

// Each message is carried once, copies are not carried back, and a restart of
// the server loses nothing. T2: nor does it ask for tokens.
func TestT2_BridgeCarriesEachMessageOnce(t *testing.T) {
	t.Setenv("CHATCONN_URL", "")
	var out strings.Builder
	if err := run(t.Context(), &out, "messaging:left", "messaging:right", 0); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	want := `messaging:left -> messaging:right  ann: is anybody there?
messaging:right -> messaging:left  bob: I am
messaging:left -> messaging:right  ann: the server went away for a moment
messaging:right -> messaging:left  bob: I saw nothing
`
	if out.String() != want {
		t.Errorf("got:\n%s", &out)
	}
}
