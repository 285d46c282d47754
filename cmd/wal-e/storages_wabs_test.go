package main_test

import (
	"strings"
	"testing"
	"time"

	"wal-e/internal/enginetest"
)

// wabsCases are Azure Blob Storage by key and by shared access signature. The
// signature may not overwrite anything.
func wabsCases() []storageCase {
	return []storageCase{
		{name: "wabs key", open: func(t *testing.T) map[string]string { return wabsEnv(t, enginetest.Azurite(t)) }},
		{name: "wabs sas", open: func(t *testing.T) map[string]string {
			s := enginetest.Azurite(t)
			env := wabsEnv(t, s)
			delete(env, "WABS_ACCESS_KEY")
			delete(env, "WABS_ACCOUNT_NAME")
			env["WABS_SAS_TOKEN"] = s.SAS(t, "archives", "rcdl", time.Now().Add(time.Hour))
			return env
		}},
	}
}

// wabsEnv makes a container and returns the variables of a prefix in it.
func wabsEnv(t *testing.T, s *enginetest.AzuriteServer) map[string]string {
	t.Helper()
	s.CreateContainer(t, "archives")
	return map[string]string{
		"WALE_WABS_PREFIX": "wabs://archives/some/path", "WALE_WABS_ENDPOINT": s.URL,
		"WABS_ACCOUNT_NAME": s.Account, "WABS_ACCESS_KEY": s.Key,
	}
}

// A refusal ends a command at once, with the object's container and what to do,
// and without the secret. It is no proof that a segment is absent.
func TestWABSRefusals(t *testing.T) {
	t.Parallel()
	s := enginetest.Azurite(t)
	env := wabsEnv(t, s)
	for _, test := range []struct {
		name   string
		change map[string]string // on top of env
		words  []string
		secret string
	}{
		{
			"wrong key", map[string]string{"WABS_ACCESS_KEY": "bm90IHRoZSBrZXk="},
			[]string{"wabs://archives/some/path", "permission denied", "check account name and account key"}, "bm90IHRoZSBrZXk",
		},
		{
			"no container", map[string]string{"WALE_WABS_PREFIX": "wabs://missing/path"},
			[]string{`no such container "missing"`, "create it"}, s.Key,
		},
		{
			"expired", map[string]string{"WABS_ACCESS_KEY": "", "WABS_SAS_TOKEN": s.SAS(t, "archives", "rcdl", time.Now().Add(-time.Hour))},
			[]string{"wabs://archives/some/path", "the shared access signature has expired at", "make a new one"}, "sig=",
		},
		{
			"no right to read", map[string]string{"WABS_ACCESS_KEY": "", "WABS_SAS_TOKEN": s.SAS(t, "archives", "c", time.Now().Add(time.Hour))},
			[]string{"wabs://archives/some/path", "permission denied", "the shared access signature lacks the right "}, "sig=",
		},
		{
			"key not base64", map[string]string{"WABS_ACCESS_KEY": "top secret"},
			[]string{"WABS_ACCESS_KEY: is not base64"}, "top secret",
		},
		{
			"no account", map[string]string{"WABS_ACCOUNT_NAME": ""},
			[]string{"WABS_ACCOUNT_NAME (or --wabs-account-name): is needed with an account key"}, s.Key,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			vars := map[string]string{}
			for _, from := range []map[string]string{env, test.change} {
				for k, v := range from {
					vars[k] = v
				}
			}
			a := newStorageArchive(t, vars)
			for _, c := range []struct {
				code int
				args []string
			}{
				{1, []string{"backup-list"}},
				{126, []string{"wal-fetch", "000000010000000000000001", "/nonexistent/segment"}},
			} {
				r := a.run(t, nil, c.args...)
				if r.code != c.code {
					t.Errorf("%s: exit %d, want %d\n%s", c.args[0], r.code, c.code, r.stderr)
				}
				for _, word := range test.words {
					if !strings.Contains(r.stderr, word) {
						t.Errorf("%s: stderr lacks %q:\n%s", c.args[0], word, r.stderr)
					}
				}
				if strings.Contains(r.stderr, test.secret) {
					t.Errorf("%s: stderr holds a secret:\n%s", c.args[0], r.stderr)
				}
			}
		})
	}
}
