package main_test

import (
	"encoding/json"
	"strings"
	"testing"

	"wal-e/internal/pgtest"
	"wal-e/internal/progress"
)

// lastEvent returns the last event among what a run wrote.
func lastEvent(t *testing.T, r result) (last progress.Event) {
	t.Helper()
	for line := range strings.Lines(r.stderr) {
		var e progress.Event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Errorf("line %q: %v", line, err)
		}
		if e.Event != "" {
			last = e
		}
	}
	return last
}

// Long work tells programs how far it is, on standard error, and standard output
// has what it has without.
func TestProgress(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	c := a.start(t, pgtest.Options{Major: 15})
	a.env = append(a.env, "WALE_LOG_FORMAT=json")
	dir := target(t)
	for _, tc := range []struct {
		phase string // the last
		unit  progress.Unit
		args  []string
	}{
		{"wait for WAL", progress.Items, []string{"backup-push", "--checkpoint", "fast", "--json", c.Dir}},
		{"restore", progress.Bytes, []string{"backup-fetch", "--json", dir, "LATEST"}},
		{"look at backups", progress.Items, []string{"verify", "--all", "--read-data", "--json"}},
		{"remove objects", progress.Items, []string{"gc", "--json"}},
	} {
		r := a.must(t, c, append([]string{"--progress", "json", "--terse"}, tc.args...)...)
		if !json.Valid([]byte(r.stdout)) || strings.Contains(r.stdout, "progress") {
			t.Errorf("%s printed %q", tc.args[0], r.stdout)
		}
		if last := lastEvent(t, r); last.Event != "progress" || last.Command != tc.args[0] || last.Phase != tc.phase || last.Unit != tc.unit || last.Total != nil && last.Done != *last.Total {
			t.Errorf("the last event of %s, not at the end of %s: %s", tc.args[0], tc.phase, r.stderr)
		}
	}
	for _, quiet := range [][]string{{"--no-progress"}, {"--terse"}, {"--progress", "json", "--no-progress"}, {"--progress", "bar"}} {
		if r := a.must(t, c, append(quiet, "verify", "--all")...); strings.Contains(r.stderr, `"event"`) || strings.Contains(r.stderr, "\r") {
			t.Errorf("%v: %q", quiet, r.stderr)
		}
	}
	a.fails(t, c, 1, []string{`--progress: \"loud\" is no way to show progress`, "want auto, bar, log, json or none"}, "--progress", "loud", "verify", "--all")

	// So does what works on classic backups.
	old := newArchive(t)
	old.env = append(old.env, "WALE_LOG_FORMAT=json", "WALE_LAYOUT=classic")
	e := old.start(t, pgtest.Options{Major: 15})
	for _, tc := range []struct {
		phase string
		args  []string
	}{
		{"copy", []string{"backup-push", "--checkpoint", "fast", "--json", e.Dir}},
		{"look at classic backups", []string{"verify", "--all", "--json"}},
		{"restore", []string{"backup-fetch", "--json", target(t), "LATEST"}},
	} {
		last := lastEvent(t, old.must(t, e, append([]string{"--progress", "json", "--terse"}, tc.args...)...))
		// The server may have dropped what there was to copy.
		if last.Phase != tc.phase || last.Total == nil || last.Done == 0 || last.Done != *last.Total && tc.phase != "copy" {
			t.Errorf("the last event of a classic %s is %+v", tc.args[0], last)
		}
	}
	imports := newArchive(t)
	imports.env = append(imports.env, "WALE_LOG_FORMAT=json")
	r := imports.must(t, nil, "--progress", "json", "--terse", "import", "--all", "--from", "file://localhost"+old.prefix)
	if last := lastEvent(t, r); last.Phase != "import" || last.Total == nil || last.Done == 0 || last.New == nil || *last.New == 0 {
		t.Errorf("the last event of an import: %s", r.stderr)
	}
}
