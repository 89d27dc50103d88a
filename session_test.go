package chatconn

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// S2: the server's view of a user is decoded, however long it is, unless that would
// take many times its length. Then the user is as given.
func TestS2_UserIsDecodedWithinLimits(t *testing.T) {
	mute := `{"user":{"id":"john","role":"user"},"target":{"id":"someone","role":"user","name":"Some One"},"created_at":"2026-01-02T03:04:05Z"}`
	for name, c := range map[string]struct {
		extra   string
		decoded bool
	}{
		"nothing":               {`0`, true},
		"1,000 muted users":     {"[" + strings.Repeat(mute+",", 999) + mute + "]", true},
		"a long text":           {`"` + strings.Repeat(`{[,\"\\`, 100_000) + `"`, true},
		"a million arrays":      {"[" + strings.Repeat("[],", 300_000) + "0]", false},
		"objects within others": {strings.Repeat(`{"":`, 9000) + "0" + strings.Repeat("}", 9000), false},
		"many fields":           {`{"a":0` + strings.Repeat(`,"a":0`, 100_000) + "}", false},
	} {
		me := fmt.Sprintf(`{"id":"john","name":"John of the server","extra":%s}`, c.extra)
		if !json.Valid([]byte(me)) {
			t.Fatalf("%s: no JSON", name)
		}
		s := session{id: "id", me: json.RawMessage(me), given: &User{ID: "john", Name: "John"}}
		u := s.public().User
		if decoded := u.Name == "John of the server" && u.Extra["extra"] != nil; decoded != c.decoded || !decoded && (u.Name != "John" || u.Extra != nil) {
			t.Errorf("%s: decoded %t; the name is %q", name, decoded, u.Name)
		}
	}
}
