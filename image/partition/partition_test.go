package partition

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/internal/sbin"
)

const diskSize = 16 << 20

// partitioned has sfdisk write a table.
func partitioned(t testing.TB, script string) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, make([]byte, diskSize), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(sbin.Path("sfdisk"), "-q", path)
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("sfdisk (package fdisk): %v\n%s", err, out)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

const script = "label: gpt\nlabel-id: C1015E12-0000-4000-8000-000000000000\nfirst-lba: 34\n" +
	"start=2048, size=4096, type=U, name=\"esp\"\nstart=8192, size=8192, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709, uuid=C1015E12-0000-4000-8000-000000000001, name=\"Wurzel ü\"\n"

func read(b []byte) (*Table, error) { return Read(bytes.NewReader(b), int64(len(b))) }

func TestReadsWhatSfdiskWrites(t *testing.T) {
	b := partitioned(t, script)
	b[8192*SectorSize] = 'x'
	table, err := read(b)
	if err != nil {
		t.Fatal(err)
	}
	if table.Disk != "c1015e12-0000-4000-8000-000000000000" || len(table.Partitions) != 2 {
		t.Fatalf("%+v", table)
	}
	root := table.Partitions[1]
	want := Partition{2, TypeRootAMD64, "c1015e12-0000-4000-8000-000000000001", "Wurzel ü", 8192, 16383}
	if root != want || root.Size() != 4<<20 || len(table.Of(TypeESP)) != 1 {
		t.Errorf("%+v, want %+v", root, want)
	}
	one := make([]byte, 1)
	if _, err := root.Content(bytes.NewReader(b)).ReadAt(one, 0); err != nil || one[0] != 'x' {
		t.Errorf("content %q, %v", one, err)
	}
}

// mend changes one copy's header, or both copies' entries, and mends the checksums.
func mend(b []byte, change func(primary, backup, entries []byte)) {
	le := binary.LittleEndian
	end := len(b) - SectorSize
	primary, backup, entries := b[512:1024], b[end:], b[1024:1024+128*128]
	change(primary, backup, entries)
	copy(b[end-128*128:], entries)
	for _, h := range [][]byte{primary, backup} {
		le.PutUint32(h[88:], crc32.ChecksumIEEE(entries))
		clear(h[16:20])
		le.PutUint32(h[16:], crc32.ChecksumIEEE(h[:92]))
	}
}

func TestReadRefuses(t *testing.T) {
	good := partitioned(t, script)
	le := binary.LittleEndian
	end := len(good) - SectorSize
	header := func(change func(h []byte)) func([]byte) {
		return func(b []byte) { mend(b, func(h, _, _ []byte) { change(h) }) }
	}
	entries := func(change func(e []byte)) func([]byte) {
		return func(b []byte) { mend(b, func(_, _, e []byte) { change(e) }) }
	}
	for _, c := range []struct {
		name  string
		spoil func([]byte)
		want  evidence.Code
		field string
	}{
		{"nothing at all", func(b []byte) { clear(b) }, evidence.CodeUnsupported, "gpt"},
		{"MBR alone", func(b []byte) { copy(b, partitioned(t, "label: dos\nstart=2048, type=83\n")) }, evidence.CodeUnsupported, "gpt"},
		{"no protective MBR", func(b []byte) { clear(b[:512]) }, evidence.CodeParse, "gpt/mbr"},
		{"hybrid MBR", func(b []byte) { b[446+16+4] = 0x83 }, evidence.CodeParse, "gpt/mbr"},
		{"an empty MBR", func(b []byte) { b[446+4] = 0 }, evidence.CodeParse, "gpt/mbr"},
		{"header checksum", func(b []byte) { b[512+40] ^= 1 }, evidence.CodeParse, "gpt/primary/headerCRC32"},
		{"backup's header checksum", func(b []byte) { b[end+40] ^= 1 }, evidence.CodeParse, "gpt/backup/headerCRC32"},
		{"no backup", func(b []byte) { clear(b[end:]) }, evidence.CodeParse, "gpt/backup/signature"},
		{"entries' checksum", func(b []byte) { b[1024+60] ^= 1 }, evidence.CodeParse, "gpt/primary/partitionEntryArrayCRC32"},
		{"backup entries' checksum", func(b []byte) { b[end-128*128+60] ^= 1 }, evidence.CodeParse, "gpt/backup/partitionEntryArrayCRC32"},
		{"two tables that differ", func(b []byte) {
			mend(b, func(_, _, e []byte) { e[56] ^= 1 })
			copy(b[512:1024], good[512:1024])
			copy(b[1024:1024+128*128], good[1024:])
		}, evidence.CodeParse, "gpt/backup"},
		{"revision", header(func(h []byte) { h[10] = 9 }), evidence.CodeParse, "gpt/primary/revision"},
		{"short header", header(func(h []byte) { le.PutUint32(h[12:], 20) }), evidence.CodeParse, "gpt/primary/headerSize"},
		{"long header", header(func(h []byte) { le.PutUint32(h[12:], 1<<30) }), evidence.CodeParse, "gpt/primary/headerSize"},
		{"header of elsewhere", header(func(h []byte) { le.PutUint64(h[24:], 2) }), evidence.CodeParse, "gpt/primary/myLBA"},
		{"backup elsewhere", header(func(h []byte) { le.PutUint64(h[32:], 1000) }), evidence.CodeParse, "gpt/primary/alternateLBA"},
		{"billions of entries", header(func(h []byte) { le.PutUint32(h[80:], 0xffffffff) }), evidence.CodeParse, "gpt/primary/numberOfPartitionEntries"},
		{"no entries", header(func(h []byte) { le.PutUint32(h[80:], 0) }), evidence.CodeParse, "gpt/primary/numberOfPartitionEntries"},
		{"entries of no size", header(func(h []byte) { le.PutUint32(h[84:], 0) }), evidence.CodeParse, "gpt/primary/sizeOfPartitionEntry"},
		{"entries of an odd size", header(func(h []byte) { le.PutUint32(h[84:], 130) }), evidence.CodeParse, "gpt/primary/sizeOfPartitionEntry"},
		{"entries outside", header(func(h []byte) { le.PutUint64(h[72:], 1<<60) }), evidence.CodeParse, "gpt/primary/partitionEntryLBA"},
		{"entries in the header", header(func(h []byte) { le.PutUint64(h[72:], 1) }), evidence.CodeParse, "gpt/primary/partitionEntryLBA"},
		{"usable sectors in the table", header(func(h []byte) { le.PutUint64(h[40:], 3) }), evidence.CodeParse, "gpt/primary/usableLBA"},
		{"usable sectors outside", header(func(h []byte) { le.PutUint64(h[48:], 1<<60) }), evidence.CodeParse, "gpt/primary/usableLBA"},
		{"overlapping partitions", entries(func(e []byte) { le.PutUint64(e[128+32:], 6143) }), evidence.CodeParse, "gpt/partition 2"},
		{"one partition inside another", entries(func(e []byte) { le.PutUint64(e[40:], 20000) }), evidence.CodeParse, "gpt/partition 2"},
		{"partition over the end", entries(func(e []byte) { le.PutUint64(e[128+40:], 1<<40) }), evidence.CodeParse, "gpt/partition 2"},
		{"partition in the table", entries(func(e []byte) { le.PutUint64(e[32:], 5) }), evidence.CodeParse, "gpt/partition 1"},
		{"partition backwards", entries(func(e []byte) { le.PutUint64(e[40:], 2000) }), evidence.CodeParse, "gpt/partition 1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := bytes.Clone(good)
			c.spoil(b)
			_, err := read(b)
			var r *evidence.Refusal
			if !errors.As(err, &r) || r.Code != c.want || r.Field != c.field {
				t.Errorf("%v, want %s of %s", err, c.want, c.field)
			}
		})
	}
	if _, err := read(good); err != nil {
		t.Errorf("positive twin: %v", err)
	}
	for _, n := range []int{0, 512, 1024, 4096, diskSize / 2, diskSize - 512} {
		if _, err := read(good[:n]); err == nil {
			t.Errorf("a disk of %d bytes of %d was read", n, diskSize)
		}
	}
}

func TestNamesHaveNoControlCharacters(t *testing.T) {
	if got := name([]byte{'a', 0, 0x1b, 0, '[', 0, 0, 0, 'b', 0}); got != "a?[" {
		t.Errorf("%q", got)
	}
}

func FuzzRead(f *testing.F) {
	good := partitioned(f, script)
	head, tail := good[:1024+128*128], good[len(good)-512-128*128:]
	f.Add(head, tail)
	f.Fuzz(func(t *testing.T, head, tail []byte) {
		if len(head)+len(tail) > diskSize {
			return
		}
		b := make([]byte, diskSize)
		copy(b, head)
		copy(b[diskSize-len(tail):], tail)
		table, err := read(b)
		if err != nil {
			return
		}
		for _, p := range table.Partitions {
			if p.Size() <= 0 || p.Last >= diskSize/SectorSize {
				t.Fatalf("%+v", p)
			}
		}
	})
}
