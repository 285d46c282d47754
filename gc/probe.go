package gc

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"wal-e/internal/runid"
	"wal-e/internal/storage"
)

// probeDir holds objects that are made to see how a store behaves.
const probeDir = "probe_006/"

// probeAge is how old a probe must be to be taken for left over.
const probeAge = time.Hour

// ErrWeakStore is wrapped when a store doesn't keep what a collection rests on.
var ErrWeakStore = errors.New("store doesn't keep its promises")

// Probe makes sure that the store of a configuration keeps what a collection
// rests on, and returns the store's clock. It creates an object and removes it,
// and others like it that were left.
func Probe(ctx context.Context, cfg Config) (time.Time, error) {
	if err := cfg.setDefaults(); err != nil {
		return time.Time{}, err
	}
	c := &collector{cfg: cfg, b: cfg.Bucket}
	clock, err := c.probe(ctx)
	if err != nil {
		return clock, fmt.Errorf("probe %s: %w", cfg.Bucket.URL(), err)
	}
	return clock, nil
}

// probe makes sure that the store has one winner per name, that what was
// written can be read, and that it is in a listing that begins afterwards. It
// returns the store's clock. That nothing else uses the prefix doesn't help
// against a listing that lacks what was stored long ago.
func (c *collector) probe(ctx context.Context) (time.Time, error) {
	if err := storage.CheckListings(ctx, c.b); errors.Is(err, storage.ErrUnsettled) {
		return time.Time{}, fmt.Errorf("%w: %w", ErrWeakStore, err)
	} else if err != nil {
		return time.Time{}, err
	}
	id, err := runid.New(c.cfg.Now(), c.cfg.Rand)
	if err != nil {
		return time.Time{}, err
	}
	key := probeDir + id.String()
	clock, err := c.probeObject(ctx, key)
	if err != nil {
		return clock, err
	}
	c.heedWeakness()
	left, listed, err := c.listProbes(ctx, key, clock)
	if err != nil {
		return clock, err
	}
	if err := c.delete(ctx, append(left, key)); err != nil {
		return clock, err
	}
	if !listed && c.cfg.Settle <= 0 && !c.cfg.Exclusive {
		return clock, fmt.Errorf("%w: %s was created in %s and isn't listed; collect with --settle and the time that its listings "+
			"lag at most, or with --exclusive while nothing else uses the archive", ErrWeakStore, key, c.b.URL())
	}
	return clock, nil
}

// weakSettle is how long listings of a weak store may lag when nobody knows
// better. It is longer than what Swift's are seen to do while it is healthy.
const weakSettle = time.Minute

// heedWeakness has a collection wait for a store that is known to be weak. Some
// show what they lack only when they are asked to create.
func (c *collector) heedWeakness() {
	if c.cfg.Settle <= 0 && !c.cfg.Exclusive && storage.Weakness(c.b) != "" {
		c.cfg.Settle = weakSettle
	}
}

// probeObject creates a probe, tries to create it again, and reads it.
func (c *collector) probeObject(ctx context.Context, key string) (time.Time, error) {
	first, second := []byte("first\n"), []byte("second\n")
	// A retry after a lost answer may find our own object.
	if err := storage.CreateBytes(ctx, c.b, key, first, nil); err != nil && !errors.Is(err, storage.ErrExist) {
		return time.Time{}, err
	}
	err := storage.CreateBytes(ctx, c.b, key, second, nil)
	if err != nil && !errors.Is(err, storage.ErrExist) {
		return time.Time{}, err
	}
	if err == nil && !c.cfg.Exclusive {
		return time.Time{}, fmt.Errorf("%w: %s created %s twice; collect with --exclusive while nothing else uses the archive",
			ErrWeakStore, c.b.URL(), key)
	}
	data, err := storage.ReadAll(ctx, c.b, key, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("read %s of %s, which was just created: %w", key, c.b.URL(), err)
	}
	if string(data) != string(first) && !c.cfg.Exclusive {
		return time.Time{}, fmt.Errorf("%w: %s of %s holds %q, created was %q", ErrWeakStore, key, c.b.URL(), data, first)
	}
	a, err := c.b.Stat(ctx, key)
	return a.ModTime, err
}

// listProbes tells whether a probe is listed, and which others were left over.
func (c *collector) listProbes(ctx context.Context, key string, clock time.Time) (left []string, listed bool, err error) {
	for o, err := range c.b.List(ctx, probeDir, "") {
		if err != nil {
			return nil, false, err
		}
		if o.Key == key {
			listed = true
		} else if _, err := runid.Parse(strings.TrimPrefix(o.Key, probeDir)); err == nil && clock.Sub(o.ModTime) > probeAge {
			left = append(left, o.Key)
		}
	}
	return left, listed, nil
}
