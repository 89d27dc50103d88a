package transport

import (
	"runtime"
	"strings"
	"testing"
	"unicode/utf8"
)

// S2: a connection id is in every health check and every API request, so it is not
// any longer than that.
func TestS2_LongConnectionID(t *testing.T) {
	for length, fine := range map[int]bool{maxConnectionID: true, maxConnectionID + 1: false, 1 << 19: false} {
		inBubble(t, speak([]string{`{"type":"health.check","connection_id":"` + strings.Repeat("i", length) + `"}`}, peer.drain), func(b *bench) {
			if fine {
				s := b.dial()
				s.HangUp()
				<-s.Gone()
				return
			}
			wantKind(t, b.fail(b.Context()), "hello", Malformed)
		})
	}
}

// E1, S2: an error counts by its code however long it is, and does not cost several
// times its length.
func TestS2_LongError(t *testing.T) {
	long := strings.Repeat("x", 500_000)
	for name, c := range map[string]struct {
		body string
		want *Refusal
	}{
		"the code last":         {`{"message":"` + long + `","more_info":"` + long + `","StatusCode":401,"unrecoverable":true,"code":40}`, &Refusal{Code: 40, StatusCode: 401, Unrecoverable: true, Message: "x"}},
		"another code last":     {`{"code":40,"details":"` + long + `","code":17}`, &Refusal{Code: 17}},
		"a million details":     {`{"details":[` + strings.Repeat("{},", 300_000) + `0],"code":9}`, &Refusal{Code: 9}},
		"a message of escapes":  {`{"message":"` + strings.Repeat(`\ud83d\ude00`, 40_000) + `","code":9}`, &Refusal{Code: 9, Message: "😀"}},
		"escapes, one byte off": {`{"message":"x` + strings.Repeat(`\\`, 200_000) + `","code":9}`, &Refusal{Code: 9, Message: "x"}},
		"a code of many digits": {`{"code":` + strings.Repeat("9", 100_000) + `}`, nil},
		"another case":          {`{"Code":40,"details":"` + long + `"}`, nil},
		"cut off":               {`{"code":40,"details":"` + long, nil},
		"a hundred messages":    {`{"code":40` + strings.Repeat(`,"message":"`+long[:20_000]+`"`, 100) + `}`, &Refusal{Code: 40, Message: "x"}},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		got, ok := ParseRefusal([]byte(c.body))
		runtime.ReadMemStats(&after)
		if ok != (c.want != nil) {
			t.Errorf("%s: %t", name, ok)
			continue
		}
		if cost := after.TotalAlloc - before.TotalAlloc; cost > uint64(len(c.body))+600<<10 {
			t.Errorf("%s: %d KiB are read with %d KiB", name, len(c.body)>>10, cost>>10)
		}
		if !ok {
			continue
		}
		if got.Code != c.want.Code || got.StatusCode != c.want.StatusCode || got.Unrecoverable != c.want.Unrecoverable || !strings.HasPrefix(got.Message, c.want.Message) ||
			!utf8.ValidString(got.Message) || strings.ContainsRune(got.Message, utf8.RuneError) {
			t.Errorf("%s: code %d, status %d, %.20q", name, got.Code, got.StatusCode, got.Message)
		}
		runtime.ReadMemStats(&before)
		shown := excerpt([]byte(c.body), redactor(secretToken))
		runtime.ReadMemStats(&after)
		if cost := after.TotalAlloc - before.TotalAlloc; len(shown) > 512 || cost > 2<<20 {
			t.Errorf("%s: %d bytes are shown, with %d KiB", name, len(shown), cost>>10)
		}
	}
}
