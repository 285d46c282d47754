package index

import (
	"container/heap"
	"iter"
	"sync/atomic"

	bolt "go.etcd.io/bbolt"
)

// A source yields entries in order. A damaged block is passed over: its
// chunks are stored again, which costs bytes only.
type source interface {
	next() (entry, bool)
}

type sliceSource struct{ rest []entry }

func (s *sliceSource) next() (entry, bool) {
	if len(s.rest) == 0 {
		return entry{}, false
	}
	e := s.rest[0]
	s.rest = s.rest[1:]
	return e, true
}

type bucketSource struct {
	c       *bolt.Cursor
	name    []byte
	started bool
	block   []byte
	damaged *atomic.Bool // set when a block was passed over
}

func (s *bucketSource) next() (entry, bool) {
	for len(s.block) < entrySize {
		var k, v []byte
		if s.started {
			k, v = s.c.Next()
		} else {
			k, v = s.c.First()
			s.started = true
		}
		if k == nil {
			return entry{}, false
		}
		block, err := unseal(s.name, k, v)
		if err != nil {
			s.damaged.Store(true)
			continue
		}
		s.block = block
	}
	e := parseEntry(s.block)
	s.block = s.block[entrySize:]
	return e, true
}

// mergeSources yields the entries of all sources in order.
func mergeSources(sources []source) iter.Seq[entry] {
	return func(yield func(entry) bool) {
		var h mergeHeap
		for _, s := range sources {
			if e, ok := s.next(); ok {
				h = append(h, head{e, s})
			}
		}
		heap.Init(&h)
		for len(h) > 0 {
			if !yield(h[0].entry) {
				return
			}
			if e, ok := h[0].source.next(); ok {
				h[0].entry = e
				heap.Fix(&h, 0)
			} else {
				heap.Pop(&h)
			}
		}
	}
}

// A head is the first entry that a source hasn't given away yet.
type head struct {
	entry  entry
	source source
}

type mergeHeap []head

func (h mergeHeap) Len() int           { return len(h) }
func (h mergeHeap) Less(i, j int) bool { return compareEntries(h[i].entry, h[j].entry) < 0 }
func (h mergeHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *mergeHeap) Push(x any)        { *h = append(*h, x.(head)) }
func (h *mergeHeap) Pop() any {
	old := *h
	x := old[len(old)-1]
	*h = old[:len(old)-1]
	return x
}
