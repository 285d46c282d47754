package chunkstore

import (
	"bytes"
	"encoding/json"
	"fmt"
	"iter"
	"math/bits"
	"slices"

	"wal-e/index"
	"wal-e/internal/runid"
)

// A Footprint is the set of packs that a backup needs: per run drawn on, a
// bitmap of its packs. It tells no more than a listing does, and stands in the
// clear, so that a collector needs no key and walks no chunks. The zero value
// is empty.
type Footprint struct {
	runs map[runid.ID][]byte // bit seq%8 of byte seq/8
}

// maxSeq bounds the number of a pack within its run (32 PiB of packs).
const maxSeq = 1 << 30

// Add puts p into the set.
func (f *Footprint) Add(p index.PackID) {
	if f.runs == nil {
		f.runs = make(map[runid.ID][]byte)
	}
	b := f.runs[p.Run]
	if need := int(p.Seq/8) + 1; len(b) < need {
		b = append(b, make([]byte, need-len(b))...)
		f.runs[p.Run] = b
	}
	b[p.Seq/8] |= 1 << (p.Seq % 8)
}

// Has tells whether p is in the set.
func (f *Footprint) Has(p index.PackID) bool {
	b := f.runs[p.Run]
	return int(p.Seq/8) < len(b) && b[p.Seq/8]&(1<<(p.Seq%8)) != 0
}

// Len returns the number of packs.
func (f *Footprint) Len() int {
	n := 0
	for _, b := range f.runs {
		for _, x := range b {
			n += bits.OnesCount8(x)
		}
	}
	return n
}

// Runs returns the runs drawn on, in order.
func (f *Footprint) Runs() []runid.ID {
	ids := make([]runid.ID, 0, len(f.runs))
	for id := range f.runs {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b runid.ID) int { return bytes.Compare(a[:], b[:]) })
	return ids
}

// All yields the packs, in order.
func (f *Footprint) All() iter.Seq[index.PackID] {
	return func(yield func(index.PackID) bool) {
		for _, run := range f.Runs() {
			for i, x := range f.runs[run] {
				for ; x != 0; x &= x - 1 {
					if !yield(index.PackID{Run: run, Seq: uint32(8*i + bits.TrailingZeros8(x))}) {
						return
					}
				}
			}
		}
	}
}

// Union adds the packs of g.
func (f *Footprint) Union(g *Footprint) {
	if f.runs == nil {
		f.runs = make(map[runid.ID][]byte)
	}
	for run, theirs := range g.runs {
		ours := f.runs[run]
		if n := len(theirs) - len(ours); n > 0 {
			ours = append(ours, make([]byte, n)...)
			f.runs[run] = ours
		}
		for i, x := range theirs {
			ours[i] |= x
		}
	}
}

// footprintRun is one line of a Footprint in JSON. The bitmap is base64.
type footprintRun struct {
	Run   runid.ID `json:"run"`
	Packs []byte   `json:"packs"`
}

// MarshalJSON writes a list of runs with their bitmaps.
func (f Footprint) MarshalJSON() ([]byte, error) {
	list := []footprintRun{}
	for _, run := range f.Runs() {
		list = append(list, footprintRun{Run: run, Packs: f.runs[run]})
	}
	return json.Marshal(list)
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (f *Footprint) UnmarshalJSON(b []byte) error {
	var list []footprintRun
	if err := json.Unmarshal(b, &list); err != nil {
		return err
	}
	f.runs = make(map[runid.ID][]byte, len(list))
	for _, r := range list {
		if _, twice := f.runs[r.Run]; twice || len(r.Packs) > maxSeq/8 {
			return fmt.Errorf("footprint: run %s twice or with too many packs", r.Run)
		}
		f.runs[r.Run] = r.Packs
	}
	return nil
}
