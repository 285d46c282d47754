package gc_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"wal-e/gc"
)

func TestParseRetain(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		in     string
		count  int
		period time.Duration
		err    string
	}{
		{in: "7", count: 7},
		{in: "007", count: 7},
		{in: "1000000", count: 1000000},
		{in: "14d", period: 14 * day},
		{in: "36h", period: 36 * time.Hour},
		{in: "2w", period: 14 * day},
		{in: "36525d", period: 36525 * day},
		{in: "36526d", err: "want a number"},
		{in: "0", err: "delete everything"},
		{in: "00", err: "delete everything"},
		{in: "-0", err: "delete everything"},
		{in: "0d", err: "delete everything"},
		{in: "-1", err: "at least 1"},
		{in: "-14d", err: "want a number"},
		{in: "99999999999999999999", err: "not a number of backups"},
		{in: "", err: "want a number"},
		{in: "-", err: "want a number"},
		{in: "+7", err: "want a number"},
		{in: "d", err: "want a number"},
		{in: "7D", err: "want a number"},
		{in: "7 d", err: "want a number"},
		{in: "1.5d", err: "want a number"},
		{in: "7m", err: "want a number"}, // minutes or months?
		{in: "1w2d", err: "want a number"},
	} {
		count, period, err := gc.ParseRetain(tt.in)
		switch {
		case tt.err == "" && (err != nil || count != tt.count || period != tt.period):
			t.Errorf("ParseRetain(%q) = %d, %s, %v, want %d, %s", tt.in, count, period, err, tt.count, tt.period)
		case tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)):
			t.Errorf("ParseRetain(%q) = %d, %s, %v, want an error with %q", tt.in, count, period, err, tt.err)
		}
	}
}

func TestFormatPeriod(t *testing.T) {
	t.Parallel()
	for want, d := range map[string]time.Duration{"0h": 0, "1h": time.Hour, "36h": 36 * time.Hour, "1d": day, "14d": 14 * day, "4w": 28 * day, "30d": 30 * day, "52w": 364 * day} {
		if got := gc.FormatPeriod(d); got != want {
			t.Errorf("FormatPeriod(%s) = %s, want %s", d, got, want)
		}
	}
}

func TestParsePosition(t *testing.T) {
	t.Parallel()
	const segment = "0000000100000003000000DE"
	run := "0" + strings.Repeat("7", 37) + "0"
	for in, want := range map[string]string{
		segment:                                segment,
		"base_" + segment + "_00000040":        "base_" + segment + "_00000040",
		"base_" + segment + "_000000A1":        "base_" + segment + "_000000A1",
		"base_" + segment + "_00000040@" + run: "base_" + segment + "_00000040@" + run,
		"base_" + segment + "_00000040_backup_stop_sentinel.json": "base_" + segment + "_00000040",
	} {
		p, err := gc.ParsePosition(in)
		if err != nil || p.String() != want || p.Segment != segment {
			t.Errorf("ParsePosition(%q) = %+v, %v, want %s", in, p, err, want)
		}
	}
	for _, in := range []string{
		"", "LATEST", segment[1:], segment + "0", strings.ToLower(segment), segment + ".lzo", segment + "@" + run, "base_", "base_" + segment,
		"base_" + segment + "_", "base_" + segment + "_0000040", "base_" + segment + "_000000400", "base_" + segment + "_00000040@", "base_" + segment + "_00000040@x",
		"base_" + segment + "_0000004x", "base_000000000000000000000001_00000040", "base_" + segment + "_00000040 ", "base_" + segment + "_00000040/x",
	} {
		if p, err := gc.ParsePosition(in); err == nil {
			t.Errorf("ParsePosition(%q) = %+v, want an error", in, p)
		}
	}
}

func TestParseUntil(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"2027-01-31":                "2027-02-01T00:00:00Z",
		"2027-01-31T18:00:00Z":      "2027-01-31T18:00:00Z",
		"2027-01-31T18:00:00+01:00": "2027-01-31T17:00:00Z",
		"2027-01-31 18:00:00+01:00": "2027-01-31T17:00:00Z",
		"2027-01-31 18:00Z":         "2027-01-31T18:00:00Z",
	} {
		if got, err := gc.ParseUntil(in); err != nil || got.Format(time.RFC3339) != want {
			t.Errorf("ParseUntil(%q) = %s, %v, want %s", in, got, err, want)
		}
	}
	for _, in := range []string{"", "tomorrow", "2027-02-30", "2027-01-31T18:00:00", "14d"} {
		if got, err := gc.ParseUntil(in); err == nil {
			t.Errorf("ParseUntil(%q) = %s, want an error", in, got)
		}
	}
}

func FuzzParsePeriod(f *testing.F) {
	for _, s := range []string{"7d", "36h", "2w", "0h", "-1d", "99999999999999999999d", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, err := gc.ParsePeriod(s)
		if err != nil {
			return
		}
		if d < 0 {
			t.Errorf("ParsePeriod(%q) = %s", s, d)
		}
		if again, err := gc.ParsePeriod(gc.FormatPeriod(d)); err != nil || again != d {
			t.Errorf("ParsePeriod(%q) = %s, printed and parsed again %s, %v", s, d, again, err)
		}
	})
}

func FuzzParseRetain(f *testing.F) {
	for _, s := range []string{"7", "14d", "0", "-1", "1w", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		count, period, err := gc.ParseRetain(s)
		if err == nil && (count <= 0) == (period <= 0) {
			t.Errorf("ParseRetain(%q) = %d, %s", s, count, period)
		}
		if err == nil && (gc.Policy{Retain: count, RetainFor: period}).Check() != nil {
			t.Errorf("ParseRetain(%q) = %d, %s is no policy", s, count, period)
		}
	})
}

func FuzzParsePosition(f *testing.F) {
	for _, s := range []string{"0000000100000003000000DE", "base_0000000100000003000000DE_00000040", "base_0000000100000003000000DE_00000040@" + strings.Repeat("0", 39)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := gc.ParsePosition(s)
		if err != nil {
			return
		}
		if again, err := gc.ParsePosition(p.String()); err != nil || *again != *p {
			t.Errorf("ParsePosition(%q) = %+v, printed and parsed again %+v, %v", s, p, again, err)
		}
	})
}

func TestOldVersions(t *testing.T) {
	t.Parallel()
	folders := gc.OldVersions()
	if len(folders) != 10 || !slices.IsSorted(folders) || folders[0] != "basebackups_000/" || folders[9] != "wal_004/" {
		t.Errorf("OldVersions() = %v", folders)
	}
	for _, f := range folders {
		if strings.Contains(f, "005") || strings.Contains(f, "006") {
			t.Errorf("OldVersions() has %s, which is in use", f)
		}
	}
}
