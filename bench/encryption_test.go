package bench

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"wal-e/internal/openpgp"
	"wal-e/internal/pgtest"
	"wal-e/internal/seal"
)

const (
	encryptionRounds   = 3  // of all measurements, one after the other
	encryptionSegments = 12 // of 16 MB, in each measurement
)

// BenchmarkEncryption pushes and fetches a base backup and segments of WAL in the
// clear, encrypted, and through zstd and gpg in a pipe. It prints a line per
// measurement: the median of the rounds, which are interleaved. Then it seals
// and compresses the same bytes in this process; sealing must take less.
func BenchmarkEncryption(b *testing.B) {
	e := newEncryptionBench(b)
	results := make(map[string][]sample)
	steps := e.steps()
	for range encryptionRounds {
		for _, s := range steps {
			results[s.name] = append(results[s.name], e.run(b, s))
		}
	}
	for b.Loop() { // what there is to repeat is above
	}
	var table strings.Builder
	fmt.Fprintf(&table, "\n%-36s %10s %10s %10s\n", "", "wall ms", "cpu ms", "peak MB")
	for _, s := range steps {
		list := results[s.name]
		median := func(value func(sample) float64) float64 {
			slices.SortFunc(list, func(x, y sample) int { return cmp.Compare(value(x), value(y)) })
			return value(list[len(list)/2])
		}
		fmt.Fprintf(&table, "%-36s %10.1f %10.1f %10.1f\n", s.name,
			median(func(s sample) float64 { return s.wall.Seconds() * 1e3 }),
			median(func(s sample) float64 { return s.cpu.Seconds() * 1e3 }),
			median(func(s sample) float64 { return float64(s.rss) / 1024 }))
	}
	e.sealing(b, &table)
	b.Log(table.String())
}

type encryptionBench struct {
	dir, data  string // of everything; of the stopped cluster
	walE, ring string // the program; gpg's folder, with a key without a passphrase
	public     string // files with the keys
	private    string
	segments   []string
}

func newEncryptionBench(b *testing.B) *encryptionBench {
	b.Helper()
	e := &encryptionBench{dir: pgtest.TempDir(b), walE: pgtest.Binary(b)}
	kept := filepath.Join(e.dir, "kept")
	e.shell(b, "mkdir "+kept)
	c := pgtest.Start(b, pgtest.Options{ArchiveCommand: "cp %p " + kept + "/%f", Conf: map[string]string{"max_wal_size": "4GB"}})
	c.Pgbench(b, "-i", "-q", "-s", "20")
	c.Pgbench(b, "-n", "-c", "4", "-t", "10000")
	c.WaitArchived(b, c.SwitchWAL(b))
	c.Stop(b, pgtest.Fast)
	e.data = filepath.Join(e.dir, "data")
	pgtest.CopyDir(b, c.Dir, e.data)
	paths, err := filepath.Glob(filepath.Join(kept, "0*"))
	if err != nil || len(paths) < encryptionSegments+2 {
		b.Fatalf("pgbench wrote %d segments (%v), want at least %d", len(paths), err, encryptionSegments+2)
	}
	e.segments = paths[1 : 1+encryptionSegments]

	ring, err := pgtest.RunAs(b, exec.Command("mktemp", "-d", "/tmp/gpgXXXXXX")).Output() // the agent's socket needs a short name
	if err != nil {
		b.Fatal(err)
	}
	e.ring = strings.TrimSpace(string(ring))
	b.Cleanup(func() {
		e.shell(b, "gpgconf --kill gpg-agent")
		_ = os.RemoveAll(e.ring)
	})
	e.public, e.private = filepath.Join(e.dir, "public"), filepath.Join(e.dir, "private")
	e.shell(b, "gpg --batch --quiet --passphrase '' --quick-gen-key dba@example.com future-default default never && "+
		"gpg --batch --quiet --export >"+e.public+" && gpg --batch --quiet --export-secret-keys >"+e.private)
	return e
}

func (e *encryptionBench) command(script string) *exec.Cmd {
	cmd := exec.Command("sh", "-c", "set -e; "+script)
	cmd.Dir = e.dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + e.dir, "GNUPGHOME=" + e.ring, "WALE_LOG_DESTINATION=stderr"}
	return cmd
}

func (e *encryptionBench) shell(b *testing.B, script string) {
	b.Helper()
	if out, err := pgtest.RunAs(b, e.command(script)).CombinedOutput(); err != nil {
		b.Fatalf("%s: %v\n%s", script, err, out)
	}
}

// A step is one measurement. before isn't measured.
type step struct{ name, before, script string }

func (e *encryptionBench) steps() []step {
	walE := func(archive, settings string) string {
		return fmt.Sprintf("WALE_FILE_PREFIX=file://localhost%[1]s/%[2]s WALE_STATE_DIR=%[1]s/%[2]s.state %[3]s %[4]s --terse ", e.dir, archive, settings, e.walE)
	}
	plain, sealed := walE("plain", ""), walE("sealed", "WALE_GPG_PUBLIC_KEY_FILE="+e.public)
	file, agent := walE("sealed", "WALE_GPG_PRIVATE_KEY_FILE="+e.private), walE("sealed", "")
	gpg := "gpg --batch --quiet --trust-model always --compress-algo none "
	each := func(script string) string {
		return "cd " + e.data + "; for s in " + strings.Join(e.segments, " ") + "; do n=$(basename $s); " + script + "; done"
	}
	empty := func(names ...string) string {
		script := "sync; rm -rf out; mkdir -p pipe"
		for _, n := range names {
			script += fmt.Sprintf("; rm -rf %[1]s %[1]s.state; mkdir -p %[1]s", n)
		}
		return script
	}
	// The first push of an archive makes keys, which isn't measured.
	begin := func(wale string) string { return "; " + wale + "key init >/dev/null" }
	push, fetch := "backup-push --while-offline "+e.data, "backup-fetch "+e.dir+"/out LATEST"
	return []step{
		{"base backup: push, plain", empty("plain"), plain + push},
		{"base backup: push, encrypted", empty("sealed") + begin(sealed), sealed + push},
		{"base backup: tar | zstd -1 | gpg", empty("pipe"), "tar -C data -c . | zstd -1qc | " + gpg + "-r dba@example.com -e >pipe/base; sync pipe/base"},
		{"base backup: push again, plain", "sync", plain + push},
		{"base backup: push again, encrypted", "sync", sealed + push},
		{"base backup: fetch, plain", empty(), plain + fetch},
		{"base backup: fetch, key file", empty(), file + fetch},
		{"base backup: fetch, gpg", empty(), agent + fetch},
		{"base backup: gpg | zstd | tar", empty() + "; mkdir out", gpg + "-d pipe/base | zstd -dqc | tar -C out -x; sync"},
		{"WAL: push, plain", "sync", each(plain + "wal-push -p1 $s")},
		{"WAL: push, encrypted", "sync", each(sealed + "wal-push -p1 $s")},
		{"WAL: zstd -1 | gpg", "sync", each("zstd -1qc $s | " + gpg + "-r dba@example.com -e >" + e.dir + "/pipe/$n; sync " + e.dir + "/pipe/$n " + e.dir + "/pipe")},
		{"WAL: fetch, plain", "sync", each(plain + "wal-fetch -p0 $n ../fetched")},
		{"WAL: fetch, key file", "sync", each(file + "wal-fetch -p0 $n ../fetched")},
		{"WAL: fetch, gpg", "sync", each(agent + "wal-fetch -p0 $n ../fetched")},
		// An offline backup has its WAL in itself, which wal-verify misses in the archive.
		{"WAL: verify all, plain", "sync", plain + "wal-verify --read-data >/dev/null 2>&1 || true"},
		{"WAL: verify all, gpg", "sync", agent + "wal-verify --read-data >/dev/null 2>&1 || true"},
		{"WAL: gpg | zstd", "sync", each(gpg + "-d " + e.dir + "/pipe/$n | zstd -dqc >../fetched; sync ../fetched ..")},
	}
}

// run measures a step with all processes that it waits for. What gpg's agent does
// isn't counted.
func (e *encryptionBench) run(b *testing.B, s step) sample {
	b.Helper()
	e.shell(b, s.before)
	cmd := pgtest.RunAs(b, e.command(s.script))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	began := time.Now()
	if err := cmd.Run(); err != nil {
		b.Fatalf("%s: %v\n%s", s.name, err, out.Bytes())
	}
	r := sample{wall: time.Since(began)}
	if u, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		r.add(u)
	}
	return r
}

// sealing compares what compressing and sealing the same bytes take: blocks of
// the cluster's files as packs have them, and segments of WAL as messages.
func (e *encryptionBench) sealing(b *testing.B, table io.Writer) {
	b.Helper()
	keys, err := seal.New()
	if err != nil {
		b.Fatal(err)
	}
	to, err := openpgp.ReadRecipients([]string{e.public}, nil, time.Now())
	if err != nil {
		b.Fatal(err)
	}
	box := keys.Index(make([]byte, 24), 0)
	n := uint32(0)
	blocks := func(text []byte) error {
		n++ // each number once
		box.Seal(text[:0:cap(text)], n, nil, text)
		return nil
	}
	message := func(text []byte) error {
		w, err := to.Encrypt(io.Discard)
		if err == nil {
			_, err = w.Write(text)
		}
		if err == nil {
			err = w.Close()
		}
		return err
	}
	var files []string
	err = filepath.WalkDir(filepath.Join(e.data, "base"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	fmt.Fprintf(table, "%-36s %10s %12s %12s\n", "in one process", "MB", "compress ms", "seal ms")
	for _, kind := range []struct {
		name  string
		files []string
		size  int // bytes compressed together
		seal  func([]byte) error
	}{{"blocks of base backups", files, 256 << 10, blocks}, {"segments of WAL", e.segments, 16 << 20, message}} {
		var read int
		var compress, sealing time.Duration
		enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest))
		if err != nil {
			b.Fatal(err)
		}
		out := make([]byte, 0, kind.size+kind.size/2)
		for _, name := range kind.files {
			data, err := os.ReadFile(name)
			if err != nil {
				b.Fatal(err)
			}
			for part := range slices.Chunk(data, kind.size) {
				read += len(part)
				before := processorTime(b)
				out = enc.EncodeAll(part, out[:0])
				between := processorTime(b)
				if err := kind.seal(out); err != nil {
					b.Fatal(err)
				}
				compress, sealing = compress+between-before, sealing+processorTime(b)-between
			}
		}
		fmt.Fprintf(table, "%-36s %10.1f %12.1f %12.1f\n", kind.name, float64(read)/1e6, compress.Seconds()*1e3, sealing.Seconds()*1e3)
		if sealing >= compress {
			b.Errorf("%s: sealing took %v of processor time, compressing %v", kind.name, sealing, compress)
		}
	}
}

// processorTime is what this process has used.
func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
