package bench_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"wal-e/backup"
	"wal-e/chunkstore"
	"wal-e/index"
	"wal-e/internal/chunk"
	"wal-e/internal/envelope"
	"wal-e/internal/postgres"
	"wal-e/internal/runid"
)

const (
	packSize     = 32 << 20
	indexEvery   = 8 // packs in an index object
	compression  = 4
	nightly      = 200 // one part in so many of the cluster is new each night
	walPerNight  = 96  // segments: one per quarter of an hour
	segmentSize  = postgres.DefaultSegmentSize
	abortedEvery = 50 // nights between pushes that failed
	system       = "7300000000000000001"
)

// forever is a number of nights that no archive here has.
const forever = 1 << 30

// A shape says how large a synthetic archive is.
type shape struct {
	backups int   // one a night
	bytes   int64 // of the cluster, uncompressed
}

// packs returns how many packs the push of a night stored.
func (s shape) packs(night int) int {
	full := s.bytes / compression / packSize
	if night == 0 {
		return int(full)
	}
	return int(max(full/nightly, 8))
}

// life returns for how many backups, its own first, a pack is needed. Of the
// first backup a quarter is overwritten in the course of the archive. Of what a
// night brings, half is new again the next night, and less and less stays for a
// week, a month, for good; but what comes in each tenth night has all gone after
// three months.
func (s shape) life(p pack) int {
	switch {
	case p.night == 0 && p.seq%4 > 0:
		return forever
	case p.night == 0:
		return 1 + int(uint64(p.seq)*2654435761%uint64(s.backups))
	}
	switch p.seq % 8 {
	default:
		return 1
	case 4, 5:
		return 7
	case 6:
		return 30
	case 7:
		if p.night%10 == 9 {
			return 90
		}
		return forever
	}
}

// A pack is one that a night's push stored.
type pack struct{ night, seq int }

// An archive is a synthetic one: its bucket, and what is in it.
type archive struct {
	shape
	bucket *bucket
	runs   []chunkstore.Ref // by night
	failed []chunkstore.Ref // pushes that were aborted
	end    time.Time        // when the last backup had been stored
}

// newArchive builds an archive. Two of one shape are equal.
func newArchive(tb testing.TB, s shape) *archive {
	tb.Helper()
	begin := time.Date(2024, 1, 1, 1, 0, 0, 0, time.UTC)
	a := &archive{shape: s, end: begin.AddDate(0, 0, s.backups)}
	a.bucket = newBucket(func() time.Time { return a.end })
	rnd := rand.NewChaCha8([32]byte{})
	for night := range s.backups {
		at := begin.AddDate(0, 0, night)
		id, err := runid.New(at, rnd)
		if err != nil {
			tb.Fatal(err)
		}
		a.runs = append(a.runs, chunkstore.Ref{Name: a.name(night), Run: id})
		if night%abortedEvery == abortedEvery-1 {
			if id, err = runid.New(at.Add(-time.Hour), rnd); err != nil {
				tb.Fatal(err)
			}
			a.failed = append(a.failed, chunkstore.Ref{Name: a.name(night), Run: id})
		}
	}
	var g errgroup.Group
	g.SetLimit(8)
	for night, ref := range a.runs {
		g.Go(func() error { return a.addBackup(night, ref) })
	}
	for _, ref := range a.failed {
		g.Go(func() error { return a.addFailed(ref) })
	}
	if err := g.Wait(); err != nil {
		tb.Fatal(err)
	}
	for no := range uint64(walPerNight * (s.backups + 1)) {
		seg := postgres.Segment{Timeline: 1, No: no}
		at := begin.Add(time.Duration(no) * 24 * time.Hour / walPerNight)
		a.add("wal_006/"+system+"/"+seg.Name(segmentSize), at, int64(segmentSize)/compression, nil)
	}
	return a
}

// start is where the backup of a night starts; it stops a segment later.
func (a *archive) start(night int) postgres.LSN {
	return postgres.LSN(uint64(night+1)*walPerNight*uint64(segmentSize) + 40)
}

func (a *archive) name(night int) string {
	return fmt.Sprintf("base_%s_%08d", postgres.SegmentAt(1, a.start(night), segmentSize).Name(segmentSize), 40)
}

// needs tells whether the backup of a night needs a pack.
func (a *archive) needs(night int, p pack) bool { return p.night <= night && night < p.night+a.life(p) }

func (a *archive) add(key string, at time.Time, size int64, data []byte) {
	e := entry{size: size, time: at.UnixNano()}
	if data != nil {
		e.size, e.content = int64(len(data)), &content{data: data}
	}
	if !a.bucket.put(key, e) {
		panic("bench: internal error: " + key + " is there twice")
	}
}

func (a *archive) addBackup(night int, ref chunkstore.Ref) error {
	var footprint chunkstore.Footprint
	for of := range night + 1 {
		for seq := range a.packs(of) {
			if a.needs(night, pack{of, seq}) {
				footprint.Add(index.PackID{Run: a.runs[of].Run, Seq: uint32(seq)})
			}
		}
	}
	begun := ref.Run.Time()
	start, stop := a.start(night), a.start(night)+postgres.LSN(segmentSize)
	manifest, err := json.Marshal(backup.Manifest{
		Version: 1, Name: ref.Name, Kind: backup.Live, System: system, ServerVersion: 180000, Program: "bench", Host: "db1",
		DataDirectory: "/data", Mode: 0o700, Owner: "postgres", Group: "postgres",
		Timeline: 1, StartLSN: start.String(), StopLSN: stop.String(), SegmentSize: int64(segmentSize), BlockSize: 8192,
		Started: begun, Stopped: begun.Add(time.Hour), Label: make([]byte, 200), Control: make([]byte, 100),
		Root: chunk.ID{}.String(), Files: 100_000, Bytes: a.bytes,
	})
	if err != nil {
		return err
	}
	outcome := &chunkstore.Outcome{Result: chunkstore.Commit, System: system, Start: start.String(), Manifest: manifest, Footprint: footprint}
	return a.addRun(ref, a.packs(night), outcome)
}

func (a *archive) addFailed(ref chunkstore.Ref) error {
	return a.addRun(ref, 2*indexEvery, &chunkstore.Outcome{Result: chunkstore.Abort, System: system, Reason: "connection lost"})
}

func (a *archive) addRun(ref chunkstore.Ref, packs int, outcome *chunkstore.Outcome) error {
	begun := ref.Run.Time()
	intent, err := envelope.Encode("intent", 1, chunkstore.Intent{Host: "db1", HostID: "1", PID: 1, Begun: begun, System: system, Start: outcome.Start})
	if err != nil {
		return err
	}
	result, err := envelope.Encode("outcome", 1, outcome)
	if err != nil {
		return err
	}
	a.add(ref.IntentKey(), begun, 0, intent)
	a.add(ref.OutcomeKey(), begun.Add(time.Hour), 0, result)
	for seq := range packs {
		a.add(chunkstore.PackKey(index.PackID{Run: ref.Run, Seq: uint32(seq)}), begun.Add(time.Minute), packSize, nil)
		if seq%indexEvery == 0 {
			a.add(fmt.Sprintf("chunks_006/index/%s/%08d", ref.Run, seq/indexEvery), begun.Add(2*time.Minute), 256<<10, nil)
		}
	}
	return nil
}
