package backup

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"wal-e/chunkstore"
	"wal-e/internal/postgres"
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
