package gc_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"wal-e/chunkstore"
	"wal-e/gc"
	"wal-e/internal/postgres"
	"wal-e/internal/storage"
	"wal-e/internal/storage/mem"
)

// An upgraded is an archive of a cluster that was upgraded ten days ago: four
// backups of the old system, and since then nightly ones of the new.
type upgraded struct {
	t        *testing.T
	b        storage.Bucket
	now      time.Time
	old, new []gc.Backup
}

const (
	oldWAL = "wal_006/" + oldSystem + "/"
	newWAL = "wal_006/" + newSystem + "/"
)

func newUpgraded(t *testing.T) *upgraded {
	t.Helper()
	u := &upgraded{t: t}
	u.b = mem.New(func() time.Time { return u.now })
	for i := range 4 {
		u.old = append(u.old, u.backup(retained{segment: uint64(500 + 10*i), days: float64(14 - i)}))
	}
	u.now = u.now.Add(time.Hour)
	u.create(oldWAL + "00000002.history")
	for i := range 10 {
		u.new = append(u.new, u.backup(retained{system: newSystem, segment: uint64(3 + 4*i), days: float64(9 - i)}))
	}
	u.now = today()
	return u
}

// backup stores a backup and ten segments from its start on.
func (u *upgraded) backup(r retained) gc.Backup {
	u.t.Helper()
	b := r.backup()
	u.now = b.Taken
	for i := range 10 {
		u.segment(b.System, r.segment+uint64(i))
	}
	createRun(u.t, u.b, b, chunkstore.Commit)
	return b
}

func (u *upgraded) segment(system string, no uint64) {
	u.t.Helper()
	key := "wal_006/" + system + "/" + postgres.Segment{Timeline: 1, No: no}.Name(postgres.DefaultSegmentSize)
	if _, err := u.b.Stat(u.t.Context(), key); err != nil {
		u.create(key)
	}
}

func (u *upgraded) create(key string) {
	u.t.Helper()
	if err := storage.CreateBytes(u.t.Context(), u.b, key, []byte("WAL"), nil); err != nil {
		u.t.Fatal(err)
	}
}

// config is what the command line makes of a policy.
func (u *upgraded) config(p gc.Policy) (gc.Config, *gc.Plan) {
	u.t.Helper()
	catalog, err := gc.ReadCatalog(u.t.Context(), u.b, 0, nil)
	if err != nil {
		u.t.Fatal(err)
	}
	plan, err := gc.Decide(p, catalog, today())
	if err != nil {
		u.t.Fatal(err)
	}
	return gc.Config{Bucket: u.b, Catalog: catalog, Ranges: plan.Ranges(), Ended: plan.Ended(), Now: today}, plan
}

func (u *upgraded) delete(p gc.Policy) *gc.Report {
	u.t.Helper()
	cfg, plan := u.config(p)
	cfg.DryRun = true
	var would, did []string
	cfg.Deleting = func(key string) { would = append(would, key) }
	before := keysOf(u.t, u.b, "")
	dry, err := gc.Delete(u.t.Context(), cfg, plan.Victims())
	if err != nil {
		u.t.Fatal(err)
	}
	cfg.DryRun, cfg.Deleting = false, func(key string) { did = append(did, key) }
	r, err := gc.Delete(u.t.Context(), cfg, plan.Victims())
	if err != nil {
		u.t.Fatal(err)
	}
	slices.Sort(would)
	slices.Sort(did)
	if dry.Freed != r.Freed || !slices.Equal(would, did) || len(did) != r.Freed.WAL {
		u.t.Errorf("the dry run would free %+v (%v), the delete freed %+v (%v)", dry.Freed, would, r.Freed, did)
	}
	for _, key := range did {
		if !slices.Contains(before, key) || slices.Contains(keysOf(u.t, u.b, ""), key) {
			u.t.Errorf("%s was told as deleted: was it there %t", key, slices.Contains(before, key))
		}
	}
	return r
}

// oldSegments counts the segments of the old system that are stored.
func (u *upgraded) oldSegments() int {
	return len(slices.DeleteFunc(keysOf(u.t, u.b, oldWAL), func(key string) bool { return strings.HasSuffix(key, ".history") }))
}

func (u *upgraded) collect() *gc.Report {
	u.t.Helper()
	r, err := gc.Collect(u.t.Context(), gc.Config{Bucket: u.b, Now: today})
	if err != nil {
		u.t.Fatal(err)
	}
	return r
}

func (u *upgraded) tombstones(backups ...gc.Backup) {
	u.t.Helper()
	for _, b := range backups {
		create(u.t, u.b, b.Ref.TombstoneKey(), "tombstone", chunkstore.Tombstone{})
	}
}

// Once the old cluster's backups go its WAL goes with them, but for the history
// files, and it isn't looked for again.
func TestEndedSystem(t *testing.T) {
	t.Parallel()
	u := newUpgraded(t)
	u.delete(gc.Policy{Retain: 20})
	if n := u.oldSegments(); n != 40 {
		t.Fatalf("%d segments of the old system are left while its backups are kept, want 40", n)
	}
	if r := u.delete(gc.Policy{Retain: 3}); r.Kept != 3 || r.Freed.WAL < 40 {
		t.Errorf("retain 3 kept %d backups and freed %+v", r.Kept, r.Freed)
	}
	if left := keysOf(t, u.b, oldWAL); !slices.Equal(left, []string{oldWAL + "00000002.history"}) {
		t.Errorf("of the old system there is left %v, want its history file", left)
	}
	first := u.new[len(u.new)-3].Start
	if left := keysOf(t, u.b, newWAL); len(left) == 0 || !strings.HasSuffix(left[0], postgres.SegmentAt(1, first, postgres.DefaultSegmentSize).Name(postgres.DefaultSegmentSize)) {
		t.Errorf("WAL of the new system begins with %v, want %s", left[:min(1, len(left))], first)
	}
	before := keysOf(t, u.b, "")
	u.collect()
	if after := keysOf(t, u.b, ""); !slices.Equal(before, after) {
		t.Errorf("a collection of nothing changed %v to %v", before, after)
	}
	// A cluster that lives again may go on where it stood, not before.
	u.segment(oldSystem, 700)
	u.collect()
	if n := u.oldSegments(); n != 1 {
		t.Errorf("%d segments of the old system are left after it archived one again, want 1", n)
	}
}

// A delete that was stopped after its tombstones is finished by any collection,
// which knows nothing of the policy.
func TestEndedSystemAfterAKill(t *testing.T) {
	t.Parallel()
	u := newUpgraded(t)
	u.tombstones(u.old...)
	if r := u.collect(); r.Freed.WAL != 40 || u.oldSegments() != 0 || r.Reaped != 4 {
		t.Errorf("freed %+v and removed %d runs, %d segments are left; want 40, 4 and 0", r.Freed, r.Reaped, u.oldSegments())
	}
}

// What looks like an ended system and isn't keeps its WAL.
func TestNotEnded(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		prepare func(*upgraded)
		cfg     gc.Config
		keep    int // segments of the old system
	}{
		"never had a backup": {func(u *upgraded) {
			for _, b := range u.old {
				if err := u.b.Delete(u.t.Context(), b.Ref.IntentKey(), b.Ref.OutcomeKey()); err != nil {
					u.t.Fatal(err)
				}
			}
		}, gc.Config{}, 40},
		"archived since":  {func(u *upgraded) { u.tombstones(u.old...); u.segment(oldSystem, 900) }, gc.Config{}, 41},
		"one backup left": {func(u *upgraded) { u.tombstones(u.old[:3]...) }, gc.Config{}, 10},
		"a push is open": {func(u *upgraded) {
			u.tombstones(u.old...)
			createRun(u.t, u.b, retained{segment: 535, run: 7}.backup(), "")
		}, gc.Config{}, 40},
		"nothing came after": {func(u *upgraded) {
			u.tombstones(u.old...)
			for _, b := range u.new {
				if err := u.b.Delete(u.t.Context(), b.Ref.IntentKey(), b.Ref.OutcomeKey()); err != nil {
					u.t.Fatal(err)
				}
			}
		}, gc.Config{}, 40},
		"deleted just now": {func(u *upgraded) { u.tombstones(u.old...) }, gc.Config{Grace: day}, 40},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			u := newUpgraded(t)
			tt.prepare(u)
			cfg := tt.cfg
			cfg.Bucket, cfg.Now = u.b, today
			if _, err := gc.Collect(t.Context(), cfg); err != nil {
				t.Fatal(err)
			}
			if n := u.oldSegments(); n != tt.keep {
				t.Errorf("%d segments of the old system are left, want %d", n, tt.keep)
			}
		})
	}
}

// A marked backup of an ended system keeps its own WAL, also when none was
// deleted.
func TestEndedSystemWithAMark(t *testing.T) {
	t.Parallel()
	for marked, segments := range map[int]int{1: 3, 4: 12} {
		u := newUpgraded(t)
		for _, b := range u.old[4-marked:] {
			if err := (gc.Marker{Bucket: u.b, Now: today}).Keep(t.Context(), b.Ref, time.Time{}); err != nil {
				t.Fatal(err)
			}
		}
		if r := u.delete(gc.Policy{Retain: 3}); r.Kept != 3+marked || u.oldSegments() != segments {
			t.Errorf("with %d marked kept %d backups and %d old segments, want %d", marked, r.Kept, u.oldSegments(), segments)
		}
		u.collect()
		if u.oldSegments() != segments {
			t.Errorf("gc left %d old segments, want %d", u.oldSegments(), segments)
		}
	}
}

// A push of a cluster that was taken for ended is told so.
func TestPushOfAnEndedSystem(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	first := a.push(10, [extents]int{})
	cfg := a.config()
	cfg.Ended = []gc.EndedSystem{{System: system, SegmentSize: segmentSize, Heard: a.now}}
	a.delete(cfg, first)
	if left := keysOf(t, a.b, "wal_006/"); len(left) != 0 {
		t.Fatalf("WAL left: %v", left)
	}
	_, err := a.store.Begin(t.Context(), chunkstore.PushConfig{
		Name: first.Name, Table: a.table, Now: a.clock,
		Intent: chunkstore.Intent{Host: "db1", HostID: "db1", System: system, Start: postgres.Segment{Timeline: 1, No: 10}.Start(segmentSize).String()},
	})
	if err == nil || !strings.Contains(err.Error(), "is being deleted") {
		t.Errorf("Begin below the horizon = %v", err)
	}
	a.mustRestore(a.push(12, [extents]int{}))
}

// Two deletes that decided the same don't get into each other's way.
func TestDeleteOfWhatIsGone(t *testing.T) {
	t.Parallel()
	u := newUpgraded(t)
	cfg, plan := u.config(gc.Policy{Retain: 3})
	u.delete(gc.Policy{Retain: 3})
	r, err := gc.Delete(t.Context(), cfg, plan.Victims())
	if err != nil || len(r.Backups) != 0 || r.Kept != 3 {
		t.Errorf("a delete of what another deleted = %+v, %v", r, err)
	}
	cfg.Catalog = nil
	if _, err := gc.Delete(t.Context(), cfg, plan.Victims()); !errors.Is(err, gc.ErrNotBackup) {
		t.Errorf("a delete of what never was = %v, want %v", err, gc.ErrNotBackup)
	}
}
