package compat

import (
	"archive/tar"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"sync"
	"time"
)

// A memberType says what a member of a partition is.
type memberType int

const (
	memberFile memberType = iota
	memberDirectory
	memberSymlink
	memberHardlink
	memberFifo
)

// A member is an entry of a partition. Its path is clean and does not lead out of
// the cluster's directory; where a link leads is not checked.
type member struct {
	Path    string // "." for the cluster's directory itself
	Type    memberType
	Size    int64  // of a file
	Mode    uint32 // permissions
	ModTime time.Time
	Link    string // of links: what they point to; of a hard link clean, as Path

	UID, GID     int
	Owner, Group string // may be empty
}

// paths are those of the members of a backup that are no directories, so that none is
// there twice: which of the two is right, nobody can say. Of each it keeps a hash.
// The zero value is ready, for several goroutines.
type paths struct {
	mu   sync.Mutex
	seen map[[16]byte]struct{}
}

func (p *paths) add(m member) error {
	if m.Type == memberDirectory {
		return nil
	}
	sum := sha256.Sum256([]byte(m.Path))
	key := [16]byte(sum[:16])
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, twice := p.seen[key]; twice {
		return fmt.Errorf("%w: %q: there are two of it", ErrBadMember, m.Path)
	}
	if p.seen == nil {
		p.seen = make(map[[16]byte]struct{})
	}
	p.seen[key] = struct{}{}
	return nil
}

// ErrBadMember is wrapped when a partition holds what no base backup does.
var ErrBadMember = errors.New("not a member of a base backup")

// readPartition calls each with the members of a partition, and with the content
// of files. It reads r to its end, because only there all of it is verified. Both
// GNU and pax archives are read. One without the two empty blocks that end an archive
// was cut, which package tar doesn't mind.
func readPartition(r io.Reader, each func(m member, content io.Reader) error) error {
	in := &endReader{r: r}
	t := tar.NewReader(in)
	for {
		h, err := t.Next()
		if err == io.EOF {
			break
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) { // we look ourselves
			if errors.Is(err, io.ErrUnexpectedEOF) {
				err = fmt.Errorf("%w: the archive ends within it", ErrBadMember)
			}
			return fmt.Errorf("tar: %w", err)
		}
		m, err := parseMember(h)
		if err != nil {
			return err
		}
		if err := each(m, t); err != nil {
			return err
		}
	}
	if in.ended {
		return fmt.Errorf("tar: %w: the archive has no end", ErrBadMember)
	}
	_, err := io.Copy(noMore{}, in)
	return err
}

// An endReader knows whether somebody was told that its reader has ended.
type endReader struct {
	r     io.Reader
	last  error // comes after the last bytes
	ended bool
}

func (e *endReader) Read(p []byte) (n int, err error) {
	if e.last == nil {
		if n, e.last = e.r.Read(p); n > 0 {
			return n, nil
		}
	}
	e.ended = e.last == io.EOF
	return 0, e.last
}

// noMore takes what fills an archive up behind its end.
type noMore struct{}

func (noMore) Write(p []byte) (int, error) {
	for i, b := range p {
		if b != 0 {
			return i, fmt.Errorf("tar: %w: the archive goes on behind its end", ErrBadMember)
		}
	}
	return len(p), nil
}

func parseMember(h *tar.Header) (member, error) {
	m := member{
		Size: h.Size, Mode: uint32(h.Mode & 0o7777), ModTime: h.ModTime,
		UID: h.Uid, GID: h.Gid, Owner: h.Uname, Group: h.Gname,
	}
	bad := func(why string) (member, error) {
		return member{}, fmt.Errorf("%w: %q: %s", ErrBadMember, h.Name, why)
	}
	var ok bool
	if m.Path, ok = cleanPath(h.Name); !ok {
		return bad("its path leads out of the data directory")
	}
	if h.Size < 0 {
		return bad("its size is negative")
	}
	switch h.Typeflag {
	case tar.TypeReg:
		m.Type = memberFile
		for name := range h.PAXRecords {
			if strings.HasPrefix(name, "GNU.sparse.") {
				return bad("it is sparse, which the original doesn't write")
			}
		}
	case tar.TypeDir:
		m.Type = memberDirectory
	case tar.TypeSymlink:
		m.Type, m.Link = memberSymlink, h.Linkname
		if m.Link == "" || strings.ContainsRune(m.Link, 0) {
			return bad("it is a link to nothing")
		}
	case tar.TypeLink:
		m.Type = memberHardlink
		if m.Link, ok = cleanPath(h.Linkname); !ok || m.Link == "." {
			return bad(fmt.Sprintf("it is a hard link to %q, out of the data directory", h.Linkname))
		}
	case tar.TypeFifo:
		m.Type = memberFifo
	default:
		return bad(fmt.Sprintf("its type is %q", h.Typeflag))
	}
	if m.Path == "." && m.Type != memberDirectory {
		return bad("it takes the place of the data directory")
	}
	return m, nil
}

// cleanPath returns a member's name as a clean relative path. The data directory
// itself has an empty name, which reads "/" in the archive.
func cleanPath(name string) (string, bool) {
	if strings.Trim(name, "/") == "" {
		return ".", len(name) <= 1
	}
	name = strings.TrimSuffix(name, "/")
	if strings.ContainsRune(name, 0) || path.IsAbs(name) {
		return "", false
	}
	for element := range strings.SplitSeq(name, "/") {
		if element == "" || element == "." || element == ".." {
			return "", false
		}
	}
	return name, true
}
