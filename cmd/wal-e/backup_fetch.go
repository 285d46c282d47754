package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"wal-e/backup"
	"wal-e/chunkstore"
	"wal-e/internal/fault"
	"wal-e/internal/postgres"
	"wal-e/internal/storage"
	"wal-e/wal"
)

// fetchFlags are the options of backup-fetch.
type fetchFlags struct {
	poolSize        int
	system          string
	tablespaces     []string
	restoreSpec     string
	blind           bool
	walDir          string
	overwriteConfig bool
	owner           string
	withWAL         bool
	delta           bool
	discardWAL      bool
	dryRun, json    bool

	recover        bool
	target         backup.TargetOptions
	exclusive      bool
	timeline       string
	action         string
	standby        bool
	keepArchiving  bool
	restoreCommand string
}

const backupFetchLong = `Restore the base backup BACKUP_NAME into PG_CLUSTER_DIRECTORY: LATEST, a name
from backup-list, or NAME@RUN for one of several pushes of a name. The directory
must be empty or absent; configuration files that are in it stay. A command that
was interrupted goes on when it is repeated, and until it is done no server can
start on the directory.

Tablespaces go where --tablespace-map says, or where a link in pg_tblspc that is
already there points, or to where they were if nothing is there.

With --delta the directory holds a stopped cluster, damaged or gone its own way as
a primary after a failover: files are compared with the backup, only what differs
is fetched, and what the backup doesn't have is removed, but for configuration
files and the folders log and pg_log. The cluster must have the backup's system
identifier.

With --recover the cluster is set up to recover from this archive when it is
started, to a target or to the end of the WAL; LATEST is then the newest backup
from which the target can be reached. The restored copy does not archive, as it
has the identity of the original; --keep-archiving leaves that alone.`

const backupFetchExample = `  wal-e backup-fetch /var/lib/postgresql/17/main LATEST
  wal-e backup-fetch --recover --target-time '2026-11-22 14:32:00+01' /srv/restored LATEST
  wal-e backup-fetch --delta --recover --standby /var/lib/postgresql/17/main LATEST
  wal-e backup-fetch --dry-run --recover --tablespace-map fast=/mnt/fast /srv/restored LATEST`

func newBackupFetchCommand(a *app) *cobra.Command {
	var f fetchFlags
	cmd := &cobra.Command{
		Use:     "backup-fetch PG_CLUSTER_DIRECTORY BACKUP_NAME",
		Short:   "restore a base backup",
		Long:    backupFetchLong,
		Example: backupFetchExample,
		Args:    arguments("PG_CLUSTER_DIRECTORY", "BACKUP_NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.check(); err != nil {
				return &usageError{cmd, err.Error()}
			}
			return a.do(cmd, func(ctx context.Context, s *session) error { return backupFetch(ctx, s, f, args[0], args[1]) })
		},
	}
	f.bind(cmd)
	return cmd
}

func (f *fetchFlags) bind(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.VarP(numberOption(&f.poolSize, 4), "pool-size", "p", "files and storage requests at once")
	flags.StringVar(&f.system, "system", "", "the cluster's `SYSTEM_IDENTIFIER`, when the archive holds several")
	flags.StringArrayVar(&f.tablespaces, "tablespace-map", nil, "put a tablespace, by OID or name, into a directory, `OID|NAME=DIR`; may be repeated")
	flags.StringVar(&f.restoreSpec, "restore-spec", "", "classic restore specification: a JSON `FILE`, or SOURCE for where tablespaces were")
	flags.BoolVar(&f.blind, "blind-restore", false, "make tablespaces plain directories in pg_tblspc")
	flags.StringVar(&f.walDir, "waldir", "", "put WAL into `DIR`, and link pg_wal to it")
	flags.BoolVar(&f.overwriteConfig, "overwrite-config", false, "replace configuration files that are in the directory")
	flags.StringVar(&f.owner, "owner", "", "give files to `USER[:GROUP]`, as root only")
	flags.BoolVar(&f.delta, "delta", false, "restore over the stopped cluster that is in the directory: only what differs is fetched")
	flags.BoolVar(&f.discardWAL, "discard-wal", false, "with --delta: remove WAL that was never archived, too")
	flags.BoolVar(&f.withWAL, "with-wal", false, "also fetch the WAL that the backup needs to be consistent")
	flags.BoolVar(&f.dryRun, "dry-run", false, "print the plan and change nothing")
	flags.BoolVar(&f.json, "json", false, "print the plan or the report as JSON")
	flags.BoolVar(&f.recover, "recover", false, "set the cluster up to recover from this archive")
	flags.StringVar(&f.target.Time, "target-time", "", "recover to a `TIME`; without a zone it is local time")
	flags.StringVar(&f.target.LSN, "target-lsn", "", "recover to an `LSN`")
	flags.StringVar(&f.target.XID, "target-xid", "", "recover to a transaction `ID`")
	flags.StringVar(&f.target.Name, "target-name", "", "recover to a restore point `NAME`")
	flags.BoolVar(&f.target.Immediate, "target-immediate", false, "recover until the cluster is consistent")
	flags.BoolVar(&f.exclusive, "target-exclusive", false, "stop before the target, not after it")
	flags.StringVar(&f.timeline, "target-timeline", "", "`TIMELINE` to follow: latest, current or a number (latest)")
	flags.StringVar(&f.action, "target-action", "", "`WHAT` to do at the target: promote, pause or shutdown (promote)")
	flags.BoolVar(&f.standby, "standby", false, "with --recover: make a standby")
	flags.BoolVar(&f.keepArchiving, "keep-archiving", false, "leave archive_mode as the backup has it")
	flags.StringVar(&f.restoreCommand, "restore-command", "", "restore_command to write: `COMMAND` with %f and %p (this wal-e)")
}

// check finds what no restore can be made of.
func (f fetchFlags) check() error {
	if f.poolSize < 1 {
		return fault.BadSetting.Errorf("--pool-size %d: want at least 1", f.poolSize)
	}
	if f.system != "" {
		if _, err := postgres.ParseSystemID(f.system); err != nil {
			return fmt.Errorf("--system: %w", err)
		}
	}
	if _, err := tablespaceMap(f.tablespaces); err != nil {
		return err
	}
	if f.discardWAL && !f.delta {
		return fault.BadSetting.Errorf("--discard-wal needs --delta")
	}
	target, err := backup.ParseTarget(f.target, time.Local)
	if err != nil {
		return err
	}
	if !f.recover && (target.Kind != backup.TargetEnd || f.exclusive || f.timeline != "" || f.action != "" ||
		f.standby || f.keepArchiving || f.restoreCommand != "") {
		return fault.BadSetting.Errorf("the options of a recovery (--target-…, --standby, --keep-archiving, --restore-command) need --recover")
	}
	if !slices.Contains([]string{"", "promote", "pause", "shutdown"}, f.action) {
		return fault.BadSetting.Errorf("--target-action %q: want promote, pause or shutdown", f.action)
	}
	return nil
}

func backupFetch(ctx context.Context, s *session, f fetchFlags, dir, query string) error {
	if os.Getenv("GOMEMLIMIT") == "" {
		// What is live is some 10 MB for each worker; without a limit as much again is
		// garbage before it is collected.
		debug.SetMemoryLimit(60<<20 + int64(f.poolSize)*12<<20)
	}
	b, err := s.openBucket(use{requests: 2 * f.poolSize, reads: true})
	if err != nil {
		return err
	}
	recovery, err := f.recovery(s, b)
	if err != nil {
		return err
	}
	found, err := backup.Find(ctx, backup.FindConfig{Bucket: b, Query: query, System: f.system, Recover: recovery})
	if recovery == nil || found == nil {
		switch classic, ok, cerr := classicInstead(ctx, b, query, found, err); {
		case cerr != nil:
			return cerr
		case ok:
			return fetchClassicBackup(ctx, s, b, f, dir, classic)
		}
	}
	if err != nil {
		return explainQuery(query, err)
	}
	store, err := chunkstore.Open(ctx, b, s.log)
	if err != nil {
		return err
	}
	if store, err = s.openFor(ctx, b, store, found, !f.dryRun); err != nil {
		return err
	}
	spaces, err := tablespaceMap(f.tablespaces)
	if err != nil {
		return err
	}
	cfg := backup.FetchConfig{
		Store: store, Backup: found, Dir: dir, StateDir: s.clusterState, Workers: f.poolSize,
		TablespaceMap: spaces, RestoreSpec: f.restoreSpec, BlindRestore: f.blind,
		Delta: f.delta, DiscardWAL: f.discardWAL,
		WALDir: f.walDir, OverwriteConfig: f.overwriteConfig, Owner: f.owner,
		Recover: recovery, DryRun: f.dryRun, Log: s.log.With("logger", "wal_e.operator.backup"),
	}
	if f.withWAL {
		cfg.FetchWAL = fetchWAL(s, b)
	}
	meter, stop := s.meter(ctx)
	defer stop()
	cfg.Progress = meter
	report, err := backup.Fetch(ctx, cfg)
	stop()
	if err != nil {
		return err
	}
	if f.json {
		return json.NewEncoder(s.stdout).Encode(report)
	}
	return printFetched(s.stdout, report)
}

// recovery returns what --recover asks for, nil without it.
func (f fetchFlags) recovery(s *session, b storage.Bucket) (*backup.RecoverConfig, error) {
	if !f.recover {
		return nil, nil
	}
	target, err := backup.ParseTarget(f.target, time.Local)
	if err != nil {
		return nil, err
	}
	command := f.restoreCommand
	if command == "" {
		if command, err = s.restoreCommand(); err != nil {
			return nil, err
		}
	}
	return &backup.RecoverConfig{
		Target: target, Exclusive: f.exclusive, Timeline: f.timeline, Action: f.action,
		RestoreCommand: command, Standby: f.standby, KeepArchiving: f.keepArchiving,
		Timelines: timelines(b), History: history(s.walReadsMany(b)),
		Zone: time.Local,
	}, nil
}

// timelines returns what lists the timelines that have a history in an archive.
func timelines(b storage.Bucket) func(ctx context.Context, system string) ([]postgres.Timeline, error) {
	return func(ctx context.Context, system string) ([]postgres.Timeline, error) {
		id, err := postgres.ParseSystemID(system)
		if err != nil {
			return nil, err
		}
		return wal.Timelines(ctx, b, id)
	}
}

// history returns what reads a timeline's history from an archive.
func history(b storage.Bucket) func(ctx context.Context, system string, tl postgres.Timeline) (postgres.History, error) {
	return func(ctx context.Context, system string, tl postgres.Timeline) (postgres.History, error) {
		id, err := postgres.ParseSystemID(system)
		if err != nil {
			return postgres.History{}, err
		}
		return wal.ReadHistory(ctx, b, id, tl)
	}
}

// restoreCommand is this program with what it needs to find the archive again:
// the folder of variables where there is one, else the prefix. It holds no
// secret.
func (s *session) restoreCommand() (string, error) {
	program, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("restore_command: where is this program: %w", err)
	}
	setting := strings.Join(append([]string{"WALE_" + strings.ToUpper(s.prefix.scheme) + "_PREFIX=" + shellWord(s.prefix.String())}, s.encryptionSettings()...), " ")
	if dir := s.envdir; dir != "" {
		if dir, err = filepath.Abs(dir); err != nil {
			return "", err
		}
		setting = "WALE_ENVDIR=" + shellWord(dir)
	}
	return setting + " " + shellWord(program) + ` wal-fetch "%f" "%p"`, nil
}

// shellWord quotes s for the shell, and percent signs for PostgreSQL.
func shellWord(s string) string {
	s = strings.ReplaceAll(s, "%", "%%")
	if s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/:._-+=@%", r)
	}) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// tablespaceMap parses OID|NAME=DIR.
func tablespaceMap(list []string) (map[string]string, error) {
	m := make(map[string]string, len(list))
	for _, s := range list {
		name, dir, ok := strings.Cut(s, "=")
		if !ok || name == "" || dir == "" {
			return nil, fault.BadSetting.Errorf("--tablespace-map %q: want OID=DIR or NAME=DIR", s)
		}
		if _, twice := m[name]; twice {
			return nil, fault.BadSetting.Errorf("--tablespace-map: %s is given twice", name)
		}
		m[name] = dir
	}
	return m, nil
}

// fetchWAL fetches WAL files for a restore that is to stand on its own.
func fetchWAL(s *session, b storage.Bucket) func(ctx context.Context, system, name, dest string) error {
	return func(ctx context.Context, system, name, dest string) error {
		id, err := postgres.ParseSystemID(system)
		if err != nil {
			return err
		}
		_, err = wal.Fetch(ctx, wal.Config{Bucket: s.walReadsMany(b), System: id, Log: s.log}, name, dest)
		if errors.Is(err, wal.ErrNotFound) {
			err = fmt.Errorf("%w: %w", storage.ErrNotExist, err)
		}
		return err
	}
}

func printFetched(w io.Writer, r *backup.FetchReport) error {
	var b strings.Builder
	verb := "restored"
	if !r.Done {
		verb = "would restore"
	}
	fmt.Fprintf(&b, "%s %s into %s: %s, %s", verb, r.Backup, r.Dir, counted(r.Files, "file"), bytesText(r.Bytes))
	if !r.Done {
		fmt.Fprintf(&b, " from %s with about %s", counted(r.Packs, "pack"), counted(r.Requests, "request"))
	}
	fmt.Fprintf(&b, "\n  owner: %s\n", r.Owner)
	for _, t := range r.Tablespaces {
		fmt.Fprintf(&b, "  tablespace %d %s: %s (was %s)\n", t.OID, t.Name, t.Directory, t.Original)
	}
	if r.WALDir != "" {
		fmt.Fprintf(&b, "  WAL directory: %s\n", r.WALDir)
	}
	if n := len(r.WALFiles); n > 0 {
		where := "fetched by restore_command during recovery"
		if r.WithWAL {
			where = "in the WAL directory"
		}
		files := r.WALFiles[0]
		if n > 1 {
			files = fmt.Sprintf("%d files from %s to %s", n, r.WALFiles[0], r.WALFiles[n-1])
		}
		fmt.Fprintf(&b, "  WAL to be consistent: %s, %s\n", files, where)
	}
	for _, k := range r.KeptConfig {
		fmt.Fprintf(&b, "  kept: %s\n", k)
	}
	if r.Resumed >= 0 {
		fmt.Fprintf(&b, "  resumed: %s already there\n", counted(r.Resumed, "file"))
	}
	switch d := r.Delta; {
	case d == nil:
	case r.Done:
		fmt.Fprintf(&b, "  over a cluster: %s with %s were as in the backup; %s written in others, %d files or folders removed\n",
			counted(d.Files, "file"), bytesText(d.Bytes), bytesText(r.Written), d.Removed)
	default:
		b.WriteString("  over the cluster that is there: what differs is replaced, what the backup doesn't have is removed\n")
	}
	printRecovery(&b, r.Recovery)
	if !r.Done { // a fetch logs them as it goes
		for _, w := range r.Warnings {
			fmt.Fprintf(&b, "warning: %s\n", w)
		}
	}
	for _, next := range r.Next {
		fmt.Fprintf(&b, "next: %s\n", next)
	}
	if r.Recovery != nil && r.Done {
		fmt.Fprintf(&b, "next: Start the server on %s. It fetches the WAL by itself.\n", r.Dir)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func printRecovery(b *strings.Builder, r *backup.RecoveryReport) {
	if r == nil {
		return
	}
	fmt.Fprintf(b, "  recovery target: %s, timeline %s", r.Target, r.Timeline)
	if r.Action != "" {
		fmt.Fprintf(b, ", then %s", r.Action)
	}
	b.WriteString("\n")
	for _, s := range append(r.Settings, r.AutoSettings...) {
		fmt.Fprintf(b, "    %s\n", s)
	}
}
