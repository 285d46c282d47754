package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"wal-e/backup"
	"wal-e/internal/fault"
	"wal-e/internal/postgres"
	"wal-e/internal/storage"
	"wal-e/wal"
)

func newWALShowCommand(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "wal-show",
		Short: "show the WAL in the archive, and how far each backup recovers",
		Long: `wal-show lists the WAL files of the archive by system identifier and timeline, with
what is missing between them, and for each base backup the timelines and the moments to
which it recovers. A moment is when the last segment was archived, by the store's clock:
what was committed up to about then can be recovered.

What stands in the classic layout is listed by timeline alone, in segments of 16 MB.

It tells only what is there; wal-verify judges.`,
		Example: "  wal-e wal-show\n  wal-e wal-show --json",
		Args:    arguments(),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.do(cmd, func(ctx context.Context, s *session) error {
				b, err := s.openBucket(use{reads: true})
				if err != nil {
					return err
				}
				r, err := s.surveyWAL(ctx, s.walReadsMany(b), nil)
				if r == nil {
					return err
				}
				if asJSON {
					return errors.Join(err, json.NewEncoder(s.stdout).Encode(r.Systems))
				}
				return errors.Join(err, r.print(s.stdout))
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print everything known as JSON")
	return cmd
}

func newWALVerifyCommand(a *app) *cobra.Command {
	var asJSON, readData bool
	var known []string
	cmd := &cobra.Command{
		Use:   "wal-verify",
		Short: "check that the WAL has no gaps; for monitoring",
		Long: `wal-verify exits 0 when each base backup can be restored, no segment is missing that
one of them needs on its way, and one of them recovers up to the newest WAL. Otherwise it says
what is wrong and exits 1.

A gap that nothing can be done about is acknowledged with --known-gap. It is an alarm
nevertheless as long as there is no base backup behind it: take one.

Of WAL in the classic layout it finds what is missing between segments.

With --read-data each file is read and proven, instead of its name only.`,
		Example: "  wal-e wal-verify\n  wal-e wal-verify --known-gap 000000010000000000000012-000000010000000000000014",
		Args:    arguments(),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.do(cmd, func(ctx context.Context, s *session) error {
				return walVerify(ctx, s, known, readData, asJSON)
			})
		},
	}
	cmd.Flags().SortFlags = false
	cmd.Flags().StringArrayVar(&known, "known-gap", nil, "`SEGMENT` or FIRST-LAST that is known to be missing; may be repeated")
	cmd.Flags().BoolVar(&readData, "read-data", false, "read each file and prove what it holds")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the result as JSON")
	return cmd
}

func walVerify(ctx context.Context, s *session, known []string, readData, asJSON bool) error {
	ranges, err := parseKnownGaps(known)
	if err != nil {
		return err
	}
	b, err := s.openBucket(use{reads: true})
	if err != nil {
		return err
	}
	r, err := s.surveyWAL(ctx, s.walReadsMany(b), ranges)
	if r == nil {
		return err
	}
	if err != nil {
		r.Problems = append(r.Problems, err.Error())
	}
	if readData {
		damaged, err := readAllWAL(ctx, s.walReadsMany(b))
		if err != nil {
			return err
		}
		r.Problems = append(r.Problems, damaged...)
		if damaged, err = s.readClassicWAL(ctx, b); err != nil {
			return err
		}
		r.Problems = append(r.Problems, damaged...)
	}
	r.OK = len(r.Problems) == 0
	if asJSON {
		err = json.NewEncoder(s.stdout).Encode(r)
	} else {
		err = r.printVerdict(s.stdout)
	}
	if err == nil && !r.OK {
		err = &message{kind: fault.WALGap, text: "the WAL in the archive is not as it should be", detail: strings.Join(r.Problems, "\n"),
			hint: "wal-e wal-show prints what there is. A gap that nothing can be done about is acknowledged with --known-gap."}
	}
	return err
}

// A walReport is what wal-verify prints as JSON; wal-show prints its systems.
type walReport struct {
	OK       bool         `json:"ok"`
	Problems []string     `json:"problems"`
	Systems  []*walSystem `json:"systems"`

	classic []*classicLog // in the classic layout
}

type walSystem struct {
	System    string         `json:"system_identifier"`
	Timelines []*walTimeline `json:"timelines"`
	Windows   []walWindow    `json:"windows"`
}

type walTimeline struct {
	Timeline    postgres.Timeline `json:"timeline"`
	Parent      postgres.Timeline `json:"parent,omitempty"`
	Switch      string            `json:"switch_lsn,omitempty"` // where it left its parent
	SegmentSize uint32            `json:"segment_size_bytes"`
	Segments    uint64            `json:"segments"`
	First       string            `json:"first,omitempty"`
	Last        string            `json:"last,omitempty"`
	Oldest      *time.Time        `json:"first_archived,omitempty"` // by the store's clock
	Newest      time.Time         `json:"newest_archived"`
	OtherFiles  int               `json:"other_files"`
	Bytes       int64             `json:"stored_bytes"`
	Gaps        []walGap          `json:"gaps"`
}

type walGap struct {
	First    string `json:"first"`
	Last     string `json:"last"`
	Segments uint64 `json:"segments"`
	Needed   bool   `json:"needed"` // by a base backup before it
	Known    bool   `json:"known"`
}

// names are the segments of the gap: the one, or the first and the last.
func (g walGap) names() string {
	if g.First == g.Last {
		return g.First
	}
	return g.First + " to " + g.Last
}

// String has the names and how many there are.
func (g walGap) String() string { return g.names() + ", " + counted(g.Segments, "segment") }

type walWindow struct {
	Backup     string            `json:"backup"`
	Timeline   postgres.Timeline `json:"timeline"` // to which it recovers
	Restorable bool              `json:"restorable"`
	From       time.Time         `json:"from"` // the earliest moment
	Until      *time.Time        `json:"until,omitempty"`
	Last       string            `json:"last_segment,omitempty"`
	Missing    string            `json:"missing_segment,omitempty"`
}

// surveyWAL reports on all systems. With an error that isn't about everything it
// also returns what it knows.
func (s *session) surveyWAL(ctx context.Context, b storage.Bucket, known []knownGap) (*walReport, error) {
	// In this order a backup that commits meanwhile isn't taken for one without its WAL.
	catalog, err := backup.ReadCatalog(ctx, b)
	if err != nil {
		return nil, err
	}
	logs, err := wal.Survey(ctx, b)
	if err != nil {
		return nil, err
	}
	return s.reportWAL(ctx, b, logs, catalog, known)
}

// reportWAL reports on WAL and backups that were read.
func (s *session) reportWAL(ctx context.Context, b storage.Bucket, logs []*wal.Log, catalog *backup.Catalog, known []knownGap) (*walReport, error) {
	listed, listErr := catalog.List()
	bases := make(map[postgres.SystemID][]wal.Base)
	for _, l := range listed {
		base, err := baseOf(l)
		if err != nil {
			return nil, err
		}
		bases[base.System] = append(bases[base.System], base)
	}
	r := &walReport{Problems: []string{}, Systems: []*walSystem{}}
	for len(logs) > 0 {
		n := 1
		for n < len(logs) && logs[n].System == logs[0].System {
			n++
		}
		r.addSystem(logs[:n], bases[logs[0].System], known)
		delete(bases, logs[0].System)
		logs = logs[n:]
	}
	for system, list := range bases {
		for _, base := range list {
			if base.Whole {
				continue // and the next command that asks for WAL says that there is none
			}
			r.Problems = append(r.Problems, fmt.Sprintf("backup %s of system %s: there is no WAL of that system", base.Name, system))
		}
	}
	var err error
	if r.classic, err = s.surveyClassic(ctx, b, known); err != nil {
		return nil, err
	}
	for _, l := range r.classic {
		r.Problems = append(r.Problems, l.problems()...)
	}
	if len(r.Systems) == 0 && len(r.classic) == 0 {
		r.Problems = append(r.Problems, fmt.Sprintf("%s holds no WAL at all", b.URL()))
	}
	slices.Sort(r.Problems)
	return r, listErr
}

func baseOf(l backup.Listed) (wal.Base, error) {
	base := wal.Base{Name: l.Name, Timeline: l.Timeline, Stopped: l.Stopped, Whole: l.Kind == backup.Offline}
	var errs [3]error
	base.System, errs[0] = postgres.ParseSystemID(l.System)
	base.Start, errs[1] = postgres.ParseLSN(l.StartLSN)
	base.Stop, errs[2] = postgres.ParseLSN(l.StopLSN)
	return base, errors.Join(errs[:]...)
}

// addSystem adds what there is of a system, and what is wrong with it.
func (r *walReport) addSystem(logs []*wal.Log, bases []wal.Base, known []knownGap) {
	s := &walSystem{System: logs[0].System.String(), Timelines: []*walTimeline{}, Windows: []walWindow{}}
	r.Systems = append(r.Systems, s)
	complain := func(format string, args ...any) {
		r.Problems = append(r.Problems, fmt.Sprintf("system %s: ", s.System)+fmt.Sprintf(format, args...))
	}
	var current *wal.Log // the timeline that was archived last
	for _, l := range logs {
		if len(l.Runs) > 0 && (current == nil || l.Newest.After(current.Newest)) {
			current = l
		}
	}
	upToDate := false
	stops := make(map[string]bool) // segments at which a backup's way ends too early
	var between []wal.Gap          // gaps on the way, those from one timeline to the next too
	for _, base := range bases {
		windows, err := wal.Reach(logs, base)
		if err != nil {
			complain("%v", err)
			continue
		}
		for _, w := range windows {
			s.Windows = append(s.Windows, describeWindow(w))
			upToDate = upToDate || w.Ends && current != nil && w.Target == current.Timeline
			if w.Target == base.Timeline && !w.Restorable {
				complain("backup %s can't be restored: segment %s is missing", base.Name, w.Missing)
			}
			if !w.Ends {
				stops[w.Missing] = true
			}
			if w.Gap != nil && w.Restorable && !slices.Contains(between, *w.Gap) {
				between = append(between, *w.Gap)
			}
		}
	}
	for _, l := range logs {
		t := describeLog(l)
		for _, gap := range allGaps(l, between) {
			g := describeGap(gap)
			g.Needed = stops[g.First]
			g.Known = slices.ContainsFunc(known, func(k knownGap) bool { return k.covers(g) })
			t.Gaps = append(t.Gaps, g)
			if g.Needed && !g.Known {
				complain("%s: %s", areMissing(g.Segments), gap)
			}
		}
		s.Timelines = append(s.Timelines, t)
	}
	switch {
	case current == nil:
	case len(bases) == 0:
		complain("there is no base backup that its WAL could be used with: take one")
	case !upToDate:
		complain("no base backup recovers to the newest WAL, timeline %d up to %s: take one now",
			current.Timeline, current.Name(current.Runs[len(current.Runs)-1].Last))
	}
}

// allGaps returns the gaps of a timeline: those between its segments, and those of
// others that are at its ends, as when a server died before it had archived what the
// next timeline began with.
func allGaps(l *wal.Log, others []wal.Gap) []wal.Gap {
	gaps := l.Gaps()
	for _, o := range others {
		within := func(g wal.Gap) bool { return g.First <= o.First && o.First <= g.Last }
		if o.Timeline == l.Timeline && !slices.ContainsFunc(gaps, within) {
			gaps = append(gaps, o)
		}
	}
	slices.SortFunc(gaps, func(a, b wal.Gap) int { return cmp.Compare(a.First, b.First) })
	return gaps
}

func describeWindow(w wal.Window) walWindow {
	d := walWindow{Backup: w.Base.Name, Timeline: w.Target, Restorable: w.Restorable, From: w.Base.Stopped.UTC(), Last: w.Last}
	if w.Restorable {
		until := w.Until.UTC()
		d.Until = &until
	}
	if !w.Ends {
		d.Missing = w.Missing
	}
	return d
}

func describeLog(l *wal.Log) *walTimeline {
	t := &walTimeline{
		Timeline: l.Timeline, SegmentSize: uint32(l.SegmentSize), Segments: l.Segments(),
		Newest: l.Newest.UTC(), OtherFiles: l.Files, Bytes: l.Bytes, Gaps: []walGap{},
	}
	if n := len(l.Runs); n > 0 {
		oldest := l.Runs[0].Oldest.UTC()
		t.First, t.Last, t.Oldest = l.Name(l.Runs[0].First), l.Name(l.Runs[n-1].Last), &oldest
	}
	if l.History != nil && len(l.History.Ancestors) > 0 {
		a := l.History.Ancestors[len(l.History.Ancestors)-1]
		t.Parent, t.Switch = a.Timeline, a.Switch.String()
	}
	return t
}

func describeGap(gap wal.Gap) walGap {
	first, last := gap.Names()
	return walGap{First: first, Last: last, Segments: gap.Count()}
}

// A knownGap is a range of segments of which the user knows that they are missing.
type knownGap struct{ first, last string }

func parseKnownGaps(values []string) ([]knownGap, error) {
	var known []knownGap
	for _, v := range values {
		first, last, ok := strings.Cut(v, "-")
		if !ok {
			last = first
		}
		for _, name := range []string{first, last} {
			if postgres.ParseWALFile(name).Kind != postgres.SegmentFile {
				return nil, usagef("--known-gap %s: %q is not the name of a segment: want FIRST-LAST, as wal-verify prints them", v, name)
			}
		}
		if last < first || first[:8] != last[:8] {
			return nil, usagef("--known-gap %s: want FIRST-LAST of one timeline, in this order", v)
		}
		known = append(known, knownGap{first, last})
	}
	return known, nil
}

func (k knownGap) covers(g walGap) bool { return k.first <= g.First && g.Last <= k.last }

// readAllWAL proves each WAL file and returns what is wrong, sorted.
func readAllWAL(ctx context.Context, b storage.Bucket) ([]string, error) {
	var mu sync.Mutex
	var damaged []string
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	for o, err := range b.List(gctx, wal.Prefix, "") {
		if err != nil {
			return nil, errors.Join(err, g.Wait())
		}
		folder, name, _ := strings.Cut(strings.TrimPrefix(o.Key, wal.Prefix), "/")
		system, err := postgres.ParseSystemID(folder)
		if err != nil || postgres.ParseWALFile(name).Kind == postgres.OtherFile {
			continue
		}
		g.Go(func() error {
			_, err := wal.Verify(gctx, b, system, name)
			var damage *wal.DamagedError
			if !errors.As(err, &damage) {
				if errors.Is(err, wal.ErrNotFound) {
					err = nil // deleted since it was listed
				}
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			damaged = append(damaged, err.Error())
			return nil
		})
	}
	err := g.Wait()
	slices.Sort(damaged)
	return damaged, err
}

// print writes tables for people.
func (r *walReport) print(w io.Writer) error {
	for _, s := range r.Systems {
		fmt.Fprintf(w, "system %s\n", s.System)
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintln(t, "  timeline\tfrom\tsegments\tsize\tfirst\tlast\tnewest archived\tstored")
		for _, tl := range s.Timelines {
			from := "-"
			if tl.Parent != 0 {
				from = fmt.Sprintf("%d at %s", tl.Parent, tl.Switch)
			}
			fmt.Fprintf(t, "  %d\t%s\t%d\t%s\t%s\t%s\t%s\t%s\n", tl.Timeline, from, tl.Segments, segmentSize(tl.SegmentSize),
				dash(tl.First), dash(tl.Last), moment(tl.Newest), bytesText(int64(tl.Bytes)))
		}
		if err := t.Flush(); err != nil {
			return err
		}
		for _, tl := range s.Timelines {
			for _, g := range tl.Gaps {
				why := "no backup needs it"
				if g.Needed {
					why = "a backup needs it"
				}
				fmt.Fprintf(w, "  missing: %s; %s\n", g, why)
			}
		}
		t = tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		if len(s.Windows) > 0 {
			fmt.Fprintln(t, "  backup\ttimeline\trestores from\tuntil\tlast segment\tthen missing")
		}
		for _, win := range s.Windows {
			until := "never: it can't be restored"
			if win.Until != nil {
				until = moment(*win.Until)
			}
			fmt.Fprintf(t, "  %s\t%d\t%s\t%s\t%s\t%s\n", win.Backup, win.Timeline, moment(win.From), until, dash(win.Last), dash(win.Missing))
		}
		if err := t.Flush(); err != nil {
			return err
		}
	}
	return printClassic(w, r.classic)
}

// printVerdict writes a line per system, and one per gap that is known.
func (r *walReport) printVerdict(w io.Writer) error {
	for _, s := range r.Systems {
		segments := uint64(0)
		for _, tl := range s.Timelines {
			segments += tl.Segments
			for _, g := range tl.Gaps {
				if g.Known {
					fmt.Fprintf(w, "known gap: %s\n", g.names())
				}
			}
		}
		if _, err := fmt.Fprintf(w, "system %s: %s on %s, %s to recover\n",
			s.System, counted(segments, "segment"), counted(len(s.Timelines), "timeline"), counted(len(s.Windows), "way")); err != nil {
			return err
		}
	}
	if err := printClassic(w, r.classic); err != nil {
		return err
	}
	verdict := "ok"
	if !r.OK {
		verdict = "NOT OK: " + counted(len(r.Problems), "problem")
	}
	_, err := fmt.Fprintln(w, verdict)
	return err
}

func segmentSize(n uint32) string {
	if n == 0 {
		return "-"
	}
	return fmt.Sprintf("%d MB", n>>20)
}

func moment(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05Z") }

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
