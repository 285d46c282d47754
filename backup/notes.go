package backup

import (
	"io/fs"
	"os"
	"sync"
	"time"

	"wal-e/chunkstore"
	"wal-e/internal/chunk"
)

// A noteTaker is the part of a copier that knows what the last push saw, and
// notes for the next one what this one sees. The zero noteTaker knows and notes
// nothing.
type noteTaker struct {
	before *recall   // nil: nothing is known
	after  *recorder // nil: nothing is noted
	trust  bool      // files may go unread
	every  int       // pushes in which each file is read once
	settle time.Duration
	bad    func(path string) bool // tells files with bad pages; nil: none

	writer *chunkstore.Writer // of the goroutine that goes through the files
	local  map[uint64]bool    // devices, by whether their times can be believed

	unreadBytes int64

	mu        sync.Mutex
	unvouched []*recalled // files that changed without a sign of it
}

// begin readies a taker that was set up for one pass over the files.
func (n *noteTaker) begin(p *chunkstore.Push) (err error) {
	n.local, n.unreadBytes, n.unvouched = make(map[uint64]bool), 0, nil
	n.writer, err = p.NewWriter()
	return err
}

// sound tells whether what the file system says of a file can be believed.
func (n *noteTaker) sound(path string, id fileIdentity) bool {
	ok, known := n.local[id.Device]
	if !known {
		ok = localKind(path)
		n.local[id.Device] = ok
	}
	return ok
}

// unread returns the entry of a file that need not be read: nothing was written
// to it since the last push read it, all of its chunks can be referenced, and it
// isn't its turn to be read anyway.
func (n *noteTaker) unread(s source, before *recalled) (*Entry, *recalled, bool) {
	if !n.trust || before == nil || !before.settled || s.path == "" || due(before.path, n.before.header.Round+1, n.every) {
		return nil, nil, false
	}
	info, err := os.Stat(s.path)
	if err != nil || !info.Mode().IsRegular() {
		return nil, nil, false // opening it tells
	}
	id, ok := identify(info)
	if !ok || id != before.identity || id.Size != before.content.Size || !n.sound(s.path, id) {
		return nil, nil, false
	}
	note := *before
	note.extents = make([]extentNote, 0, len(before.extents))
	var nodes []chunk.ID
	for _, e := range before.extents {
		raw, known, err := n.before.extent(e, n.writer.Sum)
		if err != nil {
			return nil, nil, false
		}
		list := known.List
		if before.content.Extent == 0 {
			list = before.content.Inline
		}
		id, ok := n.writer.ReferList(list, before.content.Extent != 0)
		if !ok {
			return nil, nil, false
		}
		nodes = append(nodes, id)
		note.extents = append(note.extents, n.after.addRaw(raw))
	}
	if len(nodes) == 0 || before.content.Extent != 0 && !n.writer.ReferRoot(before.content, nodes) {
		return nil, nil, false
	}
	entry := s.entry
	entry.Content, entry.CRC = before.content, before.crc
	n.unreadBytes += id.Size
	return &entry, &note, true
}

// note begins the note of a file that is open and about to be read. What it says
// of the file must be older than every byte that is read of it.
func (n *noteTaker) note(s source, info fs.FileInfo, extents int) recalled {
	r := recalled{extents: make([]extentNote, extents)}
	id, ok := identify(info)
	if !ok || s.path == "" {
		return r
	}
	now := time.Now()
	r.path, r.identity, r.read = s.entry.Path, id, now.Unix()
	r.settled = n.sound(s.path, id) && max(id.Modified, id.Changed) < now.Add(-n.settle).UnixNano()
	return r
}

// known is what the last push saw of an extent.
func (n *noteTaker) known(before *recalled, i int, sum func([]byte) chunk.ID) chunkstore.Known {
	if before == nil || i >= len(before.extents) {
		return chunkstore.Known{}
	}
	_, k, err := n.before.extent(before.extents[i], sum)
	if err != nil {
		return chunkstore.Known{} // it costs bytes
	}
	return k
}

// audit compares what was read of a file that could have gone unread with what
// the last push had read of it.
func (n *noteTaker) audit(fc *fileCopy, crc uint32) {
	b := fc.before
	if b == nil || !n.trust || !b.settled || b.crc == crc || b.identity != fc.note.identity {
		return
	}
	info, err := fc.file.Stat()
	if err != nil {
		return // it was read all the same
	}
	if id, ok := identify(info); !ok || id != b.identity {
		return // it was written to while it was read
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.unvouched = append(n.unvouched, b)
}

// finished completes the note of a file that was read; nil means that there is
// none.
func (n *noteTaker) finished(fc *fileCopy, e *Entry) *recalled {
	r := &fc.note
	if r.path == "" || n.after == nil {
		return nil
	}
	r.crc, r.content = e.CRC, e.Content
	r.settled = r.settled && (n.bad == nil || !n.bad(r.path))
	return r
}
