package compat

import (
	"errors"
	"fmt"
	"io"
)

// A stream is an object that is made while it is read, and made again for a
// retry: nothing is kept on disk. It must be closed.
type stream struct {
	write func(w io.Writer) error // may be called several times, never twice at once
	r     *io.PipeReader          // nil before the first Read
	done  chan struct{}
	pos   int64
}

var errRewound = errors.New("compat: the object is not read any more")

// Read implements io.Reader. It fails, and doesn't end, when write does.
func (s *stream) Read(p []byte) (int, error) {
	if s.r == nil {
		r, w := io.Pipe()
		s.r, s.done = r, make(chan struct{})
		go func() {
			defer close(s.done)
			w.CloseWithError(s.write(w)) // of nil it makes io.EOF
		}()
	}
	n, err := s.r.Read(p)
	s.pos += int64(n)
	return n, err
}

// Seek goes back to the beginning, which is all that a retry needs, and tells
// where it is.
func (s *stream) Seek(offset int64, whence int) (int64, error) {
	switch {
	case offset == 0 && whence == io.SeekCurrent:
	case offset == 0 && whence == io.SeekStart:
		if err := s.Close(); err != nil {
			return 0, err
		}
		s.pos = 0
	default:
		return 0, fmt.Errorf("compat: seek to %d from %d: %w", offset, whence, errors.ErrUnsupported)
	}
	return s.pos, nil
}

// Close ends what writes and waits for it.
func (s *stream) Close() error {
	if s.r == nil {
		return nil
	}
	err := s.r.CloseWithError(errRewound)
	<-s.done
	s.r = nil
	return err
}
