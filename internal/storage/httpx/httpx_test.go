package httpx_test

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"wal-e/internal/storage"
	"wal-e/internal/storage/httpx"
)

// server answers until the test ends, however its handlers hang.
func server(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s.URL
}

func watched(t *testing.T, idle time.Duration) *http.Client {
	t.Helper()
	transport, err := httpx.Transport("")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: httpx.Watch(transport, idle)}
}

func TestWatchEndsSilence(t *testing.T) {
	t.Parallel()
	t.Run("before the answer", func(t *testing.T) {
		t.Parallel()
		url := server(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
		res, err := watched(t, 50*time.Millisecond).Get(url)
		if !errors.Is(err, httpx.ErrStalled) {
			t.Errorf("Get = %v, want %v", err, httpx.ErrStalled)
		}
		if err == nil {
			res.Body.Close()
		}
	})
	t.Run("within the answer", func(t *testing.T) {
		t.Parallel()
		url := server(t, func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, "begin")
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		})
		res, err := watched(t, 2*time.Second).Get(url)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if got, err := io.ReadAll(res.Body); !errors.Is(err, httpx.ErrStalled) || string(got) != "begin" {
			t.Errorf("read = %q, %v, want what was sent and %v", got, err, httpx.ErrStalled)
		}
	})
	t.Run("within the request", func(t *testing.T) {
		t.Parallel()
		// Accepts connections and reads nothing: the body fills what the kernel holds.
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		body := bytes.NewReader(make([]byte, 64<<20))
		res, err := watched(t, 200*time.Millisecond).Post("http://"+l.Addr().String(), "", body)
		if !errors.Is(err, httpx.ErrStalled) {
			t.Errorf("Post = %v, want %v", err, httpx.ErrStalled)
		}
		if err == nil {
			res.Body.Close()
		}
	})
}

// Those who take their time are not the server.
func TestWatchLeavesOthersTheirTime(t *testing.T) {
	t.Parallel()
	const idle = time.Second
	url := server(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) })
	pr, pw := io.Pipe()
	go func() {
		_, _ = io.WriteString(pw, "slow ")
		time.Sleep(idle * 5 / 4)
		_, _ = io.WriteString(pw, "body")
		pw.Close()
	}()
	res, err := watched(t, idle).Post(url, "", pr)
	if err != nil {
		t.Fatalf("Post of a slow body = %v, want nil", err)
	}
	defer res.Body.Close()
	time.Sleep(idle * 5 / 4)
	if got, err := io.ReadAll(res.Body); err != nil || string(got) != "slow body" {
		t.Errorf("read by a slow reader = %q, %v, want what was sent", got, err)
	}
}

func TestWatchKeepsCancelling(t *testing.T) {
	t.Parallel()
	url := server(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(20*time.Millisecond, cancel)
	res, err := watched(t, time.Hour).Do(req)
	if !errors.Is(err, context.Canceled) || errors.Is(err, httpx.ErrStalled) {
		t.Errorf("Do = %v, want %v", err, context.Canceled)
	}
	if err == nil {
		res.Body.Close()
	}
}

// tlsServer answers with TLS under a certificate for example.com and 127.0.0.1.
func tlsServer(t *testing.T) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Proto) }))
	s.EnableHTTP2 = true
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // of clients that hang up
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

// certificateFile writes a server's certificate to a file.
func certificateFile(t *testing.T, s *httptest.Server) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "ca.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// Who answers in place of the one that was meant does so the next time, too.
func TestUntrusted(t *testing.T) {
	t.Parallel()
	s, plain := tlsServer(t), server(t, func(http.ResponseWriter, *http.Request) {})
	file := certificateFile(t, s)
	named := strings.Replace(s.URL, "127.0.0.1", "localhost", 1)
	for name, test := range map[string]struct{ certificates, url, word string }{
		"authority": {"", s.URL, "SSL_CERT_FILE"},
		"name":      {file, named, "correct the endpoint"},
		"no TLS":    {file, strings.Replace(plain, "http:", "https:", 1), "speaks no TLS"},
	} {
		transport, err := httpx.Transport(test.certificates)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(transport.CloseIdleConnections)
		res, err := (&http.Client{Transport: httpx.Watch(transport, 0)}).Get(test.url)
		if !errors.Is(err, storage.ErrInvalid) || !strings.Contains(err.Error(), test.word) {
			t.Errorf("%s: Get = %v, want %v that says %q", name, err, storage.ErrInvalid, test.word)
		}
		if err == nil {
			res.Body.Close()
		}
	}
}

// Each request has a connection to itself: one that is dead is left with it.
func TestOneConnectionEach(t *testing.T) {
	t.Parallel()
	s := tlsServer(t)
	transport, err := httpx.Transport(certificateFile(t, s))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(transport.CloseIdleConnections)
	res, err := (&http.Client{Transport: httpx.Watch(transport, 0)}).Get(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if got, err := io.ReadAll(res.Body); err != nil || string(got) != "HTTP/1.1" {
		t.Errorf("a server that offers HTTP/2 was asked by %q, %v, want HTTP/1.1", got, err)
	}
}

func TestTransportCertificates(t *testing.T) {
	t.Parallel()
	if _, err := httpx.Transport(filepath.Join(t.TempDir(), "absent")); err == nil || !strings.Contains(err.Error(), "absent") {
		t.Errorf("Transport of an absent file = %v, want an error that names it", err)
	}
	if _, err := httpx.Transport("httpx_test.go"); err == nil || !strings.Contains(err.Error(), "httpx_test.go") {
		t.Errorf("Transport of a file without certificates = %v, want an error that names it", err)
	}
}

// A sender sums up what it sends before, as drivers do to sign it, and reads it back.
type sender struct {
	storage.Bucket
	client *http.Client
}

func (b sender) Create(ctx context.Context, _ string, r io.Reader, size int64, _ storage.Meta) error {
	if _, err := io.Copy(io.Discard, r); err != nil {
		return err
	}
	if _, err := r.(io.Seeker).Seek(0, io.SeekStart); err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, "http://store.test", r)
	if err != nil {
		return err
	}
	req.ContentLength = size
	res, err := b.client.Do(req)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, res.Body)
	return errors.Join(err, res.Body.Close())
}

// An echo is a server without a network.
type echo struct{}

func (echo) RoundTrip(r *http.Request) (*http.Response, error) {
	data, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(bytes.NewReader(data))}, nil
}

// A limit of the network's rate holds for what is sent and for what comes, not for
// what is only summed up; and waiting for it isn't silence of the server.
func TestWatchKeepsToRate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const size, speed = 3 << 20, 1 << 20
		b := storage.Rate(sender{client: &http.Client{Transport: httpx.Watch(echo{}, time.Second/2)}}, speed)
		began := time.Now()
		if err := storage.CreateBytes(t.Context(), b, "key", make([]byte, size), nil); err != nil {
			t.Fatalf("Create = %v", err)
		}
		got, want := time.Since(began), 2*size*time.Second/speed
		if got < want-time.Second/4-time.Millisecond || got > want+time.Second/8 {
			t.Errorf("sending and reading %d bytes took %s, want %s", size, got, want)
		}
	})
}
