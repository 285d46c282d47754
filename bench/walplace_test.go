package bench

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"wal-e/internal/enginetest"
)

// A place is where both programs archive to.
type place struct {
	name  string                        // empty, or a space and a word
	env   []string                      // of wal-e
	conf  string                        // of pgbackrest
	empty func(b *testing.B, walE bool) // what one of them has archived
}

// inFiles is a directory for each.
func (w *walBench) inFiles(b *testing.B) *place {
	b.Helper()
	archive, repo := filepath.Join(w.dir, "archive"), filepath.Join(w.dir, "repo")
	return &place{
		env:  w.env("WALE_FILE_PREFIX=file://localhost" + archive),
		conf: w.configure(b, "files", "repo1-path="+repo),
		empty: func(b *testing.B, walE bool) {
			b.Helper()
			if err := os.RemoveAll(map[bool]string{true: archive, false: repo}[walE]); err != nil {
				b.Fatal(err)
			}
		},
	}
}

// latency is what each answer of S3 takes longer.
const latency = 20 * time.Millisecond

// inS3 is a bucket of a MinIO behind a proxy. pgbackrest speaks TLS only, so both do.
// Each time that it is emptied they get another folder.
func (w *walBench) inS3(b *testing.B) *place {
	b.Helper()
	certificates := certificate(b)
	trusted := filepath.Join(w.dir, "ca.crt")
	text, err := os.ReadFile(filepath.Join(certificates, "public.crt"))
	if err == nil {
		err = os.WriteFile(trusted, text, 0o644)
	}
	if err != nil {
		b.Fatal(err)
	}
	server := enginetest.MinIOWithTLS(b, certificates)
	server.CreateBucket(b, "bench")
	proxy := enginetest.Toxiproxy(b, server.Addr)
	proxy.Add(b, "latency", "downstream", 1, map[string]int{"latency": int(latency.Milliseconds())})
	host, port, err := net.SplitHostPort(proxy.Addr)
	if err != nil {
		b.Fatal(err)
	}
	p, folder := &place{name: " S3"}, 0
	p.empty = func(b *testing.B, walE bool) {
		b.Helper()
		folder++
		if walE {
			p.env = w.env(fmt.Sprintf("WALE_S3_PREFIX=s3://bench/%d", folder), "WALE_S3_ENDPOINT=https+path://"+proxy.Addr, "SSL_CERT_FILE="+trusted,
				"AWS_REGION="+server.Region, "AWS_ACCESS_KEY_ID="+server.AccessKey, "AWS_SECRET_ACCESS_KEY="+server.SecretKey)
			return
		}
		p.conf = w.configure(b, "s3", fmt.Sprintf("repo1-path=/rest%d", folder), "repo1-type=s3", "repo1-s3-bucket=bench",
			"repo1-s3-uri-style=path", "repo1-s3-endpoint="+host, "repo1-storage-host="+host, "repo1-storage-port="+port, "repo1-storage-verify-tls=n",
			"repo1-s3-region="+server.Region, "repo1-s3-key="+server.AccessKey, "repo1-s3-key-secret="+server.SecretKey)
	}
	return p
}

// env is the environment of wal-e with the variables of a place.
func (w *walBench) env(vars ...string) []string {
	return append([]string{
		"PATH=" + os.Getenv("PATH"), "HOME=/tmp", "WALE_STATE_DIR=" + filepath.Join(w.dir, "state"), "WALE_LOG_DESTINATION=stderr",
	}, vars...)
}

// configure writes a configuration of pgbackrest.
func (w *walBench) configure(b *testing.B, name string, settings ...string) string {
	b.Helper()
	path := filepath.Join(w.dir, name+".conf")
	text := fmt.Sprintf("[global]\n%s\nspool-path=%s\nlock-path=%s\nlog-level-console=error\nlog-level-file=off\n"+
		"compress-type=zst\ncompress-level=1\nprocess-max=4\n[x]\npg1-path=%s\n",
		strings.Join(settings, "\n"), w.spool, filepath.Join(w.dir, "lock"), w.data)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		b.Fatal(err)
	}
	return path
}

// certificate makes one for loopback, in a folder as MinIO wants it.
func certificate(b *testing.B) (dir string) {
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
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		b.Fatal(err)
	}
	dir = b.TempDir()
	for name, block := range map[string]*pem.Block{"public.crt": {Type: "CERTIFICATE", Bytes: der}, "private.key": {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	return dir
}
