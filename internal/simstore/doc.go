// Package simstore is an object store whose every request is served when a
// seed says so, with the faults that the seed chooses. Real code runs on it as
// processes of one simulated world; the same seed gives the same run again.
//
// A world lives within a testing/synctest bubble: when every goroutine of every
// process waits for an answer or for the time, World.Step picks one request and
// serves it. What may go wrong is what goes wrong with real stores and hosts: a
// request is applied or not, and answered or not; it is applied long after its
// client gave it up or died; the pages of a listing are of different moments,
// and objects in one request to delete go one by one; processes freeze, die and
// wake; in the weak mode listings lag.
//
// What is right after a step, the user of the package says, by watching the
// changes.
package simstore
