package transport

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
)

const (
	maxHandshake = 64 << 10 // bytes of the answer to an upgrade, headers included (S2)
	maxErrorBody = 64 << 10 // bytes of the body of a refusal (S2)
)

var errHandshakeTooLong = errors.New("the answer to the upgrade is longer than 64 KiB")

// wire is the byte stream under a WebSocket.
type wire struct {
	net.Conn // plain or TLS
	// raw is the connection that was dialled, Conn itself or what is below TLS.
	// Closing it ends every read and write at once; closing a tls.Conn may take
	// five seconds.
	raw       net.Conn
	handshake *handshake // nil once the upgrade is done
	failed    error      // the first error of Read; the reader's
}

// handshake is kept until the upgrade is done.
type handshake struct {
	left int          // bytes that may still come
	head bytes.Buffer // bytes that came
}

func newWire(conn, raw net.Conn) *wire {
	return &wire{Conn: conn, raw: raw, handshake: &handshake{left: maxHandshake}}
}

func (w *wire) Read(p []byte) (int, error) {
	h := w.handshake
	if h != nil {
		if h.left == 0 {
			return 0, errHandshakeTooLong
		}
		p = p[:min(len(p), h.left)]
	}
	n, err := w.Conn.Read(p)
	if h != nil {
		h.left -= n
		h.head.Write(p[:n])
	}
	if err != nil && w.failed == nil {
		w.failed = err
	}
	return n, err
}

// Close closes the raw connection, but only after the upgrade: gorilla closes on
// a refusal that is not read yet.
func (w *wire) Close() error {
	if w.handshake != nil {
		return nil
	}
	return w.raw.Close()
}

// reread returns the body of the answer to a failed upgrade, as far as it can be
// had, up to its cap. gorilla leaves a kilobyte of it, too little for an error
// with a long message.
func (w *wire) reread() []byte {
	seen := bytes.Clone(w.handshake.head.Bytes())
	w.handshake.left += maxErrorBody
	answer, err := http.ReadResponse(bufio.NewReader(io.MultiReader(bytes.NewReader(seen), w)), nil)
	if err != nil {
		return nil
	}
	body, _ := io.ReadAll(io.LimitReader(answer.Body, maxErrorBody))
	return body
}
