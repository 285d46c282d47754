package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"wal-e/chunkstore"
	"wal-e/gc"
	"wal-e/internal/fault"
	"wal-e/internal/runid"
	"wal-e/internal/storage"
)

const undeleteLong = `Take a deleted backup back, NAME or, of several of that name, NAME@RUN. It works
as long as no collection has begun to remove what the backup needs: delete with
--grace PERIOD keeps that for so long. The backup gets a new run under its name.`

func newUndeleteCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "undelete NAME",
		Short:   "take a deleted backup back",
		Long:    undeleteLong,
		Example: "  wal-e undelete base_000000010000000000000007_00000216",
		Args:    arguments("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.do(cmd, func(ctx context.Context, s *session) error { return undelete(ctx, s, args[0]) })
		},
	}
}

func undelete(ctx context.Context, s *session, query string) error {
	b, err := s.openBucket(use{reads: true})
	if err != nil {
		return err
	}
	runs, err := chunkstore.Runs(ctx, b)
	if err != nil {
		return err
	}
	ref, err := findDeleted(runs, query)
	if err != nil {
		return err
	}
	back, err := gc.Undelete(ctx, gc.Undeletion{Bucket: b, Host: hostname(), Program: version}, ref)
	if errors.Is(err, chunkstore.ErrCondemned) || errors.Is(err, storage.ErrNotExist) {
		return &message{
			kind:   fault.TooLate,
			text:   fmt.Sprintf("backup %s can't be taken back", ref),
			detail: err.Error(),
			hint:   "A collection has begun to remove what it needs, and that is final. " + hintGrace,
			err:    err,
		}
	}
	if err != nil {
		return err
	}
	s.log.InfoContext(ctx, "backup was taken back", "detail", fmt.Sprintf("It is %s now.", back))
	return nil
}

const hintGrace = "To be able to change your mind, give delete and gc --grace PERIOD, such as 24h."

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
	stands := false
	for _, r := range slices.Backward(runs) { // sorted by run
		switch {
		case r.Name != name || given && r.Ref.Run != id:
		case r.Deleted != nil && r.Outcome != nil:
			return r.Ref, nil
		case r.Ended():
			stands = true
		}
	}
	if stands {
		return chunkstore.Ref{}, &message{kind: fault.NoBackup, text: fmt.Sprintf("backup %s is not deleted", query), hint: hintBackups}
	}
	return chunkstore.Ref{}, &message{
		kind: fault.TooLate,
		text: fmt.Sprintf("no deleted backup %s is left in the archive", query),
		hint: "What a collection has removed can't be taken back. " + hintGrace,
	}
}
