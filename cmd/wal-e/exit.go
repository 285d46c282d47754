package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"

	"wal-e/wal"
)

// Exit statuses.
const (
	exitOK           = 0
	exitFailure      = 1   // of wal-fetch: the archive is proven not to hold the file
	exitUsage        = 2   // but not of wal-fetch
	exitAskAgain     = 75  // wal-fetch, on a standby
	exitStopRecovery = 126 // wal-fetch
	exitNoSubcommand = 127
	exitSignal       = 128 // and the number of the signal
)

// exitStatusText is the table that help and README show.
const exitStatusText = `  every command
    0    success
    1    failure; a record in the log says what failed
    2    wrong usage
    127  no subcommand given
    130  stopped by SIGINT
    131  stopped by SIGQUIT
    143  stopped by SIGTERM

  wal-fetch: PostgreSQL takes 1 to 125 from restore_command for the end of WAL,
  ends recovery and promotes; above 125 it stops. So a failure must not look
  like an absent file.
    0    the file is at its destination, complete
    1    the archive is proven not to hold the file
    126  everything else, wrong usage and configuration included
    75   the same on a standby (standby.signal, or before PostgreSQL 12
         standby_mode in recovery.conf, in the working directory): above 125
         would stop it, and it asks again by itself
    130, 131, 143  stopped by a signal

  wal-push never exits above 125 unless a signal stopped it, because above 125
  PostgreSQL restarts its archiver.
`

// exitCode is the only place that turns an error into a status.
func exitCode(err error) int {
	var stop *stopped
	var fetch *fetchFailure
	var usage *usageError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &stop):
		return exitSignal + stop.signal.number()
	case errors.As(err, &fetch):
		return fetch.exitCode()
	case errors.Is(err, errNoSubcommand):
		return exitNoSubcommand
	case errors.As(err, &usage):
		return exitUsage
	}
	return exitFailure
}

// errNoSubcommand is what a bare wal-e fails with.
var errNoSubcommand = errors.New("subcommand not implemented")

// A signalError is the cause of a context that a signal cancelled.
type signalError struct{ os.Signal }

func (e signalError) Error() string { return "stopped by signal: " + e.String() }

func (e signalError) number() int {
	if s, ok := e.Signal.(syscall.Signal); ok {
		return int(s)
	}
	return 0
}

// A stopped error is of a run that a signal ended.
type stopped struct {
	signal signalError
	err    error // what the work failed with then
}

func (e *stopped) Error() string { return fmt.Sprintf("%v: %v", e.signal, e.err) }
func (e *stopped) Unwrap() error { return e.err }

// A fetchFailure is whatever wal-fetch failed with.
type fetchFailure struct {
	Standby bool // the server that asks is a standby
	Err     error
}

func (e *fetchFailure) Error() string { return e.Err.Error() }
func (e *fetchFailure) Unwrap() error { return e.Err }

func (e *fetchFailure) exitCode() int {
	switch {
	case e.absent():
		return exitFailure
	case e.Standby:
		return exitAskAgain
	}
	return exitStopRecovery
}

// absent reports whether the file is proven not to be in the archive. An error
// that came with a deadline or a cancellation proves nothing.
func (e *fetchFailure) absent() bool {
	return errors.Is(e.Err, wal.ErrNotFound) && !errors.Is(e.Err, context.Canceled) && !errors.Is(e.Err, context.DeadlineExceeded)
}
