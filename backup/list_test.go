package backup

import (
	"errors"
	"testing"
	"time"

	"wal-e/chunkstore"
	"wal-e/internal/storage"
	"wal-e/internal/storage/mem"
)

func TestList(t *testing.T) {
	t.Parallel()
	c, dir := newFakeCluster(t), t.TempDir()
	first := c.push(t, dir, nil)
	second := c.push(t, dir, nil)
	c.lsn -= 16 << 20
	again := c.push(t, dir, nil) // of the same name
	aborted, _ := c.begin(t, dir)
	if err := aborted.Abort(t.Context(), "test"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.bucket.Stat(t.Context(), "deleted_006/"); err == nil {
		t.Fatal("tombstone before there is one")
	}
	c.begin(t, dir) // open

	for _, tt := range []struct {
		query string
		want  []chunkstore.Ref
	}{
		{"", []chunkstore.Ref{first, second, again}},
		{"LATEST", []chunkstore.Ref{again}},
		{first.Name, []chunkstore.Ref{first}},
		{second.Name, []chunkstore.Ref{second, again}},
		{second.String(), []chunkstore.Ref{second}},
		{first.Name + "@" + second.Run.String(), nil},
		{"base_0000000A0000000000000004_00000040", nil},
	} {
		list, err := List(t.Context(), c.bucket, tt.query)
		if err != nil {
			t.Errorf("List(%q) = %v", tt.query, err)
		}
		var got []chunkstore.Ref
		for _, l := range list {
			got = append(got, chunkstore.Ref{Name: l.Name, Run: l.Run})
		}
		if len(got) != len(tt.want) {
			t.Errorf("List(%q) = %v, want %v", tt.query, got, tt.want)
			continue
		}
		for i := range got {
			if got[i] != tt.want[i] {
				t.Errorf("List(%q) = %v, want %v", tt.query, got, tt.want)
			}
		}
	}
	checkListed(t, c, first)

	if err := storage.CreateBytes(t.Context(), c.bucket, "deleted_006/"+again.Name+"/"+again.Run.String(), nil, nil); err != nil {
		t.Fatal(err)
	}
	list, err := List(t.Context(), c.bucket, "LATEST")
	if err != nil || len(list) != 1 || list[0].Run != second.Run {
		t.Errorf("List(LATEST) after a delete = %v, %v, want %s", list, err, second)
	}
}

func checkListed(t *testing.T, c *fakeCluster, ref chunkstore.Ref) {
	t.Helper()
	list, err := List(t.Context(), c.bucket, ref.Name)
	if err != nil || len(list) != 1 {
		t.Fatalf("List(%s) = %v, %v", ref.Name, list, err)
	}
	l := list[0]
	if l.StartSegment != "000000010000000000000004" || l.StartSegmentOffset != "00000040" ||
		l.StopSegment != "000000010000000000000007" || l.StopSegmentOffset != "00000040" {
		t.Errorf("positions = %s %s to %s %s", l.StartSegment, l.StartSegmentOffset, l.StopSegment, l.StopSegmentOffset)
	}
	if time.Since(l.LastModified) > time.Hour || l.Host != "db1" || l.Packs == 0 || l.NewBytes == 0 || l.ExpandedSize < 10<<20 || l.Kind != Live {
		t.Errorf("List(%s) = %+v", ref.Name, l)
	}
}

func TestListQuery(t *testing.T) {
	t.Parallel()
	for _, q := range []string{"latest", "base_", "base_000000010000000000000004", "base_000000010000000000000004_40",
		"base_00000001000000000000000g_00000040", "base_000000010000000000000004_00000040@", "base_000000010000000000000004_00000040@X", "@"} {
		if _, err := List(t.Context(), mem.New(nil), q); !errors.Is(err, ErrBadQuery) {
			t.Errorf("List(%q) = %v, want %v", q, err, ErrBadQuery)
		}
	}
	if list, err := List(t.Context(), mem.New(nil), ""); err != nil || len(list) != 0 {
		t.Errorf("List of an empty bucket = %v, %v", list, err)
	}
}
