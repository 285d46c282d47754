package azure_test

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"

	"wal-e/internal/storage"
	"wal-e/internal/storage/azure"
)

// A login that fails because of the network, or because many log in, may succeed
// the next time; one that is refused won't.
func TestLogin(t *testing.T) {
	for _, name := range []string{"AZURE_FEDERATED_TOKEN_FILE", "IDENTITY_ENDPOINT", "MSI_ENDPOINT", "AZURE_CLIENT_CERTIFICATE_PATH", "AZURE_USERNAME"} {
		t.Setenv(name, "")
	}
	t.Setenv("AZURE_TENANT_ID", "11111111-2222-3333-4444-555555555555")
	t.Setenv("AZURE_CLIENT_ID", "archiver")
	t.Setenv("AZURE_CLIENT_SECRET", "topsecret")
	says := func(status int, body string) roundTrip {
		return func(req *http.Request) (*http.Response, error) {
			return &http.Response{
				StatusCode: status, Status: http.StatusText(status), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
				Header: http.Header{"Content-Type": {"application/json"}, "Retry-After-Ms": {"1"}}, Body: io.NopCloser(strings.NewReader(body)), Request: req,
			}, nil
		}
	}
	for name, test := range map[string]struct {
		login roundTrip
		final bool
		words string
	}{
		"network":  {func(*http.Request) (*http.Response, error) { return nil, syscall.ECONNRESET }, false, "connection reset"},
		"too many": {says(http.StatusTooManyRequests, `{}`), false, "the server answers 429"},
		"trouble":  {says(http.StatusServiceUnavailable, `{}`), false, "the server answers 503"},
		"refused":  {says(http.StatusUnauthorized, `{"error":"invalid_client","error_description":"topsecret"}`), true, "give an account key"},
	} {
		t.Run(name, func(t *testing.T) {
			transport := roundTrip(func(req *http.Request) (*http.Response, error) {
				switch {
				case !strings.HasSuffix(req.URL.Host, ".blob.core.windows.net"):
					return test.login(req)
				case req.Header.Get("Authorization") == "":
					res, err := says(http.StatusUnauthorized, ``)(req)
					res.Header.Set("WWW-Authenticate", `Bearer authorization_uri=https://login.microsoftonline.com/11111111-2222-3333-4444-555555555555/oauth2/authorize resource_id=https://storage.azure.com`)
					return res, err
				}
				return says(http.StatusOK, ``)(req)
			})
			b := open(t, azure.Config{Container: "c", Account: "archives", Transport: transport})
			_, err := b.Stat(t.Context(), "key")
			if err == nil || errors.Is(err, storage.ErrPermission) != test.final || !strings.Contains(err.Error(), test.words) ||
				!strings.Contains(err.Error(), "log in to Azure") || strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "topsecret") {
				t.Errorf("Stat = %v, want one line that says %q, final: %v, without the secret", err, test.words, test.final)
			}
		})
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }
