package main

import (
	"strings"
	"testing"
)

// T2, Q3: the bot answers once each what was said before it came, while the
// server restarted, and after its token was refused.
func TestQ3_BotAnswersThroughEverything(t *testing.T) {
	t.Setenv("CHATCONN_URL", "")
	var out strings.Builder
	if err := run(t.Context(), &out, "messaging:general", 0); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	want := `ann: hello
bot: ann, you said "hello".
(the server restarts)
ann: are you still there?
bot: ann, you said "are you still there?".
(the bot's token expires)
ann: and now?
bot: ann, you said "and now?".
3 answers, 1 reconnects, 2 tokens
`
	if out.String() != want {
		t.Errorf("got:\n%s", &out)
	}
}

func TestBotNeedsASecret(t *testing.T) {
	t.Setenv("CHATCONN_URL", "https://chat.example")
	t.Setenv("CHATCONN_SECRET", "")
	if err := run(t.Context(), nil, "messaging:general", 1); err == nil || !strings.Contains(err.Error(), "CHATCONN_SECRET") {
		t.Errorf("got %v", err)
	}
}
