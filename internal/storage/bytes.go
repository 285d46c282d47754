package storage

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math"
)

// ReadAll returns the whole content of an object that is meant to be small. An
// object larger than limit bytes is an error, not an allocation.
func ReadAll(ctx context.Context, b Bucket, key string, limit int64) (data []byte, err error) {
	if limit < 0 || limit == math.MaxInt64 {
		return nil, fmt.Errorf("%w: read %s with a limit of %d bytes", ErrInvalid, key, limit)
	}
	body, err := b.Get(ctx, key, 0, limit+1)
	if err != nil {
		return nil, err
	}
	defer func() {
		if cerr := body.Close(); err == nil && cerr != nil {
			data, err = nil, fmt.Errorf("read %s: %w", key, cerr)
		}
	}()
	data, err = io.ReadAll(io.LimitReader(body, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("read %s: object in %s is larger than %d bytes", key, b.URL(), limit)
	}
	return data, nil
}

// CreateBytes creates an object that holds data. It keeps every promise of
// Create; as the bytes can be sent again, a retry is always possible.
func CreateBytes(ctx context.Context, b Bucket, key string, data []byte, meta Meta) error {
	return b.Create(ctx, key, bytes.NewReader(data), int64(len(data)), meta)
}
