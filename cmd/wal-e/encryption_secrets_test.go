package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"

	pgp "github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

// pointMarker is where the ECDH point begins with 40, which says how it is
// written. The library passes over it.
const pointMarker = 14

// Whatever byte of an epoch's secrets is altered, and wherever they are cut:
// whoever opens them notices.
func TestSecretsEveryByteCounts(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	key, err := pgp.NewEntity("Backup", "", "dba@example.com", &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA})
	if err != nil {
		t.Fatal(err)
	}
	var public, private bytes.Buffer
	if err := key.Serialize(&public); err != nil {
		t.Fatal(err)
	}
	if err := key.SerializePrivate(&private, nil); err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{"public": public.Bytes(), "private": private.Bytes()} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	archive := filepath.Join(dir, "archive")
	if err := os.Mkdir(archive, 0o700); err != nil {
		t.Fatal(err)
	}
	walE := func(state string, args ...string) error {
		env := []string{
			"WALE_FILE_PREFIX=file://localhost" + archive, "WALE_STATE_DIR=" + filepath.Join(dir, state), "WALE_LOG_DESTINATION=stderr",
			"WALE_GPG_PUBLIC_KEY_FILE=" + filepath.Join(dir, "public"), "WALE_GPG_PRIVATE_KEY_FILE=" + filepath.Join(dir, "private"),
		}
		return run(t.Context(), append([]string{"--terse"}, args...), env, nil, io.Discard, io.Discard)
	}
	if err := walE("host", "key", "init"); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(archive, "chunks_006/keys/*/*.pgp"))
	if err != nil || len(files) != 1 {
		t.Fatalf("secrets are in %v, %v", files, err)
	}
	whole, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	opens := func(data []byte) bool {
		t.Helper()
		if err := os.WriteFile(files[0], data, 0o600); err != nil {
			t.Fatal(err)
		}
		return walE("owner", "key", "show", "--try") == nil
	}
	if !opens(whole) {
		t.Fatal("the secrets that nobody altered can't be opened")
	}
	for i := range whole {
		altered := bytes.Clone(whole)
		altered[i] ^= 1 << (i % 8)
		if opens(altered) && i != pointMarker {
			t.Errorf("byte %d of %d was altered, and nobody noticed", i, len(whole))
		}
		if i%5 == 0 && opens(whole[:i]) {
			t.Errorf("nobody noticed that %d bytes were cut to %d", len(whole), i)
		}
	}
}
