package backup

import (
	"context"
	"errors"
	"iter"

	"wal-e/chunkstore"
	"wal-e/internal/chunk"
)

// A Change is how an entry of one backup differs from that of another.
type Change struct {
	Path string     `json:"path"`
	Kind ChangeKind `json:"change"`
	// Before and After are the sizes in bytes; zero of what isn't a file, or
	// isn't there.
	Before int64 `json:"bytes_before"`
	After  int64 `json:"bytes_after"`
	// New is how many bytes of the file, uncompressed, the packs of the earlier
	// backup don't hold. Where the two are of different epochs that is all but
	// the zeros.
	New int64 `json:"bytes_new"`
}

// A ChangeKind says what happened to an entry.
type ChangeKind string

// Kinds of changes.
const (
	Added      ChangeKind = "added"
	Removed    ChangeKind = "removed"
	Changed    ChangeKind = "changed"
	Attributes ChangeKind = "attributes" // same bytes; mode, owner, type or link differ
)

// Diff yields how the entries of b differ from those of a, in the order of
// their paths. What both backups share of their file tables isn't read. An
// error is yielded once, last.
func Diff(ctx context.Context, a, b *Tree) iter.Seq2[Change, error] {
	return func(yield func(Change, error) bool) {
		if err := diff(ctx, a, b, yield); err != nil && !errors.Is(err, errEnough) {
			yield(Change{}, err)
		}
	}
}

// errEnough ends a walk whose caller wants no more.
var errEnough = errors.New("enough")

func diff(ctx context.Context, a, b *Tree, yield func(Change, error) bool) error {
	inA, err := a.leaves(ctx)
	if err != nil {
		return err
	}
	inB, err := b.leaves(ctx)
	if err != nil {
		return err
	}
	nextA, stopA := iter.Pull2(a.entriesBut(ctx, inB))
	defer stopA()
	nextB, stopB := iter.Pull2(b.entriesBut(ctx, inA))
	defer stopB()
	x, errX, moreX := nextA()
	y, errY, moreY := nextB()
	for moreX || moreY {
		if err := errors.Join(errX, errY); err != nil {
			return err
		}
		order := comparePaths(x.Path, y.Path)
		if !moreX {
			order = 1
		} else if !moreY {
			order = -1
		}
		var old, now Entry
		if order <= 0 {
			old = x
			x, errX, moreX = nextA()
		}
		if order >= 0 {
			now = y
			y, errY, moreY = nextB()
		}
		c, same, err := b.compare(ctx, a, old, now)
		if err != nil {
			return err
		}
		if !same && !yield(c, nil) {
			return errEnough
		}
	}
	return errors.Join(errX, errY)
}

// compare compares two entries of a path; one of them may be none, with "" as
// its path.
func (t *Tree) compare(ctx context.Context, a *Tree, old, now Entry) (c Change, same bool, err error) {
	c = Change{Path: now.Path, Kind: Changed, Before: old.Content.Size, After: now.Content.Size}
	switch {
	case old.Path == "":
		c.Kind = Added
	case now.Path == "":
		c.Path, c.Kind = old.Path, Removed
		return c, false, nil
	case now.Type == old.Type && now.CRC == old.CRC && now.Content.Size == old.Content.Size:
		c.Kind = Attributes
		return c, old.Mode == now.Mode && old.Owner == now.Owner && old.Group == now.Group && old.Link == now.Link, nil
	}
	if now.Type == File && now.Content.Size > 0 {
		c.New, err = t.newBytes(ctx, a, now.Content)
	}
	return c, false, err
}

// newBytes counts the bytes of a file of t that a doesn't hold.
func (t *Tree) newBytes(ctx context.Context, a *Tree, c chunkstore.Content) (n int64, err error) {
	lists, err := t.reader.Lists(ctx, c)
	if err != nil {
		return 0, err
	}
	for i := range c.Extents() {
		l, err := lists(ctx, i)
		if err != nil {
			return 0, err
		}
		held, err := a.reader.Holds(l)
		if err != nil {
			return 0, err
		}
		left := c.Size
		if c.Extent > 0 {
			left = min(c.Extent, c.Size-int64(i)*c.Extent)
		}
		for _, s := range l {
			size := min(int64(s.Pages)*chunk.PageSize, left)
			left -= size
			if !s.Zero && !held[s.ID] {
				n += size
			}
		}
	}
	return n, nil
}

// leaves returns the ids of the leaves of the file table, for which only inner
// nodes are read, and the first leaf.
func (t *Tree) leaves(ctx context.Context) (map[chunk.ID]bool, error) {
	height := 0 // inner nodes above each leaf: all are equally deep
	for id := t.root; ; height++ {
		n, err := t.node(ctx, id, maxDepth-height)
		if err != nil {
			return nil, err
		}
		if len(n.children) == 0 {
			break
		}
		id = n.children[0].id
	}
	level := []chunk.ID{t.root}
	for depth := range height {
		var below []chunk.ID
		for _, id := range level {
			n, err := t.node(ctx, id, maxDepth-depth)
			if err != nil {
				return nil, err
			}
			for _, c := range n.children {
				below = append(below, c.id)
			}
		}
		level = below
	}
	found := make(map[chunk.ID]bool, len(level))
	for _, id := range level {
		found[id] = true
	}
	return found, nil
}

// entriesBut yields all entries but those of certain leaves.
func (t *Tree) entriesBut(ctx context.Context, leaves map[chunk.ID]bool) iter.Seq2[Entry, error] {
	return t.walk(ctx, "", func(id chunk.ID) bool { return leaves[id] })
}
