package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"runtime/debug"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"wal-e/backup"
	"wal-e/compat"
	"wal-e/internal/fault"
	"wal-e/internal/postgres"
	"wal-e/internal/storage"
	"wal-e/wal"
)

// pushFlags are the options of backup-push.
type pushFlags struct {
	poolSize         int
	readRate         int
	networkRate      int
	memory           int
	memoryGiven      bool // else WALE_MEMORY says
	whileOffline     bool
	checkpoint       string
	includeLogs      bool
	skipLinks        []string
	failOnCorruption bool
	walTimeout       time.Duration
	rewriteBudget    int
	fresh            bool
	rescan           bool
	rereadWithin     int
	json             bool
}

const backupPushLong = `Take a base backup of the cluster in PG_CLUSTER_DIRECTORY, of a running server
(a primary or a standby) or, with --while-offline, of a stopped one. Run it on
the server's host as a user that may read the directory.

The backup is full to restore and stores only what earlier ones don't hold. It
exists once the command exits 0: then every byte of it is durable, and all the
WAL that it needs is in the archive. One that was killed is resumed by the next.

The server is found as psql finds it: PGHOST, PGPORT, PGUSER, a service file,
.pgpass, or what the directory's postmaster.pid says.`

func newBackupPushCommand(a *app) *cobra.Command {
	var f pushFlags
	cmd := &cobra.Command{
		Use:     "backup-push PG_CLUSTER_DIRECTORY",
		Short:   "take a base backup",
		Long:    backupPushLong,
		Example: "  wal-e backup-push /var/lib/postgresql/17/main\n  wal-e backup-push --while-offline /srv/stopped",
		Args:    arguments("PG_CLUSTER_DIRECTORY"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.check(); err != nil {
				return &usageError{cmd, err.Error()}
			}
			f.memoryGiven = cmd.Flags().Changed("memory")
			return a.do(cmd, func(ctx context.Context, s *session) error { return backupPush(ctx, s, f, args[0]) })
		},
	}
	f.bind(cmd)
	return cmd
}

func (f *pushFlags) bind(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.VarP(numberOption(&f.poolSize, 4), "pool-size", "p", "cores that read and compress, and storage requests at once")
	flags.Var(numberOption(&f.readRate, 0), "cluster-read-rate-limit", "`BYTES` read per second at most, in all; 0 for no limit")
	flags.Var(numberOption(&f.networkRate, 0), "network-rate-limit", "`BYTES` of objects per second at most, in all; 0 for no limit")
	flags.Var(numberOption(&f.memory, 0), "memory", "`BYTES` of memory to do with, at least 100000000; 0 for some 320 MB with four cores (default: WALE_MEMORY)")
	flags.BoolVar(&f.whileOffline, "while-offline", false, "back up a stopped cluster; it needs no archive to start")
	flags.StringVar(&f.checkpoint, "checkpoint", "spread", "`MODE` of the checkpoint that begins the backup: spread, which may take minutes, or fast")
	flags.BoolVar(&f.includeLogs, "include-logs", false, "also back up the server's log folder")
	flags.StringArrayVar(&f.skipLinks, "skip-link", nil, "leave out the symbolic link at `PATH`, which points to a folder elsewhere; may be repeated")
	flags.BoolVar(&f.failOnCorruption, "fail-on-corruption", false, "fail when a page's checksum is wrong, instead of warning")
	flags.DurationVar(&f.walTimeout, "wal-timeout", time.Hour, "`DURATION` that the WAL of the backup may take to be archived")
	flags.Var(numberOption(&f.rewriteBudget, 1<<30), "rewrite-budget", "`BYTES` stored anew at most so that packs of which little is needed can go; 0 for none")
	flags.BoolVar(&f.fresh, "fresh", false, "store everything anew, so that damage to what earlier backups stored doesn't reach this one")
	flags.BoolVar(&f.rescan, "rescan", false, "read all files, also those to which nothing was written since the last push read them")
	flags.Var(numberOption(&f.rereadWithin, 30), "reread-within", "`PUSHES` in which each file is read at least once, whatever its times say; 1 for all of them each time")
	flags.BoolVar(&f.json, "json", false, "print the figures as JSON")
}

// check finds what no push can be made of.
func (f pushFlags) check() error {
	switch {
	case f.poolSize < 1:
		return fault.BadSetting.Errorf("--pool-size %d: want at least 1", f.poolSize)
	case f.readRate < 0:
		return fault.BadSetting.Errorf("--cluster-read-rate-limit %d: want bytes per second, or 0 for no limit", f.readRate)
	case f.networkRate < 0:
		return fault.BadSetting.Errorf("--network-rate-limit %d: want bytes per second, or 0 for no limit", f.networkRate)
	case f.memory != 0 && f.memory < leastPushMemory:
		return fault.BadSetting.Errorf("--memory %d: want at least %d bytes, or 0", f.memory, leastPushMemory)
	case f.checkpoint != "spread" && f.checkpoint != "fast":
		return fault.BadSetting.Errorf("--checkpoint %q: want spread or fast", f.checkpoint)
	case f.rewriteBudget < 0:
		return fault.BadSetting.Errorf("--rewrite-budget %d: want bytes, or 0 for none", f.rewriteBudget)
	case f.rereadWithin < 1:
		return fault.BadSetting.Errorf("--reread-within %d: want at least 1", f.rereadWithin)
	case f.walTimeout <= 0:
		return fault.BadSetting.Errorf("--wal-timeout %s: want a duration such as 30m", f.walTimeout)
	}
	return nil
}

// leastPushMemory is what --memory and WALE_MEMORY must be at least.
const leastPushMemory = 100_000_000

// rewrite is the budget as backup.PushConfig has it.
func (f pushFlags) rewrite() int64 {
	if f.rewriteBudget == 0 {
		return -1
	}
	return int64(f.rewriteBudget)
}

func backupPush(ctx context.Context, s *session, f pushFlags, dir string) error {
	b, err := s.openBucket(use{requests: max(f.poolSize, 4)})
	if err != nil {
		return err
	}
	switch layout, err := s.layoutToWrite(ctx, b); {
	case err != nil:
		return err
	case layout == compat.Classic:
		return pushClassicBackup(ctx, s, b, f, dir)
	}
	if err := s.checkKnown(ctx, b); err != nil {
		return err
	}
	keys, err := s.backupKeys(ctx, b)
	if err != nil {
		return err
	}
	if f.networkRate > 0 {
		b = storage.Rate(b, int64(f.networkRate))
	}
	if !f.memoryGiven {
		f.memory = int(s.pushMemory)
	}
	if f.memory > 0 {
		// What isn't the heap's own, and what lies over it between collections.
		debug.SetMemoryLimit(int64(f.memory) * 3 / 4)
	} else {
		// Packs that wait for slow storage are all alive. Garbage needn't take as
		// much again.
		debug.SetMemoryLimit(240<<20 + int64(f.poolSize)*20<<20)
	}
	counter := storage.Counted(b)
	meter, stop := s.meter(ctx)
	defer stop()
	result, err := backup.Push(ctx, backup.PushConfig{
		Bucket:           counter,
		Dir:              dir,
		StateDir:         s.clusterState,
		AllowNewCluster:  s.allowNewCluster,
		Keys:             keys,
		Offline:          f.whileOffline,
		FastCheckpoint:   f.checkpoint == "fast",
		IncludeLogs:      f.includeLogs,
		SkipLinks:        f.skipLinks,
		FailOnCorruption: f.failOnCorruption,
		Rescan:           f.rescan,
		Fresh:            f.fresh,
		Reread:           f.rereadWithin,
		Workers:          f.poolSize,
		ReadRate:         int64(f.readRate),
		Memory:           int64(f.memory),
		Rewrite:          f.rewrite(),
		MissingWAL:       missingWAL(counter),
		Timelines:        timelines(counter),
		History:          history(s.walReads(counter)),
		WALTimeout:       f.walTimeout,
		Program:          version,
		Host:             hostname(),
		Log:              s.log.With("logger", "wal_e.operator.backup"),
		Progress:         meter,
	})
	stop()
	if err != nil {
		return err
	}
	if id, err := postgres.ParseSystemID(result.Manifest.System); err == nil {
		s.remember(ctx, id)
	}
	return printPushed(s.stdout, result, counter.Counts(), f.json)
}

// missingWAL asks an archive which WAL files it lacks.
func missingWAL(b storage.Bucket) func(ctx context.Context, system string, names []string) ([]string, error) {
	return func(ctx context.Context, system string, names []string) ([]string, error) {
		id, err := postgres.ParseSystemID(system)
		if err != nil {
			return nil, err
		}
		return wal.Missing(ctx, b, id, slices.Values(names))
	}
}

// pushed are the figures of a push, as --json prints them.
type pushed struct {
	Name     string   `json:"name"`
	Run      string   `json:"run"`
	Kind     string   `json:"kind"`
	StartLSN string   `json:"start_lsn"`
	StopLSN  string   `json:"stop_lsn"`
	Files    int64    `json:"files"`
	Bytes    int64    `json:"bytes"`
	Read     int64    `json:"bytes_read"`
	Unread   int64    `json:"bytes_unread"` // of files to which nothing was written
	New      int64    `json:"bytes_new"`
	Stored   int64    `json:"bytes_stored"`
	Dead     int64    `json:"bytes_dead"` // in shared packs, not needed by this backup
	Retired  int      `json:"packs_retired"`
	Requests int64    `json:"requests"`
	Seconds  float64  `json:"seconds"`
	BadPages int64    `json:"page_failures"`
	Parents  []string `json:"parents"`
}

func printPushed(w io.Writer, r *backup.PushResult, c storage.Counts, asJSON bool) error {
	m := r.Manifest
	p := pushed{
		Name: r.Ref.Name, Run: r.Ref.Run.String(), Kind: m.Kind, StartLSN: m.StartLSN, StopLSN: m.StopLSN,
		Files: m.Files, Bytes: m.Bytes, Read: r.Stats.Read, Unread: m.Push.Unread, New: r.Stats.New, Stored: r.Stats.Stored,
		Dead: r.Stats.Dead, Retired: r.Stats.Retired,
		Requests: c.Creates + c.Gets + c.Stats + c.Lists + c.Deletes, Seconds: m.Push.Seconds, BadPages: m.Pages.Failed,
		Parents: []string{},
	}
	for _, parent := range r.Parents {
		p.Parents = append(p.Parents, parent.String())
	}
	if asJSON {
		return json.NewEncoder(w).Encode(p)
	}
	_, err := fmt.Fprintf(w, "%s\n  %s, %s; %s read, %s unread, %s new, %s stored; %s dead in shared packs; %s, %.1f s\n",
		p.Name, counted(p.Files, "file"), bytesText(p.Bytes), bytesText(p.Read), bytesText(p.Unread), bytesText(p.New), bytesText(p.Stored), bytesText(p.Dead), counted(p.Requests, "request"), p.Seconds)
	return err
}
