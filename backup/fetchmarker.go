package backup

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"wal-e/internal/fault"
)

// markerDir is the folder in a data directory that says that a fetch into it is
// unfinished. It also holds what a fetch needs for itself: a lock, the index
// table, and files that are renamed to their place once they are complete.
const markerDir = ".wal-e-fetch"

// A marker is the file fetch.json in markerDir. It is written before the first
// byte of the cluster.
type marker struct {
	Version int       `json:"version"` // 1
	Backup  string    `json:"backup"`  // NAME@RUN
	Begun   time.Time `json:"begun"`
	// Spaces and WALDir are where the data go; they can't change between
	// tries. Blind tablespaces have no directory.
	Spaces map[uint32]string `json:"tablespaces"`
	WALDir string            `json:"wal_directory,omitempty"`
	Kept   []string          `json:"kept,omitempty"` // what was in the directory before
	// Delta says that a cluster was in the directory, Control what its pg_control was.
	Delta   bool   `json:"delta,omitempty"`
	Control string `json:"pg_control_sha256,omitempty"`
	// Exact and ExactWALDir have those of the directories again that aren't UTF-8.
	Exact       map[uint32][]byte `json:"tablespaces_bytes,omitempty"`
	ExactWALDir []byte            `json:"wal_directory_bytes,omitempty"`
}

const markerVersion = 1

// readMarker returns the marker of a directory, nil when there is none.
func readMarker(dir string) (*marker, error) {
	if err := checkMarkerFolder(dir); err != nil {
		return nil, err
	}
	name := filepath.Join(dir, markerDir, "fetch.json")
	b, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	m := &marker{}
	if err := json.Unmarshal(b, m); err != nil || m.Version != markerVersion {
		return nil, fault.OtherFetch.Errorf("%s can't be read (version %d, %v): empty %s and fetch again", name, m.Version, err, dir)
	}
	for oid, to := range m.Exact {
		if _, ok := m.Spaces[oid]; ok {
			m.Spaces[oid] = string(to)
		}
	}
	m.WALDir = exact(m.WALDir, m.ExactWALDir)
	return m, nil
}

// checkMarkerFolder refuses a marker's folder that somebody else may have put
// there: a fetch as root would write through the links in it.
func checkMarkerFolder(dir string) error {
	folder := filepath.Join(dir, markerDir)
	info, err := os.Lstat(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !info.IsDir() || !ok || int(owner.Uid) != os.Geteuid() || info.Mode().Perm()&0o022 != 0 {
		return fault.OtherFetch.Errorf("%s isn't a folder of this user's that only this user can write to: remove it, or go on as the user that began the fetch", folder)
	}
	return nil
}

// check refuses to go on with another backup.
func (m *marker) check(dir string, b *Backup) error {
	if m.Backup == b.Ref.String() {
		return nil
	}
	also := ""
	for _, to := range m.Spaces {
		if to != "" {
			also += " and " + to
		}
	}
	if m.WALDir != "" {
		also += " and " + m.WALDir
	}
	return fault.OtherFetch.Errorf("%s holds an unfinished fetch of backup %s, begun at %s: fetch that one to go on with it; for %s empty %s%s first",
		dir, m.Backup, m.Begun.UTC().Format(time.RFC3339), b.Ref, dir, also)
}

// begin makes the directory and the marker's folder, and takes its lock.
func (f *fetcher) begin() error {
	if !f.found.exists {
		f.madeDir = true
		if err := makeDirectory(f.dir); err != nil {
			return err
		}
	}
	folder := filepath.Join(f.dir, markerDir)
	if err := os.Mkdir(folder, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := checkMarkerFolder(f.dir); err != nil {
		return err
	}
	lock, err := os.OpenFile(filepath.Join(folder, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = lock.Close() // nothing was written
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return fault.Busy.Errorf("another backup-fetch is at work in %s", f.dir)
		}
		return fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	f.lock = lock
	return f.checkUnchanged()
}

// checkUnchanged makes sure that what was planned with is still so: another
// fetch may have ended since, or begun.
func (f *fetcher) checkUnchanged() error {
	m, err := readMarker(f.dir)
	if err != nil {
		return err
	}
	if (m == nil) != (f.marker == nil) {
		return fault.Busy.Errorf("another backup-fetch was at work in %s: look at what it left, and run the command again", f.dir)
	}
	if m != nil {
		return m.check(f.dir, f.b)
	}
	if err := checkNoServer(f.dir); err != nil {
		return err
	}
	found, err := f.inspect()
	if err == nil && found.control != f.before {
		return fault.Busy.Errorf("the cluster in %s changed meanwhile: a server was started on it", f.dir)
	}
	return err
}

// mark writes the marker. From now on the directory is an unfinished fetch.
func (f *fetcher) mark() error {
	if f.marker != nil {
		return nil
	}
	m := marker{
		Version: markerVersion, Backup: f.b.Ref.String(), Begun: f.cfg.Now().UTC(),
		Spaces: make(map[uint32]string), WALDir: f.report.WALDir, Kept: f.report.KeptConfig, Delta: f.delta, Control: f.before,
		Exact: make(map[uint32][]byte), ExactWALDir: inexact(f.report.WALDir),
	}
	for _, s := range f.spaces {
		m.Spaces[s.OID] = s.dir
		if b := inexact(s.dir); b != nil {
			m.Exact[s.OID] = b
		}
	}
	b, err := json.MarshalIndent(m, "", " ")
	if err != nil {
		return err
	}
	name := filepath.Join(f.dir, markerDir, "fetch.json")
	if err := writeDurably(name+".tmp", append(b, '\n'), 0o600); err != nil {
		return err
	}
	if err := os.Rename(name+".tmp", name); err != nil {
		return err
	}
	if err := syncDirectory(filepath.Dir(name)); err != nil {
		return err
	}
	return syncDirectory(f.dir)
}

// abandon removes what begin made when nothing was written after it. It is for
// tidiness; errors leave an empty folder that the next fetch accepts.
func (f *fetcher) abandon() {
	if f.began || f.marker != nil || f.lock == nil {
		return
	}
	_ = os.RemoveAll(filepath.Join(f.dir, markerDir))
	if f.madeDir {
		_ = os.Remove(f.dir)
	}
}

// makeDirectory makes a directory, and its parents as others can read them, and
// makes those durable. The directory's own place is synced at the end.
func makeDirectory(dir string) error {
	if exists(dir) {
		return nil
	}
	parent := filepath.Dir(dir)
	if !exists(parent) {
		if err := makeDirectory(parent); err != nil {
			return err
		}
		if err := errors.Join(os.Chmod(parent, 0o755), syncDirectory(filepath.Dir(parent))); err != nil {
			return err
		}
	}
	return os.Mkdir(dir, 0o700)
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
