package backup

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"iter"
	"path"
	"strings"

	"wal-e/chunkstore"
	"wal-e/internal/chunk"
)

// An Entry is one line of the file table.
type Entry struct {
	Path  string // relative to the data directory, with slashes
	Type  EntryType
	Mode  fs.FileMode // permission bits
	Owner string      // user and group by name; "" when the host had none
	Group string
	// Link is where a Symlink points.
	Link string
	// Content and CRC (CRC-32C of the bytes) are of a File.
	Content chunkstore.Content
	CRC     uint32
}

// An EntryType says what an entry is.
type EntryType byte

// Types of entries. A Symlink is the link of a tablespace in pg_tblspc.
const (
	File      EntryType = 0
	Directory EntryType = 1
	Symlink   EntryType = 2
)

// The file table is a tree of nodes. A leaf holds entries, an inner node the
// ids of nodes with the first path of each. Where a node ends depends on the
// path of its last entry, so that a file that comes or goes changes one leaf
// and the nodes above it:
//
//	leaf:  byte 0, then entries, as appendEntry writes them
//	inner: byte 1, then children: uvarint length, first path, 16 bytes id
//
// Paths come in the order of a walk: element by element, in byte order.
const (
	leafNode  = 0
	innerNode = 1

	// A node ends after a path with one in nodeEntries hashes, at the latest
	// after maxNodeEntries.
	nodeEntries    = 256
	maxNodeEntries = 2048
	maxPath        = 4096 // bytes, as PATH_MAX
	maxDepth       = 8
)

// appendEntry appends the encoding of e to dst:
//
//	byte type, uvarint mode, then strings (uvarint length, bytes): path, owner,
//	group; a Symlink: string link; a File: 4 bytes CRC-32C, little-endian, and
//	the content, as chunkstore.AppendContent writes it
func appendEntry(dst []byte, e Entry) []byte {
	dst = append(dst, byte(e.Type))
	dst = binary.AppendUvarint(dst, uint64(e.Mode.Perm()))
	for _, s := range []string{e.Path, e.Owner, e.Group} {
		dst = appendString(dst, s)
	}
	switch e.Type {
	case Symlink:
		dst = appendString(dst, e.Link)
	case File:
		dst = binary.LittleEndian.AppendUint32(dst, e.CRC)
		dst = chunkstore.AppendContent(dst, e.Content)
	}
	return dst
}

func appendString(dst []byte, s string) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(s)))
	return append(dst, s...)
}

// parseEntry parses an entry from the beginning of b and returns the rest. Its
// path was checked: it stays within the directory that it is joined to.
func parseEntry(b []byte) (e Entry, rest []byte, err error) {
	if len(b) == 0 {
		return e, nil, errShort
	}
	e.Type, b = EntryType(b[0]), b[1:]
	mode, n := binary.Uvarint(b)
	if n <= 0 || mode > uint64(fs.ModePerm) {
		return e, nil, errShort
	}
	e.Mode, b = fs.FileMode(mode), b[n:]
	for _, s := range []*string{&e.Path, &e.Owner, &e.Group} {
		if *s, b, err = parseString(b); err != nil {
			return e, nil, err
		}
	}
	if err := checkPath(e.Path); err != nil {
		return e, nil, err
	}
	switch e.Type {
	case Directory:
	case Symlink:
		e.Link, b, err = parseString(b)
	case File:
		if len(b) < 4 {
			return e, nil, errShort
		}
		e.CRC = binary.LittleEndian.Uint32(b)
		e.Content, b, err = chunkstore.ParseContent(b[4:])
	default:
		err = fmt.Errorf("%w: entry of type %d", chunkstore.ErrDamaged, e.Type)
	}
	return e, b, err
}

var errShort = fmt.Errorf("%w: file table is cut short", chunkstore.ErrDamaged)

func parseString(b []byte) (string, []byte, error) {
	n, size := binary.Uvarint(b)
	if size <= 0 || n > maxPath || n > uint64(len(b)-size) {
		return "", nil, errShort
	}
	return string(b[size : size+int(n)]), b[size+int(n):], nil
}

// checkPath refuses paths that aren't in their plain relative form.
func checkPath(p string) error {
	if p == "" || p == "." || path.IsAbs(p) || path.Clean(p) != p || p == ".." || strings.HasPrefix(p, "../") || strings.ContainsRune(p, 0) {
		return fmt.Errorf("%w: file table has the path %q", chunkstore.ErrDamaged, p)
	}
	return nil
}

// A tableBuilder makes the file table from entries in the order of their paths.
type tableBuilder struct {
	writer *chunkstore.Writer
	levels []level
	files  int64
	bytes  int64
}

// A level is the open node of one height.
type level struct {
	data  []byte
	first string
	count int
}

func (b *tableBuilder) add(e Entry) error {
	if e.Type == File {
		b.files++
		b.bytes += e.Content.Size
	}
	return b.append(0, e.Path, e.Path, appendEntry(nil, e))
}

// append adds an item to the open node of a height. first is the first path
// under the item, last its last.
func (b *tableBuilder) append(height int, first, last string, item []byte) error {
	if height == len(b.levels) {
		b.levels = append(b.levels, level{})
	}
	l := &b.levels[height]
	if l.count == 0 {
		l.first = first
		l.data = append(l.data[:0], innerNode)
		if height == 0 {
			l.data[0] = leafNode
		}
	}
	l.data = append(l.data, item...)
	l.count++
	if l.count >= maxNodeEntries || l.count > 1 && endsNode(height, last) {
		return b.close(height, last)
	}
	return nil
}

// endsNode tells whether a node of a height ends after a path. Heights look at
// different bits, or every inner node would end after its first child.
func endsNode(height int, last string) bool {
	sum := crc32.Checksum([]byte(last), crc32.MakeTable(crc32.Castagnoli))
	for range height {
		sum = sum*2654435761 + 1
		sum ^= sum >> 15
	}
	return sum%nodeEntries == 0
}

// close stores the open node of a height and adds it to the height above.
func (b *tableBuilder) close(height int, last string) error {
	l := &b.levels[height]
	id, err := b.writer.Node(l.data)
	if err != nil {
		return err
	}
	item := append(appendString(nil, l.first), id[:]...)
	first := l.first
	l.count = 0
	return b.append(height+1, first, last, item)
}

// finish stores the nodes that are open and returns the root.
func (b *tableBuilder) finish() (chunk.ID, error) {
	if len(b.levels) == 0 {
		return chunk.ID{}, errors.New("backup: no files")
	}
	for height := 0; ; height++ {
		top := height == len(b.levels)-1
		l := &b.levels[height]
		if l.count == 0 {
			continue
		}
		if top && height > 0 && l.count == 1 {
			// A single child is the root itself.
			_, rest, err := parseString(l.data[1:])
			return chunk.ID(rest[:chunk.HashSize]), err
		}
		if top {
			return b.writer.Node(l.data)
		}
		if err := b.close(height, l.first); err != nil {
			return chunk.ID{}, err
		}
	}
}

// Entries yields the entries of a file table in order. An error is yielded
// once, last.
func Entries(ctx context.Context, r *chunkstore.Reader, root chunk.ID) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		if _, err := walkTable(ctx, r, root, maxDepth, yield); err != nil {
			yield(Entry{}, err)
		}
	}
}

// walkTable visits a subtree; more is false when yield wants no more.
func walkTable(ctx context.Context, r *chunkstore.Reader, id chunk.ID, depth int, yield func(Entry, error) bool) (more bool, err error) {
	if depth == 0 {
		return false, fmt.Errorf("%w: file table is too deep", chunkstore.ErrDamaged)
	}
	data, err := r.Node(ctx, id)
	if err != nil {
		return false, fmt.Errorf("file table: %w", err)
	}
	if len(data) == 0 || data[0] > innerNode {
		return false, fmt.Errorf("file table: %w: node %s is of no known kind", chunkstore.ErrDamaged, id)
	}
	for rest := data[1:]; len(rest) > 0; {
		if data[0] == leafNode {
			var e Entry
			if e, rest, err = parseEntry(rest); err != nil {
				return false, fmt.Errorf("node %s: %w", id, err)
			}
			if !yield(e, nil) {
				return false, nil
			}
			continue
		}
		if _, rest, err = parseString(rest); err != nil || len(rest) < chunk.HashSize {
			return false, fmt.Errorf("node %s: %w", id, errShort)
		}
		child := chunk.ID(rest[:chunk.HashSize])
		rest = rest[chunk.HashSize:]
		if more, err := walkTable(ctx, r, child, depth-1, yield); err != nil || !more {
			return more, err
		}
	}
	return true, nil
}
