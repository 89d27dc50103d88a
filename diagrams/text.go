package diagrams

import (
	"encoding/json"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// JSON returns the table for programs: states, events, one cell for every state
// and event, and, where the machine has them, its facts and rules. Names stand
// as they are, with an escape for what cannot be seen; text that is not UTF-8 has
// U+FFFD in its place.
func JSON(t Table) ([]byte, error) {
	out := struct {
		States  []string `json:"states"`
		Events  []string `json:"events"`
		Cells   []Cell   `json:"cells"`
		Facts   []string `json:"facts,omitempty"`
		Qualify []Rule   `json:"qualify,omitempty"`
	}{States: append([]string{}, t.States...), Events: []string{}, Cells: []Cell{}, Facts: t.Facts}
	for _, e := range t.Events {
		out.Events = append(out.Events, e.Name)
	}
	for _, c := range t.Cells {
		c.Actions = append([]string{}, c.Actions...) // [], never null
		out.Cells = append(out.Cells, c)
	}
	for _, r := range t.Qualify {
		r.When = append([]string{}, r.When...)
		out.Qualify = append(out.Qualify, r)
	}
	b, err := json.MarshalIndent(out, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("diagrams: %w", err)
	}
	return append(escapeInvisible(b), '\n'), nil
}

// escapeInvisible writes everything in JSON that has no shape of its own, such as a
// mark that turns the direction of writing, as an escape. It can stand in strings
// only.
func escapeInvisible(b []byte) []byte {
	out := make([]byte, 0, len(b))
	for i := 0; i < len(b); {
		r, n := utf8.DecodeRune(b[i:])
		switch {
		case r == '\n' || unicode.IsPrint(r):
			out = append(out, b[i:i+n]...)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			out = fmt.Appendf(out, `\u%04x\u%04x`, high, low)
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
		i += n
	}
	return out
}

// Mermaid returns a stateDiagram-v2. Below the name of a state stand the events
// on which it acts and stays.
func Mermaid(t Table) string {
	var b strings.Builder
	ids := t.ids()
	stays, moves := t.arrows()
	label := func(events []EventInfo) string { return strings.Join(lines(events, mermaidText), "<br/>") }
	b.WriteString("stateDiagram-v2\n")
	for i, s := range t.States {
		fmt.Fprintf(&b, "    state \"%s\" as %s\n", mermaidText(s), ids[i])
		if len(stays[i]) > 0 {
			fmt.Fprintf(&b, "    %s : stays on<br/>%s\n", ids[i], label(stays[i]))
		}
	}
	if len(ids) > 0 {
		fmt.Fprintf(&b, "    [*] --> %s\n", ids[0])
	}
	for _, a := range moves {
		fmt.Fprintf(&b, "    %s --> %s : %s\n", ids[a.from], ids[a.to], label(a.events))
	}
	return b.String()
}

// mermaidText writes everything but letters, digits and spaces as an entity:
// Mermaid ends a label at a colon or a semicolon.
func mermaidText(s string) string {
	return escape(s, func(b *strings.Builder, r rune) {
		if r == ' ' || unicode.IsLetter(r) || unicode.IsDigit(r) || unicode.IsMark(r) {
			b.WriteRune(r)
		} else {
			fmt.Fprintf(b, "#%d;", r)
		}
	})
}

// DOT returns a directed graph for Graphviz. The colour of an event tells its
// kind; below the name of a state stand the events on which it acts and stays.
func DOT(t Table) string {
	var b strings.Builder
	kinds := t.kinds()
	stays, moves := t.arrows()
	painted := func(text, kind string) string {
		return fmt.Sprintf("<FONT COLOR=\"%s\">%s</FONT>", colour(kinds, kind).light, xmlText(text))
	}
	label := func(events []EventInfo) string {
		names := make([]string, len(events))
		for i, e := range events {
			names[i] = painted(e.Name, e.Kind)
		}
		return strings.Join(names, "<BR/>")
	}
	fmt.Fprintf(&b, "digraph %s {\n", dotQuote(t.Name))
	b.WriteString("\tgraph [rankdir=TB, nodesep=0.6, ranksep=0.8, fontname=\"Helvetica\"]\n")
	b.WriteString("\tnode [shape=box, style=\"rounded,filled\", fillcolor=\"#f6f7f9\", color=\"#4b5563\", fontname=\"Helvetica\", fontsize=10, margin=\"0.2,0.1\"]\n")
	b.WriteString("\tedge [color=\"#6b7280\", fontname=\"Helvetica\", fontsize=10]\n")
	if len(t.States) > 0 {
		b.WriteString("\t\"\" [shape=point, width=0.12, label=\"\"]\n")
	}
	for i, s := range t.States {
		text := fmt.Sprintf("<FONT POINT-SIZE=\"14\"><B>%s</B></FONT>", xmlText(s))
		if len(stays[i]) > 0 {
			text += "<BR/>stays on<BR/>" + label(stays[i])
		}
		fmt.Fprintf(&b, "\t%s [label=<%s>]\n", dotQuote(s), text)
	}
	if len(t.States) > 0 {
		fmt.Fprintf(&b, "\t\"\" -> %s\n", dotQuote(t.States[0]))
	}
	for _, a := range moves {
		fmt.Fprintf(&b, "\t%s -> %s [label=<%s>]\n", dotQuote(t.States[a.from]), dotQuote(t.States[a.to]), label(a.events))
	}
	if len(kinds) > 1 {
		legend := make([]string, len(kinds))
		for i, k := range kinds {
			legend[i] = painted(kindName(k), k)
		}
		fmt.Fprintf(&b, "\tlabel=<%s>\n", strings.Join(legend, " · "))
	}
	b.WriteString("}\n")
	return b.String()
}

// PlantUML returns a state diagram for PlantUML. The colour of an event tells its
// kind; below the name of a state stand the events on which it acts and stays.
func PlantUML(t Table) string {
	var b strings.Builder
	ids, kinds := t.ids(), t.kinds()
	stays, moves := t.arrows()
	painted := func(text, kind string) string {
		return fmt.Sprintf("<color:%s>%s</color>", colour(kinds, kind).light, plantText(text))
	}
	label := func(events []EventInfo) string {
		names := make([]string, len(events))
		for i, e := range events {
			names[i] = painted(e.Name, e.Kind)
		}
		return strings.Join(names, `\n`)
	}
	b.WriteString("@startuml\nhide empty description\nskinparam shadowing false\n")
	for i, s := range t.States {
		fmt.Fprintf(&b, "state \"%s\" as %s\n", plantText(s), ids[i])
		if len(stays[i]) > 0 {
			fmt.Fprintf(&b, "%s : stays on\\n%s\n", ids[i], label(stays[i]))
		}
	}
	if len(ids) > 0 {
		fmt.Fprintf(&b, "[*] --> %s\n", ids[0])
	}
	for _, a := range moves {
		fmt.Fprintf(&b, "%s --> %s : %s\n", ids[a.from], ids[a.to], label(a.events))
	}
	if len(kinds) > 1 {
		legend := make([]string, len(kinds))
		for i, k := range kinds {
			legend[i] = painted(kindName(k), k)
		}
		fmt.Fprintf(&b, "caption %s\n", strings.Join(legend, " · "))
	}
	b.WriteString("@enduml\n")
	return b.String()
}

// plantText writes everything but letters, digits and spaces as a code point:
// PlantUML has markup, macros and commands for most other characters.
func plantText(s string) string {
	return escape(s, func(b *strings.Builder, r rune) {
		if r == ' ' || unicode.IsLetter(r) || unicode.IsDigit(r) || unicode.IsMark(r) {
			b.WriteRune(r)
		} else {
			fmt.Fprintf(b, "<U+%04X>", r)
		}
	})
}

func dotQuote(s string) string {
	return `"` + escape(s, func(b *strings.Builder, r rune) {
		if r == '"' || r == '\\' {
			b.WriteByte('\\')
		}
		b.WriteRune(r)
	}) + `"`
}

// Matrix returns the table in Markdown: every event against every state at a
// glance, then each state with its reasons, then the facts.
func Matrix(t Table) string {
	var b strings.Builder
	cells := t.cells()
	fmt.Fprintf(&b, "# %s: states and events\n\n", markdownText(t.Name))
	b.WriteString("**→ State** moves there; *stays* acts in place; – ignores the event; ✗ refuses it: it cannot happen there.\n\n")
	b.WriteString("| event | cause |")
	for _, s := range t.States {
		fmt.Fprintf(&b, " %s |", markdownText(s))
	}
	b.WriteString("\n| --- | --- |" + strings.Repeat(" --- |", len(t.States)) + "\n")
	for _, e := range t.Events {
		fmt.Fprintf(&b, "| %s | %s |", markdownText(e.Name), markdownText(e.Kind))
		for _, s := range t.States {
			fmt.Fprintf(&b, " %s |", outcome(cells[Place{s, e.Name}]))
		}
		b.WriteByte('\n')
	}
	for _, s := range t.States {
		fmt.Fprintf(&b, "\n## %s\n\n| event | outcome | why |\n| --- | --- | --- |\n", markdownText(s))
		for _, e := range t.Events {
			c := cells[Place{s, e.Name}]
			fmt.Fprintf(&b, "| %s | %s | %s |\n", markdownText(e.Name), outcome(c), markdownText(c.Reason))
		}
	}
	if len(t.Qualify) > 0 {
		b.WriteString("\n## Facts\n\nBefore the table is asked, a fact may rename an event; the first match counts.\n\n")
		b.WriteString("| event | while | becomes |\n| --- | --- | --- |\n")
		for _, r := range t.Qualify {
			when := make([]string, len(r.When))
			for i, f := range r.When {
				when[i] = markdownText(f)
			}
			fmt.Fprintf(&b, "| %s | %s | %s |\n", markdownText(r.Event), strings.Join(when, " and "), markdownText(r.Becomes))
		}
	}
	return b.String()
}

// outcome is a cell in a few words of Markdown.
func outcome(c Cell) string {
	actions := make([]string, len(c.Actions))
	for i, a := range c.Actions {
		actions[i] = markdownText(a)
	}
	do := strings.Join(actions, ", ")
	switch c.Verdict {
	case Move:
		return strings.TrimSuffix("**→ "+markdownText(c.To)+"** "+do, " ")
	case Stay:
		return "*stays* " + do
	case Ignore:
		return "–"
	case Refuse:
		return "✗"
	}
	return "**?**" // nobody declared it: Check finds this
}

func markdownText(s string) string {
	return escape(s, func(b *strings.Builder, r rune) {
		if strings.ContainsRune("\\`*_[]<>|&~$#", r) {
			fmt.Fprintf(b, "&#%d;", r)
		} else {
			b.WriteRune(r)
		}
	})
}

// lineWidth is where events go on in a new line, in letters; Mermaid would break
// longer lines by itself, and badly.
const lineWidth = 22

// lines lays the names of events out in lines of readable width.
func lines(events []EventInfo, text func(string) string) []string {
	var all []string
	var line string
	width := 0
	for i, e := range events {
		n := utf8.RuneCountInString(e.Name) + 2
		if width > 0 && width+n > lineWidth {
			all = append(all, line)
			line, width = "", 0
		}
		if width > 0 {
			line += " "
		}
		line += text(e.Name)
		if i < len(events)-1 {
			line += ","
		}
		width += n
	}
	return append(all, line)
}

// escape makes a name safe for one line of text and hands what is left to put:
// control characters become their pictures, and what cannot be seen U+FFFD.
func escape(s string, put func(*strings.Builder, rune)) string {
	var b strings.Builder
	for _, r := range s {
		const nonJoiner, joiner = '\u200c', '\u200d' // part of the spelling in some scripts
		switch {
		case r < ' ':
			r += '\u2400'
		case r == '\u007f':
			r = '\u2421'
		case !unicode.IsPrint(r) && r != nonJoiner && r != joiner:
			r = unicode.ReplacementChar
		}
		put(&b, r)
	}
	return b.String()
}

// visible is a name as it is shown.
func visible(s string) string {
	return escape(s, func(b *strings.Builder, r rune) { b.WriteRune(r) })
}

// xmlText escapes a name for XML, in elements and attributes.
func xmlText(s string) string {
	return escape(s, func(b *strings.Builder, r rune) {
		switch r {
		case '<', '>', '&', '"', '\'':
			fmt.Fprintf(b, "&#%d;", r)
		default:
			b.WriteRune(r)
		}
	})
}

// kindName is a kind as a legend shows it.
func kindName(kind string) string {
	if kind == "" {
		return "other"
	}
	return kind
}

// shade is a colour for the events of a kind, on light and on dark paper.
type shade struct{ light, dark string }

// palette has a contrast of 4.5 and more against white and against #0d1117.
var palette = []shade{
	{"#1d4ed8", "#7aa9ff"}, // blue
	{"#7e22ce", "#c79bff"}, // violet
	{"#0f766e", "#4fd1c0"}, // teal
	{"#a34a00", "#f5a35c"}, // amber
	{"#b91c1c", "#ff8f8f"}, // red
	{"#4d6b00", "#b5d44a"}, // olive
	{"#be185d", "#ff8cc0"}, // pink
	{"#475569", "#a9b6c8"}, // slate
}

func colour(kinds []string, kind string) shade {
	for i, k := range kinds {
		if k == kind {
			return palette[i%len(palette)]
		}
	}
	return palette[len(palette)-1]
}
