package launch

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"cloister.dev/cloister/evidence"
)

// peSection is a section of a PE file that is made here.
type peSection struct {
	name    string
	data    []byte
	virtual int // -1: as long as the data
}

// makePE makes a PE32+ file of the least size: headers, sections aligned to 512, then certificates.
func makePE(sections []peSection, certificates []byte) []byte {
	le := binary.LittleEndian
	const at, optional = 0x40, 240
	raw := make([]byte, at+24+optional+40*len(sections))
	copy(raw, "MZ")
	le.PutUint32(raw[0x3c:], at)
	copy(raw[at:], "PE\x00\x00\x64\x86")
	le.PutUint16(raw[at+6:], uint16(len(sections)))
	le.PutUint16(raw[at+20:], optional)
	opt := raw[at+24:]
	le.PutUint16(opt, 0x20b)
	le.PutUint32(opt[108:], 16)
	for i, s := range sections {
		raw = append(raw, make([]byte, (512-len(raw)%512)%512)...)
		h := raw[at+24+optional+40*i:]
		copy(h[:8], s.name)
		virtual := s.virtual
		if virtual < 0 {
			virtual = len(s.data)
		}
		size := (len(s.data) + 511) / 512 * 512
		le.PutUint32(h[8:], uint32(virtual))
		le.PutUint32(h[16:], uint32(size))
		le.PutUint32(h[20:], uint32(len(raw)))
		raw = append(append(raw, s.data...), make([]byte, size-len(s.data))...)
	}
	if certificates != nil {
		opt := raw[at+24:]
		le.PutUint32(opt[144:], uint32(len(raw)))
		le.PutUint32(opt[148:], uint32(len(certificates)))
		raw = append(raw, certificates...)
	}
	return raw
}

func uki() []byte {
	return makePE([]peSection{{".osrel", []byte("ID=debian"), -1}, {".cmdline", []byte("quiet"), -1}, {".initrd", []byte("cpio"), -1}, {".linux", []byte("MZkernel"), -1}}, nil)
}

// TestSectionsAreVirtualSize: what the stub measures is the section in memory, not in the file.
func TestSectionsAreVirtualSize(t *testing.T) {
	for _, r := range []struct {
		name    string
		virtual int
		want    []byte
	}{
		{"as long as the data", 5, []byte("quiet")},
		{"shorter: alignment of the file does not count", 3, []byte("qui")},
		{"longer than the data, within the file's alignment", 10, []byte("quiet\x00\x00\x00\x00\x00")},
		{"longer than the file: zeros", 1000, append([]byte("quiet"), make([]byte, 995)...)},
		{"empty", 0, []byte{}},
	} {
		t.Run(r.name, func(t *testing.T) {
			got, err := UKISections(makePE([]peSection{{".linux", []byte("k"), -1}, {".cmdline", []byte("quiet"), r.virtual}}, nil))
			if err != nil || got[1].Name != ".cmdline" || !bytes.Equal(got[1].Content, r.want) {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
	none := makePE([]peSection{{".bss", nil, 16}}, nil)
	if got, err := UKISections(none); err != nil || !bytes.Equal(got[0].Content, make([]byte, 16)) {
		t.Errorf("a section without data: %v, %v", got, err)
	}
	if _, err := UKISections(makePE([]peSection{{".a", nil, maxZeros}, {".b", nil, 1}}, nil)); evidence.CodeOf(err) != evidence.CodeParse {
		t.Errorf("TDX-25 more zeros than there is room for: %v", err)
	}
	if _, err := UKISections(makePE([]peSection{{".a", nil, 0xffffffff}}, nil)); evidence.CodeOf(err) != evidence.CodeParse {
		t.Errorf("TDX-25 four GiB of zeros: %v", err)
	}
}

func TestPERefuses(t *testing.T) {
	good := makePE([]peSection{{".linux", []byte("k"), -1}}, bytes.Repeat([]byte{1}, 16))
	if _, err := Authenticode(good); err != nil {
		t.Fatal("positive twin:", err)
	}
	word := func(at int, v uint32) func([]byte) {
		return func(b []byte) { binary.LittleEndian.PutUint32(b[at:], v) }
	}
	const opt, table = 0x58, 0x58 + 240
	for name, change := range map[string]func([]byte){
		"no MZ":                                func(b []byte) { b[0] = 0 },
		"header beyond the file":               word(0x3c, 0xfffffff0),
		"no PE":                                func(b []byte) { b[0x40] = 0 },
		"PE32":                                 func(b []byte) { b[opt] = 0x0b; b[opt+1] = 1 },
		"no directories":                       word(opt+108, 0),
		"too many directories":                 word(opt+108, 17),
		"certificates not at the end":          word(opt+148, 8),
		"certificates over the headers":        func(b []byte) { word(opt+144, 16)(b); word(opt+148, uint32(len(b)-16))(b) },
		"certificates beyond the file":         word(opt+144, 0xfffffff0),
		"sections beyond the file":             func(b []byte) { b[0x46], b[0x47] = 90, 0 },
		"more sections than a loader takes":    func(b []byte) { b[0x46], b[0x47] = 200, 0 },
		"a section beyond the file":            word(table+20, 0xfffffe00),
		"a section as long as an address":      word(table+16, 0xffffffff),
		"an optional header beyond the file":   func(b []byte) { b[0x54], b[0x55] = 0xff, 0xff },
		"an optional header that is too short": func(b []byte) { b[0x54], b[0x55] = 100, 0 },
	} {
		t.Run(name, func(t *testing.T) {
			b := bytes.Clone(good)
			change(b)
			if _, err := Authenticode(b); evidence.CodeOf(err) != evidence.CodeParse {
				t.Errorf("Authenticode: %v", err)
			}
			if _, err := UKISections(b); evidence.CodeOf(err) != evidence.CodeParse {
				t.Errorf("UKISections: %v", err)
			}
		})
	}
	if _, err := UKISections(makePE([]peSection{{".linux", nil, -1}, {".linux", nil, -1}}, nil)); evidence.CodeOf(err) != evidence.CodeParse {
		t.Errorf("HD-14 a section twice: %v", err)
	}
	for n := range good {
		_, err := UKISections(good[:n])
		if _, err2 := Authenticode(good[:n]); evidence.CodeOf(err) != evidence.CodeParse || evidence.CodeOf(err2) != evidence.CodeParse {
			t.Fatalf("prefix of %d bytes: %v, %v", n, err, err2)
		}
	}
	if _, _, err := PCR11(makePE([]peSection{{".cmdline", []byte("x"), -1}}, nil), Stub257); evidence.CodeOf(err) != evidence.CodeParse {
		t.Errorf("an image without a kernel: %v", err)
	}
	if _, _, err := PCR11(uki(), 1); evidence.CodeOf(err) != evidence.CodeUnsupported {
		t.Errorf("a stub that nobody knows: %v", err)
	}
}

// TestAuthenticodeCoversAllButTheSignature flips each byte.
func TestAuthenticodeCoversAllButTheSignature(t *testing.T) {
	raw := makePE([]peSection{{".linux", []byte("k"), -1}}, bytes.Repeat([]byte{1}, 16))
	want, err := Authenticode(raw)
	if err != nil {
		t.Fatal(err)
	}
	const opt = 0x58
	for i := range raw {
		b := bytes.Clone(raw)
		b[i] ^= 1
		got, err := Authenticode(b)
		free := i >= opt+64 && i < opt+68 || i >= opt+144 && i < opt+152 || i >= len(raw)-16
		if err == nil && (got == want) != free {
			t.Fatalf("byte %#x: covered %t", i, got != want)
		}
	}
	unsigned := makePE([]peSection{{".linux", []byte("k"), -1}}, nil)
	if got, err := Authenticode(unsigned); err != nil || got != want {
		t.Errorf("the same file without a signature: %x, %v", got, err)
	}
}

func tool(t testing.TB, name string) string {
	t.Helper()
	for _, dir := range []string{"", "/usr/lib/systemd/"} {
		if p, err := exec.LookPath(dir + name); err == nil {
			return p
		}
	}
	t.Skipf("SKIPPED, NOT TESTED: %s is not installed", name)
	return ""
}

func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
	return string(out)
}

// TestAuthenticodeAsOthersComputeIt compares with osslsigncode, on a boot loader as it is and as sbsign signed it.
func TestAuthenticodeAsOthersComputeIt(t *testing.T) {
	osslsigncode, sbsign := tool(t, "osslsigncode"), tool(t, "sbsign")
	const loader = "/usr/lib/systemd/boot/efi/systemd-bootx64.efi"
	raw, err := os.ReadFile(loader)
	if err != nil {
		t.Skipf("SKIPPED, NOT TESTED: %v", err)
	}
	dir := t.TempDir()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Unix(1e9, 0), NotAfter: time.Unix(4e9, 0)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	pk, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{"key.pem": {Type: "PRIVATE KEY", Bytes: pk}, "cert.pem": {Type: "CERTIFICATE", Bytes: der}} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	signed := filepath.Join(dir, "signed.efi")
	run(t, sbsign, "--key", filepath.Join(dir, "key.pem"), "--cert", filepath.Join(dir, "cert.pem"), "--output", signed, loader)
	out, _ := exec.Command(osslsigncode, "verify", "-CAfile", filepath.Join(dir, "cert.pem"), signed).CombinedOutput() // its exit code is about trust
	m := regexp.MustCompile(`(?i)Calculated message digest *: *([0-9a-f]{64})`).FindStringSubmatch(string(out))
	if m == nil {
		t.Fatalf("osslsigncode says no digest:\n%s", out)
	}
	again, err := os.ReadFile(signed)
	if err != nil {
		t.Fatal(err)
	}
	for name, file := range map[string][]byte{"as it is": raw, "signed": again} {
		if got, err := Authenticode(file); err != nil || !strings.EqualFold(hex.EncodeToString(got[:]), m[1]) {
			t.Errorf("%s: %x, %v, want %s", name, got, err, m[1])
		}
	}
	want := sha256.Sum256([]byte("Calling EFI Application from Boot Option"))
	v, events, err := PCR4(again)
	if err != nil || len(events) != 3 || events[0].Digest != want || hex.EncodeToString(events[2].Digest[:]) != strings.ToLower(m[1]) || v != replay(events) {
		t.Errorf("PCR 4: %x, %+v, %v", v, events, err)
	}
}

// TestPCR11AsSystemdComputesIt compares with systemd-measure, on an image that objcopy put together.
func TestPCR11AsSystemdComputesIt(t *testing.T) {
	measure, objcopy := tool(t, "systemd-measure"), tool(t, "objcopy")
	const stub = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub"
	if _, err := os.Stat(stub); err != nil {
		t.Skipf("SKIPPED, NOT TESTED: %v", err)
	}
	var version int
	if _, err := fmt.Sscanf(run(t, measure, "--version"), "systemd %d", &version); err != nil {
		t.Fatal(err)
	}
	known := Stub252
	if version >= 254 {
		known = Stub257
	}
	dir := t.TempDir()
	image := filepath.Join(dir, "uki.efi")
	var copied, measured []string
	at := 0x20000000
	for name, size := range map[string]int{"osrel": 100, "cmdline": 513, "linux": 5000, "initrd": 4096} {
		data := make([]byte, size)
		if _, err := rand.Read(data); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		copied = append(copied, "--add-section", "."+name+"="+path, "--change-section-vma", fmt.Sprintf(".%s=%#x", name, at))
		measured = append(measured, "--"+name+"="+path)
		at += 0x100000
	}
	run(t, objcopy, append(copied, stub, image)...)
	raw, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	// What the stub itself has of the measured sections goes to the other tool as well.
	all, err := UKISections(raw)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range all {
		if s.Name == ".sbat" && known == Stub257 {
			path := filepath.Join(dir, "sbat")
			if err := os.WriteFile(path, s.Content, 0o600); err != nil {
				t.Fatal(err)
			}
			measured = append(measured, "--sbat="+path)
		}
	}
	out := run(t, measure, append([]string{"calculate", "--bank=sha256", "--phase=:"}, measured...)...)
	m := regexp.MustCompile(`11:sha256=([0-9a-f]{64})`).FindStringSubmatch(out)
	if m == nil {
		t.Fatalf("no value in %s", out)
	}
	got, events, err := PCR11(raw, known)
	if err != nil || hex.EncodeToString(got[:]) != m[1] {
		t.Errorf("%x, %v, want %s (events %+v)", got, err, m[1], events)
	}
}

func TestReadVariables(t *testing.T) {
	pk, db := Variable{guidGlobal, "PK"}, Variable{guidSecurity, "db"}
	raw := store(map[Variable][]byte{pk: []byte("key"), db: []byte("list of certificates")})
	got, err := ReadVariables(raw)
	if err != nil || len(got) != 2 || string(got[pk]) != "key" || string(got[db]) != "list of certificates" {
		t.Fatalf("positive twin: %v, %v", got, err)
	}
	build := func(records ...[]byte) []byte {
		raw := store(nil)
		body := bytes.Join(records, nil)
		binary.LittleEndian.PutUint32(raw[88:], uint32(28+len(body)+64))
		return append(append(bytes.Clone(raw[:100]), body...), raw[100:]...)
	}
	for _, r := range []struct {
		name string
		raw  []byte
		want string
	}{
		{"deleted", build(record(pk, []byte("old"), 0x3d)), ""},
		{"header only", build(record(pk, []byte("old"), 0x7f)), ""},
		{"deleted, then written anew", build(record(pk, []byte("old"), 0x3c), record(pk, []byte("new"), 0x3f)), "new"},
		{"being replaced, nothing new yet", build(record(pk, []byte("old"), 0x3e)), "old"},
		{"being replaced, the new one is there", build(record(pk, []byte("old"), 0x3e), record(pk, []byte("new"), 0x3f)), "new"},
		{"being replaced, the other way round", build(record(pk, []byte("new"), 0x3f), record(pk, []byte("old"), 0x3e)), "new"},
		{"another vendor's of that name", build(record(Variable{guidSecurity, "PK"}, []byte("x"), 0x3f)), ""},
	} {
		t.Run(r.name, func(t *testing.T) {
			got, err := ReadVariables(r.raw)
			if err != nil || string(got[pk]) != r.want {
				t.Errorf("%q, %v, want %q", got[pk], err, r.want)
			}
		})
	}
	word := func(at int, v uint32) func([]byte) {
		return func(b []byte) { binary.LittleEndian.PutUint32(b[at:], v) }
	}
	for name, change := range map[string]func([]byte){
		"another store":                  func(b []byte) { b[72] ^= 1 },
		"not formatted":                  func(b []byte) { b[92] = 0xff },
		"not healthy":                    func(b []byte) { b[93] = 0 },
		"store beyond the file":          word(88, 1<<30),
		"store smaller than its header":  word(88, 27),
		"header beyond the file":         func(b []byte) { b[48], b[49] = 0xff, 0xff },
		"name beyond the store":          word(100+36, 1<<30),
		"data beyond the store":          word(100+40, 0xfffffff0),
		"a name of no characters":        word(100+36, 0),
		"a name of one byte and a half":  word(100+36, 3),
		"lengths that wrap an int32 sum": func(b []byte) { word(100+36, 0xfffffffe)(b); word(100+40, 0xfffffffe)(b) },
	} {
		t.Run(name, func(t *testing.T) {
			b := bytes.Clone(raw)
			change(b)
			if _, err := ReadVariables(b); evidence.CodeOf(err) != evidence.CodeParse {
				t.Errorf("got %v", err)
			}
		})
	}
	for n := range len(raw) {
		if _, err := ReadVariables(raw[:n]); evidence.CodeOf(err) != evidence.CodeParse {
			t.Fatalf("prefix of %d bytes: %v", n, err)
		}
	}
}

// TestDistributionVariables reads the stores that come with the firmware: with Microsoft's keys, and with none.
func TestDistributionVariables(t *testing.T) {
	for name, enrolled := range map[string]bool{"OVMF_VARS_4M.fd": false, "OVMF_VARS_4M.ms.fd": true, "OVMF_VARS_4M.snakeoil.fd": true} {
		raw, err := os.ReadFile("/usr/share/OVMF/" + name)
		if err != nil {
			t.Skipf("SKIPPED, NOT TESTED: %v", err)
		}
		vars, err := ReadVariables(raw)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for _, v := range []Variable{{guidGlobal, "PK"}, {guidGlobal, "KEK"}, {guidSecurity, "db"}} {
			if (len(vars[v]) > 0) != enrolled {
				t.Errorf("%s: %s has %d bytes", name, v.Name, len(vars[v]))
			}
		}
		cert := read(t, "secureboot-wellknown", "MicCorUEFCA2011_2011-06-27.crt")
		_, events, err := PCR7(raw, cert)
		switch {
		case name == "OVMF_VARS_4M.ms.fd":
			if err != nil || len(events) != 7 {
				t.Errorf("%s: %v", name, err)
			}
		case evidence.CodeOf(err) != evidence.CodePolicy:
			t.Errorf("HD-13 %s: %v", name, err)
		}
	}
}

func FuzzPE(f *testing.F) {
	f.Add(uki())
	f.Add(makePE(nil, []byte{1, 2, 3, 4, 5, 6, 7, 8}))
	f.Fuzz(func(t *testing.T, raw []byte) {
		sections, err := UKISections(raw)
		if _, err2 := Authenticode(raw); (err == nil) != (err2 == nil) {
			t.Fatalf("%v, but %v", err, err2)
		}
		total := 0
		for _, s := range sections {
			total += len(s.Content)
		}
		if total > maxZeros+96*len(raw) {
			t.Fatalf("%d bytes out of %d", total, len(raw))
		}
		_, _, _ = PCR11(raw, Stub257)
		_, _, _ = PCR4(raw)
	})
}

func FuzzVariables(f *testing.F) {
	f.Add(store(map[Variable][]byte{{guidGlobal, "PK"}: []byte("key")}))
	f.Add(store(nil))
	f.Fuzz(func(t *testing.T, raw []byte) {
		vars, err := ReadVariables(raw)
		if err != nil {
			return
		}
		total := 0
		for v, data := range vars {
			total += len(v.Name) + len(data)
		}
		if total > 4*len(raw) {
			t.Fatalf("%d bytes out of %d", total, len(raw))
		}
		_, _, _ = PCR7(raw, []byte("certificate"))
	})
}
