package nightly

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A Cost is what a command took, with all processes that it waited for.
type Cost struct {
	Wall float64 `json:"wall_s"`
	CPU  float64 `json:"cpu_s"`
	Read int64   `json:"read_bytes"` // by read(2) and its like, from whatever it read
	Peak int64   `json:"peak_bytes"` // resident, of the largest process; never below some 10 MB
}

// helper tells a process that it is the one which starts the command.
const helper = "WALE_BENCH_MEASURE"

// Main must be called first in the process that Measure starts again: where that is
// asked for it runs the command and doesn't return.
//
// The process between is there for two reasons: the kernel lets a process begin with
// the peak memory of the one that it was forked from, and adds what children read to
// the counters of the process that waits for them.
func Main() {
	if os.Getenv(helper) == "" {
		return
	}
	if err := os.Unsetenv(helper); err != nil {
		fatal(err)
	}
	cmd := exec.Command(os.Args[1], os.Args[2:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	before, err := bytesRead()
	if err != nil {
		fatal(err)
	}
	began := time.Now()
	failed := cmd.Run()
	c := Cost{Wall: time.Since(began).Seconds()}
	var exit *exec.ExitError
	if failed != nil && !errors.As(failed, &exit) {
		fatal(failed)
	}
	after, err := bytesRead()
	if err != nil {
		fatal(err)
	}
	c.Read = after - before
	if u, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		c.CPU, c.Peak = time.Duration(u.Utime.Nano()+u.Stime.Nano()).Seconds(), u.Maxrss<<10
	}
	if err := json.NewEncoder(os.NewFile(3, "cost")).Encode(c); err != nil {
		fatal(err)
	}
	if failed != nil {
		os.Exit(1)
	}
	os.Exit(0)
}

func fatal(err error) {
	fmt.Fprintln(os.Stderr, "bench:", err)
	os.Exit(2)
}

// bytesRead is what this process and those that it waited for have read so far.
func bytesRead() (int64, error) {
	text, err := os.ReadFile("/proc/self/io")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if n, ok := strings.CutPrefix(line, "rchar: "); ok {
			return strconv.ParseInt(strings.TrimSpace(n), 10, 64)
		}
	}
	return 0, errors.New("/proc/self/io: no rchar")
}

// Measure runs a command and returns its standard output and what it took. program
// is this program, where the user that runs the command can start it; prepare, which
// may be nil, changes the command that starts it, say its user. An error holds what the
// command wrote to standard error.
func Measure(program string, env []string, prepare func(*exec.Cmd) *exec.Cmd, args ...string) ([]byte, Cost, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, Cost{}, err
	}
	defer r.Close() // only read
	cmd := exec.Command(program, args...)
	cmd.Env = append(env, helper+"=1")
	cmd.ExtraFiles = []*os.File{w}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if prepare != nil {
		cmd = prepare(cmd)
	}
	err = cmd.Start()
	if cerr := w.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return nil, Cost{}, err
	}
	text, rerr := io.ReadAll(r)
	if err := cmd.Wait(); err != nil {
		return stdout.Bytes(), Cost{}, fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, stderr.Bytes())
	}
	if rerr != nil {
		return stdout.Bytes(), Cost{}, rerr
	}
	var c Cost
	if err := json.Unmarshal(text, &c); err != nil {
		return stdout.Bytes(), Cost{}, fmt.Errorf("what %s took: %w", args[0], err)
	}
	return stdout.Bytes(), c, nil
}
