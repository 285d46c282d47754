package azure_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"wal-e/internal/storage"
	"wal-e/internal/storage/azure"
)

// What a server explains is one short line, whatever it sends.
func FuzzDecodeError(f *testing.F) {
	f.Add(`<?xml version="1.0"?><Error><Code>AuthenticationFailed</Code><Message>Server failed.` + "\nRequestId:1" +
		`</Message><AuthenticationErrorDetail>Signature not valid in the specified time frame: Start [x] - Expiry [y]</AuthenticationErrorDetail></Error>`)
	f.Add("<Error><Message>\xff" + strings.Repeat("long ", 100))
	f.Add("<html>no")
	f.Fuzz(func(t *testing.T, body string) {
		got := azure.DecodeError(strings.NewReader(body))
		if len(got) > 210 || strings.ContainsAny(got, "\n\r") {
			t.Errorf("decodeError(%q) = %q, want a short line", body, got)
		}
	})
}

// Metadata comes back as it was, though names change their case on the way.
func FuzzMeta(f *testing.F) {
	f.Add("sha", "00ff")
	f.Add("9-", " %20 ")
	f.Fuzz(func(t *testing.T, k, v string) {
		want := storage.Meta{k: v}
		kept, err := azure.EncodeMeta(want)
		if err != nil {
			return // no store takes it
		}
		answered := make(map[string]*string)
		for name, value := range kept {
			if strings.ContainsFunc(name, func(r rune) bool {
				return r != '_' && (r < 'a' || r > 'z') && (r < '0' || r > '9')
			}) || *value != strings.TrimSpace(*value) || *value == "" {
				t.Errorf("%q = %q is kept as %q = %q, which Azure changes or refuses", k, v, name, *value)
			}
			answered[strings.ToUpper(name[:1])+name[1:]] = value
		}
		if got := azure.DecodeMeta(answered); !maps.Equal(got, want) {
			t.Errorf("metadata comes back as %q, want %q", got, want)
		}
	})
}

// answering is a server with one answer for everything.
func answering(t *testing.T, status int, headers map[string]string, body string) *azure.Bucket {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		for k, v := range headers {
			w.Header().Set(k, v)
		}
		w.WriteHeader(status)
		if r.Method != http.MethodHead {
			_, _ = io.WriteString(w, body)
		}
	}))
	t.Cleanup(s.Close)
	return open(t, azure.Config{Container: "container", Account: "account", Key: "a2V5", Endpoint: s.URL})
}

func listing(names ...string) string {
	var b strings.Builder
	b.WriteString(`<?xml version="1.0" encoding="utf-8"?><EnumerationResults><Blobs>`)
	for _, name := range names {
		fmt.Fprintf(&b, `<Blob><Name>%s</Name><Properties><Last-Modified>%s</Last-Modified><Content-Length>1</Content-Length></Properties></Blob>`,
			name, time.Unix(0, 0).UTC().Format(http.TimeFormat))
	}
	b.WriteString(`</Blobs><NextMarker/></EnumerationResults>`)
	return b.String()
}

// A hierarchical namespace lists a folder before the names that its own sorts
// behind. Nobody may take such a listing for one in order.
func TestListOutOfOrder(t *testing.T) {
	t.Parallel()
	b := answering(t, http.StatusOK, nil, listing("a/b", "a.b"))
	var keys []string
	var last error
	for o, err := range b.List(t.Context(), "", "") {
		if last = err; err == nil {
			keys = append(keys, o.Key)
		}
	}
	if len(keys) != 1 || !errors.Is(last, storage.ErrInvalid) || !strings.Contains(last.Error(), "hierarchical namespace") {
		t.Errorf("List = %q, %v, want one key and %v", keys, last, storage.ErrInvalid)
	}
}

// What an answer means, for those that no emulator gives.
func TestAnswers(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		status int
		code   string
		want   error // nil: another attempt may do better
		text   string
	}{
		{http.StatusServiceUnavailable, "ServerBusy", nil, "503 ServerBusy"},
		{http.StatusInternalServerError, "OperationTimedOut", nil, "500 OperationTimedOut"},
		{http.StatusTooManyRequests, "", nil, "429 Too Many Requests"},
		{http.StatusNotFound, "", storage.ErrInvalid, "check the endpoint"},
		{http.StatusNotFound, "ResourceNotFound", storage.ErrPermission, "anonymous"},
		{http.StatusConflict, "BlobArchived", storage.ErrInvalid, "archive tier"},
		{http.StatusConflict, "BlobImmutableDueToPolicy", storage.ErrPermission, "a policy"},
		{http.StatusForbidden, "AuthorizationFailure", storage.ErrPermission, "firewall"},
		{http.StatusUnauthorized, "InvalidAuthenticationInfo", storage.ErrPermission, "check account name and account key"},
	} {
		headers := map[string]string{}
		if test.code != "" {
			headers["x-ms-error-code"] = test.code
		}
		b := answering(t, test.status, headers, "<Error><Message>It says so.\nRequestId:1</Message></Error>")
		for op, err := range map[string]error{
			"stat":   func() error { _, err := b.Stat(t.Context(), "key"); return err }(),
			"get":    func() error { _, err := b.Get(t.Context(), "key", 0, -1); return err }(),
			"delete": b.Delete(t.Context(), "key"),
			"create": storage.CreateBytes(t.Context(), b, "key", []byte("x"), nil),
		} {
			if err == nil || !strings.Contains(err.Error(), test.text) {
				t.Errorf("%d %s: %s = %v, want it to say %q", test.status, test.code, op, err, test.text)
			}
			if lasting(err) != test.want {
				t.Errorf("%d %s: %s = %v, want %v in it", test.status, test.code, op, err, test.want)
			}
		}
	}
}

// lasting returns which of those errors that are not tried again is in err.
func lasting(err error) error {
	for _, kind := range []error{storage.ErrNotExist, storage.ErrExist, storage.ErrPermission, storage.ErrInvalid, context.Canceled} {
		if errors.Is(err, kind) {
			return kind
		}
	}
	return nil
}
