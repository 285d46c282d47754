package bench

import (
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"wal-e/internal/pgtest"
)

// recoveryRounds is how often each way of recovery is taken, one after the other.
const recoveryRounds = 3

// BenchmarkRecovery replays pgbench's WAL with segments that are in a folder already,
// which cp takes from there, and with segments that wal-fetch gets from a directory and from
// S3 that answers 20 ms late. It prints the medians, and what each is of the first.
func BenchmarkRecovery(b *testing.B) {
	w := &walBench{dir: pgtest.TempDir(b), walE: pgtest.Binary(b)}
	kept, base := filepath.Join(w.dir, "kept"), filepath.Join(w.dir, "base")
	w.must(b, exec.Command("mkdir", kept))
	c := pgtest.Start(b, pgtest.Options{
		ArchiveCommand: "cp %p " + kept + "/%f",
		Conf:           map[string]string{"max_wal_size": "8GB", "checkpoint_timeout": "1h", "autovacuum": "off"},
	})
	c.Pgbench(b, "-i", "-q", "-s", "20")
	c.Stop(b, pgtest.Fast)
	pgtest.CopyDir(b, c.Dir, base)
	c.StartAgain(b)
	c.Pgbench(b, "-n", "-c", "4", "-t", cmp.Or(os.Getenv("WALE_BENCH_TRANSACTIONS"), "15000"))
	c.WaitArchived(b, c.SwitchWAL(b))
	want := c.Query(b, "SELECT count(*), sum(delta) FROM pgbench_history")
	c.Stop(b, pgtest.Fast)
	w.data = c.Dir
	segments, err := filepath.Glob(filepath.Join(kept, "0*"))
	if err != nil || len(segments) < 10 {
		b.Fatalf("%d segments (%v), want at least 10", len(segments), err)
	}
	ways := []struct {
		name, command string
		env           []string
	}{{"local", "cp " + kept + "/%f %p", nil}}
	for _, at := range []*place{w.inFiles(b), w.inS3(b)} {
		at.empty(b, true)
		for _, path := range segments {
			push := exec.Command(w.walE, "--terse", "wal-push", "-p1", path)
			push.Dir, push.Env = w.data, at.env
			w.must(b, push)
		}
		name := "prefetch" + cmp.Or(at.name, " files")
		ways = append(ways, struct {
			name, command string
			env           []string
		}{name, w.walE + " --terse wal-fetch %f %p", at.env})
	}
	took := make(map[string][]time.Duration)
	for range recoveryRounds {
		for _, way := range ways {
			dir := filepath.Join(w.dir, "recover")
			pgtest.CopyDir(b, base, dir)
			w.must(b, exec.Command("touch", filepath.Join(dir, "recovery.signal")))
			began := time.Now()
			r := pgtest.Adopt(b, dir, pgtest.Options{Env: way.env, Conf: map[string]string{
				"restore_command": way.command, "archive_mode": "off", "hot_standby": "off",
			}})
			r.WaitRecovered(b)
			took[way.name] = append(took[way.name], time.Since(began))
			if got := r.Query(b, "SELECT count(*), sum(delta) FROM pgbench_history"); got != want {
				b.Fatalf("%s recovers %s, want %s", way.name, got, want)
			}
			r.Stop(b, pgtest.Immediate)
			if err := os.RemoveAll(dir); err != nil {
				b.Fatal(err)
			}
		}
	}
	for b.Loop() { // what there is to repeat is above
	}
	var text strings.Builder
	fmt.Fprintf(&text, "%d segments\n", len(segments))
	var local time.Duration
	for _, way := range ways {
		list := took[way.name]
		slices.Sort(list)
		median := list[len(list)/2]
		local = cmp.Or(local, median)
		fmt.Fprintf(&text, "%-16s %6.2f s %6.2f\n", way.name, median.Seconds(), median.Seconds()/local.Seconds())
	}
	b.Log(text.String())
}
