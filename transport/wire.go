package transport

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
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

	// A busy wire reads more at once than gorilla's buffer takes. An idle one
	// holds nothing for that.
	busy  bool    // the last read filled all it was given: more is there already
	ahead *[]byte // borrowed; what was read and not taken yet is (*ahead)[from:]
	from  int
}

// readAhead is what a busy wire reads at once: sixteen events of 1 KiB.
const readAhead = 16 << 10

var aheadBuffers = sync.Pool{New: func() any { b := make([]byte, readAhead); return &b }}

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
	if h == nil && (w.busy || w.ahead != nil) {
		return w.readBusy(p)
	}
	n, err := w.Conn.Read(p)
	w.busy = h == nil && n == len(p)
	if h != nil {
		h.left -= n
		h.head.Write(p[:n])
	}
	if err != nil && w.failed == nil {
		w.failed = err
	}
	return n, err
}

// readBusy serves p from what was read ahead, and reads ahead if that is used up.
func (w *wire) readBusy(p []byte) (int, error) {
	if w.ahead == nil {
		buffer := aheadBuffers.Get().(*[]byte)
		n, err := w.Conn.Read((*buffer)[:readAhead])
		if err != nil && w.failed == nil {
			w.failed = err
		}
		w.busy = n == readAhead
		if n == 0 {
			aheadBuffers.Put(buffer)
			return 0, err
		}
		// An error that came with bytes comes again with the next read.
		*buffer = (*buffer)[:n]
		w.ahead, w.from = buffer, 0
	}
	n := copy(p, (*w.ahead)[w.from:])
	if w.from += n; w.from == len(*w.ahead) {
		*w.ahead = (*w.ahead)[:readAhead]
		aheadBuffers.Put(w.ahead)
		w.ahead = nil
	}
	return n, nil
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
