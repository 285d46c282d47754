// Package chunkstore keeps the bytes of base backups: each distinct chunk once,
// however many backups hold it.
//
// Words used here. A chunk is a run of 8 KiB pages of a file, named by a keyed
// hash of its content. New chunks that follow each other are compressed
// together into a block; a block is stored as one record of a pack, and packs
// are the objects that are uploaded. A file's content is a list of slices of
// chunks; lists, and tables of files, are nodes: chunks like any other. A run
// is one push. Its footprint names the packs that its backup needs.
//
// What the package promises:
//
//   - a run commits only when every pack in its footprint was seen in the store,
//     by the protocol of docs/design.md, section 4; its outcome is created once;
//   - every byte that a Reader returns was proven against the id asked for;
//   - memory depends on Config, not on the size of the cluster.
//
// What it leaves to others: which files make a backup and what the manifest
// says (package backup), which packs may be removed (package gc), where a chunk
// is (package index).
package chunkstore
