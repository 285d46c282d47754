package checkup_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"testing"
	"time"

	"wal-e/internal/checkup"
	"wal-e/internal/storage"
	"wal-e/internal/storage/mem"
)

// A bent bucket breaks one promise.
type bent struct {
	storage.Bucket
	overwrites  bool            // Create never says that a key is taken
	lags        bool            // a listing lacks everything
	forbidden   map[string]bool // requests that lack a right
	denyAbsence bool            // Stat of what isn't there is forbidden
	alter       bool            // bodies are changed
	noRange     bool            // ranges are ignored
	slow        time.Duration   // how far the store's clock is ahead
}

func (b *bent) deny(op string) error {
	if b.forbidden[op] {
		return fmt.Errorf("%s: %w", op, storage.ErrPermission)
	}
	return nil
}

func (b *bent) Create(ctx context.Context, key string, r io.Reader, size int64, meta storage.Meta) error {
	if err := b.deny("create"); err != nil {
		return err
	}
	if b.overwrites {
		if err := b.Bucket.Delete(ctx, key); err != nil {
			return err
		}
	}
	err := b.Bucket.Create(ctx, key, r, size, meta)
	if b.overwrites && errors.Is(err, storage.ErrExist) {
		return nil // of several at once
	}
	return err
}

func (b *bent) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	if err := b.deny("get"); err != nil {
		return nil, err
	}
	if b.noRange {
		offset, length = 0, -1
	}
	r, err := b.Bucket.Get(ctx, key, offset, length)
	if err != nil || !b.alter {
		return r, err
	}
	data, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	return io.NopCloser(strings.NewReader(strings.ToUpper(string(data)))), r.Close()
}

func (b *bent) Stat(ctx context.Context, key string) (storage.Attributes, error) {
	a, err := b.Bucket.Stat(ctx, key)
	if b.denyAbsence && errors.Is(err, storage.ErrNotExist) {
		err = storage.ErrPermission
	}
	a.ModTime = a.ModTime.Add(b.slow)
	return a, err
}

func (b *bent) List(ctx context.Context, prefix, after string) iter.Seq2[storage.Object, error] {
	if err := b.deny("list"); err != nil {
		return func(yield func(storage.Object, error) bool) { yield(storage.Object{}, err) }
	}
	if b.lags {
		return func(func(storage.Object, error) bool) {}
	}
	return b.Bucket.List(ctx, prefix, after)
}

func (b *bent) Delete(ctx context.Context, keys ...string) error {
	if err := b.deny("delete"); err != nil {
		return err
	}
	return b.Bucket.Delete(ctx, keys...)
}

// Each broken promise is found by the check of that name, and is the worst that is found.
func TestStorage(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name  string
		b     bent
		check string // that isn't OK
		want  checkup.Status
	}{
		{"sound", bent{}, "", checkup.OK},
		{"overwrites", bent{overwrites: true}, "creates only once", checkup.Failure},
		{"listings lag", bent{lags: true}, "lists what was written", checkup.Warning},
		{"may not list", bent{forbidden: map[string]bool{"list": true}}, "reached and listed", checkup.Failure},
		{"may not write", bent{forbidden: map[string]bool{"create": true}}, "writes", checkup.Warning},
		{"may not read", bent{forbidden: map[string]bool{"get": true}}, "reads what was written", checkup.Failure},
		{"may not delete", bent{forbidden: map[string]bool{"delete": true}}, "", checkup.OK},
		{"absence is forbidden", bent{denyAbsence: true}, "absence is proven", checkup.Failure},
		{"alters", bent{alter: true}, "reads what was written", checkup.Failure},
		{"no ranges", bent{noRange: true}, "reads what was written", checkup.Failure},
		{"clock ahead", bent{slow: time.Hour}, "clocks agree", checkup.Warning},
		{"clock behind", bent{slow: -time.Hour}, "clocks agree", checkup.Warning},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			tc.b.Bucket = mem.New(nil)
			findings := checkup.Storage(t.Context(), &tc.b, time.Now)
			if got := findings.Worst(); got != tc.want {
				t.Errorf("Worst = %s, want %s: %+v", got, tc.want, findings)
			}
			found := tc.check == ""
			for _, f := range findings {
				if f.Check == tc.check && f.Status == tc.want {
					found = true
				}
				if f.Found == "" || f.Area != "storage" || f.Status == checkup.Failure && f.Fix == "" {
					t.Errorf("finding without what was found, where, or what to do: %+v", f)
				}
			}
			if !found {
				t.Errorf("%q isn't said to be a %s: %+v", tc.check, tc.want, findings)
			}
			if tc.name == "may not delete" || tc.b.forbidden["list"] {
				return
			}
			for o, err := range tc.b.Bucket.List(t.Context(), "", "") {
				t.Errorf("left behind: %v %v", o.Key, err)
			}
		})
	}
}

type inspected struct {
	storage.Bucket
}

func (inspected) Inspect(context.Context) []storage.Remark {
	return []storage.Remark{
		{Rule: "versions", Verdict: storage.Forbidden, Text: "not told"},
		{Rule: "expiry", Verdict: storage.Unfit, Text: "a rule", Fix: "remove it"},
	}
}

func TestInspector(t *testing.T) {
	t.Parallel()
	findings := checkup.Storage(t.Context(), inspected{mem.New(nil)}, time.Now)
	if f := findings[len(findings)-2]; f.Status != checkup.OK || f.Found != "not told" {
		t.Errorf("what credentials aren't told = %+v, want it to be well", f)
	}
	last := findings[len(findings)-1]
	if want := (checkup.Finding{Area: "storage", Check: "expiry", Status: checkup.Failure, Found: "a rule", Fix: "remove it"}); last != want {
		t.Errorf("last finding = %+v, want %+v", last, want)
	}
}

type weak struct{ storage.Bucket }

func (weak) Weakness() string { return "its listings lag" }

// What a store doesn't promise counts although nothing shows it today.
func TestWeakStore(t *testing.T) {
	t.Parallel()
	findings := checkup.Storage(t.Context(), weak{mem.New(nil)}, time.Now)
	if got := findings.Worst(); got != checkup.Warning {
		t.Errorf("Worst = %s, want a warning: %+v", got, findings)
	}
}

// What a role may do follows from what its commands do; servers enforce it in the
// tests of the stores.
func TestS3Policy(t *testing.T) {
	t.Parallel()
	key := func(name string) string { return "arn:aws:s3:::bucket/some/path/" + name }
	for _, tc := range []struct {
		action, key string
		may         []checkup.Role
	}{
		{"s3:GetObject", "chunks_006/packs/R/0", checkup.Roles()},
		{"s3:PutObject", "chunks_006/packs/R/0", []checkup.Role{checkup.DatabaseHost}},
		{"s3:PutObject", "wal_006/1/X", []checkup.Role{checkup.DatabaseHost}},
		{"s3:PutObject", "basebackups_006/base_X/R.outcome", []checkup.Role{checkup.DatabaseHost, checkup.Collector}},
		{"s3:PutObject", "deleted_006/base_X/R", []checkup.Role{checkup.Collector}},
		{"s3:PutObject", "marks_006/base_X/R/U.keep", []checkup.Role{checkup.Collector}},
		{"s3:PutObject", "chunks_006/condemned/G", []checkup.Role{checkup.Collector}},
		{"s3:PutObject", "chunks_006/config/0", []checkup.Role{checkup.DatabaseHost}},
		{"s3:DeleteObject", "chunks_006/packs/R/0", []checkup.Role{checkup.Collector}},
		{"s3:DeleteObject", "chunks_006/config/0", nil},
		{"s3:DeleteObject", "chunks_006/keys/1/0.pgp", nil},
		{"s3:PutObject", "elsewhere", nil},
	} {
		for _, role := range checkup.Roles() {
			text, err := checkup.Policy(role, checkup.Place{Scheme: "s3", Store: "bucket", Path: "some/path"})
			if err != nil {
				t.Fatal(err)
			}
			want := false
			for _, r := range tc.may {
				want = want || r == role
			}
			if got := allows(t, text, tc.action, key(tc.key)); got != want {
				t.Errorf("%s may %s %s: %t, want %t", role, tc.action, tc.key, got, want)
			}
		}
	}
}

// allows reads a policy as a server does, as far as patterns with a last * go.
func allows(t *testing.T, policy, action, resource string) bool {
	t.Helper()
	var p struct {
		Statement []struct{ Action, Resource []string }
	}
	if err := json.Unmarshal([]byte(policy), &p); err != nil {
		t.Fatal(err)
	}
	for _, s := range p.Statement {
		for _, a := range s.Action {
			for _, r := range s.Resource {
				prefix, star := strings.CutSuffix(r, "*")
				if a == action && (r == resource || star && strings.HasPrefix(resource, prefix)) {
					return true
				}
			}
		}
	}
	return false
}

func TestPolicyOfEachStore(t *testing.T) {
	t.Parallel()
	for _, scheme := range []string{"s3", "wabs", "gs", "swift", "file"} {
		for _, role := range checkup.Roles() {
			text, err := checkup.Policy(role, checkup.Place{Scheme: scheme, Store: "the-store", Path: "the/path"})
			if err != nil {
				t.Fatal(err)
			}
			names := "the-store"
			if scheme == "file" {
				names = "/the/path"
			}
			if !strings.Contains(text, names) || !strings.HasSuffix(text, "\n") {
				t.Errorf("%s of %s: %s", role, scheme, text)
			}
		}
	}
	// Names of classic objects begin with a slash in Google Storage.
	text, err := checkup.Policy(checkup.DatabaseHost, checkup.Place{Scheme: "gs", Store: "the-store", Path: "the/path"})
	for _, want := range []string{"objects//the/path/wal_005/", "objects/the/path/wal_006/"} {
		if err != nil || !strings.Contains(text, want) {
			t.Errorf("policy of Google Storage lacks %q: %s%v", want, text, err)
		}
	}
	if _, err := checkup.Policy("owner", checkup.Place{Scheme: "s3"}); err == nil {
		t.Error("there is no role owner")
	}
}
