package backup

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"wal-e/internal/postgres"
)

const autoBefore = "# by ALTER SYSTEM\nrecovery_target_xid = '4711'\n"

// What is written for each version and kind of recovery.
func TestRecoverySettings(t *testing.T) {
	t.Parallel()
	noon := Target{Kind: TargetTime, Time: time.Date(2026, 5, 3, 12, 0, 0, 0, time.UTC)}
	for name, tc := range map[string]struct {
		version int
		recover RecoverConfig
		files   map[string]string
	}{
		"end": {150004, RecoverConfig{}, map[string]string{
			"recovery.signal": "",
			autoConf: autoBefore + `recovery_target = ''
recovery_target_lsn = ''
recovery_target_name = ''
recovery_target_time = ''
recovery_target_xid = ''
primary_conninfo = ''
primary_slot_name = ''
recovery_end_command = ''
archive_cleanup_command = ''
recovery_min_apply_delay = '0'
restore_command = 'wal-e wal-fetch "%f" "%p"'
recovery_target_timeline = '1'
archive_mode = 'off'
`}},
		"time": {120004, RecoverConfig{Target: noon, Exclusive: true, Action: ActionPause}, map[string]string{
			"recovery.signal": "",
			autoConf: autoBefore + `recovery_target = ''
recovery_target_lsn = ''
recovery_target_name = ''
recovery_target_xid = ''
primary_conninfo = ''
primary_slot_name = ''
recovery_end_command = ''
archive_cleanup_command = ''
recovery_min_apply_delay = '0'
restore_command = 'wal-e wal-fetch "%f" "%p"'
recovery_target_timeline = '1'
recovery_target_inclusive = 'off'
recovery_target_action = 'pause'
recovery_target_time = '2026-05-03 12:00:00.000000+00'
archive_mode = 'off'
`}},
		"standby": {180000, RecoverConfig{Standby: true}, map[string]string{
			"standby.signal": "",
			autoConf: autoBefore + `recovery_target = ''
recovery_target_lsn = ''
recovery_target_name = ''
recovery_target_time = ''
recovery_target_xid = ''
recovery_end_command = ''
archive_cleanup_command = ''
restore_command = 'wal-e wal-fetch "%f" "%p"'
recovery_target_timeline = 'latest'
`}},
		"keep archiving": {170000, RecoverConfig{Target: Target{Kind: TargetImmediate}, KeepArchiving: true}, map[string]string{
			"recovery.signal": "",
			autoConf: autoBefore + `recovery_target_lsn = ''
recovery_target_name = ''
recovery_target_time = ''
recovery_target_xid = ''
primary_conninfo = ''
primary_slot_name = ''
recovery_end_command = ''
archive_cleanup_command = ''
recovery_min_apply_delay = '0'
restore_command = 'wal-e wal-fetch "%f" "%p"'
recovery_target_timeline = '1'
recovery_target_inclusive = 'on'
recovery_target_action = 'promote'
recovery_target = 'immediate'
`}},
		"before 12": {110005, RecoverConfig{Target: noon}, map[string]string{
			recoveryConf: `restore_command = 'wal-e wal-fetch "%f" "%p"'
recovery_target_timeline = '1'
recovery_target_inclusive = 'on'
recovery_target_action = 'promote'
recovery_target_time = '2026-05-03 12:00:00.000000+00'
`,
			autoConf: autoBefore + "archive_mode = 'off'\n"}},
		"standby of 9.6": {90624, RecoverConfig{Standby: true}, map[string]string{
			recoveryConf: `standby_mode = 'on'
restore_command = 'wal-e wal-fetch "%f" "%p"'
recovery_target_timeline = 'latest'
`,
			autoConf: autoBefore}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, c, to := newArchive(t), newCluster().withoutSpaces(), newTarget(t)
			c.change = func(m *Manifest) { m.ServerVersion = tc.version }
			if tc.version < 100000 {
				delete(c.dirs, "pg_wal")
				delete(c.dirs, "pg_wal/archive_status")
				c.dirs["pg_xlog"] = 0o700
			}
			cfg := a.config(a.push(t, c), to)
			cfg.Recover = tc.recover.with(nil)
			cfg.Recover.RestoreCommand = `wal-e wal-fetch "%f" "%p"`
			r := mustFetch(t, cfg)
			for _, file := range []string{autoConf, recoveryConf, recoverySignal, standbySignal} {
				want, wanted := tc.files[file]
				b, err := os.ReadFile(filepath.Join(to.dir, file))
				if !wanted && !os.IsNotExist(err) {
					t.Errorf("%s was written (%v)", file, err)
				}
				if got := withoutComments(string(b)); wanted && (err != nil || got != want) {
					t.Errorf("%s, %v:\n%s\nwant:\n%s", file, err, got, want)
				}
			}
			if r.Recovery == nil || r.Recovery.Target == "" {
				t.Errorf("recovery = %+v", r.Recovery)
			}
			warned := slices.ContainsFunc(r.Warnings, func(s string) bool { return strings.Contains(s, "recovery stopping") })
			if want := tc.version < 130000 && tc.recover.Target.Kind == TargetTime; warned != want {
				t.Errorf("warnings = %q, want one of targets that aren't reached: %v", r.Warnings, want)
			}
		})
	}
}

// withoutComments removes the lines that a fetch marks its block with.
func withoutComments(s string) string {
	var out strings.Builder
	for line := range strings.Lines(s) {
		if !strings.HasPrefix(line, "# wal-e") && !strings.HasPrefix(line, "# of backup") {
			out.WriteString(line)
		}
	}
	return out.String()
}

// A second try replaces what the first wrote, in a file that is the user's too.
func TestAppendBlock(t *testing.T) {
	t.Parallel()
	for before, want := range map[string]string{
		"":        "",
		"a = 1":   "a = 1\n",
		"a = 1\n": "a = 1\n",
	} {
		once := appendBlock([]byte(before), "of one", []Setting{{"x", "1"}})
		twice := appendBlock(once, "of two", []Setting{{"x", "2"}, {"y", `a'b\c`}})
		if got, want := string(twice), want+blockBegin+"\n# of two\nx = '2'\ny = 'a''b\\\\c'\n"+blockEnd+"\n"; got != want {
			t.Errorf("twice = %q, want %q", got, want)
		}
		if got := string(appendBlock(twice, "of three", nil)); got != want {
			t.Errorf("without settings = %q, want %q", got, want)
		}
	}
}

func TestRecoverRefuses(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	c := newCluster().withoutSpaces()
	b := a.push(t, c)
	c.change = func(m *Manifest) { m.ServerVersion = 90624 }
	old := a.push(t, c)
	c.change = func(m *Manifest) { m.Kind = Offline }
	offline := a.push(t, c)
	for name, tc := range map[string]struct {
		b       *Backup
		recover RecoverConfig
		want    string
	}{
		"no command":        {b, RecoverConfig{}, "restore_command"},
		"command without p": {b, RecoverConfig{RestoreCommand: "cp %f x"}, "restore_command"},
		"lines":             {b, RecoverConfig{RestoreCommand: "cp %f %p\nx"}, "single line"},
		"LSN in 9.6":        {old, RecoverConfig{RestoreCommand: "cp %f %p", Target: Target{Kind: TargetLSN, LSN: 1 << 40}}, "9.6"},
		"offline":           {offline, RecoverConfig{RestoreCommand: "cp %f %p", Target: Target{Kind: TargetImmediate}}, "offline"},
	} {
		to := newTarget(t)
		cfg := a.config(tc.b, to)
		cfg.Recover = &tc.recover
		if _, err := Fetch(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: Fetch = %v, want an error with %q", name, err, tc.want)
		}
	}
	to := newTarget(t)
	cfg := a.config(old, to)
	cfg.Recover = &RecoverConfig{RestoreCommand: "cp %f %p"}
	write(t, filepath.Join(to.dir, "recovery.conf"), "restore_command = 'mine'\n")
	if _, err := Fetch(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "--overwrite-config") {
		t.Errorf("Fetch beside a recovery.conf = %v", err)
	}
	cfg.OverwriteConfig = true
	mustFetch(t, cfg)
	if got := withoutComments(read(t, to.dir, "recovery.conf")); !strings.Contains(got, "'cp %f %p'") {
		t.Errorf("recovery.conf = %q", got)
	}
}

// A try with other options leaves nothing of an earlier one behind.
func TestRecoverAgain(t *testing.T) {
	t.Parallel()
	a, c, to := newArchive(t), newCluster().withoutSpaces(), newTarget(t)
	cfg := a.config(a.push(t, c), to)
	var marker string
	cfg.FetchWAL = func(_ context.Context, _, _, dest string) error {
		marker = read(t, to.dir, markerDir, "fetch.json")
		return os.WriteFile(dest, nil, 0o600)
	}
	cfg.Workers = 1
	again := func(r *RecoverConfig) {
		t.Helper()
		cfg.Recover = r
		mustFetch(t, cfg)
		write(t, filepath.Join(to.dir, markerDir, "fetch.json"), marker)
	}
	again(&RecoverConfig{RestoreCommand: "cp %f %p", Standby: true})
	again(&RecoverConfig{RestoreCommand: "cp %f %p"})
	if exists(filepath.Join(to.dir, standbySignal)) || !exists(filepath.Join(to.dir, recoverySignal)) {
		t.Error("standby.signal is left, or recovery.signal isn't there")
	}
	if got := read(t, to.dir, autoConf); strings.Count(got, blockBegin) != 1 || strings.Contains(got, "latest") {
		t.Errorf("postgresql.auto.conf = %q", got)
	}
	again(nil)
	if exists(filepath.Join(to.dir, recoverySignal)) {
		t.Error("recovery.signal is left")
	}
	if got := read(t, to.dir, autoConf); got != autoBefore {
		t.Errorf("postgresql.auto.conf = %q, want %q", got, autoBefore)
	}
}

// What the operator must raise, or name, before the first start is told.
func TestAdviseConfiguration(t *testing.T) {
	t.Parallel()
	a, c, to := newArchive(t), newCluster().withoutSpaces(), newTarget(t)
	cfg := a.config(a.push(t, c), to)
	cfg.Recover = &RecoverConfig{RestoreCommand: "cp %f %p"}
	cfg.setDefaults()
	f, err := newFetcher(cfg)
	if err != nil {
		t.Fatal(err)
	}
	f.control = &postgres.ControlFile{MaxConnections: 200, MaxWorkerProcesses: 8, MaxWALSenders: 10, MaxLocksPerXact: 64}
	f.adviseConfiguration(t.Context(), serverConf{present: true, settings: map[string]string{"max_connections": "20"}})
	if got := strings.Join(f.report.Warnings, ""); !strings.Contains(got, "max_connections = 200 (now 20)") || strings.Contains(got, "max_worker_processes") {
		t.Errorf("warnings = %q, want max_connections only", got)
	}
	f.adviseConfiguration(t.Context(), serverConf{})
	if got := strings.Join(f.report.Next, ""); !strings.Contains(got, "config_file=/etc/postgresql/15/main/postgresql.conf") || !strings.Contains(got, "max_connections = 200") {
		t.Errorf("next = %q, want the line to use", got)
	}
}

func TestReadServerConf(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, dir+"/postgresql.conf", `# a comment
max_connections = 300 # more
MAX_WORKER_PROCESSES 5
archive_mode='on'
archive_command = 'cp ''%p'' /a\\b'
include 'extra/one.conf'
include_if_exists = 'none.conf'
include_dir 'conf.d'
work_mem =
broken = 'open
include 'postgresql.conf'
`)
	write(t, dir+"/extra/one.conf", "max_wal_senders = 3\ninclude = 'two.conf'\n")
	write(t, dir+"/extra/two.conf", "shared_buffers=1GB")
	write(t, dir+"/conf.d/b.conf", "port = 2\n")
	write(t, dir+"/conf.d/a.conf", "port = 1\n")
	write(t, dir+"/conf.d/.c.conf", "port = 3\n")
	write(t, dir+"/postgresql.auto.conf", "max_connections = '400'\n")
	c := readServerConf(dir)
	want := map[string]string{
		"max_connections": "400", "max_worker_processes": "5", "archive_mode": "on", "archive_command": `cp '%p' /a\b`,
		"max_wal_senders": "3", "shared_buffers": "1GB", "port": "2",
	}
	for name, value := range want {
		if c.settings[name] != value {
			t.Errorf("%s = %q, want %q", name, c.settings[name], value)
		}
	}
	if len(c.settings) != len(want) || !c.present || !c.archives() {
		t.Errorf("conf = %+v", c)
	}
	low := c.lowParameters(&postgres.ControlFile{MaxConnections: 500, MaxWorkerProcesses: 8, MaxWALSenders: 4, MaxPreparedXacts: 1}, postgres.V11)
	if want := []string{"max_connections = 500 (now 400)", "max_worker_processes = 8 (now 5)", "max_prepared_transactions = 1 (now 0)"}; !slices.Equal(low, want) {
		t.Errorf("low = %q, want %q", low, want)
	}
	for mode, want := range map[string]bool{"": false, "off": false, "FALSE": false, "0": false, "on": true, "always": true, "1": true, "yes": true} {
		c.settings["archive_mode"] = mode
		if c.archives() != want {
			t.Errorf("archives with archive_mode %q = %v", mode, !want)
		}
	}
}
