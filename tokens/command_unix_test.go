//go:build unix

package tokens_test

import (
	"context"
	"errors"
	"syscall"
	"testing"
)

// C9: the context ends the program with its children, and no zombie is left.
func TestC9_CommandLeavesNoProcess(t *testing.T) {
	calls := receive(t)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := command("hang", calls.addr, "2").Token(ctx)
		ended <- err
	}()
	all := []running{calls.next(t), calls.next(t), calls.next(t)}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	reaped := 0
	for _, r := range all {
		r.gone() // or this blocks
		if syscall.Kill(r.pid, 0) == syscall.ESRCH {
			reaped++
		}
	}
	if reaped == 0 { // the children are left to init, which may take its time
		t.Error("the program is a zombie")
	}
}
