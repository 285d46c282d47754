package wal_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"math"
	"os"
	"strings"
	"testing"

	"wal-e/internal/storage"
	"wal-e/internal/storage/mem"
	"wal-e/wal"
)

func goldenIdentity() wal.Identity {
	id := wal.Identity{System: 7711102971183117775, Length: 16 << 20}
	for i := range id.Fingerprint {
		id.Fingerprint[i] = byte(i)
	}
	return id
}

func TestIdentityGolden(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("testdata/identity.1.hex")
	if err != nil {
		t.Fatal(err)
	}
	want, err := hex.DecodeString(strings.Join(strings.Fields(string(text)), ""))
	if err != nil {
		t.Fatal(err)
	}
	got, err := goldenIdentity().MarshalBinary()
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("MarshalBinary = %x, %v, want %x", got, err, want)
	}
	var id wal.Identity
	if err := id.UnmarshalBinary(want); err != nil || id != goldenIdentity() {
		t.Errorf("UnmarshalBinary = %+v, %v, want %+v", id, err, goldenIdentity())
	}
}

func TestIdentityRefused(t *testing.T) {
	t.Parallel()
	for name, id := range map[string]wal.Identity{
		"no system":       {Length: 1},
		"negative length": {System: 1, Length: -1},
		"too long":        {System: 1, Length: wal.MaxLength + 1},
		"far too long":    {System: 1, Length: math.MaxInt64},
	} {
		if _, err := id.MarshalBinary(); err == nil {
			t.Errorf("%s: MarshalBinary = nil, want an error", name)
		}
	}
	good, err := goldenIdentity().MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	for i := range 8 * len(good) {
		bad := bytes.Clone(good)
		bad[i/8] ^= 1 << (i % 8)
		var id wal.Identity
		if err := id.UnmarshalBinary(bad); err == nil || id != (wal.Identity{}) {
			t.Errorf("bit %d flipped: UnmarshalBinary = %v and set %v, want an error and nothing set", i, err, id)
		}
	}
	for _, n := range []int{0, len(good) - 1} {
		if err := new(wal.Identity).UnmarshalBinary(good[:n]); err == nil {
			t.Errorf("%d bytes: UnmarshalBinary = nil, want an error", n)
		}
	}
}

func TestReadIdentity(t *testing.T) {
	t.Parallel()
	if _, err := wal.ReadIdentity(t.Context(), mem.New(nil), "wal_006/1/x"); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("ReadIdentity of nothing = %v, want ErrNotExist", err)
	}
	for name, data := range map[string]string{"empty": "", "short": "*M\x18", "other": strings.Repeat("x", 100)} {
		_, err := wal.ReadIdentity(t.Context(), bucketWith(t, "wal_006/1/x", []byte(data)), "wal_006/1/x")
		var damaged *wal.DamagedError
		if !errors.As(err, &damaged) || !strings.Contains(err.Error(), "mem://localhost/wal_006/1/x") {
			t.Errorf("%s: ReadIdentity = %v, want a DamagedError that names the object", name, err)
		}
	}
}

func FuzzIdentity(f *testing.F) {
	good, err := goldenIdentity().MarshalBinary()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Fuzz(func(t *testing.T, b []byte) {
		var id wal.Identity
		if id.UnmarshalBinary(b) != nil {
			return
		}
		if again, err := id.MarshalBinary(); err != nil || !bytes.Equal(again, b) {
			t.Errorf("%x was accepted and encodes to %x, %v", b, again, err)
		}
	})
}
