// Package compat knows the layout of classic WAL-E, version 005: which objects
// are classic, and whether a prefix holds any.
//
// It promises to tell a prefix apart with a handful of requests, and never to
// guess: what can't be listed is an error, not an empty prefix.
package compat

import (
	"context"
	"fmt"

	"wal-e/internal/storage"
)

// A Layout is how objects are named under a prefix.
type Layout string

// The layouts.
const (
	Classic Layout = "classic" // version 005, classic WAL-E's
	Dedup   Layout = "dedup"   // version 006, ours
)

// Contents says which layouts a prefix holds objects of.
type Contents struct {
	Classic bool // there are objects of version 005
	Dedup   bool // there are objects of version 006
}

// Empty reports whether the prefix holds neither.
func (c Contents) Empty() bool { return c == Contents{} }

// Layout returns the layout to write in when nobody says otherwise: the one the
// prefix already has, and Dedup in an empty one. Once a prefix holds objects of
// version 006 it stays with that.
func (c Contents) Layout() Layout {
	if c.Classic && !c.Dedup {
		return Classic
	}
	return Dedup
}

// Detect finds out what the prefix b holds. It takes at most five listings, each
// of which ends at its first object.
func Detect(ctx context.Context, b storage.Bucket) (Contents, error) {
	var c Contents
	var err error
	// What a push makes first is asked for first.
	if c.Dedup, err = holds(ctx, b, "chunks_006/config/", "wal_006/", "basebackups_006/"); err != nil {
		return Contents{}, err
	}
	if c.Classic, err = holds(ctx, b, "wal_005/", "basebackups_005/"); err != nil {
		return Contents{}, err
	}
	return c, nil
}

// holds reports whether there is an object under any of the prefixes.
func holds(ctx context.Context, b storage.Bucket, prefixes ...string) (bool, error) {
	for _, prefix := range prefixes {
		for _, err := range b.List(ctx, prefix, "") {
			if err != nil {
				return false, fmt.Errorf("compat: look for %s in %s: %w", prefix, b.URL(), err)
			}
			return true, nil
		}
	}
	return false, nil
}
