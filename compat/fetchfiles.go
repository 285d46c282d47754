package compat

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"wal-e/internal/fault"
	"wal-e/internal/postgres"
)

// Members that a fetch treats in a way of its own.
const (
	controlPath = "global/pg_control"
	labelPath   = "backup_label"
	mapPath     = "tablespace_map"
	maxMap      = 4 << 20 // bytes of tablespace_map
)

// isLeftOut tells members that the original stored and that must not be in a
// restored cluster: a backup of a standby would start as a standby of its
// primary.
func isLeftOut(p string) bool {
	return slices.Contains([]string{"standby.signal", "recovery.signal", "postmaster.pid", "postmaster.opts"}, p)
}

// isWALFolder tells the folder of WAL, which the original stored empty, or as the
// link that it was.
func isWALFolder(p string) bool { return p == "pg_wal" || p == "pg_xlog" }

// isEmptied tells the other folders of which the original stored the link.
func isEmptied(p string) bool { return p == "pg_log" || p == "log" || p == "pg_replslot" }

// member restores one member. Links, and what directories look like, wait until
// all files are there.
func (f *fetcher) member(ctx context.Context, m member, content io.Reader) error {
	if m.Path == markerDir || strings.HasPrefix(m.Path, markerDir+"/") {
		return fmt.Errorf("%w: %q is a fetch's own", ErrBadMember, m.Path)
	}
	if isLeftOut(m.Path) {
		f.warn(ctx, "a file is left out", fmt.Sprintf("The backup has %s.", m.Path), "With it the server would not start as what it was.")
		return nil
	}
	if err := f.members.add(m); err != nil {
		return err
	}
	if m.Type == memberSymlink && (isWALFolder(m.Path) || isEmptied(m.Path)) {
		// The original put the link away and nothing behind it: the WAL of the
		// original may be there, or nothing.
		f.warn(ctx, "a link becomes a directory", fmt.Sprintf("In the backup %s is a link to %s.", m.Path, m.Link), "It was stored without what it leads to.")
		m.Type, m.Mode = memberDirectory, 0o700
	}
	switch m.Type {
	case memberFifo:
		f.warn(ctx, "a named pipe is left out", fmt.Sprintf("The backup has %s.", m.Path), "It is no part of a cluster.")
		return nil
	case memberSymlink, memberHardlink:
		f.mu.Lock()
		defer f.mu.Unlock()
		f.links = append(f.links, m)
		return nil
	case memberDirectory:
		return f.directory(m)
	}
	if f.found.kept[m.Path] {
		f.warn(ctx, "a file stays as it is", fmt.Sprintf("%s was there, and the backup has one, too.", m.Path), "Remove it and fetch again to have that of the backup.")
		f.spared.Add(m.Size)
		return nil
	}
	return f.file(m, content)
}

func (f *fetcher) directory(m member) error {
	if isWALFolder(m.Path) {
		if f.found.wal != "" && f.found.wal != m.Path {
			return fault.BadMember.Errorf("%s is there, but the WAL of this cluster is in %s", f.found.wal, m.Path)
		}
		return f.walFolder(m)
	}
	s, p, err := f.site(m.Path)
	if err != nil {
		return err
	}
	if err := f.makeDir(s, p); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if m.Path == "." {
		f.base = m
	}
	f.dirs = append(f.dirs, m)
	return nil
}

// walFolder makes the folder of WAL, unless there is one or a link to one.
func (f *fetcher) walFolder(m member) error {
	root := f.sites[0].root
	if info, err := root.Lstat(m.Path); err == nil && (info.IsDir() || info.Mode().Type() == fs.ModeSymlink) {
		return nil
	}
	if f.report.WALDir != "" {
		return root.Symlink(f.report.WALDir, m.Path)
	}
	if err := root.Mkdir(m.Path, 0o700); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dirs = append(f.dirs, m)
	return nil
}

// makeDir makes a directory and its parents, once.
func (f *fetcher) makeDir(s *site, p string) error {
	key := s.prefix + "\x00" + p
	if _, ok := f.made.Load(key); ok || p == "." {
		return nil
	}
	if err := s.root.MkdirAll(p, 0o700); err != nil {
		return err
	}
	for ; p != "."; p = path.Dir(p) {
		f.made.Store(s.prefix+"\x00"+p, nil)
	}
	return nil
}

func (f *fetcher) file(m member, content io.Reader) error {
	s, p, err := f.site(m.Path)
	if err != nil {
		return err
	}
	switch m.Path {
	case mapPath:
		var b bytes.Buffer
		if _, err := io.Copy(&b, io.LimitReader(content, maxMap+1)); err != nil {
			return err
		}
		if b.Len() > maxMap {
			return fault.BadMember.Errorf("it has more than %d bytes", maxMap)
		}
		f.mu.Lock()
		f.tsMap, f.tsMember = b.Bytes(), m
		f.mu.Unlock()
		f.count(m)
		return nil
	case controlPath:
		p = markerDir + "/pg_control"
	}
	if err := f.makeDir(s, path.Dir(p)); err != nil {
		return err
	}
	if err := f.removeOld(s, p); err != nil {
		return err
	}
	if err := f.write(s, p, m, content); err != nil {
		return err
	}
	f.count(m)
	return f.note(m.Path, s, p)
}

// removeOld removes what an earlier try put in a member's place. This one has put
// nothing there: no path is in a backup twice.
func (f *fetcher) removeOld(s *site, p string) error {
	if f.marker == nil {
		return nil
	}
	info, err := s.root.Lstat(p)
	if errors.Is(err, fs.ErrNotExist) || err == nil && info.IsDir() {
		return nil
	}
	if err != nil {
		return err
	}
	return s.root.Remove(p)
}

func (f *fetcher) count(m member) {
	f.files.Add(1)
	f.bytes.Add(m.Size)
}

// note keeps what the end needs to know of a file.
func (f *fetcher) note(name string, s *site, p string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch name {
	case controlPath:
		f.control = true
	case labelPath:
		f.label = true
	case "PG_VERSION":
		b, err := s.root.ReadFile(p)
		if err != nil {
			return err
		}
		f.version, err = postgres.ParseVersion(string(b))
		return err
	}
	return nil
}

// write writes a new file and makes it durable, but for its name.
func (f *fetcher) write(s *site, p string, m member, content io.Reader) error {
	w, err := s.root.OpenFile(p, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	n, err := io.Copy(w, f.cfg.Progress.Reader(content))
	if err == nil && n != m.Size {
		err = fmt.Errorf("%d bytes instead of %d: %w", n, m.Size, io.ErrUnexpectedEOF)
	}
	if err == nil && f.owner != nil {
		err = f.owner.give(m, w.Chown)
	}
	if err == nil {
		err = w.Chmod(fs.FileMode(m.Mode & 0o777))
	}
	if err == nil {
		err = w.Sync()
	}
	if err := errors.Join(err, w.Close()); err != nil {
		return err
	}
	return s.root.Chtimes(p, time.Time{}, m.ModTime)
}

// finish makes what had to wait: links, modes of directories, the map of
// tablespaces; then all is made durable, and pg_control last of all.
func (f *fetcher) finish(ctx context.Context) error {
	switch {
	case !f.control:
		return fmt.Errorf("%w: no partition of it has %s: it can't be a cluster", ErrIncomplete, controlPath)
	case f.version == 0:
		return fmt.Errorf("%w: no partition of it has PG_VERSION: it can't be a cluster", ErrIncomplete)
	}
	if size, want := f.bytes.Load()+f.spared.Load(), f.sentinel.ExpandedSize; want >= 0 && size != want {
		f.warn(ctx, "the backup has another size than its sentinel says",
			fmt.Sprintf("Its files have %d bytes, the sentinel says %d.", size, want),
			"Files that vanished while the backup was taken make the sentinel say more.")
	}
	if !f.label && !f.sentinel.Offline(f.cfg.Backup.Name) {
		return fmt.Errorf("%w: no partition of it has %s, which a backup of a running server needs", ErrIncomplete, labelPath)
	}
	for _, step := range []func(context.Context) error{f.makeWALFolder, f.makeLinks, f.writeMap, f.settleDirectories} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	root := f.sites[0].root
	if err := root.Mkdir("global", 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := root.Rename(markerDir+"/pg_control", controlPath); err != nil {
		return err
	}
	if err := syncDirectory(filepath.Join(f.dir, "global")); err != nil {
		return err
	}
	// The marker before the lock beside it: who takes a new lock meanwhile finds none.
	if err := root.Remove(markerDir + "/fetch.json"); err != nil {
		return err
	}
	if err := root.RemoveAll(markerDir); err != nil {
		return err
	}
	f.report.Files, f.report.Bytes = f.files.Load(), f.bytes.Load()
	return errors.Join(syncDirectory(f.dir), syncDirectory(filepath.Dir(f.dir)))
}

// makeLinks makes hard links, then symbolic ones: nothing is written through any
// of them.
func (f *fetcher) makeLinks(ctx context.Context) error {
	for _, kind := range []memberType{memberHardlink, memberSymlink} {
		for _, m := range f.links {
			if m.Type != kind {
				continue
			}
			if err := f.makeLink(ctx, m); err != nil {
				return fmt.Errorf("restore %s: %w", m.Path, err)
			}
		}
	}
	return nil
}

func (f *fetcher) makeLink(ctx context.Context, m member) error {
	s, p, err := f.site(m.Path)
	if err != nil {
		return err
	}
	if err := f.makeDir(s, path.Dir(p)); err != nil {
		return err
	}
	if err := f.removeOld(s, p); err != nil {
		return err
	}
	if m.Type == memberHardlink {
		at, old, err := f.site(m.Link)
		if err != nil {
			return err
		}
		if at != s {
			return fault.BadMember.Errorf("it is a hard link to %s, which goes to another directory", m.Link)
		}
		return s.root.Link(old, p)
	}
	if f.found.kept[m.Path] {
		f.warn(ctx, "a file stays as it is", fmt.Sprintf("%s was there, and in the backup it is a link to %s.", m.Path, m.Link), "Remove it and fetch again to have that of the backup.")
		return nil
	}
	if path.IsAbs(m.Link) || strings.HasPrefix(path.Join(path.Dir(p), m.Link), "..") {
		f.warn(ctx, "a link leads out of the data directory", fmt.Sprintf("%s points to %s.", m.Path, m.Link), "It was restored as it is; look whether that is there.")
	}
	if err := s.root.Symlink(m.Link, p); err != nil {
		return err
	}
	if f.owner != nil {
		return f.owner.give(m, func(uid, gid int) error { return s.root.Lchown(p, uid, gid) })
	}
	return nil
}

// writeMap writes tablespace_map for where the tablespaces went. Unchanged,
// PostgreSQL would link to the places of the original.
func (f *fetcher) writeMap(context.Context) error {
	if f.tsMap == nil {
		f.nextBlind()
		return nil
	}
	stored, err := postgres.ParseTablespaceMap(f.tsMap, f.version)
	if err != nil {
		return err
	}
	to := make(map[uint32]string)
	for _, s := range f.spaces {
		if slices.ContainsFunc(stored, func(l postgres.TablespaceLocation) bool { return l.OID == s.oid }) {
			to[s.oid] = s.dir
		}
	}
	moved, err := stored.Relocate(to)
	if err != nil {
		return err
	}
	f.nextBlind()
	if len(moved) == 0 {
		return nil
	}
	b, err := moved.Format(f.version)
	if err != nil {
		return err
	}
	if err := writeDurably(filepath.Join(f.dir, mapPath), b, 0o600); err != nil {
		return err
	}
	return f.give(f.tsMember, mapPath)
}

// give gives a file or a link to whom a member belongs to.
func (f *fetcher) give(m member, p string) error {
	if f.owner == nil {
		return nil
	}
	return f.owner.give(m, func(uid, gid int) error { return f.sites[0].root.Lchown(p, uid, gid) })
}

// makeWALFolder makes the folder of WAL if no partition had it, and gives away
// what the fetch made itself.
func (f *fetcher) makeWALFolder(context.Context) error {
	name := "pg_wal"
	if f.version < postgres.V10 {
		name = "pg_xlog"
	}
	m := f.base
	m.Path, m.Mode = name, 0o700
	if err := f.walFolder(m); err != nil {
		return err
	}
	if f.wal != nil {
		if err := syncDirectory(f.wal.dir); err != nil {
			return err
		}
	}
	if f.owner == nil {
		return nil
	}
	for _, s := range f.sites[1:] {
		if err := f.give(f.base, s.prefix); err != nil {
			return err
		}
	}
	if f.report.WALDir == "" {
		return nil
	}
	if err := f.give(f.base, name); err != nil {
		return err
	}
	return f.owner.give(f.base, func(uid, gid int) error { return os.Lchown(f.report.WALDir, uid, gid) })
}

// nextBlind says what a server with tablespaces in pg_tblspc needs.
func (f *fetcher) nextBlind() {
	if f.version >= postgres.V15 && slices.ContainsFunc(f.spaces, func(s space) bool { return s.dir == "" }) {
		f.report.Next = append(f.report.Next, "Set allow_in_place_tablespaces = on: tablespaces are directories in pg_tblspc, and without it the server doesn't recover.")
	}
}

// settleDirectories gives directories their modes, owners and times, and makes the
// names in them durable.
func (f *fetcher) settleDirectories(context.Context) error {
	all := make(map[string]member)
	own := func(p string) { // one that no member speaks of
		m := f.base
		m.Path, m.Mode, m.ModTime = p, 0o700, time.Time{}
		all[p] = m
	}
	f.made.Range(func(key, _ any) bool {
		prefix, p, _ := strings.Cut(key.(string), "\x00")
		own(path.Join(prefix, p))
		return true
	})
	for _, s := range f.sites {
		own(path.Join(s.prefix, "."))
	}
	for _, m := range f.dirs {
		all[m.Path] = m
	}
	delete(all, markerDir)
	names := slices.Sorted(maps.Keys(all))
	slices.Reverse(names) // a directory after what is in it
	for _, name := range names {
		if err := f.settle(all[name]); err != nil {
			return fmt.Errorf("restore %s: %w", name, err)
		}
	}
	return nil
}

func (f *fetcher) settle(m member) error {
	s, p, err := f.site(m.Path)
	if err != nil {
		return err
	}
	d, err := s.root.Open(p)
	if err != nil {
		return err
	}
	if f.owner != nil {
		err = f.owner.give(m, d.Chown)
	}
	mode := fs.FileMode(m.Mode & 0o777)
	if p == "." {
		mode = mode&0o750 | 0o700 // a server refuses any other
	}
	if err == nil {
		err = d.Chmod(mode)
	}
	if err == nil {
		err = d.Sync()
	}
	if err = errors.Join(err, d.Close()); err != nil {
		return err
	}
	if p == "." && s.prefix != "" {
		if err := syncDirectory(filepath.Dir(s.dir)); err != nil {
			return err
		}
	}
	if m.ModTime.IsZero() {
		return nil
	}
	return s.root.Chtimes(p, time.Time{}, m.ModTime)
}
