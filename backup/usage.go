package backup

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"

	"wal-e/chunkstore"
	"wal-e/index"
	"wal-e/internal/postgres"
	"wal-e/internal/storage"
)

// A Use says what a backup occupies in the archive. Packs are counted whole, as
// they are deleted: what only one backup refers to goes with it.
type Use struct {
	Listed
	Ref     chunkstore.Ref
	Alone   int64 // bytes of packs that no other valid backup needs
	Shared  int64 // bytes of packs that others need, too
	Missing int   // packs that it needs and that aren't stored
}

// Usage tells what each valid backup holds alone and what it shares, in the order
// of List, and the bytes of all packs. It lists packs and reads outcomes, needs no
// key, and holds a number per pack. Damaged outcomes are an error beside the rest,
// and what they need may then count as another's alone.
func Usage(ctx context.Context, b storage.Bucket) (uses []Use, stored int64, err error) {
	// Outcomes come first: a backup that is deleted meanwhile has packs that are
	// missing, but one that comes has none that look stray.
	backups, damage, err := readBackups(ctx, b, query{})
	if err != nil {
		return nil, 0, err
	}
	packs, err := chunkstore.ListPacks(ctx, b, nil)
	if err != nil {
		return nil, 0, err
	}
	for _, size := range packs.Sizes {
		stored += size
	}
	needed := make(map[index.PackID]int, len(packs.Sizes))
	for i := range backups {
		for p := range backups[i].footprint.All() {
			needed[p]++
		}
	}
	for i := range backups {
		u := Use{Listed: backups[i].listed(), Ref: backups[i].ref}
		for p := range backups[i].footprint.All() {
			size, ok := packs.Sizes[p]
			switch {
			case !ok:
				u.Missing++
			case needed[p] == 1:
				u.Alone += size
			default:
				u.Shared += size
			}
		}
		uses = append(uses, u)
	}
	errs := make([]error, len(damage))
	for i, d := range damage {
		errs[i] = d.err
	}
	return uses, stored, errors.Join(errs...)
}

// A Cost is how large a database, or a relation with all its forks, is.
type Cost struct {
	Name  string // of a relation "" when it isn't known
	Path  string // of a relation, its first file
	Bytes int64  // uncompressed
}

// Costs returns the n largest databases and relations of a backup, the largest
// first. It reads the table of files, and catalogs for the names of those that it
// returns; it holds some 40 bytes per relation.
func (t *Tree) Costs(ctx context.Context, n int) (databases, relations []Cost, err error) {
	byRelation := make(map[postgres.Relation]int64)
	byDatabase := make(map[uint32]int64)
	spaces := make(map[uint32]string) // the version's folder in a tablespace
	for e, err := range t.Entries(ctx, "") {
		if err != nil {
			return nil, nil, err
		}
		f, ok := postgres.ParseRelationPath(e.Path)
		if e.Type != File || !ok || f.Temp {
			continue
		}
		byRelation[f.Relation] += e.Content.Size
		byDatabase[f.Database] += e.Content.Size
		if f.Tablespace != 0 && spaces[f.Tablespace] == "" {
			spaces[f.Tablespace] = strings.Split(e.Path, "/")[2] // as ParseRelationPath has it
		}
	}
	names, err := t.Names(ctx)
	if err != nil {
		return nil, nil, err
	}
	for _, oid := range largest(byDatabase, n, cmp.Compare[uint32]) {
		name := "shared by all databases"
		if oid != 0 {
			name = names.Database(oid)
		}
		databases = append(databases, Cost{Name: name, Bytes: byDatabase[oid]})
	}
	order := func(a, b postgres.Relation) int {
		return cmp.Or(cmp.Compare(a.Tablespace, b.Tablespace), cmp.Compare(a.Database, b.Database), cmp.Compare(a.Node, b.Node))
	}
	for _, r := range largest(byRelation, n, order) {
		c := Cost{Path: postgres.RelationFile{Relation: r}.Path(spaces[r.Tablespace]), Bytes: byRelation[r]}
		if c.Name, err = names.Name(ctx, c.Path); err != nil {
			return nil, nil, err
		}
		relations = append(relations, c)
	}
	return databases, relations, nil
}

// largest returns the keys of the n largest values, equal ones in their order.
func largest[K comparable](m map[K]int64, n int, order func(a, b K) int) []K {
	var top []K
	for k := range m {
		i, _ := slices.BinarySearchFunc(top, k, func(have, k K) int { return cmp.Or(cmp.Compare(m[k], m[have]), order(have, k)) })
		if i < n {
			top = slices.Insert(top, i, k)
			top = top[:min(n, len(top))]
		}
	}
	return top
}
