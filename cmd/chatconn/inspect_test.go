package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	tape "github.com/chatconn/chatconn/recording"
)

// ask gets a page under a host of the test's choice.
func ask(t *testing.T, url, host string) (status int, text string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if host != "" {
		req.Host = host
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// G2: connect shows its connection in the browser, to this machine only: a request
// that names another host, as a page of somebody else's would after its name was
// led here, is refused.
func TestConnectInspect(t *testing.T) {
	t.Parallel()
	r := start(t, "connect", "--inspect=127.0.0.1:0", "--json")
	var at struct{ URL string }
	if err := json.Unmarshal([]byte(r.until(t, `"inspect"`)), &at); err != nil {
		t.Fatal(err)
	}
	r.until(t, `"Opened"`)
	if status, text := ask(t, at.URL, ""); status != http.StatusOK || !strings.Contains(text, `<g class="state current" data-state="Connected">`) || !strings.Contains(text, "user <bdi>john</bdi>") {
		t.Errorf("%d: the page does not show the connection:\n%.2000s", status, text)
	}
	port := at.URL[strings.LastIndexByte(at.URL, ':')+1 : len(at.URL)-1]
	for host, want := range map[string]int{
		"localhost:" + port: 200, "LOCALHOST": 200, "127.0.0.1": 200, "[::1]:" + port: 200, "127.8.9.1:80": 200,
		"evil.example": 421, "evil.example:" + port: 421, "127.0.0.1.evil.example": 421, "localhost.evil.example:" + port: 421, "192.0.2.1:" + port: 421, "0.0.0.0:" + port: 421,
	} {
		for _, path := range []string{"", "list", "events", "recording?conn=john"} {
			if path == "events" && want == 200 {
				continue // it would not end
			}
			if status, _ := ask(t, at.URL+path, host); status != want {
				t.Errorf("/%s as %s: %d, want %d", path, host, status, want)
			}
		}
	}
	r.stop()
	r.end(t, "connect").want(t, ok)
	if _, err := net.Dial("tcp", "127.0.0.1:"+port); err == nil {
		t.Error("the page outlives its command")
	}
}

// G2, O4: the demo can be followed in the browser, also when it is over, and its
// recording replays clean: from the file, and as the page gives it.
func TestDemoInspectAndRecord(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "demo.jsonl")
	r := start(t, "demo", "--inspect=localhost:0", "--stay", "--record", file)
	line := r.until(t, "Watch the connection live at http://")
	url := line[strings.Index(line, "http://"):]
	resp, err := http.Get(url + "events?conn=demo")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	steps := make(chan int, 1)
	go func() {
		n := 0
		for in := bufio.NewScanner(resp.Body); in.Scan(); {
			if strings.HasPrefix(in.Text(), "event: step") || strings.Contains(in.Text(), `"seq":`) && strings.HasPrefix(in.Text(), "event: reset") {
				n++
			}
		}
		steps <- n
	}()
	r.until(t, "The page stays at "+url)
	if status, text := ask(t, url, ""); status != http.StatusOK || !strings.Contains(text, `class="pill Closed"`) || !strings.Contains(text, "TokenRefused") {
		t.Errorf("%d: the page does not show how it was:\n%.2000s", status, text)
	}
	_, download := ask(t, url+"recording?conn=demo", "")
	r.stop()
	r.end(t, "demo").want(t, ok)
	if n := <-steps; n < 50 {
		t.Errorf("%d steps were streamed", n)
	}
	written, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(written) != download {
		t.Error("the page's recording is not the one in the file")
	}
	var sum tape.Summary
	if err := tape.Replay(strings.NewReader(download), sum.Add); err != nil || sum.Attempts < 10 || sum.Conns() != 1 {
		t.Errorf("%d attempts of %d connections, %v", sum.Attempts, sum.Conns(), err)
	}
	// One line changed, removed or doubled is caught at that line.
	lines := strings.SplitAfter(download, "\n")
	lines = lines[:len(lines)-1]
	for at := 0; at < len(lines)-1; at += 7 {
		for what, c := range map[string]struct {
			text string
			line int
		}{
			"changed": {strings.Join(lines[:at], "") + strings.Replace(lines[at], `"time":"20`, `"time":"19`, 1) + strings.Join(lines[at+1:], ""), at + 1},
			"removed": {strings.Join(lines[:at], "") + strings.Join(lines[at+1:], ""), at + 1},
			"doubled": {strings.Join(lines[:at+1], "") + strings.Join(lines[at:], ""), at + 2},
		} {
			got := callWith(t, c.text, "replay", "-")
			got.want(t, failed, "line ")
			if !strings.Contains(got.err, fmt.Sprintf("line %d:", c.line)) {
				t.Errorf("line %d %s: %s", at+1, what, got.err)
			}
		}
	}
}

// Where a page would be seen by others, or cannot be, is said before anything begins.
func TestInspectMisuse(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, command := range []string{"demo", "connect"} {
		for args, says := range map[string]string{
			"--inspect=0.0.0.0:0": "--allow-remote", "--inspect=:0": "--allow-remote", "--inspect=192.0.2.1:80": "--allow-remote",
			"--inspect=example.com:80": "--allow-remote", "--inspect=8080": "a host and a port", "--allow-remote": "is for --inspect",
		} {
			call(t, command, args).want(t, misuse, says)
		}
		call(t, command, "--inspect", taken.Addr().String()).want(t, failed, "--inspect", "in use")
	}
	call(t, "demo", "--stay").want(t, misuse, "--stay is for --inspect")
	call(t, "demo", "--record", filepath.Join(t.TempDir(), "no", "such", "place")).want(t, failed, "--record")
}
