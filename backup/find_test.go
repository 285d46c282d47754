package backup

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"wal-e/internal/postgres"
	"wal-e/internal/storage"
	"wal-e/internal/storage/storagetest"
)

// small returns a cluster that is pushed quickly, with a start and a stop.
func small(start postgres.LSN, change func(*Manifest)) *cluster {
	return &cluster{files: map[string][]byte{"PG_VERSION": []byte("15\n")}, control: []byte("control"), start: start, change: change}
}

func TestFind(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	first := a.push(t, small(0x4000028, nil))
	again := a.push(t, small(0x4000028, nil))
	// Stored last, but taken long ago: an import.
	old := a.push(t, small(0x2000028, func(m *Manifest) { m.Stopped = m.Stopped.AddDate(-1, 0, 0) }))
	for query, want := range map[string]string{
		"LATEST":           again.Ref.String(),
		first.Ref.Name:     again.Ref.String(),
		first.Ref.String(): first.Ref.String(),
		old.Ref.Name:       old.Ref.String(),
	} {
		b, err := Find(t.Context(), FindConfig{Bucket: a.bucket, Query: query})
		if err != nil || b.Ref.String() != want {
			t.Errorf("Find(%s) = %v, %v, want %s", query, b, err, want)
		}
		if err == nil && (b.LastModified.IsZero() || b.Footprint.Len() == 0) {
			t.Errorf("Find(%s) = %+v", query, b)
		}
	}
	for query, want := range map[string]error{
		"":                                       ErrBadQuery,
		"latest":                                 ErrBadQuery,
		"base_0000":                              ErrBadQuery,
		"base_000000010000000000000009_00000040": storage.ErrNotExist,
		first.Ref.Name + "@" + strings.Repeat("0", 8): ErrBadQuery,
	} {
		if b, err := Find(t.Context(), FindConfig{Bucket: a.bucket, Query: query}); !errors.Is(err, want) {
			t.Errorf("Find(%q) = %v, %v, want %v", query, b, err, want)
		}
	}
}

func TestFindDeleted(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	b := a.push(t, small(0x4000028, nil))
	tombstone := "deleted_006/" + b.Ref.Name + "/" + b.Ref.Run.String()
	if err := storage.CreateBytes(t.Context(), a.bucket, tombstone, []byte("x"), nil); err != nil {
		t.Fatal(err)
	}
	_, err := Find(t.Context(), FindConfig{Bucket: a.bucket, Query: b.Ref.Name})
	if !errors.Is(err, storage.ErrNotExist) || !strings.Contains(err.Error(), "was deleted") {
		t.Errorf("Find = %v, want that it was deleted", err)
	}
	_, err = Find(t.Context(), FindConfig{Bucket: a.bucket, Query: "LATEST"})
	if !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("Find(LATEST) = %v, want %v", err, storage.ErrNotExist)
	}
}

// Two clusters in a prefix are never chosen between.
func TestFindSystems(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	one := a.push(t, small(0x4000028, nil))
	two := a.push(t, small(0x4000028, func(m *Manifest) { m.System, m.Host = "42", "db2" }))
	for _, query := range []string{"LATEST", one.Ref.Name} {
		_, err := Find(t.Context(), FindConfig{Bucket: a.bucket, Query: query})
		for _, want := range []string{"--system", one.Ref.String(), two.Ref.String(), "db2"} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("Find(%s) = %v, want it to say %s", query, err, want)
			}
		}
		for _, want := range []*Backup{one, two} {
			b, err := Find(t.Context(), FindConfig{Bucket: a.bucket, Query: query, System: want.Manifest.System})
			if err != nil || b.Ref != want.Ref {
				t.Errorf("Find(%s) of %s = %v, %v, want %s", query, want.Manifest.System, b, err, want.Ref)
			}
		}
	}
	if b, err := Find(t.Context(), FindConfig{Bucket: a.bucket, Query: two.Ref.String()}); err != nil || b.Ref != two.Ref {
		t.Errorf("Find(%s) = %v, %v", two.Ref, b, err)
	}
	if _, err := Find(t.Context(), FindConfig{Bucket: a.bucket, Query: "LATEST", System: "43"}); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("Find of an unknown system = %v, want %v", err, storage.ErrNotExist)
	}
}

// A damaged outcome doesn't keep the others from being found, and is told; a
// store that can't be read does.
func TestFindDamaged(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	good := a.push(t, small(0x4000028, nil))
	bad := a.push(t, small(0x5000028, nil))
	a.replace(t, "basebackups_006/"+bad.Ref.Name+"/"+bad.Ref.Run.String()+".outcome", func(b []byte) []byte { return b[:len(b)/2] })
	b, err := Find(t.Context(), FindConfig{Bucket: a.bucket, Query: "LATEST"})
	if err != nil || b.Ref != good.Ref || len(b.Unreadable) != 1 || !strings.Contains(b.Unreadable[0].Error(), bad.Ref.Run.String()) {
		t.Errorf("Find(LATEST) = %+v, %v, want %s and one that can't be read", b, err, good.Ref)
	}
	if _, err := Find(t.Context(), FindConfig{Bucket: a.bucket, Query: bad.Ref.Name}); err == nil || !strings.Contains(err.Error(), bad.Ref.Run.String()) {
		t.Errorf("Find(%s) = %v", bad.Ref.Name, err)
	}
	for n := 1; n < 5; n++ {
		faulty := storagetest.NewFaulty(a.bucket, storagetest.Fault{Call: n})
		if b, err := Find(t.Context(), FindConfig{Bucket: faulty, Query: "LATEST"}); !errors.Is(err, storagetest.ErrInjected) && faulty.Calls() >= n {
			t.Errorf("Find with call %d failing = %v, %v", n, b, err)
		}
	}
}

// timelines is an archive of history files:
//
//	1 ──┬── 2 (from 0/A000000) ──── 4 (from 0/C000000)
//	    └── 3 (from 0/B000000)
func timelines() map[postgres.Timeline]string {
	return map[postgres.Timeline]string{
		2: "1\t0/A000000\tpromoted\n",
		3: "1\t0/B000000\tan experiment\n",
		4: "1\t0/A000000\tpromoted\n2\t0/C000000\tpromoted\n",
	}
}

func (r RecoverConfig) with(files map[postgres.Timeline]string) *RecoverConfig {
	r.RestoreCommand = "cp %f %p"
	r.Timelines = func(context.Context, string) ([]postgres.Timeline, error) {
		var list []postgres.Timeline
		for tl := range files {
			list = append(list, tl)
		}
		return list, nil
	}
	r.History = func(_ context.Context, _ string, tl postgres.Timeline) (postgres.History, error) {
		text, ok := files[tl]
		if !ok {
			return postgres.History{}, fmt.Errorf("%d: %w", tl, storage.ErrNotExist)
		}
		return postgres.ParseHistory(tl, []byte(text))
	}
	return &r
}

// The newest backup is taken from which the target can be reached, and the
// highest timeline that descends from it.
func TestFindForTarget(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	at := func(tl postgres.Timeline, start, stop postgres.LSN, hour int) *Backup {
		return a.push(t, small(start, func(m *Manifest) {
			m.Timeline, m.StopLSN = tl, stop.String()
			m.Stopped = time.Date(2026, 5, 1, hour, 0, 0, 0, time.UTC)
		}))
	}
	b8 := at(1, 0x8000028, 0x9000000, 8)
	b9 := at(1, 0x9000028, 0xA000000, 9)   // ends where 2 begins
	b10 := at(1, 0xA000028, 0xB000100, 10) // on what 2 and 3 left behind
	b11 := at(2, 0xB000028, 0xB500000, 11)
	b12 := at(4, 0xD000028, 0xD500000, 12)
	hour := func(h, m int) Target {
		return Target{Kind: TargetTime, Time: time.Date(2026, 5, 1, h, m, 0, 0, time.UTC)}
	}
	lsn := func(l postgres.LSN) Target { return Target{Kind: TargetLSN, LSN: l} }
	for name, tc := range map[string]struct {
		recover RecoverConfig
		want    *Backup
		tl      postgres.Timeline
		beside  int
	}{
		"end":                 {RecoverConfig{}, b12, 4, 0},
		"immediate":           {RecoverConfig{Target: Target{Kind: TargetImmediate}}, b12, 4, 0},
		"time":                {RecoverConfig{Target: hour(11, 30)}, b11, 4, 0},
		"the very stop":       {RecoverConfig{Target: hour(11, 0)}, b11, 4, 0},
		"before that":         {RecoverConfig{Target: hour(10, 59)}, b10, 1, 0},
		"several branches":    {RecoverConfig{Target: hour(8, 30)}, b8, 4, 1},
		"stop at the switch":  {RecoverConfig{Target: hour(9, 30)}, b9, 4, 1},
		"by number":           {RecoverConfig{Target: hour(12, 30), Timeline: "3"}, b9, 3, 0},
		"by number 2":         {RecoverConfig{Target: hour(12, 30), Timeline: "2"}, b11, 2, 0},
		"current":             {RecoverConfig{Target: hour(8, 30), Timeline: "current"}, b8, 1, 0},
		"LSN":                 {RecoverConfig{Target: lsn(0xB600000)}, b11, 4, 0},
		"LSN at the stop":     {RecoverConfig{Target: lsn(0xA000000)}, b9, 4, 1},
		"LSN on timeline one": {RecoverConfig{Target: lsn(0xC000000), Timeline: "1"}, b10, 1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := tc.recover.with(timelines())
			b, err := Find(t.Context(), FindConfig{Bucket: a.bucket, Query: "LATEST", Recover: r})
			if err != nil || b.Ref != tc.want.Ref {
				t.Fatalf("Find = %v, %v, want %s", b, err, tc.want.Ref)
			}
			way, err := r.resolve(t.Context(), b)
			if err != nil || way.timeline != tc.tl || len(way.beside) != tc.beside {
				t.Errorf("resolve = %+v, %v, want timeline %d and %d beside", way, err, tc.tl, tc.beside)
			}
		})
	}
	for name, tc := range map[string]struct {
		query   string
		recover RecoverConfig
		want    string
	}{
		"too early":        {"LATEST", RecoverConfig{Target: hour(7, 0)}, b8.Ref.String()},
		"LSN too early":    {"LATEST", RecoverConfig{Target: lsn(0x8500000)}, "no backup leads to the target"},
		"unknown timeline": {"LATEST", RecoverConfig{Timeline: "7"}, "timeline 7"},
		"xid":              {"LATEST", RecoverConfig{Target: Target{Kind: TargetXID, XID: 800}}, "name a backup"},
		"name":             {"LATEST", RecoverConfig{Target: Target{Kind: TargetName, Name: "x"}}, "name a backup"},
		"bad timeline":     {"LATEST", RecoverConfig{Timeline: "newest"}, "latest, current or a number"},
		"bad action":       {"LATEST", RecoverConfig{Action: "reboot"}, "promote, pause or shutdown"},
		"standby":          {"LATEST", RecoverConfig{Standby: true, Target: hour(9, 0)}, "a standby"},
	} {
		_, err := Find(t.Context(), FindConfig{Bucket: a.bucket, Query: tc.query, Recover: tc.recover.with(timelines())})
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: Find = %v, want an error with %q", name, err, tc.want)
		}
	}
	cfg := a.config(b8, newTarget(t))
	cfg.Recover, cfg.DryRun = (RecoverConfig{}).with(timelines()), true
	plan, err := Fetch(t.Context(), cfg)
	if err != nil || plan.Recovery.Timeline != "4" || !strings.Contains(strings.Join(plan.Warnings, ""), "Timelines 3 branch off") {
		t.Errorf("Fetch = %+v, %v, want timeline 4 and a word of 3", plan, err)
	}
	// Named backups are checked when they are fetched.
	for name, tc := range map[string]struct {
		b       *Backup
		recover RecoverConfig
		want    string
	}{
		"time":     {b11, RecoverConfig{Target: hour(10, 0)}, "complete at 2026-05-01 11:00:00 UTC only"},
		"LSN":      {b11, RecoverConfig{Target: lsn(0xB000000)}, "complete at LSN 0/B500000 only"},
		"timeline": {b10, RecoverConfig{Timeline: "2"}, "doesn't pass"},
	} {
		cfg := a.config(tc.b, newTarget(t))
		cfg.Recover = tc.recover.with(timelines())
		if _, err := Fetch(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: Fetch = %v, want an error with %q", name, err, tc.want)
		}
	}
}
