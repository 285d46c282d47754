package gc_test

import (
	"wal-e/internal/storage"
)

// A mutation is a step of the push that is left out.
type mutation string

func (m mutation) wrap(b storage.Bucket) storage.Bucket { return b }

func withoutW4a(b storage.Bucket) storage.Bucket { return b }
