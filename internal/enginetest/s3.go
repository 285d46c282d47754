package enginetest

import (
	"context"
	"crypto/tls"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"
)

// An S3Server speaks the protocol of S3 on 127.0.0.1, in plain HTTP and with the
// bucket in the path unless it is said otherwise.
type S3Server struct {
	*Process
	Addr      string // HOST:PORT
	AccessKey string
	SecretKey string
	Region    string
	tls       bool
}

// Endpoint is what WALE_S3_ENDPOINT is set to.
func (s *S3Server) Endpoint() string { return "http+path://" + s.Addr }

// Env returns the variables of a prefix on the server.
func (s *S3Server) Env(bucket, path string) map[string]string {
	return map[string]string{
		"WALE_S3_PREFIX":        "s3://" + bucket + "/" + path,
		"WALE_S3_ENDPOINT":      s.Endpoint(),
		"AWS_ACCESS_KEY_ID":     s.AccessKey,
		"AWS_SECRET_ACCESS_KEY": s.SecretKey,
		"AWS_REGION":            s.Region,
	}
}

// Client returns the SDK's client with all rights.
func (s *S3Server) Client() *s3.Client {
	base, client := "http://"+s.Addr, http.DefaultClient
	if s.tls {
		base = "https://" + s.Addr
		client = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}} // of a test's own certificate
	}
	return s3.New(s3.Options{
		Region: s.Region, BaseEndpoint: &base, UsePathStyle: true, HTTPClient: client,
		Credentials:                credentials.NewStaticCredentialsProvider(s.AccessKey, s.SecretKey, ""),
		RequestChecksumCalculation: aws.RequestChecksumCalculationWhenRequired,
	})
}

// CreateBucket makes an empty bucket.
func (s *S3Server) CreateBucket(t testing.TB, name string) {
	t.Helper()
	var owned *types.BucketAlreadyOwnedByYou // the answer to the first try was late
	if err := s.createBucket(t.Context(), name); err != nil && !errors.As(err, &owned) {
		t.Fatalf("create bucket %s on %s: %v", name, s.Addr, err)
	}
}

func (s *S3Server) createBucket(ctx context.Context, name string) error {
	_, err := s.Client().CreateBucket(ctx, &s3.CreateBucketInput{Bucket: &name})
	return err
}

// Session returns credentials that may do what the server's own may and policy
// (JSON; empty: everything) allows.
func (s *S3Server) Session(t testing.TB, policy string) (accessKey, secretKey, token string) {
	t.Helper()
	client := sts.New(sts.Options{
		Region: s.Region, BaseEndpoint: aws.String("http://" + s.Addr),
		Credentials: credentials.NewStaticCredentialsProvider(s.AccessKey, s.SecretKey, ""),
	})
	in := &sts.AssumeRoleInput{RoleArn: aws.String("arn:aws:iam::123456789012:role/any"), RoleSessionName: aws.String("test")}
	if policy != "" {
		in.Policy = &policy
	}
	var out *sts.AssumeRoleOutput
	wait(t, "sessions on "+s.Addr, func(ctx context.Context) (err error) { // MinIO is up before they are
		out, err = client.AssumeRole(ctx, in)
		if err != nil && !strings.Contains(err.Error(), "not initialized") {
			t.Fatalf("session on %s: %v", s.Addr, err)
		}
		return err
	})
	return *out.Credentials.AccessKeyId, *out.Credentials.SecretAccessKey, *out.Credentials.SessionToken
}

// Objects returns the names of all objects in a bucket, in order.
func (s *S3Server) Objects(t testing.TB, bucket string) []string {
	t.Helper()
	var names []string
	pages := s3.NewListObjectsV2Paginator(s.Client(), &s3.ListObjectsV2Input{Bucket: &bucket})
	for pages.HasMorePages() {
		page, err := pages.NextPage(t.Context())
		if err != nil {
			t.Fatalf("list bucket %s on %s: %v", bucket, s.Addr, err)
		}
		for _, o := range page.Contents {
			names = append(names, *o.Key)
		}
	}
	return names
}

// S3 returns a Swift's gateway.
func (s *SwiftServer) S3() *S3Server {
	return &S3Server{Process: s.proxy, Addr: strings.TrimPrefix(s.URL, "http://"), AccessKey: s.User, SecretKey: s.Password, Region: "us-east-1"}
}
