package transport

import (
	"bytes"
	"encoding/json"
	"unicode/utf8"
)

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

// maxDepth is how deep objects and arrays of a message may be nested.
const maxDepth = 1024

// envelope holds the values of the top-level keys that the transport knows: raw
// JSON, nil if absent.
type envelope struct {
	typ, cid, userID, createdAt, user, err, connectionID, me []byte
}

// frame makes what receive gets of an envelope.
func (e *envelope) frame(raw []byte) Frame {
	f := Frame{Type: text(e.typ), CID: text(e.cid), CreatedAt: text(e.createdAt), Raw: raw}
	var id []byte
	members(e.user, func(key, value []byte) {
		if string(key) == "id" {
			id = value
		}
	})
	if f.UserID = text(id); len(f.UserID) == 0 {
		f.UserID = text(e.userID)
	}
	return f
}

// parse finds the envelope of a message. It reports false if the message is not
// exactly one well-formed JSON object of at most maxDepth levels. Specification: S4.
func parse(b []byte) (e envelope, ok bool) {
	ok = members(b, func(key, value []byte) {
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
		case "connection_id":
			e.connectionID = value
		case "me":
			e.me = value
		}
	})
	return e, ok
}

// members calls visit with each key, unescaped, and raw value of an object, in
// order. It reports false if b is not exactly one well-formed object; visit may
// have been called by then.
func members(b []byte, visit func(key, value []byte)) bool {
	i := space(b, 0)
	if i == len(b) || b[i] != '{' {
		return false
	}
	if i = space(b, i+1); i < len(b) && b[i] == '}' {
		return space(b, i+1) == len(b)
	}
	for {
		start := i
		if i = skipString(b, i); i < 0 {
			return false
		}
		key := b[start:i]
		if i = space(b, i); i == len(b) || b[i] != ':' {
			return false
		}
		start = space(b, i+1)
		if i = skip(b, start); i < 0 {
			return false
		}
		visit(text(key), b[start:i])
		if i = space(b, i); i == len(b) {
			return false
		}
		switch b[i] {
		case ',':
			i = space(b, i+1)
		case '}':
			return space(b, i+1) == len(b)
		default:
			return false
		}
	}
}

// skip returns the end of the value that begins at b[i], or -1 if there is none.
// It keeps no stack of calls: a message cannot make the goroutine's stack grow.
func skip(b []byte, i int) int {
	var (
		objects [maxDepth / 64]uint64 // a bit for each open container: whether it is an object
		depth   int                   // how many are open, besides the message itself
		inside  bool                  // whether the innermost is an object
	)
	for {
		// A value begins at b[i].
		if i == len(b) {
			return -1
		}
		switch c := b[i]; c {
		case '"':
			i = skipString(b, i)
		case '{', '[':
			if depth == maxDepth-1 {
				return -1
			}
			if inside = c == '{'; inside {
				objects[depth/64] |= 1 << (depth % 64)
			} else {
				objects[depth/64] &^= 1 << (depth % 64)
			}
			depth++
			i = space(b, i+1)
			if i < len(b) && b[i] == c+2 { // empty: '}' is '{'+2, ']' is '['+2
				break
			}
			if inside {
				i = skipKey(b, i)
			}
			if i < 0 {
				return -1
			}
			continue
		case 't':
			i = skipWord(b, i, "true")
		case 'f':
			i = skipWord(b, i, "false")
		case 'n':
			i = skipWord(b, i, "null")
		default:
			i = skipNumber(b, i)
		}
		if i < 0 {
			return -1
		}
		// A value has ended before b[i], or an empty container ends at it.
		for {
			if depth == 0 {
				return i
			}
			if i = space(b, i); i == len(b) {
				return -1
			}
			if c := b[i]; c == ',' {
				i = space(b, i+1)
				if inside {
					i = skipKey(b, i)
				}
				if i < 0 {
					return -1
				}
				break
			} else if c != '}' && c != ']' || inside != (c == '}') {
				return -1
			}
			i++
			depth--
			inside = depth > 0 && objects[(depth-1)/64]>>((depth-1)%64)&1 == 1
		}
	}
}

// skipKey returns the beginning of the value whose key begins at b[i], or -1.
func skipKey(b []byte, i int) int {
	if i = skipString(b, i); i < 0 {
		return -1
	}
	if i = space(b, i); i == len(b) || b[i] != ':' {
		return -1
	}
	return space(b, i+1)
}

// skipString returns the end of the string that begins at b[i], or -1.
func skipString(b []byte, i int) int {
	if i >= len(b) || b[i] != '"' {
		return -1
	}
	for i++; ; {
		n := bytes.IndexByte(b[i:], '"')
		if n < 0 {
			return -1
		}
		i += n + 1
		// The quote counts unless an odd number of backslashes stands before it.
		// The opening quote ends the count.
		backslashes := 0
		for b[i-2-backslashes] == '\\' {
			backslashes++
		}
		if backslashes%2 == 0 {
			return i
		}
	}
}

func skipWord(b []byte, i int, word string) int {
	if end := i + len(word); end <= len(b) && string(b[i:end]) == word {
		return end
	}
	return -1
}

// skipNumber follows RFC 8259, section 6. The size of a number does not matter.
func skipNumber(b []byte, i int) int {
	if i < len(b) && b[i] == '-' {
		i++
	}
	if i < len(b) && b[i] == '0' {
		i++
	} else if i = digits(b, i); i < 0 {
		return -1
	}
	if i < len(b) && b[i] == '.' {
		if i = digits(b, i+1); i < 0 {
			return -1
		}
	}
	if i < len(b) && b[i]|0x20 == 'e' {
		if i++; i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		return digits(b, i)
	}
	return i
}

// digits returns the end of the one or more digits at b[i], or -1.
func digits(b []byte, i int) int {
	start := i
	for i < len(b) && b[i]-'0' <= 9 {
		i++
	}
	if i == start {
		return -1
	}
	return i
}

func space(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\t' || b[i] == '\r') {
		i++
	}
	return i
}

// text returns what a raw JSON string says, as encoding/json reads it; nil for
// anything else. Only a string with an escape or invalid UTF-8 is copied.
func text(raw []byte) []byte {
	if len(raw) < 2 || raw[0] != '"' {
		return nil
	}
	inner := raw[1 : len(raw)-1]
	ascii, plain := true, true
	for _, c := range inner {
		ascii = ascii && c < utf8.RuneSelf
		plain = plain && c >= ' ' && c != '\\'
	}
	if plain && (ascii || utf8.Valid(inner)) {
		return inner
	}
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return nil
	}
	return []byte(s)
}
