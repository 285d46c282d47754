package backup

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"

	"wal-e/chunkstore"
	"wal-e/internal/fault"
	"wal-e/internal/progress"
	"wal-e/internal/seal"
)

// A KeyFinder returns the keys of an epoch, with its private key when data is
// to be read. It is not asked for plain backups.
type KeyFinder func(ctx context.Context, epoch string, data bool) (*seal.Keys, error)

// errNoKeys says that a backup is encrypted and nobody gave a KeyFinder.
var errNoKeys = fault.NoHostKeys.Errorf("backup is encrypted, and its keys aren't here")

// Public returns what everybody who can read the archive may know of an
// encrypted backup: what retention, collection and listings need. No name of a
// file, a user, a tablespace or a path is in it.
func (m *Manifest) Public() any {
	p := *m
	p.DataDirectory, p.Owner, p.Group, p.Mode = "", "", "", 0
	p.Label, p.TablespaceMap, p.Tablespaces = nil, nil, nil
	p.Root, p.Control = "", nil
	p.Pages.Failures = nil
	return &p
}

// open replaces the public part of an encrypted backup's manifest by the whole.
func (b *validBackup) open(store *chunkstore.Store) error {
	if b.sealed == nil {
		return nil
	}
	m, err := openManifest(b.ref, b.sealed, store)
	if err != nil {
		return err
	}
	b.manifest, b.sealed = m, nil
	return nil
}

// Epoch is whose keys the backup needs, "" when it isn't encrypted.
func (b *Backup) Epoch() string {
	if b.sealed == nil {
		return ""
	}
	return b.sealed.Epoch
}

// Open replaces the public part of an encrypted backup's manifest by the whole;
// store is that of its epoch. Fetch needs it.
func (b *Backup) Open(store *chunkstore.Store) error {
	if b.sealed == nil {
		return nil
	}
	m, err := openManifest(b.Ref, b.sealed, store)
	if err != nil {
		return err
	}
	b.Manifest = m
	return nil
}

// openManifest opens the manifest of an outcome and makes sure that what stands
// beside it in the clear says the same.
func openManifest(ref chunkstore.Ref, o *chunkstore.Outcome, store *chunkstore.Store) (*Manifest, error) {
	body, err := store.OpenManifest(ref, o)
	if err != nil {
		return nil, err
	}
	whole := *o
	whole.Manifest, whole.Epoch = body, ""
	m, err := parseManifest(&whole)
	if err != nil {
		return nil, err
	}
	public, err := json.Marshal(m.Public())
	if err != nil {
		return nil, fmt.Errorf("encode manifest: %w", err)
	}
	var readable bytes.Buffer
	if err := json.Compact(&readable, o.Manifest); err != nil {
		return nil, fmt.Errorf("manifest: %w: %w", chunkstore.ErrDamaged, err)
	}
	if !bytes.Equal(public, readable.Bytes()) || m.System != o.System || m.StartLSN != o.Start || m.Name != ref.Name {
		return nil, fmt.Errorf("manifest of %s: %w: its readable part isn't that of the sealed one", ref, chunkstore.ErrDamaged)
	}
	return m, nil
}

// openEpoch opens the store of an epoch.
func openEpoch(ctx context.Context, plain *chunkstore.Store, find KeyFinder, epoch string, data bool) (*chunkstore.Store, error) {
	if epoch == "" {
		return plain, nil
	}
	if find == nil {
		return nil, errNoKeys
	}
	keys, err := find(ctx, epoch, data)
	if err != nil {
		return nil, err
	}
	return plain.Sealed(keys)
}

// verifyEpochs verifies the backups of each epoch, plain ones first.
func (v *verifier) verifyEpochs(ctx context.Context) error {
	plain, all := v.store, v.needed
	defer func() { v.store, v.needed = plain, all }()
	for _, epoch := range v.epochs() {
		if err := v.verifyEpoch(ctx, plain, epoch); err != nil {
			return err
		}
	}
	return nil
}

// epochs lists the epochs of the backups in order. No backups count as plain.
func (v *verifier) epochs() []string {
	seen := make(map[string]bool)
	var list []string
	for _, b := range v.backups {
		if e := b.epoch; !seen[e] {
			seen[e] = true
			list = append(list, e)
		}
	}
	return list
}

func (v *verifier) verifyEpoch(ctx context.Context, plain *chunkstore.Store, epoch string) error {
	var err error
	if v.store, err = openEpoch(ctx, plain, v.cfg.Keys, epoch, v.cfg.ReadData); err != nil && v.cfg.ReadData {
		// A host's keys open all but the data, whose checksums need no key.
		store, herr := openEpoch(ctx, plain, v.cfg.Keys, epoch, false)
		if herr != nil {
			return err
		}
		v.cfg.Log.WarnContext(ctx, "no private key: data is checked by its checksums, and not opened", "epoch", epoch, "detail", err.Error())
		v.store, err = store, nil
	}
	if err != nil {
		return err
	}
	v.needed = chunkstore.Footprint{}
	var broken = make(map[int]bool)
	for i := range v.backups {
		if b := &v.backups[i]; b.epoch == epoch {
			v.needed.Union(&b.footprint)
			if err := b.open(v.store); err != nil {
				if !isDamage(err) {
					return err
				}
				broken[i] = true
				v.problems.add(b.outcome.Key, err, b.ref.String(), "")
			}
		}
	}
	closeTable, err := v.openTable()
	if err != nil {
		return err
	}
	defer closeTable()
	if err := v.loadIndex(ctx); err != nil {
		return err
	}
	if v.cfg.ReadData {
		if err := v.readData(ctx); err != nil {
			return err
		}
	}
	v.cfg.Progress.Begin("look at backups", progress.Items, int64(len(v.backups)), nil)
	for i := range v.backups {
		v.cfg.Progress.Add(1)
		if v.backups[i].epoch != epoch || broken[i] {
			continue
		}
		if err := v.walk(ctx, i); err != nil {
			return err
		}
	}
	return v.repair(ctx)
}
