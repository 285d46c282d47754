package azure

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/streaming"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/bloberror"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blockblob"

	"wal-e/internal/fault"
	"wal-e/internal/storage"
	"wal-e/internal/storage/driver"
)

// Create implements storage.Bucket.
func (b *Bucket) Create(ctx context.Context, key string, r io.Reader, size int64, meta storage.Meta) error {
	if err := b.create(ctx, key, r, size, meta); err != nil {
		return fmt.Errorf("create %s in %s: %w", key, b.URL(), err)
	}
	return nil
}

func (b *Bucket) create(ctx context.Context, key string, r io.Reader, size int64, meta storage.Meta) error {
	if err := checkKey(key); err != nil {
		return err
	}
	kept, err := encodeMeta(meta)
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	seek, start := storage.Fixed(r)
	if size, err = driver.Size(size, seek, start); err != nil {
		return err
	}
	if size < 0 {
		// Most of what has no size is small.
		look := make([]byte, b.cfg.BlockSize)
		n, err := io.ReadFull(storage.ExactReader(ctx, r, -1), look)
		switch {
		case err == nil:
			return b.createBlocks(ctx, key, io.MultiReader(bytes.NewReader(look), r), -1, kept)
		case err != io.EOF && err != io.ErrUnexpectedEOF:
			return err
		}
		r, size = bytes.NewReader(look[:n]), int64(n)
	}
	if size > b.cfg.Largest {
		return b.createBlocks(ctx, key, r, size, kept)
	}
	return b.createWhole(ctx, key, r, size, kept)
}

// onlyNew is the condition that a name is free.
func onlyNew() *blob.AccessConditions {
	return &blob.AccessConditions{ModifiedAccessConditions: &blob.ModifiedAccessConditions{IfNoneMatch: to.Ptr(azcore.ETagAny)}}
}

func headers() *blob.HTTPHeaders {
	return &blob.HTTPHeaders{BlobContentType: to.Ptr("application/octet-stream")}
}

// createWhole creates a blob with one request.
func (b *Bucket) createWhole(ctx context.Context, key string, r io.Reader, size int64, meta map[string]*string) error {
	options := &blockblob.UploadOptions{Metadata: meta, HTTPHeaders: headers(), AccessConditions: onlyNew()}
	sum := md5.New()
	body := newContent(ctx, r, size)
	switch {
	case body.back != nil:
		// With the sum ahead, the server refuses what was damaged on the way.
		if _, err := io.Copy(sum, body); err != nil {
			return err
		}
		if _, err := body.Seek(0, io.SeekStart); err != nil {
			return err
		}
		options.TransactionalValidation = blob.TransferValidationTypeMD5(sum.Sum(nil))
	case size == 0:
		// No body is sent, so nobody else finds out that there is one.
		if _, err := io.Copy(io.Discard, body); err != nil {
			return err
		}
		body = newContent(ctx, bytes.NewReader(nil), 0)
	default:
		body.r = io.TeeReader(body.r, sum)
	}
	res, err := b.client.NewBlockBlobClient(b.name(key)).Upload(ctx, body, options)
	if rerr := body.stop(); rerr != nil && err != nil {
		return rerr
	}
	if err == nil {
		return b.arrived(ctx, key, res.ContentMD5, sum)
	}
	if err = b.taken(ctx, key, err); !errors.Is(err, storage.ErrExist) {
		return err
	}
	// Blocks of an upload that broke off may hold the name, though no blob does.
	// They don't hold off a list of blocks.
	if _, serr := b.stat(ctx, key); !errors.Is(serr, storage.ErrNotExist) {
		return err
	}
	if body.back == nil {
		return errors.New("blocks of an upload that broke off hold the name: use another one, or wait a week")
	}
	again, err := body.back()
	if err != nil {
		return err
	}
	return b.createBlocks(ctx, key, again, size, meta)
}

// arrived compares the sum of what the server has got, if it tells, with that of
// what was sent.
func (b *Bucket) arrived(ctx context.Context, key string, got []byte, sent hash.Hash) error {
	want := sent.Sum(nil)
	if len(got) == 0 || bytes.Equal(got, want) {
		return nil
	}
	// The name was free, so what stands there is ours, and damaged.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	err := fault.Unlike.Errorf("what arrived has the MD5 sum %x, what was sent has %x", got, want)
	if derr := b.remove(ctx, key); derr != nil {
		return fmt.Errorf("%w, and deleting it again: %w: delete it by hand", err, derr)
	}
	return err
}

// taken gives the answer to a conditional request its meaning.
func (b *Bucket) taken(ctx context.Context, key string, err error) error {
	var res *azcore.ResponseError
	if !errors.As(err, &res) {
		return b.translate(err, rightCreate)
	}
	switch bloberror.Code(res.ErrorCode) {
	case bloberror.BlobAlreadyExists, bloberror.ConditionNotMet, bloberror.UnauthorizedBlobOverwrite:
		return storage.ErrExist
	case bloberror.InvalidBlockList, bloberror.AuthorizationPermissionMismatch:
		// Azure drops the blocks of the others when one commits, and a signature
		// that may only create is refused where there is something already.
		if _, serr := b.stat(ctx, key); serr == nil {
			return storage.ErrExist
		}
	}
	if res.StatusCode == http.StatusPreconditionFailed {
		return storage.ErrExist
	}
	return b.translate(err, rightCreate)
}

// createBlocks stores blocks, and then the list that makes them a blob. A
// negative size is not known.
func (b *Bucket) createBlocks(ctx context.Context, key string, r io.Reader, size int64, meta map[string]*string) error {
	// Only the list is refused under a key that is taken. To find out then would
	// be late.
	switch _, err := b.Stat(ctx, key); {
	case err == nil:
		return storage.ErrExist
	case errors.Is(err, storage.ErrPermission): // who may only create learns it at the end
	case !errors.Is(err, storage.ErrNotExist):
		return err
	}
	client := b.client.NewBlockBlobClient(b.name(key))
	block := make([]byte, b.cfg.blockSize(size))
	r = storage.ExactReader(ctx, r, size)
	whole := md5.New()
	run := rand.Text() // others may be storing blocks under the same key
	var ids []string
	for last := false; !last; {
		n, err := io.ReadFull(r, block)
		switch {
		case err == io.EOF || err == io.ErrUnexpectedEOF:
			last = true
		case err != nil:
			return err
		}
		if n == 0 {
			break
		}
		if len(ids) == maxBlocks {
			return fmt.Errorf("%w: it is larger than %d blocks of %d bytes", storage.ErrInvalid, maxBlocks, len(block))
		}
		id := base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "%s-%05d", run, len(ids)))
		ids = append(ids, id)
		whole.Write(block[:n])
		if err := stage(ctx, client, id, block[:n]); err != nil {
			return fmt.Errorf("block %d: %w", len(ids), b.translate(err, rightWrite))
		}
	}
	h := headers()
	h.BlobContentMD5 = whole.Sum(nil)
	_, err := client.CommitBlockList(ctx, ids, &blockblob.CommitBlockListOptions{
		Metadata: meta, HTTPHeaders: h, AccessConditions: onlyNew(),
	})
	if err != nil {
		return b.taken(ctx, key, err)
	}
	return nil
}

// blockSize returns how many bytes a block of a blob has. A negative size is not
// known.
func (c *Config) blockSize(size int64) int64 {
	each := max(c.BlockSize, (size+maxBlocks-1)/maxBlocks)
	if size >= 0 {
		each = min(each, max(size, 1))
	}
	return each
}

// stage stores a block.
func stage(ctx context.Context, client *blockblob.Client, id string, data []byte) error {
	sum := md5.Sum(data)
	_, err := client.StageBlock(ctx, id, streaming.NopCloser(bytes.NewReader(data)), &blockblob.StageBlockOptions{
		TransactionalValidation: blob.TransferValidationTypeMD5(sum[:]),
	})
	return err
}
