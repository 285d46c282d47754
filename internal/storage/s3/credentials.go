package s3

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/config"
	sdkcredentials "github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/credentials/ec2rolecreds"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
	"github.com/aws/smithy-go/logging"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"wal-e/internal/fault"
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
	token  string // of the session that was found last
	over   string // the token that the server says has expired
}

func newCredentials(cfg *Config) *credentials {
	switch {
	case cfg.InstanceProfile:
		return &credentials{instance: true, find: func(context.Context) (aws.CredentialsProvider, string, error) {
			client := imds.New(imds.Options{Retryer: retry.NewStandard(quickly), DisableDefaultMaxBackoff: true})
			return ec2rolecreds.New(func(o *ec2rolecreds.Options) { o.Client = client }), "", nil
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

// quickly is how the metadata service is asked. It is on the same host: the pauses
// that the SDK makes by itself double the time until it is known that there is none.
func quickly(o *retry.StandardOptions) { o.MaxBackoff = 200 * time.Millisecond }

// Retrieve implements aws.CredentialsProvider.
func (c *credentials) Retrieve(ctx context.Context) (aws.Credentials, error) {
	cache, err := c.open(ctx)
	if err != nil {
		return aws.Credentials{}, newCredentialsError(err, false, c.instance)
	}
	found, err := cache.Retrieve(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return aws.Credentials{}, ctx.Err()
		}
		return aws.Credentials{}, newCredentialsError(err, c.found.Load(), c.instance)
	}
	c.found.Store(true)
	if c.isOver(found) {
		return aws.Credentials{}, &credentialsError{err: fault.Credentials.Errorf("the session in %s is over: renew it there", place(found.Source))}
	}
	return found, nil
}

// isOver notes which session was found, and reports whether it is one that has
// expired and comes from where nothing is renewed by itself.
func (c *credentials) isOver(found aws.Credentials) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.token = found.SessionToken
	return c.token != "" && c.token == c.over &&
		(strings.HasPrefix(found.Source, sourceFile) || strings.HasPrefix(found.Source, sourceEnvironment))
}

// Where credentials come from, in the SDK's words.
const (
	sourceFile        = "SharedConfigCredentials"
	sourceEnvironment = "EnvConfigCredentials"
)

// place says it in ours.
func place(source string) string {
	if file, ok := strings.CutPrefix(source, sourceFile+": "); ok {
		return file
	}
	return "the environment"
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

// expired makes the next request look for new credentials, in files too, since the
// server takes the session of that token no more, and reports whether there is
// hope of any.
func (c *credentials) expired(token string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fixed {
		return false
	}
	if token == c.token { // else they were renewed since
		c.over, c.cache = token, nil
	}
	return true
}

// A credentialsError says that there are no credentials. To try again is worth
// while when they were found before, or the metadata service of an instance is
// there and has a bad moment; it wraps storage.ErrPermission otherwise.
type credentialsError struct {
	err      error
	passing  bool
	instance bool // they were to come from the metadata service
}

func newCredentialsError(err error, foundBefore, instance bool) error {
	code := answered(err)
	return &credentialsError{err, foundBefore || code >= 500 || code == http.StatusTooManyRequests, instance}
}

// answered is the status of the answer that an error is about, or 0.
func answered(err error) int {
	if answer := (*smithyhttp.ResponseError)(nil); errors.As(err, &answer) {
		return answer.HTTPStatusCode()
	}
	return 0
}

func (e *credentialsError) Error() string {
	if !e.instance {
		return "no AWS credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or --aws-instance-profile: " + shortest(e.err).Error()
	}
	const begin = "no AWS credentials: --aws-instance-profile wants them from the instance, "
	switch code := answered(e.err); {
	case code == http.StatusNotFound:
		return begin + "whose metadata service answers 404: has the instance a role? attach one"
	case code != 0:
		return begin + fmt.Sprintf("whose metadata service answers %d", code)
	}
	return begin + "whose metadata service can't be reached (" + shortest(e.err).Error() +
		"): is this an EC2 instance? in a container, raise the instance's hop limit; elsewhere, set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead"
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
