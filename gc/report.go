package gc

import (
	"time"

	"wal-e/chunkstore"
)

// A Report says what a collection did, or would do.
type Report struct {
	DryRun  bool             `json:"dry_run"`
	Backups []chunkstore.Ref `json:"backups_deleted"` // those that Delete was given
	Kept    int              `json:"backups_kept"`

	Freed   Amount `json:"freed"`   // now; in a dry run, what could be freed at once
	Pending Amount `json:"pending"` // once the pushes in Waiting have ended
	// Shared is what runs of deleted backups stored and other backups need.
	Shared Amount `json:"shared"`

	Waiting []Waiting        `json:"waiting"`        // pushes that block
	Aborted []chunkstore.Ref `json:"pushes_aborted"` // that this collection ended
	Reaped  int              `json:"runs_removed"`   // of which nothing is left now
}

// An Amount is a number of packs and of WAL files with their bytes.
type Amount struct {
	Packs     int   `json:"packs"`
	PackBytes int64 `json:"pack_bytes"`
	WAL       int   `json:"wal_files"`
	WALBytes  int64 `json:"wal_bytes"`
}

// Bytes is all bytes together.
func (a Amount) Bytes() int64 { return a.PackBytes + a.WALBytes }

// A Waiting is an open push that a collection has to wait for.
type Waiting struct {
	Ref   chunkstore.Ref `json:"backup"`
	Host  string         `json:"host"`
	PID   int            `json:"pid"`
	Since time.Time      `json:"since"` // by the store's clock
}
