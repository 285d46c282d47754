package chunkstore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"wal-e/index"
	"wal-e/internal/envelope"
	"wal-e/internal/fault"
	"wal-e/internal/runid"
	"wal-e/internal/storage"
)

// A CopyConfig says how a backup is copied to another prefix. From, To and Host
// are required. No key is needed, whether or not the backup is encrypted.
type CopyConfig struct {
	From, To storage.Bucket
	Host     string
	HostID   string
	Program  string

	// WAL makes sure that every segment the backup needs is stored in To. It is
	// called once nobody may remove WAL there that the copy needs.
	WAL func(ctx context.Context, o *Outcome) error

	Packs    int                     // packs held and on their way at once; 0 means 3
	Progress func(done, total int64) // bytes of packs; nil tells nobody, else it is called by several at once
	Now      func() time.Time        // nil means time.Now
}

// Copied says what a copy stored.
type Copied struct {
	Ref   Ref   // the copy's own run, in To
	Packs int   // that To didn't have
	Bytes int64 // of those
	Found int   // packs that To had
}

// ErrVanished is wrapped by Copy when what it reads was removed, as it is when
// the backup is deleted in the meantime.
var ErrVanished = errors.New("it was removed at the source while it was copied")

// errDestination is wrapped when the destination can't take copies from here.
var errDestination = errors.New("not a place for copies of this archive")

const copyPacks = 3

// Copy copies one backup: a push at the destination, with a run of its own and
// packs and index objects of the same names and bytes, through steps W1 to W6.
// What is there already isn't sent again, so a copy that was stopped goes on.
// PrepareCopy must have been called.
//
// Each pack is read once, all its checksums are compared before it is sent, and
// its size at the destination is listed before the copy is committed.
func Copy(ctx context.Context, cfg CopyConfig, ref Ref) (*Copied, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Packs == 0 {
		cfg.Packs = copyPacks
	}
	old, err := ReadOutcome(ctx, cfg.From, ref)
	if errors.Is(err, storage.ErrNotExist) {
		err = fmt.Errorf("%w: %w", ErrVanished, err)
	}
	if err != nil {
		return nil, fmt.Errorf("copy backup %s: %w", ref, err)
	}
	if old.Result != Commit {
		return nil, fault.NoBackup.Errorf("copy backup %s: it was never complete (%s)", ref, old.Reason)
	}
	origin := old.Origin(ref)
	intent := Intent{
		Host: cfg.Host, HostID: cfg.HostID, Begun: cfg.Now().UTC(), System: old.System, Start: old.Start,
		Program: cfg.Program, Epoch: old.Epoch, CopyOf: &origin, Copies: &old.Footprint,
	}
	if data, err := envelope.Encode(intentKind, intentVersion, intent); err != nil || len(data) > intentLimit {
		return nil, errors.Join(err, fmt.Errorf("copy backup %s: its footprint of %d packs is too large for an intent", ref, old.Footprint.Len()))
	}
	c := &copying{
		cfg: cfg, from: ref, old: old, origin: origin,
		push: &Push{store: &Store{bucket: cfg.To}, domain: &domain{}, cfg: PushConfig{Name: ref.Name, Now: cfg.Now, Intent: intent}},
	}
	c.push.footprint.Union(&old.Footprint)
	// What was removed there once never comes back, so a run would only leave
	// something to collect. The marks that count are read after W1.
	if err := c.checkMarks(ctx); err != nil {
		return nil, fmt.Errorf("copy backup %s to %s: %w", ref, cfg.To.URL(), err)
	}
	run, err := createIntent(ctx, cfg.To, ref.Name, intent, cfg.Now) // W1
	if err != nil {
		return nil, err
	}
	c.push.ref, c.result = run, &Copied{Ref: run}
	if err := c.run(ctx); err != nil {
		err = fmt.Errorf("copy backup %s to %s: %w", ref, cfg.To.URL(), err)
		if errors.Is(err, errUndecided) {
			return nil, err
		}
		actx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortTimeout) // as in Abort
		defer cancel()
		_, aerr := Fence(actx, cfg.To, run, cfg.Host, err.Error())
		return nil, errors.Join(err, aerr)
	}
	return c.result, nil
}

// Origin is the run that took the backup, of which ref may be a copy.
func (o *Outcome) Origin(ref Ref) runid.ID {
	if o.CopyOf != nil {
		return *o.CopyOf
	}
	return ref.Run
}

// copying is one copy under way.
type copying struct {
	cfg    CopyConfig
	from   Ref
	old    *Outcome
	origin runid.ID
	push   *Push // the run at the destination
	result *Copied

	sizes map[index.PackID]int64 // of the packs at the source
}

// run is W2 to W6.
func (c *copying) run(ctx context.Context) error {
	runs := c.old.Footprint.Runs()
	var err error
	if c.sizes, err = (&Store{bucket: c.cfg.From}).packsOf(ctx, runs); err != nil {
		return err
	}
	there, err := c.push.store.packsOf(ctx, runs)
	if err != nil {
		return err
	}
	if err := c.checkMarks(ctx); err != nil { // W2 and W3
		return err
	}
	if err := c.packs(ctx, there); err != nil { // W4
		return err
	}
	if err := c.indexes(ctx, runs); err != nil {
		return err
	}
	if c.cfg.WAL != nil {
		if err := c.cfg.WAL(ctx, c.old); err != nil {
			return c.vanished(ctx, err)
		}
	}
	marks, err := readMarks(ctx, c.cfg.To, c.push.domain.marks) // W4a
	if err != nil {
		return err
	}
	if err := errors.Join(c.push.uncondemned(marks), c.stored(ctx, runs)); err != nil {
		return err
	}
	return c.commit(ctx)
}

// checkMarks reads the marks at the destination, which must leave room for the copy:
// none names a pack of it, whether that is stored or not, nor WAL that it needs.
func (c *copying) checkMarks(ctx context.Context) error {
	marks, err := c.push.store.readMarks(ctx, c.push.domain)
	if err != nil {
		return err
	}
	switch start, horizon, below, err := c.push.belowHorizon(marks); {
	case err != nil:
		return err
	case below:
		return fmt.Errorf("%w: it starts at %s, and WAL below %s is being removed there", ErrCondemned, start, horizon)
	}
	return c.push.uncondemned(marks)
}

// commit is W5 and W6.
func (c *copying) commit(ctx context.Context) error {
	o := *c.old
	o.CopyOf = &c.origin
	if err := c.push.decide(ctx, &o); err != nil {
		return err
	}
	if _, err := c.cfg.To.Stat(ctx, c.push.ref.intentKey()); err != nil {
		return fmt.Errorf("%w: the intent of %s is gone: %w", errUndecided, c.push.ref, err)
	}
	return nil
}

// packs sends the packs that the destination lacks.
func (c *copying) packs(ctx context.Context, there map[index.PackID]int64) error {
	var missing []index.PackID
	var total int64
	for p := range c.old.Footprint.All() {
		size, known := c.sizes[p]
		have, stored := there[p]
		switch {
		case !stored && !known:
			return c.vanished(ctx, fmt.Errorf("pack %s of %s: %w", PackKey(p), c.cfg.From.URL(), storage.ErrNotExist))
		case !stored && size > index.MaxPackSize:
			return fmt.Errorf("pack %s of %s: %w: %d bytes long", PackKey(p), c.cfg.From.URL(), ErrDamaged, size)
		case !stored:
			missing = append(missing, p)
			total += size
		case known && have != size:
			return fmt.Errorf("pack %s has %d bytes in %s and %d in %s: %w: run `wal-e verify` on both",
				PackKey(p), size, c.cfg.From.URL(), have, c.cfg.To.URL(), ErrDamaged)
		default:
			c.result.Found++
		}
	}
	var done atomic.Int64
	tell := func(n int64) {
		if d := done.Add(n); c.cfg.Progress != nil {
			c.cfg.Progress(d, total)
		}
	}
	tell(0)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(c.cfg.Packs)
	alive := c.cfg.Now()
	for n, p := range missing {
		if gctx.Err() != nil {
			break
		}
		if c.cfg.Now().Sub(alive) > signEvery {
			if err := c.sign(gctx, uint32(n)); err != nil {
				return errors.Join(err, g.Wait())
			}
			alive = c.cfg.Now()
		}
		g.Go(func() error {
			if err := c.pack(gctx, p); err != nil {
				return c.vanished(ctx, err)
			}
			tell(c.sizes[p])
			return nil
		})
	}
	c.result.Packs, c.result.Bytes = len(missing), total
	if err := g.Wait(); err != nil {
		return err
	}
	return ctx.Err()
}

// signEvery is how often a long copy shows that it lives: what it stores stands
// under the names of other runs, and collections fence who is silent for a day.
const signEvery = time.Hour

// sign stores an index object of the copy's own run, over no packs. The number
// is that of the pack at hand, which grows.
func (c *copying) sign(ctx context.Context, n uint32) error {
	id := index.ObjectID{Run: c.push.ref.Run, N: n}
	return createOnce(ctx, c.cfg.To, indexKey(id), c.push.store.encodeIndex(id, nil))
}

// pack sends one pack.
func (c *copying) pack(ctx context.Context, p index.PackID) error {
	key := PackKey(p)
	data, err := storage.ReadAll(ctx, c.cfg.From, key, c.sizes[p])
	if err != nil {
		return err
	}
	if int64(len(data)) != c.sizes[p] {
		err = fmt.Errorf("%w: %d bytes, %d were listed", ErrDamaged, len(data), c.sizes[p])
	} else {
		err = checkPack(data)
	}
	if err != nil {
		return fmt.Errorf("pack %s of %s: %w: run `wal-e verify --all` there", key, c.cfg.From.URL(), err)
	}
	return createOnce(ctx, c.cfg.To, key, data)
}

// indexes sends the index objects of runs that the destination lacks, after
// their packs. They only make reading fast: packs tell the same themselves.
func (c *copying) indexes(ctx context.Context, runs []runid.ID) error {
	for _, run := range runs {
		from, err := ListIndexes(ctx, c.cfg.From, &run)
		if err != nil {
			return err
		}
		if from[run] == nil {
			continue
		}
		to, err := ListIndexes(ctx, c.cfg.To, &run)
		if err != nil {
			return err
		}
		g, gctx := errgroup.WithContext(ctx)
		g.SetLimit(c.cfg.Packs)
		for _, key := range from[run].Keys {
			if to[run] != nil && slices.Contains(to[run].Keys, key) {
				continue
			}
			g.Go(func() error {
				data, err := storage.ReadAll(gctx, c.cfg.From, key, index.MaxObjectSize)
				if errors.Is(err, storage.ErrNotExist) {
					return nil
				}
				if err != nil {
					return err
				}
				return createOnce(gctx, c.cfg.To, key, data)
			})
		}
		if err := g.Wait(); err != nil {
			return err
		}
	}
	return nil
}

// stored makes sure that the destination lists every pack with its size.
func (c *copying) stored(ctx context.Context, runs []runid.ID) error {
	there, err := c.push.store.packsOf(ctx, runs)
	if err != nil {
		return err
	}
	for p := range c.old.Footprint.All() {
		have, ok := there[p]
		if !ok { // some stores list late what they give to readers at once
			a, err := c.cfg.To.Stat(ctx, PackKey(p))
			if err != nil {
				return fmt.Errorf("pack %s isn't at the destination: %w", PackKey(p), err)
			}
			have = a.Size
		}
		if want, known := c.sizes[p]; known && have != want {
			return fmt.Errorf("pack %s has %d bytes at the destination, %d were sent: %w", PackKey(p), have, want, ErrDamaged)
		}
	}
	return nil
}

// vanished says of an object that is missing at the source whether the backup
// was deleted there.
func (c *copying) vanished(ctx context.Context, err error) error {
	if !errors.Is(err, storage.ErrNotExist) {
		return err
	}
	if _, serr := c.cfg.From.Stat(ctx, c.from.tombstoneKey()); serr == nil {
		return fault.Deleted.Errorf("%w: the backup was deleted: %w", ErrVanished, err)
	}
	if _, serr := c.cfg.From.Stat(ctx, c.from.outcomeKey()); errors.Is(serr, storage.ErrNotExist) {
		return fault.Deleted.Errorf("%w: the backup was deleted: %w", ErrVanished, err)
	}
	return fault.LostData.Errorf("the source lacks what the backup needs: run `wal-e verify --all` there: %w", err)
}

// checkPack compares all checksums of a whole pack. It needs no key: those of an
// encrypted one are over what was sealed.
func checkPack(b []byte) error {
	if len(b) < packHeader+footerSize || string(b[:len(packMagic)]) != packMagic {
		return fmt.Errorf("%w: no pack", ErrDamaged)
	}
	header, flags := packHeader, uint32(0)
	switch binary.LittleEndian.Uint32(b[len(packMagic):]) {
	case packVersion:
	case sealedVersion:
		header, flags = sealedPackHeader, flagSealed
		if len(b) < header+footerSize || crc(b[:header-4]) != binary.LittleEndian.Uint32(b[header-4:]) {
			return fmt.Errorf("%w: checksum of the header differs", ErrDamaged)
		}
	default:
		return fmt.Errorf("pack of a later version: %w", errNewer)
	}
	end := len(b) - footerSize
	length, sum, err := parseFooter(b[end:], flags)
	if err != nil {
		return err
	}
	if uint64(length) > uint64(end-header) {
		return fmt.Errorf("%w: directory of %d bytes", ErrDamaged, length)
	}
	end -= int(length)
	if crc(b[end:end+int(length)]) != sum {
		return fmt.Errorf("%w: checksum of the directory differs", ErrDamaged)
	}
	rest := b[header:end]
	for n := uint32(0); len(rest) > 0; n++ {
		r, err := parseRecordHeader(rest)
		if err != nil {
			return err
		}
		if r.number != n || uint64(r.stored) > uint64(len(rest)-recordHeader) {
			return fmt.Errorf("%w: record %d of %d bytes where %d was expected", ErrDamaged, r.number, r.stored, n)
		}
		payload := rest[recordHeader : recordHeader+int(r.stored)]
		if crc(payload) != r.sum {
			return fmt.Errorf("%w: checksum of record %d differs", ErrDamaged, n)
		}
		rest = rest[recordHeader+int(r.stored):]
	}
	return nil
}
