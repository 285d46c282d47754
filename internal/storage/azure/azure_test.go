package azure_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"wal-e/internal/enginetest"
	"wal-e/internal/storage"
	"wal-e/internal/storage/azure"
	"wal-e/internal/storage/storagetest"
)

// withKey is a config with the account's key.
func withKey(s *enginetest.AzuriteServer, container string) azure.Config {
	return azure.Config{Container: container, Account: s.Account, Key: s.Key, Endpoint: s.URL}
}

func open(t *testing.T, cfg azure.Config) *azure.Bucket {
	t.Helper()
	b, err := azure.Open(cfg)
	if err != nil {
		t.Fatalf("Open = %v, want nil", err)
	}
	return b
}

// One server serves them all.
func TestAzure(t *testing.T) {
	t.Parallel()
	s := enginetest.Azurite(t)
	var n atomic.Int64
	fresh := func(t *testing.T) string {
		name := fmt.Sprintf("container-%d", n.Add(1))
		s.CreateContainer(t, name)
		return name
	}
	t.Run("Conformance", func(t *testing.T) {
		t.Parallel()
		storagetest.RunSlow(t, func(t *testing.T) storage.Bucket {
			cfg := withKey(s, fresh(t))
			cfg.Prefix, cfg.PageSize = "some/prefix/", 100
			return open(t, cfg)
		})
	})
	t.Run("ConformanceSAS", func(t *testing.T) {
		t.Parallel()
		storagetest.RunSlow(t, func(t *testing.T) storage.Bucket {
			name := fresh(t)
			// Without a prefix, and in blocks wherever that can be.
			return open(t, azure.Config{
				Container: name, Endpoint: s.URL, SAS: "?" + s.SAS(t, name, "rcwdl", time.Now().Add(time.Hour)),
				Largest: 128 << 10, BlockSize: 100_000, PageSize: 100,
			})
		})
	})
	for name, test := range map[string]func(t *testing.T, s *enginetest.AzuriteServer, container string){
		"Refusals":     testRefusals,
		"BlocksRace":   testBlocksRace,
		"LeadingSlash": testLeadingSlash,
		"OneRequest":   testOneRequest,
		"Meta":         testMeta,
		"Backslash":    testBackslash,
		"AppendOnly":   testAppendOnly,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, s, fresh(t))
		})
	}
}

// A refusal says which bucket, what for, and what to do, and no secret.
func testRefusals(t *testing.T, s *enginetest.AzuriteServer, name string) {
	owner := open(t, withKey(s, name))
	if err := storage.CreateBytes(t.Context(), owner, "there", []byte("x"), nil); err != nil {
		t.Fatal(err)
	}
	hour := time.Now().Add(time.Hour)
	wrongKey := withKey(s, name)
	wrongKey.Key = "bm90IHRoZSBrZXk="
	missing := withKey(s, "no-such-container")
	bySAS := func(rights string, expiry time.Time) azure.Config {
		return azure.Config{Container: name, Endpoint: s.URL, SAS: s.SAS(t, name, rights, expiry)}
	}
	forged := bySAS("racwdl", hour)
	forged.SAS = strings.Replace(forged.SAS, "sig=", "sig=AAAA", 1)
	calls := map[string]func(b storage.Bucket) error{
		"create": func(b storage.Bucket) error { return storage.CreateBytes(t.Context(), b, "new", nil, nil) },
		"get": func(b storage.Bucket) error {
			_, err := storage.ReadAll(t.Context(), b, "there", 10)
			return err
		},
		"stat": func(b storage.Bucket) error { _, err := b.Stat(t.Context(), "there"); return err },
		"list": func(b storage.Bucket) error {
			for _, err := range b.List(t.Context(), "", "") {
				return err
			}
			return nil
		},
		"delete": func(b storage.Bucket) error { return b.Delete(t.Context(), "there") },
	}
	all := []string{"create", "get", "stat", "list", "delete"}
	for _, test := range []struct {
		name string
		cfg  azure.Config
		ops  []string
		want error
		text string
	}{
		{"wrong key", wrongKey, all, storage.ErrPermission, "check account name and account key"},
		{"no container", missing, all, storage.ErrInvalid, `no such container "no-such-container"`},
		{"expired", bySAS("rcdl", time.Now().Add(-time.Hour)), all, storage.ErrPermission, "signature has expired at "},
		{"forged", forged, all, storage.ErrPermission, "check the shared access signature"},
		{"may only read", bySAS("rl", hour), []string{"create", "delete"}, storage.ErrPermission, "lacks the right "},
		{"may not delete", bySAS("rcl", hour), []string{"delete"}, storage.ErrPermission, "lacks the right d (delete)"},
		{"may not list", bySAS("rc", hour), []string{"list"}, storage.ErrPermission, "lacks the right l (list)"},
		{"may not read", bySAS("cl", hour), []string{"get", "stat"}, storage.ErrPermission, "lacks the right r (read)"},
	} {
		b := open(t, test.cfg)
		for _, op := range test.ops {
			err := calls[op](b)
			if !errors.Is(err, test.want) {
				t.Errorf("%s: %s = %v, want %v", test.name, op, err, test.want)
				continue
			}
			text := err.Error()
			// The answer to a HEAD has no text, but a code.
			for _, want := range []string{test.text, op, b.URL()} {
				if !strings.Contains(text, want) {
					t.Errorf("%s: %s = %q, want it to say %q", test.name, op, text, want)
				}
			}
			if strings.Contains(text, "sig=") || strings.Contains(text, test.cfg.Key) && test.cfg.Key != "" || strings.Contains(text, "\n") {
				t.Errorf("%s: %s = %q, want one line without secrets", test.name, op, text)
			}
		}
	}
	if a, err := owner.Stat(t.Context(), "there"); err != nil || a.Size != 1 {
		t.Errorf("Stat after refusals = %+v, %v, want the object unchanged", a, err)
	}
	if _, err := owner.Stat(t.Context(), "new"); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("Stat of what nobody might create = %v, want %v", err, storage.ErrNotExist)
	}
}

// Errors of the network hold the URL of the request in Go; not here.
func TestUnreachable(t *testing.T) {
	t.Parallel()
	b := open(t, azure.Config{Container: "c", Endpoint: "http://127.0.0.1:1/account", SAS: "sv=2024-11-04&sig=topsecret"})
	_, err := b.Stat(t.Context(), "key")
	if err == nil || strings.Contains(err.Error(), "topsecret") || !strings.Contains(err.Error(), "refused") {
		t.Errorf("Stat = %v, want that the connection was refused, and no signature", err)
	}
	if errors.Is(err, storage.ErrPermission) || errors.Is(err, storage.ErrInvalid) || errors.Is(err, storage.ErrNotExist) {
		t.Errorf("Stat = %v, want an error that may pass", err)
	}
}

// Two that store blocks under one key at the same time have one winner.
func testBlocksRace(t *testing.T, s *enginetest.AzuriteServer, name string) {
	cfg := withKey(s, name)
	cfg.BlockSize = 1000
	const writers = 6
	errs := make([]error, writers)
	var wg sync.WaitGroup
	for i := range writers {
		b := open(t, cfg)
		wg.Go(func() {
			data := bytes.Repeat([]byte{'a' + byte(i)}, 5500)
			errs[i] = b.Create(t.Context(), "key", io.MultiReader(bytes.NewReader(data)), -1, nil)
		})
	}
	wg.Wait()
	winner := -1
	for i, err := range errs {
		switch {
		case err == nil && winner >= 0:
			t.Errorf("Create of writers %d and %d = nil, want one winner", winner, i)
		case err == nil:
			winner = i
		case !errors.Is(err, storage.ErrExist):
			t.Errorf("Create of writer %d = %v, want nil or %v", i, err, storage.ErrExist)
		}
	}
	got, err := storage.ReadAll(t.Context(), open(t, cfg), "key", 1<<20)
	if err != nil || winner < 0 || !bytes.Equal(got, bytes.Repeat([]byte{'a' + byte(winner)}, 5500)) {
		t.Errorf("ReadAll = %.10q… (%d bytes), %v, want what writer %d sent", got, len(got), err, winner)
	}
}

// A prefix is taken as it is, also with a slash before it.
func testLeadingSlash(t *testing.T, s *enginetest.AzuriteServer, name string) {
	plain, slash := withKey(s, name), withKey(s, name)
	plain.Prefix, slash.Prefix = "p/", "/p/"
	a, b := open(t, plain), open(t, slash)
	for i, bucket := range []storage.Bucket{a, b} {
		if err := storage.CreateBytes(t.Context(), bucket, "key", []byte{byte(i)}, nil); err != nil {
			t.Fatal(err)
		}
	}
	for i, bucket := range []storage.Bucket{a, b} {
		n := 0
		for o, err := range bucket.List(t.Context(), "", "") {
			if n++; err != nil || o.Key != "key" {
				t.Errorf("List of bucket %d = %q, %v, want key", i, o.Key, err)
			}
		}
		got, err := storage.ReadAll(t.Context(), bucket, "key", 10)
		if n != 1 || err != nil || !bytes.Equal(got, []byte{byte(i)}) {
			t.Errorf("bucket %d: %d objects, content %v, %v, want its own", i, n, got, err)
		}
	}
}

// A pack goes up in one request, from any reader.
func testOneRequest(t *testing.T, s *enginetest.AzuriteServer, name string) {
	for _, plain := range []bool{false, true} {
		cfg := withKey(s, name)
		counter := new(counting)
		cfg.Transport = counter
		var r io.Reader = bytes.NewReader(make([]byte, 32<<20))
		if plain {
			r = io.MultiReader(r)
		}
		if err := open(t, cfg).Create(t.Context(), fmt.Sprint("pack-", plain), r, 32<<20, nil); err != nil {
			t.Errorf("Create = %v, want nil", err)
		}
		if got := counter.n.Load(); got != 1 {
			t.Errorf("a pack took %d requests, want 1", got)
		}
	}
}

// Who may create and read, and nothing else, can do what a database host does.
func testAppendOnly(t *testing.T, s *enginetest.AzuriteServer, name string) {
	cfg := azure.Config{Container: name, Endpoint: s.URL, SAS: s.SAS(t, name, "rcl", time.Now().Add(time.Hour)), BlockSize: 100}
	b := open(t, cfg)
	if err := storage.CreateBytes(t.Context(), b, "key", []byte("first"), nil); err != nil {
		t.Fatal(err)
	}
	if err := storage.CreateBytes(t.Context(), b, "key", []byte("second"), nil); !errors.Is(err, storage.ErrExist) {
		t.Errorf("Create of an object that is there = %v, want %v", err, storage.ErrExist)
	}
	if err := b.Delete(t.Context(), "key"); !errors.Is(err, storage.ErrPermission) {
		t.Errorf("Delete = %v, want %v", err, storage.ErrPermission)
	}
	err := b.Create(t.Context(), "blocks", io.MultiReader(strings.NewReader(strings.Repeat("x", 101))), -1, nil)
	if !errors.Is(err, storage.ErrPermission) || !strings.Contains(err.Error(), "w (write)") {
		t.Errorf("Create in blocks = %v, want %v that names the right to write", err, storage.ErrPermission)
	}
	if got, err := storage.ReadAll(t.Context(), b, "key", 100); string(got) != "first" || err != nil {
		t.Errorf("ReadAll = %q, %v, want what was created first", got, err)
	}
}

// Azure would take one for the other.
func testBackslash(t *testing.T, s *enginetest.AzuriteServer, name string) {
	b := open(t, withKey(s, name))
	if err := storage.CreateBytes(t.Context(), b, "a/b", nil, nil); err != nil {
		t.Fatal(err)
	}
	if err := storage.CreateBytes(t.Context(), b, `a\b`, nil, nil); !errors.Is(err, storage.ErrInvalid) {
		t.Errorf("Create = %v, want %v", err, storage.ErrInvalid)
	}
	if _, err := b.Stat(t.Context(), `a\b`); !errors.Is(err, storage.ErrInvalid) {
		t.Errorf("Stat = %v, want %v", err, storage.ErrInvalid)
	}
	if err := b.Delete(t.Context(), `a\b`); !errors.Is(err, storage.ErrInvalid) {
		t.Errorf("Delete = %v, want %v", err, storage.ErrInvalid)
	}
}

func testMeta(t *testing.T, s *enginetest.AzuriteServer, name string) {
	b := open(t, withKey(s, name))
	want := storage.Meta{"empty": "", "space": " a  b ", "percent": "100%20", "9-lives-": "%"}
	if err := storage.CreateBytes(t.Context(), b, "key", nil, want); err != nil {
		t.Fatal(err)
	}
	a, err := b.Stat(t.Context(), "key")
	if err != nil || fmt.Sprint(a.Meta) != fmt.Sprint(want) {
		t.Errorf("Stat = %q, %v, want %q", a.Meta, err, want)
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		field string
		cfg   azure.Config
	}{
		{"Container", azure.Config{Account: "a", Key: "a2V5"}},
		{"Container", azure.Config{Container: "a/b", Account: "a", Key: "a2V5"}},
		{"Key", azure.Config{Container: "c", Account: "a", Key: "top secret"}},
		{"Account", azure.Config{Container: "c", Account: "a.evil/", Key: "a2V5"}},
		{"Account", azure.Config{Container: "c"}},
		{"Account", azure.Config{Container: "c", Endpoint: "https://h/a", Key: "a2V5"}},
		{"SAS", azure.Config{Container: "c", Account: "a", SAS: "sv=topsecret"}},
		{"Endpoint", azure.Config{Container: "c", Account: "a", Endpoint: "127.0.0.1:10000", Key: "a2V5"}},
		{"Endpoint", azure.Config{Container: "c", Account: "a", Endpoint: "http://u:topsecret@h/", Key: "a2V5"}},
		{"Endpoint", azure.Config{Container: "c", Account: "a", Endpoint: "https://h/a?sig=topsecret", Key: "a2V5"}},
		{"Endpoint", azure.Config{Container: "c", Account: "a", Endpoint: "http://h/a"}},
	} {
		_, err := azure.Open(test.cfg)
		var field *azure.FieldError
		if !errors.As(err, &field) || field.Field != test.field || !errors.Is(err, storage.ErrInvalid) || strings.Contains(err.Error(), "secret") {
			t.Errorf("Open(%+v) = %v, want what is wrong with %s, without secrets", test.cfg, err, test.field)
		}
	}
}

// A server that takes a request and says nothing is given up.
func TestSilence(t *testing.T) {
	t.Parallel()
	s := enginetest.Azurite(t)
	s.CreateContainer(t, "silent")
	cfg := withKey(s, "silent")
	cfg.Idle = 300 * time.Millisecond
	b := open(t, cfg)
	s.Stop()
	defer s.Continue()
	err := storage.CreateBytes(t.Context(), b, "key", make([]byte, 100), nil)
	if err == nil || errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "no answer for") {
		t.Errorf("Create at a stopped server = %v, want that there was no answer", err)
	}
}
