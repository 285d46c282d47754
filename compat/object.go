package compat

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"wal-e/compat/lzop"
	"wal-e/internal/storage"
)

// A Decrypt returns what an OpenPGP message holds. The reader must fail, and not
// end, when the message isn't whole and authentic.
type Decrypt func(ctx context.Context, message io.Reader) (io.ReadCloser, error)

// ErrUndecipherable is wrapped when an object is encrypted and there is no Decrypt.
var ErrUndecipherable = errors.New("can't be decrypted")

// ErrDamagedMessage is wrapped by a Decrypt, and by its reader, when the message
// isn't whole and authentic.
var ErrDamagedMessage = errors.New("damaged message")

// An Encrypt returns a writer whose Close ends an OpenPGP message to w. What the
// original writes is not compressed in itself.
type Encrypt func(w io.Writer) (io.WriteCloser, error)

// sealed calls fill with a writer to w that encrypts, or w itself when encrypt is nil.
func (encrypt Encrypt) sealed(w io.Writer, fill func(w io.Writer) error) error {
	if encrypt == nil {
		return fill(w)
	}
	message, err := encrypt(w)
	if err != nil {
		return fmt.Errorf("encrypt: %w", err)
	}
	if err := fill(message); err != nil {
		return err // the message stays without an end
	}
	return message.Close()
}

// ErrNotClassic is wrapped when an object is neither an lzop file nor an OpenPGP
// message.
var ErrNotClassic = errors.New("not what classic WAL-E writes")

// openObject returns the plain bytes of a partition or a WAL file. Nothing says
// whether one is encrypted but its first bytes. The reader ends only after all of
// the object was read and verified; its errors name it.
func openObject(ctx context.Context, b storage.Bucket, key string, decrypt Decrypt, workers int) (io.ReadCloser, error) {
	body, err := b.Get(ctx, key, 0, -1)
	if err != nil {
		return nil, err
	}
	o := &object{name: key + " in " + b.URL(), closers: []io.Closer{body}}
	in := bufio.NewReaderSize(body, 64<<10)
	head, err := in.Peek(len(lzop.Magic))
	var packed io.Reader = in
	switch {
	case err != nil && err != io.EOF:
		return nil, errors.Join(o.wrap(err), o.Close())
	case string(head) == lzop.Magic:
	case len(head) == 0:
		return nil, errors.Join(o.wrap(fmt.Errorf("%w: it is empty", ErrNotClassic)), o.Close())
	case !isOpenPGP(head):
		return nil, errors.Join(o.wrap(fmt.Errorf("%w: it begins with %x", ErrNotClassic, head)), o.Close())
	case decrypt == nil:
		return nil, errors.Join(o.wrap(fmt.Errorf("%w: it is encrypted, and nothing here decrypts", ErrUndecipherable)), o.Close())
	default:
		plain, err := decrypt(ctx, in)
		if err != nil {
			return nil, errors.Join(o.wrap(err), o.Close())
		}
		o.closers = append(o.closers, plain)
		packed = plain
	}
	o.r = lzop.NewReader(packed, workers)
	return o, nil
}

type object struct {
	name    string
	r       *lzop.Reader
	closers []io.Closer
}

// wrap names the object. Only a Get's own storage.ErrNotExist means that there is
// none: a body that breaks off, and can't be gone on with, proves nothing.
func (o *object) wrap(err error) error {
	if errors.Is(err, storage.ErrNotExist) {
		err = fmt.Errorf("it vanished: %v", err)
	}
	return &readError{o.name, err}
}

// A readError names the object whose bytes couldn't be had.
type readError struct {
	name string
	err  error
}

func (e *readError) Error() string { return fmt.Sprintf("compat: read %s: %v", e.name, e.err) }
func (e *readError) Unwrap() error { return e.err }

// about says which object an error is of, unless it says so itself.
func about(b storage.Bucket, key string, err error) error {
	var named *readError
	if errors.As(err, &named) {
		return named
	}
	return fmt.Errorf("compat: %s in %s: %w", key, b.URL(), err)
}

func (o *object) Read(p []byte) (int, error) {
	n, err := o.r.Read(p)
	if err != nil && err != io.EOF {
		err = o.wrap(err)
	}
	return n, err
}

// Close gives back what is open, the last opened first.
func (o *object) Close() error {
	var errs []error
	for i := len(o.closers) - 1; i >= 0; i-- {
		errs = append(errs, o.closers[i].Close())
	}
	o.closers = nil
	return errors.Join(errs...)
}

// isOpenPGP reports whether an object begins as an encrypted OpenPGP message does
// (RFC 9580, section 4.3): with a session key or encrypted data, in the old or
// the new form of packets, or in ASCII armor.
func isOpenPGP(head []byte) bool {
	if len(head) == 0 {
		return false
	}
	if strings.HasPrefix(string(head), "-----BEG") {
		return true
	}
	var tag byte
	switch first := head[0]; {
	case first&0xC0 == 0xC0:
		tag = first & 0x3F
	case first&0x80 != 0:
		tag = first >> 2 & 0x0F
	}
	return tag == 1 || tag == 3 || tag == 9 || tag == 18 || tag == 20
}
