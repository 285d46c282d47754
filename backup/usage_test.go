package backup

import (
	"testing"

	"wal-e/chunkstore"
	"wal-e/index"
	"wal-e/internal/storage"
)

func usage(t *testing.T, b storage.Bucket) ([]Use, int64, error) {
	t.Helper()
	c, err := ReadCatalog(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	return c.Usage(t.Context())
}

// What a backup holds alone is what nobody needs any more once it is deleted; with
// what it shares it is all that it needs.
func TestUsage(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	if uses, stored, err := usage(t, a.bucket); err != nil || len(uses) != 0 || stored != 0 {
		t.Fatalf("Usage of nothing = %v, %d, %v", uses, stored, err)
	}
	c := newCluster()
	for i := range uint64(4) {
		c.files["base/5/3000"] = random(3000+i, 700<<10)
		c.start += 16 << 20
		a.push(t, c)
	}
	packs, err := chunkstore.ListPacks(t.Context(), a.bucket, nil)
	if err != nil {
		t.Fatal(err)
	}
	needed := func(uses []Use) (sum int64) {
		all := make(map[index.PackID]bool)
		for _, u := range uses {
			b := a.find(t, u.Ref.String())
			for p := range b.Footprint.All() {
				if !all[p] {
					sum += packs.Sizes[p]
				}
				all[p] = true
			}
		}
		return sum
	}
	for n := 4; n > 0; n-- {
		uses, stored, err := usage(t, a.bucket)
		if err != nil || len(uses) != n {
			t.Fatalf("Usage = %d backups, %v; want %d", len(uses), err, n)
		}
		sum := int64(0)
		for _, size := range packs.Sizes {
			sum += size
		}
		if stored != sum {
			t.Errorf("%d bytes are stored, want %d", stored, sum)
		}
		before := needed(uses)
		for i, u := range uses {
			if own := needed(uses[i : i+1]); u.Alone+u.Shared != own || u.Missing != 0 {
				t.Errorf("of %d backups %s holds %d alone and %d shared, needs %d; %d missing", n, u.Ref, u.Alone, u.Shared, own, u.Missing)
			}
			others := append(append([]Use(nil), uses[:i]...), uses[i+1:]...)
			if freed := before - needed(others); u.Alone != freed || u.Alone == 0 {
				t.Errorf("of %d backups %s holds %d alone, deleting it frees %d", n, u.Ref, u.Alone, freed)
			}
		}
		if n > 1 && uses[0].Shared == 0 {
			t.Error("nothing is shared")
		}
		if err := chunkstore.CreateTombstone(t.Context(), a.bucket, uses[0].Ref, chunkstore.Tombstone{}); err != nil {
			t.Fatal(err)
		}
	}
}

// Packs that are gone are counted, not passed over.
func TestUsageMissing(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	b := a.push(t, newCluster())
	for p := range b.Footprint.All() {
		if err := a.bucket.Delete(t.Context(), chunkstore.PackKey(p)); err != nil {
			t.Fatal(err)
		}
		break
	}
	uses, _, err := usage(t, a.bucket)
	if err != nil || len(uses) != 1 || uses[0].Missing != 1 {
		t.Errorf("Usage = %+v, %v; want a pack missing", uses, err)
	}
}

// Costs has the largest first and no more than are asked for.
func TestCosts(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	c := newCluster()
	delete(c.files, "global/pg_filenode.map") // which is none
	c.files["base/5/2619.1"] = random(1, 8192)
	c.files["base/5/2619_fsm"] = random(2, 8192)
	tree, err := OpenTree(t.Context(), a.store, a.push(t, c), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tree.Close() }()
	databases, relations, err := tree.Costs(t.Context(), 3)
	if err != nil {
		t.Fatal(err)
	}
	sum := int64(0)
	for path, data := range c.files {
		if len(path) > 7 && path[:7] == "base/5/" && path != "base/5/PG_VERSION" && path != "base/5/empty" || path == "pg_tblspc/16390/PG_15_202209061/5/16391" {
			sum += int64(len(data))
		}
	}
	if len(databases) != 2 || databases[0] != (Cost{Name: "database 5", Bytes: sum}) || databases[1].Bytes != 2*8192 {
		t.Errorf("databases %+v, want one of %d bytes", databases, sum)
	}
	want := []Cost{
		{Path: "base/5/2619", Bytes: 3*fetchExtent + 8192 + 5 + 2*8192},
		{Path: "base/5/2620", Bytes: 2 * fetchExtent},
		{Path: "base/5/2621", Bytes: 40 * 8192},
	}
	for i, w := range want {
		if len(relations) != len(want) || relations[i] != w {
			t.Errorf("relations %+v, want %+v", relations, want)
			break
		}
	}
}
