package azure

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sync/errgroup"

	"wal-e/internal/storage"
)

// deletions are sent side by side. There is a batch request, but tokens made for
// one container can't use it, and accounts limit it to 256 blobs.
const deletions = 8

// Delete implements storage.Bucket.
func (b *Bucket) Delete(ctx context.Context, keys ...string) error {
	for _, key := range keys {
		if err := checkKey(key); err != nil {
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
	_, err := b.client.NewBlobClient(b.name(key)).Delete(ctx, nil)
	if err = b.translate(err, rightDelete); errors.Is(err, storage.ErrNotExist) {
		return nil
	}
	return err
}
