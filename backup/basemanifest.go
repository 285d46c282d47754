package backup

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"wal-e/internal/postgres"
)

// writeBaseManifest writes backup_manifest, with which pg_verifybackup verifies
// a restored cluster before its first start. Servers before 13 know none.
//
// It lists what stands in the directory: tablespace_map as it was rewritten,
// configuration that was kept. WAL and the files of a recovery are not in it,
// which pg_verifybackup passes over.
func (f *fetcher) writeBaseManifest(ctx context.Context) error {
	if f.version < postgres.V13 {
		return nil
	}
	name := filepath.Join(f.dir, markerDir, baseManifest)
	file, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(file, 1<<20)
	err = f.listFiles(ctx, w)
	if err == nil {
		err = w.Flush()
	}
	if err == nil {
		err = f.settle(file, f.baseEntry(f.fileMode()))
	}
	if err == nil {
		err = file.Sync()
	}
	if err := errors.Join(err, file.Close()); err != nil {
		return fmt.Errorf("write %s: %w", baseManifest, err)
	}
	return os.Rename(name, filepath.Join(f.dir, baseManifest))
}

// listFiles writes the manifest.
func (f *fetcher) listFiles(ctx context.Context, out io.Writer) error {
	m := newManifestWriter(out, f.version, f.b.Manifest)
	for e, err := range f.files(ctx) {
		if err != nil {
			return err
		}
		m.file(e.Path, e.Content.Size, e.CRC)
	}
	for _, made := range []struct {
		name string
		data []byte
	}{{controlPath, f.controlData}, {labelFile, f.b.Manifest.Label}, {mapFile, f.tsMap}} {
		if len(made.data) > 0 {
			m.file(made.name, int64(len(made.data)), crc32.Checksum(made.data, crc32.MakeTable(crc32.Castagnoli)))
		}
	}
	if err := f.listKept(ctx, m); err != nil {
		return err
	}
	return m.finish(f.b)
}

// listKept adds what was in the directory and stays.
func (f *fetcher) listKept(ctx context.Context, m *manifestWriter) error {
	var replaced map[string]bool
	if f.cfg.OverwriteConfig {
		// The backup's own were listed already.
		replaced = make(map[string]bool)
		for e, err := range f.files(ctx) {
			if err != nil {
				return err
			}
			if slices.Contains(f.report.KeptConfig, e.Path) {
				replaced[e.Path] = true
			}
		}
	}
	for _, p := range f.report.KeptConfig {
		if replaced[p] {
			continue
		}
		if err := f.listTree(ctx, m, p); err != nil {
			return fmt.Errorf("list %s: %w", p, err)
		}
	}
	return nil
}

// listTree adds a file, or all files of a folder that a link leads to.
func (f *fetcher) listTree(ctx context.Context, m *manifestWriter, p string) error {
	at := filepath.Join(f.dir, filepath.FromSlash(p))
	info, err := os.Stat(at)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // a link to nowhere, which pg_verifybackup will name
	}
	if err != nil {
		return err
	}
	if info.IsDir() {
		entries, err := os.ReadDir(at)
		for _, e := range entries {
			err = errors.Join(err, f.listTree(ctx, m, p+"/"+e.Name()))
		}
		return err
	}
	if !info.Mode().IsRegular() {
		return nil
	}
	file, err := os.Open(at)
	if err != nil {
		return err
	}
	sum, err := sumFile(ctx, file)
	if err := errors.Join(err, file.Close()); err != nil {
		return err
	}
	m.file(p, info.Size(), sum)
	return nil
}

// A manifestWriter writes a backup_manifest (backup_manifest.c). Its errors are
// those of out, and wait for finish.
type manifestWriter struct {
	out   *bufio.Writer
	sum   hash.Hash
	time  string
	wal   string
	count int
}

func newManifestWriter(out io.Writer, v postgres.Version, b *Manifest) *manifestWriter {
	sum := sha256.New()
	m := &manifestWriter{
		out: bufio.NewWriter(io.MultiWriter(out, sum)), sum: sum,
		time: b.Stopped.UTC().Format(time.DateTime) + " GMT", wal: walDirectory(v) + "/",
	}
	if v >= postgres.V17 {
		m.printf("{ \"PostgreSQL-Backup-Manifest-Version\": 2,\n\"System-Identifier\": %s,\n\"Files\": [", b.System)
	} else {
		m.printf("{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\": [")
	}
	return m
}

// printf's errors stay in the bufio.Writer.
func (m *manifestWriter) printf(format string, args ...any) {
	_, _ = fmt.Fprintf(m.out, format, args...)
}

// file adds a file. Those of the WAL folder and those that a recovery writes are
// passed over, as pg_verifybackup does.
func (m *manifestWriter) file(name string, size int64, crc uint32) {
	if strings.HasPrefix(name, m.wal) || name == autoConf {
		return
	}
	separator := ",\n"
	if m.count == 0 {
		separator = "\n"
	}
	m.count++
	path := `"Encoded-Path": "` + hex.EncodeToString([]byte(name)) + `"`
	if utf8.ValidString(name) {
		quoted, _ := json.Marshal(name) // a string can always be encoded
		path = `"Path": ` + string(quoted)
	}
	// The checksum's bytes stand as they lie in memory.
	sum := [4]byte{byte(crc), byte(crc >> 8), byte(crc >> 16), byte(crc >> 24)}
	m.printf(`%s{ %s, "Size": %d, "Last-Modified": "%s", "Checksum-Algorithm": "CRC32C", "Checksum": "%x" }`,
		separator, path, size, m.time, sum)
}

// finish adds the WAL that the backup needs, and the checksum of all before it.
func (m *manifestWriter) finish(b *Backup) error {
	start, stop := b.lsns()
	m.printf("\n],\n\"WAL-Ranges\": [\n{ \"Timeline\": %d, \"Start-LSN\": \"%s\", \"End-LSN\": \"%s\" }\n],\n",
		b.Manifest.Timeline, start, stop)
	if err := m.out.Flush(); err != nil {
		return err
	}
	sum := m.sum.Sum(nil)
	m.printf("\"Manifest-Checksum\": \"%x\"}\n", sum)
	return m.out.Flush()
}
