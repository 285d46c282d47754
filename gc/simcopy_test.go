package gc_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing/synctest"
	"time"

	"wal-e/chunkstore"
	"wal-e/index"
	"wal-e/internal/simstore"
	"wal-e/internal/storage"
)

// beginCopy begins a copy on a host where none runs.
func (s *sim) beginCopy(name string, chance uint64, now func() time.Time) {
	i := int(chance % uint64(len(s.copiers)))
	if s.copiers[i] != nil && !s.copiers[i].Done() {
		return
	}
	s.copiers[i] = s.w.Go(name, func(ctx context.Context, c *simstore.Client) {
		_, _ = s.copyBackups(ctx, c, fmt.Sprint("copier", i), chance, now) // another one goes on
	})
}

// copyBackups does what `wal-e copy` does: it ends what died on this host, and copies
// what isn't there, oldest first. refused says that the last one can't be copied
// any more, for what it needs was condemned at the destination.
func (s *sim) copyBackups(ctx context.Context, c *simstore.Client, host string, chance uint64, now func() time.Time) (refused bool, err error) {
	from, to := s.in(c), s.sc.copier.wrap(s.copy.in(c))
	if err := chunkstore.PrepareCopy(ctx, from, to, now()); err != nil {
		return false, err
	}
	if err := chunkstore.FenceCopies(ctx, to, host, host); err != nil {
		return false, err
	}
	runs, err := chunkstore.Runs(ctx, from)
	if err != nil {
		return false, err
	}
	present, err := chunkstore.CopiedRuns(ctx, to)
	if err != nil {
		return false, err
	}
	slices.SortFunc(runs, func(a, b chunkstore.Run) int { return chunkstore.CompareRefs(a.Ref, b.Ref) })
	runs = slices.DeleteFunc(runs, func(r chunkstore.Run) bool { return !r.Ended() })
	if chance>>8%4 == 0 { // --last 1
		runs = runs[max(0, len(runs)-1):]
	}
	for _, r := range runs {
		o, err := chunkstore.ReadOutcome(ctx, from, r.Ref)
		if errors.Is(err, storage.ErrNotExist) {
			continue
		}
		if err != nil {
			return false, err
		}
		if _, there := present[o.Origin(r.Ref)]; there || o.Result != chunkstore.Commit {
			continue
		}
		var committing int64
		copied, err := chunkstore.Copy(ctx, chunkstore.CopyConfig{
			From: from, To: to, Host: host, HostID: host, Packs: 1 + int(chance>>16%3), Now: now,
			WAL: func(ctx context.Context, o *chunkstore.Outcome) error {
				err := copyWAL(ctx, from, to, walKeys(o))
				if err == nil { // it looks at its packs for the last time
					committing = 1
					s.committing.Add(committing)
				}
				return err
			},
		}, r.Ref)
		s.committing.Add(-committing)
		refused = errors.Is(err, chunkstore.ErrCondemned)
		switch {
		case err == nil:
			s.copied.Add(1)
			s.copy.reported(c, copied.Ref)
		case refused, errors.Is(err, chunkstore.ErrVanished):
		default:
			return false, err
		}
	}
	return refused, nil
}

func copyWAL(ctx context.Context, from, to storage.Bucket, keys []string) error {
	for _, key := range keys {
		if _, err := to.Stat(ctx, key); err == nil {
			continue
		} else if !errors.Is(err, storage.ErrNotExist) {
			return err
		}
		data, err := storage.ReadAll(ctx, from, key, 1<<20)
		if err != nil {
			return err
		}
		if err := storage.CreateBytes(ctx, to, key, data, nil); err != nil && !errors.Is(err, storage.ErrExist) {
			return err
		}
	}
	return nil
}

// copyCalmly mends both prefixes and copies all, without faults.
func (s *sim) copyCalmly() (refused bool, err error) {
	if s.sc.decay {
		for range 2 {
			for i := range s.places() {
				s.begin([]string{"repair", "repair@copy"}[i])
			}
			if err := s.w.Finish(20000); err != nil {
				return false, err
			}
		}
		s.begin("push") // it refers to nothing that rots
		if err := s.w.Finish(20000); err != nil {
			return false, err
		}
	}
	if s.copy == nil {
		return false, nil
	}
	s.w.Go("copy-last", func(ctx context.Context, c *simstore.Client) {
		refused, err = s.copyBackups(ctx, c, "copier0", 1, time.Now)
	})
	if ferr := s.w.Finish(20000); ferr != nil {
		return false, ferr
	}
	if errors.Is(err, chunkstore.ErrDamaged) || errors.Is(err, chunkstore.ErrVanished) {
		return true, nil // a pack that rotted in both prefixes
	}
	return refused, err
}

// A decay is a pack or index object that was lost or got other bytes.
type decay struct {
	data  []byte // as it was
	lost  int    // step at which it vanished; 0: it didn't
	until int    // step at which it was whole again; forever: it isn't
	// avoided is the step at which a repair said that no new backup refers to it; 0:
	// none did. Under sim.mu.
	avoided int
}

const forever = math.MaxInt

// rot loses or damages something that a backup needs. The other prefix mostly has
// it still.
func (s *sim) rot() {
	synctest.Wait()
	r := s.w.Rand()
	places := s.places()
	p := places[r.IntN(len(places))]
	bad := 0
	for key, d := range s.decayed {
		if d.until == forever && strings.Contains(key, "chunks_006/packs/") {
			bad++
		}
	}
	if bad > 2 {
		return
	}
	need := p.neededPacks()
	var keys []string
	indexes, elsewhere := r.IntN(4) == 0, s.other(p) != nil && r.IntN(4) > 0
	for _, key := range p.keys() {
		switch {
		case indexes && strings.HasPrefix(key, "chunks_006/index/"),
			!indexes && need[key] && (!elsewhere || s.w.Stored(s.other(p).dir+key)):
			keys = append(keys, key)
		}
	}
	if len(keys) == 0 {
		return
	}
	key := p.dir + keys[r.IntN(len(keys))]
	data, err := storage.ReadAll(contextForOracle(), s.w.Direct(), key, 1<<20)
	if err != nil {
		s.fail("oracle: %v", err)
		return
	}
	d := &decay{data: data, until: forever}
	if old := s.decayed[key]; old != nil {
		d.data = old.data
	}
	s.decayed[key] = d
	if r.IntN(2) == 0 {
		d.lost = s.w.Steps
		s.w.Remove(key)
		return
	}
	const header, footer = 16, 24 // where some bytes mean nothing
	other := bytes.Clone(data)
	at := min(header, len(data)-1)
	if len(data) > header+footer {
		at += r.IntN(len(data) - header - footer)
	}
	other[at] ^= 0x10
	s.w.Replace(key, other)
}

// noteDecay sees repairs.
func (s *sim) noteDecay(c simstore.Change) {
	d := s.decayed[c.Key]
	if d == nil {
		return
	}
	switch repairs := strings.HasPrefix(c.Client, "repair"); {
	case c.Data != nil && bytes.Equal(c.Data, d.data):
		d.until = s.w.Steps
		s.mended.Add(1)
	case c.Data == nil && repairs && d.until == forever:
		d.lost = s.w.Steps
	case c.Data == nil && repairs:
		// A request to remove the damaged object that is late, or of a repair that slept
		// after it looked, comes after another repair. No store can tell both apart; the
		// one that slept stores the object anew, or another verification finds it.
		*d = decay{data: d.data, until: forever, lost: s.w.Steps}
	}
}

// removedByRepair tells whether a change is what a repair may do.
func (s *sim) removedByRepair(c simstore.Change) bool {
	d := s.decayed[c.Key]
	return d != nil && strings.HasPrefix(c.Client, "repair")
}

// spoilt tells whether a pack that a backup needs was lost or damaged at any time
// since a step.
func (p *place) spoilt(o *chunkstore.Outcome, since int) bool {
	for pack := range o.Footprint.All() {
		if d := p.s.decayed[p.dir+chunkstore.PackKey(pack)]; d != nil && d.until >= since {
			return true
		}
	}
	return false
}

// knownDecay returns a pack of a backup that was gone when its push began, or that
// a repair had said is avoided.
func (p *place) knownDecay(ref chunkstore.Ref, o *chunkstore.Outcome) string {
	began := p.s.began[p.dir+strings.TrimSuffix(ref.IntentKey(), ".intent")]
	for pack := range o.Footprint.All() {
		key := p.dir + chunkstore.PackKey(pack)
		d := p.s.decayed[key]
		if d == nil || d.until != forever || p.s.sc.weak {
			continue
		}
		if d.lost > 0 && d.lost < began || d.avoided > 0 && d.avoided < began {
			return key
		}
	}
	return ""
}

// repair does what `wal-e verify --repair` does about what was found, some of which
// is whole, or is so again by now.
func (s *sim) repair(ctx context.Context, c *simstore.Client, p *place, chance uint64, now func() time.Time) {
	var found []string
	for key, d := range s.decayed {
		if strings.HasPrefix(key, copyDir) == (p.dir == copyDir) && (d.until == forever || chance>>8%2 == 0) {
			found = append(found, strings.TrimPrefix(key, p.dir))
		}
	}
	slices.Sort(found)
	b := s.sc.mender.wrap(p.in(c))
	store := p.store.On(b)
	need, err := neededNow(ctx, b)
	if err != nil {
		return
	}
	if n := need.Len(); n > 0 && chance>>9%2 == 0 { // a request that failed looked like damage
		packs := slices.Collect(need.All())
		found = append(found, chunkstore.PackKey(packs[int(chance>>24)%n]))
	}
	var avoid []index.PackID
	for pack := range need.All() {
		key := chunkstore.PackKey(pack)
		if !slices.Contains(found, key) {
			continue
		}
		whole, stored, err := store.Whole(ctx, pack)
		if err != nil {
			return
		}
		if whole {
			continue
		}
		if other := s.other(p); other != nil && chance>>4%4 > 0 {
			switch err := store.RestorePack(ctx, pack, other.in(c)); {
			case err == nil:
				continue
			case !errors.Is(err, chunkstore.ErrUnrepaired):
				return
			}
		}
		if stored && p != s.copy {
			avoid = append(avoid, pack)
		}
	}
	if _, err := chunkstore.Condemn(ctx, b, avoid, c.Name(), now()); err != nil {
		return
	}
	s.mu.Lock()
	for _, pack := range avoid {
		if d := s.decayed[p.dir+chunkstore.PackKey(pack)]; d != nil && d.until == forever {
			d.avoided = s.w.Steps
		}
	}
	s.mu.Unlock()
	s.repairIndexes(ctx, b, store, need, found)
}

// repairIndexes makes index objects anew that were found damaged.
func (s *sim) repairIndexes(ctx context.Context, b storage.Bucket, store *chunkstore.Store, need *chunkstore.Footprint, found []string) {
	for _, run := range need.Runs() {
		wrong := func(key string) bool { return strings.HasPrefix(key, "chunks_006/index/"+run.String()) }
		if !slices.ContainsFunc(found, wrong) {
			continue
		}
		list, err := chunkstore.ListPacks(ctx, b, &run)
		if err != nil {
			return
		}
		var packs []index.PackID
		for pack := range need.All() {
			if _, stored := list.Sizes[pack]; stored && pack.Run == run {
				packs = append(packs, pack)
			}
		}
		if _, err := store.RepairIndex(ctx, run, packs, list.Sizes, func(string) bool { return false }); err != nil {
			return
		}
	}
}

// other is the prefix from which lost packs come back; nil: none.
func (s *sim) other(p *place) *place {
	if p == s.copy {
		return s.place
	}
	return s.copy
}

// neededNow unites the footprints of the backups that stand.
func neededNow(ctx context.Context, b storage.Bucket) (*chunkstore.Footprint, error) {
	runs, err := chunkstore.Runs(ctx, b)
	if err != nil {
		return nil, err
	}
	need := &chunkstore.Footprint{}
	for _, r := range runs {
		if !r.Ended() {
			continue
		}
		o, err := chunkstore.ReadOutcome(ctx, b, r.Ref)
		if errors.Is(err, storage.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if o.Result == chunkstore.Commit {
			need.Union(&o.Footprint)
		}
	}
	return need, nil
}
