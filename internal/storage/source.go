package storage

import (
	"errors"
	"fmt"
	"io"
	"sync"
)

// A source is the reader of a Create that may be sent more than once. It knows
// when the reader itself has failed: the store is not to blame for that.
type source struct {
	r     io.Reader
	seek  io.Seeker // nil when r cannot seek
	start int64     // where r stood at first

	mu      sync.Mutex // a store's client may read on in the background
	touched bool       // something was read, or may have been
	err     error      // of r, other than io.EOF
}

// newSource takes r as it stands. A pipe has the method Seek because all files
// do; that it fails makes it a plain reader.
func newSource(r io.Reader) *source {
	s := &source{r: r}
	if seeker, ok := r.(io.Seeker); ok {
		if start, err := seeker.Seek(0, io.SeekCurrent); err == nil {
			s.seek, s.start = seeker, start
		}
	}
	return s
}

// reader returns what the store reads, a Seeker when r is one.
func (s *source) reader() io.Reader {
	if s.seek == nil {
		return sourceReader{s}
	}
	return sourceSeeker{sourceReader{s}}
}

// rewind makes the next reader begin at the first byte again, or says why that
// cannot be.
func (s *source) rewind() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.err != nil:
		return errors.New("its content could not be read")
	case !s.touched:
		return nil
	case s.seek == nil:
		return errors.New("it can be sent only once")
	}
	if _, err := s.seek.Seek(s.start, io.SeekStart); err != nil {
		return fmt.Errorf("rewind its content: %w", err)
	}
	return nil
}

// Fixed returns r as a Seeker, and where it stands, if it has the same bytes each
// time that it is read, and nil if not. What can't tell its end is a stream that is
// made anew when it is rewound, perhaps with other bytes, or a pipe.
func Fixed(r io.Reader) (seek io.Seeker, start int64) {
	s, ok := r.(io.Seeker)
	if !ok {
		return nil, 0
	}
	start, err := s.Seek(0, io.SeekCurrent)
	if err != nil {
		return nil, 0
	}
	if _, err := s.Seek(0, io.SeekEnd); err != nil {
		return nil, 0
	}
	if _, err := s.Seek(start, io.SeekStart); err != nil {
		return nil, 0
	}
	return s, start
}

type sourceReader struct{ s *source }

func (r sourceReader) Read(p []byte) (int, error) {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	r.s.touched = true
	n, err := r.s.r.Read(p)
	if err != nil && err != io.EOF {
		r.s.err = err
	}
	return n, err
}

type sourceSeeker struct{ sourceReader }

func (r sourceSeeker) Seek(offset int64, whence int) (int64, error) {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	r.s.touched = true
	return r.s.seek.Seek(offset, whence)
}
