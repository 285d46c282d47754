package postgres_test

import (
	"reflect"
	"strings"
	"testing"

	"wal-e/internal/postgres"
)

const history4 = "1\t0/3000060\tno recovery target specified\n\n" +
	"# a comment\n" +
	"2\t0/5000000\tbefore 2026-11-22 21:06:49+00\n\n" +
	"3\t0/5000000\tat restore point \"a\tb\"\n"

func TestParseHistory(t *testing.T) {
	h, err := postgres.ParseHistory(4, []byte(history4))
	want := postgres.History{Timeline: 4, Ancestors: []postgres.Ancestor{
		{1, 0x3000060, "no recovery target specified"},
		{2, 0x5000000, "before 2026-11-22 21:06:49+00"},
		{3, 0x5000000, "at restore point \"a\tb\""},
	}}
	if err != nil || !reflect.DeepEqual(h, want) {
		t.Fatalf("ParseHistory = %+v, %v, want %+v", h, err, want)
	}
	for _, tt := range []struct {
		tl            postgres.Timeline
		lsn           postgres.LSN
		contains, end bool
	}{
		{1, 0, true, true},
		{1, 0x300005F, true, true},
		{1, 0x3000060, false, true}, // where timeline 1 was left
		{1, 0x3000061, false, false},
		{2, 0x300005F, false, false},
		{2, 0x3000060, true, false},
		{2, 0x3000061, true, true},
		{2, 0x5000000, false, true},
		{3, 0x5000000, false, false}, // left where it began
		{3, 0x5000001, false, false},
		{4, 0x5000000, true, false},
		{4, 0x5000001, true, true},
		{4, postgres.MaxLSN, true, true},
		{5, 0x6000000, false, false},
	} {
		if got := h.Contains(tt.tl, tt.lsn); got != tt.contains {
			t.Errorf("Contains(%d, %s) = %v, want %v", tt.tl, tt.lsn, got, tt.contains)
		}
		if got := h.ContainsEnd(tt.tl, tt.lsn); got != tt.end {
			t.Errorf("ContainsEnd(%d, %s) = %v, want %v", tt.tl, tt.lsn, got, tt.end)
		}
	}
	first := postgres.History{Timeline: 1}
	if !first.Contains(1, 0x28) || first.Contains(2, 0x28) {
		t.Error("the history of timeline 1 must contain timeline 1 only")
	}
}

func TestParseHistoryRefuses(t *testing.T) {
	for _, tt := range []struct{ name, file, want string }{
		{"no position", "1\n", "not an LSN"},
		{"no timeline", "x\t0/1\t\n", "not a timeline"},
		{"timeline 0", "0\t0/1\t\n", "not a timeline"},
		{"same timeline twice", "1\t0/1\t\n1\t0/2\t\n", "goes backwards"},
		{"lower timeline", "2\t0/1\t\n1\t0/2\t\n", "goes backwards"},
		{"lower position", "1\t0/2\t\n2\t0/1\t\n", "goes backwards"},
		{"itself", "4\t0/1\t\n", "names timeline 4 as an ancestor"},
		{"child", "5\t0/1\t\n", "names timeline 5 as an ancestor"},
	} {
		if h, err := postgres.ParseHistory(4, []byte(tt.file)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: ParseHistory = %+v, %v, want an error with %q", tt.name, h, err, tt.want)
		}
	}
}

func FuzzParseHistory(f *testing.F) {
	f.Add(uint32(4), []byte(history4), uint64(0x5000000))
	f.Fuzz(func(t *testing.T, tl uint32, b []byte, n uint64) {
		h, err := postgres.ParseHistory(postgres.Timeline(tl), b)
		if err != nil {
			return
		}
		lsn := postgres.LSN(n)
		if at := h.TimelineAt(lsn); !h.Contains(at, lsn) || at > h.Timeline {
			t.Errorf("TimelineAt(%s) = %d in %+v", lsn, at, h)
		}
	})
}
