package transport

import "github.com/chatconn/chatconn/internal/object"

// Frame is one text message. Its slices are valid only until receive returns;
// the buffer behind them is used again.
//
// Type, CID and CreatedAt are the values of the top-level keys type, cid and
// created_at, unescaped; UserID is user.id or, without that, user_id. Each is
// empty if it is missing or no string. Raw is the whole object. Keys count in
// their exact case, and of a key that comes twice the last one counts, as in
// encoding/json.
//
// Raw is an object whose structure was checked in full. Inside strings nothing
// was: a wrong escape or invalid UTF-8 there is for the decoder of the event to
// find.
type Frame struct {
	Type, CID, UserID, CreatedAt, Raw []byte
}

// envelope holds the values of the top-level keys by which messages are sorted: raw
// JSON, nil if absent.
type envelope struct {
	typ, cid, userID, createdAt, user, err []byte
}

// frame makes what receive gets of an envelope.
func (e *envelope) frame(raw []byte) Frame {
	f := Frame{Type: object.Text(e.typ), CID: object.Text(e.cid), CreatedAt: object.Text(e.createdAt), Raw: raw}
	var id []byte
	object.Members(e.user, func(key, value []byte) {
		if string(key) == "id" {
			id = value
		}
	})
	if f.UserID = object.Text(id); len(f.UserID) == 0 {
		f.UserID = object.Text(e.userID)
	}
	return f
}

// parse makes e the envelope of a message. It reports false if the message is not
// exactly one well-formed JSON object of at most object.MaxDepth levels. Specification: S4.
func (e *envelope) parse(b []byte) (ok bool) {
	*e = envelope{}
	return object.Members(b, func(key, value []byte) {
		switch string(key) {
		case "type":
			e.typ = value
		case "cid":
			e.cid = value
		case "user_id":
			e.userID = value
		case "created_at":
			e.createdAt = value
		case "user":
			e.user = value
		case "error":
			e.err = value
		}
	})
}
