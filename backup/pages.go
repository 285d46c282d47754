package backup

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"wal-e/internal/postgres"
)

const (
	// rereadPause is how long a write of a page, which made it look damaged,
	// may take to end.
	rereadPause = 100 * time.Millisecond

	// maxBadPages bounds the pages that a report lists; it counts them all.
	maxBadPages = 100
)

// A pageVerifier verifies the page checksums of what a push reads, and reports
// what it found. It is safe for concurrent use.
type pageVerifier struct {
	enabled   bool
	blockSize int64
	start     postgres.LSN

	mu     sync.Mutex
	result PageReport
	bad    map[string]bool // files with bad pages
}

// newPageVerifier returns a verifier for a cluster and the start of its backup.
// Pages changed since are not looked at, for WAL replay writes them anew; in a
// cluster that is shut down there are none.
func newPageVerifier(c *postgres.ControlFile, start postgres.LSN) *pageVerifier {
	if c.State == postgres.ShutDown || c.State == postgres.ShutDownInRecovery {
		start = postgres.MaxLSN
	}
	v := &pageVerifier{enabled: c.ChecksumVersion != 0, blockSize: int64(c.BlockSize), start: start}
	v.reset()
	return v
}

// reset forgets what was found: all is read again.
func (v *pageVerifier) reset() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.result, v.bad = PageReport{Enabled: v.enabled}, make(map[string]bool)
}

// report returns what was found so far, bad pages sorted.
func (v *pageVerifier) report() PageReport {
	v.mu.Lock()
	defer v.mu.Unlock()
	r := v.result
	r.Failures = slices.Clone(r.Failures)
	slices.SortFunc(r.Failures, func(a, b BadPage) int {
		return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.Block, b.Block))
	})
	return r
}

// check returns the check for a relation's file whose first block is first; a
// checksum depends on where in the relation a page is. It is nil in a cluster
// without checksums. A page that is not whole in the extent is passed over: at
// the end of a file, where the server is about to write the rest.
func (v *pageVerifier) check(path string, first uint32) pageCheck {
	if !v.enabled {
		return nil
	}
	return func(ctx context.Context, data []byte, offset int64, reread func(b []byte, offset int64) error) error {
		block := func(at int64) uint32 { return first + uint32(at/v.blockSize) }
		var suspects []int64 // offsets in the file
		var pages int64
		begin := (offset + v.blockSize - 1) / v.blockSize * v.blockSize
		end := offset + int64(len(data))
		for at := begin; at+v.blockSize <= end; at += v.blockSize {
			pages++
			if ok, _, _ := postgres.VerifyPage(data[at-offset:at-offset+v.blockSize], block(at), v.start); !ok {
				suspects = append(suspects, at)
			}
		}
		bad, err := v.lookAgain(ctx, suspects, block, reread)
		if err != nil {
			return fmt.Errorf("read pages again: %w", err)
		}
		v.add(path, pages, bad)
		return nil
	}
}

// lookAgain reads pages that look damaged a second time, after a pause in which
// a write that met the first read has ended, and returns those that still do.
func (v *pageVerifier) lookAgain(ctx context.Context, suspects []int64, block func(int64) uint32, reread func([]byte, int64) error) ([]BadPage, error) {
	if len(suspects) == 0 {
		return nil, nil
	}
	select {
	case <-time.After(rereadPause):
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	var bad []BadPage
	page := make([]byte, v.blockSize)
	for _, at := range suspects {
		if err := reread(page, at); err != nil {
			return nil, err
		}
		if ok, found, expected := postgres.VerifyPage(page, block(at), v.start); !ok {
			bad = append(bad, BadPage{Block: int64(block(at)), Expected: expected, Found: found})
		}
	}
	return bad, nil
}

// isBad tells whether bad pages were found in a file.
func (v *pageVerifier) isBad(path string) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.bad[path]
}

// add notes what one extent of a file had.
func (v *pageVerifier) add(path string, pages int64, bad []BadPage) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.result.Verified += pages
	v.result.Failed += int64(len(bad))
	if len(bad) > 0 {
		v.bad[path] = true
	}
	for _, b := range bad {
		if len(v.result.Failures) == maxBadPages {
			return
		}
		b.Path = path
		v.result.Failures = append(v.result.Failures, b)
	}
}
