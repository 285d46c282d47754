package compat_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"wal-e/compat"
	"wal-e/compat/lzop"
	"wal-e/internal/postgres"
	"wal-e/internal/storage"
)

const walSystem = 6902345678901234567

// segment makes a WAL segment of 1 MB.
func segment(no uint64) []byte {
	const size = 1 << 20
	b := make([]byte, size)
	binary.LittleEndian.PutUint16(b, 0xD10D)
	binary.LittleEndian.PutUint16(b[2:], 2)
	binary.LittleEndian.PutUint32(b[4:], 1)
	binary.LittleEndian.PutUint64(b[8:], no*size)
	binary.LittleEndian.PutUint64(b[24:], walSystem)
	binary.LittleEndian.PutUint32(b[32:], size)
	binary.LittleEndian.PutUint32(b[36:], 8192)
	return b
}

func packed(t testing.TB, plain []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	z := lzop.NewWriter(&b, lzop.Header{ModTime: modTime}, 2)
	_, err := z.Write(plain)
	if err := errors.Join(err, z.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestFetchWAL(t *testing.T) {
	t.Parallel()
	const name = "000000010000000000000004"
	good := segment(4)
	for _, tc := range []struct {
		what   string
		name   string
		object []byte // nil: none
		system postgres.SystemID
		err    error // nil: it arrives
	}{
		{"a segment", name, packed(t, good), 0, nil},
		{"of this cluster", name, packed(t, good), walSystem, nil},
		{"of another cluster", name, packed(t, good), 1, compat.ErrBadWAL},
		{"under another name", name, packed(t, segment(5)), 0, compat.ErrBadWAL},
		{"cut short before it was packed", name, packed(t, good[:8192]), 0, compat.ErrBadWAL},
		{"of nothing", name, packed(t, nil), 0, compat.ErrBadWAL},
		{"of zeros", name, packed(t, make([]byte, 1<<20)), 0, compat.ErrBadWAL},
		{"cut short", name, packed(t, good)[:200], 0, lzop.ErrDamaged},
		{"garbage", name, []byte("hello"), 0, compat.ErrNotClassic},
		{"absent", name, nil, 0, storage.ErrNotExist},
		{"a history", "00000002.history", packed(t, []byte("1\t0/A000000\tx\n")), 1, nil},
		{"a partial segment", name + ".partial", packed(t, good[:8192]), 1, nil},
		{"a path", "../" + name, nil, 0, errors.ErrUnsupported},
	} {
		a := newClassic(t)
		if tc.object != nil {
			a.put(t, compat.WALKey(tc.name), tc.object)
		}
		dir := t.TempDir()
		dest := filepath.Join(dir, "RECOVERYXLOG")
		if err := os.WriteFile(dest, []byte("before"), 0o600); err != nil {
			t.Fatal(err)
		}
		err := compat.FetchWAL(t.Context(), compat.WALConfig{Bucket: a, System: tc.system}, tc.name, dest)
		got, rerr := os.ReadFile(dest)
		entries, _ := os.ReadDir(dir)
		switch {
		case rerr != nil || len(entries) != 1:
			t.Errorf("%s: left behind: %v, %v", tc.what, entries, rerr)
		case tc.err == errors.ErrUnsupported:
			if err == nil || !strings.Contains(err.Error(), "no name of a WAL file") {
				t.Errorf("%s: %v", tc.what, err)
			}
		case !errors.Is(err, tc.err) || tc.err == nil && err != nil:
			t.Errorf("%s: %v, want %v", tc.what, err, tc.err)
		case err != nil && string(got) != "before":
			t.Errorf("%s: the destination changed", tc.what)
		case err == nil && !bytes.Equal(packed(t, got), tc.object):
			t.Errorf("%s: %d bytes arrived", tc.what, len(got))
		}
		if tc.err != storage.ErrNotExist && tc.object != nil {
			if err := compat.VerifyWAL(t.Context(), compat.WALConfig{Bucket: a, System: tc.system}, tc.name); !errors.Is(err, tc.err) || tc.err == nil && err != nil {
				t.Errorf("%s: VerifyWAL = %v, want %v", tc.what, err, tc.err)
			}
		}
	}
}

// breaking breaks off each body after some bytes.
type breaking struct {
	storage.Bucket
	after int64
	err   error
}

func (b breaking) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	body, err := b.Bucket.Get(ctx, key, offset, length)
	if err != nil {
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{io.MultiReader(io.LimitReader(body, b.after), iotest.ErrReader(b.err)), body}, nil
}

// Whoever takes a file for absent ends a recovery. An object that was there, and can't
// be read to its end, isn't absent, whatever the store answers when it is asked again.
func TestFetchWALThatVanishes(t *testing.T) {
	t.Parallel()
	const name = "000000010000000000000004"
	a := newClassic(t)
	object := packed(t, segment(4))
	a.put(t, compat.WALKey(name), object)
	for _, after := range []int64{0, 5, 60, int64(len(object)) - 1} {
		b := breaking{a, after, fmt.Errorf("get anew: %w", storage.ErrNotExist)}
		err := compat.FetchWAL(t.Context(), compat.WALConfig{Bucket: b}, name, filepath.Join(t.TempDir(), "x"))
		if err == nil || errors.Is(err, storage.ErrNotExist) || !strings.Contains(err.Error(), "vanished") {
			t.Errorf("FetchWAL of a body that ends after %d bytes = %v", after, err)
		}
	}
}

// What decrypts sees encrypted objects alone, and its errors get through.
func TestDecrypt(t *testing.T) {
	t.Parallel()
	a := newClassic(t)
	message := append([]byte("\x85\x01\x0c\x03 to somebody: "), packed(t, []byte("history"))...)
	a.put(t, compat.WALKey("00000002.history"), message)
	a.put(t, compat.WALKey("00000003.history"), packed(t, []byte("plain")))
	decrypt := func(_ context.Context, r io.Reader) (io.ReadCloser, error) {
		b, err := io.ReadAll(r)
		_, rest, ok := bytes.Cut(b, []byte("somebody: "))
		if err != nil || !ok {
			return nil, errStore
		}
		return io.NopCloser(bytes.NewReader(rest)), nil
	}
	dest := filepath.Join(t.TempDir(), "x")
	for name, want := range map[string]string{"00000002.history": "history", "00000003.history": "plain"} {
		if err := compat.FetchWAL(t.Context(), compat.WALConfig{Bucket: a, Decrypt: decrypt}, name, dest); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got, err := os.ReadFile(dest); err != nil || string(got) != want {
			t.Errorf("%s holds %q, %v", name, got, err)
		}
	}
	broken := func(context.Context, io.Reader) (io.ReadCloser, error) { return nil, errStore }
	if err := compat.FetchWAL(t.Context(), compat.WALConfig{Bucket: a, Decrypt: broken}, "00000002.history", dest); !errors.Is(err, errStore) {
		t.Errorf("FetchWAL = %v", err)
	}
}
