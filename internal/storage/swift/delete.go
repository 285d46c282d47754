package swift

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/ncw/swift/v2"
	"golang.org/x/sync/errgroup"

	"wal-e/internal/storage"
	"wal-e/internal/storage/driver"
)

const (
	bulkSize = 1000 // objects in a request; 10,000 is what Swift takes
	looks    = 8    // objects that are looked at side by side
)

// Delete implements storage.Bucket. An object in segments goes with them.
func (b *Bucket) Delete(ctx context.Context, keys ...string) error {
	return driver.DeleteBatches(ctx, b, keys, bulkSize, b.deleteBatch)
}

func (b *Bucket) deleteBatch(ctx context.Context, keys []string) error {
	found := make([]http.Header, len(keys)) // nil where there is none
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(looks)
	for i, key := range keys {
		g.Go(func() error {
			h, err := b.head(gctx, key)
			if err != nil && !errors.Is(err, storage.ErrNotExist) {
				return fmt.Errorf("%s: %w", key, err)
			}
			found[i] = h
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	// What isn't there is deleted all the same: a replica that can't be asked
	// now may hold it.
	var plain []string
	for i, key := range keys {
		var err error
		switch h := found[i]; {
		case static(h):
			err = b.deleteStatic(ctx, key)
		case h.Get("X-Object-Manifest") != "":
			err = b.deleteDynamic(ctx, key, h.Get("X-Object-Manifest"))
		default:
			plain = append(plain, b.name(key))
		}
		if err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
	}
	return b.deleteObjects(ctx, b.cfg.Container, plain)
}

// deleteObjects deletes objects of a container by name, which aren't in
// segments.
func (b *Bucket) deleteObjects(ctx context.Context, container string, names []string) error {
	if len(names) > 1 {
		var list strings.Builder
		for _, name := range names {
			fmt.Fprintf(&list, "%s\n", url.PathEscape(container+"/"+name))
		}
		back := func() (io.Reader, error) { return strings.NewReader(list.String()), nil }
		res, err := b.send(ctx, request{
			method: http.MethodPost, query: url.Values{"bulk-delete": {"1"}},
			headers: swift.Headers{"Accept": "application/json", "Content-Type": "text/plain"},
			upload:  &upload{r: strings.NewReader(list.String()), size: int64(list.Len()), back: back},
		})
		if err == nil {
			err = b.bulkResult(res.Body)
			res.Body.Close()
		}
		var e *statusError
		switch {
		case err == nil:
			return nil
		case !errors.As(err, &e) || e.code/100 != 4 || e.code == http.StatusRequestTimeout || e.code == http.StatusTooManyRequests:
			return err
		}
		// Without the extension the request makes no sense to a server. Or the
		// token ended in the middle: one by one they notice.
	}
	for _, name := range names {
		_, err := b.exchange(ctx, request{method: http.MethodDelete, container: container, object: name})
		if err != nil && !errors.Is(err, errMissing) {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// bulkResult reads what became of a request that deletes many objects. Its
// status was sent before the first of them was deleted.
func (s *session) bulkResult(r io.Reader) error {
	result, err := decodeBulk(r)
	if err != nil {
		return err
	}
	for _, e := range result.Errors {
		if len(e) != 2 {
			return fmt.Errorf("the server says of a deletion %q", e)
		}
		code := leading(e[1])
		if code == http.StatusNotFound {
			continue
		}
		name, err := url.PathUnescape(e[0])
		if err != nil {
			name = e[0]
		}
		return fmt.Errorf("%s: %w", name, s.bulkError(code))
	}
	if code := leading(result.Status); code/100 != 2 && code != http.StatusNotFound && len(result.Errors) == 0 {
		return s.bulkError(code)
	}
	return nil
}

// A bulkAnswer is what Swift says at the end of a request of many parts.
type bulkAnswer struct {
	Status string     `json:"Response Status"`
	Errors [][]string // name and status
}

func decodeBulk(r io.Reader) (bulkAnswer, error) {
	var a bulkAnswer
	if err := json.NewDecoder(io.LimitReader(r, maxPage)).Decode(&a); err != nil {
		return a, fmt.Errorf("read what became of the deletion: %w", noEOF(err))
	}
	return a, nil
}

func (s *session) bulkError(code int) error {
	return s.translate(&swift.Error{StatusCode: code})
}

// leading returns the status code that a status line begins with, or 0.
func leading(line string) int {
	word, _, _ := strings.Cut(line, " ")
	code, err := strconv.Atoi(word)
	if err != nil {
		return 0
	}
	return code
}

// deleteStatic lets Swift delete a static large object: the segments first, and
// then, if all are gone, the manifest.
func (b *Bucket) deleteStatic(ctx context.Context, key string) error {
	res, err := b.send(ctx, request{
		method: http.MethodDelete, container: b.cfg.Container, object: b.name(key),
		query: url.Values{"multipart-manifest": {"delete"}}, headers: swift.Headers{"Accept": "application/json"},
	})
	if err != nil {
		if err := b.absent(ctx, err); !errors.Is(err, storage.ErrNotExist) {
			return err
		}
		return nil
	}
	defer res.Body.Close()
	if res.StatusCode == http.StatusNoContent {
		return nil
	}
	return b.bulkResult(res.Body)
}

// deleteDynamic deletes a dynamic large object and then its segments: those
// objects that begin with what its manifest says. Anybody may have written
// that, so an object counts as a segment only if its name goes on with a slash
// or a number.
func (b *Bucket) deleteDynamic(ctx context.Context, key, manifest string) error {
	value, err := url.PathUnescape(manifest)
	if err != nil {
		return fmt.Errorf("its manifest is %q: %w", manifest, err)
	}
	container, prefix, ok := strings.Cut(strings.TrimPrefix(value, "/"), "/")
	if !ok || container == "" || prefix == "" {
		return fmt.Errorf("its manifest is %q: want CONTAINER/PREFIX", manifest)
	}
	var segments []string
	err = b.list(ctx, container, prefix, "", func(o object) (bool, error) {
		rest, ok := strings.CutPrefix(o.Name, prefix)
		if !ok {
			return true, nil
		}
		if strings.HasSuffix(prefix, "/") || strings.HasPrefix(rest, "/") || strings.Trim(rest, "0123456789") == "" {
			if container != b.cfg.Container || o.Name != b.name(key) {
				segments = append(segments, o.Name)
			}
		}
		return true, nil
	})
	if err != nil && !errors.Is(err, errMissing) {
		return err
	}
	if err := b.deleteObjects(ctx, b.cfg.Container, []string{b.name(key)}); err != nil {
		return err
	}
	for len(segments) > 0 {
		batch := segments[:min(bulkSize, len(segments))]
		if err := b.deleteObjects(ctx, container, batch); err != nil {
			return err
		}
		segments = segments[len(batch):]
	}
	return nil
}
