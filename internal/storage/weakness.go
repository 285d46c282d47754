package storage

// Weakness says what the store of a bucket doesn't promise although Bucket asks
// for it, in a sentence for people, or "" when nothing is known. An
// implementation says so with a method Weakness() string; it is looked for
// behind the wrappers of this package and those that have Unwrap() Bucket.
func Weakness(b Bucket) string {
	for {
		switch v := b.(type) {
		case interface{ Weakness() string }:
			return v.Weakness()
		case interface{ Unwrap() Bucket }:
			b = v.Unwrap()
		case *retrying:
			b = v.b
		case *limited:
			b = v.Bucket
		case *Counter:
			b = v.b
		default:
			return ""
		}
	}
}
