package gcs

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"wal-e/internal/storage"
	"wal-e/internal/storage/driver"
)

// List implements storage.Bucket. Objects whose names are no keys are left out.
func (b *Bucket) List(ctx context.Context, prefix, startAfter string) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		if err := b.list(ctx, prefix, startAfter, yield); err != nil {
			yield(storage.Object{}, storage.ListError(prefix, b, err))
		}
	}
}

func (b *Bucket) list(ctx context.Context, prefix, startAfter string, yield func(storage.Object, error) bool) error {
	query := url.Values{"fields": {"nextPageToken,items(name,size,timeCreated)"}, "maxResults": {strconv.Itoa(b.cfg.PageSize)}}
	// What Google refuses to look for is left to the comparison below.
	if p := driver.CleanPrefix(b.name(prefix)); p != "" {
		query.Set("prefix", p)
	}
	if startAfter != "" {
		query.Set("startOffset", driver.CleanPrefix(b.name(startAfter)))
	}
	for last := ""; ; {
		var page struct {
			Items         []object
			NextPageToken string
		}
		err := b.exchange(ctx, request{method: http.MethodGet, query: query}, &page)
		switch {
		case errors.Is(err, errMissing):
			return b.noBucket()
		case err != nil:
			return err
		}
		for i := range page.Items {
			if err := ctx.Err(); err != nil {
				return err
			}
			name := page.Items[i].Name
			if name <= last {
				return fmt.Errorf("%w: the listing of bucket %q goes back from %q to %q", storage.ErrInvalid, b.cfg.Bucket, last, name)
			}
			last = name
			key, ours := strings.CutPrefix(name, b.prefix)
			if !ours || !strings.HasPrefix(key, prefix) || startAfter != "" && key <= startAfter || storage.CheckKey(key) != nil {
				continue
			}
			o, err := page.Items[i].line(key)
			if err != nil {
				return err
			}
			if !yield(o, nil) {
				return nil
			}
		}
		if page.NextPageToken == "" {
			return ctx.Err()
		}
		if page.NextPageToken == query.Get("pageToken") {
			return fmt.Errorf("the listing of bucket %q does not go on", b.cfg.Bucket)
		}
		query.Set("pageToken", page.NextPageToken)
	}
}

// Delete implements storage.Bucket.
func (b *Bucket) Delete(ctx context.Context, keys ...string) error {
	return driver.DeleteEach(ctx, b, keys, storage.CheckKey, b.remove)
}

func (b *Bucket) remove(ctx context.Context, key string) error {
	err := b.exchange(ctx, request{method: http.MethodDelete, object: b.name(key)}, nil)
	if err = b.absent(ctx, err); errors.Is(err, storage.ErrNotExist) {
		return nil
	}
	return err
}
