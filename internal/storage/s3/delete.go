package s3

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"
	"golang.org/x/sync/errgroup"

	"wal-e/internal/storage/driver"
)

// bulkSize is how many keys are in a request, of which S3 takes 1000. Some servers
// delete them one by one and say nothing until the last is gone.
const bulkSize = 250

// Delete implements storage.Bucket.
func (b *Bucket) Delete(ctx context.Context, keys ...string) error {
	return driver.DeleteBatches(ctx, b, keys, bulkSize, b.deleteBatch)
}

func (b *Bucket) deleteBatch(ctx context.Context, keys []string) error {
	if len(keys) == 1 || b.single.Load() {
		return b.deleteSingly(ctx, keys)
	}
	err := b.deleteBulk(ctx, keys)
	switch status(err) {
	case http.StatusNotImplemented, http.StatusBadRequest, http.StatusMethodNotAllowed:
		// The server has no such request, or has another idea of it.
		if err := b.deleteSingly(ctx, keys); err != nil {
			return err
		}
		b.single.Store(true)
		return nil
	}
	return err
}

func (b *Bucket) deleteSingly(ctx context.Context, keys []string) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(driver.Deletions)
	for _, key := range keys {
		g.Go(func() error {
			in := &s3.DeleteObjectInput{Bucket: &b.cfg.Bucket, Key: b.name(key)}
			err := b.call(gctx, "s3:DeleteObject", nil, func(opts ...func(*s3.Options)) error {
				_, err := b.client.DeleteObject(gctx, in, opts...)
				return err
			})
			if err != nil && !refused(err, "NoSuchKey") {
				return fmt.Errorf("%s: %w", key, err)
			}
			return nil
		})
	}
	return g.Wait()
}

func (b *Bucket) deleteBulk(ctx context.Context, keys []string) error {
	in := &s3.DeleteObjectsInput{Bucket: &b.cfg.Bucket, Delete: &types.Delete{Quiet: aws.Bool(true)}}
	seen := make(map[string]bool, len(keys))
	for _, key := range keys {
		if !seen[key] {
			seen[key] = true
			in.Delete.Objects = append(in.Delete.Objects, types.ObjectIdentifier{Key: b.name(key)})
		}
	}
	var out *s3.DeleteObjectsOutput
	err := b.call(ctx, "s3:DeleteObject", nil, func(opts ...func(*s3.Options)) (err error) {
		out, err = b.client.DeleteObjects(ctx, in, append(opts, func(o *s3.Options) { o.APIOptions = append(o.APIOptions, sumWithMD5) })...)
		return err
	})
	if err != nil {
		return err
	}
	for _, failed := range out.Errors {
		if aws.ToString(failed.Code) == "NoSuchKey" {
			continue
		}
		e := &refusal{status: http.StatusOK, code: aws.ToString(failed.Code), text: clip(aws.ToString(failed.Message))}
		b.judge(e, "s3:DeleteObject", "")
		return fmt.Errorf("%s: %w", strings.TrimPrefix(aws.ToString(failed.Key), b.cfg.Prefix), e)
	}
	return nil
}

// sumWithMD5 sends the one sum of a list of keys that every store accepts.
func sumWithMD5(stack *middleware.Stack) error {
	for _, id := range []string{"AWSChecksum:SetupInputContext"} {
		if _, err := stack.Initialize.Remove(id); err != nil {
			return err
		}
	}
	if _, err := stack.Finalize.Remove("AWSChecksum:ComputeInputPayloadChecksum"); err != nil {
		return err
	}
	return smithyhttp.AddContentChecksumMiddleware(stack)
}
