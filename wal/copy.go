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
			have, err := cfg.To.Stat(ctx, key)
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
				if err := c.same(key, want.Size, have.Size); err != nil {
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
func CopyFrom(ctx context.Context, cfg CopyConfig, first uint64, size postgres.SegmentSize) (Copied, error) {
	c := &copier{cfg: cfg}
	folder := SystemPrefix(cfg.System)
	return c.run(ctx, func(send func(string, int64)) error {
		// Both listings are in order, so neither is held.
		next, stop := iter.Pull2(cfg.To.List(ctx, folder, ""))
		defer stop()
		have, err, ok := next()
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
			if !wanted(strings.TrimPrefix(o.Key, folder), first, size) {
				continue
			}
			if ok && have.Key == o.Key {
				if err := c.same(o.Key, o.Size, have.Size); err != nil {
					return err
				}
				continue
			}
			send(o.Key, o.Size)
		}
		return nil
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

// same complains of a name under which the stores have different objects.
func (c *copier) same(key string, want, have int64) error {
	if want == have {
		return nil
	}
	return fault.WALConflict.Errorf("%s has %d bytes in %s and %d in %s: two clusters may have archived it: copy to another prefix, or compare both with `wal-e wal-show`",
		key, want, c.cfg.From.URL(), have, c.cfg.To.URL())
}

// send copies one object and makes sure that it arrived whole.
func (c *copier) send(ctx context.Context, key string, size int64) error {
	err := c.stream(ctx, key, size)
	if errors.Is(err, storage.ErrExist) {
		err = nil // archived there since, or sent before an answer was lost
	}
	if err != nil {
		return err
	}
	a, err := c.cfg.To.Stat(ctx, key)
	if err != nil {
		return err
	}
	if err := c.same(key, size, a.Size); err != nil {
		return err
	}
	c.files.Add(1)
	c.bytes.Add(size)
	if c.cfg.Progress != nil {
		c.cfg.Progress(size)
	}
	return nil
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
