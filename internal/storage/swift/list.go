package swift

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"wal-e/internal/storage"
	"wal-e/internal/storage/driver"
)

// maxPage bounds one answer: a name of 1 KiB takes up to 6 KiB, all else less.
const maxPage = 64 << 20 // bytes

// List implements storage.Bucket. Objects whose names are no keys are left out.
func (b *Bucket) List(ctx context.Context, prefix, startAfter string) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		err := b.list(ctx, b.cfg.Container, b.prefix+prefix, marker(b.prefix, startAfter), func(o object) (bool, error) {
			key, ours := strings.CutPrefix(o.Name, b.prefix)
			if !ours || !strings.HasPrefix(key, prefix) || startAfter != "" && key <= startAfter || storage.CheckKey(key) != nil {
				return true, nil
			}
			modified, err := o.time()
			if err != nil {
				return false, err
			}
			return yield(storage.Object{Key: key, Size: o.Bytes, ModTime: modified}, nil), nil
		})
		if err != nil {
			yield(storage.Object{}, storage.ListError(prefix, b, err))
		}
	}
}

func marker(prefix, startAfter string) string {
	if startAfter == "" {
		return ""
	}
	return prefix + startAfter
}

// An object is a line of a listing.
type object struct {
	Name         string
	Hash         string
	Bytes        int64
	LastModified string `json:"last_modified"`
	Subdir       string
}

// time parses the time of a line, which is UTC without saying so.
func (o object) time() (time.Time, error) {
	t, err := time.Parse("2006-01-02T15:04:05", strings.TrimSuffix(o.LastModified, "Z"))
	if err != nil {
		return t, fmt.Errorf("the listing has for %s the time %q", o.Name, o.LastModified)
	}
	return t, nil
}

// list calls each for the objects of a container whose names begin with prefix
// and come after a marker, until it returns false or an error.
func (b *Bucket) list(ctx context.Context, container, prefix, after string, each func(object) (bool, error)) error {
	// What Swift refuses to look for is left to the caller's own comparison.
	prefix, after = driver.CleanPrefix(prefix), driver.CleanPrefix(after)
	for {
		page, err := b.page(ctx, container, prefix, after)
		if err != nil {
			return err
		}
		for _, o := range page {
			if err := ctx.Err(); err != nil {
				return err
			}
			if o.Name == "" {
				continue
			}
			if o.Name <= after {
				return fmt.Errorf("the listing of container %q goes back from %q to %q", container, after, o.Name)
			}
			after = o.Name
			if more, err := each(o); !more || err != nil {
				return err
			}
		}
		if len(page) < b.cfg.PageSize {
			return ctx.Err()
		}
	}
}

func (b *Bucket) page(ctx context.Context, container, prefix, after string) ([]object, error) {
	query := url.Values{"format": {"json"}, "limit": {strconv.Itoa(b.cfg.PageSize)}}
	if prefix != "" {
		query.Set("prefix", prefix)
	}
	if after != "" {
		query.Set("marker", after)
	}
	res, err := b.send(ctx, request{method: http.MethodGet, container: container, query: query})
	switch {
	case errors.Is(err, errMissing) && container == b.cfg.Container:
		return nil, b.noContainer()
	case err != nil:
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode == http.StatusNoContent {
		return nil, nil
	}
	return decodePage(res.Body)
}

// decodePage reads the JSON of one page of a listing.
func decodePage(r io.Reader) ([]object, error) {
	limited := &io.LimitedReader{R: r, N: maxPage}
	d := json.NewDecoder(limited)
	broken := func(err error) ([]object, error) {
		if limited.N <= 0 {
			err = fmt.Errorf("it is larger than %d bytes", maxPage)
		}
		return nil, fmt.Errorf("read a page of the listing: %w", noEOF(err))
	}
	if t, err := d.Token(); err != nil {
		return broken(err)
	} else if t != json.Delim('[') {
		return broken(errors.New("it is no list"))
	}
	var page []object
	for d.More() {
		var o object
		if err := d.Decode(&o); err != nil {
			return broken(err)
		}
		if len(page) == largestPage {
			return broken(fmt.Errorf("it has more than %d lines", largestPage))
		}
		if o.Bytes < 0 {
			return broken(fmt.Errorf("%s has %d bytes", o.Name, o.Bytes))
		}
		page = append(page, o)
	}
	if _, err := d.Token(); err != nil {
		return broken(err)
	}
	return page, nil
}

func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
