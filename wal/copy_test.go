package wal_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"wal-e/internal/storage"
	"wal-e/internal/storage/mem"
	"wal-e/internal/storage/storagetest"
	"wal-e/wal"
)

// copyObject is an object of system 7: the head of a real one, and what content
// says.
func copyObject(t *testing.T, content string) []byte {
	t.Helper()
	id := wal.Identity{System: 7, Length: int64(len(content))}
	copy(id.Fingerprint[:], content)
	head, err := id.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	return append(head, content...)
}

// copySource has segments 3 to 8 on timeline 1 and 7 to 9 on timeline 2, with
// what belongs to them.
func copySource(t *testing.T) *mem.Bucket {
	t.Helper()
	b := mem.New(nil)
	names := []string{"00000002.history", "000000010000000000000005.00000028.backup", "000000010000000000000009.partial", "nothing of ours"}
	for i := 3; i <= 8; i++ {
		names = append(names, fmt.Sprintf("0000000100000000%08X", i))
	}
	for i := 7; i <= 9; i++ {
		names = append(names, fmt.Sprintf("0000000200000000%08X", i))
	}
	for _, name := range names {
		if err := storage.CreateBytes(t.Context(), b, wal.Key(7, name), copyObject(t, name), nil); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

func copiedNames(t *testing.T, b storage.Bucket) []string {
	t.Helper()
	var names []string
	for o, err := range b.List(t.Context(), wal.SystemPrefix(7), "") {
		if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimPrefix(o.Key, wal.SystemPrefix(7))
		data, err := storage.ReadAll(t.Context(), b, o.Key, 1000)
		if err != nil || string(data) != string(copyObject(t, name)) {
			t.Errorf("%s holds %q, %v", name, data, err)
		}
		names = append(names, name)
	}
	return names
}

// All that belongs to segment 5 and later is copied, once, however the first
// attempt ended.
func TestCopyFrom(t *testing.T) {
	t.Parallel()
	from := copySource(t)
	want := []string{
		"000000010000000000000005", "000000010000000000000005.00000028.backup", "000000010000000000000006", "000000010000000000000007",
		"000000010000000000000008", "000000010000000000000009.partial", "00000002.history",
		"000000020000000000000007", "000000020000000000000008", "000000020000000000000009",
	}
	slices.Sort(want)
	run := func(from, to storage.Bucket) (wal.Copied, error) {
		return wal.CopyFrom(t.Context(), wal.CopyConfig{From: from, To: to, System: 7, Files: 1}, 5, 1<<20)
	}
	for side := range 2 {
		for _, mode := range []storagetest.Mode{storagetest.FailBefore, storagetest.LoseAnswer, storagetest.BreakBody, storagetest.FailFrom} {
			for call := 0; call <= 22; call++ {
				to := mem.New(nil)
				buckets := [2]storage.Bucket{from, to}
				buckets[side] = storagetest.NewFaulty(buckets[side], storagetest.Fault{Call: call, Mode: mode})
				_, err := run(buckets[0], buckets[1])
				if got := copiedNames(t, to); err == nil && !slices.Equal(got, want) {
					t.Errorf("side %d, call %d %s: success, and copied %q", side, call, mode, got)
				}
				if _, err := run(from, to); err != nil {
					t.Errorf("side %d, call %d %s: the copy that follows: %v", side, call, mode, err)
				}
				if got := copiedNames(t, to); !slices.Equal(got, want) {
					t.Errorf("side %d, call %d %s: in the end %q", side, call, mode, got)
				}
				if c, err := run(from, to); err != nil || c != (wal.Copied{}) {
					t.Errorf("a third copy sent %+v, %v", c, err)
				}
			}
		}
	}
}

func TestCopyFiles(t *testing.T) {
	t.Parallel()
	from, to := copySource(t), mem.New(nil)
	cfg := wal.CopyConfig{From: from, To: to, System: 7}
	names := []string{"000000010000000000000004", "000000010000000000000005"}
	if c, err := wal.CopyFiles(t.Context(), cfg, names); err != nil || c.Files != 2 {
		t.Errorf("CopyFiles = %+v, %v", c, err)
	}
	// What the destination has may be gone from the source.
	if err := from.Delete(t.Context(), wal.Key(7, names[0]), wal.Key(7, "000000010000000000000006")); err != nil {
		t.Fatal(err)
	}
	if c, err := wal.CopyFiles(t.Context(), cfg, names); err != nil || c.Files != 0 {
		t.Errorf("CopyFiles again = %+v, %v", c, err)
	}
	if _, err := wal.CopyFiles(t.Context(), cfg, []string{"000000010000000000000006"}); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("CopyFiles of a missing file = %v", err)
	}
}

// Other bytes under a name are never passed over in silence, of whatever size, and
// nothing is sent behind them. The same file may have been compressed in another
// way.
func TestCopyConflict(t *testing.T) {
	t.Parallel()
	const name = "000000010000000000000007"
	from := copySource(t)
	cfg := wal.CopyConfig{From: from, System: 7}
	longer := append(copyObject(t, name), "packed more loosely"...)
	for content, conflict := range map[string]bool{
		string(copyObject(t, name)):                      false,
		string(longer):                                   false,
		string(copyObject(t, strings.ToLower("X"+name))): true,
		string(copyObject(t, "X"+name[1:])):              true, // of the same size
	} {
		to := mem.New(nil)
		cfg.To = to
		// What was copied before, and then one of the destination's own.
		for i := 3; i <= 6; i++ {
			name := fmt.Sprintf("0000000100000000%08X", i)
			if err := storage.CreateBytes(t.Context(), to, wal.Key(7, name), copyObject(t, name), nil); err != nil {
				t.Fatal(err)
			}
		}
		if err := storage.CreateBytes(t.Context(), to, wal.Key(7, name), []byte(content), nil); err != nil {
			t.Fatal(err)
		}
		_, ferr := wal.CopyFiles(t.Context(), cfg, []string{name})
		_, aerr := wal.CopyFrom(t.Context(), cfg, 3, 1<<20)
		for _, err := range []error{ferr, aerr} {
			if (err != nil) != conflict || conflict && !strings.Contains(err.Error(), name+" has ") {
				t.Errorf("conflict %t: %v", conflict, err)
			}
		}
		if _, err := to.Stat(t.Context(), wal.Key(7, "000000010000000000000008")); (err != nil) != conflict {
			t.Errorf("conflict %t: what comes behind it at the destination: %v", conflict, err)
		}
	}
	// A history that says something else.
	to := mem.New(nil)
	cfg.To = to
	for _, name := range []string{"00000002.history", "000000020000000000000007"} {
		if err := storage.CreateBytes(t.Context(), to, wal.Key(7, name), copyObject(t, "X"+name[1:]), nil); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := wal.CopyFrom(t.Context(), cfg, 8, 1<<20); err == nil || !strings.Contains(err.Error(), "00000002.history has ") {
		t.Errorf("another history: %v", err)
	}
}
