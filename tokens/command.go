package tokens

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// Command returns a source that runs a program, once for each token that is
// needed. It prints the token on its standard output, and nothing else but
// spaces and line breaks around it.
//
// The program gets this process's environment and directory and an empty
// standard input. When the context ends it is killed, on Unix with the whole
// process group that it leads; so it cannot ask on a terminal. One that has
// ended, and left its output open in a child, is not waited for longer than a
// second.
//
// A program that cannot be found or executed is permanent. Whatever else fails is
// retried: an exit status other than 0, no output, several words, or more
// than 16 KiB. The error wraps an *exec.ExitError if there is one, and ends
// with at most 512 bytes of the end of the standard error, without what looks like a
// token. The arguments are in no error, but other users of the machine may see
// them while the program runs. Specification: T1, T3, T11.
func Command(name string, args ...string) Source {
	args = slices.Clone(args)
	return Func(func(ctx context.Context) (string, error) { return run(ctx, name, args) })
}

// pipeDelay is how long a program's output may stay open after its end.
const pipeDelay = time.Second

func run(ctx context.Context, name string, args []string) (string, error) {
	if name == "" {
		return "", fmt.Errorf("%w: the program's name is empty", ErrNoSource)
	}
	cmd := exec.CommandContext(ctx, name, args...)
	stdout, stderr := new(head), new(tail)
	cmd.Stdout, cmd.Stderr = stdout, stderr
	cmd.WaitDelay = pipeDelay
	inGroup(cmd)

	fail := func(err error) (string, error) {
		if end := stderr.text(); end != "" {
			return "", fmt.Errorf("tokens: the program %q: %w: %s", name, err, end)
		}
		return "", fmt.Errorf("tokens: the program %q: %w", name, err)
	}
	switch err := cmd.Start(); {
	case err == nil:
	case cannotRun(err):
		return fail(Permanent(err))
	default:
		return fail(err)
	}
	err := cmd.Wait()
	switch {
	case stdout.over:
		return fail(errors.New("it printed more than a token can be"))
	case err != nil && ctx.Err() != nil:
		return fail(ctx.Err())
	case err != nil && !errors.Is(err, exec.ErrWaitDelay): // which comes after success only
		return fail(err)
	}
	switch words := strings.Fields(string(stdout.kept)); len(words) {
	case 0:
		return fail(errors.New("it printed nothing"))
	case 1:
		return words[0], nil
	default:
		return fail(errors.New("it printed more than one word"))
	}
}

// cannotRun tells whether a start failed for what is wrong with the program,
// not with the machine at this moment.
func cannotRun(err error) bool {
	lookup := (*exec.Error)(nil)
	return errors.As(err, &lookup) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || wrongFormat(err)
}

// head keeps what is written, as far as a token can go; beyond that writing
// fails, which ends a program that goes on.
type head struct {
	kept []byte
	over bool
}

func (h *head) Write(p []byte) (int, error) {
	if len(h.kept)+len(p) > maxSize {
		h.over = true
		return 0, errors.New("tokens: too long")
	}
	h.kept = append(h.kept, p...)
	return len(p), nil
}

// tail keeps the end of what is written: more than is shown, so that a token of
// which the end would be shown is seen from its beginning.
type tail struct {
	kept []byte
	cut  bool // something before kept is lost
}

const keptTail = maxSize + maxForeign

func (t *tail) Write(p []byte) (int, error) {
	n := len(p)
	if len(p) > keptTail {
		p, t.cut = p[len(p)-keptTail:], true
	}
	if over := len(t.kept) + len(p) - keptTail; over > 0 {
		t.kept, t.cut = append(t.kept[:0], t.kept[over:]...), true
	}
	t.kept = append(t.kept, p...)
	return n, nil
}

// text returns what may be shown. A word whose beginning is lost is not: it
// may be the rest of a token.
func (t *tail) text() string {
	kept := t.kept
	if t.cut {
		space := bytes.IndexAny(kept, " \t\r\n")
		if space < 0 {
			return ""
		}
		kept = kept[space:]
	}
	return scrub(string(bytes.TrimSpace(kept)))
}
