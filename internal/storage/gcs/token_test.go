package gcs_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"wal-e/internal/storage"
	"wal-e/internal/storage/gcs"
)

// google stands for both of Google's servers: the one that gives tokens and the
// one that takes them. No emulator looks at tokens.
type google struct {
	url string

	mu     sync.Mutex
	given  int    // tokens
	valid  string // the one token that is taken; empty: any that was given
	answer int    // of the login; 0 means 200
	body   string // of a login that fails
}

func newGoogle(t *testing.T) *google {
	t.Helper()
	g := new(google)
	s := httptest.NewServer(g)
	t.Cleanup(s.Close)
	g.url = s.URL
	return g
}

func (g *google) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	defer g.mu.Unlock()
	_, _ = io.Copy(io.Discard, r.Body)
	w.Header().Set("Content-Type", "application/json")
	if r.URL.Path == "/token" {
		if g.answer != 0 {
			w.WriteHeader(g.answer)
			_, _ = io.WriteString(w, g.body)
			return
		}
		g.given++
		g.valid = fmt.Sprintf("token-%d", g.given)
		fmt.Fprintf(w, `{"access_token":%q,"expires_in":3600,"token_type":"Bearer"}`, g.valid)
		return
	}
	if r.Header.Get("Authorization") != "Bearer "+g.valid {
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = io.WriteString(w, `{"error":{"code":401,"message":"Invalid Credentials","errors":[{"reason":"authError"}]}}`)
		return
	}
	_, _ = io.WriteString(w, `{"name":"key","size":"1","timeCreated":"2026-11-22T18:49:33.123Z"}`)
}

// RoundTrip sends every request to the test's server.
func (g *google) RoundTrip(req *http.Request) (*http.Response, error) {
	to, err := url.Parse(g.url)
	if err != nil {
		return nil, err
	}
	req = req.Clone(req.Context())
	req.URL.Scheme, req.URL.Host = to.Scheme, to.Host
	return http.DefaultTransport.RoundTrip(req)
}

// serviceAccount writes the file of a service account.
func serviceAccount(t *testing.T) string {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(map[string]string{
		"type": "service_account", "client_email": "archiver@project.iam.gserviceaccount.com", "private_key_id": "1",
		"private_key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
		"token_uri":   "https://oauth2.googleapis.com/token",
	})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "account.json")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// A token serves many requests, and is renewed when it is refused.
func TestToken(t *testing.T) {
	t.Parallel()
	g := newGoogle(t)
	b := open(t, gcs.Config{Bucket: "bucket", Credentials: serviceAccount(t), Transport: g})
	for range 3 {
		if a, err := b.Stat(t.Context(), "key"); err != nil || a.Size != 1 {
			t.Fatalf("Stat = %+v, %v, want an object of one byte", a, err)
		}
	}
	if g.given != 1 {
		t.Errorf("three requests took %d tokens, want 1", g.given)
	}
	g.mu.Lock()
	g.valid = "nobody has it"
	g.mu.Unlock()
	if _, err := storage.Retry(b, storage.Policy{First: 1}).Stat(t.Context(), "key"); err != nil || g.given != 2 {
		t.Errorf("Stat with a token that has ended = %v with %d tokens, want nil with a second one", err, g.given)
	}
}

// A token that never works is no reason to go on.
func TestTokenRefused(t *testing.T) {
	t.Parallel()
	g := newGoogle(t)
	b := open(t, gcs.Config{Bucket: "bucket", Credentials: serviceAccount(t), Transport: refusing{g}})
	_, err := b.Stat(t.Context(), "key")
	if !errors.Is(err, storage.ErrPermission) || !strings.Contains(err.Error(), "check the credentials") || strings.Contains(err.Error(), "token-") {
		t.Errorf("Stat = %v, want %v that says to check credentials, without the token", err, storage.ErrPermission)
	}
}

// refusing spoils each token.
type refusing struct{ *google }

func (r refusing) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Header.Get("Authorization") != "" {
		req = req.Clone(req.Context())
		req.Header.Set("Authorization", "Bearer spoilt")
	}
	return r.google.RoundTrip(req)
}

// A login that fails says why, and whether to try again.
func TestLogin(t *testing.T) {
	t.Parallel()
	good := serviceAccount(t)
	write := func(content string) string {
		path := filepath.Join(t.TempDir(), "bad.json")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, test := range []struct {
		name, file string
		answer     int
		lasting    bool
		text       string
	}{
		{"refused", good, http.StatusBadRequest, true, "the server answers 400: check that " + good + " is valid still"},
		{"busy", good, http.StatusServiceUnavailable, false, "log in to Google: the server answers 503"},
		{"no file", "/nonexistent/account.json", 0, true, "/nonexistent/account.json: no such file"},
		{"no JSON", write("topsecret"), 0, true, "is not a JSON file of credentials"},
		{"other JSON", write(`{"type":"topsecret"}`), 0, true, "is not a JSON file of credentials"},
		{"no key", write(`{"type":"service_account","private_key":"topsecret","token_uri":"https://oauth2.googleapis.com/token"}`), 0, true, ""},
	} {
		g := newGoogle(t)
		g.answer, g.body = test.answer, `{"error":"invalid_grant","error_description":"topsecret"}`
		b := open(t, gcs.Config{Bucket: "bucket", Credentials: test.file, Transport: g})
		_, err := b.Stat(t.Context(), "key")
		if err == nil || !strings.Contains(err.Error(), test.text) || strings.Contains(err.Error(), "topsecret") {
			t.Errorf("%s: Stat = %v, want it to say %q and no secret", test.name, err, test.text)
		}
		if test.name != "no key" && errors.Is(err, storage.ErrPermission) != test.lasting {
			t.Errorf("%s: Stat = %v, want %v in it: %v", test.name, err, storage.ErrPermission, test.lasting)
		}
	}
}
