package gc

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"wal-e/internal/fault"
	"wal-e/internal/postgres"
	"wal-e/internal/runid"
)

// maxPeriod bounds periods: a hundred years.
const maxPeriod = 36525 * 24 * time.Hour

// ParsePeriod parses a number of hours, days or weeks such as 36h, 14d or 2w.
func ParsePeriod(s string) (time.Duration, error) {
	bad := fault.Usage.Errorf("%q is not a period: want a number and h, d or w, such as 14d", s)
	if s == "" {
		return 0, bad
	}
	var unit time.Duration
	switch s[len(s)-1] {
	case 'h':
		unit = time.Hour
	case 'd':
		unit = 24 * time.Hour
	case 'w':
		unit = 7 * 24 * time.Hour
	default:
		return 0, bad
	}
	digits := s[:len(s)-1]
	if digits == "" || strings.Trim(digits, "0123456789") != "" {
		return 0, bad
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n > int64(maxPeriod/unit) {
		return 0, fault.Usage.Errorf("%q is too long a period: want at most a hundred years", s)
	}
	return time.Duration(n) * unit, nil
}

// FormatPeriod writes a period in the largest unit that fits, as ParsePeriod
// reads it. Less than an hour is left out.
func FormatPeriod(d time.Duration) string {
	hours := int64(d / time.Hour)
	switch {
	case hours == 0 || hours%24 != 0:
		return strconv.FormatInt(hours, 10) + "h"
	case hours%(7*24) != 0 || hours < 4*7*24:
		return strconv.FormatInt(hours/24, 10) + "d"
	}
	return strconv.FormatInt(hours/(7*24), 10) + "w"
}

// ParseRetain parses what follows "retain": a number of backups or a period.
// One of the results is zero.
func ParseRetain(s string) (count int, period time.Duration, err error) {
	if digits := strings.TrimPrefix(s, "-"); digits != "" && strings.Trim(digits, "0123456789") == "" {
		n, err := strconv.Atoi(s)
		switch {
		case err != nil:
			return 0, 0, fault.Usage.Errorf("retain %s: that is not a number of backups", s)
		case n < 0:
			return 0, 0, fault.Usage.Errorf("retain %s: want a number of backups to keep, at least 1", s)
		case n == 0:
			return 0, 0, fault.Usage.Errorf("retain %s keeps no backup: to delete all of them use delete everything", s)
		}
		return n, 0, nil
	}
	if period, err = ParsePeriod(s); err != nil {
		return 0, 0, fault.Usage.Errorf("retain %q: want a number of backups to keep or a period such as 14d", s)
	}
	if period == 0 {
		return 0, 0, fault.Usage.Errorf("retain %s keeps no backup: to delete all of them use delete everything", s)
	}
	return 0, period, nil
}

// A Position is what "before" is followed by: a backup or a segment. The backup
// need not exist.
type Position struct {
	Name    string   // base_<SEGMENT>_<OFFSET>, or "" when a segment was given
	Run     runid.ID // zero: the newest of that name
	Segment string   // 24 hexadecimal digits
}

// sentinelSuffix follows a name in the classic layout, whose records print it.
const sentinelSuffix = "_backup_stop_sentinel.json"

// ParsePosition parses NAME, NAME@RUN or SEGMENT. A name may have the suffix
// that it has as a classic object.
func ParsePosition(s string) (*Position, error) {
	bad := fault.Usage.Errorf("%q is not a position: want a backup such as base_000000010000000000000004_00000040, NAME@RUN, or a WAL segment of 24 hexadecimal digits", s)
	name, run, one := strings.Cut(s, "@")
	p := &Position{Name: strings.TrimSuffix(name, sentinelSuffix)}
	if rest, ok := strings.CutPrefix(p.Name, "base_"); ok {
		segment, offset, ok := strings.Cut(rest, "_")
		if !ok || len(offset) != 8 || strings.Trim(offset, "0123456789ABCDEF") != "" {
			return nil, bad
		}
		p.Segment = segment
	} else {
		p.Name, p.Segment = "", s
	}
	// Which segments there are depends on their size; the smallest has the most.
	if _, err := postgres.ParseSegment(p.Segment, postgres.MinSegmentSize); err != nil {
		return nil, bad
	}
	if one {
		var err error
		if p.Run, err = runid.Parse(run); err != nil {
			return nil, fmt.Errorf("%q is not a position: %w", s, err)
		}
	}
	return p, nil
}

// String returns what ParsePosition parses.
func (p *Position) String() string {
	switch {
	case p.Name == "":
		return p.Segment
	case p.Run != runid.ID{}:
		return p.Name + "@" + p.Run.String()
	}
	return p.Name
}
