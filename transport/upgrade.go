package transport

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strings"

	"github.com/gorilla/websocket"
)

// This file is the only one that knows gorilla/websocket, which opens the
// WebSocket, and the place where its traps are fenced in.

var (
	errUnoffered = errors.New("the peer chose an extension or a subprotocol that was not offered")
	errAccept    = errors.New("the answer to the upgrade does not match the request")
)

// upgrade asks for a WebSocket on a wire, which carries frames from then on. It does
// not close the wire. The answer is nil if none came that is HTTP; its body must not
// be used, see [wire.reread].
func upgrade(w *wire, url string, header http.Header) (*http.Response, error) {
	take := func(context.Context, string, string) (net.Conn, error) { return w, nil }
	dialer := websocket.Dialer{
		// The wire is dialled and TLS is done: gorilla's own dial obeys a context's
		// deadline but not its cancel, and its proxy code panics on a status without
		// a reason. Whoever made the wire closes it when the context ends, which is
		// why no HandshakeTimeout is needed.
		NetDialContext:    take,
		NetDialTLSContext: take,
		ReadBufferSize:    1 << 10, // the answer's; nothing is read through it later
		WriteBufferPool:   noBuffers{},
	}
	_, answer, err := dialer.DialContext(context.Background(), url, header)
	switch {
	case answer == nil || answer.StatusCode != http.StatusSwitchingProtocols:
	case chosen(answer, "Sec-Websocket-Extensions") || chosen(answer, "Sec-Websocket-Protocol"):
		// gorilla would decompress, whether it had offered to or not.
		err = errUnoffered
	case errors.Is(err, websocket.ErrBadHandshake), answer.ProtoMajor != 1 || answer.ProtoMinor == 0: // gorilla takes HTTP/0.0
		err = errAccept
	}
	if err == nil {
		w.handshake = nil
	}
	return answer, err
}

// noBuffers keeps gorilla from making a buffer for writing, which it does not do here.
type noBuffers struct{}

func (noBuffers) Get() any { return nil }
func (noBuffers) Put(any)  {}

// chosen reports whether any of the headers of that name says something: gorilla
// reads them all.
func chosen(answer *http.Response, header string) bool {
	return strings.Join(answer.Header.Values(header), "") != ""
}
