// Package httpx has what HTTP needs so that no request of a store waits for
// ever: time limits that look at progress, since an object may take as long as
// it likes while its bytes keep moving. It also says which errors of a connection
// another attempt can't mend.
package httpx

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"wal-e/internal/fault"
	"wal-e/internal/storage"
)

// ErrStalled is wrapped when a server was silent for longer than it may. It is
// worth while to try again.
var ErrStalled = errors.New("no answer")

// DefaultIdle is how long a server may be silent when nobody says otherwise.
// Servers that commit to several disks or sites take seconds, not a minute.
const DefaultIdle = 30 * time.Second

// connectTimeout bounds a TCP connection and, by itself, a TLS handshake.
const connectTimeout = 10 * time.Second

// Transport returns a transport for a store: connections end when nothing
// answers, bodies arrive as they were stored, and there are enough connections
// for many requests side by side. It speaks HTTP/1.1 only, where each request has
// a connection to itself: all the requests of HTTP/2 share one, which Watch can't
// take away from them when it is dead. certificates, when not empty, is a file of
// PEM certificates that are trusted besides those of the system.
func Transport(certificates string) (*http.Transport, error) {
	t := http.DefaultTransport.(*http.Transport).Clone()
	trust, err := newTrust(certificates)
	if err != nil {
		return nil, err
	}
	t.DialContext = (&net.Dialer{Timeout: connectTimeout, KeepAlive: 15 * time.Second}).DialContext
	t.DialTLSContext = trust.dialTLS(func(ctx context.Context, network, addr string) (net.Conn, error) {
		return t.DialContext(ctx, network, addr) // which may be another by then
	})
	t.TLSHandshakeTimeout = connectTimeout
	t.MaxIdleConns = 0
	t.MaxIdleConnsPerHost = 64
	t.DisableCompression = true
	t.ForceAttemptHTTP2 = false
	t.Protocols = new(http.Protocols)
	t.Protocols.SetHTTP1(true)
	// What is behind a proxy DialTLSContext doesn't dial.
	if certificates != "" && (os.Getenv("HTTPS_PROXY") != "" || os.Getenv("https_proxy") != "") {
		pool, err := trust.all()
		if err != nil {
			return nil, err
		}
		t.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	return t, nil
}

// Watch returns a RoundTripper over next that ends a request with ErrStalled
// once nothing has moved for idle: no byte of its body was taken, no answer
// began, or no byte of the answer's body came. Time that the request's own body
// or the reader of the answer takes doesn't count, nor does what storage.Rate lets
// them wait. idle 0 means DefaultIdle.
func Watch(next http.RoundTripper, idle time.Duration) http.RoundTripper {
	if idle <= 0 {
		idle = DefaultIdle
	}
	return &watched{next, idle}
}

type watched struct {
	next http.RoundTripper
	idle time.Duration
}

func (w *watched) RoundTrip(req *http.Request) (*http.Response, error) {
	parent := req.Context()
	ctx, cancel := context.WithCancelCause(parent)
	c := &clock{idle: w.idle, parent: parent, ctx: ctx, cancel: cancel}
	c.timer = time.AfterFunc(w.idle, func() { cancel(ErrStalled) })
	req = req.Clone(ctx)
	if req.Body != nil && req.Body != http.NoBody {
		req.Body = &upload{storage.PacedBody(parent, req.Body), c}
		req.GetBody = nil // whoever sends it anew rewinds it
	}
	res, err := w.next.RoundTrip(req)
	if err != nil {
		err = untrusted(c.explain(err))
		c.stop()
		return nil, err
	}
	c.pause()
	c.answered.Store(true)
	res.Body = storage.PacedBody(parent, &download{res.Body, c})
	return res, nil
}

// A clock measures how long a server has been silent.
type clock struct {
	idle        time.Duration
	parent, ctx context.Context
	cancel      context.CancelCauseFunc

	answered atomic.Bool // what is still sent of the body doesn't matter any more

	mu      sync.Mutex
	timer   *time.Timer
	stopped bool
}

// run begins to wait for the server.
func (c *clock) run() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.stopped {
		c.timer.Reset(c.idle)
	}
}

// pause is for when it isn't the server's turn.
func (c *clock) pause() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.timer.Stop()
}

// stop ends the request.
func (c *clock) stop() {
	c.mu.Lock()
	c.stopped = true
	c.timer.Stop()
	c.mu.Unlock()
	c.cancel(nil)
}

// explain replaces an error that comes from our own cancelling.
func (c *clock) explain(err error) error {
	if err != nil && err != io.EOF && c.parent.Err() == nil && errors.Is(context.Cause(c.ctx), ErrStalled) {
		return fmt.Errorf("%w for %v", ErrStalled, c.idle)
	}
	return err
}

// untrusted makes an error final when it says that who answers isn't who was
// meant, and says what to do. Others it returns as they are.
func untrusted(err error) error {
	var (
		certificate *tls.CertificateVerificationError
		name        x509.HostnameError
		authority   x509.UnknownAuthorityError
		plain       tls.RecordHeaderError
	)
	switch {
	case errors.As(err, &name):
		return fault.Untrusted.Errorf("%w: %w: correct the endpoint, or let its certificate have that name", storage.ErrInvalid, err)
	case errors.As(err, &authority):
		return fault.Untrusted.Errorf("%w: %w: name a file with the certificate of its authority in SSL_CERT_FILE, for S3 in AWS_CA_BUNDLE", storage.ErrInvalid, err)
	case errors.As(err, &certificate):
		return fault.Untrusted.Errorf("%w: %w: check the server's certificate, and this host's clock", storage.ErrInvalid, err)
	case errors.As(err, &plain), errors.Is(err, http.ErrSchemeMismatch):
		return fault.Untrusted.Errorf("%w: %w: the server speaks no TLS there: correct the endpoint's scheme or port", storage.ErrInvalid, err)
	}
	return err
}

// upload is a body that the server takes.
type upload struct {
	io.ReadCloser
	c *clock
}

func (u *upload) Read(p []byte) (int, error) {
	if u.c.answered.Load() {
		return u.ReadCloser.Read(p)
	}
	u.c.pause()
	n, err := u.ReadCloser.Read(p)
	if !u.c.answered.Load() {
		u.c.run()
	}
	return n, err
}

// download is a body that the server sends.
type download struct {
	io.ReadCloser
	c *clock
}

func (d *download) Read(p []byte) (int, error) {
	d.c.run()
	n, err := d.ReadCloser.Read(p)
	d.c.pause()
	return n, d.c.explain(err)
}

func (d *download) Close() error {
	d.c.stop()
	return d.ReadCloser.Close()
}
