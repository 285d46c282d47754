package backup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"wal-e/chunkstore"
)

// A site is a directory that entries go to: the data directory itself, that of
// a tablespace, or that of WAL. Its root keeps every path within it, whatever
// the file table and the links in it say.
type site struct {
	prefix string // of the paths of entries that go here; "" for the data directory
	dir    string
	root   *os.Root
	volume *os.File // made durable as a whole; nil: file by file
}

// site returns the site that an entry's path goes to, and its path there: "."
// for the site itself.
func (f *fetcher) site(p string) (*site, string) {
	for _, s := range f.sites {
		if p == s.prefix {
			return s, "."
		}
		if s.prefix == "" {
			return s, filepath.FromSlash(p)
		}
		if rest, ok := strings.CutPrefix(p, s.prefix+"/"); ok {
			return s, filepath.FromSlash(rest)
		}
	}
	panic("backup: internal error: the data directory is no site")
}

// openSites makes the directories that data go to, and the links to them.
func (f *fetcher) openSites() error {
	if err := f.openSite("", f.dir); err != nil {
		return err
	}
	root := f.sites[0].root
	if d := f.report.WALDir; d != "" {
		if err := makeDirectory(d); err != nil {
			return err
		}
		if err := f.link(root, walDirectory(f.version), d); err != nil {
			return err
		}
		if err := f.openSite(walDirectory(f.version), d); err != nil {
			return err
		}
	}
	if err := root.Mkdir("pg_tblspc", 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	for _, s := range f.spaces {
		if s.blind {
			continue
		}
		name := fmt.Sprintf("pg_tblspc/%d", s.OID)
		if err := makeDirectory(s.dir); err != nil {
			return err
		}
		if err := f.link(root, name, s.dir); err != nil {
			return err
		}
		if err := f.openSite(name, s.dir); err != nil {
			return err
		}
	}
	slices.SortFunc(f.sites, func(a, b *site) int { return cmp.Compare(len(b.prefix), len(a.prefix)) })
	return nil
}

func (f *fetcher) openSite(prefix, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	f.sites = append(f.sites, &site{prefix: prefix, dir: dir, root: root, volume: openVolume(dir)})
	return nil
}

func (s *site) close() {
	_ = s.root.Close() // nothing was written to it
	if s.volume != nil {
		_ = s.volume.Close() // as above
	}
}

// sync makes a file of the site durable, now or with the volume.
func (s *site) sync(f *os.File) error {
	if s.volume != nil {
		return nil
	}
	return f.Sync()
}

// syncVolumes makes the sites durable that weren't file by file: one call for a
// file system costs a commit of its journal, where one for each file costs that
// many.
func (f *fetcher) syncVolumes() error {
	for _, s := range f.sites {
		if s.volume != nil {
			if err := syncVolume(s.volume); err != nil {
				return err
			}
		}
	}
	return nil
}

// link makes a link unless it is there.
func (f *fetcher) link(root *os.Root, name, to string) error {
	if at, err := root.Readlink(name); err == nil && filepath.Clean(at) == to {
		return nil
	}
	if err := root.Symlink(to, name); err != nil {
		return err
	}
	if f.owner != nil {
		return root.Lchown(name, f.owner.base.uid, f.owner.base.gid)
	}
	return nil
}

// A survey is what a walk over the file table tells before anything is
// written.
type survey struct {
	dirs    []Entry
	leftOut map[uint32]bool // tablespaces that came and went during the backup
	whole   bits            // files by number, that an earlier try wrote
	resumed int64           // their bytes
}

// surveyTable walks the file table. That it can be read, is whole, and has
// nothing that can't be restored, is known before a byte is written.
func (f *fetcher) surveyTable(ctx context.Context) error {
	f.survey = survey{leftOut: make(map[uint32]bool)}
	var files, bytes int64
	for e, err := range f.entries(ctx) {
		if err != nil {
			return err
		}
		if err := f.checkEntry(ctx, e); err != nil {
			return err
		}
		switch e.Type {
		case Directory:
			f.survey.dirs = append(f.survey.dirs, e)
		case File:
			files++
			bytes += e.Content.Size
		}
	}
	control, err := f.controlEntry()
	if err != nil {
		return err
	}
	if m := f.b.Manifest; files+1 != m.Files || bytes+control.Content.Size != m.Bytes {
		return fmt.Errorf("%w: the file table of backup %s has %d files with %d bytes, its manifest says %d and %d",
			chunkstore.ErrDamaged, f.b.Ref, files+1, bytes+control.Content.Size, m.Files, m.Bytes)
	}
	return nil
}

// ownNames are files that a fetch makes itself, or that mustn't be there.
func ownNames() []string {
	return []string{controlPath, labelFile, mapFile, baseManifest, "postmaster.pid", recoverySignal, standbySignal, markerDir}
}

// Files that a fetch makes.
const (
	labelFile    = "backup_label"
	mapFile      = "tablespace_map"
	baseManifest = "backup_manifest"
)

// maxInline is the largest extent of any archive in bytes; a file without
// extents is at most as large.
const maxInline = 64 << 20

func (f *fetcher) checkEntry(ctx context.Context, e Entry) error {
	first, _, _ := strings.Cut(e.Path, "/")
	if slices.Contains(ownNames(), e.Path) || first == markerDir {
		return fmt.Errorf("%w: the file table of backup %s has the path %q", chunkstore.ErrDamaged, f.b.Ref, e.Path)
	}
	if c := e.Content; c.Extent == 0 && c.Size > maxInline {
		return fmt.Errorf("%w: file %s of backup %s has %d bytes and no extents", chunkstore.ErrDamaged, e.Path, f.b.Ref, c.Size)
	}
	oid, itself, ok := spaceOID(e.Path)
	if e.Type != Symlink {
		return nil
	}
	if !ok || !itself {
		return fmt.Errorf("%w: the file table of backup %s has a link at %q", chunkstore.ErrDamaged, f.b.Ref, e.Path)
	}
	if !slices.ContainsFunc(f.spaces, func(s space) bool { return s.OID == oid }) {
		f.survey.leftOut[oid] = true
		f.warn(ctx, "a tablespace is left out",
			fmt.Sprintf("Tablespace %d, in %s, was made and dropped while the backup was taken.", oid, e.Link), "Recovery does the same again.")
	}
	return nil
}

// left tells whether an entry is in a tablespace that is left out.
func (f *fetcher) left(e Entry) bool {
	if len(f.survey.leftOut) == 0 {
		return false
	}
	oid, _, ok := spaceOID(e.Path)
	return ok && f.survey.leftOut[oid]
}

// isKept tells whether what is at a path was there before and stays: files unless
// they are to be replaced, and folders that a link leads to, with all in them.
func (f *fetcher) isKept(p string, folder bool) bool {
	for _, k := range f.report.KeptConfig {
		if p == k && (folder || !f.cfg.OverwriteConfig) || strings.HasPrefix(p, k+"/") {
			return true
		}
	}
	return false
}

// makeDirectories makes the folders of the cluster. They get their modes at the
// end: one may not be writable.
func (f *fetcher) makeDirectories() error {
	for _, e := range f.survey.dirs {
		if f.left(e) || f.isKept(e.Path, true) {
			continue
		}
		s, rel := f.site(e.Path)
		if rel == "." {
			continue
		}
		if err := s.root.MkdirAll(rel, 0o700); err != nil {
			return fmt.Errorf("restore %s: %w", e.Path, err)
		}
	}
	root := f.sites[len(f.sites)-1].root
	if err := root.Mkdir(walDirectory(f.version), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	for _, s := range f.spaces {
		if !s.blind {
			continue
		}
		if err := root.MkdirAll(fmt.Sprintf("pg_tblspc/%d", s.OID), 0o700); err != nil {
			return err
		}
	}
	return nil
}

// settleDirectories gives the folders their owners and modes, deepest first,
// and makes their entries durable.
func (f *fetcher) settleDirectories() error {
	for _, e := range slices.Backward(f.survey.dirs) {
		if f.left(e) || f.isKept(e.Path, true) {
			continue
		}
		s, rel := f.site(e.Path)
		if err := f.settleAt(s, rel, e); err != nil {
			return fmt.Errorf("restore %s: %w", e.Path, err)
		}
	}
	made := f.baseEntry(f.dirMode())
	for _, s := range f.spaces {
		if s.blind {
			at, rel := f.site(fmt.Sprintf("pg_tblspc/%d", s.OID))
			if err := f.settleAt(at, rel, made); err != nil {
				return err
			}
		}
	}
	for _, s := range f.sites {
		if err := f.settleAt(s, ".", made); err != nil {
			return fmt.Errorf("restore %s: %w", s.dir, err)
		}
		if err := syncDirectory(filepath.Dir(realPath(s.dir))); err != nil {
			return err
		}
	}
	for _, dir := range []string{walDirectory(f.version), "pg_tblspc"} {
		if err := f.syncFolder(dir); err != nil {
			return err
		}
	}
	return nil
}

// settleAt settles what is at a site, a directory or a file.
func (f *fetcher) settleAt(s *site, rel string, e Entry) error {
	d, err := s.root.Open(rel)
	if err != nil {
		return err
	}
	return errors.Join(f.settle(d, e), s.sync(d), d.Close())
}

func (f *fetcher) syncFolder(p string) error {
	s, rel := f.site(p)
	d, err := s.root.Open(rel)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
