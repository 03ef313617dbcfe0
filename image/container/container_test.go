package container

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"cloister.dev/cloister/evidence"
)

// content is a disk with data, zeros, and what compresses well.
func content() []byte {
	b := make([]byte, 5<<20)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 300 << 10 {
		b[1<<20+i] = byte(r.Uint32())
	}
	copy(b[3<<20:], bytes.Repeat([]byte("Cloister "), 50<<10))
	copy(b[5<<20-512:], "the last sector")
	return b
}

// convert has qemu-img make a container of content.
func convert(t testing.TB, args ...string) []byte {
	t.Helper()
	raw, out := filepath.Join(t.TempDir(), "raw"), filepath.Join(t.TempDir(), "out")
	if err := os.WriteFile(raw, content(), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("qemu-img", append(append([]string{"convert", "-f", "raw"}, args...), raw, out)...)
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("qemu-img (package qemu-utils): %v\n%s", err, text)
	}
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func open(b []byte) (*Disk, error) { return Open(bytes.NewReader(b), int64(len(b))) }

// readAll reads a disk in pieces that fit no cluster.
func readAll(d *Disk) ([]byte, error) {
	var out bytes.Buffer
	_, err := io.CopyBuffer(struct{ io.Writer }{&out}, io.NewSectionReader(d, 0, d.Size()), make([]byte, 77777))
	return out.Bytes(), err
}

func TestReadsWhatQemuWrites(t *testing.T) {
	for name, c := range map[string]struct {
		args   []string
		format Format
		want   string
	}{
		"raw":                    {[]string{"-O", "raw"}, Raw, ""},
		"qcow2 version 2":        {[]string{"-O", "qcow2", "-o", "compat=0.10"}, Qcow2, "version 2, zlib"},
		"qcow2 version 3":        {[]string{"-O", "qcow2"}, Qcow2, "version 3, zlib"},
		"qcow2 small clusters":   {[]string{"-O", "qcow2", "-o", "cluster_size=512"}, Qcow2, "version 3, zlib"},
		"qcow2 large clusters":   {[]string{"-c", "-O", "qcow2", "-o", "cluster_size=2M"}, Qcow2, "version 3, zlib"},
		"qcow2 compressed":       {[]string{"-c", "-O", "qcow2"}, Qcow2, "version 3, zlib"},
		"qcow2 compressed, zstd": {[]string{"-c", "-O", "qcow2", "-o", "compression_type=zstd"}, Qcow2, "version 3, zstd"},
		"VHD fixed":              {[]string{"-O", "vpc", "-o", "subformat=fixed,force_size=on"}, VHD, "fixed"},
		"VHD dynamic":            {[]string{"-O", "vpc", "-o", "force_size=on"}, VHD, "dynamic"},
	} {
		t.Run(name, func(t *testing.T) {
			d, err := open(convert(t, c.args...))
			if err != nil {
				t.Fatal(err)
			}
			if d.Format != c.format || d.Variant != c.want || d.Size() != 5<<20 {
				t.Errorf("%s %q of %d bytes", d.Format, d.Variant, d.Size())
			}
			got, err := readAll(d)
			if err != nil || !bytes.Equal(got, content()) {
				t.Errorf("read %d bytes that differ (%v)", len(got), err)
			}
			if n, err := d.ReadAt(make([]byte, 1024), d.Size()-512); n != 512 || err != io.EOF {
				t.Errorf("at the end: %d bytes, %v", n, err)
			}
			if n, err := d.ReadAt(make([]byte, 1), d.Size()); n != 0 || err != io.EOF {
				t.Errorf("after the end: %d bytes, %v", n, err)
			}
			if _, err := d.ReadAt(make([]byte, 1), -1); err == nil {
				t.Error("before the beginning: read")
			}
		})
	}
}

func TestInternalSnapshotsAreNoted(t *testing.T) {
	path := filepath.Join(t.TempDir(), "q")
	if err := os.WriteFile(path, convert(t, "-O", "qcow2"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("qemu-img", "snapshot", "-c", "s1", path).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	d, err := open(b)
	if err != nil || len(d.Notes) != 1 || !strings.Contains(d.Notes[0], "1 internal snapshot") {
		t.Fatalf("%+v, %v", d, err)
	}
	if got, err := readAll(d); err != nil || !bytes.Equal(got, content()) {
		t.Errorf("the disk differs (%v)", err)
	}
}

// whole opens and reads everything.
func whole(b []byte) error {
	d, err := open(b)
	if err != nil {
		return err
	}
	_, err = readAll(d)
	return err
}

func TestQcow2Refuses(t *testing.T) {
	good := convert(t, "-O", "qcow2")
	packed := convert(t, "-c", "-O", "qcow2")
	if err := whole(good); err != nil {
		t.Fatalf("positive twin: %v", err)
	}
	be := binary.BigEndian
	l1 := int(be.Uint64(good[40:]))
	l2 := int(be.Uint64(good[l1:]) & offsetMask)
	l2packed := int(be.Uint64(packed[int(be.Uint64(packed[40:])):]) & offsetMask)
	set64 := func(at int, v uint64) func([]byte) { return func(b []byte) { be.PutUint64(b[at:], v) } }
	set32 := func(at int, v uint32) func([]byte) { return func(b []byte) { be.PutUint32(b[at:], v) } }
	for _, c := range []struct {
		name  string
		spoil func([]byte)
		want  evidence.Code
		field string
	}{
		{"backing file", func(b []byte) { be.PutUint64(b[8:], 512); be.PutUint32(b[16:], 11); copy(b[512:], "/etc/shadow") }, evidence.CodeUnsupported, "qcow2/backingFile"},
		{"backing file that is the image", func(b []byte) { be.PutUint64(b[8:], 512); be.PutUint32(b[16:], 1); copy(b[512:], ".") }, evidence.CodeUnsupported, "qcow2/backingFile"},
		{"backing file with an empty name", set64(8, 512), evidence.CodeUnsupported, "qcow2/backingFile"},
		{"backing name without a place", set32(16, 5), evidence.CodeUnsupported, "qcow2/backingFile"},
		{"AES", set32(32, 1), evidence.CodeUnsupported, "qcow2/encryption"},
		{"LUKS inside", set32(32, 2), evidence.CodeUnsupported, "qcow2/encryption"},
		{"version 4", set32(4, 4), evidence.CodeUnsupported, "qcow2/version"},
		{"version 1", set32(4, 1), evidence.CodeUnsupported, "file/format"},
		{"clusters of 256 bytes", set32(20, 8), evidence.CodeParse, "qcow2/clusterBits"},
		{"clusters of 4 MiB", set32(20, 22), evidence.CodeParse, "qcow2/clusterBits"},
		{"no size", set64(24, 0), evidence.CodeUnsupported, "qcow2/size"},
		{"exabytes", set64(24, 1<<60), evidence.CodeUnsupported, "qcow2/size"},
		{"half a sector", set64(24, 5<<20+1), evidence.CodeParse, "qcow2/size"},
		{"dirty", set64(72, 1), evidence.CodeUnsupported, "qcow2/incompatibleFeatures"},
		{"corrupt", set64(72, 2), evidence.CodeUnsupported, "qcow2/incompatibleFeatures"},
		{"external data file", set64(72, 4), evidence.CodeUnsupported, "qcow2/incompatibleFeatures"},
		{"extended L2", set64(72, 16), evidence.CodeUnsupported, "qcow2/incompatibleFeatures"},
		{"unknown feature", set64(72, 1<<40), evidence.CodeUnsupported, "qcow2/incompatibleFeatures"},
		{"compression bit without a type", set64(72, 8), evidence.CodeParse, "qcow2/compressionType"},
		{"unknown compression", func(b []byte) { be.PutUint64(b[72:], 8); b[104] = 9 }, evidence.CodeUnsupported, "qcow2/compressionType"},
		{"short header", set32(100, 80), evidence.CodeParse, "qcow2/headerLength"},
		{"L1 too small", set32(36, 0), evidence.CodeParse, "qcow2/l1Size"},
		{"L1 larger than the file", set32(36, 0xffffffff), evidence.CodeParse, "qcow2/l1TableOffset"},
		{"L1 outside", set64(40, 1<<50), evidence.CodeParse, "qcow2/l1TableOffset"},
		{"L1 outside by its sign", set64(40, 1<<63), evidence.CodeParse, "qcow2/l1TableOffset"},
		{"L1 nowhere", set64(40, 0), evidence.CodeParse, "qcow2/l1TableOffset"},
		{"L2 outside", set64(l1, 1<<50), evidence.CodeParse, "qcow2/l1Table"},
		{"L2 not at a cluster", set64(l1, uint64(l2)+512), evidence.CodeParse, "qcow2/l1Table"},
		{"data outside", set64(l2+16*8, 1<<50), evidence.CodeParse, "qcow2/cluster at 1048576"},
		{"data not at a cluster", set64(l2+16*8, 512), evidence.CodeParse, "qcow2/cluster at 1048576"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := bytes.Clone(good)
			c.spoil(b)
			refused(t, whole(b), c.want, c.field)
		})
	}
	for _, c := range []struct {
		name  string
		spoil func([]byte)
	}{
		{"compressed data outside", set64(l2packed+48*8, 1<<62|1<<45)},
		{"compressed data that are none", func(b []byte) {
			host := be.Uint64(b[l2packed+48*8:]) & (1<<54 - 1)
			copy(b[host:], bytes.Repeat([]byte{0xff}, 64))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := bytes.Clone(packed)
			c.spoil(b)
			refused(t, whole(b), evidence.CodeParse, "qcow2/cluster at 3145728")
		})
	}
}

func refused(t *testing.T, err error, want evidence.Code, field string) {
	t.Helper()
	var r *evidence.Refusal
	if !errors.As(err, &r) || r.Code != want || r.Field != field || r.Got == "" || r.Want == "" {
		t.Errorf("%v, want %s of %s", err, want, field)
	}
}

func TestSVC19CompressedClustersMakeNoMoreThanACluster(t *testing.T) {
	// All clusters point at one compressed one: 4 TiB of disk in a small file.
	b := convert(t, "-c", "-O", "qcow2")
	be := binary.BigEndian
	l1 := int(be.Uint64(b[40:]))
	l2 := int(be.Uint64(b[l1:]) & offsetMask)
	bomb := be.Uint64(b[l2+48*8:])
	for i := range 8192 {
		be.PutUint64(b[l2+i*8:], bomb)
	}
	d, err := open(b)
	if err != nil {
		t.Fatal(err)
	}
	q := d.ReaderAt.(*qcow2)
	if _, err := readAll(d); err != nil {
		t.Fatal(err)
	}
	if len(q.unpacked) != 64<<10 || cap(q.packed) > 128<<10 || len(q.tables) > tablesKept {
		t.Errorf("%d bytes unpacked, %d packed, %d tables", len(q.unpacked), cap(q.packed), len(q.tables))
	}
}

func TestVHDRefuses(t *testing.T) {
	dynamic := convert(t, "-O", "vpc", "-o", "force_size=on")
	fixed := convert(t, "-O", "vpc", "-o", "subformat=fixed,force_size=on")
	for _, good := range [][]byte{dynamic, fixed} {
		if err := whole(good); err != nil {
			t.Fatalf("positive twin: %v", err)
		}
	}
	be := binary.BigEndian
	header := int(be.Uint64(dynamic[16:]))
	table := int(be.Uint64(dynamic[header+16:]))
	both := func(b []byte, change func(foot []byte)) {
		foot := b[len(b)-512:]
		change(foot)
		be.PutUint32(foot[64:], vhdChecksum(foot, 64))
		if bytes.HasPrefix(b, []byte(vhdCookie)) {
			copy(b, foot)
		}
	}
	head := func(b []byte, change func(h []byte)) {
		h := b[header : header+1024]
		change(h)
		be.PutUint32(h[36:], vhdChecksum(h, 36))
	}
	for _, c := range []struct {
		name  string
		good  []byte
		spoil func([]byte)
		want  evidence.Code
		field string
	}{
		{"footer checksum", fixed, func(b []byte) { b[len(b)-1] ^= 1 }, evidence.CodeParse, "vhd/footer/checksum"},
		{"footer of another version", fixed, func(b []byte) { both(b, func(f []byte) { f[13] = 9 }) }, evidence.CodeUnsupported, "vhd/version"},
		{"size beyond the file", fixed, func(b []byte) { both(b, func(f []byte) { be.PutUint64(f[48:], 6<<20) }) }, evidence.CodeParse, "vhd/size"},
		{"less than the file", fixed, func(b []byte) { both(b, func(f []byte) { be.PutUint64(f[48:], 4<<20) }) }, evidence.CodeParse, "vhd/size"},
		{"exabytes", dynamic, func(b []byte) { both(b, func(f []byte) { be.PutUint64(f[48:], 1<<60) }) }, evidence.CodeUnsupported, "vhd/size"},
		{"half a sector", dynamic, func(b []byte) { both(b, func(f []byte) { be.PutUint64(f[48:], 5<<20-1) }) }, evidence.CodeParse, "vhd/size"},
		{"differencing", dynamic, func(b []byte) { both(b, func(f []byte) { f[63] = 4 }) }, evidence.CodeUnsupported, "vhd/type"},
		{"unknown type", dynamic, func(b []byte) { both(b, func(f []byte) { f[63] = 7 }) }, evidence.CodeUnsupported, "vhd/type"},
		{"no footer", dynamic, func(b []byte) { clear(b[len(b)-512:]) }, evidence.CodeParse, "vhd/footer"},
		{"other copy of the footer", dynamic, func(b []byte) { b[30] ^= 1 }, evidence.CodeParse, "vhd/footer"},
		{"header outside", dynamic, func(b []byte) { both(b, func(f []byte) { be.PutUint64(f[16:], 1<<40) }) }, evidence.CodeParse, "vhd/dataOffset"},
		{"header cut", dynamic, func(b []byte) { both(b, func(f []byte) { be.PutUint64(f[16:], uint64(len(b)-512)) }) }, evidence.CodeParse, "vhd/header"},
		{"no header", dynamic, func(b []byte) { clear(b[header : header+1024]) }, evidence.CodeParse, "vhd/header/cookie"},
		{"header checksum", dynamic, func(b []byte) { b[header+100] ^= 1 }, evidence.CodeParse, "vhd/header/checksum"},
		{"header of another version", dynamic, func(b []byte) { head(b, func(h []byte) { h[25] = 9 }) }, evidence.CodeUnsupported, "vhd/header/version"},
		{"blocks of no size", dynamic, func(b []byte) { head(b, func(h []byte) { be.PutUint32(h[32:], 0) }) }, evidence.CodeParse, "vhd/header/blockSize"},
		{"blocks of 2 GiB", dynamic, func(b []byte) { head(b, func(h []byte) { be.PutUint32(h[32:], 1<<31) }) }, evidence.CodeParse, "vhd/header/blockSize"},
		{"table too small", dynamic, func(b []byte) { head(b, func(h []byte) { be.PutUint32(h[28:], 1) }) }, evidence.CodeParse, "vhd/header/maxTableEntries"},
		{"table outside", dynamic, func(b []byte) { head(b, func(h []byte) { be.PutUint64(h[16:], 1<<62) }) }, evidence.CodeParse, "vhd/header/tableOffset"},
		{"table larger than the file", dynamic, func(b []byte) { head(b, func(h []byte) { be.PutUint32(h[28:], 0xffffffff) }) }, evidence.CodeParse, "vhd/header/tableOffset"},
		{"block outside", dynamic, func(b []byte) { be.PutUint32(b[table:], 0x7fffffff) }, evidence.CodeParse, "vhd/table"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := bytes.Clone(c.good)
			c.spoil(b)
			refused(t, whole(b), c.want, c.field)
		})
	}
}

func TestOtherFormatsAreNamed(t *testing.T) {
	for magic, name := range map[string]string{
		"vhdxfile": "VHDX", "KDMV": "VMDK", "\x1f\x8b\x08": "gzip", "\xfd7zXZ\x00": "xz", "\x28\xb5\x2f\xfd": "zstd", "LUKS\xba\xbe": "LUKS", "QED\x00": "QED",
	} {
		b := make([]byte, 4096)
		copy(b, magic)
		err := whole(b)
		refused(t, err, evidence.CodeUnsupported, "file/format")
		if err != nil && !strings.Contains(err.Error(), name) {
			t.Errorf("%v does not name %s", err, name)
		}
	}
	refused(t, whole(make([]byte, 100)), evidence.CodeParse, "file/size")
	refused(t, whole(make([]byte, 1000)), evidence.CodeParse, "raw/size")
	if err := whole(make([]byte, 1024)); err != nil {
		t.Errorf("positive twin: %v", err)
	}
}

// TestEveryCutIsRefused: a container that ends early never reads as a shorter or emptier disk.
func TestEveryCutIsRefused(t *testing.T) {
	for name, good := range map[string][]byte{
		"qcow2": convert(t, "-O", "qcow2"), "compressed": convert(t, "-c", "-O", "qcow2"), "VHD": convert(t, "-O", "vpc", "-o", "force_size=on"),
	} {
		used := len(good)
		if name == "compressed" {
			used -= 64 << 10 // its end may lie after all data
		}
		for _, n := range []int{0, 1, 71, 511, 512, 600, 1536, 4096, 64 << 10, 64<<10 + 8, 128 << 10, used / 2, used - 600} {
			if err := whole(good[:n]); evidence.CodeOf(err) == "" {
				t.Errorf("%s cut to %d of %d bytes: %v", name, n, len(good), err)
			}
		}
	}
}

type broken struct{ io.ReaderAt }

func (broken) ReadAt([]byte, int64) (int, error) { return 0, errors.New("input/output error") }

func TestErrorsOfTheFileAreNoVerdict(t *testing.T) {
	if _, err := Open(broken{}, 1<<20); err == nil || evidence.CodeOf(err) != "" {
		t.Errorf("%v", err)
	}
}

func FuzzOpen(f *testing.F) {
	small := func(b []byte) []byte { return b[:min(len(b), 256<<10)] }
	for _, args := range [][]string{{"-c", "-O", "qcow2", "-o", "cluster_size=512"}, {"-O", "vpc"}, {"-O", "qcow2"}} {
		f.Add(small(convert(f, args...)))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := open(b)
		if err != nil {
			return
		}
		buf := make([]byte, 10000)
		for _, at := range []int64{0, 1, 511, 1 << 20, d.Size() / 2, d.Size() - 5000} {
			n, err := d.ReadAt(buf, max(0, at))
			if n > len(buf) || (n < len(buf) && err == nil) {
				t.Fatalf("%d bytes at %d without an error", n, at)
			}
		}
	})
}
