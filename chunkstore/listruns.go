package chunkstore

import (
	"context"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"wal-e/internal/runid"
	"wal-e/internal/storage"
)

const (
	// fewRuns are listed each for itself.
	fewRuns = 2
	// inVain is how many objects that nobody asked for a listing of all may bring
	// beyond those that somebody did: a page of most stores.
	inVain = 1000
)

// listRuns calls visit for the objects that runs have in a folder, with their
// numbers; names that aren't ours are passed over. Those of one run come in order,
// runs in any; visit is called by one goroutine at a time.
//
// A backup draws on a run for each night that something of it is left of, and each
// run has a handful of objects. So the folder is listed whole, which takes a
// request per thousand objects and not one or more per run, as long as half of what
// comes, but for a page, is asked for. The runs beyond are listed side by side.
// What protects packs asks only that a listing begins after a moment and is
// complete, not how many requests it takes.
func listRuns(ctx context.Context, b storage.Bucket, dir string, runs []runid.ID, visit func(run runid.ID, n uint32, o storage.Object)) error {
	wanted := make(map[string]runid.ID, len(runs)) // by name
	for _, run := range runs {
		wanted[run.String()] = run
	}
	if len(wanted) > fewRuns {
		if err := listTogether(ctx, b, dir, wanted, visit); err != nil {
			return err
		}
	}
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(fetchers)
	for name, run := range wanted {
		g.Go(func() error {
			prefix := dir + name + "/"
			for o, err := range b.List(ctx, prefix, "") {
				if err != nil {
					return err
				}
				if n, ok := parseNumber(strings.TrimPrefix(o.Key, prefix)); ok {
					mu.Lock()
					visit(run, n, o)
					mu.Unlock()
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// listTogether lists a folder from its beginning, until all wanted runs are behind
// or too much came in vain. It takes those out of wanted whose objects it has
// visited.
func listTogether(ctx context.Context, b storage.Bucket, dir string, wanted map[string]runid.ID, visit func(run runid.ID, n uint32, o storage.Object)) error {
	prefixes := make([]string, 0, len(wanted))
	for name := range wanted {
		prefixes = append(prefixes, dir+name+"/")
	}
	slices.Sort(prefixes)
	found, vain := 0, 0
	for o, err := range b.List(ctx, dir, "") {
		if err != nil {
			return err
		}
		// By keys, not by names: what isn't ours, such as R.old/x, comes before R/.
		for len(prefixes) > 0 && o.Key > prefixes[0] && !strings.HasPrefix(o.Key, prefixes[0]) {
			delete(wanted, strings.TrimSuffix(prefixes[0][len(dir):], "/"))
			prefixes = prefixes[1:]
		}
		if len(prefixes) == 0 {
			return nil
		}
		name, number, _ := strings.Cut(o.Key[len(dir):], "/")
		if run, ok := wanted[name]; ok {
			found++
			if n, ok := parseNumber(number); ok {
				visit(run, n, o)
			}
			continue
		}
		if vain++; vain > found+inVain {
			return nil
		}
	}
	clear(wanted)
	return nil
}
