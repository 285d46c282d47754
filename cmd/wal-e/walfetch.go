package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

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
for WALE_FETCH_RETRY; see wal-e help exit-status for what follows then.

For a server it also starts a process that fetches the segments that follow,
into .wal-e/prefetch in the folder of WAL_DESTINATION: at most WALE_PREFETCH_BYTES,
and only while the volume has room. From there they are moved when PostgreSQL asks
for them, once they are verified again. What isn't wanted any more is removed by
later calls. Whoever wants a file under its own name, as pg_rewind does, gets that
file and nothing else.`,
		Example: `  # postgresql.conf
  restore_command = 'WALE_ENVDIR=/etc/wal-e.d/env wal-e wal-fetch %f %p'`,
		Args: arguments("WAL_SEGMENT", "WAL_DESTINATION"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.do(cmd, func(ctx context.Context, s *session) error {
				f := &fetch{session: s, name: args[0], dest: args[1], prefetch: prefetch}
				f.start = func() error { return a.startPrefetch(cmd, f) }
				return promptly(ctx, func() error { return f.run(ctx) })
			})
		},
	}
	cmd.Flags().VarP(numberOption(&prefetch, 8), "prefetch", "p",
		"segments to fetch ahead; 0 or less for none")
	return cmd
}

// A fetch is one run of wal-fetch.
type fetch struct {
	*session
	name, dest string
	prefetch   int // segments to fetch ahead

	start func() error // of the process that fetches ahead
	data  string       // the data directory; empty if there is none
}

// alone reports whether nothing may happen but that one file appears. A server wants
// files as RECOVERYXLOG; pg_rewind wants them under their own names, and fails for good
// when other files that it saw in the directory change meanwhile.
func (f *fetch) alone() bool { return filepath.Base(f.dest) == f.name }

// run fetches a file and writes the records that classic WAL-E does.
func (f *fetch) run(ctx context.Context) error {
	cfg := wal.Config{Log: f.log}
	ahead := wal.Ahead{Base: filepath.Dir(f.dest), Archive: f.prefix.String(), Segments: f.prefetch, Bytes: f.prefetchBytes}
	if f.alone() {
		ahead.Segments = 0
	}
	key := ""
	// Without a pg_control it is Fetch that finds out, or fails.
	if c, dir := findControl(ctx, ".", filepath.Join(filepath.Dir(f.dest), "..")); c != nil {
		f.data, ahead.SegmentSize = dir, c.WALSegmentSize
		if dir == "." {
			cfg.System = c.SystemID
			key = wal.Key(c.SystemID, f.name)
		}
	}
	log := f.log.With("logger", "wal_e.operator.backup")
	log.InfoContext(ctx, "begin wal restore", f.transfer("wal-fetch", f.name, key, "begin")...)
	fetched, ok := ahead.Deliver(ctx, cfg, f.name, f.dest)
	if ok {
		f.fetchAhead(ctx, ahead, cfg)
	} else {
		var err error
		cfg.Found = func() { f.fetchAhead(ctx, ahead, cfg) }
		if fetched, err = f.fromArchive(ctx, cfg); err != nil {
			return err
		}
	}
	log.InfoContext(ctx, "complete wal restore", f.transfer("wal-fetch", f.name, fetched.Key, "complete")...)
	return nil
}

// findControl returns the pg_control of the first directory that has one that
// can be read, and that directory.
func findControl(ctx context.Context, dirs ...string) (*postgres.ControlFile, string) {
	for _, dir := range dirs {
		if c, _, err := postgres.ReadControlFile(ctx, dir); err == nil {
			return c, dir
		}
	}
	return nil, ""
}

// fromArchive fetches the file without any help.
func (f *fetch) fromArchive(ctx context.Context, cfg wal.Config) (wal.Fetched, error) {
	patience := f.fetchRetry
	if patience == 0 {
		patience = -1
	}
	b, err := f.openBucket(use{patience: patience, reads: true})
	if err != nil {
		return wal.Fetched{}, err
	}
	cfg.Bucket = f.walReads(b)
	fetched, err := wal.Fetch(ctx, cfg, f.name, f.dest)
	if isNoKey(err) {
		// Who became a recipient later can open the epoch, not the message.
		cfg.Bucket, cfg.Found = f.walReadsMany(b), nil
		if again, aerr := wal.Fetch(ctx, cfg, f.name, f.dest); !isNoKey(aerr) {
			fetched, err = again, aerr
		}
	}
	if errors.Is(err, wal.ErrNotFound) {
		return f.fetchClassicWAL(ctx, b, cfg.System, f.name, f.dest, err)
	}
	if err != nil {
		return wal.Fetched{}, err
	}
	f.log.InfoContext(ctx, "completed download and decompression", "logger", f.blobLogger(),
		"detail", fmt.Sprintf("Downloaded and decompressed %q to %q", b.URL()+"/"+fetched.Key, f.dest))
	return fetched, nil
}

// fetchAhead starts the process that fetches ahead, if it is time to.
func (f *fetch) fetchAhead(ctx context.Context, ahead wal.Ahead, cfg wal.Config) {
	if f.alone() || !ahead.Wanted(cfg, f.name) {
		return
	}
	if err := f.start(); err != nil {
		f.log.WarnContext(ctx, "cannot fetch ahead", "detail", err.Error())
	}
}

// explainAbsence returns absent if the archive is there, in any layout.
func (s *session) explainAbsence(ctx context.Context, b storage.Bucket, absent error) error {
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
