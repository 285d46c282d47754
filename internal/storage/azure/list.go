package azure

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"

	"wal-e/internal/storage"
	"wal-e/internal/storage/driver"
)

// List implements storage.Bucket. Blobs whose names are no keys are left out.
func (b *Bucket) List(ctx context.Context, prefix, startAfter string) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		if err := b.list(ctx, prefix, startAfter, yield); err != nil {
			yield(storage.Object{}, storage.ListError(prefix, b, err))
		}
	}
}

func (b *Bucket) list(ctx context.Context, prefix, startAfter string, yield func(storage.Object, error) bool) error {
	options := &container.ListBlobsFlatOptions{MaxResults: &b.cfg.PageSize}
	// What Azure refuses to look for is left to the comparison below.
	if p := driver.CleanPrefix(b.name(prefix)); p != "" {
		options.Prefix = to.Ptr(p)
	}
	last := ""
	for pager := b.client.NewListBlobsFlatPager(options); pager.More(); {
		page, err := pager.NextPage(ctx)
		if err != nil {
			return b.translate(err, rightList)
		}
		if page.Segment == nil {
			return errors.New("the answer holds no listing")
		}
		for _, item := range page.Segment.BlobItems {
			if err := ctx.Err(); err != nil {
				return err
			}
			name, o, err := object(item)
			if err != nil {
				return err
			}
			if name <= last && last != "" {
				return fmt.Errorf("%w: the listing of container %q goes back from %q to %q: has the account a hierarchical namespace? use one without",
					storage.ErrInvalid, b.cfg.Container, last, name)
			}
			last = name
			key, ours := strings.CutPrefix(name, b.cfg.Prefix)
			if !ours || !strings.HasPrefix(key, prefix) || startAfter != "" && key <= startAfter || checkKey(key) != nil {
				continue
			}
			o.Key = key
			if !yield(o, nil) {
				return nil
			}
		}
	}
	return ctx.Err()
}

// object reads a line of a listing.
func object(item *container.BlobItem) (name string, o storage.Object, err error) {
	if item == nil || item.Name == nil {
		return "", o, errors.New("the listing has a line without a name")
	}
	p := item.Properties
	if p == nil || p.ContentLength == nil || p.LastModified == nil || *p.ContentLength < 0 {
		return "", o, fmt.Errorf("the listing has no size or time for %s", *item.Name)
	}
	return *item.Name, storage.Object{Size: *p.ContentLength, ModTime: p.LastModified.UTC()}, nil
}
