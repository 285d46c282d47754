package s3_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"wal-e/internal/enginetest"
	"wal-e/internal/storage"
	"wal-e/internal/storage/httpx"
	"wal-e/internal/storage/s3"
)

func allow(action, resource string) string {
	return fmt.Sprintf(`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":[%q],"Resource":["arn:aws:s3:::%s"]}]}`, action, resource)
}

// What is refused says what was asked of which bucket, what to do, and no secret.
func TestRefusals(t *testing.T) {
	t.Parallel()
	s := enginetest.MinIO(t)
	s.CreateBucket(t, "some")
	ctx := t.Context()
	if err := storage.CreateBytes(ctx, open(t, config(t, s, "some")), "there", []byte("x"), nil); err != nil {
		t.Fatal(err)
	}
	session := func(policy string) func(*s3.Config) {
		return func(c *s3.Config) { c.AccessKeyID, c.SecretAccessKey, c.SessionToken = s.Session(t, policy) }
	}
	stat := func(b *s3.Bucket) error { _, err := b.Stat(ctx, "absent"); return err }
	create := func(b *s3.Bucket) error { return storage.CreateBytes(ctx, b, "new", []byte("x"), nil) }
	list := func(b *s3.Bucket) error {
		for _, err := range b.List(ctx, "", "") {
			return err
		}
		return nil
	}
	for name, tc := range map[string]struct {
		change func(*s3.Config)
		do     func(*s3.Bucket) error
		kind   error
		words  []string
	}{
		"no bucket, stat":     {func(c *s3.Config) { c.Bucket = "none" }, stat, storage.ErrInvalid, []string{"there is no bucket none"}},
		"no bucket, create":   {func(c *s3.Config) { c.Bucket = "none" }, create, storage.ErrInvalid, []string{"there is no bucket none"}},
		"no bucket, list":     {func(c *s3.Config) { c.Bucket = "none" }, list, storage.ErrInvalid, []string{"there is no bucket none"}},
		"wrong secret":        {func(c *s3.Config) { c.SecretAccessKey = "wrong-secret-0123" }, create, storage.ErrPermission, []string{"AWS_SECRET_ACCESS_KEY"}},
		"unknown key":         {func(c *s3.Config) { c.AccessKeyID = "AKIDNOBODY" }, list, storage.ErrPermission, []string{"AWS_ACCESS_KEY_ID"}},
		"no right to create":  {session(allow("s3:GetObject", "some/*")), create, storage.ErrPermission, []string{"s3:PutObject on bucket some"}},
		"no right to delete":  {session(allow("s3:PutObject", "some/*")), func(b *s3.Bucket) error { return b.Delete(ctx, "there") }, storage.ErrPermission, []string{"s3:DeleteObject on bucket some"}},
		"no bulk deletion":    {session(allow("s3:PutObject", "some/*")), func(b *s3.Bucket) error { return b.Delete(ctx, "there", "too") }, storage.ErrPermission, []string{"s3:DeleteObject on bucket some", "the"}},
		"no right to list":    {session(allow("s3:GetObject", "some/*")), list, storage.ErrPermission, []string{"s3:ListBucket on bucket some"}},
		"absence not proven":  {session(allow("s3:PutObject", "some/*")), stat, storage.ErrPermission, []string{"s3:GetObject on bucket some"}},
		"no token":            {func(c *s3.Config) { session("")(c); c.SessionToken = "" }, create, storage.ErrPermission, []string{"AWS_"}},
		"class that isn't":    {func(c *s3.Config) { c.StorageClass, c.Bulk = "SHINY", func(string) bool { return true } }, create, storage.ErrInvalid, []string{"WALE_S3_STORAGE_CLASS"}},
		"encryption it lacks": {func(c *s3.Config) { c.Encryption.Method = "AES256" }, create, nil, []string{"the server answers"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := config(t, s, "some")
			tc.change(&cfg)
			err := tc.do(open(t, cfg))
			if err == nil || tc.kind != nil && !errors.Is(err, tc.kind) || errors.Is(err, storage.ErrNotExist) {
				t.Fatalf("error is %v, want one that wraps %v", err, tc.kind)
			}
			for _, w := range append(tc.words, cfg.Bucket) {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("error lacks %q: %v", w, err)
				}
			}
			for _, secret := range []string{cfg.SecretAccessKey, cfg.SessionToken} {
				if secret != "" && strings.Contains(err.Error(), secret) {
					t.Errorf("error holds a secret: %v", err)
				}
			}
		})
	}
}

// fakeIMDS is the metadata service of an instance. It hands out sets of credentials
// one after the other, of which each but the last is about to expire.
func fakeIMDS(t *testing.T, sets [][3]string, life time.Duration) (url string, asked func() int) {
	t.Helper()
	var mu sync.Mutex
	n := 0
	url = enginetest.IMDS(t, func() enginetest.Credentials {
		mu.Lock()
		defer mu.Unlock()
		set := sets[min(n, len(sets)-1)]
		expires := time.Now().Add(life)
		if n++; n >= len(sets) {
			expires = time.Now().Add(time.Hour)
		}
		return enginetest.Credentials{AccessKey: set[0], SecretKey: set[1], Token: set[2], Expires: expires}
	})
	return url, func() int { mu.Lock(); defer mu.Unlock(); return n }
}

// Credentials of an instance are renewed before they expire, and when the server
// says that they have.
func TestInstanceProfile(t *testing.T) {
	s := enginetest.MinIO(t)
	s.CreateBucket(t, "some")
	session := func(policy string) (set [3]string) {
		set[0], set[1], set[2] = s.Session(t, policy)
		return set
	}
	t.Run("expired", func(t *testing.T) {
		const life = 2 * time.Second
		url, asked := fakeIMDS(t, [][3]string{session(allow("s3:PutObject", "some/first/*")), session("")}, life)
		t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", url)
		cfg := config(t, s, "some")
		cfg.AccessKeyID, cfg.SecretAccessKey, cfg.InstanceProfile = "", "", true
		b := open(t, cfg)
		for i, key := range []string{"first/1", "second/1", "second/2"} {
			if i == 1 {
				time.Sleep(life) // the first set has no right to what follows
			}
			if err := storage.CreateBytes(t.Context(), b, key, nil, nil); err != nil {
				t.Errorf("Create(%q) = %v, want nil", key, err)
			}
		}
		if asked() != 2 {
			t.Errorf("the instance was asked for credentials %d times, want 2", asked())
		}
	})
	t.Run("expired early", func(t *testing.T) {
		url, asked := fakeIMDS(t, [][3]string{session(""), session("")}, time.Hour)
		t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", url)
		cfg := config(t, s, "some")
		cfg.AccessKeyID, cfg.SecretAccessKey, cfg.InstanceProfile = "", "", true
		var refused atomic.Bool
		cfg.Transport = roundTrip(func(r *http.Request) (*http.Response, error) {
			if refused.CompareAndSwap(false, true) {
				return answer(r, http.StatusBadRequest, "ExpiredToken"), nil
			}
			return http.DefaultTransport.RoundTrip(r)
		})
		b := storage.Retry(open(t, cfg), storage.Policy{First: time.Millisecond})
		if err := storage.CreateBytes(t.Context(), b, "early", []byte("x"), nil); err != nil {
			t.Errorf("Create = %v, want nil", err)
		}
		if asked() != 2 {
			t.Errorf("the instance was asked for credentials %d times, want 2", asked())
		}
	})
	t.Run("none", func(t *testing.T) {
		t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1")
		t.Setenv("AWS_CONFIG_FILE", "/nonexistent")
		t.Setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
		cfg := config(t, s, "some")
		cfg.AccessKeyID, cfg.SecretAccessKey = "", ""
		err := storage.CreateBytes(t.Context(), open(t, cfg), "none", nil, nil)
		if !errors.Is(err, storage.ErrPermission) || !strings.Contains(err.Error(), "AWS_ACCESS_KEY_ID") {
			t.Errorf("Create without credentials = %v, want ErrPermission and the name AWS_ACCESS_KEY_ID", err)
		}
	})
	t.Run("found by the SDK", func(t *testing.T) {
		t.Setenv("AWS_ACCESS_KEY_ID", s.AccessKey)
		t.Setenv("AWS_SECRET_ACCESS_KEY", s.SecretKey)
		cfg := config(t, s, "some")
		cfg.AccessKeyID, cfg.SecretAccessKey = "", ""
		if err := storage.CreateBytes(t.Context(), open(t, cfg), "found", nil, nil); err != nil {
			t.Errorf("Create = %v, want nil", err)
		}
	})
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// answer is an error as S3 words it.
func answer(r *http.Request, status int, code string) *http.Response {
	if r.Body != nil {
		r.Body.Close()
	}
	text := fmt.Sprintf("<?xml version=\"1.0\"?><Error><Code>%s</Code><Message>told by a test</Message></Error>", code)
	return &http.Response{
		Status: http.StatusText(status), StatusCode: status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: r,
		Header: http.Header{"Content-Type": {"application/xml"}}, Body: io.NopCloser(strings.NewReader(text)), ContentLength: int64(len(text)),
	}
}

// What goes wrong between us and a server is tried again; an answer that was
// lost after success looks like a name that is taken.
func TestRetried(t *testing.T) {
	t.Parallel()
	s := enginetest.MinIO(t)
	s.CreateBucket(t, "some")
	for name, tc := range map[string]struct {
		fault func(r *http.Request) (*http.Response, error)
		want  error
	}{
		"busy":     {func(r *http.Request) (*http.Response, error) { return answer(r, 503, "SlowDown"), nil }, nil},
		"internal": {func(r *http.Request) (*http.Response, error) { return answer(r, 500, "InternalError"), nil }, nil},
		"conflict": {func(r *http.Request) (*http.Response, error) {
			return answer(r, 409, "ConditionalRequestConflict"), nil
		}, nil},
		"too many":  {func(r *http.Request) (*http.Response, error) { return answer(r, 429, "TooManyRequests"), nil }, nil},
		"timed out": {func(r *http.Request) (*http.Response, error) { return answer(r, 400, "RequestTimeout"), nil }, nil},
		"reset":     {func(r *http.Request) (*http.Response, error) { return nil, io.ErrUnexpectedEOF }, nil},
		"lost": {func(r *http.Request) (*http.Response, error) {
			res, err := http.DefaultTransport.RoundTrip(r)
			if err == nil {
				res.Body.Close()
			}
			return nil, io.ErrUnexpectedEOF
		}, storage.ErrExist},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var n atomic.Int64
			cfg := config(t, s, "some")
			cfg.Prefix = strings.ReplaceAll(name, " ", "-") + "/"
			cfg.Transport = roundTrip(func(r *http.Request) (*http.Response, error) {
				if n.Add(1) == 1 {
					return tc.fault(r)
				}
				return http.DefaultTransport.RoundTrip(r)
			})
			b := storage.Retry(open(t, cfg), storage.Policy{First: time.Millisecond})
			data := bytes.Repeat([]byte("data"), 100_000)
			if err := storage.CreateBytes(t.Context(), b, "key", data, nil); !errors.Is(err, tc.want) {
				t.Errorf("Create = %v, want %v", err, tc.want)
			}
			if got, err := storage.ReadAll(t.Context(), b, "key", 1<<20); err != nil || !bytes.Equal(got, data) {
				t.Errorf("ReadAll = %d bytes, %v, want the %d created", len(got), err, len(data))
			}
		})
	}
}

// A store without conditional writes is found out, and what is there stays.
func TestWeakStore(t *testing.T) {
	t.Parallel()
	s := enginetest.MinIO(t)
	s.CreateBucket(t, "some")
	cfg := config(t, s, "some")
	cfg.Transport = roundTrip(func(r *http.Request) (*http.Response, error) {
		if r.Header.Get("If-None-Match") != "" || r.URL.Query().Has("delete") {
			return answer(r, http.StatusNotImplemented, "NotImplemented"), nil
		}
		return http.DefaultTransport.RoundTrip(r)
	})
	b := open(t, cfg)
	if w := storage.Weakness(b); w != "" {
		t.Errorf("Weakness() of a store that wasn't asked = %q, want none", w)
	}
	ctx := t.Context()
	if err := storage.CreateBytes(ctx, b, "key", []byte("first"), nil); err != nil {
		t.Fatalf("Create = %v, want nil", err)
	}
	if err := storage.CreateBytes(ctx, b, "key", []byte("second"), nil); !errors.Is(err, storage.ErrExist) {
		t.Errorf("second Create = %v, want %v", err, storage.ErrExist)
	}
	if got, err := storage.ReadAll(ctx, b, "key", 100); string(got) != "first" || err != nil {
		t.Errorf("content = %q, %v, want that created first", got, err)
	}
	if w := storage.Weakness(storage.Retry(b, storage.Policy{})); !strings.Contains(w, "conditional") {
		t.Errorf("Weakness() = %q, want one that speaks of conditional writes", w)
	}
	if err := b.Delete(ctx, "key", "absent"); err != nil {
		t.Errorf("Delete = %v, want nil", err)
	}
	if _, err := b.Stat(ctx, "key"); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("Stat of a deleted object = %v, want %v", err, storage.ErrNotExist)
	}
}

// The same of an object that goes up in parts, where the store says so at its end.
func TestWeakStoreInParts(t *testing.T) {
	t.Parallel()
	s := enginetest.MinIO(t)
	s.CreateBucket(t, "some")
	cfg := config(t, s, "some")
	cfg.Transport = roundTrip(func(r *http.Request) (*http.Response, error) {
		if r.Header.Get("If-None-Match") != "" {
			return answer(r, http.StatusNotImplemented, "NotImplemented"), nil
		}
		return http.DefaultTransport.RoundTrip(r)
	})
	b := storage.Retry(open(t, cfg), storage.Policy{Attempts: 3, First: time.Millisecond})
	content := bytes.Repeat([]byte("12345678"), 5<<20) // 40 MiB
	for i, want := range []error{nil, storage.ErrExist} {
		content[0] = byte(i)
		// Of unknown size, as what is made while it is sent.
		if err := b.Create(t.Context(), "key", bytes.NewReader(content), -1, nil); !errors.Is(err, want) {
			t.Errorf("Create %d = %v, want %v", i, err, want)
		}
	}
	if got, err := storage.ReadAll(t.Context(), b, "key", 64<<20); err != nil || len(got) != len(content) || got[0] != 0 {
		t.Errorf("content of %d bytes, %v, want that created first", len(got), err)
	}
}

// The bucket's region is learned from the server.
func TestRegion(t *testing.T) {
	t.Parallel()
	s := enginetest.MinIO(t)
	s.CreateBucket(t, "some")
	var signed []string
	cfg := config(t, s, "some")
	cfg.Region = "eu-west-1"
	cfg.Transport = roundTrip(func(r *http.Request) (*http.Response, error) {
		auth := r.Header.Get("Authorization")
		signed = append(signed, auth)
		if !strings.Contains(auth, "/us-east-1/s3/") {
			res := answer(r, http.StatusMovedPermanently, "PermanentRedirect")
			res.Header.Set("X-Amz-Bucket-Region", "us-east-1")
			return res, nil
		}
		return http.DefaultTransport.RoundTrip(r)
	})
	b := open(t, cfg)
	for _, key := range []string{"one", "two"} {
		if err := storage.CreateBytes(t.Context(), b, key, []byte("content"), nil); err != nil {
			t.Errorf("Create(%q) = %v, want nil", key, err)
		}
	}
	if len(signed) != 3 {
		t.Errorf("%d requests, want 3: one for the wrong region", len(signed))
	}
}

// An endpoint has three styles, and TLS is checked against a file of certificates.
func TestEndpoints(t *testing.T) {
	t.Parallel()
	certificates, certsDir := certificate(t)
	s := enginetest.MinIOWithTLS(t, certsDir, "MINIO_DOMAIN=s3.localhost")
	s.CreateBucket(t, "some")
	_, port, err := net.SplitHostPort(s.Addr)
	if err != nil {
		t.Fatal(err)
	}
	direct := func(cfg *s3.Config) {
		// Names below localhost are not known everywhere.
		transport := tlsTransport(t, cfg.Certificates)
		transport.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, s.Addr)
		}
		cfg.Transport = transport
	}
	cfg := s3.Config{Bucket: "some", Certificates: certificates, AccessKeyID: s.AccessKey, SecretAccessKey: s.SecretKey}
	for i, endpoint := range []string{
		"https+path://127.0.0.1:" + port, "https+path://localhost:" + port + "/",
		"https+subdomain://s3.localhost:" + port, "https+virtualhost://some.s3.localhost:" + port,
	} {
		e, err := s3.ParseEndpoint(endpoint)
		if err != nil {
			t.Fatalf("ParseEndpoint(%q) = %v, want nil", endpoint, err)
		}
		cfg.Endpoint = e
		if i > 1 {
			direct(&cfg)
		}
		b := open(t, cfg)
		// A key with what URLs escape, and one that goes up in parts.
		key := fmt.Sprintf("%d/a b+c%%é", i)
		if err := storage.CreateBytes(t.Context(), b, key, []byte("content"), nil); err != nil {
			t.Errorf("%s: Create = %v, want nil", endpoint, err)
			continue
		}
		if err := b.Create(t.Context(), fmt.Sprintf("%d/parts", i), io.LimitReader(rand.Reader, 40<<20), -1, nil); err != nil {
			t.Errorf("%s: Create in parts = %v, want nil", endpoint, err)
		}
		if got, err := storage.ReadAll(t.Context(), b, key, 100); err != nil || string(got) != "content" {
			t.Errorf("%s: ReadAll = %q, %v, want what was created", endpoint, got, err)
		}
		if err := b.Delete(t.Context(), key, key+"2"); err != nil {
			t.Errorf("%s: Delete = %v, want nil", endpoint, err)
		}
	}
	cfg.Endpoint, _ = s3.ParseEndpoint("https+path://127.0.0.1:" + port)
	cfg.Certificates, cfg.Transport = "", nil
	if err := storage.CreateBytes(t.Context(), open(t, cfg), "x", nil, nil); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("Create with a certificate that nobody knows = %v, want an error about it", err)
	}
}

func TestParseEndpoint(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]s3.Endpoint{
		"http+path://h:9000":        {Scheme: "http", Style: s3.Path, Host: "h:9000"},
		"https+path://":             {Scheme: "https", Style: s3.Path, Host: "s3.amazonaws.com"},
		"HTTPS+subdomain://h/":      {Scheme: "https", Style: s3.Subdomain, Host: "h"},
		"http+virtualhost://b.h:80": {Scheme: "http", Style: s3.VirtualHost, Host: "b.h:80"},
		"http+path://[::1]:9000":    {Scheme: "http", Style: s3.Path, Host: "[::1]:9000"},
	} {
		if got, err := s3.ParseEndpoint(in); err != nil || got != want {
			t.Errorf("ParseEndpoint(%q) = %+v, %v, want %+v", in, got, err, want)
		}
	}
	for _, in := range []string{
		"", "http://h", "ftp+path://h", "http+odd://h", "http+path://u:secret@h", "http+path://:@h", "http+path://h/x", "http+path://h?q", "http+path://h#f",
		"http+virtualhost://", "http+path://h:port", "h:9000",
	} {
		if got, err := s3.ParseEndpoint(in); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("ParseEndpoint(%q) = %+v, %v, want an error without secrets", in, got, err)
		}
	}
}

func TestParseEncryption(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]s3.Encryption{
		"none": {}, "AES256": {Method: "AES256"}, "aws:kms": {Method: "aws:kms"},
		"aws:kms:arn:aws:kms:r:1:key/x": {Method: "aws:kms", KeyID: "arn:aws:kms:r:1:key/x"},
	} {
		if got, err := s3.ParseEncryption(in); err != nil || got != want {
			t.Errorf("ParseEncryption(%q) = %+v, %v, want %+v", in, got, err, want)
		}
	}
	for _, in := range []string{"", "aes", "aws:kms:", "kms"} {
		if got, err := s3.ParseEncryption(in); err == nil {
			t.Errorf("ParseEncryption(%q) = %+v, want an error", in, got)
		}
	}
}

// What a header says reaches the server.
func TestHeaders(t *testing.T) {
	t.Parallel()
	s := enginetest.Versitygw(t)
	s.CreateBucket(t, "some")
	cfg := config(t, s, "some")
	cfg.StorageClass, cfg.Bulk = "STANDARD_IA", func(key string) bool { return strings.HasPrefix(key, "bulk/") }
	cfg.Encryption = s3.Encryption{Method: "aws:kms", KeyID: "the-key"}
	seen := make(map[string]http.Header)
	cfg.Transport = roundTrip(func(r *http.Request) (*http.Response, error) {
		if r.Method == http.MethodPut {
			seen[r.URL.Path] = r.Header
		}
		return http.DefaultTransport.RoundTrip(r)
	})
	b := open(t, cfg)
	for _, key := range []string{"bulk/a", "meta"} {
		if err := storage.CreateBytes(t.Context(), b, key, []byte("x"), nil); err != nil {
			t.Fatalf("Create(%q) = %v, want nil", key, err)
		}
		h := seen["/some/"+key]
		if h.Get("X-Amz-Server-Side-Encryption") != "aws:kms" || h.Get("X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id") != "the-key" ||
			h.Get("If-None-Match") != "*" || h.Get("Content-Md5") == "" {
			t.Errorf("headers of %s are %v", key, h)
		}
	}
	if got := seen["/some/bulk/a"].Get("X-Amz-Storage-Class"); got != "STANDARD_IA" {
		t.Errorf("class of bulk/a = %q, want STANDARD_IA", got)
	}
	if got := seen["/some/meta"].Get("X-Amz-Storage-Class"); got != "" {
		t.Errorf("class of meta = %q, want none", got)
	}
}

func tlsTransport(t *testing.T, certificates string) *http.Transport {
	t.Helper()
	transport, err := httpx.Transport(certificates)
	if err != nil {
		t.Fatal(err)
	}
	return transport
}

// certificate makes a certificate for localhost: the file to trust, and a folder
// with it and its key as MinIO wants them.
func certificate(t *testing.T) (file, dir string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(48 * time.Hour),
		DNSNames: []string{"localhost", "s3.localhost", "*.s3.localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir = t.TempDir()
	for name, block := range map[string]*pem.Block{"public.crt": {Type: "CERTIFICATE", Bytes: der}, "private.key": {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "public.crt"), dir
}
