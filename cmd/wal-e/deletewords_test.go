package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"wal-e/backup"
	"wal-e/chunkstore"
	"wal-e/internal/runid"
)

// An invoked is what a command line printed and returned.
type invoked struct {
	stdout, stderr string
	code           int
}

func invoke(t *testing.T, dir string, args ...string) invoked {
	t.Helper()
	env := []string{"WALE_LOG_DESTINATION=stderr", "WALE_STATE_DIR=" + t.TempDir(), "WALE_FILE_PREFIX=file://localhost" + dir}
	var out, errs bytes.Buffer
	err := run(t.Context(), args, env, strings.NewReader(""), &out, &errs)
	return invoked{out.String(), errs.String(), exitCode(err)}
}

// wants fails the test unless the status is code and all words are in the log.
func (i invoked) wants(t *testing.T, code int, words ...string) {
	t.Helper()
	if i.code != code {
		t.Errorf("exit status %d, want %d\n%s", i.code, code, i.stderr)
	}
	for _, w := range words {
		if !strings.Contains(i.stderr, w) {
			t.Errorf("the log lacks %q:\n%s", w, i.stderr)
		}
	}
}

const (
	firstBackup  = "base_000000010000000000000004_00000216"
	secondBackup = "base_000000010000000000000007_00000216"
)

// delete writes what scripts look for in the log of classic WAL-E, per object
// that goes, and in a dry run the same with a hint.
func TestDeleteRecords(t *testing.T) {
	t.Parallel()
	dir := classicArchive(t)
	url := "file://localhost" + dir
	words := []string{
		"wal_e.worker.base INFO     MSG: Deleting 1 oldest base backups.",
		"wal_e.worker.base INFO     MSG: deleting a base backup sentinel file\n        DETAIL: The key being deleted is " + url + "/basebackups_006/" + firstBackup,
		"wal_e.worker.base INFO     MSG: deleting a wal file\n        DETAIL: The key being deleted is " + url + "/wal_006/6902345678901234567/000000010000000000000006.\n",
		"5 WAL files. 1 backup stays;",
	}
	dry := invoke(t, dir, "delete", "retain", "1")
	dry.wants(t, 0, append(words, "wal_e.main   INFO     MSG: performing dry run of data deletion")...)
	if n := strings.Count(dry.stderr, "HINT: This is only a dry run"); n != 6 {
		t.Errorf("%d records say that it is a dry run, want 6\n%s", n, dry.stderr)
	}
	if r := invoke(t, dir, "--terse", "delete", "retain", "1"); r.stderr != "" || r.stdout != "" {
		t.Errorf("delete --terse printed %q and %q", r.stdout, r.stderr)
	}
	r := invoke(t, dir, "delete", "--confirm", "retain", "1")
	r.wants(t, 0, append(words, "wal_e.main   INFO     MSG: deleting data in the store", "collected what no backup needs")...)
	if strings.Contains(r.stderr, "dry run") {
		t.Errorf("a delete says that it is a dry run:\n%s", r.stderr)
	}
	if n := strings.Count(r.stderr, "MSG: deleting a wal file"); n != 5 {
		t.Errorf("%d WAL files were told as deleted, want 5", n)
	}
	invoke(t, dir, "delete", "everything", "--confirm").wants(t, 0, "MSG: deleting part of a base backup", "MSG: deleting part of wal logs")
}

func TestUndeleteRefuses(t *testing.T) {
	t.Parallel()
	dir := classicArchive(t)
	invoke(t, dir, "undelete", firstBackup).wants(t, 1, "backup "+firstBackup+" is not deleted")
	invoke(t, dir, "undelete", "base_00000001000000000000000A_00000040").wants(t, 1, "no deleted backup base_00000001000000000000000A_00000040", "HINT:", "--grace")
	invoke(t, dir, "undelete", firstBackup+"@x").wants(t, 2)

	// With a grace it works, and again after the grace was over and a push that is
	// open keeps a collection from ending, it doesn't.
	invoke(t, dir, "delete", "--confirm", "--grace", "1h", "retain", "1").wants(t, 0)
	invoke(t, dir, "undelete", firstBackup).wants(t, 0, "backup was taken back")
	invoke(t, dir, "backup-list", firstBackup).wants(t, 0)
	intents, err := filepath.Glob(filepath.Join(dir, "basebackups_006", firstBackup, "*.intent"))
	if err != nil || len(intents) != 2 {
		t.Fatalf("runs of %s: %v, %v, want two", firstBackup, intents, err)
	}
	run := strings.TrimSuffix(filepath.Base(intents[1]), ".intent")
	writeObject(t, filepath.Join(dir, "chunks_006", "packs", run, "00000000"), []byte("pack")) // that has to wait
	writeIntent(t, dir)
	invoke(t, dir, "delete", "--confirm", "retain", "1").wants(t, 0, "pending", "on db1 (pid 7)")
	r := invoke(t, dir, "undelete", firstBackup)
	r.wants(t, 1, "can't be taken back", "DETAIL: ", "is being removed", "that is final", "--grace")
	if strings.Contains(r.stderr, "run the backup again") {
		t.Errorf("undelete gives a push's advice:\n%s", r.stderr)
	}
	invoke(t, dir, "gc", "--abort-running").wants(t, 0)
	invoke(t, dir, "undelete", firstBackup).wants(t, 1, "no deleted backup "+firstBackup)
}

// writeIntent begins a push that never goes on.
func writeIntent(t *testing.T, dir string) {
	t.Helper()
	now := time.Now()
	run, err := runid.New(now, nil)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "basebackups_006", "base_00000001000000000000000A_00000040", run.String()+".intent")
	writeEnvelope(t, path, "intent", chunkstore.Intent{Host: "db1", PID: 7, System: "6902345678901234567", Start: "0/A000028"}, now)
}

func TestBackupMarkWords(t *testing.T) {
	t.Parallel()
	dir := classicArchive(t)
	for _, tt := range []struct {
		args  string
		code  int
		words []string
	}{
		{"--keep nonsense", 1, []string{"invalid backup query submitted", "HINT: Want LATEST"}},
		{"--keep base_00000001000000000000000A_00000040", 1, []string{"no backup base_00000001000000000000000A_00000040 in file://", "This prefix holds 2 backups: " + secondBackup + ", " + firstBackup + ".", hintBackups}},
		{"--keep --system 1 LATEST", 1, []string{"no backup of system 1 in file://", "This prefix holds 2 backups: "}},
		{"--keep --system x LATEST", 2, []string{"--system"}},
		{"--keep --until yesterday LATEST", 2, []string{"is not a time"}},
		{"--keep --release LATEST", 2, []string{"want either --keep"}},
		{"LATEST", 2, []string{"want either --keep"}},
		{"--keep LATEST", 0, []string{"backup is kept", secondBackup, "marked to be kept"}},
		{"--keep --until 2999-01-31 " + firstBackup, 0, []string{"until 2999-02-01T00:00:00Z"}},
	} {
		invoke(t, dir, append([]string{"backup-mark"}, strings.Fields(tt.args)...)...).wants(t, tt.code, tt.words...)
	}
	invoke(t, dir, "delete", "--confirm", "everything").wants(t, 1, "everything can't be deleted", "--release")
	r := invoke(t, dir, "delete", "--confirm", "--json", "before", secondBackup)
	r.wants(t, 0, "keeping a base backup with just its own wal files")
	if !strings.Contains(r.stdout, `"own_wal_only":true`) || !strings.Contains(r.stdout, `"report":{"dry_run":false`) {
		t.Errorf("delete --json printed %s", r.stdout)
	}
	invoke(t, dir, "backup-mark", "--release", firstBackup).wants(t, 0, "may be deleted again")
	invoke(t, dir, "delete", "--confirm", "before", secondBackup).wants(t, 0, "deleting a base backup sentinel file")
}

// Options are listed in the order in which they matter.
func TestDeleteHelp(t *testing.T) {
	t.Parallel()
	r := invoke(t, t.TempDir(), "delete", "--help")
	var at []int
	for _, option := range []string{"--confirm ", "--dry-run ", "--keep-within ", "--grace ", "--wait ", "--abort-running ", "--fence-after ", "--settle ", "--exclusive ", "--json "} {
		at = append(at, strings.Index(r.stdout, "\n      "+option))
		if option == "--dry-run " {
			at[len(at)-1] = strings.Index(r.stdout, "\n  -n, --dry-run ")
		}
	}
	if slices.Contains(at, -1) || !slices.IsSorted(at) {
		t.Errorf("options stand at %v:\n%s", at, r.stdout)
	}
	if r := invoke(t, t.TempDir(), "delete", "retain", "--help"); !strings.Contains(r.stdout, "see wal-e delete --help") {
		t.Errorf("delete retain --help doesn't say where its other options are:\n%s", r.stdout)
	}
}

// After pg_upgrade the old cluster's backups go once the new one has enough of
// its own, and its WAL goes with them.
func TestDeleteAfterUpgrade(t *testing.T) {
	t.Parallel()
	const newSystem = "7000000000000000009"
	dir := classicArchive(t) // of November 2026; its WAL is as old as its last backup
	last := time.Date(2026, 11, 22, 18, 40, 0, 0, time.UTC)
	old := filepath.Join(dir, "wal_006", "6902345678901234567")
	segments, err := filepath.Glob(filepath.Join(old, "0*"))
	if err != nil || len(segments) != 9 {
		t.Fatalf("WAL of the old system: %v, %v", segments, err)
	}
	for _, s := range segments {
		if err := os.Chtimes(s, last, last); err != nil {
			t.Fatal(err)
		}
	}
	writeObject(t, filepath.Join(old, "00000002.history"), nil)
	if err := os.Chtimes(filepath.Join(old, "00000002.history"), last, last); err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		writeBackup(t, dir, newSystem, uint64(3+i), last.Add(time.Duration(i+1)*time.Hour))
	}
	writeObject(t, filepath.Join(dir, "wal_006", newSystem, "000000010000000000000004"), nil)

	invoke(t, dir, "delete", "retain", "3", "--confirm").wants(t, 0, "Retaining all 4 base backups", "2 WAL files")
	r := invoke(t, dir, "delete", "--confirm", "--json", "retain", "2")
	r.wants(t, 0, "its system was followed by another")
	if !strings.Contains(r.stdout, `"ended":true`) || !strings.Contains(r.stdout, `"backups_kept":2`) {
		t.Errorf("delete --json printed %s", r.stdout)
	}
	if left, err := filepath.Glob(filepath.Join(dir, "wal_006", "*", "*")); err != nil || len(left) != 2 {
		t.Errorf("WAL left: %v, %v, want the old system's history file and the new one's segment", left, err)
	}
}

// writeBackup stores a backup without packs that starts in a segment.
func writeBackup(t *testing.T, dir, system string, segment uint64, taken time.Time) {
	t.Helper()
	run, err := runid.New(taken, nil)
	if err != nil {
		t.Fatal(err)
	}
	start := fmt.Sprintf("0/%X000028", segment)
	name := fmt.Sprintf("base_%08X%016X_%08d", 1, segment, 40)
	manifest, err := json.Marshal(backup.Manifest{
		Version: 1, Name: name, Kind: backup.Live, System: system, Timeline: 1, Root: strings.Repeat("0", 32),
		StartLSN: start, StopLSN: fmt.Sprintf("0/%X000100", segment), SegmentSize: 16 << 20, BlockSize: 8192, Started: taken, Stopped: taken,
	})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "basebackups_006", name, run.String())
	writeEnvelope(t, path+".intent", "intent", chunkstore.Intent{System: system, Start: start}, taken)
	writeEnvelope(t, path+".outcome", "outcome", chunkstore.Outcome{Result: chunkstore.Commit, System: system, Start: start, Manifest: manifest}, taken)
}
