package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"wal-e/internal/postgres"
	"wal-e/wal"
)

// walPrefetchName is the subcommand that wal-fetch starts.
const walPrefetchName = "wal-prefetch"

// prefetchLife bounds how long a process that fetches ahead lives. The next
// wal-fetch starts another.
const prefetchLife = 2 * time.Minute

func newWALPrefetchCommand(a *app) *cobra.Command {
	var ahead int
	var data string
	cmd := &cobra.Command{
		Use:   walPrefetchName + " BASE_DIRECTORY SEGMENT",
		Short: "fetch a segment before it is asked for; wal-fetch does so itself",
		Long: `wal-prefetch fetches the segment SEGMENT into .wal-e/prefetch in BASE_DIRECTORY,
where wal-fetch with a destination in BASE_DIRECTORY finds it.

With --ahead it fetches that many segments behind SEGMENT instead, or behind the one
that wal-fetch was asked for since, as long as no other process does. That is what
wal-fetch starts.`,
		Example: `  wal-e wal-prefetch /var/lib/postgresql/15/main/pg_wal 000000010000000000000042`,
		Args:    arguments("BASE_DIRECTORY", "SEGMENT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.do(cmd, func(ctx context.Context, s *session) error {
				return promptly(ctx, func() error { return walPrefetch(ctx, s, args[0], args[1], data, ahead) })
			})
		},
	}
	cmd.Flags().Var(numberOption(&ahead, 0), "ahead", "fetch that many of those that follow instead")
	cmd.Flags().StringVar(&data, "data-directory", "", "the `DIR` of the cluster (the parent of BASE_DIRECTORY)")
	return cmd
}

func walPrefetch(ctx context.Context, s *session, base, name, data string, segments int) error {
	ctx, cancel := context.WithTimeout(ctx, prefetchLife)
	defer cancel()
	if data == "" {
		data = filepath.Join(base, "..")
	}
	cfg := wal.Config{Log: s.log, WorkDir: data}
	ahead := wal.Ahead{
		Base: base, Archive: s.prefix.String(), SegmentSize: postgres.DefaultSegmentSize,
		Segments: segments, Bytes: s.prefetchBytes,
	}
	if c, _ := findControl(ctx, data); c != nil {
		cfg.System, ahead.SegmentSize = c.SystemID, c.WALSegmentSize
	}
	if _, err := postgres.ParseSegment(name, ahead.SegmentSize); err != nil {
		return usagef("%s", err)
	}
	var err error
	// It is of no use for long, so what fails isn't tried for long.
	if cfg.Bucket, err = s.openBucket(use{patience: 5 * time.Second, reads: true}); err != nil {
		return err
	}
	if segments > 1 {
		cfg.Bucket = s.walReadsMany(cfg.Bucket)
	} else {
		cfg.Bucket = s.walReads(cfg.Bucket)
	}
	if segments > 0 {
		cfg.Workers = 1 // there are files enough for several cores
		return ahead.FetchAhead(ctx, cfg, name)
	}
	return ahead.FetchOne(ctx, cfg, name)
}

// startPrefetch starts the process that fetches ahead of f. It belongs to no
// session of PostgreSQL's, has none of its descriptors, and nobody waits for it.
func (a *app) startPrefetch(cmd *cobra.Command, f *fetch) error {
	if !slices.Contains(os.Args, walFetchName) {
		return nil // this process is another program that runs the command, such as a test
	}
	base, err := filepath.Abs(filepath.Dir(f.dest))
	if err != nil {
		return err
	}
	data, err := filepath.Abs(f.data)
	if err != nil {
		return err
	}
	// What PostgreSQL has left open must not stay open: a deleted segment would
	// keep its room. Our own close themselves.
	if err := unix.CloseRange(3, ^uint(0), unix.CLOSE_RANGE_CLOEXEC); err != nil {
		closeOnExec()
	}
	args := append([]string{os.Args[0]}, globalOptions(cmd)...)
	args = append(args, "--terse", walPrefetchName, "--ahead", strconv.Itoa(f.prefetch), "--data-directory", data, "--", base, f.name)
	child := &exec.Cmd{
		Path:        "/proc/self/exe", // also when the file was replaced
		Args:        args,
		Dir:         "/",
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	for name, value := range a.env {
		child.Env = append(child.Env, name+"="+value)
	}
	if err := child.Start(); err != nil {
		return fmt.Errorf("start %s: %w", walPrefetchName, err)
	}
	return child.Process.Release()
}

// globalOptions returns those that stand on the command line.
func globalOptions(cmd *cobra.Command) []string {
	var args []string
	cmd.Root().PersistentFlags().VisitAll(func(f *pflag.Flag) {
		if f.Changed && f.NoOptDefVal == "" {
			args = append(args, "--"+f.Name+"="+f.Value.String())
		} else if f.Changed && f.Name != "terse" {
			args = append(args, "--"+f.Name)
		}
	})
	return args
}

// closeOnExec marks all descriptors but the standard ones, for kernels before
// 5.11.
func closeOnExec() {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return // nothing can be done, and it does no harm for long
	}
	for _, e := range entries {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd > 2 {
			unix.CloseOnExec(fd)
		}
	}
}
