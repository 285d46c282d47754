package gcs

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sync/errgroup"

	"wal-e/internal/storage"
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
	call := b.objects.List(b.cfg.Bucket).Fields("nextPageToken", "items(name,size,timeCreated)").MaxResults(int64(b.cfg.PageSize)).Context(ctx)
	// What Google refuses to look for is left to the comparison below.
	if p := clean(b.name(prefix)); p != "" {
		call.Prefix(p)
	}
	if startAfter != "" {
		call.StartOffset(clean(b.name(startAfter)))
	}
	for last, token := "", ""; ; {
		page, err := call.Do()
		switch err = translate(err); {
		case errors.Is(err, errMissing):
			return b.noBucket()
		case err != nil:
			return err
		}
		for _, item := range page.Items {
			if err := ctx.Err(); err != nil {
				return err
			}
			name := item.Name
			if name <= last {
				return fmt.Errorf("%w: the listing of bucket %q goes back from %q to %q", storage.ErrInvalid, b.cfg.Bucket, last, name)
			}
			last = name
			key, ours := strings.CutPrefix(name, b.prefix)
			if !ours || !strings.HasPrefix(key, prefix) || startAfter != "" && key <= startAfter || storage.CheckKey(key) != nil {
				continue
			}
			o, err := line(key, item)
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
		if page.NextPageToken == token {
			return fmt.Errorf("the listing of bucket %q does not go on", b.cfg.Bucket)
		}
		token = page.NextPageToken
		call.PageToken(token)
	}
}

// clean cuts a prefix or offset where it holds what no name does.
func clean(s string) string {
	for i, r := range s {
		if r == utf8.RuneError || unicode.IsControl(r) {
			return s[:i]
		}
	}
	return s
}

// deletions are sent side by side.
const deletions = 8

// Delete implements storage.Bucket.
func (b *Bucket) Delete(ctx context.Context, keys ...string) error {
	for _, key := range keys {
		if err := storage.CheckKey(key); err != nil {
			return fmt.Errorf("delete %s in %s: %w", key, b.URL(), err)
		}
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(deletions)
	for _, key := range keys {
		if gctx.Err() != nil {
			break // the first error says why
		}
		g.Go(func() error {
			if err := b.remove(gctx, key); err != nil {
				return fmt.Errorf("delete %s in %s: %w", key, b.URL(), err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("delete in %s: %w", b.URL(), err)
	}
	return nil
}

func (b *Bucket) remove(ctx context.Context, key string) error {
	err := translate(b.objects.Delete(b.cfg.Bucket, b.name(key)).Context(ctx).Do())
	if err = b.absent(ctx, err); errors.Is(err, storage.ErrNotExist) {
		return nil
	}
	return err
}
