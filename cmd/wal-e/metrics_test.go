package main

import (
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"go.yaml.in/yaml/v3"

	"wal-e/backup"
	"wal-e/internal/fault"
)

// fullReport has all that there can be.
func fullReport(now time.Time) *statusReport {
	since := now.Add(-time.Hour)
	files := 3
	d := &drillReport{OK: true, Begun: since, FetchSeconds: 1.5, RecoverSeconds: 2}
	return &statusReport{
		Problems: []statusProblem{{"a", "b"}}, Packs: 100, WAL: 50, Logical: 400, Growth: 7, now: now,
		Clusters: []statusCluster{
			{System: "7", Backups: 2, Newest: &since, From: &since, Until: &now, Missing: 2, last: backup.Listed{
				Started: since, Stopped: now, ExpandedSize: 300, StoredBytes: 20, PageFailures: 1,
			}},
			{System: `8"\` + "\n"},
		},
		Open:   []statusPush{{Since: since, Stalled: true}, {Since: now}},
		Expiry: &statusExpiry{Overdue: 1, At: &now}, Waiting: &files, Oldest: &since, Drill: d, drilled: d, copied: &copyNote{At: since}, Fresh: &since,
		Verified: &backup.Verified{Last: now, Packs: 9, NeverRead: 4, Oldest: &since, Result: &backup.VerifyResult{At: since, Problems: 5}},
		Warnings: []statusProblem{{"c", "d"}},
	}
}

func readMetrics(t *testing.T, path string) map[string]*dto.MetricFamily {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(f)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return families
}

// A file of metrics parses, says what the report does, and is replaced by that of
// a run that failed.
func TestMetricsFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "wal-e.prom")
	now := time.Now().Truncate(time.Second)
	if err := writeMetrics(path, fullReport(now), errors.New("there are problems"), now); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o644 {
		t.Errorf("%v, %v: want mode 0644", info.Mode(), err)
	}
	got := readMetrics(t, path)
	hour := float64(now.Add(-time.Hour).Unix())
	for name, want := range map[string]float64{
		"wal_e_up": 1, "wal_e_problems": 1, "wal_e_backups": 2, "wal_e_backup_timestamp_seconds": float64(now.Unix()), "wal_e_backup_duration_seconds": 3600,
		"wal_e_backup_bytes": 300, "wal_e_backup_stored_bytes": 20, "wal_e_backup_page_failures": 1, "wal_e_wal_timestamp_seconds": hour,
		"wal_e_wal_missing_segments": 2, "wal_e_restore_from_timestamp_seconds": hour, "wal_e_pack_bytes": 100, "wal_e_wal_bytes": 50, "wal_e_logical_bytes": 400,
		"wal_e_dedup_ratio": 4, "wal_e_growth_bytes_per_day": 7, "wal_e_pushes_open": 2, "wal_e_pushes_stalled": 1, "wal_e_push_oldest_timestamp_seconds": hour,
		"wal_e_wal_waiting_files": 3, "wal_e_wal_waiting_oldest_timestamp_seconds": hour, "wal_e_drill_ok": 1, "wal_e_drill_restore_seconds": 1.5,
		"wal_e_copy_timestamp_seconds": hour, "wal_e_fresh_backup_timestamp_seconds": hour, "wal_e_verify_timestamp_seconds": float64(now.Unix()), "wal_e_verify_packs": 9, "wal_e_verify_never_read_packs": 4, "wal_e_verify_oldest_timestamp_seconds": hour,
		"wal_e_verify_all_timestamp_seconds": hour, "wal_e_verify_problems": 5, "wal_e_warnings": 1,
		"wal_e_backups_overdue": 1, "wal_e_expiry_next_timestamp_seconds": float64(now.Unix()),
	} {
		f := got[name]
		if f == nil || f.GetType() != dto.MetricType_GAUGE || f.GetHelp() == "" || f.GetMetric()[0].GetGauge().GetValue() != want {
			t.Errorf("%s is %v, want %v", name, f, want)
		}
	}
	if got["wal_e_status_error"] != nil {
		t.Error("a run that succeeded has an error")
	}
	if second := got["wal_e_backups"].GetMetric()[1]; second.GetLabel()[0].GetValue() != `8"\`+"\n" || second.GetGauge().GetValue() != 0 {
		t.Errorf("the second cluster is %v", second)
	}

	if err := writeMetrics(path, nil, fault.Unreachable.Errorf("no answer"), now); err != nil {
		t.Fatal(err)
	}
	got = readMetrics(t, path)
	if got["wal_e_up"].GetMetric()[0].GetGauge().GetValue() != 0 || got["wal_e_status_error"].GetMetric()[0].GetLabel()[0].GetValue() != "WALE-1104" || got["wal_e_backups"] != nil {
		t.Errorf("a failed run wrote %v", got)
	}
	if left, err := os.ReadDir(filepath.Dir(path)); err != nil || len(left) != 1 {
		t.Errorf("%v, %v", left, err)
	}
	err = writeMetrics(filepath.Join(path, "x"), nil, nil, now)
	if m := (*message)(nil); !errors.As(err, &m) || !strings.Contains(m.hint, "--metrics-file") {
		t.Errorf("without a folder: %v", err)
	}
}

// What docs/monitoring says of metrics is true: the table has them all, and rules
// and panels name none that isn't there.
func TestMonitoringDocs(t *testing.T) {
	t.Parallel()
	exported := make(map[string]bool)
	for _, m := range []*metrics{metricsOf(fullReport(time.Now()), nil, time.Now()), metricsOf(nil, errors.New("x"), time.Now())} {
		for _, f := range m.families {
			exported[f.GetName()] = true
		}
	}
	table := make(map[string]bool)
	for _, m := range regexp.MustCompile("(?m)^\\| `(wal_e_[a-z_]+)` \\|").FindAllStringSubmatch(readDoc(t, "docs/monitoring/README.md"), -1) {
		table[m[1]] = true
	}
	if !maps.Equal(exported, table) {
		t.Errorf("docs/monitoring/README.md lists %v, exported are %v", slices.Sorted(maps.Keys(table)), slices.Sorted(maps.Keys(exported)))
	}

	var rules struct {
		Groups []struct {
			Rules []struct {
				Alert, Expr string
				For         string
				Labels      struct{ Severity string }
				Annotations struct{ Summary, Description string }
			}
		}
	}
	if err := yaml.Unmarshal([]byte(readDoc(t, "docs/monitoring/alerts.yml")), &rules); err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
		Templating struct{ List []struct{ Definition string } }
	}
	if err := json.Unmarshal([]byte(readDoc(t, "docs/monitoring/dashboard.json")), &dashboard); err != nil {
		t.Fatal(err)
	}
	named := 0
	check := func(where, text string) {
		for _, name := range regexp.MustCompile(`\bwal_e_\w+`).FindAllString(text, -1) {
			if named++; !exported[name] {
				t.Errorf("%s names %s, which nothing exports", where, name)
			}
		}
	}
	for _, r := range rules.Groups[0].Rules {
		if r.Alert == "" || r.Expr == "" || r.Labels.Severity == "" || r.Annotations.Summary == "" || r.Annotations.Description == "" {
			t.Errorf("rule %+v is not whole", r)
		}
		check("alert "+r.Alert, r.Expr+" "+r.Annotations.Description)
		for _, page := range regexp.MustCompile(`docs/[a-z_/]+\.md`).FindAllString(r.Annotations.Description, -1) {
			readDoc(t, page)
		}
	}
	for _, p := range dashboard.Panels {
		if len(p.Targets) == 0 {
			t.Errorf("panel %q shows nothing", p.Title)
		}
		for _, target := range p.Targets {
			check("panel "+p.Title, target.Expr)
		}
	}
	for _, v := range dashboard.Templating.List {
		check("a variable", v.Definition)
	}
	if named < len(rules.Groups[0].Rules)+len(dashboard.Panels) {
		t.Errorf("only %d metrics are named", named)
	}
}

// What several base backups restore is one window where they touch.
func TestWindowsJoined(t *testing.T) {
	t.Parallel()
	at := func(hour int) time.Time { return time.Date(2026, 11, 22, hour, 0, 0, 0, time.UTC) }
	window := func(from, until int) walWindow {
		u := at(until)
		return walWindow{Restorable: true, From: at(from), Until: &u}
	}
	for _, tc := range []struct {
		name string
		in   []walWindow
		want []statusWindow
	}{
		{"none", nil, []statusWindow{}},
		{"not restorable", []walWindow{{From: at(1)}}, []statusWindow{}},
		{"touching, not in order", []walWindow{window(3, 6), window(1, 3)}, []statusWindow{{at(1), at(6)}}},
		{"within another", []walWindow{window(1, 9), window(2, 4), window(3, 9)}, []statusWindow{{at(1), at(9)}}},
		{"a gap", []walWindow{window(1, 2), window(3, 6), window(5, 6)}, []statusWindow{{at(1), at(2)}, {at(3), at(6)}}},
	} {
		if got := joined(tc.in); !slices.Equal(got, tc.want) {
			t.Errorf("%s: %v, want %v", tc.name, got, tc.want)
		}
	}
}
