package main

import (
	"encoding"
	"encoding/json"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"wal-e/backup"
	"wal-e/compat"
	"wal-e/gc"
	"wal-e/internal/checkup"
)

// TestJSONDocs holds docs/json.md to what is printed: there is a section for
// each command with --json, which names just the fields that there are.
func TestJSONDocs(t *testing.T) {
	t.Parallel()
	printed := map[string][]any{
		"backup-push":  {pushed{}, compat.PushReport{}},
		"export":       {exportReport{}},
		"copy":         {copyReport{}, copiedNote{}},
		"backup-fetch": {backup.FetchReport{}, compat.FetchReport{}},
		"backup-list":  {backup.Listed{}, classicListed{}},
		// What marshals itself is named by a value.
		"delete": {gc.Plan{}, map[string]any{"plan": gc.Plan{
			Decisions: []gc.Decision{{}}, Horizons: []gc.Horizon{{Ranges: []gc.WALRange{{}}}},
		}, "report": 0, "classic": compat.Deleted{}}},
		"gc":         {gc.Report{}},
		"verify":     {verifyReport{}},
		"check":      {checkup.Finding{}, map[string]any{"status": "", "findings": 0}},
		"drill":      {drillReport{}},
		"status":     {statusReport{}, copyNote{}, statusProblem{}, statusCluster{}, statusPush{}},
		"ls":         {lookedEntry{}},
		"diff":       {lookedChange{}},
		"wal-show":   {walSystem{}},
		"wal-verify": {walReport{}},
	}
	// Words of the text that look like fields and are values.
	values := []string{
		"copied", "present", "passed over", "gc", "wal-show", "ls", "file", "directory", "symlink", "added", "removed", "changed", "attributes", "pg_amcheck", "amcheck", "nothing", "--query", "drills_006/", "drill", "live", "standby", "offline", "classic", "ok", "warning", "failure", "unknown", "latest", "delete", "3/DE000028",
		"--read-data", "--wal", "backup-push", "--known-gap", "--retain", "--repair", "restored", "rebuilt", "avoided", "none",
	}
	for _, r := range []gc.Rule{
		gc.RuleBefore, gc.RuleRetain, gc.RulePeriod, gc.RuleDaily, gc.RuleWeekly, gc.RuleMonthly, gc.RulePITR, gc.RuleFloor, gc.RuleMark,
		gc.RuleNewest, gc.RuleNone,
	} {
		values = append(values, string(r))
	}
	sections := make(map[string]string)
	for _, section := range strings.Split(readDoc(t, "docs/json.md"), "\n## ")[1:] {
		command, text, _ := strings.Cut(section, "\n")
		sections[command] = text
	}
	for _, cmd := range newRootCommand(&app{}).Commands() {
		if cmd.Flags().Lookup("json") == nil && cmd.PersistentFlags().Lookup("json") == nil {
			continue
		}
		text, ok := sections[cmd.Name()]
		delete(sections, cmd.Name())
		if !ok || printed[cmd.Name()] == nil {
			t.Errorf("%s has --json: document its fields in docs/json.md, and name its types here", cmd.Name())
			continue
		}
		fields := make(map[string]bool)
		for _, v := range printed[cmd.Name()] {
			addFields(t, fields, reflect.ValueOf(v))
		}
		named := make(map[string]bool)
		for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(text, -1) {
			for part := range strings.SplitSeq(m[1], ".") {
				named[part] = true
			}
		}
		for _, field := range slices.Sorted(maps.Keys(fields)) {
			if !named[field] {
				t.Errorf("docs/json.md: %s prints %q, which isn't there", cmd.Name(), field)
			}
		}
		for _, name := range slices.Sorted(maps.Keys(named)) {
			if !fields[name] && !slices.Contains(values, name) {
				t.Errorf("docs/json.md: %s prints no %q", cmd.Name(), name)
			}
		}
	}
	for command := range sections {
		t.Errorf("docs/json.md has a section %s, which has no --json", command)
	}
}

// addFields adds the names of all fields that v has as JSON, at any depth.
func addFields(t *testing.T, fields map[string]bool, v reflect.Value) {
	t.Helper()
	switch v.Interface().(type) {
	case json.Marshaler, map[string]any:
		data, err := json.Marshal(v.Interface())
		if err != nil {
			t.Fatal(err)
		}
		var parsed any
		if err := json.Unmarshal(data, &parsed); err != nil {
			t.Fatal(err)
		}
		addParsed(fields, parsed)
		return
	case encoding.TextMarshaler:
		return
	}
	switch v.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map:
		addFields(t, fields, reflect.Zero(v.Type().Elem()))
	case reflect.Struct:
		for i := range v.NumField() {
			f := v.Type().Field(i)
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if !f.IsExported() || name == "-" {
				continue
			}
			if name == "" && !f.Anonymous {
				t.Errorf("field %s of %s has no name in JSON", f.Name, v.Type())
			}
			if name != "" {
				fields[name] = true
			}
			addFields(t, fields, v.Field(i))
		}
	}
}

// addParsed adds the names of all fields in parsed JSON.
func addParsed(fields map[string]bool, v any) {
	switch v := v.(type) {
	case map[string]any:
		for name, value := range v {
			fields[name] = true
			addParsed(fields, value)
		}
	case []any:
		for _, value := range v {
			addParsed(fields, value)
		}
	}
}
