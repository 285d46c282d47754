package gcs_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"wal-e/internal/enginetest"
	"wal-e/internal/storage"
	"wal-e/internal/storage/gcs"
	"wal-e/internal/storage/storagetest"
)

func open(t *testing.T, cfg gcs.Config) *gcs.Bucket {
	t.Helper()
	b, err := gcs.Open(cfg)
	if err != nil {
		t.Fatalf("Open = %v, want nil", err)
	}
	return b
}

// One server serves them all.
func TestGCS(t *testing.T) {
	t.Parallel()
	s := enginetest.GCS(t)
	var n atomic.Int64
	fresh := func(t *testing.T) gcs.Config {
		name := fmt.Sprintf("bucket-%d", n.Add(1))
		s.CreateBucket(t, name)
		return gcs.Config{Bucket: name, Emulator: s.URL, PageSize: 100}
	}
	t.Run("Conformance", func(t *testing.T) {
		t.Parallel()
		storagetest.RunSlow(t, func(t *testing.T) storage.Bucket {
			cfg := fresh(t)
			cfg.Prefix = "some/prefix/"
			return open(t, cfg)
		})
	})
	for name, test := range map[string]func(t *testing.T, cfg gcs.Config){
		"NoBucket":     testNoBucket,
		"LeadingSlash": testLeadingSlash,
		"OneRequest":   testOneRequest,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, fresh(t))
		})
	}
}

// A bucket that isn't there is no empty one.
func testNoBucket(t *testing.T, cfg gcs.Config) {
	cfg.Bucket = "no-such-bucket"
	b := open(t, cfg)
	_, getErr := b.Get(t.Context(), "key", 0, -1)
	_, statErr := b.Stat(t.Context(), "key")
	var listErr error
	for _, err := range b.List(t.Context(), "", "") {
		listErr = err
	}
	for op, err := range map[string]error{
		"Get": getErr, "Stat": statErr, "List": listErr,
		"Create": storage.CreateBytes(t.Context(), b, "key", []byte("x"), nil), "Delete": b.Delete(t.Context(), "key"),
	} {
		if !errors.Is(err, storage.ErrInvalid) || !strings.Contains(err.Error(), `no such bucket "no-such-bucket": create it`) {
			t.Errorf("%s = %v, want that there is no such bucket", op, err)
		}
	}
}

// Classic names begin with a slash, and are reached over the same session.
func testLeadingSlash(t *testing.T, cfg gcs.Config) {
	cfg.Prefix = "p/"
	a := open(t, cfg)
	for i, b := range []storage.Bucket{a, a.At("/p/")} {
		if err := storage.CreateBytes(t.Context(), b, "key", []byte{byte(i)}, nil); err != nil {
			t.Fatal(err)
		}
	}
	for i, b := range []storage.Bucket{a, a.At("/p/")} {
		n := 0
		for o, err := range b.List(t.Context(), "", "") {
			if n++; err != nil || o.Key != "key" {
				t.Errorf("List of bucket %d = %q, %v, want key", i, o.Key, err)
			}
		}
		got, err := storage.ReadAll(t.Context(), b, "key", 10)
		if n != 1 || err != nil || !bytes.Equal(got, []byte{byte(i)}) {
			t.Errorf("bucket %d: %d objects, content %v, %v, want its own", i, n, got, err)
		}
	}
}

// counting counts requests.
type counting struct{ n atomic.Int64 }

func (c *counting) RoundTrip(req *http.Request) (*http.Response, error) {
	c.n.Add(1)
	return http.DefaultTransport.RoundTrip(req)
}

// A pack goes up in one request, from any reader.
func testOneRequest(t *testing.T, cfg gcs.Config) {
	for i, size := range []int64{32 << 20, 32 << 20, -1} {
		counter := new(counting)
		cfg.Transport = counter
		var r io.Reader = bytes.NewReader(make([]byte, 32<<20))
		if i > 0 {
			r = io.MultiReader(r)
		}
		if err := open(t, cfg).Create(t.Context(), fmt.Sprint("pack-", i), r, size, nil); err != nil {
			t.Errorf("Create = %v, want nil", err)
		}
		if got := counter.n.Load(); got != 1 {
			t.Errorf("a pack took %d requests, want 1", got)
		}
	}
}

// A server that takes a request and says nothing is given up.
func TestSilence(t *testing.T) {
	t.Parallel()
	s := enginetest.GCS(t)
	s.CreateBucket(t, "silent")
	b := open(t, gcs.Config{Bucket: "silent", Emulator: s.URL, Idle: 300 * time.Millisecond})
	s.Stop()
	defer s.Continue()
	err := storage.CreateBytes(t.Context(), b, "key", make([]byte, 100), nil)
	if err == nil || !strings.Contains(err.Error(), "no answer for") {
		t.Errorf("Create at a stopped server = %v, want that there was no answer", err)
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		field string
		cfg   gcs.Config
	}{
		{"Bucket", gcs.Config{}},
		{"Bucket", gcs.Config{Bucket: "a/b"}},
		{"Emulator", gcs.Config{Bucket: "b", Emulator: "ftp://h"}},
		{"Emulator", gcs.Config{Bucket: "b", Emulator: "http://u:topsecret@h"}},
		{"Emulator", gcs.Config{Bucket: "b", Emulator: "http://h/path"}},
	} {
		_, err := gcs.Open(test.cfg)
		var field *gcs.FieldError
		if !errors.As(err, &field) || field.Field != test.field || !errors.Is(err, storage.ErrInvalid) || strings.Contains(err.Error(), "secret") {
			t.Errorf("Open(%+v) = %v, want what is wrong with %s, without secrets", test.cfg, err, test.field)
		}
	}
}
