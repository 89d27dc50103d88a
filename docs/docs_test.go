// Package docs_test compiles and runs the programs of the pages here.
package docs_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"go/format"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/chatconn/chatconn/devserver"
)

// program is one of a page's, with what the page says that it prints.
type program struct {
	name   string // of the page, and which of its programs
	source string
	prints string
	binary string
}

var block = regexp.MustCompile("(?ms)^```(\\w+)\n(.*?)^```$")

// programs returns those of a page, in order. All Go on a page is whole programs.
func programs(t *testing.T, page string) (all []*program) {
	t.Helper()
	text, err := os.ReadFile(page + ".md")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range block.FindAllStringSubmatch(string(text), -1) {
		switch kind, body := m[1], m[2]; kind {
		case "go":
			p := &program{name: fmt.Sprintf("%s_%d", page, len(all)+1), source: body}
			if formatted, err := format.Source([]byte(body)); err != nil || string(formatted) != body {
				t.Errorf("%s is not formatted: %v", p.name, err)
			}
			all = append(all, p)
		case "text":
			all[len(all)-1].prints = body
		}
	}
	if len(all) == 0 {
		t.Fatalf("%s has no program", page)
	}
	return all
}

// build compiles programs as packages of this module, which are written to
// a directory of the test's own.
func build(t *testing.T, all []*program) {
	t.Helper()
	dir := t.TempDir()
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	overlay := make(map[string]string)
	args := []string{"build", "-o", dir + string(filepath.Separator), "-overlay", filepath.Join(dir, "overlay.json")}
	for _, p := range all {
		file := filepath.Join(dir, p.name+".go")
		if err := os.WriteFile(file, []byte(p.source), 0o600); err != nil {
			t.Fatal(err)
		}
		overlay[filepath.Join(here, p.name, "main.go")] = file
		p.binary = filepath.Join(dir, p.name)
		args = append(args, "./"+p.name)
	}
	text, _ := json.Marshal(map[string]any{"Replace": overlay})
	if err := os.WriteFile(filepath.Join(dir, "overlay.json"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("go", args...).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// start runs a program with an environment of its own.
func (p *program) start(ctx context.Context, env ...string) (*exec.Cmd, io.ReadCloser, error) {
	cmd := exec.CommandContext(ctx, p.binary)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	return cmd, out, cmd.Start()
}

// run runs a program to its end, and compares what it printed.
func (p *program) run(t *testing.T, env ...string) {
	t.Run(p.name, func(t *testing.T) {
		cmd, out, err := p.start(t.Context(), env...)
		if err != nil {
			t.Fatal(err)
		}
		printed, _ := io.ReadAll(out)
		if err := cmd.Wait(); err != nil || string(printed) != p.prints {
			t.Errorf("%v; it printed\n%s\nand the page says\n%s", err, printed, p.prints)
		}
	})
}

// T1, T7, T9, T10: the pages' programs are whole, and do what the pages say.
func TestT7_ProgramsOnThePages(t *testing.T) {
	issuing, signing, guests := programs(t, "issuing-tokens"), programs(t, "signing-in"), programs(t, "guests-and-anonymous")
	build(t, append(append(issuing[:len(issuing):len(issuing)], signing...), guests...))

	server, err := devserver.Start(devserver.Options{Secret: []byte("a secret of at least 16 bytes")})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()

	// The first program is a backend, which the clients of the next page use.
	backend := issuing[0]
	cmd, out, err := backend.start(t.Context(), "ADDR=127.0.0.1:0", "CHATCONN_SECRET="+string(server.Secret()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		cmd.Process.Kill()
		cmd.Wait()
	}()
	endpoint, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	endpoint = strings.TrimSpace(endpoint)

	env := []string{
		"CHATCONN_URL=" + server.URL(), "CHATCONN_API_KEY=" + server.APIKey(),
		"TOKEN_ENDPOINT=" + endpoint, "SESSION=demo-session", "REFRESH_TOKEN=refresh",
		"PROVIDER_TOKEN_URL=" + provider(t, func() string { return "demo-session" }),
		"CHAT_PROVIDER_TOKEN_URL=" + provider(t, func() string { return server.Token("john", time.Hour) }),
	}
	for _, p := range append(append(issuing[1:len(issuing):len(issuing)], signing...), guests...) {
		p.run(t, env...)
	}

	// Nobody gets a token without a session.
	resp, err := http.Post(endpoint, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("without a session the backend answers %s", resp.Status)
	}
}

// G3: what the page about testing shows stands in the example, and so runs.
func TestTestingPageQuotesTheExample(t *testing.T) {
	page, err := os.ReadFile("testing.md")
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("../examples/banner/*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	scripts, err := filepath.Glob("../examples/banner/testdata/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	var example string
	for _, name := range append(files, scripts...) {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		example += string(text)
	}
	quotes := 0
	for _, m := range block.FindAllStringSubmatch(string(page), -1) {
		if kind, body := m[1], m[2]; kind == "go" || kind == "text" {
			if quotes++; !strings.Contains(example, body) {
				t.Errorf("examples/banner does not have:\n%s", body)
			}
		}
	}
	if quotes < 5 {
		t.Errorf("%d quotes were found", quotes)
	}
}

// provider is the token endpoint of an OAuth2 provider, which answers a refresh
// with the given access token. It returns its URL.
func provider(t *testing.T, accessToken func() string) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.FormValue("grant_type") != "refresh_token" || r.FormValue("refresh_token") != "refresh" {
			http.Error(w, `{"error":"invalid_grant"}`, http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(map[string]any{"access_token": accessToken(), "token_type": "Bearer", "expires_in": 3600})
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// G2: the program on the page about the live page is whole.
func TestG2_ProgramOnThePage(t *testing.T) {
	build(t, programs(t, "live-page"))
}
