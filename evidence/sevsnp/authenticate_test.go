package sevsnp_test

import (
	"crypto/elliptic"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/sevsnp"
	"cloister.dev/cloister/evidence/sevsnp/sevsnptest"
)

var testTCB = sevsnp.TCB{BootLoader: 4, SNP: 0x18, Microcode: 0xdb}

// certs reads PEM or DER certificates.
func certs(t testing.TB, raw []byte) (out []*x509.Certificate) {
	t.Helper()
	if block, _ := pem.Decode(raw); block == nil {
		c, err := x509.ParseCertificate(raw)
		if err != nil {
			t.Fatal(err)
		}
		return []*x509.Certificate{c}
	}
	for block, rest := pem.Decode(raw); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, c)
	}
	return out
}

// leafOf reads a leaf: a file of its own, or a member of an evidence file.
func leafOf(t testing.TB, name string) *x509.Certificate {
	raw := vector(t, name)
	if strings.HasSuffix(name, ".json") {
		var f struct{ VCEK string }
		if err := json.Unmarshal(raw, &f); err != nil {
			t.Fatal(err)
		}
		var err error
		if raw, err = base64.URLEncoding.DecodeString(f.VCEK); err != nil {
			raw = []byte(f.VCEK)
		}
	}
	return certs(t, raw)[0]
}

func realChain(t testing.TB, leaf, roots string, intermediate int) sevsnp.Chain {
	r := certs(t, vector(t, "amd-roots/"+roots+"_ask_ark_asvk.pem"))
	return sevsnp.Chain{Leaf: leafOf(t, leaf), Intermediate: r[intermediate], Root: r[1]}
}

func TestAuthenticateRealReports(t *testing.T) {
	at := func(s string) time.Time {
		v, err := time.Parse(time.DateOnly, s)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	for _, r := range []struct {
		name, report, leaf, roots string
		intermediate              int
		at                        string
		want                      evidence.Code
	}{
		{"Azure Milan", "az-snp-vtpm-evidence/hcl-report.bin", "az-snp-vtpm-evidence/vcek.pem", "milan", 0, "2025-06-01", ""},
		{"v2 debug guest is authentic", "snp-milan-gosevguest/attestation.bin", "snp-milan-gosevguest/vcek.testcer", "milan", 0, "2025-01-01", ""},
		{"v2", "snp-trustee/test-report.bin", "snp-trustee/test-vcek.der", "milan", 0, "2025-01-01", ""},
		{"VLEK v3", "snp-trustee/test-vlek-report.bin", "snp-trustee/test-vlek.der", "milan", 2, "2025-06-01", ""},
		{"virtee", "snp-virtee/report_milan.hex", "snp-virtee/vcek_milan.der", "milan", 0, "2025-01-01", ""},
		{"container", "azure-aci-thim-snp/snp_report.bin", "azure-aci-thim-snp/uvm_host_amd_certificate.pem", "milan", 0, "2024-01-01", ""},
		{"Azure Milan v3", "az-snp-vtpm-evidence/evidence-v1.json", "az-snp-vtpm-evidence/evidence-v1.json", "milan", 0, "2025-12-01", ""},
		{"Azure Milan v3 of 2025", "az-snp-vtpm-evidence/evidence-v2.json", "az-snp-vtpm-evidence/evidence-v2.json", "milan", 0, "2026-06-01", ""},
		{"Azure Genoa", "az-snp-vtpm-evidence/evidence-genoa.json", "az-snp-vtpm-evidence/vcek-genoa.pem", "genoa", 0, "2026-06-01", ""},
		{"SNP-15 Genoa report, Milan roots", "az-snp-vtpm-evidence/evidence-genoa.json", "az-snp-vtpm-evidence/vcek-genoa.pem", "milan", 0, "2026-06-01", evidence.CodeChain},
		{"SNP-15 Genoa report, Milan VCEK", "az-snp-vtpm-evidence/evidence-genoa.json", "az-snp-vtpm-evidence/evidence-v1.json", "milan", 0, "2026-06-01", evidence.CodeChain},
		{"SNP-06 Genoa report, ASVK", "az-snp-vtpm-evidence/evidence-genoa.json", "az-snp-vtpm-evidence/vcek-genoa.pem", "genoa", 2, "2026-06-01", evidence.CodeChain},
		{"SNP-15 Turin VCEK for a Milan report", "snp-trustee/test-report.bin", "snp-virtee/vcek_turin.der", "turin", 0, "2026-06-01", evidence.CodeUnsupported},
		{"SNP-15 Turin VCEK for a Genoa report", "az-snp-vtpm-evidence/evidence-genoa.json", "snp-virtee/vcek_turin.der", "turin", 0, "2026-06-01", evidence.CodeChain},
		{"SNP-10 VCEK of another TCB", "az-snp-vtpm-evidence/evidence-v1.json", "az-snp-vtpm-evidence/evidence-v2.json", "milan", 0, "2026-06-01", evidence.CodeChain},
		{"SNP-32 before the VCEK", "az-snp-vtpm-evidence/evidence-genoa.json", "az-snp-vtpm-evidence/vcek-genoa.pem", "genoa", 0, "2020-06-01", evidence.CodeChain},
		{"SNP-32 after the VCEK", "az-snp-vtpm-evidence/evidence-genoa.json", "az-snp-vtpm-evidence/vcek-genoa.pem", "genoa", 0, "2046-06-01", evidence.CodeChain},
		{"KVM guest", "launch/snp-real-milan/report.bin", "launch/snp-real-milan/vcek.pem", "milan", 0, "2026-10-01", ""},
		{"SNP-32 VLEK expired", "snp-trustee/test-vlek-report.bin", "snp-trustee/test-vlek.der", "milan", 2, "2026-06-01", evidence.CodeChain},
		{"SNP-06 VLEK with the ASK", "snp-trustee/test-vlek-report.bin", "snp-trustee/test-vlek.der", "milan", 0, "2025-06-01", evidence.CodeChain},
		{"SNP-06 VCEK with the ASVK", "snp-trustee/test-report.bin", "snp-trustee/test-vcek.der", "milan", 2, "2025-01-01", evidence.CodeChain},
		{"SNP-06 VCEK for a VLEK report", "snp-trustee/test-vlek-report.bin", "snp-trustee/test-vcek.der", "milan", 0, "2025-06-01", evidence.CodeChain},
		{"not issued by AMD, legacy", "snp-trustee/test-report.bin", "snp-trustee/test-vcek-invalid-legacy.der", "milan", 0, "2025-01-01", evidence.CodeChain},
		{"not issued by AMD, new", "snp-trustee/test-report.bin", "snp-trustee/test-vcek-invalid-new.der", "milan", 0, "2025-01-01", evidence.CodeChain},
		{"SNP-15 Genoa roots", "snp-trustee/test-report.bin", "snp-trustee/test-vcek.der", "genoa", 0, "2025-01-01", evidence.CodeChain},
		{"another chip", "hcl-snp-milan/hcl-report-snp-2048.bin", "hcl-snp-milan/vcek-ask-ark-chain.pem", "milan", 0, "2024-01-01", evidence.CodeChain},
	} {
		t.Run(r.name, func(t *testing.T) {
			rep, err := sevsnp.Parse(realReport(t, r.report))
			if err != nil {
				t.Fatal(err)
			}
			a, err := sevsnp.Authenticate(rep, realChain(t, r.leaf, r.roots, r.intermediate), sevsnp.Options{At: at(r.at)})
			if evidence.CodeOf(err) != r.want {
				t.Fatalf("%v, want %q", err, r.want)
			}
			if line, _, _ := strings.Cut(r.roots, "_"); err == nil && (a.Root() != evidence.RootAMD || !strings.EqualFold(a.Product(), line)) {
				t.Errorf("root %s product %s", a.Root(), a.Product())
			}
		})
	}
}

func TestAuthenticateRefuses(t *testing.T) {
	v, other, genoa := sevsnptest.New(t, sevsnp.Milan), sevsnptest.New(t, sevsnp.Milan), sevsnptest.New(t, sevsnp.Genoa)
	chip := v.Chip(t, testTCB, nil)
	vlek := v.VLEK(t, testTCB, nil)
	now := sevsnp.Options{At: sevsnptest.Now}
	auth := func(r *sevsnp.Report, c sevsnp.Chain, o sevsnp.Options) error {
		_, err := sevsnptest.Authenticate(t, r, c, o, v, genoa)
		return err
	}
	ok := chip.Sign(t, chip.Report())
	if err := auth(ok, chip.Chain, now); err != nil {
		t.Fatal("positive twin, VCEK:", err)
	}
	if err := auth(vlek.Sign(t, vlek.Report()), vlek.Chain, now); err != nil {
		t.Fatal("positive twin, VLEK:", err)
	}
	bad := func(change func(*sevsnptest.Leaf)) func() error {
		return func() error { c := v.Chip(t, testTCB, change); return auth(c.Sign(t, c.Report()), c.Chain, now) }
	}
	signed := func(change func(*sevsnp.Report)) func() error {
		return func() error { r := chip.Report(); change(r); return auth(chip.Sign(t, r), chip.Chain, now) }
	}
	sig := func(r, s *big.Int) func() error {
		return func() error {
			rep := *ok
			rep.Signature = sevsnp.EncodeSignature(r, s)
			return auth(&rep, chip.Chain, now)
		}
	}
	crl := func(l *x509.RevocationList) func() error {
		return func() error {
			return auth(ok, chip.Chain, sevsnp.Options{At: sevsnptest.Now, CRLs: []*x509.RevocationList{l}})
		}
	}
	from, next, n := sevsnptest.Now.AddDate(0, -1, 0), sevsnptest.Now.AddDate(0, 1, 0), elliptic.P384().Params().N
	idp := func(value []byte) []pkix.Extension {
		return []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 28}, Critical: true, Value: value}}
	}
	part := func(tag byte) []pkix.Extension { return idp([]byte{0x30, 3, tag, 1, 0xff}) }
	point := func(vlek bool) []pkix.Extension { // a full name: one URI
		uri := []byte(v.ListAddress(vlek))
		inner := append([]byte{0x86, byte(len(uri))}, uri...)
		full := append([]byte{0xa0, byte(len(inner))}, inner...)
		name := append([]byte{0xa0, byte(len(full))}, full...)
		return idp(append([]byte{0x30, byte(len(name))}, name...))
	}
	if err := crl(v.CRLWith(t, nil, from, next, point(false), 99))(); err != nil {
		t.Fatal("positive twin, list with a distribution point:", err)
	}
	ofVLEK := func(l *x509.RevocationList) func() error {
		return func() error {
			return auth(vlek.Sign(t, vlek.Report()), vlek.Chain, sevsnp.Options{At: sevsnptest.Now, CRLs: []*x509.RevocationList{l}})
		}
	}
	if err := ofVLEK(v.CRLWith(t, nil, from, next, point(true), 99))(); err != nil {
		t.Fatal("positive twin, list for VLEKs:", err)
	}
	if err := crl(v.CRL(t, nil, from, next, 99))(); err != nil {
		t.Fatal("positive twin, list:", err)
	}
	one := big.NewInt(1)
	type row struct {
		name string
		do   func() error
		want evidence.Code
	}
	rows := []row{
		{"SNP-08 VCEK without hardware id", bad(func(l *sevsnptest.Leaf) { l.Drop(sevsnptest.OID(4)) }), evidence.CodeChain},
		{"SNP-09 over-long INTEGER", bad(func(l *sevsnptest.Leaf) { l.Set(sevsnptest.OID(3, 1), []byte{2, 2, 0, 4}) }), evidence.CodeChain},
		{"SNP-09 negative INTEGER", bad(func(l *sevsnptest.Leaf) { l.Set(sevsnptest.OID(3, 8), []byte{2, 1, 0xdb}) }), evidence.CodeChain},
		{"SNP-09 long length form", bad(func(l *sevsnptest.Leaf) { l.Set(sevsnptest.OID(3, 1), []byte{2, 0x81, 1, 4}) }), evidence.CodeChain},
		{"SNP-09 trailing byte", bad(func(l *sevsnptest.Leaf) { l.Set(sevsnptest.OID(3, 1), []byte{2, 1, 4, 0}) }), evidence.CodeChain},
		{"SNP-09 two bytes with the right last one", bad(func(l *sevsnptest.Leaf) { l.Set(sevsnptest.OID(3, 1), []byte{2, 2, 1, 4}) }), evidence.CodeChain},
		{"a level missing", bad(func(l *sevsnptest.Leaf) { l.Drop(sevsnptest.OID(3, 3)) }), evidence.CodeChain},
		{"SNP-32 VCEK expired", bad(func(l *sevsnptest.Leaf) { l.NotAfter = from }), evidence.CodeChain},
		{"SNP-32 VCEK not yet valid", bad(func(l *sevsnptest.Leaf) { l.NotBefore = next }), evidence.CodeChain},
		{"SNP-06 VLEK report with VCEK chain", func() error { return auth(vlek.Sign(t, vlek.Report()), chip.Chain, now) }, evidence.CodeChain},
		{"SNP-06 VCEK report with ASVK chain", func() error { return auth(ok, vlek.Chain, now) }, evidence.CodeChain},
		{"SNP-10 reported TCB is another", signed(func(r *sevsnp.Report) { r.ReportedTCB.Microcode-- }), evidence.CodeChain},
		{"another chip id", signed(func(r *sevsnp.Report) { r.ChipID[0] ^= 1 }), evidence.CodeChain},
		{"SNP-13 root's key in another certificate", func() error {
			c := chip.Chain
			c.Root = v.Authority(t, "ARK-Milan", 1, &v.ARKKey.PublicKey, other.ASK, other.ASKKey)
			return auth(ok, c, now)
		}, evidence.CodeChain},
		{"SNP-14 a consistent chain of one's own", func() error {
			c := other.Chip(t, testTCB, nil)
			return auth(c.Sign(t, c.Report()), c.Chain, now)
		}, evidence.CodeChain},
		{"SNP-14 fake vendor against AMD's pins", func() error { _, err := sevsnp.Authenticate(ok, chip.Chain, now); return err }, evidence.CodeChain},
		{"SNP-15 Genoa report with a Milan chain", signed(func(r *sevsnp.Report) { r.CPUID = sevsnp.CPUID{Family: 0x19, Model: 0x11} }), evidence.CodeChain},
		{"SNP-18 ASK revoked", crl(v.CRL(t, nil, from, next, 0x10001)), evidence.CodeRevoked},
		{"SNP-19 stale list", crl(v.CRL(t, nil, from.AddDate(-1, 0, 0), from, 99)), evidence.CodeUnavailable},
		{"SNP-19 list from the future", crl(v.CRL(t, nil, next, next.AddDate(1, 0, 0), 99)), evidence.CodeUnavailable},
		{"SNP-20 list signed by the ASK", crl(v.CRL(t, v.ASKKey, from, next)), evidence.CodeChain},
		{"SNP-20 list of another root of that name", crl(other.CRL(t, nil, from, next)), evidence.CodeChain},
		{"SNP-18 ASK revoked, on a list with a distribution point", crl(v.CRLWith(t, nil, from, next, point(false), 0x10001)), evidence.CodeRevoked},
		{"SNP-18 ASVK revoked", ofVLEK(v.CRLWith(t, nil, from, next, point(true), 0x10101)), evidence.CodeRevoked},
		{"SNP-18 only the list for VLEKs, for a VCEK", crl(v.CRLWith(t, nil, from, next, point(true), 99)), evidence.CodeUnavailable},
		{"SNP-18 only the list for VCEKs, for a VLEK", ofVLEK(v.CRLWith(t, nil, from, next, point(false), 99)), evidence.CodeUnavailable},
		{"SNP-18 ASK revoked on a list that is stale", crl(v.CRL(t, nil, from.AddDate(-1, 0, 0), from, 0x10001)), evidence.CodeRevoked},
		{"SNP-18 ASK revoked on the list for VLEKs", crl(v.CRLWith(t, nil, from, next, point(true), 0x10001)), evidence.CodeRevoked},
		{"SNP-20 list of users' certificates only", crl(v.CRLWith(t, nil, from, next, part(0x81))), evidence.CodeUnsupported},
		{"SNP-20 list of authorities only", crl(v.CRLWith(t, nil, from, next, part(0x82))), evidence.CodeUnsupported},
		{"SNP-20 indirect list", crl(v.CRLWith(t, nil, from, next, part(0x84))), evidence.CodeUnsupported},
		{"SNP-20 list of attribute certificates only", crl(v.CRLWith(t, nil, from, next, part(0x85))), evidence.CodeUnsupported},
		{"SNP-20 list of some reasons", crl(v.CRLWith(t, nil, from, next, idp([]byte{0x30, 4, 0x83, 2, 1, 0x42}))), evidence.CodeUnsupported},
		{"SNP-20 distribution point that is none", crl(v.CRLWith(t, nil, from, next, idp([]byte{0x31, 0}))), evidence.CodeParse},
		{"SNP-20 a delta list", crl(v.CRLWith(t, nil, from, next, []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 27}, Critical: true, Value: []byte{2, 1, 1}}})), evidence.CodeUnsupported},
		{"SNP-18 list of another product only", crl(genoa.CRL(t, nil, from, next)), evidence.CodeUnavailable},
		{"SNP-18 list demanded, none given", func() error {
			return auth(ok, chip.Chain, sevsnp.Options{At: sevsnptest.Now, RequireCRL: true})
		}, evidence.CodeUnavailable},
		{"no time", func() error { return auth(ok, chip.Chain, sevsnp.Options{}) }, evidence.CodeUnavailable},
		{"no chain", func() error { return auth(ok, sevsnp.Chain{}, now) }, evidence.CodeChain},
		{"no report", func() error { return auth(nil, chip.Chain, now) }, evidence.CodeParse},
		{"SNP-33 r is zero", sig(new(big.Int), one), evidence.CodeChain},
		{"SNP-33 s is zero", sig(one, new(big.Int)), evidence.CodeChain},
		{"SNP-33 r is n", sig(n, one), evidence.CodeChain},
		{"SNP-33 s is above n", sig(one, new(big.Int).Add(n, one)), evidence.CodeChain},
	}
	for k := sevsnp.SigningKey(2); k <= 7; k++ {
		rows = append(rows, row{"SNP-07 signing key " + k.String(), signed(func(r *sevsnp.Report) { r.KeyInfo.SigningKey = k }), evidence.CodeUnsupported})
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			if err := r.do(); evidence.CodeOf(err) != r.want {
				t.Errorf("%v, want %s", err, r.want)
			}
		})
	}
}

func TestAppraise(t *testing.T) {
	v := sevsnptest.New(t, sevsnp.Milan)
	chip, vlek := v.Chip(t, testTCB, nil), v.VLEK(t, testTCB, nil)
	judge := func(c *sevsnptest.Chip, change func(*sevsnp.Report), e sevsnp.Expect) error {
		r := c.Report()
		if change != nil {
			change(r)
		}
		a, err := sevsnptest.Authenticate(t, c.Sign(t, r), c.Chain, sevsnp.Options{At: sevsnptest.Now}, v)
		if err != nil {
			t.Fatal(err)
		}
		return sevsnp.Refusal(sevsnp.Appraise(a, e))
	}
	expect := func(change func(*sevsnp.Expect)) sevsnp.Expect {
		e := sevsnp.Baseline()
		e.Root, e.Measurement = evidence.Exactly(evidence.RootAMD), evidence.Exactly([48]byte{})
		e.HostData, e.ReportData = evidence.Exactly([32]byte{}), evidence.Exactly([64]byte{})
		if change != nil {
			change(&e)
		}
		return e
	}
	if err := judge(chip, nil, expect(nil)); err != nil {
		t.Fatal("positive twin:", err)
	}
	floor := func(f sevsnp.TCB) func(*sevsnp.Expect) {
		return func(e *sevsnp.Expect) { e.ReportedTCB = sevsnp.TCBAtLeast(f) }
	}
	if err := judge(chip, nil, expect(floor(testTCB))); err != nil {
		t.Fatal("positive twin, floor:", err)
	}
	yes, no := evidence.Exactly(true), evidence.Exactly(false)
	for _, r := range []struct {
		name   string
		change func(*sevsnp.Report)
		expect func(*sevsnp.Expect)
		want   evidence.Code
	}{
		{"SNP-01 report data of another session", func(r *sevsnp.Report) { r.ReportData[63] = 1 }, nil, evidence.CodeBinding},
		{"SNP-02 VMPL 1", func(r *sevsnp.Report) { r.VMPL = 1 }, nil, evidence.CodeConfig},
		{"SNP-02 VMPL 2", func(r *sevsnp.Report) { r.VMPL = 2 }, nil, evidence.CodeConfig},
		{"SNP-02 VMPL 3", func(r *sevsnp.Report) { r.VMPL = 3 }, nil, evidence.CodeConfig},
		{"SNP-02 asked for by the host", func(r *sevsnp.Report) { r.VMPL = sevsnp.HostVMPL }, nil, evidence.CodeConfig},
		{"SNP-03 debug", func(r *sevsnp.Report) { r.Policy |= sevsnp.PolicyDebug }, nil, evidence.CodeConfig},
		{"SNP-04 migration agent", func(r *sevsnp.Report) { r.Policy |= sevsnp.PolicyMigrationAgent }, nil, evidence.CodeConfig},
		{"SNP-05 SMT", nil, func(e *sevsnp.Expect) { e.SMT = no }, evidence.CodeConfig},
		{"SNP-05 single socket", nil, func(e *sevsnp.Expect) { e.SingleSocket = yes }, evidence.CodeConfig},
		{"SNP-05 ABI", nil, func(e *sevsnp.Expect) {
			e.ABI = evidence.AtLeastFunc(sevsnp.ABI{Major: 1, Minor: 55}, sevsnp.ABI.Meets)
		}, evidence.CodeConfig},
		{"SNP-11 launch TCB below the floor", func(r *sevsnp.Report) { r.LaunchTCB.SNP-- }, func(e *sevsnp.Expect) { e.LaunchTCB = sevsnp.TCBAtLeast(testTCB) }, evidence.CodeTCB},
		{"SNP-21 boot loader one below", nil, floor(sevsnp.TCB{BootLoader: 5}), evidence.CodeTCB},
		{"SNP-21 TEE one below", nil, floor(sevsnp.TCB{TEE: 1}), evidence.CodeTCB},
		{"SNP-21 SNP-28 SNP firmware one below", nil, floor(sevsnp.TCB{SNP: 0x19}), evidence.CodeTCB},
		{"SNP-21 SNP-27 microcode one below", nil, floor(sevsnp.TCB{Microcode: 0xdc}), evidence.CodeTCB},
		{"SNP-22 provisional firmware", func(r *sevsnp.Report) { r.CommittedTCB.SNP-- }, nil, evidence.CodeTCB},
		{"SNP-24 host data of other init data", func(r *sevsnp.Report) { r.HostData[0] = 1 }, nil, evidence.CodeBinding},
		{"SNP-25 no trusted id keys", nil, func(e *sevsnp.Expect) { e.IDKeyDigest = evidence.OneOf[[48]byte]() }, evidence.CodePolicy},
		{"SNP-26 alias check missing", nil, func(e *sevsnp.Expect) { e.PlatformAliasCheck = yes }, evidence.CodeConfig},
		{"SNP-29 TSME missing", nil, func(e *sevsnp.Expect) { e.PlatformTSME = yes }, evidence.CodeConfig},
		{"SNP-29 ECC missing", nil, func(e *sevsnp.Expect) { e.PlatformECC = yes }, evidence.CodeConfig},
		{"SNP-29 RAPL on", nil, func(e *sevsnp.Expect) { e.PlatformRAPLDisabled = yes }, evidence.CodeConfig},
		{"SNP-29 ciphertext visible", nil, func(e *sevsnp.Expect) { e.PlatformCiphertextHiding = yes }, evidence.CodeConfig},
		{"SNP-29 platform SMT", func(r *sevsnp.Report) { r.PlatformInfo = sevsnp.PlatformSMT }, func(e *sevsnp.Expect) { e.PlatformSMT = no }, evidence.CodeConfig},
		{"another measurement", func(r *sevsnp.Report) { r.Measurement[0] = 1 }, nil, evidence.CodeMeasurement},
		{"software root wanted", nil, func(e *sevsnp.Expect) { e.Root = evidence.Exactly(evidence.RootSoftware) }, evidence.CodeChain},
		{"SNP-18 revocation must be checked", nil, func(e *sevsnp.Expect) { e.RevocationChecked = yes }, evidence.CodeUnavailable},
	} {
		t.Run(r.name, func(t *testing.T) {
			err := judge(chip, r.change, expect(r.expect))
			if got := evidence.CodeOf(err); got != r.want {
				t.Errorf("%v, want %s", err, r.want)
			}
		})
	}
	t.Run("SNP-23 chip pin with a masked chip id", func(t *testing.T) {
		e := expect(func(e *sevsnp.Expect) { e.ChipID = evidence.OneOf(chip.HWID) })
		if err := judge(chip, nil, e); err != nil {
			t.Error("positive twin:", err)
		}
		if err := judge(vlek, nil, e); evidence.CodeOf(err) != evidence.CodeBinding {
			t.Error(err)
		}
	})
	t.Run("SVC-26 zero values", func(t *testing.T) {
		if err := judge(chip, nil, sevsnp.Expect{}); err == nil {
			t.Error("no expectation accepts")
		}
		if (sevsnp.Expect{}).Validate() == nil || sevsnp.Baseline().Validate() == nil {
			t.Error("missing expectations are valid")
		}
		if sevsnp.Appraise(&sevsnp.Authentic{}, expect(nil)).Verdict == evidence.Accepted || sevsnp.Appraise(nil, expect(nil)).Verdict == evidence.Accepted {
			t.Error("a report that nobody authenticated is accepted")
		}
	})
}

func FuzzParseChain(f *testing.F) {
	f.Add(sevsnptest.New(f, sevsnp.Milan).Chip(f, testTCB, nil).Chain.PEM())
	f.Fuzz(func(t *testing.T, text []byte) {
		if c, err := sevsnp.ParseChain(text); err == nil {
			if _, err := sevsnp.ParseChain(c.PEM()); err != nil {
				t.Fatal(err)
			}
		}
	})
}
