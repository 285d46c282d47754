package gcs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"wal-e/internal/storage"
	"wal-e/internal/storage/driver"
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
	// Without this header Google unpacks what was stored as gzip.
	r := request{
		method: http.MethodGet, object: b.name(key), query: url.Values{"alt": {"media"}},
		header: http.Header{"Accept-Encoding": {"gzip"}},
	}
	span := driver.Range(offset, length)
	if span != "" {
		r.header.Set("Range", span)
	}
	res, err := b.send(ctx, r)
	if err != nil {
		var e *statusError
		if span != "" && errors.As(err, &e) && e.status == http.StatusRequestedRangeNotSatisfiable {
			return http.NoBody, nil // it begins behind the last byte
		}
		return nil, b.absent(ctx, err)
	}
	if span != "" && res.StatusCode != http.StatusPartialContent {
		return driver.Unranged(ctx, res, offset, length)
	}
	body := driver.NewBody(ctx, res.Body, res.ContentLength)
	if want := storedSum(res.Header); span == "" && want != "" {
		sum := newSum()
		body.Sum(sum, func() error {
			if got := sumText(sum); got != want {
				return fmt.Errorf("what arrived has the CRC32C sum %s, stored was %s", got, want)
			}
			return nil
		})
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
	var o object
	err := b.exchange(ctx, request{
		method: http.MethodGet, object: b.name(key), query: url.Values{"fields": {"name,size,timeCreated,metadata"}},
	}, &o)
	if err != nil {
		return storage.Attributes{}, b.absent(ctx, err)
	}
	line, err := o.line(key)
	a := storage.Attributes{Object: line}
	if len(o.Metadata) > 0 {
		a.Meta = o.Metadata
	}
	return a, err
}

// line returns what a listing says of an object.
func (o *object) line(key string) (storage.Object, error) {
	size, err := strconv.ParseInt(o.Size, 10, 64)
	if err != nil || size < 0 || o.TimeCreated.IsZero() {
		return storage.Object{}, fmt.Errorf("the server says of %s the size %q and the time %v", key, o.Size, o.TimeCreated)
	}
	return storage.Object{Key: key, Size: size, ModTime: o.TimeCreated.UTC()}, nil
}
