package compat_test

import (
	"testing"

	"wal-e/compat"
)

func TestIsClassic(t *testing.T) {
	t.Parallel()
	for element, want := range map[string]bool{
		"wal_005": true, "basebackups_005": true, "wal_000": true, "basebackups_003": true,
		"wal_006": false, "basebackups_006": false, "chunks_006": false, "deleted_006": false,
		"wal_": false, "wal_0055": false, "wal_105": false, "": false, "wal": false, "xwal_005": false,
	} {
		if got := compat.IsClassic(element); got != want {
			t.Errorf("IsClassic(%q) = %v, want %v", element, got, want)
		}
	}
}
