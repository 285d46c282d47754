package compat_test

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"iter"
	"strings"
	"testing"
	"time"

	"wal-e/compat"
	"wal-e/internal/postgres"
	"wal-e/internal/storage"
	"wal-e/internal/storage/mem"
	"wal-e/internal/storage/storagetest"
)

// exported is a small backup to export.
func exported(b storage.Bucket, list ...compat.ExportFile) compat.ExportConfig {
	text := func(s string) func(context.Context, io.Writer) error {
		return func(_ context.Context, w io.Writer) error {
			_, err := io.WriteString(w, s)
			return err
		}
	}
	list = append([]compat.ExportFile{
		{File: compat.File{Path: ".", Mode: fs.ModeDir | 0o700}},
		{File: compat.File{Path: "PG_VERSION", Mode: 0o600, Size: 3}, Content: text("15\n")},
		{File: compat.File{Path: "global", Mode: fs.ModeDir | 0o700}},
		{File: compat.File{Path: "global/pg_control", Mode: 0o600, Size: 4}, Content: text("ctrl")},
		{File: compat.File{Path: "postgresql.conf", Mode: 0o600, Size: 6}, Content: text("a = 'b'"[:6])},
	}, list...)
	return compat.ExportConfig{
		Bucket: b, Version: "15.4", Timeline: 1, Start: 0x4000028, Stop: 0x4000100, SegmentSize: postgres.DefaultSegmentSize,
		Taken: time.Unix(1_700_000_000, 0), Dir: "/srv/pg", Label: []byte("START WAL LOCATION"), TablespaceMap: []byte("16400 /srv/x\n"),
		Tablespaces: map[uint32]string{16400: "/srv/x"},
		Files: iter.Seq2[compat.ExportFile, error](func(yield func(compat.ExportFile, error) bool) {
			for _, f := range list {
				if !yield(f, nil) {
					return
				}
			}
		}),
	}
}

// Whichever request fails, Export fails and there is no backup, or it succeeds and
// there is a whole one.
func TestExportFaults(t *testing.T) {
	t.Parallel()
	count := storagetest.NewFaulty(mem.New(nil), storagetest.Fault{})
	if r, err := compat.Export(t.Context(), exported(count)); err != nil || r.Partitions != 2 || r.Files != 4 {
		t.Fatalf("Export = %+v, %v", r, err)
	}
	for _, mode := range []storagetest.Mode{storagetest.FailBefore, storagetest.LoseAnswer, storagetest.FailFrom} {
		for call := range count.Calls() {
			b := mem.New(nil)
			_, err := compat.Export(t.Context(), exported(storagetest.NewFaulty(b, storagetest.Fault{Call: call + 1, Mode: mode})))
			list, lerr := compat.List(t.Context(), b)
			if lerr != nil {
				t.Fatal(lerr)
			}
			switch {
			case err == nil && len(list) != 1:
				t.Errorf("%v at %d: success, and %d backups", mode, call+1, len(list))
			case err != nil && mode != storagetest.LoseAnswer && len(list) != 0:
				t.Errorf("%v at %d: %v, and there is a backup", mode, call+1, err)
			}
			for _, found := range list {
				if v, err := compat.Verify(t.Context(), compat.VerifyConfig{Bucket: b, ReadData: true}, found); err != nil || !v.OK {
					t.Errorf("%v at %d: what is there isn't whole: %+v, %v", mode, call+1, v, err)
				}
			}
		}
	}
}

// Content that fails, or has another length than its file, makes no backup.
func TestExportBadContent(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	for name, content := range map[string]func(context.Context, io.Writer) error{
		"fails": func(context.Context, io.Writer) error { return broken },
		"short": func(_ context.Context, w io.Writer) error {
			_, err := io.WriteString(w, "abc")
			return err
		},
		"long": func(_ context.Context, w io.Writer) error {
			_, err := io.WriteString(w, "abcdefgh")
			return err
		},
	} {
		b := mem.New(nil)
		_, err := compat.Export(t.Context(), exported(b, compat.ExportFile{File: compat.File{Path: "z", Mode: 0o600, Size: 5}, Content: content}))
		if err == nil || name == "fails" && !errors.Is(err, broken) {
			t.Errorf("%s: Export = %v", name, err)
		}
		for o := range b.List(t.Context(), "", "") {
			t.Errorf("%s: it left %s", name, o.Key)
		}
	}
}

// A path that the sentinel's JSON can't hold is refused before anything is stored.
func TestExportNotUTF8(t *testing.T) {
	t.Parallel()
	b := mem.New(nil)
	cfg := exported(b)
	cfg.Tablespaces[16400] = "/srv/sch\xf6n"
	if _, err := compat.Export(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "isn't UTF-8") {
		t.Errorf("Export = %v", err)
	}
	for o := range b.List(t.Context(), "", "") {
		t.Errorf("it left %s", o.Key)
	}
}

// With large segments an offset may have more digits than a name has room for. The
// original cuts it there; a longer name is none, and the backup would be invisible.
func TestExportLargeSegments(t *testing.T) {
	t.Parallel()
	b := mem.New(nil)
	cfg := exported(b)
	cfg.SegmentSize = postgres.MaxSegmentSize
	cfg.Start, cfg.Stop = 1_073_741_000, 1_073_741_800
	r, err := compat.Export(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	list, err := compat.List(t.Context(), b)
	if err != nil || len(list) != 1 || list[0].Name.String() != r.Name {
		t.Fatalf("exported %s, and there are %v, %v", r.Name, list, err)
	}
	if want := "base_000000010000000000000000_10737410"; r.Name != want {
		t.Errorf("it is called %s, want %s", r.Name, want)
	}
	if s, err := compat.ReadSentinel(t.Context(), b, list[0].Name); err != nil || s.StopOffset != "1073741800" || s.Offline(list[0].Name) {
		t.Errorf("sentinel %+v, %v", s, err)
	}
	// Near the end of a segment start and stop are the same for eight digits.
	if v, err := compat.Verify(t.Context(), compat.VerifyConfig{Bucket: b, ReadData: true}, list[0]); err != nil || !v.OK {
		t.Errorf("Verify = %+v, %v", v, err)
	}
}

// What lies where a partition will be is not ours, even when the store says that
// it exists as it says after a lost answer.
func TestExportBesideStrangePartitions(t *testing.T) {
	t.Parallel()
	name, err := compat.ParseName("base_000000010000000000000004_00000040")
	if err != nil {
		t.Fatal(err)
	}
	for number := range 3 {
		b := mem.New(nil)
		if err := storage.CreateBytes(t.Context(), b, name.Partition(number), []byte("another push's"), nil); err != nil {
			t.Fatal(err)
		}
		if _, err := compat.Export(t.Context(), exported(b)); err == nil || !strings.Contains(err.Error(), name.Partition(number)) {
			t.Errorf("partition %d was there: Export = %v", number, err)
		}
		if list, err := compat.List(t.Context(), b); err != nil || len(list) > 0 {
			t.Errorf("partition %d was there: there is %v, %v", number, list, err)
		}
		if _, err := b.Stat(t.Context(), name.Partition(number)); err != nil {
			t.Errorf("partition %d was there: %v", number, err)
		}
	}
}
