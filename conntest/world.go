package conntest

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chatconn/chatconn"
	"github.com/chatconn/chatconn/devserver"
	"github.com/chatconn/chatconn/transport/memnet"
)

// World is what a script plays in: one Conn, one server, one network. It lives in
// a bubble of testing/synctest and ends with its script.
type World struct {
	opts    Options
	cfg     chatconn.Config
	conn    *chatconn.Conn // nil until the first command that is no config
	server  *devserver.Server
	network *memnet.Network
	ctx     context.Context // of everything that the script starts
	cancel  context.CancelFunc
	close   func() error // the sink

	coverage Coverage
	observed []string
	waits    waits

	names    names          // of random ids
	sockets  map[string]int // in the order of their opening
	logged   int            // entries of the server's record already taken
	saw      []string       // what the server saw since somebody asked
	watchers int
	kicked   bool // sockets were told to go by error frames: the server counts them for a moment longer

	mu      sync.Mutex // guards what follows
	ended   bool
	lines   []line
	records []record
	changes []chatconn.Change
	faults  []string // errors in the log
	calls   []*call
	sources sources
	way     string        // of dials: "", "block", "hold"
	release chan struct{} // closed by release, and made anew
	readers []*reader
}

// line is one thing that happened.
type line struct {
	at      time.Time
	rank    rank
	key     string // orders lines of one rank and one moment that may race
	text    string
	hidden  bool // from the transcript
	private bool // not to be observed from outside
	beat    bool // a health check of the client: how many fit beside a random wait is chance
}

// rank orders the lines of one moment.
type rank int

const (
	transition rank = iota
	asked           // of a source
	delivered       // to readers and watchers
	returned        // by calls
	printed         // by the program
	served          // what the server saw
)

// call is a call of the program that may not have returned yet.
type call struct {
	name   string
	cancel context.CancelFunc
	done   bool
}

func newWorld(t *testing.T, o Options) *World {
	w := &World{
		opts: o, network: memnet.New(),
		names: names{}, sockets: map[string]int{}, release: make(chan struct{}),
	}
	w.ctx, w.cancel = context.WithCancel(context.Background())
	w.sources.last = map[string]string{}
	var err error
	w.server, err = devserver.Start(devserver.Options{Addr: "127.0.0.1:8080", Listen: w.network.Listen, APIKey: "key"})
	if err != nil {
		t.Fatal(err)
	}
	if w.close, err = w.sink(); err != nil {
		t.Fatal(err)
	}
	w.cfg = chatconn.Config{APIKey: w.server.APIKey(), BaseURL: w.server.URL(), DialContext: w.dial}
	if o.Configure != nil {
		o.Configure(&w.cfg)
	}
	return w
}

// Conn returns the connection of the script.
func (w *World) Conn() *chatconn.Conn { return w.conn }

// Server returns the server that the connection talks to.
func (w *World) Server() *devserver.Server { return w.server }

// Network returns the network between the two.
func (w *World) Network() *memnet.Network { return w.network }

// Context ends with the script.
func (w *World) Context() context.Context { return w.ctx }

// Print adds a line to the transcript of the command that runs.
func (w *World) Print(format string, args ...any) {
	w.add(line{rank: printed, text: fmt.Sprintf(format, args...)})
}

// Call runs a call of the program in the background; what f returns is printed
// once it does, after the call's name. The command cancel ends its context.
func (w *World) Call(name string, f func(ctx context.Context) string) { w.call(name, 0, f) }

func (w *World) call(name string, timeout time.Duration, f func(ctx context.Context) string) {
	ctx, cancel := context.WithCancel(w.ctx)
	if timeout > 0 {
		cancel()
		ctx, cancel = context.WithTimeout(w.ctx, timeout)
	}
	c := &call{name: name, cancel: cancel}
	w.mu.Lock()
	w.calls = append(w.calls, c)
	w.mu.Unlock()
	go func() {
		defer cancel()
		text := f(ctx)
		w.add(line{rank: returned, key: name, text: name + ": " + text})
		w.mu.Lock()
		defer w.mu.Unlock()
		c.done = true
	}()
}

func (w *World) add(l line) {
	l.at = time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lines = append(w.lines, l)
}

// configure sets fields of the configuration by their names in lower case with
// underscores: retry_first=1s.
func (w *World) configure(args []string) error {
	if w.conn != nil {
		return errors.New("the Conn is made already: config comes first")
	}
	for _, arg := range args {
		key, value, _ := strings.Cut(arg, "=")
		name := ""
		for _, part := range strings.Split(key, "_") {
			if part != "" {
				name += strings.ToUpper(part[:1]) + part[1:]
			}
		}
		field := reflect.ValueOf(&w.cfg).Elem().FieldByName(name)
		if !field.IsValid() {
			return fmt.Errorf("no field %s in Config", name)
		}
		var parsed any
		var err error
		switch field.Interface().(type) {
		case time.Duration:
			parsed, err = time.ParseDuration(value)
		case bool:
			parsed, err = strconv.ParseBool(value)
		case int:
			parsed, err = strconv.Atoi(value)
		case int64:
			parsed, err = strconv.ParseInt(value, 10, 64)
		default:
			return fmt.Errorf("%s cannot be set by a script", name)
		}
		if err != nil {
			return err
		}
		field.Set(reflect.ValueOf(parsed))
	}
	return nil
}

// begin makes the Conn.
func (w *World) begin() error {
	cfg := w.cfg
	cfg.Record = io.Writer(recorder{w})
	if w.cfg.Record != nil {
		cfg.Record = io.MultiWriter(w.cfg.Record, cfg.Record)
	}
	next := slog.Handler(slog.DiscardHandler)
	if w.cfg.Logger != nil {
		next = w.cfg.Logger.Handler()
	}
	cfg.Logger = slog.New(alarm{next, w})
	w.waits = newWaits(cfg)
	create := w.opts.New
	if create == nil {
		create = chatconn.New
	}
	var err error
	if w.conn, err = create(cfg); err != nil {
		return err
	}
	changes := w.conn.Watch(w.ctx)
	go func() {
		<-changes // the first value tells of no change
		for change := range changes {
			w.mu.Lock()
			w.changes = append(w.changes, change)
			w.mu.Unlock()
		}
	}()
	if w.opts.Start != nil {
		w.opts.Start(w)
	}
	return nil
}

// perform carries out a command and waits until nothing happens any more.
func (w *World) perform(c *command) error {
	args := words(c.text)
	if args[0] == "config" {
		return w.configure(args[1:])
	}
	if w.conn == nil {
		if err := w.begin(); err != nil {
			return err
		}
	}
	do := w.opts.Commands[args[0]]
	if do == nil {
		if do = commands[args[0]].do; do == nil {
			return fmt.Errorf("there is no such command; there are\n%s", Commands())
		}
	}
	began := time.Now()
	w.observed = append(w.observed, c.text)
	err := do(w, args[1:]...)
	synctest.Wait()
	c.transcript = w.happened(began)
	return err
}

// happened takes everything that happened since a command began.
func (w *World) happened(began time.Time) []string {
	w.mu.Lock()
	lines, records, changes := w.lines, w.records, w.changes
	w.lines, w.records, w.changes = nil, nil, nil
	w.mu.Unlock()

	for _, c := range changes {
		lines = append(lines, line{at: c.At, rank: transition, text: observe(c), hidden: true})
	}
	for _, r := range records {
		var change *chatconn.Change
		if len(changes) > 0 && r.is(changes[0]) {
			change, changes = &changes[0], changes[1:]
		}
		if cell, ok := cellNamed(r.From, r.Event); ok {
			w.coverage.Add(cell)
		}
		lines = append(lines, line{at: r.Time, rank: transition, text: w.waits.tell(r, change), private: true})
	}
	lines = append(lines, w.journal()...)
	slices.SortStableFunc(lines, func(a, b line) int {
		return cmp.Or(a.at.Compare(b.at), cmp.Compare(a.rank, b.rank), strings.Compare(a.key, b.key))
	})

	var transcript []string
	told, seen := began, began
	for _, l := range lines {
		text := w.names.number(l.text)
		if !l.hidden {
			transcript = append(transcript, since(&told, l.at)+text)
		}
		if !l.private && (!l.beat || l.at.Equal(began)) {
			w.observed = append(w.observed, "  "+since(&seen, l.at)+text)
		}
		if l.rank == served {
			w.saw = append(w.saw, text)
		}
	}
	user, set := w.conn.CurrentUser()
	_, open := w.conn.Session()
	w.observed = append(w.observed, fmt.Sprintf("  state %v, user %q %t, socket open %t", w.conn.State(), user.ID, set, open))
	return transcript
}

// since returns the time between two lines if no chance is in it. Random waits
// are exact to the nanosecond, so one that ends on a tenth of a second is as good
// as impossible.
func since(last *time.Time, at time.Time) string {
	d := at.Sub(*last)
	*last = at
	if d <= 0 || !exact(d) {
		return ""
	}
	return "+" + short(d) + " "
}

func exact(d time.Duration) bool { return d%(100*time.Millisecond) == 0 }

// short is a duration without the units that are zero.
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// randoms finds the ids that differ from run to run: connection ids, and the
// server's fingerprints of tokens.
var randoms = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|token:[0-9a-f]{8}`)

// names are the random ids that have appeared, by the prefix of their numbers.
type names map[string][]string

// number gives random ids numbers in the order in which they appear.
func (n names) number(text string) string {
	return randoms.ReplaceAllStringFunc(text, func(id string) string {
		prefix := "#"
		if strings.HasPrefix(id, "token:") {
			prefix = "token "
		}
		i := slices.Index(n[prefix], id)
		if i < 0 {
			i = len(n[prefix])
			n[prefix] = append(n[prefix], id)
		}
		return fmt.Sprint(prefix, i+1)
	})
}

// observe is a change as a watcher sees it, without the name of its event.
func observe(c chatconn.Change) string {
	text := fmt.Sprintf("%v → %v, attempt %d", c.From, c.To, c.Attempt)
	if !c.RetryAt.IsZero() {
		in := "after a while"
		if d := c.RetryAt.Sub(c.At); exact(d) {
			in = "in " + short(d)
		}
		text += ", " + in
	}
	if c.Cause != nil {
		text += ", " + describe(c.Cause)
	}
	return text
}

// journal takes what the server saw.
func (w *World) journal() []line {
	entries := w.server.Log()
	entries, w.logged = entries[w.logged:], len(entries)
	const last = "~" // behind every number
	var lines []line
	for _, e := range entries {
		l := line{at: e.At, rank: served, hidden: true}
		order := e.ConnectionID
		switch e.Kind {
		case devserver.Fault:
			continue
		case devserver.Connect:
			l.text = fmt.Sprintf("%s asks for a socket with token:%s %s", e.UserID, e.Token, e.Details)
			if e.Token == "" {
				l.text = e.UserID + " asks for a socket without a token"
			}
		case devserver.Hello:
			l.text = fmt.Sprintf("%s is open for %s", e.ConnectionID, e.UserID)
		case devserver.Refused:
			l.text = strings.Join(strings.Fields(fmt.Sprintf("refuses %s %s %s", e.UserID, codes(e.Code, e.Status), e.Text)), " ")
		case devserver.Frame:
			l.text = fmt.Sprintf("%s sends %s", e.ConnectionID, e.Text)
			var frame struct{ Type string }
			if json.Unmarshal([]byte(e.Text), &frame) == nil && frame.Type != "" {
				l.text = fmt.Sprintf("%s sends %s", e.ConnectionID, frame.Type)
				l.beat = frame.Type == "health.check"
			}
		case devserver.Close:
			if e.By == "server" && (w.kicked || e.ConnectionID == "") {
				continue // behind an error frame it may come too late to be sent
			}
			l.text = fmt.Sprintf("%s gets close %d from the %s", e.ConnectionID, e.Code, e.By)
		case devserver.Gone:
			if e.ConnectionID == "" {
				continue // of a refused login
			}
			l.text = e.ConnectionID + " is gone"
		case devserver.Request:
			l.text = fmt.Sprintf("%s %s as %s with token:%s %s", e.Method, e.Path, e.UserID, e.Token, codes(e.Code, e.Status))
			order = fmt.Sprint(last, e.Method, e.Path, e.Code == 0) // refused first
		default:
			l.text = e.ConnectionID + " " + string(e.Kind)
		}
		l.key = w.order(order)
		lines = append(lines, l)
	}
	return lines
}

// order is a key by which entries of one moment stand by socket, in the order in
// which those opened; without a socket, before the next one that opens.
func (w *World) order(id string) string {
	switch {
	case strings.HasPrefix(id, "~"):
		return id
	case id == "":
		return fmt.Sprintf("%05d", len(w.sockets)+1)
	case w.sockets[id] == 0:
		w.sockets[id] = len(w.sockets) + 1
	}
	return fmt.Sprintf("%05d", w.sockets[id])
}

func codes(code, status int) string {
	text := ""
	if code != 0 {
		text = fmt.Sprintf("code %d ", code)
	}
	if status != 0 {
		text += fmt.Sprintf("status %d", status)
	}
	return strings.TrimSpace(text)
}

// end closes the Conn and returns what is wrong then.
func (w *World) end() (problems []string) {
	wrong := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	defer w.server.Close()
	defer w.close()
	defer w.cancel()
	if w.conn == nil {
		return nil
	}
	began := time.Now()
	closed := make(chan struct{})
	go func() {
		w.conn.Close()
		close(closed)
	}()
	select {
	case <-closed:
	case <-time.After(time.Minute):
		wrong("C9: Close does not return")
	}
	synctest.Wait()
	w.observed = append(w.observed, "the end")
	w.happened(began)
	if w.network.Open() != 0 {
		wrong("C9: connections are open after Close: %d", w.network.Open())
	}
	w.mu.Lock()
	w.ended = true
	close(w.release)
	for _, c := range w.calls {
		if !c.done {
			wrong("C9: %s has not returned after Close", c.name)
		}
	}
	for _, fault := range w.faults {
		wrong("%s", fault)
	}
	w.mu.Unlock()
	stats := w.conn.Stats()
	if stats.Bugs != 0 {
		wrong("M2: events that cannot happen: %d", stats.Bugs)
	}
	for _, e := range w.server.Log() {
		if e.Kind == devserver.Hello && !w.kicked && w.server.MaxSockets(e.UserID) > 1 {
			wrong("M1: %s had %d sockets at once", e.UserID, w.server.MaxSockets(e.UserID))
			break
		}
	}
	w.observed = append(w.observed, fmt.Sprintf("  %d attempts, %d loads, %d reconnects, %d replays, %d events missed, %d waiting",
		stats.Attempts, stats.Loads, stats.Reconnects, stats.Replays, stats.MissedEvents, stats.Waiting))
	return problems
}

// dial is the Conn's way into the network. While the script blocks dials, they wait
// for the end of their context; while it holds them, they ignore that, as a
// program's own dialer might, until it releases them.
func (w *World) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	w.mu.Lock()
	way, release := w.way, w.release
	w.mu.Unlock()
	switch way {
	case "block":
		<-ctx.Done()
		return nil, ctx.Err()
	case "hold":
		<-release
	}
	if way == "hold" && ctx.Err() != nil {
		// Nobody wants this connection any more. It leads to a host of its own,
		// which waits for its end: what the server would still see of it is chance.
		ctx, addr = context.WithoutCancel(ctx), nowhere
	}
	return w.network.DialContext(ctx, network, addr)
}

const nowhere = "127.0.0.2:9"

// sink takes the connections that come too late.
func (w *World) sink() (close func() error, err error) {
	l, err := w.network.Listen(nowhere)
	if err != nil {
		return nil, err
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, _ = io.Copy(io.Discard, conn)
			}()
		}
	}()
	return l.Close, nil
}

// recorder takes the recording of the Conn.
type recorder struct{ w *World }

func (r recorder) Write(data []byte) (int, error) {
	var rec record
	if err := json.Unmarshal(data, &rec); err != nil {
		return 0, err
	}
	const most = 4000
	r.w.mu.Lock()
	defer r.w.mu.Unlock()
	if r.w.records = append(r.w.records, rec); len(r.w.records) == most {
		// Virtual time stands still: nothing else would ever end this.
		go panic(fmt.Sprintf("conntest: the machine runs in circles: %d transitions at one command, the last %+v", most, rec))
	}
	return len(data), nil
}

// alarm notes what is logged as an error.
type alarm struct {
	slog.Handler
	w *World
}

func (a alarm) Enabled(context.Context, slog.Level) bool { return true }

func (a alarm) Handle(ctx context.Context, r slog.Record) error {
	if r.Level >= slog.LevelError {
		text := r.Message
		r.Attrs(func(attr slog.Attr) bool { text += " " + attr.String(); return true })
		a.w.mu.Lock()
		a.w.faults = append(a.w.faults, text)
		a.w.mu.Unlock()
	}
	if a.Handler.Enabled(ctx, r.Level) {
		return a.Handler.Handle(ctx, r)
	}
	return nil
}
