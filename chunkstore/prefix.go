package chunkstore

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"wal-e/internal/chunk"
	"wal-e/internal/envelope"
	"wal-e/internal/storage"
)

// A Prefix is what config objects say of a prefix: how it cuts, the key of its
// ids, and the clusters that archive to it. Each change is a new object under
// the next number; the highest counts.
type Prefix struct {
	// ID is 32 random hex digits, made with the prefix. A local cache of
	// another prefix that stood at the same place is told by it.
	ID       string       `json:"prefix_id"`
	Chunking chunk.Params `json:"chunking"`
	// DedupKey is the key of page hashes and chunk ids, in hex.
	DedupKey string `json:"dedup_key"`
	// Systems are the system identifiers that were accepted, in decimal.
	Systems []string `json:"systems"`

	number uint32
	key    [chunk.KeySize]byte
}

// ErrNoPrefix is wrapped when nothing of this layout is under the prefix.
var ErrNoPrefix = errors.New("no wal-e archive of layout 006 here")

const (
	configKind    = "config"
	configVersion = 1
	configLimit   = 1 << 20 // bytes
)

// UnknownSystemError says that a cluster isn't one of those that archive to
// this prefix.
type UnknownSystemError struct {
	System   string
	Accepted []string
	URL      string
}

func (e *UnknownSystemError) Error() string {
	return fmt.Sprintf("cluster with system identifier %s is new to %s, which holds the archive of %s: "+
		"check that the prefix is the right one; if this cluster is to archive here too (after pg_upgrade, say), "+
		"accept it once with `wal-e adopt-system %s` or WALE_ALLOW_NEW_CLUSTER=1",
		e.System, e.URL, strings.Join(e.Accepted, ", "), e.System)
}

// LoadPrefix reads the newest valid config of b, or returns ErrNoPrefix. A
// config that is damaged is passed over for the one before it only when that
// can't lose anything, which is never: it is an error.
func LoadPrefix(ctx context.Context, b storage.Bucket) (*Prefix, error) {
	var last string
	for o, err := range b.List(ctx, configDir, "") {
		if err != nil {
			return nil, err
		}
		if _, ok := parseNumber(strings.TrimPrefix(o.Key, configDir)); ok {
			last = o.Key
		}
	}
	if last == "" {
		return nil, fmt.Errorf("%w: %s", ErrNoPrefix, b.URL())
	}
	return readPrefix(ctx, b, last)
}

func readPrefix(ctx context.Context, b storage.Bucket, key string) (*Prefix, error) {
	data, err := storage.ReadAll(ctx, b, key, configLimit)
	if err != nil {
		return nil, err
	}
	p := &Prefix{}
	if err := envelope.Decode(data, configKind, configVersion, p); err != nil {
		return nil, fmt.Errorf("%s of %s: %w", key, b.URL(), err)
	}
	p.number, _ = parseNumber(strings.TrimPrefix(key, configDir))
	if err := p.check(); err != nil {
		return nil, fmt.Errorf("%s of %s: %w", key, b.URL(), err)
	}
	return p, nil
}

func (p *Prefix) check() error {
	if len(p.ID) != 32 {
		return fmt.Errorf("prefix id %q: want 32 hex digits", p.ID)
	}
	key, err := hex.DecodeString(p.DedupKey)
	if err != nil || len(key) != chunk.KeySize {
		return fmt.Errorf("dedup key: want %d hex digits", 2*chunk.KeySize)
	}
	copy(p.key[:], key)
	return p.Chunking.Check()
}

// Admit returns the prefix's config after making sure that the cluster may
// archive to it: the first cluster makes the prefix, others must be accepted
// once, which allowNew does.
func Admit(ctx context.Context, b storage.Bucket, system uint64, allowNew bool) (*Prefix, error) {
	name := fmt.Sprint(system)
	for {
		p, err := LoadPrefix(ctx, b)
		switch {
		case errors.Is(err, ErrNoPrefix):
			if p, err = newPrefix(name); err != nil {
				return nil, err
			}
		case err != nil:
			return nil, err
		case slices.Contains(p.Systems, name):
			return p, nil
		case !allowNew && len(p.Systems) > 0:
			return nil, &UnknownSystemError{System: name, Accepted: p.Systems, URL: b.URL()}
		default:
			p.Systems = append(p.Systems, name)
			p.number++
		}
		err = p.create(ctx, b)
		if errors.Is(err, storage.ErrExist) {
			continue // another process was first: look at what it wrote
		}
		if err != nil {
			return nil, err
		}
		return p, nil
	}
}

func newPrefix(system string) (*Prefix, error) {
	p := &Prefix{Chunking: chunk.DefaultParams(), Systems: []string{system}}
	var id [16]byte
	if _, err := rand.Read(id[:]); err != nil {
		return nil, fmt.Errorf("read randomness: %w", err)
	}
	if _, err := rand.Read(p.key[:]); err != nil {
		return nil, fmt.Errorf("read randomness: %w", err)
	}
	p.ID, p.DedupKey = hex.EncodeToString(id[:]), hex.EncodeToString(p.key[:])
	return p, nil
}

func (p *Prefix) create(ctx context.Context, b storage.Bucket) error {
	if p.number == 0 {
		if err := storage.CreateBytes(ctx, b, formatKey, []byte(formatText), nil); err != nil && !errors.Is(err, storage.ErrExist) {
			return err
		}
	}
	data, err := envelope.Encode(configKind, configVersion, p)
	if err != nil {
		return err
	}
	if err := storage.CreateBytes(ctx, b, configKey(p.number), data, nil); err != nil {
		return err
	}
	return nil
}

// formatText tells a person without this program what they are looking at.
const formatText = `This is an archive of PostgreSQL base backups and WAL, written by wal-e.

basebackups_006/base_<SEGMENT>_<OFFSET>/<RUN>.intent    a backup was begun
basebackups_006/base_<SEGMENT>_<OFFSET>/<RUN>.outcome   it ended: commit or abort; the manifest is inside
deleted_006/base_<SEGMENT>_<OFFSET>/<RUN>               it was deleted
marks_006/base_<SEGMENT>_<OFFSET>/<RUN>/<U>.keep        it is to be kept; the last by name counts,
marks_006/base_<SEGMENT>_<OFFSET>/<RUN>/<U>.release     which may also release it again
chunks_006/packs/<RUN>/<n>                              packs of compressed chunks of files
chunks_006/index/<RUN>/<n>                              which chunks those packs hold
chunks_006/condemned/<G>                                packs that are about to be removed,
chunks_006/condemned/<G>.grace                          and which backups under way that waits for
chunks_006/config/<n>                                   parameters; the highest n counts
chunks_006/keys/<EPOCH>/<n>.pgp                         keys of encrypted backups, as OpenPGP messages
chunks_006/copies                                       this archive is a copy of another one
wal_006/<SYSTEM>/<FILE>                                 WAL files: zstd -d gives the file
copies_006/<RUN>                                        when the archive was copied, and where to
drills_006/<RUN>                                        what a trial restore found
verified_006/<RUN>                                      what was read and found whole, and when
probe_006/<RUN>                                         left by a test of the storage; no meaning

A backup that counts has an intent and an outcome that says commit, and was not
deleted. Objects are one line with a hash, then JSON, except for packs, indexes,
keys, WAL files and probes. A manifest names the root of a table of files; a file is a list
of slices of chunks; a chunk is found through the index, stands in a record of a
pack, and a record is zstd.

Where there are keys, backups and WAL files may be encrypted. gpg -d opens the
keys for whoever has a private key to which they were sealed; gpg -d of a WAL
file, and then zstd -d, gives the file. docs/restore-encrypted.py of wal-e shows
how a backup is opened with them.

The formats are described byte for byte in docs/format.md of wal-e.
`
