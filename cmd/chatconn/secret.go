package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// secretEnv names the variable that holds the app's secret. There is no flag for
// the secret itself, since everyone on the machine can list a process's flags.
const secretEnv = "CHATCONN_SECRET"

// secretFlag tells where the app's secret is.
type secretFlag struct {
	SecretFile string `placeholder:"FILE" help:"File that holds the app's secret; one line end after it is dropped. Without the flag the secret is that in $$CHATCONN_SECRET."`
}

// secret returns the app's secret, nil if none was given.
func (f secretFlag) secret() ([]byte, error) {
	secret, from := os.Getenv(secretEnv), "$"+secretEnv
	if f.SecretFile != "" {
		text, err := os.ReadFile(f.SecretFile)
		if err != nil {
			return nil, fmt.Errorf("the secret: %w", err)
		}
		secret, from = withoutLineEnd(string(text)), f.SecretFile
		if secret == "" {
			return nil, usagef("the secret in %s is empty", from)
		}
	}
	if secret != withoutLineEnd(secret) {
		return nil, usagef("the secret in %s ends with a line break", from)
	}
	if secret == "" {
		return nil, nil
	}
	return []byte(secret), nil
}

// needSecret is secret for commands that cannot do without.
func (f secretFlag) needSecret() ([]byte, error) {
	secret, err := f.secret()
	if err == nil && secret == nil {
		err = usagef("no secret: set $%s or --secret-file", secretEnv)
	}
	return secret, err
}

// withoutLineEnd drops one line end, which editors and shells put behind a text.
func withoutLineEnd(text string) string {
	if line, cut := strings.CutSuffix(text, "\n"); cut {
		return strings.TrimSuffix(line, "\r")
	}
	return text
}

// maxTokenText is more than any token; what reads one stops there.
const maxTokenText = 64 << 10

// tokenArg is a token that a command works on.
type tokenArg struct {
	Token string `arg:"" optional:"" help:"The token. Without it, it is read from standard input, where nobody else on the machine can see it."`
}

// given returns the token, as it was given.
func (a tokenArg) given(in io.Reader) (string, error) {
	if a.Token != "" {
		return a.Token, nil
	}
	text, err := io.ReadAll(io.LimitReader(in, maxTokenText))
	if err != nil {
		return "", fmt.Errorf("standard input: %w", err)
	}
	token := withoutLineEnd(string(text))
	if token == "" {
		return "", usageError{errors.New("no token: give one as argument or on standard input")}
	}
	return token, nil
}
