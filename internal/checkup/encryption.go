package checkup

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// EncryptionFacts are what is known of the encryption of a prefix.
type EncryptionFacts struct {
	Recipients []string // whom this host encrypts to, for people; none: nobody is named
	// RecipientsErr is why they can't be had, Expiring those that can't be
	// encrypted to any more a month from now, each with the reason.
	RecipientsErr error
	Expiring      []string
	KeyIDs        []string // of the recipients' keys for encryption

	Required bool // nothing is read that this host's keys don't prove

	Host    []string // epochs that this host knows, the one that it writes last
	HostErr error    // why its key file can't be read
	KeyFile string   // where that is

	Epochs    []Epoch
	EpochsErr error // why they can't be had

	Backups    map[string]int // backups by epoch, "" in the clear
	BackupsErr error          // why some can't be told
}

// An Epoch is a pair of secrets in the archive.
type Epoch struct {
	Name   string
	Sealed time.Time // by the store's clock
	KeyIDs []string  // what the secrets are sealed to
	Damage error     // why the message can't be read
	// Opened is nil when a trial decryption succeeded, as a restore would need
	// it. NoKey says that it failed for want of the private key.
	Opened error
	NoKey  bool
}

// Encryption says whether what this host pushes can be restored, and by whom.
func Encryption(f EncryptionFacts) Findings {
	l := &list{area: "encryption"}
	switch {
	case f.EpochsErr != nil:
		l.add(Unknown, "epochs", "let this host list and read chunks_006/keys", "which epochs there are can't be told: %v", f.EpochsErr)
		return l.findings
	case len(f.Epochs) == 0 && len(f.Recipients) == 0 && f.RecipientsErr == nil && len(f.Host) == 0:
		l.add(OK, "in use", "", "no: whoever can read the archive can read the data")
		return l.findings
	}
	l.recipients(f)
	l.hostKeys(f)
	l.privateKey(f)
	l.backups(f)
	return l.findings
}

func (l *list) recipients(f EncryptionFacts) {
	const check = "recipients"
	switch {
	case f.RecipientsErr != nil:
		l.add(Failure, check, "name keys that can be encrypted to", "pushes will fail: %v", f.RecipientsErr)
	case len(f.Recipients) == 0:
		l.add(Warning, check, "set WALE_GPG_KEY_ID or WALE_GPG_PUBLIC_KEY_FILE where something is pushed", "the archive is encrypted, and nobody is named here: this host can't push")
	case len(f.Expiring) > 0:
		l.add(Warning, check, "extend those keys, or name others and run `wal-e key add-recipient`: wal-push fails from then on", "within a month: %s", strings.Join(f.Expiring, "; "))
	default:
		l.add(OK, check, "", "%s", strings.Join(f.Recipients, "; "))
	}
}

func (l *list) hostKeys(f EncryptionFacts) {
	const check = "keys of this host"
	pushes := len(f.Recipients) > 0
	if f.HostErr != nil {
		l.add(Failure, check, "see to that file", "pushes will fail: %v", f.HostErr)
		return
	}
	if len(f.Host) == 0 {
		switch {
		case pushes && len(f.Epochs) > 0:
			l.add(Failure, check, "pipe `wal-e key export-host` of a host that has them into `wal-e key import-host`, or run `wal-e key recover`",
				"pushes will fail: %s isn't there", f.KeyFile)
		case pushes:
			l.add(OK, check, "", "the first push makes them")
		}
		return
	}
	written := f.Host[len(f.Host)-1]
	at := slices.IndexFunc(f.Epochs, func(e Epoch) bool { return e.Name == written })
	if at < 0 {
		l.add(Failure, check, "find out what removed chunks_006/keys and put a copy back, or `wal-e key recover --from` a recovery file, or begin a new epoch with `wal-e key rotate`",
			"the secrets of epoch %s, which this host writes, are gone from the archive: what it pushed can't be restored", written)
		return
	}
	l.add(OK, check, "", "it writes epoch %s", written)
	if missing := difference(f.KeyIDs, f.Epochs[at].KeyIDs); len(missing) > 0 && f.Epochs[at].Damage == nil {
		l.add(Warning, "who can restore", "run `wal-e key add-recipient` where the private key is",
			"epoch %s isn't sealed to %s, which this host encrypts WAL to", written, strings.Join(missing, ", "))
	}
	for _, e := range f.Epochs {
		if !slices.Contains(f.Host, e.Name) {
			l.add(Warning, "epoch "+e.Name, "if `wal-e key rotate` made it on another host, import its keys here; otherwise somebody put it there, and nothing of it is to be trusted",
				"it isn't known on this host; it was stored at %s", e.Sealed.UTC().Format(time.RFC3339))
		}
	}
}

// difference returns what of a isn't in b.
func difference(a, b []string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(s string) bool { return slices.Contains(b, s) })
}

const (
	lossOfKey = "if all private keys are lost, so are the backups: keep copies in two places"
	tryKey    = "where a private key is, run `wal-e key show --try`, and restore once before you rely on it"
)

func (l *list) privateKey(f EncryptionFacts) {
	for _, e := range f.Epochs {
		check := "private key of epoch " + e.Name
		switch {
		case e.Damage != nil:
			l.add(Failure, check, "put a copy of it back, or `wal-e key add-recipient` where another copy of the secrets is", "its secrets are damaged, its backups can't be restored: %v", e.Damage)
		case e.Opened == nil:
			l.add(OK, check, "", "a trial decryption succeeded here; %s", lossOfKey)
		case e.NoKey:
			l.add(Warning, check, tryKey, "it isn't here, as it should be on a database host, so whether a restore is possible can't be told; its secrets are sealed to %s; %s",
				strings.Join(e.KeyIDs, ", "), lossOfKey)
		default:
			l.add(Failure, check, "find out why before you rely on this archive", "a trial decryption failed: %v", e.Opened)
		}
	}
}

func (l *list) backups(f EncryptionFacts) {
	const check = "backups"
	if f.BackupsErr != nil {
		l.add(Unknown, check, "run `wal-e verify --all`", "which are encrypted can't be told of all: %v", f.BackupsErr)
	}
	sealed := 0
	var parts []string
	for _, e := range f.Epochs {
		if n := f.Backups[e.Name]; n > 0 {
			sealed += n
			parts = append(parts, fmt.Sprintf("%d of epoch %s", n, e.Name))
		}
	}
	lost := 0
	for name, n := range f.Backups {
		if name != "" && !slices.ContainsFunc(f.Epochs, func(e Epoch) bool { return e.Name == name }) {
			lost += n
		}
	}
	plain := f.Backups[""]
	if plain > 0 {
		parts = append(parts, fmt.Sprintf("%d in the clear", plain))
	}
	found := strings.Join(parts, ", ")
	switch {
	case lost > 0:
		l.add(Failure, check, "put back chunks_006/keys", "%d are of epochs whose secrets are gone: they can't be restored", lost)
	case plain > 0 && f.Required:
		l.add(OK, check, "", "%s, which WALE_ENCRYPTION=required doesn't restore", found)
	case plain > 0:
		l.add(Warning, check, "delete those in the clear when they aren't needed any more, and set WALE_ENCRYPTION=required so that nobody can add one", "%s", found)
	case sealed > 0:
		l.add(OK, check, "", "%s", found)
	}
}
