package swift_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"wal-e/internal/storage"
	"wal-e/internal/storage/httpx"
	"wal-e/internal/storage/swift"
)

const password = "the secret key"

// faulty is a bucket at a server that takes any login and then does what a
// healthy Swift never does.
func faulty(t *testing.T, h http.HandlerFunc) *swift.Bucket {
	t.Helper()
	var s *httptest.Server
	s = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/auth" {
			w.Header().Set("X-Storage-Url", s.URL+"/v1/a")
			w.Header().Set("X-Auth-Token", "token")
			return
		}
		h(w, r)
	}))
	t.Cleanup(s.Close)
	t.Cleanup(s.CloseClientConnections)
	return open(t, swift.Config{
		Container: "c", AuthURL: s.URL + "/auth", AuthVersion: 1, User: "u", Password: password, Idle: 200 * time.Millisecond,
	})
}

func readAll(t *testing.T, b storage.Bucket) (string, error) {
	t.Helper()
	data, err := storage.ReadAll(t.Context(), b, "key", 1<<20)
	return string(data), err
}

// A storage that takes none of the tokens which the login gives is not asked for
// ever.
func TestTokensRefused(t *testing.T) {
	t.Parallel()
	requests := 0
	b := faulty(t, func(w http.ResponseWriter, _ *http.Request) {
		requests++
		w.WriteHeader(http.StatusUnauthorized)
	})
	_, err := storage.Retry(b, storage.Policy{First: time.Millisecond}).Stat(t.Context(), "key")
	if !errors.Is(err, storage.ErrPermission) || !strings.Contains(err.Error(), "/auth has just given") || requests != 3 {
		t.Errorf("Stat = %v after %d requests, want %v after 3", err, requests, storage.ErrPermission)
	}
}

func TestDamagedDownload(t *testing.T) {
	t.Parallel()
	b := faulty(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Etag", "9a0364b9e99bb480dd25e1f0284c8555") // of "content"
		_, _ = io.WriteString(w, "c0ntent")
	})
	body, err := b.Get(t.Context(), "key", 0, -1)
	if err != nil {
		t.Fatalf("Get = %v, want nil", err)
	}
	defer body.Close()
	if data, err := io.ReadAll(body); err == nil || !strings.Contains(err.Error(), "9a0364b9e99bb480dd25e1f0284c8555") {
		t.Errorf("read of a damaged object = %q, %v, want an error with its sum", data, err)
	}
}

func TestBrokenDownload(t *testing.T) {
	t.Parallel()
	b := faulty(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		_, _ = io.WriteString(w, "the beginning")
	})
	if data, err := readAll(t, b); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("read of a body that breaks off = %q, %v, want %v", data, err, io.ErrUnexpectedEOF)
	}
}

// A server that falls silent costs the time it is given and no more, wherever
// it does so.
func TestSilence(t *testing.T) {
	t.Parallel()
	for name, h := range map[string]http.HandlerFunc{
		"at once": func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			<-r.Context().Done()
		},
		"in the body": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, "the beginning")
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		},
	} {
		b := faulty(t, h)
		if data, err := readAll(t, b); !errors.Is(err, httpx.ErrStalled) {
			t.Errorf("read from a server that falls silent %s = %q, %v, want %v", name, data, err, httpx.ErrStalled)
		}
	}
	b := faulty(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	})
	if err := storage.CreateBytes(t.Context(), b, "key", random(1<<20), nil); !errors.Is(err, httpx.ErrStalled) {
		t.Errorf("Create at a silent server = %v, want %v", err, httpx.ErrStalled)
	}
}

// What was stored is read back: another request may have passed too, or the
// server has stored something else.
func TestReadBack(t *testing.T) {
	t.Parallel()
	const mine = "9a0364b9e99bb480dd25e1f0284c8555"
	for _, test := range []struct {
		name        string
		newest      string // what the newest replica holds
		status      int
		want, never error
	}{
		{"the same", mine, http.StatusOK, nil, nil},
		{"another", "d41d8cd98f00b204e9800998ecf8427e", http.StatusOK, storage.ErrExist, nil},
		{"nothing", "", http.StatusNotFound, errAny, storage.ErrExist},
		{"no answer", "", http.StatusServiceUnavailable, errAny, storage.ErrExist},
	} {
		b := faulty(t, func(w http.ResponseWriter, r *http.Request) {
			switch {
			case r.Method == http.MethodPut:
				if r.Header.Get("If-None-Match") != "*" {
					t.Errorf("PUT without If-None-Match")
				}
				w.Header().Set("Etag", mine)
				w.WriteHeader(http.StatusCreated)
			case r.Header.Get("X-Newest") == "true":
				w.Header().Set("Etag", `"`+test.newest+`"`)
				w.WriteHeader(test.status)
			}
		})
		err := storage.CreateBytes(t.Context(), b, "key", []byte("content"), nil)
		switch {
		case test.want == nil && err != nil,
			test.want == errAny && err == nil,
			test.want != nil && test.want != errAny && !errors.Is(err, test.want),
			test.never != nil && errors.Is(err, test.never):
			t.Errorf("Create where %s stands afterwards = %v, want %v", test.name, err, test.want)
		}
	}
}

var errAny = errors.New("any error")

// Without the extension that deletes many objects, they are deleted one by one.
func TestNoBulkDelete(t *testing.T) {
	t.Parallel()
	var deleted []string
	b := faulty(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.Method {
		case http.MethodPost:
			w.WriteHeader(http.StatusMethodNotAllowed)
		case http.MethodDelete:
			deleted = append(deleted, r.URL.Path)
			w.WriteHeader(http.StatusNoContent)
		}
	})
	if err := b.Delete(t.Context(), "one", "two"); err != nil || fmt.Sprint(deleted) != "[/v1/a/c/one /v1/a/c/two]" {
		t.Errorf("Delete = %v and deleted %q, want both", err, deleted)
	}
}

// What a server says is told, but not what nobody may know.
func TestErrorsTellNoSecret(t *testing.T) {
	t.Parallel()
	b := faulty(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		w.WriteHeader(http.StatusForbidden)
		_, _ = io.WriteString(w, "Forbidden: "+password+" is not enough\nfor you")
		_ = http.NewResponseController(w).Flush()
	})
	for op, err := range each(t.Context(), b) {
		if !errors.Is(err, storage.ErrPermission) {
			t.Errorf("%s = %v, want %v", op, err, storage.ErrPermission)
		}
		checkSecret(t, err, password)
		checkSecret(t, err, "token")
	}
	_, err := b.Get(t.Context(), "key", 0, -1)
	if err == nil || !strings.Contains(err.Error(), "is not enough for you") {
		t.Errorf("Get = %v, want what the server says", err)
	}
}

func TestOpen(t *testing.T) {
	t.Parallel()
	good := swift.Config{Container: "c", AuthURL: "https://h/v2.0", User: "u", Password: password, Project: "p"}
	if _, err := swift.Open(good); err != nil {
		t.Errorf("Open = %v, want nil", err)
	}
	for name, change := range map[string]func(*swift.Config){
		"container":     func(c *swift.Config) { c.Container = "" },
		"slash":         func(c *swift.Config) { c.Container = "a/b" },
		"version":       func(c *swift.Config) { c.AuthVersion = 4 },
		"no URL":        func(c *swift.Config) { c.AuthURL = "" },
		"scheme":        func(c *swift.Config) { c.AuthURL = "h/v2.0" },
		"user in URL":   func(c *swift.Config) { c.AuthURL = "https://u:" + password + "@h/" },
		"no user":       func(c *swift.Config) { c.User = "" },
		"user id in v2": func(c *swift.Config) { c.User, c.UserID = "", "id" },
		"no password":   func(c *swift.Config) { c.Password = "" },
		"no project":    func(c *swift.Config) { c.Project = "" },
		"endpoint":      func(c *swift.Config) { c.EndpointType = "private" },
	} {
		cfg := good
		change(&cfg)
		_, err := swift.Open(cfg)
		if err == nil {
			t.Errorf("Open with wrong %s = nil, want an error", name)
		}
		checkSecret(t, err, password)
	}
}
