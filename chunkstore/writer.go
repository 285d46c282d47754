package chunkstore

import (
	"context"
	"fmt"

	"github.com/klauspost/compress/zstd"

	"wal-e/index"
	"wal-e/internal/chunk"
)

// A Writer gives extents and nodes to a Push. It belongs to one goroutine; the
// work of cutting, hashing and compressing is done in that goroutine.
type Writer struct {
	push    *Push
	hasher  *chunk.Hasher
	cutter  *chunk.Cutter
	encoder *zstd.Encoder
	pages   []chunk.PageHash
	pieces  []piece
	ids     []chunk.ID
	plan    []byte // of the pages of the extent at hand
	block   block
}

// A piece is a chunk of the extent at hand.
type piece struct {
	id   chunk.ID
	data []byte
	new  bool
}

// NewWriter returns a Writer for one goroutine.
func (p *Push) NewWriter() (*Writer, error) {
	enc, err := newEncoder()
	if err != nil {
		return nil, err
	}
	return &Writer{push: p, hasher: p.store.hasher.Clone(), cutter: p.store.cutter.Clone(), encoder: enc}, nil
}

// zeroRun is how many whole zero pages in a row become a hole instead of being
// compressed with their neighbours.
const zeroRun = 4

// Extent stores what is new in data, an extent of a file, and returns its list.
// data is free again when it returns. The chunks are durable only after Flush.
func (w *Writer) Extent(data []byte) (List, error) {
	k, err := w.ExtentAfter(data, Known{})
	return k.List, err
}

// Sum returns the keyed hash of b, by which a caller knows local notes again
// as its own.
func (w *Writer) Sum(b []byte) chunk.ID { return w.hasher.Sum(b) }

// Node stores a node and returns its id.
func (w *Writer) Node(data []byte) (chunk.ID, error) {
	if len(data) > chunk.MaxSize {
		return chunk.ID{}, fmt.Errorf("chunkstore: node of %d bytes: at most %d", len(data), chunk.MaxSize)
	}
	id := w.hash(data)
	w.pieces, w.ids = append(w.pieces[:0], piece{id: id, data: data}), append(w.ids[:0], id)
	return id, w.store(kindNode)
}

// ListNode stores the list of one extent as a node.
func (w *Writer) ListNode(l List) (chunk.ID, error) {
	return w.Node(appendList(nil, l))
}

// Content makes the content of a file from the lists of its extents: a file of
// one extent takes its list, a larger one the ids that ListNode gave.
func (w *Writer) Content(size int64, first List, nodes []chunk.ID) (Content, error) {
	if len(nodes) == 0 && len(first) <= inlineSlices {
		return Content{Size: size, Inline: first}, nil
	}
	c := Content{Size: size, Extent: int64(w.push.store.ExtentSize())}
	if len(nodes) == 0 {
		id, err := w.ListNode(first)
		if err != nil {
			return Content{}, err
		}
		nodes = []chunk.ID{id}
	}
	if len(nodes) != c.Extents() {
		return Content{}, fmt.Errorf("chunkstore: internal error: %d extents for %d bytes", len(nodes), size)
	}
	root := make([]byte, 0, len(nodes)*chunk.HashSize)
	for _, id := range nodes {
		root = append(root, id[:]...)
	}
	var err error
	c.Root, err = w.Node(root)
	return c, err
}

func (w *Writer) hash(data []byte) chunk.ID {
	w.pages = w.hasher.Pages(w.pages[:0], data)
	return w.hasher.ID(len(data), w.pages)
}

// zeroPages counts the whole zero pages that data begins with; a short last
// page counts when it is all zeros.
func zeroPages(data []byte) int {
	n := 0
	for len(data) > 0 && isZero(data[:min(len(data), chunk.PageSize)]) {
		data = data[min(len(data), chunk.PageSize):]
		n++
	}
	return n
}

// isZero tells whether b holds nothing but zeros.
func isZero(b []byte) bool {
	if len(b) == 0 || b[0] != 0 {
		return len(b) == 0
	}
	return string(b[1:]) == string(b[:len(b)-1]) // all equal to the first
}

// store looks the pieces up and stores those that are new.
func (w *Writer) store(kind byte) error {
	w.push.claim(w.pieces, w.ids)
	w.block = block{kind: kind, data: w.block.data[:0]}
	for _, p := range w.pieces {
		if !p.new {
			continue
		}
		w.block.add(p.id, p.data)
		if !w.block.full() {
			continue
		}
		if err := w.push.addRecord(w.block.encode(w.encoder), w.block.chunks); err != nil {
			return err
		}
		w.block = block{kind: kind, data: w.block.data[:0]}
	}
	if len(w.block.chunks) == 0 {
		return nil
	}
	full := w.push.addShared(&w.block)
	if full == nil {
		return nil
	}
	return w.push.addRecord(full.encode(w.encoder), full.chunks)
}

func (p *Push) addZero(n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stats.Read += n
	p.stats.Zero += n
}

// claim marks the pieces that this writer must store: those that neither this
// run has stored or claimed, nor a pack that it may reference holds.
func (p *Push) claim(pieces []piece, ids []chunk.ID) {
	found := make([]*index.Location, len(ids))
	damaged := 0
	if p.cfg.Table != nil {
		// A damaged table costs bytes, never the backup.
		if err := p.cfg.Table.Lookup(ids, func(i int, l index.Location) { found[i] = &l }); err != nil {
			damaged++
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stats.Unreadable += damaged
	for i := range pieces {
		n := int64(len(pieces[i].data))
		p.stats.Chunks++
		p.stats.Read += n
		if p.own.has(pieces[i].id) {
			continue
		}
		if l := found[i]; l != nil && int64(l.Length) == n && p.usable(l.Pack) {
			p.footprint.Add(l.Pack)
			p.used[l.Pack] += n
			continue
		}
		p.own.add(pieces[i].id)
		pieces[i].new = true
		p.stats.NewChunks++
		p.stats.New += n
	}
}

// usable tells whether chunks of a pack may be referenced (W3). p.mu is held.
func (p *Push) usable(pack index.PackID) bool {
	if !p.domain.packs.Has(pack) || p.banned.Has(pack) {
		return false
	}
	want, known := p.cfg.Table.PackSize(pack)
	return known && want == p.domain.sizes[pack]
}

// addShared adds the rest of a block to the open block of its kind, so that
// small files share a record. A block that is full is given back to be encoded.
func (p *Push) addShared(b *block) *block {
	p.mu.Lock()
	defer p.mu.Unlock()
	open := p.blocks[b.kind]
	if open == nil {
		open = &block{kind: b.kind}
		p.blocks[b.kind] = open
	}
	data := b.data
	for _, c := range b.chunks {
		open.add(c.ID, data[:c.Length])
		data = data[c.Length:]
	}
	if !open.full() {
		return nil
	}
	p.blocks[b.kind] = nil
	return open
}

// addRecord appends an encoded record to the open pack, and uploads the pack
// when it is full. It waits while too many uploads are under way.
func (p *Push) addRecord(record []byte, chunks []index.Chunk) error {
	if p.uploading.Err() != nil {
		return context.Cause(p.uploading)
	}
	p.packing.Lock()
	defer p.packing.Unlock()
	p.mu.Lock()
	if p.pack == nil {
		p.pack = newPackBuffer(p.nextPack, p.cfg.PackSize+p.cfg.PackSize/8, p.sealer)
		p.nextPack++
	}
	p.pack.add(record, chunks)
	p.footprint.Add(index.PackID{Run: p.ref.Run, Seq: p.pack.seq})
	var full *packBuffer
	if len(p.pack.buf) >= p.cfg.PackSize {
		full, p.pack = p.pack, nil
	}
	p.mu.Unlock()
	if full != nil {
		p.upload(full)
	}
	return nil
}

// upload stores a pack, in another goroutine as soon as one is free.
func (p *Push) upload(pack *packBuffer) {
	p.uploads.Go(func() error {
		err := p.storePack(p.uploading, pack)
		if err != nil {
			p.fail(err)
		}
		return err
	})
}

func (p *Push) storePack(ctx context.Context, pack *packBuffer) error {
	data, dir := pack.finish()
	id := index.PackID{Run: p.ref.Run, Seq: pack.seq}
	if err := createOnce(ctx, p.store.bucket, PackKey(id), data); err != nil {
		return err
	}
	p.mu.Lock()
	p.sizes[pack.seq] = int64(len(data))
	p.stats.Packs++
	p.stats.Stored += int64(len(data))
	p.unindexed = append(p.unindexed, dir)
	least := p.cfg.IndexPacks
	if p.cfg.Now().Sub(p.indexed) >= p.cfg.IndexEvery {
		least = 1
	}
	p.mu.Unlock()
	return p.writeIndex(ctx, least)
}

// writeIndex writes an index object over the packs that are stored and in none
// yet, if they are at least so many.
func (p *Push) writeIndex(ctx context.Context, least int) error {
	p.mu.Lock()
	packs := p.unindexed
	if len(packs) < least {
		p.mu.Unlock()
		return nil
	}
	id := index.ObjectID{Run: p.ref.Run, N: p.nextIndex}
	p.nextIndex++
	p.unindexed = nil
	p.indexed = p.cfg.Now()
	p.mu.Unlock()

	data := p.store.encodeIndex(id, packs)
	if err := createOnce(ctx, p.store.bucket, indexKey(id), data); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stats.Stored += int64(len(data))
	return nil
}

// Flush makes everything that was given durable, with the index over it. No
// Writer may be at work. The Push can be used on afterwards, but after an error
// only to be aborted: what couldn't be stored is given up.
func (p *Push) Flush(ctx context.Context) error {
	err := p.flush(ctx)
	if err != nil {
		p.fail(err)
	}
	return err
}

func (p *Push) flush(ctx context.Context) error {
	if p.uploading.Err() != nil {
		return context.Cause(p.uploading)
	}
	enc, err := newEncoder()
	if err != nil {
		return err
	}
	p.mu.Lock()
	blocks := p.blocks
	p.blocks = [2]*block{}
	p.mu.Unlock()
	for _, b := range blocks {
		if b == nil {
			continue
		}
		if err := p.addRecord(b.encode(enc), b.chunks); err != nil {
			return err
		}
	}
	p.mu.Lock()
	last := p.pack
	p.pack = nil
	p.mu.Unlock()
	if last != nil {
		p.upload(last)
	}
	err = p.uploads.Wait()
	p.newUploads()
	if err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return p.writeIndex(ctx, 1)
}
