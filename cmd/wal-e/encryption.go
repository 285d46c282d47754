package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"wal-e/backup"
	"wal-e/chunkstore"
	"wal-e/internal/fault"
	"wal-e/internal/openpgp"
	"wal-e/internal/seal"
	"wal-e/internal/storage"
	"wal-e/wal"
)

// encryption is what options and variables say of keys.
type encryption struct {
	ids            []string // of recipients
	publicFiles    []string // where they are; none: GnuPG's key ring
	privateFile    string   // "" means gpg and its agent
	passphraseFile string
	gpgHome        string // "" means gpg's own
	policy         policy
}

// A policy says what else to do with what isn't encrypted.
type policy string

const (
	policyUnset policy = ""         // a push in the clear to an encrypted prefix is refused
	required    policy = "required" // so is everything that this host's keys don't prove
	off         policy = "off"      // nothing is
)

// on tells whether what leaves the host is encrypted.
func (e encryption) on() bool { return len(e.ids)+len(e.publicFiles) > 0 }

func (r *reader) encryption(f globalFlags) encryption {
	source, value, set := "--gpg-key-id", f.gpgKeyID, f.gpgKeyIDSet
	if !set {
		source = "WALE_GPG_KEY_ID"
		value, set = r.env[source]
	}
	e := encryption{
		ids: list(value), publicFiles: list(r.env["WALE_GPG_PUBLIC_KEY_FILE"]),
		privateFile: r.env["WALE_GPG_PRIVATE_KEY_FILE"], passphraseFile: r.env["WALE_GPG_PASSPHRASE_FILE"],
		gpgHome: r.env["GNUPGHOME"], policy: policy(r.env["WALE_ENCRYPTION"]),
	}
	switch {
	case !slices.Contains([]policy{policyUnset, required, off}, e.policy):
		r.complain(fault.BadSetting.Errorf("WALE_ENCRYPTION: %q: want required or off, or unset it", string(e.policy)))
	case e.policy == off && e.on():
		r.complain(fault.BadSetting.Errorf("WALE_ENCRYPTION: is off, and a key to encrypt to is named: unset one of them"))
	}
	if set && len(e.ids) == 0 {
		r.complain(fault.BadSetting.Errorf("%s: is set but empty: name a key, or unset it to store without encryption", source))
	}
	if _, set := r.env["WALE_GPG_PUBLIC_KEY_FILE"]; set && len(e.publicFiles) == 0 {
		r.complain(fault.BadSetting.Errorf("WALE_GPG_PUBLIC_KEY_FILE: is set but empty: name a file, or unset it"))
	}
	if e.passphraseFile != "" && e.privateFile == "" {
		r.complain(fault.BadSetting.Errorf("WALE_GPG_PASSPHRASE_FILE: is of use with WALE_GPG_PRIVATE_KEY_FILE only; gpg-agent has passphrases of its own"))
	}
	return e
}

// list splits a list at commas.
func list(s string) []string {
	var l []string
	for _, item := range strings.Split(s, ",") {
		if item = strings.TrimSpace(item); item != "" {
			l = append(l, item)
		}
	}
	return l
}

func (s *session) recipients(ctx context.Context) (*openpgp.Recipients, error) {
	e := s.encryption
	if len(e.publicFiles) > 0 {
		return openpgp.ReadRecipients(e.publicFiles, e.ids, time.Now())
	}
	return openpgp.GPG{Home: e.gpgHome}.Recipients(ctx, e.ids, time.Now())
}

func (s *session) decrypter(silent bool) (openpgp.Decrypter, error) {
	if s.encryption.privateFile == "" {
		return openpgp.GPG{Silent: silent, Home: s.encryption.gpgHome}, nil
	}
	return openpgp.ReadKeyFile(s.encryption.privateFile, s.encryption.passphraseFile)
}

// hostKeysVersion is the version of the file of a host's keys.
const hostKeysVersion = 1

// hostKeys is the file with what a host knows of the epochs of a prefix: dedup
// keys and public keys. The last epoch is the one that it writes.
type hostKeys struct {
	Version int          `json:"version"`
	Prefix  string       `json:"prefix"` // for people
	Epochs  []*seal.Keys `json:"epochs"`
}

// hostKeysPath is outside the folder of the prefix's caches, so that whoever
// empties those leaves it alone.
func (s *session) hostKeysPath() string {
	return filepath.Join(s.stateRoot, "keys", digest(s.prefix.String())+".json")
}

// maxHostKeys bounds the file in bytes.
const maxHostKeys = 4 << 20

// readHostKeys returns the keys of this host, none without a file.
func (s *session) readHostKeys() (*hostKeys, error) {
	path := s.hostKeysPath()
	h := &hostKeys{Version: hostKeysVersion, Prefix: s.prefix.String()}
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return h, nil
	}
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o077 != 0 || info.Size() > maxHostKeys {
		return nil, fault.BadKey.Errorf("%s: has mode %04o and %d bytes: want 0600 and at most %d bytes; see who had access, then chmod 600", path, info.Mode().Perm(), info.Size(), maxHostKeys)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if h, err = parseHostKeys(data); err != nil {
		return nil, fmt.Errorf("%s: %w: restore that file, or remove it and run `wal-e key recover` with a private key", path, err)
	}
	return h, nil
}

func parseHostKeys(data []byte) (*hostKeys, error) {
	h := &hostKeys{}
	if err := json.Unmarshal(data, h); err != nil {
		return nil, err
	}
	if h.Version != hostKeysVersion {
		return nil, fault.Newer.Errorf("is of version %d, this program knows %d", h.Version, hostKeysVersion)
	}
	if len(h.Epochs) == 0 || slices.Contains(h.Epochs, nil) {
		return nil, fault.BadKey.Errorf("holds no keys")
	}
	for i, k := range h.Epochs {
		h.Epochs[i] = k.Host()
	}
	return h, nil
}

func (h *hostKeys) find(epoch string) *seal.Keys {
	for _, k := range h.Epochs {
		if k.Epoch().String() == epoch {
			return k
		}
	}
	return nil
}

// add makes an epoch the one that is written.
func (h *hostKeys) add(k *seal.Keys) {
	h.Epochs = slices.DeleteFunc(h.Epochs, func(o *seal.Keys) bool { return o.Epoch() == k.Epoch() })
	h.Epochs = append(h.Epochs, k.Host())
}

// writeHostKeys replaces the file, durably.
func (s *session) writeHostKeys(h *hostKeys) (err error) {
	data, err := json.MarshalIndent(h, "", " ")
	if err != nil {
		return err
	}
	dir, err := makeState(s.stateRoot, filepath.Dir(s.hostKeysPath()))
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".keys-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name()) // the error that matters is err
		}
	}()
	_, err = f.Write(append(data, '\n'))
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), s.hostKeysPath())
	}
	if err == nil {
		err = syncFolder(dir)
	}
	return err
}

func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	return err
}

// lockHostKeys keeps other processes of this host from making keys meanwhile.
func (s *session) lockHostKeys() (unlock func(), err error) {
	dir, err := makeState(s.stateRoot, filepath.Dir(s.hostKeysPath()))
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		_ = f.Close() // nothing was written
		return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return func() { _ = f.Close() }, nil
}

// errLostKeys says that the prefix is encrypted and this host can't go on.
func (s *session) errLostKeys(epochs []chunkstore.Secrets) error {
	return &message{
		kind: fault.NoHostKeys,
		text: fmt.Sprintf("%s is encrypted, and this host doesn't have its keys", s.prefix),
		detail: fmt.Sprintf("The prefix has %s, %s the newest, and %s isn't there.",
			counted(len(epochs), "epoch"), newestSecrets(epochs).Epoch, s.hostKeysPath()),
		hint: "Pipe `wal-e key export-host` of a host that has them into `wal-e key import-host`; or, with a private key, run `wal-e key recover`; " +
			"or begin anew with `wal-e key init --new-epoch`, which stores everything once more and loses nothing.",
	}
}

func newestSecrets(list []chunkstore.Secrets) chunkstore.Secrets {
	return slices.MaxFunc(list, func(a, b chunkstore.Secrets) int { return a.Sealed.Compare(b.Sealed) })
}

// pushKeys returns the keys that pushes use, nil when nothing is encrypted. The
// first push to a prefix makes them.
func (s *session) pushKeys(ctx context.Context, b storage.Bucket) (*hostKeys, error) {
	h, err := s.readHostKeys()
	if errors.Is(err, fs.ErrPermission) && !s.encryption.on() && s.encryption.policy != required {
		return nil, nil // local state is never needed; whoever may not read it has no keys there
	}
	if err != nil {
		return nil, err
	}
	switch {
	case s.encryption.policy == off:
		return nil, nil
	case !s.encryption.on() && (len(h.Epochs) > 0 || s.encryption.policy == required):
		return nil, s.errInTheClear()
	case !s.encryption.on():
		return nil, nil
	case len(h.Epochs) > 0:
		return h, nil
	}
	return s.makeKeys(ctx, b, false)
}

// errInTheClear refuses a push without recipients.
func (s *session) errInTheClear() error {
	return &message{
		kind: fault.NoRecipient,
		text: fmt.Sprintf("%s is encrypted, and no key is named", s.prefix),
		hint: "Set WALE_GPG_KEY_ID or WALE_GPG_PUBLIC_KEY_FILE. Only if what is stored may be readable from now on, set WALE_ENCRYPTION=off.",
	}
}

// makeKeys begins an epoch. Without anew that is done for the first one only.
func (s *session) makeKeys(ctx context.Context, b storage.Bucket, anew bool) (*hostKeys, error) {
	unlock, err := s.lockHostKeys()
	if err != nil {
		return nil, err
	}
	defer unlock()
	h, err := s.readHostKeys() // another process may have been first
	if err != nil || !anew && len(h.Epochs) > 0 {
		return h, err
	}
	epochs, err := chunkstore.ListSecrets(ctx, b)
	if err != nil {
		return nil, err
	}
	if len(epochs) > 0 && !anew {
		return nil, s.errLostKeys(epochs)
	}
	to, err := s.recipients(ctx)
	if err != nil {
		return nil, err
	}
	keys, err := seal.New()
	if err != nil {
		return nil, err
	}
	text, err := sealSecrets(to, keys)
	if err != nil {
		return nil, err
	}
	stored, err := chunkstore.CreateSecrets(ctx, b, keys.Epoch(), text)
	if err != nil {
		return nil, err
	}
	h.add(keys)
	if err := s.writeHostKeys(h); err != nil {
		return nil, err
	}
	s.log.WarnContext(ctx, "the archive is encrypted from now on",
		"detail", fmt.Sprintf("Epoch %s. Whoever has the private key of one of these can restore, and nobody else: %s.", keys.Epoch(), strings.Join(to.Describe(), "; ")),
		"hint", "If those private keys are lost, so are the backups. Keep copies in two places, and restore once before you rely on it.")
	s.tryDecryption(ctx, b, stored)
	return h, nil
}

func sealSecrets(to *openpgp.Recipients, keys *seal.Keys) ([]byte, error) {
	text, err := json.Marshal(keys)
	if err != nil {
		return nil, err
	}
	var message bytes.Buffer
	w, err := to.Encrypt(&message)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(text); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return message.Bytes(), nil
}

// tryDecryption says whether the private key is at hand and opens the secrets.
// On a database host it shouldn't be.
func (s *session) tryDecryption(ctx context.Context, b storage.Bucket, stored chunkstore.Secrets) {
	_, err := s.openSecrets(ctx, b, stored, true)
	switch {
	case err == nil:
		s.log.InfoContext(ctx, "a trial decryption succeeded", "detail", "The private key on this host opens "+stored.Key+".")
	case isNoKey(err):
		s.log.InfoContext(ctx, "no trial decryption: the private key isn't here", "detail", err.Error(),
			"hint", "That is as it should be on a database host. Run `wal-e key show --try` where the key is.")
	default:
		s.log.WarnContext(ctx, "a trial decryption failed", "detail", err.Error(), "hint", "Find out why before you rely on this archive.")
	}
}

// openSecrets opens the secrets of an epoch: the one operation with the private
// key that a restore needs.
func (s *session) openSecrets(ctx context.Context, b storage.Bucket, from chunkstore.Secrets, silent bool) (*seal.Keys, error) {
	data, err := from.Read(ctx, b)
	if err != nil {
		return nil, err
	}
	d, err := s.decrypter(silent)
	if err != nil {
		return nil, err
	}
	text, err := d.Decrypt(ctx, bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("%s of %s: %w", from.Key, b.URL(), err)
	}
	defer text.Close() // its end was read
	plain, err := io.ReadAll(io.LimitReader(text, maxHostKeys))
	if err != nil {
		return nil, fmt.Errorf("%s of %s: %w", from.Key, b.URL(), err)
	}
	k := &seal.Keys{}
	if err := json.Unmarshal(plain, k); err != nil {
		return nil, fmt.Errorf("%s of %s: %w", from.Key, b.URL(), err)
	}
	if k.Epoch() != from.Epoch || !k.CanRead() {
		return nil, fault.BadMessage.Errorf("%s of %s: holds the secrets of epoch %s: it was swapped", from.Key, b.URL(), k.Epoch())
	}
	if h, err := s.readHostKeys(); err == nil {
		if known := h.find(k.Epoch().String()); known != nil && known.DedupKey() != k.DedupKey() {
			return nil, fault.BadMessage.Errorf("%s of %s: holds other secrets than %s: it was forged", from.Key, b.URL(), s.hostKeysPath())
		}
	}
	return k, nil
}

// An openedEpochs remembers epochs whose private keys this run has opened.
type openedEpochs struct {
	mu    sync.Mutex // held while one is opened
	keys  map[string]*seal.Keys
	noKey map[string]error // of those that no key at hand opens
}

func (o *openedEpochs) remember(epoch string, k *seal.Keys, err error) {
	if o.keys == nil {
		o.keys, o.noKey = make(map[string]*seal.Keys), make(map[string]error)
	}
	switch {
	case err == nil:
		o.keys[epoch] = k
	case isNoKey(err):
		o.noKey[epoch] = err
	}
}

// keyFinder returns what finds the keys of epochs, each once in a run.
func (s *session) keyFinder(b storage.Bucket) backup.KeyFinder { return s.findKeys(b, false) }

// findKeys is keyFinder; silent forbids to ask anybody for a passphrase.
func (s *session) findKeys(b storage.Bucket, silent bool) backup.KeyFinder {
	return func(ctx context.Context, epoch string, data bool) (*seal.Keys, error) {
		s.opened.mu.Lock()
		defer s.opened.mu.Unlock()
		if k, err := s.opened.keys[epoch], s.opened.noKey[epoch]; k != nil || data && err != nil {
			return k, err
		}
		if !data || s.encryption.policy == required {
			h, err := s.readHostKeys()
			if err != nil {
				return nil, err
			}
			switch k := h.find(epoch); {
			case k != nil && !data:
				return k, nil
			case k == nil && s.encryption.policy == required:
				return nil, &message{
					kind:   fault.NoHostKeys,
					text:   fmt.Sprintf("epoch %s isn't known on this host, and WALE_ENCRYPTION=required refuses what is sealed under its keys", epoch),
					detail: "Anybody who can write to the archive and knows the public keys can have made it.",
					hint:   "Bring the keys here with `wal-e key export-host` and `wal-e key import-host`.",
				}
			}
		}
		list, err := chunkstore.ListSecrets(ctx, b)
		if err != nil {
			return nil, err
		}
		for _, from := range list {
			if from.Epoch.String() == epoch {
				k, err := s.openSecrets(ctx, b, from, silent)
				s.opened.remember(epoch, k, err)
				return k, err
			}
		}
		return nil, fmt.Errorf("secrets of epoch %s: %w in %s: without them its backups can't be read; look for a copy that `wal-e key export-recovery` made",
			epoch, storage.ErrNotExist, b.URL())
	}
}

// openFor returns the store that reads a backup, and opens its manifest. Of one
// that anybody could have made it says so.
func (s *session) openFor(ctx context.Context, b storage.Bucket, plain *chunkstore.Store, found *backup.Backup, data bool) (*chunkstore.Store, error) {
	if found.Epoch() == "" {
		return plain, s.admitPlain(ctx, b, found.Ref)
	}
	keys, err := s.keyFinder(b)(ctx, found.Epoch(), data)
	if err != nil {
		return nil, err
	}
	return plain.Sealed(keys)
}

// admitPlain refuses a backup in the clear where that is demanded, and warns
// where backups are encrypted.
func (s *session) admitPlain(ctx context.Context, b storage.Bucket, ref chunkstore.Ref) error {
	text := fmt.Sprintf("backup %s isn't encrypted", ref)
	const why = "Anybody who can write to the archive can have made or altered it."
	if s.encryption.policy == required {
		return &message{kind: fault.Required, text: text + ", and WALE_ENCRYPTION=required refuses it", detail: why,
			hint: "Name an encrypted one; `wal-e backup-list --detail` shows which are. If this one is from before encryption was switched on, unset WALE_ENCRYPTION."}
	}
	if s.encryption.policy == off {
		return nil
	}
	epochs, err := chunkstore.ListSecrets(ctx, b)
	if err != nil {
		return err
	}
	if len(epochs) > 0 || s.encryption.on() || s.encryption.privateFile != "" {
		s.log.WarnContext(ctx, text, "detail", why+" Other backups here are encrypted.",
			"hint", "Make sure that it is from before encryption was switched on. WALE_ENCRYPTION=required refuses such backups.")
	}
	return nil
}

// walReads returns the bucket as package wal reads a WAL file from it that may be
// encrypted.
func (s *session) walReads(b storage.Bucket) storage.Bucket { return wal.WithCipher(b, s.walCipher()) }

// walReadsMany is walReads for several files: each epoch is opened once, and no
// operation of a private key is needed for each of them.
func (s *session) walReadsMany(b storage.Bucket) storage.Bucket {
	c := s.walCipher()
	find := s.findKeys(b, true)
	c.Open = func(ctx context.Context, epoch wal.Epoch) (*wal.EpochKeys, error) {
		k, err := find(ctx, seal.Epoch(epoch).String(), true)
		if err != nil {
			return nil, err
		}
		keys := walKeys(k)
		return &keys, nil
	}
	return wal.WithCipher(b, c)
}

func (s *session) walCipher() *wal.Cipher {
	c := &wal.Cipher{Decrypt: s.decryptWAL, DecryptWith: decryptWALWith, Only: s.encryption.policy == required}
	if h, err := s.readHostKeys(); err == nil { // without, content isn't compared with the keyed fingerprint
		c.Keys = h.walKeys()
	}
	return c
}

// walWrites returns the bucket as package wal writes WAL files to it.
func (s *session) walWrites(ctx context.Context, b storage.Bucket) (storage.Bucket, error) {
	h, err := s.pushKeys(ctx, b)
	if err != nil || h == nil {
		return b, err
	}
	to, err := s.recipients(ctx)
	if err != nil {
		return nil, err
	}
	encrypt := func(w io.Writer, key [seal.KeySize]byte) (io.WriteCloser, error) { return to.EncryptWith(w, key[:]) }
	return wal.WithCipher(b, &wal.Cipher{Encrypt: encrypt, Decrypt: s.decryptWAL, Keys: h.walKeys()}), nil
}

func (h *hostKeys) walKeys() []wal.EpochKeys {
	var keys []wal.EpochKeys
	for _, k := range h.Epochs {
		keys = append(keys, walKeys(k))
	}
	return keys
}

func walKeys(k *seal.Keys) wal.EpochKeys {
	return wal.EpochKeys{
		Epoch: wal.Epoch(k.Epoch()), Fingerprint: k.WALKey(), History: k.HistoryKey(), SealKey: k.SealKey, OpenKey: k.OpenKey,
	}
}

// decryptWALWith is a wal.Cipher's DecryptWith.
func decryptWALWith(ctx context.Context, key [seal.KeySize]byte, message io.Reader) (io.ReadCloser, error) {
	text, err := openpgp.DecryptWith(ctx, key[:], message)
	if err != nil {
		return nil, badMessage(err)
	}
	return openpgpReader{text}, nil
}

// decryptWAL is a wal.Cipher's. Nobody is there to be asked for a passphrase.
func (s *session) decryptWAL(ctx context.Context, message io.Reader) (io.ReadCloser, error) {
	d, err := s.decrypter(true)
	if err != nil {
		return nil, err
	}
	text, err := d.Decrypt(ctx, message)
	if err != nil {
		return nil, badMessage(err)
	}
	return openpgpReader{text}, nil
}

// openpgpReader says of damage what package wal wants to hear.
type openpgpReader struct{ io.ReadCloser }

func (r openpgpReader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	return n, badMessage(err)
}

func badMessage(err error) error {
	if errors.Is(err, openpgp.ErrDamaged) {
		return fmt.Errorf("%w: %w", wal.ErrBadMessage, err)
	}
	return err
}

// checkPlain refuses to store in the clear in a prefix that others encrypt, as a
// host would that lost its settings.
func (s *session) checkPlain(ctx context.Context, b storage.Bucket) error {
	if s.encryption.policy == off {
		return nil
	}
	epochs, err := chunkstore.ListSecrets(ctx, b)
	if err == nil && len(epochs) > 0 {
		err = s.errInTheClear()
	}
	return err
}

// encryptionSettings are what restore_command needs beside the prefix to open the archive.
// They hold no secret.
func (s *session) encryptionSettings() []string {
	e := s.encryption
	var list []string
	add := func(name, value string) {
		if value != "" {
			list = append(list, name+"="+shellWord(value))
		}
	}
	path := func(name string) string {
		if abs, err := filepath.Abs(name); name != "" && err == nil {
			return abs
		}
		return name
	}
	add("WALE_GPG_PRIVATE_KEY_FILE", path(e.privateFile))
	add("WALE_GPG_PASSPHRASE_FILE", path(e.passphraseFile))
	if e.privateFile == "" {
		add("GNUPGHOME", path(e.gpgHome))
	}
	if e.policy == required {
		add("WALE_ENCRYPTION", string(e.policy))
		add("WALE_STATE_DIR", s.stateRoot) // where the keys are
	}
	return list
}

// backupKeys returns the keys of a base backup, nil when it isn't encrypted,
// and makes sure that their secrets are in the archive still.
func (s *session) backupKeys(ctx context.Context, b storage.Bucket) (*seal.Keys, error) {
	h, err := s.pushKeys(ctx, b)
	if err != nil {
		return nil, err
	}
	if h == nil {
		return nil, s.checkPlain(ctx, b)
	}
	if _, err := s.recipients(ctx); err != nil { // an expired key is told before anything is read
		return nil, err
	}
	k := h.Epochs[len(h.Epochs)-1]
	epochs, err := chunkstore.ListSecrets(ctx, b)
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(epochs, func(e chunkstore.Secrets) bool { return e.Epoch == k.Epoch() }) {
		return nil, &message{
			kind: fault.NoEpoch,
			text: fmt.Sprintf("the secrets of epoch %s are gone from %s", k.Epoch(), s.prefix),
			hint: "Without them no backup of the epoch can be read: look for what removed chunks_006/keys, put a copy back, or begin a new epoch with `wal-e key rotate`.",
		}
	}
	return k, nil
}
