// Package bench measures what the archive's operations cost on archives of a
// size that no test builds. It has benchmarks only, and small tests that keep
// them honest; README.md says how to run them and what they showed.
package bench
