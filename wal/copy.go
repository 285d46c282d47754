package wal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"wal-e/internal/fault"
	"wal-e/internal/postgres"
	"wal-e/internal/storage"
)

// A CopyConfig says where WAL files are copied from and to. Both are required.
// Objects are copied as they are, so no key is needed.
type CopyConfig struct {
	From, To storage.Bucket
	System   postgres.SystemID
	Files    int         // at once; 0 means 4
	Progress func(int64) // bytes of each file that was sent; may be nil, else called by several at once
}

// Copied says what was sent.
type Copied struct {
	Files int
	Bytes int64
}

// copyHeld is the size in bytes up to which an object is held while it is sent,
// so that it can be sent again.
const copyHeld = 32 << 20

// CopyFiles copies the named files that the destination lacks. A file that the
// source lacks is an error that wraps storage.ErrNotExist, unless the
// destination has it.
func CopyFiles(ctx context.Context, cfg CopyConfig, names []string) (Copied, error) {
	c := &copier{cfg: cfg}
	return c.run(ctx, func(send func(string, int64)) error {
		for _, name := range names {
			key := Key(cfg.System, name)
			_, err := cfg.To.Stat(ctx, key)
			there := err == nil
			if err != nil && !errors.Is(err, storage.ErrNotExist) {
				return err
			}
			want, err := cfg.From.Stat(ctx, key)
			switch {
			case there && errors.Is(err, storage.ErrNotExist):
				continue
			case err != nil:
				return fmt.Errorf("WAL file %s that the backup needs: %w", name, err)
			case there:
				if err := c.same(ctx, key); err != nil {
					return err
				}
			default:
				send(key, want.Size)
			}
		}
		return nil
	})
}

// CopyFrom copies all that the destination lacks of a system: its segments from
// number first on, on all timelines, with what belongs to them, and all
// histories. What a collection removes in the meantime is an error.
//
// Of files that both have, those are compared after which something is to be sent,
// the last of each timeline, histories, and any of different sizes. A
// cluster that went another way writes other bytes from there on, so the last file
// that it archived here is one of those, and nothing is sent behind it.
func CopyFrom(ctx context.Context, cfg CopyConfig, first uint64, size postgres.SegmentSize) (Copied, error) {
	c := &copier{cfg: cfg}
	folder := SystemPrefix(cfg.System)
	return c.run(ctx, func(send func(string, int64)) error {
		// Both listings are in order, so neither is held.
		next, stop := iter.Pull2(cfg.To.List(ctx, folder, ""))
		defer stop()
		have, err, ok := next()
		last := "" // of those that both have, not compared yet
		settle := func() error {
			key := last
			last = ""
			if key == "" {
				return nil
			}
			return c.same(ctx, key)
		}
		for o, lerr := range cfg.From.List(ctx, folder, "") {
			if lerr != nil {
				return lerr
			}
			for err == nil && ok && have.Key < o.Key {
				have, err, ok = next()
			}
			if err != nil {
				return err
			}
			name := strings.TrimPrefix(o.Key, folder)
			if !wanted(name, first, size) {
				continue
			}
			both := ok && have.Key == o.Key
			if !both || !strings.HasPrefix(last, folder+name[:len("00000001")]) {
				if err := settle(); err != nil {
					return err
				}
			}
			switch {
			case !both:
				send(o.Key, o.Size)
			case o.Size != have.Size, postgres.ParseWALFile(name).Kind == postgres.HistoryFile:
				if err := c.same(ctx, o.Key); err != nil {
					return err
				}
			default:
				last = o.Key
			}
		}
		return settle()
	})
}

// wanted tells whether a file belongs to the segments from first on.
func wanted(name string, first uint64, size postgres.SegmentSize) bool {
	f := postgres.ParseWALFile(name)
	switch f.Kind {
	case postgres.HistoryFile:
		return true
	case postgres.SegmentFile, postgres.PartialFile, postgres.BackupHistoryFile:
		seg, err := postgres.ParseSegment(f.Segment, size)
		return err == nil && seg.No >= first
	}
	return false
}

// copier is one copy under way.
type copier struct {
	cfg          CopyConfig
	files, bytes atomic.Int64
}

// run calls list, which names what is to be sent, while that is sent.
func (c *copier) run(ctx context.Context, list func(send func(key string, size int64)) error) (Copied, error) {
	g, gctx := errgroup.WithContext(ctx)
	if c.cfg.Files == 0 {
		c.cfg.Files = 4
	}
	g.SetLimit(c.cfg.Files)
	err := list(func(key string, size int64) {
		if gctx.Err() != nil {
			return // Wait says why
		}
		g.Go(func() error { return c.send(gctx, key, size) })
	})
	if werr := g.Wait(); werr != nil {
		err = werr
	}
	if err == nil {
		err = ctx.Err()
	}
	return Copied{int(c.files.Load()), c.bytes.Load()}, err
}

// same makes sure that both stores have the same file under a key, however it was
// compressed.
func (c *copier) same(ctx context.Context, key string) error {
	want, err := ReadIdentity(ctx, c.cfg.From, key)
	if errors.Is(err, storage.ErrNotExist) {
		return nil // collected at the source, and the destination has it
	}
	if err != nil {
		return err
	}
	have, err := ReadIdentity(ctx, c.cfg.To, key)
	if err != nil {
		return err
	}
	if want.equal(have) {
		return nil
	}
	return fault.WALConflict.Errorf("%s has %s in %s and %s in %s: two clusters may have archived it: copy to another prefix, or compare both with `wal-e wal-show`",
		key, want, c.cfg.From.URL(), have, c.cfg.To.URL())
}

// send copies one object and makes sure that it arrived whole.
func (c *copier) send(ctx context.Context, key string, size int64) error {
	err := c.stream(ctx, key, size)
	if errors.Is(err, storage.ErrExist) {
		err = c.same(ctx, key) // archived there since, or sent before an answer was lost
	} else if err == nil {
		err = c.arrived(ctx, key, size)
	}
	if err != nil {
		return err
	}
	c.files.Add(1)
	c.bytes.Add(size)
	if c.cfg.Progress != nil {
		c.cfg.Progress(size)
	}
	return nil
}

// arrived makes sure that an object has its size at the destination.
func (c *copier) arrived(ctx context.Context, key string, size int64) error {
	a, err := c.cfg.To.Stat(ctx, key)
	if err == nil && a.Size != size {
		err = fmt.Errorf("%s has %d bytes in %s after %d were sent: look at the storage", key, a.Size, c.cfg.To.URL(), size)
	}
	return err
}

func (c *copier) stream(ctx context.Context, key string, size int64) (err error) {
	if size <= copyHeld {
		data, err := storage.ReadAll(ctx, c.cfg.From, key, size)
		if err != nil {
			return err
		}
		return c.cfg.To.Create(ctx, key, bytes.NewReader(data), size, nil)
	}
	body, err := c.cfg.From.Get(ctx, key, 0, -1)
	if err != nil {
		return err
	}
	defer func() { _ = body.Close() }() // it was read to its end, or err says why not
	return c.cfg.To.Create(ctx, key, struct{ io.Reader }{body}, size, nil)
}
