package diagrams

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/chatconn/chatconn/fsm"
)

var update = flag.Bool("update", false, "write the golden files instead of comparing; read the diff")

// door is a machine of another program: other states, two kinds and one event
// without any, a fact that must not stand.
func door() Table {
	return Table{
		Name:   "door",
		States: []string{"Shut", "Ajar"},
		Events: []EventInfo{{"Push", "person"}, {"Pull", "person"}, {"Draught", "weather"}, {"Night", ""}},
		Cells: []Cell{
			{"Shut", "Push", Move, "Ajar", []string{"Creak"}, "it opens inwards"},
			{"Shut", "Pull", Ignore, "Shut", nil, "it opens inwards"},
			{"Shut", "Draught", Stay, "Shut", []string{"Rattle"}, "the latch holds"},
			{"Shut", "Night", Ignore, "Shut", nil, "it is shut"},
			{"Ajar", "Push", Ignore, "Ajar", nil, "it is open"},
			{"Ajar", "Pull", Move, "Shut", nil, "it shuts outwards"},
			{"Ajar", "Draught", Move, "Shut", []string{"Slam"}, "it is light"},
			{"Ajar", "Night", Refuse, "Ajar", nil, "somebody shuts it before"},
		},
		Facts:   []string{"Locked"},
		Qualify: []Rule{{"Push", []string{"Locked"}, "Pull"}, {"Night", []string{"!Locked"}, "Draught"}},
	}
}

// formats are the renderers under the ending of their files.
var formats = []struct {
	name   string
	render func(*testing.T, Table) string
}{
	{"json", func(t *testing.T, m Table) string {
		b, err := JSON(m)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}},
	{"mmd", func(_ *testing.T, m Table) string { return Mermaid(m) }},
	{"dot", func(_ *testing.T, m Table) string { return DOT(m) }},
	{"md", func(_ *testing.T, m Table) string { return Matrix(m) }},
	{"puml", func(_ *testing.T, m Table) string { return PlantUML(m) }},
	{"svg", func(_ *testing.T, m Table) string { return SVG(m, Options{}) }},
}

// G1: a machine of another program is drawn in every format.
func TestAnotherMachine(t *testing.T) {
	if err := Check(door()); err != nil {
		t.Fatal(err)
	}
	for _, f := range formats {
		t.Run(f.name, func(t *testing.T) {
			got, golden := f.render(t, door()), filepath.Join("testdata", "door."+f.name)
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("differs from %s (run with -update and read the diff):\n%s", golden, got)
			}
		})
	}
}

// M2: the declared table in its plain form is complete, cell by cell.
func TestChatconnIsTheDeclaredTable(t *testing.T) {
	m := Chatconn()
	if err := Check(m); err != nil {
		t.Fatal(err)
	}
	i := 0
	for _, s := range fsm.States() {
		for _, e := range fsm.Events() {
			step, verdict := fsm.Next(s, e)
			c := m.Cells[i]
			if c.From != s.String() || c.Event != e.String() || c.To != step.To.String() || c.Verdict != verdict.String() || len(c.Actions) != len(step.Do) || c.Reason != step.Why {
				t.Errorf("cell %d is %+v, the table has %v × %v: %v %+v", i, c, s, e, verdict, step)
			}
			i++
		}
	}
	if i != len(m.Cells) {
		t.Errorf("%d cells, want %d", len(m.Cells), i)
	}
}

// Check finds what is missing or contradicts the rest, and says where.
func TestCheck(t *testing.T) {
	cases := []struct {
		name  string
		spoil func(*Table)
		want  string
	}{
		{"no states", func(m *Table) { m.States = nil }, "no states"},
		{"no events", func(m *Table) { m.Events = nil }, "no events"},
		{"blank state", func(m *Table) { m.States[1] = " " }, "state without a name"},
		{"state twice", func(m *Table) { m.States[1] = "Shut" }, `the state "Shut" stands twice`},
		{"event twice", func(m *Table) { m.Events[1].Name = "Push" }, `the event "Push" stands twice`},
		{"fact twice", func(m *Table) { m.Facts = []string{"Locked", "Locked"} }, `the fact "Locked" stands twice`},
		{"missing cell", func(m *Table) { m.Cells = m.Cells[:7] }, `cell "Ajar" × "Night": nobody declared it`},
		{"cell twice", func(m *Table) { m.Cells = append(m.Cells, m.Cells[0]) }, `cell "Shut" × "Push": it stands twice`},
		{"unknown origin", func(m *Table) { m.Cells[0].From = "Wall" }, `"Wall" is no state`},
		{"unknown destination", func(m *Table) { m.Cells[0].To = "Wall" }, `"Wall" is no state`},
		{"unknown event", func(m *Table) { m.Cells[0].Event = "Kick" }, `"Kick" is no event`},
		{"action twice", func(m *Table) { m.Cells[0].Actions = []string{"Creak", "Creak"} }, `the action "Creak" stands twice`},
		{"blank action", func(m *Table) { m.Cells[0].Actions = []string{""} }, "action without a name"},
		{"unknown verdict", func(m *Table) { m.Cells[1].Verdict = "maybe" }, `"maybe" is no verdict`},
		{"no verdict", func(m *Table) { m.Cells[1].Verdict = "" }, `"" is no verdict`},
		{"move that stays", func(m *Table) { m.Cells[0].To = "Shut" }, "a move that stays"},
		{"stay that moves", func(m *Table) { m.Cells[2].To = "Ajar" }, `stay, but it names "Ajar"`},
		{"idle stay", func(m *Table) { m.Cells[2].Actions = nil }, "a stay that does nothing"},
		{"busy ignore", func(m *Table) { m.Cells[1].Actions = []string{"Creak"} }, "ignore, but it has actions"},
		{"unexplained ignore", func(m *Table) { m.Cells[1].Reason = "" }, "ignore, but it gives no reason"},
		{"unexplained refusal", func(m *Table) { m.Cells[7].Reason = " " }, "refuse, but it gives no reason"},
		{"rule about no event", func(m *Table) { m.Qualify[0].Event = "Kick" }, `"Kick" is no event`},
		{"rule into no event", func(m *Table) { m.Qualify[0].Becomes = "Kick" }, `"Kick" is no event`},
		{"rule without facts", func(m *Table) { m.Qualify[0].When = nil }, "it names no fact"},
		{"rule about no fact", func(m *Table) { m.Qualify[0].When = []string{"!Wet"} }, `"!Wet" is no fact`},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			m := door()
			c.spoil(&m)
			if err := Check(m); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error with %q", err, c.want)
			}
		})
	}
}

// The renderers do not change the table, and one table gives one picture.
func TestDeterministic(t *testing.T) {
	m := Chatconn()
	for _, f := range formats {
		first := f.render(t, m)
		for range 5 {
			if f.render(t, m) != first {
				t.Fatalf("%s differs from one call to the next", f.name)
			}
		}
	}
	a, _ := json.Marshal(m)
	b, _ := json.Marshal(Chatconn())
	if string(a) != string(b) {
		t.Error("a renderer changed its table")
	}
}

// An incomplete table still gives a picture of what it holds.
func TestIncompleteTables(t *testing.T) {
	broken := door()
	broken.Cells[0].To, broken.Cells[2].From, broken.Cells[3].Verdict = "Wall", "Wall", ""
	for _, m := range []Table{{}, {States: []string{"A"}}, {Events: []EventInfo{{"e", ""}}}, broken} {
		for _, f := range formats {
			f.render(t, m)
		}
	}
}

// Only lines of transitions count, each cell once; a step that the table does not
// know means that the scenario is out of date.
func TestWalked(t *testing.T) {
	path, err := Walked(Chatconn(), `# Offline -Woke-> Nowhere is prose.
connect john
  Offline -Connect-> Connecting / Retry  (attempt 1, at once)
  source john is asked (load 1)
wait 3s
  +3s Connecting -RetryDue-> Connecting / LoadToken
  Connecting -RetryDue-> Connecting / LoadToken
  Connecting -Background-> Paused / Halt
  Paused -Woke-> Paused  ignored
`)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range path {
		got = append(got, c.From+" "+c.Event)
	}
	const want = "Offline Connect, Connecting RetryDue, Connecting Background, Paused Woke"
	if strings.Join(got, ", ") != want {
		t.Errorf("%q, want %q", got, want)
	}
	for _, text := range []string{"", "connect john\n", "  Offline -Fly-> Connecting\n", "  Offline -Connect-> Connected / Retry\n"} {
		if path, err := Walked(Chatconn(), text); err == nil {
			t.Errorf("%q: %v", text, path)
		}
	}
}

// hostile puts a name everywhere in a machine, made unique where it must be.
func hostile(name string) Table {
	m := door()
	for i := range m.States {
		m.States[i] = name + m.States[i]
	}
	for i := range m.Events {
		m.Events[i].Name = name + m.Events[i].Name
		m.Events[i].Kind = name + m.Events[i].Kind
	}
	for i := range m.Cells {
		c := &m.Cells[i]
		c.From, c.To, c.Event, c.Reason = name+c.From, name+c.To, name+c.Event, name+c.Reason
		for j := range c.Actions {
			c.Actions[j] = name + c.Actions[j]
		}
	}
	m.Name, m.Facts[0] = name, name+m.Facts[0]
	for i := range m.Qualify {
		r := &m.Qualify[i]
		r.Event, r.Becomes, r.When[0] = name+r.Event, name+r.Becomes, m.Facts[0]
	}
	return m
}

var (
	mermaidWords = `([^":;<>\n]|#\d+;|<br/>)*`
	mermaidLine  = regexp.MustCompile(`^(stateDiagram-v2|    state "` + mermaidWords + `" as \w+|    \w+ : stays on` + mermaidWords + `|    (\[\*\]|\w+) --> \w+( : ` + mermaidWords + `)?)$`)
	plantWords   = `([ \pL\pN\pM·]|<U\+[0-9A-F]{4,6}>|</?color(:#[0-9a-f]{6})?>|\\n)*`
	plantLine    = regexp.MustCompile(`^(@(start|end)uml|hide empty description|skinparam shadowing false|state "` + plantWords + `" as \w+|\w+ : stays on` + plantWords + `|(\[\*\]|\w+) --> \w+( : ` + plantWords + `)?|caption ` + plantWords + `)$`)
	markupOnly   = regexp.MustCompile(`</?(FONT( COLOR="#[0-9a-f]{6}"| POINT-SIZE="14")?|BR/|/?B)>`)
)

// FuzzEscaping gives every name of a machine the same wild beginning: in every
// format the structure stays that of the tame machine.
func FuzzEscaping(f *testing.F) {
	for _, s := range []string{
		"", `"`, `\`, "<script>alert(1)</script>", "]]>", "-->", "a\nb", "\r\n", "\x00", "|", "`", "**x**", "[x](javascript:alert(1))", ":", ";", "#", "#quot;", "&amp;", "%%", "{", "}",
		"État ", "状態", "حالة", "नमस्ते", "\u202eevil", "\U000e0041", "\x7f\u0085", "\u2028", "\ufeff", "\xff\xfe", "end", "'", "<!--", "]]><x>", "note", "\\N", "\t", "👩‍👩‍👧", "@enduml", "!include /etc/passwd", "//", "__x__", "~",
		"<br/>", "</text>", "\\n", "$x$", "<&file>", "<$sprite>", "<color:red>", "<<stereo>>",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		m, tame := hostile(name), hostile("Tame ")
		t.Run("json", func(t *testing.T) {
			b, err := JSON(m)
			if err != nil {
				t.Fatal(err)
			}
			var back struct {
				States []string
				Cells  []Cell
			}
			if err := json.Unmarshal(b, &back); err != nil {
				t.Fatal(err)
			}
			if utf8.ValidString(name) && !slices.Equal(back.States, m.States) {
				t.Errorf("states %q became %q", m.States, back.States)
			}
			if strings.ContainsAny(string(b), "<>") {
				t.Error("it could end a script element")
			}
			for _, r := range string(b) {
				if r != '\n' && !unicode.IsPrint(r) {
					t.Errorf("holds %U", r)
				}
			}
		})
		t.Run("mmd", func(t *testing.T) {
			plain := m.ids()[0] == m.States[0] // then no line declares a name
			if !plain {
				sameLines(t, Mermaid(m), Mermaid(tame))
			}
			for line := range strings.Lines(Mermaid(m)) {
				if !mermaidLine.MatchString(strings.TrimSuffix(line, "\n")) {
					t.Errorf("no line of a state diagram: %q", line)
				}
			}
		})
		t.Run("dot", func(t *testing.T) {
			sameLines(t, DOT(m), DOT(tame))
			if got, want := dotSkeleton(t, DOT(m)), dotSkeleton(t, DOT(tame)); got != want {
				t.Errorf("structure:\n%s\nwant:\n%s", got, want)
			}
		})
		t.Run("puml", func(t *testing.T) {
			for _, line := range sameLines(t, PlantUML(m), PlantUML(tame)) {
				if !plantLine.MatchString(line) {
					t.Errorf("no line of a state diagram: %q", line)
				}
			}
		})
		t.Run("svg", func(t *testing.T) {
			drawings, others := looks(m), looks(tame)
			for _, look := range []string{"plain", "lit", "partly walked"} {
				svg, other := SVG(m, drawings[look]), SVG(tame, others[look])
				sameLines(t, svg, other)
				all, _ := parse(t, svg)
				want, _ := parse(t, other)
				if len(all) != len(want) {
					t.Fatalf("%s: %d elements, want %d", look, len(all), len(want))
				}
				for i, e := range all {
					if e.name != want[i].name || len(e.attr) != len(want[i].attr) || e.attr["class"] != want[i].attr["class"] {
						t.Errorf("%s: %+v, want %+v", look, e, want[i])
					}
				}
				for _, c := range collisions(t, svg) {
					t.Errorf("%s: %s", look, c)
				}
			}
		})
		t.Run("md", func(t *testing.T) {
			lines, want := sameLines(t, Matrix(m), Matrix(tame)), strings.Split(Matrix(tame), "\n")
			for i, line := range lines {
				if strings.Count(line, "|") != strings.Count(want[i], "|") || strings.ContainsAny(line, "<>`[]\\~") {
					t.Errorf("line %q for %q", line, want[i])
				}
			}
			for k := range m.States {
				one, other := StateMarkdown(m, m.States[k]), StateMarkdown(tame, tame.States[k])
				for _, line := range sameLines(t, one, other) {
					if strings.ContainsAny(line, "<>`[]\\~") {
						t.Errorf("line %q", line)
					}
				}
				if strings.Count(one, "|") != strings.Count(other, "|") {
					t.Errorf("%d bars, want %d:\n%s", strings.Count(one, "|"), strings.Count(other, "|"), one)
				}
			}
		})
	})
}

// sameLines returns the lines of a rendering, which must be as many as those of
// the tame one and hold nothing that is not printable.
func sameLines(t *testing.T, got, tame string) []string {
	t.Helper()
	lines := strings.Split(strings.TrimSuffix(got, "\n"), "\n")
	if want := strings.Count(tame, "\n"); len(lines) != want || !utf8.ValidString(got) {
		t.Errorf("%d lines, want %d", len(lines), want)
	}
	for _, r := range got {
		if !unicode.IsPrint(r) && !strings.ContainsRune("\n\t\u200c\u200d", r) {
			t.Errorf("holds %U", r)
		}
	}
	return lines
}

// dotSkeleton reduces a DOT graph to its structure: quoted strings to Q, HTML
// labels to their tags.
func dotSkeleton(t *testing.T, dot string) string {
	t.Helper()
	var b strings.Builder
	for i := 0; i < len(dot); i++ {
		switch c := dot[i]; {
		case c == '"':
			for i++; i < len(dot) && dot[i] != '"'; i++ {
				if dot[i] == '\\' {
					i++
				}
			}
			b.WriteByte('Q')
		case c == '=' && i+1 < len(dot) && dot[i+1] == '<':
			depth, start := 0, i+1
			for i++; i < len(dot); i++ {
				if dot[i] == '<' {
					depth++
				} else if dot[i] == '>' {
					if depth--; depth == 0 {
						break
					}
				}
			}
			inner := dot[start+1 : i]
			b.WriteString("=<" + strings.Join(markupOnly.FindAllString(inner, -1), "") + ">")
			if strings.ContainsAny(markupOnly.ReplaceAllString(inner, ""), "<>\"") {
				t.Errorf("unescaped markup in %q", inner)
			}
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}
