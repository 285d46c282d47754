package gc_test

import (
	"slices"
	"strings"
	"testing"

	"wal-e/chunkstore"
	"wal-e/gc"
	"wal-e/internal/runid"
)

const (
	bucketURL = "file://localhost/srv/archive"
	dryHint   = "This is only a dry run -- no actual data is being deleted"
)

func TestRecords(t *testing.T) {
	t.Parallel()
	key := func(r retained) string { return bucketURL + "/" + r.backup().Ref.OutcomeKey() }
	n := nightly(3)
	older := func(r retained) string { return "Deleting keys older than " + key(r) + "." }
	gone := func(r retained, taken, why string) gc.Record {
		return gc.Record{
			Msg:    "deleting a base backup sentinel file",
			Detail: "The key being deleted is " + key(r) + ".\nIt was taken " + taken + " and " + why + ".",
			Hint:   dryHint,
		}
	}
	marked := catalogOf(n...)
	marked.Keeps[marked.Backups[0].Ref] = gc.Keep{}
	for name, tt := range map[string]struct {
		catalog *gc.Catalog
		policy  gc.Policy
		want    []gc.Record
	}{
		"none": {catalogOf(), gc.Policy{Retain: 1}, []gc.Record{{Msg: "Not deleting any data.", Detail: "No existing base backups."}}},
		"one":  {catalogOf(n[2]), gc.Policy{Retain: 3}, []gc.Record{{Msg: "Retaining existing base backup.", Hint: older(n[2])}}},
		"all":  {catalogOf(n...), gc.Policy{Retain: 3}, []gc.Record{{Msg: "Retaining all 3 base backups.", Hint: older(n[0])}}},
		"some": {catalogOf(n...), gc.Policy{Retain: 1}, []gc.Record{
			{Msg: "Deleting 2 oldest base backups.", Detail: "Found 3 total base backups.", Hint: older(n[2])},
			gone(n[0], "2027-03-29T00:00:00Z", "no rule keeps it"),
			gone(n[1], "2027-03-30T00:00:00Z", "no rule keeps it"),
		}},
		"marked": {marked, gc.Policy{Retain: 1}, []gc.Record{
			{Msg: "Deleting 1 base backups.", Detail: "Found 3 total base backups.", Hint: older(n[2])},
			{
				Msg: "keeping a base backup with just its own wal files",
				Detail: "The key being kept is " + key(n[0]) + ".\nIt was taken 2027-03-29T00:00:00Z and is marked to be kept.\n" +
					"The wal files being kept are 0000000100000003000000D4 to 0000000100000003000000D6.",
				Hint: "To release it run wal-e backup-mark " + marked.Backups[0].Ref.String() + " --release",
			},
			gone(n[1], "2027-03-30T00:00:00Z", "no rule keeps it"),
		}},
		"floor": {catalogOf(n[1], n[2]), gc.Policy{Retain: 1, KeepWithin: 7 * day}, []gc.Record{
			{Msg: "Retaining all 2 base backups.", Hint: older(n[1])},
			{Msg: "keeping a base backup", Detail: "The key being kept is " + key(n[1]) + ".\nIt was taken 2027-03-30T00:00:00Z and is protected by --keep-within 7d."},
		}},
		"before": {catalogOf(n...), gc.Policy{Before: position(t, n[1].backup().Ref.Name)}, []gc.Record{
			gone(n[0], "2027-03-29T00:00:00Z", "is before "+n[1].backup().Ref.Name),
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, err := gc.Decide(tt.policy, tt.catalog, today())
			if err != nil {
				t.Fatal(err)
			}
			if got := p.Records(bucketURL, true); !slices.Equal(got, tt.want) {
				t.Errorf("Records = %+v\nwant %+v", got, tt.want)
			}
			for _, r := range p.Records(bucketURL, false) {
				if r.Hint == dryHint {
					t.Errorf("record of what is done: %+v", r)
				}
			}
		})
	}
}

// The texts of the classic program, as it printed them.
func TestKeyRecord(t *testing.T) {
	t.Parallel()
	classic := gc.Backup{Ref: chunkstore.Ref{Name: "base_000000010000000000000004_00000216"}, Classic: true}
	if got, want := classic.SentinelKey(), "basebackups_005/base_000000010000000000000004_00000216_backup_stop_sentinel.json"; got != want {
		t.Errorf("SentinelKey() = %s, want %s", got, want)
	}
	outcome := chunkstore.Ref{Name: classic.Ref.Name, Run: runid.ID{1}}.OutcomeKey()
	for key, kind := range map[string]string{
		classic.SentinelKey(): "a base backup sentinel file",
		"basebackups_005/base_000000010000000000000004_00000216/extended_version.txt":                 "a extended version metadata file",
		"basebackups_005/base_000000010000000000000004_00000216/tar_partitions/part_00000000.tar.lzo": "a base backup volume",
		"wal_005/000000010000000000000003.lzo":                                                        "a wal file",
		"wal_005/000000010000000000000004.000000D8.backup.lzo":                                        "a backup history file",
		outcome: "a base backup sentinel file",
		"chunks_006/packs/" + (runid.ID{1}).String() + "/0":                  "a base backup volume",
		"wal_006/" + oldSystem + "/000000010000000000000003":                 "a wal file",
		"wal_006/" + oldSystem + "/000000010000000000000004.000000D8.backup": "a backup history file",
	} {
		want := gc.Record{Msg: "deleting " + kind, Detail: "The key being deleted is " + bucketURL + "/" + key + "."}
		if got := gc.KeyRecord(bucketURL, key, false, false); got != want {
			t.Errorf("KeyRecord(%s) = %+v, want %+v", key, got, want)
		}
		want.Msg, want.Hint = "deleting part of a base backup", dryHint
		if strings.HasPrefix(key, "wal_") {
			want.Msg = "deleting part of wal logs"
		}
		if got := gc.KeyRecord(bucketURL, key, true, true); got != want {
			t.Errorf("KeyRecord(%s), everything = %+v, want %+v", key, got, want)
		}
	}
	if r := gc.StartRecord(true); r != (gc.Record{Msg: "performing dry run of data deletion"}) {
		t.Errorf("StartRecord(true) = %+v", r)
	}
	if r := gc.StartRecord(false); r != (gc.Record{Msg: "deleting data in the store"}) {
		t.Errorf("StartRecord(false) = %+v", r)
	}
}
