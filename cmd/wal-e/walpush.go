package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"wal-e/internal/postgres"
	"wal-e/internal/storage"
	"wal-e/wal"
)

func newWALPushCommand(a *app) *cobra.Command {
	var poolSize int
	cmd := &cobra.Command{
		Use:   "wal-push WAL_SEGMENT",
		Short: "archive a WAL file; for archive_command",
		Long: `wal-push archives the WAL file at the path WAL_SEGMENT. It exits 0 only when the
archive holds exactly the bytes of that file, durably: pushing a file again is
success, other bytes under the same name are refused.

It takes at most WALE_PUSH_TIMEOUT in all.`,
		Example: `  # postgresql.conf
  archive_command = 'WALE_ENVDIR=/etc/wal-e.d/env wal-e wal-push %p'`,
		Args: arguments("WAL_SEGMENT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.do(cmd, func(ctx context.Context, s *session) error { return walPush(ctx, s, args[0]) })
		},
	}
	cmd.Flags().VarP(numberOption(&poolSize, 32), "pool-size", "p",
		"push further ready segments beside it: accepted, but not in this version")
	return cmd
}

// walPush pushes the file at path within the time that a push has.
func walPush(ctx context.Context, s *session, path string) error {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		fmt.Fprintln(s.stdout, err)
		return &message{
			text:   "could not find file for wal-push",
			detail: "The operating system reported: " + err.Error(),
			err:    err,
		}
	}
	b, err := s.openBucket(use{patience: s.pushTimeout})
	if err != nil {
		return err
	}
	late := errors.New("too late")
	limited, cancel := context.WithTimeoutCause(ctx, s.pushTimeout, late)
	defer cancel()
	err = promptly(limited, func() error { return s.pushFile(limited, b, path) })
	if err != nil && errors.Is(context.Cause(limited), late) {
		return &message{
			text:   fmt.Sprintf("wal-push of %s took longer than WALE_PUSH_TIMEOUT allows, %s", filepath.Base(path), s.pushTimeout),
			detail: err.Error(),
			hint:   "PostgreSQL keeps the file and tries again.",
			err:    err,
		}
	}
	return err
}

// pushFile pushes a file and writes the records that classic WAL-E does.
func (s *session) pushFile(ctx context.Context, b storage.Bucket, path string) error {
	name := filepath.Base(path)
	log := s.log.With("logger", "wal_e.worker.upload")
	admit := s.admission(b)
	began := time.Now()
	pushed, err := wal.Push(ctx, wal.Config{
		Bucket: b,
		Level:  s.level,
		Log:    s.log,
		Admit: func(ctx context.Context, system postgres.SystemID) error {
			if err := admit(ctx, system); err != nil {
				return err
			}
			key := wal.Key(system, name)
			log.InfoContext(ctx, "begin archiving a file",
				append(s.transfer("push-wal", name, key, "begin"),
					"detail", fmt.Sprintf("Uploading %q to %q.", path, b.URL()+"/"+key))...)
			return nil
		},
	}, path)
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
