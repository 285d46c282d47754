package wal

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"wal-e/internal/postgres"
	"wal-e/internal/storage"
)

// ErrNotFound is wrapped by Fetch and Verify when the archive is proven not to
// hold the file. PostgreSQL asks for some that never existed while it recovers,
// so this is an ordinary answer.
var ErrNotFound = errors.New("not found")

// A DamagedError says that an object was read and is not what it should be.
// Reading it again will not help.
type DamagedError struct {
	Object string // where it is stored
	Err    error  // what is wrong with it
}

func (e *DamagedError) Error() string {
	return fmt.Sprintf("wal: object %s is damaged: %s", e.Object, strings.TrimPrefix(e.Err.Error(), "wal: "))
}

func (e *DamagedError) Unwrap() error { return e.Err }

// A formatError is about the bytes of an object, not about reading them.
type formatError struct{ error }

func (e formatError) Unwrap() error { return e.error }

// A sinkError is about what became of the plaintext, not about the object.
type sinkError struct{ error }

// A ConflictError says that the archive holds other bytes under the name that
// was pushed. The stored object stays as it is.
type ConflictError struct {
	Path   string // of the local file
	Object string // where the other file is stored
	Local  Identity
	Stored Identity

	// Of timeline history files only: what both say. StoredText is nil when it
	// could not be read.
	LocalText, StoredText []byte
}

// Error names both files; of a history file it also shows both, and what can
// have happened.
func (e *ConflictError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "wal: %s (%s) differs from %s (%s), which is never overwritten", e.Path, e.Local, e.Object, e.Stored)
	if e.LocalText == nil {
		b.WriteString("; another server with the same system identifier archives to the same prefix, or the local file was altered")
		return b.String()
	}
	b.WriteString("\nstored:\n")
	if e.StoredText == nil {
		b.WriteString("  (could not be read)\n")
	}
	indent(&b, e.StoredText)
	b.WriteString("here:\n")
	indent(&b, e.LocalText)
	b.WriteString(historyAdvice)
	return b.String()
}

const historyAdvice = `Another copy of this cluster was promoted to the same timeline before and archived here. Ways out:
- this server is a copy that nobody needs in the archive: set archive_mode = off and restart it;
- this server is the one to keep: restore it again with recovery_target_timeline = 'latest', so that it takes
  the next free timeline; or let it archive to a prefix of its own, and take a base backup there.`

// indent writes text line by line, without the control characters that a
// damaged file could send to a terminal.
func indent(b *strings.Builder, text []byte) {
	for line := range bytes.Lines(text) {
		line = bytes.Map(func(r rune) rune {
			if r == '\t' || r >= ' ' && r != 0x7f {
				return r
			}
			return -1
		}, line)
		fmt.Fprintf(b, "  %s\n", line)
	}
}

// absent says that a file is not in the archive.
func absent(b storage.Bucket, system postgres.SystemID, name string) error {
	return fmt.Errorf("wal: %s %w in %s", name, ErrNotFound, objectURL(b, strings.TrimSuffix(SystemPrefix(system), "/")))
}
