package swift

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"

	"wal-e/internal/storage"
)

const (
	asked      = 20              // times that the container is asked how much it holds
	checks     = 10              // rounds of that
	checkPause = 1 * time.Second // between two
)

// CheckListings finds out whether the replicas of the listing agree on how much
// is in the container. Swift answers from any of them. It asks so often that
// one of three which lags escapes it once in 3,000 times, and again for a while
// when they don't agree: somebody may just be storing something.
func (b *Bucket) CheckListings(ctx context.Context) error {
	for round := 1; ; round++ {
		said := make([]string, asked)
		g, gctx := errgroup.WithContext(ctx)
		g.SetLimit(looks)
		for i := range said {
			g.Go(func() error {
				h, err := b.exchange(gctx, request{method: http.MethodHead, container: b.cfg.Container})
				said[i] = fmt.Sprintf("%s objects of %s bytes", h.Get("X-Container-Object-Count"), h.Get("X-Container-Bytes-Used"))
				return err
			})
		}
		if err := g.Wait(); err != nil {
			return fmt.Errorf("check the listings of %s: %w", b.URL(), err)
		}
		other := differing(said)
		if other == "" {
			return nil
		}
		if round == checks {
			return fmt.Errorf("%w: container %q holds, as one server says, %s, and as another says, %s: "+
				"wait until Swift has brought its listings up to date, or until nothing is stored at the same time",
				storage.ErrUnsettled, b.cfg.Container, said[0], other)
		}
		select {
		case <-time.After(checkPause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// differing returns one that isn't like the first, or "".
func differing(list []string) string {
	for _, s := range list {
		if s != list[0] {
			return s
		}
	}
	return ""
}
