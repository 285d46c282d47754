package compat_test

import (
	"strings"
	"testing"

	"wal-e/compat"
)

func TestParseName(t *testing.T) {
	t.Parallel()
	for _, s := range []string{liveName, "base_0000000100000000000000A1_000000A1", "base_0000000A000000FF000000FF_16777215"} {
		if n, err := compat.ParseName(s); err != nil || n.String() != s {
			t.Errorf("ParseName(%s) = %s, %v", s, n, err)
		}
	}
	for _, s := range []string{
		"", "LATEST", "base_", "base_00000001000000000000000_00000216", "base_0000000100000000000000a1_000000A1", liveName + "x", liveName + "@x",
		"Base" + liveName[4:], "base_000000010000000000000004-00000216", " " + liveName, liveName[:37],
	} {
		if n, err := compat.ParseName(s); err == nil {
			t.Errorf("ParseName(%q) = %s, want an error", s, n)
		}
	}
}

// Every key that the original makes, and what stands beside them in a prefix that
// people have touched.
func TestParseKey(t *testing.T) {
	t.Parallel()
	n, err := compat.ParseName(liveName)
	if err != nil {
		t.Fatal(err)
	}
	const backups = "basebackups_005/"
	for key, want := range map[string]compat.Key{
		n.Sentinel():         {Kind: compat.Sentinel, Name: n},
		n.Version():          {Kind: compat.Version, Name: n},
		n.Partition(0):       {Kind: compat.Partition, Name: n},
		n.Partition(6144):    {Kind: compat.Partition, Name: n, Number: 6144},
		n.Partition(1 << 30): {Kind: compat.Partition, Name: n, Number: 1 << 30},

		"wal_005/000000010000000000000004.lzo":                 {Kind: compat.WAL, File: "000000010000000000000004"},
		"wal_005/00000002.history.lzo":                         {Kind: compat.WAL, File: "00000002.history"},
		"wal_005/000000010000000000000004.000000D8.backup.lzo": {Kind: compat.WAL, File: "000000010000000000000004.000000D8.backup"},
		"wal_005/000000010000000000000004.partial.lzo":         {Kind: compat.WAL, File: "000000010000000000000004.partial"},

		"wal_005/README": {},
		"wal_005/.lzo":   {},
		"wal_005/sub/000000010000000000000004.lzo":                       {},
		"wal_005/000000010000000000000004.lzo.tmp":                       {},
		"wal_004/000000010000000000000004.lzo":                           {},
		backups + "notes.txt":                                            {},
		backups + liveName:                                               {},
		backups + liveName + "x/extended_version.txt":                    {},
		backups + liveName + "_backup_stop_sentinel.json.old":            {},
		backups + liveName + "/other.txt":                                {Name: n},
		backups + liveName + "/tar_partitions/zzz":                       {Name: n},
		backups + liveName + "/tar_partitions/part_0.tar.lzo":            {Name: n},
		backups + liveName + "/tar_partitions/part_-0000001.tar.lzo":     {Name: n},
		backups + liveName + "/tar_partitions/part_00000000.tar.lzo.tmp": {Name: n},
		backups + liveName + "/tar_partitions/part_99999999999.tar.lzo":  {Name: n},
		backups + "base_0000000100000000000000a1_000000A1/x":             {},
		"": {},
	} {
		if got := compat.ParseKey(key); got != want {
			t.Errorf("ParseKey(%s) = %+v, want %+v", key, got, want)
		}
	}
}

func TestParseServerVersion(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]string{
		"PostgreSQL 13.23 on x86_64-pc-linux-gnu, compiled by gcc": "13",
		"PostgreSQL 15.20 (Debian 15.20-0+deb12u1)":                "15",
		"PostgreSQL 9.6.24 on x86_64":                              "9.6",
		"PostgreSQL 9.6":                                           "9.6",
		"PostgreSQL 10beta1 on x86_64":                             "10",
		"PostgreSQL 18.4":                                          "18",
	} {
		if v, err := compat.ParseServerVersion(s); err != nil || v.Major() != want {
			t.Errorf("ParseServerVersion(%s) = %v, %v, want %s", s, v, err, want)
		}
	}
	for _, s := range []string{"", "PostgreSQL", "PostgreSQL x", "EnterpriseDB 9.6", "PostgreSQL 99999999999"} {
		if v, err := compat.ParseServerVersion(s); err == nil {
			t.Errorf("ParseServerVersion(%q) = %v, want an error", s, v)
		}
	}
}

func FuzzParseKey(f *testing.F) {
	f.Add("basebackups_005/" + liveName + "/tar_partitions/part_00000000.tar.lzo")
	f.Add("basebackups_005/" + liveName + "_backup_stop_sentinel.json")
	f.Add("wal_005/00000002.history.lzo")
	f.Fuzz(func(t *testing.T, key string) {
		k := compat.ParseKey(key)
		back := map[compat.Kind]string{
			compat.Sentinel: k.Name.Sentinel(), compat.Version: k.Name.Version(), compat.Partition: k.Name.Partition(k.Number), compat.WAL: compat.WALKey(k.File),
		}
		if k.Kind != compat.Other && back[k.Kind] != key {
			t.Errorf("ParseKey(%q) = %+v, which is %q", key, k, back[k.Kind])
		}
	})
}

func FuzzParseSentinel(f *testing.F) {
	f.Add([]byte(`{"wal_segment_backup_stop": "000000010000000000000007", "wal_segment_offset_backup_stop": "00000432", "expanded_size_bytes": 8278120, ` +
		`"spec": {"base_prefix": "/srv/", "tablespaces": ["16842"], "16842": {"loc": "/srv/ts/", "link": "pg_tblspc/16842"}}}`))
	f.Add([]byte(`{"wal_segment_backup_stop": "000000010000000000000007"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := compat.ParseSentinel(b)
		if err != nil {
			return
		}
		if len(s.StopSegment) != 24 || s.ExpandedSize < -1 {
			t.Errorf("ParseSentinel(%s) = %+v", b, s)
		}
		for oid, dir := range s.Spec.Tablespaces {
			if oid == 0 || !strings.HasPrefix(dir, "/") || strings.Contains(dir, "/../") {
				t.Errorf("tablespace %d in %q", oid, dir)
			}
		}
	})
}
