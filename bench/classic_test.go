package bench

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"wal-e/compat/lzop"
	"wal-e/internal/pgtest"
)

const classicRounds = 5 // of all measurements, one after the other

// BenchmarkClassic pushes and fetches a base backup in the classic layout beside tar
// and lzop in a pipe, and codes the same bytes with our lzop and Debian's. It prints
// a line per measurement, the median of the rounds, which are interleaved.
func BenchmarkClassic(b *testing.B) {
	e := &encryptionBench{dir: pgtest.TempDir(b), walE: pgtest.Binary(b)}
	c := pgtest.Start(b, pgtest.Options{Conf: map[string]string{"max_wal_size": "4GB"}})
	c.Pgbench(b, "-i", "-q", "-s", "30")
	c.Pgbench(b, "-n", "-c", "4", "-t", "5000")
	c.Stop(b, pgtest.Fast)
	e.data, e.ring = filepath.Join(e.dir, "data"), e.dir
	pgtest.CopyDir(b, c.Dir, e.data)
	e.shell(b, "tar -C data -cf all.tar .; mkdir pipe")
	walE := fmt.Sprintf("WALE_LAYOUT=classic WALE_FILE_PREFIX=file://localhost%[1]s/classic WALE_STATE_DIR=%[1]s/state %[2]s --terse ", e.dir, e.walE)
	results := make(map[string][]sample)
	steps := []step{
		{"push: wal-e", "rm -rf classic state; mkdir classic; sync", walE + "backup-push --while-offline " + e.data + " >/dev/null"},
		{"push: tar | lzop", "rm -f pipe/base; sync", "tar -C data --exclude ./pg_wal -c . | lzop -c >pipe/base; sync pipe/base pipe"},
		{"fetch: wal-e", "rm -rf out; sync", walE + "backup-fetch " + e.dir + "/out LATEST >/dev/null"},
		{"fetch: lzop | tar", "rm -rf out; mkdir out; sync", "lzop -dc pipe/base | tar -C out -x; sync -f out"},
		{"pack: lzop", "sync", "lzop -c <all.tar >/dev/null"},
		{"unpack: lzop", "lzop -cf <all.tar >all.lzo; sync", "lzop -dc <all.lzo >/dev/null"},
	}
	for range classicRounds {
		for _, s := range steps {
			results[s.name] = append(results[s.name], e.run(b, s))
			if kind, _, ok := strings.Cut(s.name, ": lzop"); ok && kind != "fetch" {
				name := kind + ": compat/lzop"
				results[name] = append(results[name], code(b, filepath.Join(e.dir, "all.tar"), filepath.Join(e.dir, "all.lzo"), kind == "pack"))
			}
		}
	}
	for b.Loop() { // what there is to repeat is above
	}
	var table strings.Builder
	fmt.Fprintf(&table, "\n%-22s %10s %10s\n", "", "wall ms", "cpu ms")
	for _, name := range []string{"push: wal-e", "push: tar | lzop", "fetch: wal-e", "fetch: lzop | tar",
		"pack: compat/lzop", "pack: lzop", "unpack: compat/lzop", "unpack: lzop"} {
		list := results[name]
		median := func(value func(sample) float64) float64 {
			slices.SortFunc(list, func(x, y sample) int { return cmp.Compare(value(x), value(y)) })
			return value(list[len(list)/2])
		}
		fmt.Fprintf(&table, "%-22s %10.1f %10.1f\n", name,
			median(func(s sample) float64 { return s.wall.Seconds() * 1e3 }), median(func(s sample) float64 { return s.cpu.Seconds() * 1e3 }))
	}
	b.Log(table.String())
}

// code packs or unpacks a file with our lzop.
func code(b *testing.B, plain, packed string, pack bool) sample {
	b.Helper()
	name := packed
	if pack {
		name = plain
	}
	f, err := os.Open(name)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close() // only read
	began, cpu := time.Now(), processorTime(b)
	if pack {
		w := lzop.NewWriter(io.Discard, lzop.Header{}, runtime.GOMAXPROCS(0))
		if _, err = io.Copy(w, f); err == nil {
			err = w.Close()
		}
	} else {
		_, err = io.Copy(io.Discard, lzop.NewReader(f, runtime.GOMAXPROCS(0)))
	}
	if err != nil {
		b.Fatal(err)
	}
	return sample{wall: time.Since(began), cpu: processorTime(b) - cpu}
}
