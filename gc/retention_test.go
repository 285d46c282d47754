package gc_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"wal-e/chunkstore"
	"wal-e/gc"
	"wal-e/internal/postgres"
	"wal-e/internal/runid"
	"wal-e/internal/storage"
	"wal-e/internal/storage/mem"
)

const (
	oldSystem = "7000000000000000001"
	newSystem = "7000000000000000002"
)

// today is when the tests decide.
func today() time.Time { return time.Date(2027, 3, 31, 12, 0, 0, 0, time.UTC) }

// retained describes a backup: of a system, on a timeline, starting in a
// segment, taken some days ago. Its run is told from that.
type retained struct {
	system   string // "" means oldSystem
	timeline postgres.Timeline
	segment  uint64
	days     float64 // ago
	stored   float64 // days ago; 0 means as days
	run      byte
	failures int64
	name     string // "" means by its position
}

func (r retained) backup() gc.Backup {
	if r.system == "" {
		r.system = oldSystem
	}
	if r.timeline == 0 {
		r.timeline = 1
	}
	size := postgres.DefaultSegmentSize
	if r.name == "" {
		r.name = "base_" + postgres.Segment{Timeline: r.timeline, No: r.segment}.Name(size) + "_00000040"
	}
	ago := func(days float64) time.Time { return today().Add(-time.Duration(days * float64(day))) }
	b := gc.Backup{
		Ref: chunkstore.Ref{Name: r.name}, System: r.system, Timeline: r.timeline, SegmentSize: size,
		Start: postgres.LSN(r.segment*uint64(size) + 40), Stop: postgres.LSN((r.segment+2)*uint64(size) + 80),
		Taken: ago(r.days), Stored: ago(r.days), PageFailures: r.failures,
	}
	if r.stored != 0 {
		b.Stored = ago(r.stored)
	}
	b.Ref.Run = runid.ID{r.run, byte(r.segment), r.system[len(r.system)-1], byte(r.timeline)}
	return b
}

func catalogOf(list ...retained) *gc.Catalog {
	c := &gc.Catalog{Archived: map[string]time.Time{}, Keeps: map[chunkstore.Ref]gc.Keep{}}
	for _, r := range list {
		c.Backups = append(c.Backups, r.backup())
	}
	return c
}

// nightly are backups of so many nights, the newest half a day old; n nights
// ago segment 1000-10n was written.
func nightly(nights int) []retained {
	var list []retained
	for n := nights - 1; n >= 0; n-- {
		list = append(list, retained{segment: uint64(1000 - 10*n), days: float64(n) + 0.5})
	}
	return list
}

func position(t *testing.T, s string) *gc.Position {
	t.Helper()
	p, err := gc.ParsePosition(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// kept lists the indexes in the catalog of the backups that a plan keeps.
func keptOf(c *gc.Catalog, p *gc.Plan) []int {
	kept := []int{}
	for i, b := range c.Backups {
		if slices.ContainsFunc(p.Decisions, func(d gc.Decision) bool { return d.Ref == b.Ref && d.Keep }) {
			kept = append(kept, i)
		}
	}
	return kept
}

func ownWALOf(c *gc.Catalog, p *gc.Plan) []int {
	own := []int{}
	for i, b := range c.Backups {
		if slices.Contains(p.Ranges(), b.Ref) {
			own = append(own, i)
		}
	}
	return own
}

func TestDecide(t *testing.T) {
	t.Parallel()
	upgraded := append(nightly(3), // old system, segments 980, 990, 1000, 2.5 to 0.5 days ago
		retained{system: newSystem, segment: 3, days: 0.3},
		retained{system: newSystem, segment: 5, days: 0.2},
		retained{system: newSystem, segment: 7, days: 0.1})
	failover := []retained{
		{segment: 10, days: 6}, {segment: 20, days: 5}, {segment: 30, days: 4},
		{timeline: 2, segment: 40, days: 3}, {timeline: 2, segment: 50, days: 2}, {timeline: 2, segment: 60, days: 1},
	}
	rewound := []retained{ // restored to segment 20, and went on from there
		{segment: 10, days: 6}, {segment: 30, days: 5}, {segment: 50, days: 4},
		{timeline: 2, segment: 25, days: 3}, {timeline: 2, segment: 35, days: 2},
	}
	sameName := []retained{
		{segment: 10, days: 5},
		{segment: 20, days: 4, run: 1}, {segment: 20, days: 3, run: 2}, {segment: 20, days: 2, run: 3, failures: 1},
		{segment: 30, days: 1},
	}
	for name, tt := range map[string]struct {
		backups []retained
		policy  gc.Policy
		kept    []int
		own     []int // of those, with just their own WAL
	}{
		"retain fewer": {nightly(5), gc.Policy{Retain: 2}, []int{3, 4}, nil},
		"retain all":   {nightly(5), gc.Policy{Retain: 5}, []int{0, 1, 2, 3, 4}, nil},
		"retain more":  {nightly(5), gc.Policy{Retain: 9}, []int{0, 1, 2, 3, 4}, nil},
		"retain none":  {nil, gc.Policy{Retain: 1}, []int{}, nil},
		"retain counts names, and keeps of each the newest and the newest good": {sameName, gc.Policy{Retain: 2}, []int{2, 3, 4}, nil},
		"retain by LSN where a clock was slow": {
			[]retained{{segment: 10, days: 3}, {segment: 20, days: 400}, {segment: 30, days: 2}}, gc.Policy{Retain: 2}, []int{1, 2}, nil,
		},
		"retain by the store's time where a clock is fast": {
			[]retained{{segment: 10, days: -4000, stored: 3}, {timeline: 2, segment: 5, days: 2}, {timeline: 2, segment: 8, days: 1}},
			gc.Policy{Retain: 2}, []int{1, 2}, nil,
		},
		"retain on a timeline that went back": {rewound, gc.Policy{Retain: 2}, []int{3, 4}, nil},
		"retain only damaged and the newest good": {
			[]retained{{segment: 1, days: 5}, {segment: 2, days: 4}, {segment: 3, days: 3, failures: 1}, {segment: 4, days: 2, failures: 7}},
			gc.Policy{Retain: 1}, []int{1, 3}, nil,
		},
		"retain with all damaged": {
			[]retained{{segment: 1, days: 5, failures: 1}, {segment: 2, days: 4, failures: 1}}, gc.Policy{Retain: 1}, []int{1}, nil,
		},
		"retain after an upgrade, too few yet":   {upgraded, gc.Policy{Retain: 4}, []int{0, 1, 2, 3, 4, 5}, nil},
		"retain after an upgrade, as many again": {upgraded, gc.Policy{Retain: 3}, []int{3, 4, 5}, nil},

		"retain after an upgrade, but only damaged": {
			[]retained{{segment: 900, days: 9}, {system: newSystem, segment: 3, days: 2, failures: 1}, {system: newSystem, segment: 9, days: 1}},
			gc.Policy{Retain: 2}, []int{0, 1, 2}, nil,
		},

		"retain for":                  {nightly(6), gc.Policy{RetainFor: 2 * day}, []int{3, 4, 5}, nil},
		"retain for longer than all":  {nightly(3), gc.Policy{RetainFor: 30 * day}, []int{0, 1, 2}, nil},
		"retain for, all older":       {[]retained{{segment: 1, days: 50}, {segment: 2, days: 40}}, gc.Policy{RetainFor: 14 * day}, []int{1}, nil},
		"retain for, the last before": {[]retained{{segment: 1, days: 50}, {segment: 2, days: 40}, {segment: 3, days: 1}}, gc.Policy{RetainFor: 14 * day}, []int{1, 2}, nil},
		"retain for, the last good before": {
			[]retained{{segment: 1, days: 50}, {segment: 2, days: 40, failures: 1}, {segment: 3, days: 1}}, gc.Policy{RetainFor: 14 * day}, []int{0, 1, 2}, nil,
		},
		"retain for, all damaged": {
			[]retained{{segment: 1, days: 50, failures: 1}, {segment: 2, days: 40, failures: 1}, {segment: 3, days: 1, failures: 1}},
			gc.Policy{RetainFor: 14 * day}, []int{1, 2}, nil,
		},
		"retain for, stored lately": {[]retained{{segment: 1, days: 50, stored: 3}, {segment: 2, days: 1}}, gc.Policy{RetainFor: 14 * day}, []int{0, 1}, nil},
		"retain for after an upgrade": {
			[]retained{{segment: 900, days: 30}, {segment: 910, days: 29}, {system: newSystem, segment: 3, days: 20}, {system: newSystem, segment: 9, days: 1}},
			gc.Policy{RetainFor: 14 * day}, []int{2, 3}, nil,
		},
		"retain for within reach of an upgrade": {
			[]retained{{segment: 900, days: 30}, {segment: 910, days: 13}, {system: newSystem, segment: 3, days: 12}, {system: newSystem, segment: 9, days: 1}},
			gc.Policy{RetainFor: 14 * day}, []int{0, 1, 2, 3}, nil,
		},

		"daily": {
			[]retained{{segment: 1, days: 2.4}, {segment: 2, days: 2.1}, {segment: 3, days: 1.4}, {segment: 4, days: 1.1}, {segment: 5, days: 0.4}, {segment: 6, days: 0.1}},
			gc.Policy{Daily: 2}, []int{3, 5}, nil,
		},
		"daily over a gap": {
			[]retained{{segment: 1, days: 30}, {segment: 2, days: 20}, {segment: 3, days: 10}}, gc.Policy{Daily: 2}, []int{1, 2}, nil,
		},
		"daily prefers good": {
			[]retained{{segment: 1, days: 1.2}, {segment: 2, days: 1.1, failures: 1}, {segment: 3, days: 0.1}}, gc.Policy{Daily: 2}, []int{0, 2}, nil,
		},
		// 31 March 2027 is a Wednesday.
		"weekly":  {nightly(16), gc.Policy{Weekly: 3}, []int{5, 12, 15}, nil},
		"monthly": {nightly(40), gc.Policy{Monthly: 2}, []int{8, 39}, nil},
		"thinning with a window": {
			nightly(16), gc.Policy{Weekly: 3, PITR: 2 * day}, []int{5, 12, 13, 14, 15}, []int{5, 12},
		},
		"window alone": {nightly(6), gc.Policy{PITR: 2 * day}, []int{3, 4, 5}, nil},
		"retain with a shorter window": {
			nightly(6), gc.Policy{Retain: 5, PITR: day}, []int{1, 2, 3, 4, 5}, []int{1, 2, 3},
		},

		"before a backup":                                  {nightly(5), gc.Policy{Before: position(t, nightly(5)[2].backup().Ref.Name)}, []int{2, 3, 4}, nil},
		"before one run of a backup":                       {sameName, gc.Policy{Before: position(t, sameName[2].backup().Ref.String())}, []int{1, 2, 3, 4}, nil},
		"before a segment":                                 {nightly(5), gc.Policy{Before: position(t, "0000000100000003000000D5")}, []int{3, 4}, nil}, // 981
		"before a backup that's gone":                      {nightly(5), gc.Policy{Before: position(t, "base_0000000100000003000000D5_00000040")}, []int{3, 4}, nil},
		"before one in its segment":                        {nightly(5), gc.Policy{Before: position(t, "base_0000000100000003000000DE_00004711")}, []int{3, 4}, nil}, // 990
		"before what is to come":                           {nightly(5), gc.Policy{Before: position(t, "000000010000001000000000")}, []int{4}, nil},
		"before all":                                       {nightly(5), gc.Policy{Before: position(t, "000000010000000000000001")}, []int{0, 1, 2, 3, 4}, nil},
		"before nothing":                                   {nil, gc.Policy{Before: position(t, "000000010000000000000001")}, []int{}, nil},
		"before a new timeline's":                          {failover, gc.Policy{Before: position(t, failover[4].backup().Ref.Name)}, []int{4, 5}, nil},
		"before a new timeline's end":                      {failover, gc.Policy{Before: position(t, "000000020000000000000026")}, []int{3, 4, 5}, nil}, // 38
		"before an old timeline's":                         {rewound, gc.Policy{Before: position(t, rewound[2].backup().Ref.Name)}, []int{2, 3, 4}, nil},
		"before an old place":                              {rewound, gc.Policy{Before: position(t, "000000010000000000000028")}, []int{2, 3, 4}, nil}, // 40
		"before a place rewound to":                        {rewound, gc.Policy{Before: position(t, "00000002000000000000001E")}, []int{1, 2, 4}, nil}, // 30
		"before an unknown timeline":                       {failover, gc.Policy{Before: position(t, "000000030000000100000000")}, []int{0, 1, 2, 3, 4, 5}, nil},
		"before one of the old system deletes nothing new": {upgraded, gc.Policy{Before: position(t, upgraded[2].backup().Ref.Name)}, []int{2, 3, 4, 5}, nil},
		"before one of the new system":                     {upgraded, gc.Policy{Before: position(t, upgraded[4].backup().Ref.Name)}, []int{4, 5}, nil},

		"floor": {nightly(10), gc.Policy{Retain: 1, KeepWithin: 3 * day}, []int{6, 7, 8, 9}, nil},
		"floor by the store's time": {
			[]retained{{segment: 1, days: 9000, stored: 2}, {segment: 2, days: 8000, stored: 1}, {segment: 3, days: 0.1}},
			gc.Policy{Retain: 1, KeepWithin: 7 * day}, []int{0, 1, 2}, nil,
		},
		"floor against many pushes": {
			append(nightly(2), retained{segment: 2001, days: 0.1}, retained{segment: 2002, days: 0.1}, retained{segment: 2003, days: 0.1}),
			gc.Policy{Retain: 2, KeepWithin: 7 * day}, []int{0, 1, 2, 3, 4}, nil,
		},
		"floor against a lie about the past": { // the one before the floor is still needed
			[]retained{{segment: 1, days: 9}, {segment: 2, days: 8, stored: 0.1}}, gc.Policy{Retain: 1, KeepWithin: 7 * day}, []int{0, 1}, nil,
		},
		"floor that reaches the old system": {
			[]retained{{segment: 900, days: 9}, {segment: 910, days: 5}, {system: newSystem, segment: 3, days: 3}},
			gc.Policy{Before: position(t, retained{segment: 3}.backup().Ref.Name), KeepWithin: 7 * day}, []int{0, 1, 2}, nil,
		},
		"everything":                {nightly(3), gc.Policy{Everything: true}, []int{}, nil},
		"everything older than all": {nightly(3), gc.Policy{Everything: true, KeepWithin: time.Hour}, []int{}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := catalogOf(tt.backups...)
			p, err := gc.Decide(tt.policy, c, today())
			if err != nil {
				t.Fatal(err)
			}
			if got := keptOf(c, p); !slices.Equal(got, tt.kept) {
				t.Errorf("kept %v, want %v", got, tt.kept)
			}
			if got := ownWALOf(c, p); !slices.Equal(got, tt.own) {
				t.Errorf("kept with their own WAL %v, want %v", got, tt.own)
			}
			checkPlan(t, tt.policy, c, p)
		})
	}
}

// A cluster that still archives has not ended, however many backups another
// one takes.
func TestDecideTwoSystems(t *testing.T) {
	t.Parallel()
	list := append(nightly(10), retained{system: newSystem, segment: 77, days: 20}, retained{system: newSystem, segment: 99, days: 19})
	for name, tt := range map[string]struct {
		change func(*gc.Catalog)
		kept   []int
	}{
		"ended":     {func(*gc.Catalog) {}, []int{7, 8, 9}},
		"archives":  {func(c *gc.Catalog) { c.Archived[newSystem] = today() }, []int{7, 8, 9, 10, 11}},
		"pushes":    {func(c *gc.Catalog) { c.Open = []gc.OpenPush{{System: newSystem}} }, []int{7, 8, 9, 10, 11}},
		"not known": {func(c *gc.Catalog) { c.Archived = nil }, []int{7, 8, 9, 10, 11}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := catalogOf(list...)
			tt.change(c)
			p, err := gc.Decide(gc.Policy{Retain: 3}, c, today())
			if err != nil {
				t.Fatal(err)
			}
			if got := keptOf(c, p); !slices.Equal(got, tt.kept) {
				t.Errorf("kept %v, want %v", got, tt.kept)
			}
			if ended := p.Horizons[1].Ended; ended != (len(tt.kept) == 3) {
				t.Errorf("horizon of the other system is %+v", p.Horizons[1])
			}
		})
	}
}

func TestDecideKeepMarks(t *testing.T) {
	t.Parallel()
	c := catalogOf(nightly(5)...)
	c.Keeps[c.Backups[0].Ref] = gc.Keep{}
	c.Keeps[c.Backups[1].Ref] = gc.Keep{Until: today().Add(time.Hour)}
	c.Keeps[c.Backups[2].Ref] = gc.Keep{Until: today()}
	c.Keeps[c.Backups[4].Ref] = gc.Keep{}
	p, err := gc.Decide(gc.Policy{Retain: 1}, c, today())
	if err != nil {
		t.Fatal(err)
	}
	if got, want := keptOf(c, p), []int{0, 1, 4}; !slices.Equal(got, want) {
		t.Errorf("kept %v, want %v", got, want)
	}
	if got, want := ownWALOf(c, p), []int{0, 1}; !slices.Equal(got, want) {
		t.Errorf("kept with their own WAL %v, want %v", got, want)
	}
	h := p.Horizons[0]
	for no, want := range map[uint64]bool{959: false, 960: true, 961: true, 962: true, 963: false, 970: true, 972: true, 973: false, 999: false, 1000: true, 5000: true} {
		if got := h.Needs(no, postgres.DefaultSegmentSize); got != want {
			t.Errorf("Needs(%d) = %t, want %t", no, got, want)
		}
	}

	_, err = gc.Decide(gc.Policy{Everything: true}, c, today())
	if err == nil || !strings.Contains(err.Error(), c.Backups[0].Ref.String()) || !strings.Contains(err.Error(), "--release") {
		t.Errorf("Decide(everything) with marks = %v", err)
	}
}

func TestDecideOpenPushes(t *testing.T) {
	t.Parallel()
	c := catalogOf(nightly(3)...)
	c.Open = []gc.OpenPush{{System: oldSystem, Start: c.Backups[0].Start - 1<<30}, {System: newSystem, Start: 4711}}
	p, err := gc.Decide(gc.Policy{Retain: 1}, c, today())
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Horizons) != 2 || p.Horizons[0].From != c.Open[0].Start || p.Horizons[1].From != 4711 {
		t.Errorf("horizons = %+v", p.Horizons)
	}
	if got := keptOf(c, p); !slices.Equal(got, []int{2}) {
		t.Errorf("kept %v: an open push counted", got)
	}
}

// The import of a classic backup doesn't push it out.
func TestDecideClassic(t *testing.T) {
	t.Parallel()
	c := catalogOf(retained{segment: 1, days: 3}, retained{segment: 2, days: 2}, retained{segment: 2, days: 2, stored: 0.1, run: 1})
	c.Backups[1].Taken = c.Backups[1].Taken.Add(time.Hour) // as far as the classic layout can tell
	c.Backups[1].Stored = c.Backups[1].Taken
	for i := range 2 {
		c.Backups[i].Classic, c.Backups[i].Ref.Run = true, runid.ID{}
	}
	p, err := gc.Decide(gc.Policy{Retain: 1}, c, today())
	if err != nil {
		t.Fatal(err)
	}
	if got := keptOf(c, p); !slices.Equal(got, []int{1, 2}) {
		t.Errorf("kept %v", got)
	}
	if d := p.Deleted(); len(d) != 1 || d[0].Ref != c.Backups[0].Ref || p.Victims() != nil {
		t.Errorf("Deleted() = %v, Victims() = %v", d, p.Victims())
	}
	p, err = gc.Decide(gc.Policy{Monthly: 1}, c, today())
	if err != nil {
		t.Fatal(err)
	}
	if got := keptOf(c, p); !slices.Equal(got, []int{2}) {
		t.Errorf("of the month: kept %v, want ours", got)
	}
	p, err = gc.Decide(gc.Policy{Before: position(t, c.Backups[1].Ref.Name)}, c, today())
	if err != nil {
		t.Fatal(err)
	}
	if got := keptOf(c, p); !slices.Equal(got, []int{1, 2}) {
		t.Errorf("before: kept %v", got)
	}
}

func TestDecideErrors(t *testing.T) {
	t.Parallel()
	two := append(nightly(2), retained{system: newSystem, segment: 3, days: 0.1})
	for name, tt := range map[string]struct {
		backups []retained
		policy  gc.Policy
		want    string
	}{
		"no rule":                {nightly(1), gc.Policy{}, "no rule"},
		"only a floor":           {nightly(1), gc.Policy{KeepWithin: day}, "no rule"},
		"negative":               {nightly(1), gc.Policy{Retain: -1}, "retain -1"},
		"negative period":        {nightly(1), gc.Policy{Retain: 1, PITR: -day}, "--pitr"},
		"before and retain":      {nightly(1), gc.Policy{Before: position(t, "000000010000000000000001"), Retain: 1}, "before goes with"},
		"everything and daily":   {nightly(1), gc.Policy{Everything: true, Daily: 1}, "everything goes with"},
		"everything and floor":   {nightly(1), gc.Policy{Everything: true, KeepWithin: day}, "protected by --keep-within 1d"},
		"place of which system?": {two, gc.Policy{Before: position(t, "000000010000000000000001")}, "2 systems"},
		"run that isn't there":   {nightly(1), gc.Policy{Before: position(t, retained{segment: 4, run: 9}.backup().Ref.String())}, "is not a backup"},
		"segment that can't be":  {nightly(1), gc.Policy{Before: position(t, "000000010000000000000100")}, "not a segment name"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := gc.Decide(tt.policy, catalogOf(tt.backups...), today()); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Decide = %v, want an error with %q", err, tt.want)
			}
		})
	}
}

func TestPlanJSON(t *testing.T) {
	t.Parallel()
	c := catalogOf(nightly(2)...)
	c.Keeps[c.Backups[0].Ref] = gc.Keep{}
	p, err := gc.Decide(gc.Policy{Retain: 1}, c, today())
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"start_lsn":"3/DE000028"`, `"rule":"mark"`, `"own_wal_only":true`, `"from_lsn":"3/E8000028"`, `"ranges":[{`, `"keep":true`} {
		if !strings.Contains(string(data), want) {
			t.Errorf("plan has no %s:\n%s", want, data)
		}
	}
}

// A collection removes what the plan doesn't need, and nothing else.
func TestPlanIsCarriedOut(t *testing.T) {
	t.Parallel()
	b := mem.New(today)
	list := nightly(4)
	for _, r := range list {
		createRun(t, b, r.backup(), chunkstore.Commit)
	}
	size := postgres.DefaultSegmentSize
	key := func(no uint64) string {
		return "wal_006/" + oldSystem + "/" + postgres.Segment{Timeline: 1, No: no}.Name(size)
	}
	for no := uint64(960); no < 1010; no++ {
		if err := storage.CreateBytes(t.Context(), b, key(no), []byte("WAL"), nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := (gc.Marker{Bucket: b, Now: today}).Keep(t.Context(), list[0].backup().Ref, time.Time{}); err != nil {
		t.Fatal(err)
	}
	c, err := gc.ReadCatalog(t.Context(), b, 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	p, err := gc.Decide(gc.Policy{Retain: 2}, c, today())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := gc.Delete(t.Context(), gc.Config{Bucket: b, Ranges: p.Ranges()}, p.Victims()); err != nil {
		t.Fatal(err)
	}
	for no := uint64(960); no < 1010; no++ {
		_, err := b.Stat(t.Context(), key(no))
		if want := p.Horizons[0].Needs(no, size); (err == nil) != want {
			t.Errorf("segment %d: %v, needed: %t", no, err, want)
		}
	}
	after, err := gc.ReadCatalog(t.Context(), b, 0, nil)
	if err != nil || len(after.Backups) != 3 || len(after.Keeps) != 1 {
		t.Errorf("catalog = %+v, %v", after, err)
	}
}
