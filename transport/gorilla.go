package transport

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

// This file is the only one that knows gorilla/websocket, and the place where
// its traps are fenced in.

const (
	// readBuffer is what an idle connection keeps for reading, which counts ten
	// thousand times. Most events fit, and the rest of a longer one is read past it.
	readBuffer = 2 << 10
	// writeBuffer takes a health check, the longest that a socket sends, whole.
	// It is borrowed for the write.
	writeBuffer = 1 << 10
	// messageBuffer is where a message is read. It is borrowed while the message
	// is read and received, and grows with the message.
	messageBuffer = 4 << 10
	// maxPooledBuffer keeps one long message from occupying the pool for good.
	maxPooledBuffer = 64 << 10

	abnormal = websocket.CloseAbnormalClosure
)

var (
	errOversize  = errors.New("longer than MaxMessageBytes")
	errUnoffered = errors.New("the peer chose an extension or a subprotocol that was not offered")
	errAccept    = errors.New("the answer to the upgrade does not match the request")

	writeBuffers   sync.Pool
	messageBuffers = sync.Pool{New: func() any { b := make([]byte, 0, messageBuffer); return &b }}
)

// link is a WebSocket connection with the errors and the habits that the socket
// expects. One goroutine at a time may read and one may write.
type link struct {
	ws   *websocket.Conn
	wire *wire
}

// upgrade asks for a WebSocket on a wire. It does not close the wire. The answer
// is nil if none came that is HTTP; its body must not be used, see [wire.reread].
func upgrade(w *wire, url string, header http.Header) (link, *http.Response, error) {
	take := func(context.Context, string, string) (net.Conn, error) { return w, nil }
	dialer := websocket.Dialer{
		// The wire is dialled and TLS is done: gorilla's own dial obeys a context's
		// deadline but not its cancel, and its proxy code panics on a status without
		// a reason. Whoever made the wire closes it when the context ends, which is
		// why no HandshakeTimeout is needed.
		NetDialContext:    take,
		NetDialTLSContext: take,
		ReadBufferSize:    readBuffer,
		WriteBufferSize:   writeBuffer,
		WriteBufferPool:   &writeBuffers,
	}
	ws, answer, err := dialer.DialContext(context.Background(), url, header)
	switch {
	case answer == nil || answer.StatusCode != http.StatusSwitchingProtocols:
	case chosen(answer, "Sec-Websocket-Extensions") || chosen(answer, "Sec-Websocket-Protocol"):
		// gorilla would decompress, whether it had offered to or not.
		err = errUnoffered
	case errors.Is(err, websocket.ErrBadHandshake):
		err = errAccept
	}
	if err != nil {
		return link{}, answer, err
	}
	w.handshake = nil
	return link{ws, w}, answer, nil
}

// chosen reports whether any of the headers of that name says something: gorilla
// reads them all.
func chosen(answer *http.Response, header string) bool {
	return strings.Join(answer.Header.Values(header), "") != ""
}

// onControl has f called, on the reading goroutine, with every ping and, with
// ping false, every pong. gorilla's own handler writes the answer from there and
// would stall behind a stuck writer.
func (l link) onControl(f func(ping bool, data string)) {
	l.ws.SetPingHandler(func(data string) error { f(true, data); return nil })
	l.ws.SetPongHandler(func(data string) error { f(false, data); return nil })
}

// next reads one message into a borrowed buffer, to be given back with
// [giveBack]. No buffer is held while it waits for the message to begin.
// The first error is the last: gorilla panics on those who read on.
func (l link) next(max int64) (message *[]byte, text bool, err error) {
	kind, r, err := l.ws.NextReader()
	if err != nil {
		return nil, false, l.readError(err)
	}
	message = messageBuffers.Get().(*[]byte)
	b := (*message)[:0]
	for err == nil && int64(len(b)) <= max {
		if len(b) == cap(b) {
			b = append(b, 0)[:len(b)]
		}
		var n int
		n, err = r.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
	}
	*message = b
	switch {
	case int64(len(b)) > max:
		// The cap is for what comes out; gorilla's own limit counts what goes in.
		giveBack(message)
		return nil, false, errOversize
	case err != io.EOF:
		giveBack(message)
		return nil, false, l.readError(err)
	}
	return message, kind == websocket.TextMessage, nil
}

func giveBack(message *[]byte) {
	if cap(*message) <= maxPooledBuffer {
		messageBuffers.Put(message)
	}
}

// readError returns the error of the wire, if that is what err stands for: gorilla
// turns some into text, in which no cause can be found.
func (l link) readError(err error) error {
	if code, _ := closed(err); code == 0 && l.wire.failed != nil {
		return l.wire.failed
	}
	return err
}

// closed returns code and reason of the close frame that err stands for; 1006 for
// the end of the stream, 0 for other errors.
func closed(err error) (code int, reason string) {
	var ce *websocket.CloseError
	if !errors.As(err, &ce) {
		return 0, ""
	}
	return ce.Code, ce.Text
}

func (l link) writeText(message []byte, deadline time.Time) error {
	// Without a deadline, a write to a peer that has stopped reading never ends.
	_ = l.ws.SetWriteDeadline(deadline)
	return writeError(l.ws.WriteMessage(websocket.TextMessage, message))
}

func (l link) writePong(data string, deadline time.Time) error {
	return writeError(l.ws.WriteControl(websocket.PongMessage, []byte(data), deadline))
}

// writeClose sends the close frame; gorilla's Close would not.
func (l link) writeClose(deadline time.Time) error {
	return l.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), deadline)
}

// writeError makes a write that was late recognisable: gorilla keeps only the text.
func writeError(err error) error {
	var network net.Error
	if errors.As(err, &network) && network.Timeout() {
		return os.ErrDeadlineExceeded
	}
	return err
}
