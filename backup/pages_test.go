package backup

import (
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"wal-e/internal/postgres"
)

const testStart = postgres.LSN(0x5000000)

// testPage returns a page of size bytes with a right checksum.
func testPage(size int, blkno uint32, lsn postgres.LSN) []byte {
	page := make([]byte, size)
	for i := range page {
		page[i] = byte(i*7 + int(blkno))
	}
	binary.LittleEndian.PutUint32(page, uint32(lsn>>32))
	binary.LittleEndian.PutUint32(page[4:], uint32(lsn))
	binary.LittleEndian.PutUint16(page[14:], 200) // pd_upper
	binary.LittleEndian.PutUint16(page[8:], postgres.PageChecksum(page, blkno))
	return page
}

func testControl(blockSize uint32) *postgres.ControlFile {
	return &postgres.ControlFile{State: postgres.InProduction, BlockSize: blockSize, BlocksPerFile: 131072, ChecksumVersion: 1}
}

// A testFile is what a check reads again from; it counts how often.
type testFile struct {
	data  []byte
	reads int
	err   error
}

func (f *testFile) reread(b []byte, offset int64) error {
	f.reads++
	clear(b)
	if offset < int64(len(f.data)) {
		copy(b, f.data[offset:])
	}
	return f.err
}

func TestPagesVerified(t *testing.T) {
	const size, first = 8192, 131072 // of the second file of a relation
	page := func(i uint32, lsn postgres.LSN) []byte { return testPage(size, first+i, lsn) }
	damaged := func(i uint32, lsn postgres.LSN) []byte {
		b := page(i, lsn)
		b[4000] ^= 1
		return b
	}
	join := func(pages ...[]byte) []byte { return slices.Concat(pages...) }
	old := testStart - 1
	for _, tt := range []struct {
		name        string
		read, again []byte // again nil: as read
		bad         []int64
		verified    int64
		reads       int
	}{
		{"whole", join(page(0, old), page(1, old), page(2, old)), nil, nil, 3, 0},
		{"new", join(page(0, old), make([]byte, size), page(2, old)), nil, nil, 3, 0},
		{"damaged", join(page(0, old), damaged(1, old), page(2, old)), nil, []int64{first + 1}, 3, 1},
		{"all damaged", join(damaged(0, old), damaged(1, old)), nil, []int64{first, first + 1}, 2, 2},
		{"changed since the start", join(damaged(0, testStart), page(1, old)), nil, nil, 2, 0},
		{"torn, then whole", join(page(0, old), damaged(1, old)), join(page(0, old), page(1, old)), nil, 2, 1},
		{"torn, then changed", join(page(0, old), damaged(1, old)), join(page(0, old), damaged(1, testStart)), nil, 2, 1},
		{"torn, then cut off", join(page(0, old), damaged(1, old)), page(0, old), nil, 2, 1},
		{"in the wrong place", join(page(1, old)), nil, []int64{first}, 1, 1},
		{"half a page at the end", join(page(0, old), damaged(1, old)[:5000]), nil, nil, 1, 0},
		{"nothing", nil, nil, nil, 0, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			v := newPageVerifier(testControl(size), testStart)
			f := &testFile{data: tt.again}
			if tt.again == nil {
				f.data = tt.read
			}
			began := time.Now()
			if err := v.check("base/5/16384.1", first)(t.Context(), tt.read, 0, f.reread); err != nil {
				t.Fatal(err)
			}
			r := v.report()
			var bad []int64
			for _, p := range r.Failures {
				bad = append(bad, p.Block)
				if p.Path != "base/5/16384.1" || p.Expected == p.Found {
					t.Errorf("%s: report has %+v", tt.name, p)
				}
			}
			if !r.Enabled || r.Verified != tt.verified || r.Failed != int64(len(tt.bad)) || !slices.Equal(bad, tt.bad) || f.reads != tt.reads {
				t.Errorf("%s: report = %+v after %d reads, want %d pages, %v bad, %d reads", tt.name, r, f.reads, tt.verified, tt.bad, tt.reads)
			}
			if waited := time.Since(began) >= rereadPause; waited != (tt.reads > 0) {
				t.Errorf("%s: waited %v before %d reads", tt.name, time.Since(began), tt.reads)
			}
		})
	}
}

// The block number goes on from extent to extent, whatever the block size, and
// an extent that begins within a block begins with its next.
func TestPagesOfExtents(t *testing.T) {
	for _, size := range []int{1024, 8192, 32768} {
		var file []byte
		for i := range uint32(64) {
			file = append(file, testPage(size, 7*131072+i, 1)...)
		}
		file[40*size+100] ^= 1
		for _, extent := range []int{32768, 65536, 40960} {
			v := newPageVerifier(testControl(uint32(size)), testStart)
			checkFile := v.check("global/1262.7", 7*131072)
			f := &testFile{data: file}
			for at := 0; at < len(file); at += extent {
				if err := checkFile(t.Context(), file[at:min(at+extent, len(file))], int64(at), f.reread); err != nil {
					t.Fatal(err)
				}
			}
			r := v.report()
			whole := extent%size == 0
			if whole && (r.Verified != 64 || r.Failed != 1 || r.Failures[0].Block != 7*131072+40) {
				t.Errorf("blocks of %d in extents of %d: report = %+v, want block 40 of 64", size, extent, r)
			}
			if !whole && (r.Verified == 0 || r.Failed > 1) {
				t.Errorf("blocks of %d in extents of %d: report = %+v", size, extent, r)
			}
		}
	}
}

// In a cluster that is shut down no page is too young to be verified.
func TestPagesOffline(t *testing.T) {
	c := testControl(8192)
	c.State = postgres.ShutDown
	v := newPageVerifier(c, testStart)
	page := testPage(8192, 0, testStart+8)
	page[5000]++
	f := &testFile{data: page}
	if err := v.check("base/5/1", 0)(t.Context(), page, 0, f.reread); err != nil || v.report().Failed != 1 {
		t.Errorf("check = %v, report = %+v, want one bad page", err, v.report())
	}
}

func TestPagesWithoutChecksums(t *testing.T) {
	c := testControl(8192)
	c.ChecksumVersion = 0
	v := newPageVerifier(c, testStart)
	if v.check("base/5/1", 0) != nil || v.report().Enabled {
		t.Errorf("a cluster without checksums is verified: %+v", v.report())
	}
}

// The report counts all bad pages and lists some; extents come from several cores.
func TestPagesReportBounded(t *testing.T) {
	v := newPageVerifier(testControl(8192), testStart)
	page := testPage(8192, 1<<31, 1)
	extent := slices.Repeat(page, 16)
	const files, extents = 8, 4
	var wg sync.WaitGroup
	for i := range files {
		checkFile := v.check("base/5/"+string(rune('1'+i)), 0)
		for n := range extents {
			wg.Go(func() {
				f := &testFile{data: slices.Repeat(page, 16*extents)}
				if err := checkFile(t.Context(), extent, int64(n*len(extent)), f.reread); err != nil {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
	r := v.report()
	if r.Verified != 16*files*extents || r.Failed != 16*files*extents || len(r.Failures) != maxBadPages {
		t.Errorf("report has %d of %d pages bad and lists %d", r.Failed, r.Verified, len(r.Failures))
	}
	sorted := slices.IsSortedFunc(r.Failures, func(a, b BadPage) int {
		if a.Path == b.Path {
			return int(a.Block - b.Block)
		}
		return int(a.Path[7]) - int(b.Path[7])
	})
	if !sorted {
		t.Errorf("bad pages aren't sorted: %v", r.Failures)
	}
	v.reset()
	if r := v.report(); !r.Enabled || r.Verified != 0 || r.Failed != 0 || r.Failures != nil {
		t.Errorf("after reset: %+v", r)
	}
}

func TestPagesRereadFails(t *testing.T) {
	v := newPageVerifier(testControl(8192), testStart)
	page := testPage(8192, 1, 1)
	f := &testFile{data: page, err: errors.New("bad sector")}
	if err := v.check("base/5/1", 0)(t.Context(), page, 0, f.reread); !errors.Is(err, f.err) {
		t.Errorf("check = %v, want %v", err, f.err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	f.err = nil
	if err := v.check("base/5/1", 0)(ctx, page, 0, f.reread); !errors.Is(err, context.Canceled) {
		t.Errorf("check = %v, want %v", err, context.Canceled)
	}
}
