package bench

import (
	"context"
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"github.com/chatconn/chatconn"
	"github.com/chatconn/chatconn/fsm"
	"github.com/chatconn/chatconn/tokens"
)

var awakeTime = flag.Duration("awake", 75*time.Second, "how long BenchmarkAwake measures; whole rounds of health checks are 25 s each")

// What 10,000 connections use of a processor while nothing happens but their health
// checks, every 25 s, beside as many of bare gorilla that send the same with a timer
// each. Each side is a process of its own; so is the server, whose work does not
// count. Not every system tells.
//
//	go test -run '^$' -bench Awake -timeout 10m ./bench
func BenchmarkAwake(b *testing.B) {
	if processorTime() == 0 {
		b.Skip("this system does not tell how much of the processor a process used")
	}
	base := base(b)
	b.ReportMetric(0, "ns/op")
	for _, kind := range []string{"bare", "chatconn"} {
		cmd := exec.Command(os.Args[0], "-awake="+awakeTime.String())
		cmd.Env = append(os.Environ(), roleVariable+"=awake "+kind+" "+base)
		cmd.Stderr = os.Stderr
		var f awakeness
		out, err := cmd.Output()
		if err == nil {
			err = json.Unmarshal(out, &f)
		}
		if err != nil {
			b.Fatalf("%s: %v", kind, err)
		}
		if f.Lost != 0 {
			b.Errorf("%s: %d connections were lost", kind, f.Lost)
		}
		b.ReportMetric(f.Processor.Seconds()*1000/f.Took.Seconds(), kind+"-cpu-ms/s")
		b.ReportMetric(f.Resident, kind+"-resident-B")
		b.ReportMetric(f.Goroutines, kind+"-goroutines")
	}
}

// awakeness is what 10,000 connections used, and what one of them took of the memory
// after their health checks.
type awakeness struct {
	Processor, Took      time.Duration
	Resident, Goroutines float64
	Lost                 int
}

func awake(kind, base string) {
	const connections = 10_000
	flag.Parse()
	source := tokens.Static(token)
	ours := make([]*chatconn.Conn, connections)
	bare := make([]*bareClient, connections)
	open := func(i int) {
		if kind == "chatconn" {
			ours[i] = newConn(base)
			if _, err := ours[i].ConnectUser(context.Background(), john, source); err != nil {
				panic(err)
			}
			return
		}
		bare[i] = connectBare(base)
	}
	open(0) // what is shared by all
	before := look()
	openAll(connections, open)
	look() // collects it
	began, used := time.Now(), processorTime()
	time.Sleep(*awakeTime)
	f := awakeness{Processor: processorTime() - used, Took: time.Since(began)}
	after := look()
	f.Resident = (after.Resident - before.Resident) / (connections - 1)
	f.Goroutines = (after.Goroutines - before.Goroutines) / (connections - 1)
	for i := range connections {
		if kind == "bare" {
			if bare[i].ended.Load() {
				f.Lost++
			}
		} else if s := ours[i].Stats(); s.State != fsm.Connected || s.Reconnects != 0 {
			f.Lost++
		}
	}
	_ = json.NewEncoder(os.Stdout).Encode(f)
	runtime.KeepAlive(ours)
	runtime.KeepAlive(bare)
}
