package azure

import (
	"context"
	"errors"

	"wal-e/internal/storage"
	"wal-e/internal/storage/driver"
)

// Delete implements storage.Bucket, a request for each. There is a batch request, but
// tokens made for one container can't use it, and accounts limit it to 256 blobs.
func (b *Bucket) Delete(ctx context.Context, keys ...string) error {
	return driver.DeleteEach(ctx, b, keys, checkKey, b.remove)
}

func (b *Bucket) remove(ctx context.Context, key string) error {
	_, err := b.client.NewBlobClient(b.name(key)).Delete(ctx, nil)
	if err = b.translate(err, rightDelete); errors.Is(err, storage.ErrNotExist) {
		return nil
	}
	return err
}
