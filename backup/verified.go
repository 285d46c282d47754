package backup

import (
	"context"
	"time"

	"wal-e/internal/runid"
	"wal-e/internal/storage"
)

// Verified says how far verifications by shares (VerifyConfig.Share) have come.
type Verified struct {
	Last  time.Time `json:"last"`  // when the last one ended that found a pack whole
	Packs int       `json:"packs"` // that the backups need
	// NeverRead are those of them that none has found whole yet.
	NeverRead int `json:"never_read_packs"`
	// Oldest is when that one was read that waited longest of the others; nil: there
	// are none.
	Oldest *time.Time `json:"oldest_read"`
}

// ReadVerified reads what verifications by shares wrote down; nil: there was none.
// It needs no key.
func ReadVerified(ctx context.Context, b storage.Bucket) (*Verified, error) {
	keys, err := ledgerKeys(ctx, b)
	if err != nil || len(keys) == 0 {
		return nil, err
	}
	last, err := runid.Parse(keys[len(keys)-1][len(ledgerDir):])
	if err != nil {
		return nil, err
	}
	cfg := VerifyConfig{Bucket: b}
	cfg.setDefaults()
	v := &verifier{cfg: cfg, report: &VerifyReport{}, problems: newProblems(), warnings: newProblems()}
	if v.backups, _, err = readBackups(ctx, b, query{}); err != nil {
		return nil, err
	}
	for i := range v.backups {
		v.needed.Union(&v.backups[i].footprint)
	}
	if err := v.readLedger(ctx); err != nil {
		return nil, err
	}
	r := &Verified{Last: last.Time().UTC(), Packs: v.needed.Len()}
	for p := range v.needed.All() {
		at, read := v.ledger[p]
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
