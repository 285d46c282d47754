package index

import (
	"encoding/binary"
	"sync/atomic"

	"wal-e/internal/chunk"
)

// A checkedSet remembers which blocks of entries had the right checksum since
// the file was opened, so that it isn't computed again for each chunk that is
// looked up: names of chunks are random, and a block is met hundreds of times.
// It is safe for concurrent use, and forgets a block when another one takes its
// slot; that costs a checksum.
//
// A slot holds the first half of a block's key, the second half says which slot:
// so two blocks are told apart, as long as no two ids among a table's blocks share
// their first 64 keyed bits.
type checkedSet struct{ slots []atomic.Uint64 }

// maxChecked bounds a set at 8 MB, enough for 470 million chunks.
const maxChecked = 1 << 20

// newCheckedSet returns a set for a file of so many bytes, with a slot or more
// for each block.
func newCheckedSet(file int64) *checkedSet {
	n := 64
	for n < maxChecked && int64(n)*blockEntries*entrySize < file {
		n *= 2
	}
	return &checkedSet{slots: make([]atomic.Uint64, n)}
}

// slot returns where a key belongs and what stands there when it was added.
func (s *checkedSet) slot(key []byte) (*atomic.Uint64, uint64) {
	at := binary.LittleEndian.Uint64(key[chunk.HashSize-8:]) % uint64(len(s.slots))
	return &s.slots[at], binary.LittleEndian.Uint64(key)
}

// has tells whether the block with that key was added. A key that begins with
// zeros looks like an empty slot, and is never had.
func (s *checkedSet) has(key []byte) bool {
	if len(key) != chunk.HashSize {
		return false
	}
	slot, want := s.slot(key)
	return want != 0 && slot.Load() == want
}

func (s *checkedSet) add(key []byte) {
	if len(key) == chunk.HashSize {
		slot, v := s.slot(key)
		slot.Store(v)
	}
}
