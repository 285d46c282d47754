package main

import (
	"context"

	"github.com/spf13/pflag"

	"wal-e/internal/logging"
	"wal-e/internal/progress"
)

// progressFlags say how long work shows how far it is.
type progressFlags struct {
	mode string
	none bool
}

func (f *progressFlags) bind(set *pflag.FlagSet) {
	set.StringVar(&f.mode, "progress", "auto", "how long work shows how far it is, on standard error: `MODE` bar, log, json or none; auto is bar on a terminal, else log")
	set.BoolVar(&f.none, "no-progress", false, "don't show how far long work is")
}

// parse returns the mode. A terse run shows nothing unless it is told to.
func (f progressFlags) parse(terse bool) (progress.Mode, error) {
	mode, err := progress.ParseMode(f.mode)
	if f.none || mode == progress.Auto && terse {
		mode = progress.None
	}
	return mode, err
}

// shown is what a session needs to show progress.
type shown struct {
	mode    progress.Mode
	command string
	screen  *progress.Screen
}

// meter returns a meter for long work; stop ends showing it, which comes before
// the work's result is printed.
func (s *session) meter(ctx context.Context) (m *progress.Meter, stop func()) {
	if s.shown.mode == progress.None || s.shown.mode == "" {
		return nil, func() {}
	}
	m = &progress.Meter{}
	return m, progress.Show(progress.Config{
		Meter: m, Mode: s.shown.mode, Command: s.shown.command, Screen: s.shown.screen, Events: s.stderr,
		Record: func(state progress.State) {
			s.log.InfoContext(ctx, "progress of "+s.shown.command, logging.DetailKey, state.Phase+": "+state.String(),
				"phase", state.Phase, "unit", string(state.Unit), "done", state.Done, "total", state.Total)
		},
	})
}
