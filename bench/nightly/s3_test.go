package nightly_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"wal-e/internal/enginetest"
)

// An s3store is a MinIO behind a server that counts requests and speaks TLS, since
// pgbackrest speaks nothing else.
type s3store struct {
	server   *enginetest.S3Server
	requests atomic.Int64
	vars     map[string]string
}

func newS3store(b *testing.B, dir string) *s3store {
	b.Helper()
	s := &s3store{server: enginetest.MinIO(b)}
	s.server.CreateBucket(b, "bench")
	target := &url.URL{Scheme: "http", Host: s.server.Addr}
	transport := &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 64}
	proxy := &httputil.ReverseProxy{Transport: transport, FlushInterval: -1, Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(target)
		r.Out.Host = r.In.Host // which is signed
	}}
	front := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.requests.Add(1)
		proxy.ServeHTTP(w, r)
	}))
	pair, pemText := certificate(b)
	front.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	front.StartTLS()
	b.Cleanup(front.Close)
	ca := filepath.Join(dir, "ca.crt")
	if err := os.WriteFile(ca, pemText, 0o644); err != nil {
		b.Fatal(err)
	}
	address := front.Listener.Addr().String()
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		b.Fatal(err)
	}
	s.vars = map[string]string{"ADDRESS": address, "HOST": host, "PORT": port, "CA": ca, "REGION": s.server.Region, "KEY": s.server.AccessKey, "SECRET": s.server.SecretKey}
	return s
}

// stored is how many bytes the objects in a folder have.
func (s *s3store) stored(b *testing.B, folder string) (sum int64) {
	b.Helper()
	pages := s3.NewListObjectsV2Paginator(s.server.Client(), &s3.ListObjectsV2Input{Bucket: aws.String("bench"), Prefix: aws.String(strings.TrimPrefix(folder, "/") + "/")})
	for pages.HasMorePages() {
		page, err := pages.NextPage(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		for _, o := range page.Contents {
			sum += aws.ToInt64(o.Size)
		}
	}
	return sum
}

// certificate makes one for loopback.
func certificate(b *testing.B) (tls.Certificate, []byte) {
	b.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		b.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}
