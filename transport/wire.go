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

// wire is the byte stream under a WebSocket. It is read through while the upgrade
// lasts; frames are read from Conn.
type wire struct {
	net.Conn // plain or TLS
	// raw is the connection that was dialled, Conn itself or what is below TLS.
	// Closing it ends every read and write at once; closing a tls.Conn may take
	// five seconds.
	raw       net.Conn
	handshake *handshake // nil once the upgrade is done
	early     []byte     // frames that came together with the answer, for the link
	failed    error      // the first error of reading; the reader's
}

// handshake is kept until the upgrade is done.
type handshake struct {
	left int          // bytes that may still come
	head bytes.Buffer // bytes that came
	done bool         // the whole of an answer came that switches protocols
}

func newWire(conn, raw net.Conn) *wire {
	return &wire{Conn: conn, raw: raw, handshake: &handshake{left: maxHandshake}}
}

// Read reads the answer to the upgrade, and not a byte of what follows one that
// switches protocols: the reader of the answer would keep it.
func (w *wire) Read(p []byte) (int, error) {
	h := w.handshake
	switch {
	case h.done:
		return 0, io.EOF
	case h.left == 0:
		return 0, errHandshakeTooLong
	}
	n, err := w.Conn.Read(p[:min(len(p), h.left)])
	if err != nil && w.failed == nil {
		w.failed = err
	}
	h.left -= n
	before := h.head.Len()
	h.head.Write(p[:n])
	if end := h.end(before); end >= 0 {
		h.done = true
		w.early = append(w.early, h.head.Bytes()[end:]...)
		n = end - before
	}
	return n, err
}

// end returns where the answer ends, if it switches protocols and is whole; else -1.
// What lies before the given place was searched already. As in net/textproto, a
// line may end without a carriage return.
func (h *handshake) end(searched int) int {
	head := h.head.Bytes()
	if line, _, ok := bytes.Cut(head, []byte(" ")); !ok || !bytes.HasPrefix(head[len(line)+1:], []byte("101")) {
		return -1
	}
	for i := max(0, searched-2); i < len(head); i++ {
		if head[i] != '\n' {
			continue
		}
		if rest := head[i+1:]; bytes.HasPrefix(rest, []byte("\n")) {
			return i + 2
		} else if bytes.HasPrefix(rest, []byte("\r\n")) {
			return i + 3
		}
	}
	return -1
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
