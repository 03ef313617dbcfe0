package sevsnp_test

import (
	"testing"
	"time"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/sevsnp"
	"cloister.dev/cloister/evidence/sevsnp/sevsnptest"
)

var products = []sevsnp.Product{sevsnp.Milan, sevsnp.Genoa, sevsnp.Turin}

// TestFloors: reports of platforms in service meet the default floor of their product, and each level counts.
func TestFloors(t *testing.T) {
	for _, r := range []struct {
		name        string
		product     sevsnp.Product
		recommended bool
	}{
		{"az-snp-vtpm-evidence/hcl-report.bin", sevsnp.Milan, false},
		{"az-snp-vtpm-evidence/evidence-v1.json", sevsnp.Milan, true},
		{"az-snp-vtpm-evidence/evidence-v2.json", sevsnp.Milan, true},
		{"snp-trustee/test-report.bin", sevsnp.Milan, false},
		{"snp-trustee/test-vlek-report.bin", sevsnp.Milan, true},
		{"launch/snp-real-milan/report.bin", sevsnp.Milan, false}, // its source says that its TCB is out of date
		{"az-snp-vtpm-evidence/evidence-genoa.json", sevsnp.Genoa, false},
	} {
		t.Run(r.name, func(t *testing.T) {
			rep, err := sevsnp.Parse(realReport(t, r.name))
			if err != nil {
				t.Fatal(err)
			}
			floor, ok := sevsnp.DefaultFloor(r.product)
			if !ok || !rep.ReportedTCB.Meets(floor) {
				t.Errorf("%v is below %v", rep.ReportedTCB, floor)
			}
			better, ok := sevsnp.RecommendedFloor(r.product)
			if !ok || rep.ReportedTCB.Meets(better.TCB) != r.recommended {
				t.Errorf("SNP-26 SNP-27 SNP-28 %v against %v", rep.ReportedTCB, better.TCB)
			}
		})
	}
	for _, p := range products {
		low, ok := sevsnp.DefaultFloor(p)
		high, ok2 := sevsnp.RecommendedFloor(p)
		if !ok || !ok2 || low == (sevsnp.TCB{}) || !high.TCB.Meets(low) || low.Meets(high.TCB) || len(high.Fixes) == 0 {
			t.Errorf("%s: default %v, recommended %v", p, low, high.TCB)
		}
	}
	if _, ok := sevsnp.DefaultFloor("Naples"); ok {
		t.Error("SNP-15 a product that nobody knows has a floor")
	}
	if _, ok := sevsnp.RecommendedFloor(""); ok {
		t.Error("SNP-15 no product has a floor")
	}
}

// TestProductsOfTheStandIn: VCEKs and VLEKs of each product, with its TCB layout and length of hardware id. Real reports
// of Turin were not to be had.
func TestProductsOfTheStandIn(t *testing.T) {
	tcb := sevsnp.TCB{BootLoader: 10, TEE: 2, SNP: 0x17, Microcode: 0xd4}
	for _, p := range products {
		t.Run(string(p), func(t *testing.T) {
			want := tcb
			if p == sevsnp.Turin {
				want.FMC = 3
			}
			v := sevsnptest.New(t, p)
			for _, c := range []*sevsnptest.Chip{v.Chip(t, want, nil), v.VLEK(t, want, nil)} {
				judge := func(change func(*sevsnp.Report)) (*sevsnp.Authentic, error) {
					r := c.Report()
					change(r)
					return sevsnptest.Authenticate(t, c.Sign(t, r), c.Chain, sevsnp.Options{At: sevsnptest.Now}, v)
				}
				for _, version := range []uint32{3, 4, 5} {
					a, err := judge(func(r *sevsnp.Report) { r.Version = version })
					if err != nil || a.Product() != string(p) || a.Report().ReportedTCB != want || (a.CSP() != "") != (c.Kind == sevsnp.SignedByVLEK) {
						t.Fatalf("%v, version %d: %v", c.Kind, version, err)
					}
				}
				if a, err := judge(func(r *sevsnp.Report) { r.PlatformInfo = 0xff }); err != nil || !a.Report().PlatformInfo.Has(sevsnp.PlatformIOMMUWriteSafe) {
					t.Errorf("every platform bit set: %v", err)
				}
				for name, lower := range map[string]func(*sevsnp.TCB){
					"boot loader": func(t *sevsnp.TCB) { t.BootLoader-- }, "TEE": func(t *sevsnp.TCB) { t.TEE-- }, "SNP": func(t *sevsnp.TCB) { t.SNP-- },
					"microcode": func(t *sevsnp.TCB) { t.Microcode-- },
					"FMC":       func(t *sevsnp.TCB) { t.FMC-- },
				} {
					if name == "FMC" && p != sevsnp.Turin {
						continue
					}
					if _, err := judge(func(r *sevsnp.Report) { lower(&r.ReportedTCB) }); evidence.CodeOf(err) != evidence.CodeChain {
						t.Errorf("SNP-10 %v with another %s: %v", c.Kind, name, err)
					}
				}
			}
		})
	}
	t.Run("SNP-08 Turin VCEK with a hardware id of 64 bytes", func(t *testing.T) {
		v := sevsnptest.New(t, sevsnp.Turin)
		c := v.Chip(t, tcb, func(l *sevsnptest.Leaf) { l.Set(sevsnptest.OID(4), make([]byte, 64)) })
		if _, err := sevsnptest.Authenticate(t, c.Sign(t, c.Report()), c.Chain, sevsnp.Options{At: sevsnptest.Now}, v); evidence.CodeOf(err) != evidence.CodeChain {
			t.Errorf("got %v", err)
		}
	})
	t.Run("Turin report with more than a hardware id in the chip id", func(t *testing.T) {
		v := sevsnptest.New(t, sevsnp.Turin)
		c := v.Chip(t, tcb, nil)
		r := c.Report()
		r.ChipID[8] = 1
		if _, err := sevsnptest.Authenticate(t, c.Sign(t, r), c.Chain, sevsnp.Options{At: sevsnptest.Now}, v); evidence.CodeOf(err) != evidence.CodeChain {
			t.Errorf("got %v", err)
		}
	})
}

// TestAppraiseRealReports turns each named mistake on evidence that AMD's hardware signed: what a relying party wants is
// changed, since the report cannot be.
func TestAppraiseRealReports(t *testing.T) {
	real := func(report, leaf, roots string, intermediate int, at string) *sevsnp.Authentic {
		t.Helper()
		rep, err := sevsnp.Parse(realReport(t, report))
		if err != nil {
			t.Fatal(err)
		}
		when, err := time.Parse(time.DateOnly, at)
		if err != nil {
			t.Fatal(err)
		}
		a, err := sevsnp.Authenticate(rep, realChain(t, leaf, roots, intermediate), sevsnp.Options{At: when})
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	genoa := real("az-snp-vtpm-evidence/evidence-genoa.json", "az-snp-vtpm-evidence/vcek-genoa.pem", "genoa", 0, "2026-06-01")
	kvm := real("launch/snp-real-milan/report.bin", "launch/snp-real-milan/vcek.pem", "milan", 0, "2026-10-01")
	debug := real("snp-milan-gosevguest/attestation.bin", "snp-milan-gosevguest/vcek.testcer", "milan", 0, "2025-01-01")
	vlek := real("snp-trustee/test-vlek-report.bin", "snp-trustee/test-vlek.der", "milan", 2, "2025-06-01")
	expect := func(a *sevsnp.Authentic, change func(*sevsnp.Expect)) sevsnp.Expect {
		r, e := a.Report(), sevsnp.Baseline()
		e.Root, e.Measurement = evidence.Exactly(evidence.RootAMD), evidence.Exactly(r.Measurement)
		e.HostData, e.ReportData = evidence.Exactly(r.HostData), evidence.Exactly(r.ReportData)
		if change != nil {
			change(&e)
		}
		return e
	}
	yes, no := evidence.Exactly(true), evidence.Exactly(false)
	one := func(b []byte) { b[0] ^= 1 }
	for _, r := range []struct {
		name string
		of   *sevsnp.Authentic
		want evidence.Code
		edit func(*sevsnp.Expect)
	}{
		{"Azure Genoa", genoa, "", nil},
		{"Azure Genoa with its platform's bits", genoa, "", func(e *sevsnp.Expect) { e.PlatformECC, e.PlatformAliasCheck, e.PlatformSMT = yes, yes, no }},
		{"VLEK at VMPL 1 on provisional firmware, wanted so", vlek, "", func(e *sevsnp.Expect) { e.VMPL, e.Provisional = evidence.Exactly[uint32](1), yes }},
		{"debug guest, wanted so", debug, "", func(e *sevsnp.Expect) { e.Debug = yes }},
		{"SNP-01 report data of another session", genoa, evidence.CodeBinding, func(e *sevsnp.Expect) {
			v := genoa.Report().ReportData
			one(v[:])
			e.ReportData = evidence.Exactly(v)
		}},
		{"SNP-02 VMPL 1", vlek, evidence.CodeConfig, nil},
		{"SNP-03 debug", debug, evidence.CodeConfig, nil},
		{"SNP-04 migration agent wanted, none allowed", genoa, evidence.CodeConfig, func(e *sevsnp.Expect) { e.MigrationAgent = yes }},
		{"SNP-05 SMT allowed", genoa, evidence.CodeConfig, func(e *sevsnp.Expect) { e.SMT = no }},
		{"SNP-05 several sockets", genoa, evidence.CodeConfig, func(e *sevsnp.Expect) { e.SingleSocket = yes }},
		{"SNP-05 ABI", genoa, evidence.CodeConfig, func(e *sevsnp.Expect) {
			e.ABI = evidence.AtLeastFunc(sevsnp.ABI{Minor: 32}, sevsnp.ABI.Meets)
		}},
		{"SNP-05 CXL", genoa, evidence.CodeConfig, func(e *sevsnp.Expect) { e.CXL = yes }},
		{"SNP-05 AES-256-XTS", genoa, evidence.CodeConfig, func(e *sevsnp.Expect) { e.MemAES256XTS = yes }},
		{"SNP-05 RAPL", genoa, evidence.CodeConfig, func(e *sevsnp.Expect) { e.RAPLDisabled = yes }},
		{"SNP-05 ciphertext hiding", genoa, evidence.CodeConfig, func(e *sevsnp.Expect) { e.CiphertextHiding = yes }},
		{"SNP-05 page swap", genoa, evidence.CodeConfig, func(e *sevsnp.Expect) { e.PageSwapDisabled = yes }},
		// The KVM guest's host reports less than it runs: the reported level decides, not the current one.
		{"SNP-11 reported below, current above", kvm, evidence.CodeTCB, func(e *sevsnp.Expect) { e.ReportedTCB = sevsnp.TCBAtLeast(sevsnp.TCB{SNP: 0x18}) }},
		{"SNP-11 current above", kvm, "", func(e *sevsnp.Expect) { e.CurrentTCB = sevsnp.TCBAtLeast(sevsnp.TCB{SNP: 0x18}) }},
		{"SNP-11 launch above", kvm, "", func(e *sevsnp.Expect) { e.LaunchTCB = sevsnp.TCBAtLeast(sevsnp.TCB{SNP: 0x18}) }},
		{"SNP-11 committed below", kvm, evidence.CodeTCB, func(e *sevsnp.Expect) { e.CommittedTCB = sevsnp.TCBAtLeast(sevsnp.TCB{SNP: 0x19}) }},
		{"SNP-21 boot loader", genoa, evidence.CodeTCB, func(e *sevsnp.Expect) { e.ReportedTCB = sevsnp.TCBAtLeast(sevsnp.TCB{BootLoader: 11}) }},
		{"SNP-21 TEE", genoa, evidence.CodeTCB, func(e *sevsnp.Expect) { e.ReportedTCB = sevsnp.TCBAtLeast(sevsnp.TCB{TEE: 1}) }},
		{"SNP-21 SNP-28 SNP firmware", genoa, evidence.CodeTCB, func(e *sevsnp.Expect) { e.ReportedTCB = sevsnp.TCBAtLeast(sevsnp.TCB{SNP: 0x1b}) }},
		{"SNP-21 SNP-27 microcode", genoa, evidence.CodeTCB, func(e *sevsnp.Expect) { e.ReportedTCB = sevsnp.TCBAtLeast(sevsnp.TCB{Microcode: 0x55}) }},
		{"SNP-22 provisional firmware", vlek, evidence.CodeTCB, func(e *sevsnp.Expect) { e.VMPL = evidence.Exactly[uint32](1) }},
		{"SNP-22 provisional firmware wanted, none runs", genoa, evidence.CodeTCB, func(e *sevsnp.Expect) { e.Provisional = yes }},
		{"SNP-23 a chip list, and a masked chip id", vlek, evidence.CodeBinding, func(e *sevsnp.Expect) {
			e.Provisional, e.VMPL, e.ChipID = yes, evidence.Exactly[uint32](1), evidence.OneOf(genoa.Report().ChipID)
		}},
		{"SNP-24 host data of other init data", kvm, evidence.CodeBinding, func(e *sevsnp.Expect) { e.HostData = evidence.Exactly([32]byte{}) }},
		{"SNP-25 an author key wanted", genoa, evidence.CodeMeasurement, func(e *sevsnp.Expect) {
			e.AuthorKeyEnabled = evidence.Exactly(!genoa.Report().KeyInfo.AuthorKeyEnabled)
		}},
		{"SNP-26 no alias check", debug, evidence.CodeConfig, func(e *sevsnp.Expect) { e.Debug, e.PlatformAliasCheck = yes, yes }},
		{"SNP-26 mitigation bits that the report has not", genoa, evidence.CodeTCB, func(e *sevsnp.Expect) { e.LaunchMitigations = sevsnp.Mitigated(1) }},
		{"SNP-26 current mitigation bits that the report has not", genoa, evidence.CodeTCB, func(e *sevsnp.Expect) { e.CurrentMitigations = sevsnp.Mitigated(4) }},
		{"SNP-29 TSME", genoa, evidence.CodeConfig, func(e *sevsnp.Expect) { e.PlatformTSME = yes }},
		{"SNP-29 ECC", genoa, evidence.CodeConfig, func(e *sevsnp.Expect) { e.PlatformECC = no }},
		{"SNP-29 RAPL", genoa, evidence.CodeConfig, func(e *sevsnp.Expect) { e.PlatformRAPLDisabled = yes }},
		{"SNP-29 ciphertext hiding", genoa, evidence.CodeConfig, func(e *sevsnp.Expect) { e.PlatformCiphertextHiding = yes }},
		{"SNP-29 SMT", vlek, evidence.CodeConfig, func(e *sevsnp.Expect) { e.Provisional, e.VMPL, e.PlatformSMT = yes, evidence.Exactly[uint32](1), no }},
		{"SNP-29 IOMMU writes", genoa, evidence.CodeConfig, func(e *sevsnp.Expect) { e.PlatformIOMMUWriteSafe = yes }},
		{"SNP-29 TIO", genoa, evidence.CodeConfig, func(e *sevsnp.Expect) { e.PlatformTIO = yes }},
		{"SNP-18 revocation must be checked", genoa, evidence.CodeUnavailable, func(e *sevsnp.Expect) { e.RevocationChecked = yes }},
		{"SNP-06 a VLEK is not wanted", vlek, evidence.CodeChain, func(e *sevsnp.Expect) {
			e.Provisional, e.VMPL, e.SigningKey = yes, evidence.Exactly[uint32](1), evidence.Exactly(sevsnp.SignedByVCEK)
		}},
		{"SVC-24 software evidence only", genoa, evidence.CodeChain, func(e *sevsnp.Expect) { e.Root = evidence.Exactly(evidence.RootSoftware) }},
		{"another measurement", genoa, evidence.CodeMeasurement, func(e *sevsnp.Expect) { e.Measurement = evidence.Exactly([48]byte{}) }},
	} {
		t.Run(r.name, func(t *testing.T) {
			got := sevsnp.Refusal(sevsnp.Appraise(r.of, expect(r.of, r.edit)))
			if evidence.CodeOf(got) != r.want {
				t.Errorf("%v, want %q", got, r.want)
			}
		})
	}
	if a := sevsnp.Mitigated(5); a.Check("x", "", 7).Result != evidence.Met || a.Check("x", "", 4).Result != evidence.NotMet || a.Check("x", "", 8).Result != evidence.NotMet {
		t.Error("SNP-26 mitigation bits are compared as a number")
	}
}
