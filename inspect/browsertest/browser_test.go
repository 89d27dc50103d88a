// Package browsertest looks at the live page with a browser. It is a module of its
// own, so that nobody who uses the library gets what drives the browser.
package browsertest

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"github.com/chatconn/chatconn"
	"github.com/chatconn/chatconn/devserver"
	"github.com/chatconn/chatconn/fsm"
	"github.com/chatconn/chatconn/inspect"
	"github.com/chatconn/chatconn/tokens"
)

// limit is far more than anything here takes.
const limit = time.Minute

// chrome returns where the browser is; without one the test is skipped, but not
// where the environment says that there must be one.
func chrome(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	if os.Getenv("CHATCONN_NEED_BROWSER") != "" {
		t.Fatal("no chromium is installed")
	}
	t.Skip("no chromium is installed")
	return ""
}

// tab is a page in the browser, and all that it asked for and complained about.
type tab struct {
	*testing.T
	ctx context.Context

	mu       sync.Mutex
	problems []string
	requests []string
}

// start returns the browser, which all tests share, each with a tab of its own.
var start func(path string) context.Context

func TestMain(m *testing.M) {
	var browser struct {
		sync.Once
		ctx context.Context
	}
	var cancel context.CancelFunc
	dir, err := os.MkdirTemp("", "chatconn-browser-")
	if err != nil {
		panic(err)
	}
	start = func(path string) context.Context {
		browser.Do(func() {
			options := append(slices.Clone(chromedp.DefaultExecAllocatorOptions[:]), chromedp.ExecPath(path), chromedp.UserDataDir(dir),
				chromedp.NoSandbox, chromedp.DisableGPU, chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true),
				chromedp.WSURLReadTimeout(limit))
			var allocated context.Context
			allocated, cancel = chromedp.NewExecAllocator(context.Background(), options...)
			browser.ctx, _ = chromedp.NewContext(allocated)
			if err := chromedp.Run(browser.ctx); err != nil {
				panic("the browser does not start: " + err.Error())
			}
		})
		return browser.ctx
	}
	code := m.Run()
	if cancel != nil {
		_ = chromedp.Cancel(browser.ctx)
		cancel()
	}
	os.RemoveAll(dir)
	os.Exit(code)
}

func newTab(t *testing.T) *tab {
	t.Helper()
	ctx, cancel := chromedp.NewContext(start(chrome(t)))
	t.Cleanup(cancel)
	ctx, cancelLimit := context.WithTimeout(ctx, limit)
	t.Cleanup(cancelLimit)
	b := &tab{T: t, ctx: ctx}
	chromedp.ListenTarget(ctx, func(event any) {
		b.mu.Lock()
		defer b.mu.Unlock()
		switch e := event.(type) {
		case *runtime.EventConsoleAPICalled:
			text, _ := json.Marshal(e.Args)
			b.problems = append(b.problems, fmt.Sprintf("console.%s: %s", e.Type, text))
		case *runtime.EventExceptionThrown:
			b.problems = append(b.problems, "exception: "+e.ExceptionDetails.Error())
		case *log.EventEntryAdded:
			b.problems = append(b.problems, fmt.Sprintf("%s %s: %s %s", e.Entry.Source, e.Entry.Level, e.Entry.Text, e.Entry.URL))
		case *network.EventRequestWillBeSent:
			b.requests = append(b.requests, e.Request.URL)
		}
	})
	b.run(network.Enable(), log.Enable(), runtime.Enable())
	return b
}

func (b *tab) run(actions ...chromedp.Action) {
	b.Helper()
	if err := chromedp.Run(b.ctx, actions...); err != nil {
		b.Fatalf("%v; %q", err, b.complaints())
	}
}

func (b *tab) complaints() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.problems)
}

// eval runs a script from outside the page, as a developer's tools do, and returns
// what it comes to.
func eval[T any](b *tab, script string) (v T) {
	b.Helper()
	b.run(chromedp.Evaluate(script, &v))
	return v
}

// until waits for a condition in the page.
func (b *tab) until(what, condition string) {
	b.Helper()
	var is bool
	if err := chromedp.Run(b.ctx, chromedp.Poll(condition, &is, chromedp.WithPollingInterval(20*time.Millisecond), chromedp.WithPollingTimeout(20*time.Second))); err != nil {
		b.Fatalf("%s: %v; %q; the page says %.300q", what, err, b.complaints(), eval[string](b, "document.body.innerText"))
	}
}

// clean fails if the page complained of anything, or asked anybody else.
func (b *tab) clean(origin string) {
	b.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, p := range b.problems {
		b.Errorf("the console says: %.400s", p)
	}
	for _, u := range b.requests {
		if !strings.HasPrefix(u, origin+"/") {
			b.Errorf("the page asked for %s", u)
		}
	}
	if len(b.requests) == 0 {
		b.Error("no requests were seen at all")
	}
}

// site serves a page at an address that stays the same.
type site struct {
	t      *testing.T
	addr   string
	server *http.Server
}

func serve(t *testing.T, h http.Handler) *site {
	s := &site{t: t, addr: "127.0.0.1:0"}
	s.start(h)
	t.Cleanup(func() { s.server.Close() })
	return s
}

func (s *site) start(h http.Handler) {
	s.t.Helper()
	var listener net.Listener
	var err error
	for range 100 { // the address may still be on its way out
		if listener, err = net.Listen("tcp", s.addr); err == nil {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	s.addr = listener.Addr().String()
	s.server = &http.Server{Handler: h}
	go s.server.Serve(listener)
}

func (s *site) origin() string { return "http://" + s.addr }

func chat(t *testing.T) *devserver.Server {
	t.Helper()
	server, err := devserver.Start(devserver.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	return server
}

func connect(t *testing.T, page *inspect.Page, server *devserver.Server, name string) *chatconn.Conn {
	t.Helper()
	conn, err := page.New(name, chatconn.Config{
		APIKey: server.APIKey(), BaseURL: server.URL(), RetryFirst: 200 * time.Millisecond, RetryMax: time.Second, MinDialInterval: 10 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	source := tokens.Func(func(context.Context) (string, error) { return server.Token("john", 0), nil })
	if _, err := conn.ConnectUser(t.Context(), chatconn.User{ID: "john"}, source); err != nil {
		t.Fatal(err)
	}
	return conn
}

// watchHistory notes each step that appears on the page, as it appears, and each
// state that was lit.
const watchHistory = `
	window.seen = []; window.lit = [];
	new MutationObserver((all) => { for (const m of all) for (const n of m.addedNodes) seen.push(Number(n.dataset.seq)) }).observe(document.getElementById("history"), {childList: true});
	new MutationObserver(() => { const c = document.querySelector(".current"); if (c) lit.push(c.dataset.state) }).observe(document.getElementById("picture"), {attributes: true, subtree: true, attributeFilter: ["class"]});
	true`

// G2: every state change of a scripted life appears, in order, with the state lit
// and the last transition traced; nothing is said on the console, and nothing is
// asked of another origin.
func TestScriptedLife(t *testing.T) {
	server, page := chat(t), new(inspect.Page)
	mux := http.NewServeMux()
	mux.Handle("/debug/chatconn/", page)
	site := serve(t, mux)
	b := newTab(t)
	conn := connect(t, page, server, "john")
	changes := conn.Watch(t.Context())
	b.run(chromedp.Navigate(site.origin() + "/debug/chatconn/?conn=john"))
	b.until("the page is live", `document.getElementById("link").textContent === "Live" && document.querySelector(".current")?.dataset.state === "Connected"`)
	before := eval[int](b, `document.querySelectorAll("#history li").length`)
	eval[bool](b, watchHistory)

	went := []string{"Offline → Connecting", "Connecting → Connected"}
	to := func(states ...fsm.State) {
		t.Helper()
		for c := range changes {
			if c.Moved() {
				went = append(went, c.From.String()+" → "+c.To.String())
			}
			if c.Moved() && c.To == states[0] {
				if states = states[1:]; len(states) == 0 {
					return
				}
			}
		}
	}
	server.DropAll()
	to(fsm.Connecting, fsm.Connected)
	server.ExpireTokens("john", true)
	to(fsm.Refreshing, fsm.Connecting, fsm.Connected)
	conn.Background()
	to(fsm.Paused)
	b.until("Paused is lit", `document.querySelector(".current").dataset.state === "Paused" && document.getElementById("state").textContent === "Paused"`)
	conn.Foreground()
	to(fsm.Connecting, fsm.Connected)
	server.Stop()
	to(fsm.Connecting)
	b.until("the time to the next attempt is counted down", `/attempt \d+ in \d/.test(document.getElementById("status").textContent)`)
	if err := server.Restart(); err != nil {
		t.Fatal(err)
	}
	to(fsm.Connected)
	conn.NetworkLost()
	to(fsm.Paused)
	go conn.Close()
	to(fsm.Offline)
	b.until("the end", `document.getElementById("state").textContent === "Closed"`)

	moves := eval[[]string](b, `[...document.querySelectorAll("#history .moved .way")].map((n) => n.textContent).reverse()`)
	if !slices.Equal(moves, went) || len(went) < 14 {
		t.Errorf("the page shows\n%v, and it went\n%v", moves, went)
	}
	seen := eval[[]int](b, "seen")
	for i, seq := range seen {
		if seq != before+i+1 {
			t.Fatalf("step %d came as the %dth: %v", seq, before+i+1, seen)
		}
	}
	if kept := eval[int](b, `document.querySelectorAll("#history li").length`); kept != before+len(seen) {
		t.Errorf("the history has %d steps, want %d", kept, before+len(seen))
	}
	lit := slices.Compact(eval[[]string](b, "lit"))
	if !slices.Contains(lit, "Paused") || lit[len(lit)-1] != "Offline" {
		t.Errorf("lit were %v", lit)
	}
	if traced := eval[string](b, `[...document.querySelectorAll(".machine .lit")].map((n) => n.dataset.from + (n.dataset.to || n.dataset.event)).sort().join()`); traced != "PausedClose,PausedOffline" {
		t.Errorf("traced is %s", traced)
	}
	if n := eval[string](b, `document.getElementById("c-loads").textContent`); n != fmt.Sprint(conn.Stats().Loads) {
		t.Errorf("the page counts %s loads", n)
	}
	b.clean(site.origin())
}

// G2: a page that is left open through a restart says that it is cut off, and goes
// on with the next program by itself.
func TestRestart(t *testing.T) {
	server, page := chat(t), new(inspect.Page)
	site := serve(t, page)
	b := newTab(t)
	connect(t, page, server, "john").Background()
	b.run(chromedp.Navigate(site.origin() + "/?conn=john"))
	b.until("the page is live", `document.getElementById("link").textContent === "Live" && document.querySelectorAll("#history li").length === 5`)
	b.clean(site.origin())
	site.server.Close()
	b.until("it says so", `document.getElementById("link").textContent.startsWith("Disconnected since") && document.body.classList.contains("lost-link")`)

	again := new(inspect.Page)
	site.start(again)
	b.until("it is live again", `document.getElementById("link").textContent === "Live"`)
	b.until("john is not there", `document.getElementById("absent").textContent.includes("not there")`)
	conn := connect(t, again, server, "john")
	b.until("it shows the new john", `document.querySelector(".current")?.dataset.state === "Connected" && document.querySelectorAll("#history li").length === 4`)
	conn.Background()
	b.until("and follows", `document.querySelector(".current")?.dataset.state === "Paused"`)
	if names := eval[string](b, `[...document.querySelectorAll(".row .key")].map((n) => n.textContent).join()`); names != "john" {
		t.Errorf("the list has %s", names)
	}
	for _, p := range b.complaints() { // that nobody answered is a fact, and no fault of the page
		if !strings.Contains(p, "net::ERR_") {
			t.Errorf("the console says: %s", p)
		}
	}
}

// G2: 10,000 connections scroll and search, and are drawn with few elements.
func TestTenThousand(t *testing.T) {
	page := new(inspect.Page)
	for i := range 10_000 {
		conn, err := page.New(fmt.Sprintf("user-%05d", i), chatconn.Config{APIKey: "key"})
		if err != nil {
			t.Fatal(err)
		}
		if i%1000 == 0 {
			conn.Background()
			conn.Foreground()
		}
	}
	site := serve(t, page)
	b := newTab(t)
	b.run(chromedp.EmulateViewport(1280, 900), chromedp.Navigate(site.origin()+"/"))
	b.until("the list is there", `document.querySelector("#list.virtual") !== null && document.querySelector("#filters b").textContent === "10000" && document.querySelectorAll(".row").length > 20`)
	few := func() {
		t.Helper()
		if n := eval[int](b, `document.querySelectorAll(".row").length`); n > 200 {
			t.Errorf("there are %d rows in the page", n)
		}
	}
	visible := `[...document.querySelectorAll(".row")].filter((r) => { const a = r.getBoundingClientRect(), l = document.getElementById("list").getBoundingClientRect(); return a.top < l.bottom - 1 && a.bottom > l.top + 1 }).map((r) => r.dataset.key).sort()`
	for _, at := range []int{5000, 9990, 1234, 0} {
		eval[bool](b, fmt.Sprintf(`document.getElementById("list").scrollTop = %d * 34; true`, at))
		first := fmt.Sprintf("user-%05d", at)
		if at == 9990 { // the end of the list is as far down as it goes
			first = "user-09999"
		}
		b.until("scrolled to "+first, fmt.Sprintf(`%s.includes(%q) && %s.length >= Math.floor(document.getElementById("list").clientHeight / 34)`, visible, first, visible))
		few()
	}
	b.run(chromedp.SendKeys(`#search input`, "user-0777"))
	b.until("the search has found ten", `document.querySelectorAll(".row").length === 10 && document.querySelector("#filters b").textContent === "10"`)
	b.run(chromedp.Click(`.row[data-key="user-07773"]`, chromedp.ByQuery))
	b.until("the one that was chosen is shown", `document.querySelector("#key").textContent === "user-07773" && location.search.includes("conn=user-07773")`)
	search := func(text string) {
		eval[bool](b, fmt.Sprintf(`{ const i = document.querySelector("#search input"); i.value = %s; i.dispatchEvent(new Event("input")); true }`, quote(text)))
	}
	search("nobody")
	b.until("nobody is found", `document.querySelector(".nothing")?.textContent.startsWith("No connection")`)
	search("")
	b.run(chromedp.Click(`#filters a[data-filter="Paused"]`, chromedp.ByQuery))
	b.until("none is paused", `document.querySelector(".nothing") !== null`)
	b.run(chromedp.Click(`#filters a[data-filter="Offline"]`, chromedp.ByQuery))
	b.until("all are offline", `document.querySelectorAll(".row").length > 20`)
	few()
	b.clean(site.origin())
}

var hostile = []string{
	`<script>window.harm=1</script>`, `"><img src=x onerror="window.harm=1">`, `'><svg onload=window.harm=1>`, `]]><script>window.harm=1</script>`,
	`</title></style></textarea><script>window.harm=1</script>`, "a\nb\r\n\r\nevent: harm\ndata: {}", "\u202eevil\u2066", "`${window.harm=1}`{{.}}",
	`javascript:window.harm=1`, "\x00\x1b[2J\xff", "&lt;script&gt;window.harm=1&lt;/script&gt;", "名前 שם الاسم 🙂", "?conn=a&q=b#c", `__proto__`, `constructor`, `{"key":"x"}`,
	strings.Repeat("<b>", 60),
}

// G2: no name runs as a script or becomes an element; and a script that got into
// the page all the same would not run, since the policy forbids it.
func TestHostileNames(t *testing.T) {
	page := new(inspect.Page)
	for _, name := range hostile {
		conn, err := page.New(name, chatconn.Config{APIKey: "key"})
		if err != nil {
			t.Fatal(err)
		}
		conn.Background()
	}
	site := serve(t, page)
	b := newTab(t)
	b.run(chromedp.Navigate(site.origin() + "/"))
	b.until("all are listed", fmt.Sprintf(`document.querySelectorAll(".row").length === %d`, len(hostile)))
	keys := eval[[]string](b, `[...document.querySelectorAll(".row")].map((r) => r.dataset.key)`)
	for _, key := range keys { // chosen from the list
		eval[bool](b, fmt.Sprintf(`for (const r of document.querySelectorAll(".row")) if (r.dataset.key === %s) r.click(); true`, quote(key)))
		b.until(key+" is shown", fmt.Sprintf(`document.getElementById("key").textContent === %s && document.querySelectorAll("#history li").length === 1`, quote(key)))
	}
	harmless := func() {
		t.Helper()
		if eval[bool](b, `window.harm !== undefined || document.querySelector("main script, main img, main b b, main svg svg") !== null`) {
			t.Error("a name became an element, or ran")
		}
	}
	harmless()
	for i, key := range keys { // and, some of them, asked for in the address
		if i%4 != 0 {
			continue
		}
		b.run(chromedp.Navigate(site.origin() + "/?q=" + url.QueryEscape(key) + "&conn=" + url.QueryEscape(key)))
		b.until(key+" is shown when asked for", fmt.Sprintf(`document.getElementById("key").textContent === %s && document.getElementById("link").textContent === "Live"`, quote(key)))
		harmless()
	}
	b.clean(site.origin())

	for what, script := range map[string]string{
		"an inline script":          `const s = document.createElement("script"); s.append("window.harm=1"); document.body.append(s); true`,
		"an attribute":              `try { const i = document.createElement("a"); i.setAttribute("onclick", "window.harm=1"); document.body.append(i); i.click() } catch (e) {} true`,
		"markup":                    `try { document.body.insertAdjacentHTML("beforeend", "<img src=x onerror='window.harm=1'>") } catch (e) {} true`,
		"another origin's script":   `try { const s = document.createElement("script"); s.src = "http://127.0.0.2:1/x.js"; document.body.append(s) } catch (e) {} true`,
		"another origin's image":    `new Image().src = "http://127.0.0.2:1/x.png"; true`,
		"eval":                      `try { setTimeout("window.harm=1", 0) } catch (e) {} true`,
		"a request to another site": `fetch("http://127.0.0.2:1/x").catch(() => {}); true`,
	} {
		eval[bool](b, `window.violations = 0; document.addEventListener("securitypolicyviolation", () => window.violations++, {once: true}); true`)
		eval[bool](b, script)
		b.until(what+" is against the policy", `window.violations > 0`)
		if eval[bool](b, `window.harm !== undefined`) {
			t.Errorf("%s ran", what)
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, u := range b.requests {
		if strings.Contains(u, "127.0.0.2") {
			// Chromium tells of a request before the policy ends it.
			continue
		}
		if !strings.HasPrefix(u, site.origin()+"/") {
			t.Errorf("the page asked for %s", u)
		}
	}
}

func quote(s string) string {
	text, _ := json.Marshal(s)
	return string(text)
}

// Without JavaScript the page shows the same, and looks again by itself.
func TestWithoutJavaScript(t *testing.T) {
	server, page := chat(t), new(inspect.Page)
	site := serve(t, page)
	b := newTab(t)
	conn := connect(t, page, server, "john")
	b.run(emulation.SetScriptExecutionDisabled(true), chromedp.Navigate(site.origin()+"/?conn=john"))
	text := func() (text string) {
		for chromedp.Run(b.ctx, chromedp.OuterHTML("html", &text, chromedp.ByQuery)) != nil { // it is just looking again
			if b.ctx.Err() != nil {
				b.Fatal(b.ctx.Err())
			}
		}
		return text
	}
	if !strings.Contains(text(), `<g class="state current" data-state="Connected">`) {
		t.Error("the state is not lit")
	}
	conn.Background()
	for end := time.Now().Add(20 * time.Second); !strings.Contains(text(), `<g class="state current" data-state="Paused">`); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it did not look again")
		}
	}
	b.clean(site.origin())
}

// Nothing on the page is wider than the page, on a desk or on a phone, in the light
// or in the dark; and it can be looked at: with CHATCONN_SHOTS the pictures are
// written to that directory.
func TestLooks(t *testing.T) {
	server, page := chat(t), new(inspect.Page)
	site := serve(t, page)
	conn := connect(t, page, server, "john")
	for i := range 40 {
		other, err := page.New(fmt.Sprintf("user-%02d", i), chatconn.Config{APIKey: "key"})
		if err != nil {
			t.Fatal(err)
		}
		if i%3 == 0 {
			other.Background()
			go other.ConnectAnonymous(t.Context())
		}
		t.Cleanup(func() { other.Close() })
	}
	connect(t, page, server, "jane")
	connect(t, page, server, "an unusually long name, as a program may give one to its connections").Close()
	server.ExpireTokens("john", true)
	conn.Background()
	conn.Foreground()
	if _, err := conn.Wait(t.Context(), fsm.Connected); err != nil {
		t.Fatal(err)
	}
	server.Stop()
	b := newTab(t)
	dir := os.Getenv("CHATCONN_SHOTS")
	for _, name := range []string{"1280 light", "1280 dark", "800 light", "400 light", "400 dark"} {
		var width int64
		var mood string
		fmt.Sscan(name, &width, &mood)
		b.run(
			emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: mood}}),
			chromedp.EmulateViewport(width, 1000), chromedp.Navigate(site.origin()+"/?conn=john"),
		)
		b.until("the page is live", `document.getElementById("link").textContent === "Live" && document.querySelectorAll("#history li").length > 5`)
		if eval[bool](b, `document.documentElement.scrollWidth > innerWidth`) {
			t.Errorf("%s: the page is wider than the window", name)
		}
		if dir != "" {
			var shot []byte
			b.run(chromedp.FullScreenshot(&shot, 100))
			if err := os.WriteFile(dir+"/"+strings.ReplaceAll(name, " ", "-")+".png", shot, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	b.clean(site.origin())
}
