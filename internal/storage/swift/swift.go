// Package swift is a bucket in a container of OpenStack Swift, or of what
// speaks its protocol, such as the Ceph gateway.
//
// # What Swift doesn't promise
//
// Swift gives less than storage.Bucket asks for, and says so through Weakness:
//
//   - Listings lag. An object that was created may be missing in a listing, and
//     a deleted one be in it, while a container server is away or behind. Get
//     and Stat know better. Whoever decides by a listing must wait, or know
//     that nothing else writes.
//   - Create asks with If-None-Match whether the key is free. Servers look when
//     a request arrives and not when it ends, so of several requests at the same
//     time more than one may pass, and the youngest stays. Create reads back
//     what the newest replica holds and reports ErrExist where another one's
//     content stands, so two can believe to have won only when the younger
//     request passed before the older one ended, and ended after that look.
//
// # Objects in segments
//
// An object larger than one request may carry, or larger than 8 MiB and of
// unknown size, is stored in segments and a manifest that names them (a static
// large object). Segments are in the container named like this one with
// "_segments" behind it. Any static or dynamic large object can be read and
// deleted, whoever made it; a dynamic one has size 0 in a listing, while Stat
// knows its size.
package swift

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/ncw/swift/v2"

	"wal-e/internal/storage"
	"wal-e/internal/storage/httpx"
)

// Config says which container is meant, and who asks. Container, AuthURL and
// what the version of authentication needs are required; the zero value of the
// rest is usable.
type Config struct {
	Container string
	Prefix    string // put before each key as it is; "/a/" reaches keys with a leading slash

	AuthURL      string
	AuthVersion  int    // 1, 2 or 3; 0 means 2
	User, UserID string // version 3 takes either, the others User
	Password     string
	Region       string // of the endpoint; empty means the first one. Not in version 1
	EndpointType string // publicURL, internalURL or adminURL; empty means publicURL. Not in version 1

	// Project is called tenant in version 2. The names of domains are
	// version 3's; a domain that isn't given is that of the user, else the
	// one that Keystone calls "default".
	Project, ProjectID             string
	UserDomain, UserDomainID       string
	ProjectDomain, ProjectDomainID string

	Transport   http.RoundTripper // nil means one of its own; bodies should wait for a word of the server
	Idle        time.Duration     // as httpx.Watch takes it
	Largest     int64             // bytes of the largest object without segments; 0 means 5 GiB, Swift's own limit
	SegmentSize int64             // bytes; 0 means 256 MiB. Never below 1 MiB: Swift serves smaller ones slowly
	PageSize    int               // objects in one answer to a listing; 0 means 5000, never more than 10,000
}

const (
	defaultLargest = 5 << 30
	defaultSegment = 256 << 20
	defaultPage    = 5000
	largestPage    = 10_000
	smallestOne    = 1 << 20
	most           = 1000     // segments in a manifest
	firstLook      = 8 << 20  // bytes of unknown size that are kept in memory to see whether they end
	never          = 24 * 365 // hours: time limits are this package's, not the library's
)

// A Bucket is a part of a container. Use Open.
type Bucket struct {
	*session
	prefix string
}

// At returns a bucket in the same container, over the same session, whose keys
// have another prefix.
func (b *Bucket) At(prefix string) *Bucket { return &Bucket{b.session, prefix} }

// A session is what all parts of a container have in common.
type session struct {
	cfg  Config
	conn *swift.Connection

	auth chan struct{} // holds one while somebody authenticates
	age  atomic.Int64  // counts tokens that were given up

	found    atomic.Bool // the container is known to exist
	segments atomic.Bool // that of segments, too
}

// Open returns the bucket that a config describes. It makes no request.
func Open(cfg Config) (*Bucket, error) {
	if cfg.AuthVersion == 0 {
		cfg.AuthVersion = 2
	}
	if cfg.Largest <= 0 {
		cfg.Largest = defaultLargest
	}
	if cfg.SegmentSize <= 0 {
		cfg.SegmentSize = defaultSegment
	}
	cfg.SegmentSize = max(cfg.SegmentSize, smallestOne)
	if cfg.PageSize <= 0 {
		cfg.PageSize = defaultPage
	}
	cfg.PageSize = min(cfg.PageSize, largestPage)
	if err := cfg.check(); err != nil {
		return nil, err
	}
	if cfg.Transport == nil {
		t, err := httpx.Transport("")
		if err != nil {
			return nil, err
		}
		// A refused body isn't sent, and can be sent later.
		t.ExpectContinueTimeout = 5 * time.Second
		cfg.Transport = t
	}
	conn, err := cfg.connection()
	if err != nil {
		return nil, err
	}
	return &Bucket{&session{cfg: cfg, conn: conn, auth: make(chan struct{}, 1)}, cfg.Prefix}, nil
}

// A MissingError says that a setting is needed and isn't given.
type MissingError struct {
	Field string // of Config
	Why   string
}

func (e *MissingError) Error() string { return fmt.Sprintf("%s is needed %s", e.Field, e.Why) }

func (c *Config) check() error {
	version := fmt.Sprintf("for authentication version %d", c.AuthVersion)
	u, err := url.Parse(c.AuthURL)
	switch {
	case c.Container == "" || strings.Contains(c.Container, "/"):
		return fmt.Errorf("%w: container name %q", storage.ErrInvalid, c.Container)
	case c.AuthVersion < 1 || c.AuthVersion > 3:
		return fmt.Errorf("%w: authentication version %d: want 1, 2 or 3", storage.ErrInvalid, c.AuthVersion)
	case c.AuthURL == "":
		return &MissingError{"AuthURL", version}
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		return fmt.Errorf("%w: the authentication URL is not of the form https://HOST[:PORT]/PATH", storage.ErrInvalid)
	case u.User != nil:
		return fmt.Errorf("%w: the authentication URL holds a user name: give it by itself", storage.ErrInvalid)
	case c.User == "" && (c.UserID == "" || c.AuthVersion < 3):
		return &MissingError{"User", version}
	case c.Password == "":
		return &MissingError{"Password", version}
	case c.Project == "" && c.ProjectID == "" && c.AuthVersion > 1:
		return &MissingError{"Project", version}
	}
	return nil
}

// connection translates the config for the library. Time limits and repeated
// attempts are this package's and storage.Retry's, so the library gets none.
func (c *Config) connection() (*swift.Connection, error) {
	kind, err := endpointType(c.EndpointType)
	if err != nil {
		return nil, err
	}
	conn := &swift.Connection{
		AuthUrl: c.AuthURL, AuthVersion: c.AuthVersion,
		UserName: c.User, UserId: c.UserID, ApiKey: c.Password,
		Tenant: c.Project, TenantId: c.ProjectID, Region: c.Region, EndpointType: kind,
		UserAgent: "wal-e", Retries: -1, ConnectTimeout: never * time.Hour, Timeout: never * time.Hour,
		Transport: &uploads{httpx.Watch(c.Transport, c.Idle)},
	}
	if c.AuthVersion < 3 {
		return conn, nil
	}
	conn.Domain, conn.DomainId = c.UserDomain, c.UserDomainID
	if conn.Domain == "" && conn.DomainId == "" && c.UserID == "" {
		conn.DomainId = "default"
	}
	conn.TenantDomain, conn.TenantDomainId = c.ProjectDomain, c.ProjectDomainID
	if conn.Domain == "" && conn.DomainId == "" && conn.TenantDomain == "" && conn.TenantDomainId == "" {
		conn.TenantDomainId = "default"
	}
	return conn, nil
}

func endpointType(s string) (swift.EndpointType, error) {
	switch strings.ToLower(strings.TrimSuffix(s, "URL")) {
	case "", "public":
		return swift.EndpointTypePublic, nil
	case "internal":
		return swift.EndpointTypeInternal, nil
	case "admin":
		return swift.EndpointTypeAdmin, nil
	}
	return "", fmt.Errorf("%w: endpoint type %q: want publicURL, internalURL or adminURL", storage.ErrInvalid, s)
}

// URL implements storage.Bucket.
func (b *Bucket) URL() string {
	return strings.TrimRight("swift://"+b.cfg.Container+"/"+strings.TrimLeft(b.prefix, "/"), "/")
}

// Weakness says what a Swift doesn't promise; see the package's comment.
func (b *Bucket) Weakness() string {
	return "Swift's listings may lag behind, and of two objects created at the same moment under one name both may seem to be there"
}

// name returns the name of an object in the container.
func (b *Bucket) name(key string) string { return b.prefix + key }

// segmentContainer is where segments of large objects go.
func (s *session) segmentContainer() string { return s.cfg.Container + "_segments" }

var errNoContainer = errors.New("no such container")

var _ storage.Bucket = (*Bucket)(nil)
