package driver

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"

	"wal-e/internal/storage"
)

// Deletions is how many requests for one object each are sent side by side.
const Deletions = 8

// DeleteEach is a bucket's Delete where each object is a request. What isn't there
// remove takes for removed.
func DeleteEach(ctx context.Context, b storage.Bucket, keys []string, check func(key string) error, remove func(ctx context.Context, key string) error) error {
	if err := checkKeys(b, keys, check); err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(Deletions)
	for _, key := range keys {
		if gctx.Err() != nil {
			break // the first error says why
		}
		g.Go(func() error {
			if err := remove(gctx, key); err != nil {
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

// DeleteBatches is a bucket's Delete where a request takes so many objects. The
// errors of remove name the key, where it is one's.
func DeleteBatches(ctx context.Context, b storage.Bucket, keys []string, size int, remove func(ctx context.Context, keys []string) error) error {
	if err := checkKeys(b, keys, storage.CheckKey); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("delete in %s: %w", b.URL(), err)
	}
	for len(keys) > 0 {
		batch := keys[:min(size, len(keys))]
		if err := remove(ctx, batch); err != nil {
			return fmt.Errorf("delete in %s: %w", b.URL(), err)
		}
		keys = keys[len(batch):]
	}
	return nil
}

func checkKeys(b storage.Bucket, keys []string, check func(key string) error) error {
	for _, key := range keys {
		if err := check(key); err != nil {
			return fmt.Errorf("delete %s in %s: %w", key, b.URL(), err)
		}
	}
	return nil
}
