package backup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"wal-e/internal/fault"
	"wal-e/internal/postgres"
)

// A space is a tablespace and where it goes.
type space struct {
	Tablespace
	dir   string // "" when blind
	blind bool   // a plain directory in pg_tblspc
	deep  bool   // its parents are made too
}

func (f *fetcher) countBlind() int {
	n := 0
	for _, s := range f.spaces {
		if s.blind {
			n++
		}
	}
	return n
}

func (f *fetcher) blind() bool { return f.countBlind() > 0 }

// planSpaces decides where each tablespace goes, and makes the tablespace_map
// that leads there: unchanged, PostgreSQL would link to the original's places.
func (f *fetcher) planSpaces(ctx context.Context) error {
	spaces, stored, err := backupSpaces(f.b.Manifest, f.version)
	if err != nil {
		return err
	}
	wanted, err := f.wantedDirectories(ctx, spaces)
	if err != nil {
		return err
	}
	for _, t := range spaces {
		s, err := f.place(t, wanted[t.OID])
		if err != nil {
			return fmt.Errorf("tablespace %s: %w", spaceName(t), err)
		}
		f.spaces = append(f.spaces, s)
		f.report.Tablespaces = append(f.report.Tablespaces, RestoredTablespace{
			OID: t.OID, Name: t.Name, Original: t.Location, Blind: s.blind,
			Directory: cmp.Or(s.dir, filepath.Join(f.dir, "pg_tblspc", fmt.Sprint(t.OID))),
		})
	}
	for oid, to := range f.found.links {
		if !slices.ContainsFunc(spaces, func(t Tablespace) bool { return t.OID == oid }) {
			f.warn(ctx, "a link in pg_tblspc belongs to no tablespace of the backup",
				fmt.Sprintf("pg_tblspc/%d points to %s.", oid, to), "It stays as it is.")
		}
	}
	to := make(map[uint32]string)
	for _, s := range f.spaces {
		if slices.ContainsFunc(stored, func(l postgres.TablespaceLocation) bool { return l.OID == s.OID }) {
			to[s.OID] = s.dir
		}
	}
	relocated, err := stored.Relocate(to)
	if err != nil || len(relocated) == 0 {
		return err
	}
	f.tsMap, err = relocated.Format(f.version)
	return err
}

func spaceName(t Tablespace) string {
	if t.Name == "" {
		return fmt.Sprint(t.OID)
	}
	return fmt.Sprintf("%s (%d)", t.Name, t.OID)
}

// backupSpaces returns the tablespaces of a backup that were outside of its
// data directory, and its tablespace_map. One that was dropped while the backup
// was taken is in the map only.
func backupSpaces(m *Manifest, v postgres.Version) ([]Tablespace, postgres.TablespaceMap, error) {
	stored, err := postgres.ParseTablespaceMap(m.TablespaceMap, v)
	if err != nil {
		return nil, nil, err
	}
	var spaces []Tablespace
	add := func(t Tablespace) {
		if filepath.IsAbs(t.Location) && !slices.ContainsFunc(spaces, func(s Tablespace) bool { return s.OID == t.OID }) {
			spaces = append(spaces, t)
		}
	}
	for _, t := range m.Tablespaces {
		add(t)
	}
	for _, l := range stored {
		add(Tablespace{OID: l.OID, Location: l.Path})
	}
	slices.SortFunc(spaces, func(a, b Tablespace) int { return cmp.Compare(a.OID, b.OID) })
	return spaces, stored, nil
}

// A wish is a directory that was asked for.
type wish struct {
	dir  string
	deep bool
}

// wantedDirectories returns the directories that options ask for, by OID.
func (f *fetcher) wantedDirectories(ctx context.Context, spaces []Tablespace) (map[uint32]wish, error) {
	wanted := make(map[uint32]wish)
	if f.cfg.RestoreSpec != "" && f.cfg.RestoreSpec != RestoreSpecSource {
		spec, err := readRestoreSpec(f.cfg.RestoreSpec)
		if err != nil {
			return nil, err
		}
		if spec.BasePrefix != "" && filepath.Clean(spec.BasePrefix) != f.dir {
			f.warn(ctx, "the restore specification names another directory", fmt.Sprintf("It says %s.", spec.BasePrefix),
				fmt.Sprintf("The backup goes to %s, as the command line says.", f.dir))
		}
		for oid, dir := range spec.directories {
			if !slices.ContainsFunc(spaces, func(t Tablespace) bool { return t.OID == oid }) {
				return nil, fault.Tablespaces.Errorf("restore specification %s: the backup has no tablespace %d", f.cfg.RestoreSpec, oid)
			}
			wanted[oid] = wish{dir: dir}
		}
	}
	for key, dir := range f.cfg.TablespaceMap {
		i := slices.IndexFunc(spaces, func(t Tablespace) bool { return fmt.Sprint(t.OID) == key || t.Name == key && key != "" })
		if i < 0 {
			return nil, fault.Tablespaces.Errorf("tablespace map: the backup has no tablespace %q outside of its data directory; it has %s", key, spaceNames(spaces))
		}
		if !filepath.IsAbs(dir) {
			return nil, fault.Tablespaces.Errorf("tablespace map: directory %q of %s: want an absolute path", dir, key)
		}
		oid, dir := spaces[i].OID, filepath.Clean(dir)
		if w, ok := wanted[oid]; ok && w.deep && w.dir != dir {
			return nil, fault.Tablespaces.Errorf("tablespace map: %s is given two directories", spaceName(spaces[i]))
		}
		wanted[oid] = wish{dir: dir, deep: true}
	}
	return wanted, nil
}

func spaceNames(spaces []Tablespace) string {
	if len(spaces) == 0 {
		return "none"
	}
	var names []string
	for _, t := range spaces {
		names = append(names, spaceName(t))
	}
	return strings.Join(names, ", ")
}

// place decides where a tablespace goes: where an option says, where a link
// leads that is there, into pg_tblspc if told so, or where it came from, as long
// as nothing is there.
func (f *fetcher) place(t Tablespace, w wish) (space, error) {
	s := space{Tablespace: t, dir: w.dir, deep: w.deep}
	if f.marker != nil {
		return f.placeAgain(s)
	}
	if link, ok := f.found.links[t.OID]; ok {
		if s.dir != "" && s.dir != filepath.Clean(link) {
			return s, fault.Tablespaces.Errorf("the link pg_tblspc/%d in %s points to %s, not to %s: remove it, or leave the option away", t.OID, f.dir, link, s.dir)
		}
		s.dir = filepath.Clean(link)
		if f.delta {
			return s, nil
		}
	}
	if s.dir == "" && (f.cfg.BlindRestore || f.found.inPlace[t.OID]) {
		s.blind = true
		return s, nil
	}
	if s.dir != "" {
		return s, checkTarget(s)
	}
	s.dir = filepath.Clean(t.Location)
	if err := checkTarget(s); err != nil {
		return s, fmt.Errorf("it can't go back to where it was: %w: say where with --tablespace-map %d=DIR, or make a link pg_tblspc/%d to an empty directory", err, t.OID, t.OID)
	}
	return s, nil
}

// placeAgain takes what an earlier try decided.
func (f *fetcher) placeAgain(s space) (space, error) {
	before, ok := f.marker.Spaces[s.OID]
	if !ok {
		return s, fault.Tablespaces.Errorf("the unfinished fetch doesn't know it")
	}
	if s.dir != "" && s.dir != before {
		return s, fault.Tablespaces.Errorf("this fetch was begun with it in %q: it can't go on with %s", before, s.dir)
	}
	s.dir, s.blind = before, before == ""
	return s, nil
}

// checkTarget refuses a directory that isn't empty. It may be absent, but not its
// parents, unless people named it: a file system may not be mounted.
func checkTarget(s space) error {
	err := checkEmpty(s.dir)
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if parent := filepath.Dir(s.dir); !s.deep && !exists(parent) {
		return fault.Tablespaces.Errorf("%s doesn't exist (is its file system mounted?)", parent)
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
		if !s.blind {
			places = append(places, place{"tablespace " + spaceName(s.Tablespace), s.dir})
		}
	}
	for i := range places {
		places[i].dir = realPath(places[i].dir)
	}
	for i, a := range places {
		for _, b := range places[:i] {
			if a.dir == b.dir {
				return fault.Tablespaces.Errorf("%s and %s can't share the directory %s", b.what, a.what, a.dir)
			}
			if within(a.dir, b.dir) || within(b.dir, a.dir) {
				return fault.Tablespaces.Errorf("%s and %s can't be in one another: %s, %s", b.what, a.what, b.dir, a.dir)
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

// spaceOID returns the tablespace that an entry's path is in, and whether the
// path is the tablespace's link or directory itself.
func spaceOID(p string) (oid uint32, itself, ok bool) {
	rest, ok := strings.CutPrefix(p, "pg_tblspc/")
	if !ok {
		return 0, false, false
	}
	number, _, below := strings.Cut(rest, "/")
	n, err := strconv.ParseUint(number, 10, 32)
	return uint32(n), !below, err == nil
}
