package chunkstore

import (
	"encoding/binary"
	"fmt"

	"wal-e/index"
	"wal-e/internal/chunk"
)

// A Known is an extent as a push saw it: its list, and the hash of each of its
// pages, which tells the next push what changed without the old bytes. The hash
// of a page in a hole is zero.
type Known struct {
	List  List
	Pages []chunk.PageHash
}

// AppendKnown appends the encoding of k to dst: the list as in a node, uvarint
// number of pages, and 16 bytes for each.
func AppendKnown(dst []byte, k Known) []byte {
	dst = appendList(dst, k.List)
	dst = binary.AppendUvarint(dst, uint64(len(k.Pages)))
	for i := range k.Pages {
		dst = append(dst, k.Pages[i][:]...)
	}
	return dst
}

// ParseKnown parses what AppendKnown appended; nothing may follow it.
func ParseKnown(b []byte) (Known, error) {
	l, b, err := parseList(b)
	if err != nil {
		return Known{}, err
	}
	n, b, err := uvarint(b, maxSlices)
	if err != nil {
		return Known{}, err
	}
	if uint64(len(b)) != n*chunk.HashSize {
		return Known{}, fmt.Errorf("%w: %d page hashes in %d bytes", ErrDamaged, n, len(b))
	}
	k := Known{List: l, Pages: make([]chunk.PageHash, n)}
	var pages uint64
	for _, s := range l {
		pages += uint64(s.Pages)
	}
	if pages != n {
		return Known{}, fmt.Errorf("%w: list of %d pages with %d hashes", ErrDamaged, pages, n)
	}
	for i := range k.Pages {
		copy(k.Pages[i][:], b[i*chunk.HashSize:])
	}
	return k, nil
}

// references adds what the list refers to: the bytes of each chunk, with the
// last page of a file counted as a whole one.
func (l List) references(refs map[chunk.ID]int64) {
	for _, s := range l {
		if !s.Zero {
			refs[s.ID] += int64(s.Pages) * chunk.PageSize
		}
	}
}

// What becomes of a page of an extent.
const (
	pageNew  = iota // it is cut into a chunk
	pageHole        // it is part of a hole
	pageSame        // it is as it was, and its chunk may be referenced
)

// ExtentAfter stores what is new in data, an extent of a file, and returns what
// is to be known of it. before is what a push saw in its place; the zero Known
// says nothing. Pages that are as they were stay slices of the chunks that they
// are in, so that a changed page costs about itself; what lies between is cut
// anew. data is free again when it returns. The chunks are durable only after
// Flush.
func (w *Writer) ExtentAfter(data []byte, before Known) (Known, error) {
	w.pieces, w.ids = w.pieces[:0], w.ids[:0]
	now := Known{Pages: w.hashPages(data)}
	w.keepSame(now.Pages, before)
	now.List = make(List, 0, len(before.List)+8)
	kept := newListCursor(before.List)
	for at := 0; at < len(w.plan); {
		end := at + 1
		for end < len(w.plan) && w.plan[end] == w.plan[at] {
			end++
		}
		switch w.plan[at] {
		case pageHole:
			now.List = append(now.List, Slice{Pages: uint32(end - at), Zero: true})
		case pageSame:
			now.List = kept.appendRange(now.List, at, end)
		default:
			now.List = w.cut(now.List, data[at*chunk.PageSize:min(end*chunk.PageSize, len(data))], now.Pages[at:end])
		}
		at = end
	}
	return now, w.store(kindData)
}

// hashPages returns the hashes of data's pages, and plans its holes.
func (w *Writer) hashPages(data []byte) []chunk.PageHash {
	n := (len(data) + chunk.PageSize - 1) / chunk.PageSize
	hashes := make([]chunk.PageHash, n)
	w.plan = append(w.plan[:0], make([]byte, n)...)
	var zero int64
	for at := 0; at < n; {
		rest := data[at*chunk.PageSize:]
		zeros := zeroPages(rest)
		if zeros >= zeroRun {
			for i := range zeros {
				w.plan[at+i] = pageHole
			}
			zero += int64(min(zeros*chunk.PageSize, len(rest)))
			at += zeros
			continue
		}
		pages := max(zeros, 1)
		w.hasher.Pages(hashes[at:at], rest[:min(pages*chunk.PageSize, len(rest))])
		at += pages
	}
	w.push.addZero(zero)
	return hashes
}

// keepSame plans the pages that are as they were, as far as the chunks that they
// are in may be referenced.
func (w *Writer) keepSame(now []chunk.PageHash, before Known) {
	refs := make(map[chunk.ID]int64)
	each := func(visit func(id chunk.ID, page int)) {
		at := 0
		for _, s := range before.List {
			for i := range int(s.Pages) {
				p := at + i
				if !s.Zero && p < len(now) && w.plan[p] == pageNew && now[p] == before.Pages[p] {
					visit(s.ID, p)
				}
			}
			at += int(s.Pages)
		}
	}
	each(func(id chunk.ID, _ int) { refs[id] += chunk.PageSize })
	if len(refs) == 0 {
		return
	}
	w.push.reference(refs, true)
	each(func(id chunk.ID, p int) {
		if _, ok := refs[id]; ok {
			w.plan[p] = pageSame
		}
	})
}

// cut cuts data, whose pages have these hashes, into chunks, which it appends to a
// list and to the pieces to store.
func (w *Writer) cut(list List, data []byte, hashes []chunk.PageHash) List {
	for len(hashes) > 0 {
		pages := w.cutter.Next(hashes)
		n := min(pages*chunk.PageSize, len(data))
		id := w.hasher.ID(n, hashes[:pages])
		list = append(list, Slice{ID: id, Pages: uint32(pages)})
		w.pieces = append(w.pieces, piece{id: id, data: data[:n]})
		w.ids = append(w.ids, id)
		data, hashes = data[n:], hashes[pages:]
	}
	return list
}

// A listCursor goes through a list by pages.
type listCursor struct {
	rest List
	at   int // first page of rest[0]
}

func newListCursor(l List) *listCursor { return &listCursor{rest: l} }

// appendRange appends the slices of pages from..to to dst. Ranges come in order.
func (c *listCursor) appendRange(dst List, from, to int) List {
	for from < to {
		for c.at+int(c.rest[0].Pages) <= from {
			c.at += int(c.rest[0].Pages)
			c.rest = c.rest[1:]
		}
		s := c.rest[0]
		n := min(to, c.at+int(s.Pages)) - from
		dst = append(dst, Slice{ID: s.ID, First: s.First + uint32(from-c.at), Pages: uint32(n)})
		from += n
	}
	return dst
}

// ReferList references what the list of an extent names, without its bytes, and
// the node that it stands in when node is set, whose id it returns. It is false
// when something of that can't be referenced any more: then the file must be
// read, and what was referenced already does no harm.
func (w *Writer) ReferList(l List, node bool) (id chunk.ID, ok bool) {
	refs := make(map[chunk.ID]int64)
	l.references(refs)
	if node {
		id = w.hash(appendList(nil, l))
		refs[id] = 0 // as long as it is
	}
	n := len(refs)
	w.push.reference(refs, false)
	return id, len(refs) == n
}

// ReferRoot references the root of a content whose lists stand in nodes. It is
// false when that can't be, or isn't the root of these nodes.
func (w *Writer) ReferRoot(c Content, nodes []chunk.ID) bool {
	root := make([]byte, 0, len(nodes)*chunk.HashSize)
	for _, id := range nodes {
		root = append(root, id[:]...)
	}
	if len(nodes) != c.Extents() || w.hash(root) != c.Root {
		return false
	}
	refs := map[chunk.ID]int64{c.Root: 0}
	w.push.reference(refs, false)
	return len(refs) == 1
}

// reference references chunks, of which so many bytes are needed, and takes out
// of refs those that can't be: neither this run has stored them, nor a pack that
// it may reference holds them. read tells whether the bytes were read.
func (p *Push) reference(refs map[chunk.ID]int64, read bool) {
	ids := make([]chunk.ID, 0, len(refs))
	for id := range refs {
		ids = append(ids, id)
	}
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
	for i, id := range ids {
		n := refs[id]
		l := found[i]
		switch {
		case p.own.has(id):
		case l != nil && p.usable(l.Pack):
			if n == 0 || n > int64(l.Length) {
				n = int64(l.Length) // several places may share a chunk, and last pages are short
			}
			p.footprint.Add(l.Pack)
			p.used[l.Pack] += n
		default:
			delete(refs, id)
			continue
		}
		if read {
			p.stats.Read += n
			p.stats.Chunks++
		}
	}
}
