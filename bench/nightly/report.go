package nightly

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// What a sample is of.
const (
	Backup  = "backup"
	Restore = "restore"                    // of the backup that was just taken
	Old     = "restore of the first night" // when the last one had been taken
)

// A Sample is one command of one program in one night and one run.
type Sample struct {
	Night    int    `json:"night"` // from 1
	Tool     string `json:"tool"`
	Op       string `json:"op"`
	Run      int    `json:"run"`
	Stored   int64  `json:"stored_bytes"`            // that the backup added
	Requests int64  `json:"requests"`                // to the storage; 0 where that isn't known
	Retired  int    `json:"packs_retired,omitempty"` // by wal-e: what was needed of them was stored anew
	Cost
}

// A Night is what was done before it, and the floor of what is stored.
type Night struct {
	Work  string `json:"work"`
	Floor Floor  `json:"floor"`
}

// A Program is one that was measured.
type Program struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Backup  string `json:"backup"` // commands of the shell
	Restore string `json:"restore"`
	Note    string `json:"note"`
	// Kept says that it keeps all nights, each restorable. Others store each night
	// anew and are compared by that.
	Kept bool `json:"kept"`
	// Alone says that a backup restores without those before it.
	Alone bool `json:"alone"`
	// Plain says that a backup is a copy, uncompressed.
	Plain bool `json:"plain"`
}

// A Result is a whole benchmark.
type Result struct {
	Machine  string    `json:"machine"`
	Setup    string    `json:"setup"`
	Runs     int       `json:"runs"`
	Nights   []Night   `json:"nights"`
	Programs []Program `json:"programs"`
	Samples  []Sample  `json:"samples"`
}

// Spread is the median of values and the interval that they lie in.
type Spread struct {
	Median, Min, Max float64
	N                int
}

// SpreadOf returns the spread of values, which it sorts. Of none all is NaN.
func SpreadOf(values []float64) Spread {
	if len(values) == 0 {
		return Spread{Median: math.NaN(), Min: math.NaN(), Max: math.NaN()}
	}
	slices.Sort(values)
	n := len(values)
	return Spread{(values[(n-1)/2] + values[n/2]) / 2, values[0], values[n-1], n}
}

func (s Spread) format(digits int) string {
	if s.N == 0 {
		return "–"
	}
	return fmt.Sprintf("%.*f (%.*f–%.*f)", digits, s.Median, digits, s.Min, digits, s.Max)
}

// The figures of a sample.
func wall(s Sample) float64     { return s.Wall }
func cpu(s Sample) float64      { return s.CPU }
func readMB(s Sample) float64   { return float64(s.Read) / 1e6 }
func storedMB(s Sample) float64 { return float64(s.Stored) / 1e6 }
func peakMB(s Sample) float64   { return float64(s.Peak) / 1e6 }
func requests(s Sample) float64 { return float64(s.Requests) }

// of returns the spread of a figure over those samples that are wanted.
func (r *Result) of(figure func(Sample) float64, want func(Sample) bool) Spread {
	var values []float64
	for _, s := range r.Samples {
		if want(s) {
			values = append(values, figure(s))
		}
	}
	return SpreadOf(values)
}

func is(tool, op string, night int) func(Sample) bool {
	return func(s Sample) bool { return s.Tool == tool && s.Op == op && s.Night == night }
}

// Write writes raw.json, README.md and the plots into dir.
func (r *Result) Write(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	raw, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	files := map[string][]byte{"raw.json": append(raw, '\n'), "README.md": []byte(r.Markdown())}
	for name, plot := range r.plots() {
		files[name+".svg"] = plot.SVG()
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// Read reads what Write wrote, to write it again.
func Read(dir string) (*Result, error) {
	path := filepath.Join(dir, "raw.json")
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var r Result
	if err := json.Unmarshal(raw, &r); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &r, nil
}

func (r *Result) labels() (labels []string) {
	for i, n := range r.Nights {
		labels = append(labels, fmt.Sprintf("%d %s", i+1, n.Work))
	}
	return labels
}

// line is a median per night.
func (r *Result) line(tool, op string, figure func(Sample) float64) Line {
	l := Line{Name: tool}
	for i := range r.Nights {
		l.Values = append(l.Values, r.of(figure, is(tool, op, i+1)).Median)
	}
	return l
}

func (r *Result) plots() map[string]Plot {
	floor := Line{Name: "floor"}
	for _, n := range r.Nights {
		floor.Values = append(floor.Values, float64(n.Floor.Bytes)/1e6)
	}
	stored := Plot{Title: "Stored by each night's backup", Unit: "MB", Log: true, Labels: r.labels(), Lines: []Line{floor}}
	sum := Plot{Title: "Stored so far, all nights restorable", Unit: "MB", Labels: r.labels(), Lines: []Line{summed(floor)}}
	walls := Plot{Title: "Time of each night's backup", Unit: "seconds", Log: true, Labels: r.labels()}
	restores := Plot{Title: "Time to restore the night's backup", Unit: "seconds", Labels: r.labels()}
	for _, p := range r.Programs {
		l := r.line(p.Name, Backup, storedMB)
		stored.Lines = append(stored.Lines, l)
		if p.Kept {
			sum.Lines = append(sum.Lines, summed(l))
		}
		walls.Lines = append(walls.Lines, r.line(p.Name, Backup, wall))
		restores.Lines = append(restores.Lines, r.line(p.Name, Restore, wall))
	}
	return map[string]Plot{"stored": stored, "stored-sum": sum, "backup-time": walls, "restore-time": restores}
}

func summed(l Line) Line {
	out := Line{Name: l.Name}
	var sum float64
	for _, v := range l.Values {
		sum += v
		out.Values = append(out.Values, sum)
	}
	return out
}

// works returns the kinds of nights, in order of their first one, with the nights.
func (r *Result) works() (kinds []string, nights map[string][]int) {
	nights = make(map[string][]int)
	for i, n := range r.Nights {
		if nights[n.Work] == nil {
			kinds = append(kinds, n.Work)
		}
		nights[n.Work] = append(nights[n.Work], i+1)
	}
	return kinds, nights
}

// Markdown is the report.
func (r *Result) Markdown() string {
	var s strings.Builder
	fmt.Fprintf(&s, "# Nights\n\n%s\n\n%s\n\nMedians (least–most) of %d interleaved runs; a row of several nights has all of them. MB are 10^6 bytes.\n", r.Machine, r.Setup, r.Runs)
	s.WriteString("\n![stored by each night](stored.svg)\n![stored so far](stored-sum.svg)\n![time of a backup](backup-time.svg)\n![time of a restore](restore-time.svg)\n")
	r.programs(&s)
	r.goals(&s)
	kinds, nights := r.works()
	for _, kind := range kinds {
		r.nights(&s, kind, nights[kind])
	}
	r.kept(&s)
	r.restores(&s)
	return s.String()
}

func (r *Result) programs(s *strings.Builder) {
	s.WriteString("\n## Programs\n\n| | version | each backup restores alone | backup | restore | |\n|---|---|---|---|---|---|\n")
	for _, p := range r.Programs {
		alone := "no"
		if p.Alone {
			alone = "yes"
		}
		code := func(script string) string { return "`" + strings.ReplaceAll(script, "|", `\|`) + "`" }
		fmt.Fprintf(s, "| %s | %s | %s | %s | %s | %s |\n", p.Name, p.Version, alone, code(p.Backup), code(p.Restore), p.Note)
	}
}

func (r *Result) nights(s *strings.Builder, kind string, nights []int) {
	fmt.Fprintf(s, "\n## %s\n\nNight", strings.ToUpper(kind[:1])+kind[1:])
	if len(nights) > 1 {
		s.WriteString("s")
	}
	for i, n := range nights {
		if i > 0 {
			s.WriteString(",")
		}
		f := r.Nights[n-1].Floor
		fmt.Fprintf(s, " %d (%d pages changed, floor %.2f MB, %.0f of %.0f MB in changed files)", n, f.Pages, float64(f.Bytes)/1e6, float64(f.Changed)/1e6, float64(f.Total)/1e6)
	}
	s.WriteString(".\n\n| | wall s | CPU s | read MB | stored MB | requests | peak MB | restore s | restore CPU s |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|\n")
	for _, p := range r.Programs {
		in := func(op string) func(Sample) bool {
			return func(x Sample) bool { return x.Tool == p.Name && x.Op == op && slices.Contains(nights, x.Night) }
		}
		b := in(Backup)
		if r.of(wall, b).N == 0 {
			continue // it was not measured in these
		}
		asked := "–"
		if n := r.of(requests, b); n.Max > 0 {
			asked = fmt.Sprintf("%.0f", n.Median)
		}
		fmt.Fprintf(s, "| %s | %s | %s | %.1f | %s | %s | %.0f | %s | %s |\n", p.Name, r.of(wall, b).format(2), r.of(cpu, b).format(2), r.of(readMB, b).Median,
			r.of(storedMB, b).format(3), asked, r.of(peakMB, b).Max, r.of(wall, in(Restore)).format(2), r.of(cpu, in(Restore)).format(2))
	}
}

// total is what a program that keeps all nights has stored after so many, by the
// medians of the nights.
func (r *Result) total(tool string, nights int) (mb float64) {
	for n := range min(nights, len(r.Nights)) {
		mb += r.of(storedMB, is(tool, Backup, n+1)).Median
	}
	return mb
}

func (r *Result) floors(nights int) (mb float64) {
	for n := range min(nights, len(r.Nights)) {
		mb += float64(r.Nights[n].Floor.Bytes) / 1e6
	}
	return mb
}

func (r *Result) kept(s *strings.Builder) {
	last := len(r.Nights)
	columns := []int{1, 10, last}
	if last <= 10 {
		columns = []int{1, last}
	}
	s.WriteString("\n## All nights kept\n\n| MB stored after |")
	for _, n := range columns {
		fmt.Fprintf(s, " night %d |", n)
	}
	s.WriteString("\n|---|" + strings.Repeat("--:|", len(columns)) + "\n")
	row := func(name string, of func(int) float64) {
		fmt.Fprintf(s, "| %s |", name)
		for _, n := range columns {
			fmt.Fprintf(s, " %.1f |", of(n))
		}
		s.WriteString("\n")
	}
	row("floor", r.floors)
	for _, p := range r.Programs {
		if p.Kept {
			row(p.Name, func(n int) float64 { return r.total(p.Name, n) })
		}
	}
}

func (r *Result) restores(s *strings.Builder) {
	last := len(r.Nights)
	fmt.Fprintf(s, "\n## Restores\n\n| wall s | first night, that night | last night (%d) | first night, after the last | peak MB |\n|---|--:|--:|--:|--:|\n", last)
	for _, p := range r.Programs {
		peak := r.of(peakMB, func(x Sample) bool { return x.Tool == p.Name && x.Op != Backup })
		fmt.Fprintf(s, "| %s | %s | %s | %s | %.0f |\n", p.Name, r.of(wall, is(p.Name, Restore, 1)).format(2), r.of(wall, is(p.Name, Restore, last)).format(2),
			r.of(wall, is(p.Name, Old, 1)).format(2), peak.Max)
	}
}

// Ours is the name of the program that is compared with the others.
const Ours = "wal-e"

// goals writes what was aimed at beside what came out: our median by the least median
// of the others.
func (r *Result) goals(s *strings.Builder) {
	s.WriteString("\n## Aims\n\nwal-e divided by the least of the others, medians.\n\n| | aim | reached | beside |\n|---|--:|--:|---|\n")
	_, nights := r.works()
	last := len(r.Nights)
	all := func(Program) bool { return true }
	plain := func(p Program) bool { return p.Plain }
	tools := func(p Program) bool { return !p.Plain }
	alone := func(p Program) bool { return p.Alone }
	on := func(op string, figure func(Sample) float64, nights ...int) func(string) float64 {
		return func(tool string) float64 {
			return r.of(figure, func(x Sample) bool { return x.Tool == tool && x.Op == op && slices.Contains(nights, x.Night) }).Median
		}
	}
	row := func(name string, aim float64, figure func(string) float64, among func(Program) bool) {
		least, who := math.Inf(1), ""
		for _, p := range r.Programs {
			if v := figure(p.Name); p.Name != Ours && among(p) && !math.IsNaN(v) && v < least {
				least, who = v, p.Name
			}
		}
		if ours := figure(Ours); who != "" && !math.IsNaN(ours) {
			fmt.Fprintf(s, "| %s | %.1f | %.2f | %s: %.2f to %.2f |\n", name, aim, ours/least, who, ours, least)
		}
	}
	if random := nights[Random]; len(random) > 0 {
		var floor []float64
		for _, n := range random {
			floor = append(floor, float64(r.Nights[n-1].Floor.Bytes)/1e6)
		}
		stored := on(Backup, storedMB, random...)
		if least := SpreadOf(floor).Median; least > 0 {
			fmt.Fprintf(s, "| stored MB, random updates, by the floor | 1.1 | %.2f | floor: %.2f to %.2f |\n", stored(Ours)/least, stored(Ours), least)
		}
		row("stored MB, random updates, by those that restore alone", 0.4, stored, alone)
		row("wall s, random updates", 1, on(Backup, wall, random...), tools)
		row("CPU s, random updates", 1, on(Backup, cpu, random...), tools)
	}
	row(fmt.Sprintf("stored MB, %d nights, by those that restore alone", min(10, last)), 0.5, func(tool string) float64 { return r.total(tool, 10) }, alone)
	row("wall s, first full", 1, on(Backup, wall, 1), tools)
	row("CPU s, first full", 1.5, on(Backup, cpu, 1), tools)
	row("stored MB, first full", 1, on(Backup, storedMB, 1), all)
	if nothing := nights[Nothing]; len(nothing) > 0 {
		row("wall s, nothing changed", 1, on(Backup, wall, nothing...), tools)
		row("stored MB, nothing changed", 1, on(Backup, storedMB, nothing...), all)
	}
	row("wall s, restore of the first night", 1, on(Restore, wall, 1), tools)
	row(fmt.Sprintf("wall s, restore of night %d", last), 1, on(Restore, wall, last), tools)
	row("wall s, restore of the first night, by a plain copy", 1.3, on(Restore, wall, 1), plain)
	row(fmt.Sprintf("wall s, restore of night %d, by a plain copy", last), 1.3, on(Restore, wall, last), plain)
	peak := r.of(peakMB, func(x Sample) bool { return x.Tool == Ours })
	fmt.Fprintf(s, "\nLargest memory of wal-e in any line: %.0f MB, where 400 was the aim.\n", peak.Max)
}

// The kinds of nights that aims are about.
const (
	Random  = "random updates"
	Nothing = "nothing"
)

// Sort puts samples in order of night, tool, what they are of, and run.
func (r *Result) Sort() {
	slices.SortStableFunc(r.Samples, func(a, b Sample) int {
		return cmp.Or(cmp.Compare(a.Night, b.Night), cmp.Compare(a.Tool, b.Tool), cmp.Compare(a.Op, b.Op), cmp.Compare(a.Run, b.Run))
	})
}
