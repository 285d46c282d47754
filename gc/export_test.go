package gc

// Skipped are steps of the protocol that a test leaves out.
type Skipped struct {
	PacksFirst    bool
	OwnPacks      bool
	MarkFirst     bool
	Grace         bool
	KeepCopied    bool
	Abort         bool
	FreshList     bool
	RereadAll     bool
	FailClosed    bool
	IntentFirst   bool
	TombstoneLast bool
	NoPardon      bool
	SecondGrace   bool
	PacksGone     bool
	NamedPacks    bool
	HorizonMark   bool
	HorizonFresh  bool
	KeepHorizon   bool
	IntentCheck   bool
}

// Skip leaves steps out.
func (c *Config) Skip(s Skipped) {
	c.skip = skipped{
		packsFirst:    s.PacksFirst,
		ownPacks:      s.OwnPacks,
		markFirst:     s.MarkFirst,
		grace:         s.Grace,
		keepCopied:    s.KeepCopied,
		abort:         s.Abort,
		freshList:     s.FreshList,
		rereadAll:     s.RereadAll,
		failClosed:    s.FailClosed,
		intentFirst:   s.IntentFirst,
		tombstoneLast: s.TombstoneLast,
		noPardon:      s.NoPardon,
		secondGrace:   s.SecondGrace,
		packsGone:     s.PacksGone,
		namedPacks:    s.NamedPacks,
		horizonMark:   s.HorizonMark,
		horizonFresh:  s.HorizonFresh,
		keepHorizon:   s.KeepHorizon,
		intentCheck:   s.IntentCheck,
	}
}
