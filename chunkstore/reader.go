package chunkstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/klauspost/compress/zstd"

	"wal-e/index"
	"wal-e/internal/chunk"
	"wal-e/internal/storage"
)

// A PackError says that a chunk couldn't be had because of its pack.
type PackError struct {
	Pack index.PackID
	URL  string
	Err  error // wraps storage.ErrNotExist or ErrDamaged when it is that
}

func (e *PackError) Error() string {
	if errors.Is(e.Err, storage.ErrNotExist) {
		return fmt.Sprintf("pack %s/%s is missing", e.URL, PackKey(e.Pack))
	}
	return fmt.Sprintf("pack %s/%s: %v", e.URL, PackKey(e.Pack), e.Err)
}

func (e *PackError) Unwrap() error { return e.Err }

// A ChunkError says that no pack of the backup holds a chunk that it needs.
type ChunkError struct{ ID chunk.ID }

func (e *ChunkError) Error() string {
	return fmt.Sprintf("chunk %s is in no pack of the backup", e.ID)
}

func (e *ChunkError) Unwrap() error { return ErrDamaged }

// A Reader reads the chunks of one backup. It is safe for concurrent use.
// Everything that it returns was proven against the id asked for.
type Reader struct {
	store    *Store
	table    *index.Table
	hashers  sync.Pool
	decoders sync.Pool
	blocks   blockCache
	ahead    readAhead
}

// NewReader returns a Reader of what footprint holds, with table as its index,
// which is brought up to date first.
func (s *Store) NewReader(ctx context.Context, footprint *Footprint, table *index.Table) (*Reader, error) {
	if err := s.refresh(ctx, table, footprint, nil); err != nil {
		return nil, err
	}
	return &Reader{store: s, table: table, blocks: blockCache{limit: cachedBlocks}, ahead: readAhead{bucket: s.bucket}}, nil
}

// Node returns a node.
func (r *Reader) Node(ctx context.Context, id chunk.ID) ([]byte, error) {
	locations, err := r.locate([]chunk.ID{id})
	if err != nil {
		return nil, err
	}
	out := make([]byte, locations[0].Length)
	err = r.readChunks(ctx, locations, func(_ int, data []byte) error {
		if r.sum(data) != id {
			return fmt.Errorf("%w: node %s has other bytes", ErrDamaged, id)
		}
		copy(out, data)
		return nil
	})
	return out, err
}

// ListNode returns the list of an extent that stands in a node.
func (r *Reader) ListNode(ctx context.Context, id chunk.ID) (List, error) {
	data, err := r.Node(ctx, id)
	if err != nil {
		return nil, err
	}
	l, rest, err := parseList(data)
	if err == nil && len(rest) != 0 {
		err = fmt.Errorf("%w: %d bytes follow a list", ErrDamaged, len(rest))
	}
	if err != nil {
		return nil, fmt.Errorf("node %s: %w", id, err)
	}
	return l, nil
}

// Lists returns a function that gives the list of each extent of c.
func (r *Reader) Lists(ctx context.Context, c Content) (func(ctx context.Context, i int) (List, error), error) {
	if c.Extent == 0 {
		return func(context.Context, int) (List, error) { return c.Inline, nil }, nil
	}
	root, err := r.Node(ctx, c.Root)
	if err != nil {
		return nil, err
	}
	if len(root) != c.Extents()*chunk.HashSize {
		return nil, fmt.Errorf("%w: node %s lists %d bytes for %d extents", ErrDamaged, c.Root, len(root), c.Extents())
	}
	return func(ctx context.Context, i int) (List, error) {
		l, err := r.ListNode(ctx, chunk.ID(root[i*chunk.HashSize:(i+1)*chunk.HashSize]))
		if err == nil {
			err = l.check(c.extentSize(i))
		}
		return l, err
	}, nil
}

// Extent reads the bytes that l lists into dst, whose length is the extent's.
func (r *Reader) Extent(ctx context.Context, l List, dst []byte) error {
	return r.Extents(ctx, []Part{{List: l, Data: dst}})
}

// A Part is an extent to be read.
type Part struct {
	List List
	Data []byte // takes its bytes; as long as the extent
	// Version is another version of the extent, of the same length, that is at hand:
	// chunks that stand there whole, in their place, are not read from the archive.
	// Nil stands for none.
	Version []byte
}

// Extents reads several extents: records that lie beside each other in a pack are
// read in one request, whichever of them needs them.
func (r *Reader) Extents(ctx context.Context, parts []Part) error {
	wanted := make(map[chunk.ID][]span)
	var ids []chunk.ID
	for _, p := range parts {
		if err := p.List.check(int64(len(p.Data))); err != nil {
			return err
		}
		at := 0
		for _, s := range p.List {
			end := min(at+int(s.Pages)*chunk.PageSize, len(p.Data))
			if s.Zero {
				clear(p.Data[at:end])
			} else {
				if wanted[s.ID] == nil {
					ids = append(ids, s.ID)
				}
				to := span{first: int(s.First) * chunk.PageSize, dst: p.Data[at:end]}
				if p.Version != nil {
					to.version = p.Version[at:end]
				}
				wanted[s.ID] = append(wanted[s.ID], to)
			}
			at = end
		}
	}
	locations, err := r.locate(ids)
	if err != nil {
		return err
	}
	if ids, locations, err = r.useVersions(ids, locations, wanted); err != nil {
		return err
	}
	return r.readChunks(ctx, locations, func(i int, data []byte) error {
		if r.sum(data) != ids[i] {
			return fmt.Errorf("%w: chunk %s has other bytes", ErrDamaged, ids[i])
		}
		return putChunk(ids[i], data, wanted[ids[i]])
	})
}

// useVersions puts the chunks that other versions of extents have, and returns the
// others.
func (r *Reader) useVersions(ids []chunk.ID, locations []index.Location, wanted map[chunk.ID][]span) (left []chunk.ID, where []index.Location, err error) {
	for i, id := range ids {
		j := slices.IndexFunc(wanted[id], func(s span) bool {
			return s.version != nil && s.first == 0 && len(s.version) == int(locations[i].Length) && r.sum(s.version) == id
		})
		if j < 0 {
			left, where = append(left, id), append(where, locations[i])
		} else if err := putChunk(id, wanted[id][j].version, wanted[id]); err != nil {
			return nil, nil, err
		}
	}
	return left, where, nil
}

// putChunk copies the bytes of a chunk to where they are wanted.
func putChunk(id chunk.ID, data []byte, to []span) error {
	for _, s := range to {
		if s.first > len(data) || len(data)-s.first < len(s.dst) {
			return fmt.Errorf("%w: slice of %d bytes from %d of chunk %s, which has %d", ErrDamaged, len(s.dst), s.first, id, len(data))
		}
		copy(s.dst, data[s.first:])
	}
	return nil
}

// A span is where a slice of a chunk goes.
type span struct {
	first   int // byte of the chunk
	dst     []byte
	version []byte // what another version of the extent has there; nil: there is none
}

// Locate tells in which packs the chunks of a list are; a chunk that is in
// none is a *ChunkError.
func (r *Reader) Locate(l List, visit func(index.Location)) error {
	var ids []chunk.ID
	for _, s := range l {
		if !s.Zero {
			ids = append(ids, s.ID)
		}
	}
	locations, err := r.locate(ids)
	for _, loc := range locations {
		visit(loc)
	}
	return err
}

func (r *Reader) locate(ids []chunk.ID) ([]index.Location, error) {
	locations := make([]index.Location, len(ids))
	have := make([]bool, len(ids))
	if err := r.table.Lookup(ids, func(i int, l index.Location) { locations[i], have[i] = l, true }); err != nil {
		return nil, err
	}
	if i := slices.Index(have, false); i >= 0 {
		return nil, &ChunkError{ID: ids[i]}
	}
	return locations, nil
}

func (r *Reader) sum(data []byte) chunk.ID {
	h, _ := r.hashers.Get().(*chunk.Hasher)
	if h == nil {
		h = r.store.hasher.Clone()
	}
	defer r.hashers.Put(h)
	return h.Sum(data)
}

// Reads of neighbouring records are joined: a gap up to maxGap is read along,
// up to maxRead at once.
const (
	maxGap  = 128 << 10
	maxRead = 8 << 20
)

// A want is a record that is needed, and which chunks of it.
type want struct {
	location index.Location
	chunks   []int // indexes into the list of locations
}

// readChunks reads the records that hold the chunks at locations and calls
// visit with each chunk's bytes, which are only lent.
func (r *Reader) readChunks(ctx context.Context, locations []index.Location, visit func(i int, data []byte) error) error {
	wants := groupByRecord(locations)
	for len(wants) > 0 {
		n := 1
		for n < len(wants) && joinable(wants[0].location, wants[n-1].location, wants[n].location) {
			n++
		}
		if err := r.readRun(ctx, wants[:n], locations, visit); err != nil {
			return err
		}
		wants = wants[n:]
	}
	return nil
}

func groupByRecord(locations []index.Location) []want {
	type place struct {
		pack   index.PackID
		offset uint32
	}
	at := make(map[place]int)
	var wants []want
	for i, l := range locations {
		k := place{l.Pack, l.Offset}
		if _, ok := at[k]; !ok {
			at[k] = len(wants)
			wants = append(wants, want{location: l})
		}
		wants[at[k]].chunks = append(wants[at[k]].chunks, i)
	}
	slices.SortFunc(wants, func(a, b want) int {
		if c := slices.Compare(a.location.Pack.Run[:], b.location.Pack.Run[:]); c != 0 {
			return c
		}
		if c := int(a.location.Pack.Seq) - int(b.location.Pack.Seq); c != 0 {
			return c
		}
		return int(a.location.Offset) - int(b.location.Offset)
	})
	return wants
}

// joinable tells whether next can be read in one request with first to last.
func joinable(first, last, next index.Location) bool {
	if next.Pack != last.Pack {
		return false
	}
	gap := int64(next.Offset) - int64(last.Offset) - int64(last.Stored)
	return gap <= maxGap && int64(next.Offset)+int64(next.Stored)-int64(first.Offset) <= maxRead
}

// readRun reads neighbouring records of one pack, from the cache where it has
// them all, and visits their chunks.
func (r *Reader) readRun(ctx context.Context, wants []want, locations []index.Location, visit func(i int, data []byte) error) error {
	first := wants[0].location
	var length int64
	for _, w := range wants {
		if w.location.Stored > maxRecord {
			return r.packError(ctx, first.Pack, fmt.Errorf("%w: index has a record of %d bytes", ErrDamaged, w.location.Stored))
		}
		length = max(length, int64(w.location.Offset)+int64(w.location.Stored)-int64(first.Offset))
	}
	var raw []byte
	for _, w := range wants {
		b, err := r.blocks.get(ctx, blockKey{w.location.Pack, w.location.Offset}, func() (*decodedBlock, error) {
			if raw == nil {
				var err error
				if raw, err = r.ahead.read(ctx, first.Pack, int64(first.Offset), length); err != nil {
					return nil, err
				}
			}
			from := w.location.Offset - first.Offset
			return r.decode(ctx, w.location.Pack, raw[from:from+w.location.Stored])
		})
		if err != nil {
			return r.packError(ctx, first.Pack, err)
		}
		for _, i := range w.chunks {
			l := locations[i]
			if int64(l.Start)+int64(l.Length) > int64(len(b.data)) {
				return r.packError(ctx, l.Pack, fmt.Errorf("%w: index points behind the end of a record", ErrDamaged))
			}
			if err := visit(i, b.data[l.Start:l.Start+l.Length]); err != nil {
				return r.packError(ctx, l.Pack, err)
			}
		}
	}
	return nil
}

func (r *Reader) packError(ctx context.Context, p index.PackID, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return &PackError{Pack: p, URL: r.store.bucket.URL(), Err: err}
}

func (r *Reader) decode(ctx context.Context, p index.PackID, record []byte) (*decodedBlock, error) {
	o, err := r.store.opener(ctx, p, holdsData(record))
	if err != nil {
		return nil, err
	}
	dec, _ := r.decoders.Get().(*zstd.Decoder)
	if dec == nil {
		var err error
		if dec, err = newDecoder(); err != nil {
			return nil, err
		}
	}
	defer r.decoders.Put(dec)
	data, _, err := decodeRecord(record, dec, o)
	if err != nil {
		return nil, err
	}
	return &decodedBlock{data: data}, nil
}

// readRange reads length bytes of an object, no fewer, and up to so many more that
// follow.
func readRange(ctx context.Context, b storage.Bucket, key string, offset, length, more int64) (data []byte, err error) {
	body, err := b.Get(ctx, key, offset, length+more)
	if err != nil {
		return nil, err
	}
	defer func() {
		if cerr := body.Close(); err == nil && cerr != nil {
			err = cerr
		}
	}()
	data = make([]byte, length+more)
	n, err := io.ReadFull(body, data)
	switch {
	case err == nil:
	case !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF):
		return nil, err
	case int64(n) < length:
		return nil, fmt.Errorf("%w: it is shorter than %d bytes", ErrDamaged, offset+length)
	}
	return data[:n], nil
}
