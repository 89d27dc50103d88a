package diagrams

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// element is one of a picture, with the text directly in it.
type element struct {
	name, text string
	attr       map[string]string
}

func (e element) num(t *testing.T, attr string) float64 {
	t.Helper()
	f, err := strconv.ParseFloat(e.attr[attr], 64)
	if err != nil {
		t.Fatalf("%s of %+v: %v", attr, e, err)
	}
	return f
}

func (e element) is(class string) bool {
	return slices.Contains(strings.Fields(e.attr["class"]), class)
}

// parse reads a picture strictly and returns its elements in order, the root first.
func parse(t *testing.T, svg string) (all []element, root element) {
	t.Helper()
	d := xml.NewDecoder(strings.NewReader(svg))
	var open []int
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return all, all[0]
		}
		if err != nil {
			t.Fatal(err)
		}
		switch x := token.(type) {
		case xml.StartElement:
			e := element{name: x.Name.Local, attr: map[string]string{}}
			for _, a := range x.Attr {
				e.attr[a.Name.Local] = a.Value
			}
			open = append(open, len(all))
			all = append(all, e)
		case xml.EndElement:
			open = open[:len(open)-1]
		case xml.CharData:
			if len(open) > 0 {
				all[open[len(open)-1]].text += string(x)
			}
		case xml.Directive, xml.ProcInst, xml.Comment:
			t.Fatalf("%T in the picture", x)
		}
	}
}

// area is a rectangle; a line is one without height or width.
type area struct {
	what                     string
	left, top, right, bottom float64
}

func (a area) meets(b area) bool {
	return a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom
}

func (a area) holds(b area) bool {
	return a.left <= b.left && b.right <= a.right && a.top <= b.top && b.bottom <= a.bottom
}

// collisions says where text meets text, a line or the border of a box, where a
// line runs through a box, and what is outside the picture.
func collisions(t *testing.T, svg string) (found []string) {
	t.Helper()
	return collisionsOf(t, svg, nil)
}

// collisionsOf does so with the places of the texts as somebody has measured them.
func collisionsOf(t *testing.T, svg string, measured []area) (found []string) {
	t.Helper()
	all, root := parse(t, svg)
	paper := area{"the picture", 0, 0, root.num(t, "width"), root.num(t, "height")}
	var texts, boxes, lines []area
	for _, e := range all {
		switch {
		case e.name == "text":
			size := textSize
			switch {
			case e.is("name"):
				size = boldest * nameSize
			case e.is("lit") || e.is("never"):
				size = boldSize
			}
			x, y, width := e.num(t, "x"), e.num(t, "y"), textWidth(e.text, size)
			if e.attr["text-anchor"] == "end" {
				x -= width
			}
			text := area{"", x, y - 0.8*size, x + width, y + 0.25*size}
			if measured != nil {
				text = measured[len(texts)]
			}
			text.what = fmt.Sprintf("text %q", e.text)
			texts = append(texts, text)
		case e.name == "rect" && e.is("box"):
			x, y := e.num(t, "x"), e.num(t, "y")
			boxes = append(boxes, area{fmt.Sprintf("the box at %v,%v", x, y), x, y, x + e.num(t, "width"), y + e.num(t, "height")})
		case e.name == "path" && e.is("line"):
			lines = append(lines, segments(t, e.attr["d"])...)
		case e.name == "path" && !e.is("tip"):
			t.Fatalf("what is %+v?", e)
		}
	}
	for i, a := range texts {
		for _, b := range texts[i+1:] {
			if a.meets(b) {
				found = append(found, a.what+" meets "+b.what)
			}
		}
		for _, b := range boxes {
			if a.meets(b) && !b.holds(a) {
				found = append(found, a.what+" crosses the border of "+b.what)
			}
		}
		for _, l := range lines {
			if a.meets(l) {
				found = append(found, a.what+" meets "+l.what)
			}
		}
	}
	for i, a := range boxes {
		for _, b := range boxes[i+1:] {
			if a.meets(b) {
				found = append(found, a.what+" meets "+b.what)
			}
		}
		inner := area{a.what, a.left + 2, a.top + 2, a.right - 2, a.bottom - 2} // a line may touch it from outside
		for _, l := range lines {
			if inner.meets(l) {
				found = append(found, l.what+" runs through "+a.what)
			}
		}
	}
	for _, a := range slices.Concat(texts, boxes, lines) {
		if !paper.holds(a) {
			found = append(found, a.what+" leaves the picture")
		}
	}
	return found
}

// segments returns the strokes of a path as areas as wide as the boldest stroke,
// with its corners filled.
func segments(t *testing.T, d string) []area {
	t.Helper()
	stroke := func(x1, y1, x2, y2 float64) area {
		const half = 1.5
		return area{"the line " + d, min(x1, x2) - half, min(y1, y2) - half, max(x1, x2) + half, max(y1, y2) + half}
	}
	var x, y, toX, cx, cy, endX, endY, toY float64
	if n, _ := fmt.Sscanf(d, "M%f %fV%f", &x, &y, &toY); n == 3 {
		return []area{stroke(x, y, x, toY)}
	}
	if n, err := fmt.Sscanf(d, "M%f %fH%fQ%f %f %f %fV%f", &x, &y, &toX, &cx, &cy, &endX, &endY, &toY); n != 8 {
		t.Fatalf("path %q: %v", d, err)
	}
	return []area{stroke(x, y, cx, cy), stroke(cx, cy, cx, toY)}
}

// crowd is a machine in which every state leads to every other on several events.
func crowd(states int, name string) Table {
	m := Table{Name: "crowd"}
	for i := range states {
		m.States = append(m.States, fmt.Sprintf("%s%d", name, i))
		for _, suffix := range []string{"", "Again", "ForTheLastTimeInALongWhile"} {
			m.Events = append(m.Events, EventInfo{fmt.Sprintf("Go%d%s", i, suffix), "kind" + suffix})
		}
	}
	for i, s := range m.States {
		for j, e := range m.Events {
			c := Cell{From: s, Event: e.Name, Verdict: Move, To: m.States[j/3], Reason: "why"}
			if j/3 == i {
				c.Verdict, c.Actions = Stay, []string{"Wait"}
			}
			m.Cells = append(m.Cells, c)
		}
	}
	return m
}

// anyMachine is a machine with names of any length in which any event may do anything.
func anyMachine(r *rand.Rand) Table {
	name := func(i int) string { return fmt.Sprint(strings.Repeat("Wm il", r.IntN(6)), i) }
	m := Table{Name: "any"}
	for i := range 1 + r.IntN(6) {
		m.States = append(m.States, name(i))
	}
	for i := range 1 + r.IntN(20) {
		m.Events = append(m.Events, EventInfo{name(i), name(r.IntN(9))})
	}
	for _, s := range m.States {
		for _, e := range m.Events {
			c := Cell{From: s, Event: e.Name, To: m.States[r.IntN(len(m.States))], Verdict: Move, Reason: "why"}
			if c.To == s {
				c.Verdict = []string{Stay, Ignore, Refuse}[r.IntN(3)]
			}
			if c.Verdict == Stay {
				c.Actions = []string{"Act"}
			}
			m.Cells = append(m.Cells, c)
		}
	}
	return m
}

// G1: no text meets another, a line or the border of a box, whatever the machine
// and whatever is brought out.
func TestNothingOverlaps(t *testing.T) {
	machines := []Table{Chatconn(), door(), {}, {States: []string{"Alone"}}}
	for n := range 9 {
		machines = append(machines, crowd(n, "S"), crowd(n, "A state with quite a long name, number "), crowd(n, "状態"))
	}
	r := rand.New(rand.NewPCG(3, 4))
	for range 50 {
		machines = append(machines, anyMachine(r))
	}
	for _, m := range machines {
		if len(m.Cells) > 0 {
			if err := Check(m); err != nil {
				t.Fatal(err)
			}
		}
		for look, o := range looks(m) {
			for _, c := range collisions(t, SVG(m, o)) {
				t.Errorf("%s with %d states, %s: %s", m.Name, len(m.States), look, c)
			}
		}
	}
}

// looks are the ways in which a machine can be shown: each part of it brought out,
// and each part walked.
func looks(m Table) map[string]Options {
	some, all := map[Place]int{}, map[Place]int{}
	var lit []Place
	for i, c := range m.Cells {
		at := Place{c.From, c.Event}
		all[at] = 1_000_000
		if i%3 > 0 {
			some[at] = i
		}
		lit = append(lit, at)
	}
	looks := map[string]Options{
		"plain": {}, "faded": {Highlight: []Place{}}, "lit": {Highlight: lit},
		"not walked": {Walks: map[Place]int{}}, "walked": {Walks: all}, "partly walked": {Walks: some, Highlight: lit[:len(lit)/2]},
	}
	if n := len(m.States); n > 0 {
		looks["in the last state"] = Options{Current: m.States[n-1], Highlight: lit, Walks: some}
	}
	return looks
}

// The check of overlaps finds them: here are pictures with one label moved, or
// with too little paper.
func TestOverlapsAreFound(t *testing.T) {
	svg := SVG(Chatconn(), Options{})
	all, root := parse(t, svg)
	label := all[slices.IndexFunc(all, func(e element) bool { return e.attr["data-event"] != "" })]
	x, y := label.num(t, "x"), label.num(t, "y")
	place := fmt.Sprintf(`x="%.0f" y="%.0f"`, x, y)
	height := fmt.Sprintf(`height="%s"`, root.attr["height"])
	for _, c := range []struct{ old, new, want string }{
		{place, fmt.Sprintf(`x="%.0f" y="%.0f"`, x, y+7), "meets text"},
		{place, fmt.Sprintf(`x="%.0f" y="%.0f"`, x+33, y), "crosses the border"},
		{place, fmt.Sprintf(`x="%.0f" y="%.0f"`, x+140, y-20), "meets the line"},
		{place, fmt.Sprintf(`x="%.0f" y="%.0f"`, x-40, y), "leaves the picture"},
		{height, `height="89"`, "leaves the picture"},
	} {
		spoiled := strings.Replace(svg, c.old, c.new, 1)
		if spoiled == svg {
			t.Fatalf("no %s in the picture", c.old)
		}
		if found := strings.Join(collisions(t, spoiled), "\n"); !strings.Contains(found, c.want) {
			t.Errorf("%s to %s: %q, want %q", c.old, c.new, found, c.want)
		}
	}
}

// G1: the picture shows every move on an arrow between its states and every stay
// in its box, once, and nothing that is ignored or refused.
func TestPictureShowsTheTable(t *testing.T) {
	for _, m := range []Table{Chatconn(), door(), crowd(4, "S")} {
		all, _ := parse(t, SVG(m, Options{}))
		shown := map[Place]int{}
		arrows := map[[2]string]int{}
		states := map[string]int{}
		for _, e := range all {
			if e.name == "text" && e.attr["data-event"] != "" {
				shown[Place{e.attr["data-from"], e.attr["data-event"]}]++
				if e.text != e.attr["data-event"] {
					t.Errorf("%q says %q", e.attr["data-event"], e.text)
				}
			}
			if e.name == "g" && e.attr["data-to"] != "" {
				arrows[[2]string{e.attr["data-from"], e.attr["data-to"]}]++
			}
			if e.name == "g" && e.attr["data-state"] != "" {
				states[e.attr["data-state"]]++
			}
		}
		want := map[[2]string]int{}
		for _, c := range m.Cells {
			n := 0
			if c.Verdict == Move || c.Verdict == Stay {
				n = 1
			}
			if shown[Place{c.From, c.Event}] != n {
				t.Errorf("%s on %s (%s) is shown %d times", c.From, c.Event, c.Verdict, shown[Place{c.From, c.Event}])
			}
			if c.Verdict == Move {
				want[[2]string{c.From, c.To}] = 1
			}
		}
		if fmt.Sprint(arrows) != fmt.Sprint(want) {
			t.Errorf("arrows %v, want %v", arrows, want)
		}
		for _, s := range m.States {
			if states[s] != 1 {
				t.Errorf("%s has %d boxes", s, states[s])
			}
		}
	}
}

// What is highlighted is brought out, all else fades; without any, nothing does.
func TestHighlight(t *testing.T) {
	path := []Place{{"Offline", "Connect"}, {"Connecting", "RetryDue"}, {"Nowhere", "Never"}}
	all, _ := parse(t, SVG(Chatconn(), Options{Current: "Connecting", Highlight: path}))
	for _, e := range all {
		at := Place{e.attr["data-from"], e.attr["data-event"]}
		switch {
		case e.name == "text" && at.Event != "":
			if e.is("lit") != slices.Contains(path, at) || e.is("faded") == e.is("lit") {
				t.Errorf("%v has class %q", at, e.attr["class"])
			}
		case e.attr["data-to"] != "":
			if e.is("lit") != (e.attr["data-from"] == "Offline" && e.attr["data-to"] == "Connecting") {
				t.Errorf("the arrow from %s to %s has class %q", e.attr["data-from"], e.attr["data-to"], e.attr["class"])
			}
		case e.attr["data-state"] != "":
			want := map[string]string{"Offline": "state", "Connecting": "state current"}[e.attr["data-state"]]
			if want == "" {
				want = "state faded"
			}
			if e.attr["class"] != want {
				t.Errorf("%s has class %q, want %q", e.attr["data-state"], e.attr["class"], want)
			}
		}
	}
	plain := SVG(Chatconn(), Options{})
	if all, _ := parse(t, plain); slices.ContainsFunc(all, func(e element) bool { return e.is("lit") || e.is("faded") || e.is("current") }) {
		t.Error("the plain picture brings something out")
	}
	if none, _ := parse(t, SVG(Chatconn(), Options{Highlight: []Place{}})); slices.ContainsFunc(none, func(e element) bool { return e.is("lit") }) {
		t.Error("an empty highlight brings something out")
	}
}

// G3: the picture of walks says of every move and stay how often it was walked, of
// every state how much of what it ignores, and how much of all; what was not
// walked can be told without colours.
func TestWalksAreShown(t *testing.T) {
	m := door()
	walks := map[Place]int{{"Shut", "Push"}: 12, {"Shut", "Night"}: 1, {"Ajar", "Night"}: 5} // the last one is refused
	all, _ := parse(t, SVG(m, Options{Walks: walks}))
	said := map[string]string{}
	for _, e := range all {
		switch {
		case e.name == "text" && e.attr["data-event"] != "":
			said[e.attr["data-from"]+" "+e.attr["data-event"]] = fmt.Sprint(e.text, e.is("never"))
		case e.name == "text":
			said[e.text] = fmt.Sprint(e.is("never"))
		case e.attr["data-to"] != "":
			said["from "+e.attr["data-from"]] = fmt.Sprint(e.is("never"))
		case e.attr["data-state"] != "":
			said[e.attr["data-state"]] = fmt.Sprint(e.is("never"))
		}
	}
	for what, want := range map[string]string{
		"Shut Push": "Push 12false", "Shut Draught": "Draught 0true", "Ajar Pull": "Pull 0true", "Ajar Draught": "Draught 0true",
		"ignored: 1 of 2": "true", "ignored: 0 of 1": "true", "walked: 2 of 7 cells, 28.6 %": "false",
		"from Shut": "false", "from Ajar": "true", walksHint: "false",
	} {
		if said[what] != want {
			t.Errorf("%s: %q, want %q", what, said[what], want)
		}
	}
	if plain := SVG(m, Options{}); strings.Contains(plain, "never") || strings.Contains(plain, "ignored") || strings.Contains(plain, "walked") {
		t.Error("the plain picture speaks of walks")
	}
}

// The colours of all kinds can be read on the paper, light and dark (WCAG AA: 4.5).
func TestContrast(t *testing.T) {
	for _, s := range palette {
		for _, c := range []struct{ ink, paper string }{{s.light, "#ffffff"}, {s.light, "#f6f7f9"}, {s.dark, "#0d1117"}, {s.dark, "#161b22"}} {
			if r := contrast(t, c.ink, c.paper); r < 4.5 {
				t.Errorf("%s on %s: %.2f", c.ink, c.paper, r)
			}
		}
	}
}

// contrast is the ratio of the luminances of two colours, as WCAG defines it.
func contrast(t *testing.T, a, b string) float64 {
	la, lb := luminance(t, a), luminance(t, b)
	return (max(la, lb) + 0.05) / (min(la, lb) + 0.05)
}

func luminance(t *testing.T, colour string) float64 {
	t.Helper()
	var c [3]int
	if _, err := fmt.Sscanf(colour, "#%02x%02x%02x", &c[0], &c[1], &c[2]); err != nil {
		t.Fatal(err)
	}
	var l float64
	for i, weight := range []float64{0.2126, 0.7152, 0.0722} {
		v := float64(c[i]) / 255
		if v <= 0.03928 {
			v /= 12.92
		} else {
			v = math.Pow((v+0.055)/1.055, 2.4)
		}
		l += weight * v
	}
	return l
}
