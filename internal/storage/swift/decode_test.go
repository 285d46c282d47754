package swift_test

import (
	"strings"
	"testing"

	"wal-e/internal/storage/swift"
)

func FuzzDecodePage(f *testing.F) {
	for _, s := range []string{
		`[]`, `[`, `{}`, ``, `null`, `[{"name":"a","bytes":-1}]`, `[{"subdir":"a/"}]`,
		`[{"hash":"d41d8cd98f00b204e9800998ecf8427e","last_modified":"2026-11-22T18:49:42.176240","bytes":0,"name":"a/b","content_type":"application/octet-stream"}]`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		names, err := swift.DecodePage(strings.NewReader(s))
		if err == nil && len(names) > len(s) {
			t.Errorf("DecodePage(%q) has %d names", s, len(names))
		}
		if err == nil && !strings.Contains(s, "[") {
			t.Errorf("DecodePage(%q) = nil, want an error: it is no list", s)
		}
	})
}

func FuzzDecodeBulk(f *testing.F) {
	for _, s := range []string{
		`{"Response Status":"200 OK","Response Body":"","Number Deleted":2,"Number Not Found":0,"Errors":[]}`,
		`{"Response Status":"400 Bad Request","Errors":[["c/a%20b","403 Forbidden"]]}`,
		`{"Errors":[["c/a"]]}`, `{`, ``, "  \n\n{}", `{"Response Status":"502 Bad Gateway"}`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		err := swift.DecodeBulk(strings.NewReader(s))
		if err == nil && strings.Contains(s, `"Response Status":"5`) && !strings.Contains(s, "Errors") && strings.Count(s, "Status") == 1 {
			t.Errorf("DecodeBulk(%q) = nil, want an error", s)
		}
	})
}
