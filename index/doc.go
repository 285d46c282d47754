// Package index answers one question: where is chunk X? An answer is a
// Location: a pack, a record in it, and a range of that record's bytes.
//
// Two forms of the answer are here. A Pack is the directory of one pack, as it
// stands at the pack's end and in the index objects of a run; it is the truth.
// A Table is a local cache of many of them, sorted by chunk ID in a bbolt file;
// it may be stale, damaged, locked or gone, and then costs bytes or time, never
// a backup: whoever trusts a Location checks the pack's presence before a
// commit and the chunk's ID on every read.
//
// The package does no remote I/O; chunkstore moves the bytes.
package index
