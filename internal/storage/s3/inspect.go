package s3

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"wal-e/internal/storage"
)

// Inspect tells the rules of the bucket: what it removes or moves away by itself,
// whether it keeps what was deleted, and whether it locks objects. It needs the
// rights to read them, which pushes don't have.
func (b *Bucket) Inspect(ctx context.Context) []storage.Remark {
	return []storage.Remark{b.lifecycle(ctx), b.versions(ctx), b.locks(ctx)}
}

// told turns the error of a question into a remark.
func told(rule, right string, err error) storage.Remark {
	if errors.Is(err, storage.ErrPermission) {
		return storage.Remark{Rule: rule, Verdict: storage.Forbidden, Text: "not told: it takes the right " + right}
	}
	return storage.Remark{Rule: rule, Verdict: storage.NotKnown, Text: err.Error()}
}

// lifecycle looks for rules that expire what backups need, or move it to where a
// restore can't read it.
func (b *Bucket) lifecycle(ctx context.Context) storage.Remark {
	const rule = "lifecycle rules"
	var out *s3.GetBucketLifecycleConfigurationOutput
	err := b.call(ctx, "s3:GetLifecycleConfiguration", nil, func(opts ...func(*s3.Options)) (err error) {
		out, err = b.client.GetBucketLifecycleConfiguration(ctx, &s3.GetBucketLifecycleConfigurationInput{Bucket: &b.cfg.Bucket}, opts...)
		return err
	})
	switch {
	case refused(err, "NoSuchLifecycleConfiguration"):
		return storage.Remark{Rule: rule, Verdict: storage.Fit, Text: "none: nothing but delete and gc removes objects"}
	case err != nil:
		return told(rule, "s3:GetLifecycleConfiguration", err)
	}
	for _, r := range out.Rules {
		if r.Status != types.ExpirationStatusEnabled || !b.covers(r) {
			continue
		}
		if what := harm(r); what != "" {
			return storage.Remark{
				Rule: rule, Verdict: storage.Unfit, Text: fmt.Sprintf("rule %q of bucket %s %s under this prefix", aws.ToString(r.ID), b.cfg.Bucket, what),
				Fix: "exempt the prefix from it: a backup needs packs of any age, and delete removes them when none does",
			}
		}
	}
	return storage.Remark{Rule: rule, Verdict: storage.Fit, Text: "none removes or archives what is under this prefix"}
}

// harm says what a rule does to objects that are current.
func harm(r types.LifecycleRule) string {
	if e := r.Expiration; e != nil && (e.Days != nil || e.Date != nil) {
		return "removes objects by their age"
	}
	for _, t := range r.Transitions {
		switch t.StorageClass {
		case types.TransitionStorageClassGlacier, types.TransitionStorageClassDeepArchive:
			return "moves objects to " + string(t.StorageClass) + ", where a restore can't read them,"
		}
	}
	return ""
}

// covers tells whether a rule is about any object of ours: its prefix lies within
// ours, or ours within it.
func (b *Bucket) covers(r types.LifecycleRule) bool {
	//lint:ignore SA1019 where old rules have it
	within := aws.ToString(r.Prefix)
	if f := r.Filter; f != nil {
		switch {
		case f.Prefix != nil:
			within = *f.Prefix
		case f.Tag != nil:
			return false // our objects have no tags
		case f.And != nil && len(f.And.Tags) > 0:
			return false
		case f.And != nil:
			within = aws.ToString(f.And.Prefix)
		}
	}
	ours := b.cfg.Prefix
	return strings.HasPrefix(ours, within) || strings.HasPrefix(within, ours)
}

func (b *Bucket) versions(ctx context.Context) storage.Remark {
	const rule = "versions"
	var out *s3.GetBucketVersioningOutput
	err := b.call(ctx, "s3:GetBucketVersioning", nil, func(opts ...func(*s3.Options)) (err error) {
		out, err = b.client.GetBucketVersioning(ctx, &s3.GetBucketVersioningInput{Bucket: &b.cfg.Bucket}, opts...)
		return err
	})
	switch {
	case err != nil:
		return told(rule, "s3:GetBucketVersioning", err)
	case out.Status == types.BucketVersioningStatusEnabled:
		return storage.Remark{
			Rule: rule, Verdict: storage.Fit,
			Text: "kept: what delete removes takes space until a lifecycle rule expires noncurrent versions, and can be brought back until then",
		}
	}
	return storage.Remark{Rule: rule, Verdict: storage.Fit, Text: "none: what delete removes is gone at once"}
}

func (b *Bucket) locks(ctx context.Context) storage.Remark {
	const rule = "object lock"
	var out *s3.GetObjectLockConfigurationOutput
	err := b.call(ctx, "s3:GetBucketObjectLockConfiguration", nil, func(opts ...func(*s3.Options)) (err error) {
		out, err = b.client.GetObjectLockConfiguration(ctx, &s3.GetObjectLockConfigurationInput{Bucket: &b.cfg.Bucket}, opts...)
		return err
	})
	switch {
	case refused(err, "ObjectLockConfigurationNotFoundError"):
		return storage.Remark{Rule: rule, Verdict: storage.Fit, Text: "none"}
	case err != nil:
		return told(rule, "s3:GetBucketObjectLockConfiguration", err)
	}
	text := "on, without a default: objects aren't locked"
	if c := out.ObjectLockConfiguration; c != nil && c.Rule != nil && c.Rule.DefaultRetention != nil {
		r := c.Rule.DefaultRetention
		length := fmt.Sprintf("%d days", aws.ToInt32(r.Days))
		if r.Years != nil {
			length = fmt.Sprintf("%d years", *r.Years)
		}
		text = fmt.Sprintf("%s for %s: delete can't remove anything before", r.Mode, length)
	}
	return storage.Remark{Rule: rule, Verdict: storage.Fit, Text: text}
}
