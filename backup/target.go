package backup

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"wal-e/internal/fault"
	"wal-e/internal/postgres"
)

// A TargetKind says what ends a recovery.
type TargetKind int

// Kinds of targets.
const (
	TargetEnd       TargetKind = iota // of the WAL in the archive
	TargetImmediate                   // as soon as the cluster is consistent
	TargetTime
	TargetLSN
	TargetXID
	TargetName // of a restore point
)

// A Target is where a recovery ends. The zero value is the end of the WAL.
type Target struct {
	Kind TargetKind
	Time time.Time
	LSN  postgres.LSN
	XID  uint64
	Name string
}

// TargetOptions are the ways in which people say a target. At most one is set.
type TargetOptions struct {
	Time, LSN, XID, Name string
	Immediate            bool
}

// ParseTarget parses what people said. A time without a zone is taken to be in
// zone (nil: UTC); the report of a fetch prints it back in both.
func ParseTarget(o TargetOptions, zone *time.Location) (Target, error) {
	var given []string
	t := Target{Name: o.Name}
	var err error
	if o.Time != "" {
		given = append(given, "a time")
		t.Kind = TargetTime
		t.Time, err = parseTargetTime(o.Time, zone)
	}
	if o.LSN != "" && err == nil {
		given = append(given, "an LSN")
		t.Kind = TargetLSN
		t.LSN, err = postgres.ParseLSN(o.LSN)
	}
	if o.XID != "" && err == nil {
		given = append(given, "a transaction")
		t.Kind = TargetXID
		if t.XID, err = strconv.ParseUint(o.XID, 10, 64); err != nil || t.XID < firstNormalXID {
			err = fault.BadTarget.Errorf("%q is not a transaction id: want a number from %d on", o.XID, firstNormalXID)
		}
	}
	if o.Name != "" && err == nil {
		given = append(given, "a restore point")
		t.Kind = TargetName
		if len(o.Name) > maxRestorePoint || strings.ContainsAny(o.Name, "\n\r\x00") {
			err = fault.BadTarget.Errorf("%q is not the name of a restore point: want at most %d bytes on one line", o.Name, maxRestorePoint)
		}
	}
	if o.Immediate && err == nil {
		given = append(given, "immediate")
		t.Kind = TargetImmediate
	}
	if err == nil && len(given) > 1 {
		err = fault.BadTarget.Errorf("a recovery has one target, not %s", strings.Join(given, " and "))
	}
	if err != nil {
		return Target{}, fmt.Errorf("recovery target: %w", err)
	}
	return t, nil
}

const (
	firstNormalXID  = 3
	maxRestorePoint = 63 // MAXFNAMELEN - 1
)

// parseTargetTime parses the forms in which PostgreSQL and people write times.
func parseTargetTime(s string, zone *time.Location) (time.Time, error) {
	if zone == nil {
		zone = time.UTC
	}
	plain := strings.TrimSpace(s)
	if day := len("2006-01-02"); len(plain) > day && plain[day] == 'T' {
		plain = plain[:day] + " " + plain[day+1:]
	}
	for _, layout := range []string{"2006-01-02 15:04:05.999999999", "2006-01-02 15:04", "2006-01-02"} {
		for _, offset := range []string{"Z07:00", "Z0700", "Z07", " Z07:00", " Z0700", " Z07"} {
			if t, err := time.Parse(layout+offset, plain); err == nil {
				return checkTargetTime(s, t)
			}
		}
		if t, err := time.ParseInLocation(layout, plain, zone); err == nil {
			return checkTargetTime(s, t)
		}
		// An abbreviation such as CEST is ambiguous and not taken, a name is.
		if i := strings.LastIndexByte(plain, ' '); i > 0 && (strings.Contains(plain[i:], "/") || plain[i:] == " UTC" || plain[i:] == " GMT") {
			named, err := time.LoadLocation(plain[i+1:])
			if err != nil {
				return time.Time{}, fmt.Errorf("%q: %w", s, err)
			}
			if t, err := time.ParseInLocation(layout, plain[:i], named); err == nil {
				return checkTargetTime(s, t)
			}
		}
	}
	return time.Time{}, fault.BadTarget.Errorf("%q is not a time: want a form like 2026-05-01 14:30:00+02, 2026-05-01T12:30:00Z or 2026-05-01 14:30:00 Europe/Berlin", s)
}

// checkTargetTime refuses what PostgreSQL couldn't read back.
func checkTargetTime(s string, t time.Time) (time.Time, error) {
	if y := t.UTC().Year(); y < 2000 || y > 9999 {
		return time.Time{}, fault.BadTarget.Errorf("%q is in the year %d", s, y)
	}
	return t, nil
}

// Describe says in words where the recovery ends, times in UTC and in zone.
func (t Target) Describe(zone *time.Location) string {
	switch t.Kind {
	case TargetImmediate:
		return "as soon as the cluster is consistent"
	case TargetTime:
		s := "at " + t.Time.UTC().Format(timeLayout) + " UTC"
		if zone != nil && zone != time.UTC {
			s += ", which is " + t.Time.In(zone).Format(timeLayout+" -07:00 (MST)") + " here"
		}
		return s
	case TargetLSN:
		return "at LSN " + t.LSN.String()
	case TargetXID:
		return "at transaction " + strconv.FormatUint(t.XID, 10)
	case TargetName:
		return fmt.Sprintf("at the restore point %q", t.Name)
	}
	return "at the end of the WAL in the archive"
}

const timeLayout = "2006-01-02 15:04:05.999999"

// setting returns the parameter that sets the target; TargetEnd has none.
func (t Target) setting() (Setting, bool) {
	switch t.Kind {
	case TargetImmediate:
		return Setting{"recovery_target", "immediate"}, true
	case TargetTime:
		return Setting{"recovery_target_time", t.Time.UTC().Format("2006-01-02 15:04:05.000000") + "+00"}, true
	case TargetLSN:
		return Setting{"recovery_target_lsn", t.LSN.String()}, true
	case TargetXID:
		return Setting{"recovery_target_xid", strconv.FormatUint(t.XID, 10)}, true
	case TargetName:
		return Setting{"recovery_target_name", t.Name}, true
	}
	return Setting{}, false
}
