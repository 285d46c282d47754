package gc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"wal-e/chunkstore"
	"wal-e/internal/postgres"
	"wal-e/internal/runid"
	"wal-e/internal/storage"
)

// A state is what a run is.
type state int

const (
	gone    state = iota // no intent: what is left is litter
	open                 // may still commit
	aborted              // ended without a backup
	deleted              // has a tombstone
	valid                // a backup
)

// A run is one of a view.
type run struct {
	chunkstore.Run
	state   state
	intent  *chunkstore.Intent // of an open run
	outcome *outcome           // of a valid run
}

// An outcome is what a collection keeps of an outcome.
type outcome struct {
	result    string
	system    string
	footprint chunkstore.Footprint
	needs     walRange
}

// A walRange is the WAL that a backup needs to be consistent.
type walRange struct {
	start, stop postgres.LSN
	size        postgres.SegmentSize
}

// first and last are the numbers of the segments at its ends.
func (w walRange) first() uint64 { return postgres.SegmentAt(1, w.start, w.size).No }
func (w walRange) last() uint64  { return postgres.SegmentBefore(1, w.stop, w.size).No }

// manifestNeeds are the fields of a backup's manifest that say what WAL it
// needs.
type manifestNeeds struct {
	Start string               `json:"start_lsn"`
	Stop  string               `json:"stop_lsn"`
	Size  postgres.SegmentSize `json:"wal_segment_size"`
}

func newOutcome(o *chunkstore.Outcome) (*outcome, error) {
	out := &outcome{result: o.Result, system: o.System}
	if o.Result != chunkstore.Commit {
		return out, nil
	}
	out.footprint = o.Footprint
	var m manifestNeeds
	if err := json.Unmarshal(o.Manifest, &m); err != nil {
		return nil, fmt.Errorf("manifest: %w: %w", chunkstore.ErrDamaged, err)
	}
	var err error
	if out.needs.start, err = postgres.ParseLSN(m.Start); err == nil {
		out.needs.stop, err = postgres.ParseLSN(m.Stop)
	}
	if err == nil {
		out.needs.size = m.Size
		err = m.Size.Check()
	}
	if err != nil {
		return nil, fmt.Errorf("manifest: %w: %w", chunkstore.ErrDamaged, err)
	}
	return out, nil
}

// A reader reads what is stored of runs, each immutable object once.
type reader struct {
	b        storage.Bucket
	requests int
	failOpen bool // see skipped.failClosed
	trusting bool // see skipped.intentCheck

	mu       sync.Mutex
	outcomes map[chunkstore.Ref]*outcome
	intents  map[chunkstore.Ref]*chunkstore.Intent
}

// A view is what the catalog told from one listing on. An outcome that it read
// later than the listing counts; so a run that it calls open was open when the
// listing began.
type view struct {
	runs []*run
	byID map[runid.ID]*run
}

func (v *view) of(s state) []*run {
	return slices.DeleteFunc(slices.Clone(v.runs), func(r *run) bool { return r.state != s })
}

// look lists the runs and reads what the listing leaves open, so that the state
// of each is known. dead are taken as deleted already.
func (r *reader) look(ctx context.Context, dead []chunkstore.Ref) (*view, error) {
	listed, err := chunkstore.Runs(ctx, r.b)
	if err != nil {
		return nil, err
	}
	v := &view{runs: make([]*run, len(listed)), byID: make(map[runid.ID]*run, len(listed))}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(r.requests)
	for i, l := range listed {
		v.runs[i] = &run{Run: l}
		v.byID[l.Ref.Run] = v.runs[i]
		g.Go(func() error { return r.classify(gctx, v.runs[i], slices.Contains(dead, l.Ref)) })
	}
	return v, g.Wait()
}

// classify finds out the state of a run. A listing isn't of one moment: what it
// lacks of a run is asked for, and what it has may be gone by now.
func (r *reader) classify(ctx context.Context, run *run, dead bool) error {
	if run.Intent == nil {
		if r.trusting {
			return nil
		}
		// The intent was there before anything else of the run. It may have come
		// after the listing passed its place; if it isn't there now it was removed.
		exists, err := r.exists(ctx, run.IntentKey())
		if err != nil || !exists {
			return err
		}
	}
	if run.Deleted != nil || dead && run.Outcome != nil {
		run.state = deleted
		return nil
	}
	o, err := r.readOutcome(ctx, run.Ref)
	if err == nil {
		run.state, run.outcome = valid, o
		if o.result == chunkstore.Abort {
			run.state, run.outcome = aborted, nil
		}
		return nil
	}
	if !errors.Is(err, storage.ErrNotExist) {
		if r.failOpen {
			run.state = aborted
			return nil
		}
		return err
	}
	return r.classifyOpen(ctx, run, err)
}

// classifyOpen decides about a run whose outcome isn't there.
func (r *reader) classifyOpen(ctx context.Context, run *run, missing error) error {
	exists, err := r.exists(ctx, run.IntentKey())
	switch {
	case err != nil:
		return err
	case !exists:
		return nil // removed since it was listed
	case run.Outcome != nil:
		return fmt.Errorf("the outcome of %s was listed and is gone, though its intent stands: is anything else removing objects? %w", run.Ref, missing)
	}
	run.state = open
	run.intent, err = r.readIntent(ctx, run.Ref)
	if errors.Is(err, storage.ErrNotExist) {
		run.state = gone
		return nil
	}
	return err
}

func (r *reader) exists(ctx context.Context, key string) (bool, error) {
	_, err := r.b.Stat(ctx, key)
	if errors.Is(err, storage.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// readOutcome reads an outcome, unless this collection has read it. An outcome
// never changes, so what was read stays true.
func (r *reader) readOutcome(ctx context.Context, ref chunkstore.Ref) (*outcome, error) {
	r.mu.Lock()
	o := r.outcomes[ref]
	r.mu.Unlock()
	if o != nil {
		return o, nil
	}
	read, err := chunkstore.ReadOutcome(ctx, r.b, ref)
	if err != nil {
		return nil, err
	}
	if o, err = newOutcome(read); err != nil {
		return nil, fmt.Errorf("%s of %s: %w", ref.OutcomeKey(), r.b.URL(), err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.outcomes[ref] = o
	return o, nil
}

func (r *reader) readIntent(ctx context.Context, ref chunkstore.Ref) (*chunkstore.Intent, error) {
	r.mu.Lock()
	i := r.intents[ref]
	r.mu.Unlock()
	if i != nil {
		return i, nil
	}
	i, err := chunkstore.ReadIntent(ctx, r.b, ref)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.intents[ref] = i
	return i, nil
}

// needed unites the footprints of backups.
func needed(backups []*outcome) *chunkstore.Footprint {
	union := &chunkstore.Footprint{}
	for _, o := range backups {
		union.Union(&o.footprint)
	}
	return union
}

// backups returns the valid backups of a view.
func (v *view) backups() []*outcome {
	var list []*outcome
	for _, r := range v.of(valid) {
		list = append(list, r.outcome)
	}
	return list
}
