package gcs_test

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"wal-e/internal/storage"
	"wal-e/internal/storage/gcs"
)

// What a server explains is one short line, whatever it sends.
func FuzzDecodeError(f *testing.F) {
	f.Add(403, `{"error":{"code":403,"message":"x does not have storage.objects.get access.\nPermission denied","errors":[{"reason":"forbidden"}]}}`)
	f.Add(500, "<html>no")
	f.Add(404, `{"error":{"message":"`+strings.Repeat("long ", 100))
	f.Fuzz(func(t *testing.T, status int, body string) {
		err := gcs.DecodeError(status, strings.NewReader(body))
		if text := err.Error(); len(text) > 500 || strings.ContainsAny(text, "\n\r") {
			t.Errorf("decodeError(%q) = %q, want a short line", body, text)
		}
	})
}

// answering is a server with one answer for everything.
func answering(t *testing.T, status int, body string) *gcs.Bucket {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}))
	t.Cleanup(s.Close)
	return open(t, gcs.Config{Bucket: "bucket", Emulator: s.URL})
}

// What an answer means, for those that no emulator gives.
func TestAnswers(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		status int
		reason string
		want   error // nil: another attempt may do better
	}{
		{http.StatusServiceUnavailable, "backendError", nil},
		{http.StatusInternalServerError, "", nil},
		{http.StatusTooManyRequests, "rateLimitExceeded", nil},
		{http.StatusForbidden, "userRateLimitExceeded", nil},
		{http.StatusForbidden, "forbidden", storage.ErrPermission},
		{http.StatusForbidden, "retentionPolicyNotMet", storage.ErrPermission},
		{http.StatusUnauthorized, "authError", storage.ErrPermission},
		{http.StatusBadRequest, "invalid", storage.ErrInvalid},
	} {
		b := answering(t, test.status, `{"error":{"message":"It says so.","errors":[{"reason":"`+test.reason+`"}]}}`)
		var listErr error
		for _, err := range b.List(t.Context(), "", "") {
			listErr = err
		}
		for op, err := range map[string]error{
			"stat":   func() error { _, err := b.Stat(t.Context(), "key"); return err }(),
			"get":    func() error { _, err := b.Get(t.Context(), "key", 0, -1); return err }(),
			"list":   listErr,
			"delete": b.Delete(t.Context(), "key"),
			"create": storage.CreateBytes(t.Context(), b, "key", []byte("x"), nil),
		} {
			if err == nil || !strings.Contains(err.Error(), "It says so") || !strings.Contains(err.Error(), op) || !strings.Contains(err.Error(), "gs://bucket") {
				t.Errorf("%d %s: %s = %v, want what the server says, and which bucket", test.status, test.reason, op, err)
			}
			var kind error
			for _, k := range []error{storage.ErrNotExist, storage.ErrExist, storage.ErrPermission, storage.ErrInvalid} {
				if errors.Is(err, k) {
					kind = k
				}
			}
			if kind != test.want {
				t.Errorf("%d %s: %s = %v, want %v in it", test.status, test.reason, op, err, test.want)
			}
		}
	}
}

// Content that was damaged after it was stored, or on the way, is not handed
// out as whole.
func TestDamage(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Goog-Hash", "crc32c=AAAAAA==,md5=AAAA")
		_, _ = io.WriteString(w, "damaged")
	}))
	t.Cleanup(s.Close)
	body, err := open(t, gcs.Config{Bucket: "bucket", Emulator: s.URL}).Get(t.Context(), "key", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	if got, err := io.ReadAll(body); err == nil || !strings.Contains(err.Error(), "what arrived has the CRC32C sum") {
		t.Errorf("read = %q, %v, want that its sum is wrong", got, err)
	}
}
