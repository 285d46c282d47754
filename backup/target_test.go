package backup

import (
	"strings"
	"testing"
	"time"
)

func TestParseTarget(t *testing.T) {
	t.Parallel()
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		in   TargetOptions
		want string // the setting, or part of the error
		ok   bool
	}{
		{TargetOptions{}, "", true},
		{TargetOptions{Immediate: true}, "recovery_target = 'immediate'", true},
		{TargetOptions{Time: "2026-05-01 14:30:00.123456+02"}, "recovery_target_time = '2026-05-01 12:30:00.123456+00'", true},
		{TargetOptions{Time: "2026-05-01T12:30:00Z"}, "recovery_target_time = '2026-05-01 12:30:00.000000+00'", true},
		{TargetOptions{Time: "2026-05-01T12:30:00.5-0330"}, "recovery_target_time = '2026-05-01 16:00:00.500000+00'", true},
		{TargetOptions{Time: "2026-05-01 14:30:00 +02:00"}, "recovery_target_time = '2026-05-01 12:30:00.000000+00'", true},
		{TargetOptions{Time: "2026-05-01 14:30:00"}, "recovery_target_time = '2026-05-01 12:30:00.000000+00'", true},
		{TargetOptions{Time: "2026-01-01 14:30"}, "recovery_target_time = '2026-01-01 13:30:00.000000+00'", true},
		{TargetOptions{Time: "2026-05-01"}, "recovery_target_time = '2026-04-30 22:00:00.000000+00'", true},
		{TargetOptions{Time: "2026-05-01 14:30:00 America/New_York"}, "recovery_target_time = '2026-05-01 18:30:00.000000+00'", true},
		{TargetOptions{Time: "2026-05-01 14:30:00 UTC"}, "recovery_target_time = '2026-05-01 14:30:00.000000+00'", true},
		{TargetOptions{Time: "2026-05-01 14:30:00 CEST"}, "is not a time", false},
		{TargetOptions{Time: "2026-05-01 14:30:00 Mars/Olympus"}, "Mars/Olympus", false},
		{TargetOptions{Time: "yesterday"}, "is not a time", false},
		{TargetOptions{Time: "1026-05-01"}, "in the year 1026", false},
		{TargetOptions{LSN: "16/b374d848"}, "recovery_target_lsn = '16/B374D848'", true},
		{TargetOptions{LSN: "16"}, "LSN", false},
		{TargetOptions{XID: "12345678901"}, "recovery_target_xid = '12345678901'", true},
		{TargetOptions{XID: "2"}, "from 3 on", false},
		{TargetOptions{XID: "-5"}, "transaction id", false},
		{TargetOptions{Name: `it's \ here`}, `recovery_target_name = 'it''s \\ here'`, true},
		{TargetOptions{Name: "a\nb"}, "one line", false},
		{TargetOptions{Name: strings.Repeat("x", 64)}, "63 bytes", false},
		{TargetOptions{Name: "x", XID: "800"}, "one target, not a transaction and a restore point", false},
		{TargetOptions{Time: "2026-05-01", Immediate: true}, "one target", false},
	} {
		got, err := ParseTarget(tc.in, berlin)
		if !tc.ok {
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("ParseTarget(%+v) = %+v, %v, want an error with %q", tc.in, got, err, tc.want)
			}
			continue
		}
		text := ""
		if s, ok := got.setting(); ok {
			text = s.String()
		}
		if err != nil || text != tc.want {
			t.Errorf("ParseTarget(%+v) = %s, %v, want %s", tc.in, text, err, tc.want)
		}
	}
	if got, want := (Target{Kind: TargetTime, Time: time.Date(2026, 5, 1, 12, 30, 0, 0, time.UTC)}).Describe(berlin),
		"at 2026-05-01 12:30:00 UTC, which is 2026-05-01 14:30:00 +02:00 (CEST) here"; got != want {
		t.Errorf("Describe = %q, want %q", got, want)
	}
}
