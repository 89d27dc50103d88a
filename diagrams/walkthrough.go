package diagrams

import (
	"fmt"
	"strings"
)

// StateMarkdown returns what one state makes of every event, in Markdown: a table
// of the moves, then what is done in place, then what is ignored, each with its
// reason; and below it, by their reasons, the events that cannot happen there. It
// is empty for a state that the table does not have.
func StateMarkdown(t Table, state string) string {
	var b strings.Builder
	cells := t.cells()
	var rows int
	for _, verdict := range []string{Move, Stay, Ignore} {
		for _, e := range t.Events {
			c := cells[Place{state, e.Name}]
			if c.Verdict != verdict {
				continue
			}
			if rows++; rows == 1 {
				b.WriteString("| event | cause | outcome | why |\n| --- | --- | --- | --- |\n")
			}
			fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", markdownText(e.Name), markdownText(e.Kind), outcome(c), markdownText(c.Reason))
		}
	}
	var reasons []string
	refused := make(map[string][]string)
	for _, e := range t.Events {
		if c := cells[Place{state, e.Name}]; c.Verdict == Refuse {
			if refused[c.Reason] == nil {
				reasons = append(reasons, c.Reason)
			}
			refused[c.Reason] = append(refused[c.Reason], markdownText(e.Name))
		}
	}
	if len(reasons) > 0 {
		if rows > 0 {
			b.WriteByte('\n')
		}
		b.WriteString("Cannot happen here:\n\n")
		for _, r := range reasons {
			fmt.Fprintf(&b, "- %s: %s\n", strings.Join(refused[r], ", "), markdownText(r))
		}
	}
	return b.String()
}
