package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"wal-e/backup"
	"wal-e/chunkstore"
	"wal-e/compat"
	"wal-e/internal/checkup"
	"wal-e/internal/fault"
	"wal-e/internal/storage"
)

// archiveFacts finds out what check says of the prefix's contents. It makes nothing,
// here or there: who checks may be another user than the one who pushes.
func (s *session) archiveFacts(ctx context.Context, b storage.Bucket) checkup.ArchiveFacts {
	f := checkup.ArchiveFacts{State: s.stateRoot, StateErr: writable(s.stateRoot)}
	contents, err := compat.Detect(ctx, b)
	if f.LayoutsErr = err; err != nil {
		return f
	}
	if f.Classic, f.Dedup = contents.Classic, contents.Dedup; !f.Dedup {
		return f
	}
	prefix, err := chunkstore.LoadPrefix(ctx, b)
	if f.SystemsErr = err; err == nil {
		f.Systems = prefix.Systems
	}
	catalog, err := backup.ReadCatalog(ctx, b)
	if f.BackupsErr, f.SecondErr = err, err; err == nil {
		var list []backup.Listed
		list, f.BackupsErr = catalog.List()
		for _, l := range list {
			f.Backups = append(f.Backups, checkup.Backup{Name: l.Name, Stopped: l.Stopped})
		}
		now := time.Now()
		second, err := findSecond(ctx, b, catalog, now)
		if f.SecondErr = err; err == nil {
			f.NoSecond, f.NoSecondTodo = second.missing(now), todoSecond
		}
	}
	runs, err := chunkstore.Runs(ctx, b)
	f.OpenErr = err
	for _, r := range runs {
		if r.Open() {
			f.Open = append(f.Open, checkup.OpenPush{Name: r.Name, Since: r.Intent.ModTime})
		}
	}
	return f
}

// writable returns why nothing can be written to dir, or to what it would be made
// in.
func writable(dir string) error {
	info, err := os.Stat(dir)
	switch parent := filepath.Dir(dir); {
	case errors.Is(err, fs.ErrNotExist) && parent != dir:
		return writable(parent)
	case err != nil:
		return err
	case !info.IsDir():
		return fault.LocalFile.Errorf("%s is no directory", dir)
	}
	const writeAndSearch = 2 | 1
	if err := syscall.Access(dir, writeAndSearch); err != nil {
		return fmt.Errorf("write to %s: %w", dir, err)
	}
	return nil
}
