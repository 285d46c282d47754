package postgres_test

import (
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"wal-e/internal/postgres"
)

// The first 40 bytes of segments that servers wrote.
const (
	header13 = "06d1020001000000000000010000000000000000" + "00000000e9a489114757036b0000000100200000"
	header14 = "0dd1070001000000" + "0000a00000000000" + "d91d000000000000" + "5ec59d7d4957036b" + "0000100000200000" // 1 MB, begins within a record
	header15 = "10d1020001000000000000010000000000000000" + "00000000cf35d40f4c57036b0000000100200000"
	header16 = "13d1020001000000000000040000000000000000" + "000000004047eab74e57036b0000000400200000" // 64 MB
	header17 = "16d1020001000000000000010000000000000000" + "000000006b580c5b5157036b0000000100200000"
	header18 = "18d1020001000000000000010000000000000000" + "0000000032bbfac15357036b0000000100200000"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestParseWALHeader(t *testing.T) {
	for _, tt := range []struct {
		header  string
		version postgres.Version
		addr    postgres.LSN
		sysid   postgres.SystemID
		size    postgres.SegmentSize
		name    string
	}{
		{header13, postgres.V13, 0x1000000, 7711102949736948969, 16 * mb, "000000010000000000000001"},
		{header14, postgres.V14, 0xA00000, 7711102960140141918, mb, "00000001000000000000000A"},
		{header15, postgres.V15, 0x1000000, 7711102971183117775, 16 * mb, "000000010000000000000001.partial"},
		{header16, postgres.V16, 0x4000000, 7711102982593070912, 64 * mb, "000000010000000000000001"},
		{header17, postgres.V17, 0x1000000, 7711102993919924331, 16 * mb, "000000010000000000000001"},
		{header18, postgres.V18, 0x1000000, 7711103004236757810, 16 * mb, "000000010000000000000001"},
	} {
		h, err := postgres.ParseWALHeader(unhex(t, tt.header))
		if err != nil {
			t.Errorf("ParseWALHeader of %s: %v", tt.version, err)
			continue
		}
		want := postgres.WALHeader{Magic: h.Magic, Timeline: 1, PageAddr: tt.addr, SystemID: tt.sysid, SegmentSize: tt.size, WALBlockSize: 8192}
		if h != want || h.Version() != tt.version {
			t.Errorf("ParseWALHeader = %+v of version %s, want %+v of %s", h, h.Version(), want, tt.version)
		}
		if seg, err := h.CheckName(tt.name); err != nil || seg.Start(tt.size) != tt.addr {
			t.Errorf("CheckName(%s) = %v, %v, want the segment at %s", tt.name, seg, err, tt.addr)
		}
	}
}

func TestParseWALHeaderVersions(t *testing.T) {
	for magic, want := range map[uint16]postgres.Version{
		0xD093: postgres.V9_6, 0xD097: postgres.V10, 0xD098: postgres.V11, 0xD101: postgres.V12,
		0xD119: 0, // a release to come is archived all the same
	} {
		b := unhex(t, fmt.Sprintf("%02x%02x", byte(magic), magic>>8)+header18[4:])
		if h, err := postgres.ParseWALHeader(b); err != nil || h.Version() != want {
			t.Errorf("ParseWALHeader with magic %04X = version %s, %v, want %s", magic, h.Version(), err, want)
		}
	}
}

func TestParseWALHeaderRefuses(t *testing.T) {
	for _, tt := range []struct{ name, header, want string }{
		{"empty", "", "0 bytes"},
		{"short", header18[:78], "39 bytes"},
		{"zeros", strings.Repeat("00", 40), "never written"},
		{"text", hex.EncodeToString([]byte(strings.Repeat("SELECT 1; ", 4))), "no WAL page"},
		{"big-endian", "d118" + header18[4:], "big-endian"},
		{"short page header", "18d10000" + header18[8:], "flags 0000"},
		{"unknown flags", "18d11200" + header18[8:], "flags 0012"},
		{"timeline 0", "18d1020000000000" + header18[16:], "no timeline"},
		{"no identifier", header18[:48] + strings.Repeat("00", 8) + header18[64:], "no timeline or system identifier"},
		{"segment size", header18[:64] + "00000003" + header18[72:], "segment size"},
		{"block size", header18[:72] + "00100100", "block size"},
		{"address", "18d102000100000000200001" + header18[24:], "no multiple"},
	} {
		if h, err := postgres.ParseWALHeader(unhex(t, tt.header)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: ParseWALHeader = %+v, %v, want an error with %q", tt.name, h, err, tt.want)
		}
	}
}

func TestWALHeaderCheckName(t *testing.T) {
	h := postgres.WALHeader{Timeline: 3, PageAddr: 0x5000000, SegmentSize: 16 * mb}
	for name, want := range map[string]string{
		"000000030000000000000005":                 "",
		"000000030000000000000005.partial":         "",
		"000000040000000000000005":                 "", // copied when timeline 4 began
		"000000020000000000000005":                 "holds timeline 3: want at most 2",
		"000000030000000000000006":                 "should begin at 0/6000000 but its first page says 0/5000000",
		"000000030000000000000500":                 "end at 000000FF",
		"00000003.history":                         "not a segment name",
		"000000030000000000000005.00000028.backup": "not a segment name",
	} {
		_, err := h.CheckName(name)
		if (want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("CheckName(%s) = %v, want %q", name, err, want)
		}
	}
}

func FuzzParseWALHeader(f *testing.F) {
	for _, h := range []string{header13, header14, header15, header16, header17, header18} {
		f.Add(unhex(f, h))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := postgres.ParseWALHeader(b)
		if err != nil {
			return
		}
		name := postgres.SegmentAt(h.Timeline, h.PageAddr, h.SegmentSize).Name(h.SegmentSize)
		if _, err := h.CheckName(name); err != nil {
			t.Errorf("CheckName(%s): %v", name, err)
		}
	})
}
