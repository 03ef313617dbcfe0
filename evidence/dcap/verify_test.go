package dcap_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"encoding/pem"
	"fmt"
	"sync"
	"testing"
	"time"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/dcap"
	"cloister.dev/cloister/evidence/dcap/dcaptest"
)

// header makes header and body of a quote, as far as this package looks at it.
func header(version uint16, tee dcap.TEE) []byte {
	raw := make([]byte, 48+584)
	binary.LittleEndian.PutUint16(raw, version)
	binary.LittleEndian.PutUint32(raw[4:], uint32(tee))
	return raw
}

var now = dcap.Options{At: dcaptest.Now}

func TestVerifyForms(t *testing.T) {
	for _, r := range []struct {
		name    string
		version uint16
		tee     dcap.TEE
		o       dcaptest.Options
	}{
		{"SGX v3", 3, dcap.SGX, dcaptest.Options{}},
		{"SGX v4", 4, dcap.SGX, dcaptest.Options{CA: dcap.Processor}},
		{"TD v4", 4, dcap.TDX, dcaptest.Options{}},
		{"TD v5, processor CA", 5, dcap.TDX, dcaptest.Options{CA: dcap.Processor}},
		{"software root", 4, dcap.TDX, dcaptest.Options{Software: true}},
	} {
		t.Run(r.name, func(t *testing.T) {
			v := dcaptest.New(t, r.o)
			signed := header(r.version, r.tee)
			raw := v.Sign(t, signed, r.version)
			s, err := dcap.ParseSignatureData(r.version, raw)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(dcaptest.Marshal(r.version, s), raw) {
				t.Error("read and written again, it is another")
			}
			got, err := v.Verify(t, signed, s, now)
			if err != nil {
				t.Fatal(err)
			}
			p := got.PCK()
			if p.FMSPC != v.Options.FMSPC || p.SGXTCB != v.Options.SGXTCB || p.PCESVN != v.Options.PCESVN || p.CA != v.Options.CA || p.SGXType != 1 {
				t.Errorf("%+v", p)
			}
			if platform := v.Options.CA == dcap.Platform; platform != (p.InstanceID != nil) || platform != (p.SMT != nil && *p.SMT && *p.DynamicPlatform && !*p.CachedKeys) {
				t.Errorf("platform configuration %+v", p)
			}
			if got.QEReport().ISVProdID == 0 {
				t.Error("no QE report")
			}
			if un, err := s.UnverifiedPCK(); err != nil || un.FMSPC != p.FMSPC {
				t.Error(un, err)
			}
			if _, err := dcap.Verify(signed, s, now); evidence.CodeOf(err) != evidence.CodeChain {
				t.Errorf("under Intel's root: %v", err)
			}
		})
	}
}

func TestVerifyRefuses(t *testing.T) {
	v, other := dcaptest.New(t, dcaptest.Options{}), dcaptest.New(t, dcaptest.Options{})
	signed := header(4, dcap.TDX)
	good := v.Section(t, signed)
	if _, err := v.Verify(t, signed, good, now); err != nil {
		t.Fatal("positive twin:", err)
	}
	n := elliptic.P256().Params().N
	with := func(edit func(*dcap.SignatureData)) *dcap.SignatureData {
		s := *good
		edit(&s)
		return &s
	}
	section := func(edit func(*dcaptest.Section)) *dcap.SignatureData { return v.Section(t, signed, edit) }
	pck := func(edit func(*x509.Certificate)) *dcap.SignatureData {
		return section(func(s *dcaptest.Section) {
			w := *v
			w.Options.EditPCK = edit
			c := w.NewPCK(t, v.CA)
			s.PCKKey, s.Chain = c.Key, dcaptest.PEM(c, v.CA, v.Root)
		})
	}
	ca := func(edit func(*x509.Certificate)) *dcap.SignatureData {
		return section(func(s *dcaptest.Section) {
			tmpl := v.Template(" PCK Platform CA", true)
			edit(tmpl)
			a := v.Issue(t, &v.Root, tmpl)
			c := v.NewPCK(t, a)
			s.PCKKey, s.Chain = c.Key, dcaptest.PEM(c, a, v.Root)
		})
	}
	extension := func(edit func(*dcaptest.SGXExtension)) *dcap.SignatureData {
		return section(func(s *dcaptest.Section) {
			w := *v
			w.Options.Extension = edit
			c := w.NewPCK(t, v.CA)
			s.PCKKey, s.Chain = c.Key, dcaptest.PEM(c, v.CA, v.Root)
		})
	}
	tcb := func(id int, der []byte) *dcap.SignatureData {
		return extension(func(x *dcaptest.SGXExtension) { dcaptest.Set(&x.TCB, id, der) })
	}
	top := func(id int, der []byte) *dcap.SignatureData {
		return extension(func(x *dcaptest.SGXExtension) { dcaptest.Set(&x.Top, id, der) })
	}
	if _, err := v.Verify(t, signed, tcb(17, []byte{2, 3, 0, 0xff, 0xff}), now); err != nil {
		t.Fatal("positive twin, PCESVN 65535:", err)
	}
	if _, err := v.Verify(t, signed, section(func(s *dcaptest.Section) { s.Chain = append(s.Chain, 0) }), now); err != nil {
		t.Fatal("positive twin, NUL after the chain:", err)
	}
	for _, r := range []struct {
		name string
		s    *dcap.SignatureData
		want evidence.Code
	}{
		{"TDX-24 no section", nil, evidence.CodeParse},
		{"TDX-23 no PCK chain", with(func(s *dcap.SignatureData) { s.PCKChainPEM = nil }), evidence.CodeParse},
		{"TDX-23 two certificates", section(func(s *dcaptest.Section) { s.Chain = dcaptest.PEM(v.PCK, v.CA) }), evidence.CodeParse},
		{"TDX-23 four certificates", section(func(s *dcaptest.Section) { s.Chain = dcaptest.PEM(v.PCK, v.CA, v.CA, v.Root) }), evidence.CodeParse},
		{"TDX-23 text before the chain", section(func(s *dcaptest.Section) { s.Chain = append([]byte("x\n"), s.Chain...) }), evidence.CodeParse},
		{"TDX-23 two NULs after the chain", section(func(s *dcaptest.Section) { s.Chain = append(s.Chain, 0, 0) }), evidence.CodeParse},
		{"TDX-26 signature of zeros", with(func(s *dcap.SignatureData) { s.Signature = [64]byte{} }), evidence.CodeChain},
		{"TDX-26 r is zero", with(func(s *dcap.SignatureData) { clear(s.Signature[:32]) }), evidence.CodeChain},
		{"TDX-26 s is zero", with(func(s *dcap.SignatureData) { clear(s.Signature[32:]) }), evidence.CodeChain},
		{"TDX-26 r is n", with(func(s *dcap.SignatureData) { n.FillBytes(s.Signature[:32]) }), evidence.CodeChain},
		{"TDX-26 s is n", with(func(s *dcap.SignatureData) { n.FillBytes(s.Signature[32:]) }), evidence.CodeChain},
		{"TDX-26 all ones", with(func(s *dcap.SignatureData) { copy(s.Signature[:], bytes.Repeat([]byte{0xff}, 64)) }), evidence.CodeChain},
		{"TDX-26 QE signature of zeros", with(func(s *dcap.SignatureData) { s.QESignature = [64]byte{} }), evidence.CodeChain},
		{"TDX-26 QE report by another key", section(func(s *dcaptest.Section) { s.PCKKey = other.PCK.Key }), evidence.CodeChain},
		{"TDX-26 another attestation key", with(func(s *dcap.SignatureData) { s.AttestationKey = other.Section(t, signed).AttestationKey }), evidence.CodeChain},
		{"TDX-26 other authentication data", with(func(s *dcap.SignatureData) { s.AuthData = []byte{1} }), evidence.CodeChain},
		{"TDX-26 report data of another key", section(func(s *dcaptest.Section) { s.ReportData = &[64]byte{} }), evidence.CodeChain},
		{"TDX-26 report data with a tail", section(func(s *dcaptest.Section) {
			d := [64]byte(good.QEReport[320:])
			d[63] = 1
			s.ReportData = &d
		}), evidence.CodeChain},
		{"TDX-26 attestation key off the curve", offCurve(t, v, good), evidence.CodeChain},
		{"TDX-01 QE of another signer", section(func(s *dcaptest.Section) { s.QE.MRSigner[0] ^= 1 }), evidence.CodeChain},
		{"TDX-01 other product of the QE's signer", section(func(s *dcaptest.Section) { s.QE.ISVProdID = 3 }), evidence.CodeChain},
		{"TDX-01 QE under a debugger", section(func(s *dcaptest.Section) { s.QE.Attributes[0] |= 2 }), evidence.CodeChain},
		{"TDX-01 QE not initialised", section(func(s *dcaptest.Section) { s.QE.Attributes[0] &^= 1 }), evidence.CodeChain},
		{"TDX-17 a consistent chain of another root", other.Section(t, signed), evidence.CodeChain},
		{"TDX-17 another root of that name", section(func(s *dcaptest.Section) { s.Chain = dcaptest.PEM(v.PCK, v.CA, other.Root) }), evidence.CodeChain},
		{"another CA of that name", section(func(s *dcaptest.Section) { s.Chain = dcaptest.PEM(v.PCK, other.CA, v.Root) }), evidence.CodeChain},
		{"the TCB signer as PCK", section(func(s *dcaptest.Section) { s.PCKKey, s.Chain = v.Signer.Key, dcaptest.PEM(v.Signer, v.CA, v.Root) }), evidence.CodeChain},
		{"CA of another name", ca(func(c *x509.Certificate) { c.Subject.CommonName = "Intel SGX Somebody PCK Platform CA" }), evidence.CodeChain},
		{"CA that is none", ca(func(c *x509.Certificate) { c.IsCA = false }), evidence.CodeChain},
		{"CA that may not sign certificates", ca(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign }), evidence.CodeChain},
		{"CA expired", ca(func(c *x509.Certificate) { c.NotAfter = dcaptest.Now.AddDate(0, 0, -1) }), evidence.CodeChain},
		{"PCK expired", pck(func(c *x509.Certificate) { c.NotAfter = dcaptest.Now.AddDate(0, 0, -1) }), evidence.CodeChain},
		{"PCK not valid yet", pck(func(c *x509.Certificate) { c.NotBefore = dcaptest.Now.AddDate(0, 0, 1) }), evidence.CodeChain},
		{"PCK of another name", pck(func(c *x509.Certificate) { c.Subject.CommonName = "Intel SGX PCK" }), evidence.CodeChain},
		{"PCK that is an authority", pck(func(c *x509.Certificate) { c.IsCA = true; c.KeyUsage = x509.KeyUsageCertSign }), evidence.CodeChain},
		{"PCK that may not sign", pck(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyAgreement }), evidence.CodeChain},
		{"PCK with an unknown critical extension", pck(func(c *x509.Certificate) {
			e := c.ExtraExtensions[0]
			e.Id, e.Critical = asn1.ObjectIdentifier{1, 2, 3}, true
			c.ExtraExtensions = append(c.ExtraExtensions, e)
		}), evidence.CodeChain},
		{"PCK without the SGX extension", pck(func(c *x509.Certificate) { c.ExtraExtensions = nil }), evidence.CodeChain},
		{"TCB component missing", extension(func(x *dcaptest.SGXExtension) { dcaptest.Drop(&x.TCB, 16) }), evidence.CodeParse},
		{"TCB component twice", extension(func(x *dcaptest.SGXExtension) { x.TCB = append(x.TCB, x.TCB[0]) }), evidence.CodeParse},
		{"TCB component 256", tcb(3, []byte{2, 2, 1, 0}), evidence.CodeParse},
		{"TCB component negative", tcb(3, []byte{2, 1, 0xff}), evidence.CodeParse},
		{"TCB component over-long", tcb(3, []byte{2, 2, 0, 4}), evidence.CodeParse},
		{"TCB component in the long length form", tcb(3, []byte{2, 0x81, 1, 4}), evidence.CodeParse},
		{"TCB component as text", tcb(3, []byte{0x0c, 1, '4'}), evidence.CodeParse},
		{"PCESVN of 17 bits", tcb(17, []byte{2, 3, 1, 0, 0}), evidence.CodeParse},
		{"CPUSVN of 15 bytes", tcb(18, append([]byte{4, 15}, make([]byte, 15)...)), evidence.CodeParse},
		{"no PPID", extension(func(x *dcaptest.SGXExtension) { dcaptest.Drop(&x.Top, 1) }), evidence.CodeParse},
		{"no FMSPC", extension(func(x *dcaptest.SGXExtension) { dcaptest.Drop(&x.Top, 4) }), evidence.CodeParse},
		{"FMSPC of 5 bytes", top(4, []byte{4, 5, 0, 0, 0, 0, 0}), evidence.CodeParse},
		{"PCE id twice", extension(func(x *dcaptest.SGXExtension) { x.Top = append(x.Top, dcaptest.Pair{ID: 3, Value: []byte{4, 2, 0, 0}}) }), evidence.CodeParse},
		{"PCE id of 3 bytes", top(3, []byte{4, 3, 0, 0, 0}), evidence.CodeParse},
		{"SGX type 3", top(5, []byte{10, 1, 3}), evidence.CodeParse},
		{"configuration that is no DER BOOLEAN", top(7, []byte{0x30, 18, 0x30, 16, 6, 11, 0x2a, 0x86, 0x48, 0x86, 0xf8, 0x4d, 1, 13, 1, 7, 1, 1, 1, 1}), evidence.CodeParse},
		{"TCB not a sequence", top(2, []byte{4, 0}), evidence.CodeParse},
		{"bytes after the value of a pair", top(3, []byte{4, 2, 0, 0, 5, 0}), evidence.CodeParse},
	} {
		t.Run(r.name, func(t *testing.T) {
			chains := &dcap.ChainCache{}
			for _, o := range []dcap.Options{now, {At: dcaptest.Now, Chains: chains}, {At: dcaptest.Now, Chains: chains}} {
				if _, err := v.Verify(t, signed, r.s, o); evidence.CodeOf(err) != r.want {
					t.Errorf("%v, want %s", err, r.want)
				}
			}
		})
	}
	t.Run("TDX-26 other header or body", func(t *testing.T) {
		if _, err := v.Verify(t, append(header(4, dcap.TDX), 0), good, now); evidence.CodeOf(err) != evidence.CodeChain {
			t.Error(err)
		}
	})
	t.Run("TDX-24 nothing signed", func(t *testing.T) {
		if _, err := v.Verify(t, nil, good, now); evidence.CodeOf(err) != evidence.CodeParse {
			t.Error(err)
		}
	})
	t.Run("key on another curve", func(t *testing.T) {
		key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		tmpl := *v.PCK.Cert
		tmpl.ExtraExtensions = v.PCK.Cert.Extensions[:0:0]
		for _, e := range v.PCK.Cert.Extensions {
			if e.Id.Equal(asn1.ObjectIdentifier{1, 2, 840, 113741, 1, 13, 1}) {
				tmpl.ExtraExtensions = append(tmpl.ExtraExtensions, e)
			}
		}
		der, err := x509.CreateCertificate(rand.Reader, &tmpl, v.CA.Cert, &key.PublicKey, v.CA.Key)
		if err != nil {
			t.Fatal(err)
		}
		leaf := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
		s := with(func(s *dcap.SignatureData) { s.PCKChainPEM = append(leaf, dcaptest.PEM(v.CA, v.Root)...) })
		if _, err := v.Verify(t, signed, s, now); evidence.CodeOf(err) != evidence.CodeChain {
			t.Error(err)
		}
	})
}

// offCurve binds a key that is no point of the curve, as a quoting enclave never would.
func offCurve(t *testing.T, v *dcaptest.Vendor, good *dcap.SignatureData) *dcap.SignatureData {
	t.Helper()
	s := *good
	s.AttestationKey[63] ^= 1
	sum := sha256.Sum256(append(s.AttestationKey[:], s.AuthData...))
	copy(s.QEReport[320:], sum[:])
	s.QESignature = dcaptest.Signature(t, v.PCK.Key, s.QEReport[:])
	return &s
}

func TestParseSignatureDataRefuses(t *testing.T) {
	v := dcaptest.New(t, dcaptest.Options{})
	signed := header(4, dcap.TDX)
	s := v.Section(t, signed)
	flat, nested := dcaptest.Marshal(3, s), dcaptest.Marshal(4, s)
	at := func(raw []byte, off int, b ...byte) []byte {
		out := bytes.Clone(raw)
		copy(out[off:], b)
		return out
	}
	const inner = 128 + 6         // QE report of a nested section
	const auth = inner + 384 + 64 // its authentication data's size
	const kind = auth + 2 + 32
	for _, r := range []struct {
		name    string
		version uint16
		raw     []byte
		want    evidence.Code
	}{
		{"TDX-24 nothing", 4, nil, evidence.CodeParse},
		{"version 2", 2, flat, evidence.CodeUnsupported},
		{"version 6", 6, nested, evidence.CodeUnsupported},
		{"TDX-14 flat section in version 4", 4, flat, evidence.CodeParse},
		{"TDX-14 nested section in version 3", 3, nested, evidence.CodeParse},
		{"TDX-14 type 5 after the key", 4, at(nested, 128, 5, 0), evidence.CodeParse},
		{"TDX-14 type 6 within type 6", 4, at(nested, kind, 6, 0), evidence.CodeParse},
		{"TDX-14 encrypted PPID in place of a chain", 4, at(nested, kind, 3, 0), evidence.CodeParse},
		{"TDX-14 outer size one too small", 4, at(nested, 130, nested[130]-1), evidence.CodeParse},
		{"TDX-14 outer size one too large", 4, at(nested, 130, nested[130]+1), evidence.CodeParse},
		{"TDX-14 byte after the outer data", 4, append(bytes.Clone(nested), 0), evidence.CodeParse},
		{"TDX-14 byte after the chain, version 3", 3, append(bytes.Clone(flat), 0), evidence.CodeParse},
		{"TDX-14 inner size one too small", 4, at(nested, kind+2, nested[kind+2]-1), evidence.CodeParse},
		{"TDX-14 authentication data one too long", 4, at(nested, auth, 33), evidence.CodeParse},
		{"TDX-25 outer size 0xffffffff", 4, at(nested, 130, 255, 255, 255, 255), evidence.CodeParse},
		{"TDX-25 inner size 0xffffffff", 4, at(nested, kind+2, 255, 255, 255, 255), evidence.CodeParse},
		{"TDX-25 authentication data of 65535 bytes", 4, at(nested, auth, 255, 255), evidence.CodeParse},
		{"TDX-25 chain of 65 KiB", 4, dcaptest.Marshal(4, &dcap.SignatureData{PCKChainPEM: append(bytes.Clone(s.PCKChainPEM), make([]byte, 65<<10)...)}), evidence.CodeParse},
		{"TDX-23 empty chain", 4, dcaptest.Marshal(4, &dcap.SignatureData{}), evidence.CodeParse},
		{"TDX-23 chain that is no PEM", 4, dcaptest.Marshal(4, &dcap.SignatureData{PCKChainPEM: []byte("x")}), evidence.CodeParse},
	} {
		t.Run(r.name, func(t *testing.T) {
			if _, err := dcap.ParseSignatureData(r.version, r.raw); evidence.CodeOf(err) != r.want {
				t.Errorf("%v, want %s", err, r.want)
			}
		})
	}
	t.Run("TDX-23 every prefix", func(t *testing.T) {
		for version, raw := range map[uint16][]byte{3: flat, 4: nested, 5: nested} {
			if _, err := dcap.ParseSignatureData(version, raw); err != nil {
				t.Fatal("positive twin:", err)
			}
			for n := range raw {
				if _, err := dcap.ParseSignatureData(version, raw[:n]); evidence.CodeOf(err) != evidence.CodeParse {
					t.Fatalf("version %d, %d bytes: %v", version, n, err)
				}
			}
		}
	})
	t.Run("TDX-25 DER nested 10000 deep", func(t *testing.T) {
		var deep []byte
		for range 10000 {
			n := len(deep)
			deep = append([]byte{0x30, 0x83, byte(n >> 16), byte(n >> 8), byte(n)}, deep...)
			if n < 128 {
				deep = append([]byte{0x30, byte(n)}, deep[5:]...)
			} else if n < 256 {
				deep = append([]byte{0x30, 0x81, byte(n)}, deep[5:]...)
			} else if n < 65536 {
				deep = append([]byte{0x30, 0x82, byte(n >> 8), byte(n)}, deep[5:]...)
			}
		}
		cert := *v.PCK.Cert
		cert.Extensions = nil
		for _, e := range v.PCK.Cert.Extensions {
			if e.Id.Equal(asn1.ObjectIdentifier{1, 2, 840, 113741, 1, 13, 1}) {
				e.Value = deep
			}
			cert.Extensions = append(cert.Extensions, e)
		}
		if _, err := dcap.ParsePCK(&cert); evidence.CodeOf(err) != evidence.CodeParse {
			t.Error(err)
		}
	})
}

// TestEveryBitCounts flips bits of what is signed, of the signatures and of the key: all of them in real and made
// quotes, every 37th in short runs.
func TestEveryBitCounts(t *testing.T) {
	v := dcaptest.New(t, dcaptest.Options{})
	signed := header(4, dcap.TDX)
	t.Run("TDX-26 made", func(t *testing.T) {
		flip(t, signed, v.Section(t, signed), func(b []byte, s *dcap.SignatureData, o dcap.Options) error {
			_, err := v.Verify(t, b, s, o)
			return err
		}, dcaptest.Now)
	})
	t.Run("TDX-26 real", func(t *testing.T) {
		q := split(t, vector(t, "dcap-quotes-with-collateral/tdx_quote"))
		s, err := dcap.ParseSignatureData(q.version, q.signature)
		if err != nil {
			t.Fatal(err)
		}
		flip(t, bytes.Clone(q.signed), s, func(b []byte, s *dcap.SignatureData, o dcap.Options) error {
			_, err := dcap.Verify(b, s, o)
			return err
		}, day(t, "2025-07-01"))
	})
}

func flip(t *testing.T, signed []byte, s *dcap.SignatureData, verify func([]byte, *dcap.SignatureData, dcap.Options) error, at time.Time) {
	o := dcap.Options{At: at, Chains: dcap.NewChainCache(1)}
	if err := verify(signed, s, o); err != nil {
		t.Fatal("positive twin:", err)
	}
	stride := 1
	if testing.Short() {
		stride = 37
	}
	var wg sync.WaitGroup
	for part := range 2 {
		wg.Go(func() {
			b, c := bytes.Clone(signed), *s
			c.AuthData = bytes.Clone(s.AuthData)
			for name, region := range map[string][]byte{"signed": b, "signature": c.Signature[:], "key": c.AttestationKey[:], "QE report": c.QEReport[:], "QE signature": c.QESignature[:], "authentication data": c.AuthData} {
				for bit := part * stride; bit < len(region)*8; bit += 2 * stride {
					region[bit/8] ^= 1 << (bit % 8)
					if err := verify(b, &c, o); err == nil {
						t.Errorf("bit %d of byte %d of %s does not count", bit%8, bit/8, name)
					}
					region[bit/8] ^= 1 << (bit % 8)
				}
			}
		})
	}
	wg.Wait()
}

func TestChainCache(t *testing.T) {
	v := dcaptest.New(t, dcaptest.Options{})
	signed := header(4, dcap.TDX)
	t.Run("bounded", func(t *testing.T) {
		chains := dcap.NewChainCache(2)
		for range 5 {
			w := *v
			w.PCK = w.NewPCK(t, w.CA)
			if _, err := w.Verify(t, signed, w.Section(t, signed), dcap.Options{At: dcaptest.Now, Chains: chains}); err != nil {
				t.Fatal(err)
			}
		}
		if chains.Len() != 2 {
			t.Error(chains.Len())
		}
	})
	t.Run("a stranger's chain takes no room", func(t *testing.T) {
		chains, s := &dcap.ChainCache{}, v.Section(t, signed)
		if _, err := dcap.Verify(signed, s, dcap.Options{At: dcaptest.Now, Chains: chains}); err == nil || chains.Len() != 0 {
			t.Error(err, chains.Len())
		}
	})
	t.Run("TDX-17 what is known is judged again under another root and at another time", func(t *testing.T) {
		chains, s := &dcap.ChainCache{}, v.Section(t, signed)
		if _, err := v.Verify(t, signed, s, dcap.Options{At: dcaptest.Now, Chains: chains}); err != nil || chains.Len() != 1 {
			t.Fatal(err)
		}
		if _, err := dcap.Verify(signed, s, dcap.Options{At: dcaptest.Now, Chains: chains}); evidence.CodeOf(err) != evidence.CodeChain {
			t.Error(err)
		}
		if _, err := v.Verify(t, signed, s, dcap.Options{At: dcaptest.Now.AddDate(20, 0, 0), Chains: chains}); evidence.CodeOf(err) != evidence.CodeChain {
			t.Error(err)
		}
	})
	t.Run("shared", func(t *testing.T) {
		chains, s := &dcap.ChainCache{}, v.Section(t, signed)
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				if _, err := v.Verify(t, signed, s, dcap.Options{At: dcaptest.Now, Chains: chains}); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	})
	t.Run("nobody can change what counts", func(t *testing.T) {
		got, err := v.Verify(t, signed, v.Section(t, signed), now)
		if err != nil {
			t.Fatal(err)
		}
		got.PCK().FMSPC[0] ^= 1
		got.PCK().Cert.SerialNumber.SetInt64(1)
		if got.PCK().FMSPC != v.Options.FMSPC {
			t.Error("changed")
		}
		c := v.Collateral(t, dcap.TDX, dcaptest.Now, func(d *dcaptest.Documents) { d.PCKCRL.Revoke(v.PCK) })
		if _, err := got.Appraise(c, dcap.TDX, dcaptest.TEETCBSVN, now); evidence.CodeOf(err) != evidence.CodeRevoked {
			t.Error(err)
		}
	})
}

func BenchmarkWarmVerify(b *testing.B) {
	v := dcaptest.New(b, dcaptest.Options{})
	signed := header(4, dcap.TDX)
	s := v.Section(b, signed)
	o := dcap.Options{At: dcaptest.Now, Chains: dcap.NewChainCache(1)}
	c := v.Collateral(b, dcap.TDX, dcaptest.Now)
	for b.Loop() {
		got, err := v.Verify(b, signed, s, o)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := got.Appraise(c, dcap.TDX, dcaptest.TEETCBSVN, o); err != nil {
			b.Fatal(err)
		}
	}
}

func FuzzSignatureData(f *testing.F) {
	v := dcaptest.New(f, dcaptest.Options{})
	signed := header(4, dcap.TDX)
	s := v.Section(f, signed)
	for version := uint16(3); version <= 5; version++ {
		f.Add(version, dcaptest.Marshal(version, s))
	}
	f.Fuzz(func(t *testing.T, version uint16, raw []byte) {
		s, err := dcap.ParseSignatureData(version, raw)
		if err != nil {
			if evidence.CodeOf(err) == "" {
				t.Fatal(err)
			}
			return
		}
		if !bytes.Equal(dcaptest.Marshal(version, s), raw) {
			t.Fatal("read and written again, it is another")
		}
		if _, err := dcap.Verify(signed, s, now); err == nil {
			t.Fatal("accepted under Intel's root")
		}
	})
}

func FuzzSGXExtension(f *testing.F) {
	v := dcaptest.New(f, dcaptest.Options{})
	for _, e := range v.PCK.Cert.Extensions {
		if e.Id.Equal(asn1.ObjectIdentifier{1, 2, 840, 113741, 1, 13, 1}) {
			f.Add(e.Value)
		}
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		cert := *v.PCK.Cert
		cert.Extensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 840, 113741, 1, 13, 1}, Value: value}}
		p, err := dcap.ParsePCK(&cert)
		if (err == nil) != (p != nil) || err != nil && evidence.CodeOf(err) == "" {
			t.Fatal(fmt.Sprint(p), err)
		}
	})
}
