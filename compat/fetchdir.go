package compat

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"wal-e/internal/fault"
)

// markerDir is the folder in a data directory that says that a fetch into it is
// unfinished. Fetches of either layout use it and refuse to go on with what is
// the other's, so it has the same form in package backup.
const markerDir = ".wal-e-fetch"

// A marker is the file fetch.json in markerDir.
type marker struct {
	Version int               `json:"version"` // 1
	Backup  string            `json:"backup"`  // without a run: classic
	Begun   time.Time         `json:"begun"`
	Spaces  map[uint32]string `json:"tablespaces"` // "" is a blind one
	WALDir  string            `json:"wal_directory,omitempty"`
	Kept    []string          `json:"kept,omitempty"` // what was in the directory before
	// Exact and ExactWALDir have those of the directories again that aren't UTF-8.
	Exact       map[uint32][]byte `json:"tablespaces_bytes,omitempty"`
	ExactWALDir []byte            `json:"wal_directory_bytes,omitempty"`
}

// readMarker returns the marker of a directory, nil when there is none.
func readMarker(dir string) (*marker, error) {
	folder := filepath.Join(dir, markerDir)
	info, err := os.Lstat(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !info.IsDir() || !ok || int(owner.Uid) != os.Geteuid() || info.Mode().Perm()&0o022 != 0 {
		return nil, fault.OtherFetch.Errorf("%s isn't a folder of this user's that only this user can write to: remove it, or go on as the user that began the fetch", folder)
	}
	name := filepath.Join(folder, "fetch.json")
	b, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // it had not begun to write
	}
	if err != nil {
		return nil, err
	}
	m := &marker{}
	if err := json.Unmarshal(b, m); err != nil || m.Version != 1 {
		return nil, fault.OtherFetch.Errorf("%s can't be read (version %d, %v): empty %s and fetch again", name, m.Version, err, dir)
	}
	for oid, to := range m.Exact {
		if _, ok := m.Spaces[oid]; ok {
			m.Spaces[oid] = string(to)
		}
	}
	if len(m.ExactWALDir) > 0 {
		m.WALDir = string(m.ExactWALDir)
	}
	return m, nil
}

// write puts the marker into its folder, durably.
func (m *marker) write(folder string) error {
	m.Exact = make(map[uint32][]byte)
	for oid, dir := range m.Spaces {
		if !utf8.ValidString(dir) {
			m.Exact[oid] = []byte(dir)
		}
	}
	if !utf8.ValidString(m.WALDir) {
		m.ExactWALDir = []byte(m.WALDir)
	}
	b, err := json.MarshalIndent(m, "", " ")
	if err != nil {
		return err
	}
	name := filepath.Join(folder, "fetch.json")
	if err := writeDurably(name+".tmp", append(b, '\n'), 0o600); err != nil {
		return err
	}
	if err := os.Rename(name+".tmp", name); err != nil {
		return err
	}
	return syncDirectory(folder)
}

// check refuses to go on with another backup.
func (m *marker) check(dir string, name Name) error {
	if m.Backup == name.String() {
		return nil
	}
	return fault.OtherFetch.Errorf("%s holds an unfinished fetch of backup %s, begun at %s: fetch that one to go on with it; for the classic backup %s empty %s first",
		dir, m.Backup, m.Begun.UTC().Format(time.RFC3339), name, dir)
}

// An inspection is what a directory holds that a backup is to be restored to.
type inspection struct {
	exists bool
	kept   map[string]bool // files and folders that stay, at the top
	links  map[uint32]string
	wal    string // name of the WAL folder, or of the link to one, that is there
}

// inspect refuses a directory unless a restore can't destroy anything there. What
// an earlier try left there is the backup's, but for what its marker says to keep.
func inspect(dir string, again bool) (*inspection, error) {
	in := &inspection{kept: make(map[string]bool), links: make(map[uint32]string)}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return in, nil
	}
	if err != nil {
		return nil, err
	}
	in.exists = true
	var strange []string
	for _, e := range entries {
		name := e.Name()
		switch {
		case name == "postmaster.pid":
			return nil, fault.Running.Errorf("attempting to overwrite a live data directory: found a postmaster.pid lockfile in %s; stop the server, or restore elsewhere", dir)
		case name == "pg_tblspc":
			if err := in.tablespaces(filepath.Join(dir, name), again); err != nil {
				return nil, err
			}
		case name == "pg_wal" || name == "pg_xlog":
			in.wal = name
			if !again {
				err = checkEmpty(filepath.Join(dir, name), "archive_status", "summaries")
			}
			if err != nil {
				return nil, err
			}
		case name == markerDir || again:
		case name == "PG_VERSION" || name == "global" || name == "base":
			return nil, fault.TargetInUse.Errorf("%s holds a cluster already (%s): restore to an empty directory, or move the old one away", dir, name)
		case isBystander(name) || isConfig(name) && !e.IsDir():
			in.kept[name] = true
		default:
			strange = append(strange, name)
		}
	}
	if len(strange) > 0 {
		return nil, fault.TargetInUse.Errorf("%s isn't empty: it holds %s. Only configuration files, links in pg_tblspc, an empty pg_wal and lost+found may be there: "+
			"restore to another directory, or move these away", dir, strings.Join(strange[:min(5, len(strange))], ", "))
	}
	return in, nil
}

func isBystander(name string) bool {
	return slices.Contains([]string{"lost+found", ".snapshot", ".snapshots", ".zfs"}, name)
}

func isConfig(name string) bool {
	return slices.Contains([]string{".conf", ".crt", ".key", ".pem", ".crl"}, path.Ext(name))
}

// tablespaces notes the links that a user made for tablespaces.
func (in *inspection) tablespaces(dir string, again bool) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		at := filepath.Join(dir, e.Name())
		oid, ok := parseOID(e.Name())
		if !ok || e.Type() != fs.ModeSymlink {
			if again {
				continue
			}
			return fault.TargetInUse.Errorf("%s isn't the link of a tablespace: restore to an empty directory, or move it away", at)
		}
		to, err := os.Readlink(at)
		if err != nil {
			return err
		}
		if info, err := os.Stat(at); err != nil || !info.IsDir() || !filepath.IsAbs(to) {
			return fault.TargetInUse.Errorf("link %s doesn't lead to a directory: it points to %s", at, to)
		}
		in.links[oid] = filepath.Clean(to)
	}
	return nil
}

// checkEmpty refuses a directory that holds anything; empty folders of the names
// given, and what file systems put there, don't count.
func checkEmpty(dir string, folders ...string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if isBystander(e.Name()) {
			continue
		}
		if !slices.Contains(folders, e.Name()) || !e.IsDir() {
			return fault.TargetInUse.Errorf("%s isn't empty: it holds %s", dir, e.Name())
		}
		if err := checkEmpty(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// begin makes the directories and the marker. From then on Dir is an unfinished
// fetch.
func (f *fetcher) begin() error {
	if err := makeDirectory(f.dir); err != nil {
		return err
	}
	folder := filepath.Join(f.dir, markerDir)
	if err := os.Mkdir(folder, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	lock, err := os.OpenFile(filepath.Join(folder, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = lock.Close() // nothing was written
		return fmt.Errorf("another backup-fetch is at work there, or its file system has no locks: %w", err)
	}
	f.lock = lock
	if err := f.checkUnchanged(); err != nil {
		return err
	}
	if err := f.mark(folder); err != nil {
		return err
	}
	if err := f.openSites(); err != nil {
		return err
	}
	return f.removeControl()
}

// checkUnchanged makes sure that what was planned with is still so: another fetch may
// have ended since, or begun.
func (f *fetcher) checkUnchanged() error {
	m, err := readMarker(f.dir)
	if err != nil {
		return err
	}
	if (m == nil) != (f.marker == nil) {
		if m == nil {
			f.abandon()
		}
		return fault.Busy.Errorf("another backup-fetch was at work in %s: look at what it left, and run the command again", f.dir)
	}
	if m != nil {
		return m.check(f.dir, f.cfg.Backup.Name)
	}
	if _, err = inspect(f.dir, false); err != nil {
		f.abandon()
	}
	return err
}

// abandon removes the folder that begin made when nothing is marked as unfinished. It
// is for tidiness; errors leave an empty folder that the next fetch accepts.
func (f *fetcher) abandon() { _ = os.RemoveAll(filepath.Join(f.dir, markerDir)) }

// mark writes the marker, also when there are fewer files left to keep than the one of
// an earlier try has: what comes in their places is the backup's.
func (f *fetcher) mark(folder string) error {
	m := f.marker
	kept := slices.Sorted(maps.Keys(f.found.kept))
	if m != nil && slices.Equal(m.Kept, kept) {
		return nil
	}
	if m == nil {
		m = &marker{Version: 1, Backup: f.cfg.Backup.Name.String(), Begun: f.cfg.Now().UTC(), Spaces: make(map[uint32]string), WALDir: f.report.WALDir}
		for _, s := range f.spaces {
			m.Spaces[s.oid] = s.dir
		}
	}
	m.Kept = kept
	return errors.Join(m.write(folder), syncDirectory(f.dir))
}

// removeControl removes the pg_control of an earlier try that was killed at its very
// end: with it a server would start on what this one is about to write anew.
func (f *fetcher) removeControl() error {
	if f.marker == nil {
		return nil
	}
	err := f.sites[0].root.Remove(controlPath)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return syncDirectory(filepath.Join(f.dir, "global"))
}

// makeDirectory makes a directory and its parents, those for all to read, and
// makes them durable.
func makeDirectory(dir string) error {
	if _, err := os.Lstat(dir); err == nil {
		return nil
	}
	parent := filepath.Dir(dir)
	if _, err := os.Lstat(parent); errors.Is(err, fs.ErrNotExist) {
		if err := makeDirectory(parent); err != nil {
			return err
		}
		if err := os.Chmod(parent, 0o755); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	return syncDirectory(parent)
}

func writeDurably(name string, data []byte, mode fs.FileMode) error {
	w, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	_, err = w.Write(data)
	if err == nil {
		err = w.Sync()
	}
	return errors.Join(err, w.Close())
}

func syncDirectory(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// close gives back what is open. Nothing that it closes was written to.
func (f *fetcher) close() {
	for _, s := range append(f.sites, f.wal) {
		if s != nil && s.root != nil {
			_ = s.root.Close()
		}
	}
	if f.lock != nil {
		_ = syscall.Flock(int(f.lock.Fd()), syscall.LOCK_UN)
		_ = f.lock.Close()
	}
}
