package backup

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"wal-e/chunkstore"
	"wal-e/internal/seal"
	"wal-e/internal/storage"
	"wal-e/internal/storage/mem"
)

// damages are what can become of an object.
var damages = map[string]func([]byte) []byte{
	"flip":  func(b []byte) []byte { b[len(b)/2] ^= 4; return b },
	"front": func(b []byte) []byte { b[1] ^= 1; return b },
	"end":   func(b []byte) []byte { b[len(b)-5] ^= 1; return b },
	"cut":   func(b []byte) []byte { return b[:len(b)/2] },
	"empty": func([]byte) []byte { return nil },
	"gone":  nil,
}

func (c *fakeCluster) damage(t *testing.T, key, how string) {
	t.Helper()
	if change := damages[how]; change != nil {
		c.replace(t, key, change)
	} else if err := c.bucket.Delete(t.Context(), key); err != nil {
		t.Fatal(err)
	}
}

// copied returns a bucket with the same objects.
func (c *fakeCluster) copied(t *testing.T) *mem.Bucket {
	t.Helper()
	b := mem.New(nil)
	for _, key := range c.keys(t, "") {
		data, err := storage.ReadAll(t.Context(), c.bucket, key, 1<<30)
		if err != nil {
			t.Fatal(err)
		}
		if err := storage.CreateBytes(t.Context(), b, key, data, nil); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

func (c *fakeCluster) content(t *testing.T, prefix string) map[string]string {
	t.Helper()
	m := make(map[string]string)
	for _, key := range c.keys(t, prefix) {
		data, err := storage.ReadAll(t.Context(), c.bucket, key, 1<<30)
		if err != nil {
			t.Fatal(err)
		}
		m[key] = string(data)
	}
	return m
}

func (c *fakeCluster) sound(t *testing.T) {
	t.Helper()
	r := c.verify(t, VerifyConfig{ReadData: true})
	if len(r.Problems) != 0 || len(r.Warnings) != 0 {
		t.Errorf("after the repair: problems %+v, warnings %+v", r.Problems, r.Warnings)
	}
}

// mended makes sure that a repair says of itself that it mended all.
func mended(t *testing.T, r *VerifyReport) {
	t.Helper()
	if !r.Mended {
		t.Errorf("a repair of all isn't said to be one: problems %+v, repairs %+v", r.Problems, r.Repairs)
	}
	for _, b := range r.Backups {
		if !b.OK || b.Files == 0 {
			t.Errorf("backup %s: ok %t, %d files", b.Run, b.OK, b.Files)
		}
	}
}

func result(r *VerifyReport, key string) string {
	i := slices.IndexFunc(r.Repairs, func(r Repair) bool { return r.Object == key })
	if i < 0 {
		return ""
	}
	return r.Repairs[i].Result
}

func TestRepairPack(t *testing.T) {
	t.Parallel()
	for how := range damages {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			c, dir := newFakeCluster(t), t.TempDir()
			ref := c.push(t, dir, nil)
			copied, want := c.copied(t), c.content(t, "")
			for _, key := range c.keys(t, "chunks_006/packs/"+ref.Run.String())[:2] {
				c.damage(t, key, how)
				r := c.verify(t, VerifyConfig{ReadData: true, Repair: true, CopyFrom: copied})
				if len(r.Problems) == 0 || result(r, key) != RepairRestored {
					t.Errorf("problems %+v, repairs %+v, want %s restored", r.Problems, r.Repairs, key)
				}
				mended(t, r)
				c.sound(t)
			}
			got := c.content(t, "")
			for key, data := range want {
				if got[key] != data {
					t.Errorf("%s is another one than before", key)
				}
			}
			if len(got) != len(want) {
				t.Errorf("%d objects, %d before", len(got), len(want))
			}
		})
	}
}

func TestRepairIndex(t *testing.T) {
	t.Parallel()
	for how := range damages {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			c, dir := newFakeCluster(t), t.TempDir()
			c.push(t, dir, nil)
			key := c.keys(t, "chunks_006/index/")[0]
			c.damage(t, key, how)
			r := c.verify(t, VerifyConfig{Repair: true})
			if len(r.Problems) != 0 {
				t.Errorf("problems %+v", r.Problems)
			}
			if i := slices.IndexFunc(r.Repairs, func(r Repair) bool { return r.Result == RepairRebuilt }); i < 0 {
				t.Errorf("repairs %+v, want one rebuilt", r.Repairs)
			}
			if how != "gone" && result(r, key) != RepairRemoved {
				t.Errorf("repairs %+v, want %s removed", r.Repairs, key)
			}
			c.sound(t)
			// All packs are covered, so there is nothing left to do.
			before := c.content(t, "")
			if r := c.verify(t, VerifyConfig{ReadData: true, Repair: true}); len(r.Repairs) != 0 {
				t.Errorf("a second repair did %+v", r.Repairs)
			}
			if after := c.content(t, ""); len(after) != len(before) {
				t.Errorf("%d objects, %d before", len(after), len(before))
			}
			ref := c.push(t, t.TempDir(), nil)
			if n := len(c.keys(t, "chunks_006/packs/"+ref.Run.String())); n > 1 {
				t.Errorf("the next push, which knows nothing, stored %d packs", n)
			}
		})
	}
}

// An index object that is whole, but says what packs don't.
func TestRepairLyingIndex(t *testing.T) {
	t.Parallel()
	c, dir := newFakeCluster(t), t.TempDir()
	c.push(t, dir, nil)
	keys := c.keys(t, "chunks_006/index/")
	first, err := storage.ReadAll(t.Context(), c.bucket, keys[0], 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	c.files["base/5/1001"] = random(99, 3<<20)
	c.push(t, t.TempDir(), nil)
	key := c.keys(t, "chunks_006/index/")[len(keys)]
	c.replace(t, key, func([]byte) []byte { return first })
	mended(t, c.verify(t, VerifyConfig{ReadData: true, Repair: true}))
	c.sound(t)
}

// An index object that a repair made is damaged in its turn. The next one has the
// same name.
func TestRepairOfRepairedIndex(t *testing.T) {
	t.Parallel()
	c, dir := newFakeCluster(t), t.TempDir()
	c.push(t, dir, nil)
	for _, key := range c.keys(t, "chunks_006/index/") {
		c.damage(t, key, "gone")
	}
	r := c.verify(t, VerifyConfig{Repair: true})
	made := c.keys(t, "chunks_006/index/")
	if len(made) != 1 || result(r, made[0]) != RepairRebuilt {
		t.Fatalf("repairs %+v, index objects %q", r.Repairs, made)
	}
	want := c.content(t, made[0])
	c.damage(t, made[0], "flip")
	r = c.verify(t, VerifyConfig{Repair: true})
	c.sound(t)
	if got := c.content(t, "chunks_006/index/"); got[made[0]] != want[made[0]] || len(got) != 1 {
		t.Errorf("%d index objects, and repairs %+v", len(got), r.Repairs)
	}
}

// Without a copy nothing comes back, but the next push doesn't build on it: it
// stores anew, and its backup is whole.
func TestRepairByNextPush(t *testing.T) {
	t.Parallel()
	for how := range damages {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			c, dir := newFakeCluster(t), t.TempDir()
			old := c.push(t, dir, nil)
			key := c.keys(t, "chunks_006/packs/"+old.Run.String())[0]
			c.damage(t, key, how)
			r := c.verify(t, VerifyConfig{ReadData: true, Repair: true, Host: "db1"})
			if result(r, key) != RepairAvoided || r.Mended {
				t.Errorf("repairs %+v, mended %t, want %s avoided", r.Repairs, r.Mended, key)
			}
			marks := len(c.keys(t, "chunks_006/condemned/"))
			if how != "gone" && marks != 1 {
				t.Errorf("%d marks, want one", marks)
			}
			// Again: no second mark.
			c.verify(t, VerifyConfig{ReadData: true, Repair: true})
			if n := len(c.keys(t, "chunks_006/condemned/")); n != marks {
				t.Errorf("%d marks, %d before", n, marks)
			}
			ref := c.push(t, dir, nil)
			r = c.verify(t, VerifyConfig{ReadData: true})
			for _, b := range r.Backups {
				if want := b.Run == ref.Run; b.OK != want {
					t.Errorf("backup %s: ok = %t, want %t; problems %+v", b.Run, b.OK, want, r.Problems)
				}
			}
		})
	}
}

func TestRepairFromBadCopy(t *testing.T) {
	t.Parallel()
	c, dir := newFakeCluster(t), t.TempDir()
	ref := c.push(t, dir, nil)
	key := c.keys(t, "chunks_006/packs/"+ref.Run.String())[0]
	c.damage(t, key, "flip")
	bad := c.copied(t) // damaged as well
	other := newFakeCluster(t)
	stranger := other.push(t, t.TempDir(), nil)
	foreign := mem.New(nil) // another archive's pack under this name
	data, err := storage.ReadAll(t.Context(), other.bucket, other.keys(t, "chunks_006/packs/"+stranger.Run.String())[0], 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	if err := storage.CreateBytes(t.Context(), foreign, key, data, nil); err != nil {
		t.Fatal(err)
	}
	before := c.content(t, "chunks_006/packs/")
	for name, from := range map[string]storage.Bucket{"damaged": bad, "foreign": foreign, "empty": mem.New(nil)} {
		r := c.verify(t, VerifyConfig{ReadData: true, Repair: true, CopyFrom: from})
		if result(r, key) != RepairAvoided {
			t.Errorf("%s copy: repairs %+v", name, r.Repairs)
		}
		if got := c.content(t, "chunks_006/packs/"); got[key] != before[key] {
			t.Errorf("%s copy: the pack was replaced", name)
		}
	}
}

func TestRepairRights(t *testing.T) {
	t.Parallel()
	c, dir := newFakeCluster(t), t.TempDir()
	ref := c.push(t, dir, nil)
	copied := c.copied(t)
	packs := c.keys(t, "chunks_006/packs/"+ref.Run.String())
	c.damage(t, packs[0], "flip")
	c.damage(t, packs[1], "gone")
	index := c.keys(t, "chunks_006/index/")[0]
	c.damage(t, index, "flip")
	r := c.verify(t, VerifyConfig{ReadData: true, Repair: true, CopyFrom: copied, Bucket: denied{c.bucket, false, true}})
	if result(r, packs[0]) != RepairAvoided || result(r, packs[1]) != RepairRestored || result(r, index) != RepairNone {
		t.Errorf("without the right to delete: %+v", r.Repairs)
	}
	r = c.verify(t, VerifyConfig{ReadData: true, Repair: true, CopyFrom: copied})
	if result(r, packs[0]) != RepairRestored || result(r, index) != RepairRemoved {
		t.Errorf("with it: %+v", r.Repairs)
	}
	c.sound(t)
}

// failing fails the nth call, before it did anything or after.
type failing struct {
	storage.Bucket
	left  *atomic.Int64
	after bool
}

var errFailing = errors.New("storage failed")

func (f failing) fail() bool { return f.left.Add(-1) == -1 }

func (f failing) Create(ctx context.Context, key string, r io.Reader, size int64, meta storage.Meta) error {
	if !f.fail() {
		return f.Bucket.Create(ctx, key, r, size, meta)
	}
	if f.after {
		return errors.Join(errFailing, f.Bucket.Create(ctx, key, r, size, meta))
	}
	return errFailing
}

func (f failing) Delete(ctx context.Context, keys ...string) error {
	if !f.fail() {
		return f.Bucket.Delete(ctx, keys...)
	}
	if f.after {
		return errors.Join(errFailing, f.Bucket.Delete(ctx, keys...))
	}
	return errFailing
}

func (f failing) Stat(ctx context.Context, key string) (storage.Attributes, error) {
	if f.fail() {
		return storage.Attributes{}, errFailing
	}
	return f.Bucket.Stat(ctx, key)
}

// A repair that stops at any request is finished by the next.
func TestRepairFaults(t *testing.T) {
	t.Parallel()
	c, dir := newFakeCluster(t), t.TempDir()
	ref := c.push(t, dir, nil)
	copied := c.copied(t)
	packs := c.keys(t, "chunks_006/packs/"+ref.Run.String())
	index := c.keys(t, "chunks_006/index/")[0]
	whole := c.bucket
	for _, after := range []bool{false, true} {
		for n, done := 0, false; !done; n++ {
			if n > 40 {
				t.Fatalf("%d requests of a repair", n)
			}
			c.bucket = c.copied(t)
			c.damage(t, packs[0], "flip")
			c.damage(t, packs[1], "gone")
			c.damage(t, index, "flip")
			var left atomic.Int64
			left.Store(int64(n))
			cfg := VerifyConfig{Repair: true, ReadData: true, CopyFrom: copied, TempDir: t.TempDir(), Bucket: failing{c.bucket, &left, after}}
			_, err := Verify(t.Context(), cfg)
			done = left.Load() >= 0
			if !done && !errors.Is(err, errFailing) && !errors.Is(err, chunkstore.ErrUnrepaired) {
				// createOnce and a pack that another one stored take a lost answer for
				// what it is.
				if !after || !errors.Is(err, ErrProblems) {
					t.Errorf("request %d failed: Verify = %v", n, err)
				}
			}
			c.verify(t, VerifyConfig{Repair: true, ReadData: true, CopyFrom: copied})
			r := c.verify(t, VerifyConfig{ReadData: true})
			if len(r.Problems) != 0 {
				t.Errorf("request %d failed: problems are left: %+v", n, r.Problems)
			}
			c.bucket = whole
		}
	}
}

// A prefix that takes copies gets no mark, which would refuse the next copy.
func TestRepairOfCopy(t *testing.T) {
	t.Parallel()
	c, dir := newFakeCluster(t), t.TempDir()
	ref := c.push(t, dir, nil)
	copied := mem.New(nil)
	if err := chunkstore.PrepareCopy(t.Context(), c.bucket, copied, c.clock); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		copyOf, err := chunkstore.Copy(t.Context(), chunkstore.CopyConfig{From: c.bucket, To: copied, Host: "db1"}, ref)
		if err != nil {
			t.Fatalf("Copy = %v", err)
		}
		source := c.bucket
		c.bucket = copied
		key := c.keys(t, "chunks_006/packs/"+ref.Run.String())[0]
		c.damage(t, key, "flip")
		if r := c.verify(t, VerifyConfig{ReadData: true, Repair: true}); result(r, key) != RepairNone {
			t.Errorf("repairs %+v of the copy %s", r.Repairs, copyOf.Ref)
		}
		if marks := c.keys(t, "chunks_006/condemned/"); len(marks) != 0 {
			t.Errorf("marks %q", marks)
		}
		if r := c.verify(t, VerifyConfig{Repair: true, ReadData: true}); !strings.Contains(r.Repairs[0].Text, "--fresh") || !strings.Contains(r.Repairs[0].Text, "--from") {
			t.Errorf("repairs %+v don't say what to do", r.Repairs)
		}
		if r := c.verify(t, VerifyConfig{ReadData: true, Repair: true, CopyFrom: source}); result(r, key) != RepairRestored {
			t.Errorf("repairs %+v, want %s restored", r.Repairs, key)
		}
		c.sound(t)
		c.bucket = source
	}
}

// What only a copy has is said to be beyond repair.
func TestRepairImpossible(t *testing.T) {
	t.Parallel()
	c, dir := newFakeCluster(t), t.TempDir()
	ref := c.push(t, dir, nil)
	c.damage(t, ref.OutcomeKey(), "flip")
	r := c.verify(t, VerifyConfig{Repair: true})
	if result(r, ref.OutcomeKey()) != RepairNone || !strings.Contains(r.Repairs[0].Text, "copy") {
		t.Errorf("repairs %+v, want %s beyond repair", r.Repairs, ref.OutcomeKey())
	}
}

// A host repairs what it can't read: it has the keys of directories, and the
// checksums of data. A damaged copy is refused all the same.
func TestRepairSealed(t *testing.T) {
	t.Parallel()
	for _, who := range []string{"owner", "host"} {
		t.Run(who, func(t *testing.T) {
			t.Parallel()
			c, dir := newFakeCluster(t), t.TempDir()
			keys, err := seal.New()
			if err != nil {
				t.Fatal(err)
			}
			if c.store, err = c.store.Sealed(keys); err != nil {
				t.Fatal(err)
			}
			ref := c.push(t, dir, nil)
			if who == "host" {
				keys = keys.Host()
			}
			find := func(_ context.Context, _ string, data bool) (*seal.Keys, error) {
				if data && !keys.CanRead() {
					return nil, seal.ErrNoPrivateKey
				}
				return keys, nil
			}
			copied := c.copied(t)
			packs := c.keys(t, "chunks_006/packs/"+ref.Run.String())
			index := c.keys(t, "chunks_006/index/")[0]
			for _, how := range []string{"flip", "cut", "gone"} {
				c.damage(t, packs[0], how)
				if how != "gone" {
					bad := c.copied(t)
					if r := c.verify(t, VerifyConfig{ReadData: true, Repair: true, Keys: find, CopyFrom: bad}); result(r, packs[0]) != RepairAvoided {
						t.Errorf("%s: from a damaged copy: %+v", how, r.Repairs)
					}
				}
				r := c.verify(t, VerifyConfig{ReadData: true, Repair: true, Keys: find, CopyFrom: copied})
				if result(r, packs[0]) != RepairRestored {
					t.Errorf("%s: repairs %+v, want %s restored", how, r.Repairs, packs[0])
				}
			}
			c.damage(t, index, "flip")
			if r := c.verify(t, VerifyConfig{Repair: true, Keys: find}); result(r, index) != RepairRemoved {
				t.Errorf("repairs %+v, want %s removed", r.Repairs, index)
			}
			r := c.verify(t, VerifyConfig{ReadData: true, Keys: find})
			if len(r.Problems) != 0 || len(r.Warnings) != 0 {
				t.Errorf("problems %+v, warnings %+v", r.Problems, r.Warnings)
			}
			if want := map[string]int{"owner": 0, "host": r.ReadPacks}[who]; r.Sealed != want || r.ReadPacks == 0 {
				t.Errorf("%d of %d packs unopened, want %d", r.Sealed, r.ReadPacks, want)
			}
		})
	}
}
