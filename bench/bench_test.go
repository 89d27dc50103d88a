package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/chatconn/chatconn"
	"github.com/chatconn/chatconn/fsm"
	"github.com/chatconn/chatconn/tokens"
)

// The test binary plays other parts when the environment says so.
const roleVariable = "CHATCONN_BENCH_ROLE"

func TestMain(m *testing.M) {
	switch role, base, _ := strings.Cut(os.Getenv(roleVariable), " "); role {
	case "":
		code := m.Run()
		if server.stop != nil {
			server.stop()
		}
		os.Exit(code)
	case "server":
		serve()
	case "idle":
		kind, base, _ := strings.Cut(base, " ")
		idle(kind, base)
	case "awake":
		kind, base, _ := strings.Cut(base, " ")
		awake(kind, base)
	}
}

const (
	eventSize = 1 << 10
	hello     = `{"type":"health.check","connection_id":"c1","me":{"id":"john","name":"John","role":"user"}}`
	batch     = 64 // events in one write
)

// event is a chat message of about 1 KiB.
func event() []byte {
	const head = `{"type":"message.new","cid":"messaging:general","channel_id":"general","channel_type":"messaging","message":{"id":"c1a7bbf0","user":{"id":"jane","name":"Jane","role":"user"},"text":"`
	const tail = `","created_at":"2026-01-01T12:00:00.123456Z"},"user":{"id":"jane"},"created_at":"2026-01-01T12:00:00.123456Z"}`
	return []byte(head + strings.Repeat("lorem ipsum ", eventSize)[:eventSize-len(head)-len(tail)] + tail)
}

// serve is the server: it says hello, pushes events when it is told to, and
// answers API requests. It ends with its standard input.
func serve() {
	var mu sync.Mutex
	sockets := map[string]net.Conn{}
	refused := ""
	var checks atomic.Int64 // that were answered
	mux := http.NewServeMux()
	upgrader := websocket.Upgrader{ReadBufferSize: 512, WriteBufferSize: 512}
	mux.HandleFunc("/connect", func(w http.ResponseWriter, r *http.Request) {
		ws, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer ws.Close()
		mu.Lock()
		sockets["latest"] = ws.NetConn()
		mu.Unlock()
		_ = ws.WriteMessage(websocket.TextMessage, []byte(hello))
		for {
			kind, message, err := ws.ReadMessage()
			if err != nil {
				return
			}
			_ = ws.WriteMessage(kind, message) // a health check: its echo is an answer
			checks.Add(1)
		}
	})
	mux.HandleFunc("/checks", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, checks.Load()) })
	frame := append([]byte{0x81, 126, eventSize >> 8, eventSize & 0xff}, event()...)
	many := slices.Repeat(frame, batch)
	mux.HandleFunc("/push", func(w http.ResponseWriter, r *http.Request) {
		n := 0
		fmt.Sscan(r.FormValue("n"), &n)
		mu.Lock()
		conn := sockets["latest"]
		mu.Unlock()
		for ; n > 0; n -= batch {
			if _, err := conn.Write(many[:min(n, batch)*len(frame)]); err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
		}
	})
	mux.HandleFunc("/refuse", func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		refused = r.FormValue("token")
	})
	mux.HandleFunc("/app", func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		bad := refused != "" && r.Header.Get("Authorization") == refused
		mu.Unlock()
		if bad {
			w.WriteHeader(http.StatusUnauthorized)
			io.WriteString(w, `{"code":40,"message":"expired","StatusCode":401}`)
			return
		}
		io.WriteString(w, `{"app":{}}`)
	})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Printf("http://%s\n", ln.Addr())
	go http.Serve(ln, mux)
	io.Copy(io.Discard, os.Stdin)
}

var server struct {
	once sync.Once
	base string
	stop func()
	err  error
}

// base returns the URL of the server, which starts when it is needed.
func base(b testing.TB) string {
	b.Helper()
	server.once.Do(func() {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), roleVariable+"=server")
		cmd.Stderr = os.Stderr
		in, _ := cmd.StdinPipe()
		out, _ := cmd.StdoutPipe()
		if server.err = cmd.Start(); server.err != nil {
			return
		}
		server.stop = func() { in.Close(); _ = cmd.Wait() }
		line, err := bufio.NewReader(out).ReadString('\n')
		server.base, server.err = strings.TrimSpace(line), err
	})
	if server.err != nil {
		b.Fatal(server.err)
	}
	return server.base
}

func order(b *testing.B, path string, form url.Values) {
	b.Helper()
	resp, err := http.PostForm(server.base+path, form)
	if err != nil || resp.StatusCode != http.StatusOK {
		b.Errorf("%s: %v, %v", path, resp, err)
		return
	}
	resp.Body.Close()
}

var (
	john     = chatconn.User{ID: "john", Name: "John"}
	token, _ = tokens.Sign([]byte("a secret of the benchmark"), tokens.Claims{UserID: "john"})
)

func newConn(base string) *chatconn.Conn {
	conn, err := chatconn.New(chatconn.Config{APIKey: "key", BaseURL: base})
	if err != nil {
		panic(err)
	}
	return conn
}

// dialBare connects as our client does, with gorilla alone, up to the hello.
func dialBare(base string) *websocket.Conn {
	ws, _ := helloBare(base)
	return ws
}

func helloBare(base string) (*websocket.Conn, []byte) {
	query := url.Values{"json": {`{"user_id":"john","user_details":{"id":"john","name":"John"},"server_determines_connection_id":true}`},
		"api_key": {"key"}, "stream-auth-type": {"jwt"}}
	ws, _, err := websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(base, "http")+"/connect?"+query.Encode(),
		http.Header{"Authorization": {token}, "Stream-Auth-Type": {"jwt"}, "X-Stream-Client": {"bare"}})
	if err != nil {
		panic(err)
	}
	_, message, err := ws.ReadMessage()
	if err != nil {
		panic(err)
	}
	return ws, message
}

// bareClient is the least that a client made of gorilla does: it knows its connection
// and its user, sends health checks, and reads.
type bareClient struct {
	id    string
	me    map[string]any
	ws    *websocket.Conn
	timer *time.Timer
	ended atomic.Bool
}

func connectBare(base string) *bareClient {
	ws, message := helloBare(base)
	var hello struct {
		ConnectionID string         `json:"connection_id"`
		Me           map[string]any `json:"me"`
	}
	if err := json.Unmarshal(message, &hello); err != nil {
		panic(err)
	}
	c := &bareClient{id: hello.ConnectionID, me: hello.Me, ws: ws}
	check := fmt.Appendf(nil, `{"type":"health.check","client_id":%q}`, c.id)
	const interval = 25 * time.Second
	set := make(chan struct{})
	c.timer = time.AfterFunc(interval, func() {
		<-set
		c.timer.Reset(interval)
		_ = ws.WriteMessage(websocket.TextMessage, check)
	})
	close(set)
	go func() {
		for {
			if _, _, err := ws.ReadMessage(); err != nil {
				c.ended.Store(true)
				return
			}
		}
	}()
	return c
}

func (c *bareClient) close() {
	c.timer.Stop()
	c.ws.Close()
}

// sample is what one round of one side cost.
type sample struct {
	took          time.Duration
	bytes, allocs float64
}

// measure runs f once. The sample is for each of n things that f does.
func measure(n int, f func()) sample {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	began := time.Now()
	f()
	took := time.Since(began)
	runtime.ReadMemStats(&after)
	return sample{took / time.Duration(n), float64(after.TotalAlloc-before.TotalAlloc) / float64(n), float64(after.Mallocs-before.Mallocs) / float64(n)}
}

// compare lets the sides take turns, at least so many times, and reports medians. The
// third, if there is one, is bare as well, and does less.
func compare(b *testing.B, least int, bare, ours func() sample, less ...func() sample) {
	bare() // warm
	ours()
	var left, right, third []sample
	for len(left) < least || len(left) < b.N {
		left, right = append(left, bare()), append(right, ours())
		for _, f := range less {
			third = append(third, f())
		}
	}
	median := func(all []sample, of func(sample) float64) float64 {
		slices.SortFunc(all, func(x, y sample) int {
			switch d := of(x) - of(y); {
			case d < 0:
				return -1
			case d > 0:
				return 1
			}
			return 0
		})
		return of(all[len(all)/2])
	}
	ns := func(s sample) float64 { return float64(s.took) }
	b.ReportMetric(0, "ns/op") // the two sides together: of no meaning
	b.ReportMetric(median(left, ns), "bare-ns")
	b.ReportMetric(median(right, ns), "chatconn-ns")
	b.ReportMetric(median(right, ns)/median(left, ns), "ratio")
	if len(third) > 0 {
		b.ReportMetric(median(third, ns), "less-ns")
		b.ReportMetric(median(right, ns)/median(third, ns), "ratio-to-less")
	}
	bytes, allocs := func(s sample) float64 { return s.bytes }, func(s sample) float64 { return s.allocs }
	b.ReportMetric(median(left, bytes), "bare-B")
	b.ReportMetric(median(right, bytes), "chatconn-B")
	b.ReportMetric(median(left, allocs), "bare-allocs")
	b.ReportMetric(median(right, allocs), "chatconn-allocs")
}

// Connect: from the call to the session, beside the least that a client made of gorilla
// does, and beside less: a dial that reads the first frame and leaves it at that. A
// sample is a batch, one after the other: reading the allocator's counters empties its
// caches, and the next few allocations of whoever makes more of them would pay for it.
// The ratio is a time: less is better.
func BenchmarkConnect(b *testing.B) {
	const batch = 25
	base := base(b)
	ctx := context.Background()
	source := tokens.Static(token)
	compare(b, 60, func() sample {
		return connectAll(batch, func() *bareClient { return connectBare(base) }, (*bareClient).close)
	}, func() sample {
		var fresh []*chatconn.Conn // to make one connects nothing
		for range batch {
			fresh = append(fresh, newConn(base))
		}
		return connectAll(batch, func() *chatconn.Conn {
			conn := fresh[0]
			fresh = fresh[1:]
			if _, err := conn.ConnectUser(ctx, john, source); err != nil {
				b.Fatal(err)
			}
			return conn
		}, func(conn *chatconn.Conn) { conn.Close() })
	}, func() sample {
		return connectAll(batch, func() *websocket.Conn { return dialBare(base) }, func(ws *websocket.Conn) { ws.Close() })
	})
}

// connectAll measures connecting, and closes afterwards.
func connectAll[C any](n int, connect func() C, closeIt func(C)) sample {
	all := make([]C, n)
	defer func() {
		for _, c := range all {
			closeIt(c)
		}
	}()
	return measure(n, func() {
		for i := range all {
			all[i] = connect()
		}
	})
}

// Delivery of 1 KiB events, type found and raw JSON handed over, beside a
// ReadMessage loop that decodes nothing. The ratio is a time: 1.11 is 0.9 times
// the speed.
func BenchmarkDelivery(b *testing.B) {
	const events = 40_000
	base := base(b)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	form := url.Values{"n": {fmt.Sprint(events)}}
	compare(b, 15, func() sample {
		ws := dialBare(base)
		defer ws.Close()
		go order(b, "/push", form)
		return measure(events, func() {
			for range events {
				if _, _, err := ws.ReadMessage(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}, func() sample {
		conn := newConn(base)
		defer conn.Close()
		feed := conn.Events(ctx)
		if _, err := conn.ConnectUser(ctx, john, tokens.Static(token)); err != nil {
			b.Fatal(err)
		}
		go order(b, "/push", form)
		return measure(events, func() {
			for i := range events {
				if e := <-feed; e.Type != "message.new" || len(e.Raw) != eventSize || e.Missed != 0 {
					b.Fatalf("event %d: %+v", i, e)
				}
			}
		})
	})
}

// A request through HTTPClient beside one of a bare http.Client with the same
// headers.
func BenchmarkRequest(b *testing.B) {
	const requests = 200
	base := base(b)
	ctx := context.Background()
	conn := newConn(base)
	defer conn.Close()
	if _, err := conn.ConnectUser(ctx, john, tokens.Static(token)); err != nil {
		b.Fatal(err)
	}
	bare := &http.Client{Transport: &http.Transport{}}
	defer bare.CloseIdleConnections()
	request := func(client *http.Client, query string, header http.Header) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/app"+query, nil)
		if err != nil {
			b.Fatal(err)
		}
		for name, values := range header {
			req.Header[name] = values
		}
		resp, err := client.Do(req)
		if err != nil {
			b.Fatal(err)
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
	header := http.Header{"Authorization": {token}, "Stream-Auth-Type": {"jwt"}, "X-Stream-Client": {"bare"}}
	client := conn.HTTPClient()
	compare(b, 40, func() sample {
		return measure(requests, func() {
			for range requests {
				request(bare, "?api_key=key&user_id=john&connection_id=c1", header)
			}
		})
	}, func() sample {
		return measure(requests, func() {
			for range requests {
				request(client, "", nil)
			}
		})
	})
}

// A burst of 1,000 requests whose token has just expired, beyond the time of one
// load, beside the same burst with a fresh token. The refused answers come while
// the token loads, so the rest is what pausing and replaying cost.
func BenchmarkBurstAtExpiry(b *testing.B) {
	const requests, load = 1000, 500 * time.Millisecond
	base := base(b)
	ctx := context.Background()
	serial := int64(1)
	issue := func() string {
		t, err := tokens.Sign([]byte("a secret of the benchmark"), tokens.Claims{UserID: "john", IssuedAt: time.Unix(serial, 0)})
		if err != nil {
			b.Fatal(err)
		}
		return t
	}
	conn := newConn(base)
	defer conn.Close()
	slow := time.Duration(0) // written between bursts
	source := tokens.Func(func(context.Context) (string, error) { time.Sleep(slow); return issue(), nil })
	if _, err := conn.ConnectUser(ctx, john, source); err != nil {
		b.Fatal(err)
	}
	client := conn.HTTPClient()
	burst := func() {
		var group sync.WaitGroup
		for range requests {
			group.Go(func() {
				resp, err := client.Get(base + "/app")
				if err != nil || resp.StatusCode != http.StatusOK {
					b.Errorf("%v, %v", resp, err)
					return
				}
				io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			})
		}
		group.Wait()
	}
	compare(b, 10, func() sample { return measure(requests, burst) }, func() sample {
		// Afresh: the second refusal of one life is paced.
		if err := conn.DisconnectSocket(ctx); err != nil {
			b.Fatal(err)
		}
		if _, err := conn.ConnectUser(ctx, john, source); err != nil {
			b.Fatal(err)
		}
		order(b, "/refuse", url.Values{"token": {issue()}})
		serial++
		slow = load
		s := measure(requests, burst)
		slow = 0
		s.took -= load / requests
		return s
	})
}

// One transition of the machine.
func BenchmarkTransition(b *testing.B) {
	machine, err := fsm.New(fsm.Declared())
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	at := fsm.Position{State: fsm.Connected, Facts: fsm.SocketOpen}
	for b.Loop() {
		if _, err := machine.Fire(at, fsm.Dropped); err != nil {
			b.Fatal(err)
		}
	}
}

// 10,000 idle connections without a watcher, beside as many of bare gorilla with
// default buffers and a goroutine that reads. Each side is a process of its own.
func BenchmarkIdle(b *testing.B) {
	base := base(b)
	{
		bare, ours := runIdle(b, "bare", base), runIdle(b, "chatconn", base)
		b.ReportMetric(0, "ns/op")
		b.ReportMetric(bare.Heap, "bare-heap+stack-B")
		b.ReportMetric(ours.Heap, "chatconn-heap+stack-B")
		b.ReportMetric(ours.Heap/bare.Heap, "ratio")
		b.ReportMetric(bare.Resident, "bare-resident-B")
		b.ReportMetric(ours.Resident, "chatconn-resident-B")
		b.ReportMetric(ours.Resident/bare.Resident, "resident-ratio")
		b.ReportMetric(bare.Goroutines, "bare-goroutines")
		b.ReportMetric(ours.Goroutines, "chatconn-goroutines")
	}
}

// footprint is what one idle connection costs.
type footprint struct{ Heap, Resident, Goroutines float64 }

func runIdle(b *testing.B, kind, base string) (f footprint) {
	b.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), roleVariable+"=idle "+kind+" "+base)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err == nil {
		err = json.Unmarshal(out, &f)
	}
	if err != nil {
		b.Fatalf("%s: %v", kind, err)
	}
	return f
}

func idle(kind, base string) {
	const connections = 10_000
	source := tokens.Static(token)
	keep := make([]any, connections)
	open := func(i int) {
		if kind == "bare" {
			ws := dialBare(base)
			keep[i] = ws
			go ws.ReadMessage()
			return
		}
		conn := newConn(base)
		keep[i] = conn
		if _, err := conn.ConnectUser(context.Background(), john, source); err != nil {
			panic(err)
		}
	}
	open(0) // what is shared by all
	before := look()
	openAll(connections, open)
	after := look()
	_ = json.NewEncoder(os.Stdout).Encode(footprint{
		(after.Heap - before.Heap) / (connections - 1),
		(after.Resident - before.Resident) / (connections - 1),
		(after.Goroutines - before.Goroutines) / (connections - 1),
	})
	runtime.KeepAlive(keep)
}

// openAll opens connections 1 and up, fifty at a time.
func openAll(connections int, open func(i int)) {
	var group sync.WaitGroup
	slots := make(chan struct{}, 50)
	for i := 1; i < connections; i++ {
		slots <- struct{}{}
		group.Go(func() {
			open(i)
			<-slots
		})
	}
	group.Wait()
	time.Sleep(time.Second) // until what connecting needed has gone
}

func look() footprint {
	runtime.GC()
	debug.FreeOSMemory() // collects again
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	var total, resident float64
	if data, err := os.ReadFile("/proc/self/statm"); err == nil { // zero elsewhere
		fmt.Sscan(string(data), &total, &resident)
	}
	return footprint{float64(m.HeapAlloc + m.StackInuse), resident * float64(os.Getpagesize()), float64(runtime.NumGoroutine())}
}
