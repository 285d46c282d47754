package enginetest

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"
)

// A Process is a server that is our direct child, in a process group of its
// own, which is killed when the test process dies.
type Process struct {
	name string
	log  string
	cmd  *exec.Cmd
	done chan struct{} // closed once the process has ended
}

// start starts a server whose output goes to a log file, and waits until ready
// returns nil. The server is killed when the test ends; a test that failed
// prints the end of its log.
func start(t testing.TB, name string, cmd *exec.Cmd, ready func(context.Context) error) *Process {
	t.Helper()
	p := &Process{name: name, log: filepath.Join(t.TempDir(), name+".log"), cmd: cmd, done: make(chan struct{})}
	log, err := os.Create(p.log)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close() // the child has its own
	cmd.Stdout, cmd.Stderr = log, log
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = new(syscall.SysProcAttr)
	}
	cmd.SysProcAttr.Setpgid = true
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	if err := p.run(); err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			t.Logf("end of the log of %s:\n%s", name, p.tail())
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	for {
		err := ready(ctx)
		if err == nil {
			return p
		}
		select {
		case <-p.done:
			t.Fatalf("%s ended at once: %v\n%s", name, cmd.ProcessState, p.tail())
		case <-ctx.Done():
			t.Fatalf("%s does not answer: %v\n%s", name, err, p.tail())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (p *Process) run() error {
	started := make(chan error, 1)
	go func() {
		// The kernel sends Pdeathsig when the thread that forked ends, which may
		// be long before the process does: this goroutine keeps its thread.
		runtime.LockOSThread()
		err := p.cmd.Start()
		started <- err
		if err != nil {
			return
		}
		// How a server ended is told by its log; Wait's error adds nothing.
		_ = p.cmd.Wait()
		close(p.done)
	}()
	return <-started
}

// Kill ends the server and its children as a crash does, and waits for it.
func (p *Process) Kill() {
	p.signal(syscall.SIGKILL)
	<-p.done
}

// Stop freezes the server and its children, and waits until the server stands
// still: a signal alone may be late.
func (p *Process) Stop() {
	p.signal(syscall.SIGSTOP)
	for i := 0; i < 1000 && !p.stopped(); i++ {
		time.Sleep(time.Millisecond)
	}
}

// stopped reports whether the kernel says that all threads of the server stand.
func (p *Process) stopped() bool {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", p.cmd.Process.Pid))
	if err != nil {
		return false
	}
	for _, task := range tasks {
		// The state follows the name, which is in parentheses.
		stat, err := os.ReadFile(task)
		if i := bytes.LastIndexByte(stat, ')'); err != nil || i < 0 || i+2 >= len(stat) || stat[i+2] != 'T' {
			return false
		}
	}
	return len(tasks) > 0
}

// Continue wakes them.
func (p *Process) Continue() { p.signal(syscall.SIGCONT) }

func (p *Process) signal(s syscall.Signal) {
	select {
	case <-p.done: // its number may be somebody else's by now
	default:
		_ = syscall.Kill(-p.cmd.Process.Pid, s)
	}
}

// tail returns the last lines that the server wrote.
func (p *Process) tail() []byte {
	data, err := os.ReadFile(p.log)
	if err != nil {
		return []byte(err.Error())
	}
	const most = 4000
	if len(data) > most {
		data = data[len(data)-most:]
		if i := bytes.IndexByte(data, '\n'); i >= 0 {
			data = data[i+1:]
		}
	}
	return data
}

// answers returns a check that an HTTP server gives one of the statuses at url,
// or any when none is named.
func answers(url string, statuses ...int) func(context.Context) error {
	return func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		res.Body.Close()
		for _, s := range statuses {
			if res.StatusCode == s {
				return nil
			}
		}
		if len(statuses) == 0 {
			return nil
		}
		return fmt.Errorf("%s: %s", url, res.Status)
	}
}
