package swift

import (
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/ncw/swift/v2"

	"wal-e/internal/storage"
	"wal-e/internal/storage/driver"
)

// Get implements storage.Bucket. An object that is read from its first byte to
// its last is checked against the MD5 sum that Swift keeps, unless it is in
// segments.
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
		_, err := b.head(ctx, key)
		return http.NoBody, err
	}
	r := request{method: http.MethodGet, container: b.cfg.Container, object: b.name(key)}
	span := driver.Range(offset, length)
	if span != "" {
		r.headers = swift.Headers{"Range": span}
	}
	res, err := b.send(ctx, r)
	if err != nil {
		var e *statusError
		if span != "" && errors.As(err, &e) && e.code == http.StatusRequestedRangeNotSatisfiable {
			return http.NoBody, nil // it begins behind the last byte
		}
		return nil, b.proven(ctx, key, err)
	}
	if span != "" && res.StatusCode != http.StatusPartialContent {
		return driver.Unranged(ctx, res, offset, length)
	}
	body := driver.NewBody(ctx, res.Body, res.ContentLength)
	if want := etag(res.Header); span == "" && !large(res.Header) && len(want) == 2*md5.Size {
		sum := md5.New()
		body.Sum(sum, func() error {
			if got := hex.EncodeToString(sum.Sum(nil)); got != want {
				return fmt.Errorf("what arrived has the MD5 sum %s, stored was %s", got, want)
			}
			return nil
		})
	}
	return body, nil
}

// large reports whether an object is in segments.
func large(h http.Header) bool { return static(h) || h.Get("X-Object-Manifest") != "" }

func static(h http.Header) bool {
	yes, _ := strconv.ParseBool(strings.ToLower(h.Get("X-Static-Large-Object")))
	return yes
}

// head asks for what is known of an object.
func (b *Bucket) head(ctx context.Context, key string) (http.Header, error) {
	h, err := b.exchange(ctx, request{method: http.MethodHead, container: b.cfg.Container, object: b.name(key)})
	if err != nil {
		return nil, b.proven(ctx, key, err)
	}
	return h, nil
}

// errBehind is what a node answers that was away when an object was created.
var errBehind = errors.New("a node of the server doesn't have it, and another does")

// proven explains a 404 for an object. A node that was away may give one for what
// the others hold, and what is absent ends a recovery: so all nodes are asked.
func (b *Bucket) proven(ctx context.Context, key string, err error) error {
	if err = b.absent(ctx, err); !errors.Is(err, storage.ErrNotExist) {
		return err
	}
	_, herr := b.exchange(ctx, request{
		method: http.MethodHead, container: b.cfg.Container, object: b.name(key), headers: swift.Headers{"X-Newest": "true"},
	})
	switch {
	case herr == nil:
		return errBehind
	case !errors.Is(herr, errMissing):
		return herr
	}
	return err
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
	h, err := b.head(ctx, key)
	if err != nil {
		return storage.Attributes{}, err
	}
	size, err := strconv.ParseInt(h.Get("Content-Length"), 10, 64)
	if err != nil || size < 0 {
		return storage.Attributes{}, fmt.Errorf("the server says of its size %q", h.Get("Content-Length"))
	}
	modified, err := modTime(h)
	if err != nil {
		return storage.Attributes{}, err
	}
	return storage.Attributes{Object: storage.Object{Key: key, Size: size, ModTime: modified}, Meta: headersMeta(h)}, nil
}

// modTime is an object's time, as exact as in a listing where the server says
// it: Last-Modified is in whole seconds, rounded up.
func modTime(h http.Header) (time.Time, error) {
	seconds, fraction, _ := strings.Cut(h.Get("X-Timestamp"), ".")
	if s, err := strconv.ParseInt(seconds, 10, 64); err == nil && len(fraction) <= 9 {
		ns, err := strconv.ParseInt(fraction+strings.Repeat("0", 9-len(fraction)), 10, 64)
		if err == nil {
			return time.Unix(s, ns).UTC(), nil
		}
	}
	t, err := http.ParseTime(h.Get("Last-Modified"))
	if err != nil {
		return time.Time{}, fmt.Errorf("the server says of its time %q", h.Get("Last-Modified"))
	}
	return t, nil
}
