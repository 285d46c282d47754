package compat

import (
	"encoding/json"
	"fmt"
	"path"
	"strconv"
	"strings"

	"wal-e/internal/fault"
	"wal-e/internal/postgres"
)

// maxSentinel bounds a sentinel, in bytes: room for 10,000 tablespaces.
const maxSentinel = 4 << 20

// A SentinelFile is what the sentinel of a classic backup says.
type SentinelFile struct {
	StopSegment  string // 24 digits
	StopOffset   string // decimal, or hexadecimal of an offline backup
	ExpandedSize int64  // bytes in all files; -1 when it doesn't say
	Spec         Spec
}

// A Spec is the part of a sentinel, or all of a restore specification, that says
// where data were, or are to go.
type Spec struct {
	BasePrefix string // the data directory; may be empty
	// Tablespaces gives their directories by OID, absolute and clean.
	Tablespaces map[uint32]string
}

// ParseSentinel parses a sentinel. Fields that it doesn't know count for nothing,
// and early sentinels have no spec.
func ParseSentinel(b []byte) (SentinelFile, error) {
	type sentinel struct { // its name stands in errors
		Segment *string         `json:"wal_segment_backup_stop"`
		Offset  string          `json:"wal_segment_offset_backup_stop"`
		Size    *int64          `json:"expanded_size_bytes"`
		Spec    json.RawMessage `json:"spec"`
	}
	var fields sentinel
	if len(b) > maxSentinel {
		return SentinelFile{}, fault.BadMember.Errorf("sentinel of %d bytes: at most %d are allowed", len(b), maxSentinel)
	}
	if err := json.Unmarshal(b, &fields); err != nil {
		return SentinelFile{}, fault.BadMember.Errorf("sentinel: %w", err)
	}
	s := SentinelFile{StopOffset: fields.Offset, ExpandedSize: -1}
	if fields.Segment == nil || len(*fields.Segment) != 24 || !isHex(*fields.Segment) {
		return SentinelFile{}, fault.BadMember.Errorf("sentinel: wal_segment_backup_stop is no segment")
	}
	s.StopSegment = *fields.Segment
	if len(s.StopOffset) > 16 || !isHex(s.StopOffset) {
		return SentinelFile{}, fault.BadMember.Errorf("sentinel: wal_segment_offset_backup_stop %.40q is no offset", s.StopOffset)
	}
	if fields.Size != nil {
		if s.ExpandedSize = *fields.Size; s.ExpandedSize < 0 {
			return SentinelFile{}, fault.BadMember.Errorf("sentinel: expanded_size_bytes is %d", s.ExpandedSize)
		}
	}
	if len(fields.Spec) == 0 || string(fields.Spec) == "null" {
		return s, nil
	}
	var err error
	if s.Spec, err = ParseSpec(fields.Spec); err != nil {
		return SentinelFile{}, fault.BadMember.Errorf("sentinel: spec: %w", err)
	}
	return s, nil
}

// ParseSpec parses a spec:
//
//	{"16390": {"loc": "/data/ts1/", "link": "pg_tblspc/16390"},
//	 "tablespaces": ["16390"], "base_prefix": "/var/lib/pg/restored"}
func ParseSpec(b []byte) (Spec, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(b, &fields); err != nil {
		return Spec{}, err
	}
	s := Spec{Tablespaces: make(map[uint32]string)}
	if raw, ok := fields["base_prefix"]; ok {
		if err := json.Unmarshal(raw, &s.BasePrefix); err != nil {
			return Spec{}, fmt.Errorf("base_prefix: %w", err)
		}
	}
	var oids []string
	if raw, ok := fields["tablespaces"]; ok {
		if err := json.Unmarshal(raw, &oids); err != nil {
			return Spec{}, fmt.Errorf("tablespaces: %w", err)
		}
	}
	for _, number := range oids {
		oid, ok := parseOID(number)
		if !ok {
			return Spec{}, fault.BadMember.Errorf("tablespace %.40q: want an OID", number)
		}
		var at struct{ Loc, Link string }
		raw, ok := fields[number]
		if !ok {
			return Spec{}, fault.BadMember.Errorf("tablespace %s: nothing says where it was", number)
		}
		if err := json.Unmarshal(raw, &at); err != nil {
			return Spec{}, fmt.Errorf("tablespace %s: %w", number, err)
		}
		if !path.IsAbs(at.Loc) || strings.ContainsRune(at.Loc, 0) || at.Link != "" && path.Clean(at.Link) != "pg_tblspc/"+number {
			return Spec{}, fault.BadMember.Errorf("tablespace %s: loc is %q and link %q: want an absolute path and pg_tblspc/%s", number, at.Loc, at.Link, number)
		}
		s.Tablespaces[oid] = path.Clean(at.Loc)
	}
	return s, nil
}

// parseOID parses an OID as PostgreSQL writes it.
func parseOID(s string) (uint32, bool) {
	n, err := strconv.ParseUint(s, 10, 32)
	return uint32(n), err == nil && n != 0 && s[0] != '0'
}

// Offline reports whether the sentinel of the backup n is that of one taken
// while the server was down: it begins and ends at the same place.
func (s SentinelFile) Offline(n Name) bool {
	return s.StopSegment == n.Segment && s.StopOffset == n.Offset
}

// ParseServerVersion returns the major version of which extended_version.txt
// speaks, the answer to version() or what pg_config says.
func ParseServerVersion(s string) (postgres.Version, error) {
	rest, ok := strings.CutPrefix(s, "PostgreSQL ")
	if ok {
		end := strings.IndexFunc(rest, func(r rune) bool { return (r < '0' || r > '9') && r != '.' })
		if end >= 0 {
			rest = rest[:end] // behind it there may be "beta1", or a comma
		}
		major, minor, _ := strings.Cut(rest, ".")
		if n, err := strconv.Atoi(major); err == nil && n < 10 {
			minor, _, _ = strings.Cut(minor, ".")
			major += "." + minor
		}
		if v, err := postgres.ParseVersion(major); err == nil {
			return v, nil
		}
	}
	return 0, fault.BadMember.Errorf("%.60q doesn't say a version of PostgreSQL", s)
}
