package main_test

import (
	"os"
	"path/filepath"
	"testing"

	"wal-e/internal/enginetest"
	"wal-e/internal/pgtest"
)

// gsCases are Google Cloud Storage, as an emulator.
func gsCases() []storageCase {
	return []storageCase{
		{name: "gs", open: func(t *testing.T) map[string]string {
			s := enginetest.GCS(t)
			s.CreateBucket(t, "archives")
			return map[string]string{"WALE_GS_PREFIX": "gs://archives/some/path", "STORAGE_EMULATOR_HOST": s.URL}
		}},
	}
}

// A refusal ends a command at once, and says what to do. It is no proof that a
// segment is absent.
func TestGSRefusals(t *testing.T) {
	t.Parallel()
	s := enginetest.GCS(t)
	bad := filepath.Join(pgtest.TempDir(t), "credentials.json")
	if err := os.WriteFile(bad, []byte(`{"type":"unknown","private_key":"topsecret"}`), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name  string
		vars  map[string]string
		words []string
	}{
		{
			"no bucket", map[string]string{"STORAGE_EMULATOR_HOST": s.URL},
			[]string{`no such bucket "missing"`, "create it, or correct the prefix"},
		},
		{
			"no file", map[string]string{"GOOGLE_APPLICATION_CREDENTIALS": "/nonexistent/file.json"},
			[]string{"gs://missing/path", "log in to Google: permission denied", "/nonexistent/file.json: no such file"},
		},
		{
			"bad file", map[string]string{"GOOGLE_APPLICATION_CREDENTIALS": bad},
			[]string{"gs://missing/path", bad + " is not a JSON file of credentials"},
		},
		{
			"emulator", map[string]string{"STORAGE_EMULATOR_HOST": "ftp://host"},
			[]string{"STORAGE_EMULATOR_HOST: is not of the form HOST:PORT"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.vars["WALE_GS_PREFIX"] = "gs://missing/path"
			a := newStorageArchive(t, test.vars)
			a.fails(t, nil, 1, test.words, "backup-list")
			a.fails(t, nil, 126, test.words, "wal-fetch", "000000010000000000000001", "/nonexistent/segment")
		})
	}
}
