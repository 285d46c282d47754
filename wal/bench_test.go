package wal_test

import (
	"encoding/binary"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"wal-e/internal/storage/mem"
	"wal-e/wal"
)

// walLike returns a segment of 16 MB that compresses as the WAL of an OLTP
// database does, to about a tenth: records with few new bytes each.
func walLike(c cluster) []byte {
	b := c.segment(3, 0)
	r := rand.New(rand.NewPCG(1, 2))
	for at := 64; at+96 <= len(b); at += 96 {
		rec := b[at : at+96]
		binary.LittleEndian.PutUint32(rec, 96)
		binary.LittleEndian.PutUint32(rec[4:], uint32(at/960))
		binary.LittleEndian.PutUint64(rec[8:], uint64(at))
		binary.LittleEndian.PutUint32(rec[20:], r.Uint32()) // a checksum
		binary.LittleEndian.PutUint32(rec[24:], uint32(16384+r.IntN(8)))
		binary.LittleEndian.PutUint16(rec[32:], uint16(r.IntN(1<<14)))
	}
	return b
}

func benchCluster(b *testing.B) (c cluster, name, path string) {
	c = newCluster(b)
	c.segSize = 16 * mb
	name = c.name(1, 3)
	b.SetBytes(int64(c.segSize))
	b.ReportAllocs()
	return c, name, c.write(b, name, walLike(c))
}

func BenchmarkPush(b *testing.B) {
	c, _, path := benchCluster(b)
	var stored int64
	for b.Loop() {
		stored = mustPush(b, c.config(mem.New(nil)), path).Stored
	}
	b.ReportMetric(float64(stored), "stored")
}

// BenchmarkFetch fsyncs for each segment, like the command.
func BenchmarkFetch(b *testing.B) {
	c, name, path := benchCluster(b)
	cfg := c.config(mem.New(nil))
	mustPush(b, cfg, path)
	dest := filepath.Join(b.TempDir(), "RECOVERYXLOG")
	for b.Loop() {
		if _, err := wal.Fetch(b.Context(), cfg, name, dest); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerify(b *testing.B) {
	c, name, path := benchCluster(b)
	cfg := c.config(mem.New(nil))
	mustPush(b, cfg, path)
	for b.Loop() {
		if _, err := wal.Verify(b.Context(), cfg.Bucket, c.system, name); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkPushHistory(b *testing.B) {
	c := newCluster(b)
	path := c.write(b, "00000002.history", []byte("1\t0/A373778\tno recovery target specified\n"))
	b.ReportAllocs()
	for b.Loop() {
		mustPush(b, c.config(mem.New(nil)), path)
	}
}
