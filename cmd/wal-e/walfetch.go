package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"wal-e/compat"
	"wal-e/internal/postgres"
	"wal-e/internal/storage"
	"wal-e/wal"
)

func newWALFetchCommand(a *app) *cobra.Command {
	var prefetch int
	cmd := &cobra.Command{
		Use:   walFetchName + " WAL_SEGMENT WAL_DESTINATION",
		Short: "fetch a WAL file; for restore_command",
		Long: `wal-fetch puts the archived WAL file WAL_SEGMENT (a name) at the path
WAL_DESTINATION, complete and verified, or not at all.

It exits 1 only when the archive is proven not to hold the file, because that
is where PostgreSQL ends recovery. Storage that can't be reached is tried again
for WALE_FETCH_RETRY; see wal-e help exit-status for what follows then.`,
		Example: `  # postgresql.conf
  restore_command = 'WALE_ENVDIR=/etc/wal-e.d/env wal-e wal-fetch %f %p'`,
		Args: arguments("WAL_SEGMENT", "WAL_DESTINATION"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.do(cmd, func(ctx context.Context, s *session) error {
				return promptly(ctx, func() error { return walFetch(ctx, s, args[0], args[1]) })
			})
		},
	}
	cmd.Flags().VarP(numberOption(&prefetch, 8), "prefetch", "p",
		"fetch that many segments ahead: accepted, but not in this version")
	return cmd
}

// walFetch fetches a file and writes the records that classic WAL-E does.
func walFetch(ctx context.Context, s *session, name, dest string) error {
	patience := s.fetchRetry
	if patience == 0 {
		patience = -1
	}
	b, err := s.openBucket(use{patience: patience, reads: true})
	if err != nil {
		return err
	}
	cfg := wal.Config{Bucket: b, Log: s.log}
	key := ""
	// Without a pg_control it is Fetch that finds out, or fails.
	if c, _, err := postgres.ReadControlFile(ctx, "."); err == nil {
		cfg.System = c.SystemID
		key = wal.Key(c.SystemID, name)
	}
	log := s.log.With("logger", "wal_e.operator.backup")
	log.InfoContext(ctx, "begin wal restore", s.transfer("wal-fetch", name, key, "begin")...)
	fetched, err := wal.Fetch(ctx, cfg, name, dest)
	if errors.Is(err, wal.ErrNotFound) {
		return s.explainAbsence(ctx, b, name, err)
	}
	if err != nil {
		return err
	}
	s.log.InfoContext(ctx, "completed download and decompression", "logger", s.blobLogger(),
		"detail", fmt.Sprintf("Downloaded and decompressed %q to %q", b.URL()+"/"+fetched.Key, dest))
	log.InfoContext(ctx, "complete wal restore", s.transfer("wal-fetch", name, fetched.Key, "complete")...)
	return nil
}

// explainAbsence returns absent if there is nothing to be found, in any layout.
func (s *session) explainAbsence(ctx context.Context, b storage.Bucket, name string, absent error) error {
	classic, err := compat.HoldsWAL(ctx, b, name)
	switch {
	case err != nil:
		return err
	case classic:
		return &message{
			text: fmt.Sprintf("%s is in %s in the classic layout, and reading that is %v", name, s.prefix, errNotBuilt),
			hint: "Use classic WAL-E in restore_command to recover from a classic archive.",
			err:  errNotBuilt,
		}
	}
	if s.prefix.scheme == "file" {
		contents, err := compat.Detect(ctx, b)
		if err != nil {
			return err
		}
		if contents.Empty() {
			return s.emptyArchive()
		}
	}
	s.log.InfoContext(ctx, "could no longer locate object while performing wal restore", "logger", s.blobLogger(),
		"detail", absent.Error(),
		"hint", "This can be normal when Postgres is trying to detect what timelines are available during restoration.")
	return absent
}

// blobLogger is how classic WAL-E calls the part that speaks to the store.
func (s *session) blobLogger() string {
	return fmt.Sprintf("wal_e.blobstore.%[1]s.%[1]s_util", s.prefix.scheme)
}
