package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"wal-e/wal"
)

// program prepares the command as a process of its own.
func program(t *testing.T, env []string, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// testscript.Main runs main when the test binary is called wal-e.
	link := filepath.Join(t.TempDir(), "wal-e")
	if err := os.Symlink(self, link); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), link, args...)
	cmd.Dir = t.TempDir()
	cmd.Env = append([]string{"WALE_LOG_DESTINATION=stderr", "WALE_STATE_DIR=" + t.TempDir()}, env...)
	return cmd
}

// A signal in the middle of the work is the status, and never the end of WAL.
func TestSignals(t *testing.T) {
	t.Parallel()
	absent := "WALE_FILE_PREFIX=file://localhost" + filepath.Join(t.TempDir(), "unmounted")
	for _, tc := range []struct {
		name string
		sig  syscall.Signal
		want int
	}{{"TERM", syscall.SIGTERM, 143}, {"QUIT", syscall.SIGQUIT, 131}, {"INT", syscall.SIGINT, 130}} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			cmd := program(t, []string{absent, "WALE_FETCH_RETRY=1h"}, "wal-fetch", "000000010000000000000002", "x")
			stderr, err := cmd.StderrPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewScanner(stderr)
			var log bytes.Buffer
			sent := false // a second one would end it at once
			for lines.Scan() {
				log.WriteString(lines.Text() + "\n")
				if !sent && strings.Contains(lines.Text(), "trying again") {
					sent = true
					if err := cmd.Process.Signal(tc.sig); err != nil {
						t.Fatal(err)
					}
				}
			}
			_ = cmd.Wait() // the status says it
			if got := cmd.ProcessState.ExitCode(); got != tc.want {
				t.Errorf("exit status %d, want %d\n%s", got, tc.want, &log)
			}
			if !strings.Contains(log.String(), "WARNING  MSG: stopped by signal") {
				t.Errorf("stderr lacks a record about the signal:\n%s", &log)
			}
		})
	}
}

// Every kind of error has its status, whatever it is wrapped in.
func TestExitCode(t *testing.T) {
	t.Parallel()
	absent := errors.Join(wal.ErrNotFound)
	for _, tc := range []struct {
		name string
		err  error
		want int
	}{
		{"success", nil, 0},
		{"failure", errors.New("x"), 1},
		{"usage", usagef("x"), 2},
		{"no subcommand", &message{err: errNoSubcommand}, 127},
		{"fetch absent", &fetchFailure{Err: absent}, 1},
		{"fetch absent standby", &fetchFailure{Standby: true, Err: absent}, 1},
		{"fetch failure", &fetchFailure{Err: errors.New("x")}, 126},
		{"fetch failure standby", &fetchFailure{Standby: true, Err: errors.New("x")}, 75},
		{"fetch usage", &fetchFailure{Err: usagef("x")}, 126},
		{"fetch absent, cancelled", &fetchFailure{Err: errors.Join(absent, context.Canceled)}, 126},
		{"fetch absent, late", &fetchFailure{Err: errors.Join(absent, context.DeadlineExceeded)}, 126},
		{"fetch absent, terminated", &stopped{signalError{syscall.SIGTERM}, absent}, 143},
		{"terminated", &stopped{signalError{syscall.SIGTERM}, errors.New("x")}, 143},
		{"interrupted", &stopped{signalError{os.Interrupt}, errors.New("x")}, 130},
	} {
		if got := exitCode(tc.err); got != tc.want {
			t.Errorf("%s: status %d, want %d", tc.name, got, tc.want)
		}
	}
}

// A defect of ours is no end of WAL either.
func TestPanic(t *testing.T) {
	t.Parallel()
	err := guarded(func() error { panic("oops") })
	var m *message
	if !errors.As(err, &m) || m.text != "internal error: oops" || !strings.Contains(m.detail, "TestPanic") {
		t.Errorf("guarded = %v", err)
	}
	if got := exitCode(&fetchFailure{Err: err}); got != 126 {
		t.Errorf("status %d, want 126", got)
	}
}

// What the operating system doesn't give back holds nobody up.
func TestPromptly(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	hang := make(chan struct{})
	defer close(hang)
	cancel()
	err := promptly(ctx, func() error { <-hang; return nil })
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "hangs") {
		t.Errorf("promptly = %v", err)
	}
	if err := promptly(ctx, func() error { return nil }); err != nil {
		t.Errorf("promptly of what is done = %v", err)
	}
}
