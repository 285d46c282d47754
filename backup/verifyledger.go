package backup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"wal-e/chunkstore"
	"wal-e/index"
	"wal-e/internal/envelope"
	"wal-e/internal/runid"
	"wal-e/internal/storage"
)

// A Share is how much of the packs a verification reads: a percentage of their
// bytes, or bytes. The zero value means all.
type Share struct {
	Percent float64
	Bytes   int64
}

// of returns the share of total bytes.
func (s Share) of(total int64) int64 {
	if s.Percent > 0 {
		return int64(s.Percent / 100 * float64(total))
	}
	return s.Bytes
}

// A ShareReport says where reading by shares stands, after the share was read.
type ShareReport struct {
	// NeverRead are packs that no verification on record has found whole yet.
	NeverRead      int   `json:"never_read_packs"`
	NeverReadBytes int64 `json:"never_read_bytes"`
	// Oldest is when the pack was read that waited longest of the others; nil
	// when there are none.
	Oldest *time.Time `json:"oldest_read,omitempty"`
}

// The ledger of what verifications have read and found stands in the archive, so
// that any host goes on where another one stopped, and tells how it went. Each
// verification creates an object that says all that is known, so that nothing needs
// to be overwritten; the newest few are read and united, for two verifications may
// have run at once.
const (
	// LedgerDir is where the archive keeps what verifications found.
	LedgerDir     = "verified_006/"
	ledgerKind    = "verified"
	ledgerVersion = 1
	ledgerLimit   = envelope.MaxSize // bytes
	ledgerKept    = 4                // objects that are read; older ones say nothing more
	ledgerTimeout = time.Minute      // to store one after an interruption
)

// A ledger says when packs were read last and found whole.
type ledger struct {
	read map[index.PackID]time.Time
	// others are packs that this verification has nothing to do with, by the second
	// in which they were read; nil when nobody needs them.
	others map[int64]*chunkstore.Footprint
	// last is what the last verification of all backups came to; nil: unknown.
	last *VerifyResult
}

// newLedger returns an empty ledger. One of all backups forgets packs that none of
// them needs.
func newLedger(all bool) *ledger {
	l := &ledger{read: make(map[index.PackID]time.Time)}
	if !all {
		l.others = make(map[int64]*chunkstore.Footprint)
	}
	return l
}

// ledgerGroup is the packs that were read at one time, as the ledger is stored.
type ledgerGroup struct {
	At    time.Time            `json:"at"`
	Packs chunkstore.Footprint `json:"packs"`
}

type ledgerBody struct {
	Host string        `json:"host"` // for people
	Read []ledgerGroup `json:"read"`
	Last *VerifyResult `json:"last,omitempty"`
}

// encode returns the ledger as an object that host writes.
func (l *ledger) encode(host string) ([]byte, error) {
	groups := make(map[int64]*ledgerGroup)
	for second, packs := range l.others {
		g := &ledgerGroup{At: time.Unix(second, 0).UTC()}
		g.Packs.Union(packs)
		groups[second] = g
	}
	for p, at := range l.read {
		g := groups[at.Unix()]
		if g == nil {
			g = &ledgerGroup{At: time.Unix(at.Unix(), 0).UTC()}
			groups[at.Unix()] = g
		}
		g.Packs.Add(p)
	}
	body := ledgerBody{Host: host, Read: make([]ledgerGroup, 0, len(groups)), Last: l.last}
	for _, g := range groups {
		body.Read = append(body.Read, *g)
	}
	slices.SortFunc(body.Read, func(a, b ledgerGroup) int { return a.At.Compare(b.At) })
	return envelope.Encode(ledgerKind, ledgerVersion, body)
}

// add takes what an object of the ledger says of the packs in need. Others are
// gone, or nobody's, unless the ledger keeps them.
func (l *ledger) add(data []byte, need *chunkstore.Footprint) error {
	var body ledgerBody
	if err := envelope.Decode(data, ledgerKind, ledgerVersion, &body); err != nil {
		return err
	}
	for _, g := range body.Read {
		if g.At.Unix() < 0 {
			continue // nobody read anything then
		}
		for p := range g.Packs.All() {
			switch {
			case need.Has(p):
				if g.At.After(l.read[p]) {
					l.read[p] = g.At
				}
			case l.others != nil:
				second := g.At.Unix()
				if l.others[second] == nil {
					l.others[second] = &chunkstore.Footprint{}
				}
				l.others[second].Add(p)
			}
		}
	}
	if r := body.Last; r != nil && r.At.Unix() >= 0 && (l.last == nil || !r.At.Before(l.last.At)) {
		l.last = r
	}
	return nil
}

// forgetFuture drops what is later than now: a clock that ran ahead must not keep
// packs from being read, nor a result from being replaced.
func (l *ledger) forgetFuture(now time.Time) {
	for p, at := range l.read {
		if at.After(now) {
			delete(l.read, p)
		}
	}
	for second := range l.others {
		if second > now.Unix() {
			delete(l.others, second)
		}
	}
	if l.last != nil && l.last.At.After(now) {
		l.last = nil
	}
}

// ledgerKeys lists the objects of the ledger, the oldest first.
func ledgerKeys(ctx context.Context, b storage.Bucket) ([]string, error) {
	var keys []string
	for o, err := range b.List(ctx, LedgerDir, "") {
		if err != nil {
			return nil, err
		}
		if _, err := runid.Parse(o.Key[len(LedgerDir):]); err == nil {
			keys = append(keys, o.Key)
		}
	}
	return keys, nil
}

// readLedger reads the ledger. A damaged object is warned of and costs that packs
// are read again sooner.
func (v *verifier) readLedger(ctx context.Context) error {
	keys, err := ledgerKeys(ctx, v.cfg.Bucket)
	if err != nil {
		return err
	}
	v.ledger = newLedger(v.query == query{})
	for _, key := range keys[max(0, len(keys)-ledgerKept):] {
		data, err := storage.ReadAll(ctx, v.cfg.Bucket, key, ledgerLimit)
		if err == nil {
			err = v.ledger.add(data, &v.needed)
		}
		switch {
		case err == nil || errors.Is(err, storage.ErrNotExist):
		case isDamage(err):
			v.warnings.add(key, err, "", "")
		default:
			return err
		}
	}
	v.ledger.forgetFuture(v.cfg.Now())
	return nil
}

// choose picks the packs to read: those that were read longest ago, at least one.
func (v *verifier) choose() {
	var packs []index.PackID
	for p := range v.needed.All() {
		if _, stored := v.sizes[p]; stored {
			packs = append(packs, p)
		}
	}
	slices.SortStableFunc(packs, func(a, b index.PackID) int {
		return cmp.Or(v.ledger.read[a].Compare(v.ledger.read[b]), slices.Compare(a.Run[:], b.Run[:]), cmp.Compare(a.Seq, b.Seq))
	})
	v.chosen = &chunkstore.Footprint{}
	left := v.cfg.Share.of(v.report.PackBytes)
	for i, p := range packs {
		if i > 0 && left <= 0 {
			break
		}
		v.chosen.Add(p)
		left -= v.sizes[p]
	}
}

// reads tells whether ReadData means this pack.
func (v *verifier) reads(p index.PackID) bool { return v.chosen == nil || v.chosen.Has(p) }

// storeLedger writes down what was read and whole and, when the verification came
// to its end, what it came to. It works after an interruption, too: what was read
// needn't be read again.
func (v *verifier) storeLedger(ctx context.Context, ended bool) error {
	if v.ledger == nil {
		return nil
	}
	now := v.cfg.Now()
	v.bad.mu.Lock()
	for p := range v.whole {
		v.ledger.read[p] = now
	}
	v.bad.mu.Unlock()
	if v.chosen != nil {
		v.report.Share = v.shareReport()
	}
	// Where there is nothing, nothing was proven.
	ended = ended && v.cfg.Record && v.query == query{} && len(v.report.Backups)+len(v.report.Problems) > 0
	if ended {
		v.ledger.last = v.result(now)
	}
	if len(v.whole) == 0 && !ended {
		return nil
	}
	data, err := v.ledger.encode(v.cfg.Host)
	if err != nil {
		return err
	}
	id, err := runid.New(now, nil)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), ledgerTimeout)
	defer cancel()
	switch err := storage.CreateBytes(ctx, v.cfg.Bucket, LedgerDir+id.String(), data, nil); {
	case err == nil:
		return v.dropLedgers(ctx)
	case v.chosen == nil:
		// What was proven is proven, also by a host that may only read.
		v.cfg.Log.WarnContext(ctx, "what the verification came to is not written down: status doesn't know of it", "detail", err.Error())
		return nil
	default:
		return fmt.Errorf("write down which packs were read, without which the next share is the same again: %w", err)
	}
}

// result is what the ledger says of this verification, which ended now.
func (v *verifier) result(now time.Time) *VerifyResult {
	r := &VerifyResult{
		At: now.UTC().Truncate(time.Second), Host: v.cfg.Host, Backups: len(v.report.Backups), WAL: v.cfg.MissingWAL != nil,
		Packs: v.report.Packs, ReadPacks: v.report.ReadPacks, ReadBytes: v.report.ReadBytes, Mended: v.report.Mended,
	}
	if !r.Mended && len(v.report.Problems) > 0 {
		r.Problems, r.First = len(v.report.Problems), v.report.Problems[0].Object+": "+v.report.Problems[0].Text
	}
	return r
}

// dropLedgers removes objects of the ledger that nobody reads any more, if this
// host may.
func (v *verifier) dropLedgers(ctx context.Context) error {
	keys, err := ledgerKeys(ctx, v.cfg.Bucket)
	if err == nil && len(keys) > ledgerKept {
		err = v.cfg.Bucket.Delete(ctx, keys[:len(keys)-ledgerKept]...)
	}
	if err != nil {
		v.cfg.Log.InfoContext(ctx, "old ledgers of verification stay", "detail", err.Error())
	}
	return nil
}

func (v *verifier) shareReport() *ShareReport {
	r := &ShareReport{}
	for p := range v.needed.All() {
		size, stored := v.sizes[p]
		at, read := v.ledger.read[p]
		switch {
		case !stored:
		case !read:
			r.NeverRead++
			r.NeverReadBytes += size
		case r.Oldest == nil || at.Before(*r.Oldest):
			t := at.UTC().Truncate(time.Second)
			r.Oldest = &t
		}
	}
	return r
}
