package main_test

import (
	"encoding/json"
	"strings"
	"testing"

	"wal-e/internal/pgtest"
	"wal-e/internal/progress"
)

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
		var last progress.Event
		for line := range strings.Lines(r.stderr) {
			var e progress.Event
			if err := json.Unmarshal([]byte(line), &e); err != nil {
				t.Errorf("%s: line %q: %v", tc.args[0], line, err)
			}
			if e.Event != "" {
				last = e
			}
		}
		if last.Event != "progress" || last.Command != tc.args[0] || last.Phase != tc.phase || last.Unit != tc.unit || last.Total != nil && last.Done != *last.Total {
			t.Errorf("the last event of %s, not at the end of %s: %s", tc.args[0], tc.phase, r.stderr)
		}
	}
	for _, quiet := range [][]string{{"--no-progress"}, {"--terse"}, {"--progress", "json", "--no-progress"}, {"--progress", "bar"}} {
		if r := a.must(t, c, append(quiet, "verify", "--all")...); strings.Contains(r.stderr, `"event"`) || strings.Contains(r.stderr, "\r") {
			t.Errorf("%v: %q", quiet, r.stderr)
		}
	}
	a.fails(t, c, 1, []string{`--progress: \"loud\" is no way to show progress`, "want auto, bar, log, json or none"}, "--progress", "loud", "verify", "--all")
}
