package s3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"wal-e/internal/storage"
	"wal-e/internal/storage/driver"
)

// Get implements storage.Bucket.
func (b *Bucket) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	body, err := b.get(ctx, key, offset, length)
	if err != nil {
		return nil, fmt.Errorf("get %s in %s: %w", key, b.URL(), err)
	}
	return body, nil
}

func (b *Bucket) get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	if err := storage.CheckKey(key); err != nil {
		return nil, err
	}
	if offset < 0 {
		return nil, fmt.Errorf("%w: offset %d", storage.ErrInvalid, offset)
	}
	if length == 0 {
		_, err := b.head(ctx, key)
		return io.NopCloser(bytes.NewReader(nil)), err
	}
	in := &s3.GetObjectInput{Bucket: &b.cfg.Bucket, Key: b.name(key)}
	if span := driver.Range(offset, length); span != "" {
		in.Range = &span
	}
	var out *s3.GetObjectOutput
	err := b.call(ctx, "s3:GetObject", nil, func(opts ...func(*s3.Options)) (err error) {
		out, err = b.client.GetObject(ctx, in, opts...)
		return err
	})
	switch {
	case status(err) == http.StatusRequestedRangeNotSatisfiable:
		b.found.Store(true)
		return io.NopCloser(bytes.NewReader(nil)), nil
	case err != nil:
		return nil, b.absent(ctx, key, err)
	}
	if in.Range != nil && !strings.HasPrefix(aws.ToString(out.ContentRange), fmt.Sprintf("bytes %d-", offset)) {
		out.Body.Close()
		return nil, fmt.Errorf("the server sends %q, asked for was %q", aws.ToString(out.ContentRange), *in.Range)
	}
	left := int64(-1)
	if out.ContentLength != nil {
		left = *out.ContentLength
	}
	return driver.NewBody(ctx, out.Body, left), nil
}

// absent turns an answer to a request for one object into ErrNotExist, if it
// proves that the object isn't there. Without the right to list, S3 answers 403
// for what is missing; then a listing of just that key decides, where some other
// right allows it.
func (b *Bucket) absent(ctx context.Context, key string, err error) error {
	switch {
	case refused(err, "NoSuchKey"):
		b.found.Store(true)
		return storage.ErrNotExist
	case refused(err, "NoSuchBucket"):
		return err
	case status(err) == http.StatusForbidden && (refused(err, "AccessDenied", "Forbidden", "")):
		for o, lerr := range b.List(ctx, key, "") {
			if lerr != nil || o.Key == key {
				return err
			}
			break
		}
		return storage.ErrNotExist
	}
	return err
}

// head asks for what is known of an object. Its answer has no body, so one that
// is missing and a bucket that is missing look alike: a request with a body
// tells them apart, once.
func (b *Bucket) head(ctx context.Context, key string) (*s3.HeadObjectOutput, error) {
	var out *s3.HeadObjectOutput
	in := &s3.HeadObjectInput{Bucket: &b.cfg.Bucket, Key: b.name(key)}
	err := b.call(ctx, "s3:GetObject", nil, func(opts ...func(*s3.Options)) (err error) {
		out, err = b.client.HeadObject(ctx, in, opts...)
		return err
	})
	switch {
	case err == nil:
		return out, nil
	case status(err) == http.StatusNotFound && b.found.Load():
		return nil, storage.ErrNotExist
	case status(err) != http.StatusNotFound && status(err) != http.StatusBadRequest:
		return nil, b.absent(ctx, key, err)
	}
	r, err := b.get(ctx, key, 0, 1)
	if err == nil {
		r.Close()
		return nil, errors.New("the server found it only when it was asked twice")
	}
	return nil, err
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
	if err := storage.CheckKey(key); err != nil {
		return storage.Attributes{}, err
	}
	h, err := b.head(ctx, key)
	if err != nil {
		return storage.Attributes{}, err
	}
	if h.ContentLength == nil || *h.ContentLength < 0 || h.LastModified == nil {
		return storage.Attributes{}, errors.New("the server doesn't say its size and time")
	}
	a := storage.Attributes{Object: storage.Object{Key: key, Size: *h.ContentLength, ModTime: seconds(*h.LastModified)}}
	for k, v := range h.Metadata {
		if a.Meta == nil {
			a.Meta = storage.Meta{}
		}
		a.Meta[strings.ToLower(k)] = v
	}
	return a, nil
}

// seconds is how exact the time of one object is; listings of some stores are
// more exact, and the two must agree.
func seconds(t time.Time) time.Time { return t.UTC().Truncate(time.Second) }

// List implements storage.Bucket. Objects whose names are no keys are left out.
func (b *Bucket) List(ctx context.Context, prefix, startAfter string) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		if err := b.list(ctx, prefix, startAfter, yield); err != nil {
			yield(storage.Object{}, storage.ListError(prefix, b, err))
		}
	}
}

func (b *Bucket) list(ctx context.Context, prefix, startAfter string, yield func(storage.Object, error) bool) error {
	if !beginsKeys(prefix) {
		return ctx.Err() // MinIO refuses to look
	}
	in := &s3.ListObjectsV2Input{
		Bucket: &b.cfg.Bucket, MaxKeys: aws.Int32(int32(b.cfg.PageSize)), EncodingType: types.EncodingTypeUrl,
		// What no name holds is left to our own comparison: some stores refuse it.
		Prefix: aws.String(driver.CleanPrefix(b.cfg.Prefix + undotted(prefix))),
	}
	if startAfter != "" {
		in.StartAfter = aws.String(driver.CleanPrefix(b.cfg.Prefix + startAfter))
	}
	last := ""
	for {
		var page *s3.ListObjectsV2Output
		err := b.call(ctx, "s3:ListBucket", nil, func(opts ...func(*s3.Options)) (err error) {
			page, err = b.client.ListObjectsV2(ctx, in, opts...)
			return err
		})
		if err != nil {
			return err
		}
		for _, o := range page.Contents {
			name := aws.ToString(o.Key)
			if page.EncodingType == types.EncodingTypeUrl {
				if name, err = url.QueryUnescape(name); err != nil {
					return fmt.Errorf("the server lists %q: %w", aws.ToString(o.Key), err)
				}
			}
			if name <= last && last != "" {
				return fmt.Errorf("the listing goes back from %q to %q", last, name)
			}
			last = name
			key, ours := strings.CutPrefix(name, b.cfg.Prefix)
			if !ours || !strings.HasPrefix(key, prefix) || startAfter != "" && key <= startAfter || storage.CheckKey(key) != nil {
				continue
			}
			if o.Size == nil || *o.Size < 0 || o.LastModified == nil {
				return fmt.Errorf("the server lists %s without its size or time", key)
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			if !yield(storage.Object{Key: key, Size: *o.Size, ModTime: seconds(*o.LastModified)}, nil) {
				return nil
			}
		}
		if !aws.ToBool(page.IsTruncated) {
			return ctx.Err()
		}
		if aws.ToString(page.NextContinuationToken) == "" {
			return errors.New("the server says that its listing goes on and not how to go on")
		}
		in.ContinuationToken = page.NextContinuationToken
	}
}

// beginsKeys reports whether a key can begin with prefix.
func beginsKeys(prefix string) bool {
	i := strings.LastIndexByte(prefix, '/')
	return i < 0 || storage.CheckKey(prefix[:i]) == nil
}

// undotted leaves a last element away that would lead to another folder, which
// MinIO refuses, too. What it begins is found by our own comparison.
func undotted(prefix string) string {
	i := strings.LastIndexByte(prefix, '/') + 1
	if prefix[i:] == "." || prefix[i:] == ".." {
		return prefix[:i]
	}
	return prefix
}
