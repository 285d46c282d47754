// Package gc removes what no backup needs any more: packs, WAL, and what is
// left of runs that were aborted or deleted.
//
// What the package promises, by the protocol of docs/design.md, section 5:
//
//   - nothing that a valid backup needs is removed, whatever pushes, deletes
//     and collections run at once, wherever they stop, and whatever their clocks
//     say;
//   - a collection that stopped anywhere is finished by any later one;
//   - metadata that can't be read and verified stops a collection before it
//     removes anything.
//
// It takes no lock. Pushes and collections meet in objects that are created
// once: a push writes its intent and then reads the marks, a collection writes
// its mark and then reads the intents, so one of them sees the other.
//
// What it leaves to others: which backups a user wants to delete (the retention
// functions say so), and how a push keeps its side (package chunkstore).
package gc
