package uki

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"encoding/pem"

	"cloister.dev/cloister/evidence"
)

const stubPath = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub"

func stub(t testing.TB) []byte {
	t.Helper()
	b, err := os.ReadFile(stubPath)
	if err != nil {
		t.Fatalf("%v: install systemd-boot-efi", err)
	}
	return b
}

func newKey(t testing.TB, name string) (*rsa.PrivateKey, *x509.Certificate) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: name}, NotBefore: time.Unix(0, 0), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return key, cert
}

func sample() []Section {
	return []Section{{".osrel", []byte("ID=test\n")}, {".cmdline", []byte("quiet")}, {".initrd", bytes.Repeat([]byte{7}, 1000)}, {".linux", bytes.Repeat([]byte{9}, 5000)}}
}

func TestAssembleKeepsSections(t *testing.T) {
	pe, err := Assemble(stub(t), sample())
	if err != nil {
		t.Fatal(err)
	}
	again, err := Assemble(stub(t), sample())
	if err != nil || !bytes.Equal(pe, again) {
		t.Errorf("two builds differ (err %v)", err)
	}
	got, err := Sections(pe)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range sample() {
		if data, ok := Find(got, want.Name); !ok || !bytes.Equal(data, want.Data) {
			t.Errorf("section %s: %d bytes, found %v; want %d", want.Name, len(data), ok, len(want.Data))
		}
	}
	if v, err := StubVersion(pe); err != nil || v == "" {
		t.Errorf("stub version %q, %v", v, err)
	}
}

func TestAssembleRefuses(t *testing.T) {
	s := stub(t)
	if _, err := Assemble(s, sample()); err != nil {
		t.Fatalf("positive twin: %v", err)
	}
	many := sample()[:3]
	for _, n := range []string{".a", ".b", ".c", ".d", ".e", ".f", ".g", ".h"} {
		many = append(many, Section{n, []byte{1}})
	}
	for name, c := range map[string]struct {
		stub     []byte
		sections []Section
	}{
		"no stub":               {nil, sample()},
		"stub of another kind":  {[]byte("\x7fELF" + string(make([]byte, 500))), sample()},
		"stub cut short":        {s[:0x200], sample()},
		"name of the stub":      {s, []Section{{".text", []byte{1}}}},
		"name twice":            {s, []Section{{".cmdline", []byte{1}}, {".cmdline", []byte{2}}}},
		"long name":             {s, []Section{{".cmdlines", []byte{1}}}},
		"empty section":         {s, []Section{{".cmdline", nil}}},
		"kernel before the end": {s, []Section{{".linux", []byte{1}}, {".initrd", []byte{1}}}},
		"no room for headers":   {s, many},
	} {
		if _, err := Assemble(c.stub, c.sections); evidence.CodeOf(err) == "" {
			t.Errorf("%s: err %v, want a refusal", name, err)
		}
	}
}

// TestSVC19SectionsThatShareBytes: a file says how much memory its sections take.
func TestSVC19SectionsThatShareBytes(t *testing.T) {
	sections := sample()
	sections[len(sections)-1].Data = make([]byte, 20<<20)
	pe, err := Assemble(stub(t), sections)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Sections(pe); err != nil {
		t.Fatalf("positive twin: %v", err)
	}
	l, err := parseLayout(pe)
	if err != nil {
		t.Fatal(err)
	}
	last := pe[l.table+(l.sections-1)*sectionHeaderSize:][8:24]
	for i := l.sections - len(sections); i < l.sections-1; i++ {
		copy(pe[l.table+i*sectionHeaderSize+8:], last)
	}
	if _, err := Sections(pe); evidence.CodeOf(err) != evidence.CodeParse {
		t.Errorf("%v", err)
	}
}

func TestSignatures(t *testing.T) {
	key, cert := newKey(t, "db")
	pe, err := Assemble(stub(t), sample())
	if err != nil {
		t.Fatal(err)
	}
	if n, err := Signatures(pe); n != 0 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if pe, err = Sign(pe, key, cert); err != nil {
		t.Fatal(err)
	}
	if n, err := Signatures(pe); n != 1 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	l, err := parseLayout(pe)
	if err != nil {
		t.Fatal(err)
	}
	end, _, err := l.signatures(pe)
	if err != nil {
		t.Fatal(err)
	}
	for _, length := range []uint32{0, 7, 0xffffffff} {
		binary.LittleEndian.PutUint32(pe[end:], length)
		if _, err := Signatures(pe); evidence.CodeOf(err) != evidence.CodeParse {
			t.Errorf("an entry of %d bytes: %v", length, err)
		}
	}
	if _, err := Signatures([]byte("no program")); evidence.CodeOf(err) != evidence.CodeParse {
		t.Errorf("%v", err)
	}
}

func TestSignVerify(t *testing.T) {
	key, cert := newKey(t, "db")
	_, other := newKey(t, "other")
	pe, err := Assemble(stub(t), sample())
	if err != nil {
		t.Fatal(err)
	}
	signed, err := Sign(pe, key, cert)
	if err != nil {
		t.Fatal(err)
	}
	if err := Verify(signed, cert); err != nil {
		t.Fatalf("positive twin: %v", err)
	}
	if again, err := Sign(pe, key, cert); err != nil || !bytes.Equal(signed, again) {
		t.Errorf("two signatures differ (err %v)", err)
	}
	if _, err := Sign(signed, key, cert); evidence.CodeOf(err) != evidence.CodeParse {
		t.Errorf("signing twice: %v", err)
	}
	flip := func(at int) []byte {
		b := append([]byte(nil), signed...)
		b[at] ^= 1
		return b
	}
	l, err := parseLayout(signed)
	if err != nil {
		t.Fatal(err)
	}
	table := int(binary.LittleEndian.Uint32(signed[l.opt+optSecurityEntry:]))
	for _, c := range []struct {
		name string
		pe   []byte
		cert *x509.Certificate
		want evidence.Code
	}{
		{"HD-13 unsigned", pe, cert, evidence.CodeChain},
		{"another certificate", signed, other, evidence.CodeChain},
		{"changed kernel byte", flip(table - 600), cert, evidence.CodeBinding},
		{"changed code byte", flip(0x500), cert, evidence.CodeBinding},
		{"changed header byte", flip(l.opt + 2), cert, evidence.CodeBinding},
		{"data after the signature", append(append([]byte(nil), signed...), make([]byte, 8)...), cert, evidence.CodeParse},
		{"signature type", flip(table + 6), cert, evidence.CodeParse},
		{"cut short", signed[:len(signed)-8], cert, evidence.CodeParse},
		{"no file", nil, cert, evidence.CodeParse},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := Verify(c.pe, c.cert); evidence.CodeOf(err) != c.want {
				t.Errorf("err %v, want %s", err, c.want)
			}
		})
	}
	t.Run("every byte of the signature counts or is padding", func(t *testing.T) {
		accepted := 0
		for at := table; at < len(signed); at += 3 {
			if Verify(flip(at), cert) == nil {
				accepted++
			}
		}
		// The embedded certificate and a few parameters are not looked at: the db certificate is.
		if limit := len(cert.Raw)/3 + 40; accepted > limit {
			t.Errorf("%d changed signatures were accepted, want at most %d", accepted, limit)
		}
	})
}

func TestSbverifyAcceptsOurSignature(t *testing.T) {
	if _, err := exec.LookPath("sbverify"); err != nil {
		t.Fatal("install sbsigntool")
	}
	key, cert := newKey(t, "db")
	_, other := newKey(t, "other")
	pe, err := Assemble(stub(t), sample())
	if err != nil {
		t.Fatal(err)
	}
	signed, err := Sign(pe, key, cert)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name string, b []byte) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	crt := write("db.crt", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}))
	foreign := write("other.crt", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: other.Raw}))
	file := write("uki.efi", signed)
	changed := append([]byte(nil), signed...)
	changed[0x600] ^= 1
	if out, err := exec.Command("sbverify", "--cert", crt, file).CombinedOutput(); err != nil {
		t.Errorf("sbverify: %v\n%s", err, out)
	}
	if out, err := exec.Command("sbverify", "--cert", foreign, file).CombinedOutput(); err == nil {
		t.Errorf("sbverify accepts another certificate: %s", out)
	}
	if out, err := exec.Command("sbverify", "--cert", crt, write("changed.efi", changed)).CombinedOutput(); err == nil {
		t.Errorf("sbverify accepts a changed file: %s", out)
	}
}

func TestWeAcceptSbsign(t *testing.T) {
	key, cert := newKey(t, "db")
	pe, err := Assemble(stub(t), sample())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{
		"in.efi": pe, "db.crt": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}),
		"db.key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("sbsign", "--key", "db.key", "--cert", "db.crt", "--output", "out.efi", "in.efi")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("sbsign (package sbsigntool): %v\n%s", err, out)
	}
	signed, err := os.ReadFile(filepath.Join(dir, "out.efi"))
	if err != nil {
		t.Fatal(err)
	}
	if err := Verify(signed, cert); err != nil {
		t.Error(err)
	}
}

func FuzzParse(f *testing.F) {
	pe, err := Assemble(stub(f), sample())
	if err != nil {
		f.Fatal(err)
	}
	key, cert := newKey(f, "db")
	signed, err := Sign(pe, key, cert)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(signed[:2048])
	f.Add(signed[len(signed)-2000:])
	f.Add([]byte("MZ"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := Sections(b); err == nil {
			_, _ = StubVersion(b)
		}
		if Verify(b, cert) == nil && !bytes.Equal(b, signed) {
			t.Error("accepted a file that was not signed")
		}
		_ = verifyPKCS7(b, [32]byte{}, cert)
	})
}
