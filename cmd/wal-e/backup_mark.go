package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"wal-e/backup"
	"wal-e/gc"
	"wal-e/internal/postgres"
)

// markFlags are the options of backup-mark.
type markFlags struct {
	keep, release bool
	until         string
	system        string

	end time.Time // what until says
}

const backupMarkLong = `Mark a backup, NAME or NAME@RUN or LATEST, to be kept whatever delete says, for
good or until a time, or release it again. Of a backup that is kept by its mark
alone just the WAL stays that makes it consistent.`

func newBackupMarkCommand(a *app) *cobra.Command {
	var f markFlags
	cmd := &cobra.Command{
		Use:     "backup-mark NAME",
		Short:   "keep a backup whatever delete says, or release it",
		Long:    backupMarkLong,
		Example: "  wal-e backup-mark --keep LATEST\n  wal-e backup-mark --release base_000000010000000000000007_00000216",
		Args:    arguments("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.check(); err != nil {
				return &usageError{cmd, err.Error()}
			}
			return a.do(cmd, func(ctx context.Context, s *session) error { return backupMark(ctx, s, f, args[0]) })
		},
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.BoolVar(&f.keep, "keep", false, "keep it")
	flags.StringVar(&f.until, "until", "", "keep it until `TIME`: a date, to its end in UTC, or a time with a zone")
	flags.BoolVar(&f.release, "release", false, "let delete take it again")
	flags.StringVar(&f.system, "system", "", "the cluster's `SYSTEM_IDENTIFIER`, when the archive holds several")
	return cmd
}

func (f *markFlags) check() (err error) {
	if f.keep == f.release || f.until != "" && !f.keep {
		return usagef("want either --keep, with --until or without, or --release")
	}
	if f.system != "" {
		if _, err := postgres.ParseSystemID(f.system); err != nil {
			return usagef("--system: %v", err)
		}
	}
	if f.until != "" {
		f.end, err = gc.ParseUntil(f.until)
	}
	return err
}

func backupMark(ctx context.Context, s *session, f markFlags, name string) error {
	b, err := s.openBucket(use{reads: true})
	if err != nil {
		return err
	}
	found, err := backup.Find(ctx, backup.FindConfig{Bucket: b, Query: name, System: f.system})
	if err != nil {
		return s.explainMissing(ctx, b, name, "marked", err)
	}
	m := gc.Marker{Bucket: b, Host: hostname()}
	text, detail := "backup may be deleted again", "Backup "+found.Ref.String()+"."
	if f.keep {
		text, detail = "backup is kept", "Backup "+found.Ref.String()+", "+gc.Keep{Until: f.end}.String()+"."
		err = m.Keep(ctx, found.Ref, f.end)
	} else {
		err = m.Release(ctx, found.Ref)
	}
	if err != nil {
		return err
	}
	s.log.InfoContext(ctx, text, "detail", detail)
	return nil
}
