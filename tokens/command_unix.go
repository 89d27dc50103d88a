//go:build unix

package tokens

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
)

// inGroup makes the program lead a process group, which is killed as a whole.
func inGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error {
		err := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		if errors.Is(err, syscall.ESRCH) {
			return os.ErrProcessDone
		}
		return err
	}
}

func wrongFormat(err error) bool { return errors.Is(err, syscall.ENOEXEC) }
