package diagrams

import (
	"encoding/json"
	"fmt"
	"html"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/chatconn/chatconn/recording"
)

// wild is a name with everything that means something to some tool.
const wild = "<b>\"x\" & ]]> ~`//a//\n\\:;#{}%[]|\\n 'é' 状態 حالة \u202e --> end "

// mermaid returns the path of mermaid.min.js, which MERMAID names. Without it the
// tests with other tools are skipped; with it, dot, plantuml and Chromium must be
// there as well. "bash .ci/run pictures" brings them.
func mermaid(t *testing.T) string {
	t.Helper()
	path := os.Getenv("MERMAID")
	if path == "" {
		t.Skip("MERMAID is not set")
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	return abs
}

// G1: Graphviz and PlantUML take what is written for them, whatever the names.
func TestOtherToolsTakeIt(t *testing.T) {
	mermaid(t)
	for _, tool := range []struct {
		argv   []string
		render func(Table) string
		want   string
	}{
		{[]string{"dot", "-Tsvg"}, DOT, "</svg>"},
		{[]string{"plantuml", "-syntax"}, PlantUML, "STATE"},
	} {
		t.Run(tool.argv[0], func(t *testing.T) {
			for _, m := range []Table{Chatconn(), door(), hostile(wild)} {
				cmd := exec.Command(tool.argv[0], tool.argv[1:]...)
				cmd.Stdin = strings.NewReader(tool.render(m))
				out, err := cmd.CombinedOutput()
				if err != nil || !strings.Contains(string(out), tool.want) || strings.Contains(strings.ToLower(string(out)), "error") {
					t.Errorf("%s: %v\n%s", m.Name, err, out)
				}
			}
		})
	}
}

// G1: Mermaid draws what is written for it, state diagrams and sequences, whatever
// the names, and shows every name as it is.
func TestMermaidTakesIt(t *testing.T) {
	library := mermaid(t)
	sequence, tame := NewSequence(100), NewSequence(100)
	replay(t, tale, func(s recording.Step) {
		tame.Add(s)
		s.Cause = wild
		sequence.Add(s)
	})
	committed, err := os.ReadFile("generated/chatconn.mmd")
	if err != nil {
		t.Fatal(err)
	}
	names := func(m Table) (all []string) {
		for _, s := range m.States {
			all = append(all, visible(s))
		}
		return all
	}
	drawings := []struct {
		text  string
		shows []string
	}{
		{string(committed), append(names(Chatconn()), "RequestRefused")},
		{Mermaid(door()), append(names(door()), "Draught")},
		{Mermaid(hostile(wild)), append(names(hostile(wild)), visible(wild)+"Push")},
		{Mermaid(hostile("end ")), names(hostile("end "))},
		{Mermaid(hostile("default")), names(hostile("default"))},
		{tame.Mermaid(), []string{"Token source", "Refreshing"}},
		{sequence.Mermaid(), []string{"(" + visible(wild) + ")"}},
		{NewSequence(1).Mermaid(), []string{"Program"}},
	}
	texts := make([]string, len(drawings))
	for i, d := range drawings {
		texts[i] = d.text
	}
	sources, err := json.Marshal(append(texts, "stateDiagram-v2\n  a --> : b"))
	if err != nil {
		t.Fatal(err)
	}
	var drawn []struct{ Text, Error string }
	inBrowser(t, `<script src="file://`+html.EscapeString(library)+`"></script>`, `
		mermaid.initialize({ startOnLoad: false, securityLevel: "strict" });
		for (const [i, source] of `+string(sources)+`.entries()) {
			try {
				const { svg } = await mermaid.render("drawing" + i, source);
				const div = document.createElement("div");
				div.innerHTML = svg;
				for (const style of div.querySelectorAll("style")) style.remove();
				result.push({ Text: div.textContent });
			} catch (e) {
				result.push({ Error: String(e) });
			}
		}`, &drawn)
	if n := len(drawings); len(drawn) != n+1 || drawn[n].Error == "" {
		t.Fatalf("of %d drawings and one that is wrong: %+v", n, drawn)
	}
	plain := func(s string) string { return strings.Join(strings.Fields(s), "") } // lines are broken anywhere
	for i, d := range drawings {
		for _, name := range d.shows {
			if drawn[i].Error != "" || !strings.Contains(plain(drawn[i].Text), plain(name)) {
				t.Errorf("%s\n%s\ndoes not show %q: %q", drawn[i].Error, d.text, name, drawn[i].Text)
				break
			}
		}
	}
}

// G1: in a browser, with the fonts that it has, no text meets another, a line or the
// border of a box either; and no picture runs a script, whatever the names.
func TestNothingOverlapsInABrowser(t *testing.T) {
	mermaid(t)
	pictures := map[string]string{}
	for name, m := range map[string]Table{"chatconn": Chatconn(), "door": door(), "crowd": crowd(4, "State"), "hostile": hostile(wild + `<script>ran = 1</script><img src=x onerror="ran = 1">`)} {
		for look, o := range looks(m) {
			pictures[name+" "+look] = SVG(m, o)
		}
	}
	var timeline Timeline
	replay(t, tale, timeline.Add)
	pictures["timeline"] = timeline.SVG()
	var names, svgs []string
	for name := range pictures {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		svgs = append(svgs, pictures[name])
	}
	list, err := json.Marshal(svgs)
	if err != nil {
		t.Fatal(err)
	}
	// What is on the page, in the order of the elements: the box of each, from its glyphs.
	type box struct{ X, Y, Width, Height float64 }
	var found []struct {
		Ran   bool
		Font  string
		Texts []box
	}
	inBrowser(t, "", `
		window.ran = 0;
		for (const svg of `+string(list)+`) for (const font of ["", "DejaVu Sans", "Liberation Sans"]) {
			document.getElementById("stage").innerHTML = svg;
			const root = document.querySelector("#stage svg");
			if (font) root.style.fontFamily = font;
			await new Promise(done => setTimeout(done, 1));
			result.push({ Ran: !!window.ran || !!root.querySelector("script, foreignObject, img"), Font: font, Texts: [...root.querySelectorAll("text")].map(text => {
				const b = text.getBBox();
				return { X: b.x, Y: b.y, Width: b.width, Height: b.height };
			})});
		}`, &found)
	if len(found) != 3*len(names) {
		t.Fatalf("%d pictures were shown, want %d", len(found), 3*len(names))
	}
	for i, f := range found {
		name := names[i/3] + " " + f.Font
		if f.Ran {
			t.Errorf("%s: a script ran, or could", name)
		}
		var boxes []area
		for _, b := range f.Texts {
			// Above and below the letters the font leaves room, which may overlap.
			boxes = append(boxes, area{"", b.X, b.Y + 0.15*b.Height, b.X + b.Width, b.Y + 0.95*b.Height})
		}
		for _, c := range collisionsOf(t, svgs[i/3], boxes) {
			t.Errorf("%s: %s", name, c)
		}
	}
}

// inBrowser runs a script, which may wait and pushes what it finds to result, on a
// page that nothing but the head given here loads anything into.
func inBrowser(t *testing.T, head, script string, result any) {
	t.Helper()
	var browser string
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			browser = path
			break
		}
	}
	if browser == "" {
		t.Fatal("no Chromium is installed")
	}
	dir := t.TempDir()
	page := filepath.Join(dir, "page.html")
	content := fmt.Sprintf(`<!doctype html><meta charset="utf-8">%s<div id="stage"></div><pre id="result"></pre>
<script type="module">
	const result = [];
	try {%s} catch (e) { result.push({ Error: "" + e }) }
	document.getElementById("stage").remove();
	document.getElementById("result").textContent = JSON.stringify(result);
</script>`, head, strings.ReplaceAll(script, "</script", `<\/script`))
	if err := os.WriteFile(page, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
		"--user-data-dir="+filepath.Join(dir, "profile"), "--virtual-time-budget=30000", "--dump-dom", "file://"+page)
	var log strings.Builder
	cmd.Stderr = &log
	dom, err := cmd.Output()
	_, rest, begun := strings.Cut(string(dom), `<pre id="result">`)
	text, _, ended := strings.Cut(rest, "</pre>")
	if err != nil || !begun || !ended || text == "" {
		t.Fatalf("the browser showed no result: %v\n%.2000s\n%.2000s", err, dom, log.String())
	}
	if err := json.Unmarshal([]byte(html.UnescapeString(text)), result); err != nil {
		t.Fatalf("%v: %.500s", err, text)
	}
}
