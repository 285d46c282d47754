package azure

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"

	"wal-e/internal/storage"
	"wal-e/internal/storage/driver"
)

// Get implements storage.Bucket.
func (b *Bucket) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	body, err := b.get(ctx, key, offset, length)
	if err != nil {
		return nil, fmt.Errorf("get %s from %s: %w", key, b.URL(), err)
	}
	return body, nil
}

func (b *Bucket) get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	if err := checkKey(key); err != nil {
		return nil, err
	}
	if offset < 0 {
		return nil, fmt.Errorf("%w: offset %d", storage.ErrInvalid, offset)
	}
	if length == 0 {
		_, err := b.stat(ctx, key)
		return http.NoBody, err
	}
	var options blob.DownloadStreamOptions
	ranged := offset > 0 || length > 0
	if options.Range.Offset = offset; length > 0 && length <= math.MaxInt64-offset {
		options.Range.Count = length // 0 means to the end
	}
	res, err := b.client.NewBlobClient(b.name(key)).DownloadStream(ctx, &options)
	if err != nil {
		var e *azcore.ResponseError
		if ranged && errors.As(err, &e) && e.StatusCode == http.StatusRequestedRangeNotSatisfiable {
			return http.NoBody, nil // it begins behind the last byte
		}
		return nil, b.translate(err, rightRead)
	}
	if ranged && res.ContentRange == nil {
		res.Body.Close()
		return nil, fmt.Errorf("%w: the server ignores the range of a request", storage.ErrInvalid)
	}
	if res.ContentLength == nil {
		return res.Body, nil
	}
	return driver.NewBody(ctx, res.Body, *res.ContentLength), nil
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
	if err := checkKey(key); err != nil {
		return storage.Attributes{}, err
	}
	p, err := b.client.NewBlobClient(b.name(key)).GetProperties(ctx, nil)
	if err != nil {
		return storage.Attributes{}, b.translate(err, rightRead)
	}
	if p.ContentLength == nil || p.LastModified == nil {
		return storage.Attributes{}, errors.New("the server says nothing of its size and time")
	}
	return storage.Attributes{
		Object: storage.Object{Key: key, Size: *p.ContentLength, ModTime: p.LastModified.UTC()},
		Meta:   decodeMeta(p.Metadata),
	}, nil
}
