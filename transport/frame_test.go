package transport

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/chatconn/chatconn/internal/object"
)

// twin reads a message as encoding/json does.
func twin(b []byte) (Frame, bool) {
	var object map[string]any
	if json.Unmarshal(b, &object) != nil || object == nil {
		return Frame{}, false
	}
	str := func(v any) []byte {
		s, _ := v.(string)
		return []byte(s)
	}
	user, _ := object["user"].(map[string]any)
	id := str(user["id"])
	if len(id) == 0 {
		id = str(object["user_id"])
	}
	return Frame{Type: str(object["type"]), CID: str(object["cid"]), UserID: id, CreatedAt: str(object["created_at"]), Raw: b}, true
}

// hollow empties the strings of a message: what is left is its structure.
func hollow(b []byte) []byte {
	var out []byte
	inside := false
	for i := 0; i < len(b); i++ {
		switch {
		case b[i] == '"':
			inside = !inside
			out = append(out, '"')
		case inside && b[i] == '\\':
			i++
		case !inside:
			out = append(out, b[i])
		}
	}
	return out
}

func depthOf(b []byte) (deepest int) {
	depth := 0
	for _, c := range hollow(b) {
		switch c {
		case '{', '[':
			depth++
			deepest = max(deepest, depth)
		case '}', ']':
			depth--
		}
	}
	return deepest
}

func parse(b []byte) (e envelope, ok bool) {
	ok = e.parse(b)
	return e, ok
}

// checkParse compares the scanner with its twin.
func checkParse(t *testing.T, b []byte) {
	t.Helper()
	before := bytes.Clone(b)
	e, ok := parse(b)
	if !bytes.Equal(before, b) {
		t.Fatalf("parse changed its input %q to %q", before, b)
	}
	want, valid := twin(b)
	switch {
	case valid && depthOf(b) <= object.MaxDepth && !ok:
		t.Fatalf("%q is a JSON object, and was refused", b)
	case ok && depthOf(b) > object.MaxDepth:
		t.Fatalf("%q is too deep, and was accepted", b)
	case ok && !valid && !json.Valid(hollow(b)):
		t.Fatalf("%q is malformed beyond the contents of strings, and was accepted", b)
	}
	if !ok || !valid {
		return
	}
	got := e.frame(b)
	for _, f := range []struct {
		name      string
		got, want []byte
	}{
		{"Type", got.Type, want.Type},
		{"CID", got.CID, want.CID},
		{"UserID", got.UserID, want.UserID},
		{"CreatedAt", got.CreatedAt, want.CreatedAt},
		{"Raw", got.Raw, want.Raw},
	} {
		if !bytes.Equal(f.got, f.want) {
			t.Fatalf("%s of %q is %q, want %q", f.name, b, f.got, f.want)
		}
	}
}

// hostile are messages that a scanner may stumble over.
var hostile = []string{
	`{}`, ` { } `, ``, ` `, `null`, `[]`, `[{"type":"x"}]`, `"type"`, `7`, `{`, `}`, `{]`, `{"`, `{"a`, `{"a"`, `{"a":`, `{"a":1`, `{"a":1,`, `{"a":1,}`,
	`{"type":"a"}{"type":"b"}`, `{"type":"a"} x`, `{"type":"a"} `, "\ufeff" + `{"type":"a"}`,
	`{"type":"a","type":"b"}`, `{"type":"a","type":7}`, `{"Type":"A","tYpe":"B"}`, `{"type":null}`, `{"ty\u0070e":"x"}`, `{"type\u0000":"x"}`,
	`{"type":"a\"b\\"}`, `{"type":"\\\\\""}`, `{"type":"\ud83d\ude00","cid":"\ud83d"}`, `{"type":"\x"}`, "{\"type\":\"\x00\"}", "{\"type\":\"\xff\xfe\"}", "{\"\xff\":1}",
	`{"user":{"id":"u"},"user_id":"v"}`, `{"user":{"id":7},"user_id":"v"}`, `{"user":null,"user_id":"v"}`, `{"user":[{"id":"u"}],"user_id":"v"}`,
	`{"user":{"id":"u"},"user":{}}`, `{"user":{"id":"a","ID":"b","id":"c"}}`, `{"user":"id"}`, `{"user":{"user":{"id":"x"}}}`,
	`{"n":-0}`, `{"n":01}`, `{"n":-}`, `{"n":1.}`, `{"n":1.5e+10}`, `{"n":1e}`, `{"n":.5}`, `{"n":+1}`, `{"n":NaN}`, `{"n":` + strings.Repeat("9", 5000) + `}`, `{"n":1e999999}`,
	`{"a":tru}`, `{"a":true}`, `{"a":false,"b":null}`, `{"a":truefalse}`, `{"a":[1,2,[],{},[{}]],"type":"z"}`, `{"a":[1,]}`, `{"a":[,1]}`, `{"a":[1 2]}`, `{"a":{"b":[}]}`, `{"a":[{]}}`,
	`{"a":{"b"}}`, `{"a":{"b":1,}}`, `{"a":{1:2}}`, `{a:1}`, `{'a':1}`, `{"a" 1}`, `{"a"::1}`, `{"a":1;"b":2}`, `{"a":/*c*/1}`,
	"\t{\r\n\"type\" : \"a\" ,\"cid\":\"b\"}\n", "{\v}", `{"a":"]}","type":"x"}`,
	`{"a":` + strings.Repeat("[", object.MaxDepth-1) + strings.Repeat("]", object.MaxDepth-1) + `}`,
	`{"a":` + strings.Repeat("[", object.MaxDepth) + strings.Repeat("]", object.MaxDepth) + `}`,
	`{"a":` + strings.Repeat(`{"a":`, object.MaxDepth-1) + `1` + strings.Repeat("}", object.MaxDepth-1) + `}`,
	`{"a":` + strings.Repeat("[", 1<<20),
	strings.Repeat(`{"a":[`, 100) + strings.Repeat(`]}`, 100),
}

// S4: hostile messages are taken or refused as encoding/json would.
func TestParseHostile(t *testing.T) {
	for _, message := range hostile {
		checkParse(t, []byte(message))
		checkParse(t, []byte(strings.Replace(message, " ", "\n\t\r ", 1)))
	}
}

// Every prefix of a message is refused, and every cut leaves the scanner inside.
func TestParsePrefixes(t *testing.T) {
	for i := range event {
		if _, ok := parse([]byte(event[:i])); ok {
			t.Fatalf("the prefix %q was accepted", event[:i])
		}
		parse([]byte(event[i:]))
	}
	checkParse(t, []byte(event))
}

// S3: keys count in their exact case.
func TestParseFields(t *testing.T) {
	e, ok := parse([]byte(`{"Type":"no","type":"message.new","CID":"no","cid":"messaging:a","user":{"ID":"no","id":"ann"},"created_at":"2026-01-02T03:04:05.678Z"}`))
	f := e.frame(nil)
	if !ok || string(f.Type) != "message.new" || string(f.CID) != "messaging:a" || string(f.UserID) != "ann" || string(f.CreatedAt) != "2026-01-02T03:04:05.678Z" {
		t.Errorf("got %t, %q", ok, f)
	}
}

// A plain message is scanned without allocation.
func TestParseAllocatesNothing(t *testing.T) {
	b := []byte(event)
	var f Frame
	if n := testing.AllocsPerRun(100, func() {
		e, _ := parse(b)
		f = e.frame(b)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if string(f.UserID) != "benedikt" {
		t.Errorf("user id %q", f.UserID)
	}
}

func FuzzParse(f *testing.F) {
	for _, message := range hostile {
		f.Add([]byte(message))
	}
	f.Add([]byte(event))
	f.Fuzz(checkParse)
}

func BenchmarkScan(b *testing.B) {
	message := []byte(event)
	b.Run("transport", func(b *testing.B) {
		b.SetBytes(int64(len(message)))
		b.ReportAllocs()
		for b.Loop() {
			e, _ := parse(message)
			e.frame(message)
		}
	})
	b.Run("encoding/json", func(b *testing.B) {
		b.SetBytes(int64(len(message)))
		b.ReportAllocs()
		for b.Loop() {
			var e struct {
				Type      string `json:"type"`
				CID       string `json:"cid"`
				UserID    string `json:"user_id"`
				CreatedAt string `json:"created_at"`
				User      struct {
					ID string `json:"id"`
				} `json:"user"`
			}
			if err := json.Unmarshal(message, &e); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// event is a message of about one KiB, as the service sends them.
const event = `{"type":"message.new","cid":"messaging:general","channel_id":"general","channel_type":"messaging","message":{"id":"a5b5d0c4-97b5-4f5e-8dd0-6a0bf7b1c1c2","text":"Shall we meet \"there\" at noon? I could bring the drawings and the two \u00e9tudes.","html":"<p>Shall we meet there at noon?</p>\n","type":"regular","user":{"id":"benedikt","role":"user","name":"Benedikt","image":"https://example.com/b.png","banned":false,"online":true},"attachments":[],"latest_reactions":[],"own_reactions":[],"reaction_counts":{},"reaction_scores":{},"reply_count":0,"mentioned_users":[],"silent":false,"created_at":"2026-03-04T05:06:07.891011Z","updated_at":"2026-03-04T05:06:07.891011Z"},"user":{"id":"benedikt","role":"user","name":"Benedikt","image":"https://example.com/b.png","banned":false,"online":true,"last_active":"2026-03-04T05:06:00.000000Z"},"watcher_count":17,"unread_count":3,"total_unread_count":11,"unread_channels":2,"created_at":"2026-03-04T05:06:07.891011Z"}`
