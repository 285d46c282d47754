// Package azure keeps objects as block blobs in a container of Azure Blob
// Storage, or of what speaks its protocol, through Microsoft's client library.
//
// Blobs are created with If-None-Match: *, which Azure decides on when a blob is
// complete, so a name has one winner. A blob of known size goes up in one
// request, up to Azure's 5000 MiB; a larger one, or one larger than 8 MiB of
// unknown size, in blocks that one last request makes a blob of. Blocks without
// that request are invisible, and Azure drops them after a week. A shared access
// signature may be made with the right to create and without that to write: then
// nothing can be overwritten, and blobs in blocks can't be stored.
//
// Azure can't begin a listing in the middle, so List with startAfter reads what
// comes before it, too, 5000 names per request. Accounts with a hierarchical
// namespace list in another order than that of bytes; that is reported when it
// is met, as callers rely on the order.
//
// Keys with a backslash are refused, since Azure takes it for a slash.
// Metadata names must be identifiers there: the key a-1 is kept as wale_a_1.
package azure

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"

	"wal-e/internal/storage"
	"wal-e/internal/storage/httpx"
)

// Config says which container is meant, and who asks. Container is required,
// and Account or Endpoint; the zero value of the rest is usable.
type Config struct {
	Container string
	Prefix    string // put before each key as it is: "a/" or ""

	Account  string // name of the storage account; needed with Key
	Endpoint string // URL of the account's blob service; empty means https://ACCOUNT.blob.core.windows.net

	// Key is the account's, in base64; else SAS is a shared access signature,
	// the part of its URL behind the question mark. Without either, Azure's
	// default chain finds out who we are: environment, workload identity,
	// managed identity, then the tools of developers.
	Key, SAS string

	Transport http.RoundTripper // nil means one of its own
	Idle      time.Duration     // how long a server may be silent in the middle of a request; 0 means httpx.DefaultIdle
	Largest   int64             // bytes that one request may carry; 0 means 5000 MiB, Azure's own limit
	BlockSize int64             // bytes of a block, and kept in memory for each Create in blocks; 0 means 8 MiB
	PageSize  int32             // blobs in one answer to a listing; 0 means 5000, Azure's own limit
}

const (
	defaultLargest = 5000 << 20
	defaultBlock   = 8 << 20
	maxBlocks      = 50_000
	defaultPage    = 5000
)

// A Bucket is a part of a container. Use Open.
type Bucket struct {
	cfg    Config
	client *container.Client
	logins *logins // of Azure's default chain
}

// A FieldError says what is wrong with a setting; it wraps storage.ErrInvalid.
type FieldError struct {
	Field string // of Config
	Why   string // holds no secret
}

func (e *FieldError) Error() string { return e.Why }

// Unwrap lets errors.Is find the kind of error.
func (e *FieldError) Unwrap() error { return storage.ErrInvalid }

// Open returns the bucket that a config describes. It makes no request.
func Open(cfg Config) (*Bucket, error) {
	if cfg.Largest <= 0 {
		cfg.Largest = defaultLargest
	}
	if cfg.BlockSize <= 0 {
		cfg.BlockSize = defaultBlock
	}
	if cfg.PageSize <= 0 || cfg.PageSize > defaultPage {
		cfg.PageSize = defaultPage
	}
	cfg.SAS = strings.TrimPrefix(cfg.SAS, "?")
	if cfg.Transport == nil {
		t, err := httpx.Transport("")
		if err != nil {
			return nil, err
		}
		cfg.Transport = t
	}
	cfg.Transport = httpx.Watch(cfg.Transport, cfg.Idle)
	base, err := cfg.base()
	if err != nil {
		return nil, err
	}
	login := &logins{transport: transport{cfg.Transport, ""}}
	client, err := cfg.client(base, login)
	if err != nil {
		return nil, err
	}
	return &Bucket{cfg: cfg, client: client, logins: login}, nil
}

// base checks the config and returns the container's URL.
func (c *Config) base() (string, error) {
	switch {
	case c.Container == "" || strings.ContainsAny(c.Container, "/?#%\\"):
		return "", &FieldError{"Container", fmt.Sprintf("%q is no name of a container", c.Container)}
	case c.Account == "" && c.Key != "":
		return "", &FieldError{"Account", "is needed with an account key, and not set"}
	case c.Account == "" && c.Endpoint == "":
		return "", &FieldError{"Account", "is needed without an endpoint, and not set"}
	}
	if c.Endpoint == "" {
		if strings.ContainsFunc(c.Account, notAccount) {
			return "", &FieldError{"Account", fmt.Sprintf("%q is no name of an account: want lower-case letters and digits", c.Account)}
		}
		return "https://" + c.Account + ".blob.core.windows.net/" + c.Container, nil
	}
	u, err := url.Parse(c.Endpoint)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		return "", &FieldError{"Endpoint", "is not of the form https://HOST[:PORT][/ACCOUNT]"}
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return "", &FieldError{"Endpoint", "holds more than host, port and path: give a token or key by itself"}
	case u.Scheme == "http" && c.Key == "" && c.SAS == "":
		return "", &FieldError{"Endpoint", "is http, over which Azure's own credentials are not sent: want https, a key or a token"}
	}
	return strings.TrimRight(c.Endpoint, "/") + "/" + c.Container, nil
}

func notAccount(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') }

// client makes a client that tries once: how often is storage.Retry's decision.
func (c *Config) client(base string, login *logins) (*container.Client, error) {
	options := &container.ClientOptions{ClientOptions: policy.ClientOptions{
		Retry:     policy.RetryOptions{MaxRetries: -1},
		Telemetry: policy.TelemetryOptions{ApplicationID: "wal-e"},
		Transport: transport{c.Transport, c.SAS},
	}}
	switch {
	case c.Key != "":
		cred, err := container.NewSharedKeyCredential(c.Account, c.Key)
		if err != nil {
			return nil, &FieldError{"Key", "is not base64: want the account key as Azure shows it"}
		}
		options.Transport = transport{c.Transport, ""}
		return container.NewClientWithSharedKeyCredential(base, cred, options)
	case c.SAS != "":
		if values, err := url.ParseQuery(c.SAS); err != nil || !values.Has("sig") {
			return nil, &FieldError{"SAS", "has no sig=: want what follows the question mark in the URL that Azure shows"}
		}
		return container.NewClientWithNoCredential(base, options)
	}
	cred, err := azidentity.NewDefaultAzureCredential(&azidentity.DefaultAzureCredentialOptions{
		ClientOptions: azcore.ClientOptions{
			Transport: login,
			// What is beyond a hiccup is storage.Retry's matter here, too: by itself the library takes 19 s.
			Retry: policy.RetryOptions{MaxRetries: 1, RetryDelay: 200 * time.Millisecond},
		},
	})
	if err != nil {
		return nil, fmt.Errorf("find Azure's default credentials: %w", err)
	}
	return container.NewClient(base, cred, options)
}

// transport sends requests for the client library. It puts the shared access
// signature into URLs only now, where no error, log or answer can show it.
type transport struct {
	http.RoundTripper
	sas string
}

// Do implements policy.Transporter. It follows no redirect: Azure sends none.
func (t transport) Do(req *http.Request) (*http.Response, error) {
	sent := req
	if t.sas != "" {
		sent = req.Clone(req.Context())
		if sent.URL.RawQuery != "" {
			sent.URL.RawQuery += "&"
		}
		sent.URL.RawQuery += t.sas
	}
	res, err := t.RoundTrip(sent)
	if res != nil {
		res.Request = req
	}
	return res, err
}

// URL implements storage.Bucket.
func (b *Bucket) URL() string {
	return strings.TrimRight("wabs://"+b.cfg.Container+"/"+strings.Trim(b.cfg.Prefix, "/"), "/")
}

// name returns the name of a blob in the container.
func (b *Bucket) name(key string) string { return b.cfg.Prefix + key }

// checkKey reports why key can't name a blob.
func checkKey(key string) error {
	if strings.Contains(key, `\`) {
		return fmt.Errorf("%w: key %q holds a backslash, of which Azure makes a slash", storage.ErrInvalid, key)
	}
	return storage.CheckKey(key)
}

var errNoContainer = errors.New("no such container")

var _ storage.Bucket = (*Bucket)(nil)
