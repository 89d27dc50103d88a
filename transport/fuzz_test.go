package transport

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/chatconn/chatconn/internal/object"
)

// scripted is a connection to a peer that has made up its mind: it sends what it
// has once the request is there, in pieces of a length, and then ends. What is
// written later is lost.
type scripted struct {
	answer  func(request string) []byte
	piece   int
	request chan string
	rest    []byte
	asked   []byte
	once    sync.Once
	closed  chan struct{}
}

func script(piece int, answer func(request string) []byte) *scripted {
	return &scripted{answer: answer, piece: max(piece, 1), request: make(chan string, 1), closed: make(chan struct{})}
}

func (s *scripted) Write(p []byte) (int, error) {
	if s.asked == nil || !bytes.HasSuffix(s.asked, []byte("\r\n\r\n")) {
		if s.asked = append(s.asked, p...); bytes.HasSuffix(s.asked, []byte("\r\n\r\n")) {
			s.request <- string(s.asked)
		}
	}
	return len(p), nil
}

func (s *scripted) Read(p []byte) (int, error) {
	select {
	case r := <-s.request:
		s.rest = s.answer(r)
	case <-s.closed:
		return 0, net.ErrClosed
	default: // it was asked before
	}
	if len(s.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.rest[:min(len(s.rest), s.piece)])
	s.rest = s.rest[n:]
	return n, nil
}

func (s *scripted) Close() error {
	s.once.Do(func() { close(s.closed) })
	return nil
}

func (s *scripted) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (s *scripted) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (s *scripted) SetDeadline(time.Time) error      { return nil }
func (s *scripted) SetReadDeadline(time.Time) error  { return nil }
func (s *scripted) SetWriteDeadline(time.Time) error { return nil }

const fuzzMessage = 4 << 10 // MaxMessageBytes of the fuzz targets

// dialScript dials a scripted peer and serves what comes of it to the end. It
// returns the frames and why it ended.
func dialScript(t *testing.T, c *scripted) (s *Socket, frames []string, e *Error) {
	t.Helper()
	d, err := NewDialer(Options{
		BaseURL: "http://chat.test", APIKey: "key", Client: "fuzz",
		DialContext:     func(context.Context, string, string) (net.Conn, error) { return c, nil },
		MaxMessageBytes: fuzzMessage, WriteTimeout: time.Minute, CloseTimeout: time.Minute,
		HealthCheckInterval: time.Hour, HealthTimeout: 2 * time.Hour,
	})
	if err != nil {
		t.Fatal(err)
	}
	s, err = d.Dial(context.Background(), ann)
	if err == nil {
		err = s.Serve(Handler{Receive: func(f Frame) { frames = append(frames, string(f.Raw)) }})
		<-s.Gone()
	}
	select {
	case <-c.closed:
	default:
		t.Error("the connection is open")
	}
	e = asError(t, err)
	if e.Kind == 0 || e.Kind >= numKinds || !slices.Contains([]string{"dial", "upgrade", "hello", "open"}, e.Phase) {
		t.Errorf("ended by %#v", e)
	}
	texts := []string{e.Body}
	if e.Refusal != nil {
		texts = append(texts, e.Refusal.Message)
	}
	for _, text := range texts {
		if len(text) > 512 || !utf8.ValidString(text) || strings.ContainsAny(text, "\r\n\x00\x1b") {
			t.Errorf("E1: %d bytes are shown: %q", len(text), text)
		}
	}
	return s, frames, e
}

// decoded is what RFC 6455 makes of the bytes of a server: its text messages, up
// to the first violation, close or end. It is written from the RFC alone, with the
// cap of a message.
func decoded(b []byte) (texts []string) {
	var message []byte
	var kind byte // of the message under way; 0: none
	for len(b) >= 2 {
		final, reserved, op := b[0]&0x80 != 0, b[0]&0x70, b[0]&0x0f
		masked, n := b[1]&0x80 != 0, uint64(b[1]&0x7f)
		b = b[2:]
		control := op >= 8
		if reserved != 0 || masked || op > 10 || op > 2 && op < 8 || control && (!final || n > 125) ||
			op == 0 && kind == 0 || (op == 1 || op == 2) && kind != 0 {
			return texts
		}
		switch n {
		case 126:
			if len(b) < 2 {
				return texts
			}
			n, b = uint64(binary.BigEndian.Uint16(b)), b[2:]
		case 127:
			if len(b) < 8 {
				return texts
			}
			n, b = binary.BigEndian.Uint64(b), b[8:]
		}
		if n > uint64(len(b)) {
			return texts
		}
		payload := b[:n]
		b = b[n:]
		switch {
		case op == 8:
			return texts
		case control:
			continue
		case op != 0:
			kind, message = op, nil
		}
		if message = append(message, payload...); len(message) > fuzzMessage {
			return texts
		}
		if final {
			if kind == 1 {
				texts = append(texts, string(message))
			}
			kind = 0
		}
	}
	return texts
}

// S4: whatever a server sends after its hello, and in whatever pieces: the frames
// that come out are those that RFC 6455 finds in it, and the socket ends with an
// *Error and leaves nothing.
func FuzzSocket(f *testing.F) {
	frame := func(first byte, payload string) []byte {
		return append([]byte{first, 126, byte(len(payload) >> 8), byte(len(payload))}, payload...)
	}
	for _, message := range hostile {
		f.Add(text0(message[:min(len(message), fuzzMessage)]), 7)
	}
	f.Add(slices.Concat(text0(`{"type":"a"}`), text0(`{"error":{"code":40}}`), []byte{0x88, 2, 3, 0xe8}), 1)
	f.Add(slices.Concat([]byte{0x01, 1, '{'}, []byte{0x89, 0}, []byte{0x80, 1, '}'}), 100)
	f.Add([]byte{0x81, 127, 0x40, 0, 0, 0, 0, 0, 0, 0}, 3) // 2^62
	f.Add([]byte{0x81, 127, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, 100)
	f.Add([]byte{0x81, 0x81, 1, 2, 3, 4, 5}, 100) // masked
	f.Add([]byte{0xc1, 1, 'x'}, 100)              // compressed
	f.Add(frame(0x88, "\x03\xe8\xff\xfe"), 100)
	f.Add([]byte{0x88, 1, 3}, 100)
	f.Add([]byte{0x09, 0}, 100)
	f.Add(bytes.Repeat([]byte{0x00, 1, 'x'}, 100), 100)
	f.Add(frame(0x82, "binary"), 4)
	f.Fuzz(func(t *testing.T, data []byte, piece int) {
		s, frames, e := dialScript(t, script(piece&0x3fff, func(request string) []byte {
			return slices.Concat(accept(request, ""), text0(hello), data)
		}))
		if s == nil {
			t.Fatalf("the dial failed: %v", e)
		}
		var want []string
		told := false
		for _, message := range decoded(data) {
			envelope, ok := parse([]byte(message))
			kind := object.Text(envelope.typ)
			if ok && envelope.isError(kind) {
				told = true
				break
			}
			if ok && string(kind) != healthCheck {
				want = append(want, message)
			}
		}
		if !slices.Equal(frames, want) {
			t.Errorf("got %d frames %.300q, want %d %.300q; ended by %v", len(frames), frames, len(want), want, e)
		}
		if told != (e.Kind == Told) || e.Phase != "open" {
			t.Errorf("told %t, ended by %v", told, e)
		}
	})
}

// S2, S4: whatever answers the upgrade, there is an *Error or a socket, and an
// answer that is not RFC 6455's gets no socket.
func FuzzUpgrade(f *testing.F) {
	for _, answer := range []string{
		"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ACCEPT\r\n\r\n",
		"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ACCEPT\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n",
		"HTTP/1.1 401 Unauthorized\r\nContent-Length: 11\r\n\r\n{\"code\":40}",
		"HTTP/1.1 503 No\r\nRetry-After: 7\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
		"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n<html>", "HTTP/1.0 200 OK\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "",
	} {
		f.Add([]byte(answer), 1000)
	}
	f.Fuzz(func(t *testing.T, data []byte, piece int) {
		agreed := false
		s, _, e := dialScript(t, script(piece&0x3fff, func(request string) []byte {
			good := accept(request, "")
			_, key, _ := bytes.Cut(good, []byte("Accept: "))
			key, _, _ = bytes.Cut(key, []byte("\r\n"))
			agreed = bytes.Contains(data, []byte("ACCEPT"))
			answer := bytes.ReplaceAll(data, []byte("ACCEPT"), key)
			return slices.Concat(answer, text0(hello))
		}))
		if s != nil && (!agreed || !bytes.HasPrefix(data, []byte("HTTP/1.")) || bytes.HasPrefix(data, []byte("HTTP/1.0"))) {
			t.Errorf("a socket came of %.300q; ended by %v", data, e)
		}
		if e.RetryAfter < 0 || e.Status < 0 || e.Status != 0 && e.Kind != Refused {
			t.Errorf("ended by %#v", e)
		}
	})
}

// E1: of an error body there come code, status, message and unrecoverable by their
// exact keys, as another decoder reads them, or its first bytes.
func FuzzRefusal(f *testing.F) {
	for _, body := range []string{
		`{"code":40,"message":"m","StatusCode":401,"unrecoverable":true,"details":[1],"x":{}}`, `{"code":0}`, `{"code":-1}`, `{"code":1,"code":40}`,
		`{"code":1,"code":null}`, `{"code":7,"message":5,"StatusCode":"401","unrecoverable":"yes"}`, `{"Code":7}`, `{"code":7.5}`, `{"code":1e999}`,
		`{"\u0063ode":9}`, `{"code":7} x`, "\xff", "null", "[]", `{"code":5,"message":"` + secretToken + `"}`, `{"code":5,"message":"\u001b[2J\r\n"}`,
		strings.Repeat("[", 10_000),
	} {
		f.Add([]byte(body), 401)
	}
	f.Fuzz(func(t *testing.T, body []byte, status int) {
		if status = 200 + (status&0x7fffffff)%400; status == 204 || status == 304 || len(body) > maxErrorBody {
			return
		}
		_, _, e := dialScript(t, script(1<<20, func(string) []byte {
			return append(fmt.Appendf(nil, "HTTP/1.1 %d Status\r\nContent-Length: %d\r\n\r\n", status, len(body)), body...)
		}))
		if e.Kind != Refused || e.Phase != "upgrade" || e.Status != status {
			t.Fatalf("ended by %v", e)
		}
		code, found := codeIn(body)
		switch {
		case (e.Refusal != nil) != found || found && int64(e.Refusal.Code) != code:
			t.Errorf("refusal %+v, want code %d, %t of %q", e.Refusal, code, found, body)
		case e.Refusal != nil && e.Body != "":
			t.Errorf("refusal and body: %v", e)
		}
	})
}

// codeIn reads the last code of an object token by token.
func codeIn(body []byte) (code int64, ok bool) {
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	if first, err := d.Token(); err != nil || first != json.Delim('{') || !json.Valid(body) {
		return 0, false
	}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return 0, false
		}
		var value any
		if d.Decode(&value) != nil {
			return 0, false
		}
		if key == "code" {
			number, _ := value.(json.Number)
			n, err := number.Int64()
			code, ok = n, err == nil
		}
	}
	return code, ok
}

// R1: Retry-After is a time from now on, however it is written.
func FuzzRetryAfter(f *testing.F) {
	for _, v := range []string{"7", "-7", "9000000000000000000", "1e300", "soon", "", " 7", "+7", "0x10", "Sat, 01 Jan 2000 00:00:30 GMT", "Fri, 31 Dec 9999 23:59:59 GMT"} {
		f.Add(v, "Sat, 01 Jan 2000 00:00:00 GMT")
		f.Add(v, "")
	}
	f.Add("Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994")
	f.Fuzz(func(t *testing.T, value, date string) {
		const most = 365 * 24 * time.Hour
		got := retryAfter(http.Header{"Retry-After": {value}, "Date": {date}})
		if got < 0 || got > most {
			t.Fatalf("%v from %q at %q", got, value, date)
		}
		at, err := http.ParseTime(value)
		now, err2 := http.ParseTime(date)
		switch {
		case value != "" && len(value) < 10 && strings.Trim(value, "0123456789") == "":
			var want time.Duration
			for _, c := range value {
				want = want*10 + time.Duration(c-'0')*time.Second
			}
			if got != min(want, most) {
				t.Errorf("%v from %q", got, value)
			}
		case err == nil && err2 == nil:
			if want := min(max(at.Sub(now), 0), most); got != want {
				t.Errorf("%v from %q at %q, want %v", got, value, date, want)
			}
		case err != nil && strings.Trim(value, "+-0123456789") != "" && got != 0:
			t.Errorf("%v from %q", got, value)
		}
	})
}
