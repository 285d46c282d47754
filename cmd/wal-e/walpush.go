package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"wal-e/compat"
	"wal-e/internal/fault"
	"wal-e/internal/postgres"
	"wal-e/internal/storage"
	"wal-e/wal"
)

// walPushName is the subcommand for archive_command.
const walPushName = "wal-push"

func newWALPushCommand(a *app) *cobra.Command {
	var poolSize int
	cmd := &cobra.Command{
		Use:   walPushName + " WAL_SEGMENT",
		Short: "archive a WAL file; for archive_command",
		Long: `wal-push archives the WAL file at the path WAL_SEGMENT. It exits 0 only when the
archive holds exactly the bytes of that file, durably: pushing a file again is
success, other bytes under the same name are refused.

It takes at most WALE_PUSH_TIMEOUT in all.

Beside WAL_SEGMENT it archives further files that the folder archive_status says
are ready, and marks them as done, so that PostgreSQL need not name each. One that
fails stays ready and fails nothing. Where storage is slow they are given up, and
the exit waits for them no longer than WAL_SEGMENT itself took.`,
		Example: `  # postgresql.conf
  archive_command = 'WALE_ENVDIR=/etc/wal-e.d/env wal-e wal-push %p'`,
		Args: arguments("WAL_SEGMENT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.do(cmd, func(ctx context.Context, s *session) error { return walPush(ctx, s, args[0], poolSize) })
		},
	}
	cmd.Flags().VarP(numberOption(&poolSize, 32), "pool-size", "p",
		"files in all: further ready ones are archived beside it; 1 or less for none")
	return cmd
}

// poolCores is how many cores a push works on when there are several files: the
// database needs some too.
const poolCores = 4

// walPush pushes the file at path within the time that a push has, and up to
// poolSize-1 others beside it.
func walPush(ctx context.Context, s *session, path string, poolSize int) error {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		fmt.Fprintln(s.stdout, err)
		return &message{
			kind:   fault.NoWALFile,
			text:   "could not find file for wal-push",
			detail: "The operating system reported: " + err.Error(),
			err:    err,
		}
	}
	b, err := s.openBucket(use{requests: max(1, poolSize), patience: s.pushTimeout})
	if err != nil {
		return err
	}
	late := errors.New("too late")
	limited, cancel := context.WithTimeoutCause(ctx, s.pushTimeout, late)
	defer cancel()
	layout, admit := s.layoutOnce(b), onePerSystem(s.admission(b))
	var widen sync.Once
	compressors := wal.NewCompressors(poolCores)
	var once sync.Once
	var walBucket storage.Bucket
	var walErr error
	sealed := func(ctx context.Context) (storage.Bucket, error) {
		once.Do(func() { walBucket, walErr = s.walWrites(ctx, b) })
		return walBucket, walErr
	}
	pool := wal.Pool{
		Size: poolSize, Memory: max(s.poolMemory, 1),
		Push: func(ctx context.Context, file string) error {
			cfg := wal.Config{Bucket: b, Level: s.level, Log: s.log, Admit: admit}
			if file != path {
				widen.Do(func() { bePooled(min(runtime.NumCPU(), poolCores), s.poolMemory) })
				cfg.Workers = 1 // there are files enough for all cores
				cfg.Compressors = compressors
			}
			switch layout, err := layout(ctx); {
			case err != nil:
				return unpushed(file, err)
			case layout == compat.Classic:
				return s.pushClassicFile(ctx, b, file, cfg.Workers)
			}
			var err error
			if cfg.Bucket, err = sealed(ctx); err != nil {
				return err
			}
			return s.pushFile(ctx, cfg, file)
		},
		Log: s.log,
	}
	err = promptly(limited, func() error {
		wal.RemoveAbandoned(filepath.Dir(path)) // what a recovery left
		return pool.Run(limited, path)
	})
	if err != nil && errors.Is(context.Cause(limited), late) {
		return &message{
			kind:   fault.OutOfTime,
			text:   fmt.Sprintf("wal-push of %s took longer than WALE_PUSH_TIMEOUT allows, %s", filepath.Base(path), s.pushTimeout),
			detail: err.Error(),
			hint:   "PostgreSQL keeps the file and tries again.",
			err:    err,
		}
	}
	return err
}

// unpushed names the file that what went wrong before a push keeps from the archive.
func unpushed(file string, err error) error {
	var m *message
	if !errors.As(err, &m) {
		return fmt.Errorf("push %s: %w", filepath.Base(file), err)
	}
	named := *m
	named.text = fmt.Sprintf("could not push %s: %s", filepath.Base(file), m.text)
	return &named
}

// onePerSystem returns a function that asks admit until it takes a system, and
// then no more. Files that are pushed side by side wait for one answer.
func onePerSystem(admit func(context.Context, postgres.SystemID) error) func(context.Context, postgres.SystemID) error {
	var mu sync.Mutex
	taken := make(map[postgres.SystemID]bool)
	return func(ctx context.Context, system postgres.SystemID) error {
		mu.Lock()
		defer mu.Unlock()
		if taken[system] {
			return nil
		}
		err := admit(ctx, system)
		taken[system] = err == nil
		return err
	}
}

// pushFile pushes a file and writes the records that classic WAL-E does.
func (s *session) pushFile(ctx context.Context, cfg wal.Config, path string) error {
	name := filepath.Base(path)
	b, admit := cfg.Bucket, cfg.Admit
	log := s.log.With("logger", "wal_e.worker.upload")
	began := time.Now()
	cfg.Admit = func(ctx context.Context, system postgres.SystemID) error {
		if err := admit(ctx, system); err != nil {
			return err
		}
		key := wal.Key(system, name)
		log.InfoContext(ctx, "begin archiving a file",
			append(s.transfer("push-wal", name, key, "begin"),
				"detail", fmt.Sprintf("Uploading %q to %q.", path, b.URL()+"/"+key))...)
		return nil
	}
	pushed, err := wal.Push(ctx, cfg, path)
	if err != nil {
		return err
	}
	rate := kibPerSecond(pushed.Stored, time.Since(began))
	detail := fmt.Sprintf("Archiving to %q complete at %sKiB/s.", b.URL()+"/"+pushed.Key, rate)
	if pushed.Stored == 0 {
		detail = fmt.Sprintf("%q was archived before, with the same content.", b.URL()+"/"+pushed.Key)
	}
	log.InfoContext(ctx, "completed archiving to a file",
		append(s.transfer("push-wal", name, pushed.Key, "complete"), "rate", rate, "detail", detail)...)
	return nil
}

// transfer returns the data in the records of a WAL transfer. An empty key is
// one not known yet.
func (s *session) transfer(action, name, key, state string) []any {
	attrs := []any{
		slog.String("action", action),
		slog.String("prefix", s.prefix.keyPath()),
		slog.String("seg", name),
		slog.String("state", state),
	}
	if key != "" {
		attrs = append(attrs, slog.String("key", s.prefix.String()+"/"+key))
	}
	return attrs
}

// kibPerSecond writes a rate as the classic records have it.
func kibPerSecond(bytes int64, took time.Duration) string {
	if took <= 0 {
		return "NaN"
	}
	return fmt.Sprintf("%.6g", float64(bytes)/1024/took.Seconds())
}
