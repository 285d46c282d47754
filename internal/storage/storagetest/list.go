package storagetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"wal-e/internal/storage"
)

// createAll creates empty objects, several at a time.
func createAll(t *testing.T, b storage.Bucket, keys []string) {
	t.Helper()
	const workers = 16
	errs := make([]error, len(keys))
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := w; i < len(keys); i += workers {
				errs[i] = storage.CreateBytes(t.Context(), b, keys[i], nil, nil)
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatalf("Create = %v, want nil", err)
	}
}

// want returns the sorted keys that a listing must hold.
func want(keys []string, prefix, startAfter string) []string {
	var out []string
	for _, k := range slices.Sorted(slices.Values(keys)) {
		if strings.HasPrefix(k, prefix) && (startAfter == "" || k > startAfter) {
			out = append(out, k)
		}
	}
	return out
}

// testListOrder has names for which the order of a walk through directories is
// not the order of bytes.
func testListOrder(t *testing.T, b storage.Bucket, part int) {
	keys := []string{
		"a/b", "a/b0", "a.b", "a-b", "a0", "a+", "a b", "aa/b", "a/c/d", "a/c.d", "a/c0", "a/c!",
		"A/b", "Z", "_", "b1", "b.d/x", "b.d0", "b.d.e", "b/-", "é", "z/é/x", "z/é.", "~", "!", "%2F", "a%2Fb", "q?x#y&z=1",
		"base_000000010000000000000002_00000040/x", "base_000000010000000000000002_00000040.json",
	}
	createAll(t, b, keys)
	// A store that can't keep a backslash says so, before it takes it for something else.
	const backslash = "back\\slash"
	if err := storage.CreateBytes(t.Context(), b, backslash, nil, nil); err == nil {
		keys = append(keys, backslash)
	} else if !errors.Is(err, storage.ErrInvalid) {
		t.Errorf("Create(%q) = %v, want nil or %v", backslash, err, storage.ErrInvalid)
	}
	starts := append([]string{"", "a", "a/", "a/b", "a/b\x01", "a.", "a.b", "a/c", "a/c/", "a/c/d", "a/c/z", "a/c0", "b.d/", "z/é", "zzz", "\xf0\x9f"}, keys...)
	prefixes := []string{"", "a", "a/", "a/c", "a/c/", "a/b", "a.", "b", "b.d", "b.d/", "z/", "z/é", "none", "none/", "base_", "a/c/d", "a%"}
	for i, prefix := range prefixes {
		for j, start := range starts {
			if (i+j)%part != 0 {
				continue
			}
			if got, want := list(t, b, prefix, start), want(keys, prefix, start); !slices.Equal(got, want) {
				t.Errorf("List(%q, %q) = %q, want %q", prefix, start, got, want)
			}
		}
	}
}

func testListPages(t *testing.T, b storage.Bucket, part int) {
	var keys []string
	for i := range 2_600 / part {
		i *= part
		switch {
		case i%100 == 0:
			keys = append(keys, fmt.Sprintf("pages/run-%04d.x", i))
		case i < 1_300:
			keys = append(keys, fmt.Sprintf("pages/run-%04d", i))
		default:
			keys = append(keys, fmt.Sprintf("pages/run-%04d/%d", i/100*100, i))
		}
	}
	createAll(t, b, keys)
	page := 1000 / part
	for _, start := range []string{"", want(keys, "", "")[page-1], want(keys, "", "")[page], "pages/run-1300/"} {
		if got, want := list(t, b, "pages/", start), want(keys, "pages/", start); !slices.Equal(got, want) {
			t.Errorf("List(%q, %q) = %d keys, want %d in order", "pages/", start, len(got), len(want))
		}
	}
	if got := list(t, b, "", ""); len(got) != len(keys) {
		t.Errorf("List() = %d keys, want %d", len(got), len(keys))
	}
}

func testListAfterChange(t *testing.T, b storage.Bucket) {
	if got := list(t, b, "", ""); len(got) != 0 {
		t.Errorf("List() of a new bucket = %q, want nothing", got)
	}
	keys := []string{"x/1", "x/2", "x/sub/1", "y"}
	for i, key := range keys {
		create(t, b, key, nil)
		if got := list(t, b, "", ""); !slices.Equal(got, keys[:i+1]) {
			t.Errorf("List() after Create(%q) = %q, want %q", key, got, keys[:i+1])
		}
	}
	for i, key := range keys {
		if err := b.Delete(t.Context(), key); err != nil {
			t.Errorf("Delete(%q) = %v, want nil", key, err)
		}
		if got := list(t, b, "", ""); !slices.Equal(got, keys[i+1:]) {
			t.Errorf("List() after Delete(%q) = %q, want %q", key, got, keys[i+1:])
		}
	}
}

// testListStops makes requests within the loop over a listing and leaves it.
func testListStops(t *testing.T, b storage.Bucket) {
	createAll(t, b, []string{"a", "b", "c", "d/e", "d/f"})
	n := 0
	for o, err := range b.List(t.Context(), "", "") {
		if err != nil {
			t.Fatalf("List() = %v, want nil", err)
		}
		get(t, b, o.Key, 0, -1)
		if n++; n == 4 {
			break
		}
	}
	if n != 4 {
		t.Errorf("List() yielded %d objects, want 4 before the break", n)
	}
	seq := b.List(t.Context(), "d/", "")
	for range 2 {
		n := 0
		for range seq {
			n++
		}
		if n != 2 {
			t.Errorf("List(%q), ranged over twice, yielded %d objects, want 2", "d/", n)
		}
	}
}

func testListCancelled(t *testing.T, b storage.Bucket) {
	createAll(t, b, []string{"a", "b"})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var errs []error
	for o, err := range b.List(ctx, "", "") {
		if err == nil {
			t.Errorf("List with a cancelled context yielded %q", o.Key)
		} else {
			errs = append(errs, err)
		}
	}
	if len(errs) != 1 || !errors.Is(errs[0], context.Canceled) {
		t.Errorf("List with a cancelled context yielded the errors %v, want one %v", errs, context.Canceled)
	}
}

func testDelete(t *testing.T, b storage.Bucket) {
	ctx := t.Context()
	create(t, b, "d/one", []byte("first"))
	create(t, b, "d/two", nil)
	for _, keys := range [][]string{{}, {"none"}, {"d"}, {"d/none", "no/such/folder"}, {"d/two/below"}} {
		if err := b.Delete(ctx, keys...); err != nil {
			t.Errorf("Delete(%q) = %v, want nil", keys, err)
		}
	}
	if got, want := list(t, b, "", ""), []string{"d/one", "d/two"}; !slices.Equal(got, want) {
		t.Errorf("List() = %q, want %q", got, want)
	}
	if err := b.Delete(ctx, "d/one", "none", "d/one"); err != nil {
		t.Errorf("Delete = %v, want nil", err)
	}
	checkAbsent(t, b, "d/one")
	create(t, b, "d/one", []byte("second"))
	if got := get(t, b, "d/one", 0, -1); string(got) != "second" {
		t.Errorf("content after Delete and Create = %q, want %q", got, "second")
	}
	if err := b.Delete(ctx, "d/one", "d/two"); err != nil {
		t.Errorf("Delete = %v, want nil", err)
	}
	create(t, b, "d", nil) // where a folder was
}

func testDeleteMany(t *testing.T, b storage.Bucket, part int) {
	var keys, kept []string
	for i := range 1_200 / part {
		keys = append(keys, fmt.Sprintf("many/%d/%04d", i%7, i))
	}
	for i := range 10 {
		kept = append(kept, fmt.Sprintf("many/%d", i+7))
	}
	createAll(t, b, slices.Concat(keys, kept))
	if err := b.Delete(t.Context(), keys...); err != nil {
		t.Errorf("Delete of %d keys = %v, want nil", len(keys), err)
	}
	if got, want := list(t, b, "", ""), want(kept, "", ""); !slices.Equal(got, want) {
		t.Errorf("List() = %d keys, want the %d that were kept", len(got), len(want))
	}
}
