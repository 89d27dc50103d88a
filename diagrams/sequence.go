package diagrams

import (
	"fmt"
	"strings"
	"time"

	"github.com/chatconn/chatconn/fsm"
	"github.com/chatconn/chatconn/recording"
)

// Sequence draws a replayed recording as messages between the program, its
// connection, the token source and the server. It keeps the last steps only, so
// a recording may be of any length.
type Sequence struct {
	most  int
	steps []recording.Step // a ring once it is full
	seen  int
}

// NewSequence returns a drawing of the last steps, at most so many (at least one).
func NewSequence(most int) *Sequence { return &Sequence{most: max(most, 1)} }

// Add takes the next step of one connection.
func (s *Sequence) Add(step recording.Step) {
	if len(s.steps) < s.most {
		s.steps = append(s.steps, step)
	} else {
		s.steps[s.seen%s.most] = step
	}
	s.seen++
}

// shortest is the least time between two steps that the drawing mentions.
const shortest = 100 * time.Millisecond

// Mermaid returns a sequenceDiagram. Arrows that end in a cross are failures and
// sockets that close; a token that is cached does not come from the source.
func (s *Sequence) Mermaid() string {
	var b strings.Builder
	add := func(format string, args ...any) { fmt.Fprintf(&b, "    "+format+"\n", args...) }
	b.WriteString("sequenceDiagram\n")
	add("participant P as Program\n    participant C as Connection\n    participant T as Token source\n    participant S as Server")
	if left := s.seen - len(s.steps); left > 0 {
		add("Note over P,S: %d earlier steps are left out", left)
	}
	asked := true // the source, by the last load; where that is left out, it may have been
	for i := range s.steps {
		step := s.steps[(s.seen+i)%len(s.steps)]
		if i == 0 {
			add("Note over C: %v", step.From)
		} else if gap := step.Time.Sub(s.steps[(s.seen+i-1)%len(s.steps)].Time); gap >= shortest {
			add("Note over P,S: %s later", brief(gap))
		}
		add("%s: %s", arrowOf(step, asked), eventText(step))
		var within []string
		for _, a := range step.Actions {
			open := step.Facts.Has(fsm.SocketOpen)
			switch {
			case a == fsm.LoadToken && step.Loads:
				asked = true
				add("C->>T: LoadToken")
			case a == fsm.LoadToken:
				asked = false
				within = append(within, "LoadToken from the cache")
			case a == fsm.Dial:
				add("C->>S: Dial")
			case a == fsm.HangUp && open:
				add("C-xS: HangUp")
			case a == fsm.Probe && open:
				add("C->>S: Probe")
			case a == fsm.HangUp || a == fsm.Probe: // no socket is open
			case a == fsm.Settle:
				add("C-->>P: Settle")
			case a == fsm.Fail:
				add("C--xP: Fail")
			case a == fsm.Retry && step.Attempt > 0:
				within = append(within, fmt.Sprintf("Retry as attempt %d", step.Attempt))
			default:
				within = append(within, a.String())
			}
		}
		note := strings.Join(within, ", ")
		if step.From != step.To {
			note = strings.TrimSuffix(step.To.String()+"<br/>"+note, "<br/>")
		}
		if note != "" {
			add("Note over C: %s", note)
		}
	}
	return b.String()
}

// arrowOf is the arrow of an event: from who causes it to the connection.
func arrowOf(step recording.Step, asked bool) string {
	switch step.Event.Kind() {
	case fsm.Timer:
		return "C->>C"
	case fsm.Transport:
		if step.Event == fsm.Opened {
			return "S-->>C"
		}
		return "S--xC"
	case fsm.Token:
		switch {
		case step.Event == fsm.RequestRefused:
			return "S--xC"
		case step.Event == fsm.TokenFailed || step.Event == fsm.TokenDenied:
			return "T--xC"
		case asked:
			return "T-->>C"
		}
		return "C->>C"
	case fsm.User, fsm.Lifecycle, fsm.Network:
		return "P->>C"
	}
	panic("BUG: diagrams: nobody causes " + step.Event.String())
}

// eventText is an event with what is worth knowing about it.
func eventText(step recording.Step) string {
	text := step.Event.String()
	if step.Cause != "" && step.Cause != "call" {
		text += " (" + mermaidText(step.Cause) + ")"
	}
	if step.Verdict == fsm.Ignore {
		text += ", ignored"
	}
	return text
}
