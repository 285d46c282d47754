package swift

import (
	"bufio"
	"bytes"
	"context"
	"crypto/md5"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/ncw/swift/v2"

	"wal-e/internal/fault"
	"wal-e/internal/storage"
	"wal-e/internal/storage/driver"
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
	headers, err := metaHeaders(meta)
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	headers["If-None-Match"] = "*"
	headers["Content-Type"] = "application/octet-stream"
	seek, start := storage.Fixed(r)
	if size, err = driver.Size(size, seek, start); err != nil {
		return err
	}
	if seek == nil && size <= firstLook {
		// In memory it can be sent again, with its sum ahead.
		look := storage.ExactReader(ctx, r, size)
		var held bytes.Buffer
		n, err := io.CopyN(&held, look, firstLook+1)
		switch {
		case err == nil:
			return b.createLarge(ctx, key, io.MultiReader(&held, r), -1, headers)
		case err != io.EOF:
			return err
		}
		r, size = bytes.NewReader(held.Bytes()), n
		seek, start = storage.Fixed(r)
	}
	if size > b.cfg.Largest {
		return b.createLarge(ctx, key, r, size, headers)
	}
	up := &upload{r: storage.ExactReader(ctx, r, size), size: size}
	var sum hash.Hash
	if seek != nil {
		// With the sum ahead, the server refuses what was damaged on the way.
		sum = md5.New()
		if _, err := io.Copy(sum, up.r); err != nil {
			return err
		}
		headers["Etag"] = hex.EncodeToString(sum.Sum(nil))
		up.back = func() (io.Reader, error) {
			_, err := seek.Seek(start, io.SeekStart)
			return storage.ExactReader(ctx, r, size), err
		}
		if up.r, err = up.back(); err != nil {
			return err
		}
	} else {
		sum = md5.New()
		up.r = io.TeeReader(up.r, sum)
	}
	got, err := b.exchange(ctx, request{
		method: http.MethodPut, container: b.cfg.Container, object: b.name(key), headers: headers, upload: up,
	})
	if err != nil {
		return b.taken(ctx, err)
	}
	want := hex.EncodeToString(sum.Sum(nil))
	if etag(got) != want {
		// The name was free, so what stands there is ours, and damaged.
		b.remove(ctx, key)
		return fault.Unlike.Errorf("what arrived has the MD5 sum %s, what was sent has %s", etag(got), want)
	}
	return b.stands(ctx, key, want)
}

// taken gives the answer to a PUT with If-None-Match its meaning.
func (b *Bucket) taken(ctx context.Context, err error) error {
	var e *statusError
	switch {
	case errors.As(err, &e) && e.code == http.StatusPreconditionFailed:
		return storage.ErrExist
	case errors.Is(err, errMissing):
		if cerr := b.contained(ctx); cerr != nil {
			return cerr
		}
		b.found.Store(false) // it was deleted since
		return b.noContainer()
	}
	return err
}

// stands makes sure that what the newest replica holds under key is what was
// just created. Another request at the same time may have passed, too.
func (b *Bucket) stands(ctx context.Context, key, want string) error {
	got, err := b.exchange(ctx, request{
		method: http.MethodHead, container: b.cfg.Container, object: b.name(key), headers: swift.Headers{"X-Newest": "true"},
	})
	switch {
	case errors.Is(err, errMissing):
		return errors.New("it was stored, and is gone at once")
	case err != nil:
		return fmt.Errorf("read back what was stored: %w", err)
	case etag(got) != want:
		return fmt.Errorf("%w: another one was created at the same time", storage.ErrExist)
	}
	return nil
}

func etag(h http.Header) string { return strings.ToLower(strings.Trim(h.Get("Etag"), `"`)) }

// remove takes away what a Create that failed has left, as far as it can.
func (b *Bucket) remove(ctx context.Context, key string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	_, _ = b.exchange(ctx, request{method: http.MethodDelete, container: b.cfg.Container, object: b.name(key)})
}

// A segment is a line of the manifest of a static large object.
type segment struct {
	Path string `json:"path"`
	Etag string `json:"etag"`
	Size int64  `json:"size_bytes"`
}

// createLarge stores segments, and then the manifest that makes them an object.
// A negative size is not known.
func (b *Bucket) createLarge(ctx context.Context, key string, r io.Reader, size int64, headers swift.Headers) error {
	// Only the manifest is created under the key. To find out then that it is
	// taken would be late.
	switch _, err := b.Stat(ctx, key); {
	case err == nil:
		return storage.ErrExist
	case !errors.Is(err, storage.ErrNotExist):
		return err
	}
	if err := b.prepareSegments(ctx); err != nil {
		return err
	}
	each := b.cfg.SegmentSize
	if size > 0 {
		each = max(each, (size+most-1)/most)
	}
	content := bufio.NewReaderSize(storage.ExactReader(ctx, r, size), 64<<10)
	segments, err := b.storeSegments(ctx, b.name(key)+"/"+rand.Text()+"/", content, each)
	if err != nil {
		b.removeSegments(ctx, segments)
		return err
	}
	err = b.createManifest(ctx, key, segments, headers)
	// Without an answer, the object may be there and need them.
	if e := (*statusError)(nil); errors.Is(err, storage.ErrExist) || errors.As(err, &e) && e.code/100 == 4 && e.code != http.StatusRequestTimeout {
		b.removeSegments(ctx, segments)
	}
	return err
}

// storeSegments stores content in segments of a size. Those that it began it
// returns also with an error.
func (b *Bucket) storeSegments(ctx context.Context, folder string, content *bufio.Reader, each int64) (segments []segment, err error) {
	for {
		if _, err := content.Peek(1); err == io.EOF {
			return segments, nil
		} else if err != nil {
			return segments, err
		}
		if len(segments) == most {
			return segments, fmt.Errorf("%w: it is larger than %d segments of %d bytes", storage.ErrInvalid, most, each)
		}
		s := segment{Path: fmt.Sprintf("%s%08d", folder, len(segments))}
		segments = append(segments, s)
		if err := b.storeSegment(ctx, &segments[len(segments)-1], io.LimitReader(content, each)); err != nil {
			return segments, fmt.Errorf("segment %s in container %q: %w", s.Path, b.segmentContainer(), err)
		}
	}
}

// prepareSegments creates the container of segments unless it is there.
func (b *Bucket) prepareSegments(ctx context.Context) error {
	if b.segments.Load() {
		return nil
	}
	_, err := b.exchange(ctx, request{method: http.MethodPut, container: b.segmentContainer()})
	if errors.Is(err, storage.ErrPermission) {
		// It may have been created by one who may.
		if _, herr := b.exchange(ctx, request{method: http.MethodHead, container: b.segmentContainer()}); herr == nil {
			err = nil
		}
	}
	if err != nil {
		return fmt.Errorf("create the container %q for segments of large objects, or let this user do it: %w", b.segmentContainer(), err)
	}
	b.segments.Store(true)
	return nil
}

// storeSegment stores what r holds and fills in what the manifest says of it.
func (b *Bucket) storeSegment(ctx context.Context, s *segment, r io.Reader) error {
	sum := md5.New()
	counted := &counter{w: sum}
	got, err := b.exchange(ctx, request{
		method: http.MethodPut, container: b.segmentContainer(), object: s.Path,
		headers: swift.Headers{"Content-Type": "application/octet-stream"},
		upload:  &upload{r: io.TeeReader(r, counted), size: -1},
	})
	if err != nil {
		return err
	}
	s.Etag, s.Size = hex.EncodeToString(sum.Sum(nil)), counted.n
	if etag(got) != s.Etag {
		return fault.Unlike.Errorf("what arrived has the MD5 sum %s, what was sent has %s", etag(got), s.Etag)
	}
	return nil
}

// counter counts what passes to a writer.
type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return c.w.Write(p)
}

// createManifest creates the object that segments make. Swift looks at each of
// them, by size and sum.
func (b *Bucket) createManifest(ctx context.Context, key string, segments []segment, headers swift.Headers) error {
	lines := make([]segment, len(segments))
	whole := md5.New()
	for i, s := range segments {
		lines[i] = s
		lines[i].Path = "/" + b.segmentContainer() + "/" + s.Path
		_, _ = io.WriteString(whole, s.Etag) // it has no errors
	}
	manifest, err := json.Marshal(lines)
	if err != nil {
		return err
	}
	back := func() (io.Reader, error) { return bytes.NewReader(manifest), nil }
	up := &upload{r: bytes.NewReader(manifest), size: int64(len(manifest)), back: back}
	_, err = b.exchange(ctx, request{
		method: http.MethodPut, container: b.cfg.Container, object: b.name(key),
		query: url.Values{"multipart-manifest": {"put"}}, headers: headers, upload: up,
	})
	if err != nil {
		return b.taken(ctx, err)
	}
	return b.stands(ctx, key, hex.EncodeToString(whole.Sum(nil)))
}

// removeSegments takes away the segments of an object that didn't come to be,
// as far as it can.
func (b *Bucket) removeSegments(ctx context.Context, segments []segment) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	for _, s := range segments {
		_, _ = b.exchange(ctx, request{method: http.MethodDelete, container: b.segmentContainer(), object: s.Path})
	}
}
