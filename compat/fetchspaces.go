package compat

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"wal-e/internal/fault"
)

// A space is a tablespace and where it goes.
type space struct {
	oid      uint32
	original string // "" when the sentinel doesn't say
	dir      string // "" when blind
}

// planSpaces decides where each tablespace goes: where an option says, where a link
// leads that is there, into pg_tblspc if told so, or where it came from, as long as
// nothing is there.
func (f *fetcher) planSpaces() error {
	originals := f.sentinel.Spec.Tablespaces
	wanted := make(map[uint32]string)
	if f.cfg.RestoreSpec != nil {
		spec, err := ParseSpec(f.cfg.RestoreSpec)
		if err != nil {
			return fmt.Errorf("restore specification: %w", err)
		}
		maps.Copy(wanted, spec.Tablespaces)
	}
	for key, dir := range f.cfg.TablespaceMap {
		oid, ok := parseOID(key)
		if !ok {
			return fault.Tablespaces.Errorf("tablespace map: %q: a classic backup knows tablespaces by OID only: %s", key, oidList(originals))
		}
		if !filepath.IsAbs(dir) {
			return fault.Tablespaces.Errorf("tablespace map: directory %q of %s: want an absolute path", dir, key)
		}
		wanted[oid] = filepath.Clean(dir)
	}
	oids := make(map[uint32]bool)
	for oid := range originals {
		oids[oid] = true
	}
	for oid := range wanted {
		// An early sentinel doesn't say which there are.
		if originals != nil && !oids[oid] {
			return fault.Tablespaces.Errorf("tablespace map: the backup has no tablespace %d; it has %s", oid, oidList(originals))
		}
		oids[oid] = true
	}
	if originals == nil {
		for oid := range f.found.links {
			oids[oid] = true
		}
	}
	for _, oid := range slices.Sorted(maps.Keys(oids)) {
		s := space{oid: oid, original: originals[oid]}
		if err := f.place(&s, wanted[oid]); err != nil {
			return fmt.Errorf("tablespace %d: %w", oid, err)
		}
		f.spaces = append(f.spaces, s)
		r := RestoredTablespace{OID: oid, Original: s.original, Directory: s.dir, Blind: s.dir == ""}
		if r.Blind {
			r.Directory = filepath.Join(f.dir, "pg_tblspc", fmt.Sprint(oid))
		}
		f.report.Tablespaces = append(f.report.Tablespaces, r)
	}
	return f.checkApart()
}

func oidList(spaces map[uint32]string) string {
	if len(spaces) == 0 {
		return "none"
	}
	var list []string
	for _, oid := range slices.Sorted(maps.Keys(spaces)) {
		list = append(list, fmt.Sprintf("%d (%s)", oid, spaces[oid]))
	}
	return strings.Join(list, ", ")
}

func (f *fetcher) place(s *space, wanted string) error {
	link := f.found.links[s.oid]
	if f.marker != nil {
		before, ok := f.marker.Spaces[s.oid]
		if !ok || wanted != "" && wanted != before {
			return fault.Tablespaces.Errorf("this fetch was begun with it in %q: it can't go on with %q", before, wanted)
		}
		s.dir = before
		return nil
	}
	switch {
	case link != "" && wanted != "" && link != wanted:
		return fault.Tablespaces.Errorf("the link pg_tblspc/%d in %s points to %s, not to %s: remove it, or leave the option away", s.oid, f.dir, link, wanted)
	case link != "":
		s.dir = link
		return f.checkTarget(link)
	case wanted != "":
		s.dir = wanted
		return f.checkTarget(wanted)
	case f.cfg.BlindRestore:
		return nil
	}
	s.dir = s.original
	err := f.checkTarget(s.dir)
	if parent := filepath.Dir(s.dir); err == nil {
		if _, serr := os.Stat(parent); serr != nil {
			err = fault.Tablespaces.Errorf("%s doesn't exist (is its file system mounted?)", parent)
		}
	}
	if err != nil {
		return fmt.Errorf("it can't go back to where it was: %w: say where with --tablespace-map %d=DIR, or make a link pg_tblspc/%d to an empty directory", err, s.oid, s.oid)
	}
	return nil
}

// checkTarget refuses a directory that isn't empty. It may be absent.
func (f *fetcher) checkTarget(dir string) error {
	if err := checkEmpty(dir); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// checkApart refuses directories that are in one another, or one and the same.
func (f *fetcher) checkApart() error {
	type place struct{ what, dir string }
	places := []place{{"the data directory", f.dir}}
	if f.report.WALDir != "" {
		places = append(places, place{"WAL", f.report.WALDir})
	}
	for _, s := range f.spaces {
		if s.dir != "" {
			places = append(places, place{fmt.Sprintf("tablespace %d", s.oid), s.dir})
		}
	}
	for i := range places {
		places[i].dir = realPath(places[i].dir)
	}
	for i, a := range places {
		for _, b := range places[:i] {
			if a.dir == b.dir || within(a.dir, b.dir) || within(b.dir, a.dir) {
				return fault.Tablespaces.Errorf("%s and %s can't share a directory or be in one another: %s, %s", b.what, a.what, b.dir, a.dir)
			}
		}
	}
	return nil
}

func within(inner, outer string) bool {
	return strings.HasPrefix(inner, strings.TrimSuffix(outer, "/")+"/")
}

// realPath resolves the links in a path as far as it exists.
func realPath(p string) string {
	rest := ""
	for at := p; ; at = filepath.Dir(at) {
		if real, err := filepath.EvalSymlinks(at); err == nil {
			return filepath.Join(real, rest)
		}
		if at == filepath.Dir(at) {
			return p
		}
		rest = filepath.Join(filepath.Base(at), rest)
	}
}

// A site is a directory that members go to: the data directory or that of a
// tablespace. Its root keeps every path within it, whatever links there are.
type site struct {
	prefix string // of the paths of members that go here
	dir    string
	root   *os.Root
}

// openSites makes the directories that data go to, and the links to them.
func (f *fetcher) openSites() error {
	if err := f.openSite("", f.dir); err != nil {
		return err
	}
	root := f.sites[0].root
	if err := f.openWAL(); err != nil {
		return err
	}
	for _, s := range f.spaces {
		if s.dir == "" {
			continue
		}
		if err := root.Mkdir("pg_tblspc", 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		f.made.Store("\x00pg_tblspc", nil)
		name := fmt.Sprintf("pg_tblspc/%d", s.oid)
		if err := makeDirectory(s.dir); err != nil {
			return err
		}
		if at, err := root.Readlink(name); err != nil || filepath.Clean(at) != s.dir {
			if err := root.Symlink(s.dir, name); err != nil {
				return err
			}
		}
		if err := f.openSite(name, s.dir); err != nil {
			return err
		}
	}
	return nil
}

// openWAL opens the directory of WAL when it is elsewhere, where the option says or a
// link leads that is there. Backups of stopped clusters have WAL.
func (f *fetcher) openWAL() error {
	dir := f.report.WALDir
	if dir != "" {
		if err := makeDirectory(dir); err != nil {
			return err
		}
	} else if f.found.wal != "" {
		at := filepath.Join(f.dir, f.found.wal)
		info, err := os.Lstat(at)
		if err == nil && info.Mode().Type() == fs.ModeSymlink {
			dir, err = filepath.EvalSymlinks(at)
		}
		if err != nil {
			return err
		}
	}
	if dir == "" {
		return nil
	}
	root, err := os.OpenRoot(dir)
	f.wal = &site{prefix: "pg_wal", dir: dir, root: root}
	return err
}

func (f *fetcher) openSite(prefix, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	f.sites = append(f.sites, &site{prefix: prefix, dir: dir, root: root})
	return nil
}

// site returns where a member goes, and its path there.
func (f *fetcher) site(p string) (*site, string, error) {
	main := f.sites[0]
	if folder, below, ok := strings.Cut(p, "/"); ok && f.wal != nil && isWALFolder(folder) {
		return f.wal, below, nil
	}
	rest, ok := strings.CutPrefix(p, "pg_tblspc/")
	if !ok {
		return main, p, nil
	}
	number, below, _ := strings.Cut(rest, "/")
	for _, s := range f.sites[1:] {
		if s.prefix == "pg_tblspc/"+number {
			if below == "" {
				below = "."
			}
			return s, below, nil
		}
	}
	oid, ok := parseOID(number)
	switch {
	case !ok:
		return nil, "", fmt.Errorf("%w: %q is no tablespace", ErrBadMember, p)
	case f.sentinel.Spec.Tablespaces == nil && !f.cfg.BlindRestore:
		return nil, "", fault.Tablespaces.Errorf("the sentinel is an early one and doesn't say where tablespace %d was: say where it goes with --tablespace-map %d=DIR", oid, oid)
	}
	return main, p, nil // blind, or a directory already where it came from
}
