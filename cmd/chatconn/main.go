// Command chatconn tries out, watches and draws the connection of package
// chatconn, and serves and signs what is needed for that.
//
//	chatconn demo       one user's whole life on an embedded server, checked
//	chatconn connect    stay connected and print what happens
//	chatconn serve      a development server that fails on command
//	chatconn token      make, read and check tokens
//	chatconn diagram    draw the table by which every connection lives
//	chatconn replay     take a recording through that table, and draw it
//	chatconn coverage   add up which of its cells the tests have walked
//
// Each has --help. Results go to standard output, with --json as one JSON object
// a line; errors go to standard error. The exit code is 0, or 1 if the command
// failed, or 2 if it was called wrongly.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/chatconn/chatconn"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the program at once
	os.Exit(run(ctx, os.Args[1:], streams{os.Stdin, os.Stdout, os.Stderr}))
}

// streams are the standard streams of a command.
type streams struct {
	in       io.Reader
	out, err io.Writer
}

// The exit codes.
const (
	ok     = 0
	failed = 1
	misuse = 2
)

// commands is the whole command line.
type commands struct {
	JSON    asJSON           `name:"json" help:"Print one JSON object a line, for programs."`
	Version kong.VersionFlag `help:"Print the version and exit."`

	Demo    demo    `cmd:"" help:"Walk one user through a whole life on an embedded server, and check each step."`
	Connect connect `cmd:"" help:"Connect a user, stay connected, and print every transition and event."`
	Serve   serve   `cmd:"" help:"Run a development server that verifies tokens and fails on command."`
	Token   struct {
		Create  tokenCreate  `cmd:"" help:"Sign a token for a user, or for a server."`
		Dev     tokenDev     `cmd:"" help:"Make an unsigned development token."`
		Inspect tokenInspect `cmd:"" help:"Show what a token says, without verifying it."`
		Verify  tokenVerify  `cmd:"" help:"Check a token's signature and times, as the service does."`
	} `cmd:"" help:"Make, read and check tokens."`
	Diagram  diagram  `cmd:"" help:"Draw the states and events of a connection."`
	Replay   replay   `cmd:"" help:"Take a recording through the table, and sum it up or draw it."`
	Coverage coverage `cmd:"" help:"Add up which cells of the table the tests have walked, and show it."`
}

// asJSON says that the output is for programs.
type asJSON bool

// usageError is an error of whoever typed the command.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// errFailed ends a command that has said already what failed.
var errFailed = errors.New("failed")

// run executes one command line and returns the exit code. The command ends
// early, and cleanly, when ctx does.
func run(ctx context.Context, args []string, std streams) int {
	if len(args) == 0 {
		run(ctx, []string{"--help"}, streams{std.in, std.err, std.err})
		return misuse
	}
	var cli commands
	exit := -1 // what --help and --version leave with; parsing goes on behind them
	parser, err := kong.New(&cli,
		kong.Name("chatconn"),
		kong.Description("Keeps a chat user connected, and shows how. Run \"chatconn COMMAND --help\" for more about a command."),
		kong.Writers(std.out, std.err),
		kong.Exit(func(code int) { exit = code }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, NoExpandSubcommands: true, WrapUpperBound: 100}),
		kong.Vars{"version": "chatconn " + chatconn.Version, "formats": formatNames()},
		kong.BindTo(ctx, (*context.Context)(nil)),
		kong.Bind(std),
	)
	if err != nil {
		panic("BUG: chatconn: the command line contradicts itself: " + err.Error())
	}
	command, err := parser.Parse(args)
	if exit >= 0 {
		return exit
	}
	if err != nil {
		fmt.Fprintf(std.err, "chatconn: %s\nRun \"chatconn --help\" for usage.\n", withoutLongWords(err.Error()))
		return misuse
	}
	err = command.Run(cli.JSON)
	var usage usageError
	var invalid *chatconn.InvalidError
	switch {
	case err == nil:
		return ok
	case errors.Is(err, errFailed):
		return failed
	}
	text := strings.ReplaceAll(strings.TrimPrefix(err.Error(), "chatconn: "), "\n", "; ")
	fmt.Fprintln(std.err, "chatconn:", printable(withoutTokens(text)))
	if errors.As(err, &usage) || errors.As(err, &invalid) {
		return misuse
	}
	return failed
}

// Every token begins with these letters, since every header does. One that was
// given as an address or a file's name comes back in the error about that.
var token = regexp.MustCompile(`eyJ[\w.+/=%-]{8,}`)

func withoutTokens(text string) string { return token.ReplaceAllString(text, "[redacted]") }

// A word as long as a token or a secret may be one that stands in the wrong
// place. The parser repeats it, so it is taken out.
var longWord = regexp.MustCompile(`[^\s"',]{24,}`)

func withoutLongWords(text string) string { return longWord.ReplaceAllString(text, "[redacted]") }
