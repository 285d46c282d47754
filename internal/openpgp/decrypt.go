package openpgp

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	pgp "github.com/ProtonMail/go-crypto/openpgp"
	pgperrors "github.com/ProtonMail/go-crypto/openpgp/errors"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"wal-e/internal/fault"
)

// A Decrypter reads messages.
type Decrypter interface {
	// Decrypt returns the text of a message. Only at its end is it proven.
	Decrypt(ctx context.Context, message io.Reader) (io.ReadCloser, error)
}

// A KeyFile decrypts with private keys from a file.
type KeyFile struct {
	name string
	keys pgp.EntityList
}

// maxPassphrase bounds a file with a passphrase in bytes.
const maxPassphrase = 64 << 10

// ReadKeyFile reads private keys, armored or not. passphrase is the name of the
// file whose first line is their passphrase, "" for keys without one.
func ReadKeyFile(name, passphrase string) (*KeyFile, error) {
	data, err := readFile(name, maxKeys)
	if err != nil {
		return nil, err
	}
	keys, err := parseKeys(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	var secret []byte
	if passphrase != "" {
		if secret, err = readFile(passphrase, maxPassphrase); err != nil {
			return nil, err
		}
		secret, _, _ = bytes.Cut(secret, []byte("\n"))
		secret = bytes.TrimSuffix(secret, []byte("\r"))
	}
	private := 0
	for _, k := range keys {
		for _, p := range append([]*packet.PrivateKey{k.PrivateKey}, subkeys(k)...) {
			if p == nil || p.Dummy() {
				continue
			}
			private++
			if !p.Encrypted {
				continue
			}
			if passphrase == "" {
				return nil, fault.BadKey.Errorf("%s: key %s has a passphrase: name the file that holds it", name, fingerprint(k.PrimaryKey))
			}
			if err := p.Decrypt(secret); err != nil {
				return nil, fault.BadKey.Errorf("%s: the passphrase in %s doesn't open key %s", name, passphrase, fingerprint(k.PrimaryKey))
			}
		}
	}
	if private == 0 {
		return nil, fault.BadKey.Errorf("%s: holds public keys only", name)
	}
	return &KeyFile{name, keys}, nil
}

func subkeys(k *pgp.Entity) []*packet.PrivateKey {
	var list []*packet.PrivateKey
	for _, s := range k.Subkeys {
		list = append(list, s.PrivateKey)
	}
	return list
}

// Decrypt is a Decrypter's.
func (k *KeyFile) Decrypt(ctx context.Context, message io.Reader) (io.ReadCloser, error) {
	limit := int64(0) // messages of ours aren't compressed
	md, err := pgp.ReadMessage(contextReader{ctx, message}, k.keys, nil, &packet.Config{MaxDecompressedMessageSize: &limit})
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case errors.Is(err, pgperrors.ErrKeyIncorrect):
		return nil, fmt.Errorf("%w in %s", ErrNoKey, k.name)
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	case !md.IsEncrypted:
		return nil, fmt.Errorf("%w: it isn't encrypted", ErrDamaged)
	}
	return io.NopCloser(damageReader{ctx, md.UnverifiedBody}), nil
}

// DecryptWith returns the text of a message that EncryptWith made with that session
// key; another key fails here. Only at its end is the text proven.
func DecryptWith(ctx context.Context, key []byte, message io.Reader) (io.ReadCloser, error) {
	r, err := openMessage(key, contextReader{ctx, message})
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return io.NopCloser(damageReader{ctx, r}), nil
}

// openMessage finds the text behind the session keys of a message.
func openMessage(key []byte, message io.Reader) (*messageReader, error) {
	r := &messageReader{outer: packet.NewReader(message)}
	for {
		p, err := r.outer.Next()
		if err != nil {
			return nil, noEOF(err)
		}
		switch p := p.(type) {
		case *packet.EncryptedKey:
			continue
		case *packet.SymmetricallyEncrypted:
			if !p.IntegrityProtected || p.Version != 1 {
				return nil, fault.BadMessage.Errorf("it isn't protected against changes as ours are")
			}
			if r.sealed, err = p.Decrypt(packet.CipherAES256, key); err != nil {
				return nil, err
			}
			r.inner = packet.NewReader(r.sealed)
			text, err := r.inner.Next()
			literal, ok := text.(*packet.LiteralData)
			// Another key makes noise of it, which one time in a hundred begins
			// as such a packet does.
			if err == nil && (!ok || !literal.IsBinary || literal.FileName != "" || literal.Time != 0) {
				err = fault.BadMessage.Errorf("it doesn't begin as ours do, as when it has another session key")
			}
			if err != nil {
				return nil, noEOF(err)
			}
			r.text = literal.Body
			return r, nil
		default:
			return nil, fault.BadMessage.Errorf("it has a %T where its text belongs", p)
		}
	}
}

// noEOF says of an early end that it is one.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// A messageReader reads a text, and ends well only when nothing else is in the
// message and its checksum is right.
type messageReader struct {
	outer, inner *packet.Reader
	sealed       io.ReadCloser
	text         io.Reader
	ended        bool
}

func (r *messageReader) Read(p []byte) (int, error) {
	n, err := r.text.Read(p)
	if err != io.EOF || r.ended {
		return n, err
	}
	if _, err := r.inner.Next(); err != io.EOF {
		return n, fault.BadMessage.Errorf("more follows its text")
	}
	if err := r.sealed.Close(); err != nil { // which compares the checksum
		return n, err
	}
	if _, err := r.outer.Next(); err != io.EOF {
		return n, fault.BadMessage.Errorf("more follows the message")
	}
	r.ended = true
	return n, io.EOF
}

type contextReader struct {
	ctx context.Context // of the Decrypt that reads
	r   io.Reader
}

func (r contextReader) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.r.Read(p)
}

// A damageReader says of each error that the message is damaged.
type damageReader struct {
	ctx context.Context // of the Decrypt that reads
	r   io.Reader
}

func (r damageReader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if err == nil || err == io.EOF {
		return n, err
	}
	if r.ctx.Err() != nil {
		return n, context.Cause(r.ctx)
	}
	return n, fmt.Errorf("%w: %w", ErrDamaged, err)
}

// GPG decrypts with gpg and its agent, which know the keys of the user. The
// zero value works.
type GPG struct {
	// Silent forbids to ask anybody for a passphrase.
	Silent bool
	// Home is gpg's folder; "" means what the environment says.
	Home string
}

// environ is that of gpg, whose words are read.
func (g GPG) environ() []string {
	env := append(os.Environ(), "LC_ALL=C")
	if g.Home != "" {
		env = append(env, "GNUPGHOME="+g.Home)
	}
	return env
}

// Decrypt is a Decrypter's.
func (g GPG) Decrypt(ctx context.Context, message io.Reader) (io.ReadCloser, error) {
	status, statusWriter, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start gpg: %w", err)
	}
	args := []string{"--batch", "--quiet", "--status-fd", "3"}
	if g.Silent {
		args = append(args, "--pinentry-mode", "error")
	}
	cmd := exec.CommandContext(ctx, "gpg", append(args, "--decrypt")...)
	d := &gpgReader{ctx: ctx, cmd: cmd, in: keptError{r: message}, status: status, statusRead: make(chan struct{})}
	cmd.Stdin, cmd.Stderr = &d.in, &d.stderr
	cmd.Env = g.environ()
	cmd.ExtraFiles = []*os.File{statusWriter}
	cmd.WaitDelay = 5 * time.Second
	if d.out, err = cmd.StdoutPipe(); err == nil {
		err = cmd.Start()
	}
	_ = statusWriter.Close() // the child has its own
	if err != nil {
		_ = status.Close()
		if errors.Is(err, exec.ErrNotFound) {
			return nil, fmt.Errorf("%w: install gpg (package gnupg), or name a key file with WALE_GPG_PRIVATE_KEY_FILE", err)
		}
		return nil, fmt.Errorf("start gpg: %w", err)
	}
	go d.readStatus()
	return d, nil
}

// A gpgReader reads what gpg decrypts. It ends well only when gpg has said that
// the message was encrypted and is what was written.
type gpgReader struct {
	ctx        context.Context // of the Decrypt that reads
	cmd        *exec.Cmd
	in         keptError
	out        io.ReadCloser
	stderr     firstBytes
	status     *os.File
	lines      firstBytes
	statusRead chan struct{}
	once       sync.Once
	err        error
}

func (d *gpgReader) readStatus() {
	defer close(d.statusRead)
	_, _ = io.Copy(&d.lines, d.status) // an early end shows in what is missing
	_ = d.status.Close()
}

func (d *gpgReader) Read(p []byte) (int, error) {
	n, err := d.out.Read(p)
	if err != nil {
		return n, cmp.Or(d.wait(), io.EOF)
	}
	return n, nil
}

func (d *gpgReader) wait() error {
	d.once.Do(func() {
		err := d.cmd.Wait()
		<-d.statusRead
		said := d.lines.String()
		switch {
		case d.ctx.Err() != nil:
			d.err = context.Cause(d.ctx)
		case d.in.err != nil:
			d.err = d.in.err // gpg only saw an early end
		case err != nil:
			d.err = gpgError(said, strings.TrimSpace(d.stderr.String()), err)
		case !strings.Contains(said, "[GNUPG:] DECRYPTION_OKAY") || !strings.Contains(said, "[GNUPG:] GOODMDC"):
			d.err = fmt.Errorf("%w: gpg says that it isn't encrypted, or not protected against changes", ErrDamaged)
		}
	})
	return d.err
}

// gpgError says what to do about what gpg complains of. It calls a key that its
// agent doesn't open, for want of a passphrase, unknown too.
func gpgError(status, stderr string, err error) error {
	last := stderr[strings.LastIndexByte(stderr, '\n')+1:]
	agent := ""
	for line := range strings.Lines(stderr) {
		if strings.Contains(line, "connect to the agent") || strings.Contains(line, "No agent running") || strings.Contains(line, "problem with the agent") {
			agent = strings.TrimSpace(line)
		}
	}
	noKey := strings.Contains(status, "[GNUPG:] NO_SECKEY") || strings.Contains(stderr, "No secret key")
	switch {
	case strings.Contains(status, "[GNUPG:] BADMDC"):
		return fmt.Errorf("%w: gpg: %s", ErrDamaged, last)
	case agent != "":
		return fmt.Errorf("%w: gpg-agent is out of reach: %s: start it as the user that runs this, with the same GNUPGHOME, "+
			"or name a key file with WALE_GPG_PRIVATE_KEY_FILE", ErrNoKey, agent)
	case noKey && strings.Contains(status, "[GNUPG:] KEY_CONSIDERED"), strings.Contains(stderr, "No pinentry"),
		strings.Contains(stderr, "Inappropriate ioctl"), strings.Contains(stderr, "Operation cancelled"):
		return fmt.Errorf("%w: gpg-agent has the key, but is locked: %s: give it the passphrase first, as this user "+
			"(gpg-preset-passphrase, or decrypt something by hand), or name a key file with WALE_GPG_PRIVATE_KEY_FILE "+
			"and its passphrase with WALE_GPG_PASSPHRASE_FILE", ErrNoKey, last)
	case noKey:
		return fmt.Errorf("%w: gpg: %s: run this as the user whose key ring has it, or set GNUPGHOME, or name a key file with WALE_GPG_PRIVATE_KEY_FILE", ErrNoKey, last)
	}
	return fmt.Errorf("%w: gpg: %w: %s", ErrDamaged, err, last)
}

// Close ends gpg if it still runs.
func (d *gpgReader) Close() error {
	_ = d.cmd.Process.Kill() // it may have ended
	_ = d.wait()             // told by Read, or our doing
	return nil
}

// keptError remembers why a read failed.
type keptError struct {
	r   io.Reader
	err error
}

func (k *keptError) Read(p []byte) (int, error) {
	n, err := k.r.Read(p)
	if err != nil && err != io.EOF {
		k.err = err
	}
	return n, err
}

// firstBytes keeps the first 16 KiB that are written to it.
type firstBytes struct{ bytes.Buffer }

func (f *firstBytes) Write(p []byte) (int, error) {
	if room := 16<<10 - f.Len(); room > 0 {
		f.Buffer.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

// Recipients takes recipients from GnuPG's key ring.
func (g GPG) Recipients(ctx context.Context, ids []string, now time.Time) (*Recipients, error) {
	var chosen pgp.EntityList
	for _, id := range ids {
		cmd := exec.CommandContext(ctx, "gpg", "--batch", "--quiet", "--export", "--", id)
		cmd.Env = g.environ()
		cmd.WaitDelay = 5 * time.Second
		var stderr firstBytes
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		switch {
		case errors.Is(err, exec.ErrNotFound):
			return nil, fmt.Errorf("key %q: %w: install gpg (package gnupg), or name a file with the public key with WALE_GPG_PUBLIC_KEY_FILE", id, err)
		case err != nil && !strings.Contains(stderr.String(), "nothing exported"):
			return nil, fmt.Errorf("key %q: gpg --export: %w: %s", id, err, strings.TrimSpace(stderr.String()))
		case len(out) == 0:
			return nil, fault.NoSecretKey.Errorf("key %q is unknown in gpg's key ring: import it as the user that runs this, set GNUPGHOME, "+
				"or name a file with the public key with WALE_GPG_PUBLIC_KEY_FILE", id)
		}
		keys, err := parseKeys(out)
		if err != nil {
			return nil, fmt.Errorf("key %q: what gpg exports %w", id, err)
		}
		key, err := choose(keys, id, now)
		if err != nil && len(keys) == 1 { // gpg knows more ways to name a key
			key, err = keys[0], nil
		}
		if err != nil {
			return nil, err
		}
		chosen = append(chosen, key)
	}
	return newRecipients(chosen, now)
}
