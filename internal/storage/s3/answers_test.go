package s3_test

import (
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"wal-e/internal/enginetest"
	"wal-e/internal/storage"
	"wal-e/internal/storage/s3"
)

// A fake answers requests as a test says, for what no server here does, and
// counts them.
type fake struct {
	endpoint s3.Endpoint

	mu sync.Mutex
	n  int
}

func (f *fake) requests() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.n
}

func newFake(t *testing.T, h http.HandlerFunc) *fake {
	t.Helper()
	f := new(fake)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		f.n++
		f.mu.Unlock()
		h(w, r)
	}))
	t.Cleanup(s.Close)
	f.endpoint = s3.Endpoint{Scheme: "http", Host: strings.TrimPrefix(s.URL, "http://")}
	return f
}

// refuse writes an error as S3 words it; more is further elements.
func refuse(w http.ResponseWriter, status int, code, more string) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	fmt.Fprintf(w, "<?xml version=\"1.0\"?><Error><Code>%s</Code><Message>told by a test</Message>%s</Error>", code, more)
}

// patient tries again as commands do, without their pauses.
func patient(b storage.Bucket) storage.Bucket {
	return storage.Retry(b, storage.Policy{First: time.Millisecond, Longest: time.Millisecond, Attempts: 5})
}

// profile makes the SDK read files with these lines, and nothing else.
func profile(t *testing.T, lines ...string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "credentials")
	writeProfile(t, path, lines...)
	for _, name := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_PROFILE"} {
		t.Setenv(name, "")
	}
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", path)
	t.Setenv("AWS_CONFIG_FILE", "/nonexistent")
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	return path
}

func writeProfile(t *testing.T, path string, lines ...string) {
	t.Helper()
	if err := os.WriteFile(path, []byte("[default]\n"+strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Error(err)
	}
}

// The bucket's region is what the server says, in a header or in its text,
// wherever else the profile is.
func TestRegionOfProfile(t *testing.T) {
	profile(t, "aws_access_key_id = k", "aws_secret_access_key = s", "region = eu-west-1")
	for _, bucketIn := range []string{"us-east-1", "ap-south-1"} {
		for name, answer := range map[string]func(http.ResponseWriter){
			"header": func(w http.ResponseWriter) {
				w.Header().Set("X-Amz-Bucket-Region", bucketIn)
				refuse(w, http.StatusMovedPermanently, "PermanentRedirect", "")
			},
			"text": func(w http.ResponseWriter) {
				refuse(w, http.StatusBadRequest, "AuthorizationHeaderMalformed", "<Region>"+bucketIn+"</Region>")
			},
		} {
			f := newFake(t, func(w http.ResponseWriter, r *http.Request) {
				if !strings.Contains(r.Header.Get("Authorization"), "/"+bucketIn+"/s3/") {
					answer(w)
				}
			})
			b := open(t, s3.Config{Bucket: "some", Endpoint: f.endpoint})
			for _, key := range []string{"one", "two"} {
				if err := storage.CreateBytes(t.Context(), b, key, []byte("x"), nil); err != nil {
					t.Errorf("bucket in %s, said by %s: Create(%q) = %v, want nil", bucketIn, name, key, err)
				}
			}
			if f.requests() != 3 {
				t.Errorf("bucket in %s, said by %s: %d requests, want 3: one for the wrong region", bucketIn, name, f.requests())
			}
		}
	}
}

// A session of a file that is over is final, unless the file has a new one by
// then.
func TestExpiredSessionOfProfile(t *testing.T) {
	session := func(token string) []string {
		return []string{"aws_access_key_id = k" + token, "aws_secret_access_key = topsecret", "aws_session_token = " + token}
	}
	path := profile(t, session("old")...)
	renew := false
	f := newFake(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Amz-Security-Token") == "old" {
			if renew {
				writeProfile(t, path, session("new")...)
			}
			refuse(w, http.StatusBadRequest, "ExpiredToken", "")
		}
	})
	create := func() error {
		return storage.CreateBytes(t.Context(), patient(open(t, s3.Config{Bucket: "some", Endpoint: f.endpoint})), "key", []byte("x"), nil)
	}
	err := create()
	if !errors.Is(err, storage.ErrPermission) || !strings.Contains(err.Error(), path) || strings.Contains(err.Error(), "topsecret") {
		t.Errorf("Create with a session that is over = %v, want %v that names %s", err, storage.ErrPermission, path)
	}
	if f.requests() != 1 {
		t.Errorf("%d requests with a session that is over, want 1", f.requests())
	}
	renew = true
	if err := create(); err != nil {
		t.Errorf("Create with a session that is renewed meanwhile = %v, want nil", err)
	}
}

// Who asks for the instance's credentials where there are none is told so at
// once, and not after everybody's patience.
func TestInstanceProfileWithoutInstance(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and says nothing
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { silent.Close() })
	bare := httptest.NewServer(http.NotFoundHandler()) // an instance without a role
	t.Cleanup(bare.Close)
	busy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }))
	t.Cleanup(busy.Close)
	for name, test := range map[string]struct {
		url   string
		words string
		final bool
	}{
		"refused": {"http://127.0.0.1:1", "is this an EC2 instance", true},
		"silent":  {"http://" + silent.Addr().String(), "is this an EC2 instance", true},
		"no role": {bare.URL, "has the instance a role", true},
		"busy":    {busy.URL, "503", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", test.url)
			f := newFake(t, func(http.ResponseWriter, *http.Request) {})
			began := time.Now()
			err := storage.CreateBytes(t.Context(), open(t, s3.Config{Bucket: "some", Endpoint: f.endpoint, InstanceProfile: true}), "key", nil, nil)
			if err == nil || errors.Is(err, storage.ErrPermission) != test.final || !strings.Contains(err.Error(), test.words) ||
				!strings.Contains(err.Error(), "--aws-instance-profile") {
				t.Errorf("Create = %v, want one that says %q; final: %v", err, test.words, test.final)
			}
			t.Logf("it took %v to say: %v", time.Since(began), err)
		})
	}
}

// What an answer means, for those that servers here don't give.
func TestAnswers(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		status int
		code   string
		want   error // nil: another attempt may do better
	}{
		{http.StatusBadRequest, "InvalidArgument", storage.ErrInvalid},
		{http.StatusBadRequest, "SomethingNew", storage.ErrInvalid},
		{http.StatusBadRequest, "IncompleteBody", nil},
		{http.StatusBadRequest, "BadDigest", nil},
		{http.StatusBadRequest, "RequestTimeout", nil},
		{http.StatusMethodNotAllowed, "MethodNotAllowed", storage.ErrInvalid},
		{http.StatusNotFound, "", storage.ErrInvalid}, // not even S3, maybe
		{http.StatusNotImplemented, "NotImplemented", errors.ErrUnsupported},
		{http.StatusConflict, "OperationAborted", nil},
		{http.StatusServiceUnavailable, "", nil},
	} {
		f := newFake(t, func(w http.ResponseWriter, r *http.Request) {
			if test.code == "" {
				http.Error(w, "<html>no", test.status)
				return
			}
			refuse(w, test.status, test.code, "")
		})
		b := open(t, s3.Config{Bucket: "some", Endpoint: f.endpoint, AccessKeyID: "k", SecretAccessKey: "s"})
		var listErr error
		for _, err := range b.List(t.Context(), "", "") {
			listErr = err
		}
		_, statErr := b.Stat(t.Context(), "key")
		_, getErr := b.Get(t.Context(), "key", 0, -1)
		for op, err := range map[string]error{
			"stat": statErr, "get": getErr, "list": listErr, "delete": b.Delete(t.Context(), "key"),
			"create": storage.CreateBytes(t.Context(), b, "key", []byte("x"), nil),
		} {
			var kind error
			for _, k := range []error{storage.ErrNotExist, storage.ErrExist, storage.ErrPermission, storage.ErrInvalid, errors.ErrUnsupported} {
				if errors.Is(err, k) {
					kind = k
				}
			}
			if err == nil || kind != test.want || !strings.Contains(err.Error(), "s3://some") || strings.Contains(err.Error(), "  ") {
				t.Errorf("%d %s: %s = %v, want %v in it, and the bucket", test.status, test.code, op, err, test.want)
			}
		}
	}
}

// An answer without a body doesn't say why; another request does.
func TestStatWithExpiredSession(t *testing.T) {
	t.Parallel()
	f := newFake(t, func(w http.ResponseWriter, _ *http.Request) { refuse(w, http.StatusBadRequest, "ExpiredToken", "") })
	_, err := open(t, s3.Config{Bucket: "some", Endpoint: f.endpoint, AccessKeyID: "k", SecretAccessKey: "s", SessionToken: "t"}).Stat(t.Context(), "key")
	if !errors.Is(err, storage.ErrPermission) || !strings.Contains(err.Error(), "AWS_SESSION_TOKEN") {
		t.Errorf("Stat = %v, want %v with AWS_SESSION_TOKEN", err, storage.ErrPermission)
	}
}

// A server whose certificate nobody vouches for is not asked again.
func TestUntrusted(t *testing.T) {
	t.Parallel()
	s := httptest.NewUnstartedServer(http.NotFoundHandler())
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // we hang up
	s.StartTLS()
	t.Cleanup(s.Close)
	b := open(t, s3.Config{
		Bucket: "some", Endpoint: s3.Endpoint{Scheme: "https", Host: strings.TrimPrefix(s.URL, "https://")}, AccessKeyID: "k", SecretAccessKey: "s",
	})
	if _, err := b.Stat(t.Context(), "key"); !errors.Is(err, storage.ErrInvalid) || !strings.Contains(err.Error(), "AWS_CA_BUNDLE") {
		t.Errorf("Stat = %v, want %v that says AWS_CA_BUNDLE", err, storage.ErrInvalid)
	}
}

// MinIO says that an object is absent to whoever may read it, also without the
// right to list.
func TestAbsenceWithoutList(t *testing.T) {
	t.Parallel()
	s := enginetest.MinIO(t)
	s.CreateBucket(t, "some")
	cfg := config(t, s, "some")
	cfg.AccessKeyID, cfg.SecretAccessKey, cfg.SessionToken = s.Session(t, allow("s3:GetObject", "some/*"))
	b := open(t, cfg)
	_, statErr := b.Stat(t.Context(), "absent")
	_, getErr := b.Get(t.Context(), "absent", 0, -1)
	for op, err := range map[string]error{"Stat": statErr, "Get": getErr} {
		if !errors.Is(err, storage.ErrNotExist) {
			t.Errorf("%s without the right to list = %v, want %v", op, err, storage.ErrNotExist)
		}
	}
}
