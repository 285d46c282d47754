package gc_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"wal-e/chunkstore"
	"wal-e/gc"
	"wal-e/index"
	"wal-e/internal/postgres"
	"wal-e/internal/simstore"
	"wal-e/internal/storage"
)

// lag is how late listings are at most in the weak mode.
const lag = 300 * time.Millisecond

// contextForOracle is for what is no process.
func contextForOracle() context.Context { return context.Background() }

// begin begins a process of a kind.
func (s *sim) begin(kind string) {
	r := s.w.Rand()
	s.spawned++
	s.kinds[kind]++
	number, chance := s.spawned, r.Uint64()
	// Clocks are anywhere, and no two processes name anything in one millisecond.
	skew := time.Duration(r.IntN(5)-2)*time.Hour*time.Duration(r.IntN(2)*r.IntN(40)) + time.Duration(number%16)*time.Millisecond
	now := func() time.Time { return time.Now().Add(skew) }
	name := fmt.Sprintf("%s-%d", kind, number)
	what, place := kind, s.place
	if cut, ok := strings.CutSuffix(kind, "@copy"); ok {
		what, place = cut, s.copy
	}
	switch what {
	case "push":
		s.beginPush(place, name, chance, now)
	case "delete", "dry", "collect":
		s.w.Go(name, func(ctx context.Context, c *simstore.Client) { s.collect(ctx, c, place, what, chance, now) })
	case "undelete":
		s.w.Go(name, func(ctx context.Context, c *simstore.Client) { s.undelete(ctx, c, place, chance, now) })
	case "archive":
		s.w.Go(name, func(ctx context.Context, c *simstore.Client) { s.archiveAgain(ctx, c, chance) })
	case "read":
		s.w.Go(name, func(ctx context.Context, c *simstore.Client) { s.read(ctx, c, place, chance) })
	case "copy":
		s.beginCopy(name, chance, now)
	case "repair":
		s.w.Go(name, func(ctx context.Context, c *simstore.Client) { s.repair(ctx, c, place, chance, now) })
	}
}

// beginPush begins a push on a host where none runs. One that died there is
// ended first, as backup-push does.
func (s *sim) beginPush(place *place, name string, chance uint64, now func() time.Time) {
	h := place.hosts[int(chance%uint64(len(place.hosts)))]
	if h.push != nil && !h.push.Done() {
		return
	}
	start := s.lsn
	standby := ((chance>>8)%6 == 0 || s.sc.sleepy && (chance>>8)%6 < 3) && !s.settling && !s.sc.primaries
	if standby { // its last restartpoint is old
		start -= min(start-1, (chance>>16)%6)
	}
	p := &push{s: s, h: h, now: now, versions: s.versions, start: start, standby: standby, step: 1 + int(chance>>24%3), client: s.sc.client}
	h.push = s.w.Go(name, p.run)
}

// A push is one under way.
type push struct {
	s        *sim
	h        *host
	now      func() time.Time
	versions [extents]int
	start    uint64 // segment
	standby  bool   // archives nothing
	step     int    // extents between flushes
	client   mutation
}

func (p *push) lsn(n uint64) string { return postgres.LSN(n * uint64(segmentSize)).String() }

func (p *push) run(ctx context.Context, c *simstore.Client) {
	b := p.client.wrap(p.h.place.in(c))
	if p.s.sc.lenient {
		b = withoutW4a(b)
	}
	if err := fencePredecessors(ctx, b, p.h.name); err != nil {
		return
	}
	seg := postgres.SegmentAt(1, postgres.LSN(p.start*uint64(segmentSize)), segmentSize)
	name := fmt.Sprintf("base_%s_%08d", seg.Name(segmentSize), 40)
	run, err := p.h.place.store.On(b).Begin(ctx, chunkstore.PushConfig{
		Name: name, Table: p.h.table, Now: p.now, PackSize: 16 << 10,
		Intent: chunkstore.Intent{Host: p.h.name, HostID: p.h.name, System: system, Start: p.lsn(p.start)},
	})
	if err != nil {
		return
	}
	err = p.copy(ctx, b, run, name)
	if err != nil {
		_ = run.Abort(ctx, err.Error()) // the run stays open when that fails, as ever
		return
	}
	p.s.pushed.Add(1)
	p.h.place.reported(c, run.Ref())
}

// copy does what backup-push does between the begin and the commit.
func (p *push) copy(ctx context.Context, b storage.Bucket, run *chunkstore.Push, name string) error {
	m := manifest{Name: name, Timeline: 1, Start: p.lsn(p.start), Stop: p.lsn(p.start + 2), Size: int64(segmentSize), Versions: p.versions}
	for round := 0; ; round++ {
		if err := p.write(ctx, run, &m); err != nil {
			return err
		}
		bad, err := run.Unusable(ctx)
		if err != nil {
			return err
		}
		if len(bad) == 0 {
			break
		}
		if round == 2 {
			return errors.New("packs vanish again and again")
		}
		run.Ban(bad)
	}
	if err := p.archive(ctx, b); err != nil {
		return err
	}
	p.s.committing.Add(1)
	defer p.s.committing.Add(-1)
	return run.Commit(ctx, m)
}

func (p *push) write(ctx context.Context, run *chunkstore.Push, m *manifest) error {
	w, err := run.NewWriter()
	if err != nil {
		return err
	}
	m.Lists = nil
	for i, v := range p.versions {
		l, err := p.extent(w, i, v)
		if err != nil {
			return err
		}
		m.Lists = append(m.Lists, []chunkstore.List{l})
		if i%p.step == p.step-1 {
			if err := run.Flush(ctx); err != nil {
				return err
			}
		}
	}
	return run.Flush(ctx)
}

// extent gives an extent to a writer: one that is as the host's last push saw it
// often goes unread, others are compared with what it saw.
func (p *push) extent(w *chunkstore.Writer, i, version int) (chunkstore.List, error) {
	if p.h == nil {
		return w.Extent(page(i, version))
	}
	before := &p.h.known[i]
	if before.version == version && before.known.List != nil && (i+int(p.start))%3 > 0 {
		if _, ok := w.ReferList(before.known.List, false); ok {
			return before.known.List, nil
		}
	}
	k, err := w.ExtentAfter(page(i, version), before.known)
	if err == nil {
		*before = seen{version, k}
	}
	return k.List, err
}

// archive is the archiver's part, and then the push's: every segment is there.
func (p *push) archive(ctx context.Context, b storage.Bucket) error {
	for n := p.start; n < p.start+2 && !p.standby; n++ {
		key := "wal_006/" + system + "/" + postgres.Segment{Timeline: 1, No: n}.Name(segmentSize)
		if err := storage.CreateBytes(ctx, b, key, []byte("wal"), nil); err != nil && !errors.Is(err, storage.ErrExist) {
			return err
		}
	}
	for n := p.start; n < p.start+2; n++ {
		if _, err := b.Stat(ctx, "wal_006/"+system+"/"+postgres.Segment{Timeline: 1, No: n}.Name(segmentSize)); err != nil {
			return err
		}
	}
	return nil
}

// archiveAgain stores segments once more that the cluster archived before, as an
// archiver does after a crash: names of WAL files, unlike those of packs, come
// again.
func (s *sim) archiveAgain(ctx context.Context, c *simstore.Client, chance uint64) {
	last := s.lsn
	for n := last - min(last-1, 1+chance%7); n < last; n++ {
		key := "wal_006/" + system + "/" + postgres.Segment{Timeline: 1, No: n}.Name(segmentSize)
		if err := storage.CreateBytes(ctx, c, key, []byte("wal"), nil); err != nil && !errors.Is(err, storage.ErrExist) {
			return
		}
	}
}

func fencePredecessors(ctx context.Context, b storage.Bucket, host string) error {
	runs, err := chunkstore.Runs(ctx, b)
	if err != nil {
		return err
	}
	for _, r := range runs {
		if !r.Open() {
			continue
		}
		i, err := chunkstore.ReadIntent(ctx, b, r.Ref)
		if errors.Is(err, storage.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if i.HostID == host {
			if _, err := chunkstore.Fence(ctx, b, r.Ref, host, "died"); err != nil {
				return err
			}
		}
	}
	return nil
}

// reported is called when a push told its user that the backup exists.
func (p *place) reported(c *simstore.Client, ref chunkstore.Ref) {
	if p.backups()[ref] != nil {
		return
	}
	if p.deletedOnce(ref) {
		return
	}
	p.s.fail("%s reported success, and backup %s isn't valid", c.Name(), ref)
}

// deletedOnce tells whether a user deleted the backup at any time.
func (p *place) deletedOnce(ref chunkstore.Ref) bool {
	return p.s.w.Existed(p.dir + ref.TombstoneKey())
}

// collect runs a delete, a collection or a dry run.
func (s *sim) collect(ctx context.Context, c *simstore.Client, place *place, kind string, chance uint64, now func() time.Time) {
	cfg := gc.Config{
		Bucket: place.in(c), Host: c.Name(), Now: now, Requests: 1 + int(chance%4), DryRun: kind == "dry",
		AbortRunning: chance>>4%8 == 0, Wait: chance>>8%4 == 0, Poll: time.Hour,
	}
	if chance>>12%6 == 0 {
		cfg.Grace = day
	}
	if chance>>16%3 == 0 {
		cfg.FenceAfter = time.Hour
	}
	if s.sc.weak {
		cfg.Settle = lag
	}
	cfg.Skip(s.sc.skip)
	if chance>>40%5 == 0 { // some backups are kept beyond the window, with just their own WAL
		for ref := range place.backups() {
			if (chance>>44+uint64(ref.Run[5]))%2 == 0 {
				cfg.Ranges = append(cfg.Ranges, ref)
			}
		}
	}
	var refs []chunkstore.Ref
	if kind == "delete" || kind == "dry" && chance>>20%2 == 0 {
		runs, err := chunkstore.Runs(ctx, cfg.Bucket)
		if err != nil {
			return
		}
		runs = slices.DeleteFunc(runs, func(r chunkstore.Run) bool { return !r.Ended() })
		if place == s.copy && chance>>52%8 > 0 && len(runs) > 0 {
			// What the newest backup shares with later ones can't be copied again.
			newest := slices.MaxFunc(runs, func(a, b chunkstore.Run) int { return chunkstore.CompareRefs(a.Ref, b.Ref) })
			runs = slices.DeleteFunc(runs, func(r chunkstore.Run) bool { return r.Ref == newest.Ref })
		}
		if len(runs) == 0 {
			return
		}
		refs = append(refs, runs[int(chance>>24)%len(runs)].Ref)
		if chance>>32%3 == 0 { // all but the newest
			refs = nil
			for _, r := range runs[:len(runs)-1] {
				refs = append(refs, r.Ref)
			}
		}
		if chance>>36%8 == 0 {
			refs = append(refs, runs[len(runs)-1].Ref)
		}
		if chance>>48%24 == 0 { // delete everything
			cfg.Everything, cfg.Ranges = true, nil
			for _, r := range runs {
				refs = append(refs, r.Ref)
			}
		}
	}
	if len(refs) == 0 {
		_, _ = gc.Collect(ctx, cfg) // what it left to do, another does
		return
	}
	slices.SortFunc(refs, chunkstore.CompareRefs)
	refs = slices.Compact(refs)
	if _, err := gc.Delete(ctx, cfg, refs); err != nil || cfg.DryRun {
		return
	}
	for _, ref := range refs {
		if place.backups()[ref] != nil {
			s.fail("%s reported success, and backup %s is still there", c.Name(), ref)
		}
	}
}

func (s *sim) undelete(ctx context.Context, c *simstore.Client, place *place, chance uint64, now func() time.Time) {
	runs, err := chunkstore.Runs(ctx, place.in(c))
	if err != nil {
		return
	}
	runs = slices.DeleteFunc(runs, func(r chunkstore.Run) bool { return r.Deleted == nil || r.Outcome == nil })
	if len(runs) == 0 {
		return
	}
	s.committing.Add(1)
	defer s.committing.Add(-1)
	ref, err := gc.Undelete(ctx, gc.Undeletion{Bucket: s.sc.client.wrap(place.in(c)), Host: c.Name(), Now: now}, runs[int(chance>>8)%len(runs)].Ref)
	if err == nil {
		s.undeleted.Add(1)
		place.reported(c, ref)
	}
}

// read restores a backup beside all that happens.
func (s *sim) read(ctx context.Context, c *simstore.Client, place *place, chance uint64) {
	b, began := place.in(c), s.w.Steps
	runs, err := chunkstore.Runs(ctx, b)
	if err != nil {
		return
	}
	runs = slices.DeleteFunc(runs, func(r chunkstore.Run) bool { return !r.Ended() })
	if len(runs) == 0 {
		return
	}
	ref := runs[int(chance>>8)%len(runs)].Ref
	o, err := chunkstore.ReadOutcome(ctx, b, ref)
	if err != nil || o.Result != chunkstore.Commit {
		return
	}
	table, err := s.openTable(c.Name())
	if err != nil {
		return
	}
	defer table.Close()
	err = readBackup(ctx, place.store.On(b), o, table)
	if err == nil || errors.Is(err, simstore.ErrLost) || errors.Is(err, simstore.ErrDead) || place.deletedOnce(ref) || place.spoilt(o, began) {
		return
	}
	s.fail("%s can't restore backup %s: %v", c.Name(), ref, err)
}

// readBackup reads a backup and compares it with what was pushed.
func readBackup(ctx context.Context, store *chunkstore.Store, o *chunkstore.Outcome, table *index.Table) error {
	var m manifest
	if err := json.Unmarshal(o.Manifest, &m); err != nil {
		return err
	}
	r, err := store.NewReader(ctx, &o.Footprint, table)
	if err != nil {
		return err
	}
	got := make([]byte, extentBytes)
	for i, lists := range m.Lists {
		if err := r.Extent(ctx, lists[0], got); err != nil {
			return err
		}
		if !bytes.Equal(got, page(i, m.Versions[i])) {
			return fmt.Errorf("extent %d has other bytes", i)
		}
	}
	return nil
}
