package s3_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"strings"
	"testing"

	sdk "github.com/aws/aws-sdk-go-v2/service/s3"

	"wal-e/internal/enginetest"
	"wal-e/internal/storage"
	"wal-e/internal/storage/s3"
)

// What goes up in parts is there as a whole or leaves nothing, under its own
// name, and only where nothing was.
func TestParts(t *testing.T) {
	t.Parallel()
	s := enginetest.MinIO(t)
	s.CreateBucket(t, "some")
	cfg := config(t, s, "some")
	cfg.Largest = 1 << 20
	b := open(t, cfg)
	ctx := t.Context()
	data := make([]byte, 40<<20)
	if _, err := rand.Read(data); err != nil {
		t.Fatal(err)
	}
	const key = "odd../name with %2F" // some libraries escape such a name
	if err := storage.CreateBytes(ctx, b, key, data, storage.Meta{"some": "value"}); err != nil {
		t.Fatalf("Create of more than one request may carry = %v, want nil", err)
	}
	if a, err := b.Stat(ctx, key); err != nil || a.Size != int64(len(data)) || a.Meta["some"] != "value" {
		t.Errorf("Stat = %+v, %v, want size and metadata", a, err)
	}
	if got, err := storage.ReadAll(ctx, b, key, 1<<30); err != nil || !bytes.Equal(got, data) {
		t.Errorf("ReadAll = %d bytes, %v, want the %d created", len(got), err, len(data))
	}
	if err := storage.CreateBytes(ctx, b, key, data[1:], nil); !errors.Is(err, storage.ErrExist) {
		t.Errorf("second Create = %v, want %v", err, storage.ErrExist)
	}
	broke := errors.New("reader broke")
	for name, r := range map[string]io.Reader{
		"broken": io.MultiReader(bytes.NewReader(data), failing{broke}),
		"short":  bytes.NewReader(data[:len(data)-1]),
	} {
		want := map[string]error{"broken": broke, "short": storage.ErrSize}[name]
		if err := b.Create(ctx, name, r, int64(len(data)), nil); !errors.Is(err, want) {
			t.Errorf("Create of a %s reader = %v, want %v", name, err, want)
		}
	}
	for _, name := range []string{key, "broken", "short"} {
		// MinIO lists the uploads of one key only.
		out, err := s.Client().ListMultipartUploads(ctx, &sdk.ListMultipartUploadsInput{Bucket: &cfg.Bucket, Prefix: &name})
		if err != nil || len(out.Uploads) != 0 {
			t.Errorf("uploads left of %q: %d, %v, want none", name, len(out.Uploads), err)
		}
	}
	if got := s.Objects(t, "some"); len(got) != 1 || got[0] != key {
		t.Errorf("bucket holds %q, want %q alone", got, key)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func FuzzParseEndpoint(f *testing.F) {
	for _, seed := range []string{"https+path://h:1/", "http+subdomain://", "http+virtualhost://b.h", "http+path://u:p@h", "http+path://[::1]:9", "x"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, in string) {
		e, err := s3.ParseEndpoint(in)
		if err == nil && (e.Host == "" || strings.ContainsAny(e.Host, "/@?#") || e.Scheme != "http" && e.Scheme != "https") {
			t.Errorf("ParseEndpoint(%q) = %+v, want a scheme and a plain host", in, e)
		}
	})
}
