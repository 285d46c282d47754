package driver_test

import (
	"context"
	"crypto/md5"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"wal-e/internal/storage"
	"wal-e/internal/storage/driver"
)

func FuzzMeta(f *testing.F) {
	for _, s := range []string{"", " ", "%", "%20", " a b ", "%25 ", "a"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		e := driver.EscapeMeta(s)
		if e == "" || strings.Trim(e, " ") != e {
			t.Errorf("EscapeMeta(%q) = %q, which HTTP doesn't keep", s, e)
		}
		if got := driver.UnescapeMeta(e); got != s {
			t.Errorf("UnescapeMeta(%q) = %q, want %q", e, got, s)
		}
	})
}

func TestRange(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		offset, length int64
		want           string
	}{
		{0, -1, ""}, {0, 1, "bytes=0-0"}, {5, -1, "bytes=5-"}, {5, 10, "bytes=5-14"}, {5, 1<<63 - 1, "bytes=5-"},
	} {
		if got := driver.Range(c.offset, c.length); got != c.want {
			t.Errorf("Range(%d, %d) = %q, want %q", c.offset, c.length, got, c.want)
		}
	}
}

func body(ctx context.Context, content string, left int64) *driver.Body {
	return driver.NewBody(ctx, io.NopCloser(strings.NewReader(content)), left)
}

func TestBody(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		content string
		left    int64
		want    error
	}{{"abc", 3, nil}, {"abc", -1, nil}, {"", 0, nil}, {"abc", 4, io.ErrUnexpectedEOF}, {"abc", 2, io.ErrUnexpectedEOF}} {
		if _, err := io.ReadAll(body(t.Context(), c.content, c.left)); !errors.Is(err, c.want) {
			t.Errorf("%q as %d bytes: %v, want %v", c.content, c.left, err, c.want)
		}
	}
}

func TestBodySum(t *testing.T) {
	t.Parallel()
	damaged := errors.New("damaged")
	for _, stored := range []string{"abc", "abd"} {
		b := body(t.Context(), "abc", 3)
		sum := md5.New()
		b.Sum(sum, func() error {
			if want := md5.Sum([]byte(stored)); string(sum.Sum(nil)) != string(want[:]) {
				return damaged
			}
			return nil
		})
		if _, err := io.ReadAll(b); (stored != "abc") != errors.Is(err, damaged) {
			t.Errorf("stored was %s: %v", stored, err)
		}
	}
}

func TestUnranged(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		content        string
		offset, length int64
		want           string
		err            error
	}{
		{"abc", 0, 2, "ab", nil}, {"abc", 0, 9, "abc", nil}, {"", 0, 5, "", nil}, {"abc", 3, 2, "", nil}, {"abc", 1, -1, "", storage.ErrInvalid},
	} {
		res := &http.Response{Body: io.NopCloser(strings.NewReader(c.content)), ContentLength: int64(len(c.content))}
		r, err := driver.Unranged(t.Context(), res, c.offset, c.length)
		if !errors.Is(err, c.err) {
			t.Errorf("%d bytes of %q from %d: %v, want %v", c.length, c.content, c.offset, err, c.err)
		}
		if err != nil {
			continue
		}
		if got, err := io.ReadAll(r); err != nil || string(got) != c.want {
			t.Errorf("%d bytes of %q from %d: %q, %v, want %q", c.length, c.content, c.offset, got, err, c.want)
		}
	}
}
