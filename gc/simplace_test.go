package gc_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"

	"wal-e/chunkstore"
	"wal-e/index"
	"wal-e/internal/postgres"
	"wal-e/internal/simstore"
	"wal-e/internal/storage"
)

// A place is a prefix in the world, with the hosts that push to it and what the
// oracle knows of it.
type place struct {
	s     *sim
	dir   string            // what its keys begin with in the world
	store *chunkstore.Store // as it is
	table *index.Table      // of the oracle
	hosts []*host

	outcomes map[string]*chunkstore.Outcome // by key: an outcome never changes; under sim.mu
	wal      map[*chunkstore.Outcome][]string
}

// copyDir is where copies go.
const copyDir = "copy/"

func (s *sim) newPlace(dir string, hosts int) (*place, error) {
	p := &place{s: s, dir: dir, outcomes: make(map[string]*chunkstore.Outcome), wal: make(map[*chunkstore.Outcome][]string)}
	p.store = s.shared.On(p.in(s.w.Direct()))
	var err error
	for i := range hosts {
		h := &host{name: fmt.Sprintf("%shost%d", strings.TrimSuffix(dir, "/"), i), place: p}
		if h.table, err = s.openTable(h.name); err != nil {
			return nil, err
		}
		p.hosts = append(p.hosts, h)
	}
	p.table, err = s.openTable("oracle" + strings.TrimSuffix(dir, "/"))
	return p, err
}

// places returns the prefixes of the world.
func (s *sim) places() []*place {
	return slices.DeleteFunc([]*place{s.place, s.copy}, func(p *place) bool { return p == nil })
}

func (p *place) close() {
	for _, h := range p.hosts {
		_ = h.table.Close() // of a folder that is removed
	}
	if p.table != nil {
		_ = p.table.Close()
	}
}

// in is the place as b shows it.
func (p *place) in(b storage.Bucket) storage.Bucket {
	if p.dir == "" {
		return b
	}
	return folder{b, p.dir}
}

// direct is the place as it is.
func (p *place) direct() storage.Bucket { return p.store.Bucket() }

// keys are the keys that are stored there, sorted.
func (p *place) keys() []string {
	var keys []string
	for _, key := range p.s.w.Keys() {
		if strings.HasPrefix(key, copyDir) == (p.dir == copyDir) {
			keys = append(keys, strings.TrimPrefix(key, p.dir))
		}
	}
	return keys
}

// A folder is a part of a bucket as a bucket of its own.
type folder struct {
	b   storage.Bucket
	dir string
}

func (f folder) URL() string { return f.b.URL() + "/" + f.dir }

func (f folder) Create(ctx context.Context, key string, r io.Reader, size int64, meta storage.Meta) error {
	return f.b.Create(ctx, f.dir+key, r, size, meta)
}

func (f folder) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	return f.b.Get(ctx, f.dir+key, offset, length)
}

func (f folder) Stat(ctx context.Context, key string) (storage.Attributes, error) {
	a, err := f.b.Stat(ctx, f.dir+key)
	a.Key = key
	return a, err
}

func (f folder) List(ctx context.Context, prefix, after string) iter.Seq2[storage.Object, error] {
	if after != "" {
		after = f.dir + after
	}
	return func(yield func(storage.Object, error) bool) {
		for o, err := range f.b.List(ctx, f.dir+prefix, after) {
			o.Key = strings.TrimPrefix(o.Key, f.dir)
			if !yield(o, err) {
				return
			}
		}
	}
}

func (f folder) Delete(ctx context.Context, keys ...string) error {
	full := make([]string, len(keys))
	for i, key := range keys {
		full[i] = f.dir + key
	}
	return f.b.Delete(ctx, full...)
}

// watch is the oracle: it looks at each change to the store.
func (s *sim) watch(c simstore.Change) {
	p := s.place
	if s.copy != nil && strings.HasPrefix(c.Key, copyDir) {
		p = s.copy
	}
	key := strings.TrimPrefix(c.Key, p.dir)
	if c.Data == nil {
		defer s.noteDecay(c) // after it is judged
	} else {
		s.noteDecay(c)
	}
	switch {
	case strings.HasPrefix(c.Client, "dry"):
		s.fail("dry run changed %s", c.Key)
	case c.Data == nil && strings.HasPrefix(key, "chunks_006/packs/"):
		if ref, needed := p.whoNeeds(key); needed && !s.removedByRepair(c) {
			s.fail("pack %s was removed, which backup %s needs", c.Key, ref)
		}
	case c.Data == nil && strings.HasPrefix(key, "wal_006/"):
		p.checkWAL(key)
	case strings.HasPrefix(key, "basebackups_006/") && c.Data != nil, strings.HasPrefix(key, "deleted_006/") && c.Data == nil:
		if stem, ok := strings.CutSuffix(c.Key, ".intent"); ok {
			s.began[stem] = s.w.Steps
		}
		p.checkNew(key)
	case strings.HasPrefix(key, "basebackups_006/"):
		p.checkRemoved(key)
	case strings.HasPrefix(key, "chunks_006/condemned/") && !strings.HasSuffix(key, ".grace"):
		p.checkMark(key, c)
	}
}

// backups returns the valid backups as the store has them.
func (p *place) backups() map[chunkstore.Ref]*chunkstore.Outcome {
	ctx := contextForOracle()
	runs, err := chunkstore.Runs(ctx, p.direct())
	if err != nil {
		p.s.fail("oracle: %v", err)
	}
	valid := make(map[chunkstore.Ref]*chunkstore.Outcome)
	for _, r := range runs {
		if !r.Ended() {
			continue
		}
		o, err := p.outcome(ctx, r)
		if err != nil {
			p.s.fail("oracle: %v", err)
			continue
		}
		if o.Result == chunkstore.Commit {
			valid[r.Ref] = o
		}
	}
	return valid
}

// outcome reads an outcome once.
func (p *place) outcome(ctx context.Context, r chunkstore.Run) (*chunkstore.Outcome, error) {
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	if o := p.outcomes[r.OutcomeKey()]; o != nil {
		return o, nil
	}
	o, err := chunkstore.ReadOutcome(ctx, p.direct(), r.Ref)
	if err == nil && o.Result == chunkstore.Commit { // a late ABORT may come and go
		p.outcomes[r.OutcomeKey()] = o
	}
	return o, err
}

func (p *place) neededPacks() map[string]bool {
	need := make(map[string]bool)
	for _, o := range p.backups() {
		for pack := range o.Footprint.All() {
			need[chunkstore.PackKey(pack)] = true
		}
	}
	return need
}

func (p *place) whoNeeds(pack string) (chunkstore.Ref, bool) {
	for ref, o := range p.backups() {
		for needed := range o.Footprint.All() {
			if chunkstore.PackKey(needed) == pack {
				return ref, true
			}
		}
	}
	return chunkstore.Ref{}, false
}

// checkWAL is called when a WAL file was removed.
func (p *place) checkWAL(key string) {
	for ref, o := range p.backups() {
		for _, k := range p.walKeys(o) {
			if k == key {
				p.s.fail("WAL file %s was removed, which backup %s needs", p.dir+key, ref)
			}
		}
	}
}

// walKeys are the WAL files that a backup needs.
func (p *place) walKeys(o *chunkstore.Outcome) []string {
	keys, known := p.wal[o]
	if !known {
		keys = walKeys(o)
		p.wal[o] = keys
	}
	return keys
}

func walKeys(o *chunkstore.Outcome) []string {
	var m manifest
	if err := json.Unmarshal(o.Manifest, &m); err != nil {
		return []string{err.Error()}
	}
	start, _ := postgres.ParseLSN(m.Start)
	stop, _ := postgres.ParseLSN(m.Stop)
	var keys []string
	for seg := range postgres.Segments(m.Timeline, start, stop, segmentSize) {
		keys = append(keys, "wal_006/"+system+"/"+seg.Name(segmentSize))
	}
	return keys
}

// checkNew is called when a run may have become valid: then it restores.
func (p *place) checkNew(key string) {
	for ref, o := range p.backups() {
		if !strings.Contains(key, ref.Run.String()) {
			continue
		}
		if pack := p.knownDecay(ref, o); pack != "" {
			p.s.fail("backup %s became valid with %s, which was known to be of no use when its push began", ref, pack)
		}
		if err := p.restore(ref, o); err != nil && !p.spoilt(o, p.s.w.Steps) {
			p.s.fail("backup %s became valid and doesn't restore: %v", ref, err)
		}
	}
}

// restore reads a backup from the store as it is and compares it.
func (p *place) restore(ref chunkstore.Ref, o *chunkstore.Outcome) error {
	ctx := contextForOracle()
	for _, key := range p.walKeys(o) {
		if _, err := p.direct().Stat(ctx, key); err != nil {
			return fmt.Errorf("WAL %s: %w", key, err)
		}
	}
	return readBackup(ctx, p.store, o, p.table)
}

// restoreAll restores each backup with a table that knows nothing yet, as a new
// host does.
func (p *place) restoreAll() error {
	_ = p.table.Close() // of a file that isn't used any more
	var err error
	if p.table, err = p.s.openTable("last" + strings.TrimSuffix(p.dir, "/")); err != nil {
		return err
	}
	for ref, o := range p.backups() {
		if err := p.restore(ref, o); err != nil && !p.spoilt(o, p.s.w.Steps) {
			return fmt.Errorf("in the end backup %s doesn't restore: %w", ref, err)
		}
	}
	return nil
}

// checkRemoved is called when an intent or outcome was removed: it wasn't a
// backup's.
func (p *place) checkRemoved(key string) {
	stem := strings.TrimSuffix(strings.TrimSuffix(key, ".intent"), ".outcome")
	other := stem + ".outcome"
	if strings.HasSuffix(key, ".outcome") {
		other = stem + ".intent"
	}
	ctx := contextForOracle()
	_, oerr := p.direct().Stat(ctx, other)
	_, terr := p.direct().Stat(ctx, strings.Replace(stem, "basebackups_006", "deleted_006", 1))
	if oerr != nil || !errors.Is(terr, storage.ErrNotExist) {
		return
	}
	if strings.HasSuffix(key, ".outcome") {
		if p.outcomes[key] != nil {
			p.s.fail("outcome %s of a backup was removed", p.dir+key)
		}
		return
	}
	data, err := storage.ReadAll(ctx, p.direct(), other, 1<<20)
	if err == nil && strings.Contains(string(data), `"result": "commit"`) {
		p.s.fail("intent %s of a backup was removed", p.dir+key)
	}
}

// checkMark is called when a mark came or went.
func (p *place) checkMark(key string, c simstore.Change) {
	ctx := contextForOracle()
	marks, err := chunkstore.ReadMarks(ctx, p.direct())
	if err != nil {
		p.s.fail("oracle: %v", err)
		return
	}
	if c.Data == nil {
		return
	}
	runs, err := chunkstore.Runs(ctx, p.direct())
	if err != nil {
		p.s.fail("oracle: %v", err)
		return
	}
	valid := p.backups()
	for _, m := range marks.Marks {
		if !strings.HasSuffix(key, m.ID.String()) {
			continue
		}
		for pack := range m.Packs.All() {
			i := slices.IndexFunc(runs, func(r chunkstore.Run) bool { return r.Ref.Run == pack.Run })
			if i < 0 || p.s.decayed[p.dir+chunkstore.PackKey(pack)] != nil && strings.HasPrefix(c.Client, "repair") {
				continue
			}
			if runs[i].Open() && runs[i].Deleted == nil {
				p.s.fail("pack %s of an open push was condemned", pack)
			}
			if o := valid[runs[i].Ref]; o != nil && o.Footprint.Has(pack) {
				p.s.fail("pack %s was condemned, which backup %s stored and needs", pack, runs[i].Ref)
			}
		}
	}
}

func segmentOf(o *chunkstore.Outcome) uint64 {
	lsn, _ := postgres.ParseLSN(o.Start)
	return uint64(lsn) / uint64(segmentSize)
}

func segmentNumber(name string) uint64 {
	s, err := postgres.ParseSegment(name[:24], segmentSize)
	if err != nil {
		return ^uint64(0)
	}
	return s.No
}
