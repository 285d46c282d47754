package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"wal-e/backup"
	"wal-e/chunkstore"
	"wal-e/compat"
	"wal-e/gc"
	"wal-e/internal/envelope"
	"wal-e/internal/fault"
	"wal-e/internal/htmlreport"
	"wal-e/internal/storage"
	"wal-e/wal"
)

const reportLong = `Write a page about the archive for a browser: backups over the WAL with what is
missing, what each backup stored, holds alone and shares with others, the largest
databases and tables, how long a restore takes, drills, what verify found last, and
the problems that wal-e status tells of. With a data directory WAL files that wait there count, too.

The page is one file that stands alone and loads nothing. It names hosts, databases
and tables: treat it like the archive. The file is replaced as a whole. The exit
status is 0 when it was written, whatever it says; for monitoring there is status.`

func newReportCommand(a *app) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:     "report -o FILE [PG_CLUSTER_DIRECTORY]",
		Short:   "write a page about the archive for a browser",
		Long:    reportLong,
		Example: "  wal-e report -o report.html\n  wal-e report -o /var/www/html/backups.html /var/lib/postgresql/17/main",
		Args:    arguments("[PG_CLUSTER_DIRECTORY]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if output == "" {
				return &usageError{cmd, "-o is required: name the file to write"}
			}
			f := statusFlags{maxAge: 26 * time.Hour, maxFiles: 64, maxVerify: maxVerifyAge}
			if len(args) == 1 {
				f.directory = args[0]
			}
			return a.do(cmd, func(ctx context.Context, s *session) error { return writeReport(ctx, s, f, output) })
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "write the page to `FILE`")
	return cmd
}

func writeReport(ctx context.Context, s *session, f statusFlags, output string) error {
	b, err := s.openBucket(use{reads: true})
	if err != nil {
		return err
	}
	r, err := findReport(ctx, s, b, f)
	if err != nil {
		return err
	}
	var page bytes.Buffer
	if err := htmlreport.Write(&page, r); err != nil {
		return err
	}
	if err := replaceFile(output, page.Bytes()); err != nil {
		return &message{
			kind: fault.LocalFile, text: "the report is not written: " + err.Error(),
			hint: "Name a file in a folder that this user may write to, with -o.", err: err,
		}
	}
	return nil
}

// findReport finds out all that the page shows. What a part of it lacks, a key or
// an object, is noted on the page.
func findReport(ctx context.Context, s *session, b storage.Bucket, f statusFlags) (*htmlreport.Report, error) {
	st, err := findStatus(ctx, s, b, f, nil)
	if err != nil {
		return nil, err
	}
	r := &htmlreport.Report{Prefix: st.Prefix, Program: version, Made: st.now, WAL: st.WAL, Logical: st.Logical, Growth: st.Growth}
	for _, p := range st.Problems {
		r.Problems = append(r.Problems, htmlreport.Problem(p))
	}
	for _, p := range st.Warnings {
		r.Warnings = append(r.Warnings, htmlreport.Problem(p))
	}
	if v := st.verifyResult(); v != nil {
		r.Verified = &htmlreport.Verified{
			At: v.At, Host: v.Host, Backups: v.Backups, Packs: v.Packs, ReadPacks: v.ReadPacks, Problems: v.Problems, First: v.First, WAL: v.WAL, Mended: v.Mended,
		}
	}
	if v := st.Verified; v != nil {
		r.Data = &htmlreport.Data{Packs: v.Packs, NeverRead: v.NeverRead}
		if v.Oldest != nil {
			r.Data.Oldest = *v.Oldest
		}
	}
	for _, p := range st.Open {
		r.Open = append(r.Open, htmlreport.Push{Backup: p.Backup, Host: p.Host, Since: p.Since, Stalled: p.Stalled})
	}
	uses, stored, err := st.catalog.Usage(ctx)
	if err != nil {
		return nil, err
	}
	r.Packs = stored
	keeps, err := gc.ReadKeeps(ctx, b)
	if err != nil {
		return nil, err
	}
	if r.Drills, err = readDrills(ctx, b); err != nil {
		return nil, err
	}
	for _, c := range st.Clusters {
		system := htmlreport.System{ID: c.System, Timelines: reportTimelines(st.logs, c)}
		for _, w := range c.Windows {
			system.Windows = append(system.Windows, htmlreport.Span(w))
		}
		for _, u := range uses {
			if u.System == c.System {
				if u.Missing > 0 {
					r.Problems = append(r.Problems, htmlreport.Problem{
						Text: fmt.Sprintf("backup %s needs %s that the archive doesn't hold", u.Name, counted(u.Missing, "pack")),
						Todo: "`wal-e verify " + u.Name + "` tells which files they are of.",
					})
				}
				system.Backups = append(system.Backups, reportBackup(u, keeps[u.Ref], st.now))
			}
		}
		slices.SortStableFunc(system.Backups, func(a, b htmlreport.Backup) int {
			return cmp.Or(a.Taken.Compare(b.Taken), cmp.Compare(a.Run, b.Run))
		})
		system.Restore = estimate(system, r.Drills)
		if n := len(system.Backups); n > 0 {
			last := system.Backups[n-1]
			err := s.reportCosts(ctx, b, &system, last.Name+"@"+last.Run)
			if ctx.Err() != nil {
				return nil, err
			}
			if errors.Is(err, chunkstore.ErrDamaged) || errors.Is(err, storage.ErrNotExist) {
				r.Problems = append(r.Problems, htmlreport.Problem{Text: fmt.Sprintf("the file table of %s: %v", last.Name, err), Todo: "`wal-e verify` tells what else is damaged."})
			}
			if err != nil {
				r.Notes = append(r.Notes, fmt.Sprintf("The databases and tables in %s: %s", last.Name, messageOf(err).text))
			}
		}
		r.Systems = append(r.Systems, system)
	}
	classic, err := compat.List(ctx, b)
	if err != nil {
		return nil, err
	}
	for _, c := range classic {
		l, err := listClassic(ctx, b, c, true)
		if err != nil {
			r.Notes = append(r.Notes, err.Error())
		}
		r.Classic = append(r.Classic, htmlreport.Classic{Name: l.Name, Stored: l.LastModified, Logical: l.ExpandedSize})
	}
	return r, nil
}

func reportBackup(u backup.Use, keep gc.Keep, now time.Time) htmlreport.Backup {
	b := htmlreport.Backup{
		Name: u.Name, Run: u.Run.String(), Host: u.Host, Timeline: strconv.FormatUint(uint64(u.Timeline), 10), Kind: u.Kind, Taken: u.Stopped, Epoch: u.Epoch,
		Logical: u.ExpandedSize, Stored: u.StoredBytes, Alone: u.Alone, Shared: u.Shared, Missing: int64(u.Missing), PageFailures: u.PageFailures,
	}
	if !keep.Made.IsZero() && keep.Holds(now) {
		b.Keep = "until released"
		if !keep.Until.IsZero() {
			b.Keep = "until " + keep.Until.UTC().Format(time.DateOnly)
		}
	}
	return b
}

// reportTimelines says when the WAL of a cluster was archived, and when what is
// missing should have been.
func reportTimelines(logs []*wal.Log, c statusCluster) []htmlreport.Timeline {
	var list []htmlreport.Timeline
	for _, l := range logs {
		if l.System.String() != c.System {
			continue
		}
		t := htmlreport.Timeline{ID: strconv.FormatUint(uint64(l.Timeline), 10), Bytes: l.Bytes}
		if l.History != nil && len(l.History.Ancestors) > 0 {
			a := l.History.Ancestors[len(l.History.Ancestors)-1]
			t.Origin = fmt.Sprintf("left timeline %d at %s", a.Timeline, a.Switch)
		}
		for _, r := range l.Runs {
			t.Runs = append(t.Runs, htmlreport.Span{From: r.Oldest.UTC(), Until: r.Newer.UTC()})
		}
		for i, g := range l.Gaps() {
			first, last := g.Names()
			t.Gaps = append(t.Gaps, htmlreport.Gap{
				Span:  htmlreport.Span{From: t.Runs[i].Until, Until: t.Runs[i+1].From},
				First: first, Last: last, Segments: g.Count(), Needed: c.needed[first],
			})
		}
		list = append(list, t)
	}
	return list
}

// reportedCosts is how many databases and relations the page names.
const reportedCosts = 12

func (s *session) reportCosts(ctx context.Context, b storage.Bucket, system *htmlreport.System, query string) error {
	t, err := s.openTree(ctx, b, system.ID, query)
	if err != nil {
		return err
	}
	databases, relations, err := t.Costs(ctx, reportedCosts)
	if err = errors.Join(err, t.Close()); err != nil {
		return err
	}
	for _, c := range databases {
		system.Databases = append(system.Databases, htmlreport.Cost(c))
	}
	for _, c := range relations {
		system.Relations = append(system.Relations, htmlreport.Cost(c))
	}
	system.CostsOf = t.Backup().Ref.Name
	return nil
}

// reportedDrills is how many drills the page has.
const reportedDrills = 20

// readDrills reads the last drills, the newest first.
func readDrills(ctx context.Context, b storage.Bucket) ([]htmlreport.Drill, error) {
	var keys []string // names sort by time
	for o, err := range b.List(ctx, drillDir, "") {
		if err != nil {
			return nil, err
		}
		if keys = append(keys, o.Key); len(keys) > reportedDrills {
			keys = keys[1:]
		}
	}
	var list []htmlreport.Drill
	for _, key := range slices.Backward(keys) {
		data, err := storage.ReadAll(ctx, b, key, 1<<20)
		if err != nil {
			return nil, err
		}
		d := &drillReport{}
		if err := envelope.Decode(data, drillKind, drillVersion, d); err != nil {
			return nil, fmt.Errorf("%s in %s: %w", key, b.URL(), err)
		}
		seconds := func(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
		list = append(list, htmlreport.Drill{
			Backup: d.Backup, System: d.System, Problem: d.Problem, OK: d.OK, Begun: d.Begun, Bytes: d.Bytes,
			Fetch: seconds(d.FetchSeconds), Recover: seconds(d.RecoverSeconds), CheckedBy: d.CheckedBy,
		})
	}
	return list, nil
}

// assumedRate is how fast a restore is taken to be, in bytes per second, when no
// drill says it: what one link of 1 Gbit/s carries.
const assumedRate = 110e6

// estimate says how long the last backup of a cluster takes to restore.
func estimate(s htmlreport.System, drills []htmlreport.Drill) *htmlreport.Estimate {
	if len(s.Backups) == 0 {
		return nil
	}
	last := s.Backups[len(s.Backups)-1]
	e := &htmlreport.Estimate{Backup: last.Name}
	for _, d := range drills {
		if d.OK && d.System == s.ID && d.Fetch > 0 && d.Bytes > 0 {
			e.Took = time.Duration(float64(d.Fetch)*float64(last.Logical)/float64(d.Bytes)) + d.Recover
			e.Basis = "at the speed of the drill of " + d.Begun.UTC().Format(time.DateOnly)
			return e
		}
	}
	e.Took = time.Duration(float64(last.Logical) / assumedRate * float64(time.Second))
	e.Basis = "assumed, at 110 MB/s and without WAL: no drill has measured it"
	return e
}
