package main

import (
	"context"
	"fmt"
	"time"
)

// patience is how long work may go on after its context has ended.
const patience = 3 * time.Second

// promptly returns what f returns, but waits no longer than patience once ctx
// is done. A file system whose server is gone can hold a call for ever; the
// process ends soon, and nothing that f leaves half done can be seen.
func promptly(ctx context.Context, f func() error) error {
	done := make(chan error, 1)
	go func() { done <- guarded(f) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	select {
	case err := <-done:
		return err
	case <-time.After(patience):
		return fmt.Errorf("%w, and a call to the operating system hangs", ctx.Err())
	}
}
