package wal_test

import (
	"context"
	"fmt"
	"io"
	"strings"
	"testing"

	"wal-e/internal/postgres"
	"wal-e/internal/storage"
	"wal-e/internal/storage/mem"
	"wal-e/internal/storage/storagetest"
	"wal-e/wal"
)

// A segment of the survey's archive is empty but for its head.
func (c cluster) bare(t testing.TB, b storage.Bucket, tl postgres.Timeline, numbers ...uint64) {
	t.Helper()
	for _, no := range numbers {
		data := make([]byte, c.segSize)
		fillSegment(data, c, tl, no)
		mustPush(t, c.config(b), c.write(t, c.name(tl, no), data))
	}
}

func span(from, to uint64) []uint64 {
	var list []uint64
	for ; from <= to; from++ {
		list = append(list, from)
	}
	return list
}

func (c cluster) history(t testing.TB, b storage.Bucket, tl postgres.Timeline, text string) {
	t.Helper()
	mustPush(t, c.config(b), c.write(t, tl.HistoryName(), []byte(text)))
}

func survey(t *testing.T, b storage.Bucket) []*wal.Log {
	t.Helper()
	logs, err := wal.Survey(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	return logs
}

// What is there is counted by system and timeline, and what isn't is named.
func TestSurvey(t *testing.T) {
	t.Parallel()
	b := mem.New(nil)
	c := newCluster(t)
	c.bare(t, b, 1, append(span(1, 4), 7, 8, 11)...)
	mustPush(t, c.config(b), c.write(t, c.name(1, 11)+".partial", c.segment(11, 0)))
	mustPush(t, c.config(b), c.write(t, c.name(1, 2)+".00000028.backup", []byte("x")))
	c.history(t, b, 2, "1\t0/B00060\tno recovery target specified\n")
	c.bare(t, b, 2, span(11, 12)...)
	other := clusterOf(t, 18)
	other.segSize = 2 * mb
	other.bare(t, b, 3, 2047, 2048) // the middle digits change
	create(t, b, "wal_006/x/000000010000000000000001")
	create(t, b, fmt.Sprintf("wal_006/%s/odd", c.system))
	counted := storagetest.NewFaulty(b, storagetest.Fault{})
	logs, err := wal.Survey(t.Context(), counted)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, l := range logs {
		line := fmt.Sprintf("%d MB: timeline %d, %d segments, %d others", l.SegmentSize/mb, l.Timeline, l.Segments(), l.Files)
		for _, g := range l.Gaps() {
			line += fmt.Sprintf(", gap %s of %d", g, g.Count())
		}
		if l.History != nil {
			line += fmt.Sprintf(", history %v", l.History.Ancestors)
		}
		got = append(got, line)
	}
	own := []string{
		fmt.Sprintf("1 MB: timeline 1, 7 segments, 2 others, gap %s to %s of 2, gap %s to %s of 2",
			c.name(1, 5), c.name(1, 6), c.name(1, 9), c.name(1, 10)),
		"1 MB: timeline 2, 2 segments, 1 others, history [{1 0/B00060 no recovery target specified}]",
	}
	theirs := []string{"2 MB: timeline 3, 2 segments, 0 others"}
	want := append(own, theirs...)
	if other.system.String() < c.system.String() {
		want = append(theirs, own...)
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("Survey:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if counted.Calls() != 5 { // a listing, a head per timeline, a history
		t.Errorf("%d requests, want 5", counted.Calls())
	}
}

func TestSurveyFails(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	b := mem.New(nil)
	c.bare(t, b, 1, span(1, 3)...)
	c.history(t, b, 2, "1\t0/B00060\tno recovery target specified\n")
	for call := 1; call <= 3; call++ {
		faulty := storagetest.NewFaulty(b, storagetest.Fault{Call: call, Mode: storagetest.FailBefore})
		if _, err := wal.Survey(t.Context(), faulty); err == nil {
			t.Errorf("Survey = nil with a failure of request %d", call)
		}
	}
	create(t, b, wal.Key(c.system, c.name(3, 1)))
	if _, err := wal.Survey(t.Context(), b); err == nil {
		t.Error("Survey = nil with a damaged segment")
	}
}

// gone answers that an object isn't there which its listing has.
type gone struct {
	storage.Bucket
	key string
}

func (g gone) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	if key == g.key {
		return nil, fmt.Errorf("get %s: %w", key, storage.ErrNotExist)
	}
	return g.Bucket.Get(ctx, key, offset, length)
}

// A delete removes files behind the listing.
func TestSurveyBesideDelete(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	b := mem.New(nil)
	c.bare(t, b, 1, span(1, 3)...)
	c.history(t, b, 2, "1\t0/B00060\tno recovery target specified\n")
	for key, want := range map[string]int{wal.Key(c.system, c.name(1, 1)): 2, wal.Key(c.system, "00000002.history"): 3} {
		logs, err := wal.Survey(t.Context(), gone{b, key})
		if err != nil || logs[0].Segments() != uint64(want) {
			t.Errorf("Survey without %s = %d timelines, %v, want %d segments", key, len(logs), err, want)
		}
	}
}

// Recovery from a base goes on until a segment is missing, across timelines.
func TestReach(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	b := mem.New(nil)
	// 1 is left within segment 6, 2 at the end of 9; 3 goes back to 1.
	c.bare(t, b, 1, append(span(1, 8), 10, 11)...)
	c.history(t, b, 2, "1\t0/680000\tx\n")
	c.bare(t, b, 2, span(6, 12)...)
	c.history(t, b, 4, "1\t0/680000\tx\n2\t0/A00000\tx\n")
	c.bare(t, b, 4, span(10, 13)...)
	c.history(t, b, 5, "1\t0/880000\tx\n")
	c.bare(t, b, 5, span(8, 9)...)
	c.bare(t, b, 5, span(11, 12)...)
	// 6 begins where the end of 1 never came.
	c.history(t, b, 6, "1\t0/F80000\tx\n")
	c.bare(t, b, 6, span(15, 16)...)
	logs := survey(t, b)
	lsn := func(no uint64) postgres.LSN { return postgres.LSN(no*mb + 0x28) }
	for _, test := range []struct {
		name        string
		tl          postgres.Timeline
		start, stop uint64
		want        string
	}{
		{"before all", 1, 2, 3, "1:8!9 2:12. 4:13. 5:9!10 6:8!9"},
		{"stops where 2 begins", 1, 5, 6, "1:8!9 2:12. 4:13. 5:9!10 6:8!9"},
		{"behind the switch", 1, 7, 8, "1:8!9 5:9!10 6:8!9"},
		{"in the gap", 1, 8, 9, "1:8?9 6:8?9"},
		{"behind the gap", 1, 10, 10, "1:11. 6:11!12-14"},
		{"on 2", 2, 8, 8, "2:12. 4:13."},
		{"on 4", 4, 11, 13, "4:13."},
		{"not archived yet", 4, 13, 14, "4:13?14"},
		{"absent", 2, 13, 13, "2:-?13"},
		{"unknown timeline", 7, 1, 1, "7:-?1"},
	} {
		windows, err := wal.Reach(logs, wal.Base{
			Name: test.name, System: c.system, Timeline: test.tl, Start: lsn(test.start), Stop: lsn(test.stop) + 0x60,
		})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, w := range windows {
			number := func(name string) string {
				seg, err := postgres.ParseSegment(name, c.segSize)
				if err != nil {
					return "-"
				}
				return fmt.Sprint(seg.No)
			}
			line := fmt.Sprintf("%d:%s", w.Target, number(w.Last))
			switch {
			case !w.Restorable:
				line += "?" + number(w.Missing)
			case w.Ends:
				line += "."
			default:
				line += "!" + number(w.Missing)
			}
			if w.Gap != nil {
				first, last := w.Gap.Names()
				if first != w.Missing || w.Ends {
					t.Errorf("%s: Reach to %d finds a gap from %s on where %s is missing", test.name, w.Target, first, w.Missing)
				}
				if last != first {
					line += "-" + number(last)
				}
			}
			got = append(got, line)
		}
		if strings.Join(got, " ") != test.want {
			t.Errorf("%s: Reach = %s, want %s", test.name, strings.Join(got, " "), test.want)
		}
	}
	if _, err := wal.Reach(logs, wal.Base{System: 4711}); err == nil {
		t.Error("Reach of a system without WAL = nil")
	}
}
