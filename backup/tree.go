package backup

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"iter"
	"os"
	"path/filepath"
	"strings"

	"wal-e/chunkstore"
	"wal-e/index"
	"wal-e/internal/chunk"
	"wal-e/internal/fault"
	"wal-e/internal/seal"
)

// A Tree looks into a backup without restoring it. It reads the nodes, lists
// and chunks on the way to what it is asked for, and no others.
type Tree struct {
	b       *Backup
	store   *chunkstore.Store
	root    chunk.ID
	control Entry // pg_control, which the file table hasn't

	scratch string // holds the index table
	table   *index.Table
	reader  *chunkstore.Reader
}

// OpenTree opens a backup, as Find returned it, for looking. store is that of
// its epoch. The index of the packs that the backup needs is read into a file
// below tempDir ("" means os.TempDir), which Close removes.
func OpenTree(ctx context.Context, store *chunkstore.Store, b *Backup, tempDir string) (t *Tree, err error) {
	if err := b.Open(store); err != nil {
		return nil, err
	}
	if !store.CanRead() {
		return nil, fmt.Errorf("backup %s: %w", b.Ref, seal.ErrNoPrivateKey)
	}
	t = &Tree{b: b, store: store}
	if t.root, err = chunk.ParseID(b.Manifest.Root); err != nil {
		return nil, err
	}
	control, rest, err := parseEntry(b.Manifest.Control)
	if err == nil && (len(rest) != 0 || control.Type != File) {
		err = fmt.Errorf("%w: manifest has no entry of a file for pg_control", chunkstore.ErrDamaged)
	}
	if err != nil {
		return nil, err
	}
	t.control = control
	if t.scratch, err = os.MkdirTemp(tempDir, "wal-e-tree-"); err != nil {
		return nil, err
	}
	if t.table, err = store.OpenTable(filepath.Join(t.scratch, "index.db")); err == nil {
		t.reader, err = store.NewReader(ctx, &b.Footprint, t.table)
	}
	if err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

// Close removes what the Tree keeps on disk.
func (t *Tree) Close() error {
	var err error
	if t.table != nil {
		err = t.table.Close()
	}
	return errors.Join(err, os.RemoveAll(t.scratch))
}

// Backup returns the backup that the tree is of.
func (t *Tree) Backup() *Backup { return t.b }

// Entries yields dir and all that is under it, in the order of their paths; ""
// means the whole cluster. An error is yielded once, last.
func (t *Tree) Entries(ctx context.Context, dir string) iter.Seq2[Entry, error] {
	return t.walk(ctx, dir, func(chunk.ID) bool { return false })
}

// walk yields entries under dir, but for those of nodes to skip.
func (t *Tree) walk(ctx context.Context, dir string, skip func(chunk.ID) bool) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		told := !under(t.control.Path, dir)
		more, err := t.visit(ctx, t.root, dir, skip, maxDepth, func(e Entry) bool {
			if !told && comparePaths(e.Path, t.control.Path) > 0 {
				told = true
				if !yield(t.control, nil) {
					return false
				}
			}
			return !under(e.Path, dir) || yield(e, nil)
		})
		switch {
		case err != nil:
			yield(Entry{}, err)
		case more && !told:
			yield(t.control, nil)
		}
	}
}

// ErrNoEntry is wrapped when a backup has nothing of that path.
var ErrNoEntry = errors.New("not in the backup")

// Entry returns the entry with that path, or an error that wraps ErrNoEntry.
func (t *Tree) Entry(ctx context.Context, path string) (Entry, error) {
	for e, err := range t.Entries(ctx, path) {
		if err != nil {
			return Entry{}, err
		}
		if e.Path == path {
			return e, nil
		}
		break
	}
	return Entry{}, fmt.Errorf("%s of %s: %w", path, t.b.Ref, ErrNoEntry)
}

// visit walks the part of a subtree that may have something under dir.
func (t *Tree) visit(ctx context.Context, id chunk.ID, dir string, skip func(chunk.ID) bool, depth int, yield func(Entry) bool) (more bool, err error) {
	if skip(id) {
		return true, nil
	}
	n, err := t.node(ctx, id, depth)
	if err != nil {
		return false, err
	}
	for _, e := range n.entries {
		if !yield(e) {
			return false, nil
		}
	}
	for i, c := range n.children {
		if i+1 < len(n.children) && comparePaths(n.children[i+1].first, dir) <= 0 {
			continue // what is under dir begins later
		}
		if comparePaths(c.first, dir) > 0 && !under(c.first, dir) {
			break
		}
		if more, err := t.visit(ctx, c.id, dir, skip, depth-1, yield); err != nil || !more {
			return more, err
		}
	}
	return true, nil
}

// A tableNode is a node of the file table: a leaf has entries, an inner one
// children.
type tableNode struct {
	entries  []Entry
	children []tableChild
}

type tableChild struct {
	first string
	id    chunk.ID
}

func (t *Tree) node(ctx context.Context, id chunk.ID, depth int) (*tableNode, error) {
	if depth == 0 {
		return nil, fmt.Errorf("%w: file table is too deep", chunkstore.ErrDamaged)
	}
	data, err := t.reader.Node(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("file table: %w", err)
	}
	n, err := parseNode(data)
	if err != nil {
		return nil, fmt.Errorf("file table: node %s: %w", id, err)
	}
	return n, nil
}

func parseNode(data []byte) (*tableNode, error) {
	if len(data) == 0 || data[0] > innerNode {
		return nil, fmt.Errorf("%w: it is of no known kind", chunkstore.ErrDamaged)
	}
	n := &tableNode{}
	for rest := data[1:]; len(rest) > 0; {
		var err error
		if data[0] == leafNode {
			var e Entry
			if e, rest, err = parseEntry(rest); err != nil {
				return nil, err
			}
			n.entries = append(n.entries, e)
			continue
		}
		var c tableChild
		if c.first, rest, err = parseString(rest); err != nil || len(rest) < chunk.HashSize {
			return nil, errShort
		}
		c.id, rest = chunk.ID(rest[:chunk.HashSize]), rest[chunk.HashSize:]
		n.children = append(n.children, c)
	}
	return n, nil
}

// Copy writes the bytes of a file to w, an extent at a time. When it returns
// nil they were what was backed up; an error that comes after some were written
// may mean that they weren't.
func (t *Tree) Copy(ctx context.Context, w io.Writer, e Entry) error {
	var sum uint32
	err := t.extents(ctx, e, func(data []byte) error {
		sum = crc32.Update(sum, crc32.MakeTable(crc32.Castagnoli), data)
		_, err := w.Write(data)
		return err
	})
	if err == nil && sum != e.CRC {
		err = fmt.Errorf("%w: the checksum of %s is %08x, the backup says %08x", chunkstore.ErrDamaged, e.Path, sum, e.CRC)
	}
	return err
}

// extents calls visit with the bytes of one extent after the other.
func (t *Tree) extents(ctx context.Context, e Entry, visit func(data []byte) error) error {
	if e.Type != File {
		return fault.NoEntry.Errorf("%s is no file", e.Path)
	}
	if e.Content.Size == 0 {
		return nil
	}
	if e.Content.Extent == 0 && e.Content.Size > maxInline {
		return fmt.Errorf("%w: file table has %s with %d bytes in one extent", chunkstore.ErrDamaged, e.Path, e.Content.Size)
	}
	lists, err := t.reader.Lists(ctx, e.Content)
	if err != nil {
		return err
	}
	var buf []byte
	for i := range e.Content.Extents() {
		l, err := lists(ctx, i)
		if err != nil {
			return err
		}
		n := e.Content.Size
		if e.Content.Extent > 0 {
			n = min(e.Content.Extent, e.Content.Size-int64(i)*e.Content.Extent)
		}
		if int64(cap(buf)) < n {
			buf = make([]byte, n)
		}
		if err := t.reader.Extent(ctx, l, buf[:n]); err != nil {
			return err
		}
		if err := visit(buf[:n]); err != nil {
			return err
		}
	}
	return nil
}

// under tells whether a path is dir or below it; everything is under "".
func under(path, dir string) bool {
	return dir == "" || path == dir || strings.HasPrefix(path, dir) && path[len(dir)] == '/'
}

// comparePaths orders paths as a walk meets them: element by element, each in
// byte order.
func comparePaths(a, b string) int {
	for i := 0; i < len(a) && i < len(b); i++ {
		x, y := a[i], b[i]
		switch {
		case x == y:
		case x == '/':
			return -1
		case y == '/':
			return 1
		case x < y:
			return -1
		default:
			return 1
		}
	}
	return len(a) - len(b)
}
