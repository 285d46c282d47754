package postgres

import (
	"bytes"
	"encoding/binary"
	"iter"

	"wal-e/internal/fault"
)

// OIDs of catalogs, which never change (pg_class.h, pg_database.h, pg_namespace.h).
const (
	RelationCatalog  = 1259 // pg_class
	DatabaseCatalog  = 1262 // pg_database
	NamespaceCatalog = 2615 // pg_namespace
)

// A Tuple is a version of a row of a table's file.
type Tuple struct {
	OID  uint32 // of a catalog with hidden OIDs, before 12; else zero
	Data []byte // the columns, from the first on
	// Current means that nothing has deleted or replaced the row as far as the
	// page knows.
	Current bool
}

// Tuples yields the versions of rows in a heap page (bufpage.h, htup_details.h)
// but for those of aborted transactions. What doesn't look like one is passed
// over.
func Tuples(page []byte) iter.Seq[Tuple] {
	const header, pointer, normal, tupleHeader = 24, 4, 1, 23
	const hasOID, xminCommitted, xminInvalid, xmaxInvalid = 0x0008, 0x0100, 0x0200, 0x0800
	return func(yield func(Tuple) bool) {
		if len(page) < header {
			return
		}
		lower := min(int(binary.LittleEndian.Uint16(page[12:])), len(page))
		for at := header; at+pointer <= lower; at += pointer {
			p := binary.LittleEndian.Uint32(page[at:])
			offset, flags, length := int(p&0x7fff), p>>15&3, int(p>>17)
			if flags != normal || length < tupleHeader || offset+length > len(page) {
				continue
			}
			t := page[offset : offset+length]
			mask, data := binary.LittleEndian.Uint16(t[20:]), int(t[22])
			if data < tupleHeader || data > length || mask&(xminCommitted|xminInvalid) == xminInvalid {
				continue
			}
			tuple := Tuple{Data: t[data:], Current: mask&xmaxInvalid != 0 || binary.LittleEndian.Uint32(t[4:]) == 0}
			if mask&hasOID != 0 && data >= tupleHeader+4 {
				tuple.OID = binary.LittleEndian.Uint32(t[data-4:])
			}
			if !yield(tuple) {
				return
			}
		}
	}
}

// nameLength is NAMEDATALEN.
const nameLength = 64

// A RelationRow is what a row of pg_class says.
type RelationRow struct {
	OID       uint32
	Name      string
	Namespace uint32 // OID of the schema
	Node      uint32 // the number of its files; zero when pg_filenode.map has it
}

// ParseRelationRow reads a row of pg_class. It reports false for what is none.
func ParseRelationRow(t Tuple) (r RelationRow, ok bool) {
	var rest []byte
	r.OID, r.Name, rest, ok = parseNamed(t)
	// relnamespace, reltype, reloftype, relowner, relam, relfilenode
	if !ok || len(rest) < 24 {
		return r, false
	}
	r.Namespace = binary.LittleEndian.Uint32(rest)
	r.Node = binary.LittleEndian.Uint32(rest[20:])
	return r, true
}

// ParseNamedRow reads the OID and the name of a row of pg_database or
// pg_namespace. It reports false for what is none.
func ParseNamedRow(t Tuple) (oid uint32, name string, ok bool) {
	oid, name, _, ok = parseNamed(t)
	return oid, name, ok
}

// RoleFlags are attributes of a role.
type RoleFlags struct{ Superuser, Login bool }

// ParseRoleRow reads a row of pg_authid. It reports false for what is none.
func ParseRoleRow(t Tuple) (oid uint32, name string, f RoleFlags, ok bool) {
	var rest []byte
	oid, name, rest, ok = parseNamed(t)
	// rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin
	if !ok || len(rest) < 5 {
		return 0, "", f, false
	}
	return oid, name, RoleFlags{Superuser: rest[0] != 0, Login: rest[4] != 0}, true
}

// parseNamed reads the OID, which is the first column from 12 on, and the name
// that follows it in these catalogs.
func parseNamed(t Tuple) (oid uint32, name string, rest []byte, ok bool) {
	data := t.Data
	if oid = t.OID; oid == 0 && len(data) >= 4 {
		oid, data = binary.LittleEndian.Uint32(data), data[4:]
	}
	if oid == 0 || len(data) < nameLength {
		return 0, "", nil, false
	}
	text, _, terminated := bytes.Cut(data[:nameLength], []byte{0})
	if !terminated || len(text) == 0 {
		return 0, "", nil, false
	}
	return oid, string(text), data[nameLength:], true
}

// ParseFilenodeMap parses pg_filenode.map, which has the numbers of the files of
// catalogs that pg_class can't have, by OID (relmapper.c).
func ParseFilenodeMap(b []byte) (map[uint32]uint32, error) {
	const magic, maxMappings = 0x592717, 64
	if len(b) < 8 || binary.LittleEndian.Uint32(b) != magic {
		return nil, fault.BadControl.Errorf("pg_filenode.map: no map of PostgreSQL")
	}
	n := int(binary.LittleEndian.Uint32(b[4:]))
	if n < 0 || n > maxMappings || len(b) < 8+8*n {
		return nil, fault.BadControl.Errorf("pg_filenode.map: %d mappings in %d bytes", n, len(b))
	}
	nodes := make(map[uint32]uint32, n)
	for i := range n {
		nodes[binary.LittleEndian.Uint32(b[8+8*i:])] = binary.LittleEndian.Uint32(b[12+8*i:])
	}
	return nodes, nil
}
