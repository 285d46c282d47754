// Package s3 is a bucket of Amazon S3, or of what speaks its protocol: MinIO,
// Ceph, versitygw, Swift's gateway and others.
//
// # Creating once
//
// Objects are created with If-None-Match: *, of which S3 promises one winner. A
// store that answers 501 to it can't do that. There Create looks first, writes,
// and looks again: one that came before is never overwritten, but of two that
// create a key at the same moment both may pass and the later one stay. Weakness
// says so once that answer was seen. A store that ignores the header without a
// word is found out by the probe before each collection.
//
// # Names and sums
//
// A key is stored under its own name, byte for byte, behind the prefix. Objects
// of known size go up in one request with their MD5 sum, which all stores check;
// newer checksums, which older stores refuse, are used only where the protocol
// demands them. Others go up in parts through the SDK's transfer manager, and can be
// seen only when whole.
package s3

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go"
	smithyauth "github.com/aws/smithy-go/auth"
	smithyendpoints "github.com/aws/smithy-go/endpoints"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"wal-e/internal/fault"
	"wal-e/internal/storage"
	"wal-e/internal/storage/httpx"
)

// A Config says which bucket is meant, where it is and who asks. Bucket is
// required; the zero value of the rest is usable.
type Config struct {
	Bucket string
	Prefix string // put before each key as it is

	Endpoint Endpoint // the zero value is Amazon's
	Region   string   // empty: the credentials' profile says it, else the bucket is asked

	// Credentials are the first of these that is given, else what the SDK
	// finds: its environment, its files, a web identity, the instance.
	AccessKeyID, SecretAccessKey, SessionToken string
	InstanceProfile                            bool // of EC2, renewed before it expires

	// StorageClass is of objects for which Bulk returns true; all others, and
	// all when it is empty, get the bucket's default.
	StorageClass string
	Bulk         func(key string) bool // nil: none

	Encryption Encryption // on the server's side

	Certificates string            // a file of CA certificates to trust besides the system's
	Transport    http.RoundTripper // nil: one of its own. Certificates are then its owner's matter
	Idle         time.Duration     // how long a server may be silent; 0 means httpx.DefaultIdle
	PageSize     int               // objects in one answer to a listing; 0 means 1000, never more
	Largest      int64             // bytes in one request; 0 means 5 GiB, S3's own limit
}

const (
	defaultRegion  = "us-east-1"
	largestPage    = 1000
	defaultLargest = 5 << 30
)

// A Bucket is the part of a bucket below a prefix. Use Open.
type Bucket struct {
	cfg     Config
	client  *s3.Client // sends once
	parts   *s3.Client // sends parts of an upload again, which nobody else can
	secrets *credentials

	learned atomic.Pointer[string] // the region in which the bucket says that it is; nil: it didn't say
	found   atomic.Bool            // the bucket is known to exist
	weak    atomic.Bool            // it has no conditional writes
	single  atomic.Bool            // it has no bulk deletion
}

// Open returns the bucket that a config describes. It makes no request.
func Open(cfg Config) (*Bucket, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	if cfg.PageSize <= 0 || cfg.PageSize > largestPage {
		cfg.PageSize = largestPage
	}
	if cfg.Largest <= 0 {
		cfg.Largest = defaultLargest
	}
	if cfg.Bulk == nil {
		cfg.Bulk = func(string) bool { return false }
	}
	transport := cfg.Transport
	if transport == nil {
		own, err := httpx.Transport(cfg.Certificates)
		if err != nil {
			return nil, fmt.Errorf("certificates: %w", err)
		}
		// The SDK asks whether a large body is welcome. A server that doesn't want
		// it may close the connection, and its answer is lost in the noise.
		own.ExpectContinueTimeout = 5 * time.Second
		transport = own
	}
	b := &Bucket{cfg: cfg, secrets: newCredentials(&cfg)}
	options := s3.Options{
		Region:                     b.currentRegion(),
		Credentials:                b.secrets,
		HTTPClient:                 &http.Client{Transport: &answers{httpx.Watch(transport, cfg.Idle)}, CheckRedirect: stay},
		Retryer:                    aws.NopRetryer{},
		RequestChecksumCalculation: aws.RequestChecksumCalculationWhenRequired,
		ResponseChecksumValidation: aws.ResponseChecksumValidationWhenRequired,
		AppID:                      "wal-e",

		DisableS3ExpressSessionAuth:               aws.Bool(true),
		DisableLogOutputChecksumValidationSkipped: true,
	}
	cfg.Endpoint.apply(&options)
	b.client = s3.New(options)
	options.Retryer = retry.NewStandard(func(o *retry.StandardOptions) { o.MaxAttempts = 6 })
	b.parts = s3.New(options)
	return b, nil
}

// stay doesn't follow a redirection: it may lead to another region, for which
// the request must be signed anew.
func stay(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

func (c *Config) check() error {
	switch {
	case c.Bucket == "" || strings.ContainsAny(c.Bucket, "/?#: "):
		return fmt.Errorf("%w: bucket name %q", storage.ErrInvalid, c.Bucket)
	case strings.HasSuffix(c.Bucket, "--x-s3"):
		return fmt.Errorf("%w: %s is a directory bucket, whose listings have no order: use a general purpose bucket", storage.ErrInvalid, c.Bucket)
	case (c.AccessKeyID == "") != (c.SecretAccessKey == ""):
		return fmt.Errorf("%w: an access key needs its secret, and a secret its key", storage.ErrInvalid)
	case c.Endpoint.Style == VirtualHost && c.Endpoint.Host == "":
		return fmt.Errorf("%w: an endpoint of the style virtualhost needs the bucket's host", storage.ErrInvalid)
	}
	return nil
}

// URL implements storage.Bucket.
func (b *Bucket) URL() string {
	return strings.TrimRight("s3://"+b.cfg.Bucket+"/"+strings.TrimLeft(b.cfg.Prefix, "/"), "/")
}

// Weakness says that two may create one key, once the store has shown that.
func (b *Bucket) Weakness() string {
	if !b.weak.Load() {
		return ""
	}
	return "this store has no conditional writes, so of two objects created at the same moment under one name both may seem to be there"
}

// name returns the name of an object in the bucket.
func (b *Bucket) name(key string) *string { return aws.String(b.cfg.Prefix + key) }

// A Style says how a bucket is named in a request.
type Style int

const (
	Path        Style = iota // HOST/BUCKET/KEY
	Subdomain                // BUCKET.HOST/KEY
	VirtualHost              // HOST/KEY: the host is the bucket's
)

// An Endpoint is a server. The zero value is Amazon's for the region.
type Endpoint struct {
	Scheme string // http or https
	Style  Style
	Host   string // with its port; empty means s3.amazonaws.com
}

// ParseEndpoint parses PROTOCOL+STYLE://[HOST][:PORT], as classic WAL-E has it:
// http or https, and path, subdomain or virtualhost.
func ParseEndpoint(s string) (Endpoint, error) {
	const form = "want http or https, + and path, subdomain or virtualhost, such as https+path://s3.example.org:9000"
	u, err := url.Parse(s)
	if err != nil {
		return Endpoint{}, errors.New("it is no URL: " + form) // url.Parse repeats what it was given
	}
	scheme, style, _ := strings.Cut(strings.ToLower(u.Scheme), "+")
	e := Endpoint{Scheme: scheme, Host: u.Host}
	switch style {
	case "path":
		e.Style = Path
	case "subdomain":
		e.Style = Subdomain
	case "virtualhost":
		e.Style = VirtualHost
	default:
		return Endpoint{}, fault.BadSetting.Errorf("its scheme is %q: %s", u.Scheme, form)
	}
	switch {
	case scheme != "http" && scheme != "https":
		return Endpoint{}, fault.BadSetting.Errorf("its scheme is %q: %s", u.Scheme, form)
	case u.User != nil || strings.Contains(u.Host, "@"):
		return Endpoint{}, fault.BadSetting.Errorf("it holds a user: credentials have variables of their own")
	case strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" || u.Opaque != "" || u.ForceQuery:
		return Endpoint{}, errors.New("it goes on behind the host: " + form)
	case u.Hostname() == "":
		e.Host = "s3.amazonaws.com"
		if p := u.Port(); p != "" {
			e.Host += ":" + p
		}
	}
	if e.Style == VirtualHost && u.Hostname() == "" {
		return Endpoint{}, fault.BadSetting.Errorf("virtualhost needs a host, which is the bucket's own")
	}
	return e, nil
}

func (e Endpoint) apply(o *s3.Options) {
	if e.Host == "" {
		return
	}
	o.BaseEndpoint = aws.String(e.Scheme + "://" + e.Host)
	o.UsePathStyle = e.Style == Path
	if e.Style == VirtualHost {
		o.EndpointResolverV2 = fixed{url.URL{Scheme: e.Scheme, Host: e.Host, Path: "/"}}
	}
}

// fixed sends every request to one host, without the bucket's name.
type fixed struct{ u url.URL }

func (f fixed) ResolveEndpoint(_ context.Context, p s3.EndpointParameters) (smithyendpoints.Endpoint, error) {
	var signer smithy.Properties
	smithyhttp.SetSigV4SigningName(&signer, "s3")
	smithyhttp.SetSigV4SigningRegion(&signer, aws.ToString(p.Region))
	smithyhttp.SetDisableDoubleEncoding(&signer, true)
	e := smithyendpoints.Endpoint{URI: f.u}
	smithyauth.SetAuthOptions(&e.Properties, []*smithyauth.Option{{SchemeID: smithyauth.SchemeIDSigV4, SignerProperties: signer}})
	return e, nil
}

// Encryption on the server's side. The zero value leaves it to the bucket.
type Encryption struct {
	Method string // "", AES256 or aws:kms
	KeyID  string // of aws:kms; empty means the account's own key
}

// ParseEncryption parses none, AES256 or aws:kms[:KEY].
func ParseEncryption(s string) (Encryption, error) {
	switch {
	case s == "none":
		return Encryption{}, nil
	case strings.EqualFold(s, "AES256"):
		return Encryption{Method: "AES256"}, nil
	case s == "aws:kms":
		return Encryption{Method: s}, nil
	case strings.HasPrefix(s, "aws:kms:") && len(s) > len("aws:kms:"):
		return Encryption{Method: "aws:kms", KeyID: strings.TrimPrefix(s, "aws:kms:")}, nil
	}
	return Encryption{}, fault.BadSetting.Errorf("%q: want none, AES256, aws:kms or aws:kms:KEY", s)
}

var _ storage.Bucket = (*Bucket)(nil)
