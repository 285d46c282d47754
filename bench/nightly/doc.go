// Package nightly measures wal-e beside other programs on a cluster that works for
// days and is backed up each night: what a night costs, what it stores, how long a
// restore takes. `make bench` runs it; ../README.md says what it showed.
//
// Here is what measures, counts and draws: each is tested. The benchmark itself, with
// the workloads and the programs, stands in the files that end in _test.go, since test
// servers belong to a test.
package nightly
