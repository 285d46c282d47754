package postgres_test

import (
	"encoding/binary"
	"slices"
	"testing"

	"wal-e/internal/postgres"
)

// heapPage makes a page whose only row has the given header bits and columns.
func heapPage(mask uint16, xmax uint32, data []byte) []byte {
	const size, header = 8192, 24
	page := make([]byte, size)
	offset := size - header - len(data)
	binary.LittleEndian.PutUint16(page[12:], header+4)
	binary.LittleEndian.PutUint32(page[header:], uint32(offset)|1<<15|uint32(header+len(data))<<17)
	row := page[offset:]
	binary.LittleEndian.PutUint32(row[4:], xmax)
	binary.LittleEndian.PutUint16(row[20:], mask)
	row[22] = header
	copy(row[header:], data)
	return page
}

func relationRow(oid uint32, name string, node uint32) []byte {
	row := make([]byte, 4+64+24)
	binary.LittleEndian.PutUint32(row, oid)
	copy(row[4:], name)
	binary.LittleEndian.PutUint32(row[68:], 2200)
	binary.LittleEndian.PutUint32(row[88:], node)
	return row
}

func TestTuples(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name           string
		mask           uint16
		xmax           uint32
		found, current bool
	}{
		{"inserted", 0x0100, 0, true, true},
		{"deleted", 0x0500, 7, true, false},
		{"delete aborted", 0x0900, 7, true, true},
		{"insert aborted", 0x0200, 0, false, false},
		{"frozen", 0x0b00, 0, true, true},
	} {
		rows := slices.Collect(postgres.Tuples(heapPage(tc.mask, tc.xmax, relationRow(16400, "orders", 16401))))
		if len(rows) == 0 != !tc.found {
			t.Errorf("%s: %d rows", tc.name, len(rows))
			continue
		}
		for _, row := range rows {
			r, ok := postgres.ParseRelationRow(row)
			if want := (postgres.RelationRow{OID: 16400, Name: "orders", Namespace: 2200, Node: 16401}); !ok || r != want || row.Current != tc.current {
				t.Errorf("%s: %+v, %v, current %v", tc.name, r, ok, row.Current)
			}
		}
	}
}

// Before 12 the OID stood in the row's header.
func TestTuplesWithOID(t *testing.T) {
	t.Parallel()
	row := relationRow(1, "orders", 16401)[4:]
	// The header is 24 bytes, of which the last four hold the OID.
	page := heapPage(0x0108, 0, append([]byte{0, 0, 0, 0, 0, 0, 0, 0}, row...))
	offset := int(binary.LittleEndian.Uint32(page[24:]) & 0x7fff)
	page[offset+22] = 32
	binary.LittleEndian.PutUint32(page[offset+28:], 16400)
	for tuple := range postgres.Tuples(page) {
		if r, ok := postgres.ParseRelationRow(tuple); !ok || r.OID != 16400 || r.Name != "orders" || r.Node != 16401 {
			t.Errorf("%+v, %v", r, ok)
		}
		return
	}
	t.Error("no row")
}

func TestFilenodeMap(t *testing.T) {
	t.Parallel()
	good := binary.LittleEndian.AppendUint32(nil, 0x592717)
	good = binary.LittleEndian.AppendUint32(good, 1)
	good = binary.LittleEndian.AppendUint32(good, postgres.RelationCatalog)
	good = binary.LittleEndian.AppendUint32(good, 16390)
	m, err := postgres.ParseFilenodeMap(good)
	if err != nil || len(m) != 1 || m[postgres.RelationCatalog] != 16390 {
		t.Errorf("%v, %v", m, err)
	}
	many := slices.Clone(good)
	many[4] = 200
	for _, b := range [][]byte{nil, good[:15], many, make([]byte, 512)} {
		if m, err := postgres.ParseFilenodeMap(b); err == nil {
			t.Errorf("% x = %v", b, m)
		}
	}
}

func FuzzTuples(f *testing.F) {
	f.Add(heapPage(0x0100, 0, relationRow(16400, "orders", 16401)))
	f.Add(make([]byte, 8192))
	f.Fuzz(func(t *testing.T, page []byte) {
		for row := range postgres.Tuples(page) {
			if len(row.Data) > len(page) {
				t.Errorf("row of %d bytes in a page of %d", len(row.Data), len(page))
			}
			if r, ok := postgres.ParseRelationRow(row); ok && (r.OID == 0 || r.Name == "") {
				t.Errorf("%+v", r)
			}
			_, _, _ = postgres.ParseNamedRow(row) // it must not panic
		}
		_, _ = postgres.ParseFilenodeMap(page)
	})
}
