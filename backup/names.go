package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"

	"wal-e/chunkstore"
	"wal-e/internal/chunk"
	"wal-e/internal/postgres"
)

// Names tells what the files of a backup belong to. It reads the catalogs of a
// database (pg_class and pg_namespace) when it is first asked for one, as they
// are in the backup: pages that were written meanwhile may be torn, and the WAL
// isn't replayed, so a name is for people. It is not safe for concurrent use.
type Names struct {
	t         *Tree
	databases map[uint32]string            // by OID; zero are the shared catalogs
	relations map[uint32]map[uint32]string // by database
}

// Names returns what resolves the names of t.
func (t *Tree) Names(ctx context.Context) (*Names, error) {
	n := &Names{t: t, databases: make(map[uint32]string), relations: make(map[uint32]map[uint32]string)}
	nodes, err := n.mapped(ctx, "global")
	if err != nil {
		return nil, err
	}
	err = n.rows(ctx, fmt.Sprintf("global/%d", nodes[postgres.DatabaseCatalog]), func(row postgres.Tuple) {
		if oid, name, ok := postgres.ParseNamedRow(row); ok && (row.Current || n.databases[oid] == "") {
			n.databases[oid] = name
		}
	})
	return n, err
}

// Name returns what a path belongs to, such as "shop: public.orders" or "shop:
// public.orders (vm)"; "" when it is no relation's, or a name isn't to be had.
func (n *Names) Name(ctx context.Context, path string) (string, error) {
	f, ok := postgres.ParseRelationPath(path)
	if !ok || f.Temp {
		return "", nil
	}
	names := n.relations[f.Database]
	if names == nil {
		var err error
		if names, err = n.read(ctx, f.Database, path[:strings.LastIndexByte(path, '/')]); err != nil {
			return "", err
		}
		n.relations[f.Database] = names
	}
	name := names[f.Node]
	if name == "" {
		return "", nil
	}
	if f.Database != 0 {
		name = n.Database(f.Database) + ": " + name
	}
	if f.Fork != postgres.MainFork {
		name += " (" + f.Fork.String() + ")"
	}
	return name, nil
}

// Database returns the name of a database, or its OID when that isn't known.
func (n *Names) Database(oid uint32) string {
	if name := n.databases[oid]; name != "" {
		return name
	}
	return fmt.Sprintf("database %d", oid)
}

// read reads the names of the relations of a database, of whose folders one is
// known; its catalogs are there when its default tablespace is. Zero means the
// shared catalogs, whose names stand in any database's pg_class: template1, whose
// OID is 1, is always there.
func (n *Names) read(ctx context.Context, database uint32, folder string) (map[uint32]string, error) {
	dir, own := fmt.Sprintf("base/%d", database), database != 0
	if !own {
		dir = "base/1"
	}
	nodes, err := n.mapped(ctx, dir)
	if err == nil && nodes == nil && own {
		dir = folder
		nodes, err = n.mapped(ctx, dir)
	}
	if err != nil || nodes == nil {
		return map[uint32]string{}, err
	}
	shared, err := n.mapped(ctx, "global")
	if err != nil {
		return nil, err
	}
	type relation struct {
		postgres.RelationRow
		current bool
	}
	byNode := make(map[uint32]relation)
	err = n.rows(ctx, fmt.Sprintf("%s/%d", dir, nodes[postgres.RelationCatalog]), func(row postgres.Tuple) {
		r, ok := postgres.ParseRelationRow(row)
		if !ok {
			return
		}
		if r.Node == 0 {
			if _, global := shared[r.OID]; global == own {
				return
			}
			if r.Node = nodes[r.OID]; !own {
				r.Node = shared[r.OID]
			}
		} else if !own {
			return
		}
		if old, ok := byNode[r.Node]; r.Node != 0 && (!ok || row.Current || !old.current) {
			byNode[r.Node] = relation{r, row.Current}
		}
	})
	if err != nil {
		return nil, err
	}
	schemas := map[uint32]string{}
	for node, r := range byNode {
		if r.OID != postgres.NamespaceCatalog || !own {
			continue
		}
		err := n.rows(ctx, fmt.Sprintf("%s/%d", dir, node), func(row postgres.Tuple) {
			if oid, name, ok := postgres.ParseNamedRow(row); ok && (row.Current || schemas[oid] == "") {
				schemas[oid] = name
			}
		})
		if err != nil {
			return nil, err
		}
	}
	names := make(map[uint32]string, len(byNode))
	for node, r := range byNode {
		name := r.Name
		if schema := schemas[r.Namespace]; schema != "" {
			name = schema + "." + name
		}
		names[node] = name
	}
	return names, nil
}

// mapped reads the pg_filenode.map of a folder; there is none where a
// database has no files in the default tablespace.
func (n *Names) mapped(ctx context.Context, dir string) (map[uint32]uint32, error) {
	e, err := n.t.Entry(ctx, dir+"/pg_filenode.map")
	if errors.Is(err, ErrNoEntry) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var data bytes.Buffer
	if err := n.t.Copy(ctx, &data, e); err != nil {
		return nil, err
	}
	m, err := postgres.ParseFilenodeMap(data.Bytes())
	if err != nil {
		return nil, fmt.Errorf("%s in %s: %w", dir, n.t.b.Ref, err)
	}
	return m, nil
}

// rows calls visit with the rows of a catalog, whose first file is path.
func (n *Names) rows(ctx context.Context, path string, visit func(postgres.Tuple)) error {
	dir := path[:strings.LastIndexByte(path, '/')]
	wanted, ok := postgres.ParseRelationPath(path)
	if !ok {
		return nil
	}
	size := n.t.b.Manifest.BlockSize
	if size < chunk.PageSize/8 {
		return fmt.Errorf("%w: manifest of %s has a block size of %d", chunkstore.ErrDamaged, n.t.b.Ref, size)
	}
	for e, err := range n.t.Entries(ctx, dir) {
		if err != nil {
			return err
		}
		f, ok := postgres.ParseRelationPath(e.Path)
		if e.Type != File || !ok || f.Relation != wanted.Relation || f.Fork != postgres.MainFork || f.Temp {
			continue
		}
		err := n.t.extents(ctx, e, func(data []byte) error {
			for ; len(data) >= size; data = data[size:] {
				for row := range postgres.Tuples(data[:size]) {
					visit(row)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
