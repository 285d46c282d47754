package chunkstore_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"wal-e/chunkstore"
	"wal-e/index"
	"wal-e/internal/seal"
	"wal-e/internal/storage"
	"wal-e/internal/storage/mem"
)

// Public makes the manifest of these tests one that encrypted runs can commit.
func (m *manifest) Public() any { return struct{ Count int }{len(m.Files)} }

func newKeys(t testing.TB) *seal.Keys {
	t.Helper()
	k, err := seal.New()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func sealed(t testing.TB, s *chunkstore.Store, k *seal.Keys) *chunkstore.Store {
	t.Helper()
	s, err := s.Sealed(k)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// A host without the private key deduplicates, and can't read; who has it can.
func TestSealedPushAndRead(t *testing.T) {
	t.Parallel()
	b, k := newBucket(t), newKeys(t)
	host := sealed(t, open(t, b), k.Host())
	owner := sealed(t, open(t, b), k)
	files := [][]byte{text(1, 500<<10), random(2, 300<<10), random(3, 100), nil, zeroed(text(4, 400<<10), 0, 200<<10)}
	p := newPusher(t)
	first := p.mustPush(t, host, files...)
	if first.Stats().New == 0 {
		t.Fatal("nothing was stored")
	}
	second := p.mustPush(t, host, files...)
	if n := second.Stats().New; n != 0 {
		t.Errorf("the second push stored %d new bytes, want 0", n)
	}
	for _, run := range []*chunkstore.Push{first, second} {
		if err := readBack(t.Context(), owner, run.Ref(), filepath.Join(t.TempDir(), "index.db")); err != nil {
			t.Errorf("read with the private key: %v", err)
		}
	}
	if err := readBack(t.Context(), host, first.Ref(), filepath.Join(t.TempDir(), "index.db")); !errors.Is(err, seal.ErrNoPrivateKey) {
		t.Errorf("read on the host = %v, want ErrNoPrivateKey", err)
	}
	// A host whose local table is lost deduplicates as well.
	p.path = filepath.Join(t.TempDir(), "new.db")
	if n := p.mustPush(t, host, files...).Stats().New; n != 0 {
		t.Errorf("a push with a new table stored %d new bytes, want 0", n)
	}
	// The index can be had from packs alone.
	remove(t, b, keys(t, b, "chunks_006/index/")...)
	if err := readBack(t.Context(), owner, second.Ref(), filepath.Join(t.TempDir(), "index.db")); err != nil {
		t.Errorf("read without an index: %v", err)
	}
	for _, pack := range packsOf(t, b, first) {
		check(t, owner, b, pack)
	}
}

func check(t testing.TB, s *chunkstore.Store, b storage.Bucket, pack index.PackID) {
	t.Helper()
	size := int64(len(get(t, b, chunkstore.PackKey(pack))))
	if _, err := s.CheckPack(t.Context(), pack, size, func(r index.Record, err error) { t.Errorf("record at %d: %v", r.Offset, err) }); err != nil {
		t.Errorf("CheckPack = %v", err)
	}
}

// Plain runs, and runs of other epochs, are nothing to a push.
func TestSealedKeepsApart(t *testing.T) {
	t.Parallel()
	b := newBucket(t)
	plain := open(t, b)
	one, two := sealed(t, plain, newKeys(t)), sealed(t, plain, newKeys(t))
	file := random(1, 600<<10)
	p := newPusher(t)
	p.mustPush(t, plain, file)
	for name, s := range map[string]*chunkstore.Store{"the first epoch": one, "the second epoch": two} {
		run := p.mustPush(t, s, file)
		if got := run.Stats().New; got < int64(len(file)) {
			t.Errorf("the first push of %s stored %d new bytes, want all %d", name, got, len(file))
		}
		f := run.Footprint()
		if runs := f.Runs(); len(runs) != 1 || runs[0] != run.Ref().Run {
			t.Errorf("the first push of %s references other runs: %v", name, runs)
		}
	}
	for name, s := range map[string]*chunkstore.Store{"plain": plain, "the first epoch": one, "the second epoch": two} {
		if n := p.mustPush(t, s, file).Stats().New; n != 0 {
			t.Errorf("the next push of %s stored %d new bytes, want 0", name, n)
		}
	}
}

// What an aborted push stored is used by the next of its epoch only.
func TestSealedResume(t *testing.T) {
	t.Parallel()
	b := newBucket(t)
	plain := open(t, b)
	s := sealed(t, plain, newKeys(t).Host())
	file := random(1, 600<<10)
	p := newPusher(t)
	p.before = func(run *chunkstore.Push) {
		if err := run.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := run.Abort(t.Context(), "test"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := p.push(t.Context(), s, file); err == nil {
		t.Fatal("an aborted push committed")
	}
	p.before = nil
	if n := p.mustPush(t, plain, file).Stats().New; n < int64(len(file)) {
		t.Errorf("a plain push stored %d new bytes, want all %d", n, len(file))
	}
	p.day -= 2 // before the plain one, so that the aborted run is younger than no backup of its epoch
	if n := p.mustPush(t, s, file).Stats().New; n != 0 {
		t.Errorf("the next push stored %d new bytes, want 0", n)
	}
}

// The manifest can be opened with a host's keys, and by nobody else.
func TestSealedManifest(t *testing.T) {
	t.Parallel()
	b, k := newBucket(t), newKeys(t)
	plain := open(t, b)
	host := sealed(t, plain, k.Host())
	run := newPusher(t).mustPush(t, host, text(1, 1000))
	o, err := chunkstore.ReadOutcome(t.Context(), b, run.Ref())
	if err != nil {
		t.Fatal(err)
	}
	var public map[string]any
	if err := json.Unmarshal(o.Manifest, &public); err != nil || len(public) != 1 || public["Count"] != 1.0 {
		t.Errorf("public manifest is %s (%v)", o.Manifest, err)
	}
	body, err := host.OpenManifest(run.Ref(), o)
	var m manifest
	if err != nil || json.Unmarshal(body, &m) != nil || len(m.Files) != 1 {
		t.Errorf("OpenManifest = %s, %v", body, err)
	}
	if _, err := plain.OpenManifest(run.Ref(), o); err == nil {
		t.Error("a plain store opened a sealed manifest")
	}
	for i := range o.Sealed {
		altered := *o
		altered.Sealed = bytes.Clone(o.Sealed)
		altered.Sealed[i] ^= 1
		if _, err := host.OpenManifest(run.Ref(), &altered); !errors.Is(err, chunkstore.ErrDamaged) {
			t.Fatalf("OpenManifest with byte %d altered = %v, want ErrDamaged", i, err)
		}
	}
}

// Each byte of a pack and of an index object counts: whoever checks notices
// that it was altered, even by somebody who mends the checksums.
func TestSealedEveryByteCounts(t *testing.T) {
	t.Parallel()
	b, k := newBucket(t), newKeys(t)
	s := sealed(t, open(t, b), k)
	run := newPusher(t).mustPush(t, s, text(1, 3000), random(2, 500))
	pack := packsOf(t, b, run)[0]
	key := chunkstore.PackKey(pack)
	whole := get(t, b, key)
	for i := range whole {
		altered := bytes.Clone(whole)
		altered[i] ^= 0x10
		if !noticed(t, k, &alteredBucket{b, key, altered}, pack, int64(len(whole))) {
			t.Errorf("nobody noticed that byte %d of a pack of %d was altered", i, len(whole))
		}
	}
	for n := range len(whole) {
		if n%7 == 0 && !noticed(t, k, &alteredBucket{b, key, whole[:n]}, pack, int64(n)) {
			t.Errorf("nobody noticed that a pack of %d bytes was cut to %d", len(whole), n)
		}
	}
	for _, key := range keys(t, b, "chunks_006/index/") {
		whole := get(t, b, key)
		for i := range whole {
			altered := bytes.Clone(whole)
			altered[i] ^= 0x10
			damaged := false
			err := sealed(t, open(t, &alteredBucket{b, key, altered}), k).CheckIndex(t.Context(), run.Ref().Run, func(_ string, _ []index.Pack, err error) {
				damaged = damaged || err != nil
			})
			if err != nil || !damaged && (i < 12 || i >= 16) {
				t.Errorf("byte %d of an index object of %d was altered: %v, damaged %v", i, len(whole), err, damaged)
			}
		}
	}
}

func noticed(t testing.TB, k *seal.Keys, b storage.Bucket, pack index.PackID, size int64) bool {
	t.Helper()
	bad := false
	_, err := sealed(t, open(t, b), k).CheckPack(t.Context(), pack, size, func(index.Record, error) { bad = true })
	return bad || err != nil
}

// No bytes of a file can be found in the store.
func TestSealedHidesContent(t *testing.T) {
	t.Parallel()
	b := newBucket(t)
	s := sealed(t, open(t, b), newKeys(t).Host())
	marker := "the marker that nobody may find"
	newPusher(t).mustPush(t, s, []byte(marker), append(random(1, 20<<10), marker...))
	for _, key := range keys(t, b, "") {
		if data := get(t, b, key); strings.Contains(string(data), marker) || bytes.Contains(data, random(1, 64)) {
			t.Errorf("%s holds what should be hidden", key)
		}
	}
}

// A sentBucket remembers what was sent under each name, stored or not, and lets
// the request number fail (from 1; 0: none) fail, whose object it stores when lost.
type sentBucket struct {
	storage.Bucket
	t    *testing.T
	lost bool

	mu   sync.Mutex
	fail int
	n    int
	sent map[string][]byte
}

func (b *sentBucket) Create(ctx context.Context, key string, r io.Reader, size int64, meta storage.Meta) error {
	data, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	b.mu.Lock()
	b.n++
	failing := b.n == b.fail
	before, again := b.sent[key]
	// Outcomes compete for their name; those that abort hold nothing sealed.
	if outcome := strings.HasSuffix(key, ".outcome"); !outcome || bytes.Contains(data, []byte("sealed_manifest")) {
		if again && !bytes.Equal(before, data) {
			b.t.Errorf("%s was sent with two contents: under one key, a nonce met other bytes", key)
		}
		b.sent[key] = data
	}
	b.mu.Unlock()
	if !failing || b.lost {
		err = storage.CreateBytes(ctx, b.Bucket, key, data, meta)
	}
	if failing {
		return errors.Join(err, errors.New("no answer"))
	}
	return err
}

// Keys are for one object each. So no object is ever sent with other bytes:
// whichever request of a push fails, when the next push resumes, from another
// host with the same keys, and when the clock was set back.
func TestSealedObjectsAreSentOnce(t *testing.T) {
	t.Parallel()
	k := newKeys(t).Host()
	for fail, failed := 1, true; failed; fail++ {
		b := &sentBucket{Bucket: newBucket(t), t: t, lost: fail%2 == 0, fail: fail, sent: make(map[string][]byte)}
		s := sealed(t, open(t, b), k)
		host, other := newPusher(t), newPusher(t)
		host.cfg.IndexPacks = 1
		files := [][]byte{random(1, 300<<10), text(2, 100<<10)}
		_, err := host.push(t.Context(), s, files...)
		failed = b.n >= fail
		if !failed && err != nil {
			t.Fatal(err)
		}
		host.day, other.day = 0, 0 // the clock was set back
		host.mustPush(t, s, files...)
		other.mustPush(t, s, append(files, random(3, 100<<10))...)
		if len(b.sent) < 6 {
			t.Fatalf("%d objects were sent: the test tests nothing", len(b.sent))
		}
	}
}

// FuzzSealedPack feeds packs to whoever checks and reads them.
func FuzzSealedPack(f *testing.F) {
	b := mem.New(nil)
	put(f, b, "chunks_006/config/00000000", "config", testConfig())
	k := newKeys(f)
	s := sealed(f, open(f, b), k)
	pack := packsOf(f, b, newPusher(f).mustPush(f, s, text(1, 3000)))[0]
	key := chunkstore.PackKey(pack)
	f.Add(get(f, b, key))
	f.Add([]byte("WALEPACK"))
	f.Fuzz(func(t *testing.T, data []byte) {
		s := sealed(t, open(t, &alteredBucket{b, key, data}), k)
		_, _ = s.CheckPack(t.Context(), pack, int64(len(data)), func(index.Record, error) {})
	})
}

// Somebody without keys takes a deleted backup back, and it can be read.
func TestSealedReadopt(t *testing.T) {
	t.Parallel()
	b, k := newBucket(t), newKeys(t)
	owner := sealed(t, open(t, b), k)
	run := newPusher(t).mustPush(t, sealed(t, open(t, b), k.Host()), text(1, 100<<10))
	if err := chunkstore.CreateTombstone(t.Context(), b, run.Ref(), chunkstore.Tombstone{Host: "db1"}); err != nil {
		t.Fatal(err)
	}
	ref, err := chunkstore.Readopt(t.Context(), b, run.Ref(), chunkstore.Readoption{Host: "db1"})
	if err != nil {
		t.Fatal(err)
	}
	if err := readBack(t.Context(), owner, ref, filepath.Join(t.TempDir(), "index.db")); err != nil {
		t.Errorf("read of the backup that was taken back: %v", err)
	}
}

// The newest message of an epoch counts, and what isn't one is passed over.
func TestSecrets(t *testing.T) {
	t.Parallel()
	b := mem.New(nil)
	first, second := newKeys(t).Epoch(), newKeys(t).Epoch()
	for _, e := range []seal.Epoch{first, second} {
		if _, err := chunkstore.CreateSecrets(t.Context(), b, e, []byte("one")); err != nil {
			t.Fatal(err)
		}
	}
	for _, key := range []string{"chunks_006/keys/x/00000000.pgp", "chunks_006/keys/" + first.String() + "/1.pgp", "chunks_006/keys/" + first.String() + "/00000009.txt"} {
		if err := storage.CreateBytes(t.Context(), b, key, []byte("x"), nil); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := chunkstore.CreateSecrets(t.Context(), b, first, []byte("two")); !errors.Is(err, storage.ErrExist) {
		t.Errorf("CreateSecrets of an epoch that stands = %v, want ErrExist", err)
	}
	list, err := chunkstore.ListSecrets(t.Context(), b)
	if err != nil || len(list) != 2 {
		t.Fatalf("ListSecrets = %v, %v, want two epochs", list, err)
	}
	for _, s := range list {
		if _, err := s.Replace(t.Context(), b, []byte("other "+s.Epoch.String())); err != nil {
			t.Fatal(err)
		}
	}
	if list, err = chunkstore.ListSecrets(t.Context(), b); err != nil || len(list) != 2 {
		t.Fatalf("ListSecrets = %v, %v, want two epochs", list, err)
	}
	for _, s := range list {
		if data, err := s.Read(t.Context(), b); err != nil || string(data) != "other "+s.Epoch.String() {
			t.Errorf("Read of epoch %s = %q, %v", s.Epoch, data, err)
		}
	}
}
