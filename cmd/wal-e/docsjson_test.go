package main

import (
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"wal-e/backup"
	"wal-e/chunkstore"
	"wal-e/gc"
)

// TestJSONDocs holds docs/json.md to what is printed: each command's section
// names just the fields that there are.
func TestJSONDocs(t *testing.T) {
	t.Parallel()
	problem := []backup.Problem{{Backups: []string{"x"}, Files: []string{"x"}}}
	report := gc.Report{Waiting: []gc.Waiting{{}}, Backups: []chunkstore.Ref{{}}, Aborted: []chunkstore.Ref{{}}}
	plan := gc.Plan{Decisions: []gc.Decision{{}}, Horizons: []gc.Horizon{{Ranges: []gc.WALRange{{}}}}}
	printed := map[string]any{
		"backup-push": pushed{},
		"backup-list": []backup.Listed{{}},
		"delete":      map[string]any{"plan": plan, "report": 0},
		"gc":          report,
		"verify": backup.VerifyReport{
			Backups: []backup.VerifiedBackup{{}}, Problems: problem, Warnings: problem, Open: []backup.OpenRun{{}}, Orphans: &backup.Orphans{},
		},
	}
	// Words of the text that look like fields and are values.
	values := []string{"gc", "live", "standby", "offline", "--read-data", "--wal", "delete", "3/DE000028", "host"}
	for _, r := range []gc.Rule{
		gc.RuleBefore, gc.RuleRetain, gc.RulePeriod, gc.RuleDaily, gc.RuleWeekly, gc.RuleMonthly, gc.RulePITR, gc.RuleFloor, gc.RuleMark,
		gc.RuleNewest, gc.RuleNone,
	} {
		values = append(values, string(r))
	}
	sections := strings.Split(readDoc(t, "docs/json.md"), "\n## ")[1:]
	for _, section := range sections {
		command, text, _ := strings.Cut(section, "\n")
		v, ok := printed[command]
		if !ok {
			continue // another test's
		}
		delete(printed, command)
		data, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		var parsed any
		if err := json.Unmarshal(data, &parsed); err != nil {
			t.Fatal(err)
		}
		fields := make(map[string]bool)
		addFields(fields, parsed)
		named := make(map[string]bool)
		for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(text, -1) {
			for part := range strings.SplitSeq(m[1], ".") {
				named[part] = true
			}
		}
		for field := range fields {
			if !named[field] {
				t.Errorf("docs/json.md: %s prints %q, which isn't there", command, field)
			}
		}
		for _, name := range slices.Sorted(maps.Keys(named)) {
			if !fields[name] && !slices.Contains(values, name) {
				t.Errorf("docs/json.md: %s prints no %q", command, name)
			}
		}
	}
	for command := range printed {
		t.Errorf("docs/json.md has no section %s", command)
	}
}

// addFields adds the names of all fields in v, at any depth.
func addFields(fields map[string]bool, v any) {
	switch v := v.(type) {
	case map[string]any:
		for name, value := range v {
			fields[name] = true
			addFields(fields, value)
		}
	case []any:
		for _, value := range v {
			addFields(fields, value)
		}
	}
}
