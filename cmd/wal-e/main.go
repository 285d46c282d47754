// Command wal-e archives PostgreSQL continuously: base backups and WAL files,
// into object storage or a directory. See README.md, or run wal-e --help.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"slices"
	"syscall"
)

// generate writes man pages and completions to a folder, in the program that is built
// for that (docgen.go).
var generate func(dir string) error

func main() {
	if generate != nil && len(os.Args) == 2 {
		if err := generate(os.Args[1]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(exitFailure)
		}
		return
	}
	// What reads our output may go away; that is no reason to leave work undone.
	signal.Ignore(syscall.SIGPIPE)
	if slices.Contains(os.Args, "wal-fetch") {
		// A crash of the Go runtime exits 2, which PostgreSQL takes for the end
		// of WAL. This way it ends by a signal.
		debug.SetTraceback("crash")
	}
	if slices.ContainsFunc(os.Args, isWALCommand) {
		beShortLived()
	}
	environ := os.Environ()
	exportEnvdir(environ)
	// PostgreSQL sends SIGQUIT to its commands, too, when it stops at once.
	ctx, stop := withSignals(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGQUIT)
	err := run(ctx, os.Args[1:], environ, os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(exitCode(err))
}

func isWALCommand(arg string) bool { return arg == walPushName || arg == walFetchName }

// beShortLived sets the runtime up for a process that handles one file in some
// 20 MB, within milliseconds, hundreds of times a minute, beside a database that
// needs the cores: it collects no garbage as long as it stays below several times
// as much, and runs on two cores. That takes a third of the processor time away.
func beShortLived() {
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(96 << 20)
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(min(2, runtime.GOMAXPROCS(0)))
	}
}

// besidePool is what the program takes beside the objects that a pool holds, before
// the collector stops letting garbage grow.
const besidePool = 64 << 20

// bePooled takes back what beShortLived did, when there is work for all cores. Where
// more than held and that is in use, the collector works more: it is no hard bound.
func bePooled(procs int, held int64) {
	debug.SetMemoryLimit(held + besidePool)
	debug.SetGCPercent(100)
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(procs)
	}
}

// exportEnvdir gives the variables of WALE_ENVDIR to libraries, which look for
// libpq's settings and for cloud credentials in the environment themselves. An
// envdir that can't be read is reported by run, which reads it too.
func exportEnvdir(environ []string) {
	env := parseEnviron(environ)
	changed, err := env.withEnvdir()
	if err != nil {
		return
	}
	for name := range env {
		if _, ok := changed[name]; !ok {
			_ = os.Unsetenv(name) // it was in the environment, so its name is one
		}
	}
	for name, value := range changed {
		if env[name] != value {
			_ = os.Setenv(name, value) // readEnvdir has checked both
		}
	}
}

// withSignals returns a context that the first of the signals cancels, with the
// signal as its cause. A second one ends the process at once.
func withSignals(parent context.Context, signals ...os.Signal) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(parent)
	c := make(chan os.Signal, 1)
	signal.Notify(c, signals...)
	go func() {
		select {
		case s := <-c:
			signal.Stop(c)
			cancel(signalError{s})
		case <-ctx.Done():
		}
	}()
	return ctx, func() {
		signal.Stop(c)
		cancel(context.Canceled)
	}
}
