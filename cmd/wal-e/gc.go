package main

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"wal-e/gc"
	"wal-e/internal/fault"
)

// collectFlags are the options of a collection, of delete and gc alike.
type collectFlags struct {
	wait, abortRunning, exclusive bool
	fenceAfter, settle            time.Duration
	grace                         string
}

func (f *collectFlags) bind(flags *pflag.FlagSet) {
	flags.StringVar(&f.grace, "grace", "", "leave what backups need that were deleted within `PERIOD`, so that undelete works")
	flags.BoolVar(&f.wait, "wait", false, "wait for pushes that may need what is to go")
	flags.BoolVar(&f.abortRunning, "abort-running", false, "end such pushes instead")
	flags.DurationVar(&f.fenceAfter, "fence-after", 24*time.Hour, "take a push for dead that showed no sign of life for this `DURATION`, by the store's clock")
	flags.DurationVar(&f.settle, "settle", 0, "`DURATION` that listings of a weak store (Swift, NFS) may lag behind, which is waited out; 1m for these")
	flags.BoolVar(&f.exclusive, "exclusive", false, "nothing else uses the prefix, so a weak store needn't be waited for")
}

func (f collectFlags) config() (gc.Config, error) {
	c := gc.Config{
		Wait: f.wait, AbortRunning: f.abortRunning, FenceAfter: f.fenceAfter,
		Exclusive: f.exclusive, Settle: f.settle, Requests: deleteRequests,
	}
	if f.wait && f.abortRunning {
		return c, fault.BadSetting.Errorf("--wait and --abort-running exclude each other")
	}
	if f.settle < 0 {
		return c, fault.BadSetting.Errorf("--settle: want a duration such as 30s")
	}
	if f.fenceAfter <= 0 {
		return c, fault.BadSetting.Errorf("--fence-after: want a duration such as 24h")
	}
	var err error
	if f.grace != "" {
		c.Grace, err = gc.ParsePeriod(f.grace)
	}
	return c, err
}

const gcLong = `Remove what no backup needs: what deleted backups and aborted pushes left, and
WAL that is older than every backup. delete does the same after deleting; gc
alone finishes what a delete had to leave for a push that was under way. Any
number may run at once, from anywhere.`

func newGCCommand(a *app) *cobra.Command {
	var f collectFlags
	var dryRun, asJSON bool
	cmd := &cobra.Command{
		Use:     "gc",
		Short:   "remove what no backup needs",
		Long:    gcLong,
		Example: "  wal-e gc --dry-run\n  wal-e gc --wait",
		Args:    arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := f.config()
			if err != nil {
				return &usageError{cmd, err.Error()}
			}
			c.DryRun = dryRun
			return a.do(cmd, func(ctx context.Context, s *session) error { return collect(ctx, s, c, asJSON) })
		},
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.BoolVarP(&dryRun, "dry-run", "n", false, "only say what would be removed")
	f.bind(flags)
	flags.BoolVar(&asJSON, "json", false, "print the report as JSON")
	return cmd
}

func collect(ctx context.Context, s *session, c gc.Config, asJSON bool) error {
	b, err := s.openForDelete(ctx)
	if err != nil {
		return err
	}
	s.prepareCollection(ctx, b, &c)
	now, err := s.probeForDelete(ctx, &c)
	if err != nil {
		return err
	}
	if c.Floors, err = s.classicFloors(ctx, b, now, stalledAfter(c.FenceAfter)); err != nil {
		return err
	}
	meter, stop := s.meter(ctx)
	defer stop()
	c.Progress = meter
	report, err := gc.Collect(ctx, c)
	stop()
	if report != nil && asJSON {
		err = errors.Join(err, json.NewEncoder(s.stdout).Encode(report))
	} else if report != nil {
		logCollected(ctx, c.Log, report)
	}
	return err
}
