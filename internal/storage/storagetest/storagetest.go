// Package storagetest holds what every implementation of storage.Bucket is
// tested with: Run, the suite that each of them must pass, and wrappers that
// make a bucket fail at a chosen call (Faulty) or tell what was asked of it
// (Recorder).
package storagetest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"wal-e/internal/storage"
)

// Run tests that the buckets which newBucket returns, each of them empty, keep
// what storage.Bucket says. Its subtests run in parallel, each with a bucket
// of its own.
func Run(t *testing.T, newBucket func(t *testing.T) storage.Bucket) { run(t, newBucket, 1) }

// RunSlow is Run for servers at which thousands of requests take minutes: it
// makes a tenth of them where their number is all that matters. Pages of a
// listing should hold 100 objects then, to have several of them.
func RunSlow(t *testing.T, newBucket func(t *testing.T) storage.Bucket) { run(t, newBucket, 10) }

// run divides the number of requests of a few tests by part.
func run(t *testing.T, newBucket func(t *testing.T) storage.Bucket, part int) {
	parted := func(test func(*testing.T, storage.Bucket, int)) func(*testing.T, storage.Bucket) {
		return func(t *testing.T, b storage.Bucket) { test(t, b, part) }
	}
	for _, test := range []struct {
		name string
		run  func(t *testing.T, b storage.Bucket)
	}{
		{"URL", testURL},
		{"CreateRace", testCreateRace},
		{"CreateExisting", testCreateExisting},
		{"CreateSizes", testCreateSizes},
		{"CreateLarge", testCreateLarge},
		{"CreateStream", testCreateStream},
		{"CreateWrongSize", testCreateWrongSize},
		{"CreateBrokenReader", testCreateBrokenReader},
		{"CreateCancelled", testCreateCancelled},
		{"GetRange", testGetRange},
		{"GetCancelled", testGetCancelled},
		{"Missing", testMissing},
		{"Meta", testMeta},
		{"InvalidKeys", testInvalidKeys},
		{"ListOrder", parted(testListOrder)},
		{"ListPages", parted(testListPages)},
		{"ListAfterChange", testListAfterChange},
		{"ListStops", testListStops},
		{"ListCancelled", testListCancelled},
		{"Delete", testDelete},
		{"DeleteMany", parted(testDeleteMany)},
		{"Concurrent", testConcurrent},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.run(t, newBucket(t))
		})
	}
}

// content returns n bytes without two equal blocks, the same for every call.
func content(n int) []byte {
	block := make([]byte, 4096)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(block) // it has no errors
	data := make([]byte, 0, n+len(block))
	for len(data) < n {
		binary.LittleEndian.PutUint64(block, uint64(len(data)))
		data = append(data, block...)
	}
	return data[:n]
}

// A madeAnew reader can be rewound, and then has another first byte. It can't tell its
// end.
type madeAnew struct {
	data []byte
	at   int64
	time byte
}

func (m *madeAnew) Read(p []byte) (int, error) {
	if m.at == int64(len(m.data)) {
		return 0, io.EOF
	}
	n := copy(p, m.data[m.at:])
	if m.at == 0 && n > 0 {
		p[0] = m.time
	}
	m.at += int64(n)
	return n, nil
}

func (m *madeAnew) Seek(offset int64, whence int) (int64, error) {
	switch {
	case offset == 0 && whence == io.SeekCurrent:
	case offset == 0 && whence == io.SeekStart:
		if m.at > 0 {
			m.time++
		}
		m.at = 0
	default:
		return 0, fmt.Errorf("seek to %d from %d: %w", offset, whence, errors.ErrUnsupported)
	}
	return m.at, nil
}

// plainReader hides every method of a reader but Read.
type plainReader struct{ io.Reader }

func create(t *testing.T, b storage.Bucket, key string, data []byte) {
	t.Helper()
	if err := storage.CreateBytes(t.Context(), b, key, data, nil); err != nil {
		t.Fatalf("Create(%q) = %v, want nil", key, err)
	}
}

func get(t *testing.T, b storage.Bucket, key string, offset, length int64) []byte {
	t.Helper()
	body, err := b.Get(t.Context(), key, offset, length)
	if err != nil {
		t.Fatalf("Get(%q, %d, %d) = %v, want nil", key, offset, length, err)
	}
	data, err := io.ReadAll(body)
	if err != nil {
		t.Fatalf("read of Get(%q, %d, %d): %v", key, offset, length, err)
	}
	if err := body.Close(); err != nil {
		t.Fatalf("Close of Get(%q, %d, %d) = %v, want nil", key, offset, length, err)
	}
	return data
}

// list returns the keys of a listing, and fails the test when it has an error.
func list(t *testing.T, b storage.Bucket, prefix, startAfter string) []string {
	t.Helper()
	var keys []string
	for o, err := range b.List(t.Context(), prefix, startAfter) {
		if err != nil {
			t.Fatalf("List(%q, %q) = %v after %d objects, want nil", prefix, startAfter, err, len(keys))
		}
		keys = append(keys, o.Key)
	}
	return keys
}

// checkAbsent tests that nothing can be seen of an object.
func checkAbsent(t *testing.T, b storage.Bucket, key string) {
	t.Helper()
	ctx := t.Context()
	if _, err := b.Stat(ctx, key); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("Stat(%q) = %v, want %v", key, err, storage.ErrNotExist)
	}
	body, err := b.Get(ctx, key, 0, -1)
	if !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("Get(%q) = %v, want %v", key, err, storage.ErrNotExist)
	}
	if err == nil {
		body.Close()
	}
	if keys := list(t, b, "", ""); slices.Contains(keys, key) {
		t.Errorf("List() = %q, want it without %q", keys, key)
	}
}

func testURL(t *testing.T, b storage.Bucket) {
	url := b.URL()
	if !strings.Contains(url, "://") || strings.HasSuffix(url, "/") {
		t.Errorf("URL() = %q, want scheme://… without a trailing slash", url)
	}
}

func testCreateExisting(t *testing.T, b storage.Bucket) {
	create(t, b, "dir/taken", []byte("first"))
	for _, second := range []string{"second", "first", ""} {
		err := storage.CreateBytes(t.Context(), b, "dir/taken", []byte(second), nil)
		if !errors.Is(err, storage.ErrExist) {
			t.Errorf("Create of an existing key = %v, want %v", err, storage.ErrExist)
		}
	}
	if got := get(t, b, "dir/taken", 0, -1); string(got) != "first" {
		t.Errorf("content = %q, want %q", got, "first")
	}
}

func testCreateSizes(t *testing.T, b storage.Bucket) {
	for _, n := range []int{0, 1, 511, 4096, 1<<18 - 1, 1 << 18, 1<<18 + 1} {
		key, data := fmt.Sprintf("sizes/%d", n), content(n)
		create(t, b, key, data)
		if got := get(t, b, key, 0, -1); !bytes.Equal(got, data) {
			t.Errorf("Get(%q) = %d bytes, want the %d bytes created", key, len(got), n)
		}
		a, err := b.Stat(t.Context(), key)
		if err != nil || a.Key != key || a.Size != int64(n) || a.ModTime.IsZero() {
			t.Errorf("Stat(%q) = %+v, %v, want size %d and a time", key, a, err, n)
		}
		for o, err := range b.List(t.Context(), key, "") {
			if err != nil || (o.Key == key && o != a.Object) {
				t.Errorf("List(%q) = %+v, %v, want %+v as in Stat", key, o, err, a.Object)
			}
		}
	}
}

func testCreateLarge(t *testing.T, b storage.Bucket) {
	const size = 20 << 20
	data := content(size)
	create(t, b, "large/known", data)
	if err := b.Create(t.Context(), "large/unknown", plainReader{bytes.NewReader(data)}, -1, nil); err != nil {
		t.Fatalf("Create of unknown size = %v, want nil", err)
	}
	for _, key := range []string{"large/known", "large/unknown"} {
		body, err := b.Get(t.Context(), key, 0, -1)
		if err != nil {
			t.Fatalf("Get(%q) = %v, want nil", key, err)
		}
		got := make([]byte, size)
		if n, err := io.ReadFull(body, got); err != nil || !bytes.Equal(got, data) {
			t.Errorf("Get(%q) = %d bytes, %v, want the %d bytes created", key, n, err, size)
		}
		if n, err := body.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			t.Errorf("Get(%q) goes on with %d, %v, want %v", key, n, err, io.EOF)
		}
		if err := body.Close(); err != nil {
			t.Errorf("Close = %v, want nil", err)
		}
	}
}

func testCreateStream(t *testing.T, b storage.Bucket) {
	data := content(300_000)
	for i, test := range []struct {
		r    io.Reader
		size int64
	}{
		{bytes.NewReader(data), -1},
		{plainReader{bytes.NewReader(data)}, -1},
		{plainReader{bytes.NewReader(data)}, int64(len(data))},
		{plainReader{strings.NewReader("")}, -1},
		{plainReader{strings.NewReader("")}, 0},
	} {
		key := fmt.Sprintf("stream/%d", i)
		want := data
		if i >= 3 {
			want = nil
		}
		if err := b.Create(t.Context(), key, test.r, test.size, nil); err != nil {
			t.Errorf("Create(%q, size %d) = %v, want nil", key, test.size, err)
		} else if got := get(t, b, key, 0, -1); !bytes.Equal(got, want) {
			t.Errorf("Get(%q) = %d bytes, want the %d bytes created", key, len(got), len(want))
		}
	}
	// What is made anew each time that it is read, as an archive of a cluster that
	// works, is stored as it was one of these times.
	for i, size := range []int64{-1, int64(len(data)), -1} {
		made := &madeAnew{data: data}
		if i == 2 {
			made.data = content(20 << 20)
		}
		key := fmt.Sprintf("stream/anew/%d", i)
		if err := b.Create(t.Context(), key, made, size, nil); err != nil {
			t.Errorf("Create(%q, size %d) = %v, want nil", key, size, err)
		} else if got := get(t, b, key, 0, -1); len(got) != len(made.data) || !bytes.Equal(got[1:], made.data[1:]) {
			t.Errorf("Get(%q) = %d bytes, want %d", key, len(got), len(made.data))
		}
	}
	// A reader is sent from where it stands.
	r := bytes.NewReader(data)
	if _, err := r.Seek(1000, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	if err := b.Create(t.Context(), "stream/rest", r, int64(len(data)-1000), nil); err != nil {
		t.Errorf("Create of the rest of a reader = %v, want nil", err)
	} else if got := get(t, b, "stream/rest", 0, -1); !bytes.Equal(got, data[1000:]) {
		t.Errorf("Get of the rest of a reader = %d bytes, want %d", len(got), len(data)-1000)
	}
}

func testCreateWrongSize(t *testing.T, b storage.Bucket) {
	data := content(300_000)
	for _, size := range []int64{0, 1, 299_999, 300_001, 1 << 40} {
		for name, r := range map[string]io.Reader{
			"seeker": bytes.NewReader(data),
			"plain":  plainReader{bytes.NewReader(data)},
		} {
			key := fmt.Sprintf("wrong/%s-%d", name, size)
			if err := b.Create(t.Context(), key, r, size, nil); !errors.Is(err, storage.ErrSize) {
				t.Errorf("Create(%q) of %d bytes with size %d = %v, want %v", key, len(data), size, err, storage.ErrSize)
			}
			checkAbsent(t, b, key)
		}
	}
}

// brokenReader fails with err when the reader in it is at its end.
type brokenReader struct {
	io.Reader
	err error
}

func (r brokenReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err == io.EOF {
		err = r.err
	}
	return n, err
}

func testCreateBrokenReader(t *testing.T, b storage.Bucket) {
	errBroken := errors.New("reader broke")
	for _, n := range []int{0, 1, 300_000} {
		for _, size := range []int64{-1, int64(n), int64(n) + 1} {
			key := fmt.Sprintf("broken/%d-%d", n, size)
			r := brokenReader{bytes.NewReader(content(n)), errBroken}
			if err := b.Create(t.Context(), key, r, size, nil); !errors.Is(err, errBroken) {
				t.Errorf("Create(%q) from a reader that fails = %v, want %v", key, err, errBroken)
			}
			checkAbsent(t, b, key)
			create(t, b, key, []byte("later")) // the name was not spoilt
		}
	}
}

// cancelReader cancels a context when the reader in it is at its end, and then
// has more to give.
type cancelReader struct {
	io.Reader
	cancel context.CancelFunc
}

func (r cancelReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err == io.EOF {
		r.cancel()
		return len(p), nil
	}
	return n, err
}

func testCreateCancelled(t *testing.T, b storage.Bucket) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := storage.CreateBytes(ctx, b, "cancelled/before", []byte("x"), nil)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Create with a cancelled context = %v, want %v", err, context.Canceled)
	}
	checkAbsent(t, b, "cancelled/before")

	for _, size := range []int64{-1, 8 << 20} {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		key := fmt.Sprintf("cancelled/%d", size)
		r := cancelReader{bytes.NewReader(content(1 << 20)), cancel}
		if err := b.Create(ctx, key, r, size, nil); !errors.Is(err, context.Canceled) {
			t.Errorf("Create cancelled in the middle = %v, want %v", err, context.Canceled)
		}
		checkAbsent(t, b, key)
	}
}

func testMissing(t *testing.T, b storage.Bucket) {
	checkAbsent(t, b, "none")
	create(t, b, "some/deep/key", nil)
	for _, key := range []string{"none", "some", "some/deep", "some/deep/ke", "some/deep/key2", "some/deep/key/below", "SOME/deep/key"} {
		checkAbsent(t, b, key)
	}
}

func testMeta(t *testing.T, b storage.Bucket) {
	ctx := t.Context()
	want := storage.Meta{"sha": "00ff", "a-1": "with space, and = ~", "empty-not": "x"}
	err := storage.CreateBytes(ctx, b, "meta/some", []byte("x"), want)
	if errors.Is(err, storage.ErrNoMeta) {
		checkAbsent(t, b, "meta/some")
	} else if err != nil {
		t.Fatalf("Create with metadata = %v, want nil or %v", err, storage.ErrNoMeta)
	} else if a, err := b.Stat(ctx, "meta/some"); err != nil || !equalMeta(a.Meta, want) {
		t.Errorf("Stat = %v, %v, want %v", a.Meta, err, want)
	}
	for key, meta := range map[string]storage.Meta{"meta/nil": nil, "meta/empty": {}} {
		if err := storage.CreateBytes(ctx, b, key, nil, meta); err != nil {
			t.Errorf("Create(%q) = %v, want nil", key, err)
		}
		if a, err := b.Stat(ctx, key); err != nil || a.Meta != nil {
			t.Errorf("Stat(%q) = %v, %v, want no metadata", key, a.Meta, err)
		}
	}
	for _, meta := range []storage.Meta{
		{"": "x"}, {"Upper": "x"}, {"a b": "x"}, {"k": "line\nbreak"}, {"k": "ä"}, {"k": strings.Repeat("x", 1024)},
	} {
		if err := storage.CreateBytes(ctx, b, "meta/bad", nil, meta); !errors.Is(err, storage.ErrInvalid) {
			t.Errorf("Create with metadata %.40q = %v, want %v", fmt.Sprint(meta), err, storage.ErrInvalid)
		}
		checkAbsent(t, b, "meta/bad")
	}
}

func equalMeta(a, b storage.Meta) bool {
	if len(a) != len(b) {
		return false
	}
	for k, v := range a {
		if w, ok := b[k]; !ok || v != w {
			return false
		}
	}
	return true
}

func testInvalidKeys(t *testing.T, b storage.Bucket) {
	ctx := t.Context()
	for _, key := range InvalidKeys() {
		if err := storage.CreateBytes(ctx, b, key, []byte("x"), nil); !errors.Is(err, storage.ErrInvalid) {
			t.Errorf("Create(%.40q) = %v, want %v", key, err, storage.ErrInvalid)
		}
		if body, err := b.Get(ctx, key, 0, -1); !errors.Is(err, storage.ErrInvalid) {
			t.Errorf("Get(%.40q) = %v, want %v", key, err, storage.ErrInvalid)
			if err == nil {
				body.Close()
			}
		}
		if _, err := b.Stat(ctx, key); !errors.Is(err, storage.ErrInvalid) {
			t.Errorf("Stat(%.40q) = %v, want %v", key, err, storage.ErrInvalid)
		}
		if err := b.Delete(ctx, key); !errors.Is(err, storage.ErrInvalid) {
			t.Errorf("Delete(%.40q) = %v, want %v", key, err, storage.ErrInvalid)
		}
	}
	// A prefix is no key, but it leads nowhere else either.
	create(t, b, "a/b", nil)
	for _, prefix := range []string{"/", "//", "../", "./", "a//", "a/../", "a/./", "..", "a/b/", "\x00"} {
		if keys := list(t, b, prefix, ""); len(keys) > 0 {
			t.Errorf("List(%q) = %q, want nothing", prefix, keys)
		}
	}
}

// InvalidKeys returns keys that no bucket may take.
func InvalidKeys() []string {
	return []string{
		"", "/", "/a", "a/", "a//b", ".", "..", "./a", "../a", "a/.", "a/..", "a/./b", "a/../b",
		"a\x00b", "a\nb", "a\x7fb", "\xff", "a/" + strings.Repeat("x", 256), strings.Repeat("x/", 450) + "x",
	}
}
