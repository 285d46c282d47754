package checkup_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"wal-e/internal/checkup"
)

func TestArchive(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	whole := checkup.ArchiveFacts{
		Dedup: true, Systems: []string{"7"}, State: "/var/cache/wal-e",
		Backups: []checkup.Backup{{"base_2", now.Add(-5 * time.Hour)}, {"base_1", now.Add(-30 * time.Hour)}},
		Open:    []checkup.OpenPush{{"base_3", now.Add(-time.Hour)}},
	}
	for name, test := range map[string]struct {
		change func(*checkup.ArchiveFacts)
		want   checkup.Status
		check  string
		words  string
	}{
		"whole":         {func(*checkup.ArchiveFacts) {}, checkup.OK, "backups", "2; the newest is base_2, of 2026-11-20T07:00:00Z (5 h ago)"},
		"under way":     {func(*checkup.ArchiveFacts) {}, checkup.OK, "open pushes", "base_3 since 2026-11-20T11:00:00Z"},
		"empty":         {func(f *checkup.ArchiveFacts) { *f = checkup.ArchiveFacts{} }, checkup.OK, "layouts", "nothing was archived"},
		"classic":       {func(f *checkup.ArchiveFacts) { *f = checkup.ArchiveFacts{Classic: true} }, checkup.OK, "layouts", "classic WAL-E's"},
		"both":          {func(f *checkup.ArchiveFacts) { f.Classic = true }, checkup.OK, "layouts", "too"},
		"no second":     {func(f *checkup.ArchiveFacts) { f.NoSecond, f.NoSecondTodo = "no copy", "make one" }, checkup.Warning, "copies", "no copy"},
		"second denied": {func(f *checkup.ArchiveFacts) { f.SecondErr = errors.New("why not") }, checkup.Warning, "copies", "why not"},
		"no backup":     {func(f *checkup.ArchiveFacts) { f.Backups = nil }, checkup.Warning, "backups", "none"},
		"damaged":       {func(f *checkup.ArchiveFacts) { f.BackupsErr = errors.New("which one") }, checkup.Failure, "backups", "which one"},
		"config":        {func(f *checkup.ArchiveFacts) { f.SystemsErr = errors.New("which one") }, checkup.Failure, "clusters", "which one"},
		"several":       {func(f *checkup.ArchiveFacts) { f.Systems = []string{"7", "8"} }, checkup.OK, "clusters", "2 share the prefix, with the system identifiers 7, 8"},
		"open for long": {func(f *checkup.ArchiveFacts) { f.Open[0].Since = now.Add(-25 * time.Hour) }, checkup.Warning, "open pushes", "longer than"},
		"no state":      {func(f *checkup.ArchiveFacts) { f.StateErr = errors.New("which one") }, checkup.Warning, "state folder", "which one"},
		"no layouts":    {func(f *checkup.ArchiveFacts) { f.LayoutsErr, f.Dedup = errors.New("which one"), false }, checkup.Warning, "layouts", "which one"},
	} {
		f := whole
		f.Open = append([]checkup.OpenPush(nil), whole.Open...)
		test.change(&f)
		findings := checkup.Archive(f, now)
		if got := findings.Worst(); got != test.want {
			t.Errorf("%s: Worst = %s, want %s: %+v", name, got, test.want, findings)
		}
		found := false
		for _, one := range findings {
			found = found || one.Check == test.check && strings.Contains(one.Found, test.words)
			if one.Found == "" || one.Status != checkup.OK && one.Fix == "" {
				t.Errorf("%s: finding without what was found, or what to do: %+v", name, one)
			}
		}
		if !found {
			t.Errorf("%s: %s doesn't say %q: %+v", name, test.check, test.words, findings)
		}
	}
}
