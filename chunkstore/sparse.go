package chunkstore

import (
	"cmp"
	"slices"

	"wal-e/index"
	"wal-e/internal/runid"
)

// A SparsePack is a pack of which a backup needs less than a third. A push
// offers it no more for reference: what it finds in the cluster of its chunks is
// stored anew, and the pack goes whole once older backups have expired. That is
// all the repacking there is: nothing is read from the store for it.
type SparsePack struct {
	Run  runid.ID `json:"run"`
	Seq  uint32   `json:"seq"`
	Used int64    `json:"used"` // bytes that the backup refers to, uncompressed
	Raw  int64    `json:"raw"`  // bytes of its chunks together
}

func (p SparsePack) id() index.PackID { return index.PackID{Run: p.Run, Seq: p.Seq} }

// sparseShare is the part of a pack of which a backup must need less for the
// pack to be sparse: one in sparseShare.
const sparseShare = 3

// defaultRewrite is how many bytes a push stores anew at most to be rid of
// sparse packs.
const defaultRewrite = 1 << 30

// retire returns the sparse packs that a push stops offering: those of which
// least is needed first, as long as what must be stored anew fits the budget.
func retire(sparse []SparsePack, budget int64) []SparsePack {
	sparse = slices.Clone(sparse)
	slices.SortFunc(sparse, func(a, b SparsePack) int {
		return cmp.Compare(float64(a.Used)*float64(b.Raw), float64(b.Used)*float64(a.Raw))
	})
	for i, p := range sparse {
		if budget -= p.Used; budget < 0 {
			return sparse[:i]
		}
	}
	return sparse
}

// sparsePacks returns the packs of other runs of which this push needed less
// than a third, and how many bytes of the packs it draws on it doesn't need.
// A chunk that is in several files counts each time, so a pack looks fuller
// than it is rather than emptier.
func (p *Push) sparsePacks() (sparse []SparsePack, dead int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cfg.Table == nil {
		return nil, 0
	}
	for pack := range p.footprint.All() {
		raw, ok := p.cfg.Table.PackRaw(pack)
		if !ok {
			continue // of this run, or unknown
		}
		used := min(p.used[pack], raw)
		dead += raw - used
		if used*sparseShare < raw {
			sparse = append(sparse, SparsePack{Run: pack.Run, Seq: pack.Seq, Used: used, Raw: raw})
		}
	}
	return sparse, dead
}

// retireSparse takes sparse packs of the parent out of the domain.
func (p *Push) retireSparse() {
	retired := retire(p.domain.sparse, p.cfg.Rewrite)
	if len(retired) == 0 {
		return
	}
	var gone, offered Footprint
	for _, r := range retired {
		gone.Add(r.id())
	}
	for pack := range p.domain.packs.All() {
		if !gone.Has(pack) {
			offered.Add(pack)
		}
	}
	p.domain.packs = offered
	p.stats.Retired = len(retired)
}
