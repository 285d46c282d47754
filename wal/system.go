package wal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"

	"wal-e/internal/fault"
	"wal-e/internal/postgres"
)

// localSystem returns the system identifier of the file to push, and refuses a
// segment that isn't one.
func (cfg Config) localSystem(ctx context.Context, path string, f *localFile) (postgres.SystemID, error) {
	name := filepath.Base(path)
	head := make([]byte, postgres.WALHeaderSize)
	n, err := f.ReadAt(head, 0)
	if err != nil && err != io.EOF {
		return 0, fmt.Errorf("wal: read %s: %w", path, err)
	}
	system, err := checkContent(name, head[:n], f.info.Size())
	if err != nil {
		return 0, fmt.Errorf("wal: %s is not archived: %w", path, err)
	}
	switch {
	case system == 0 && cfg.System != 0:
		return cfg.System, nil
	case system == 0:
		// PostgreSQL's pg_wal may be a link, so its parent is meant by name.
		return controlSystem(ctx, name, filepath.Join(filepath.Dir(path), ".."), cfg.workDir())
	case cfg.System != 0 && system != cfg.System:
		return 0, fault.WALOther.Errorf("wal: %s is not archived: it is of the system %s, not of %s", path, system, cfg.System)
	}
	return system, nil
}

func (cfg Config) workDir() string {
	if cfg.WorkDir == "" {
		return "."
	}
	return cfg.WorkDir
}

// checkContent returns the system identifier that a file's first bytes tell, or
// 0 if files of that name tell none. A segment must be what its name says, and
// have the size that its first page says.
func checkContent(name string, head []byte, length int64) (postgres.SystemID, error) {
	kind := postgres.ParseWALFile(name).Kind
	switch {
	case kind == postgres.OtherFile:
		return 0, nil
	case length == 0:
		return 0, fault.BadSegment.Errorf("the %s is empty: it was never written, or lost with a crash", kind)
	case kind != postgres.SegmentFile && kind != postgres.PartialFile:
		return 0, nil
	}
	h, err := postgres.ParseWALHeader(head)
	if err != nil {
		return 0, err
	}
	if _, err := h.CheckName(name); err != nil {
		return 0, err
	}
	if length != int64(h.SegmentSize) {
		return 0, fault.BadSegment.Errorf("the segment is %d bytes long, and its first page says that it should be %d: it is incomplete or damaged",
			length, h.SegmentSize)
	}
	return h.SystemID, nil
}

// controlSystem returns the system identifier of the first directory that has a
// pg_control.
func controlSystem(ctx context.Context, name string, dirs ...string) (postgres.SystemID, error) {
	for _, dir := range dirs {
		system, err := readControl(ctx, dir)
		if err != nil || system != 0 {
			return system, err
		}
	}
	return 0, fault.BadSegment.Errorf("wal: push %s: no global/pg_control in %s, which is needed to tell whose file it is",
		name, strings.Join(dirs, " or in "))
}

// readControl returns the system identifier of a data directory, 0 if it has no
// pg_control.
func readControl(ctx context.Context, dir string) (postgres.SystemID, error) {
	c, _, err := postgres.ReadControlFile(ctx, dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return 0, nil
	case err != nil:
		return 0, fmt.Errorf("wal: find the system identifier: %w", err)
	}
	return c.SystemID, nil
}

// archiveSystem returns whose files are wanted from the archive: those of the
// data directory we are in, else of the only system there is.
func (cfg Config) archiveSystem(ctx context.Context, name string) (postgres.SystemID, error) {
	if cfg.System != 0 {
		return cfg.System, nil
	}
	if system, err := readControl(ctx, cfg.workDir()); err != nil || system != 0 {
		return system, err
	}
	systems, err := Systems(ctx, cfg.Bucket)
	if err != nil {
		return 0, err
	}
	switch len(systems) {
	case 0:
		return 0, fmt.Errorf("wal: %s %w: %s holds no WAL at all", name, ErrNotFound, cfg.Bucket.URL())
	case 1:
		return systems[0], nil
	}
	list := make([]string, len(systems))
	for i, s := range systems {
		list[i] = s.String()
	}
	return 0, fault.WALWhose.Errorf("wal: whose %s? %s holds WAL of the systems %s, and %s has no global/pg_control to choose by: run this in the data directory",
		name, cfg.Bucket.URL(), strings.Join(list, ", "), cfg.workDir())
}
