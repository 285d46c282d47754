package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"wal-e/chunkstore"
	"wal-e/internal/fault"
	"wal-e/internal/openpgp"
	"wal-e/internal/seal"
	"wal-e/internal/storage"
)

const keyLong = `Keys of an encrypted archive. A host that backs up holds no private key: it has a
dedup key, by which chunks are named and indexes sealed, and the public half of the
epoch's key, in a file of mode 0600 under WALE_STATE_DIR. Both secrets of an epoch
stand in the archive, sealed to the recipients that WALE_GPG_KEY_ID or
WALE_GPG_PUBLIC_KEY_FILE name. A restore opens them with one of the private keys.

The first push to an empty prefix makes an epoch by itself.`

func newKeyCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "key SUBCOMMAND",
		Short:   "keys of an encrypted archive",
		Long:    keyLong,
		Example: "  wal-e key init\n  wal-e key show",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return &usageError{cmd, "name a subcommand: init, show, rotate, add-recipient, recover, export-host, import-host or export-recovery"}
		},
	}
	var anew, try bool
	initialize := keySubcommand(a, "init", "make the keys of a prefix",
		"Make the first epoch of a prefix, and seal its secrets to the recipients.",
		func(ctx context.Context, s *session) error { return keyInit(ctx, s, anew) })
	initialize.Flags().BoolVar(&anew, "new-epoch", false, "make a further epoch: everything is stored once more, and nothing is lost")
	show := keySubcommand(a, "show", "show the epochs of a prefix and who can open them",
		"List the epochs, the key ids that each is sealed to, and which of them this host writes.",
		func(ctx context.Context, s *session) error { return keyShow(ctx, s, try) })
	show.Flags().BoolVar(&try, "try", false, "open the secrets of each epoch with the private key, to see that a restore could")
	var from recoverFrom
	rec := keySubcommand(a, "recover", "make a lost key file of this host anew", keyRecoverLong,
		func(ctx context.Context, s *session) error { return keyRecover(ctx, s, from) })
	rec.Example = "  wal-e key recover --epoch 847d0e29c7f657bff2cb4f658ecd0d4f\n  wal-e key recover --from /media/safe/recovery"
	rec.Flags().StringVar(&from.epoch, "epoch", "", "the `EPOCH` that this host is to write")
	rec.Flags().StringVar(&from.file, "from", "", "take the secrets from a `FILE` that export-recovery printed, - for standard input")
	var printed string
	add := keySubcommand(a, "add-recipient", "seal the secrets to the recipients that are named now", keyAddRecipientLong,
		func(ctx context.Context, s *session) error { return keyAddRecipient(ctx, s, printed) })
	add.Flags().StringVar(&printed, "from", "", "take the secrets from a `FILE` that export-recovery printed, - for standard input")
	cmd.AddCommand(initialize, show, rec, add,
		keySubcommand(a, "rotate", "begin a new epoch",
			"Begin a new epoch, after a key or a host was compromised or a recipient left. Older backups\nkeep their epoch. The next push stores everything once more.",
			func(ctx context.Context, s *session) error { return keyInit(ctx, s, true) }),
		keySubcommand(a, "export-host", "print what a further host needs",
			"Print this host's keys, so that a standby or a new host can push to the same epoch. They open\nindexes and file names, not data. Send them to `wal-e key import-host` by a safe way.",
			keyExportHost),
		keySubcommand(a, "import-host", "take what export-host printed from standard input",
			"Take the keys that `wal-e key export-host` printed on another host from standard input.",
			keyImportHost),
		keySubcommand(a, "export-recovery", "print all secrets, for the safe",
			"Print the secrets of every epoch in the clear. Whoever has them can read the base backups without\nany other key. It needs a private key.",
			keyExportRecovery))
	return cmd
}

func keySubcommand(a *app, name, short, long string, run func(context.Context, *session) error) *cobra.Command {
	return &cobra.Command{
		Use: name, Short: short, Long: long, Example: "  wal-e key " + name, Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.do(cmd, run) },
	}
}

func keyInit(ctx context.Context, s *session, anew bool) error {
	if !s.encryption.on() {
		return &message{kind: fault.NoRecipient, text: "no recipient is named", hint: "Set WALE_GPG_KEY_ID, or WALE_GPG_PUBLIC_KEY_FILE, or give --gpg-key-id."}
	}
	b, err := s.openBucket(use{})
	if err != nil {
		return err
	}
	h, err := s.readHostKeys()
	if err != nil {
		return err
	}
	if len(h.Epochs) > 0 && !anew {
		return &message{
			kind: fault.NoEpoch,
			text: fmt.Sprintf("%s has keys already, of epoch %s", s.prefix, h.Epochs[len(h.Epochs)-1].Epoch()),
			hint: "Nothing is left to do. `wal-e key rotate` begins a new epoch.",
		}
	}
	if h, err = s.makeKeys(ctx, b, anew); err != nil {
		return err
	}
	_, err = fmt.Fprintf(s.stdout, "epoch %s\n", h.Epochs[len(h.Epochs)-1].Epoch())
	return err
}

func keyShow(ctx context.Context, s *session, try bool) error {
	b, err := s.openBucket(use{reads: true})
	if err != nil {
		return err
	}
	epochs, err := chunkstore.ListSecrets(ctx, b)
	if err != nil {
		return err
	}
	h, err := s.readHostKeys()
	if err != nil {
		return err
	}
	if len(epochs) == 0 {
		_, err := fmt.Fprintf(s.stdout, "%s is not encrypted\n", s.prefix)
		return err
	}
	var failed error
	for _, e := range epochs {
		data, err := e.Read(ctx, b)
		if err != nil {
			return err
		}
		state := "not on this host"
		if k := h.find(e.Epoch.String()); k != nil {
			state = "on this host"
			if k == h.Epochs[len(h.Epochs)-1] {
				state = "written by this host"
			}
		}
		ids, err := openpgp.KeyIDs(data)
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("%s of %s: %w", e.Key, b.URL(), err))
			ids = []string{"DAMAGED"}
		}
		line := fmt.Sprintf("%s  %s, sealed to %s", e.Epoch, state, strings.Join(ids, " "))
		if try {
			if _, err := s.openSecrets(ctx, b, e, false); err != nil {
				failed = errors.Join(failed, err)
				line += ", can't be opened here"
			} else {
				line += ", opened"
			}
		}
		if _, err := fmt.Fprintln(s.stdout, line); err != nil {
			return err
		}
	}
	return failed
}

// archiveEpochs lists the epochs of an archive that has some, by when they were
// sealed.
func archiveEpochs(ctx context.Context, s *session) (storage.Bucket, []chunkstore.Secrets, error) {
	b, err := s.openBucket(use{reads: true})
	if err != nil {
		return nil, nil, err
	}
	epochs, err := chunkstore.ListSecrets(ctx, b)
	if err != nil {
		return nil, nil, err
	}
	if len(epochs) == 0 {
		return nil, nil, &message{kind: fault.NoEpoch, text: fmt.Sprintf("%s is not encrypted: it holds no secrets", s.prefix)}
	}
	slices.SortStableFunc(epochs, func(a, b chunkstore.Secrets) int { return a.Sealed.Compare(b.Sealed) })
	return b, epochs, nil
}

// openAll opens the secrets of every epoch, the one that was sealed last at the
// end. Those that no key at hand opens are warned about, unless they are all.
func openAll(ctx context.Context, s *session, visit func(chunkstore.Secrets, *seal.Keys) error) error {
	b, epochs, err := archiveEpochs(ctx, s)
	if err != nil {
		return err
	}
	opened, locked := 0, error(nil)
	for _, e := range epochs {
		k, err := s.openSecrets(ctx, b, e, false)
		if isNoKey(err) {
			locked = err
			s.log.WarnContext(ctx, fmt.Sprintf("epoch %s is left out", e.Epoch), "detail", err.Error(),
				"hint", "Do it again where a private key is that opens it. If there is none any more, delete the backups of this epoch.")
			continue
		}
		if err != nil {
			return err
		}
		opened++
		if err := visit(e, k); err != nil {
			return err
		}
	}
	if opened == 0 {
		return locked
	}
	return nil
}

const keyAddRecipientLong = `Seal the secrets of every epoch anew, to all recipients that WALE_GPG_KEY_ID or
WALE_GPG_PUBLIC_KEY_FILE name. It needs a private key that opens them now; or, when
all of those are lost, what export-recovery printed once, with --from. WAL files
that are stored already keep their recipients; who can open an epoch can read those
that were pushed under it.`

func keyAddRecipient(ctx context.Context, s *session, printed string) error {
	if !s.encryption.on() {
		return &message{text: "no recipient is named", hint: "Name all recipients, old and new, with WALE_GPG_KEY_ID or WALE_GPG_PUBLIC_KEY_FILE."}
	}
	to, err := s.recipients(ctx)
	if err != nil {
		return err
	}
	b, err := s.openBucket(use{})
	if err != nil {
		return err
	}
	open := openAll
	if printed != "" {
		open = func(ctx context.Context, s *session, visit func(chunkstore.Secrets, *seal.Keys) error) error {
			return openPrinted(ctx, s, printed, visit)
		}
	}
	return open(ctx, s, func(e chunkstore.Secrets, k *seal.Keys) error {
		data, err := sealSecrets(to, k)
		if err != nil {
			return err
		}
		stored, err := e.Replace(ctx, b, data)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(s.stdout, "%s  sealed to %s, in %s\n", e.Epoch, strings.Join(to.Describe(), "; "), stored.Key)
		return err
	})
}

// openPrinted is openAll with the secrets that export-recovery printed. Epochs that
// aren't among them are warned about.
func openPrinted(ctx context.Context, s *session, name string, visit func(chunkstore.Secrets, *seal.Keys) error) error {
	keys, err := recoveryFile(ctx, s, name)
	if err != nil {
		return err
	}
	_, epochs, err := archiveEpochs(ctx, s)
	if err != nil {
		return err
	}
	for _, e := range epochs {
		i := slices.IndexFunc(keys, func(k *seal.Keys) bool { return k.Epoch() == e.Epoch })
		if i < 0 {
			s.log.WarnContext(ctx, fmt.Sprintf("epoch %s keeps its recipients", e.Epoch),
				"detail", fmt.Sprintf("%s doesn't have its secrets.", name), "hint", "Its backups can be read with the old keys alone.")
			continue
		}
		if err := visit(e, keys[i]); err != nil {
			return err
		}
	}
	return nil
}

const keyRecoverLong = `Make this host's key file anew, with a private key that opens the secrets in the
archive, or from what export-recovery printed.

Whoever can write to the archive and knows the recipients' public keys can add an
epoch of their own there, and would read what is pushed to it. So name the epoch,
which key init printed and backup-list --json shows of each backup; without that,
the archive must have one only. An epoch's name proves its secrets.

With --from, secrets that the archive has lost are put back, sealed to the
recipients that WALE_GPG_KEY_ID or WALE_GPG_PUBLIC_KEY_FILE name.`

// recoverFrom says where the secrets of a lost key file come from.
type recoverFrom struct {
	epoch string // to be written; "" when there is but one, or the file's last
	file  string // "" is the archive
}

func keyRecover(ctx context.Context, s *session, from recoverFrom) error {
	unlock, err := s.lockHostKeys()
	if err != nil {
		return err
	}
	defer unlock()
	h, err := s.readHostKeys()
	if err != nil {
		return err
	}
	var keys []*seal.Keys
	if from.file != "" {
		keys, err = recoveryFile(ctx, s, from.file)
	} else {
		keys, err = recoverArchive(ctx, s, from.epoch)
	}
	if err != nil {
		return err
	}
	var write *seal.Keys // comes last
	for _, k := range keys {
		if h.add(k); from.epoch == "" || from.epoch == k.Epoch().String() {
			write = k
		}
	}
	if write == nil {
		return fault.NoEpoch.Errorf("epoch %q is unknown: want one of %s", from.epoch, epochNames(keys))
	}
	h.add(write)
	if err := s.writeHostKeys(h); err != nil {
		return err
	}
	return s.printHostKeys(h)
}

func epochNames(keys []*seal.Keys) string {
	var names []string
	for _, k := range keys {
		names = append(names, k.Epoch().String())
	}
	return strings.Join(names, ", ")
}

// recoverArchive opens the secrets in the archive. Of epochs that this host isn't
// to write, those that can't be opened are left out.
func recoverArchive(ctx context.Context, s *session, epoch string) ([]*seal.Keys, error) {
	b, epochs, err := archiveEpochs(ctx, s)
	if err != nil {
		return nil, err
	}
	if epoch == "" && len(epochs) > 1 {
		var list strings.Builder
		for _, e := range epochs {
			fmt.Fprintf(&list, "\n%s, stored at %s", e.Epoch, e.Sealed.UTC().Format(time.RFC3339))
		}
		return nil, &message{
			kind:   fault.NoEpoch,
			text:   fmt.Sprintf("%s has %d epochs: name the one that this host is to write with --epoch", s.prefix, len(epochs)),
			detail: "They are, the newest last:" + list.String(),
			hint:   "Take one that you know, from the output of key init or rotate or from another host: others can add epochs of their own. Or begin anew with `wal-e key init --new-epoch`.",
		}
	}
	var keys []*seal.Keys
	for _, e := range epochs {
		k, err := s.openSecrets(ctx, b, e, false)
		switch {
		case err == nil:
			keys = append(keys, k)
		case epoch == "" || epoch == e.Epoch.String() || ctx.Err() != nil:
			return nil, err
		default:
			s.log.WarnContext(ctx, "an epoch can't be recovered", "detail", err.Error(), "hint", "Hosts that have its keys can export them.")
		}
	}
	return keys, nil
}

// recoveryFile reads what export-recovery printed, and puts back what the archive
// has lost.
func recoveryFile(ctx context.Context, s *session, name string) ([]*seal.Keys, error) {
	in := s.stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close() // only read
		in = f
	}
	var keys []*seal.Keys
	for d := json.NewDecoder(io.LimitReader(in, maxHostKeys)); ; {
		k := &seal.Keys{}
		err := d.Decode(k)
		if err == io.EOF {
			break
		}
		if err == nil && !k.CanRead() {
			err = fault.NoEpoch.Errorf("epoch %s has no private key there", k.Epoch())
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w: want what `wal-e key export-recovery` printed", name, err)
		}
		keys = append(keys, k)
	}
	if len(keys) == 0 {
		return nil, fault.NoEpoch.Errorf("%s: it is empty: want what `wal-e key export-recovery` printed", name)
	}
	return keys, putBack(ctx, s, keys)
}

// putBack stores the secrets of epochs that the archive doesn't have.
func putBack(ctx context.Context, s *session, keys []*seal.Keys) error {
	b, err := s.openBucket(use{})
	if err != nil {
		return err
	}
	epochs, err := chunkstore.ListSecrets(ctx, b)
	if err != nil {
		return err
	}
	for _, k := range keys {
		if slices.ContainsFunc(epochs, func(e chunkstore.Secrets) bool { return e.Epoch == k.Epoch() }) {
			continue
		}
		if !s.encryption.on() {
			return &message{kind: fault.NoEpoch, text: fmt.Sprintf("%s has lost the secrets of epoch %s, and no recipient is named", s.prefix, k.Epoch()),
				hint: "Set WALE_GPG_KEY_ID or WALE_GPG_PUBLIC_KEY_FILE, so that they can be put back."}
		}
		to, err := s.recipients(ctx)
		if err != nil {
			return err
		}
		text, err := sealSecrets(to, k)
		if err != nil {
			return err
		}
		if _, err := chunkstore.CreateSecrets(ctx, b, k.Epoch(), text); err != nil {
			return err
		}
		s.log.InfoContext(ctx, "secrets were put back", "detail", fmt.Sprintf("Epoch %s, sealed to %s.", k.Epoch(), strings.Join(to.Describe(), "; ")))
	}
	return nil
}

func (s *session) printHostKeys(h *hostKeys) error {
	_, err := fmt.Fprintf(s.stdout, "%s: %s, epoch %s is written\n", s.hostKeysPath(), counted(int64(len(h.Epochs)), "epoch"), h.Epochs[len(h.Epochs)-1].Epoch())
	return err
}

func keyExportHost(_ context.Context, s *session) error {
	h, err := s.readHostKeys()
	if err != nil {
		return err
	}
	if len(h.Epochs) == 0 {
		return &message{kind: fault.NoHostKeys, text: fmt.Sprintf("this host has no keys of %s", s.prefix), hint: "See `wal-e key show`, and `wal-e key recover`."}
	}
	return json.NewEncoder(s.stdout).Encode(h)
}

func keyImportHost(_ context.Context, s *session) error {
	data, err := io.ReadAll(io.LimitReader(s.stdin, maxHostKeys))
	if err != nil {
		return err
	}
	imported, err := parseHostKeys(data)
	if err != nil {
		return fmt.Errorf("standard input: %w: want what `wal-e key export-host` printed", err)
	}
	unlock, err := s.lockHostKeys()
	if err != nil {
		return err
	}
	defer unlock()
	h, err := s.readHostKeys()
	if err != nil {
		return err
	}
	for _, k := range imported.Epochs {
		h.add(k)
	}
	if err := s.writeHostKeys(h); err != nil {
		return err
	}
	return s.printHostKeys(h)
}

func keyExportRecovery(ctx context.Context, s *session) error {
	return openAll(ctx, s, func(_ chunkstore.Secrets, k *seal.Keys) error { return json.NewEncoder(s.stdout).Encode(k) })
}
