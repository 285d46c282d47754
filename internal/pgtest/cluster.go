package pgtest

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// startTimeout bounds a start with its crash or archive recovery, and a stop.
const startTimeout = 2 * time.Minute

// Options says how a cluster is made and started. The zero value is a usable
// PostgreSQL 15.
type Options struct {
	Major          int    // 0 means 15
	DataChecksums  bool   // page checksums
	SegmentSizeMB  int    // size of a WAL segment; 0 means 16
	ArchiveCommand string // also sets archive_mode = on; empty leaves archiving off

	// Conf holds more settings: in postgresql.conf for a new cluster, on the
	// server's command line, where they win, for an adopted one.
	Conf map[string]string

	// Env is added to the environment of the server, so archive_command and
	// restore_command see it, and to that of Command.
	Env []string

	// Durable leaves fsync on. Without it a server doesn't survive the machine
	// but is much faster; killed processes make no difference.
	Durable bool
}

func (o Options) settings() map[string]string {
	conf := map[string]string{}
	if o.ArchiveCommand != "" {
		conf["archive_mode"] = "on"
		conf["archive_command"] = o.ArchiveCommand
	}
	maps.Copy(conf, o.Conf)
	return conf
}

// A Cluster is a data directory with its server. Its superuser is postgres,
// connections need no password.
type Cluster struct {
	Major int
	Dir   string // the data directory
	Port  int    // on 127.0.0.1, and the number of the socket in SocketDir

	server  Server
	home    string // folder of the socket and the log, and the parent of what else we make
	env     []string
	flags   []string // settings for the command line
	process *process // nil before the first start
}

// Start makes a new cluster and starts it. It is stopped and removed when the
// test ends; when the test failed, its log is printed first.
func Start(t testing.TB, o Options) *Cluster {
	t.Helper()
	if o.Major == 0 {
		o.Major = 15
	}
	c := newCluster(t, o.Major, "", o)
	c.initdb(t, o)
	c.configure(t, o.settings())
	if err := c.start(t); err != nil {
		t.Fatal(err)
	}
	return c
}

// Adopt starts a server on an existing data directory, say a restored one, on
// a port and a socket of its own. Nothing is written into the directory before
// PostgreSQL does; o.Conf is given on the command line. The release is the
// directory's. The server is stopped when the test ends; dir is not removed.
func Adopt(t testing.TB, dir string, o Options) *Cluster {
	t.Helper()
	c, err := TryAdopt(t, dir, o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TryAdopt is Adopt for a directory on which PostgreSQL may refuse to start:
// the error then holds the server's log.
func TryAdopt(t testing.TB, dir string, o Options) (*Cluster, error) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "PG_VERSION"))
	if err != nil {
		return nil, fmt.Errorf("adopt: %w", err)
	}
	major, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return nil, fmt.Errorf("adopt: %s/PG_VERSION: %w", dir, err)
	}
	c := newCluster(t, major, dir, o)
	for name, value := range o.settings() {
		c.flags = append(c.flags, "-c", name+"="+value)
	}
	return c, c.start(t)
}

// newCluster prepares a cluster with data directory dir, or one below its own
// folder when dir is empty. It makes no data directory.
func newCluster(t testing.TB, major int, dir string, o Options) *Cluster {
	t.Helper()
	c := &Cluster{Major: major, Dir: dir, server: Require(t, major), home: TempDir(t), env: o.Env}
	if dir == "" {
		c.Dir = filepath.Join(c.home, "data")
	}
	c.flags = []string{
		"-c", "listen_addresses=127.0.0.1",
		"-c", "unix_socket_directories=" + c.home,
		"-c", "logging_collector=off",
		"-c", "shared_buffers=32MB",
	}
	if !o.Durable {
		c.flags = append(c.flags, "-c", "fsync=off")
	}
	t.Cleanup(func() { c.cleanup(t) })
	return c
}

func (c *Cluster) initdb(t testing.TB, o Options) {
	t.Helper()
	args := []string{"-D", c.Dir, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"}
	switch {
	case o.DataChecksums:
		args = append(args, "--data-checksums")
	case o.Major >= 18: // where they are the default
		args = append(args, "--no-data-checksums")
	}
	if o.SegmentSizeMB != 0 {
		args = append(args, fmt.Sprintf("--wal-segsize=%d", o.SegmentSizeMB))
	}
	c.run(t, filepath.Join(c.server.Bin, "initdb"), args...)
}

// configure appends settings to postgresql.conf.
func (c *Cluster) configure(t testing.TB, settings map[string]string) {
	t.Helper()
	c.appendSettings(t, "postgresql.conf", settings)
}

func (c *Cluster) appendSettings(t testing.TB, file string, settings map[string]string) {
	t.Helper()
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		fmt.Fprintf(&b, "%s = '%s'\n", name, strings.ReplaceAll(settings[name], "'", "''"))
	}
	f, err := os.OpenFile(filepath.Join(c.Dir, file), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(b.String()); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// start starts the server and waits until it accepts connections. The first
// start picks a port, and another when a stranger was faster; later ones keep
// it, because others (a standby) may know it.
func (c *Cluster) start(t testing.TB) error {
	t.Helper()
	pick := c.Port == 0
	for try := 1; ; try++ {
		if pick {
			port, err := freePort()
			if err != nil {
				return err
			}
			c.Port = port
		}
		log, err := c.startOnce(t)
		clash := strings.Contains(log, "Address already in use")
		if err == nil || !clash || try == 10 {
			return err
		}
		if !pick {
			time.Sleep(200 * time.Millisecond)
		}
	}
}

// startOnce also returns what the server logged when it did not come up.
func (c *Cluster) startOnce(t testing.TB) (log string, err error) {
	t.Helper()
	f, err := os.OpenFile(c.logPath(), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return "", err
	}
	defer f.Close() // the server has its own descriptor
	before, err := f.Stat()
	if err != nil {
		return "", err
	}
	args := append([]string{"-D", c.Dir, "-c", fmt.Sprintf("port=%d", c.Port)}, c.flags...)
	// Not with the test's context, which ends before its cleanup: that would kill, not stop.
	cmd := c.prepare(t, exec.Command(filepath.Join(c.server.Bin, "postgres"), args...))
	cmd.Stdout, cmd.Stderr = f, f
	if c.process, err = startProcess(cmd); err != nil {
		c.process = nil
		return "", err
	}
	err = c.waitReady()
	if err != nil {
		if stopErr := c.process.stop(Immediate); stopErr != nil {
			err = errors.Join(err, stopErr)
		}
		log = c.Log(t)[before.Size():]
		err = fmt.Errorf("start PostgreSQL %d on %s: %w; its log:\n%s", c.Major, c.Dir, err, log)
	}
	return log, err
}

// waitReady watches the status line of postmaster.pid, as pg_ctl does.
func (c *Cluster) waitReady() error {
	pid := strconv.Itoa(c.process.cmd.Process.Pid)
	for deadline := time.Now().Add(startTimeout); ; {
		b, err := os.ReadFile(filepath.Join(c.Dir, "postmaster.pid"))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		lines := strings.Split(string(b), "\n")
		if len(lines) >= 8 && lines[0] == pid {
			// "standby" is a server that never accepts connections while it recovers.
			if status := strings.TrimSpace(lines[7]); status == "ready" || status == "standby" {
				return nil
			}
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("not ready after %v", startTimeout)
		}
		select {
		case <-c.process.done:
			return fmt.Errorf("ended: %v", c.process.cmd.ProcessState)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// A StopMode is how a server is told to stop, as in pg_ctl stop -m.
type StopMode syscall.Signal

const (
	Smart     = StopMode(syscall.SIGTERM) // when all clients have left
	Fast      = StopMode(syscall.SIGINT)  // with a checkpoint
	Immediate = StopMode(syscall.SIGQUIT) // as a crash: the next start recovers
)

// Stop stops the server and waits for its end.
func (c *Cluster) Stop(t testing.TB, mode StopMode) {
	t.Helper()
	if c.process == nil {
		return
	}
	if err := c.process.stop(mode); err != nil {
		t.Fatalf("stop PostgreSQL %d on %s: %v", c.Major, c.Dir, err)
	}
}

func (p *process) stop(mode StopMode) error {
	if p.ended() {
		return nil
	}
	if err := p.cmd.Process.Signal(syscall.Signal(mode)); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-p.done:
		return nil
	case <-time.After(startTimeout):
		return fmt.Errorf("process %d still runs %v after %v", p.cmd.Process.Pid, startTimeout, syscall.Signal(mode))
	}
}

// StartAgain starts a stopped server, on the port it had.
func (c *Cluster) StartAgain(t testing.TB) {
	t.Helper()
	if err := c.TryStartAgain(t); err != nil {
		t.Fatal(err)
	}
}

// TryStartAgain is StartAgain for a server that may refuse: the error then
// holds its log.
func (c *Cluster) TryStartAgain(t testing.TB) error {
	t.Helper()
	if c.Running() {
		t.Fatalf("PostgreSQL %d on %s runs already", c.Major, c.Dir)
	}
	return c.start(t)
}

// Restart stops the server with a checkpoint and starts it.
func (c *Cluster) Restart(t testing.TB) {
	t.Helper()
	c.Stop(t, Fast)
	c.StartAgain(t)
}

// Running reports whether the server process lives.
func (c *Cluster) Running() bool { return c.process != nil && !c.process.ended() }

// Log returns all that the server has logged.
func (c *Cluster) Log(t testing.TB) string {
	t.Helper()
	b, err := os.ReadFile(c.logPath())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return string(b)
}

func (c *Cluster) logPath() string { return filepath.Join(c.home, "server.log") }

func (c *Cluster) cleanup(t testing.TB) {
	if c.process != nil {
		if err := c.process.stop(Immediate); err != nil {
			t.Error(err)
		}
	}
	if t.Failed() {
		lines := strings.SplitAfter(c.Log(t), "\n")
		lines = lines[max(0, len(lines)-200):]
		t.Logf("log of PostgreSQL %d on %s, last lines:\n%s", c.Major, c.Dir, strings.Join(lines, ""))
	}
}

// Command returns a command that runs as the server's user, in "/", with only
// PATH and GOCOVERDIR of our environment, a HOME of its own, and Env and
// Options.Env. It is killed when the test ends.
func (c *Cluster) Command(t testing.TB, name string, args ...string) *exec.Cmd {
	t.Helper()
	return c.prepare(t, exec.CommandContext(t.Context(), name, args...))
}

// prepare gives cmd the user and the environment of Command.
func (c *Cluster) prepare(t testing.TB, cmd *exec.Cmd) *exec.Cmd {
	t.Helper()
	RunAs(t, cmd)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + c.home, "LC_ALL=C"}
	if dir := os.Getenv("GOCOVERDIR"); dir != "" {
		cmd.Env = append(cmd.Env, "GOCOVERDIR="+dir)
	}
	if c.Port != 0 { // a server reads PGPORT too, initdb's among them
		cmd.Env = append(cmd.Env, c.Env()...)
	}
	cmd.Env = append(cmd.Env, c.env...)
	return cmd
}

// run runs a command and fails the test when it fails.
func (c *Cluster) run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := c.Command(t, name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", filepath.Base(name), args, err, out)
	}
	return string(out)
}

// freePort returns a port of 127.0.0.1 that nobody listens on, below those
// that the kernel gives to outgoing connections.
func freePort() (int, error) {
	var err error
	for range 100 {
		port := 20000 + rand.IntN(10000)
		var l net.Listener
		if l, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			return port, l.Close()
		}
	}
	return 0, fmt.Errorf("no free port: %w", err)
}
