package backup

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"wal-e/chunkstore"
	"wal-e/internal/chunk"
	"wal-e/internal/postgres"
)

// What a push saw of each file it leaves to the next one in two files of the
// local state: "files" has the files in the order of the table, "pages-<id>"
// what is known of their extents. They are a cache: without them everything is
// read, and a changed page costs its whole chunk; each record has a keyed hash
// over itself, so what is damaged, or of another prefix, isn't believed.
//
//	files: header record (JSON), then a record per file, as recalled.append
//	       writes it; a record is uvarint length, 16 bytes hash, bytes
//	pages: per extent 16 bytes hash, and what chunkstore.AppendKnown writes
const (
	recallFile    = "files"
	pagesPrefix   = "pages-"
	recallVersion = 1
	maxRecall     = 8 << 20 // bytes of a record of files
	maxKnown      = 1 << 20 // bytes of one of pages
	recallBuffer  = 256 << 10
)

// A recallHeader says when, and of what, the notes were made.
type recallHeader struct {
	Version  int               `json:"version"`
	ID       string            `json:"id"`    // of the file of pages
	Owner    string            `json:"owner"` // prefix and epoch
	System   string            `json:"system_identifier"`
	Timeline postgres.Timeline `json:"timeline"`
	Round    uint32            `json:"round"`   // counts pushes
	BootID   string            `json:"boot_id"` // "": unknown
	Wall     int64             `json:"wall"`    // ns since 1970, when the push began
	Uptime   int64             `json:"uptime"`  // ns since the host booted, at the same moment
}

// A fileIdentity is what the file system says of a file. Nothing writes to a
// file without a new change time, which no program can set.
type fileIdentity struct {
	Device, Inode uint64
	Size          int64
	Modified      int64 // ns
	Changed       int64 // ns
}

// An extentNote is where the file of pages has an extent.
type extentNote struct {
	offset int64
	length uint32
}

// A recalled is what was noted of a file.
type recalled struct {
	path     string
	identity fileIdentity
	// settled tells that the file hadn't been changed for a while when it was
	// read, and that its pages were good: then it may go unread next time.
	settled bool
	read    int64 // unix seconds
	crc     uint32
	content chunkstore.Content
	extents []extentNote
}

func (r *recalled) append(dst []byte) []byte {
	dst = appendString(dst, r.path)
	settled := byte(0)
	if r.settled {
		settled = 1
	}
	dst = append(dst, settled)
	for _, v := range [...]uint64{
		r.identity.Device, r.identity.Inode, uint64(r.identity.Size), uint64(r.identity.Modified), uint64(r.identity.Changed),
		uint64(r.read), uint64(r.crc),
	} {
		dst = binary.LittleEndian.AppendUint64(dst, v)
	}
	dst = chunkstore.AppendContent(dst, r.content)
	dst = binary.AppendUvarint(dst, uint64(len(r.extents)))
	for _, e := range r.extents {
		dst = binary.AppendUvarint(dst, uint64(e.offset))
		dst = binary.AppendUvarint(dst, uint64(e.length))
	}
	return dst
}

func parseRecalled(b []byte) (*recalled, error) {
	r := &recalled{}
	var err error
	if r.path, b, err = parseString(b); err != nil {
		return nil, err
	}
	const fixed = 1 + 7*8
	if len(b) < fixed || b[0] > 1 {
		return nil, errShort
	}
	r.settled = b[0] == 1
	v := func(i int) uint64 { return binary.LittleEndian.Uint64(b[1+8*i:]) }
	r.identity = fileIdentity{Device: v(0), Inode: v(1), Size: int64(v(2)), Modified: int64(v(3)), Changed: int64(v(4))}
	r.read, r.crc = int64(v(5)), uint32(v(6))
	if r.content, b, err = chunkstore.ParseContent(b[fixed:]); err != nil {
		return nil, err
	}
	n, size := binary.Uvarint(b)
	if size <= 0 || n > uint64(len(b)) {
		return nil, errShort
	}
	b = b[size:]
	r.extents = make([]extentNote, n)
	for i := range r.extents {
		offset, a := binary.Uvarint(b)
		if a <= 0 || offset > 1<<62 {
			return nil, errShort
		}
		length, c := binary.Uvarint(b[a:])
		if c <= 0 || length > maxKnown {
			return nil, errShort
		}
		r.extents[i] = extentNote{int64(offset), uint32(length)}
		b = b[a+c:]
	}
	if len(b) != 0 {
		return nil, errShort
	}
	return r, nil
}

// A recall reads notes, in the order of the table. It belongs to one goroutine,
// but for extent.
type recall struct {
	header recallHeader
	files  *os.File
	in     *bufio.Reader
	pages  *os.File
	sum    func([]byte) chunk.ID
	ahead  *recalled // read, and not asked for yet
	ended  bool
}

// openRecall opens the notes in a folder; an error means that there are none
// of use. sum is the keyed hash.
func openRecall(dir, owner, system string, sum func([]byte) chunk.ID) (r *recall, err error) {
	r = &recall{sum: sum}
	defer func() {
		if err != nil {
			r.close()
		}
	}()
	if r.files, err = os.Open(filepath.Join(dir, recallFile)); err != nil {
		return nil, err
	}
	r.in = bufio.NewReaderSize(r.files, recallBuffer)
	head, err := r.record()
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(head, &r.header); err != nil {
		return nil, err
	}
	h := r.header
	if h.Version != recallVersion || h.Owner != owner || h.System != system {
		return nil, errors.New("notes of another version, prefix or cluster")
	}
	if _, err := hex.DecodeString(h.ID); err != nil {
		return nil, err
	}
	r.pages, err = os.Open(filepath.Join(dir, pagesPrefix+h.ID))
	return r, err
}

func (r *recall) close() {
	if r == nil {
		return
	}
	for _, f := range []*os.File{r.files, r.pages} {
		if f != nil {
			_ = f.Close() // it was only read
		}
	}
}

// errNotes is what notes that aren't as they were written give.
var errNotes = errors.New("notes are damaged")

func (r *recall) record() ([]byte, error) {
	n, err := binary.ReadUvarint(r.in)
	if err != nil {
		return nil, err
	}
	if n < chunk.HashSize || n > maxRecall {
		return nil, errNotes
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r.in, b); err != nil {
		return nil, err
	}
	return r.proven(b)
}

func (r *recall) proven(b []byte) ([]byte, error) {
	if len(b) < chunk.HashSize || r.sum(b[chunk.HashSize:]) != chunk.ID(b[:chunk.HashSize]) {
		return nil, errNotes
	}
	return b[chunk.HashSize:], nil
}

// find returns what was noted of a path, or nil. Paths are asked for in the
// order of the table; what can't be read ends the notes.
func (r *recall) find(path string) *recalled {
	if r == nil {
		return nil
	}
	for {
		if r.ahead == nil {
			if r.ended {
				return nil
			}
			b, err := r.record()
			if err == nil {
				r.ahead, err = parseRecalled(b)
			}
			if err != nil {
				r.ended = true
				return nil
			}
		}
		switch c := comparePaths(r.ahead.path, path); {
		case c > 0:
			return nil
		case c == 0:
			found := r.ahead
			r.ahead = nil
			return found
		}
		r.ahead = nil
	}
}

// extent reads the record of an extent, and what it says. It is safe for
// concurrent use, with sums of the caller's own.
func (r *recall) extent(n extentNote, sum func([]byte) chunk.ID) (raw []byte, k chunkstore.Known, err error) {
	raw = make([]byte, n.length)
	if _, err := r.pages.ReadAt(raw, n.offset); err != nil {
		return nil, k, err
	}
	if len(raw) < chunk.HashSize || sum(raw[chunk.HashSize:]) != chunk.ID(raw[:chunk.HashSize]) {
		return nil, k, errNotes
	}
	k, err = chunkstore.ParseKnown(raw[chunk.HashSize:])
	return raw, k, err
}

// A recorder writes notes. Once it failed it does nothing more, and there are
// none. It is safe for concurrent use.
type recorder struct {
	dir    string
	header recallHeader
	files  *os.File
	pages  *os.File

	mu     sync.Mutex
	fw, pw *bufio.Writer
	offset int64
	err    error
}

// newRecorder begins notes in a folder.
func newRecorder(dir string, h recallHeader, sum func([]byte) chunk.ID) (*recorder, error) {
	r := &recorder{dir: dir, header: h}
	var err error
	if r.files, err = os.OpenFile(filepath.Join(dir, recallFile+".new"), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600); err != nil {
		return nil, err
	}
	if r.pages, err = os.OpenFile(filepath.Join(dir, pagesPrefix+h.ID), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600); err != nil {
		return nil, errors.Join(err, r.files.Close())
	}
	r.fw, r.pw = bufio.NewWriterSize(r.files, recallBuffer), bufio.NewWriterSize(r.pages, recallBuffer)
	head, err := json.Marshal(h)
	if err != nil {
		return nil, err
	}
	r.addRecord(sum, head)
	return r, nil
}

func (r *recorder) addRecord(sum func([]byte) chunk.ID, b []byte) {
	id := sum(b)
	head := binary.AppendUvarint(nil, uint64(chunk.HashSize+len(b)))
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, b := range [][]byte{head, id[:], b} {
		if r.err == nil {
			_, r.err = r.fw.Write(b)
		}
	}
}

// addFile adds a file, in the order of the table.
func (r *recorder) addFile(sum func([]byte) chunk.ID, f *recalled) {
	if r != nil {
		r.addRecord(sum, f.append(nil))
	}
}

// addExtent adds an extent.
func (r *recorder) addExtent(sum func([]byte) chunk.ID, k chunkstore.Known) extentNote {
	if r == nil {
		return extentNote{}
	}
	b := make([]byte, chunk.HashSize, (2+len(k.Pages))*chunk.HashSize+len(k.List)*20)
	b = chunkstore.AppendKnown(b, k)
	id := sum(b[chunk.HashSize:])
	copy(b, id[:])
	return r.addRaw(b)
}

// addRaw adds the record of an extent.
func (r *recorder) addRaw(b []byte) extentNote {
	if r == nil {
		return extentNote{}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	n := extentNote{r.offset, uint32(len(b))}
	if r.err == nil {
		_, r.err = r.pw.Write(b)
	}
	r.offset += int64(len(b))
	return n
}

// keep puts the notes in the place of older ones. What was written needs no
// sync: after a crash their hashes tell.
func (r *recorder) keep() error {
	err := errors.Join(r.err, r.fw.Flush(), r.pw.Flush(), r.files.Close(), r.pages.Close())
	if err == nil {
		err = os.Rename(r.files.Name(), filepath.Join(r.dir, recallFile))
	}
	r.sweep(err == nil)
	return err
}

// abandon removes what was written.
func (r *recorder) abandon() {
	if r == nil {
		return
	}
	_, _ = r.files.Close(), r.pages.Close() // they are removed
	r.sweep(false)
}

// sweep removes files that no notes need; what it can't remove does no harm.
func (r *recorder) sweep(kept bool) {
	own := filepath.Base(r.pages.Name())
	if !kept {
		_ = os.Remove(r.files.Name())
		_ = os.Remove(r.pages.Name())
		return
	}
	names, _ := os.ReadDir(r.dir)
	for _, n := range names {
		if strings.HasPrefix(n.Name(), pagesPrefix) && n.Name() != own {
			_ = os.Remove(filepath.Join(r.dir, n.Name()))
		}
	}
}

// Limits of what is believed of a file's times.
const (
	// defaultSettle is how long a file must have been left alone when it was
	// read. A write sets the times before it copies the bytes, and where the disk
	// is busy it may wait in between, so a read may pair new times with old bytes.
	defaultSettle = time.Minute
	// defaultReread is in how many pushes every file is read at least once.
	defaultReread = 30
	// clockSlack is how far the wall clock may have gone apart from the time
	// since the host booted: a second, and a thousandth.
	clockSlack = time.Second
)

// trusts says why the notes can't vouch for unread files, or "".
func (r *recall) trusts(now recallHeader) string {
	then := r.header
	switch {
	case now.BootID == "" || then.BootID != now.BootID:
		return "the host was booted since"
	case then.Timeline != now.Timeline:
		return "the cluster went to another timeline"
	}
	uptime := time.Duration(now.Uptime - then.Uptime)
	wall := time.Duration(now.Wall - then.Wall)
	if slack := clockSlack + uptime/1000; uptime < 0 || wall < uptime-slack || wall > uptime+slack {
		return "the host's clock was set"
	}
	return ""
}

// due tells whether a file is read this time whatever its times say.
func due(path string, round uint32, every int) bool {
	return every <= 1 || crc32.ChecksumIEEE([]byte(path))%uint32(every) == round%uint32(every)
}

// openNotes opens the notes of the push before, and begins new ones. Without
// local state there are neither.
func (p *pusher) openNotes(ctx context.Context, sum func([]byte) chunk.ID) (*recall, *recorder) {
	if p.state == nil {
		return nil, nil
	}
	h := p.now
	var id [8]byte
	_, _ = rand.Read(id[:]) // it never fails
	h.ID = hex.EncodeToString(id[:])
	before, err := openRecall(p.state.dir, h.Owner, h.System, sum)
	if err == nil {
		h.Round = before.header.Round + 1
	} else {
		before = nil
		if !errors.Is(err, fs.ErrNotExist) {
			p.log.InfoContext(ctx, "reading all files: what the last push noted of them can't be used", "detail", err.Error())
		}
	}
	after, err := newRecorder(p.state.dir, h, sum)
	if err != nil {
		p.log.WarnContext(ctx, "the next push will read all files", "detail", fmt.Sprintf("Nothing can be noted in %s: %v", p.state.dir, err))
		return before, nil
	}
	return before, after
}

// clockNow is the header of notes that begin now.
func (p *pusher) clockNow(tl postgres.Timeline) recallHeader {
	boot, uptime := hostClock()
	return recallHeader{
		Version: recallVersion, Owner: p.store.Owner(), System: p.system, Timeline: tl,
		BootID: boot, Wall: time.Now().UnixNano(), Uptime: int64(uptime),
	}
}

// keepNotes puts what this push noted in place for the next one.
func (p *pusher) keepNotes(ctx context.Context) {
	if p.notes == nil {
		return
	}
	if err := p.notes.keep(); err != nil {
		p.log.WarnContext(ctx, "the next push will read all files", "detail", err.Error())
	}
	p.notes = nil
}
