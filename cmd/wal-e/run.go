package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"

	"wal-e/internal/fault"
	"wal-e/internal/progress"
)

// run is the whole command. What it returns was reported already; exitCode
// turns it into a status.
func run(ctx context.Context, args, environ []string, stdin io.Reader, stdout, stderr io.Writer) error {
	a := &app{stdin: stdin, stdout: stdout}
	a.env, a.envErr = parseEnviron(environ).withEnvdir()
	a.screen = progress.NewScreen(stderr, a.env["TERM"])
	a.stderr = a.screen
	err := a.execute(ctx, args)
	if err == nil {
		return nil
	}
	if cause := (signalError{}); errors.As(context.Cause(ctx), &cause) {
		err = &stopped{cause, err}
	} else if a.command == walFetchName {
		err = &fetchFailure{Standby: standbyRequested("."), Err: err}
	}
	a.report(ctx, err)
	return err
}

// An app is one run of the command: what the process was given, and what the
// command line said.
type app struct {
	env    environ // with what WALE_ENVDIR says
	envErr error   // of reading WALE_ENVDIR

	stdin          io.Reader
	stdout, stderr io.Writer
	screen         *progress.Screen // stderr, where long work shows how far it is

	command string       // the subcommand, such as "backup-push" or "delete before"
	flags   globalFlags  // set once the command line is parsed
	log     *slog.Logger // made by logger
	logErr  error        // what is wrong with the settings of the log
}

func (a *app) execute(ctx context.Context, args []string) error {
	root := newRootCommand(a)
	if len(args) > 0 && strings.HasPrefix(args[0], cobra.ShellCompRequestCmd) {
		// A shell asks what could follow: cobra answers, by its own rules.
		a.command = args[0]
		root.SetArgs(args)
		root.SetOut(a.stdout)
		root.SetErr(a.stderr)
		return guarded(func() error { return root.ExecuteContext(ctx) })
	}
	in, err := parseArgs(root, args)
	a.command = in.name()
	if err != nil {
		return err
	}
	for _, w := range in.warnings {
		fmt.Fprintf(a.stderr, "wal-e: warning: %s\n", w)
	}
	root.SetArgs(in.args)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	return guarded(func() error { return root.ExecuteContext(ctx) })
}

// guarded turns a panic of f into an error: the status of a crash is 2, which to
// PostgreSQL means the end of WAL.
func guarded(f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = &message{
				kind:   fault.Defect,
				text:   fmt.Sprintf("internal error: %v", r),
				detail: string(debug.Stack()),
				hint:   "This is a defect of wal-e: please report it.",
			}
		}
	}()
	return f()
}

// A session is what a subcommand works with: checked settings, a log, streams.
type session struct {
	config
	log            *slog.Logger
	stdin          io.Reader
	stdout, stderr io.Writer
	shown          shown
	opened         openedEpochs
}

// do is the body of every subcommand: it writes the start-up record, checks the
// configuration and calls f. WAL commands leave the record out: PostgreSQL runs
// them all the time.
func (a *app) do(cmd *cobra.Command, f func(ctx context.Context, s *session) error) error {
	if !strings.HasPrefix(a.command, "wal-") {
		a.logger().Info("starting WAL-E", "detail", fmt.Sprintf("The subcommand is %q.", a.command))
	}
	return a.check(cmd.Context(), f)
}

// check calls f if the configuration is right.
func (a *app) check(ctx context.Context, f func(ctx context.Context, s *session) error) error {
	log := a.logger()
	for _, w := range a.env.misspelled() {
		log.WarnContext(ctx, "unknown variable in the environment", "detail", w)
	}
	c, err := a.loadConfig()
	if err != nil {
		return err
	}
	mode, err := a.flags.progress.parse(a.flags.terse)
	if err != nil {
		return fmt.Errorf("--progress: %w", err)
	}
	return f(ctx, &session{
		config: c, log: log, stdin: a.stdin, stdout: a.stdout, stderr: a.stderr,
		shown: shown{mode, a.command, a.screen},
	})
}

// walFetchName is the subcommand whose exit statuses PostgreSQL acts upon.
const walFetchName = "wal-fetch"
