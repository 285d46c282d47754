package seal_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"wal-e/internal/seal"
)

// example are the secrets of docs/format.md, section 12.
const example = `{"version":1,"epoch":"847d0e29c7f657bff2cb4f658ecd0d4f",` +
	`"dedup_key":"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",` +
	`"public_key":"7b4e909bbe7ffe44c465a220037d608ee35897d31ef972f07f74892cb0f73f13",` +
	`"private_key":"1111111111111111111111111111111111111111111111111111111111111111"}`

func exampleRun() []byte {
	run := make([]byte, 24)
	for i := range run {
		run[i] = byte(i)
	}
	return run
}

func parse(t testing.TB, text string) *seal.Keys {
	t.Helper()
	k := &seal.Keys{}
	if err := json.Unmarshal([]byte(text), k); err != nil {
		t.Fatal(err)
	}
	return k
}

// What is sealed under each derived key. The values were computed by another
// implementation, docs/restore-encrypted.py's functions.
func TestKnownAnswers(t *testing.T) {
	t.Parallel()
	k, run := parse(t, example), exampleRun()
	enc, err := hex.DecodeString("0faa684ed28867b97f4a6a2dee5df8ce974e76b7018e3f22a1c4cf2678570f20")
	if err != nil {
		t.Fatal(err)
	}
	opened, err := k.OpenRun(run, enc)
	if err != nil {
		t.Fatal(err)
	}
	wal, history := k.WALKey(), k.HistoryKey()
	for name, test := range map[string]struct{ got, want string }{
		"node":      {seal1(k.Nodes(run, 3)), "0274b3d2dc0dd32147f5c12be78698f6af4e10f90f"},
		"directory": {seal1(k.Directory(run, 3)), "c1cc55e31d7d019eddfca4c67bb020c57c41054b07"},
		"index":     {seal1(k.Index(run, 3)), "ac52c3b5241afee2f6b7a55d403e855b884fe6f4cb"},
		"manifest":  {seal1(k.Manifest(run)), "4fa840ce63d4005d456f51f551fbb0817b891a5674"},
		"data":      {seal1(opened.Pack(3)), "ad0c16b8c881dd10deee45b84ee4cb944c483e5adc"},
		"wal":       {hex.EncodeToString(wal[:]), "feed215a6cdfe506fbaed6f857185d23dcb0d6cc77618bba039df6dabe631bf2"},
		"history":   {hex.EncodeToString(history[:]), "000fa9f71c5598a87dfebb0da199ecf5ca4c866c964c73539faec9f9cc922252"},
	} {
		if test.got != test.want {
			t.Errorf("%s: %s, want %s", name, test.got, test.want)
		}
	}
}

// A message's key that another implementation sealed is opened; nothing of it, nor
// of what it is bound to, can be altered.
func TestSealKey(t *testing.T) {
	t.Parallel()
	k := parse(t, example)
	sealed, err := hex.DecodeString("0faa684ed28867b97f4a6a2dee5df8ce974e76b7018e3f22a1c4cf2678570f20" +
		"0b1aabd0c453d67001592c367818476523d44ddf84132acbc5a0110b48b9bb30ed4c7dad06ceed9c025299bf04da5656")
	if err != nil {
		t.Fatal(err)
	}
	want := [seal.KeySize]byte(bytes.Repeat([]byte{0x33}, seal.KeySize))
	if got, err := k.OpenKey([]byte("header"), sealed); err != nil || got != want {
		t.Fatalf("OpenKey of the known answer = %x, %v", got, err)
	}
	fresh, err := k.Host().SealKey([]byte("header"), want)
	if err != nil || len(fresh) != seal.SealedKeySize {
		t.Fatalf("SealKey = %d bytes, %v, want %d", len(fresh), err, seal.SealedKeySize)
	}
	if got, err := k.OpenKey([]byte("header"), fresh); err != nil || got != want {
		t.Errorf("OpenKey = %x, %v", got, err)
	}
	if _, err := k.Host().OpenKey([]byte("header"), fresh); !errors.Is(err, seal.ErrNoPrivateKey) {
		t.Errorf("OpenKey on a host = %v, want ErrNoPrivateKey", err)
	}
	if _, err := k.OpenKey([]byte("Header"), fresh); !errors.Is(err, seal.ErrForged) {
		t.Errorf("OpenKey with another header = %v, want ErrForged", err)
	}
	for i := range fresh {
		altered := bytes.Clone(fresh)
		altered[i] ^= 1
		if _, err := k.OpenKey([]byte("header"), altered); !errors.Is(err, seal.ErrForged) {
			t.Errorf("OpenKey with byte %d altered = %v, want ErrForged", i, err)
		}
		if _, err := k.OpenKey([]byte("header"), fresh[:i]); !errors.Is(err, seal.ErrForged) {
			t.Errorf("OpenKey of %d bytes = %v, want ErrForged", i, err)
		}
	}
}

func seal1(b *seal.Box) string {
	return hex.EncodeToString(b.Seal(nil, 258, []byte("header"), []byte("wal-e")))
}

func TestRunKeyNeedsPrivateKey(t *testing.T) {
	t.Parallel()
	k, err := seal.New()
	if err != nil {
		t.Fatal(err)
	}
	run := exampleRun()
	key, enc, err := k.Host().NewRun(run)
	if err != nil {
		t.Fatal(err)
	}
	sealed := key.Pack(7).Seal(nil, 1, []byte("h"), []byte("data"))
	if _, err := k.Host().OpenRun(run, enc); !errors.Is(err, seal.ErrNoPrivateKey) {
		t.Errorf("OpenRun on a host = %v, want ErrNoPrivateKey", err)
	}
	opened, err := k.OpenRun(run, enc)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := opened.Pack(7).Open(nil, 1, []byte("h"), sealed); err != nil || string(got) != "data" {
		t.Errorf("Open = %q, %v, want data", got, err)
	}
	other := append([]byte{9}, run[1:]...)
	swapped, err := k.OpenRun(other, enc)
	if err != nil {
		t.Fatal(err)
	}
	for name, open := range map[string]func() error{
		"another pack":   func() error { _, err := opened.Pack(8).Open(nil, 1, []byte("h"), sealed); return err },
		"another number": func() error { _, err := opened.Pack(7).Open(nil, 2, []byte("h"), sealed); return err },
		"another header": func() error { _, err := opened.Pack(7).Open(nil, 1, []byte("g"), sealed); return err },
		"another run":    func() error { _, err := swapped.Pack(7).Open(nil, 1, []byte("h"), sealed); return err },
		"cut short":      func() error { _, err := opened.Pack(7).Open(nil, 1, []byte("h"), sealed[:len(sealed)-1]); return err },
	} {
		if err := open(); !errors.Is(err, seal.ErrForged) {
			t.Errorf("%s: %v, want ErrForged", name, err)
		}
	}
}

func TestSecretsRoundTrip(t *testing.T) {
	t.Parallel()
	k := parse(t, example)
	for name, keys := range map[string]*seal.Keys{"all": k, "host": k.Host()} {
		data, err := json.Marshal(keys)
		if err != nil {
			t.Fatal(err)
		}
		if got := parse(t, string(data)); got.Epoch() != k.Epoch() || got.CanRead() != keys.CanRead() || got.DedupKey() != k.DedupKey() {
			t.Errorf("%s: round trip gives %v", name, got)
		}
		if name == "host" && strings.Contains(string(data), strings.Repeat("11", 32)) {
			t.Error("a host's keys hold the private key")
		}
	}
	if s := fmt.Sprintf("%v %+v %#v", k, k, k); strings.Contains(s, "0123456789abcdef0123") {
		t.Errorf("printing keys shows a secret: %s", s)
	}
}

// Secrets are bound to the name of their epoch: none of them can be another's.
func TestEpochNamesSecrets(t *testing.T) {
	t.Parallel()
	for name, altered := range map[string]string{
		"another name":       strings.Replace(example, "847d0e", "847d0f", 1),
		"another dedup key":  strings.Replace(example, `"0123`, `"1123`, 1),
		"another public key": strings.Replace(example, "7b4e909b", "7c4e909b", 1),
	} {
		if err := json.Unmarshal([]byte(altered), &seal.Keys{}); err == nil || !strings.Contains(err.Error(), "altered or forged") {
			t.Errorf("%s: %v, want that they were altered or forged", name, err)
		}
	}
	k, err := seal.New()
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(k)
	if err != nil {
		t.Fatal(err)
	}
	if again := parse(t, string(data)); again.Epoch() != k.Epoch() {
		t.Errorf("epoch %s was read as %s", k.Epoch(), again.Epoch())
	}
}

func FuzzSecrets(f *testing.F) {
	f.Add([]byte(example))
	f.Add([]byte(`{"version":1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		k := &seal.Keys{}
		if json.Unmarshal(b, k) != nil {
			return
		}
		data, err := json.Marshal(k)
		if err != nil {
			t.Fatalf("Marshal of what was read = %v", err)
		}
		again := &seal.Keys{}
		if err := json.Unmarshal(data, again); err != nil || again.DedupKey() != k.DedupKey() {
			t.Fatalf("second read = %v", err)
		}
	})
}

// BenchmarkSeal seals a block as large as they become, uncompressed.
func BenchmarkSeal(b *testing.B) {
	k, err := seal.New()
	if err != nil {
		b.Fatal(err)
	}
	box, block := k.Index(exampleRun(), 0), make([]byte, 256<<10, 256<<10+seal.Overhead)
	b.SetBytes(int64(len(block)))
	for b.Loop() {
		block = box.Seal(block[:0], 1, nil, block)[:256<<10]
	}
}
