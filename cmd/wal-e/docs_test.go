package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"wal-e/backup"
	"wal-e/chunkstore"
	"wal-e/internal/envelope"
	"wal-e/internal/pgtest"
	"wal-e/internal/runid"
)

func readDoc(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("../..", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// The README repeats what the program says of itself.
func TestREADME(t *testing.T) {
	t.Parallel()
	readme := readDoc(t, "README.md")
	if !strings.Contains(readme, "```\n"+exitStatusText+"```\n") {
		t.Errorf("README.md lacks the exit statuses as `wal-e help exit-status` prints them:\n%s", exitStatusText)
	}
	var rows strings.Builder
	for _, v := range variables() {
		value := v.value
		if value != "" {
			value = "`" + value + "`"
		}
		fmt.Fprintf(&rows, "| `%s` | %s | %s |\n", v.name, value, v.about)
	}
	if !strings.Contains(readme, "|---|---|---|\n"+rows.String()+"\n") {
		t.Errorf("README.md lacks the variables as `wal-e help environment` prints them:\n%s", rows.String())
	}
	for _, c := range subcommands(&app{}) {
		if c.IsAvailableCommand() && !strings.Contains(readme, "| `"+c.Name()+"` |") {
			t.Errorf("README.md has no row about %s", c.Name())
		}
	}
}

// What documents say about options is true: each stands in the help of the
// subcommand that is called on the same line, or is a global one.
func TestDocsNameOptions(t *testing.T) {
	t.Parallel()
	call := regexp.MustCompile(`wal-e ([^|` + "`" + `]*)`)
	option := regexp.MustCompile(`(?:^|[ (\x60])--([a-z][a-z-]+)`)
	known := make(map[string]bool)
	for _, name := range []string{"README.md", "docs/operations.md", "docs/differences.md"} {
		doc := readDoc(t, name)
		for line := range strings.Lines(doc) {
			for _, m := range option.FindAllStringSubmatch(line, -1) {
				if !known[m[1]] && !hasOption(m[1]) && !strings.Contains(line, "systemctl ") {
					t.Errorf("%s names --%s, which nothing takes: %s", name, m[1], line)
				}
				known[m[1]] = true
			}
		}
		for _, block := range shellBlocks(doc) {
			for _, m := range call.FindAllStringSubmatch(block, -1) {
				checkCall(t, name, m[1])
			}
		}
	}
}

// hasOption tells whether any command takes an option. --version and the like
// of other programs are not ours to check.
func hasOption(name string) bool {
	root := newRootCommand(&app{})
	if root.PersistentFlags().Lookup(name) != nil || name == "help" {
		return true
	}
	for _, c := range root.Commands() {
		if c.Flags().Lookup(name) != nil || c.PersistentFlags().Lookup(name) != nil {
			return true
		}
		for _, sub := range c.Commands() {
			if sub.Flags().Lookup(name) != nil {
				return true
			}
		}
	}
	return false
}

// shellBlocks returns the indented and fenced blocks of a document, with
// continued lines joined.
func shellBlocks(doc string) []string {
	parts := strings.Split(strings.ReplaceAll(doc, "\\\n", " "), "\n```")
	var blocks []string
	for i := 1; i < len(parts); i += 2 {
		blocks = append(blocks, parts[i])
	}
	return blocks
}

// checkCall makes sure that a command line of a document can be parsed.
func checkCall(t *testing.T, doc, line string) {
	t.Helper()
	line, _, _ = strings.Cut(line, "\n")
	line = strings.TrimRight(strings.TrimSpace(line), "'")
	args := splitWords(line)
	a := &app{}
	root := newRootCommand(a)
	in, err := parseArgs(root, args)
	if err != nil {
		t.Errorf("%s: wal-e %s: %v", doc, line, err)
		return
	}
	cmd, rest, err := root.Find(in.args)
	if err != nil {
		t.Errorf("%s: wal-e %s: %v", doc, line, err)
		return
	}
	if err := cmd.ParseFlags(rest); err != nil {
		t.Errorf("%s: wal-e %s: %v", doc, line, err)
	} else if err := cmd.ValidateArgs(cmd.Flags().Args()); err != nil {
		t.Errorf("%s: wal-e %s: %v", doc, line, err)
	}
}

// splitWords splits as a shell does, as far as documents need it.
func splitWords(line string) []string {
	var words []string
	for _, m := range regexp.MustCompile(`(?:'[^']*'|"[^"]*"|[^ '"])+`).FindAllString(line, -1) {
		if m == "#" {
			break
		}
		words = append(words, strings.NewReplacer("'", "", `"`, "").Replace(m))
	}
	return words
}

// A difference says which lines of the output a row of docs/differences.md
// explains: pattern matches lines of classic WAL-E ("-" before them) or ours
// ("+").
type difference struct {
	id      string
	pattern string
}

// TestDifferences runs what classic WAL-E was run with, on an archive of ours
// with the same backups, and compares what both print. Each line that one of
// them has and the other lacks must be explained by a row of
// docs/differences.md. testdata/classic holds what classic WAL-E 1.1.1 printed.
func TestDifferences(t *testing.T) {
	t.Parallel()
	rows := differenceRows(t)
	explain := map[string][]difference{
		"code":        {{"error-codes", `^\+ +MORE: wal-e explain WALE-\d{4}$`}},
		"list-detail": {{"list-detail", `base_.*\t\t|base_.*\t\d+\t`}},
		"bad-query":   {{"error-hints", `\+.*HINT: Want LATEST`}, {"query-detail", `DETAIL: The submitted query operator was "nonsense`}},
		"fetch-none":  {{"error-hints", `HINT: wal-e backup-list`}, {"error-hints", `\+ +no backup in file://`}},
		"no-prefix":   {{"swift-option", `HINT: Either set one of`}},
		"bad-scheme":  {{"error-hints", `HINT: It comes from WALE_S3_PREFIX`}},
		"version":     {{"version", `[12]\.\d`}},
		"delete-none": {{"delete-usage", `-Traceback|- +\[trace|-TypeError|\+usage|\+wal-e|\+run wal-e`}},
		"delete": {
			{"delete-records", `MSG: deleting |DETAIL: The key being deleted|\+ +It was taken|\+.*MSG: what a collection would free|\+.*DETAIL: Would free|HINT: This is only a dry run`},
			{"layout-names", `HINT: Deleting keys older than`},
		},
		"delete-crash":  {{"delete-segment", `-.*(CRITICAL|DETAIL|traceback|Error)|^- *$`}},
		"delete-retain": {{"retain-zero", `^[-+]`}},
		"old-versions":  {{"old-versions", `-.*(CRITICAL|DETAIL|traceback|TypeError)|^- *$`}},
	}
	cases := map[string][]string{
		"version":                          {"version"},
		"backup-list":                      {},
		"backup-list-detail":               {"list-detail"},
		"backup-list-latest":               {},
		"backup-list-name":                 {},
		"backup-list-name-detail":          {"list-detail"},
		"backup-list-name-absent":          {},
		"backup-list-bad-query":            {"bad-query", "code"},
		"backup-list-terse":                {},
		"backup-list-empty":                {},
		"backup-list-empty-latest":         {},
		"backup-fetch-none":                {"fetch-none", "code"},
		"no-prefix":                        {"no-prefix", "code"},
		"bad-scheme":                       {"bad-scheme", "code"},
		"no-subcommand":                    {"code"},
		"delete-no-subcommand":             {"delete-none"},
		"delete-before-b1-dry":             {"delete"},
		"delete-before-b2-dry":             {"delete"},
		"delete-before-b2-dry-n":           {"delete"},
		"delete-before-b2-dry-and-confirm": {"delete"},
		"delete-before-b2-terse-dry":       {},
		"delete-before-segment-dry":        {"delete", "delete-crash"},
		"delete-retain-0-dry":              {"delete-retain"},
		"delete-retain-1-dry":              {"delete"},
		"delete-retain-2-dry":              {"delete"},
		"delete-retain-5-dry":              {"delete"},
		"delete-retain-1-empty-dry":        {"delete"},
		"delete-everything-dry":            {"delete"},
		"delete-old-versions-dry":          {"delete", "old-versions"},
	}
	statuses := map[string]string{ // the row that explains another exit status
		"delete-no-subcommand":      "delete-usage",
		"delete-before-segment-dry": "delete-segment",
		"delete-retain-0-dry":       "retain-zero",
		"delete-old-versions-dry":   "old-versions",
	}
	index, err := os.ReadFile("testdata/classic/INDEX.tsv")
	if err != nil {
		t.Fatal(err)
	}
	used := make(map[string]bool)
	use := func(id string) {
		if !rows[id] {
			t.Errorf("docs/differences.md has no row %s", id)
		}
		used[id] = true
	}
	full, empty := classicArchive(t), t.TempDir()
	for line := range strings.Lines(string(index)) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		name, args := f[0], strings.Fields(f[2])[1:]
		sets, ok := cases[name]
		if !ok {
			t.Errorf("nobody compares %s", name)
		}
		delete(cases, name)
		dir := full
		if strings.Contains(name, "empty") || name == "backup-fetch-none" {
			dir = empty
		}
		stdout, stderr, code := runAsClassic(t, name, dir, args)
		if strconv.Itoa(code) != f[1] {
			if id, ok := statuses[name]; ok {
				use(id)
			} else {
				t.Errorf("%s: exit status %d, classic WAL-E's is %s\n%s", name, code, f[1], stderr)
			}
		}
		var explained []difference
		for _, set := range sets {
			explained = append(explained, explain[set]...)
		}
		got := append(diff(readClassic(t, name+".stdout"), stdout), diff(readClassic(t, name+".stderr"), stderr)...)
	lines:
		for _, line := range got {
			for _, d := range explained {
				if regexp.MustCompile(d.pattern).MatchString(line) {
					use(d.id)
					continue lines
				}
			}
			t.Errorf("%s: nothing in docs/differences.md explains %q", name, line)
		}
	}
	for name := range maps.Keys(cases) {
		t.Errorf("testdata/classic/INDEX.tsv lacks %s", name)
	}
	for _, set := range explain {
		for _, d := range set {
			if !used[d.id] {
				t.Errorf("no output differs as row %s of docs/differences.md says", d.id)
			}
		}
	}
}

// differenceRows returns the ids of the table's rows.
func differenceRows(t *testing.T) map[string]bool {
	t.Helper()
	rows := make(map[string]bool)
	for line := range strings.Lines(readDoc(t, "docs/differences.md")) {
		cells := strings.Split(strings.TrimSpace(line), " | ")
		id, ok := strings.CutPrefix(cells[0], "| ")
		if !ok || id == "id" {
			continue
		}
		if len(cells) != 5 || rows[id] {
			t.Errorf("docs/differences.md: row %q has %d cells, want 5, and an id of its own", id, len(cells))
		}
		rows[id] = true
	}
	if len(rows) == 0 {
		t.Fatal("docs/differences.md has no table")
	}
	return rows
}

// runAsClassic runs a command line of testdata/classic/INDEX.tsv on an archive
// in dir and returns what it prints in the words of the machine that classic
// WAL-E ran on.
func runAsClassic(t *testing.T, name, dir string, args []string) (stdout, stderr string, code int) {
	t.Helper()
	env := []string{"WALE_LOG_DESTINATION=stderr", "WALE_STATE_DIR=" + t.TempDir()}
	switch name {
	case "no-prefix":
	case "bad-scheme":
		env = append(env, "WALE_S3_PREFIX=http://x/y")
	default:
		env = append(env, "WALE_FILE_PREFIX=file://localhost"+dir)
	}
	var out, errs bytes.Buffer
	err := run(t.Context(), args, env, strings.NewReader(""), &out, &errs)
	here := strings.NewReplacer(dir, "/srv/classic/archive/plain")
	return here.Replace(out.String()), here.Replace(errs.String()), exitCode(err)
}

func readClassic(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata/classic", name))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return string(b)
}

var timeAndPID = regexp.MustCompile(`time=\S+ pid=\d+`)

// diff returns the lines that only one of two texts has, whatever their order
// and the time, marked with - or +.
func diff(classic, ours string) []string {
	count := make(map[string]int)
	for i, text := range []string{classic, ours} {
		for line := range strings.Lines(timeAndPID.ReplaceAllString(text, "time=T pid=P")) {
			if line == "        STRUCTURED: time=T pid=P\n" {
				continue // as many as there are records
			}
			count[line] += 2*i - 1
		}
	}
	var lines []string
	for line, n := range count {
		sign := "-"
		if n > 0 {
			sign = "+"
		}
		if n != 0 {
			lines = append(lines, sign+strings.TrimSuffix(line, "\n"))
		}
	}
	slices.Sort(lines)
	return lines
}

// classicArchive makes an archive with the backups and WAL files that the one
// had on which the outputs in testdata/classic were made, as far as listings and plans
// tell them apart.
func classicArchive(t *testing.T) string {
	t.Helper()
	const system = "6902345678901234567"
	dir := t.TempDir()
	for i, b := range []struct{ segment, start, stop, taken string }{
		{"000000010000000000000004", "0/40000D8", "0/40001B0", "2026-11-22T18:36:39.471268Z"},
		{"000000010000000000000007", "0/70000D8", "0/70001B0", "2026-11-22T18:36:49.687047Z"},
	} {
		taken, err := time.Parse(time.RFC3339Nano, b.taken)
		if err != nil {
			t.Fatal(err)
		}
		run, err := runid.New(taken, bytes.NewReader(bytes.Repeat([]byte{byte(i)}, runid.Size)))
		if err != nil {
			t.Fatal(err)
		}
		name := "base_" + b.segment + "_00000216"
		manifest, err := json.Marshal(backup.Manifest{
			Version: 1, Name: name, Kind: backup.Live, System: system, Timeline: 1, Root: strings.Repeat("0", 32),
			StartLSN: b.start, StopLSN: b.stop, SegmentSize: 16 << 20, BlockSize: 8192, Started: taken, Stopped: taken, Bytes: 7770182,
		})
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, "basebackups_006", name, run.String())
		writeEnvelope(t, path+".intent", "intent", chunkstore.Intent{System: system, Start: b.start}, taken)
		writeEnvelope(t, path+".outcome", "outcome", chunkstore.Outcome{
			Result: chunkstore.Commit, System: system, Start: b.start, Manifest: manifest,
		}, taken)
	}
	for no := range uint64(9) {
		seg := fmt.Sprintf("00000001%016X", 2+no)
		writeObject(t, filepath.Join(dir, "wal_006", system, seg), nil)
	}
	runQuietly(t, dir, "adopt-system", system)
	return dir
}

func runQuietly(t *testing.T, dir string, args ...string) {
	t.Helper()
	env := []string{"WALE_LOG_DESTINATION=stderr", "WALE_FILE_PREFIX=file://localhost" + dir, "WALE_STATE_DIR=" + t.TempDir()}
	var out bytes.Buffer
	if err := run(t.Context(), args, env, strings.NewReader(""), &out, &out); err != nil {
		t.Fatalf("%v: %v\n%s", args, err, &out)
	}
}

func writeEnvelope(t *testing.T, path, kind string, v any, taken time.Time) {
	t.Helper()
	b, err := envelope.Encode(kind, 1, v)
	if err != nil {
		t.Fatal(err)
	}
	writeObject(t, path, b)
	if err := os.Chtimes(path, taken, taken); err != nil {
		t.Fatal(err)
	}
}

func writeObject(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// What the README's blocks of sh say is run as they stand, one after the
// other, by the user that PostgreSQL runs as, on a scratch cluster. Only paths
// are others, and the moment that is restored.
func TestREADMERuns(t *testing.T) {
	t.Parallel()
	dir := pgtest.TempDir(t)
	bin := filepath.Dir(pgtest.Binary(t))
	env := []string{"WALE_STATE_DIR=" + filepath.Join(dir, "state"), "WALE_LOG_DESTINATION=stderr"}
	c := pgtest.Start(t, pgtest.Options{
		ArchiveCommand: "WALE_ENVDIR=" + dir + "/etc/wal-e.d/env " + bin + "/wal-e --terse wal-push %p",
		Env:            env,
	})
	c.AddTablespace(t, "fast")
	restored := strings.NewReplacer("/etc/wal-e.d", dir+"/etc/wal-e.d", "/srv/", dir+"/srv/", "/mnt/", dir+"/mnt/")
	moment := "2026-11-22 14:32:00+00"
	blocks := 0
	for block := range strings.SplitSeq(readDoc(t, "README.md"), "\n```sh\n") {
		script, _, _ := strings.Cut(block, "\n```")
		if blocks++; blocks == 1 {
			continue // what stands before the first
		}
		script = strings.ReplaceAll(restored.Replace(script), "$PGDATA", c.Dir)
		switch {
		case strings.Contains(script, moment):
			script = strings.ReplaceAll(script, moment, c.Query(t, "SELECT clock_timestamp()"))
			script = strings.ReplaceAll(script, " LATEST", " --tablespace-map fast="+dir+"/mnt/restored LATEST")
		case strings.Contains(script, "--while-offline"):
			c.Stop(t, pgtest.Fast)
		}
		// The first block makes the folder that the others read.
		cmd := c.Command(t, "bash", "-euo", "pipefail", "-c", "export WALE_ENVDIR="+dir+"/etc/wal-e.d/env\n"+script)
		if blocks == 2 {
			cmd = c.Command(t, "bash", "-euo", "pipefail", "-c", script)
		}
		cmd.Env = append(append(cmd.Env, env...), "PATH="+bin+":"+os.Getenv("PATH"))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("README.md: %v\n%s\n%s", err, script, out)
		}
	}
	if blocks < 9 {
		t.Errorf("README.md has %d blocks to run: did their form change?", blocks-1)
	}
}
