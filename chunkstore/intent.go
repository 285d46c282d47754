package chunkstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"wal-e/internal/envelope"
	"wal-e/internal/runid"
	"wal-e/internal/storage"
)

// How often an intent is tried, and the pause after the first attempt, which
// doubles.
const (
	intentAttempts = 5
	intentPause    = time.Second
)

// createIntent is W1: it creates the intent of a new run.
//
// The request is sent once for each run id. Sent again after its answer was
// lost, it could bring back a run that was ended and removed in between, of
// which collections that sleep still think that it is dead. So what isn't known
// to have come about is given up, and tried under another id.
func createIntent(ctx context.Context, b storage.Bucket, name string, i Intent, now func() time.Time) (Ref, error) {
	data, err := envelope.Encode(intentKind, intentVersion, i)
	if err != nil {
		return Ref{}, err
	}
	pause := intentPause
	for attempt := 1; ; attempt++ {
		run, err := runid.New(now(), nil)
		if err != nil {
			return Ref{}, err
		}
		ref := Ref{Name: name, Run: run}
		// Not an io.Seeker, so nothing below sends it a second time.
		once := struct{ io.Reader }{bytes.NewReader(data)}
		err = b.Create(ctx, ref.intentKey(), once, int64(len(data)), nil)
		if err == nil {
			return ref, nil
		}
		if errors.Is(err, storage.ErrPermission) || errors.Is(err, storage.ErrInvalid) {
			return Ref{}, err
		}
		// It may have come about after all, or may yet: then it isn't to look alive.
		if ferr := fenceUnanswered(ctx, b, ref, i.Host); ferr != nil {
			return Ref{}, errors.Join(err, ferr)
		}
		if ctx.Err() != nil {
			return Ref{}, err
		}
		if attempt == intentAttempts {
			return Ref{}, fmt.Errorf("the intent of a run got no answer under %d names: %w", attempt, err)
		}
		select {
		case <-time.After(pause):
			pause *= 2
		case <-ctx.Done():
			return Ref{}, context.Cause(ctx)
		}
	}
}

// fenceUnanswered ends a run that may have begun. It works after ctx was cancelled,
// within a time limit, as Abort does.
func fenceUnanswered(ctx context.Context, b storage.Bucket, ref Ref, host string) error {
	if ctx.Err() != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), abortTimeout)
		defer cancel()
	}
	_, err := Fence(ctx, b, ref, host, "its intent got no answer; the push went on under another name")
	return err
}
