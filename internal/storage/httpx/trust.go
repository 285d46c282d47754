package httpx

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"runtime"
	"slices"
	"sync"
	"time"

	"wal-e/internal/fault"
)

// trust verifies servers as crypto/tls does, by the system's certificates and own
// ones, but reads of the system's only those that may have issued what a server
// shows. Package x509 parses all of them, on Debian each one three times: half of
// the processor time of a wal-fetch from S3.
type trust struct {
	own    [][]byte // certificates to trust besides the system's, in DER form
	system func() [][]byte
	all    func() (*x509.CertPool, error)
}

// newTrust returns what trusts the certificates of a file in PEM form besides those
// of the system; "" means none.
func newTrust(file string) (*trust, error) {
	t := &trust{system: sync.OnceValue(systemBundle)}
	var text []byte
	if file != "" {
		var err error
		if text, err = os.ReadFile(file); err != nil {
			return nil, err
		}
		t.own = certificates(text)
		if !slices.ContainsFunc(t.own, isCertificate) {
			return nil, fault.BadSetting.Errorf("%s holds no certificate in PEM form", file)
		}
	}
	t.all = sync.OnceValues(func() (*x509.CertPool, error) { return allRoots(text) })
	return t, nil
}

func isCertificate(der []byte) bool {
	_, err := x509.ParseCertificate(der)
	return err == nil
}

// allRoots returns the system's certificates and those in text; nil is what the
// system itself trusts.
func allRoots(text []byte) (*x509.CertPool, error) {
	if text == nil {
		return nil, nil
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	pool.AppendCertsFromPEM(text)
	return pool, nil
}

// bundles are the files in which package x509 looks for the certificates of a
// Linux, in its order; it takes the first one that it can read.
var bundles = []string{
	"/etc/ssl/certs/ca-certificates.crt",                // Debian, Ubuntu, Gentoo
	"/etc/pki/tls/certs/ca-bundle.crt",                  // Fedora, RHEL 6
	"/etc/ssl/ca-bundle.pem",                            // openSUSE
	"/etc/pki/tls/cacert.pem",                           // OpenELEC
	"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", // RHEL 7 and later
	"/etc/ssl/cert.pem",                                 // Alpine
}

// systemBundle returns certificates, in DER form, all of which package x509 trusts,
// too. It may trust more of them.
func systemBundle() [][]byte {
	if runtime.GOOS != "linux" {
		return nil
	}
	files := bundles
	if f := os.Getenv("SSL_CERT_FILE"); f != "" {
		files = []string{f}
	}
	for _, f := range files {
		if text, err := os.ReadFile(f); err == nil {
			return certificates(text)
		}
	}
	return nil
}

// certificates returns the certificates of a text in DER form.
func certificates(text []byte) [][]byte {
	var list [][]byte
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return list
		}
		if block.Type == "CERTIFICATE" && len(block.Headers) == 0 {
			list = append(list, block.Bytes)
		}
	}
}

// dialTLS returns a DialTLSContext for a transport over dial.
func (t *trust) dialTLS(dial func(ctx context.Context, network, addr string) (net.Conn, error)) func(ctx context.Context, network, addr string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		host, _, err := net.SplitHostPort(addr)
		if err != nil {
			return nil, err
		}
		raw, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		conn := tls.Client(raw, &tls.Config{
			ServerName: host, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"},
			// It is VerifyConnection that verifies.
			InsecureSkipVerify: true,
			VerifyConnection:   func(cs tls.ConnectionState) error { return t.verify(host, cs.PeerCertificates) },
		})
		shake, cancel := context.WithTimeout(ctx, connectTimeout)
		defer cancel()
		if err := conn.HandshakeContext(shake); err != nil {
			_ = raw.Close() // nobody has it yet
			if ctx.Err() == nil && shake.Err() != nil {
				err = fmt.Errorf("%w to a TLS handshake within %v", ErrStalled, connectTimeout)
			}
			return nil, err
		}
		return conn, nil
	}
}

// verify returns nil if a chain of certificates, as a server shows it, is of host
// and issued by somebody who is trusted. Errors are those of crypto/tls.
func (t *trust) verify(host string, chain []*x509.Certificate) error {
	if len(chain) == 0 {
		return fault.Untrusted.Errorf("the server shows no certificate")
	}
	opts := x509.VerifyOptions{DNSName: host, CurrentTime: time.Now(), Intermediates: x509.NewCertPool()}
	for _, c := range chain[1:] {
		opts.Intermediates.AddCert(c)
	}
	for _, list := range []func() [][]byte{func() [][]byte { return t.own }, t.system} {
		opts.Roots = issuers(chain, list())
		if _, err := chain[0].Verify(opts); err == nil {
			return nil
		}
	}
	var err error
	if opts.Roots, err = t.all(); err != nil {
		return err
	}
	if _, err := chain[0].Verify(opts); err != nil {
		return &tls.CertificateVerificationError{UnverifiedCertificates: chain, Err: err}
	}
	return nil
}

// issuers returns those of some certificates, in DER form, that have the name of an
// issuer of one in the chain; a few more do no harm.
func issuers(chain []*x509.Certificate, trusted [][]byte) *x509.CertPool {
	pool := x509.NewCertPool()
	for _, der := range trusted {
		named := false
		for _, c := range chain {
			named = named || bytes.Contains(der, c.RawIssuer)
		}
		if !named {
			continue
		}
		if c, err := x509.ParseCertificate(der); err == nil {
			pool.AddCert(c)
		}
	}
	return pool
}
