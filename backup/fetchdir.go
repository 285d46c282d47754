package backup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"wal-e/internal/fault"
)

// An inspection is what a directory holds that a backup is to be restored to.
type inspection struct {
	exists bool
	kept   []string          // configuration and the like that stays, relative
	links  map[uint32]string // of pg_tblspc
	// Of a cluster: tablespaces that are plain directories in pg_tblspc, and the
	// fingerprint of pg_control.
	inPlace map[uint32]bool
	control string
	crashed bool   // of a cluster: it wrote WAL and wasn't shut down
	wal     string // name of the WAL folder or link that is there
	toWAL   string // where that link points; "" when it is a folder
}

// inspect looks at a directory and refuses it unless a restore can't destroy
// anything there and nothing there can spoil the cluster.
func inspect(dir string) (*inspection, error) {
	in := &inspection{links: make(map[uint32]string)}
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
		switch name := e.Name(); name {
		case "PG_VERSION", "global", "base":
			return nil, fault.TargetInUse.Errorf("%s holds a cluster already (%s): restore to an empty directory, move the old one away, or turn it into the backup with --delta", dir, name)
		case markerDir: // of a try that had not begun to write
		case "pg_tblspc":
			err = in.tablespaces(dir)
		case "pg_wal", "pg_xlog":
			err = in.walFolder(dir, name)
		default:
			var ok bool
			if ok, err = in.keep(dir, e); err == nil && !ok {
				strange = append(strange, name)
			}
		}
		if err != nil {
			return nil, err
		}
	}
	if len(strange) > 0 {
		return nil, fault.TargetInUse.Errorf("%s isn't empty: it holds %s. Only configuration files, links in pg_tblspc, an empty pg_wal and lost+found may be there: "+
			"restore to another directory, or move these away", dir, shorten(strange))
	}
	return in, nil
}

// shorten joins the first of many names.
func shorten(names []string) string {
	const most = 5
	if len(names) > most {
		return strings.Join(names[:most], ", ") + fmt.Sprintf(" and %d more", len(names)-most)
	}
	return strings.Join(names, ", ")
}

// isBystander tells whether a name belongs to the file system or to the server's
// log, not to the cluster.
func isBystander(name string) bool {
	return slices.Contains([]string{"lost+found", ".snapshot", ".snapshots", ".zfs"}, name)
}

// keep notes an entry that may stay. Logs are for people, the rest configures.
func (in *inspection) keep(dir string, e fs.DirEntry) (bool, error) {
	name := e.Name()
	if isBystander(name) {
		return true, nil
	}
	folder := name == "log" || name == "pg_log" || strings.HasSuffix(name, ".d")
	file := slices.Contains([]string{".conf", ".crt", ".key", ".pem", ".crl"}, path.Ext(name))
	switch {
	case file && (e.Type().IsRegular() || e.Type() == fs.ModeSymlink), folder && e.Type() == fs.ModeSymlink:
		in.kept = append(in.kept, name)
		return true, nil
	case !folder || !e.IsDir():
		return false, nil
	}
	err := filepath.WalkDir(filepath.Join(dir, name), func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			var rel string
			if rel, err = filepath.Rel(dir, p); err == nil {
				in.kept = append(in.kept, rel)
			}
		}
		return err
	})
	return true, err
}

// tablespaces notes the links that a user made for tablespaces.
func (in *inspection) tablespaces(dir string) error {
	dir = filepath.Join(dir, "pg_tblspc")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		oid, err := strconv.ParseUint(e.Name(), 10, 32)
		at := filepath.Join(dir, e.Name())
		if err != nil || e.Type() != fs.ModeSymlink {
			return fault.TargetInUse.Errorf("%s isn't the link of a tablespace: restore to an empty directory, or move it away", at)
		}
		if err := in.tablespaceLink(uint32(oid), at); err != nil {
			return err
		}
	}
	return nil
}

func (in *inspection) tablespaceLink(oid uint32, at string) error {
	to, err := leadsTo(at)
	in.links[oid] = to
	return err
}

// leadsTo returns where a link to a directory points.
func leadsTo(at string) (string, error) {
	to, err := os.Readlink(at)
	if err != nil {
		return "", err
	}
	if info, err := os.Stat(at); err != nil || !info.IsDir() || !filepath.IsAbs(to) {
		return "", fault.TargetInUse.Errorf("link %s doesn't lead to a directory: it points to %s", at, to)
	}
	return to, nil
}

// walFolder accepts an empty folder or a link to one.
func (in *inspection) walFolder(dir, name string) error {
	at := filepath.Join(dir, name)
	info, err := os.Lstat(at)
	if err != nil {
		return err
	}
	in.wal = name
	if info.Mode().Type() == fs.ModeSymlink {
		if in.toWAL, err = leadsTo(at); err != nil {
			return err
		}
	}
	return checkEmpty(at, "archive_status", "summaries")
}

// checkEmpty refuses a directory that holds anything; empty folders of the
// names given, and what file systems put there, don't count.
func checkEmpty(dir string, folders ...string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var names []string
	for _, e := range entries {
		if isBystander(e.Name()) || slices.Contains(folders, e.Name()) && checkEmpty(filepath.Join(dir, e.Name())) == nil {
			continue
		}
		names = append(names, e.Name())
	}
	if len(names) > 0 {
		return fault.TargetInUse.Errorf("%s isn't empty: it holds %s", dir, shorten(names))
	}
	return nil
}

// checkNoServer refuses a directory on which a server may run.
func checkNoServer(dir string) error {
	_, err := os.Lstat(filepath.Join(dir, "postmaster.pid"))
	if err == nil {
		return fault.Running.Errorf("attempting to overwrite a live data directory: %s has a postmaster.pid; stop the server, or restore to another directory", dir)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
