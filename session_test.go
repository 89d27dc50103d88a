package chatconn

import (
	"encoding/json"
	"fmt"
	"reflect"
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

// A user is read as encoding/json reads an object: the last of repeated keys counts,
// what is no text is no name, and texts are made valid.
func TestUserIsReadAsEncodingJSONReads(t *testing.T) {
	given := &User{ID: "given"}
	for _, me := range []string{
		`{"id":"john"}`,
		`{"id":"john","name":"John","image":"i.png","role":"user","score":1.5,"none":null,"yes":true,"no":false,"list":[1,"a",{"b":[]}],"object":{"id":"other","a":{"b":null}}}`,
		` { "id" : "john" , "empty" : "" , "" : "empty" , "name" : "" } `,
		`{"id":"first","id":"john","name":"first","name":"John","a":{"b":1},"a":{"c":2},"b":1,"b":"text"}`,
		`{"id":"john","name":null,"image":5}`,
		`{"id":"john","name":"John","name":{"first":"John"}}`,
		`{"id":"john","ID":"upper","Name":"upper"}`,
		`{"\u0069d":"john","na\u006de":"John \"\ud83d\ude00\" \ud800","i\u006dage":"\/","\n":"\n"}`,
		"{\"id\":\"john\",\"name\":\"\xff\xfe\",\"a\xff\xfe\":\"a\xc3\",\"b\xed\xa0\x80\":[\"\xff\"]}",
		"{\"id\":\"john\",\"\xff\":1,\"\xfe\":2}",
		`{"id":"john","big":12345678901234567890,"tiny":1e-999}`,
		`{"id":"john","huge":1e999}`,
		`{"id":"john","huge":[{"a":-1e999}]}`,
		`{"id":""}`, `{"id":null}`, `{"id":7}`, `{"id":"john","id":7}`, `{"name":"John"}`, `{}`, ``, `null`, `[]`, `"john"`,
		`{"id":"john"} `, `{"id":"john"}x`, `{"id":"john"`, `{"id":"john",}`,
	} {
		want, extra := *given, map[string]any{}
		if err := json.Unmarshal([]byte(me), &extra); err == nil && extra["id"] != "" {
			if id, ok := extra["id"].(string); ok {
				want.ID = id
				want.Name, _ = extra["name"].(string)
				want.Image, _ = extra["image"].(string)
				for _, name := range []string{"id", "name", "image"} {
					delete(extra, name)
				}
				if len(extra) > 0 {
					want.Extra = extra
				}
			}
		}
		s := session{me: json.RawMessage(me), given: given}
		if got := s.public().User; !reflect.DeepEqual(got, want) {
			t.Errorf("%q\n got %#v\nwant %#v", me, got, want)
		}
	}
}

// C4: the service is told who the user is, and nothing that is not known.
func TestUserAsJSON(t *testing.T) {
	for want, u := range map[string]User{
		`{"id":"john"}`:                               {ID: "john"},
		`{"id":"john","name":"John"}`:                 {ID: "john", Name: "John"},
		`{"id":"john","image":"i.png"}`:               {ID: "john", Image: "i.png"},
		`{"id":"j","image":"i","name":"J"}`:           {ID: "j", Name: "J", Image: "i", Extra: map[string]any{}},
		`{"a":null,"id":"j","image":"i","name":"J"}`:  {ID: "j", Name: "J", Image: "i", Extra: map[string]any{"a": nil}},
		`{"a":[],"id":"j"}`:                           {ID: "j", Extra: map[string]any{"a": []int{}}},
		`{"id":"\"j\"","image":"\n","name":"\ufffd"}`: {ID: `"j"`, Name: "\xff", Image: "\n"},
	} {
		if got, err := checkUser(u); string(got) != want || err != nil {
			t.Errorf("%#v is %s, %v, want %s", u, got, err, want)
		}
	}
}
