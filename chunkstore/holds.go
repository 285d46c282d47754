package chunkstore

import (
	"wal-e/index"
	"wal-e/internal/chunk"
)

// Holds returns the ids among those of l that the packs of the reader's backup
// hold. The ids of another epoch's chunks are other ones, whatever their bytes.
func (r *Reader) Holds(l List) (map[chunk.ID]bool, error) {
	held := make(map[chunk.ID]bool, len(l))
	var ids []chunk.ID
	for _, s := range l {
		if !s.Zero {
			ids = append(ids, s.ID)
		}
	}
	err := r.table.Lookup(ids, func(i int, _ index.Location) { held[ids[i]] = true })
	return held, err
}
