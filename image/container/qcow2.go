package container

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// Numbers in qcow2 are big-endian. Source: QEMU, docs/interop/qcow2.txt.
const (
	qcowMagic       = "QFI\xfb"
	qcowHeaderV2    = 72
	qcowHeaderV3    = 104
	minClusterBits  = 9
	maxClusterBits  = 21
	offsetMask      = 0x00fffffffffffe00 // bits 9 to 55 of L1 and L2 entries
	flagCompressed  = 1 << 62
	flagZero        = 1 << 0 // of L2 entries, version 3
	tablesKept      = 8      // L2 tables in memory, of one cluster (at most 2 MiB) each
	zstdWindow      = 8 << 20
	compressionZlib = 0
	compressionZstd = 1
)

// incompatible features, by bit. A reader must know each that is set.
var incompatible = [...]string{
	"dirty: it was not closed, or is in use", "marked corrupt", "an external data file", "compression type", "extended L2 entries",
}

const featureCompression = 3 // the only one that is read

type qcow2 struct {
	f                io.ReaderAt
	fileSize, size   int64
	clusterBits      uint
	zeroFlag         bool
	l1               int64
	l1Entries        uint64
	compression      byte
	mu               sync.Mutex
	tables           map[uint64][]byte // L2 tables by index in L1
	order            []uint64
	unpackedAt       int64 // guest offset of the cluster in unpacked, -1 for none
	unpacked, packed []byte
	inflate          io.ReadCloser
	zstd             *zstd.Decoder
}

func openQcow2(f io.ReaderAt, fileSize int64) (*Disk, error) {
	h := make([]byte, qcowHeaderV3+8)
	if n := min(fileSize, int64(len(h))); n >= qcowHeaderV2 {
		if err := readAt(f, h[:n], 0, "qcow2/header"); err != nil {
			return nil, err
		}
	} else {
		return nil, malformed("qcow2/header", fmt.Sprintf("%d bytes", fileSize), fmt.Sprintf("at least %d", qcowHeaderV2))
	}
	be := binary.BigEndian
	version := be.Uint32(h[4:])
	if version != 2 && version != 3 {
		return nil, unsupported("qcow2/version", fmt.Sprint(version), "2 or 3")
	}
	if at, n := be.Uint64(h[8:]), be.Uint32(h[16:]); at != 0 || n != 0 {
		return nil, unsupported("qcow2/backingFile", fmt.Sprintf("a name of %d bytes", n), "an image that stands alone (qemu-img convert joins the two)")
	}
	if m := be.Uint32(h[32:]); m != 0 {
		return nil, unsupported("qcow2/encryption", fmt.Sprintf("method %d", m), "an image that is not encrypted: each VM encrypts its own disk")
	}
	q := &qcow2{f: f, fileSize: fileSize, clusterBits: uint(be.Uint32(h[20:])), zeroFlag: version == 3, tables: map[uint64][]byte{}, unpackedAt: -1}
	if q.clusterBits < minClusterBits || q.clusterBits > maxClusterBits {
		return nil, malformed("qcow2/clusterBits", fmt.Sprint(q.clusterBits), fmt.Sprintf("%d to %d", minClusterBits, maxClusterBits))
	}
	size := be.Uint64(h[24:])
	if err := checkSize("qcow2/size", size); err != nil {
		return nil, err
	}
	if size%512 != 0 {
		return nil, malformed("qcow2/size", fmt.Sprint(size), "a multiple of 512 bytes")
	}
	q.size = int64(size)
	variant := "version 2, zlib"
	if version == 3 {
		if n := be.Uint32(h[100:]); n < qcowHeaderV3 || n%8 != 0 || int64(n) > 1<<q.clusterBits {
			return nil, malformed("qcow2/headerLength", fmt.Sprint(n), "104 bytes or a few more")
		} else if n > qcowHeaderV3 {
			q.compression = h[qcowHeaderV3]
		}
		features := be.Uint64(h[72:])
		for bit := range 64 {
			if features>>bit&1 == 0 || bit == featureCompression {
				continue
			}
			name := fmt.Sprintf("unknown feature %d", bit)
			if bit < len(incompatible) {
				name = incompatible[bit]
			}
			return nil, unsupported("qcow2/incompatibleFeatures", name, "none (qemu-img convert writes the image anew)")
		}
		switch {
		case q.compression > compressionZstd:
			return nil, unsupported("qcow2/compressionType", fmt.Sprint(q.compression), "0 (zlib) or 1 (zstd)")
		case (q.compression != compressionZlib) != (features>>featureCompression&1 == 1):
			return nil, malformed("qcow2/compressionType", fmt.Sprintf("%d, and features %#x", q.compression, features), "the feature bit where the type is not 0")
		}
		variant = "version 3, " + [...]string{"zlib", "zstd"}[q.compression]
	}
	q.l1, q.l1Entries = int64(be.Uint64(h[40:])&(1<<63-1)), uint64(be.Uint32(h[36:]))
	perTable := int64(1) << (q.clusterBits - 3 + q.clusterBits) // bytes of the disk
	if need := uint64((q.size + perTable - 1) / perTable); q.l1Entries < need {
		return nil, malformed("qcow2/l1Size", fmt.Sprint(q.l1Entries), fmt.Sprintf("at least %d for a disk of %d bytes", need, q.size))
	}
	if q.l1%(1<<q.clusterBits) != 0 || q.l1 == 0 || q.l1 > fileSize-int64(q.l1Entries*8) {
		return nil, malformed("qcow2/l1TableOffset", fmt.Sprint(q.l1), "a cluster inside the file")
	}
	d := &Disk{Format: Qcow2, Variant: variant, size: q.size, ReaderAt: q}
	if n := be.Uint32(h[60:]); n > 0 {
		d.Notes = append(d.Notes, fmt.Sprintf("%d internal snapshots, which were not looked at", n))
	}
	return d, nil
}

// ReadAt reads the disk. Clusters that are not there read as zeros.
func (q *qcow2) ReadAt(b []byte, at int64) (int, error) {
	b, end := inside(b, at, q.size)
	if b == nil && end != nil {
		return 0, end
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	cluster := int64(1) << q.clusterBits
	for done := 0; done < len(b); {
		within := at % cluster
		part := b[done:min(len(b), done+int(cluster-within))]
		if err := q.readCluster(part, at-within, within); err != nil {
			return done, err
		}
		done += len(part)
		at += int64(len(part))
	}
	return len(b), end
}

// readCluster reads a part of the cluster that begins at the disk's offset start.
func (q *qcow2) readCluster(b []byte, start, within int64) error {
	entry, err := q.lookup(start)
	if err != nil {
		return err
	}
	field := fmt.Sprintf("qcow2/cluster at %d", start)
	switch {
	case entry&flagCompressed != 0:
		if err := q.unpack(entry, start, field); err != nil {
			return err
		}
		copy(b, q.unpacked[within:])
		return nil
	case entry&offsetMask == 0 || q.zeroFlag && entry&flagZero != 0:
		clear(b)
		return nil
	}
	host := int64(entry & offsetMask)
	if host%(1<<q.clusterBits) != 0 || host > q.fileSize {
		return malformed(field, fmt.Sprintf("offset %d", host), "a cluster inside the file")
	}
	return readAt(q.f, b, host+within, field)
}

// lookup gives the L2 entry of a disk's offset; 0 where there is no table.
func (q *qcow2) lookup(start int64) (uint64, error) {
	index := uint64(start) >> q.clusterBits
	entryBits := q.clusterBits - 3
	table, ok := q.tables[index>>entryBits]
	if !ok {
		var raw [8]byte
		if err := readAt(q.f, raw[:], q.l1+int64(index>>entryBits)*8, "qcow2/l1Table"); err != nil {
			return 0, err
		}
		at := int64(binary.BigEndian.Uint64(raw[:]) & offsetMask)
		if at != 0 {
			if at%(1<<q.clusterBits) != 0 || at > q.fileSize-1<<q.clusterBits {
				return 0, malformed("qcow2/l1Table", fmt.Sprintf("offset %d", at), "a cluster inside the file")
			}
			if len(q.order) == tablesKept {
				table = q.tables[q.order[0]]
				delete(q.tables, q.order[0])
				q.order = q.order[1:]
			}
			if table == nil {
				table = make([]byte, 1<<q.clusterBits)
			}
			if err := readAt(q.f, table, at, "qcow2/l2Table"); err != nil {
				return 0, err
			}
			q.tables[index>>entryBits] = table
			q.order = append(q.order, index>>entryBits)
		}
	}
	if table == nil {
		return 0, nil
	}
	return binary.BigEndian.Uint64(table[index%(1<<entryBits)*8:]), nil
}

// unpack decompresses a cluster into q.unpacked, which keeps the last one. It never makes more than one cluster's bytes.
func (q *qcow2) unpack(entry uint64, start int64, field string) error {
	if q.unpackedAt == start {
		return nil
	}
	offsetBits := 62 - (q.clusterBits - 8)
	host := int64(entry & (1<<offsetBits - 1))
	length := int64(entry>>offsetBits&(1<<(62-offsetBits)-1)+1)*512 - host%512
	length = min(length, q.fileSize-host) // the last one need not fill its sector
	if length <= 0 || length > 2<<q.clusterBits {
		return malformed(field, fmt.Sprintf("%d compressed bytes at %d", length, host), "some inside the file, and fewer than two clusters")
	}
	q.unpackedAt = -1
	if int64(cap(q.packed)) < length {
		q.packed = make([]byte, length)
	}
	q.packed = q.packed[:length]
	if err := readAt(q.f, q.packed, host, field); err != nil {
		return err
	}
	if q.unpacked == nil {
		q.unpacked = make([]byte, 1<<q.clusterBits)
	}
	r, err := q.decoder(bytes.NewReader(q.packed))
	if err == nil {
		_, err = io.ReadFull(r, q.unpacked)
	}
	if err != nil {
		return malformed(field, err.Error(), fmt.Sprintf("data that decompress to %d bytes", len(q.unpacked)))
	}
	q.unpackedAt = start
	return nil
}

func (q *qcow2) decoder(r io.Reader) (io.Reader, error) {
	if q.compression == compressionZlib {
		if q.inflate == nil {
			q.inflate = flate.NewReader(r)
			return q.inflate, nil
		}
		return q.inflate, q.inflate.(flate.Resetter).Reset(r, nil)
	}
	if q.zstd == nil {
		var err error
		q.zstd, err = zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(zstdWindow), zstd.WithDecoderMaxMemory(zstdWindow))
		return q.zstd, err
	}
	return q.zstd, q.zstd.Reset(r)
}
