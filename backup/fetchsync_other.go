//go:build !linux

package backup

import "os"

// openVolume returns nil: every file is synced by itself.
func openVolume(string) *os.File { return nil }

func syncVolume(*os.File) error { return nil }

func beginSync(*os.File, int64, int64) {}
