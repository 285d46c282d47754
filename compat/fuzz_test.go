package compat_test

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"

	"wal-e/compat"
	"wal-e/compat/lzop"
)

// Whatever tar archive a partition holds, nothing is written outside of the
// directory, and Verify finds nothing good of which Fetch makes no cluster.
func FuzzPartition(f *testing.F) {
	for _, members := range [][]*tar.Header{
		cluster(), cluster(link("base/x", "/tmp"), file("base/x/y", "z")), cluster(hardLink("x", "PG_VERSION")),
		{file("x", "y")}, cluster(file("pg_tblspc/1/PG_13_202007201/1", "x"), file("tablespace_map", "1 /x\n")),
	} {
		for _, format := range []tar.Format{tar.FormatGNU, tar.FormatPAX} {
			plain, err := io.ReadAll(lzop.NewReader(bytes.NewReader(partition(f, format, members...)), 1))
			if err != nil {
				f.Fatal(err)
			}
			f.Add(plain)
		}
	}
	f.Fuzz(func(t *testing.T, plain []byte) {
		a := newClassic(t)
		a.put(t, a.name.Partition(0), packed(t, plain))
		a.sentinel(t, 1)
		parent := t.TempDir()
		dir := filepath.Join(parent, "data")
		_, err := a.fetch(t, compat.FetchConfig{Dir: dir, BlindRestore: true})
		if entries, _ := os.ReadDir(parent); len(entries) > 1 {
			t.Errorf("beside the directory is %v", entries)
		}
		if _, serr := os.Lstat(filepath.Join(dir, "global/pg_control")); (serr == nil) != (err == nil) {
			t.Errorf("Fetch = %v, pg_control: %v", err, serr)
		}
		v, verr := compat.Verify(t.Context(), compat.VerifyConfig{Bucket: a, ReadData: true}, compat.Backup{Name: a.name})
		if verr != nil || err == nil && !v.OK {
			t.Errorf("Fetch = %v, Verify = %+v, %v", err, v, verr)
		}
		_ = os.Chmod(parent, 0o700) // members have modes of their own
	})
}
