package bench_test

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"wal-e/backup"
	"wal-e/chunkstore"
	"wal-e/internal/chunk"
	"wal-e/internal/storage"
	"wal-e/internal/storage/file"
	"wal-e/internal/storage/mem"
)

// heapPages are pages as pgbench fills them: a row of numbers and 84 blanks, 60 times,
// and a hole.
func heapPages(n int) []byte {
	data := make([]byte, n*chunk.PageSize)
	row := 0
	for p := range n {
		page := data[p*chunk.PageSize : (p+1)*chunk.PageSize]
		copy(page, fmt.Sprintf("%08x%08x", p*8191, p))
		at := len(page)
		for at > 1300 {
			row++
			at -= 120
			copy(page[at:], fmt.Sprintf("%08d%08d%010d%84s", row, row/100000, row*7919%1000003, ""))
		}
	}
	return data
}

// A stage is a store with what was pushed into it.
type stage struct {
	b     *testing.B
	store *chunkstore.Store
	runs  int
}

func newStage(b *testing.B, bucket storage.Bucket) *stage {
	b.Helper()
	prefix, err := chunkstore.Admit(b.Context(), bucket, 7300000000000000001, true)
	if err != nil {
		b.Fatal(err)
	}
	store, err := chunkstore.New(bucket, prefix, nil)
	if err != nil {
		b.Fatal(err)
	}
	return &stage{b: b, store: store}
}

// push stores data after what is known of it.
func (s *stage) push(data []byte, known []chunkstore.Known) ([]chunkstore.Known, *chunkstore.Footprint) {
	s.b.Helper()
	s.runs++
	name := backup.Name(1, scaleStart(s.runs), segmentSize)
	table, err := s.store.OpenTable(s.b.TempDir() + "/table")
	if err != nil {
		s.b.Fatal(err)
	}
	intent := chunkstore.Intent{Host: "db1", HostID: "1", PID: 1, Begun: time.Now(), System: system, Start: scaleStart(s.runs).String()}
	p, err := s.store.Begin(s.b.Context(), chunkstore.PushConfig{Name: name, Intent: intent, Table: table})
	if err != nil {
		s.b.Fatal(err)
	}
	w, err := p.NewWriter()
	if err != nil {
		s.b.Fatal(err)
	}
	var next []chunkstore.Known
	for i := 0; len(data) > 0; i++ {
		var before chunkstore.Known
		if known != nil {
			before = known[i]
		}
		n := min(s.store.ExtentSize(), len(data))
		k, err := w.ExtentAfter(data[:n], before)
		if err != nil {
			s.b.Fatal(err)
		}
		next, data = append(next, k), data[n:]
	}
	if err := p.Commit(s.b.Context(), struct{}{}); err != nil {
		s.b.Fatal(err)
	}
	if err := table.Close(); err != nil {
		s.b.Fatal(err)
	}
	f := p.Footprint()
	return next, &f
}

// BenchmarkStage measures stages on one core, in bytes of a cluster per second: zstd as
// push uses it, by itself (Compress), all that push does with bytes that are new (New), that
// are as they were (Same), and of which one page in a hundred changed (Sparse), reading
// them back (Read), each in memory; and making a pack durable in a directory (Write).
func BenchmarkStage(b *testing.B) {
	data := heapPages(4096)
	size := int64(len(data))
	b.Run("Compress", func(b *testing.B) {
		enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
		if err != nil {
			b.Fatal(err)
		}
		b.SetBytes(size)
		var dst []byte
		for b.Loop() {
			for at := 0; at < len(data); at += 256 << 10 {
				dst = enc.EncodeAll(data[at:min(at+256<<10, len(data))], dst[:0])
			}
		}
	})
	b.Run("New", func(b *testing.B) {
		b.SetBytes(size)
		for b.Loop() {
			newStage(b, mem.New(time.Now)).push(data, nil)
		}
	})
	b.Run("Same", func(b *testing.B) {
		s := newStage(b, mem.New(time.Now))
		known, _ := s.push(data, nil)
		b.SetBytes(size)
		for b.Loop() {
			s.push(data, known)
		}
	})
	b.Run("Sparse", func(b *testing.B) {
		s := newStage(b, mem.New(time.Now))
		known, _ := s.push(data, nil)
		changed := bytes.Clone(data)
		round := 0
		b.SetBytes(size)
		for b.Loop() {
			round++
			for p := 0; p < len(changed)/chunk.PageSize; p += 100 {
				copy(changed[p*chunk.PageSize+8000:], fmt.Sprintf("%016x", round*7919+p))
			}
			s.push(changed, known)
		}
	})
	b.Run("Read", func(b *testing.B) {
		s := newStage(b, mem.New(time.Now))
		known, footprint := s.push(data, nil)
		dst := make([]byte, s.store.ExtentSize())
		b.SetBytes(size)
		for b.Loop() {
			table, err := s.store.OpenTable(b.TempDir() + "/table")
			if err != nil {
				b.Fatal(err)
			}
			r, err := s.store.NewReader(b.Context(), footprint, table)
			if err != nil {
				b.Fatal(err)
			}
			for i, k := range known {
				at := i * s.store.ExtentSize()
				part := dst[:min(len(dst), len(data)-at)]
				if err := r.Extent(b.Context(), k.List, part); err != nil {
					b.Fatal(err)
				}
				if !bytes.Equal(part, data[at:at+len(part)]) {
					b.Fatalf("extent %d is another one", i)
				}
			}
			if err := table.Close(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Write", func(b *testing.B) {
		bucket, err := file.Open(b.TempDir())
		if err != nil {
			b.Fatal(err)
		}
		b.SetBytes(size)
		n := 0
		for b.Loop() {
			n++
			if err := bucket.Create(b.Context(), fmt.Sprintf("pack/%d", n), bytes.NewReader(data), size, nil); err != nil {
				b.Fatal(err)
			}
		}
	})
}
