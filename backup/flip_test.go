package backup

import (
	"bytes"
	"context"
	"io"
	"strings"
	"testing"

	"wal-e/internal/postgres"
	"wal-e/internal/seal"
	"wal-e/internal/storage"
	"wal-e/internal/storage/mem"
)

// altered tells whether to alter byte i of n: of large objects the ends, where
// headers and footers are, and some between.
func altered(i, n int) bool { return i < 24 || n-i < 26 || i%(1+n/25) == 0 }

// Whatever byte of whatever object of an archive is altered: verifying everything
// notices, in the clear and encrypted. Of larger objects a part is tried.
func TestVerifyNoticesEveryByte(t *testing.T) {
	t.Parallel()
	for name, sealed := range map[string]bool{"plain": false, "encrypted": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newArchive(t)
			var find KeyFinder
			if sealed {
				keys, err := seal.New()
				if err != nil {
					t.Fatal(err)
				}
				if a.store, err = a.store.Sealed(keys); err != nil {
					t.Fatal(err)
				}
				find = func(context.Context, string, bool) (*seal.Keys, error) { return keys, nil }
			}
			a.push(t, tinyCluster())
			if err := verifyAltered(t, a.bucket, find, "", nil); err != "" {
				t.Fatalf("an archive that nobody altered: %s", err)
			}
			for o, err := range a.bucket.List(t.Context(), "", "") {
				if err != nil {
					t.Fatal(err)
				}
				t.Run(strings.ReplaceAll(o.Key, "/", " "), func(t *testing.T) {
					t.Parallel()
					whole, err := storage.ReadAll(t.Context(), a.bucket, o.Key, 1<<20)
					if err != nil {
						t.Fatal(err)
					}
					for i := range whole {
						if !altered(i, len(whole)) {
							continue
						}
						other := bytes.Clone(whole)
						other[i] ^= 1 << (i % 8)
						if verifyAltered(t, a.bucket, find, o.Key, other) == "" {
							t.Errorf("byte %d of %d was altered, and nobody noticed", i, len(whole))
						}
					}
					if verifyAltered(t, a.bucket, find, o.Key, whole[:len(whole)-1]) == "" {
						t.Errorf("the last of %d bytes was cut off, and nobody noticed", len(whole))
					}
				})
			}
		})
	}
}

// tinyCluster has a file that is small, and one of several extents of which most
// is zero.
func tinyCluster() *cluster {
	return &cluster{
		files: map[string][]byte{
			"PG_VERSION": []byte("15\n"), "base/5/1": sparse(1, 100, fetchExtent, fetchExtent+200), "postgresql.conf": []byte("max_connections = 20\n"),
		},
		links: map[string]string{}, control: random(99, 512), start: postgres.LSN(0x4000028),
	}
}

// verifyAltered verifies everything with other bytes in one object, and returns
// what it complained of.
func verifyAltered(t *testing.T, b *mem.Bucket, find KeyFinder, key string, data []byte) string {
	t.Helper()
	report, err := Verify(t.Context(), VerifyConfig{Bucket: &alteredObject{b, key, data}, ReadData: true, Keys: find, TempDir: t.TempDir()})
	if err != nil {
		return err.Error()
	}
	for _, p := range append(report.Problems, report.Warnings...) {
		return p.Object + ": " + p.Text
	}
	return ""
}

// An alteredObject is a bucket with other bytes in one object.
type alteredObject struct {
	storage.Bucket
	key  string
	data []byte
}

func (b *alteredObject) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	if key != b.key {
		return b.Bucket.Get(ctx, key, offset, length)
	}
	data := b.data[min(offset, int64(len(b.data))):]
	if length >= 0 {
		data = data[:min(length, int64(len(data)))]
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}
