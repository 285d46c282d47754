package compat_test

import (
	"fmt"
	"testing"

	"wal-e/compat"
	"wal-e/internal/postgres"
	"wal-e/internal/storage"
	"wal-e/internal/storage/mem"
)

// What the original calls a backup taken offline: it cuts the lower half of the
// position, which has no leading zeros, after two digits. However long that half and
// the segments are, the backup is not said to begin behind where it does.
func TestPlaceOffline(t *testing.T) {
	t.Parallel()
	for _, lower := range []uint64{0x28, 0x12345, 0x123456, 0x5000028, 0x5F12345, 0x50000028, 0xA1000028, 0xA1234567, 0xFF000028} {
		for size := postgres.MinSegmentSize; size <= postgres.MaxSegmentSize; size *= 2 {
			start := postgres.LSN(3<<32 | lower)
			text := fmt.Sprintf("%X", lower)[:2]
			name, err := compat.ParseName(fmt.Sprintf("base_%08d%08X%08s_%08s", 1, 3, text, text))
			if err != nil {
				t.Fatal(err)
			}
			b := mem.New(nil)
			put := func(key, text string) {
				if err := storage.CreateBytes(t.Context(), b, key, []byte(text), nil); err != nil {
					t.Fatal(err)
				}
			}
			put(name.Sentinel(), fmt.Sprintf(`{"wal_segment_backup_stop": %q, "wal_segment_offset_backup_stop": %q}`, name.Segment, name.Offset))
			needed := postgres.SegmentAt(1, start, size)
			// The archive goes on for long, and begins with what the backup needs.
			for seg := needed; seg.Start(size) < 5<<32; seg = postgres.SegmentAt(1, seg.Start(size)+max(postgres.LSN(size), 8<<20), size) {
				put(compat.WALKey(seg.Name(size)), "")
			}
			list, err := compat.List(t.Context(), b)
			if err != nil {
				t.Fatal(err)
			}
			placed, err := compat.Place(t.Context(), b, list, size)
			if err != nil || len(placed.Positions) != 1 {
				t.Fatalf("%s with segments of %d: %+v, %v", start, size, placed, err)
			}
			if at := placed.Positions[0].Start; at > start || at < 3<<32 {
				t.Errorf("%s with segments of %d: it is said to begin at %s", start, size, at)
			}
			if at := placed.Start(name); at > start {
				t.Errorf("%s with segments of %d: running, it is said to begin at %s", start, size, at)
			}
			// Of an encrypted archive nobody may know the size: names sort as positions do.
			if placed, err = compat.Place(t.Context(), b, list, 0); err != nil {
				t.Fatal(err)
			}
			guessed := placed.SegmentSize
			if at := postgres.SegmentAt(1, placed.Positions[0].Start, guessed).Name(guessed); at > needed.Name(size) {
				t.Errorf("%s with segments of %d: of unknown size, it is said to begin in %s, not %s", start, size, at, needed.Name(size))
			}
		}
	}
}
