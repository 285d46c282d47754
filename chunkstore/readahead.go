package chunkstore

import (
	"context"
	"slices"
	"sync"

	"wal-e/index"
	"wal-e/internal/storage"
)

// aheadBytes is how much of a pack is read at once where much of it is needed, and
// aheadPlaces of how many such pieces are kept: 12 to 24 MiB.
const (
	aheadBytes  = 1 << 20
	aheadPlaces = 12
)

// A readAhead reads ranges of packs. Where a second range is near one that was read
// before, the whole neighbourhood is read: the extents of a file are near each other,
// if not in order, as several workers wrote them, and with a request for each the
// waiting would be most of a restore from distant storage. What is needed here and
// there of old packs is all that is read of them.
type readAhead struct {
	bucket storage.Bucket

	mu     sync.Mutex
	places []*aheadPlace // the one used last is the last
}

// An aheadPlace is a range of a pack that was read, or is being read.
type aheadPlace struct {
	pack     index.PackID
	from, to int64 // bytes of the pack
	kept     bool  // data will be there once done is closed
	done     chan struct{}
	data     []byte // may end before to, where the pack does; nil: it couldn't be read
}

func (p *aheadPlace) holds(pack index.PackID, from, to int64) bool {
	return p.kept && p.pack == pack && p.from <= from && to <= p.to
}

func (p *aheadPlace) isNear(pack index.PackID, from, to int64) bool {
	return p.pack == pack && from < p.to+aheadBytes/2 && to > p.from-aheadBytes/2
}

// read returns length bytes of a pack, which others read too.
func (a *readAhead) read(ctx context.Context, pack index.PackID, offset, length int64) ([]byte, error) {
	p, mine := a.place(pack, offset, length)
	if !mine {
		select {
		case <-p.done:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		if data := p.slice(offset, length); data != nil {
			return data, nil
		}
		return readRange(ctx, a.bucket, PackKey(pack), offset, length, 0)
	}
	if !p.kept {
		return readRange(ctx, a.bucket, PackKey(pack), offset, length, 0)
	}
	defer close(p.done)
	need := offset + length - p.from
	data, err := readRange(ctx, a.bucket, PackKey(pack), p.from, need, p.to-p.from-need)
	if err != nil {
		return nil, err
	}
	p.data = data
	return p.slice(offset, length), nil
}

// slice returns bytes of the pack from data, nil if it hasn't all of them.
func (p *aheadPlace) slice(offset, length int64) []byte {
	from, to := offset-p.from, offset-p.from+length
	if to > int64(len(p.data)) {
		return nil
	}
	return p.data[from:to:to]
}

// place returns the place that has a range or will have it, or one that is the
// caller's to read.
func (a *readAhead) place(pack index.PackID, offset, length int64) (p *aheadPlace, mine bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if i := slices.IndexFunc(a.places, func(p *aheadPlace) bool { return p.holds(pack, offset, offset+length) }); i >= 0 {
		p = a.places[i]
		a.places = append(slices.Delete(a.places, i, i+1), p)
		return p, false
	}
	p = &aheadPlace{pack: pack, from: offset, to: offset + length}
	if length < aheadBytes && slices.ContainsFunc(a.places, func(p *aheadPlace) bool { return p.isNear(pack, offset, offset+length) }) {
		p.kept, p.done = true, make(chan struct{})
		p.from -= p.from % aheadBytes
		p.to += aheadBytes - 1 - (p.to-1)%aheadBytes
	}
	a.places = append(a.places, p)
	if len(a.places) > aheadPlaces {
		a.places = slices.Delete(a.places, 0, 1)
	}
	return p, true
}
