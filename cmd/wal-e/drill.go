package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"wal-e/backup"
	"wal-e/chunkstore"
	"wal-e/internal/drill"
	"wal-e/internal/envelope"
	"wal-e/internal/fault"
	"wal-e/internal/postgres"
	"wal-e/internal/runid"
	"wal-e/internal/storage"
)

const drillLong = `Prove that the archive restores: restore a backup (LATEST, or the one that is
named) into a new folder below --scratch, start PostgreSQL on it, recover to the
end of the WAL or to --target-time, look at all tables and indexes with
pg_amcheck, run a query of yours, stop, and remove the folder. What was done and
how long it took is printed and recorded in the archive; wal-e status shows it.

The server is cut off from everything else: it archives nothing, listens on a
private socket only, connects to nobody, and doesn't read the cluster's own
postgresql.conf. It needs the programs of the backup's PostgreSQL release on
this host, room for the cluster, and not to be root.

A drill that fails ends with status 1; its folder stays with --keep. What a drill
leaves that is killed, the next one with the same --scratch removes.`

type drillFlags struct {
	scratch, bindir, query, database, targetTime, targetLSN, system string
	keep, noAmcheck, noRecord, json                                 bool
	poolSize                                                        int
}

func newDrillCommand(a *app) *cobra.Command {
	var f drillFlags
	cmd := &cobra.Command{
		Use:     "drill [BACKUP_NAME]",
		Short:   "prove that the archive restores: do it, in a scratch folder",
		Long:    drillLong,
		Example: "  sudo -u postgres wal-e drill --query 'SELECT max(created) FROM orders' --database shop",
		Args:    arguments("[BACKUP_NAME]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			query := backup.Latest
			if len(args) == 1 {
				query = args[0]
			}
			if f.poolSize < 1 {
				return &usageError{cmd, fmt.Sprintf("--pool-size %d: want at least 1", f.poolSize)}
			}
			if _, err := backup.ParseTarget(f.target(), time.Local); err != nil {
				return &usageError{cmd, err.Error()}
			}
			return a.do(cmd, func(ctx context.Context, s *session) error { return runDrill(ctx, s, f, query) })
		},
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&f.scratch, "scratch", "/var/tmp", "make the folder to restore to in `DIR`")
	flags.StringVar(&f.bindir, "pg-bindir", "", "`DIR` with the programs of that PostgreSQL (where packages have them)")
	flags.StringVar(&f.query, "query", "", "run `SQL` in the recovered cluster; no row, or an error, fails the drill")
	flags.StringVar(&f.database, "database", "postgres", "run the query in database `NAME`")
	flags.StringVar(&f.targetTime, "target-time", "", "recover to a `TIME`; without a zone it is local time")
	flags.StringVar(&f.targetLSN, "target-lsn", "", "recover to an `LSN`")
	flags.StringVar(&f.system, "system", "", "the cluster's `SYSTEM_IDENTIFIER`, when the archive holds several")
	flags.BoolVar(&f.noAmcheck, "no-amcheck", false, "don't look at tables and indexes")
	flags.BoolVar(&f.noRecord, "no-record", false, "write nothing to the archive")
	flags.BoolVar(&f.keep, "keep", false, "leave the folder when the drill fails")
	flags.VarP(numberOption(&f.poolSize, 4), "pool-size", "p", "files and storage requests at once")
	flags.BoolVar(&f.json, "json", false, "print the report as JSON")
	return cmd
}

func (f drillFlags) target() backup.TargetOptions {
	return backup.TargetOptions{Time: f.targetTime, LSN: f.targetLSN}
}

// A drillReport is what a drill found. It is recorded in the archive.
type drillReport struct {
	OK      bool      `json:"ok"`
	Problem string    `json:"problem,omitempty"`
	Backup  string    `json:"backup"` // NAME@RUN
	System  string    `json:"system_identifier"`
	Taken   time.Time `json:"taken"` // when the backup was
	Target  string    `json:"target"`
	Begun   time.Time `json:"begun"`
	Host    string    `json:"host"`
	Program string    `json:"program"`

	Bytes          int64   `json:"bytes"` // of the restored cluster
	FetchSeconds   float64 `json:"fetch_seconds"`
	RecoverSeconds float64 `json:"recover_seconds"` // from the server's start until it took connections
	CheckSeconds   float64 `json:"check_seconds"`
	QuerySeconds   float64 `json:"query_seconds"`

	Timeline  string   `json:"timeline,omitempty"` // that recovery ended on, as in names of segments
	LSN       string   `json:"lsn,omitempty"`      // up to which WAL was replayed
	LastXact  string   `json:"last_transaction,omitempty"`
	CheckedBy string   `json:"checked_by,omitempty"` // pg_amcheck, amcheck, or nothing
	Rows      int      `json:"query_rows"`
	First     []string `json:"query_first_row,omitempty"`
	Dropped   []string `json:"libraries_left_out,omitempty"`
}

const (
	drillDir     = "drills_006/"
	drillKind    = "drill"
	drillVersion = 1
)

func runDrill(ctx context.Context, s *session, f drillFlags, query string) error {
	b, err := s.openBucket(use{requests: 2 * f.poolSize, reads: true})
	if err != nil {
		return err
	}
	d := &drilling{s: s, f: f, bucket: b}
	if err := d.prepare(ctx, query); err != nil {
		return err
	}
	r := d.report
	err = d.run(ctx)
	r.OK = err == nil
	if err != nil {
		r.Problem = err.Error()
	}
	if ctx.Err() == nil && !f.noRecord {
		err = errors.Join(err, d.record(ctx))
	}
	if f.json {
		return errors.Join(err, json.NewEncoder(s.stdout).Encode(r))
	}
	return errors.Join(err, r.print(s.stdout))
}

// drilling is one drill under way.
type drilling struct {
	s      *session
	f      drillFlags
	bucket storage.Bucket
	found  *backup.Backup
	store  *chunkstore.Store
	report *drillReport

	recovery *backup.RecoverConfig
	programs string
	folder   *drill.Folder // below the scratch folder
}

// prepare finds out all that can be known before anything is written, and removes
// what drills left that were killed.
func (d *drilling) prepare(ctx context.Context, query string) error {
	if os.Getuid() == 0 {
		return &message{
			kind: fault.NoPrograms,
			text: "PostgreSQL doesn't run as root, and neither does a drill",
			hint: "Run it as the user that PostgreSQL runs as: sudo -u postgres wal-e drill …",
		}
	}
	target := fetchFlags{recover: true, target: d.f.target()}
	var err error
	if d.recovery, err = target.recovery(d.s, d.bucket); err != nil {
		return err
	}
	d.found, err = backup.Find(ctx, backup.FindConfig{Bucket: d.bucket, Query: query, System: d.f.system, Recover: d.recovery})
	if err != nil {
		return d.s.explainMissing(ctx, d.bucket, query, "drilled", err)
	}
	d.store, err = chunkstore.Open(ctx, d.bucket, d.s.log)
	if err != nil {
		return err
	}
	if d.store, err = d.s.openFor(ctx, d.bucket, d.store, d.found, true); err != nil {
		return err
	}
	m := d.found.Manifest
	if d.programs, err = drill.FindPrograms(postgres.Version(m.ServerVersion), d.f.bindir); err != nil {
		major := postgres.Version(m.ServerVersion).Major()
		return &message{
			kind: fault.NoPrograms,
			text: err.Error(),
			hint: fmt.Sprintf("Install it (apt-get install postgresql-%s), or name the folder of its programs with --pg-bindir.", major),
			err:  err,
		}
	}
	d.removeStale(ctx)
	if err := d.checkSpace(); err != nil {
		return err
	}
	d.report = &drillReport{
		Backup: d.found.Ref.String(), System: m.System, Taken: m.Stopped, Bytes: m.Bytes,
		Begun: time.Now().UTC(), Host: hostname(), Program: version,
	}
	return nil
}

// removeStale removes what drills left that were killed: a cluster each, which takes
// room that this one needs.
func (d *drilling) removeStale(ctx context.Context) {
	for _, parent := range slices.Compact([]string{d.f.scratch, os.TempDir()}) {
		removed, unknown, err := drill.RemoveStale(parent)
		if len(removed) > 0 {
			d.s.log.InfoContext(ctx, "removed what drills had left that were killed", "detail", strings.Join(removed, "\n"))
		}
		if len(unknown) > 0 {
			d.s.log.WarnContext(ctx, "folders of drills stay: it is not known whether these still run", "detail", strings.Join(unknown, "\n"),
				"hint", "A wal-e made them that took no lock. Remove them when no drill of it runs.")
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			d.s.log.WarnContext(ctx, "folders of drills that were killed may be left", "detail", err.Error())
		}
	}
}

// checkSpace refuses a cluster that doesn't fit: the disk may be another server's.
func (d *drilling) checkSpace() error {
	var st syscall.Statfs_t
	if err := syscall.Statfs(d.f.scratch, &st); err != nil {
		return &message{kind: fault.LocalFile, text: fmt.Sprintf("folder %s for the drill: %v", d.f.scratch, err), hint: "Name another with --scratch."}
	}
	// Recovery takes some WAL at a time, and makes some.
	need, free := d.found.Manifest.Bytes+64*d.found.Manifest.SegmentSize/2, int64(st.Bavail)*int64(st.Bsize)
	if free < need {
		return &message{
			kind: fault.LocalSpace,
			text: fmt.Sprintf("backup %s needs %s, and %s has %s left", d.found.Ref, bytesText(need), d.f.scratch, bytesText(free)),
			hint: "Name a folder with more room with --scratch.",
		}
	}
	return nil
}

// run restores, recovers, checks and cleans up.
func (d *drilling) run(ctx context.Context) (err error) {
	if d.folder, err = drill.MakeFolder(d.f.scratch); err != nil {
		return err
	}
	defer func() {
		if err != nil && d.f.keep {
			d.s.log.WarnContext(ctx, "the folder of the drill was left", "detail", d.folder.Path, "hint", "No drill removes it: do so when you have seen enough.")
			err = errors.Join(err, d.folder.Keep())
			return
		}
		err = errors.Join(err, d.folder.Remove())
	}()
	data := filepath.Join(d.folder.Path, "data") // absolute: links of tablespaces lead here
	if err := timed(&d.report.FetchSeconds, func() error { return d.fetch(ctx, data) }); err != nil {
		return err
	}
	begun := time.Now()
	server, err := drill.Start(ctx, drill.Config{Dir: data, Programs: d.programs, Environ: os.Environ()})
	defer func() { err = errors.Join(err, server.Stop()) }()
	d.report.Dropped = server.Dropped()
	if err != nil {
		return err
	}
	if err := server.WaitRecovered(ctx); err != nil {
		return fmt.Errorf("recover backup %s: %w", d.found.Ref, err)
	}
	d.report.RecoverSeconds = time.Since(begun).Seconds()
	return d.look(ctx, server)
}

func timed(seconds *float64, f func() error) error {
	begun := time.Now()
	err := f()
	*seconds = time.Since(begun).Seconds()
	return err
}

func (d *drilling) fetch(ctx context.Context, data string) error {
	spaces := make(map[string]string)
	for _, t := range d.found.Manifest.Tablespaces {
		spaces[fmt.Sprint(t.OID)] = filepath.Join(d.folder.Path, "tablespaces", fmt.Sprint(t.OID))
	}
	meter, stop := d.s.meter(ctx)
	defer stop()
	fetched, err := backup.Fetch(ctx, backup.FetchConfig{
		Store: d.store, Backup: d.found, Dir: data, StateDir: d.s.clusterState, Workers: d.f.poolSize,
		TablespaceMap: spaces, Recover: d.recovery, Log: d.s.log.With("logger", "wal_e.operator.backup"),
		Progress: meter,
	})
	if err != nil {
		return err
	}
	d.report.Target = fetched.Recovery.Target
	return nil
}

// look finds out what was recovered, and whether it is whole.
func (d *drilling) look(ctx context.Context, server *drill.Server) error {
	r := d.report
	where := "pg_walfile_name(pg_current_wal_lsn()), pg_current_wal_lsn()"
	if postgres.Version(d.found.Manifest.ServerVersion) < postgres.V10 {
		where = "pg_xlogfile_name(pg_current_xlog_location()), pg_current_xlog_location()"
	}
	rows, err := server.Query(ctx, "postgres", "SELECT "+where+", coalesce(pg_last_xact_replay_timestamp()::text, '')")
	if err != nil {
		return err
	}
	r.Timeline, r.LSN, r.LastXact = rows[0][0][:8], rows[0][1], rows[0][2]
	if !d.f.noAmcheck {
		err := timed(&r.CheckSeconds, func() error {
			var err error
			r.CheckedBy, err = server.Check(ctx)
			return err
		})
		if err != nil {
			return err
		}
	}
	if d.f.query == "" {
		return nil
	}
	return timed(&r.QuerySeconds, func() error {
		rows, err := server.Query(ctx, d.f.database, d.f.query)
		if err != nil {
			return fmt.Errorf("query of the drill in database %s: %w", d.f.database, err)
		}
		if r.Rows = len(rows); r.Rows == 0 {
			return &message{kind: fault.DrillFailed, text: "the query of the drill returned no row", detail: d.f.query}
		}
		r.First = rows[0]
		return nil
	})
}

// record writes the report into the archive.
func (d *drilling) record(ctx context.Context) error {
	id, err := runid.New(d.report.Begun, nil)
	if err != nil {
		return err
	}
	data, err := envelope.Encode(drillKind, drillVersion, d.report)
	if err != nil {
		return err
	}
	err = storage.CreateBytes(ctx, d.bucket, drillDir+id.String(), data, nil)
	if errors.Is(err, storage.ErrPermission) {
		d.s.log.WarnContext(ctx, "the drill was not recorded in the archive", "detail", err.Error(),
			"hint", "Give this host the right to create objects, or leave the record out with --no-record.")
		return nil
	}
	return err
}

func (r *drillReport) print(w io.Writer) error {
	var b strings.Builder
	state := "OK"
	if !r.OK {
		state = "FAILED"
	}
	fmt.Fprintf(&b, "drill of %s, taken %s: %s\n", r.Backup, r.Taken.UTC().Format(time.RFC3339), state)
	line := func(what string, seconds float64, detail string) {
		fmt.Fprintf(&b, "  %-8s %9.1f s  %s\n", what, seconds, detail)
	}
	if r.FetchSeconds > 0 {
		line("restore", r.FetchSeconds, bytesText(r.Bytes))
	}
	if r.RecoverSeconds > 0 {
		last := ""
		if r.LastXact != "" {
			last = "; last transaction " + r.LastXact
		}
		line("recover", r.RecoverSeconds, fmt.Sprintf("to %s on timeline %s%s", r.LSN, r.Timeline, last))
	}
	if r.CheckedBy == drill.ByNothing {
		b.WriteString("  check       nothing was looked at: this PostgreSQL has no extension amcheck\n")
	} else if r.CheckedBy != "" {
		line("check", r.CheckSeconds, r.CheckedBy)
	}
	if r.Rows > 0 {
		line("query", r.QuerySeconds, fmt.Sprintf("%s, the first: %s", counted(r.Rows, "row"), strings.Join(r.First, " | ")))
	}
	if len(r.Dropped) > 0 {
		fmt.Fprintf(&b, "  without the libraries %s, which are not installed here or work on their own\n", strings.Join(r.Dropped, ", "))
	}
	_, err := io.WriteString(w, b.String())
	return err
}
