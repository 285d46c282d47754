package chunkstore_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"wal-e/chunkstore"
	"wal-e/index"
	"wal-e/internal/storage"
	"wal-e/internal/storage/storagetest"
)

// TestFlippedBit flips one bit of each byte of every object of a small archive.
// Reading then either fails or gives what was pushed.
func TestFlippedBit(t *testing.T) {
	t.Parallel()
	b := newBucket(t)
	p := newPusher(t)
	run := p.mustPush(t, open(t, b), text(1, 20<<10), random(2, 300), []byte("x"))
	for _, key := range keys(t, b, "") {
		t.Run(strings.ReplaceAll(key, "/", "_"), func(t *testing.T) {
			t.Parallel()
			testFlips(t, b, run.Ref(), key)
		})
	}
}

func testFlips(t *testing.T, b storage.Bucket, ref chunkstore.Ref, key string) {
	data := get(t, b, key)
	step := 1
	if testing.Short() {
		step = 17
	}
	refused, path := 0, filepath.Join(t.TempDir(), "index.db")
	for i := 0; i < len(data); i += step {
		altered := append([]byte(nil), data...)
		altered[i] ^= 1 << (i % 8)
		_ = os.Remove(path) // a table of the last round knows better
		err := readAltered(t.Context(), &alteredBucket{b, key, altered}, ref, path)
		if errors.Is(err, errWrong) {
			t.Fatalf("%s with byte %d of %d altered: %v", key, i, len(data), err)
		}
		if err != nil {
			refused++
		}
	}
	t.Logf("%d bytes, %d of the flips refused", len(data), refused)
	if all := (len(data) + step - 1) / step; strings.HasSuffix(key, ".outcome") && refused != all {
		t.Errorf("%d of %d flips in the outcome were refused, want all", refused, all)
	}
}

func readAltered(ctx context.Context, b storage.Bucket, ref chunkstore.Ref, path string) error {
	s, err := chunkstore.Open(ctx, b, nil)
	if err != nil {
		return err
	}
	return readBack(ctx, s, ref, path)
}

// TestCheckPack finds each flip of a pack, but in reserved fields.
func TestCheckPack(t *testing.T) {
	t.Parallel()
	b := newBucket(t)
	run := newPusher(t).mustPush(t, open(t, b), text(1, 20<<10), random(2, 300))
	p := packsOf(t, b, run)[0]
	data := get(t, b, chunkstore.PackKey(p))
	check := func(data []byte) (found int, err error) {
		_, err = open(t, &alteredBucket{b, chunkstore.PackKey(p), data}).CheckPack(
			t.Context(), p, int64(len(data)), func(index.Record, error) { found++ })
		return found, err
	}
	if found, err := check(data); found != 0 || err != nil {
		t.Fatalf("CheckPack of a sound pack = %d, %v", found, err)
	}
	for i := range data {
		if i >= 12 && i < 16 || i >= len(data)-12 && i < len(data)-8 {
			continue // reserved
		}
		altered := append([]byte(nil), data...)
		altered[i] ^= 1 << (i % 8)
		if found, err := check(altered); found == 0 && err == nil {
			t.Errorf("CheckPack with byte %d of %d altered finds nothing", i, len(data))
		}
	}
	for _, n := range []int{0, 1, 16, 40, len(data) / 2, len(data) - 1} {
		var packErr *chunkstore.PackError
		if _, err := check(data[:n]); !errors.As(err, &packErr) {
			t.Errorf("CheckPack of the first %d bytes = %v, want a PackError", n, err)
		}
	}
}

// TestIndexGone takes index objects away or damages them, with and without a
// table that saw them.
func TestIndexGone(t *testing.T) {
	t.Parallel()
	for _, change := range []string{"removed", "altered", "empty"} {
		for _, keepTable := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, same table %t", change, keepTable), func(t *testing.T) {
				t.Parallel()
				b := newBucket(t)
				p := newPusher(t)
				file := random(1, 2<<20)
				p.mustPush(t, open(t, b), file)
				for _, key := range keys(t, b, "chunks_006/index/") {
					switch change {
					case "removed":
						remove(t, b, key)
					case "altered":
						data := get(t, b, key)
						data[len(data)/2] ^= 1
						replace(t, b, key, data)
					case "empty":
						replace(t, b, key, nil)
					}
				}
				if !keepTable {
					p.path = filepath.Join(t.TempDir(), "index.db")
				}
				if st := p.mustPush(t, open(t, b), file).Stats(); st.New != 0 {
					t.Errorf("stats = %+v, want nothing new: the packs tell what they hold", st)
				}
				checkAll(t, b)
			})
		}
	}
}

// TestTableAltered damages the local table between pushes, everywhere in it.
// That may cost bytes, and only once: the push after next finds everything.
func TestTableAltered(t *testing.T) {
	t.Parallel()
	b := newBucket(t)
	p := newPusher(t)
	file := random(1, 3<<20)
	p.mustPush(t, open(t, b), file)
	sound, err := os.ReadFile(p.path)
	if err != nil {
		t.Fatal(err)
	}
	step := 601
	if testing.Short() {
		step = 2003
	}
	for i := 0; i < len(sound); i += step {
		altered := append([]byte(nil), sound...)
		altered[i] ^= 0x55
		alteredPush(t, b, *p, file, altered, fmt.Sprintf("byte %d", i))
	}
	for _, n := range []int{0, 1, 4096, len(sound) / 2, len(sound) - 1} {
		alteredPush(t, b, *p, file, sound[:n], fmt.Sprintf("cut to %d bytes", n))
	}
	if n := checkAll(t, b); n != 1 {
		t.Errorf("%d backups, want 1", n)
	}
}

// alteredPush pushes twice with an altered table, and takes the two away again.
func alteredPush(t *testing.T, b storage.Bucket, p pusher, file, table []byte, what string) {
	t.Helper()
	p.path = filepath.Join(t.TempDir(), "index.db")
	if err := os.WriteFile(p.path, table, 0o600); err != nil {
		t.Fatal(err)
	}
	s := open(t, b)
	for round := range 3 {
		run, err := p.push(t.Context(), s, file)
		if err != nil {
			t.Fatalf("push %d with %s of the table altered = %v", round, what, err)
		}
		if err := readBack(t.Context(), s, run.Ref(), filepath.Join(t.TempDir(), "index.db")); err != nil {
			t.Fatalf("push %d with %s of the table altered: %v", round, what, err)
		}
		if st := run.Stats(); round > 0 && st.New > 0 && round == 2 {
			t.Errorf("push %d with %s of the table altered: %+v, want nothing new", round, what, st)
		}
		defer func() {
			for _, dir := range []string{"basebackups_006/" + run.Ref().Name, "chunks_006/packs/" + run.Ref().Run.String(), "chunks_006/index/" + run.Ref().Run.String()} {
				remove(t, b, keys(t, b, dir)...)
			}
		}()
	}
}

// TestStaleTable pushes with a table that missed some backups, and with one
// that is ahead of a prefix that was emptied.
func TestStaleTable(t *testing.T) {
	t.Parallel()
	b := newBucket(t)
	p, other := newPusher(t), newPusher(t)
	p.mustPush(t, open(t, b), random(1, 1<<20))
	other.day = 1
	other.mustPush(t, open(t, b), random(1, 1<<20), random(2, 1<<20))
	p.day = 2
	if st := p.mustPush(t, open(t, b), random(1, 1<<20), random(2, 1<<20)).Stats(); st.New != 0 {
		t.Errorf("stats = %+v, want nothing new", st)
	}
	checkAll(t, b)
	empty := newBucket(t)
	if st := p.mustPush(t, open(t, empty), random(1, 1<<20)).Stats(); st.New < 1<<20 {
		t.Errorf("stats = %+v, want all new", st)
	}
	if n := checkAll(t, empty); n != 1 {
		t.Errorf("%d backups, want 1", n)
	}
}

// TestUnreadableStore: a store that can't be read is no damage.
func TestUnreadableStore(t *testing.T) {
	t.Parallel()
	b := newBucket(t)
	run := newPusher(t).mustPush(t, open(t, b), random(1, 100<<10), text(2, 500<<10))
	remove(t, b, keys(t, b, "chunks_006/index/")...)
	counted := storagetest.NewFaulty(b, storagetest.Fault{})
	if err := readAltered(t.Context(), counted, run.Ref(), filepath.Join(t.TempDir(), "index.db")); err != nil {
		t.Fatal(err)
	}
	for n := 1; n <= counted.Calls(); n++ {
		for _, mode := range []storagetest.Mode{storagetest.FailBefore, storagetest.BreakBody, storagetest.FailFrom} {
			faulty := storagetest.NewFaulty(b, storagetest.Fault{Call: n, Mode: mode})
			err := readAltered(t.Context(), faulty, run.Ref(), filepath.Join(t.TempDir(), "index.db"))
			if err != nil && !errors.Is(err, storagetest.ErrInjected) || err == nil && mode == storagetest.FailFrom {
				t.Errorf("read with call %d in mode %s = %v, want the injected error", n, mode, err)
			}
		}
	}
}

// TestLyingIndex puts index objects in place that are whole and wrong.
func TestLyingIndex(t *testing.T) {
	t.Parallel()
	b := newBucket(t)
	run := newPusher(t).mustPush(t, open(t, b), random(1, 100<<10), text(2, 500<<10), text(3, 100<<10))
	key := keys(t, b, "chunks_006/index/")[0]
	for what, change := range map[string]func(*index.Record){
		"offset + 1":     func(r *index.Record) { r.Offset++ },
		"offset 0":       func(r *index.Record) { r.Offset = 0 },
		"stored short":   func(r *index.Record) { r.Stored = 10 },
		"stored long":    func(r *index.Record) { r.Stored *= 3; r.Offset = 0 },
		"chunk longer":   func(r *index.Record) { r.Chunks[0].Length++ },
		"chunk shorter":  func(r *index.Record) { r.Chunks[0].Length = 0 },
		"other order":    func(r *index.Record) { r.Chunks[0], r.Chunks[1] = r.Chunks[1], r.Chunks[0] },
		"all in one":     func(r *index.Record) { r.Offset, r.Stored = 16, 5000 },
		"another's id":   func(r *index.Record) { r.Chunks[0].ID = r.Chunks[1].ID },
		"chunks dropped": func(r *index.Record) { r.Chunks = nil },
	} {
		packs, err := index.DecodeObject(get(t, b, key))
		if err != nil {
			t.Fatal(err)
		}
		for i := range packs {
			for j := range packs[i].Records {
				r := &packs[i].Records[j]
				if len(r.Chunks) > 1 {
					change(r)
				}
				r.Stored = min(r.Stored, packs[i].Size-r.Offset)
			}
		}
		altered := &alteredBucket{b, key, index.EncodeObject(packs)}
		err = readAltered(t.Context(), altered, run.Ref(), filepath.Join(t.TempDir(), "index.db"))
		if err == nil || errors.Is(err, errWrong) {
			t.Errorf("%s: reading = %v, want an error", what, err)
		}
	}
}
