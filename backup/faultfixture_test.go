package backup_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"wal-e/backup"
	"wal-e/chunkstore"
	"wal-e/internal/pgtest"
	"wal-e/internal/storage"
	"wal-e/internal/storage/mem"
)

// noWAL is the MissingWAL of offline backups, which need no archive.
func noWAL(context.Context, string, []string) ([]string, error) {
	return nil, errors.New("an offline backup asked for WAL")
}

// stoppedCluster makes a small cluster, with a table, and stops it. Page
// checksums are as told.
func stoppedCluster(t *testing.T, checksums bool) *pgtest.Cluster {
	t.Helper()
	c := pgtest.Start(t, pgtest.Options{SegmentSizeMB: 1, DataChecksums: checksums})
	c.Exec(t, "CREATE TABLE plain AS SELECT i, md5(i::text) AS v FROM generate_series(1, 3000) i")
	c.Exec(t, "UPDATE pg_database SET datistemplate = false")
	c.Exec(t, "DROP DATABASE template0")
	c.Exec(t, "DROP DATABASE template1")
	c.Stop(t, pgtest.Fast)
	return c
}

// addNoise adds a relation of size bytes that don't compress, which PostgreSQL
// doesn't know and leaves alone. The same seed gives the same bytes.
func addNoise(t *testing.T, dir, filenode string, seed uint64, size int) {
	t.Helper()
	var key [32]byte
	key[0] = byte(seed)
	b := make([]byte, size)
	if _, err := rand.NewChaCha8(key).Read(b); err != nil {
		t.Fatal(err)
	}
	putFile(t, dir, filepath.Join("base/5", filenode), b)
}

// putFile writes a file of a data directory, owned as the directory is.
func putFile(t *testing.T, dir, name string, b []byte) {
	t.Helper()
	name = filepath.Join(dir, name)
	check(t, os.WriteFile(name, b, 0o600))
	info, err := os.Stat(dir)
	check(t, err)
	owner := info.Sys().(*syscall.Stat_t)
	check(t, os.Chown(name, int(owner.Uid), int(owner.Gid)))
}

// copyOf copies a stopped cluster's directory.
func copyOf(t *testing.T, dir string) string {
	t.Helper()
	to := filepath.Join(pgtest.TempDir(t), "copy")
	pgtest.CopyDir(t, dir, to)
	return to
}

// offlinePush pushes a stopped cluster. state is the folder of local state; ""
// means none.
func offlinePush(t *testing.T, b storage.Bucket, dir, state string, change func(*backup.PushConfig)) (*backup.PushResult, error) {
	t.Helper()
	cfg := backup.PushConfig{Bucket: b, Dir: dir, Offline: true, MissingWAL: noWAL, Host: "db1"}
	if state != "" {
		cfg.StateDir = func(string, string) (string, error) { return state, nil }
	}
	if change != nil {
		change(&cfg)
	}
	return backup.Push(t.Context(), cfg)
}

// mustPush is offlinePush that works.
func mustPush(t *testing.T, b storage.Bucket, dir, state string) *backup.PushResult {
	t.Helper()
	r, err := offlinePush(t, b, dir, state, nil)
	if err != nil {
		t.Fatalf("Push = %v", err)
	}
	return r
}

// fetchFrom restores a backup from a bucket, which is also asked for the
// store's parameters.
func fetchFrom(t *testing.T, b storage.Bucket, from *backup.Backup, dir string) error {
	t.Helper()
	store, err := chunkstore.Open(t.Context(), b, nil)
	if err != nil {
		return err
	}
	_, err = backup.Fetch(t.Context(), backup.FetchConfig{Store: store, Backup: from, Dir: dir})
	return err
}

// find returns a backup that must be there.
func find(t *testing.T, b storage.Bucket, query string) *backup.Backup {
	t.Helper()
	found, err := backup.Find(t.Context(), backup.FindConfig{Bucket: b, Query: query})
	if err != nil {
		t.Fatalf("Find(%s) = %v", query, err)
	}
	return found
}

// valid returns the valid backups of a bucket.
func valid(t *testing.T, b storage.Bucket) map[string]bool {
	t.Helper()
	list, err := backup.List(t.Context(), b, "")
	if err != nil {
		t.Fatalf("List = %v", err)
	}
	refs := make(map[string]bool, len(list))
	for _, l := range list {
		refs[l.Name+"@"+l.Run.String()] = true
	}
	return refs
}

// verifyAll reads everything that valid backups need.
func verifyAll(t *testing.T, b storage.Bucket) {
	t.Helper()
	r, err := backup.Verify(t.Context(), backup.VerifyConfig{Bucket: b, ReadData: true})
	if err != nil {
		t.Fatalf("Verify = %v", err)
	}
	if len(r.Problems) > 0 {
		t.Errorf("Verify found %+v", r.Problems)
	}
}

// storedBytes is what packs take.
func storedBytes(t *testing.T, b storage.Bucket) int64 {
	t.Helper()
	var total int64
	for o, err := range b.List(t.Context(), "chunks_006/packs/", "") {
		check(t, err)
		total += o.Size
	}
	return total
}

// clone returns a bucket with the same objects.
func clone(t *testing.T, from *mem.Bucket) *mem.Bucket {
	t.Helper()
	to := mem.New(nil)
	for o, err := range from.List(t.Context(), "", "") {
		check(t, err)
		data, err := storage.ReadAll(t.Context(), from, o.Key, 1<<30)
		check(t, err)
		check(t, storage.CreateBytes(t.Context(), to, o.Key, data, nil))
	}
	return to
}

// emptied are the folders of which a backup has nothing but themselves.
const emptied = " pg_dynshmem pg_notify pg_replslot pg_serial pg_snapshots pg_stat_tmp pg_subtrans "

// isLeftOut tells what a backup of our stopped clusters may lack: what servers
// make anew when they start, and WAL that isn't needed for that.
func isLeftOut(p string) bool {
	folder, name := filepath.Split(p)
	folder = strings.TrimSuffix(folder, "/")
	return p == "postmaster.opts" || name == "pg_internal.init" || folder == "pg_wal" ||
		folder != "" && strings.Contains(emptied, " "+folder+" ")
}

// sameTree compares a restored directory with the cluster that was backed up,
// byte for byte.
func sameTree(t *testing.T, source, restored string) {
	t.Helper()
	compareTrees(t, source, restored, isLeftOut)
	compareTrees(t, restored, source, func(p string) bool { return p == "backup_manifest" })
}

// compareTrees checks that all in one directory but what may lack is in
// another.
func compareTrees(t *testing.T, from, to string, mayLack func(string) bool) {
	t.Helper()
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == from {
			return err
		}
		rel := strings.TrimPrefix(path, from+"/")
		there, err := os.Lstat(filepath.Join(to, rel))
		if errors.Is(err, fs.ErrNotExist) && mayLack(rel) {
			return nil
		}
		if err != nil {
			t.Errorf("%s: %v", rel, err)
			return nil
		}
		here, err := d.Info()
		if err != nil {
			return err
		}
		if there.Mode() != here.Mode() {
			t.Errorf("%s: mode %s, want %s", rel, there.Mode(), here.Mode())
		}
		if !here.Mode().IsRegular() {
			return nil
		}
		a, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		b, err := os.ReadFile(filepath.Join(to, rel))
		if err == nil && !bytes.Equal(a, b) {
			t.Errorf("%s has %d bytes, of which some differ from the %d of the other", rel, len(b), len(a))
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// startable tells whether a server would take a directory for a cluster.
func startable(dir string) bool {
	_, err := os.Lstat(filepath.Join(dir, "global", "pg_control"))
	return err == nil
}
