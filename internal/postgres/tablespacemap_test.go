package postgres_test

import (
	"slices"
	"strings"
	"testing"

	"wal-e/internal/postgres"
)

func TestTablespaceMap(t *testing.T) {
	for _, tt := range []struct {
		name    string
		version postgres.Version
		file    string
		want    postgres.TablespaceMap
	}{
		{"empty", postgres.V18, "", nil},
		{"two", postgres.V18, "16384 /a\n16385 /b c\n", postgres.TablespaceMap{{16384, "/a"}, {16385, "/b c"}}},
		{"two, 9.6", postgres.V9_6, "16384 /a\n16385 /b c\n", postgres.TablespaceMap{{16384, "/a"}, {16385, "/b c"}}},
		{"line end in the path", postgres.V18, "16384 /n\\\nl\\\r\n", postgres.TablespaceMap{{16384, "/n\nl\r"}}},
		{"line end in the path, 13", postgres.V13, "16384 /n\\\nl\\\r\n", postgres.TablespaceMap{{16384, "/n\nl\r"}}},
		{"backslash, 13", postgres.V13, "16384 /a\\b\n", postgres.TablespaceMap{{16384, `/a\b`}}},
		{"backslash, 14", postgres.V14, "16384 /a\\\\b\n", postgres.TablespaceMap{{16384, `/a\b`}}},
		{"two backslashes, 13", postgres.V13, "16384 /a\\\\b\n", postgres.TablespaceMap{{16384, `/a\\b`}}},
		{"backslash before a line end, 13", postgres.V13, "16384 /a\\\\\nb\n", postgres.TablespaceMap{{16384, "/a\\\nb"}}},
		{"last backslash, 14", postgres.V14, "16384 /a\\\\\n16385 /b\n", postgres.TablespaceMap{{16384, `/a\`}, {16385, "/b"}}},
		{"not UTF-8", postgres.V18, "16384 /\xff\n", postgres.TablespaceMap{{16384, "/\xff"}}},
	} {
		got, err := postgres.ParseTablespaceMap([]byte(tt.file), tt.version)
		if err != nil || !slices.Equal(got, tt.want) {
			t.Errorf("%s: ParseTablespaceMap(%q) = %v, %v, want %v", tt.name, tt.file, got, err, tt.want)
			continue
		}
		if back, err := got.Format(tt.version); err != nil || string(back) != tt.file {
			t.Errorf("%s: Format = %q, %v, want %q", tt.name, back, err, tt.file)
		}
	}
	// CR LF was written by nobody, but servers read it.
	got, err := postgres.ParseTablespaceMap([]byte("16384 /a\r\n16385 /b\r\n"), postgres.V15)
	if want := (postgres.TablespaceMap{{16384, "/a"}, {16385, "/b"}}); err != nil || !slices.Equal(got, want) {
		t.Errorf("ParseTablespaceMap with CR LF = %v, %v, want %v", got, err, want)
	}
}

func TestTablespaceMapRefuses(t *testing.T) {
	for _, file := range []string{"16384\n", "16384 \n", " /a\n", "x /a\n", "0 /a\n", "4294967296 /a\n", "-1 /a\n", "16384 /a", "16384 /a\\\n", "16384 /a\x00\n", "16384 /a\\\x00\n", "\\"} {
		for _, v := range []postgres.Version{postgres.V13, postgres.V14} {
			if got, err := postgres.ParseTablespaceMap([]byte(file), v); err == nil {
				t.Errorf("ParseTablespaceMap(%q, %s) = %v, want an error", file, v, got)
			}
		}
	}
	for _, tt := range []struct {
		path    string
		version postgres.Version
		ok      bool
	}{
		{`/a\`, postgres.V13, false}, {`/a\`, postgres.V14, true}, {"", postgres.V14, false}, {"/\x00", postgres.V14, false}, {" /a", postgres.V13, false},
	} {
		m := postgres.TablespaceMap{{16384, tt.path}, {16385, "/b"}}
		if b, err := m.Format(tt.version); (err == nil) != tt.ok {
			t.Errorf("Format(%q, %s) = %q, %v, want ok = %v", tt.path, tt.version, b, err, tt.ok)
		}
	}
}

func TestTablespaceMapRelocate(t *testing.T) {
	m := postgres.TablespaceMap{{1, "/a"}, {2, "/b"}, {3, "/c"}}
	for _, tt := range []struct {
		name string
		to   map[uint32]string
		want postgres.TablespaceMap
		err  string
	}{
		{"none", nil, m, ""},
		{"one", map[uint32]string{2: "/x"}, postgres.TablespaceMap{{1, "/a"}, {2, "/x"}, {3, "/c"}}, ""},
		{"swapped", map[uint32]string{1: "/b", 2: "/a"}, postgres.TablespaceMap{{1, "/b"}, {2, "/a"}, {3, "/c"}}, ""},
		{"dropped", map[uint32]string{1: "", 2: "", 3: ""}, nil, ""},
		{"into another's", map[uint32]string{2: "/a/"}, nil, "tablespaces 1 and 2 can't share"},
		{"both into one", map[uint32]string{2: "/x", 3: "/x/../x"}, nil, "tablespaces 2 and 3 can't share"},
		{"relative", map[uint32]string{2: "x"}, nil, "absolute"},
		{"unknown", map[uint32]string{4: "/x"}, nil, "no tablespace 4"},
	} {
		got, err := m.Relocate(tt.to)
		if !slices.Equal(got, tt.want) || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%s: Relocate = %v, %v, want %v, %q", tt.name, got, err, tt.want, tt.err)
		}
	}
}

func FuzzTablespaceMap(f *testing.F) {
	for _, file := range []string{"16384 /a\n16385 /b c\n", "16384 /n\\\nl\\\r\n", "16384 /a\\b\n", "16384 /a\\\\b\n"} {
		f.Add([]byte(file), true)
		f.Add([]byte(file), false)
	}
	f.Fuzz(func(t *testing.T, b []byte, old bool) {
		v := postgres.V14
		if old {
			v = postgres.V13
		}
		m, err := postgres.ParseTablespaceMap(b, v)
		if err != nil {
			return
		}
		out, err := m.Format(v)
		if err != nil {
			t.Fatalf("Format of what was parsed, %v: %v", m, err)
		}
		if back, err := postgres.ParseTablespaceMap(out, v); err != nil || !slices.Equal(back, m) {
			t.Errorf("ParseTablespaceMap(%q) = %v, %v, want %v", out, back, err, m)
		}
	})
}
