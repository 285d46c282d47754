package swift_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"wal-e/internal/enginetest"
	"wal-e/internal/storage"
	"wal-e/internal/storage/storagetest"
	"wal-e/internal/storage/swift"
)

// v1 is a config for auth v1.
func v1(s *enginetest.SwiftServer, container string) swift.Config {
	return swift.Config{Container: container, AuthURL: s.AuthURL, AuthVersion: 1, User: s.User, Password: s.Password}
}

func open(t *testing.T, cfg swift.Config) *swift.Bucket {
	t.Helper()
	b, err := swift.Open(cfg)
	if err != nil {
		t.Fatalf("Open = %v, want nil", err)
	}
	return b
}

// random returns n bytes that are the same for every call.
func random(n int) []byte {
	data := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{7}).Read(data) // it has no errors
	return data
}

// plain hides every method of a reader but Read.
type plain struct{ io.Reader }

func create(t *testing.T, b storage.Bucket, key string, data []byte) {
	t.Helper()
	if err := storage.CreateBytes(t.Context(), b, key, data, nil); err != nil {
		t.Fatalf("Create(%q) = %v, want nil", key, err)
	}
}

// check tests what an object holds.
func check(t *testing.T, b storage.Bucket, key string, want []byte) {
	t.Helper()
	body, err := b.Get(t.Context(), key, 0, -1)
	if err != nil {
		t.Errorf("Get(%q) = %v, want nil", key, err)
		return
	}
	defer body.Close()
	if got, err := io.ReadAll(body); err != nil || !bytes.Equal(got, want) {
		t.Errorf("Get(%q) = %d bytes, %v, want the %d bytes created", key, len(got), err, len(want))
	}
}

func keys(t *testing.T, b storage.Bucket, prefix string) (all []string) {
	t.Helper()
	for o, err := range b.List(t.Context(), prefix, "") {
		if err != nil {
			t.Fatalf("List(%q) = %v, want nil", prefix, err)
		}
		all = append(all, o.Key)
	}
	return all
}

// One Swift serves them all: it takes seconds to start.
func TestSwift(t *testing.T) {
	t.Parallel()
	s := enginetest.Swift(t, 1)
	t.Run("Together", func(t *testing.T) {
		for name, test := range map[string]func(*testing.T, *enginetest.SwiftServer){
			"Conformance": testConformance,
			"AuthV2":      testAuthV2,
			"Refused":     testRefused,
			"NoContainer": testNoContainer,
			"Reader":      testReader,
			"Large":       testLarge,
			"Dynamic":     testDynamic,
			"Slash":       testSlash,
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				test(t, s)
			})
		}
	})
	t.Run("TokensExpire", func(t *testing.T) { testTokensExpire(t, s) })
}

func testConformance(t *testing.T, s *enginetest.SwiftServer) {
	var n atomic.Int64
	storagetest.RunSlow(t, func(t *testing.T) storage.Bucket {
		name := fmt.Sprintf("conformance-%d", n.Add(1))
		s.CreateContainer(t, name, nil)
		cfg := v1(s, name)
		cfg.Prefix, cfg.PageSize = "some/prefix/", 100
		return open(t, cfg)
	})
}

func testAuthV2(t *testing.T, s *enginetest.SwiftServer) {
	s.CreateContainer(t, "v2", nil)
	cfg := swift.Config{
		Container: "v2", AuthURL: s.AuthV2(t, "Here"), User: "tester", Password: s.Password, Project: "test", Region: "Here",
	}
	b := open(t, cfg)
	create(t, b, "key", []byte("content"))
	check(t, b, "key", []byte("content"))

	for name, change := range map[string]func(*swift.Config){
		"region":        func(c *swift.Config) { c.Region = "Nowhere" },
		"password":      func(c *swift.Config) { c.Password = "wrong" },
		"project":       func(c *swift.Config) { c.Project = "other" },
		"endpoint type": func(c *swift.Config) { c.EndpointType = "internalURL" },
		"first region":  func(c *swift.Config) { c.Region = "" }, // it is elsewhere
	} {
		changed := cfg
		change(&changed)
		_, err := open(t, changed).Stat(t.Context(), "key")
		if err == nil || errors.Is(err, storage.ErrNotExist) {
			t.Errorf("Stat with another %s = %v, want an error", name, err)
		}
		checkSecret(t, err, changed.Password)
	}
}

func checkSecret(t *testing.T, err error, secret string) {
	t.Helper()
	if err != nil && strings.Contains(err.Error(), secret) {
		t.Errorf("error %q tells the password", err)
	}
}

// each makes every kind of request and returns their errors.
func each(ctx context.Context, b storage.Bucket) map[string]error {
	errs := make(map[string]error)
	errs["Create"] = storage.CreateBytes(ctx, b, "some/key", []byte("x"), nil)
	errs["Create of a large one"] = b.Create(ctx, "some/large", plain{bytes.NewReader(random(9 << 20))}, -1, nil)
	_, errs["Get"] = b.Get(ctx, "some/key", 0, -1)
	_, errs["Stat"] = b.Stat(ctx, "some/key")
	errs["Delete"] = b.Delete(ctx, "some/key")
	for _, err := range b.List(ctx, "", "") {
		errs["List"] = err
	}
	return errs
}

func testRefused(t *testing.T, s *enginetest.SwiftServer) {
	s.CreateContainer(t, "refused", nil)
	for name, change := range map[string]func(*swift.Config){
		"password": func(c *swift.Config) { c.Password = "not the password" },
		"user":     func(c *swift.Config) { c.User = "test:nobody" },
		"URL":      func(c *swift.Config) { c.AuthURL = s.URL + "/auth/v9/none" },
	} {
		cfg := v1(s, "refused")
		change(&cfg)
		b := open(t, cfg)
		for op, err := range each(t.Context(), b) {
			if !errors.Is(err, storage.ErrPermission) && !errors.Is(err, storage.ErrInvalid) {
				t.Errorf("%s with a wrong %s = %v, want %v or %v", op, name, err, storage.ErrPermission, storage.ErrInvalid)
			} else if !strings.Contains(err.Error(), cfg.AuthURL) {
				t.Errorf("%s with a wrong %s = %q, want the URL in it", op, name, err)
			}
			checkSecret(t, err, cfg.Password)
		}
	}
}

// Where the container isn't there, no object is known to be absent: PostgreSQL
// would take that for the end of its WAL.
func testNoContainer(t *testing.T, s *enginetest.SwiftServer) {
	b := open(t, v1(s, "no-such-container"))
	for op, err := range each(t.Context(), b) {
		if err == nil || errors.Is(err, storage.ErrNotExist) {
			t.Errorf("%s without a container = %v, want another error than %v", op, err, storage.ErrNotExist)
		} else if !strings.Contains(err.Error(), `no such container "no-such-container"`) {
			t.Errorf("%s without a container = %q, want its name", op, err)
		}
	}
}

// Reader may read, and is told what it may not do.
func testReader(t *testing.T, s *enginetest.SwiftServer) {
	s.CreateContainer(t, "acl", map[string]string{"X-Container-Read": s.Reader + ",.rlistings"})
	create(t, open(t, v1(s, "acl")), "key", []byte("content"))
	cfg := v1(s, "acl")
	cfg.User = s.Reader
	b := open(t, cfg)
	check(t, b, "key", []byte("content"))
	if got := keys(t, b, ""); !slices.Equal(got, []string{"key"}) {
		t.Errorf("List() = %q, want the key", got)
	}
	for name, err := range map[string]error{
		"Create":                storage.CreateBytes(t.Context(), b, "other", []byte("x"), nil),
		"Create of a large one": b.Create(t.Context(), "large", plain{bytes.NewReader(random(9 << 20))}, -1, nil),
		"Delete":                b.Delete(t.Context(), "key"),
		"Delete of two":         b.Delete(t.Context(), "key", "other"),
	} {
		if !errors.Is(err, storage.ErrPermission) {
			t.Errorf("%s by one who may only read = %v, want %v", name, err, storage.ErrPermission)
		}
	}
	check(t, b, "key", []byte("content"))
}

// Large objects are in segments, which come and go with them.
func testLarge(t *testing.T, s *enginetest.SwiftServer) {
	s.CreateContainer(t, "large", nil)
	cfg := v1(s, "large")
	cfg.Largest, cfg.SegmentSize = 1<<20, 1<<20
	b := open(t, cfg)
	segments := open(t, v1(s, "large_segments"))
	short, long := random(2<<20+17), random(9<<20)
	for key, test := range map[string]struct {
		data     []byte
		r        io.Reader
		size     int64
		segments int
	}{
		"known":    {short, bytes.NewReader(short), int64(len(short)), 3},
		"seekable": {short, bytes.NewReader(short), -1, 3},
		"stream":   {long, plain{bytes.NewReader(long)}, int64(len(long)), 9},
		"unknown":  {long, plain{bytes.NewReader(long)}, -1, 9},
	} {
		data := test.data
		if err := b.Create(t.Context(), key, test.r, test.size, storage.Meta{"a": "b"}); err != nil {
			t.Errorf("Create(%q) = %v, want nil", key, err)
			continue
		}
		check(t, b, key, data)
		a, err := b.Stat(t.Context(), key)
		if err != nil || a.Size != int64(len(data)) || a.Meta["a"] != "b" {
			t.Errorf("Stat(%q) = %+v, %v, want %d bytes and metadata", key, a, err, len(data))
		}
		for o, err := range b.List(t.Context(), key, "") {
			if err != nil || o != a.Object {
				t.Errorf("List(%q) = %+v, %v, want %+v as in Stat", key, o, err, a.Object)
			}
		}
		if got := len(keys(t, segments, key+"/")); got != test.segments {
			t.Errorf("%s has %d segments, want %d", key, got, test.segments)
		}
		const offset, length = 1<<20 - 5, 1<<20 + 10 // over two boundaries
		body, err := b.Get(t.Context(), key, offset, length)
		if err != nil {
			t.Errorf("Get of a range = %v, want nil", err)
			continue
		}
		if got, err := io.ReadAll(body); err != nil || !bytes.Equal(got, data[offset:offset+length]) {
			t.Errorf("Get of a range = %d bytes, %v, want %d", len(got), err, length)
		}
		body.Close()
		if err := b.Create(t.Context(), key, bytes.NewReader(data), int64(len(data)), nil); !errors.Is(err, storage.ErrExist) {
			t.Errorf("Create of an existing large key = %v, want %v", err, storage.ErrExist)
		}
	}
	broken := io.MultiReader(bytes.NewReader(long), errReader{})
	if err := b.Create(t.Context(), "broken", broken, -1, nil); !errors.Is(err, errBroken) {
		t.Errorf("Create from a broken reader = %v, want %v", err, errBroken)
	}
	if got := keys(t, segments, "broken"); len(got) > 0 {
		t.Errorf("a Create that failed left %q", got)
	}
	if err := b.Delete(t.Context(), keys(t, b, "")...); err != nil {
		t.Errorf("Delete = %v, want nil", err)
	}
	if got := append(keys(t, b, ""), keys(t, segments, "")...); len(got) > 0 {
		t.Errorf("after Delete there is %q, want nothing", got)
	}
}

var errBroken = errors.New("reader broke")

type errReader struct{}

func (errReader) Read([]byte) (int, error) { return 0, errBroken }

// Others may have stored dynamic large objects.
func testDynamic(t *testing.T, s *enginetest.SwiftServer) {
	s.CreateContainer(t, "dynamic", nil)
	b := open(t, v1(s, "dynamic"))
	create(t, b, "parts/one/0", []byte("first "))
	create(t, b, "parts/one/1", []byte("second"))
	create(t, b, "parts/one-more", []byte("of another"))
	url, token := s.Token(t)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, url+"/dynamic/whole", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header = http.Header{"X-Auth-Token": {token}, "X-Object-Manifest": {"dynamic/parts%2Fone"}}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	a, err := b.Stat(t.Context(), "whole")
	want := "of anotherfirst second" // the manifest is written carelessly
	if err != nil || a.Size != int64(len(want)) {
		t.Errorf("Stat = %+v, %v, want %d bytes", a, err, len(want))
	}
	check(t, b, "whole", []byte(want))
	if err := b.Delete(t.Context(), "whole"); err != nil {
		t.Errorf("Delete = %v, want nil", err)
	}
	if got, want := keys(t, b, ""), []string{"parts/one-more"}; !slices.Equal(got, want) {
		t.Errorf("after Delete there is %q, want %q", got, want)
	}
}

// Names of classic objects begin with a slash.
func testSlash(t *testing.T, s *enginetest.SwiftServer) {
	s.CreateContainer(t, "slash", nil)
	for _, prefix := range []string{"", "p/"} {
		cfg := v1(s, "slash")
		cfg.Prefix = prefix
		b := open(t, cfg)
		classic := b.At("/" + prefix)
		create(t, b, "wal_006/x", []byte("ours"))
		create(t, classic, "wal_005/x", []byte("classic"))
		create(t, classic, "wal_005/y", nil)
		check(t, classic, "wal_005/x", []byte("classic"))
		if got, want := keys(t, classic, ""), []string{"wal_005/x", "wal_005/y"}; !slices.Equal(got, want) && prefix != "" {
			t.Errorf("List() of the classic part = %q, want %q", got, want)
		}
		if got, want := keys(t, b, ""), []string{"wal_006/x"}; !slices.Equal(got, want) {
			t.Errorf("List() of our part = %q, want %q", got, want)
		}
		if err := classic.Delete(t.Context(), "wal_005/x", "wal_005/y"); err != nil {
			t.Errorf("Delete = %v, want nil", err)
		}
		if got := keys(t, classic, "wal_005/"); len(got) > 0 {
			t.Errorf("after Delete there is %q, want nothing", got)
		}
		if err := b.Delete(t.Context(), "wal_006/x"); err != nil {
			t.Errorf("Delete = %v, want nil", err)
		}
	}
}

// Tokens end while requests are made, whose bodies may not be sent twice.
func testTokensExpire(t *testing.T, s *enginetest.SwiftServer) {
	s.CreateContainer(t, "expire", nil)
	b := open(t, v1(s, "expire"))
	data := random(1 << 20)
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 4 {
				key := fmt.Sprintf("%d/%d", w, i)
				if w == 0 {
					s.ExpireTokens(t)
				}
				var r io.Reader = bytes.NewReader(data)
				if i%2 == 0 {
					r = plain{r}
				}
				if err := b.Create(t.Context(), key, r, int64(len(data)), nil); err != nil {
					t.Errorf("Create(%q) = %v, want nil", key, err)
				}
				check(t, b, key, data)
				if err := b.Delete(t.Context(), key, "none"); err != nil {
					t.Errorf("Delete = %v, want nil", err)
				}
			}
		})
	}
	wg.Wait()
	if got := keys(t, b, ""); len(got) > 0 {
		t.Errorf("List() = %q, want nothing", got)
	}
}

// Keystone gives tokens of auth v3.
func TestKeystone(t *testing.T) {
	t.Parallel()
	k := enginetest.Keystone(t)
	s := k.Swift(t, 1)
	s.CreateContainer(t, "v3", nil)
	cfg := swift.Config{
		Container: "v3", AuthVersion: 3, AuthURL: k.URL,
		User: s.User, Password: s.Password, Project: enginetest.KeystoneProject,
	}
	for name, change := range map[string]func(*swift.Config){
		"plain":         func(*swift.Config) {},
		"domain names":  func(c *swift.Config) { c.UserDomain, c.ProjectDomain = "Default", "Default" },
		"domain ids":    func(c *swift.Config) { c.UserDomainID, c.ProjectDomainID = "default", "default" },
		"region":        func(c *swift.Config) { c.Region = enginetest.KeystoneRegion },
		"endpoint type": func(c *swift.Config) { c.EndpointType = "internalURL" },
	} {
		changed := cfg
		change(&changed)
		b := open(t, changed)
		create(t, b, name, []byte("content"))
		check(t, b, name, []byte("content"))
	}
	b := open(t, cfg)
	if err := b.Create(t.Context(), "large", plain{bytes.NewReader(random(9 << 20))}, -1, nil); err != nil {
		t.Errorf("Create of a large object = %v, want nil", err)
	}
	check(t, b, "large", random(9<<20))
	if err := b.Delete(t.Context(), keys(t, b, "")...); err != nil {
		t.Errorf("Delete = %v, want nil", err)
	}
	if got := keys(t, b, ""); len(got) > 0 {
		t.Errorf("List() = %q, want nothing", got)
	}
	for name, change := range map[string]func(*swift.Config){
		"password":      func(c *swift.Config) { c.Password = "not the password" },
		"user":          func(c *swift.Config) { c.User = "nobody" },
		"project":       func(c *swift.Config) { c.Project = "other" },
		"domain":        func(c *swift.Config) { c.UserDomain = "Other" },
		"region":        func(c *swift.Config) { c.Region = "RegionTwo" },
		"endpoint type": func(c *swift.Config) { c.EndpointType = "adminURL" },
		"URL":           func(c *swift.Config) { c.AuthURL = strings.TrimSuffix(k.URL, "/v3") },
		"version":       func(c *swift.Config) { c.AuthVersion = 2 },
	} {
		changed := cfg
		change(&changed)
		_, err := open(t, changed).Stat(t.Context(), "key")
		if !errors.Is(err, storage.ErrPermission) && !errors.Is(err, storage.ErrInvalid) {
			t.Errorf("Stat with another %s = %v, want %v or %v", name, err, storage.ErrPermission, storage.ErrInvalid)
		}
		checkSecret(t, err, changed.Password)
	}
}
