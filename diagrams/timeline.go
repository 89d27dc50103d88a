package diagrams

import (
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/chatconn/chatconn/fsm"
	"github.com/chatconn/chatconn/recording"
)

// Timeline draws a replayed recording over time: in which state the connection
// was, and when it dialed, asked for a token and lost its socket. It takes a
// recording of any length in the same memory: time is cut into slices, about as
// many as the picture has pixels, which grow as the recording does. The zero
// value is ready.
type Timeline struct {
	name   string
	start  time.Time
	end    time.Duration // of what was added, since start
	state  fsm.State
	begun  bool
	width  time.Duration // of a slice
	slices [maxSlices]slice
}

const maxSlices = 1024

// slice is what happened in a piece of time.
type slice struct {
	in    [numBands]time.Duration // by state
	marks [numMarks]int
}

// The marks below the bands.
const (
	attempts = iota
	loads
	drops
	numMarks
)

const numBands = 5

var markNames = [numMarks]string{"attempts", "loads", "drops"}

// Add takes the next step of one connection.
func (l *Timeline) Add(s recording.Step) {
	if !l.begun {
		l.begun, l.start, l.name, l.state, l.width = true, s.Time, s.Conn, s.From, time.Microsecond
	}
	now := max(l.end, s.Time.Sub(l.start)) // a wall clock may be set back
	for now/l.width >= maxSlices {
		l.widen()
	}
	for at := l.end; at < now; {
		i := at / l.width
		next := min(now, (i+1)*l.width)
		l.slices[i].in[l.state] += next - at
		at = next
	}
	l.end, l.state = now, s.To
	for i, is := range [numMarks]bool{attempts: s.Dials(), loads: s.Loads, drops: s.Drops()} {
		if is {
			l.slices[now/l.width].marks[i]++
		}
	}
}

// widen makes slices twice as wide.
func (l *Timeline) widen() {
	for i := range l.slices {
		var joined slice
		if 2*i < maxSlices {
			joined = l.slices[2*i]
			for k, d := range l.slices[2*i+1].in {
				joined.in[k] += d
			}
			for k, n := range l.slices[2*i+1].marks {
				joined.marks[k] += n
			}
		}
		l.slices[i] = joined
	}
	l.width *= 2
}

// Measures of the timeline in pixels.
const (
	plotLeft   = 112.0
	plotWidth  = 720.0
	plotTop    = 44.0
	bandHeight = 20.0
	bandStep   = 26.0
	markHeight = 14.0
	paperWidth = plotLeft + plotWidth + 92
)

// SVG returns the picture: one band for each state, filled while the connection
// was in it and paler where that was a part of the slice only, with the time
// altogether at its end; below, the marks, higher where there were more. Like
// the machine's picture it needs nothing else and suits light and dark screens.
func (l *Timeline) SVG() string {
	var b strings.Builder
	add := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	marksTop := plotTop + numBands*bandStep + 6
	axis := marksTop + numMarks*bandStep
	height := axis + 26
	add(`<svg xmlns="http://www.w3.org/2000/svg" class="timeline" role="img" viewBox="0 0 %.0f %.0f" width="%.0f" height="%.0f">`, paperWidth, height, paperWidth, height)
	title := "nothing is recorded"
	if l.begun {
		title = fmt.Sprintf("%s · from %s · %s", l.name, l.start.UTC().Format("2006-01-02 15:04:05 MST"), brief(l.end))
	}
	add(`<title>%s</title>`, xmlText(title))
	l.style(add)
	add(`<rect class="paper" width="%.0f" height="%.0f" rx="8"/>`, paperWidth, height)
	add(`<text x="%.0f" y="26">%s</text>`, margin, xmlText(title))
	l.grid(add, axis)
	for i, s := range fsm.States() {
		y := plotTop + float64(i)*bandStep
		var total time.Duration
		for k := range l.slices {
			total += l.slices[k].in[i]
		}
		add(`<text x="%.0f" y="%.0f">%s</text>`, margin, y+bandHeight/2+4, s)
		if total > 0 {
			add(`<text x="%.0f" y="%.0f">%s</text>`, plotLeft+plotWidth+8, y+bandHeight/2+4, brief(total))
		}
		l.band(add, i, y)
	}
	for i, name := range markNames {
		y := marksTop + float64(i)*bandStep
		total, most := 0, 1
		for k := range l.slices {
			total += l.slices[k].marks[i]
			most = max(most, l.slices[k].marks[i])
		}
		add(`<text x="%.0f" y="%.0f">%s</text>`, margin, y+markHeight/2+4, name)
		if total > 0 {
			add(`<text x="%.0f" y="%.0f">%d</text>`, plotLeft+plotWidth+8, y+markHeight/2+4, total)
		}
		for k := range l.slices {
			if n := l.slices[k].marks[i]; n > 0 {
				h := markHeight * (0.4 + 0.6*float64(n)/float64(most))
				add(`<rect class="mark%d" x="%.1f" y="%.1f" width="2" height="%.1f"/>`, i, l.x(time.Duration(k)*l.width)-1, y+markHeight-h, h)
			}
		}
	}
	b.WriteString("</svg>\n")
	return b.String()
}

// x is where a moment stands.
func (l *Timeline) x(at time.Duration) float64 {
	return plotLeft + plotWidth*float64(min(at, l.end))/float64(max(l.end, 1))
}

// band draws when the connection was in a state; neighbours that look alike are one.
func (l *Timeline) band(add func(string, ...any), state int, y float64) {
	const shades = 8
	shade := func(k int) float64 {
		d := l.slices[k].in[state]
		if d == 0 {
			return 0
		}
		whole := min(l.width, l.end-time.Duration(k)*l.width)
		return max(3, math.Ceil(shades*float64(d)/float64(whole)))
	}
	for k := 0; k < maxSlices; {
		from, s := k, shade(k)
		for k++; k < maxSlices && shade(k) == s; {
			k++
		}
		if s > 0 {
			x := l.x(time.Duration(from) * l.width)
			begin, end := time.Duration(from)*l.width, min(l.end, time.Duration(k)*l.width)
			add(`<rect class="band%d" x="%.1f" y="%.1f" width="%.1f" height="%.0f" opacity="%.3g"><title>%s, from %s to %s</title></rect>`,
				state, x, y, max(1, l.x(end)-x), bandHeight, s/shades, fsm.State(state), brief(begin), brief(end))
		}
	}
}

// grid draws lines at round times, and the times below.
func (l *Timeline) grid(add func(string, ...any), axis float64) {
	step := roundStep(l.end)
	for at := time.Duration(0); at <= l.end; at += step {
		x := l.x(at)
		add(`<path class="line" d="M%.1f %.0fV%.0f"/>`, x, plotTop-4, axis)
		add(`<text class="time" x="%.1f" y="%.0f" text-anchor="middle">%s</text>`, x, axis+16, brief(at))
	}
}

// roundStep is the least round time of which no more than eight fit into d.
func roundStep(d time.Duration) time.Duration {
	const most = 8
	for unit := time.Microsecond; unit < time.Second; unit *= 10 {
		for _, n := range []time.Duration{1, 2, 5} {
			if d <= most*n*unit {
				return n * unit
			}
		}
	}
	const day = 24 * time.Hour
	for _, step := range []time.Duration{
		time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second, 15 * time.Second, 30 * time.Second,
		time.Minute, 2 * time.Minute, 5 * time.Minute, 10 * time.Minute, 15 * time.Minute, 30 * time.Minute,
		time.Hour, 2 * time.Hour, 3 * time.Hour, 6 * time.Hour, 12 * time.Hour, day,
	} {
		if d <= most*step {
			return step
		}
	}
	return (d/most/day + 1) * day
}

// brief is a duration with its two largest units, such as 1h5m or 2.5s.
func brief(d time.Duration) string {
	const day = 24 * time.Hour
	pair := func(unit, part time.Duration, names string) string {
		d := d.Round(part)
		text := fmt.Sprintf("%d%c", d/unit, names[0])
		if rest := d % unit / part; rest > 0 {
			text += fmt.Sprintf("%d%c", rest, names[1])
		}
		return text
	}
	switch {
	case d >= day:
		return pair(day, time.Hour, "dh")
	case d >= time.Hour:
		return pair(time.Hour, time.Minute, "hm")
	case d >= time.Minute:
		return pair(time.Minute, time.Second, "ms")
	case d >= 10*time.Second:
		return d.Round(time.Second / 10).String()
	case d >= time.Second:
		return d.Round(time.Second / 100).String()
	case d >= time.Millisecond:
		return d.Round(time.Millisecond / 100).String()
	}
	return d.Round(time.Microsecond).String()
}

// bandColours are those of the states, on light and on dark paper.
var bandColours = [numBands]shade{
	fsm.Offline:    {"#8b95a3", "#7d8590"},
	fsm.Connecting: {"#d97706", "#e09b4a"},
	fsm.Connected:  {"#15803d", "#3fb950"},
	fsm.Refreshing: {"#7e22ce", "#c79bff"},
	fsm.Paused:     {"#1d4ed8", "#7aa9ff"},
}

var markColours = [numMarks]shade{attempts: {"#1f2937", "#e6edf3"}, loads: {"#7e22ce", "#c79bff"}, drops: {"#b91c1c", "#ff8f8f"}}

func (l *Timeline) style(add func(string, ...any)) {
	paint := func(pick func(shade) string) {
		add(".timeline .paper { fill: %s }\n.timeline text { fill: %s }\n.timeline .line { stroke: %s }",
			pick(shade{"#ffffff", "#0d1117"}), pick(shade{"#1f2937", "#e6edf3"}), pick(shade{"#dde1e7", "#272d35"}))
		for i, c := range bandColours {
			add(".timeline .band%d { fill: %s }", i, pick(c))
		}
		for i, c := range markColours {
			add(".timeline .mark%d { fill: %s }", i, pick(c))
		}
	}
	add("<style>\n.timeline { font: %.0fpx system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', Helvetica, Arial, sans-serif }\n.timeline .line { stroke-width: 1 }", textSize)
	paint(func(s shade) string { return s.light })
	add("@media (prefers-color-scheme: dark) {")
	paint(func(s shade) string { return s.dark })
	add("}\n</style>")
}
