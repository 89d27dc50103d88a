package diagrams

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Options choose what an [SVG] brings out. The zero value draws the plain machine.
type Options struct {
	Current   string  // the state to light up; empty for none
	Highlight []Place // the moves and stays to bring out while the rest fades; nil fades nothing
	// Walks, if not nil, is how often each cell was walked, by a test run perhaps:
	// the picture says so beside every event, and brings out what was not.
	Walks map[Place]int
}

// Place is the place of a cell in a [Table].
type Place struct{ State, Event string }

// SVG returns the picture of a machine for the browser. It is one file that needs
// nothing else: text is text, the colours suit light and dark screens, and no
// script is in it. Elements carry data-state, data-from, data-to and data-event,
// and a tooltip with the actions and the reason of the cell.
//
// The states stand on a staircase. An arrow leaves its state at the side, turns
// once, and enters the state above or below the turn; beside the turn stand the
// events that cause it. So every pair of states has a place of its own, and no
// text can meet another, a line or a box, however many states there are.
func SVG(t Table, o Options) string {
	w := svgWriter{Table: t, layout: layOut(t, o), Options: o, cells: t.cells(), kinds: t.kinds()}
	w.open()
	w.arrows()
	w.states()
	w.labels()
	w.legend()
	w.WriteString("</svg>\n")
	return w.String()
}

// Measures in pixels, as they are at the picture's own size.
const (
	margin   = 16.0
	nameSize = 15.0
	textSize = 12.0
	boldest  = 1.1 // how much wider bold text is at most
	boldSize = boldest * textSize
	lineStep = 16.0 // from one line of text to the next
	padding  = 11.0 // between the border of a box and its text
	header   = 34.0 // the height of a box with nothing but its name
	inset    = 12.0 // of a vertical line from the side of its column
	beside   = 7.0  // between a vertical line and its text
	turn     = 9.0  // the radius of a corner
	tip      = 8.0  // the length of an arrow's tip
	columns  = 16.0 // between columns
	rows     = 26.0 // between rows
	entry    = 30.0 // above the first state, for the way in
)

// layout is where everything stands. Column i and row i are those of state i.
type layout struct {
	stays         [][]EventInfo
	moves         []arrow
	ignored       []share   // the ignored cells of each state, if walks are shown
	x, width      []float64 // of the columns, and of the boxes in them
	y, height     []float64 // of the boxes
	right, bottom float64
	keys          []key
}

// key is an entry of the legend.
type key struct {
	text string
	x, y float64
}

const hint = "in a box: acts and stays · beside a turn: moves along the arrow"

// layOut leaves room for what may be bold, so that a picture stays as it is whatever
// is brought out.
func layOut(t Table, o Options) layout {
	var l layout
	n := len(t.States)
	l.stays, l.moves = t.arrows()
	l.x, l.width = make([]float64, n), make([]float64, n)
	l.y, l.height = make([]float64, n), make([]float64, n)
	deep := make([]float64, n) // how far down a row reaches
	if o.Walks != nil {
		l.ignored = make([]share, n)
		for _, c := range t.Cells {
			if i := slices.Index(t.States, c.From); i >= 0 && c.Verdict == Ignore {
				l.ignored[i].add(o.Walks[Place{c.From, c.Event}])
			}
		}
	}

	for i, s := range t.States {
		l.width[i] = 2*padding + textWidth(s, boldest*nameSize)
		l.height[i] = header
		for _, e := range l.stays[i] {
			l.width[i] = max(l.width[i], 2*padding+textWidth(o.caption(s, e), boldSize))
		}
		k := len(l.stays[i])
		if o.Walks != nil && l.ignored[i].all > 0 {
			l.width[i] = max(l.width[i], 2*padding+textWidth(l.ignored[i].String(), boldSize))
			k++
		}
		if k > 0 {
			l.height[i] += float64(k)*lineStep + padding/2
		}
		deep[i] = l.height[i]
	}
	for _, a := range l.moves {
		for _, e := range a.events {
			l.width[a.to] = max(l.width[a.to], inset+beside+textWidth(o.caption(t.States[a.from], e), boldSize))
		}
		deep[a.from] = max(deep[a.from], header/2+float64(len(a.events))*lineStep+beside)
	}
	x, y := margin, margin+entry
	for i := range t.States {
		l.x[i], l.y[i] = x, y
		x += l.width[i] + columns
		y += deep[i] + rows
	}
	l.right = max(x-columns, margin+textWidth(hint, textSize)) + margin
	if o.Walks != nil {
		l.right = max(l.right, 2*margin+textWidth(walksHint, textSize))
	}
	l.bottom = l.legend(t, o, y) + margin
	return l
}

// legend places the keys, in as many lines as they need, and returns the lower end.
func (l *layout) legend(t Table, o Options, y float64) float64 {
	x := margin
	put := func(text string, indent float64) {
		width := indent + textWidth(text, textSize)
		if x > margin && x+width > l.right-margin {
			x, y = margin, y+lineStep+4
		}
		l.keys = append(l.keys, key{text, x + indent, y})
		x += width + 18
	}
	for _, k := range t.kinds() {
		put(kindName(k), 14)
	}
	put(hint, 0)
	if o.Walks != nil {
		put(walksHint, 0)
		put(o.sum(t), 0)
	}
	return y + 4
}

// in returns where arrows from one side enter a state: on the right those from
// above, on the left those from below.
func (l *layout) in(a arrow) (x, y float64) {
	if a.from < a.to {
		return l.x[a.to] + l.width[a.to] - inset, l.y[a.to]
	}
	return l.x[a.to] + inset, l.y[a.to] + l.height[a.to]
}

type svgWriter struct {
	strings.Builder
	Table
	layout
	Options
	cells map[Place]Cell
	kinds []string
}

func (w *svgWriter) add(format string, args ...any) {
	fmt.Fprintf(&w.Builder, format+"\n", args...)
}

func (w *svgWriter) open() {
	w.add(`<svg xmlns="http://www.w3.org/2000/svg" class="machine" role="img" viewBox="0 0 %.0f %.0f" width="%.0f" height="%.0f">`, w.right, w.bottom, w.right, w.bottom)
	w.add(`<title>%s</title>`, xmlText(w.Name+": states and what moves between them"))
	w.add("<style>")
	w.add(".machine { font: %.0fpx system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', Helvetica, Arial, sans-serif }", textSize)
	w.add(".machine .name { font-size: %.0fpx; font-weight: 600 }", nameSize)
	w.add(".machine .line { fill: none; stroke-width: 2 }\n.machine .box { stroke-width: 1.5 }")
	if w.Walks != nil {
		w.add(".machine .never { font-weight: 600; text-decoration: underline }\n.machine .never .line, .machine .never .box { stroke-dasharray: 5 4 }")
	}
	w.add(".machine .lit .line { stroke-width: 3 }\n.machine .current .box { stroke-width: 3 }\n.machine .lit { font-weight: 600 }\n.machine text.faded, .machine .state.faded { opacity: .4 }")
	w.paint(false)
	w.add("@media (prefers-color-scheme: dark) {")
	w.paint(true)
	w.add("}\n</style>")
	w.add(`<rect class="paper" width="%.0f" height="%.0f" rx="8"/>`, w.right, w.bottom)
}

// paint writes the colours, for light screens or for dark ones.
func (w *svgWriter) paint(dark bool) {
	paper, ink, box, border, line, faded, lit := "#ffffff", "#1f2937", "#f6f7f9", "#6b7280", "#9aa3b0", "#e1e5ea", "#111827"
	now, nowBorder := "#dcfce7", "#15803d"
	if dark {
		paper, ink, box, border, line, faded, lit = "#0d1117", "#e6edf3", "#161b22", "#7d8590", "#6e7681", "#272d35", "#f0f6fc"
		now, nowBorder = "#12351f", "#3fb950"
	}
	w.add(".machine .paper { fill: %s }\n.machine text { fill: %s }\n.machine .box { fill: %s; stroke: %s }", paper, ink, box, border)
	w.add(".machine .line { stroke: %s }\n.machine .tip { fill: %s }\n.machine .faded .line { stroke: %s }\n.machine .faded .tip { fill: %s }\n.machine .lit .line { stroke: %s }\n.machine .lit .tip { fill: %s }",
		line, line, faded, faded, lit, lit)
	w.add(".machine .current .box { fill: %s; stroke: %s }", now, nowBorder)
	for i, k := range w.kinds {
		c := colour(w.kinds, k).light
		if dark {
			c = colour(w.kinds, k).dark
		}
		w.add(".machine .kind%d { fill: %s }", i, c)
	}
}

// mood is the class of something that belongs to these places: brought out,
// faded, or neither.
func (w *svgWriter) mood(state string, events []EventInfo) string {
	if w.Highlight == nil {
		return ""
	}
	for _, e := range events {
		if slices.Contains(w.Highlight, Place{state, e.Name}) {
			return " lit"
		}
	}
	return " faded"
}

func (w *svgWriter) arrows() {
	if len(w.States) > 0 {
		x, y := w.x[0]+w.width[0]/2, w.y[0]
		w.add(`<g class="arrow"><circle class="tip" cx="%.0f" cy="%.0f" r="5"/><path class="line" d="M%.0f %.0fV%.0f"/>%s</g>`, x, margin+5, x, margin+5, y-tip, tipOf(x, y, 1))
	}
	for _, mood := range []string{"", " faded", " lit"} { // what is lit lies on top
		for _, a := range w.moves {
			if w.mood(w.States[a.from], a.events) != mood {
				continue
			}
			side, row := w.x[a.from]+w.width[a.from], w.y[a.from]+header/2
			x, y := w.in(a)
			right, down := 1.0, 1.0
			if a.from > a.to {
				side, right, down = w.x[a.from], -1, -1
			}
			w.add(`<g class="arrow%s" data-from="%s" data-to="%s"><path class="line" d="M%.0f %.0fH%.0fQ%.0f %.0f %.0f %.0fV%.0f"/>%s</g>`,
				mood+w.never(w.States[a.from], a.events), xmlText(w.States[a.from]), xmlText(w.States[a.to]),
				side, row, x-right*turn, x, row, x, row+down*turn, y-down*tip, tipOf(x, y, down))
		}
	}
}

// tipOf is the tip of an arrow that ends at a point, going down or, with -1, up.
func tipOf(x, y, down float64) string {
	return fmt.Sprintf(`<path class="tip" d="M%.0f %.0fH%.0fL%.0f %.0fZ"/>`, x-5, y-down*tip, x+5, x, y)
}

func (w *svgWriter) states() {
	for i, s := range w.States {
		class := "state"
		if s == w.Current {
			class = "state current"
		} else if w.Highlight != nil && !w.touched(i) {
			class = "state faded"
		}
		class += w.never(s, w.Events)
		w.add(`<g class="%s" data-state="%s"><rect class="box" x="%.0f" y="%.0f" width="%.0f" height="%.0f" rx="8"/>`, class, xmlText(s), w.x[i], w.y[i], w.width[i], w.height[i])
		w.add(`<text class="name" x="%.0f" y="%.0f">%s</text></g>`, w.x[i]+padding, w.y[i]+header/2+5, xmlText(s))
	}
}

// touched reports whether what is brought out stays in a state, leaves it or leads
// to it.
func (w *svgWriter) touched(i int) bool {
	return w.mood(w.States[i], w.stays[i]) == " lit" || slices.ContainsFunc(w.moves, func(a arrow) bool {
		return (a.from == i || a.to == i) && w.mood(w.States[a.from], a.events) == " lit"
	})
}

// labels writes the events: in the boxes those that stay, beside the turn of
// their arrow those that move.
func (w *svgWriter) labels() {
	for i, events := range w.stays {
		for k, e := range events {
			w.label(i, e, w.x[i]+padding, w.inBox(i, k), "start")
		}
		if w.Walks != nil && w.ignored[i].all > 0 {
			w.ignores(i, w.x[i]+padding, w.inBox(i, len(events)))
		}
	}
	for _, a := range w.moves {
		x, _ := w.in(a)
		x, anchor := x+beside, "start"
		if a.from < a.to {
			x, anchor = x-2*beside, "end"
		}
		for k, e := range a.events {
			w.label(a.from, e, x, w.y[a.from]+header/2+float64(k+1)*lineStep, anchor)
		}
	}
}

// inBox is where a line of text stands in the box of a state.
func (w *svgWriter) inBox(state, line int) float64 {
	return w.y[state] + header + float64(line)*lineStep + textSize - 4
}

func (w *svgWriter) label(state int, e EventInfo, x, y float64, anchor string) {
	s := w.States[state]
	c := w.cells[Place{s, e.Name}]
	what := c.Reason
	if len(c.Actions) > 0 {
		what = strings.Join(c.Actions, ", ") + ": " + what
	}
	w.add(`<text class="kind%d%s" data-from="%s" data-event="%s" x="%.0f" y="%.0f" text-anchor="%s">%s<title>%s</title></text>`,
		slices.Index(w.kinds, e.Kind), w.mood(s, []EventInfo{e})+w.never(s, []EventInfo{e}), xmlText(s), xmlText(e.Name), x, y, anchor, xmlText(w.caption(s, e)), xmlText(what))
}

func (w *svgWriter) legend() {
	for i, k := range w.keys {
		if i < len(w.kinds) {
			w.add(`<circle class="kind%d" cx="%.0f" cy="%.0f" r="5"/>`, i, k.x-9, k.y-4)
		}
		w.add(`<text x="%.0f" y="%.0f">%s</text>`, k.x, k.y, xmlText(k.text))
	}
}

// textWidth is how wide a name is at most in the fonts of the picture, which
// differ from screen to screen.
func textWidth(s string, size float64) float64 {
	var em float64
	for _, r := range visible(s) {
		switch {
		case unicode.IsMark(r):
		case strings.ContainsRune("ijlI.,:;'|!", r):
			em += 0.32
		case strings.ContainsRune("frt()[]{} -", r):
			em += 0.42
		case strings.ContainsRune("mwMW@%", r):
			em += 0.98
		case r < utf8.RuneSelf && unicode.IsLower(r):
			em += 0.60
		case r >= '0' && r <= '9':
			em += 0.65
		case r < utf8.RuneSelf:
			em += 0.72
		case r < '\u1100':
			em += 0.85
		default:
			em += 1.1 // the scripts and pictures of East Asia
		}
	}
	return math.Ceil(em * size) // whole pixels keep the lines sharp
}
