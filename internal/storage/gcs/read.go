package gcs

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"math"
	"net/http"
	"strings"
	"time"

	gs "google.golang.org/api/storage/v1"

	"wal-e/internal/storage"
)

// Get implements storage.Bucket. An object that is read from its first byte to
// its last is checked against the CRC32C sum that Google keeps.
func (b *Bucket) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	body, err := b.get(ctx, key, offset, length)
	if err != nil {
		return nil, fmt.Errorf("get %s from %s: %w", key, b.URL(), err)
	}
	return body, nil
}

func (b *Bucket) get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	if err := storage.CheckKey(key); err != nil {
		return nil, err
	}
	if offset < 0 {
		return nil, fmt.Errorf("%w: offset %d", storage.ErrInvalid, offset)
	}
	if length == 0 {
		_, err := b.stat(ctx, key)
		return http.NoBody, err
	}
	call := b.objects.Get(b.cfg.Bucket, b.name(key)).Context(ctx)
	ranged := offset > 0 || length > 0
	switch {
	case length > 0 && length <= math.MaxInt64-offset:
		call.Header().Set("Range", fmt.Sprintf("bytes=%d-%d", offset, offset+length-1))
	case ranged:
		call.Header().Set("Range", fmt.Sprintf("bytes=%d-", offset))
	}
	res, err := call.Download()
	if err = translate(err); err != nil {
		var e *statusError
		if ranged && errors.As(err, &e) && e.status == http.StatusRequestedRangeNotSatisfiable {
			return http.NoBody, nil // it begins behind the last byte
		}
		return nil, b.absent(ctx, err)
	}
	if ranged && res.StatusCode != http.StatusPartialContent {
		return whole(res, offset, length)
	}
	body := &body{ReadCloser: res.Body, left: res.ContentLength}
	if want := storedSum(res.Header); !ranged && want != "" {
		body.sum, body.want = newSum(), want
	}
	return body, nil
}

// storedSum returns the sum of an object from the headers of an answer, or "".
func storedSum(h http.Header) string {
	for _, line := range h.Values("X-Goog-Hash") {
		for part := range strings.SplitSeq(line, ",") {
			if sum, ok := strings.CutPrefix(strings.TrimSpace(part), "crc32c="); ok {
				return sum
			}
		}
	}
	return ""
}

// whole is the answer of a server that sent an object from its beginning though
// a range of it was asked for, as some do for an empty one.
func whole(res *http.Response, offset, length int64) (io.ReadCloser, error) {
	if n := res.ContentLength; n >= 0 && n <= offset {
		return http.NoBody, res.Body.Close()
	}
	if offset > 0 {
		res.Body.Close()
		return nil, fmt.Errorf("%w: the server ignores the range of a request", storage.ErrInvalid)
	}
	b := &body{ReadCloser: res.Body, left: res.ContentLength}
	if length < 0 {
		return b, nil
	}
	return struct {
		io.Reader
		io.Closer
	}{io.LimitReader(b, length), b}, nil
}

// A body fails where the content of an object ends early or isn't what was
// stored.
type body struct {
	io.ReadCloser
	left int64       // bytes to come; negative: not known
	sum  hash.Hash32 // nil: not to be checked
	want string
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.left >= 0 {
		if b.left -= int64(n); b.left < 0 || err == io.EOF && b.left > 0 {
			return n, io.ErrUnexpectedEOF
		}
	}
	if b.sum != nil {
		b.sum.Write(p[:n])
		if err == io.EOF {
			if got := sumText(b.sum); got != b.want {
				return n, fmt.Errorf("what arrived has the CRC32C sum %s, stored was %s", got, b.want)
			}
		}
	}
	return n, err
}

// Stat implements storage.Bucket.
func (b *Bucket) Stat(ctx context.Context, key string) (storage.Attributes, error) {
	a, err := b.stat(ctx, key)
	if err != nil {
		return storage.Attributes{}, fmt.Errorf("stat %s in %s: %w", key, b.URL(), err)
	}
	return a, nil
}

func (b *Bucket) stat(ctx context.Context, key string) (storage.Attributes, error) {
	if err := storage.CheckKey(key); err != nil {
		return storage.Attributes{}, err
	}
	o, err := b.objects.Get(b.cfg.Bucket, b.name(key)).Fields("name", "size", "timeCreated", "metadata").Context(ctx).Do()
	if err = translate(err); err != nil {
		return storage.Attributes{}, b.absent(ctx, err)
	}
	found, err := line(key, o)
	a := storage.Attributes{Object: found}
	if len(o.Metadata) > 0 {
		a.Meta = o.Metadata
	}
	return a, err
}

// line returns what a listing says of an object.
func line(key string, o *gs.Object) (storage.Object, error) {
	created, err := time.Parse(time.RFC3339, o.TimeCreated)
	if err != nil || o.Size > math.MaxInt64 {
		return storage.Object{}, fmt.Errorf("the server says of %s the size %d and the time %q", key, o.Size, o.TimeCreated)
	}
	return storage.Object{Key: key, Size: int64(o.Size), ModTime: created.UTC()}, nil
}
