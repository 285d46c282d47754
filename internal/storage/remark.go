package storage

import "context"

// A Verdict says how a remark is meant.
type Verdict string

// The verdicts.
const (
	Fit       Verdict = "ok"
	Doubtful  Verdict = "warning"
	Unfit     Verdict = "failure"   // it will lose what is stored, or already can't work
	NotKnown  Verdict = "unknown"   // the store doesn't tell
	Forbidden Verdict = "forbidden" // the store doesn't tell these credentials, and need not
)

// A Remark is what a store says of its own rules, such as when it removes objects
// by itself.
type Remark struct {
	Rule    string // what it is about, in a few words
	Verdict Verdict
	Text    string
	Fix     string // what to do; empty when all is well
}

// Inspect asks the store of a bucket for its rules, if it can be asked. An
// implementation has a method of that name; it is looked for behind wrappers.
func Inspect(ctx context.Context, b Bucket) []Remark {
	if i, ok := behind[interface {
		Inspect(context.Context) []Remark
	}](b); ok {
		return i.Inspect(ctx)
	}
	return nil
}
