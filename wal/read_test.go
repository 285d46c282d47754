package wal_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"wal-e/internal/postgres"
	"wal-e/internal/storage"
	"wal-e/internal/storage/mem"
	"wal-e/internal/storage/storagetest"
	"wal-e/wal"
)

func TestMissing(t *testing.T) {
	t.Parallel()
	b := mem.New(nil)
	const system = 42
	for _, key := range []string{"wal_006/4/00000001000000000000000A", "wal_006/420/00000001000000000000000A", "wal_007/42/x"} {
		create(t, b, key)
	}
	name := func(i int) string { return fmt.Sprintf("0000000100000000000000%02X", i) }
	for i := range 100 {
		if i%7 != 3 {
			create(t, b, wal.Key(system, name(i)))
			create(t, b, wal.Key(system, name(i))+".partial")
		}
	}
	for _, test := range []struct{ from, to, requests int }{
		{0, 0, 0}, {0, 1, 1}, {3, 4, 1}, {0, 8, 8}, {0, 9, 1}, {3, 60, 1}, {10, 120, 1}, {101, 111, 1},
	} {
		var names, want []string
		for i := test.from; i < test.to; i++ {
			names = append(names, name(i))
			if i%7 == 3 || i >= 100 {
				want = append(want, name(i))
			}
		}
		slices.Reverse(names)
		counted := storagetest.NewFaulty(b, storagetest.Fault{})
		got, err := wal.Missing(t.Context(), counted, system, slices.Values(names))
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("Missing(%d to %d) = %v, %v, want %v", test.from, test.to, got, err, want)
		}
		if counted.Calls() != test.requests {
			t.Errorf("Missing(%d to %d) took %d requests, want %d", test.from, test.to, counted.Calls(), test.requests)
		}
		for n := range test.requests {
			faulty := storagetest.NewFaulty(b, storagetest.Fault{Call: n + 1})
			if _, err := wal.Missing(t.Context(), faulty, system, slices.Values(names)); !errors.Is(err, storagetest.ErrInjected) {
				t.Errorf("Missing(%d to %d) with call %d failing = %v", test.from, test.to, n+1, err)
			}
		}
	}
}

func TestSystems(t *testing.T) {
	t.Parallel()
	b := mem.New(nil)
	for _, key := range []string{"wal_005/1/x", "wal_006/stray", "wal_006/notes/x", "wal_007/8/x"} {
		create(t, b, key)
	}
	if got, err := wal.Systems(t.Context(), b); err != nil || len(got) != 0 {
		t.Errorf("Systems = %v, %v, want none", got, err)
	}
	want := []postgres.SystemID{12, 120, 1200, 7, 7711102971183117775}
	for _, system := range want {
		for i := range 30 {
			create(t, b, wal.Key(system, fmt.Sprint(i)))
		}
	}
	counted := storagetest.NewFaulty(b, storagetest.Fault{PageSize: 10})
	got, err := wal.Systems(t.Context(), counted)
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("Systems = %v, %v, want %v", got, err, want)
	}
	if most := len(want) + 3; counted.Calls() > most {
		t.Errorf("Systems took %d requests, want at most %d", counted.Calls(), most)
	}
	faulty := storagetest.NewFaulty(b, storagetest.Fault{Call: 3})
	if _, err := wal.Systems(t.Context(), faulty); !errors.Is(err, storagetest.ErrInjected) {
		t.Errorf("Systems with a failing call = %v, want its error", err)
	}
}

func TestContains(t *testing.T) {
	t.Parallel()
	b := mem.New(nil)
	create(t, b, wal.Key(7, "x"))
	for name, want := range map[string]bool{"x": true, "y": false} {
		if got, err := wal.Contains(t.Context(), b, 7, name); got != want || err != nil {
			t.Errorf("Contains(%s) = %v, %v, want %v", name, got, err, want)
		}
	}
	faulty := storagetest.NewFaulty(b, storagetest.Fault{Call: 1})
	if _, err := wal.Contains(t.Context(), faulty, 7, "x"); !errors.Is(err, storagetest.ErrInjected) {
		t.Errorf("Contains with a failing call = %v, want its error", err)
	}
}

func create(t *testing.T, b storage.Bucket, key string) {
	t.Helper()
	if err := storage.CreateBytes(t.Context(), b, key, nil, nil); err != nil {
		t.Fatal(err)
	}
}
