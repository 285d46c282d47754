// Package backup takes and restores base backups: which files of a cluster
// belong in one, what the manifest says of them, and what a directory must look
// like before PostgreSQL may start on it.
//
// A backup is a manifest. It stands inside the outcome of a run, and names the
// root of a table of files; a file's entry names its chunks. Nothing in it
// refers to another backup: every backup restores alone.
//
// Bytes are chunkstore's, WAL is package wal's; the two meet only in the
// functions that Config takes.
package backup
