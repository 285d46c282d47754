package s3

import (
	"bytes"
	"context"
	"crypto/md5"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/feature/s3/transfermanager"
	tmtypes "github.com/aws/aws-sdk-go-v2/feature/s3/transfermanager/types"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"wal-e/internal/storage"
)

const (
	// firstLook is how much of a reader that can't be rewound is kept in memory
	// to see whether it ends.
	firstLook = 8 << 20 // bytes
	// Parts of larger ones; S3 takes 10,000 of them.
	partSize  = 16 << 20 // bytes
	partsAt   = 3        // that are sent at once, so this times partSize is in memory
	mostParts = 10_000

	octets = "application/octet-stream"
)

// Create implements storage.Bucket.
func (b *Bucket) Create(ctx context.Context, key string, r io.Reader, size int64, meta storage.Meta) error {
	if err := b.create(ctx, key, r, size, meta); err != nil {
		return fmt.Errorf("create %s in %s: %w", key, b.URL(), err)
	}
	return nil
}

func (b *Bucket) create(ctx context.Context, key string, r io.Reader, size int64, meta storage.Meta) error {
	if err := storage.CheckKey(key); err != nil {
		return err
	}
	if err := storage.CheckMeta(meta); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	o := &object{key: key, meta: meta, size: size}
	if seeker, ok := r.(io.ReadSeeker); ok && size >= 0 && size <= b.cfg.Largest {
		if fixed, start := storage.Fixed(r); fixed != nil {
			o.body = &section{r: seeker, start: start, size: size}
			if err := o.sumUp(ctx); err != nil {
				return err
			}
			return b.put(ctx, o)
		}
	}
	exact := storage.ExactReader(ctx, r, size)
	var head bytes.Buffer
	switch n, err := io.CopyN(&head, exact, firstLook); {
	case err == io.EOF:
		o.size = n
		o.body = &section{r: bytes.NewReader(head.Bytes()), size: n}
		if err := o.sumUp(ctx); err != nil {
			return err
		}
		return b.put(ctx, o)
	case err != nil:
		return err
	}
	return b.stream(ctx, o, io.MultiReader(&head, exact))
}

// An object is one to be created.
type object struct {
	key  string
	meta storage.Meta
	size int64
	body *section // nil while it is a stream
	sum  [md5.Size]byte
}

// sumUp reads the content to learn its sum, and whether its size is right.
func (o *object) sumUp(ctx context.Context) error {
	h := md5.New()
	if _, err := io.Copy(h, storage.ExactReader(ctx, o.body.r, o.size)); err != nil {
		return err
	}
	h.Sum(o.sum[:0])
	return o.body.rewind()
}

// A section is the part of a seeker that is sent, as a seeker of its own.
type section struct {
	r           io.ReadSeeker
	start, size int64
	at          int64
}

func (s *section) Read(p []byte) (int, error) {
	if s.at >= s.size {
		return 0, io.EOF
	}
	n, err := s.r.Read(p[:min(int64(len(p)), s.size-s.at)])
	s.at += int64(n)
	if err == io.EOF && s.at < s.size {
		err = io.ErrUnexpectedEOF // it was longer when it was summed up
	}
	return n, err
}

func (s *section) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += s.at
	case io.SeekEnd:
		offset += s.size
	}
	if offset < 0 || offset > s.size {
		return 0, fmt.Errorf("seek to byte %d of %d", offset, s.size)
	}
	if _, err := s.r.Seek(s.start+offset, io.SeekStart); err != nil {
		return 0, err
	}
	s.at = offset
	return offset, nil
}

func (s *section) rewind() error {
	_, err := s.Seek(0, io.SeekStart)
	return err
}

// put creates an object in one request.
func (b *Bucket) put(ctx context.Context, o *object) error {
	if b.weak.Load() {
		return b.putWeak(ctx, o)
	}
	err := b.putOnce(ctx, o, aws.String("*"))
	if status(err) != http.StatusNotImplemented { // a code may be lost with the rest of the answer
		return err
	}
	// Other headers may be what it doesn't have: then this fails in the same way.
	if rerr := o.body.rewind(); rerr != nil {
		return rerr
	}
	if err := b.putWeak(ctx, o); err != nil {
		return err
	}
	b.weak.Store(true)
	return nil
}

func (b *Bucket) putOnce(ctx context.Context, o *object, ifNoneMatch *string) error {
	in := &s3.PutObjectInput{
		Bucket: &b.cfg.Bucket, Key: b.name(o.key), IfNoneMatch: ifNoneMatch,
		ContentLength: &o.size, ContentType: aws.String(contentType(o.key)),
		ContentMD5: aws.String(base64.StdEncoding.EncodeToString(o.sum[:])),
		Metadata:   o.meta,
	}
	if o.size > 0 {
		in.Body = o.body
	}
	if b.cfg.Bulk(o.key) {
		in.StorageClass = types.StorageClass(b.cfg.StorageClass)
	}
	if e := b.cfg.Encryption; e.Method != "" {
		in.ServerSideEncryption = types.ServerSideEncryption(e.Method)
		if e.KeyID != "" {
			in.SSEKMSKeyId = &e.KeyID
		}
	}
	return b.call(ctx, "s3:PutObject", o.body.rewind, func(opts ...func(*s3.Options)) error {
		_, err := b.client.PutObject(ctx, in, opts...)
		return err
	})
}

// putWeak creates an object where the store has no conditional writes: see the
// package's comment for what that can't promise.
func (b *Bucket) putWeak(ctx context.Context, o *object) error {
	_, err := b.head(ctx, o.key)
	if err == nil {
		return storage.ErrExist
	}
	if !errors.Is(err, storage.ErrNotExist) {
		return err
	}
	if err := b.putOnce(ctx, o, nil); err != nil {
		return err
	}
	h, err := b.head(ctx, o.key)
	if err != nil {
		return fmt.Errorf("look at what was written: %w", err)
	}
	if tag := strings.Trim(aws.ToString(h.ETag), `"`); len(tag) == 2*md5.Size && tag != hex.EncodeToString(o.sum[:]) &&
		h.ServerSideEncryption != types.ServerSideEncryptionAwsKms {
		return fmt.Errorf("%w: another one came at the same moment", storage.ErrExist)
	}
	return nil
}

// contentType is what classic WAL-E says of an object.
func contentType(key string) string {
	switch {
	case strings.HasSuffix(key, ".txt"):
		return "text/plain"
	case strings.HasSuffix(key, ".json"):
		return "application/json"
	}
	return octets
}

// stream creates an object in parts, of content that can be read only once. It
// appears when the last part is there, or not at all.
func (b *Bucket) stream(ctx context.Context, o *object, r io.Reader) error {
	if o.size > mostParts*(1<<30) {
		return fmt.Errorf("%w: %d bytes are more than an object can have", storage.ErrInvalid, o.size)
	}
	part := max(int64(partSize), o.size/(mostParts-1)+1)
	// The region may have been found out since the client was made.
	client := s3.New(b.parts.Options(), func(opt *s3.Options) { opt.Region = b.currentRegion() })
	manager := transfermanager.New(client, func(opt *transfermanager.Options) {
		// It has a setting of its own, and stores that aren't Amazon's don't know all checksums.
		opt.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenRequired
		opt.PartSizeBytes, opt.Concurrency = part, partsAt
	})
	src := &remembering{r: r}
	in := &transfermanager.UploadObjectInput{
		Bucket: aws.String(b.cfg.Bucket), Key: b.name(o.key), Body: src,
		ContentType: aws.String(contentType(o.key)), Metadata: o.meta,
		ServerSideEncryption: tmtypes.ServerSideEncryption(b.cfg.Encryption.Method),
	}
	if b.cfg.Encryption.KeyID != "" {
		in.SSEKMSKeyID = aws.String(b.cfg.Encryption.KeyID)
	}
	if b.weak.Load() {
		switch _, err := b.head(ctx, o.key); {
		case err == nil:
			return storage.ErrExist
		case !errors.Is(err, storage.ErrNotExist):
			return err
		}
	} else {
		in.IfNoneMatch = aws.String("*")
	}
	if b.cfg.Bulk(o.key) {
		in.StorageClass = tmtypes.StorageClass(b.cfg.StorageClass)
	}
	_, err := manager.UploadObject(ctx, in)
	if src.err != nil && src.err != io.EOF {
		return src.err // the content's own fault
	}
	err = b.translate(ctx, err, "s3:PutObject and s3:AbortMultipartUpload")
	if in.IfNoneMatch != nil && status(err) == http.StatusNotImplemented {
		b.weak.Store(true)
		return errNoCondition
	}
	return err
}

// errNoCondition is of a stream that can't be sent again from here; the next attempt
// looks first.
var errNoCondition = errors.New("the store has no conditional writes, which showed at the end of what was sent")

// remembering knows with which error a reader ended.
type remembering struct {
	r   io.Reader
	err error
}

func (r *remembering) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if err != nil {
		r.err = err
	}
	return n, err
}
