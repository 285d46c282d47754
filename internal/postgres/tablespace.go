package postgres

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"wal-e/internal/fault"
)

// TablespaceDir returns the folder that servers of that release use within a
// tablespace (TABLESPACE_VERSION_DIRECTORY), "PG_15_202209061".
func TablespaceDir(v Version, catalogVersion uint32) string {
	return fmt.Sprintf("PG_%s_%d", v.Major(), catalogVersion)
}

// CheckTablespace returns nil if the tablespace that a link in pg_tblspc leads to is
// there: it has this server's folder, see TablespaceDir, from the beginning. Without
// that its file system isn't mounted, and a backup would lack its data.
//
// DROP TABLESPACE removes the folder, and then the link. So unless the server is
// stopped a link gets two seconds to go; when it has gone the error wraps
// fs.ErrNotExist.
func CheckTablespace(link, folder string, stopped bool) error {
	const (
		tries = 20
		pause = 100 * time.Millisecond
	)
	for try := 0; ; try++ {
		info, err := os.Stat(filepath.Join(link, folder))
		switch {
		case err == nil && info.IsDir():
			return nil
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return err
		}
		to, err := os.Readlink(link)
		if err != nil {
			return err
		}
		if stopped || try == tries {
			return fault.Unstorable.Errorf("tablespace %s leads to %s, and there is no %s: is its file system mounted? If there is no such tablespace any more, remove the link", link, to, folder)
		}
		time.Sleep(pause)
	}
}
