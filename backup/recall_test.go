package backup

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"wal-e/chunkstore"
	"wal-e/internal/chunk"
)

// Notes vouch for unread files only on the same boot, timeline and clock.
func TestNotesTrusted(t *testing.T) {
	then := recallHeader{BootID: "a", Timeline: 2, Wall: 1000, Uptime: 500}
	later := func(wall, uptime time.Duration) recallHeader {
		h := then
		h.Wall, h.Uptime = h.Wall+int64(wall), h.Uptime+int64(uptime)
		return h
	}
	day := 24 * time.Hour
	boot, timeline := later(day, day), later(day, day)
	boot.BootID, timeline.Timeline = "b", 3
	unknown := later(day, day)
	unknown.BootID = ""
	for _, c := range []struct {
		name string
		now  recallHeader
		want bool
	}{
		{"a day later", later(day, day), true},
		{"slewed", later(day+40*time.Second, day), true},
		{"stepped forward", later(day+time.Hour, day), false},
		{"stepped back", later(day-time.Hour, day), false},
		{"stepped back beyond", later(-time.Hour, day), false},
		{"stepped by some seconds", later(time.Minute+5*time.Second, time.Minute), false},
		{"uptime that ran back", later(day, -time.Second), false},
		{"booted", boot, false},
		{"boot unknown", unknown, false},
		{"another timeline", timeline, false},
	} {
		if got := (&recall{header: then}).trusts(c.now); (got == "") != c.want {
			t.Errorf("%s: trusts = %q, want trust %t", c.name, got, c.want)
		}
	}
}

func testSum(t testing.TB) func([]byte) chunk.ID {
	h, err := chunk.NewHasher([chunk.KeySize]byte{1})
	if err != nil {
		t.Fatal(err)
	}
	return h.Sum
}

// Notes are read as they were written, in any order of extents, by paths that
// come and go.
func TestNotesRoundTrip(t *testing.T) {
	dir, sum := t.TempDir(), testSum(t)
	r, err := newRecorder(dir, recallHeader{Version: recallVersion, ID: "ab", Owner: "o", System: "1"}, sum)
	if err != nil {
		t.Fatal(err)
	}
	k := chunkstore.Known{List: chunkstore.List{{Pages: 2, Zero: true}, {ID: chunk.ID{7}, First: 3, Pages: 1}}, Pages: make([]chunk.PageHash, 3)}
	k.Pages[2][5] = 9
	for _, path := range []string{"base/1", "base/10", "base/2"} {
		f := &recalled{path: path, settled: true, crc: 5, identity: fileIdentity{1, 2, 3 * 8192, 4, 5}, read: 6,
			content: chunkstore.Content{Size: 3 * 8192, Inline: k.List}, extents: []extentNote{r.addExtent(sum, k)}}
		r.addFile(sum, f)
	}
	if err := r.keep(); err != nil {
		t.Fatal(err)
	}
	if _, err := openRecall(dir, "other", "1", sum); err == nil {
		t.Error("notes of another prefix were opened")
	}
	in, err := openRecall(dir, "o", "1", sum)
	if err != nil {
		t.Fatal(err)
	}
	defer in.close()
	for path, want := range map[string]bool{"base/1": true} {
		if got := in.find(path); (got != nil) != want {
			t.Errorf("find(%s) = %v", path, got)
		}
	}
	if in.find("base/11") != nil {
		t.Error("find(base/11) found something")
	}
	got := in.find("base/2")
	if got == nil || got.identity != (fileIdentity{1, 2, 3 * 8192, 4, 5}) || got.crc != 5 || got.read != 6 || !got.settled {
		t.Fatalf("find(base/2) = %+v", got)
	}
	if _, known, err := in.extent(got.extents[0], sum); err != nil || known.Pages[2] != k.Pages[2] || known.List[1] != k.List[1] {
		t.Errorf("extent = %+v, %v", known, err)
	}
	if names, _ := filepath.Glob(filepath.Join(dir, "*")); len(names) != 2 {
		t.Errorf("notes are in %q, want two files", names)
	}
	if _, err := os.Stat(filepath.Join(dir, "files.new")); err == nil {
		t.Error("files.new is left")
	}
}

func FuzzParseRecalled(f *testing.F) {
	r := recalled{path: "base/1", content: chunkstore.Content{Size: 8192, Inline: chunkstore.List{{Pages: 1, Zero: true}}}, extents: []extentNote{{1, 2}}}
	f.Add(r.append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseRecalled(b)
		if err != nil {
			return
		}
		again, err := parseRecalled(r.append(nil))
		if err != nil || again.path != r.path || again.identity != r.identity || len(again.extents) != len(r.extents) {
			t.Errorf("parse(append(%+v)) = %+v, %v", r, again, err)
		}
	})
}
