package s3_test

import (
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"wal-e/internal/enginetest"
	"wal-e/internal/storage"
)

// A rule that expires what backups need is found, whether it is for part of our
// prefix or for all of the bucket; others and switched-off ones aren't ours.
func TestInspect(t *testing.T) {
	t.Parallel()
	s := enginetest.MinIO(t)
	s.CreateBucket(t, "ruled")
	cfg := config(t, s, "ruled")
	cfg.Prefix = "some/path/"
	verdicts := func() map[string]storage.Verdict {
		t.Helper()
		all := make(map[string]storage.Verdict)
		for _, r := range storage.Inspect(t.Context(), storage.Retry(open(t, cfg), storage.Policy{})) {
			all[r.Rule] = r.Verdict
			if r.Text == "" || r.Verdict == storage.Unfit && r.Fix == "" {
				t.Errorf("a remark without what is the matter, or what to do: %+v", r)
			}
		}
		return all
	}
	for rule, v := range verdicts() {
		if v != storage.Fit {
			t.Errorf("%s of a plain bucket: %s, want %s", rule, v, storage.Fit)
		}
	}
	for _, test := range []struct {
		prefix string
		status types.ExpirationStatus
		want   storage.Verdict
	}{
		{"", types.ExpirationStatusEnabled, storage.Unfit},
		{"some/", types.ExpirationStatusEnabled, storage.Unfit},
		{"some/path/chunks_006/packs/", types.ExpirationStatusEnabled, storage.Unfit},
		{"some/path/", types.ExpirationStatusDisabled, storage.Fit},
		{"another/", types.ExpirationStatusEnabled, storage.Fit},
	} {
		_, err := s.Client().PutBucketLifecycleConfiguration(t.Context(), &sdk.PutBucketLifecycleConfigurationInput{
			Bucket: aws.String("ruled"),
			LifecycleConfiguration: &types.BucketLifecycleConfiguration{Rules: []types.LifecycleRule{{
				ID: aws.String("expire"), Status: test.status, Filter: &types.LifecycleRuleFilter{Prefix: &test.prefix},
				Expiration: &types.LifecycleExpiration{Days: aws.Int32(30)},
			}}},
		})
		if err != nil {
			t.Fatal(err)
		}
		if got := verdicts()["lifecycle rules"]; got != test.want {
			t.Errorf("a rule of status %s for %q: %s, want %s", test.status, test.prefix, got, test.want)
		}
	}
	// The least credentials aren't told, which is no fault.
	cfg.AccessKeyID, cfg.SecretAccessKey, cfg.SessionToken = s.Session(t, allow("s3:ListBucket", "ruled"))
	for rule, v := range verdicts() {
		if v != storage.Forbidden {
			t.Errorf("%s told to credentials without rights: %s, want %s", rule, v, storage.Forbidden)
		}
	}
}
