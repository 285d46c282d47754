package bench_test

import (
	"context"
	"fmt"
	"maps"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"wal-e/backup"
	"wal-e/chunkstore"
	"wal-e/gc"
	"wal-e/index"
	"wal-e/internal/postgres"
	"wal-e/internal/storage"
)

// requests is how many requests a delete has under way at once, as in wal-e.
const requests = 16

// retain is delete retain N.
func retain(ctx context.Context, b storage.Bucket, a *archive, n int, dryRun bool) (*gc.Report, error) {
	catalog, err := gc.ReadCatalog(ctx, b, requests, nil)
	if err != nil {
		return nil, err
	}
	plan, err := gc.Decide(gc.Policy{Retain: n}, catalog, a.end)
	if err != nil {
		return nil, err
	}
	cfg := gc.Config{Bucket: b, DryRun: dryRun, Requests: requests, Catalog: catalog, Ranges: plan.Ranges(), Ended: plan.Ended(), Now: func() time.Time { return a.end }}
	return gc.Delete(ctx, cfg, plan.Victims())
}

// BenchmarkCollect measures list, dry runs and collections. Each begins with the
// archive as it was built, but for Again, which collects after Half.
func BenchmarkCollect(b *testing.B) {
	const tb = 1 << 40
	for _, s := range []shape{{100, tb}, {100, 10 * tb}, {1000, tb}, {1000, 10 * tb}} {
		b.Run(fmt.Sprintf("backups=%d/TB=%d", s.backups, s.bytes/tb), func(b *testing.B) {
			benchmarkShape(b, newArchive(b, s))
		})
	}
}

func benchmarkShape(b *testing.B, a *archive) {
	half := a.backups / 2
	few := a.backups - a.backups/50
	list := func(ctx context.Context, s storage.Bucket) (*gc.Report, error) {
		l, err := backup.List(ctx, s, "")
		if err == nil && len(l) != a.backups {
			err = fmt.Errorf("List gave %d backups, want %d", len(l), a.backups)
		}
		return nil, err
	}
	b.Run("List", func(b *testing.B) { measure(b, a.bucket, list) })
	del := func(n int, dryRun bool) func(context.Context, storage.Bucket) (*gc.Report, error) {
		return func(ctx context.Context, s storage.Bucket) (*gc.Report, error) { return retain(ctx, s, a, n, dryRun) }
	}
	b.Run("DryHalf", func(b *testing.B) { measure(b, a.bucket, del(half, true)) })
	b.Run("DeleteFew", func(b *testing.B) { measure(b, a.bucket, del(few, false)) })
	b.Run("DeleteHalf", func(b *testing.B) { measure(b, a.bucket, del(half, false)) })
	b.Run("Again", func(b *testing.B) {
		collected := a.bucket.clone(0)
		if _, err := retain(b.Context(), collected, a, half, false); err != nil {
			b.Fatal(err)
		}
		measure(b, collected, func(ctx context.Context, s storage.Bucket) (*gc.Report, error) {
			return gc.Collect(ctx, gc.Config{Bucket: s, Requests: requests, Now: func() time.Time { return a.end }})
		})
	})
}

// measure runs op on copies of a bucket and reports what it took.
func measure(b *testing.B, built *bucket, op func(context.Context, storage.Bucket) (*gc.Report, error)) {
	// The archive in memory would else let much garbage pile up before it counts.
	defer debug.SetGCPercent(debug.SetGCPercent(25))
	var peak uint64
	var cpu time.Duration
	var asked, pages, down, freed int64
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		b.StopTimer()
		s := built.clone(0)
		counted := storage.Counted(s)
		heap := watchHeap()
		before := cpuTime(b)
		b.StartTimer()
		report, err := op(b.Context(), counted)
		b.StopTimer()
		cpu += cpuTime(b) - before
		peak = max(peak, heap.stop())
		if err != nil {
			b.Fatal(err)
		}
		n := counted.Counts()
		asked += n.Creates + n.Gets + n.Stats + n.Deletes
		pages += s.pages.Load()
		down += n.BytesDown
		if report != nil {
			freed += int64(report.Freed.Packs + report.Freed.WAL)
		}
		b.StartTimer()
	}
	b.StopTimer()
	per := func(v int64) float64 { return float64(v) / float64(b.N) }
	b.ReportMetric(b.Elapsed().Seconds()/float64(b.N), "s")
	b.ReportMetric(cpu.Seconds()/float64(b.N), "cpu-s")
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(per(asked), "requests")
	b.ReportMetric(per(pages), "pages")
	b.ReportMetric(per(down)/(1<<20), "read-MB")
	b.ReportMetric(float64(peak)/(1<<20), "peak-MB")
	b.ReportMetric(per(freed), "freed-objects")
}

// cpuTime is what the process has computed so far. Other processes that load the
// machine change it less than they change the time on the wall.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// A heapWatch watches the bytes of live objects, as each garbage collection
// finds them.
type heapWatch struct {
	base      uint64
	quit      chan struct{}
	peakFound chan uint64
}

func watchHeap() *heapWatch {
	runtime.GC()
	w := &heapWatch{base: liveHeap(), quit: make(chan struct{}), peakFound: make(chan uint64)}
	go func() {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		peak := w.base
		for {
			select {
			case <-tick.C:
				peak = max(peak, liveHeap())
			case <-w.quit:
				w.peakFound <- peak
				return
			}
		}
	}()
	return w
}

// stop returns by how many bytes the heap was larger than at the beginning, at
// most.
func (w *heapWatch) stop() uint64 {
	close(w.quit)
	return <-w.peakFound - w.base
}

func liveHeap() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

// What the benchmark measures is right: on a small archive of the same making,
// what retain keeps stays whole, and all else goes.
func TestCollectSmall(t *testing.T) {
	t.Parallel()
	const keep = 60
	a := newArchive(t, shape{backups: 120, bytes: 32 << 30})
	b := a.bucket
	before := keys(t, b)

	dry, err := retain(t.Context(), b, a, keep, true)
	if err != nil {
		t.Fatalf("dry run = %v, want nil", err)
	}
	if got := keys(t, b); !maps.Equal(got, before) {
		t.Errorf("a dry run left %d objects, there were %d", len(got), len(before))
	}
	report, err := retain(t.Context(), b, a, keep, false)
	if err != nil {
		t.Fatalf("delete = %v, want nil", err)
	}
	if dry.Freed != report.Freed || dry.Kept != report.Kept || report.Kept != keep {
		t.Errorf("dry run frees %+v and keeps %d, delete %+v and %d, want the same and %d", dry.Freed, dry.Kept, report.Freed, report.Kept, keep)
	}
	checkKept(t, a, keep)
	checkObjects(t, a, before, keep, report)

	after := keys(t, b)
	again, err := gc.Collect(t.Context(), gc.Config{Bucket: b, Now: func() time.Time { return a.end }})
	if err != nil || again.Freed != (gc.Amount{}) {
		t.Errorf("collecting again = freed %+v, %v, want nothing", again.Freed, err)
	}
	if got := keys(t, b); !maps.Equal(got, after) {
		t.Errorf("collecting again left %d objects, there were %d", len(got), len(after))
	}
}

// Outcomes are read once, and side by side. Where just requests take time, and each the
// same, the time is how many follow each other.
func TestRequestsInTurn(t *testing.T) {
	t.Parallel()
	a := newArchive(t, shape{backups: 120, bytes: 32 << 30})
	turns := func(t *testing.T, n int, dryRun bool) int64 {
		const rtt = time.Millisecond
		begin := time.Now()
		b := a.bucket.clone(rtt)
		if _, err := retain(t.Context(), b, a, n, dryRun); err != nil {
			t.Fatalf("retain %d = %v, want nil", n, err)
		}
		took := int64(time.Since(begin) / rtt)
		t.Logf("retain %d, dry run %v: %d requests in turn, %d of them pages of listings", n, dryRun, took, b.pages.Load())
		return took - b.pages.Load()
	}
	synctest.Test(t, func(t *testing.T) {
		if got, most := turns(t, 60, true), int64((120+len(a.failed))/requests+10); got > most {
			t.Errorf("a dry run made %d requests in turn besides listings, want at most %d", got, most)
		}
		turns(t, 118, false)
		turns(t, 60, false)
	})
}

// checkKept makes sure that the newest backups are listed, and no others.
func checkKept(t *testing.T, a *archive, keep int) {
	t.Helper()
	list, err := backup.List(t.Context(), a.bucket, "")
	if err != nil {
		t.Fatalf("List = %v, want nil", err)
	}
	var got []chunkstore.Ref
	for _, l := range list {
		got = append(got, chunkstore.Ref{Name: l.Name, Run: l.Run})
	}
	if want := a.runs[a.backups-keep:]; !slices.Equal(got, want) {
		t.Errorf("List = %v, want %v", got, want)
	}
}

// checkObjects makes sure that just those packs, WAL files and runs are left
// that kept backups need.
func checkObjects(t *testing.T, a *archive, before map[string]bool, keep int, report *gc.Report) {
	t.Helper()
	oldest := a.backups - keep
	want, packs := a.neededFrom(oldest), 0
	for key := range before {
		if strings.HasPrefix(key, "wal_006/") && key >= "wal_006/"+system+"/"+a.firstSegment(oldest) {
			want[key] = true
		}
	}
	runs := 0
	for key := range keys(t, a.bucket) {
		if strings.HasPrefix(key, "basebackups_006/") {
			runs++
		}
		if !strings.HasPrefix(key, "chunks_006/packs/") && !strings.HasPrefix(key, "wal_006/") {
			continue
		}
		packs++
		if !want[key] {
			t.Errorf("%s is left, and nothing needs it", key)
		}
		delete(want, key)
	}
	for key := range want {
		t.Errorf("%s is gone, and a backup needs it", key)
	}
	if stay := 2 * (a.backups + len(a.failed) - report.Reaped); runs != stay || report.Reaped == 0 {
		t.Errorf("%d objects of runs are left, and %d runs were removed: want %d", runs, report.Reaped, stay)
	}
	if gone := report.Freed.Packs + report.Freed.WAL; gone == 0 || packs == 0 {
		t.Errorf("freed %d objects and %d are left: want some of both", gone, packs)
	}
}

// neededFrom returns the keys of the packs that the backups from a night on need.
func (a *archive) neededFrom(oldest int) map[string]bool {
	needed := make(map[string]bool)
	for of, ref := range a.runs {
		for seq := range a.packs(of) {
			if p := (pack{of, seq}); a.needs(max(of, oldest), p) {
				needed[chunkstore.PackKey(index.PackID{Run: ref.Run, Seq: uint32(seq)})] = true
			}
		}
	}
	return needed
}

// firstSegment is the name of the first WAL file that the backup of a night
// needs.
func (a *archive) firstSegment(night int) string {
	return postgres.SegmentAt(1, a.start(night), segmentSize).Name(segmentSize)
}

func keys(t *testing.T, b storage.Bucket) map[string]bool {
	t.Helper()
	all := make(map[string]bool)
	for o, err := range b.List(t.Context(), "", "") {
		if err != nil {
			t.Fatal(err)
		}
		all[o.Key] = true
	}
	return all
}
