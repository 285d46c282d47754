package gcs

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"net/http"
	"net/url"
	"sync"
	"time"

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

// sumText is a sum as Google writes it.
func sumText(h hash.Hash32) string {
	return base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint32(nil, h.Sum32()))
}

// An object is what Google says of one, as far as we ask.
type object struct {
	Name        string            `json:"name,omitempty"`
	Size        string            `json:"size,omitempty"` // decimal
	TimeCreated time.Time         `json:"timeCreated,omitzero"`
	CRC32C      string            `json:"crc32c,omitempty"`
	ContentType string            `json:"contentType,omitempty"`
	Metadata    map[string]string `json:"metadata,omitempty"`
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
	about := object{Name: b.name(key), ContentType: "application/octet-stream", Metadata: meta}
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
		about.CRC32C, size = sumText(sum), n
		content = storage.ExactReader(ctx, r, size)
	}
	head, tail, boundary, err := envelope(about)
	if err != nil {
		return err
	}
	length := int64(-1)
	if size >= 0 {
		length = int64(len(head)) + size + int64(len(tail))
	}
	body := &upload{r: io.MultiReader(bytes.NewReader(head), content, bytes.NewReader(tail))}
	var got object
	err = b.exchange(ctx, request{
		method: http.MethodPost, upload: true,
		query:  url.Values{"uploadType": {"multipart"}, "ifGenerationMatch": {"0"}, "fields": {"crc32c"}},
		header: http.Header{"Content-Type": {"multipart/related; boundary=" + boundary}},
		body:   body, length: length,
	}, &got)
	if rerr := body.stop(); rerr != nil && err != nil {
		return rerr
	}
	if err != nil {
		return b.taken(ctx, key, err)
	}
	if want := sumText(sum); got.CRC32C != "" && got.CRC32C != want {
		// The name was free, so what stands there is ours, and damaged.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		err := fault.Unlike.Errorf("what arrived has the CRC32C sum %s, what was sent has %s", got.CRC32C, want)
		if derr := b.remove(ctx, key); derr != nil {
			return fmt.Errorf("%w, and deleting it again: %w: delete it by hand", err, derr)
		}
		return err
	}
	return nil
}

// envelope returns what stands before and behind the content in the body of an
// upload.
func envelope(about object) (head, tail []byte, boundary string, err error) {
	data, err := json.Marshal(about)
	if err != nil {
		return nil, nil, "", err
	}
	boundary = rand.Text()
	head = fmt.Appendf(nil, "--%s\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n%s\r\n--%s\r\nContent-Type: %s\r\n\r\n",
		boundary, data, boundary, about.ContentType)
	return head, fmt.Appendf(nil, "\r\n--%s--\r\n", boundary), boundary, nil
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

// An upload is content that the transport reads in the background, and no
// longer than its request is under way.
type upload struct {
	mu   sync.Mutex
	r    io.Reader
	over bool
	err  error // of the reader, other than io.EOF
}

func (u *upload) Read(p []byte) (int, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.over {
		return 0, errors.New("the request is over")
	}
	n, err := u.r.Read(p)
	if err != nil && err != io.EOF {
		u.err = err
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
