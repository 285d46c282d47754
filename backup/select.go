package backup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"wal-e/internal/fault"
	"wal-e/internal/postgres"
)

// SelectConfig says of which cluster files are selected. Dir, Version and
// CatalogVersion are required.
type SelectConfig struct {
	Dir            string           // the data directory
	Version        postgres.Version // the major version is enough
	CatalogVersion uint32           // pg_control's; names the folder in a tablespace

	Offline     bool     // the cluster is stopped: keep all forks of unlogged relations
	IncludeLogs bool     // keep log and pg_log
	SkipLinks   []string // links to leave out, as paths within Dir or absolute
}

// Found is one thing that belongs in a backup.
type Found struct {
	// Entry is complete but for a File's content and CRC. Of a Symlink, mode
	// and owner are those of the folder it points to.
	Entry Entry
	Abs   string // where to open it
	Size  int64  // of a File, when it was found
}

// Walk yields what belongs in a backup, in the order of a file table: element
// by element in byte order, so that a folder comes before what is in it. What
// vanishes during the walk is passed over, for a running server drops files at
// any time and its WAL tells. An error is yielded once, last.
//
// global/pg_control is among the files, in its place; who takes a backup reads
// it after all others. Left out is what belongs to one running server, what a
// server makes anew, and what would make a restored copy act as the original.
//
// A link to a file is followed and yields a File, a link that is part of the
// cluster's structure (the WAL folder, folders that are stored empty, and the
// folders of logs) is followed and yields a Directory. Any other link to a
// folder, and one that points nowhere, is an error unless it is in SkipLinks:
// who restored such a backup would miss what is behind it.
func Walk(ctx context.Context, c SelectConfig) iter.Seq2[Found, error] {
	return func(yield func(Found, error) bool) {
		w := &fileWalk{cfg: c, owners: newOwners(), yield: func(f Found) error {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if !yield(f, nil) {
				return errStopped
			}
			return nil
		}}
		err := w.walk()
		if err != nil && !errors.Is(err, errStopped) {
			yield(Found{}, err)
		}
	}
}

// errStopped ends a walk of which no more is wanted.
var errStopped = errors.New("backup: walk stopped")

// CheckReadable makes sure that this user may read every file that Walk yields,
// without reading any, so that a backup doesn't fail after hours.
func CheckReadable(ctx context.Context, c SelectConfig) error {
	for f, err := range Walk(ctx, c) {
		if err == nil && f.Entry.Type == File {
			err = canRead(f.Abs)
		}
		if errors.Is(err, fs.ErrPermission) {
			return fmt.Errorf("%w: run wal-e as the user that the server runs as", err)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// canRead checks that the effective user may read a file; one that vanished
// does no harm.
func canRead(name string) error {
	err := unix.Faccessat(unix.AT_FDCWD, name, unix.R_OK, unix.AT_EACCESS)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return &fs.PathError{Op: "read", Path: name, Err: err}
}

// A fileWalk is one walk under way.
type fileWalk struct {
	cfg   SelectConfig
	yield func(Found) error

	skip   map[string]bool // SkipLinks, as paths of entries
	inside map[string]bool // folders in the data directory that tablespaces use
	owners *owners
}

func (w *fileWalk) walk() error {
	w.skip = make(map[string]bool, len(w.cfg.SkipLinks))
	for _, s := range w.cfg.SkipLinks {
		if filepath.IsAbs(s) {
			rel, err := filepath.Rel(w.cfg.Dir, s)
			if err != nil {
				return fmt.Errorf("link to skip: %w", err)
			}
			s = rel
		}
		w.skip[filepath.ToSlash(filepath.Clean(s))] = true
	}
	var err error
	if w.inside, err = w.tablespacesInside(); err != nil {
		return err
	}
	names, err := sortedNames(w.cfg.Dir)
	if err != nil {
		return err
	}
	return w.items("", names)
}

// tablespacesInside finds tablespaces whose folder is within the data
// directory. Their files are stored as the tablespace's, not a second time.
func (w *fileWalk) tablespacesInside() (map[string]bool, error) {
	inside := make(map[string]bool)
	names, err := sortedNames(w.abs("pg_tblspc"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	dir, err := filepath.EvalSymlinks(w.cfg.Dir)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		p := "pg_tblspc/" + name
		info, err := os.Lstat(w.abs(p))
		if err != nil || info.Mode().Type() != fs.ModeSymlink || !isTablespace(p) {
			continue // the walk itself tells errors
		}
		target, err := filepath.EvalSymlinks(w.abs(p))
		if err != nil {
			continue // likewise
		}
		if rel, err := filepath.Rel(dir, target); err == nil && filepath.IsLocal(rel) && rel != "." {
			inside[filepath.ToSlash(rel)] = true
		}
	}
	return inside, nil
}

func (w *fileWalk) abs(p string) string { return filepath.Join(w.cfg.Dir, filepath.FromSlash(p)) }

// sortedNames returns what is in a folder, in byte order. Names are all that a
// walk holds of a folder; their number is what bounds its memory.
func sortedNames(dir string) ([]string, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	names, err := f.Readdirnames(-1)
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	slices.Sort(names)
	return names, nil
}

// folder walks what is in a folder.
func (w *fileWalk) folder(p string) error {
	names, err := sortedNames(w.abs(p))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return w.items(p, names)
}

func (w *fileWalk) items(folder string, names []string) error {
	unlogged := w.unlogged(folder, names)
	for _, name := range names {
		p := name
		if folder != "" {
			p = folder + "/" + name
		}
		if w.leftOut(p, unlogged) {
			continue
		}
		if err := w.item(p); err != nil {
			return err
		}
	}
	return nil
}

// item looks at one name of a folder.
func (w *fileWalk) item(p string) error {
	info, err := os.Lstat(w.abs(p))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() == fs.ModeSymlink {
		return w.link(p, info)
	}
	return w.thing(p, info)
}

// thing takes a file or folder, found by its name or behind a link.
func (w *fileWalk) thing(p string, info fs.FileInfo) error {
	switch {
	case info.IsDir():
		return w.directory(p, info)
	case info.Mode().IsRegular() && !isLeftOutFile(p):
		return w.found(Entry{Path: p, Type: File}, info)
	}
	return nil // sockets, fifos and devices too
}

func (w *fileWalk) directory(p string, info fs.FileInfo) error {
	if isLogFolder(p) && !w.cfg.IncludeLogs {
		return nil
	}
	if err := w.found(Entry{Path: p, Type: Directory}, info); err != nil {
		return err
	}
	switch {
	case p == walDirectory(w.cfg.Version):
		return w.walFolders(p)
	case isEmptied(p) || w.inside[p]:
		return nil
	}
	return w.folder(p)
}

// walFolders takes the structure of the WAL folder.
func (w *fileWalk) walFolders(p string) error {
	for _, name := range walStructure(w.cfg.Version) {
		info, err := os.Stat(w.abs(p + "/" + name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if !info.IsDir() {
			continue
		}
		if err := w.found(Entry{Path: p + "/" + name, Type: Directory}, info); err != nil {
			return err
		}
	}
	return nil
}

// link looks at what is behind a symbolic link.
func (w *fileWalk) link(p string, info fs.FileInfo) error {
	target, err := os.Stat(w.abs(p))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return w.dangling(p, info)
	case err != nil:
		return err
	case isTablespace(p):
		return w.tablespace(p, target)
	case target.IsDir() && !w.follows(p):
		return w.refuse(p, "is a link to a folder elsewhere")
	}
	return w.thing(p, target)
}

// follows tells whether a link to a folder is followed.
func (w *fileWalk) follows(p string) bool {
	return p == walDirectory(w.cfg.Version) || isEmptied(p) || isLogFolder(p)
}

// dangling looks at a link to nothing. pg_stat_tmp and its like often point to
// memory, which is empty until the server starts.
func (w *fileWalk) dangling(p string, info fs.FileInfo) error {
	switch _, err := os.Lstat(w.abs(p)); {
	case errors.Is(err, fs.ErrNotExist):
		return nil // the link itself is gone by now
	case err != nil:
		return err
	case isLogFolder(p) && !w.cfg.IncludeLogs:
		return nil
	case isEmptied(p):
		return w.emit(Entry{Path: p, Type: Directory, Mode: 0o700}, info)
	}
	return w.refuse(p, "is a link to something that isn't there")
}

// refuse returns an error for a link, unless it shall be skipped. A cluster
// without a tablespace or its WAL folder is none.
func (w *fileWalk) refuse(p, what string) error {
	if isTablespace(p) || p == walDirectory(w.cfg.Version) {
		return fault.Unstorable.Errorf("%s %s", w.abs(p), what)
	}
	if w.skip[p] {
		return nil
	}
	target, err := os.Readlink(w.abs(p))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return fault.Unstorable.Errorf("%s %s (%s): what is behind it would be missing from the backup; --skip-link %s leaves it out", w.abs(p), what, target, p)
}

// tablespace takes the link of a tablespace and what this server has in it.
func (w *fileWalk) tablespace(p string, target fs.FileInfo) error {
	if !target.IsDir() {
		return fault.Unstorable.Errorf("%s is the link of a tablespace, but not to a folder", w.abs(p))
	}
	link, err := os.Readlink(w.abs(p))
	if err == nil {
		err = postgres.CheckTablespace(w.abs(p), postgres.TablespaceDir(w.cfg.Version, w.cfg.CatalogVersion), w.cfg.Offline)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it is gone by now
	}
	if err != nil {
		return err
	}
	if err := w.found(Entry{Path: p, Type: Symlink, Link: link}, target); err != nil {
		return err
	}
	return w.folder(p)
}

// found yields an entry with the mode that info tells.
func (w *fileWalk) found(e Entry, info fs.FileInfo) error {
	e.Mode = info.Mode().Perm()
	return w.emit(e, info)
}

// emit yields an entry with the owner that info tells.
func (w *fileWalk) emit(e Entry, info fs.FileInfo) error {
	e.Owner, e.Group = w.owners.names(info)
	f := Found{Entry: e, Abs: w.abs(e.Path)}
	if e.Type == File {
		f.Size = info.Size()
	}
	return w.yield(f)
}

// unlogged returns the relations of a folder that have an init fork: of them a
// running server's backup keeps only that, from which they are made anew.
func (w *fileWalk) unlogged(folder string, names []string) map[postgres.Relation]bool {
	if w.cfg.Offline {
		return nil
	}
	var relations map[postgres.Relation]bool
	for _, name := range names {
		r, ok := postgres.ParseRelationPath(folder + "/" + name)
		if !ok || r.Fork != postgres.InitFork || r.Temp {
			continue
		}
		if relations == nil {
			relations = make(map[postgres.Relation]bool)
		}
		relations[r.Relation] = true
	}
	return relations
}

// ownerID tells who owns a file, by number.
func ownerID(info fs.FileInfo) (uid, gid uint32, ok bool) {
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, 0, false
	}
	return s.Uid, s.Gid, true
}
