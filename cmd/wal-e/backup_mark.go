package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"wal-e/backup"
	"wal-e/chunkstore"
	"wal-e/gc"
	"wal-e/internal/runid"
)

func newBackupMarkCommand(a *app) *cobra.Command {
	var keep, release bool
	var until string
	cmd := &cobra.Command{
		Use:     "backup-mark NAME",
		Short:   "keep a backup whatever delete says, or release it",
		Long:    "Mark a backup, NAME or NAME@RUN or LATEST, to be kept, for good or until a time, or release it again.",
		Example: "  wal-e backup-mark --keep LATEST\n  wal-e backup-mark --release base_000000010000000000000007_00000216",
		Args:    arguments("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if keep == release || until != "" && !keep {
				return &usageError{cmd, "want either --keep, with --until or without, or --release"}
			}
			var end time.Time
			if until != "" {
				var err error
				if end, err = gc.ParseUntil(until); err != nil {
					return &usageError{cmd, err.Error()}
				}
			}
			return a.do(cmd, func(ctx context.Context, s *session) error { return backupMark(ctx, s, args[0], keep, end) })
		},
	}
	cmd.Flags().BoolVar(&keep, "keep", false, "keep it")
	cmd.Flags().StringVar(&until, "until", "", "keep it until `TIME`: a date, to its end in UTC, or a time with a zone")
	cmd.Flags().BoolVar(&release, "release", false, "let delete take it again")
	return cmd
}

func backupMark(ctx context.Context, s *session, name string, keep bool, until time.Time) error {
	b, err := s.openBucket(use{reads: true})
	if err != nil {
		return err
	}
	found, err := backup.Find(ctx, backup.FindConfig{Bucket: b, Query: name})
	if err != nil {
		return err
	}
	m := gc.Marker{Bucket: b, Host: hostname()}
	if !keep {
		if err := m.Release(ctx, found.Ref); err != nil {
			return err
		}
		s.log.InfoContext(ctx, "backup may be deleted again", "detail", "Backup "+found.Ref.String()+".")
		return nil
	}
	if err := m.Keep(ctx, found.Ref, until); err != nil {
		return err
	}
	s.log.InfoContext(ctx, "backup is kept", "detail", "Backup "+found.Ref.String()+", "+gc.Keep{Until: until}.String()+".")
	return nil
}

func newUndeleteCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "undelete NAME",
		Short:   "take a deleted backup back",
		Long:    "Take back a backup, NAME or NAME@RUN, that was deleted. It works as long as nothing of it was collected: delete with --grace leaves time for that.",
		Example: "  wal-e undelete base_000000010000000000000007_00000216",
		Args:    arguments("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.do(cmd, func(ctx context.Context, s *session) error { return undelete(ctx, s, args[0]) })
		},
	}
}

func undelete(ctx context.Context, s *session, name string) error {
	b, err := s.openBucket(use{reads: true})
	if err != nil {
		return err
	}
	runs, err := chunkstore.Runs(ctx, b)
	if err != nil {
		return err
	}
	ref, err := findDeleted(runs, name)
	if err != nil {
		return err
	}
	back, err := gc.Undelete(ctx, gc.Undeletion{Bucket: b, Host: hostname(), Program: version}, ref)
	if err != nil {
		return err
	}
	s.log.InfoContext(ctx, "backup was taken back", "detail", fmt.Sprintf("It is %s now.", back))
	return nil
}

// findDeleted returns the deleted run that NAME, then the newest, or NAME@RUN
// means.
func findDeleted(runs []chunkstore.Run, query string) (chunkstore.Ref, error) {
	name, run, given := strings.Cut(query, "@")
	var id runid.ID
	if given {
		var err error
		if id, err = runid.Parse(run); err != nil {
			return chunkstore.Ref{}, usagef("undelete: %v", err)
		}
	}
	var found *chunkstore.Ref
	for _, r := range runs { // sorted by run
		if r.Deleted != nil && r.Outcome != nil && r.Name == name && (!given || r.Ref.Run == id) {
			found = &r.Ref
		}
	}
	if found == nil {
		return chunkstore.Ref{}, fmt.Errorf("no deleted backup %s is left in the archive: what was collected can't be taken back", query)
	}
	return *found, nil
}
