// Package postgres knows PostgreSQL's own formats and speaks to a running
// server: WAL positions and file names, pg_control, backup_label,
// tablespace_map, timeline history, WAL page headers, relation file names, page
// checksums, and the session that holds a low-level base backup open.
//
// It reads what servers 9.6 to 18 write on little-endian 64-bit machines and
// refuses other layouts by name rather than guess. Parsers take bytes, do no
// I/O, and allocate no more than their input's size. The package decides nothing
// about what an archive stores; that is left to its callers.
package postgres
