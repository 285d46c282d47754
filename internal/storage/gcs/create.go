package gcs

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/api/googleapi"
	gs "google.golang.org/api/storage/v1"

	"wal-e/internal/fault"
	"wal-e/internal/storage"
)

// Create implements storage.Bucket.
func (b *Bucket) Create(ctx context.Context, key string, r io.Reader, size int64, meta storage.Meta) error {
	if err := b.create(ctx, key, r, size, meta); err != nil {
		return fmt.Errorf("create %s in %s: %w", key, b.URL(), err)
	}
	return nil
}

// newSum returns the sum that Google keeps of each object.
func newSum() hash.Hash32 { return crc32.New(crc32.MakeTable(crc32.Castagnoli)) }

// octets is what every object is said to be.
const octets = "application/octet-stream"

// sumText is a sum as Google writes it.
func sumText(h hash.Hash32) string {
	return base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint32(nil, h.Sum32()))
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
	about := &gs.Object{Name: b.name(key), ContentType: octets, Metadata: meta}
	sum := newSum()
	content := io.TeeReader(storage.ExactReader(ctx, r, size), sum)
	if seek, start := storage.Fixed(r); seek != nil {
		// With the sum ahead, the server refuses what was damaged on the way.
		n, err := io.Copy(io.Discard, content)
		if err == nil {
			_, err = seek.Seek(start, io.SeekStart)
		}
		if err != nil {
			return err
		}
		about.Crc32c, size = sumText(sum), n
		content = storage.ExactReader(ctx, r, size)
	}
	body := &upload{r: content}
	// A chunk size of 0 means one request, whatever its length.
	got, err := b.objects.Insert(b.cfg.Bucket, about).IfGenerationMatch(0).Fields("crc32c").
		Media(body, googleapi.ChunkSize(0), googleapi.ContentType(octets)).
		Context(context.WithValue(ctx, uploadKey{}, body)).Do()
	err = translate(err)
	if rerr := body.stop(); rerr != nil && err != nil {
		return rerr
	}
	if err != nil {
		return b.taken(ctx, key, err)
	}
	if want := sumText(sum); got.Crc32c != "" && got.Crc32c != want {
		// The name was free, so what stands there is ours, and damaged.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		err := fault.Unlike.Errorf("what arrived has the CRC32C sum %s, what was sent has %s", got.Crc32c, want)
		if derr := b.remove(ctx, key); derr != nil {
			return fmt.Errorf("%w, and deleting it again: %w: delete it by hand", err, derr)
		}
		return err
	}
	return nil
}

// taken gives the answer to a conditional upload its meaning.
func (b *Bucket) taken(ctx context.Context, key string, err error) error {
	var e *statusError
	switch {
	case !errors.As(err, &e):
	case e.status == http.StatusPreconditionFailed:
		return storage.ErrExist
	case e.status == http.StatusNotFound:
		b.found.Store(false)
		return b.noBucket()
	case e.status == http.StatusForbidden:
		// Who may create and not delete can be refused where something is already.
		if _, serr := b.stat(ctx, key); serr == nil {
			return storage.ErrExist
		}
	}
	return err
}

// An upload is content that the client library reads in the background, and no
// longer than its request is under way.
type upload struct {
	broke atomic.Bool // nothing more is to be sent; read without waiting for the reader

	mu   sync.Mutex
	r    io.Reader
	over bool
	err  error // of the reader, other than io.EOF
}

func (u *upload) Read(p []byte) (int, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.over {
		u.broke.Store(true)
		return 0, errors.New("the request is over")
	}
	n, err := u.r.Read(p)
	if err != nil && err != io.EOF {
		u.err = err
		u.broke.Store(true)
	}
	return n, err
}

// uploadKey is the key of a context's *upload.
type uploadKey struct{}

// An uploadBody is what the client library makes of an upload. When the content
// breaks off the library sends the end of the body all the same, and what came so
// far could be taken for all.
type uploadBody struct {
	io.ReadCloser
	u *upload
}

func (b *uploadBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.u.broke.Load() {
		return 0, errors.New("the content broke off")
	}
	return n, err
}

// stop keeps the transport from reading on, and returns the reader's error.
func (u *upload) stop() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.over = true
	return u.err
}
