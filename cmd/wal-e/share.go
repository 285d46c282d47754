package main

import (
	"errors"
	"math"
	"regexp"
	"strconv"

	"wal-e/backup"
)

// A readDataOption is --read-data: alone it means all, with a value a share.
type readDataOption struct{ f *verifyFlags }

var shareForm = regexp.MustCompile(`^([0-9]{1,15}(?:\.[0-9]{1,6})?)(%|[kMGT]?B|[KMGT]iB)$`)

var errShare = errors.New("want all, a percentage such as 5%, or bytes such as 10GB or 512MiB")

// Set parses a value.
func (o readDataOption) Set(text string) error {
	o.f.share = backup.Share{}
	if o.f.readData = text != "false"; text == "all" || text == "true" || text == "false" {
		return nil
	}
	m := shareForm.FindStringSubmatch(text)
	if m == nil {
		return errShare
	}
	n, err := strconv.ParseFloat(m[1], 64)
	if err != nil || n <= 0 {
		return errShare
	}
	if m[2] == "%" {
		if n > 100 {
			return errShare
		}
		o.f.share.Percent = n
		return nil
	}
	n *= map[string]float64{"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}[m[2]]
	if n < 1 || n > math.MaxInt64/2 {
		return errShare
	}
	o.f.share.Bytes = int64(n)
	return nil
}

func (o readDataOption) String() string { return "" }

// Type names the value in the help.
func (o readDataOption) Type() string { return "SHARE" }
