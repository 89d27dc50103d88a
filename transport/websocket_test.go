package transport

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// pipe is the peer's side of a connection whose every byte is known: what it says
// comes in pieces of the given size, and what it is told is kept.
type pipe struct {
	net.Conn
	says  []byte
	piece int
	told  bytes.Buffer
}

func (p *pipe) Read(b []byte) (int, error) {
	if len(p.says) == 0 {
		return 0, io.EOF
	}
	n := copy(b[:min(len(b), p.piece)], p.says)
	p.says = p.says[n:]
	return n, nil
}

func (p *pipe) Write(b []byte) (int, error)      { return p.told.Write(b) }
func (p *pipe) Close() error                     { return nil }
func (p *pipe) SetDeadline(time.Time) error      { return nil }
func (p *pipe) SetWriteDeadline(time.Time) error { return nil }

// answering is a pipe that answers the upgrade before it says the rest.
type answering struct{ *pipe }

func (a answering) Read(b []byte) (int, error) {
	if request := a.told.String(); strings.HasSuffix(request, "\r\n\r\n") {
		a.told.Reset()
		a.says = append(accept(request, ""), a.says...)
	}
	return a.pipe.Read(b)
}

// heardMessage is a message, or a control frame, as a reader tells of it.
type heardMessage struct {
	kind byte
	data string
}

func readOurs(stream []byte, piece int, most int64) (all []heardMessage, err error) {
	var l link
	l.begin(&wire{Conn: &pipe{says: stream, piece: piece}}, func(ping bool, data []byte) {
		if ping {
			all = append(all, heardMessage{opPing, string(data)})
		}
	})
	defer l.giveBack()
	for {
		message, isText, err := l.next(most)
		if err != nil {
			return all, err
		}
		kind := byte(opBinary)
		if isText {
			kind = opText
		}
		all = append(all, heardMessage{kind, string(message)})
	}
}

func readGorilla(t *testing.T, stream []byte) (all []heardMessage, err error) {
	dialer := websocket.Dialer{NetDial: func(string, string) (net.Conn, error) { return answering{&pipe{says: stream, piece: 4096}}, nil }}
	ws, _, err := dialer.Dial("ws://host", nil)
	if err != nil {
		t.Fatal(err)
	}
	ws.SetPingHandler(func(data string) error { all = append(all, heardMessage{opPing, data}); return nil })
	for {
		kind, message, err := ws.ReadMessage()
		if err != nil {
			return all, err
		}
		all = append(all, heardMessage{byte(kind), string(message)})
	}
}

// checkLink compares our reader with gorilla's, its twin: the same messages, and the
// same kind of end, however the bytes are cut into reads.
func checkLink(t *testing.T, stream []byte) {
	const most = 1 << 20
	want, wantErr := readGorilla(t, stream)
	for _, piece := range []int{1, 3, 250, 1 << 20} {
		got, err := readOurs(bytes.Clone(stream), piece, most)
		if errors.Is(err, errOversize) {
			want = want[:min(len(got), len(want))] // gorilla reads on
		} else {
			checkEnd(t, err, wantErr)
		}
		if len(got) != len(want) {
			t.Fatalf("%x in pieces of %d: %d messages, want %d", stream, piece, len(got), len(want))
		}
		for i := range got {
			if got[i] != want[i] {
				t.Fatalf("%x in pieces of %d: message %d is %q, want %q", stream, piece, i, got[i], want[i])
			}
		}
	}
}

func checkEnd(t *testing.T, err, want error) {
	t.Helper()
	var (
		ours     *closeError
		violated protocolError
		theirs   *websocket.CloseError
	)
	isClose, wantClose := errors.As(err, &ours), errors.As(want, &theirs)
	switch {
	case errors.As(err, &violated):
		// gorilla takes a close frame of one byte for one without a code.
		if wantClose && !(violated == "a close code of one byte" && theirs.Code == noStatus) {
			t.Fatalf("ends with %v, want %v", err, want)
		}
	case isClose && ours.code == 1014: // which gorilla does not know
	case !isClose || !wantClose || ours.code != theirs.Code || ours.reason != theirs.Text && ours.code != abnormal:
		t.Fatalf("ends with %v, want %v", err, want)
	}
}

// frames of a server, as bytes.
func rawFrame(first byte, payload string) []byte {
	b := []byte{first, 0}
	switch n := len(payload); {
	case n <= 125:
		b[1] = byte(n)
	case n <= 0xffff:
		b[1] = 126
		b = binary.BigEndian.AppendUint16(b, uint16(n))
	default:
		b[1] = 127
		b = binary.BigEndian.AppendUint64(b, uint64(n))
	}
	return append(b, payload...)
}

func streams() map[string][]byte {
	long := strings.Repeat("abcdefghij", 10_000)
	join := func(frames ...[]byte) []byte { return bytes.Join(frames, nil) }
	return map[string][]byte{
		"nothing":                  nil,
		"text and binary":          join(rawFrame(0x81, `{"a":1}`), rawFrame(0x82, "\x00\xff"), rawFrame(0x81, "")),
		"lengths at the bounds":    join(rawFrame(0x81, long[:125]), rawFrame(0x81, long[:126]), rawFrame(0x81, long[:idleRead]), rawFrame(0x81, long[:busyRead]), rawFrame(0x81, long[:busyRead+1]), rawFrame(0x81, long[:0xffff]), rawFrame(0x81, long)),
		"fragments":                join(rawFrame(0x01, "one "), rawFrame(0x00, ""), rawFrame(0x89, "ping"), rawFrame(0x00, long), rawFrame(0x80, "end"), rawFrame(0x81, "next")),
		"fragments end empty":      join(rawFrame(0x01, "one"), rawFrame(0x80, "")),
		"a burst":                  bytes.Repeat(rawFrame(0x81, long[:1000]), 100),
		"pings and pongs":          join(rawFrame(0x89, "a"), rawFrame(0x8a, "b"), rawFrame(0x89, ""), rawFrame(0x81, "c")),
		"a length longer than due": join([]byte{0x81, 126, 0, 1, 'a', 0x81, 127, 0, 0, 0, 0, 0, 0, 0, 1, 'b'}),
		"close":                    join(rawFrame(0x88, "\x03\xe8bye"), rawFrame(0x81, "after")),
		"close without a code":     rawFrame(0x88, ""),
		"close with one byte":      rawFrame(0x88, "x"),
		"close with 1005":          rawFrame(0x88, "\x03\xed"),
		"close with 999":           rawFrame(0x88, "\x03\xe7"),
		"close with 3000":          rawFrame(0x88, "\x0b\xb8"),
		"close with 5000":          rawFrame(0x88, "\x13\x88"),
		"close not in UTF-8":       rawFrame(0x88, "\x03\xe8\xff"),
		"masked":                   {0x81, 0x81, 1, 2, 3, 4, 5},
		"reserved bits":            join(rawFrame(0x81, "a"), rawFrame(0xc1, "b")),
		"reserved opcode":          rawFrame(0x83, ""),
		"reserved control":         rawFrame(0x8b, ""),
		"long ping":                rawFrame(0x89, long[:126]),
		"ping in fragments":        rawFrame(0x09, "a"),
		"continuation of nothing":  rawFrame(0x80, "a"),
		"message in a message":     join(rawFrame(0x01, "a"), rawFrame(0x81, "b")),
		"cut in a header":          {0x81},
		"cut in a length":          {0x81, 127, 0, 0},
		"cut in a message":         {0x81, 5, 'a'},
		"a length of 2^63":         {0x81, 127, 0x80, 0, 0, 0, 0, 0, 0, 0},
		"a length of 2^62":         {0x81, 127, 0x40, 0, 0, 0, 0, 0, 0, 0, 'a'},
		"too long in fragments":    bytes.Repeat(rawFrame(0x01, long), 1),
	}
}

// S4: frames are read as RFC 6455 has them, and as gorilla reads them.
func TestFramesAreReadAsGorillaDoes(t *testing.T) {
	for name, stream := range streams() {
		t.Run(name, func(t *testing.T) { checkLink(t, stream) })
	}
}

// S4: the longest length that a header can name is not there, whatever MaxMessageBytes permits.
func TestLongestLengthWithoutALimit(t *testing.T) {
	var ended *closeError
	for _, first := range []byte{0x81, 0x01} {
		longest := []byte{first, 127, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 'a'}
		if all, err := readOurs(longest, 1<<20, math.MaxInt64); len(all) > 0 || !errors.As(err, &ended) || ended.code != abnormal {
			t.Errorf("%x: %d messages, %v", first, len(all), err)
		}
	}
}

// idler is a connection that reads nothing over and over.
type idler struct{ *pipe }

func (i idler) Read(b []byte) (int, error) {
	if len(i.says) == 0 {
		return 0, nil
	}
	return i.pipe.Read(b)
}

// S4: a connection of the program's own that brings neither bytes nor an error ends.
func TestEmptyReads(t *testing.T) {
	var l link
	l.begin(&wire{Conn: idler{&pipe{says: rawFrame(0x81, "a"), piece: 1}}}, func(bool, []byte) {})
	if message, _, err := l.next(1 << 20); string(message) != "a" || err != nil {
		t.Errorf("%q, %v", message, err)
	}
	if _, _, err := l.next(1 << 20); !errors.Is(err, io.ErrNoProgress) {
		t.Errorf("ends with %v", err)
	}
}

// Frames that a client writes are masked, whole, and what gorilla's server reads.
func TestWrittenFrames(t *testing.T) {
	for _, n := range []int{0, 1, 125, 126, 0xffff, 0x10000} {
		payload := bytes.Repeat([]byte("x"), n)
		to := &pipe{}
		l := link{wire: &wire{Conn: to}}
		if err := l.write(opBinary, payload, time.Time{}); err != nil {
			t.Fatal(err)
		}
		b := to.told.Bytes()
		if b[1]&maskBit == 0 || n > 1000 && bytes.Contains(b, payload[:100]) {
			t.Errorf("%d bytes are not masked", n)
		}
		key, masked := b[len(b)-n-4:len(b)-n], b[len(b)-n:]
		for i := range masked {
			masked[i] ^= key[i%4]
		}
		if !bytes.Equal(masked, payload) {
			t.Errorf("%d bytes come out as others", n)
		}
	}
}

// Frames that were read together are one sign of life; each ping is told of.
func TestSignsOfLife(t *testing.T) {
	text, ping := string(rawFrame(0x81, "{}")), string(rawFrame(0x89, "p"))
	part, rest := string(rawFrame(0x01, "{")), string(rawFrame(0x80, "}"))
	for _, test := range []struct {
		says        string
		piece, want int
	}{
		{text + text + text, 1 << 20, 1},
		{text + text + text, len(text), 3},
		{text + text + text, 1, 3},
		{text + text + text, len(text) + 1, 3},
		{text + ping + text + ping, 1 << 20, 3},
		{part + rest + text, 1 << 20, 1},
		{part + rest + text, len(part), 3},
	} {
		got := 0
		var l link
		l.begin(&wire{Conn: &pipe{says: []byte(test.says), piece: test.piece}}, func(bool, []byte) { got++ })
		var err error
		for err == nil {
			_, _, err = l.next(1 << 20)
		}
		if got != test.want {
			t.Errorf("%x in pieces of %d: %d signs of life, want %d", test.says, test.piece, got, test.want)
		}
		l.giveBack()
	}
}

// The answer to the upgrade and the frames behind it may come in any pieces.
func TestFramesBehindTheAnswer(t *testing.T) {
	hello := string(rawFrame(0x81, `{"type":"health.check","connection_id":"c1"}`))
	for _, piece := range []int{1, 2, 7, 1 << 20} {
		peer := answering{&pipe{says: []byte(hello), piece: piece}}
		w := newWire(peer, peer)
		if _, err := upgrade(w, "ws://host/connect", http.Header{}); err != nil {
			t.Fatal(err)
		}
		var l link
		l.begin(w, func(bool, []byte) {})
		message, _, err := l.next(1 << 20)
		if string(rawFrame(0x81, string(message))) != hello || err != nil {
			t.Errorf("in pieces of %d: %q, %v", piece, message, err)
		}
		if _, _, err := l.next(1 << 20); err == nil || w.early != nil {
			t.Errorf("in pieces of %d: %v, and %d bytes are left", piece, err, len(w.early))
		}
	}
}
