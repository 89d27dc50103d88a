// Package object finds the members of a JSON object without decoding the rest: keys
// in their exact case, repeated ones included, which encoding/json offers for no type,
// and at a fraction of its time. It allocates only for strings with escapes.
package object

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"math/bits"
	"unicode/utf8"
)

// MaxDepth is how deep objects and arrays may be nested.
const MaxDepth = 1024

// Members calls visit with each key, unescaped, and raw value of an object, in order.
// It reports false if b is not exactly one well-formed object of at most MaxDepth
// levels; visit may have been called by then. Inside strings nothing is checked: a
// wrong escape or invalid UTF-8 there is for a decoder to find.
func Members(b []byte, visit func(key, value []byte)) bool {
	i := space(b, 0)
	if i == len(b) || b[i] != '{' {
		return false
	}
	if i = space(b, i+1); i < len(b) && b[i] == '}' {
		return space(b, i+1) == len(b)
	}
	for {
		start := i
		var escaped bool
		if i, escaped = skipString(b, i); i < 0 {
			return false
		}
		key := b[start+1 : i-1]
		if escaped {
			key = Text(b[start:i])
		}
		if i = space(b, i); i == len(b) || b[i] != ':' {
			return false
		}
		start = space(b, i+1)
		if i = skip(b, start); i < 0 {
			return false
		}
		visit(key, b[start:i])
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
func skip(b []byte, i int) int {
	if i < len(b) && (b[i] == '{' || b[i] == '[') {
		return skipContainer(b, i)
	}
	return skipScalar(b, i)
}

// skipContainer keeps no stack of calls: a message cannot make the goroutine's
// stack grow.
func skipContainer(b []byte, i int) int {
	var (
		objects [MaxDepth / 64]uint64 // a bit for each open container: whether it is an object
		depth   int                   // how many are open, besides the message itself
		inside  bool                  // whether the innermost is an object
	)
	for {
		// A value begins at b[i].
		if i < len(b) && (b[i] == '{' || b[i] == '[') {
			if depth == MaxDepth-1 {
				return -1
			}
			end := b[i] + 2 // '}' is '{'+2, ']' is '['+2
			if inside = end == '}'; inside {
				objects[depth/64] |= 1 << (depth % 64)
			} else {
				objects[depth/64] &^= 1 << (depth % 64)
			}
			depth++
			if i = space(b, i+1); i == len(b) {
				return -1
			}
			if b[i] != end {
				if inside {
					i = skipKey(b, i)
				}
				if i < 0 {
					return -1
				}
				continue
			}
		} else if i = skipScalar(b, i); i < 0 {
			return -1
		}
		// A value has ended before b[i], or an empty container ends there.
		for {
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
			if depth--; depth == 0 {
				return i
			}
			inside = objects[(depth-1)/64]>>((depth-1)%64)&1 == 1
		}
	}
}

func skipScalar(b []byte, i int) int {
	if i == len(b) {
		return -1
	}
	switch b[i] {
	case '"':
		i, _ = skipString(b, i)
		return i
	case 't':
		return skipWord(b, i, "true")
	case 'f':
		return skipWord(b, i, "false")
	case 'n':
		return skipWord(b, i, "null")
	}
	return skipNumber(b, i)
}

// skipKey returns the beginning of the value whose key begins at b[i], or -1.
func skipKey(b []byte, i int) int {
	if i, _ = skipString(b, i); i < 0 {
		return -1
	}
	if i = space(b, i); i == len(b) || b[i] != ':' {
		return -1
	}
	return space(b, i+1)
}

// skipString returns the end of the string that begins at b[i], or -1, and whether
// there are escapes in it.
func skipString(b []byte, i int) (end int, escaped bool) {
	if i >= len(b) || b[i] != '"' {
		return -1, false
	}
	i++
	for short := i + 32; i+8 <= len(b) && i < short; i += 8 {
		word := binary.LittleEndian.Uint64(b[i:])
		found := equal(word, '"') | equal(word, '\\')
		if found == 0 {
			continue
		}
		i += bits.TrailingZeros64(found) / 8
		if b[i] == '"' {
			return i + 1, false
		}
		break
	}
	return skipLong(b, i)
}

// skipLong does so for a string whose inside goes on at b[i].
func skipLong(b []byte, i int) (end int, escaped bool) {
	quote := -1 // the next one, escaped or not; what was searched is not searched again
	for {
		if quote < i {
			n := bytes.IndexByte(b[i:], '"')
			if n < 0 {
				return -1, false
			}
			quote = i + n
		}
		escape := bytes.IndexByte(b[i:quote], '\\')
		if escape < 0 {
			return quote + 1, escaped
		}
		escaped = true
		if i += escape + 2; i > len(b) { // whatever is escaped does not end the string
			return -1, false
		}
	}
}

// Eight bytes at a time: strings are most of a message, and most are short.
const (
	ones = 0x0101010101010101
	tops = 0x8080808080808080
)

// equal sets the top bit of each byte of word that is c. Above the first it may
// set others, too.
func equal(word uint64, c byte) uint64 { return less(word^ones*uint64(c), 1) }

// less does so for each byte below n, which is at most 128.
func less(word uint64, n byte) uint64 { return (word - ones*uint64(n)) &^ word & tops }

// plain reports whether the inside of a string stands for itself: ASCII without
// control characters and escapes.
func plain(b []byte) bool {
	for ; len(b) >= 8; b = b[8:] {
		word := binary.LittleEndian.Uint64(b)
		if word&tops|less(word, ' ')|equal(word, '\\') != 0 {
			return false
		}
	}
	for _, c := range b {
		if c < ' ' || c >= utf8.RuneSelf || c == '\\' {
			return false
		}
	}
	return true
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
	for i < len(b) && b[i] <= ' ' && (b[i] == ' ' || b[i] == '\n' || b[i] == '\t' || b[i] == '\r') {
		i++
	}
	return i
}

// Text returns what a raw JSON string says, as encoding/json reads it; nil for
// anything else. Only a string that is not plain is copied.
func Text(raw []byte) []byte {
	if len(raw) < 2 || raw[0] != '"' {
		return nil
	}
	if inner := raw[1 : len(raw)-1]; plain(inner) {
		return inner
	}
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return nil
	}
	return []byte(s)
}

// AppendString appends a string as JSON. Most need no escapes, and then nothing is
// allocated where b has room.
func AppendString(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			quoted, _ := json.Marshal(s) // a string always has a form in JSON
			return append(b, quoted...)
		}
	}
	return append(append(append(b, '"'), s...), '"')
}
