package tokens_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/chatconn/chatconn/tokens"
)

// TestMain makes the test binary the program that tests of Command run.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "program" {
		program(os.Args[2], os.Args[3:])
		os.Exit(0)
	}
	os.Setenv("GORACE", "atexit_sleep_ms=0") // in programs; a second each otherwise
	os.Exit(m.Run())
}

func program(what string, args []string) {
	switch what {
	case "print": // stdout
		fmt.Print(args[0])
	case "fail": // stderr, status
		fmt.Fprint(os.Stderr, args[0])
		status, _ := strconv.Atoi(args[1])
		os.Exit(status)
	case "flood": // words on stderr before the last, how many
		n, _ := strconv.Atoi(args[1])
		os.Stderr.Write(bytes.Repeat([]byte("x"), n))
		fmt.Fprint(os.Stderr, args[0])
		os.Exit(1)
	case "endless":
		for {
			if _, err := os.Stdout.Write(bytes.Repeat([]byte("x"), 4096)); err != nil {
				os.Exit(1)
			}
		}
	case "environment":
		_, err := os.Stdin.Read(make([]byte, 1))
		fmt.Print(os.Getenv("CHATCONN_TEST_TOKEN"), err == io.EOF)
	case "hang": // an address to call, and how many children do the same
		more, _ := strconv.Atoi(args[1])
		if more > 0 {
			child := exec.Command(os.Args[0], "program", "hang", args[0], strconv.Itoa(more-1))
			child.Stdout, child.Stderr = os.Stdout, os.Stderr
			if err := child.Start(); err != nil {
				panic(err)
			}
		}
		call(args[0])
	case "leave": // an address that a child calls, which outlives its parent
		child := exec.Command(os.Args[0], "program", "hang", args[0], "0")
		child.Stdout, child.Stderr = os.Stdout, os.Stderr
		if err := child.Start(); err != nil {
			panic(err)
		}
		fmt.Println("a.b.c")
	}
}

// call tells the test its process id, and waits until the test hangs up.
func call(addr string) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		panic(err)
	}
	fmt.Fprintln(conn, os.Getpid())
	io.Copy(io.Discard, conn)
}

// command is a source that runs this program.
func command(args ...string) tokens.Source {
	return tokens.Command(os.Args[0], append([]string{"program"}, args...)...)
}

// T1: what the program prints is the token, without the spaces around it.
func TestT1_Command(t *testing.T) {
	t.Setenv("CHATCONN_TEST_TOKEN", "a.b.c")
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"print", "a.b.c"}, "a.b.c"},
		{[]string{"print", "\n a.b.c \r\n\n"}, "a.b.c"},
		{[]string{"print", strings.Repeat("x", 16<<10)}, strings.Repeat("x", 16<<10)},
		{[]string{"environment"}, "a.b.ctrue"}, // inherited; and stdin is empty
	} {
		source := command(c.args...)
		for range 2 {
			if got, err := source.Token(t.Context()); got != c.want || err != nil {
				t.Errorf("%.20q: got %.20q, %v", c.args, got, err)
			}
		}
	}
}

// A source keeps what it was given, whatever becomes of the caller's slices.
func TestSourcesCopyWhatTheyAreGiven(t *testing.T) {
	args := []string{"program", "print", "a.b.c"}
	source := tokens.Command(os.Args[0], args...)
	args[2] = "changed"
	if got, err := source.Token(t.Context()); got != "a.b.c" || err != nil {
		t.Errorf("Command: got %q, %v", got, err)
	}

	echo := endpoint(t, func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })
	body := []byte("a.b.c")
	source = tokens.HTTP(echo.URL, tokens.HTTPOptions{Body: body, PlainText: true})
	body[0] = 'x'
	if got, err := source.Token(t.Context()); got != "a.b.c" || err != nil {
		t.Errorf("HTTP: got %q, %v", got, err)
	}
}

// T3: a failure of the program is retried; the lack of one is final.
func TestT3_CommandFails(t *testing.T) {
	dir := t.TempDir()
	plain := filepath.Join(dir, "plain")
	garbage := filepath.Join(dir, "garbage")
	missing := filepath.Join(dir, "missing-interpreter")
	for name, mode := range map[string]os.FileMode{plain: 0o600, garbage: 0o700, missing: 0o700} {
		text := "no program"
		if name == missing {
			text = "#!/nowhere/interpreter\n"
		}
		if err := os.WriteFile(name, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name   string
		source tokens.Source
		final  bool
		status int // of the exec.ExitError; 0: none
		says   string
		unix   bool
	}{
		{"status", command("fail", "no\x1b[1m\nnetwork", "3"), false, 3, "exit status 3: no [1m network", false},
		{"status without words", command("fail", "", "1"), false, 1, "exit status 1", false},
		{"nothing", command("print", " \n"), false, 0, "printed nothing", false},
		{"two words", command("print", "token: a.b.c"), false, 0, "more than one word", false},
		{"one byte too many", command("print", strings.Repeat("x", 16<<10+1)), false, 0, "more than a token can be", false},
		{"without end", command("endless"), false, 0, "more than a token can be", false},
		{"not found", tokens.Command("chatconn-no-such-program"), true, 0, "not found", false},
		{"empty name", tokens.Command(""), true, 0, "", false},
		{"no such file", tokens.Command(filepath.Join(dir, "none")), true, 0, "", false},
		{"a directory", tokens.Command(dir), true, 0, "", false},
		{"not executable", tokens.Command(plain), true, 0, "permission denied", true},
		{"no program", tokens.Command(garbage), true, 0, "exec format error", true},
		{"no interpreter", tokens.Command(missing), true, 0, "no such file", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.unix && runtime.GOOS == "windows" {
				t.Skip("files have no permission to execute here")
			}
			got, err := c.source.Token(t.Context())
			if got != "" || err == nil || !strings.Contains(err.Error(), c.says) || tokens.IsPermanent(err) != c.final {
				t.Errorf("got %q, permanent %v: %v", got, tokens.IsPermanent(err), err)
			}
			exit := (*exec.ExitError)(nil)
			if errors.As(err, &exit) != (c.status != 0) || exit != nil && exit.ExitCode() != c.status {
				t.Errorf("got exit %v, want status %d: %v", exit, c.status, err)
			}
		})
	}
}

// T11: nothing that looks like a token reaches an error, however much of the
// standard error is lost.
func TestT11_CommandHidesTokens(t *testing.T) {
	raw := mint(t, "john", 1)
	const shown = "the end is shown"
	for _, c := range []struct {
		name, stderr string
		before       int // bytes of one word before it
		want         string
	}{
		{"alone", "token " + raw + " refused", 0, "token [redacted] refused"},
		{"quoted", `{"token":"` + raw + `"}`, 0, `{"token":"[redacted]"}`},
		{"in a URL", "GET /?t=" + raw + "&u=1 failed", 0, "GET /?t=[redacted] failed"},
		{"in base64", "ZXlKaGJHY2lPaUpJVXpJMU5pSjk= " + shown, 0, "[redacted] " + shown},
		{"other keys", "key " + strings.Repeat("9f", 20) + " " + shown, 0, "key [redacted] " + shown},
		{"a path stays", "open /usr/share/some-program/configuration/file.txt: no", 0, "open /usr/share/some-program/configuration/file.txt: no"},
		{"at the cut", raw + " " + shown, 500, "[redacted] " + shown},
		{"a word longer than is kept", raw + " " + shown, 17 << 10, shown},
		{"nothing but one word", raw, 17 << 10, ""},
		{"one word in several writes", raw, 16<<10 + 500, ""},
		{"a byte too long", strings.Repeat("w ", 256) + "w", 0, "w w w"},
		{"a long text", strings.Repeat("word ", 2000) + shown, 0, "word " + shown},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := command("flood", c.stderr, strconv.Itoa(c.before)).Token(t.Context())
			if err == nil {
				t.Fatal("no error")
			}
			_, end, _ := strings.Cut(err.Error(), "exit status 1")
			if !strings.HasSuffix(end, c.want) || c.want == "" && end != "" {
				t.Errorf("got %q, want the end %q", end, c.want)
			}
			if len(end) > 512+len(": ") {
				t.Errorf("%d bytes of it are shown", len(end))
			}
			assertHidden(t, raw, "the error", err.Error())
		})
	}
	source := command("fail", "", "1")
	if text := fmt.Sprintf("%v %+v %#v", source, source, source); strings.Contains(text, "program") {
		t.Errorf("a dump shows the arguments: %s", text)
	}
}

// A program that has ended is not waited for because a child of it goes on.
func TestCommandDoesNotWaitForWhatTheProgramLeaves(t *testing.T) {
	calls := receive(t)
	got, err := command("leave", calls.addr).Token(t.Context())
	if got != "a.b.c" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	calls.next(t).Close() // it lives, and ends now
}

// T1: the context ends the program, and its end is what the error tells.
func TestT1_CommandEndsWithItsContext(t *testing.T) {
	calls := receive(t)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := command("hang", calls.addr, "0").Token(ctx)
		ended <- err
	}()
	program := calls.next(t)
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) || tokens.IsPermanent(err) {
		t.Errorf("got %v", err)
	}
	program.gone()
	if _, err := command("print", "a.b.c").Token(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that has ended: %v", err)
	}
}

// calls are the connections that programs make.
type calls struct {
	net.Listener
	addr string
}

func receive(t *testing.T) calls {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return calls{ln, ln.Addr().String()}
}

// running is a program that waits until the test hangs up.
type running struct {
	net.Conn
	pid int
}

// next waits for a program to call.
func (c calls) next(t *testing.T) running {
	t.Helper()
	conn, err := c.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	r := running{Conn: conn}
	if _, err := fmt.Fscanln(conn, &r.pid); err != nil {
		t.Fatal(err)
	}
	return r
}

// gone waits for the end of the program.
func (r running) gone() { io.Copy(io.Discard, r) }
