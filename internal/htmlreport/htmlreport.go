// Package htmlreport draws what an archive holds as one HTML page that stands
// alone: no script, no font and no picture comes from elsewhere, and it looks the
// same to whoever opens it. It is given plain figures and knows nothing of
// storage. All texts are escaped, for names of databases are hostile input.
//
// To look at it, let the test write a page of forty nights and open that:
//
//	go test ./internal/htmlreport -run TestPage -write /tmp/report.html
package htmlreport

import (
	"fmt"
	"io"
	"math"
	"slices"
	"time"
)

// A Report is what a page shows. The same report makes the same bytes.
type Report struct {
	Prefix   string
	Program  string // version of wal-e
	Made     time.Time
	Problems []Problem
	Warnings []Problem
	Notes    []string // what could not be found out, and why

	Packs   int64 // bytes stored
	WAL     int64 // bytes stored
	Logical int64 // bytes that all backups restore to
	Growth  int64 // bytes per day

	Systems []System
	Classic []Classic
	Drills  []Drill // the newest first
	Open    []Push

	Verified *Verified // the last verification of all backups; nil: unknown
	Data     *Data     // what verifications read; nil: unknown
}

// A Problem is something to be done.
type Problem struct{ Text, Todo string }

// A System is one cluster.
type System struct {
	ID        string
	Backups   []Backup // in the order in which they were taken
	Timelines []Timeline
	Windows   []Span // of which any moment can be restored
	CostsOf   string // the backup that the costs are of; "" when they aren't known
	Databases []Cost
	Relations []Cost
	Restore   *Estimate // nil without a backup
}

// A Backup is one that restores. Sizes are bytes.
type Backup struct {
	Name, Run, Host       string
	Timeline              string
	Kind                  string
	Taken                 time.Time
	Keep                  string // how long it is kept by a mark; "" without one
	Epoch                 string // "" when it isn't encrypted
	Logical, Stored       int64
	Alone, Shared         int64 // of packs
	Missing, PageFailures int64
}

// A Timeline is the WAL of one.
type Timeline struct {
	ID     string
	Origin string // where it left its parent; "" for the first
	Runs   []Span // of segments without a gap
	Gaps   []Gap
	Bytes  int64
}

// A Span is a stretch of time.
type Span struct{ From, Until time.Time }

// A Gap is a range of segments that are missing.
type Gap struct {
	Span
	First, Last string
	Segments    uint64
	Needed      bool // by a backup
}

// A Cost is how large something is.
type Cost struct {
	Name, Path string
	Bytes      int64
}

// An Estimate says how long a restore takes, and how that is known.
type Estimate struct {
	Backup string
	Took   time.Duration
	Basis  string
}

// A Classic is a backup in the layout of classic WAL-E. Logical is below zero when
// it isn't known.
type Classic struct {
	Name    string
	Stored  time.Time
	Logical int64
}

// A Drill is a restore that was tried.
type Drill struct {
	Backup, System, Problem string
	OK                      bool
	Begun                   time.Time
	Bytes                   int64
	Fetch, Recover          time.Duration
	CheckedBy               string
}

// A Verified is a verification of all backups.
type Verified struct {
	At               time.Time
	Host             string
	Backups          int
	Packs, ReadPacks int
	Problems         int
	First            string // problem; "" without any
	WAL, Mended      bool
}

// A Data says which of the packs that backups need were ever read and found whole.
type Data struct {
	Packs, NeverRead int
	Oldest           time.Time // when that one was read that waited longest; zero when none was
}

// A Push is under way.
type Push struct {
	Backup, Host string
	Since        time.Time
	Stalled      bool
}

// The page is a template that is compiled to Go. html/template, which is the usual
// choice, would make the linker keep every exported method of every library: the
// program would be larger by 12 MB, and each WAL segment starts it.
//
//go:generate go run github.com/valyala/quicktemplate/qtc@v1.8.0 -file=page.qtpl

// Write writes the page.
func Write(w io.Writer, r *Report) error {
	_, err := io.WriteString(w, page(r)) // some 300 bytes for a backup
	return err
}

// Bytes gives a number of bytes as people read it.
func Bytes(n int64) string {
	v, i := float64(n), 0
	for v >= 1024 && i < 5 {
		v /= 1024
		i++
	}
	if i == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %ciB", v, "KMGTP"[i-1])
}

func moment(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }
func day(t time.Time) string    { return t.UTC().Format("2 Jan 2006") }

func took(d time.Duration) string {
	if d < time.Minute {
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	d = d.Round(time.Minute)
	if d < time.Hour {
		return fmt.Sprintf("%d min", int(d.Minutes()))
	}
	return fmt.Sprintf("%d h %02d min", int(d.Hours()), int(d.Minutes())%60)
}

func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

func times(logical, stored int64) string {
	if stored <= 0 || logical <= 0 {
		return ""
	}
	return fmt.Sprintf("%.1f", float64(logical)/float64(stored))
}

func maxCost(c []Cost) int64 {
	n := int64(0)
	for _, c := range c {
		n = max(n, c.Bytes)
	}
	return n
}

// share is n of all in percent, with a decimal.
func share(n, all int64) float64 {
	if all <= 0 {
		return 0
	}
	return round(100 * float64(n) / float64(all))
}

func round(v float64) float64 { return math.Round(v*10) / 10 }

// A chart is the time line of a system. X and widths are in thousandths.
type chart struct {
	From, Middle, Until string
	Windows             []bar
	Lanes               []lane
}

type lane struct {
	Timeline string
	Origin   string
	WAL      []bar
	Gaps     []bar
	Backups  []bar
}

type bar struct {
	X, W, End float64
	Y, H      float64 // of 100, of bars that stand
	Class     string
	Title     string
}

// newChart lays out a system; nil when there is nothing that has a time.
func newChart(s System) *chart {
	var from, until time.Time
	see := func(times ...time.Time) {
		for _, t := range times {
			if t.IsZero() {
				continue
			}
			if from.IsZero() || t.Before(from) {
				from = t
			}
			if t.After(until) {
				until = t
			}
		}
	}
	for _, b := range s.Backups {
		see(b.Taken)
	}
	for _, t := range s.Timelines {
		for _, r := range t.Runs {
			see(r.From, r.Until)
		}
	}
	if from.IsZero() {
		return nil
	}
	// A hundredth on both sides, so that what stands at the edge is seen.
	margin := max(until.Sub(from)/100, time.Minute)
	from, until = from.Add(-margin), until.Add(margin)
	x := func(t time.Time) float64 { return round(1000 * float64(t.Sub(from)) / float64(until.Sub(from))) }
	span := func(p Span, class, title string) bar {
		a, b := x(p.From), x(p.Until)
		return bar{X: a, W: max(0, round(b-a)), End: max(a, b), Class: class, Title: title}
	}
	c := &chart{From: moment(from), Middle: moment(from.Add(until.Sub(from) / 2)), Until: moment(until)}
	if until.Sub(from) > 72*time.Hour {
		c.From, c.Middle, c.Until = day(from), day(from.Add(until.Sub(from)/2)), day(until)
	}
	for _, w := range s.Windows {
		c.Windows = append(c.Windows, span(w, "window", fmt.Sprintf("any moment from %s to %s", moment(w.From), moment(w.Until))))
	}
	timelines := slices.Clone(s.Timelines)
	for _, b := range s.Backups {
		if !slices.ContainsFunc(timelines, func(t Timeline) bool { return t.ID == b.Timeline }) {
			timelines = append(timelines, Timeline{ID: b.Timeline}) // WAL of it there is none
		}
	}
	for _, t := range timelines {
		l := lane{Timeline: t.ID, Origin: t.Origin}
		for _, r := range t.Runs {
			l.WAL = append(l.WAL, span(r, "wal", fmt.Sprintf("WAL of timeline %s, archived from %s to %s", t.ID, moment(r.From), moment(r.Until))))
		}
		for _, g := range t.Gaps {
			title := fmt.Sprintf("missing: %s, %s to %s", count(int(g.Segments), "segment"), g.First, g.Last)
			l.Gaps = append(l.Gaps, span(g.Span, "gap", title))
		}
		for _, b := range s.Backups {
			if b.Timeline != t.ID {
				continue
			}
			class, kept := "backup", ""
			if b.Keep != "" {
				class, kept = "backup kept", ", kept "+b.Keep
			}
			l.Backups = append(l.Backups, bar{X: x(b.Taken), Class: class, Title: fmt.Sprintf("%s, taken %s%s", b.Name, moment(b.Taken), kept)})
		}
		c.Lanes = append(c.Lanes, l)
	}
	return c
}

// A night is two rows of bars: what backups stored, and what they restore to.
type night struct {
	Stored, Logical       []bar
	MaxStored, MaxLogical int64
	Beyond                int // bars that are cut off at MaxStored
	From, Until           string
}

// outlier is how many times more than all others a backup must have stored for
// its bar to be cut off: the first one stores everything, and would make those of
// all nights after it too small to be told apart.
const outlier = 4

func nights(backups []Backup) *night {
	if len(backups) == 0 {
		return nil
	}
	n := &night{From: day(backups[0].Taken), Until: day(backups[len(backups)-1].Taken)}
	for _, b := range backups {
		n.MaxStored, n.MaxLogical = max(n.MaxStored, b.Stored), max(n.MaxLogical, b.Logical)
	}
	second, largest := int64(0), false
	for _, b := range backups {
		if b.Stored == n.MaxStored && !largest {
			largest = true
			continue
		}
		second = max(second, b.Stored)
	}
	if second > 0 && n.MaxStored/outlier > second {
		n.MaxStored, n.Beyond = second, 1
	}
	// Few backups don't make broad bars.
	width := 1000 / float64(max(12, len(backups)))
	for i, b := range backups {
		at := bar{X: round(float64(i)*width + width*0.12), W: round(width * 0.76), Title: fmt.Sprintf("%s, %s: stored %s, restores to %s", b.Name, moment(b.Taken), Bytes(b.Stored), Bytes(b.Logical))}
		stored, logical := at, at
		stored.Class = "stored"
		if b.Stored > n.MaxStored {
			stored.Class = "stored beyond"
		}
		stored.H = share(min(b.Stored, n.MaxStored), n.MaxStored)
		logical.H = share(b.Logical, n.MaxLogical)
		stored.Y, logical.Y = round(100-stored.H), round(100-logical.H)
		n.Stored, n.Logical = append(n.Stored, stored), append(n.Logical, logical)
	}
	return n
}
