// Package wal archives single WAL files and brings them back: what PostgreSQL's
// archive_command and restore_command ask for, one file at a time.
//
// Any file that PostgreSQL archives is one object under wal_006/<system>/<name>:
// segments, .partial segments, .history and .backup files. An object is an
// identity (whose system the file is of, its length and its fingerprint, all of
// the plaintext) followed by zstd frames, so that `zstd -d` gives the file back
// and one short read at the head says what is stored. docs/format.md has the
// bytes.
//
// What the package promises:
//
//   - Push returns nil only when exactly the local file's bytes are durable in
//     the archive. It never replaces an object: pushing the same bytes again is
//     success whatever level they were compressed at, other bytes under the same
//     name are a ConflictError.
//   - A segment is archived only when its first page says that it is a segment
//     of that name and as long as a segment of its cluster.
//   - Fetch puts a file under its destination complete, proven against its
//     fingerprint and fsynced, or not at all. Whatever kills it, what was at the
//     destination before stays as it was.
//   - ErrNotFound means that the store has proven the absence of the file. Every
//     other failure is another error, because PostgreSQL ends recovery on the
//     one and must not on the others.
//   - Memory does not depend on the segment size beyond 64 MiB: Push holds a
//     compressed file of up to that much plaintext, so that the store can send
//     it again without reading and compressing anew, and streams a larger one.
//     Besides, both directions take some 3 MiB per core that works on a file.
//
// What it leaves to others: exit statuses and time limits (cmd/wal-e), which
// system identifiers a prefix accepts (Config.Admit), retries (internal/storage),
// what may be deleted (package gc).
package wal
