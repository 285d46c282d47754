package pgtest

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
)

// Standby makes a standby of a running cluster that streams from it through a
// replication slot of its own, and waits until it accepts queries. o.Conf goes
// to the end of its postgresql.conf; what else makes a cluster is the primary's.
// It has the primary's archive_command too, which acts once it is promoted.
func (c *Cluster) Standby(t testing.TB, o Options) *Cluster {
	t.Helper()
	s := newCluster(t, c.Major, "", o)
	slot := "standby_" + filepath.Base(s.home)
	c.Exec(t, fmt.Sprintf("SELECT pg_create_physical_replication_slot('%s', true)", slot))
	s.copyFrom(t, c)
	s.configure(t, o.settings())
	s.appendSettings(t, "postgresql.auto.conf", map[string]string{
		"primary_conninfo":  fmt.Sprintf("host=%s port=%d user=postgres", c.home, c.Port),
		"primary_slot_name": slot,
	})
	s.write(t, "standby.signal", "")
	if err := s.start(t); err != nil {
		t.Fatal(err)
	}
	s.WaitCaughtUp(t, c)
	return s
}

// WaitCaughtUp waits until a standby has replayed all that primary has written so far.
func (c *Cluster) WaitCaughtUp(t testing.TB, primary *Cluster) {
	t.Helper()
	lsn := primary.Query(t, "SELECT pg_current_wal_lsn()")
	c.WaitFor(t, fmt.Sprintf("SELECT pg_last_wal_replay_lsn() >= '%s'", lsn), "t")
}

// copyFrom fills the empty cluster s with a low-level base backup of the running c.
func (s *Cluster) copyFrom(t testing.TB, c *Cluster) {
	t.Helper()
	conn, err := pgconn.Connect(t.Context(), c.DSN())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	ask := func(sql string) string {
		rows, err := queryOn(t.Context(), conn, sql)
		if err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
		return rows
	}
	start, stop := "pg_backup_start('pgtest', true)", "pg_backup_stop(false)"
	if c.Major < 15 {
		start, stop = "pg_start_backup('pgtest', true, false)", "pg_stop_backup(false, false)"
	}
	ask("SELECT " + start)
	err = copyTree(c.Dir, s.Dir, func(rel string) bool {
		dir, _ := filepath.Split(rel)
		return rel == "postmaster.pid" || rel == "postmaster.opts" ||
			dir == "pg_tblspc/" || dir == "pg_replslot/" || strings.HasPrefix(dir, "pg_wal/") && rel != "pg_wal/archive_status"
	})
	if err != nil {
		t.Fatal(err)
	}
	tablespaceMap := s.copyTablespaces(t, ask("SELECT oid, pg_tablespace_location(oid) FROM pg_tablespace WHERE oid >= 16384"))
	label := ask("SELECT labelfile FROM " + stop)
	s.write(t, "backup_label", label)
	if tablespaceMap != "" {
		s.write(t, "tablespace_map", tablespaceMap)
	}
}

// copyTablespaces copies "oid|location" rows to folders of s and returns the
// tablespace_map that leads there.
func (s *Cluster) copyTablespaces(t testing.TB, rows string) string {
	t.Helper()
	var m strings.Builder
	for row := range strings.Lines(rows) {
		oid, from, ok := strings.Cut(strings.TrimSuffix(row, "\n"), "|")
		if !ok || from == "" {
			continue
		}
		to := filepath.Join(s.home, "tablespaces", oid)
		s.mkdir(t, filepath.Dir(to))
		CopyDir(t, from, to)
		fmt.Fprintf(&m, "%s %s\n", oid, to)
	}
	return m.String()
}

// write writes a file of the data directory, as the server's user has it.
func (c *Cluster) write(t testing.TB, name, content string) {
	t.Helper()
	path := filepath.Join(c.Dir, name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := chown(path); err != nil {
		t.Fatal(err)
	}
}

// CopyDir copies a tree to dst, which must not exist; its parent must. The copy
// has the modes of the original and belongs to the user that servers run as.
// Links stay links. Files may vanish while it runs, as those of a server do.
func CopyDir(t testing.TB, src, dst string) {
	t.Helper()
	if err := copyTree(src, dst, func(string) bool { return false }); err != nil {
		t.Fatal(err)
	}
}

// copyTree leaves out what skip says, by path relative to src.
func copyTree(src, dst string, skip func(rel string) bool) error {
	return filepath.WalkDir(src, func(path string, d fs.DirEntry, err error) error {
		if err == nil {
			var rel string
			if rel, err = filepath.Rel(src, path); err != nil {
				return err
			}
			if skip(rel) {
				if d.IsDir() {
					return fs.SkipDir
				}
				return nil
			}
			err = copyEntry(path, filepath.Join(dst, rel), d)
		}
		if errors.Is(err, fs.ErrNotExist) && path != src {
			return nil // vanished
		}
		return err
	})
}

func copyEntry(from, to string, d fs.DirEntry) error {
	info, err := d.Info()
	if err != nil {
		return err
	}
	switch {
	case d.IsDir():
		err = os.Mkdir(to, info.Mode().Perm())
	case info.Mode()&fs.ModeSymlink != 0:
		var target string
		if target, err = os.Readlink(from); err == nil {
			err = os.Symlink(target, to)
		}
	case info.Mode().IsRegular():
		err = copyFile(from, to, info.Mode().Perm())
	default: // a socket
		return nil
	}
	if err != nil {
		return err
	}
	return chown(to)
}

func copyFile(from, to string, mode fs.FileMode) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

func chown(path string) error {
	a, err := unprivileged()
	if err != nil {
		return err
	}
	return os.Lchown(path, a.uid, a.gid)
}
