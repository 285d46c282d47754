package s3

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	sdkcredentials "github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/credentials/ec2rolecreds"
	"github.com/aws/smithy-go/logging"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"wal-e/internal/storage"
)

// renewBefore is how long before they expire credentials are renewed.
const renewBefore = 5 * time.Minute

// credentials are asked for when the first request needs them: to look for
// them may take seconds.
type credentials struct {
	find  func(context.Context) (aws.CredentialsProvider, string, error) // and a region or ""
	fixed bool                                                           // they can't be renewed
	// instance: somebody said that they come from the metadata service
	instance bool
	found    atomic.Bool // they were there once

	mu     sync.Mutex
	cache  *aws.CredentialsCache // nil before the first use
	region string
}

func newCredentials(cfg *Config) *credentials {
	switch {
	case cfg.InstanceProfile:
		return &credentials{instance: true, find: func(context.Context) (aws.CredentialsProvider, string, error) {
			return ec2rolecreds.New(), "", nil
		}}
	case cfg.AccessKeyID != "":
		p := sdkcredentials.NewStaticCredentialsProvider(cfg.AccessKeyID, cfg.SecretAccessKey, cfg.SessionToken)
		return &credentials{fixed: true, find: func(context.Context) (aws.CredentialsProvider, string, error) { return p, "", nil }}
	}
	return &credentials{find: func(ctx context.Context) (aws.CredentialsProvider, string, error) {
		// What the SDK logs by itself goes past our records to stderr; what
		// counts of it is in its errors.
		found, err := config.LoadDefaultConfig(ctx, config.WithLogger(logging.Nop{}))
		if err != nil {
			return nil, "", fmt.Errorf("read the AWS configuration: %w", err)
		}
		return found.Credentials, found.Region, nil
	}}
}

// Retrieve implements aws.CredentialsProvider.
func (c *credentials) Retrieve(ctx context.Context) (aws.Credentials, error) {
	cache, err := c.open(ctx)
	if err != nil {
		return aws.Credentials{}, newCredentialsError(err, false)
	}
	found, err := cache.Retrieve(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return aws.Credentials{}, ctx.Err()
		}
		return aws.Credentials{}, newCredentialsError(err, c.instance || c.found.Load())
	}
	c.found.Store(true)
	return found, nil
}

func (c *credentials) open(ctx context.Context) (*aws.CredentialsCache, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cache != nil {
		return c.cache, nil
	}
	provider, region, err := c.find(ctx)
	if err != nil {
		return nil, err
	}
	c.region = region
	c.cache = aws.NewCredentialsCache(provider, func(o *aws.CredentialsCacheOptions) { o.ExpiryWindow = renewBefore })
	return c.cache, nil
}

// profileRegion is the region that the SDK's files name, or "".
func (c *credentials) profileRegion() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.region
}

// expired makes the next request ask for new credentials, and reports whether
// there is hope of any.
func (c *credentials) expired() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cache != nil {
		c.cache.Invalidate()
	}
	return !c.fixed
}

// A credentialsError says that there are no credentials. To try again is worth
// while when they were found before, or the metadata service of an instance is
// there and has a bad moment; it wraps storage.ErrPermission otherwise.
type credentialsError struct {
	err     error
	passing bool
}

func newCredentialsError(err error, foundBefore bool) error {
	var answer *smithyhttp.ResponseError
	passing := foundBefore || errors.As(err, &answer) && (answer.HTTPStatusCode() >= 500 || answer.HTTPStatusCode() == 429)
	return &credentialsError{err, passing}
}

func (e *credentialsError) Error() string {
	return "no AWS credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or --aws-instance-profile: " + shortest(e.err).Error()
}

// Is makes an error that will not pass one of permission.
func (e *credentialsError) Is(target error) bool {
	return target == storage.ErrPermission && !e.passing
}

func (e *credentialsError) Unwrap() error { return e.err }

// shortest returns the innermost of a chain of errors, which is the one that
// says what is wrong.
func shortest(err error) error {
	for {
		inner := errors.Unwrap(err)
		if inner == nil || errors.Is(err, storage.ErrInvalid) {
			return err
		}
		err = inner
	}
}
