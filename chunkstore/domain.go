package chunkstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"wal-e/index"
	"wal-e/internal/envelope"
	"wal-e/internal/runid"
	"wal-e/internal/storage"
)

// A domain is what a push may reference: the packs that the newest valid backup
// of its cluster needs, and those of unfinished runs that are younger. A cold
// start reads that and not all history.
type domain struct {
	packs   Footprint
	parents []Ref
	sizes   map[index.PackID]int64 // of stored packs of the runs drawn on
	marks   []string               // keys of the marks that W2 listed
	missing []index.PackID         // packs that the parent needs and that are gone
	sparse  []SparsePack           // packs of which the parent needs little
}

// findParent returns the newest valid backup of a cluster: the one with the
// highest start, and of several runs of one name the youngest. ok is false when
// there is none.
func (s *Store) findParent(ctx context.Context, runs []Run, system string) (parent Run, o *Outcome, ok bool, err error) {
	ended := slices.DeleteFunc(slices.Clone(runs), func(r Run) bool { return !r.Ended() })
	slices.SortFunc(ended, func(a, b Run) int { return CompareRefs(b.Ref, a.Ref) })
	for _, r := range ended {
		o, err := s.readOutcome(ctx, r.Ref)
		if err != nil {
			return Run{}, nil, false, err
		}
		if o != nil && o.Result == Commit && o.System == system && o.Epoch == s.Epoch() {
			return r, o, true, nil
		}
	}
	return Run{}, nil, false, nil
}

// readOutcome reads an outcome to draw on it. One that is damaged, or that a
// newer program wrote, is reported and then as good as none: its packs aren't
// referenced, which costs bytes, and backups go on. So is one that was
// collected since it was listed.
func (s *Store) readOutcome(ctx context.Context, ref Ref) (*Outcome, error) {
	o, err := ReadOutcome(ctx, s.bucket, ref)
	var version *envelope.VersionError
	switch {
	case errors.Is(err, storage.ErrNotExist):
		return nil, nil
	case errors.Is(err, ErrDamaged), errors.Is(err, envelope.ErrDamaged), errors.As(err, &version):
		s.log.WarnContext(ctx, "outcome of a backup can't be used", "detail", err.Error(),
			"hint", "Run `wal-e verify --all`. What that backup holds is stored again where it is needed.")
		return nil, nil
	}
	return o, err
}

// CompareRefs orders backups by where they start (log position, whatever the
// timeline), then by run.
func CompareRefs(a, b Ref) int {
	if c := strings.Compare(position(a.Name), position(b.Name)); c != 0 {
		return c
	}
	return slices.Compare(a.Run[:], b.Run[:])
}

// position is what follows the timeline in base_<TTTTTTTTXXXXXXXXYYYYYYYY>_<OFFSET>.
func position(name string) string {
	const skip = len("base_") + 8
	if len(name) < skip {
		return name
	}
	return name[skip:]
}

// findDomain is the first half of step W2 of the protocol: it must run after
// the intent was created. readMarks follows, after the index was listed.
func (s *Store) findDomain(ctx context.Context, own runid.ID, system string) (*domain, error) {
	runs, err := Runs(ctx, s.bucket)
	if err != nil {
		return nil, err
	}
	d := &domain{}
	parent, outcome, found, err := s.findParent(ctx, runs, system)
	if err != nil {
		return nil, fmt.Errorf("look for the newest backup: %w", err)
	}
	var need Footprint
	if found {
		need.Union(&outcome.Footprint)
		d.sparse = outcome.Sparse
		d.parents = append(d.parents, parent.Ref)
	}
	unfinished, err := s.unfinished(ctx, runs, own, parent, found)
	if err != nil {
		return nil, err
	}
	from := append(need.Runs(), unfinished...)
	if d.sizes, err = s.packsOf(ctx, from); err != nil {
		return nil, err
	}
	for p := range need.All() {
		if _, stored := d.sizes[p]; !stored {
			d.missing = append(d.missing, p)
		} else {
			d.packs.Add(p)
		}
	}
	for p := range d.sizes {
		if slices.Contains(unfinished, p.Run) {
			d.packs.Add(p)
		}
	}
	return d, nil
}

// unfinished returns the open and aborted runs that are younger than the
// parent: what they stored is resumed.
func (s *Store) unfinished(ctx context.Context, runs []Run, own runid.ID, parent Run, found bool) ([]runid.ID, error) {
	var ids []runid.ID
	for _, r := range runs {
		if r.Ref.Run == own || r.Intent == nil || found && slices.Compare(r.Ref.Run[:], parent.Ref.Run[:]) < 0 {
			continue
		}
		if r.Outcome != nil {
			o, err := s.readOutcome(ctx, r.Ref)
			if err != nil {
				return nil, err
			}
			if o == nil || o.Result != Abort {
				continue
			}
		}
		if ours, err := s.sameEpoch(ctx, r.Ref); err != nil {
			return nil, err
		} else if !ours {
			continue
		}
		ids = append(ids, r.Ref.Run)
	}
	return ids, nil
}

// readMarks is the second half of W2: it reads the marks that stand and takes
// their packs out of the domain.
func (s *Store) readMarks(ctx context.Context, d *domain) ([]Mark, error) {
	var err error
	if d.marks, err = listMarks(ctx, s.bucket); err != nil {
		return nil, err
	}
	marks, err := readMarks(ctx, s.bucket, d.marks)
	if err != nil {
		return nil, err
	}
	var offered Footprint
	for p := range d.packs.All() {
		if !condemned(marks, p) {
			offered.Add(p)
		}
	}
	d.packs = offered
	return marks, nil
}

// condemned tells whether a mark holds p.
func condemned(marks []Mark, p index.PackID) bool {
	return slices.ContainsFunc(marks, func(m Mark) bool { return m.Packs.Has(p) })
}
