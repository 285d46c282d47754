package pgtest

import (
	"os/exec"
	"runtime"
	"syscall"
)

// A process is a server that is our direct child, in a process group of its
// own, and that gets an immediate shutdown when this process dies.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed once the process has ended
}

func startProcess(cmd *exec.Cmd) (*process, error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = new(syscall.SysProcAttr)
	}
	cmd.SysProcAttr.Setpgid = true
	cmd.SysProcAttr.Pdeathsig = syscall.SIGQUIT
	p := &process{cmd: cmd, done: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		// The kernel sends Pdeathsig when the thread that forked ends, which may
		// be long before the process does: this goroutine keeps its thread.
		runtime.LockOSThread()
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		// How a server ended is told by its log; Wait's error adds nothing.
		_ = cmd.Wait()
		close(p.done)
	}()
	return p, <-started
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}
