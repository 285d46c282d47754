package main_test

import (
	"net/url"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"wal-e/internal/enginetest"
	"wal-e/internal/pgtest"
)

// Where a bucket keeps versions, what somebody removed with the collector's rights is
// brought back as docs/operations.md says: the state of a moment, in another bucket.
func TestVersionsBringBack(t *testing.T) {
	t.Parallel()
	s := enginetest.MinIO(t)
	s.CreateBucket(t, "archive")
	s.CreateBucket(t, "back")
	client := s.Client()
	if _, err := client.PutBucketVersioning(t.Context(), &s3.PutBucketVersioningInput{
		Bucket: aws.String("archive"), VersioningConfiguration: &types.VersioningConfiguration{Status: types.BucketVersioningStatusEnabled},
	}); err != nil {
		t.Fatal(err)
	}
	a := newStorageArchive(t, s.Env("archive", "main"))
	c := a.start(t, pgtest.Options{SegmentSizeMB: 1})
	name := a.push(t, c).Name
	moment := time.Now() // the server is on this host
	c.Stop(t, pgtest.Fast)
	a.must(t, nil, "delete", "--confirm", "everything")
	a.fails(t, nil, 1, []string{"no backup"}, "verify", name)

	// Of each name the version that was current at the moment: the newest up to then.
	current := make(map[string]types.ObjectVersion)
	pages := s3.NewListObjectVersionsPaginator(client, &s3.ListObjectVersionsInput{Bucket: aws.String("archive")})
	for pages.HasMorePages() {
		page, err := pages.NextPage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range page.Versions {
			if old, ok := current[*v.Key]; !v.LastModified.After(moment) && (!ok || v.LastModified.After(*old.LastModified)) {
				current[*v.Key] = v
			}
		}
		for _, v := range page.DeleteMarkers {
			if old, ok := current[*v.Key]; ok && !v.LastModified.After(moment) && v.LastModified.After(*old.LastModified) {
				delete(current, *v.Key)
			}
		}
	}
	for key, v := range current {
		if _, err := client.CopyObject(t.Context(), &s3.CopyObjectInput{
			Bucket: aws.String("back"), Key: &key, CopySource: aws.String("archive/" + url.PathEscape(key) + "?versionId=" + *v.VersionId),
		}); err != nil {
			t.Fatalf("%s: %v", key, err)
		}
	}
	back := newStorageArchive(t, s.Env("back", "main"))
	back.must(t, nil, "verify", "--all", "--read-data", "--wal")
	back.must(t, nil, "backup-fetch", target(t), name)
}
