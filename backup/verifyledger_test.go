package backup

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"wal-e/chunkstore"
	"wal-e/index"
	"wal-e/internal/envelope"
	"wal-e/internal/runid"
	"wal-e/internal/storage"
)

func TestVerifyShare(t *testing.T) {
	t.Parallel()
	c, dir := newFakeCluster(t), t.TempDir()
	c.push(t, dir, nil)
	now := c.clock
	part := func(s Share) *VerifyReport {
		now = now.Add(24 * time.Hour)
		return c.verify(t, VerifyConfig{ReadData: true, Share: s, Host: "db1", Now: func() time.Time { return now }})
	}
	first := part(Share{Percent: 25})
	if first.ReadPacks == 0 || first.ReadPacks == first.Packs || first.ReadBytes < first.PackBytes/4 {
		t.Fatalf("a quarter read %d of %d packs, %d of %d bytes", first.ReadPacks, first.Packs, first.ReadBytes, first.PackBytes)
	}
	if s := first.Share; s.NeverRead != first.Packs-first.ReadPacks || s.Oldest == nil || !s.Oldest.Equal(now) {
		t.Errorf("share = %+v after %d of %d packs at %s", s, first.ReadPacks, first.Packs, now)
	}
	day := now
	// Each pack gets its turn before one is read again.
	runs, read := 1, first.ReadPacks
	for ; runs < 10 && read < first.Packs; runs++ {
		r := part(Share{Percent: 25})
		read += r.ReadPacks
		if want := max(0, first.Packs-read); r.Share.NeverRead != want {
			t.Errorf("share %d: %d packs were never read, want %d", runs+1, r.Share.NeverRead, want)
		}
		if r.Share.NeverRead > 0 && !r.Share.Oldest.Equal(day) {
			t.Errorf("share %d: the oldest was read %s, want %s", runs+1, r.Share.Oldest, day)
		}
	}
	if runs > 4 {
		t.Errorf("all was read after %d quarters", runs)
	}
	// Bytes as well, and at least one pack.
	if r := part(Share{Bytes: 1}); r.ReadPacks != 1 {
		t.Errorf("a byte read %d packs, want 1", r.ReadPacks)
	}
	if n := len(c.keys(t, LedgerDir)); n > ledgerKept {
		t.Errorf("%d ledgers stand, want at most %d", n, ledgerKept)
	}
	// All is all, and writes nothing down.
	before := len(c.keys(t, ""))
	if r := c.verify(t, VerifyConfig{ReadData: true}); r.ReadPacks != r.Packs || r.Share != nil {
		t.Errorf("all read %d of %d packs", r.ReadPacks, r.Packs)
	}
	if n := len(c.keys(t, "")); n != before {
		t.Errorf("%d objects, %d before", n, before)
	}
}

// A damaged pack is read at each turn until it is mended.
func TestVerifyShareDamaged(t *testing.T) {
	t.Parallel()
	c, dir := newFakeCluster(t), t.TempDir()
	ref := c.push(t, dir, nil)
	key := c.keys(t, "chunks_006/packs/"+ref.Run.String())[0]
	c.replace(t, key, func(b []byte) []byte { b[len(b)/2] ^= 4; return b })
	for range 2 {
		r := c.verify(t, VerifyConfig{ReadData: true, Share: Share{Bytes: 1}})
		if len(r.Problems) != 1 || r.Problems[0].Object != key || r.Problems[0].FileCount == 0 {
			t.Fatalf("problems = %+v, want %s with files", r.Problems, key)
		}
		if r.Share.NeverRead != r.Packs {
			t.Errorf("%d of %d packs were never read whole", r.Share.NeverRead, r.Packs)
		}
	}
	if keys := c.keys(t, LedgerDir); len(keys) != 0 {
		t.Errorf("ledgers %q of nothing", keys)
	}
}

// Damage to the ledger costs reading again.
func TestVerifyDamagedLedger(t *testing.T) {
	t.Parallel()
	c, dir := newFakeCluster(t), t.TempDir()
	c.push(t, dir, nil)
	for _, change := range []func([]byte) []byte{
		func(b []byte) []byte { b[len(b)/2] ^= 1; return b },
		func(b []byte) []byte { return b[:len(b)/2] },
		func([]byte) []byte { return nil },
	} {
		if err := c.bucket.Delete(t.Context(), c.keys(t, LedgerDir)...); err != nil {
			t.Fatal(err)
		}
		want := c.verify(t, VerifyConfig{ReadData: true, Share: Share{Percent: 10}})
		key := c.keys(t, LedgerDir)[0]
		c.replace(t, key, change)
		got := c.verify(t, VerifyConfig{ReadData: true, Share: Share{Percent: 10}})
		if len(got.Problems) != 0 || len(got.Warnings) != 1 || got.Warnings[0].Object != key {
			t.Errorf("problems %v, warnings %v, want a warning of %s", got.Problems, got.Warnings, key)
		}
		if got.ReadPacks != want.ReadPacks || got.Share.NeverRead != want.Share.NeverRead {
			t.Errorf("share = %+v, want that of the first time, %+v", got.Share, want.Share)
		}
	}
}

// A host that may not write is told that its shares don't move on; one that may
// not delete isn't kept.
func TestVerifyShareRights(t *testing.T) {
	t.Parallel()
	c, dir := newFakeCluster(t), t.TempDir()
	c.push(t, dir, nil)
	cfg := VerifyConfig{ReadData: true, Share: Share{Bytes: 1}, TempDir: t.TempDir(), Bucket: denied{c.bucket, true, false}}
	if _, err := Verify(t.Context(), cfg); !errors.Is(err, storage.ErrPermission) || !strings.Contains(err.Error(), "next share") {
		t.Errorf("Verify without the right to create = %v", err)
	}
	cfg.Bucket = denied{c.bucket, false, true}
	for range ledgerKept + 2 {
		if _, err := Verify(t.Context(), cfg); err != nil {
			t.Fatalf("Verify without the right to delete = %v", err)
		}
	}
	if n := len(c.keys(t, LedgerDir)); n != ledgerKept+2 {
		t.Errorf("%d ledgers, want %d", n, ledgerKept+2)
	}
}

// denied is a bucket whose credentials lack rights.
type denied struct {
	storage.Bucket
	create, delete bool
}

func (d denied) Create(ctx context.Context, key string, r io.Reader, size int64, meta storage.Meta) error {
	if d.create {
		return storage.ErrPermission
	}
	return d.Bucket.Create(ctx, key, r, size, meta)
}

func (d denied) Delete(ctx context.Context, keys ...string) error {
	if d.delete {
		return storage.ErrPermission
	}
	return d.Bucket.Delete(ctx, keys...)
}

func FuzzLedger(f *testing.F) {
	id, err := runid.New(time.Unix(1767225600, 0), nil)
	if err != nil {
		f.Fatal(err)
	}
	l := newLedger(true)
	l.read[index.PackID{Run: id, Seq: 3}], l.read[index.PackID{Run: id, Seq: 77}] = time.Unix(1767225600, 0), time.Unix(1767225700, 0)
	l.last = &VerifyResult{At: time.Unix(1767225700, 0), Host: "db1", Problems: 1, First: "chunks_006/packs/x: it is missing"}
	data, err := l.encode("db1")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add(data[:len(data)/2])
	var need chunkstore.Footprint
	for i := range uint32(100) {
		need.Add(index.PackID{Run: id, Seq: i})
	}
	f.Add([]byte(`{"read": [{"at": "2026-05-01T02:00:00Z", "packs": [{"run": "` + id.String() + `", "packs": "/w=="}]}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		// Without a hash that fits nothing gets past the first line.
		if whole, err := envelope.Encode(ledgerKind, ledgerVersion, json.RawMessage(data)); err == nil {
			data = whole
		}
		got := newLedger(len(data)%2 == 0)
		if err := got.add(data, &need); err != nil {
			if !isDamage(err) {
				t.Errorf("add = %v, which isn't taken as damage", err)
			}
			return
		}
		if len(got.read) > need.Len() {
			t.Errorf("%d packs of %d", len(got.read), need.Len())
		}
		// What was read can be written, and says the same then.
		again, second := newLedger(got.others == nil), time.Now()
		got.forgetFuture(second)
		data, err := got.encode("db1")
		if err != nil {
			t.Fatalf("encode what was read: %v", err)
		}
		if err := again.add(data, &need); err != nil || len(again.read) != len(got.read) || len(again.others) != len(got.others) {
			t.Errorf("%d packs and %d times of others, %v: want %d and %d", len(again.read), len(again.others), err, len(got.read), len(got.others))
		}
	})
}
