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
	"time"

	"github.com/spf13/cobra"

	"wal-e/backup"
	"wal-e/chunkstore"
	"wal-e/gc"
	"wal-e/internal/envelope"
	"wal-e/internal/fault"
	"wal-e/internal/storage"
	"wal-e/wal"
)

const statusLong = `Show how an archive is: for each cluster the last backup and how old it is, the
newest WAL, from when until when it can be restored, what is missing; what is
stored, how fast that grows, and how much less it is than the backups together;
pushes under way, the last copy and drill, what verify found last, and how much of
the data it has read. With a data directory it also counts the WAL files that wait
there to be archived, and with --retain, which takes what is given to delete retain,
it tells which backup expires next.

What is wrong is said with what to do, and the exit status is then 1. Warnings leave
it 0: nothing is wrong that is known, but nobody looked.

--metrics-file writes the same for Prometheus, as node_exporter's textfile
collector reads it; docs/monitoring has alerts and a dashboard. The file is
replaced as a whole, also when nothing could be found out: wal_e_up is then 0.`

// maxVerifyAge is how long ago the last verification of all backups may be: the
// packaged timer runs one each week.
const maxVerifyAge = 35 * 24 * time.Hour

type statusFlags struct {
	json      bool
	metrics   string
	retain    string
	maxAge    time.Duration
	maxVerify time.Duration
	maxFiles  int
	directory string
}

func newStatusCommand(a *app) *cobra.Command {
	var f statusFlags
	cmd := &cobra.Command{
		Use:     "status [PG_CLUSTER_DIRECTORY]",
		Short:   "show how the archive is, and what is wrong with it",
		Long:    statusLong,
		Example: "  wal-e status /var/lib/postgresql/17/main\n  wal-e status --max-backup-age 192h --json\n  wal-e status --retain 14d --metrics-file /var/lib/prometheus/node-exporter/wal-e.prom $PGDATA",
		Args:    arguments("[PG_CLUSTER_DIRECTORY]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				f.directory = args[0]
			}
			policy, err := f.policy()
			if err != nil {
				return &usageError{cmd, err.Error()}
			}
			begun := time.Now()
			var r *statusReport
			err = a.do(cmd, func(ctx context.Context, s *session) error {
				b, err := s.openBucket(use{reads: true})
				if err != nil {
					return err
				}
				if r, err = findStatus(ctx, s, b, f, policy); err != nil {
					return err
				}
				return r.tell(s.stdout, f.json)
			})
			if f.metrics == "" {
				return err
			}
			switch merr := writeMetrics(f.metrics, r, err, begun); {
			case err == nil:
				return merr
			case merr != nil:
				return complaints{err, merr}
			}
			return err
		},
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.DurationVar(&f.maxAge, "max-backup-age", 26*time.Hour, "`DURATION` that the last backup of a cluster may be old, such as 26h")
	flags.DurationVar(&f.maxVerify, "max-verify-age", maxVerifyAge, "`DURATION` after which the last verify --all is warned of as old")
	flags.IntVar(&f.maxFiles, "max-backlog", 64, "`N` WAL files at most that may wait to be archived")
	flags.StringVar(&f.retain, "retain", "", "tell what `NUM_TO_RETAIN` or period, as delete retain has it, lets expire next")
	flags.StringVar(&f.metrics, "metrics-file", "", "also write metrics for Prometheus to `FILE`")
	flags.BoolVar(&f.json, "json", false, "print everything known as JSON")
	return cmd
}

// A statusReport is what status --json prints.
type statusReport struct {
	OK       bool            `json:"ok"`
	Problems []statusProblem `json:"problems"`
	// Warnings leave OK true.
	Warnings []statusProblem `json:"warnings"`
	Prefix   string          `json:"prefix"`
	Clusters []statusCluster `json:"clusters"`
	// Packs and WAL are what is stored in the new layout; Logical is what its
	// backups restore to, all of them together.
	Packs   int64 `json:"pack_bytes"`
	WAL     int64 `json:"wal_bytes"`
	Logical int64 `json:"logical_bytes"`
	// Growth is what was stored in the last seven days and still is, per day; of an
	// archive that is younger, since it began.
	Growth int64         `json:"growth_bytes_per_day"`
	Expiry *statusExpiry `json:"expiry,omitempty"` // with --retain
	Open   []statusPush  `json:"open_pushes"`
	Copy   any           `json:"last_copy"`  // as recorded; null: none was
	Fresh  *time.Time    `json:"last_fresh"` // null: no backup of the last 30 days needs no packs of others
	Drill  any           `json:"last_drill"` // as drill prints it; null: there was none
	// Verified is what verify wrote down; null: nothing.
	Verified *backup.Verified `json:"last_verify"`

	Waiting *int `json:"wal_waiting,omitempty"` // files that wait in the data directory
	// Oldest is since when the oldest of these has been waiting.
	Oldest *time.Time `json:"wal_waiting_since,omitempty"`

	catalog *backup.Catalog // read once for all that is asked of backups
	logs    []*wal.Log
	drilled *drillReport
	copied  *copyNote
	oldest  time.Time // when the first backup was taken; zero without any
	now     time.Time
}

// A statusProblem is something to be done.
type statusProblem struct {
	Text string `json:"problem"`
	Todo string `json:"todo"`
}

type statusCluster struct {
	System  string     `json:"system_identifier"`
	Backups int        `json:"backups"`
	Last    string     `json:"last_backup"`
	Taken   time.Time  `json:"taken"`
	Host    string     `json:"host"`
	Stored  []int64    `json:"stored_bytes"` // by each of the last seven backups, the newest last
	Segment string     `json:"newest_segment"`
	Newest  *time.Time `json:"newest_archived"`
	From    *time.Time `json:"restores_from"`
	Until   *time.Time `json:"restores_until"`
	// Windows are the times of which any moment can be restored, the oldest first.
	Windows []statusWindow `json:"windows"`
	// Missing is how many segments are missing that a backup needs on its way to
	// the newest WAL.
	Missing uint64 `json:"missing_segments"`

	last   backup.Listed
	needed map[string]bool // gaps that a backup needs, by their first segment
}

type statusWindow struct {
	From  time.Time `json:"from"`
	Until time.Time `json:"until"`
}

// A statusExpiry says what a policy does to the backups.
type statusExpiry struct {
	Retain  string     `json:"retain"`
	Overdue int        `json:"overdue_backups"` // that delete would delete now
	Backup  string     `json:"next_backup"`     // that expires next; "": none
	At      *time.Time `json:"next"`            // when; null: with the next backup
}

type statusPush struct {
	Backup  string    `json:"backup"`
	Host    string    `json:"host"`
	PID     int       `json:"pid"`
	Since   time.Time `json:"since"` // by the store's clock
	Stalled bool      `json:"stalled"`
}

// policy is what --retain says; nil without it.
func (f statusFlags) policy() (*gc.Policy, error) {
	if f.retain == "" {
		return nil, nil
	}
	p := &gc.Policy{}
	var err error
	if p.Retain, p.RetainFor, err = gc.ParseRetain(f.retain); err != nil {
		return nil, fmt.Errorf("--retain: %w", err)
	}
	return p, p.Check()
}

// findStatus finds out all that the report has.
func findStatus(ctx context.Context, s *session, b storage.Bucket, f statusFlags, policy *gc.Policy) (*statusReport, error) {
	r := &statusReport{Prefix: b.URL(), Problems: []statusProblem{}, Warnings: []statusProblem{}, Clusters: []statusCluster{}, Open: []statusPush{}}
	now := time.Now()
	r.now = now
	for _, step := range []func() error{
		func() error { return r.clusters(ctx, s, b, f, now) },
		func() error { return r.sizes(ctx, b) },
		func() error { return r.expiry(ctx, b, f.retain, policy) },
		func() error { return r.pushes(ctx, b, now) },
		func() error { return r.drill(ctx, b) },
		func() error { return r.second(ctx, b) },
		func() error { return r.verified(ctx, f.maxVerify) },
		func() error { return r.backlog(f) },
	} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	r.OK = len(r.Problems) == 0
	return r, nil
}

// tell prints the report, and returns an error when there are problems.
func (r *statusReport) tell(w io.Writer, asJSON bool) error {
	var err error
	if asJSON {
		err = json.NewEncoder(w).Encode(r)
	} else {
		err = r.print(w, r.now)
	}
	if err == nil && !r.OK {
		err = &message{kind: fault.Attention, text: fmt.Sprintf("%s in %s", counted(len(r.Problems), "problem"), r.Prefix), detail: r.Problems[0].Text, hint: r.Problems[0].Todo}
	}
	return err
}

func (r *statusReport) problem(todo, format string, args ...any) {
	r.Problems = append(r.Problems, statusProblem{fmt.Sprintf(format, args...), todo})
}

func (r *statusReport) warning(todo, format string, args ...any) {
	r.Warnings = append(r.Warnings, statusProblem{fmt.Sprintf(format, args...), todo})
}

// clusters describes the backups and the WAL of each cluster.
func (r *statusReport) clusters(ctx context.Context, s *session, b storage.Bucket, f statusFlags, now time.Time) error {
	var err error
	if r.catalog, err = backup.ReadCatalog(ctx, b); err != nil {
		return err
	}
	list, err := r.catalog.List()
	if err != nil {
		return err
	}
	if r.logs, err = wal.Survey(ctx, s.walReadsMany(b)); err != nil {
		return err
	}
	survey, err := s.reportWAL(ctx, s.walReadsMany(b), r.logs, r.catalog, nil)
	if err != nil {
		return err
	}
	if len(list) == 0 {
		r.problem("Take one with `wal-e backup-push`.", "there is no base backup in the new layout")
	}
	slices.SortStableFunc(list, func(a, b backup.Listed) int { return a.Stopped.Compare(b.Stopped) })
	if len(list) > 0 {
		r.oldest = list[0].Stopped
	}
	at := make(map[string]int)
	for _, l := range list {
		i, known := at[l.System]
		if !known {
			i = len(r.Clusters)
			at[l.System] = i
			r.Clusters = append(r.Clusters, statusCluster{System: l.System, Windows: []statusWindow{}})
		}
		c := &r.Clusters[i]
		c.Backups++
		c.Last, c.Taken, c.Host, c.last = l.Name, l.Stopped, l.Host, l
		c.Stored = append(c.Stored, l.StoredBytes)
		c.Stored = c.Stored[max(0, len(c.Stored)-7):]
		r.Logical += l.ExpandedSize
	}
	for _, w := range survey.Systems {
		i, known := at[w.System]
		if !known {
			i = len(r.Clusters)
			at[w.System] = i
			r.Clusters = append(r.Clusters, statusCluster{System: w.System, Stored: []int64{}})
		}
		r.Clusters[i].addWAL(w)
	}
	// Of several clusters the older may have ended, after pg_upgrade; only the one
	// that was backed up last has to be up to date.
	if n := len(list); n > 0 {
		last := list[n-1]
		if last.PageFailures > 0 {
			r.problem("Keep older backups, and look at the relations with pg_amcheck.", "backup %s has %s with wrong checksums", last.Name, counted(last.PageFailures, "page"))
		}
		if now.Sub(last.Stopped) > f.maxAge {
			r.problem("See why backup-push didn't run or failed: its log, and cron's or systemd's.",
				"the last backup, %s, is %s old", last.Name, age(now.Sub(last.Stopped)))
		}
	}
	for _, p := range survey.Problems {
		r.problem("`wal-e wal-show` prints what there is; docs/runbooks/gap.md says what to do.", "%s", p)
	}
	return nil
}

func (c *statusCluster) addWAL(w *walSystem) {
	c.needed = make(map[string]bool)
	for _, t := range w.Timelines {
		if c.Newest == nil || t.Newest.After(*c.Newest) {
			c.Newest, c.Segment = &t.Newest, t.Last
		}
		for _, g := range t.Gaps {
			c.needed[g.First] = g.Needed
			if g.Needed && !g.Known {
				c.Missing += g.Segments
			}
		}
	}
	c.Windows = joined(w.Windows)
	if n := len(c.Windows); n > 0 {
		c.From, c.Until = &c.Windows[0].From, &c.Windows[n-1].Until
	}
}

// joined returns what several base backups restore together: their windows, with
// those as one that touch.
func joined(windows []walWindow) []statusWindow {
	list := []statusWindow{}
	sorted := slices.SortedFunc(slices.Values(windows), func(a, b walWindow) int { return a.From.Compare(b.From) })
	for _, w := range sorted {
		if !w.Restorable || w.Until == nil {
			continue
		}
		n := len(list)
		switch {
		case n == 0 || w.From.After(list[n-1].Until):
			list = append(list, statusWindow{w.From, *w.Until})
		case w.Until.After(list[n-1].Until):
			list[n-1].Until = *w.Until
		}
	}
	return list
}

// growthDays is over how many days growth is measured.
const growthDays = 7

// sizes adds up what is stored.
func (r *statusReport) sizes(ctx context.Context, b storage.Bucket) error {
	since, oldest, young := r.now.AddDate(0, 0, -growthDays), r.now, int64(0)
	for folder, sum := range map[string]*int64{chunkstore.PackFolder: &r.Packs, wal.Prefix: &r.WAL} {
		for o, err := range b.List(ctx, folder, "") {
			if err != nil {
				return err
			}
			*sum += o.Size
			if o.ModTime.Before(oldest) {
				oldest = o.ModTime
			}
			if o.ModTime.After(since) {
				young += o.Size
			}
		}
	}
	// The first hours of an archive say nothing about a day.
	days := min(growthDays, max(1, r.now.Sub(oldest).Hours()/24))
	r.Growth = int64(float64(young) / days)
	return nil
}

// expiry asks what retention lets go, now and next.
func (r *statusReport) expiry(ctx context.Context, b storage.Bucket, retain string, policy *gc.Policy) error {
	if policy == nil {
		return nil
	}
	catalog, err := gc.ReadCatalog(ctx, b, deleteRequests, nil)
	if err != nil {
		return err
	}
	plan, err := gc.Decide(*policy, catalog, r.now)
	if err != nil {
		return err
	}
	r.Expiry = &statusExpiry{Retain: retain, Overdue: len(plan.Deleted())}
	if policy.Retain > 0 {
		r.Expiry.Backup = pushedOut(plan, policy.Retain)
		return nil
	}
	// What a period keeps goes at a moment that follows from when it was taken and
	// stored. Which of these it is, the policy itself knows.
	var moments []time.Time
	kept := make(map[chunkstore.Ref]bool)
	for _, d := range plan.Decisions {
		kept[d.Ref] = d.Keep
		for _, t := range []time.Time{d.Taken, d.Stored} {
			if t = t.Add(policy.RetainFor); d.Keep && t.After(r.now) {
				moments = append(moments, t)
			}
		}
	}
	slices.SortFunc(moments, time.Time.Compare)
	for _, t := range moments {
		later, err := gc.Decide(*policy, catalog, t.Add(time.Millisecond))
		if err != nil {
			return err
		}
		for _, d := range later.Decisions {
			if !d.Keep && kept[d.Ref] {
				at := t.UTC()
				r.Expiry.Backup, r.Expiry.At = d.Ref.Name, &at
				return nil
			}
		}
	}
	return nil
}

// pushedOut returns the backup that goes when the next one of the cluster that was
// backed up last comes, of which n stay.
func pushedOut(p *gc.Plan, n int) string {
	var newest *gc.Decision
	for i := range p.Decisions {
		if d := &p.Decisions[i]; newest == nil || d.Taken.After(newest.Taken) {
			newest = d
		}
	}
	var kept []string
	for _, d := range p.Decisions {
		if d.System == newest.System && d.Rule == gc.RuleRetain {
			kept = append(kept, d.Ref.Name)
		}
	}
	if len(kept) < n {
		return ""
	}
	return kept[0]
}

// stalledPush is how long a push usually takes at most.
const stalledPush = 24 * time.Hour

func (r *statusReport) pushes(ctx context.Context, b storage.Bucket, now time.Time) error {
	runs, err := chunkstore.Runs(ctx, b)
	if err != nil {
		return err
	}
	for _, run := range runs {
		if !run.Open() {
			continue
		}
		i, err := chunkstore.ReadIntent(ctx, b, run.Ref)
		if errors.Is(err, storage.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		p := statusPush{Backup: run.Ref.String(), Host: i.Host, PID: i.PID, Since: run.Intent.ModTime.UTC(), Stalled: now.Sub(run.Intent.ModTime) > stalledPush}
		r.Open = append(r.Open, p)
		if p.Stalled {
			r.problem("If that process is dead, run backup-push there again, or `wal-e gc --abort-running`; until then deletes free less.",
				"the push of %s on %s (pid %d) has been open since %s", run.Name, p.Host, p.PID, p.Since.Format(time.RFC3339))
		}
	}
	return nil
}

// drill reads what the last drill found.
func (r *statusReport) drill(ctx context.Context, b storage.Bucket) error {
	last := ""
	for o, err := range b.List(ctx, drillDir, "") {
		if err != nil {
			return err
		}
		last = o.Key // names sort by time
	}
	if last == "" {
		return nil
	}
	data, err := storage.ReadAll(ctx, b, last, 1<<20)
	if err != nil {
		return err
	}
	d := &drillReport{}
	if err := envelope.Decode(data, drillKind, drillVersion, d); err != nil {
		return fmt.Errorf("%s in %s: %w", last, b.URL(), err)
	}
	if r.Drill, r.drilled = d, d; !d.OK {
		r.problem("Mend that, and run `wal-e drill` again.", "the last drill, of %s at %s, failed: %s", d.Backup, d.Begun.Format(time.RFC3339), d.Problem)
	}
	return nil
}

// verified reads how far verifications have come, and what the last one found.
func (r *statusReport) verified(ctx context.Context, maxAge time.Duration) (err error) {
	if r.Verified, err = r.catalog.Verified(ctx); err != nil {
		return err
	}
	const todo = "Run `wal-e verify --all --wal` each week, and with --read-data=5% each night."
	switch v := r.verifyResult(); {
	case v == nil && !r.oldest.IsZero() && r.now.Sub(r.oldest) > maxAge:
		r.warning(todo, "no verification of all backups is recorded, and the first of them is of %s", moment(r.oldest))
	case v == nil:
	case v.Problems > 0:
		r.problem("`wal-e verify --all` prints what is damaged now, and for which backups; docs/troubleshooting.md says under WALE-1204 what mends it.",
			"the last verification, at %s on host %s, found %s, the first: %s", moment(v.At), v.Host, counted(v.Problems, "problem"), v.First)
	case r.now.Sub(v.At) > maxAge:
		r.warning(todo, "the last verification of all backups is %s old", age(r.now.Sub(v.At)))
	}
	return nil
}

// verifyResult is what the last verification of all backups came to; nil: unknown.
func (r *statusReport) verifyResult() *backup.VerifyResult {
	if r.Verified == nil {
		return nil
	}
	return r.Verified.Result
}

// backlog counts the WAL files that wait in a data directory.
func (r *statusReport) backlog(f statusFlags) error {
	if f.directory == "" {
		return nil
	}
	entries, err := os.ReadDir(filepath.Join(f.directory, "pg_wal", "archive_status"))
	if errors.Is(err, fs.ErrNotExist) {
		entries, err = os.ReadDir(filepath.Join(f.directory, "pg_xlog", "archive_status"))
	}
	if err != nil {
		return &message{kind: fault.LocalFile, text: err.Error(), hint: "Want the data directory of a cluster, readable by this user.", err: err}
	}
	n := 0
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".ready") {
			continue
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue // archived since
		}
		if err != nil {
			return &message{kind: fault.LocalFile, text: err.Error(), err: err}
		}
		n++
		if t := info.ModTime().UTC(); r.Oldest == nil || t.Before(*r.Oldest) {
			r.Oldest = &t
		}
	}
	if r.Waiting = &n; n > f.maxFiles {
		r.problem("See in the server's log why archive_command fails; docs/runbooks/disk_full.md says what to do before the disk is full.",
			"%s wait to be archived in %s", counted(n, "WAL file"), f.directory)
	}
	return nil
}

func (r *statusReport) print(w io.Writer, now time.Time) error {
	var b strings.Builder
	fmt.Fprintf(&b, "archive %s\n", r.Prefix)
	ago := func(t time.Time) string { return fmt.Sprintf("%s (%s ago)", moment(t), age(now.Sub(t))) }
	for _, c := range r.Clusters {
		fmt.Fprintf(&b, "\ncluster %s\n", c.System)
		if c.Backups > 0 {
			fmt.Fprintf(&b, "  last backup     %s, %s, from host %s\n", c.Last, ago(c.Taken), c.Host)
			var stored []string
			for _, n := range c.Stored {
				stored = append(stored, bytesText(n))
			}
			fmt.Fprintf(&b, "  backups         %d; the last stored %s\n", c.Backups, strings.Join(stored, ", "))
		} else {
			b.WriteString("  last backup     none\n")
		}
		if c.Newest != nil {
			fmt.Fprintf(&b, "  newest WAL      %s, %s\n", dash(c.Segment), ago(*c.Newest))
		}
		for i, w := range c.Windows {
			what := "restores        any moment"
			if i > 0 {
				what = "                and"
			}
			fmt.Fprintf(&b, "  %s from %s to %s\n", what, moment(w.From), moment(w.Until))
		}
	}
	fmt.Fprintf(&b, "\nstored            %s of packs, %s of WAL", bytesText(r.Packs), bytesText(r.WAL))
	if r.Packs > 0 && r.Logical > 0 {
		fmt.Fprintf(&b, "; the backups are %s, %.1f times the packs", bytesText(r.Logical), float64(r.Logical)/float64(r.Packs))
	}
	fmt.Fprintf(&b, "\ngrowth            %s a day\n", bytesText(r.Growth))
	if e := r.Expiry; e != nil {
		fmt.Fprintf(&b, "retain %-11s%s\n", e.Retain, e.text())
	}
	for _, p := range r.Open {
		state := "open"
		if p.Stalled {
			state = "STALLED"
		}
		fmt.Fprintf(&b, "push              %s on %s (pid %d) since %s: %s\n", p.Backup, p.Host, p.PID, ago(p.Since), state)
	}
	b.WriteString(r.secondText(ago))
	switch d := r.drilled; {
	case d == nil:
		b.WriteString("last drill        none: `wal-e drill` proves that the archive restores\n")
	case d.OK:
		fmt.Fprintf(&b, "last drill        ok, %s: restored in %.0f s, recovered in %.0f s\n", ago(d.Begun), d.FetchSeconds, d.RecoverSeconds)
	default:
		fmt.Fprintf(&b, "last drill        FAILED, %s\n", ago(d.Begun))
	}
	b.WriteString(r.verifyText(ago))
	if r.Waiting != nil {
		fmt.Fprintf(&b, "waiting           %s to be archived", counted(*r.Waiting, "WAL file"))
		if r.Oldest != nil {
			fmt.Fprintf(&b, ", the oldest since %s", ago(*r.Oldest))
		}
		b.WriteString("\n")
	}
	b.WriteString("\n")
	for _, p := range r.Problems {
		fmt.Fprintf(&b, "PROBLEM %s\n  %s\n", p.Text, p.Todo)
	}
	for _, p := range r.Warnings {
		fmt.Fprintf(&b, "warning %s\n  %s\n", p.Text, p.Todo)
	}
	if r.OK {
		b.WriteString("no problems\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// verifyText is the lines of status about verifications.
func (r *statusReport) verifyText(ago func(time.Time) string) string {
	text := "last verify       none of all backups is recorded: `wal-e verify --all --wal` proves what can be restored\n"
	if v := r.verifyResult(); v != nil {
		found := "no problems"
		switch {
		case v.Mended:
			found = "mended all that it found"
		case v.Problems > 0:
			found = strings.ToUpper(counted(v.Problems, "problem"))
		}
		text = fmt.Sprintf("last verify       %s, %s: %s, %d of %s read\n", found, ago(v.At), counted(v.Backups, "backup"), v.ReadPacks, counted(v.Packs, "pack"))
	}
	switch v := r.Verified; {
	case v == nil || v.Packs == 0:
	case v.NeverRead == v.Packs:
		text += "data verified     none yet: `wal-e verify --all --read-data=5%` reads so much of it each night\n"
	case v.NeverRead > 0:
		text += fmt.Sprintf("data verified     %d of %s, since %s\n", v.Packs-v.NeverRead, counted(v.Packs, "pack"), ago(*v.Oldest))
	default:
		text += fmt.Sprintf("data verified     each of %s was read since %s\n", counted(v.Packs, "pack"), ago(*v.Oldest))
	}
	return text
}

func (e *statusExpiry) text() string {
	s := "nothing expires before there are newer backups"
	switch {
	case e.At != nil:
		s = fmt.Sprintf("%s expires at %s", e.Backup, moment(*e.At))
	case e.Backup != "":
		s = e.Backup + " expires with the next backup"
	}
	if e.Overdue > 0 {
		s += fmt.Sprintf("; %s could go now: `wal-e delete --confirm retain %s`", counted(e.Overdue, "backup"), e.Retain)
	}
	return s
}
