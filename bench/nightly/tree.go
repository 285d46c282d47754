package nightly

import (
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"
)

const (
	pageSize  = 8192
	blockSize = 256 << 10 // pages compressed together
)

// Skipped tells whether a file of a stopped cluster is one that backups leave out, or
// may: PostgreSQL makes them anew.
func Skipped(path string) bool {
	base := filepath.Base(path)
	switch base {
	case "postmaster.pid", "postmaster.opts", "pg_internal.init", "backup_manifest", "backup_label", "backup_label.old", "postgresql.auto.conf", "current_logfiles":
		return true
	}
	for _, dir := range []string{"log", "pg_stat_tmp", "pg_replslot", "pg_dynshmem", "pg_notify", "pg_serial", "pg_snapshots", "pg_subtrans", "pg_wal/archive_status", "pg_wal/.wal-e"} {
		if strings.HasPrefix(path, dir+"/") {
			return true
		}
	}
	return strings.HasPrefix(base, "pgsql_tmp") || strings.HasPrefix(path, ".")
}

// Sums returns the SHA-256 of each file below dir that isn't Skipped, by its path
// relative to dir.
func Sums(dir string) (map[string][32]byte, error) {
	var mu sync.Mutex
	sums := make(map[string][32]byte)
	var g errgroup.Group
	g.SetLimit(4)
	err := eachFile(dir, func(path string) {
		g.Go(func() error {
			f, err := os.Open(filepath.Join(dir, path))
			if err != nil {
				return err
			}
			defer f.Close() // only read
			h := sha256.New()
			if _, err := io.Copy(h, f); err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			sums[path] = [32]byte(h.Sum(nil))
			return nil
		})
	})
	if werr := g.Wait(); err == nil {
		err = werr
	}
	return sums, err
}

// Compare returns an error that names a file which differs between what was backed up
// and what was restored, or is in one of them only.
func Compare(want, got map[string][32]byte) error {
	for path, sum := range want {
		switch restored, ok := got[path]; {
		case !ok:
			return fmt.Errorf("%s was not restored", path)
		case restored != sum:
			return fmt.Errorf("%s was restored as something else", path)
		}
	}
	for path := range got {
		if _, ok := want[path]; !ok {
			return fmt.Errorf("%s was restored and not backed up", path)
		}
	}
	return nil
}

func eachFile(dir string, visit func(path string)) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err == nil && !Skipped(rel) {
			visit(rel)
		}
		return err
	})
}

// Size returns how many bytes the files below dir have; 0 when there is no dir.
func Size(dir string) (bytes int64, files int, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			bytes += info.Size()
			files++
		}
		return err
	})
	if os.IsNotExist(err) {
		err = nil
	}
	return bytes, files, err
}

// A Floor is the least that a night can be stored as by a program that sees pages.
type Floor struct {
	Pages   int64 // of 8 KiB that differ from those in the same place before, or are new
	Bytes   int64 // of these pages, compressed with zstd in blocks of 256 KiB
	Changed int64 // bytes of files that differ in any page
	Total   int64 // bytes of all files
}

// ComputeFloor compares a cluster with what it was the night before, where the empty
// name stands for no night.
func ComputeFloor(before, after string) (Floor, error) {
	var floor Floor
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return floor, err
	}
	defer enc.Close()
	var pages []byte // that differ and aren't compressed yet
	flush := func() {
		floor.Bytes += int64(len(enc.EncodeAll(pages, nil)))
		pages = pages[:0]
	}
	var failed error
	err = eachFile(after, func(path string) {
		if failed != nil {
			return
		}
		changed := false
		var size int64
		size, failed = eachChanged(before, after, path, func(page []byte) {
			changed = true
			floor.Pages++
			if pages = append(pages, page...); len(pages) >= blockSize {
				flush()
			}
		})
		floor.Total += size
		if changed {
			floor.Changed += size
		}
	})
	if err == nil {
		err = failed
	}
	if len(pages) > 0 {
		flush()
	}
	return floor, err
}

// eachChanged calls visit for each page of a file that is another than before, and
// returns the size of the file.
func eachChanged(before, after, path string, visit func(page []byte)) (int64, error) {
	f, err := os.Open(filepath.Join(after, path))
	if err != nil {
		return 0, err
	}
	defer f.Close() // only read
	var old io.Reader = strings.NewReader("")
	if before != "" {
		switch g, err := os.Open(filepath.Join(before, path)); {
		case err == nil:
			defer g.Close() // only read
			old = g
		case !os.IsNotExist(err):
			return 0, err
		}
	}
	now, then := make([]byte, pageSize), make([]byte, pageSize)
	var size int64
	for {
		n, err := io.ReadFull(f, now)
		if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
			return size, err
		}
		m, oerr := io.ReadFull(old, then)
		if oerr != nil && oerr != io.EOF && oerr != io.ErrUnexpectedEOF {
			return size, oerr
		}
		size += int64(n)
		if n > 0 && string(now[:n]) != string(then[:m]) {
			visit(now[:n])
		}
		if err != nil {
			return size, nil
		}
	}
}
