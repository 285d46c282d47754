package main

import (
	"testing"

	"wal-e/backup"
)

func TestReadDataOption(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]verifyFlags{
		"all":    {readData: true},
		"true":   {readData: true},
		"false":  {},
		"5%":     {readData: true, share: backup.Share{Percent: 5}},
		"0.25%":  {readData: true, share: backup.Share{Percent: 0.25}},
		"100%":   {readData: true, share: backup.Share{Percent: 100}},
		"10GB":   {readData: true, share: backup.Share{Bytes: 10e9}},
		"1.5kB":  {readData: true, share: backup.Share{Bytes: 1500}},
		"512MiB": {readData: true, share: backup.Share{Bytes: 512 << 20}},
		"2TiB":   {readData: true, share: backup.Share{Bytes: 2 << 40}},
		"1B":     {readData: true, share: backup.Share{Bytes: 1}},
	} {
		var f verifyFlags
		if err := (readDataOption{&f}).Set(text); err != nil || f != want {
			t.Errorf("--read-data=%s: %+v, %v, want %+v", text, f, err, want)
		}
	}
	for _, text := range []string{"", "5", "0%", "-5%", "101%", "0GB", "0.1B", "10gb", "5 %", "1e3B", "NaN%", "9999999999999TiB", "999999999999999TB"} {
		var f verifyFlags
		if err := (readDataOption{&f}).Set(text); err == nil {
			t.Errorf("--read-data=%s: %+v, want an error", text, f)
		}
	}
}
