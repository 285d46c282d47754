package httpx_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"wal-e/internal/storage/httpx"
)

// An authority issues certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// issue returns a certificate made of template; by nil it is its own issuer.
func issue(t *testing.T, template x509.Certificate, by *authority) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore = time.Now().Add(-2 * time.Hour)
	if template.NotAfter.IsZero() {
		template.NotAfter = time.Now().Add(time.Hour)
	}
	template.BasicConstraintsValid = true
	if by == nil {
		by = &authority{&template, key}
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, by.cert, &key.PublicKey, by.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert, key}
}

func root(t *testing.T, name string) *authority {
	return issue(t, x509.Certificate{Subject: pkix.Name{CommonName: name}, IsCA: true, KeyUsage: x509.KeyUsageCertSign}, nil)
}

// leaf is what a server shows that is meant by 127.0.0.1 and localhost.
var leaf = x509.Certificate{
	Subject: pkix.Name{CommonName: "server"}, DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
}

// serve answers under the certificates, the first of which is its own.
func serve(t *testing.T, chain ...*authority) string {
	t.Helper()
	c := tls.Certificate{PrivateKey: chain[0].key}
	for _, a := range chain {
		c.Certificate = append(c.Certificate, a.cert.Raw)
	}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	s.TLS = &tls.Config{Certificates: []tls.Certificate{c}}
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // of clients that hang up
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.URL
}

func pemFile(t *testing.T, dir, name string, list ...*authority) string {
	t.Helper()
	var text bytes.Buffer
	for _, a := range list {
		if err := pem.Encode(&text, &pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw}); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(dir, name)
	if err := os.WriteFile(file, text.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestAsked is TestTrust in a process of its own, since package x509 reads the
// system's certificates once: it asks a server and prints the answer.
func TestAsked(t *testing.T) {
	url, ok := os.LookupEnv("WALE_TEST_ASK")
	if !ok {
		return
	}
	transport, err := httpx.Transport(os.Getenv("WALE_TEST_OWN"))
	if err != nil {
		t.Fatal(err)
	}
	res, err := (&http.Client{Transport: httpx.Watch(transport, 0)}).Get(url)
	if err != nil {
		fmt.Println("asked:", err)
		return
	}
	res.Body.Close()
	fmt.Println("asked:", res.Status)
}

// Whom crypto/tls trusts with the same certificates is trusted, and nobody else.
func TestTrust(t *testing.T) {
	t.Parallel()
	a, b := root(t, "an authority"), root(t, "another")
	double := root(t, "an authority") // of the same name, with another key
	under := issue(t, x509.Certificate{Subject: pkix.Name{CommonName: "under"}, IsCA: true, KeyUsage: x509.KeyUsageCertSign}, a)
	old, client, elsewhere := leaf, leaf, leaf
	old.NotAfter = time.Now().Add(-time.Hour)
	client.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	elsewhere.DNSNames, elsewhere.IPAddresses = []string{"elsewhere.example"}, []net.IP{net.IPv4(127, 0, 0, 2)}
	byName := func(url string) string { return strings.Replace(url, "127.0.0.1", "localhost", 1) }
	direct, chained := serve(t, issue(t, leaf, a)), serve(t, issue(t, leaf, under), under)
	alone := issue(t, leaf, nil)
	for name, test := range map[string]struct {
		file, dir, own []*authority
		url            string
		want           string // a word of the answer; "" means to be trusted
	}{
		"root in the bundle":                {file: []*authority{b, a}, url: direct},
		"by name":                           {file: []*authority{b, a}, url: byName(direct)},
		"root in the folder only":           {file: []*authority{b}, dir: []*authority{a}, url: direct},
		"no bundle, root in the folder":     {dir: []*authority{a}, url: direct},
		"root of the same name besides":     {file: []*authority{double}, dir: []*authority{a}, url: direct},
		"both of one name":                  {file: []*authority{double, a}, url: direct},
		"own root":                          {file: []*authority{b}, own: []*authority{a}, url: direct},
		"own root, system's of its name":    {file: []*authority{double}, own: []*authority{a}, url: direct},
		"system's root, own of its name":    {file: []*authority{a}, own: []*authority{double}, url: direct},
		"chain":                             {file: []*authority{a}, url: chained},
		"chain, what is between is trusted": {file: []*authority{under}, url: chained},
		"link not shown, but trusted":       {file: []*authority{under}, url: serve(t, issue(t, leaf, under))},
		"server's own, trusted":             {own: []*authority{alone}, url: serve(t, alone)},

		"link not shown":          {file: []*authority{a}, url: serve(t, issue(t, leaf, under)), want: "unknown authority"},
		"nobody trusted":          {url: direct, want: "unknown authority"},
		"another root":            {file: []*authority{b}, own: []*authority{b}, url: direct, want: "unknown authority"},
		"root of the same name":   {file: []*authority{double}, own: []*authority{double}, url: direct, want: "unknown authority"},
		"server's own":            {file: []*authority{a}, url: serve(t, alone), want: "unknown authority"},
		"expired":                 {file: []*authority{a}, own: []*authority{a}, url: serve(t, issue(t, old, a)), want: "expired"},
		"of a client":             {own: []*authority{a}, url: serve(t, issue(t, client, a)), want: "key usage"},
		"of another address":      {own: []*authority{a}, url: serve(t, issue(t, elsewhere, a)), want: "127.0.0.2, not 127.0.0.1"},
		"of another name":         {own: []*authority{a}, url: byName(serve(t, issue(t, elsewhere, a))), want: "elsewhere.example, not localhost"},
		"issued by a mere server": {own: []*authority{a}, url: func() string { l := issue(t, leaf, a); return serve(t, issue(t, leaf, l), l) }(), want: "cannot sign"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			certs := filepath.Join(dir, "certs")
			if err := os.Mkdir(certs, 0o755); err != nil {
				t.Fatal(err)
			}
			if len(test.dir) > 0 {
				pemFile(t, certs, "a.pem", test.dir...)
			}
			bundle, own := filepath.Join(dir, "absent"), ""
			if len(test.file) > 0 {
				bundle = pemFile(t, dir, "bundle.crt", test.file...)
			}
			if len(test.own) > 0 {
				own = pemFile(t, dir, "own.crt", test.own...)
			}
			cmd := exec.Command(os.Args[0], "-test.run=^TestAsked$")
			cmd.Env = append(os.Environ(), "SSL_CERT_FILE="+bundle, "SSL_CERT_DIR="+certs, "WALE_TEST_OWN="+own, "WALE_TEST_ASK="+test.url, "HTTPS_PROXY=", "https_proxy=")
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			want := "asked: 200 OK"
			if test.want != "" {
				want = test.want
			}
			if !strings.Contains(string(out), want) {
				t.Errorf("the answer is\n%s, want %q", out, want)
			}
		})
	}
}

// A server that takes the connection and then is silent is given up, for another
// attempt.
func TestSilentHandshake(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	transport, err := httpx.Transport("")
	if err != nil {
		t.Fatal(err)
	}
	res, err := (&http.Client{Transport: httpx.Watch(transport, 100*time.Millisecond)}).Get("https://" + l.Addr().String())
	if !errors.Is(err, httpx.ErrStalled) {
		t.Errorf("Get = %v, want %v", err, httpx.ErrStalled)
	}
	if err == nil {
		res.Body.Close()
	}
}
