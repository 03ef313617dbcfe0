package sevsnp_test

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/sevsnp"
)

// vector reads real evidence, which is not part of the repository.
func vector(t testing.TB, name string) []byte {
	t.Helper()
	dir := os.Getenv("CLOISTER_VECTORS")
	if dir == "" {
		dir = "../../../shared/vectors"
	}
	b, err := os.ReadFile(filepath.Join(dir, name))
	if os.IsNotExist(err) {
		t.Skipf("SKIPPED, NOT TESTED: vector %s is missing; set CLOISTER_VECTORS", name)
	}
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// realReport reads a report vector: raw, as hexadecimal text, or inside an HCL report.
func realReport(t testing.TB, name string) []byte {
	raw := vector(t, name)
	switch {
	case strings.HasSuffix(name, ".hex"):
		b, err := hex.DecodeString(strings.TrimSpace(string(raw)))
		if err != nil {
			t.Fatal(err)
		}
		return b
	case strings.HasSuffix(name, ".json"): // evidence of an Azure VM, in one of two forms
		var f struct {
			Report []uint16
			HCL    string `json:"hcl_report"`
		}
		if err := json.Unmarshal(raw, &f); err != nil {
			t.Fatal(err)
		}
		raw, err := base64.URLEncoding.DecodeString(f.HCL)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range f.Report {
			raw = append(raw, byte(b))
		}
		return raw[32 : 32+sevsnp.ReportSize]
	case bytes.HasPrefix(raw, []byte("HCLA")):
		return raw[32 : 32+sevsnp.ReportSize]
	}
	return raw
}

func TestParseRealReports(t *testing.T) {
	for _, r := range []struct {
		name     string
		version  uint32
		policy   sevsnp.Policy
		reported sevsnp.TCB
		key      sevsnp.SigningKey
	}{
		{"az-snp-vtpm-evidence/hcl-report.bin", 2, 0x3001f, sevsnp.TCB{BootLoader: 3, SNP: 8, Microcode: 0x73}, sevsnp.SignedByVCEK},
		{"hcl-snp-milan/hcl-report-snp-2048.bin", 2, 0x3001f, sevsnp.TCB{BootLoader: 3, SNP: 8, Microcode: 0x73}, sevsnp.SignedByVCEK},
		{"snp-milan-gosevguest/attestation.bin", 2, 0xb0000, sevsnp.TCB{BootLoader: 2, SNP: 5, Microcode: 0x44}, sevsnp.SignedByVCEK},
		{"snp-trustee/test-report.bin", 2, 0x3001f, sevsnp.TCB{BootLoader: 3, SNP: 8, Microcode: 0x73}, sevsnp.SignedByVCEK},
		{"snp-trustee/test-vlek-report.bin", 3, 0x30000, sevsnp.TCB{BootLoader: 4, SNP: 0x18, Microcode: 0xd9}, sevsnp.SignedByVLEK},
		{"snp-virtee/report_milan.hex", 2, 0, sevsnp.TCB{BootLoader: 3, SNP: 8, Microcode: 0x73}, sevsnp.SignedByVCEK},
		{"azure-aci-thim-snp/snp_report.bin", 2, 0, sevsnp.TCB{BootLoader: 3, SNP: 8, Microcode: 0x73}, sevsnp.SignedByVCEK},
		{"az-snp-vtpm-evidence/evidence-v2.json", 3, 0x3001f, sevsnp.TCB{BootLoader: 4, SNP: 0x18, Microcode: 0xdb}, sevsnp.SignedByVCEK},
		{"az-snp-vtpm-evidence/evidence-genoa.json", 3, 0x3001f, sevsnp.TCB{BootLoader: 10, SNP: 0x17, Microcode: 0x54}, sevsnp.SignedByVCEK},
		{"launch/snp-real-milan/report.bin", 3, 0x30000, sevsnp.TCB{BootLoader: 4, SNP: 0x17, Microcode: 0xd5}, sevsnp.SignedByVCEK},
	} {
		t.Run(r.name, func(t *testing.T) {
			raw := realReport(t, r.name)
			got, err := sevsnp.Parse(raw)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got.Marshal(), raw) {
				t.Error("Marshal gave other bytes")
			}
			if got.Version != r.version || got.ReportedTCB != r.reported || got.KeyInfo.SigningKey != r.key || r.policy != 0 && got.Policy != r.policy {
				t.Errorf("version %d, policy %v, TCB %v, key %v", got.Version, got.Policy, got.ReportedTCB, got.KeyInfo.SigningKey)
			}
			for n := range raw {
				if _, err := sevsnp.Parse(raw[:n]); evidence.CodeOf(err) != evidence.CodeParse {
					t.Fatalf("prefix of %d bytes: %v", n, err)
				}
			}
			if _, err := sevsnp.Parse(append(bytes.Clone(raw), 0)); evidence.CodeOf(err) != evidence.CodeParse {
				t.Error("SNP-33 a byte after the end is accepted")
			}
		})
	}
}

func TestTCBHexIsWhatTHIMPrints(t *testing.T) {
	tcb := sevsnp.TCB{BootLoader: 3, SNP: 8, Microcode: 0x73}
	if got := tcb.Hex(sevsnp.Milan); got != "7308000000000003" {
		t.Error(got)
	}
}

// plain is a report with a policy that Parse takes, of version 3 and a Milan part.
func plain(version uint32) *sevsnp.Report {
	r := &sevsnp.Report{Version: version, Policy: 0x30000, SignatureAlgo: 1, CPUID: sevsnp.CPUID{Family: 0x19, Model: 1, Stepping: 1}}
	if version == 2 {
		r.CPUID = sevsnp.CPUID{}
	}
	return r
}

func TestParseRefuses(t *testing.T) {
	put32 := func(at int, v uint32) func([]byte) {
		return func(b []byte) { binary.LittleEndian.PutUint32(b[at:], v) }
	}
	put64 := func(at int, v uint64) func([]byte) {
		return func(b []byte) { binary.LittleEndian.PutUint64(b[at:], v) }
	}
	put := func(at int, v byte) func([]byte) { return func(b []byte) { b[at] = v } }
	for _, v := range []uint32{2, 3, 4, 5} {
		if got, err := sevsnp.Parse(plain(v).Marshal()); err != nil || got.Version != v {
			t.Fatalf("positive twin of version %d: %v", v, err)
		}
	}
	for _, r := range []struct {
		name    string
		version uint32
		change  func([]byte)
		want    evidence.Code
	}{
		{"SNP-16 version 0", 3, put32(0, 0), evidence.CodeUnsupported},
		{"SNP-16 version 1", 3, put32(0, 1), evidence.CodeUnsupported},
		{"SNP-16 version 6", 5, put32(0, 6), evidence.CodeUnsupported},
		{"SNP-16 version 99", 3, put32(0, 99), evidence.CodeUnsupported},
		{"SNP-30 all zero", 3, func(b []byte) { clear(b) }, evidence.CodeUnsupported},
		{"SNP-17 reserved 0x4c", 3, put(0x4c, 1), evidence.CodeParse},
		{"SNP-17 CPUID in version 2", 2, put(0x188, 0x19), evidence.CodeParse},
		{"SNP-17 reserved 0x18b", 3, put(0x18b, 1), evidence.CodeParse},
		{"SNP-17 reserved 0x19f", 5, put(0x19f, 1), evidence.CodeParse},
		{"SNP-17 reserved 0x1eb", 3, put(0x1eb, 1), evidence.CodeParse},
		{"SNP-17 reserved 0x1ef", 3, put(0x1ef, 1), evidence.CodeParse},
		{"SNP-17 mitigation vector in version 3", 3, put(0x1f8, 1), evidence.CodeParse},
		{"SNP-17 mitigation vector in version 2", 2, put(0x200, 1), evidence.CodeParse},
		{"SNP-17 reserved 0x208 in version 4", 4, put(0x208, 1), evidence.CodeParse},
		{"SNP-17 reserved 0x208", 5, put(0x208, 1), evidence.CodeParse},
		{"SNP-17 reserved 0x29f", 3, put(0x29f, 1), evidence.CodeParse},
		{"SNP-33 after the signature", 3, put(0x330, 1), evidence.CodeParse},
		{"SNP-33 last byte", 3, put(1183, 1), evidence.CodeParse},
		{"SNP-17 policy bit 26", 3, put64(8, 0x30000|1<<26), evidence.CodeParse},
		{"SNP-17 policy bit 17 clear", 3, put64(8, 0x10000), evidence.CodeParse},
		{"SNP-17 platform bit 8", 3, put64(0x40, 1<<8), evidence.CodeParse},
		{"SNP-17 platform bit 63", 3, put64(0x40, 1<<63), evidence.CodeParse},
		{"SNP-17 key info bit 5", 3, put32(0x48, 1<<5), evidence.CodeParse},
		{"VMPL 4", 3, put32(0x30, 4), evidence.CodeParse},
		{"another signature algorithm", 3, put32(0x34, 2), evidence.CodeUnsupported},
		{"SNP-15 unknown family", 3, put(0x188, 0x17), evidence.CodeUnsupported},
		{"SNP-15 unknown model", 3, put(0x189, 0x50), evidence.CodeUnsupported},
		{"SNP-12 Milan report with a Turin TCB", 3, put64(0x180, 0xdb00000008000303), evidence.CodeParse},
		{"SNP-12 Turin report with a Milan TCB", 3, func(b []byte) { b[0x188], b[0x189] = 0x1a, 2; b[0x186] = 8 }, evidence.CodeParse},
	} {
		t.Run(r.name, func(t *testing.T) {
			raw := plain(r.version).Marshal()
			r.change(raw)
			if _, err := sevsnp.Parse(raw); evidence.CodeOf(err) != r.want {
				t.Errorf("%v, want %s", err, r.want)
			}
		})
	}
	t.Run("SNP-12 positive twin: each layout with its product", func(t *testing.T) {
		tcb := sevsnp.TCB{FMC: 1, BootLoader: 2, TEE: 3, SNP: 4, Microcode: 5}
		turin := plain(5)
		turin.CPUID = sevsnp.CPUID{Family: 0x1a, Model: 2}
		turin.ReportedTCB, turin.LaunchMitigations, turin.CurrentMitigations = tcb, 3, 7
		got, err := sevsnp.Parse(turin.Marshal())
		if err != nil || got.ReportedTCB != tcb || got.LaunchMitigations != 3 || got.CurrentMitigations != 7 {
			t.Errorf("Turin: %+v, %v", got, err)
		}
		if raw := turin.Marshal(); !bytes.Equal(raw[0x180:0x188], []byte{1, 2, 3, 4, 0, 0, 0, 5}) {
			t.Errorf("Turin bytes %x", raw[0x180:0x188])
		}
		milan := plain(3)
		tcb.FMC = 0
		milan.ReportedTCB = tcb
		if got, err := sevsnp.Parse(milan.Marshal()); err != nil || got.ReportedTCB != tcb {
			t.Errorf("Milan: %v", err)
		}
	})
}

func TestMitigationVectors(t *testing.T) {
	for _, v := range []uint32{4, 5} {
		r := plain(v)
		r.LaunchMitigations, r.CurrentMitigations = 3, 7
		got, err := sevsnp.Parse(r.Marshal())
		if err != nil || got.LaunchMitigations != 3 || got.CurrentMitigations != 7 {
			t.Errorf("version %d: %v", v, err)
		}
	}
}

// TestProducts: parts of the Zen 4c line (Bergamo, Siena) are Genoa's.
func TestProducts(t *testing.T) {
	for _, r := range []struct {
		name          string
		family, model uint8
		want          sevsnp.Product
	}{
		{"Milan", 0x19, 0x01, sevsnp.Milan}, {"Milan-X", 0x19, 0x01, sevsnp.Milan}, {"Genoa", 0x19, 0x11, sevsnp.Genoa},
		{"Bergamo and Siena", 0x19, 0xa0, sevsnp.Genoa}, {"Siena", 0x19, 0xa1, sevsnp.Genoa}, {"the last of that range", 0x19, 0xaf, sevsnp.Genoa},
		{"Turin", 0x1a, 0x02, sevsnp.Turin}, {"Turin Dense", 0x1a, 0x11, sevsnp.Turin},
		{"SNP-15 Rome", 0x17, 0x31, ""}, {"SNP-15 a desktop part", 0x19, 0x21, ""}, {"SNP-15 another desktop part", 0x19, 0x61, ""},
		{"SNP-15 beyond Siena", 0x19, 0xb0, ""}, {"SNP-15 beyond Turin", 0x1a, 0x50, ""}, {"SNP-15 the next family", 0x1b, 0, ""},
	} {
		p, err := sevsnp.CPUID{Family: r.family, Model: r.model}.Product()
		if p != r.want || (err == nil) != (r.want != "") || err != nil && evidence.CodeOf(err) != evidence.CodeUnsupported {
			t.Errorf("%s: %q, %v", r.name, p, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(plain(2).Marshal())
	f.Add(plain(3).Marshal())
	f.Add(plain(4).Marshal())
	f.Add(plain(5).Marshal())
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := sevsnp.Parse(raw)
		if err == nil && !bytes.Equal(r.Marshal(), raw) {
			t.Fatal("does not come back")
		}
	})
}
