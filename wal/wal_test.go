package wal_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"wal-e/internal/postgres"
	"wal-e/internal/storage"
	"wal-e/internal/storage/mem"
	"wal-e/wal"
)

const mb = 1 << 20

// A cluster is a data directory as far as WAL commands see it.
type cluster struct {
	dir     string
	system  postgres.SystemID
	segSize postgres.SegmentSize
}

// newCluster makes one of PostgreSQL 15 with segments of 1 MB.
func newCluster(t testing.TB) cluster {
	t.Helper()
	return clusterOf(t, 15)
}

// clusterOf makes one with the pg_control, and so with the system identifier, of
// another release's cluster.
func clusterOf(t testing.TB, major int) cluster {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("../internal/postgres/testdata/pg_control.%d", major))
	if err != nil {
		t.Fatal(err)
	}
	control, err := postgres.ParseControlFile(b)
	if err != nil {
		t.Fatal(err)
	}
	c := cluster{t.TempDir(), control.SystemID, 1 * mb}
	for _, dir := range []string{"global", "pg_wal"} {
		if err := os.Mkdir(filepath.Join(c.dir, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	writeFile(t, filepath.Join(c.dir, "global/pg_control"), b)
	return c
}

// segment returns the bytes of segment number no, of which a part is random and
// the rest zeros.
func (c cluster) segment(no uint64, random int) []byte {
	b := make([]byte, c.segSize)
	fillSegment(b, c, 1, no)
	r := rand.NewChaCha8([32]byte{byte(no)})
	_, _ = r.Read(b[postgres.WALHeaderSize : postgres.WALHeaderSize+random])
	return b
}

func fillSegment(b []byte, c cluster, tl postgres.Timeline, no uint64) {
	binary.LittleEndian.PutUint16(b, 0xD110)
	binary.LittleEndian.PutUint16(b[2:], 2)
	binary.LittleEndian.PutUint32(b[4:], uint32(tl))
	binary.LittleEndian.PutUint64(b[8:], no*uint64(c.segSize))
	binary.LittleEndian.PutUint64(b[24:], uint64(c.system))
	binary.LittleEndian.PutUint32(b[32:], uint32(c.segSize))
	binary.LittleEndian.PutUint32(b[36:], 8192)
}

func (c cluster) name(tl postgres.Timeline, no uint64) string {
	return postgres.Segment{Timeline: tl, No: no}.Name(c.segSize)
}

// write puts a file into pg_wal and returns its path.
func (c cluster) write(t testing.TB, name string, b []byte) string {
	t.Helper()
	path := filepath.Join(c.dir, "pg_wal", name)
	writeFile(t, path, b)
	return path
}

func (c cluster) config(b storage.Bucket) wal.Config {
	return wal.Config{Bucket: b, WorkDir: c.dir}
}

func writeFile(t testing.TB, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func readFile(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func mustPush(t testing.TB, cfg wal.Config, path string) wal.Pushed {
	t.Helper()
	p, err := wal.Push(t.Context(), cfg, path)
	if err != nil {
		t.Fatalf("Push(%s) = %v", path, err)
	}
	return p
}

// mustFetch fetches name and compares.
func mustFetch(t testing.TB, cfg wal.Config, name string, want []byte) {
	t.Helper()
	dest := filepath.Join(t.TempDir(), "RECOVERYXLOG")
	if _, err := wal.Fetch(t.Context(), cfg, name, dest); err != nil {
		t.Fatalf("Fetch(%s) = %v", name, err)
	}
	if got := readFile(t, dest); !bytes.Equal(got, want) {
		t.Fatalf("Fetch(%s) gave %d bytes other than the %d pushed", name, len(got), len(want))
	}
	assertNames(t, filepath.Dir(dest), "RECOVERYXLOG")
}

// assertNames checks that a folder holds these files and nothing else.
func assertNames(t testing.TB, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%s holds %v, want %v", dir, got, want)
	}
}

func readObject(t testing.TB, b storage.Bucket, key string) []byte {
	t.Helper()
	data, err := storage.ReadAll(t.Context(), b, key, 64*mb)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// bucketWith returns a bucket that holds one object.
func bucketWith(t testing.TB, key string, data []byte) storage.Bucket {
	t.Helper()
	b := mem.New(nil)
	if err := storage.CreateBytes(context.Background(), b, key, data, nil); err != nil {
		t.Fatal(err)
	}
	return b
}
