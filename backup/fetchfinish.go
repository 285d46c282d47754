package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sync/errgroup"

	"wal-e/chunkstore"
	"wal-e/internal/fault"
	"wal-e/internal/postgres"
	"wal-e/internal/storage"
)

// controlEntry returns the entry of pg_control, which stands in the manifest.
func (f *fetcher) controlEntry() (Entry, error) {
	e, rest, err := parseEntry(f.b.Manifest.Control)
	if err == nil && (len(rest) != 0 || e.Type != File || e.Path != controlPath || e.Content.Size > maxControl) {
		err = fmt.Errorf("%w: the manifest of backup %s has another entry for %s", chunkstore.ErrDamaged, f.b.Ref, controlPath)
	}
	return e, err
}

// maxControl bounds pg_control in bytes; it has 8192.
const maxControl = 1 << 20

// readControl reads pg_control, which is written last.
func (f *fetcher) readControl(ctx context.Context) error {
	e, err := f.controlEntry()
	if err != nil {
		return err
	}
	lists, err := f.reader.Lists(ctx, e.Content)
	if err != nil {
		return fmt.Errorf("restore %s: %w", controlPath, err)
	}
	list, err := lists(ctx, 0)
	if err != nil {
		return fmt.Errorf("restore %s: %w", controlPath, err)
	}
	f.controlData = make([]byte, e.Content.Size)
	if err := f.reader.Extent(ctx, list, f.controlData); err != nil {
		return fmt.Errorf("restore %s: %w", controlPath, err)
	}
	if crc32.Checksum(f.controlData, crc32.MakeTable(crc32.Castagnoli)) != e.CRC {
		return fmt.Errorf("restore %s: %w: its checksum differs", controlPath, chunkstore.ErrDamaged)
	}
	f.control, err = postgres.ParseControlFile(f.controlData)
	if err != nil {
		f.cfg.Log.DebugContext(ctx, "pg_control wasn't understood", "error", err)
	}
	return nil
}

// reopen prepares a directory that an earlier try completed but for its marker, or
// that holds a cluster: until the end no server can start on it. One may have been
// started since, and then it isn't ours any more.
func (f *fetcher) reopen() error {
	name := filepath.Join(f.dir, filepath.FromSlash(controlPath))
	b, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !bytes.Equal(b, f.controlData) && !f.wasThere(b) {
		return fault.TargetInUse.Errorf("the fetch into %s was complete, and a server has been started on it since: "+
			"remove %s to keep the cluster, or empty the directory to fetch again", f.dir, filepath.Join(f.dir, markerDir))
	}
	if err := os.Remove(name); err != nil {
		return err
	}
	return syncDirectory(filepath.Dir(name))
}

// putFile puts a small file in its place in the data directory, complete or not
// at all.
func (f *fetcher) putFile(name string, data []byte, mode fs.FileMode) error {
	temp := filepath.Join(f.dir, markerDir, "new")
	w, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = w.Write(data)
	if err == nil {
		err = f.settle(w, f.baseEntry(mode))
	}
	if err == nil {
		err = w.Sync()
	}
	if err := errors.Join(err, w.Close()); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return os.Rename(temp, filepath.Join(f.dir, filepath.FromSlash(name)))
}

// putLabel writes backup_label as the server gave it, and the tablespace_map
// that leads to where the data went. An offline backup has neither.
func (f *fetcher) putLabel() error {
	if label := f.b.Manifest.Label; len(label) > 0 {
		if err := f.putFile(labelFile, label, f.fileMode()); err != nil {
			return err
		}
	}
	if len(f.tsMap) == 0 {
		return nil
	}
	return f.putFile(mapFile, f.tsMap, f.fileMode())
}

// fetchWAL puts the segments that the backup needs into pg_wal.
func (f *fetcher) fetchWAL(ctx context.Context) error {
	if !f.report.WithWAL {
		return nil
	}
	dir := walDirectory(f.version)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(f.cfg.Workers)
	for _, name := range f.report.WALFiles {
		g.Go(func() error {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err := f.cfg.FetchWAL(ctx, f.b.Manifest.System, name, filepath.Join(f.dir, dir, name)); err != nil {
				return fmt.Errorf("fetch WAL segment %s: %w", name, err)
			}
			s, rel := f.site(dir + "/" + name)
			return f.settleAt(s, rel, f.baseEntry(f.fileMode()))
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return f.fetchHistory(ctx)
}

// fetchHistory puts the history of the backup's timeline into pg_wal, as pg_basebackup
// does. The server starts without, but its standbys, and whoever recovers across
// the point where the timeline began, ask it for that file.
func (f *fetcher) fetchHistory(ctx context.Context) error {
	tl := f.b.Manifest.Timeline
	if tl <= 1 {
		return nil
	}
	name := walDirectory(f.version) + "/" + tl.HistoryName()
	err := f.cfg.FetchWAL(ctx, f.b.Manifest.System, tl.HistoryName(), filepath.Join(f.dir, name))
	if errors.Is(err, storage.ErrNotExist) {
		f.warn(ctx, "the archive lacks the history of the backup's timeline", fmt.Sprintf("%s isn't there.", tl.HistoryName()),
			"The cluster starts. For standbys of it, copy the file from pg_wal of the server that was promoted.")
		return nil
	}
	if err != nil {
		return fmt.Errorf("fetch history of timeline %d: %w", tl, err)
	}
	s, rel := f.site(name)
	return f.settleAt(s, rel, f.baseEntry(f.fileMode()))
}

// finish makes everything durable, and then the cluster by moving pg_control in.
func (f *fetcher) finish() error {
	if err := f.settleDirectories(); err != nil {
		return err
	}
	if err := f.syncVolumes(); err != nil {
		return err
	}
	e, err := f.controlEntry()
	if err != nil {
		return err
	}
	if err := f.putFile(controlPath, f.controlData, e.Mode); err != nil {
		return err
	}
	if err := f.syncFolder("global"); err != nil {
		return err
	}
	if err := os.RemoveAll(filepath.Join(f.dir, markerDir)); err != nil {
		return err
	}
	return syncDirectory(f.dir)
}
