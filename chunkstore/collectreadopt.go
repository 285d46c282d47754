package chunkstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"wal-e/internal/fault"
	"wal-e/internal/storage"
)

// A Readoption says how a deleted backup is taken back. Host is required.
type Readoption struct {
	Host    string
	Program string
	// WAL makes sure that every segment the backup needs is there. It is
	// called once nobody may remove WAL that the new run needs.
	WAL func(ctx context.Context, o *Outcome) error
	Now func() time.Time // nil means time.Now
}

// ErrCondemned is wrapped by Readopt when a pack that the backup needs is gone
// or about to be removed.
var ErrCondemned = errors.New("what the backup needs is gone or being removed")

// Readopt takes a deleted backup back: a push without data, a new run of the
// same name with the same manifest and footprint, through steps W1 to W6. They
// decide whether it still can be; the tombstone of the old run stays. It
// returns the new run.
func Readopt(ctx context.Context, b storage.Bucket, ref Ref, cfg Readoption) (Ref, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	old, err := ReadOutcome(ctx, b, ref)
	if err != nil {
		return Ref{}, fmt.Errorf("backup %s can't be taken back: %w", ref, err)
	}
	if old.Result != Commit {
		return Ref{}, fault.TooLate.Errorf("backup %s can't be taken back: it was never complete (%s)", ref, old.Reason)
	}
	intent := Intent{
		Host: cfg.Host, Begun: cfg.Now().UTC(), System: old.System, Start: old.Start, Program: cfg.Program, Parents: []Ref{ref},
	}
	run, err := createIntent(ctx, b, ref.Name, intent, cfg.Now) // W1
	if err != nil {
		return Ref{}, err
	}
	p := &Push{store: &Store{bucket: b}, ref: run, cfg: PushConfig{Name: ref.Name, Now: cfg.Now, Intent: intent}}
	if err := p.readopt(ctx, ref, old, cfg.WAL); err != nil {
		if errors.Is(err, errUndecided) {
			return Ref{}, err
		}
		actx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortTimeout) // as in Abort
		defer cancel()
		_, aerr := Fence(actx, b, p.ref, cfg.Host, err.Error())
		return Ref{}, errors.Join(err, aerr)
	}
	return p.ref, nil
}

// errUndecided marks errors after which the run may have committed, so that an
// abort would say nothing.
var errUndecided = errors.New("outcome is not known")

// readopt is W2 to W6.
func (p *Push) readopt(ctx context.Context, ref Ref, old *Outcome, wal func(context.Context, *Outcome) error) error {
	p.footprint.Union(&old.Footprint)
	p.domain = &domain{}
	if err := p.present(ctx); err != nil {
		return err
	}
	marks, err := p.store.readMarks(ctx, p.domain) // W2: lists the marks after the packs
	if err != nil {
		return err
	}
	// As long as the outcome of the deleted run stands, so do the marks of what it
	// needs. Without it one may be gone that a collector who sleeps has read.
	switch _, err := p.store.bucket.Stat(ctx, ref.outcomeKey()); {
	case errors.Is(err, storage.ErrNotExist):
		return fmt.Errorf("%w: a collection removed its outcome", ErrCondemned)
	case err != nil:
		return err
	}
	switch start, horizon, below, err := p.belowHorizon(marks); {
	case err != nil:
		return err
	case below:
		return fmt.Errorf("%w: it starts at %s, and WAL below %s is being removed", ErrCondemned, start, horizon)
	}
	if err := p.uncondemned(marks); err != nil { // W3
		return err
	}
	if wal != nil { // W4
		if err := wal(ctx, old); err != nil {
			return err
		}
	}
	if marks, err = readMarks(ctx, p.store.bucket, p.domain.marks); err != nil { // W4a
		return err
	}
	if err := errors.Join(p.uncondemned(marks), p.present(ctx)); err != nil {
		return err
	}
	outcome := &Outcome{
		Result: Commit, System: old.System, Start: old.Start,
		Manifest: json.RawMessage(old.Manifest), Footprint: old.Footprint,
		Epoch: old.Epoch, Sealed: old.Sealed, SealedBy: old.SealedBy, Sparse: old.Sparse, CopyOf: old.CopyOf,
	}
	if err := p.decide(ctx, outcome); err != nil { // W5
		return err
	}
	if _, err := p.store.bucket.Stat(ctx, p.ref.intentKey()); err != nil { // W6
		return fmt.Errorf("backup %s: %w: its intent is gone: %w", p.ref, errUndecided, err)
	}
	return nil
}

// present makes sure that every pack of the footprint is stored.
func (p *Push) present(ctx context.Context) error {
	sizes, err := p.store.packsOf(ctx, p.footprint.Runs())
	if err != nil {
		return err
	}
	for pack := range p.footprint.All() {
		if _, ok := sizes[pack]; !ok {
			return fmt.Errorf("%w: pack %s is missing", ErrCondemned, PackKey(pack))
		}
	}
	return nil
}

// uncondemned makes sure that no pack of the footprint is in a mark.
func (p *Push) uncondemned(marks []Mark) error {
	for pack := range p.footprint.All() {
		if condemned(marks, pack) {
			return fmt.Errorf("%w: pack %s is being removed", ErrCondemned, PackKey(pack))
		}
	}
	return nil
}
