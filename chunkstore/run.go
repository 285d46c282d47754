package chunkstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"wal-e/index"
	"wal-e/internal/chunk"
	"wal-e/internal/envelope"
	"wal-e/internal/fault"
	"wal-e/internal/postgres"
	"wal-e/internal/storage"
)

// PushConfig says what a push is and what it may use. Name and Intent are
// required; the zero value of the rest works.
type PushConfig struct {
	Name   string // base_<SEGMENT>_<OFFSET>
	Intent Intent // Begun is filled in

	// Table is the local index to look chunks up in; nil stores everything
	// anew. Its contents are brought up to date by Begin.
	Table *index.Table

	PackSize   int           // bytes at which a pack is closed; 0 means 32 MiB
	Uploads    int           // packs stored at once; 0 means 3
	IndexPacks int           // packs after which an index object is written; 0 means 8
	IndexEvery time.Duration // time after which one is written; 0 means 2 minutes

	// Fresh makes the run refer to no pack of another one.
	Fresh bool

	// Rewrite is how many bytes may be stored anew so that packs of which
	// little is needed can go one day; 0 means 1 GiB, negative none.
	Rewrite int64

	Now func() time.Time // nil means time.Now
}

func (c *PushConfig) setDefaults() {
	if c.Rewrite == 0 {
		c.Rewrite = defaultRewrite
	}
	if c.PackSize == 0 {
		c.PackSize = 32 << 20
	}
	if c.Uploads == 0 {
		c.Uploads = 3
	}
	if c.IndexPacks == 0 {
		c.IndexPacks = 8
	}
	if c.IndexEvery == 0 {
		c.IndexEvery = 2 * time.Minute
	}
	if c.Now == nil {
		c.Now = time.Now
	}
}

// A Push is a run that writes: it takes extents and nodes, stores what is new,
// and commits. Writers made by NewWriter may be used by different goroutines at
// once; the other methods are for one goroutine, without writers at work.
type Push struct {
	store  *Store
	cfg    PushConfig
	ref    Ref
	domain *domain
	sealer *runSealer // nil: plain
	log    *slog.Logger

	// Uploads outlive the calls that begin them, so their context stands here.
	// It ends with the first failed upload, whose error is its cause.
	uploading context.Context
	fail      context.CancelCauseFunc
	uploads   *errgroup.Group

	// packing is held while a record is added to the open pack, and while that
	// waits for an upload to end: otherwise each writer would fill a pack more
	// meanwhile. It is taken before mu.
	packing sync.Mutex

	mu        sync.Mutex
	footprint Footprint
	banned    Footprint
	used      map[index.PackID]int64 // bytes referred to, of packs of others
	own       recentSet
	blocks    [2]*block // open blocks of data and of nodes, shared by small files
	pack      *packBuffer
	nextPack  uint32
	sizes     map[uint32]int64 // of own packs
	unindexed []index.Pack     // stored, and in no index object yet
	nextIndex uint32
	indexed   time.Time
	stats     Stats
}

// Stats are the figures of a push.
type Stats struct {
	Read       int64 // bytes of extents and nodes that were given
	Zero       int64 // bytes thereof that were whole zero pages in holes
	New        int64 // bytes of chunks that the store didn't have
	Stored     int64 // bytes of packs and index objects created
	Chunks     int64 // chunks given
	NewChunks  int64
	Packs      int64 // packs created
	Missing    int   // packs that the newest backup needs and that are gone
	Unreadable int   // look-ups that a damaged table couldn't answer
	Retired    int   // sparse packs that were offered no more
	Dead       int64 // bytes in packs of others that this backup doesn't need; known after Commit
}

// Begin begins a run: it creates the intent (W1), finds what may be referenced
// (W2, W3) and returns the Push. When it fails after the intent was created,
// the run is aborted.
func (s *Store) Begin(ctx context.Context, cfg PushConfig) (*Push, error) {
	cfg.setDefaults()
	cfg.Intent.Begun = cfg.Now().UTC()
	cfg.Intent.Epoch = s.Epoch()
	ref, err := createIntent(ctx, s.bucket, cfg.Name, cfg.Intent, cfg.Now)
	if err != nil {
		return nil, err
	}
	p := &Push{store: s, cfg: cfg, ref: ref, log: s.log, sizes: make(map[uint32]int64), used: make(map[index.PackID]int64), indexed: cfg.Now()}
	if p.sealer, err = s.sealer.begin(ref.Run); err != nil {
		return nil, errors.Join(err, p.Abort(ctx, err.Error()))
	}
	if err := p.prepare(ctx); err != nil {
		return nil, errors.Join(err, p.Abort(ctx, err.Error()))
	}
	p.uploading, p.fail = context.WithCancelCause(ctx)
	p.newUploads()
	return p, nil
}

func (p *Push) newUploads() {
	p.uploads = &errgroup.Group{}
	p.uploads.SetLimit(p.cfg.Uploads)
}

// prepare is W2 and W3.
func (p *Push) prepare(ctx context.Context) error {
	d, err := p.store.findDomain(ctx, p.ref.Run, p.cfg.Intent.System)
	if err != nil {
		return err
	}
	if cfg := &p.cfg; cfg.Fresh {
		// The domain is nothing, and no index is asked. What an index says is
		// left for the next push.
		d, cfg.Table = &domain{}, nil
	}
	p.domain = d
	p.retireSparse()
	if len(d.missing) > 0 {
		p.stats.Missing = len(d.missing)
		p.log.WarnContext(ctx, "packs of the newest backup are gone from the store",
			"detail", fmt.Sprintf("Missing packs: %d, the first %s. Backup %s and others that need them can't be restored in full.",
				len(d.missing), PackKey(d.missing[0]), d.parents[0]),
			"hint", "What this push finds in the cluster is stored again. Run `wal-e verify --all`, and look for a lifecycle rule or a person that removes objects.")
	}
	if p.cfg.Table != nil {
		if err := p.refreshTable(ctx); err != nil {
			return err
		}
	}
	marks, err := p.store.readMarks(ctx, d)
	if err != nil {
		return err
	}
	return p.checkHorizon(marks)
}

// refreshTable brings the table up to date. A damaged one is made anew, which
// costs reading the index; without any, everything is stored anew.
func (p *Push) refreshTable(ctx context.Context) error {
	err := p.store.refresh(ctx, p.cfg.Table, &p.domain.packs, p.domain.sizes)
	if errors.Is(err, index.ErrDamaged) {
		p.log.WarnContext(ctx, "local index is damaged; making it anew", "error", err)
		if err = asTableError(p.cfg.Table.Reset()); err == nil {
			err = p.store.refresh(ctx, p.cfg.Table, &p.domain.packs, p.domain.sizes)
		}
	}
	if local := (*tableError)(nil); errors.As(err, &local) {
		p.log.WarnContext(ctx, "local index can't be used; storing everything anew", "error", err)
		p.cfg.Table = nil
		return nil
	}
	return err
}

// checkHorizon refuses to begin where WAL may be removed already.
func (p *Push) checkHorizon(marks []Mark) error {
	start, horizon, below, err := p.belowHorizon(marks)
	if err == nil && below {
		return fault.Fenced.Errorf("backup would start at %s, but WAL below %s is being deleted by a collection: "+
			"run the backup again; if the cluster was restored to an earlier time, archive it to a new prefix", start, horizon)
	}
	return err
}

// belowHorizon tells whether the run starts below the WAL horizon of a mark.
func (p *Push) belowHorizon(marks []Mark) (start, horizon postgres.LSN, below bool, err error) {
	for _, m := range marks {
		h, ok := m.Horizons[p.cfg.Intent.System]
		if !ok {
			continue
		}
		if horizon, err = postgres.ParseLSN(h); err != nil {
			return 0, 0, false, fmt.Errorf("%w: WAL horizon %q of a mark: %w", ErrDamaged, h, err)
		}
		if start, err = postgres.ParseLSN(p.cfg.Intent.Start); err != nil {
			return 0, 0, false, err
		}
		if start < horizon {
			return start, horizon, true, nil
		}
	}
	return 0, 0, false, nil
}

// Ref names the run.
func (p *Push) Ref() Ref { return p.ref }

// Parents returns the backups whose packs may be referenced.
func (p *Push) Parents() []Ref { return p.domain.parents }

// Stats returns the figures so far.
func (p *Push) Stats() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stats
}

// Footprint returns the packs referenced so far.
func (p *Push) Footprint() Footprint {
	p.mu.Lock()
	defer p.mu.Unlock()
	var f Footprint
	f.Union(&p.footprint)
	return f
}

// Unusable is step W4a: it reads the marks that W2 listed again, lists the packs
// of every run that the footprint draws on, and returns those packs that are
// gone, of another size than the index says, or condemned. Packs of this run
// that are still on their way are not looked at.
func (p *Push) Unusable(ctx context.Context) ([]index.PackID, error) {
	footprint := p.Footprint()
	marks, err := readMarks(ctx, p.store.bucket, p.domain.marks)
	if err != nil {
		return nil, err
	}
	sizes, err := p.store.packsOf(ctx, footprint.Runs())
	if err != nil {
		return nil, err
	}
	var bad []index.PackID
	for pack := range footprint.All() {
		size, stored := sizes[pack]
		want, known := p.packSize(pack)
		if pack.Run == p.ref.Run && !known {
			continue
		}
		if !stored { // some stores list late what they give to readers at once
			a, err := p.store.bucket.Stat(ctx, PackKey(pack))
			if err != nil && !errors.Is(err, storage.ErrNotExist) {
				return nil, err
			}
			size, stored = a.Size, err == nil
		}
		if !stored || !known || size != want || condemned(marks, pack) {
			bad = append(bad, pack)
		}
	}
	return bad, nil
}

// packSize is the size that a pack must have: what the index says, or what this
// run wrote.
func (p *Push) packSize(pack index.PackID) (int64, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if pack.Run == p.ref.Run {
		n, ok := p.sizes[pack.Seq]
		return n, ok
	}
	if p.cfg.Table == nil {
		return 0, false
	}
	return p.cfg.Table.PackSize(pack)
}

// Ban takes packs out of what the run references: chunks that they hold are
// stored anew when they are given again, which the caller must do for
// everything it gave so far.
func (p *Push) Ban(packs []index.PackID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var kept Footprint
	for _, b := range packs {
		p.banned.Add(b)
		if b.Run == p.ref.Run {
			p.own = recentSet{} // it held chunks that count as stored
		}
	}
	for pack := range p.footprint.All() {
		if !p.banned.Has(pack) {
			kept.Add(pack)
		}
	}
	p.footprint = kept
	clear(p.used) // everything is given again
}

// ErrFenced is wrapped by Commit when the run was aborted from outside.
var ErrFenced = errors.New("push was declared dead from outside")

// Commit makes everything durable (W4), checks every pack that the footprint
// names (W4a), creates the outcome (W5) and makes sure that the run still
// stands (W6). When it returns nil the backup exists.
func (p *Push) Commit(ctx context.Context, manifest any) error {
	if err := p.Flush(ctx); err != nil {
		return err
	}
	bad, err := p.Unusable(ctx)
	if err != nil {
		return err
	}
	if len(bad) > 0 {
		return fault.Fenced.Errorf("packs that the backup needs were removed or condemned while it was taken (%d, the first %s): "+
			"run the backup again", len(bad), PackKey(bad[0]))
	}
	sparse, dead := p.sparsePacks()
	p.stats.Dead = dead
	outcome := &Outcome{
		Result: Commit, System: p.cfg.Intent.System, Start: p.cfg.Intent.Start,
		Footprint: p.Footprint(), Sparse: sparse,
	}
	if err := p.store.sealManifest(p.ref, outcome, manifest); err != nil {
		return err
	}
	if err := p.decide(ctx, outcome); err != nil {
		return err
	}
	_, err = p.store.bucket.Stat(ctx, p.ref.intentKey())
	if errors.Is(err, storage.ErrNotExist) {
		return fmt.Errorf("backup %s: %w, and a collection removed its intent: run the backup again: %w", p.ref, ErrFenced, err)
	}
	if err != nil {
		return fmt.Errorf("backup %s was committed, but whether its intent still stands can't be seen: %w", p.ref, err)
	}
	return nil
}

// decide is W5: the race for the outcome.
func (p *Push) decide(ctx context.Context, outcome *Outcome) error {
	data, err := envelope.Encode(outcomeKind, outcomeVersion, outcome)
	if err != nil {
		return err
	}
	key := p.ref.outcomeKey()
	cerr := storage.CreateBytes(ctx, p.store.bucket, key, data, nil)
	if cerr == nil {
		return nil
	}
	// The answer may have been lost, or the race. What stands there tells.
	stands, err := storage.ReadAll(ctx, p.store.bucket, key, envelope.MaxSize)
	if err != nil {
		return cerr
	}
	if string(stands) == string(data) {
		return nil
	}
	o, err := ReadOutcome(ctx, p.store.bucket, p.ref)
	if err != nil {
		return err
	}
	return fmt.Errorf("backup %s: %w: by %s: %s", p.ref, ErrFenced, o.By, o.Reason)
}

var errAborted = fault.Fenced.Errorf("push was aborted")

// abortTimeout bounds what an abort may take when the push was cancelled.
const abortTimeout = 20 * time.Second

// Abort ends the run without a backup. What it stored serves the next push. It
// works after ctx was cancelled, within a time limit; when it fails, the run
// stays open until somebody fences it.
func (p *Push) Abort(ctx context.Context, reason string) error {
	if p.fail != nil {
		p.fail(errAborted)
		_ = p.uploads.Wait() // its error is why we are here
	}
	// A cancelled push must still say that it ended, else it looks alive.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortTimeout)
	defer cancel()
	if err := p.writeIndex(ctx, 1); err != nil {
		// It costs no more than a look at each pack.
		p.log.WarnContext(ctx, "index of an aborted push wasn't written", "error", err)
	}
	if _, err := Fence(ctx, p.store.bucket, p.ref, p.cfg.Intent.Host, reason); err != nil {
		return fmt.Errorf("abort backup %s: %w", p.ref, err)
	}
	return nil
}

// A recentSet remembers the chunks that this run stored lately. Its size is
// bounded; a chunk that it forgot is stored twice, which costs bytes only.
type recentSet struct{ young, old map[chunk.ID]struct{} }

const recentChunks = 1 << 18 // per half, about 8 GB of new data

// add tells whether id was new to the set.
func (r *recentSet) add(id chunk.ID) bool {
	if _, ok := r.young[id]; ok {
		return false
	}
	if _, ok := r.old[id]; ok {
		return false
	}
	if len(r.young) >= recentChunks {
		r.old, r.young = r.young, nil
	}
	if r.young == nil {
		r.young = make(map[chunk.ID]struct{})
	}
	r.young[id] = struct{}{}
	return true
}

func (r *recentSet) has(id chunk.ID) bool {
	if _, ok := r.young[id]; ok {
		return true
	}
	_, ok := r.old[id]
	return ok
}
