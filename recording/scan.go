package recording

import (
	"bytes"
	"strconv"

	"github.com/chatconn/chatconn/fsm"
)

// scan reads a line exactly as Append writes it, by which nearly all are, and far
// sooner than JSON in general can be read. What is otherwise in any byte, or names
// what the table does not, is left to decode.
func scan(text []byte) (l Line, ok bool) {
	s := scanner{rest: text, fits: true}
	l.Seq = s.number(`{"seq":`)
	at := s.word(`,"time":"`)
	l.From = lookUp(&s, states, s.word(`,"from":"`))
	l.Event = lookUp(&s, events, s.word(`,"event":"`))
	l.Verdict = lookUp(&s, verdicts, s.word(`,"verdict":"`))
	l.To = lookUp(&s, states, s.word(`,"to":"`))
	s.skip(`,"actions":[`)
	if !s.fits {
		return Line{}, false
	}
	l.Actions = doneBy(l.From, l.Event, l.Verdict)
	for i, a := range l.Actions {
		if i > 0 {
			s.skip(`,`)
		}
		s.fits = s.fits && string(s.word(`"`)) == a.String()
	}
	s.skip(`]`)
	if s.at(`,"cause":`) {
		l.Cause = string(s.word(`,"cause":"`))
	}
	if s.at(`,"attempt":`) {
		l.Attempt = int(s.number(`,"attempt":`))
	}
	l.Conn = string(s.word(`,"conn":"`))
	l.Table = TableHash()
	s.fits = s.fits && string(s.word(`,"table":"`)) == l.Table && l.Conn != ""
	if !s.fits || l.Time.UnmarshalText(at) != nil {
		return Line{}, false
	}
	var room [512]byte
	again := l.Append(room[:0])
	return l, bytes.Equal(again[:len(again)-1], text)
}

// scanner takes a line apart from its beginning. After the first thing that is not
// as expected it takes nothing.
type scanner struct {
	rest []byte
	fits bool
}

func (s *scanner) at(text string) bool {
	return s.fits && len(s.rest) >= len(text) && string(s.rest[:len(text)]) == text
}

func (s *scanner) skip(text string) {
	if s.fits = s.at(text); s.fits {
		s.rest = s.rest[len(text):]
	}
}

// word takes what stands between some text, which ends in a quote, and the next quote.
func (s *scanner) word(after string) []byte {
	s.skip(after)
	end := bytes.IndexByte(s.rest, '"')
	if !s.fits || end < 0 {
		s.fits = false
		return nil
	}
	word := s.rest[:end]
	s.rest = s.rest[end+1:]
	return word
}

// number takes the digits behind some text.
func (s *scanner) number(after string) uint64 {
	s.skip(after)
	end := 0
	for end < len(s.rest) && s.rest[end] >= '0' && s.rest[end] <= '9' {
		end++
	}
	n, err := strconv.ParseUint(string(s.rest[:end]), 10, 63)
	s.fits = s.fits && err == nil
	s.rest = s.rest[end:]
	return n
}

func lookUp[T fsm.State | fsm.Event | fsm.Verdict](s *scanner, names map[string]T, name []byte) T {
	v, known := names[string(name)]
	s.fits = s.fits && known
	return v
}
