package wal

// WithHook returns cfg with a function that sees each change to the file system
// before it is made, and fails it with its error.
func WithHook(cfg Config, hook func(op, path string) error) Config {
	cfg.hook = hook
	return cfg
}

// TempPrefix begins the names of unfinished files.
const TempPrefix = tempPrefix
