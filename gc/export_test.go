package gc

// Skipped are steps of the protocol that a test leaves out.
type Skipped = skipped

// Skip leaves steps out.
func (c *Config) Skip(s Skipped) { c.skip = s }
