package wal

// WithHook returns cfg with a function that sees each change to the file system
// before it is made, and fails it with its error.
func WithHook(cfg Config, hook func(op, path string) error) Config {
	cfg.hook = hook
	return cfg
}

// TempPrefix begins the names of unfinished files.
const TempPrefix = tempPrefix

// WithFree returns a with what it is to believe of its volume.
func WithFree(a Ahead, available, total int64) Ahead {
	a.free = func(string) (int64, int64, error) { return available, total, nil }
	return a
}

// ReceiptRoundTrip decodes b as a receipt and encodes it again.
func ReceiptRoundTrip(b []byte) ([]byte, error) {
	var r receipt
	if err := r.UnmarshalBinary(b); err != nil {
		return nil, err
	}
	return r.MarshalBinary()
}
