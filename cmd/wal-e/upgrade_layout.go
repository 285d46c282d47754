package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"wal-e/chunkstore"
	"wal-e/compat"
	"wal-e/internal/fault"
	"wal-e/internal/storage"
)

const upgradeLayoutLong = `Switch a prefix that holds a classic archive to the layout that stores only what
is new. From then on base backups and WAL go there; what is in the classic layout
stays, and is listed, restored and replayed as before. Classic WAL-E doesn't see
the WAL that comes: with it, classic backups can be recovered up to this moment.
So push a base backup at once.

The way back is WALE_LAYOUT=classic on every host that pushes, and a base backup.`

func newUpgradeLayoutCommand(a *app) *cobra.Command {
	var confirm bool
	cmd := &cobra.Command{
		Use:     "upgrade-layout",
		Short:   "switch a classic prefix to the new layout",
		Long:    upgradeLayoutLong,
		Example: "  wal-e upgrade-layout --confirm",
		Args:    arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.do(cmd, func(ctx context.Context, s *session) error { return upgradeLayout(ctx, s, confirm) })
		},
	}
	cmd.Flags().BoolVar(&confirm, "confirm", false, "do it; without, only say what would be done")
	return cmd
}

func upgradeLayout(ctx context.Context, s *session, confirm bool) error {
	b, err := s.openBucket(use{reads: true})
	if err != nil {
		return err
	}
	contents, err := compat.Detect(ctx, b)
	switch {
	case err != nil:
		return err
	case contents.Layout() == compat.Dedup:
		fmt.Fprintf(s.stdout, "%s has the new layout, or is empty and will have it: there is nothing to do\n", s.prefix)
		return nil
	}
	system, err := compat.System(ctx, b, s.decryptClassic)
	if errors.Is(err, storage.ErrNotExist) {
		return &message{
			kind: fault.Unclear,
			text: fmt.Sprintf("%s holds no WAL segment that tells whose archive it is", s.prefix), detail: err.Error(),
			hint: "Set WALE_LAYOUT=dedup and push a base backup: that switches it, too.", err: err,
		}
	}
	if err != nil {
		return err
	}
	if !confirm {
		fmt.Fprintf(s.stdout, "would switch %s, the archive of system %s, to the new layout; --confirm does it\n", s.prefix, system)
		return nil
	}
	if _, err := chunkstore.Admit(ctx, b, uint64(system), true); err != nil {
		return err
	}
	if err := os.Remove(s.classicMark()); err != nil && !errors.Is(err, os.ErrNotExist) {
		s.log.DebugContext(ctx, "local state stays as it is", "error", err) // it says nothing about archives that aren't empty
	}
	_, err = fmt.Fprintf(s.stdout, "%s, the archive of system %s, has the new layout from now on\nnext: wal-e backup-push, at once\n", s.prefix, system)
	return err
}
