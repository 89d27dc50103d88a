package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
)

// A test that needs the program as a process runs its own binary with this set.
const asProgram = "CHATCONN_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
		return
	}
	for _, name := range []string{"URL", "API_KEY", "USER", "TOKEN", "SECRET"} {
		os.Unsetenv("CHATCONN_" + name)
	}
	os.Exit(m.Run())
}

// outcome is what came of a command.
type outcome struct {
	code     int
	out, err string
}

// callWith runs one command line with stdin to its end.
func callWith(t *testing.T, stdin string, args ...string) outcome {
	t.Helper()
	var out, errs bytes.Buffer
	code := run(t.Context(), args, streams{strings.NewReader(stdin), &out, &errs})
	got := outcome{code, out.String(), errs.String()}
	noToken(t, args, got.out+got.err)
	return got
}

func call(t *testing.T, args ...string) outcome {
	t.Helper()
	return callWith(t, "", args...)
}

// want fails unless the exit code is code and standard error says each of the texts.
func (o outcome) want(t *testing.T, code int, errs ...string) {
	t.Helper()
	if o.code != code {
		t.Errorf("exit code %d, want %d; stderr: %s", o.code, code, o.err)
	}
	for _, text := range errs {
		if !strings.Contains(o.err, text) {
			t.Errorf("stderr does not say %q: %s", text, o.err)
		}
	}
}

// noToken is the guard over the output of every command of these tests. Every
// token begins with the same letters, since every header does.
//
// T11: only what makes tokens prints any.
func noToken(t *testing.T, args []string, output string) {
	t.Helper()
	makes := slices.Contains(args, "serve") || slices.Contains(args, "create") || slices.Contains(args, "dev")
	if i := strings.Index(output, "eyJ"); i >= 0 && !makes {
		t.Errorf("%.2q prints a token: …%.40s…", args, output[max(0, i-20):])
	}
}

// running is a command that goes on until it is stopped.
type running struct {
	stop  context.CancelFunc
	lines *bufio.Scanner // of its standard output
	seen  *strings.Builder
	done  chan outcome
}

// start runs a command on the side.
func start(t *testing.T, args ...string) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	read, write := io.Pipe()
	r := &running{stop: cancel, lines: bufio.NewScanner(read), seen: new(strings.Builder), done: make(chan outcome, 1)}
	r.lines.Buffer(nil, 1<<20)
	go func() {
		var errs bytes.Buffer
		code := run(ctx, args, streams{strings.NewReader(""), write, &errs})
		write.Close()
		r.done <- outcome{code: code, err: errs.String()}
	}()
	t.Cleanup(func() {
		cancel()
		read.Close()
		if r.done != nil {
			<-r.done
		}
	})
	return r
}

// until reads lines until one contains text, and returns it.
func (r *running) until(t *testing.T, text string) string {
	t.Helper()
	for r.lines.Scan() {
		r.seen.WriteString(r.lines.Text() + "\n")
		if strings.Contains(r.lines.Text(), text) {
			return r.lines.Text()
		}
	}
	t.Fatalf("it ended without saying %q:\n%s", text, r.seen)
	return ""
}

// end reads the rest and returns what came of the command.
func (r *running) end(t *testing.T, args ...string) outcome {
	t.Helper()
	for r.lines.Scan() {
		r.seen.WriteString(r.lines.Text() + "\n")
	}
	got := <-r.done
	r.done = nil
	got.out = r.seen.String()
	noToken(t, args, got.out+got.err)
	return got
}

// objects decodes output that is one JSON object a line.
func objects(t *testing.T, output string) []map[string]any {
	t.Helper()
	var all []map[string]any
	for line := range strings.Lines(output) {
		var object map[string]any
		if err := json.Unmarshal([]byte(line), &object); err != nil {
			t.Fatalf("a line is no JSON object: %v: %s", err, line)
		}
		all = append(all, object)
	}
	return all
}

func TestHelp(t *testing.T) {
	t.Setenv(tokenEnv, "eyJhbGciOiJIUzI1NiJ9.not-to-be-shown")
	t.Setenv("CHATCONN_SECRET", "not-to-be-shown either")
	for command, says := range map[string]string{
		"":              "Commands:",
		"demo":          "a whole life",
		"connect":       "--token-command",
		"serve":         "/_fault/",
		"token":         "token inspect",
		"token create":  "--ttl",
		"token dev":     "not signed",
		"token inspect": "Nothing is",
		"token verify":  "$CHATCONN_SECRET",
		"replay":        "recording",
		"diagram":       "mermaid, dot, plantuml, svg, matrix, json",
		"coverage":      "CHATCONN_COVERAGE=/tmp/walked go test",
	} {
		got := call(t, append(strings.Fields(command), "--help")...)
		got.want(t, ok)
		if text := strings.Join(strings.Fields(got.out), " "); !strings.Contains(text, says) || !strings.Contains(got.out, "--json") {
			t.Errorf("%s --help does not explain %q:\n%s", command, says, got.out)
		}
		if strings.Contains(got.out+got.err, "not-to-be-shown") {
			t.Errorf("%s --help shows a value of the environment", command)
		}
	}
	if got := call(t, "--version"); got.code != ok || !strings.HasPrefix(got.out, "chatconn ") {
		t.Errorf("--version: %+v", got)
	}
}

// Whoever calls a command wrongly hears how, and gets exit code 2.
func TestMisuse(t *testing.T) {
	long := strings.Repeat("x", 40)
	for line, says := range map[string]string{
		"":                                "Commands:",
		"dance":                           "unexpected argument dance",
		"demo --seed=soon":                "seed",
		"connect --for=soon":              "duration",
		"connect --for=-1s":               "negative",
		"connect --token=a.b.c":           "--url",
		"connect --url=https://x.invalid": "no token",
		"connect --guest --anonymous":     "can't be used together",
		"connect --url=ftp://x.invalid/ --api-key=k --anonymous":        "Config.BaseURL",
		"connect --url=https://me:pw@x.invalid --api-key=k --anonymous": "user or password",
		"connect --url=https://x.invalid --anonymous":                   "Config.APIKey",
		"connect --url=http://x.invalid --api-key=k --anonymous":        "--allow-insecure",
		"connect --url=https://x.invalid --api-key=k --guest --user=":   "User.ID",
		"serve --addr=0.0.0.0:0":                                        "--allow-remote",
		"serve --user=":                                                 "--user",
		"serve --ttl=-1h":                                               "--ttl",
		"token create":                                                  "name a user",
		"token create john --server":                                    "name a user",
		"token create john --ttl=5ms":                                   "seconds",
		"token create john":                                             "$CHATCONN_SECRET or --secret-file",
		"token dev":                                                     "<user>",
		"token inspect":                                                 "no token",
		"token verify a.b.c":                                            "no secret",
		"diagram --format=crayon":                                       "mermaid, dot, plantuml, svg, matrix, json",
		"diagram --json --format=svg":                                   "contradict",
		"diagram " + long:                                               "unexpected argument [redacted]",
		"diagram --format=" + long:                                      "[redacted]",
		"token create john --ttl=" + long:                               "[redacted]",
	} {
		t.Run(line, func(t *testing.T) {
			got := call(t, strings.Fields(line)...)
			got.want(t, misuse, says)
			if got.out != "" {
				t.Errorf("it prints something for all that: %s", got.out)
			}
			if strings.Contains(got.err, long) || strings.Contains(got.err, "pw@") {
				t.Errorf("it repeats what may be a secret: %s", got.err)
			}
		})
	}
}
