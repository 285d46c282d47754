package chunkstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"wal-e/index"
	"wal-e/internal/chunk"
	"wal-e/internal/envelope"
	"wal-e/internal/runid"
	"wal-e/internal/seal"
	"wal-e/internal/storage"
)

// Objects of an encrypted run differ from plain ones in this:
//
//	pack header   version 2, and after its 16 bytes: 16 epoch, 32 what the
//	              private key makes the run's key of, 4 CRC-32C of all before
//	record        flag bit 1; the payload is sealed under the record's number,
//	              with the 24 bytes of the header before its checksums
//	directory     sealed; flag bit 1 in the footer
//	index object  flag bit 1; the body is sealed
//	outcome       epoch, sealed_manifest; manifest has what a collector needs
//
// Chunks of plain and of encrypted runs, and of two epochs, have different ids:
// none is found where another looks for it. Their packs are not offered either.
const (
	sealedVersion    = 2
	sealedPackHeader = packHeader + 16 + seal.EncapsulatedSize + 4
	sealedOverhead   = seal.Overhead

	flagSealed = 2
)

// A sealer is how a store seals. Nil seals nothing.
type sealer struct {
	keys *seal.Keys

	mu   sync.Mutex
	runs map[runid.ID]*seal.RunKey // opened lately
}

// cachedRuns bounds how many opened keys of runs are kept.
const cachedRuns = 4096

// Sealed returns the store as the encrypted runs of an epoch use it. It doesn't
// see others, nor plain ones.
func (s *Store) Sealed(keys *seal.Keys) (*Store, error) {
	t := *s
	key := keys.DedupKey()
	var err error
	if t.hasher, err = chunk.NewHasher(key); err != nil {
		return nil, err
	}
	t.sealer = &sealer{keys: keys, runs: make(map[runid.ID]*seal.RunKey)}
	return &t, nil
}

// Epoch is the epoch whose runs the store sees, "" for plain ones.
func (s *Store) Epoch() string {
	if s.sealer == nil {
		return ""
	}
	return s.sealer.keys.Epoch().String()
}

// CanRead tells whether data can be read: a host's keys don't open it.
func (s *Store) CanRead() bool { return s.sealer == nil || s.sealer.keys.CanRead() }

// headerSize is how many bytes a pack has before its first record.
func (s *sealer) headerSize() int {
	if s == nil {
		return packHeader
	}
	return sealedPackHeader
}

// overhead is how much longer a sealed text is.
func (s *sealer) overhead() int {
	if s == nil {
		return 0
	}
	return sealedOverhead
}

// flags are those of a pack's footer.
func (s *sealer) flags() uint32 {
	if s == nil {
		return 0
	}
	return flagSealed
}

// A runSealer seals what one run writes. Nil seals nothing.
type runSealer struct {
	keys *seal.Keys
	run  runid.ID
	key  *seal.RunKey
	enc  []byte
}

func (s *sealer) begin(run runid.ID) (*runSealer, error) {
	if s == nil {
		return nil, nil
	}
	key, enc, err := s.keys.NewRun(run[:])
	if err != nil {
		return nil, err
	}
	return &runSealer{keys: s.keys, run: run, key: key, enc: enc}, nil
}

// A packSealer seals one pack. Nil seals nothing.
type packSealer struct {
	kinds [2]*seal.Box // by kind of record
	dir   *seal.Box
}

// pack returns the header of a pack and its sealer.
func (r *runSealer) pack(seq uint32) ([]byte, *packSealer) {
	header := append(make([]byte, 0, sealedPackHeader), packMagic...)
	if r == nil {
		header = binary.LittleEndian.AppendUint32(header, packVersion)
		return binary.LittleEndian.AppendUint32(header, 0), nil
	}
	header = binary.LittleEndian.AppendUint32(header, sealedVersion)
	header = binary.LittleEndian.AppendUint32(header, 0)
	epoch := r.keys.Epoch()
	header = append(append(header, epoch[:]...), r.enc...)
	header = binary.LittleEndian.AppendUint32(header, crc(header))
	return header, &packSealer{
		kinds: [2]*seal.Box{kindData: r.key.Pack(seq), kindNode: r.keys.Nodes(r.run[:], seq)},
		dir:   r.keys.Directory(r.run[:], seq),
	}
}

// record seals the payload of a record, whose header says all but its lengths
// and checksums.
func (p *packSealer) record(b []byte, n uint32) []byte {
	if p == nil {
		return b
	}
	b[4] |= flagSealed
	binary.LittleEndian.PutUint32(b[20:], uint32(len(b)-recordHeader+sealedOverhead))
	b = p.kinds[b[5]].Seal(b[:recordHeader], n, b[:24], b[recordHeader:])
	binary.LittleEndian.PutUint32(b[24:], crc(b[recordHeader:]))
	return b
}

// checkHeader makes sure that b begins a pack of this kind, and returns what
// tells the key of its run.
func (s *sealer) checkHeader(b []byte) (enc []byte, err error) {
	if len(b) != s.headerSize() || string(b[:8]) != packMagic {
		return nil, fmt.Errorf("%w: no pack header", ErrDamaged)
	}
	version := binary.LittleEndian.Uint32(b[8:])
	switch {
	case s == nil && version == packVersion:
		if reserved := binary.LittleEndian.Uint32(b[12:]); reserved != 0 {
			return nil, fmt.Errorf("%w: pack header with %#x where nothing belongs", ErrDamaged, reserved)
		}
		return nil, nil
	case s == nil || version != sealedVersion:
		return nil, fmt.Errorf("%w: pack of version %d", ErrDamaged, version)
	}
	end := len(b) - 4
	if crc(b[:end]) != binary.LittleEndian.Uint32(b[end:]) {
		return nil, fmt.Errorf("%w: checksum of a pack header differs", ErrDamaged)
	}
	if epoch := s.keys.Epoch(); !bytes.Equal(b[packHeader:packHeader+len(epoch)], epoch[:]) {
		return nil, fmt.Errorf("%w: pack is of epoch %x, its backup of %s", ErrDamaged, b[packHeader:packHeader+len(epoch)], epoch)
	}
	return b[packHeader+16 : end], nil
}

// runKey returns the key of the data of a pack's run. Packs of a run have the
// same header, so the first one that is read tells for all.
func (s *Store) runKey(ctx context.Context, p index.PackID) (*seal.RunKey, error) {
	s.sealer.mu.Lock()
	key := s.sealer.runs[p.Run]
	s.sealer.mu.Unlock()
	if key != nil {
		return key, nil
	}
	header, err := readRange(ctx, s.bucket, PackKey(p), 0, sealedPackHeader, 0)
	if err != nil {
		return nil, err
	}
	enc, err := s.sealer.checkHeader(header)
	if err != nil {
		return nil, err
	}
	return s.openRun(p.Run, enc)
}

func (s *Store) openRun(run runid.ID, enc []byte) (*seal.RunKey, error) {
	key, err := s.sealer.keys.OpenRun(run[:], enc)
	if err != nil {
		return nil, sealError(err)
	}
	s.sealer.mu.Lock()
	defer s.sealer.mu.Unlock()
	if len(s.sealer.runs) >= cachedRuns {
		clear(s.sealer.runs)
	}
	s.sealer.runs[run] = key
	return key, nil
}

// sealError makes damage of a broken seal.
func sealError(err error) error {
	if errors.Is(err, seal.ErrForged) {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return err
}

// An opener opens the records of one pack. Nil opens plain ones.
type opener struct{ kinds [2]*seal.Box }

// opener returns what opens the records of a pack. Without need of data, records
// of data stay shut: a host's keys don't open them.
func (s *Store) opener(ctx context.Context, p index.PackID, data bool) (*opener, error) {
	if s.sealer == nil {
		return nil, nil
	}
	o := &opener{}
	o.kinds[kindNode] = s.sealer.keys.Nodes(p.Run[:], p.Seq)
	if data {
		key, err := s.runKey(ctx, p)
		if err != nil {
			return nil, err
		}
		o.kinds[kindData] = key.Pack(p.Seq)
	}
	return o, nil
}

// checkOpener returns what opens all records of a pack that begins with header,
// whose every byte counts here.
func (s *Store) checkOpener(p index.PackID, header []byte) (*opener, error) {
	enc, err := s.sealer.checkHeader(header)
	if err != nil || s.sealer == nil {
		return nil, err
	}
	if !s.CanRead() {
		return &opener{kinds: [2]*seal.Box{kindNode: s.sealer.keys.Nodes(p.Run[:], p.Seq)}}, nil
	}
	key, err := s.openRun(p.Run, enc)
	if err != nil {
		return nil, err
	}
	return &opener{kinds: [2]*seal.Box{kindData: key.Pack(p.Seq), kindNode: s.sealer.keys.Nodes(p.Run[:], p.Seq)}}, nil
}

// holdsData tells whether a record may be one of data, by its header.
func holdsData(record []byte) bool { return len(record) < recordHeader || record[5] != kindNode }

// sameEpoch tells whether an unfinished run is sealed as this store seals. One
// whose intent can't be read counts as plain: what is sealed in it is of no use
// then, but does no harm.
func (s *Store) sameEpoch(ctx context.Context, ref Ref) (bool, error) {
	i, err := ReadIntent(ctx, s.bucket, ref)
	var version *envelope.VersionError
	if errors.Is(err, storage.ErrNotExist) || errors.Is(err, envelope.ErrDamaged) || errors.As(err, &version) {
		return s.sealer == nil, nil
	}
	if err != nil {
		return false, err
	}
	return i.Epoch == s.Epoch(), nil
}

// open returns the payload of a record.
func (o *opener) open(r recordInfo, header, payload []byte) ([]byte, error) {
	switch {
	case o == nil && r.flags&flagSealed == 0:
		return payload, nil
	case o == nil:
		return nil, fmt.Errorf("record is encrypted, and its run isn't: %w", errNewer)
	case r.flags&flagSealed == 0 || r.kind > kindNode:
		return nil, fmt.Errorf("%w: record with flags %#x of kind %d in an encrypted run", ErrDamaged, r.flags, r.kind)
	case o.kinds[r.kind] == nil:
		return nil, seal.ErrNoPrivateKey
	}
	plain, err := o.kinds[r.kind].Open(nil, r.number, header[:24], payload)
	return plain, sealError(err)
}

// openDirectory opens the directory of a pack.
func (s *Store) openDirectory(p index.PackID, b []byte) ([]byte, error) {
	if s.sealer == nil {
		return b, nil
	}
	plain, err := s.sealer.keys.Directory(p.Run[:], p.Seq).Open(nil, 0, nil, b)
	return plain, sealError(err)
}

func (s *Store) encodeIndex(id index.ObjectID, packs []index.Pack) []byte {
	if s.sealer == nil {
		return index.EncodeObject(packs)
	}
	box := s.sealer.keys.Index(id.Run[:], id.N)
	return index.EncodeSealed(packs, func(body []byte) []byte { return box.Seal(nil, 0, nil, body) })
}

func (s *Store) decodeIndex(id index.ObjectID, b []byte) ([]index.Pack, error) {
	if s.sealer == nil {
		return index.DecodeObject(b)
	}
	box := s.sealer.keys.Index(id.Run[:], id.N)
	return index.DecodeSealed(b, func(sealed []byte) ([]byte, error) {
		body, err := box.Open(nil, 0, nil, sealed)
		return body, sealError(err)
	})
}

// A Sealable manifest can say what of it may be read by everybody who can read
// the archive. Encrypted runs commit no other.
type Sealable interface {
	// Public returns what collectors and listings need. It is JSON.
	Public() any
}

// sealManifest puts the manifest into the outcome, in an encrypted run sealed
// and with only its public part readable.
func (s *Store) sealManifest(ref Ref, o *Outcome, manifest any) error {
	body, err := json.Marshal(manifest)
	if err != nil {
		return fmt.Errorf("encode manifest: %w", err)
	}
	o.Manifest, o.Epoch = body, s.Epoch()
	if s.sealer == nil {
		return nil
	}
	m, ok := manifest.(Sealable)
	if !ok {
		return errors.New("chunkstore: internal error: manifest of an encrypted run has no public part")
	}
	if o.Manifest, err = json.Marshal(m.Public()); err != nil {
		return fmt.Errorf("encode manifest: %w", err)
	}
	o.SealedBy = &ref.Run
	o.Sealed = s.sealer.keys.Manifest(ref.Run[:]).Seal(nil, 0, nil, body)
	return nil
}

// OpenManifest returns the whole manifest of an outcome. Its readable part
// isn't proven; the caller compares.
func (s *Store) OpenManifest(ref Ref, o *Outcome) (json.RawMessage, error) {
	if o.Epoch != s.Epoch() {
		return nil, fmt.Errorf("backup %s is of epoch %q, the keys of %q", ref, o.Epoch, s.Epoch())
	}
	if s.sealer == nil {
		return o.Manifest, nil
	}
	if o.SealedBy == nil {
		return nil, fmt.Errorf("manifest of %s: %w: it doesn't say who sealed it", ref, ErrDamaged)
	}
	body, err := s.sealer.keys.Manifest(o.SealedBy[:]).Open(nil, 0, nil, o.Sealed)
	if err != nil {
		return nil, fmt.Errorf("manifest of %s: %w", ref, sealError(err))
	}
	return body, nil
}

// tableOwner is what a local table is told by. Tables of epochs hold other ids.
func (s *Store) tableOwner() string {
	if s.sealer == nil {
		return s.prefix.ID
	}
	epoch := s.sealer.keys.Epoch()
	return s.prefix.ID + " " + hex.EncodeToString(epoch[:])
}
