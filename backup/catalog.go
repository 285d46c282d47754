package backup

import (
	"context"
	"errors"
	"time"

	"wal-e/chunkstore"
	"wal-e/index"
	"wal-e/internal/runid"
	"wal-e/internal/storage"
)

// A Catalog is the valid backups of an archive as they were when it was read, for
// who has several questions: it costs a request per backup. It needs no key.
type Catalog struct {
	bucket  storage.Bucket
	backups []validBackup
	damage  []damagedRun
}

// ReadCatalog reads the outcomes of all backups. Those that are damaged make List and
// Usage return an error beside the rest.
func ReadCatalog(ctx context.Context, b storage.Bucket) (*Catalog, error) {
	backups, damage, err := readBackups(ctx, b, query{})
	return &Catalog{b, backups, damage}, err
}

// List is the function List for all backups.
func (c *Catalog) List() ([]Listed, error) {
	list := make([]Listed, len(c.backups))
	for i, b := range c.backups {
		list[i] = b.listed()
	}
	return list, c.damaged()
}

func (c *Catalog) damaged() error {
	errs := make([]error, len(c.damage))
	for i, d := range c.damage {
		errs[i] = d.err
	}
	return errors.Join(errs...)
}

// Stored tells when the first backup was stored that is still there, and the newest
// of those that need no packs of others, by the store's clock; zero without any.
func (c *Catalog) Stored() (first, alone time.Time) {
	for _, b := range c.backups {
		at := b.outcome.ModTime
		if first.IsZero() || at.Before(first) {
			first = at
		}
		if b.alone && at.After(alone) {
			alone = at
		}
	}
	return first, alone
}

// Usage tells what each backup holds alone and what it shares, in the order of List,
// and the bytes of all packs. It lists packs, and holds a number per pack. Where
// outcomes are damaged, what those need may count as another's alone.
func (c *Catalog) Usage(ctx context.Context) (uses []Use, stored int64, err error) {
	// Outcomes come first: a backup that is deleted meanwhile has packs that are
	// missing, but one that comes has none that look stray.
	packs, err := chunkstore.ListPacks(ctx, c.bucket, nil)
	if err != nil {
		return nil, 0, err
	}
	for _, size := range packs.Sizes {
		stored += size
	}
	needed := make(map[index.PackID]int, len(packs.Sizes))
	for i := range c.backups {
		for p := range c.backups[i].footprint.All() {
			needed[p]++
		}
	}
	for i := range c.backups {
		u := Use{Listed: c.backups[i].listed(), Ref: c.backups[i].ref}
		for p := range c.backups[i].footprint.All() {
			size, ok := packs.Sizes[p]
			switch {
			case !ok:
				u.Missing++
			case needed[p] == 1:
				u.Alone += size
			default:
				u.Shared += size
			}
		}
		uses = append(uses, u)
	}
	return uses, stored, c.damaged()
}

// Verified reads what verifications wrote down; nil: there was none.
func (c *Catalog) Verified(ctx context.Context) (*Verified, error) {
	keys, err := ledgerKeys(ctx, c.bucket)
	if err != nil || len(keys) == 0 {
		return nil, err
	}
	last, err := runid.Parse(keys[len(keys)-1][len(LedgerDir):])
	if err != nil {
		return nil, err
	}
	cfg := VerifyConfig{Bucket: c.bucket}
	cfg.setDefaults()
	v := &verifier{cfg: cfg, report: &VerifyReport{}, problems: newProblems(), warnings: newProblems()}
	for i := range c.backups {
		v.needed.Union(&c.backups[i].footprint)
	}
	if err := v.readLedger(ctx); err != nil {
		return nil, err
	}
	r := &Verified{Last: last.Time().UTC(), Packs: v.needed.Len(), Result: v.ledger.last}
	for p := range v.needed.All() {
		at, read := v.ledger.read[p]
		switch {
		case !read:
			r.NeverRead++
		case r.Oldest == nil || at.Before(*r.Oldest):
			at = at.UTC()
			r.Oldest = &at
		}
	}
	return r, nil
}
