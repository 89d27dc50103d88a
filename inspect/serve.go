package inspect

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"html/template"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

//go:embed assets
var files embed.FS

var pageTemplate = template.Must(template.ParseFS(files, "assets/page.html"))

// asset is a file that never changes while the program runs.
type asset struct {
	kind string
	text []byte
}

var assets = sync.OnceValue(func() map[string]asset {
	read := func(name string) []byte {
		text, err := files.ReadFile("assets/" + name)
		if err != nil {
			panic("BUG: inspect: " + err.Error())
		}
		return text
	}
	return map[string]asset{
		"page.css": {"text/css; charset=utf-8", append(read("page.css"), colours()...)},
		"page.js":  {"text/javascript; charset=utf-8", read("page.js")},
		"icon.svg": {"image/svg+xml", read("icon.svg")},
	}
})

// edition tells a page that was loaded from another version of the program.
var edition = sync.OnceValue(func() string {
	h := sha256.New()
	for _, name := range []string{"page.css", "page.js"} {
		h.Write(assets()[name].text)
	}
	html, _ := files.ReadFile("assets/page.html")
	h.Write(html)
	return hex.EncodeToString(h.Sum(nil)[:6])
})

// policy permits nothing but the page's own files: no script or style within its
// text, no other origin, no frame around it.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; " +
	"base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

// writeLimit is how long a browser may take for what it is sent.
const writeLimit = 10 * time.Second

// ServeHTTP serves the page and what it loads. It takes GET and HEAD only, and
// nothing in a request changes anything.
func (p *Page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.begin()
	h := w.Header()
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		h.Set("Allow", "GET, HEAD")
		http.Error(w, "the page only shows: GET and HEAD", http.StatusMethodNotAllowed)
		return
	}
	name := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
	if isForeign(r, name) {
		http.Error(w, "another site's page may link here, and nothing else", http.StatusForbidden)
		return
	}
	if name == "events" {
		p.serveEvents(w, r)
		return
	}
	select {
	case p.requests <- struct{}{}:
		defer func() { <-p.requests }()
	default:
		tooMany(w)
		return
	}
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeLimit))
	switch a, ok := assets()[name]; {
	case ok:
		h.Set("Content-Type", a.kind)
		_, _ = w.Write(a.text)
	case r.URL.Path == "": // mounted without its slash, by StripPrefix
		u, _ := url.ParseRequestURI(r.RequestURI)
		if u == nil {
			u = &url.URL{}
		}
		h.Set("Location", url.PathEscape(u.Path[strings.LastIndexByte(u.Path, '/')+1:])+"/")
		w.WriteHeader(http.StatusMovedPermanently)
	case name == "":
		p.servePage(w, r)
	case name == "list":
		q := queryOf(r)
		h.Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(p.list(q.text, q.state, q.from, q.n))
	case name == "recording":
		p.serveRecording(w, r)
	default:
		http.NotFound(w, r)
	}
}

// isForeign reports whether another site's page loads a part of this one, which
// it could not read, but could load often.
func isForeign(r *http.Request, name string) bool {
	switch r.Header.Get("Sec-Fetch-Site") {
	case "", "same-origin", "none":
		return false
	}
	return name != "" || r.Header.Get("Sec-Fetch-Mode") != "navigate"
}

func tooMany(w http.ResponseWriter) {
	w.Header().Set("Retry-After", "5")
	http.Error(w, "too many look at this page at the same time", http.StatusServiceUnavailable)
}

// query is what a request asks for, within bounds.
type query struct {
	text, state, key string
	from, n          int
}

const (
	listSize = 100 // rows on a page without JavaScript
	mostRows = 500
	longText = 256
)

func queryOf(r *http.Request) query {
	values := r.URL.Query()
	number := func(name string, standard, most int) int {
		n, err := strconv.Atoi(values.Get(name))
		if err != nil || n < 0 {
			return standard
		}
		return min(n, most)
	}
	q := query{
		text: printable(values.Get("q")), state: values.Get("state"), key: printable(values.Get("conn")),
		from: number("from", 0, 1<<30), n: number("n", listSize, mostRows),
	}
	if len(q.text) > longText {
		q.text = strings.ToValidUTF8(q.text[:longText], "")
	}
	if !slices.Contains(stateNames, q.state) {
		q.state = ""
	}
	return q
}

// link is an address on the page. Defaults are left out.
func (q query) link() string {
	v := url.Values{}
	for name, value := range map[string]string{"q": q.text, "state": q.state, "conn": q.key} {
		if value != "" {
			v.Set(name, value)
		}
	}
	if q.from > 0 {
		v.Set("from", strconv.Itoa(q.from))
	}
	return "?" + v.Encode()
}

// whole is all that the page shows when it is loaded, and without JavaScript ever.
type whole struct {
	query
	list
	Edition  string
	States   []filter
	Rows     []linkedRow
	Prev     string // address of the rows before; empty: there are none
	Next     string
	Wanted   string // the connection that was asked for
	Shown    bool   // it is there
	Detail   detail
	Status   string
	Download string
	Earlier  uint64
	Steps    []step // the latest first
	Drawing  template.HTML
	Lines    int
}

func (w whole) Text() string   { return w.text }
func (w whole) Filter() string { return w.state }

type filter struct {
	Name  string
	Count int
	Link  string
	On    bool
}

type linkedRow struct {
	row
	Link string
	On   bool
}

func (p *Page) servePage(w http.ResponseWriter, r *http.Request) {
	q := queryOf(r)
	q.n = listSize
	d := whole{query: q, list: p.list(q.text, q.state, q.from, q.n), Edition: edition(), Wanted: q.key, Lines: p.lines()}
	with := func(change func(*query)) string {
		q := q
		change(&q)
		return q.link()
	}
	d.States = append(d.States, filter{"all", d.Found, with(func(q *query) { q.state, q.from = "", 0 }), q.state == ""})
	for _, s := range stateNames {
		d.States = append(d.States, filter{s, d.Counts[s], with(func(q *query) { q.state, q.from = s, 0 }), s == q.state})
	}
	if q.from > 0 {
		d.Prev = with(func(q *query) { q.from = max(0, q.from-listSize) })
	}
	if q.from+len(d.list.Rows) < d.Matched {
		d.Next = with(func(q *query) { q.from += listSize })
	}
	e := p.find(q.key)
	for _, row := range d.list.Rows {
		d.Rows = append(d.Rows, linkedRow{row, with(func(q *query) { q.key = row.Key }), e != nil && row.Key == e.key})
	}
	var last *step
	current := ""
	if e != nil {
		d.Shown, d.Detail, d.Wanted = true, e.detail(), e.key
		d.Status = d.Detail.status(time.Now())
		d.Download = "recording?" + url.Values{"conn": {e.key}}.Encode()
		d.Steps, d.Earlier = e.history()
		slices.Reverse(d.Steps)
		current = d.Detail.State
		if len(d.Steps) > 0 {
			last, current = &d.Steps[0], d.Steps[0].To
		}
	}
	d.Drawing = drawing(current, last)
	var b bytes.Buffer
	if err := pageTemplate.Execute(&b, d); err != nil {
		http.Error(w, "the page cannot be made", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = w.Write(b.Bytes())
}

func (p *Page) lines() int {
	if p.Lines > 0 {
		return p.Lines
	}
	return 256
}

// status says in words what a connection is doing.
func (d detail) status(now time.Time) string {
	switch {
	case d.RetryAt > 0:
		return "attempt " + strconv.Itoa(d.Attempt) + " in " + max(0, time.UnixMilli(d.RetryAt).Sub(now)).Round(100*time.Millisecond).String()
	case d.ConnectedAt > 0:
		return "connected for " + now.Sub(time.UnixMilli(d.ConnectedAt)).Round(time.Second).String()
	case d.Attempt > 0:
		return "attempt " + strconv.Itoa(d.Attempt) + " runs"
	}
	return ""
}

// serveRecording sends the lines that are kept of one Conn, as a file.
func (p *Page) serveRecording(w http.ResponseWriter, r *http.Request) {
	e := p.find(queryOf(r).key)
	if e == nil {
		http.Error(w, "there is no such connection any more", http.StatusNotFound)
		return
	}
	file := strings.Map(func(r rune) rune {
		if r == '-' || r == '_' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' {
			return r
		}
		return '_'
	}, e.key)
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.Header().Set("Content-Disposition", `attachment; filename="chatconn-`+file+`.jsonl"`)
	if r.Method == http.MethodHead {
		return
	}
	_, _ = e.tape.WriteTo(w)
}
