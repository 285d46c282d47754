package backup

import "time"

// Verified says how far verifications have come.
type Verified struct {
	Last  time.Time `json:"last"`  // when the last one ended that wrote anything down
	Packs int       `json:"packs"` // that the backups need
	// NeverRead are those of them that none has found whole yet.
	NeverRead int `json:"never_read_packs"`
	// Oldest is when that one was read that waited longest of the others; nil: there
	// are none.
	Oldest *time.Time `json:"oldest_read"`
	// Result is what the last one of all backups came to that VerifyConfig.Record
	// wrote down; nil: there was none.
	Result *VerifyResult `json:"result"`
}

// A VerifyResult is what a verification of all backups came to.
type VerifyResult struct {
	At      time.Time `json:"at"`   // when it ended
	Host    string    `json:"host"` // on which it ran
	Backups int       `json:"backups"`
	Packs   int       `json:"packs"` // that these need
	// ReadPacks and ReadBytes are what it read; of the others it looked at lists and
	// sizes.
	ReadPacks int   `json:"read_packs"`
	ReadBytes int64 `json:"read_bytes"`
	WAL       bool  `json:"wal"` // it looked for WAL, too

	Problems int    `json:"problems"`
	First    string `json:"first_problem,omitempty"` // the object and what is wrong with it
	Mended   bool   `json:"mended,omitempty"`        // there were problems, and it mended all
}
