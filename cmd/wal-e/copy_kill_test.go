package main_test

import (
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"wal-e/internal/pgtest"
)

// A copy is killed at any moment, the destination is collected in between, and
// the next one goes on. In the end all is there, and nothing else.
func TestCopyKilled(t *testing.T) {
	t.Parallel()
	a, b := newArchive(t), newArchive(t)
	c := a.start(t, pgtest.Options{SegmentSizeMB: 1})
	for range 3 {
		a.push(t, c, "--memory", "100000000", "--fresh")
	}
	c.Stop(t, pgtest.Fast)
	to := []string{"copy", "--wal", "--to", "file://localhost" + b.prefix}
	killed := 0
	for delay := 10 * time.Millisecond; delay < 200*time.Millisecond; delay += 10 * time.Millisecond {
		cmd := a.command(t, nil, to...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		select {
		case <-ended:
		case <-time.After(delay): // not a measure: any moment will do
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			<-ended
			killed++
		}
		if _, err := os.Stat(b.prefix); err == nil {
			b.must(t, nil, "gc")
		}
	}
	got := a.copyTo(t, to[1:]...)
	if len(got.Backups) != 3 {
		t.Errorf("copied %+v", got)
	}
	for _, n := range got.Backups {
		if n.Copy == "" {
			t.Errorf("%s wasn't copied: %s", n.Backup, n.State)
		}
	}
	b.verified(t, nil)
	b.must(t, nil, "gc")
	if have, want := filesUnder(t, b.prefix, "chunks_006/packs"), filesUnder(t, a.prefix, "chunks_006/packs"); !slices.Equal(have, want) {
		t.Errorf("packs of the copy: %q, want %q", have, want)
	}
	if left := filesUnder(t, b.prefix, "basebackups_006"); len(left) != 6 {
		t.Errorf("objects of runs that are left: %q", left)
	}
	t.Logf("%d were killed", killed)
}

// filesUnder lists the objects of a folder of an archive: no temporary files,
// which file storage removes later.
func filesUnder(t *testing.T, prefix, folder string) []string {
	t.Helper()
	var files []string
	err := fs.WalkDir(os.DirFS(prefix), folder, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && !strings.HasPrefix(d.Name(), ".") {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}
