package recording

import (
	"time"

	"github.com/chatconn/chatconn/fsm"
)

// Summary counts what happened in a recording. The zero value is ready; give it
// every [Step] of a replay. It is not safe for concurrent use.
type Summary struct {
	Transitions int
	Attempts    int // dials
	Failed      int // dials that ended without a socket
	Loads       int // calls of the token source
	Drops       int // open sockets lost
	First, Last time.Time

	conns map[string]last
	in    map[fsm.State]time.Duration
}

// last is where and when a connection was seen.
type last struct {
	state fsm.State
	at    time.Time
}

// Add counts one step.
func (s *Summary) Add(step Step) {
	if s.conns == nil {
		s.conns, s.in = make(map[string]last), make(map[fsm.State]time.Duration)
	}
	if s.Transitions == 0 || step.Time.Before(s.First) {
		s.First = step.Time
	}
	if s.Transitions == 0 || step.Time.After(s.Last) {
		s.Last = step.Time
	}
	s.Transitions++
	now := last{step.To, step.Time}
	if before, ok := s.conns[step.Conn]; ok {
		if d := step.Time.Sub(before.at); d >= 0 {
			s.in[before.state] += d
		} else {
			now.at = before.at // the wall clock was set back: no time passes twice
		}
	}
	s.conns[step.Conn] = now
	s.Attempts += count(step.Dials())
	s.Failed += count(step.Fails())
	s.Loads += count(step.Loads)
	s.Drops += count(step.Drops())
}

// Conns returns the number of connections.
func (s *Summary) Conns() int { return len(s.conns) }

// In returns how long connections were in a state, all together, from the first
// transition of each to its last.
func (s *Summary) In(state fsm.State) time.Duration { return s.in[state] }

func count(b bool) int {
	if b {
		return 1
	}
	return 0
}
