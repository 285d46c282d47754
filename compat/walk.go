package compat

import (
	"context"
	"errors"
	"io/fs"
	"iter"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"wal-e/internal/fault"
	"wal-e/internal/postgres"
)

// A found file is one that belongs in a classic backup.
type found struct {
	name string // in the archive; "." is the data directory
	abs  string // where it is
	info fs.FileInfo
	link string // of a symbolic link: where it leads
}

// errStopped ends a walk whose consumer has enough.
var errStopped = errors.New("compat: internal: stopped")

// A walker walks over a cluster as the original does, with its list of what is left
// out, and some more: what the original stores and no restored server may find
// (signal files, labels of other backups), other servers' folders in a tablespace,
// sockets, and folders of our own.
type walker struct {
	dir       string
	folder    string   // in tablespaces: PG_<major>_<catalog version>
	still     bool     // the server is stopped: nothing vanishes
	skipLinks []string // links to directories that are left out, absolute
	spaces    map[uint32]string
	yield     func(found) bool
}

// walk yields what belongs in a backup of the cluster in w.dir, but for pg_control, in
// the order of names. Where tablespaces are is in w.spaces when it is over.
func (w *walker) walk(ctx context.Context) iter.Seq2[found, error] {
	return func(yield func(found, error) bool) {
		w.spaces = make(map[uint32]string)
		w.yield = func(f found) bool { return ctx.Err() == nil && yield(f, nil) }
		err := w.directory(".", w.dir)
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		if err != nil && !errors.Is(err, errStopped) {
			yield(found{}, err)
		}
	}
}

func (w *walker) emit(f found) error {
	if !w.yield(f) {
		return errStopped
	}
	return nil
}

// directory yields a directory and what is in it.
func (w *walker) directory(name, abs string) error {
	info, err := os.Stat(abs)
	if err != nil {
		return w.vanished(name, err)
	}
	if err := w.emit(found{name: name, abs: abs, info: info}); err != nil {
		return err
	}
	if isEmptyOf(name) {
		return nil
	}
	entries, err := os.ReadDir(abs)
	if err != nil {
		return w.vanished(name, err)
	}
	for _, e := range entries {
		if err := w.entry(path.Join(name, e.Name()), filepath.Join(abs, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// vanished lets what went away while the server works go, but not the data directory.
func (w *walker) vanished(name string, err error) error {
	if errors.Is(err, fs.ErrNotExist) && name != "." && !w.still {
		return nil
	}
	return err
}

func (w *walker) entry(name, abs string) error {
	if isNotStored(name) {
		return nil
	}
	info, err := os.Lstat(abs)
	if err != nil {
		return w.vanished(name, err)
	}
	switch info.Mode().Type() {
	case 0:
		return w.emit(found{name: name, abs: abs, info: info})
	case fs.ModeDir:
		return w.directory(name, abs)
	case fs.ModeSymlink:
		return w.symlink(name, abs, info)
	case fs.ModeSocket, fs.ModeNamedPipe:
		return nil
	}
	return fault.Unstorable.Errorf("%s is a device: it can't be backed up", abs)
}

func (w *walker) symlink(name, abs string, info fs.FileInfo) error {
	link, err := os.Readlink(abs)
	if err != nil {
		return w.vanished(name, err)
	}
	target, err := os.Stat(abs)
	isDir := err == nil && target.IsDir()
	if parent, base := path.Split(name); parent == "pg_tblspc/" {
		return w.tablespace(name, base, abs)
	}
	switch {
	case slices.Contains(w.skipLinks, abs):
		return nil
	case isEmptyOf(name):
		// Stored as the directory that it stands for: the link would lead to the
		// WAL of the original, or nowhere.
		if !isDir {
			return fault.Unstorable.Errorf("%s is a link to %s, which is no directory", abs, link)
		}
		return w.emit(found{name: name, abs: abs, info: target})
	case isDir:
		return fault.Unstorable.Errorf("%s is a link to the directory %s, and what is in it would not be backed up: "+
			"make it a tablespace, or leave it out with --skip-link %s", abs, link, name)
	}
	return w.emit(found{name: name, abs: abs, info: info, link: link})
}

// tablespace yields this server's folder in a tablespace. The link isn't stored.
func (w *walker) tablespace(name, base, abs string) error {
	oid, ok := parseOID(base)
	if !ok {
		return fault.Unstorable.Errorf("%s is no tablespace: its name is no OID", abs)
	}
	if err := postgres.CheckTablespace(abs, w.folder, w.still); err != nil {
		return w.vanished(name, err)
	}
	dir, err := filepath.EvalSymlinks(abs)
	if err != nil {
		return w.vanished(name, err)
	}
	w.spaces[oid] = dir
	return w.directory(path.Join(name, w.folder), filepath.Join(dir, w.folder))
}

// isEmptyOf tells directories of which only the entry is stored.
func isEmptyOf(name string) bool {
	switch path.Base(name) {
	case "pgsql_tmp", "pg_stat_tmp", ".wal-e":
		return true
	}
	return slices.Contains([]string{"pg_wal", "pg_xlog", "pg_log", "pg_replslot"}, name)
}

// isNotStored tells what is not stored at all.
func isNotStored(name string) bool {
	if path.Base(name) == "lost+found" || strings.HasPrefix(path.Base(name), ".wal-e-fetch") {
		return true
	}
	return slices.Contains([]string{
		"postmaster.pid", "postmaster.opts", "postgresql.conf", "pg_hba.conf", "pg_ident.conf", "recovery.conf", "recovery.done", "promote",
		// What the original stores:
		"standby.signal", "recovery.signal", "backup_label", "backup_label.old", "tablespace_map", "tablespace_map.old",
		controlPath, // read last, and stored by itself
	}, name)
}
