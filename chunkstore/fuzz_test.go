package chunkstore_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"reflect"
	"runtime"
	"testing"

	"github.com/klauspost/compress/zstd"

	"wal-e/chunkstore"
	"wal-e/index"
	"wal-e/internal/chunk"
	"wal-e/internal/envelope"
	"wal-e/internal/runid"
	"wal-e/internal/storage"
	"wal-e/internal/storage/mem"
)

// allocates fails the test when f allocates more than limit bytes: nothing may
// be allocated from a length that wasn't held against what is there.
func allocates(t *testing.T, limit uint64, f func()) {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > limit {
		t.Errorf("%d bytes were allocated, want at most %d", n, limit)
	}
}

func FuzzList(f *testing.F) {
	f.Add([]byte{0})
	f.Add(chunkstore.AppendList(nil, chunkstore.List{{ID: chunk.ID{1, 2}, First: 3, Pages: 4}, {Pages: 9, Zero: true}}))
	f.Add([]byte{0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		var l chunkstore.List
		var err error
		allocates(t, 1<<20+64*uint64(len(b)), func() { l, _, err = chunkstore.ParseList(b) })
		if err != nil {
			if !errors.Is(err, chunkstore.ErrDamaged) {
				t.Errorf("ParseList = %v, want %v", err, chunkstore.ErrDamaged)
			}
			return
		}
		again, rest, err := chunkstore.ParseList(chunkstore.AppendList(nil, l))
		if err != nil || len(rest) != 0 || !reflect.DeepEqual(again, l) {
			t.Errorf("list %v became %v, %v", l, again, err)
		}
	})
}

func FuzzContent(f *testing.F) {
	f.Add(chunkstore.AppendContent(nil, chunkstore.Content{}))
	f.Add(chunkstore.AppendContent(nil, chunkstore.Content{Size: 100, Inline: chunkstore.List{{ID: chunk.ID{7}, Pages: 1}}}))
	f.Add(chunkstore.AppendContent(nil, chunkstore.Content{Size: 1 << 30, Extent: 4 << 20, Root: chunk.ID{9}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		var c chunkstore.Content
		var err error
		allocates(t, 1<<20+64*uint64(len(b)), func() { c, _, err = chunkstore.ParseContent(b) })
		if err != nil {
			return
		}
		again, rest, err := chunkstore.ParseContent(chunkstore.AppendContent(nil, c))
		if err != nil || len(rest) != 0 || !reflect.DeepEqual(again, c) {
			t.Errorf("content %+v became %+v, %v", c, again, err)
		}
		if c.Extents() < 0 || c.Extents() > chunk.MaxSize/chunk.HashSize {
			t.Errorf("content %+v has %d extents", c, c.Extents())
		}
	})
}

// maxRecordData is what a record may unpack to, by its format.
const maxRecordData = chunk.MaxSize + 256<<10

// record makes a record with right checksums around a payload.
func record(flags, kind byte, chunks uint16, number, raw uint32, payload []byte) []byte {
	b := make([]byte, 32, 32+len(payload))
	copy(b, "WREC")
	b[4], b[5] = flags, kind
	binary.LittleEndian.PutUint16(b[6:], chunks)
	binary.LittleEndian.PutUint32(b[8:], number)
	binary.LittleEndian.PutUint32(b[16:], raw)
	binary.LittleEndian.PutUint32(b[20:], uint32(len(payload)))
	binary.LittleEndian.PutUint32(b[24:], chunkstore.CRC(payload))
	binary.LittleEndian.PutUint32(b[28:], chunkstore.CRC(b[:28]))
	return append(b, payload...)
}

func FuzzRecord(f *testing.F) {
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		f.Fatal(err)
	}
	data := text(1, 3000)
	lengths := binary.LittleEndian.AppendUint32(nil, 3000)
	f.Add(byte(1), byte(0), uint16(1), uint32(0), uint32(3000), enc.EncodeAll(data, lengths))
	f.Add(byte(0), byte(1), uint16(1), uint32(5), uint32(3000), append(lengths, data...))
	f.Add(byte(0), byte(0), uint16(0), uint32(0), uint32(0), []byte{})
	f.Add(byte(1), byte(0), uint16(1), uint32(0), uint32(maxRecordData), enc.EncodeAll(make([]byte, 1<<20), binary.LittleEndian.AppendUint32(nil, maxRecordData)))
	f.Fuzz(func(t *testing.T, flags, kind byte, chunks uint16, number, raw uint32, payload []byte) {
		b := record(flags, kind, chunks, number, raw, payload)
		allocates(t, 4*maxRecordData, func() {
			data, lengths, err := chunkstore.DecodeRecord(b)
			if err == nil && (len(data) != int(raw) || len(lengths) != int(chunks)) {
				t.Errorf("record of %d chunks with %d bytes unpacked to %d with %d", chunks, raw, len(lengths), len(data))
			}
		})
		if len(payload) > 0 { // without the right checksum nothing is looked at
			b[len(b)-1]++
			if _, _, err := chunkstore.DecodeRecord(b); err == nil {
				t.Error("record with a wrong checksum was taken")
			}
		}
	})
}

func FuzzFooter(f *testing.F) {
	f.Add(append(make([]byte, 16), "WALEPEND"...))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, _, err := chunkstore.ParseFooter(b); err == nil && len(b) != 24 {
			t.Errorf("footer of %d bytes was taken", len(b))
		}
	})
}

func FuzzDirectory(f *testing.F) {
	f.Add(index.AppendPack(nil, index.Pack{Seq: 3, Size: 5000, Records: []index.Record{
		{Offset: 16, Stored: 900, Chunks: []index.Chunk{{ID: chunk.ID{1}, Length: 8192}, {ID: chunk.ID{2}, Length: 1}}},
	}}))
	f.Add([]byte{0, 0xff, 0xff, 0xff, 1, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		var p index.Pack
		var err error
		allocates(t, 1<<20+64*uint64(len(b)), func() { p, _, err = index.ParsePack(b) })
		if err != nil {
			return
		}
		again, rest, err := index.ParsePack(index.AppendPack(nil, p))
		if err != nil || len(rest) != 0 || !reflect.DeepEqual(again, p) {
			t.Errorf("pack %+v became %+v, %v", p, again, err)
		}
	})
}

func FuzzIndexObject(f *testing.F) {
	f.Add(index.EncodeObject(nil)[20:])
	f.Add(index.EncodeObject([]index.Pack{{Size: 100}, {Seq: 1, Size: 200, Records: []index.Record{{Offset: 16, Stored: 50, Chunks: []index.Chunk{{Length: 7}}}}}})[20:])
	f.Fuzz(func(t *testing.T, body []byte) {
		b := append([]byte("WALEIDX1"), make([]byte, 12)...)
		binary.LittleEndian.PutUint32(b[16:], uint32(len(body)))
		b = append(b, body...)
		b = binary.LittleEndian.AppendUint32(b, chunkstore.CRC(b))
		allocates(t, 1<<20+128*uint64(len(b)), func() {
			packs, err := index.DecodeObject(b)
			if err != nil {
				return
			}
			if _, err := index.DecodeObject(index.EncodeObject(packs)); err != nil {
				t.Errorf("index object %+v, written again: %v", packs, err)
			}
		})
		b[len(b)/2]++
		if _, err := index.DecodeObject(b); err == nil {
			t.Error("index object with a wrong checksum was taken")
		}
	})
}

func FuzzFootprint(f *testing.F) {
	run := runid.ID{1, 2, 3}
	var some chunkstore.Footprint
	some.Add(index.PackID{Run: run, Seq: 7})
	some.Add(index.PackID{Run: run, Seq: 8})
	j, err := json.Marshal(some)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(j)
	f.Add([]byte(`[]`))
	f.Add([]byte(`[{"run":null,"packs":null}]`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var p chunkstore.Footprint
		var err error
		allocates(t, 1<<20+256*uint64(len(b)), func() { err = json.Unmarshal(b, &p) })
		if err != nil {
			return
		}
		written, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		var again chunkstore.Footprint
		if err := json.Unmarshal(written, &again); err != nil || again.Len() != p.Len() {
			t.Errorf("footprint of %d packs became %d, %v", p.Len(), again.Len(), err)
		}
		n := 0
		for pack := range p.All() {
			if n++; !again.Has(pack) {
				t.Errorf("pack %s was lost", pack)
			}
		}
		if n != p.Len() {
			t.Errorf("All yields %d packs, Len is %d", n, p.Len())
		}
	})
}

// fuzzEnvelope gives body as an object with the right hash, and damaged.
func fuzzEnvelope(f *testing.F, kind string, read func(t *testing.T, b storage.Bucket, key string) error, key string) {
	f.Fuzz(func(t *testing.T, body []byte) {
		b := mem.New(nil)
		data := body
		if json.Valid(body) {
			var err error
			if data, err = envelope.Encode(kind, 1, json.RawMessage(body)); err != nil {
				return
			}
		}
		if err := storage.CreateBytes(t.Context(), b, key, data, nil); err != nil {
			t.Fatal(err)
		}
		allocates(t, 4<<20+512*uint64(len(data)), func() {
			if err := read(t, b, key); err == nil && bytes.Equal(data, body) && !bytes.HasPrefix(body, []byte("wal-e ")) {
				t.Error("an object without a header was taken")
			}
		})
	})
}

func FuzzOutcome(f *testing.F) {
	f.Add([]byte(`{"result":"commit","manifest":{},"footprint":[]}`))
	f.Add([]byte(`{"result":"abort","by":"x","footprint":null}`))
	f.Add([]byte("wal-e outcome 1 blake3:00\n{}"))
	ref := chunkstore.Ref{Name: "base_000000010000000000000001_00000040", Run: runid.ID{5}}
	fuzzEnvelope(f, "outcome", func(t *testing.T, b storage.Bucket, _ string) error {
		o, err := chunkstore.ReadOutcome(t.Context(), b, ref)
		if err == nil && o.Result != chunkstore.Commit && o.Result != chunkstore.Abort {
			t.Errorf("outcome with result %q was taken", o.Result)
		}
		return err
	}, "basebackups_006/"+ref.Name+"/"+ref.Run.String()+".outcome")
}

func FuzzMark(f *testing.F) {
	f.Add([]byte(`{"packs":[],"wal_horizons":{"1":"0/1"}}`))
	f.Add([]byte(`{}`))
	fuzzEnvelope(f, "condemned", func(t *testing.T, b storage.Bucket, key string) error {
		data := get(t, b, key)
		var m chunkstore.Mark
		return envelope.Decode(data, "condemned", 1, &m)
	}, "chunks_006/condemned/X")
}
