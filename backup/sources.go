package backup

import (
	"context"
	"iter"
	"os"

	"wal-e/internal/postgres"
)

// selection is what the walk of this push looks at.
func (p *pusher) selection() SelectConfig {
	return SelectConfig{
		Dir: p.dir, Version: p.version, CatalogVersion: p.control.CatalogVersion,
		Offline: p.cfg.Offline, IncludeLogs: p.cfg.IncludeLogs, SkipLinks: p.cfg.SkipLinks,
	}
}

// sources yields what the walk finds, with how to read it. Links of
// tablespaces are noted on the way, pg_control is left for later, and an
// offline backup gets its WAL where it belongs in the order.
func (p *pusher) sources(ctx context.Context, selection SelectConfig) iter.Seq2[source, error] {
	return func(yield func(source, error) bool) {
		for found, err := range Walk(ctx, selection) {
			if err != nil {
				yield(source{}, err)
				return
			}
			if found.Entry.Path == controlPath {
				continue
			}
			if !yield(p.source(found), nil) {
				return
			}
			if !p.cfg.Offline || found.Entry.Path != walDirectory(p.version) {
				continue
			}
			wal, err := p.walSources()
			if err != nil {
				yield(source{}, err)
				return
			}
			for _, s := range wal {
				if !yield(s, nil) {
					return
				}
			}
		}
	}
}

// source is how a found file is read and checked.
func (p *pusher) source(found Found) source {
	s := source{entry: found.Entry, path: found.Abs, open: func() (*os.File, error) { return os.Open(found.Abs) }}
	if found.Entry.Type != File || p.control.ChecksumVersion == 0 {
		return s
	}
	if r, ok := postgres.ParseRelationPath(found.Entry.Path); ok {
		s.verify = p.pages.check(found.Entry.Path, r.FirstBlock(p.control.BlocksPerFile))
	}
	return s
}
