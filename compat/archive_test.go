package compat_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"wal-e/compat"
	"wal-e/compat/lzop"
	"wal-e/internal/storage"
	"wal-e/internal/storage/mem"
)

// A classicArchive is a prefix with what the original would have written.
type classicArchive struct {
	*mem.Bucket
	name compat.Name
}

const liveName = "base_000000010000000000000004_00000216"

func newClassic(t testing.TB) *classicArchive {
	t.Helper()
	name, err := compat.ParseName(liveName)
	if err != nil {
		t.Fatal(err)
	}
	return &classicArchive{mem.New(nil), name}
}

func (a *classicArchive) put(t testing.TB, key string, b []byte) {
	t.Helper()
	if err := storage.CreateBytes(t.Context(), a, key, b, nil); err != nil {
		t.Fatal(err)
	}
}

// replace puts an object in place of another.
func (a *classicArchive) replace(t testing.TB, key string, b []byte) {
	t.Helper()
	if err := a.Delete(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	a.put(t, key, b)
}

func (a *classicArchive) read(t testing.TB, key string) []byte {
	t.Helper()
	b, err := storage.ReadAll(t.Context(), a, key, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// sentinel says that tablespaces were at these places.
func (a *classicArchive) sentinel(t testing.TB, size int64, spaces ...string) {
	t.Helper()
	var oids, places string
	for i, s := range spaces {
		oid, loc, _ := strings.Cut(s, "=")
		if i > 0 {
			oids += ", "
		}
		oids += fmt.Sprintf("%q", oid)
		places += fmt.Sprintf(", %q: {\"loc\": %q, \"link\": \"pg_tblspc/%s\"}", oid, loc, oid)
	}
	a.put(t, a.name.Sentinel(), fmt.Appendf(nil, `{"wal_segment_backup_stop": "000000010000000000000004", "wal_segment_offset_backup_stop": "00000432", `+
		`"expanded_size_bytes": %d, "spec": {"base_prefix": "/srv/data/", "tablespaces": [%s]%s}}`, size, oids, places))
}

// partition stores a partition with members.
func (a *classicArchive) partition(t testing.TB, number int, format tar.Format, members ...*tar.Header) {
	t.Helper()
	a.put(t, a.name.Partition(number), partition(t, format, members...))
}

var modTime = time.Unix(1795372598, 0)

// partition packs members; the content of a file is in the name of its owner.
func partition(t testing.TB, format tar.Format, members ...*tar.Header) []byte {
	t.Helper()
	var plain, packed bytes.Buffer
	w := tar.NewWriter(&plain)
	for _, m := range members {
		h := *m
		content := h.Uname
		h.Uname, h.Format, h.ModTime = "", format, modTime
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(content))
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatalf("%s: %v", h.Name, err)
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := io.WriteString(w, content); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	z := lzop.NewWriter(&packed, lzop.Header{ModTime: modTime}, 1)
	if _, err := z.Write(plain.Bytes()); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return packed.Bytes()
}

func file(name, content string) *tar.Header {
	return &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o600, Uname: content}
}

func dir(name string) *tar.Header {
	return &tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o700}
}

func link(name, to string) *tar.Header {
	return &tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to, Mode: 0o777}
}

func hardLink(name, to string) *tar.Header {
	return &tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: to, Mode: 0o600}
}

// cluster is as little as passes for a cluster.
func cluster(more ...*tar.Header) []*tar.Header {
	return append([]*tar.Header{
		dir(""), file("PG_VERSION", "13\n"), file("backup_label", "START"), dir("global"), file("global/pg_control", "control"),
		dir("pg_wal"), dir("base"), dir("base/1"), file("base/1/112", "relation"), dir("pg_tblspc"),
	}, more...)
}

// live makes an archive with one live backup of one partition.
func live(t testing.TB, more ...*tar.Header) *classicArchive {
	t.Helper()
	a := newClassic(t)
	a.partition(t, 0, tar.FormatPAX, cluster(more...)...)
	a.sentinel(t, size(cluster(more...)))
	return a
}

func size(members []*tar.Header) (n int64) {
	for _, m := range members {
		if m.Typeflag == tar.TypeReg {
			n += int64(len(m.Uname))
		}
	}
	return n
}

func (a *classicArchive) fetch(t testing.TB, cfg compat.FetchConfig) (*compat.FetchReport, error) {
	t.Helper()
	backup, err := compat.Find(t.Context(), a, a.name)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Bucket, cfg.Backup = a, backup
	if cfg.Owner == "" {
		cfg.Owner = "root" // members have no names of owners; only root minds
	}
	return compat.Fetch(t.Context(), cfg)
}

var errStore = errors.New("the store is broken")
