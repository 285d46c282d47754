package backup

import (
	"encoding/json"
	"fmt"
	"time"
	"unicode/utf8"

	"wal-e/chunkstore"
	"wal-e/internal/chunk"
	"wal-e/internal/fault"
	"wal-e/internal/postgres"
)

// Kinds of backups.
const (
	Live    = "live"    // of a running primary
	Standby = "standby" // of a running standby
	Offline = "offline" // of a stopped cluster
)

// A Manifest is what a backup says of itself. It is JSON inside the outcome of
// its run; docs/format.md describes it.
type Manifest struct {
	Version int    `json:"version"` // of this structure, 1
	Name    string `json:"name"`    // base_<SEGMENT>_<OFFSET>
	Kind    string `json:"kind"`    // Live, Standby or Offline

	System        string `json:"system_identifier"`
	ServerVersion int    `json:"server_version"` // as server_version_num; offline, the major version times 10000
	Catalog       uint32 `json:"catalog_version"`
	Program       string `json:"program"` // the wal-e that pushed
	Host          string `json:"host"`
	DataDirectory string `json:"data_directory"`
	// Mode, Owner and Group are the data directory's own.
	Mode  uint32 `json:"mode"` // permission bits
	Owner string `json:"owner"`
	Group string `json:"group"`

	Timeline    postgres.Timeline `json:"timeline"`
	StartLSN    string            `json:"start_lsn"` // the truth; names are for people
	StopLSN     string            `json:"stop_lsn"`  // offline: the end of the shutdown checkpoint
	SegmentSize int64             `json:"wal_segment_size"`
	BlockSize   int               `json:"block_size"`
	Started     time.Time         `json:"started"`
	Stopped     time.Time         `json:"stopped"` // the end of the backup by the clock of Host, which is the server's

	// Label and TablespaceMap are what the server gave when the backup was
	// stopped, byte for byte; neither exists offline.
	Label         []byte       `json:"backup_label,omitempty"`
	TablespaceMap []byte       `json:"tablespace_map,omitempty"`
	Tablespaces   []Tablespace `json:"tablespaces"`

	// Root is the root of the file table. Control is global/pg_control, which
	// is read after every other file and is not in the table.
	Root    string `json:"files_root"`
	Control []byte `json:"control_entry"` // one entry, encoded as in the table
	Files   int64  `json:"files"`
	Bytes   int64  `json:"bytes"` // of all files together, uncompressed

	Pages PageReport `json:"page_checksums"`
	Push  PushReport `json:"push"`
}

// A Tablespace is one outside of the data directory.
type Tablespace struct {
	OID      uint32 `json:"oid"`
	Name     string `json:"name,omitempty"` // unknown offline
	Location string `json:"location"`       // what its link in pg_tblspc pointed to
}

// MarshalJSON writes what isn't UTF-8 a second time, byte for byte: a path may be
// anything, and the name of a tablespace has the server's encoding.
func (t Tablespace) MarshalJSON() ([]byte, error) {
	return json.Marshal(tablespaceJSON{tablespaceFields(t), inexact(t.Name), inexact(t.Location)})
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (t *Tablespace) UnmarshalJSON(b []byte) error {
	var j tablespaceJSON
	if err := json.Unmarshal(b, &j); err != nil {
		return err
	}
	*t = Tablespace(j.tablespaceFields)
	t.Name, t.Location = exact(t.Name, j.NameBytes), exact(t.Location, j.LocationBytes)
	return nil
}

type tablespaceFields Tablespace

type tablespaceJSON struct {
	tablespaceFields
	NameBytes     []byte `json:"name_bytes,omitempty"`
	LocationBytes []byte `json:"location_bytes,omitempty"`
}

// inexact returns the bytes of s if a string in JSON can't hold them, else nil.
func inexact(s string) []byte {
	if utf8.ValidString(s) {
		return nil
	}
	return []byte(s)
}

// exact returns what inexact was given.
func exact(s string, b []byte) string {
	if len(b) > 0 {
		return string(b)
	}
	return s
}

// PageReport is what verifying page checksums found.
type PageReport struct {
	Enabled  bool      `json:"enabled"` // the cluster has checksums
	Verified int64     `json:"verified"`
	Failed   int64     `json:"failed"`
	Failures []BadPage `json:"failures,omitempty"` // the first of them
}

// A BadPage is a page whose checksum is wrong.
type BadPage struct {
	Path     string `json:"path"`
	Block    int64  `json:"block"`
	Expected uint16 `json:"expected"`
	Found    uint16 `json:"found"`
}

// PushReport are the figures of the push that took the backup.
type PushReport struct {
	Read   int64 `json:"bytes_read"`
	Unread int64 `json:"bytes_unread,omitempty"` // of files to which nothing was written since an earlier push read them
	// Changed are files that were found to have changed though the file system
	// said otherwise: backups since they were read before may hold old bytes.
	Changed []string `json:"changed_unnoticed,omitempty"`
	New     int64    `json:"bytes_new"`    // of chunks that the store didn't have
	Stored  int64    `json:"bytes_stored"` // compressed, with index
	Seconds float64  `json:"seconds"`
}

const manifestVersion = 1

// parseManifest reads the manifest of a committed outcome.
func parseManifest(o *chunkstore.Outcome) (*Manifest, error) {
	m := &Manifest{}
	if err := json.Unmarshal(o.Manifest, m); err != nil {
		return nil, fmt.Errorf("manifest: %w: %w", chunkstore.ErrDamaged, err)
	}
	if m.Version > manifestVersion {
		return nil, fault.Newer.Errorf("manifest is of version %d, this program reads up to %d: use a newer wal-e", m.Version, manifestVersion)
	}
	if o.Epoch != "" && m.Root == "" {
		m.Root = chunk.ID{}.String() // the readable part of an encrypted backup's has none
	}
	if _, err := chunk.ParseID(m.Root); err != nil {
		return nil, fmt.Errorf("manifest: %w: %w", chunkstore.ErrDamaged, err)
	}
	for _, lsn := range []string{m.StartLSN, m.StopLSN} {
		if _, err := postgres.ParseLSN(lsn); err != nil {
			return nil, fmt.Errorf("manifest: %w: %w", chunkstore.ErrDamaged, err)
		}
	}
	return m, nil
}
