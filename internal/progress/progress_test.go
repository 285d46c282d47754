package progress_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"

	"wal-e/internal/progress"
)

func TestMeter(t *testing.T) {
	t.Parallel()
	var none *progress.Meter
	none.Begin("copy", progress.Bytes, 1, nil)
	none.Add(1)
	none.Expect(2)
	if s, ok := none.State(); ok {
		t.Errorf("no meter says %+v", s)
	}
	var m progress.Meter
	if _, ok := m.State(); ok {
		t.Error("a meter without a phase has a state")
	}
	m.Begin("copy", progress.Bytes, 0, func() int64 { return 7 })
	var g sync.WaitGroup
	for range 8 {
		g.Go(func() {
			for range 1000 {
				m.Add(2)
			}
		})
	}
	g.Wait()
	if s, ok := m.State(); !ok || s.Phase != "copy" || s.Done != 16000 || s.Total != 0 || s.New != 7 {
		t.Errorf("state %+v, %t", s, ok)
	}
	m.Skip(0)
	m.Expect(15000)
	if s, _ := m.State(); s.Total != 16000 {
		t.Errorf("more is done than there is: %+v", s)
	}
	m.Begin("through", progress.Bytes, 0, nil)
	for _, m := range []*progress.Meter{&m, nil} {
		if n, err := io.Copy(m.Writer(io.Discard), m.Reader(strings.NewReader("abc"))); n != 3 || err != nil {
			t.Errorf("copied %d, %v", n, err)
		}
	}
	if s, _ := m.State(); s.Done != 6 {
		t.Errorf("a reader and a writer of 3 bytes counted %d", s.Done)
	}
	m.Begin("wait", progress.Items, 3, nil)
	if s, _ := m.State(); s.Done != 0 || s.New != -1 {
		t.Errorf("a new phase begins with %+v", s)
	}
}

func TestState(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		s    progress.State
		want string
	}{
		{progress.State{Unit: progress.Bytes, New: -1}, "0 B in 0s."},
		{progress.State{Unit: progress.Bytes, Done: 1 << 30, Total: 4 << 30, New: 5 << 20, Elapsed: 10 * time.Second},
			"1.0 GiB of 4.0 GiB (25 %) in 10s, 5.0 MiB new, 102.4 MiB/s, 30s left."},
		{progress.State{Unit: progress.Bytes, Done: 3 << 30, Skipped: 2 << 30, Total: 4 << 30, New: 0, Elapsed: 16 * time.Second},
			"3.0 GiB of 4.0 GiB (75 %) in 16s, 0 B new, 64.0 MiB/s, 5s left."},
		{progress.State{Unit: progress.Bytes, Done: 1 << 30, Skipped: 1 << 30, Total: 1 << 30, New: 0, Elapsed: time.Second},
			"1.0 GiB of 1.0 GiB (100 %) in 1s, 0 B new, 0s left."},
		{progress.State{Unit: progress.Items, Done: 10, New: -1, Elapsed: 5 * time.Second}, "10 in 5s, 2/s."},
		{progress.State{Unit: progress.Items, Done: 1, Total: 1 << 40, New: -1, Elapsed: time.Hour}, "1 of 1099511627776 (0 %) in 1h0m0s, 0/s."},
	} {
		if got := tc.s.String(); got != tc.want {
			t.Errorf("%+v says %q, want %q", tc.s, got, tc.want)
		}
	}
}

// written is a Writer whose bytes may be looked at meanwhile.
type written struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (w *written) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.Write(b)
}

func (w *written) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.String()
}

func TestModes(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"auto", "bar", "log", "json", "none"} {
		if m, err := progress.ParseMode(name); err != nil || string(m) != name {
			t.Errorf("ParseMode(%q) = %q, %v", name, m, err)
		}
	}
	if _, err := progress.ParseMode("loud"); err == nil || !strings.Contains(err.Error(), "want auto") {
		t.Errorf("ParseMode(loud): %v", err)
	}
	// What is no terminal gets records, and no bar.
	var w written
	screen := progress.NewScreen(&w, "xterm")
	m := &progress.Meter{}
	m.Begin("copy", progress.Bytes, 10, nil)
	for _, mode := range []progress.Mode{progress.Bar, progress.None} {
		stop := progress.Show(progress.Config{Meter: m, Mode: mode, Screen: screen})
		stop()
		stop()
	}
	records := make(chan progress.State, 100)
	stop := progress.Show(progress.Config{
		Meter: m, Mode: progress.Auto, Screen: screen, First: time.Millisecond, Every: 2 * time.Millisecond,
		Record: func(s progress.State) { records <- s },
	})
	for range 3 {
		if s := <-records; s.Phase != "copy" || s.Total != 10 {
			t.Errorf("record of %+v", s)
		}
	}
	stop()
	if w.String() != "" {
		t.Errorf("written: %q", w.String())
	}
}

// Each event is a line, and there is one at the end however short the work was.
func TestEvents(t *testing.T) {
	t.Parallel()
	var w written
	m := &progress.Meter{}
	stop := progress.Show(progress.Config{Meter: m, Mode: progress.JSON, Command: "backup-push", Events: &w, Tick: time.Hour})
	m.Begin("copy", progress.Bytes, 100, func() int64 { return 40 })
	m.Add(100)
	stop()
	var e progress.Event
	if err := json.Unmarshal([]byte(w.String()), &e); err != nil || strings.Count(w.String(), "\n") != 1 {
		t.Fatalf("events %q: %v", w.String(), err)
	}
	if e.Event != "progress" || e.Command != "backup-push" || e.Phase != "copy" || e.Done != 100 || *e.Total != 100 || *e.New != 40 || *e.Left != 0 {
		t.Errorf("event %s", w.String())
	}
}

// child is the variable that makes TestChild do something.
const child = "PROGRESS_TEST_CHILD"

// TestChild is not a test of its own: TestTerminal runs it on a terminal.
func TestChild(t *testing.T) {
	what := os.Getenv(child)
	if what == "" {
		return
	}
	screen := progress.NewScreen(os.Stderr, os.Getenv("TERM"))
	m := &progress.Meter{}
	m.Begin("copy", progress.Bytes, 0, func() int64 { return 3 << 20 })
	m.Add(1 << 20)
	stop := progress.Show(progress.Config{
		Meter: m, Mode: progress.Auto, Screen: screen,
		First: time.Millisecond, Record: func(progress.State) { fmt.Fprintln(screen, "a record instead of a bar") },
	})
	line := bufio.NewReader(os.Stdin)
	_, _ = line.ReadString('\n') // the bar was seen
	m.Expect(4 << 20)
	m.Add(1 << 20)
	_, _ = line.ReadString('\n') // with a total
	if what == "stopped" {
		if err := stopOutput(os.Stderr); err != nil { // what Ctrl-S does
			t.Fatal(err)
		}
		for range 1 << 20 {
			m.Add(1)
		}
	} else {
		fmt.Fprintln(screen, "a log record")
	}
	stop()
	fmt.Println("the result")
}

// startChild runs TestChild with its standard error stream on a terminal.
func startChild(t *testing.T, what, kind string) (cmd *exec.Cmd, tty *os.File, stdin io.WriteCloser, stdout *written) {
	t.Helper()
	cmd = exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestChild$")
	cmd.Env = append(os.Environ(), child+"="+what, "TERM="+kind)
	stdout = &written{}
	cmd.Stdout = stdout
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	tty, slave, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tty.Close() })
	if err := pty.Setsize(slave, &pty.Winsize{Rows: 24, Cols: 100}); err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = slave
	cmd.SysProcAttr = ownTerminal()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = slave.Close()
	return cmd, tty, stdin, stdout
}

// seen reads from a terminal until it has shown want.
func seen(t *testing.T, tty io.Reader, shown *strings.Builder, want string) {
	t.Helper()
	b := make([]byte, 4096)
	for !strings.Contains(shown.String(), want) {
		n, err := tty.Read(b)
		shown.Write(b[:n])
		if err != nil {
			t.Fatalf("the terminal showed %q and no %q: %v", shown, want, err)
		}
	}
}

// On a terminal there is a line that changes, records stand above it, and nothing
// of it is left in the end. Standard output has what it always had.
func TestTerminal(t *testing.T) {
	t.Parallel()
	cmd, tty, stdin, stdout := startChild(t, "plain", "xterm")
	var shown strings.Builder
	seen(t, tty, &shown, "3.0 MiB new")
	fmt.Fprintln(stdin)
	seen(t, tty, &shown, "50 % [============            ] 2.0 MiB of 4.0 MiB, 3.0 MiB new")
	fmt.Fprintln(stdin)
	seen(t, tty, &shown, "a log record\r\n")
	_ = stdin.Close()
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v; the terminal showed %q", err, shown.String())
	}
	rest, _ := io.ReadAll(tty) // its end is EIO
	all := shown.String() + string(rest)
	if !strings.Contains(all, "\r\x1b[Ka log record\r\n") {
		t.Errorf("the record doesn't take the place of the bar: %q", all)
	}
	_, after, _ := strings.Cut(all, "a log record\r\n")
	if after != "" && !strings.HasSuffix(after, "\r\x1b[K") {
		t.Errorf("the bar was left: %q", after)
	}
	if got := stdout.String(); !strings.HasPrefix(got, "the result\n") {
		t.Errorf("standard output: %q", got)
	}
}

// A dumb terminal gets records.
func TestDumbTerminal(t *testing.T) {
	t.Parallel()
	cmd, tty, stdin, _ := startChild(t, "plain", "dumb")
	var shown strings.Builder
	seen(t, tty, &shown, "a record instead of a bar")
	_ = stdin.Close()
	rest, _ := io.ReadAll(tty)
	if err := cmd.Wait(); err != nil || strings.Contains(shown.String()+string(rest), "\x1b") {
		t.Errorf("%v: %q", err, shown.String()+string(rest))
	}
}

// The work ends while nothing reads the terminal, as after Ctrl-S.
func TestStoppedTerminal(t *testing.T) {
	t.Parallel()
	cmd, tty, stdin, stdout := startChild(t, "stopped", "xterm")
	var shown strings.Builder
	seen(t, tty, &shown, "3.0 MiB new")
	fmt.Fprintln(stdin)
	seen(t, tty, &shown, "50 % [============            ] 2.0 MiB of 4.0 MiB, 3.0 MiB new")
	fmt.Fprintln(stdin)
	_ = stdin.Close()
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v; standard output: %q", err, stdout.String())
	}
	if !strings.HasPrefix(stdout.String(), "the result\n") {
		t.Errorf("standard output: %q", stdout.String())
	}
}
