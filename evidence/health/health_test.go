package health

import (
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/hcl"
	"cloister.dev/cloister/evidence/sevsnp"
	"cloister.dev/cloister/evidence/sevsnp/sevsnptest"
	"cloister.dev/cloister/evidence/soft"
)

var floor = sevsnp.TCB{BootLoader: 3, SNP: 20, Microcode: 200}

func good() Floor {
	return Floor{TCB: map[sevsnp.Product]sevsnp.TCB{sevsnp.Milan: floor}, Provisional: evidence.Exactly(false), AliasCheck: evidence.Exactly(true), SMT: evidence.Any[bool](), CiphertextHiding: evidence.Any[bool](), RAPLDisabled: evidence.Any[bool]()}
}

func chip(t *testing.T, tcb sevsnp.TCB) (*sevsnptest.Chip, soft.Root) {
	t.Helper()
	v := sevsnptest.New(t, sevsnp.Milan)
	v.ARK = v.Authority(t, soft.RootName, 1, &v.ARKKey.PublicKey, nil, v.ARKKey)
	v.ASK = v.Authority(t, soft.IntermediateName, 2, &v.ASKKey.PublicKey, v.ARK, v.ARKKey)
	root, err := soft.ParseRoot(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: v.ARK.Raw}))
	if err != nil {
		t.Fatal(err)
	}
	return v.Chip(t, tcb, nil), root
}

func TestSEVSNP(t *testing.T) {
	tcb := sevsnp.TCB{BootLoader: 4, SNP: 21, Microcode: 211}
	c, root := chip(t, tcb)
	o := Options{At: sevsnptest.Now, Challenge: [64]byte{1, 2, 3}, Software: []soft.Root{root}}
	for _, r := range []struct {
		name    string
		change  func(*sevsnp.Report)
		floor   func(*Floor)
		options func(*Options)
		verdict evidence.Verdict
		claim   string // of the remedy
		do      string
	}{
		{name: "a fit platform", verdict: evidence.Accepted},
		{name: "SNP-21 current below the floor", floor: func(f *Floor) { f.TCB[sevsnp.Milan] = sevsnp.TCB{SNP: 22} }, claim: "current TCB", do: "SNP firmware 21 to at least 22"},
		{name: "SNP-21 firmware that is not committed", change: func(r *sevsnp.Report) { r.CommittedTCB.SNP = 10 }, claim: "committed TCB", do: "SNP_COMMIT"},
		{name: "no alias check", change: func(r *sevsnp.Report) { r.PlatformInfo &^= sevsnp.PlatformAliasCheck }, claim: "platform alias check", do: "BIOS"},
		{name: "SMT, which is not wanted", floor: func(f *Floor) { f.SMT = evidence.Exactly(false) }, change: func(r *sevsnp.Report) { r.PlatformInfo |= sevsnp.PlatformSMT }, claim: "platform SMT", do: "multithreading"},
		{name: "SNP-01 the report of another hour", options: func(o *Options) { o.Challenge[0]++ }, claim: "report data", do: "anew"},
		{name: "SNP-03 a probe that can be debugged", change: func(r *sevsnp.Report) { r.Policy |= sevsnp.PolicyDebug }, claim: "policy debug", do: "probe"},
		{name: "SVC-26 an expectation left out", floor: func(f *Floor) { f.RAPLDisabled = evidence.Expectation[bool]{} }, claim: "expectations", do: "wanted"},
		{name: "a product without a floor", floor: func(f *Floor) { f.TCB = map[sevsnp.Product]sevsnp.TCB{sevsnp.Genoa: floor} }, claim: "product", do: "floor"},
		{name: "SVC-24 a software root that nobody named", options: func(o *Options) { o.Software = nil }, claim: "authenticity", do: "certificates"},
		{name: "SNP-32 certificates at another time", options: func(o *Options) { o.At = o.At.AddDate(10, 0, 0) }, claim: "authenticity", do: "certificates"},
	} {
		t.Run(r.name, func(t *testing.T) {
			report, f, o := c.Report(), good(), o
			report.ReportData = [64]byte{1, 2, 3}
			report.PlatformInfo |= sevsnp.PlatformAliasCheck
			for _, change := range []func(){func() {
				if r.change != nil {
					r.change(report)
				}
			}, func() {
				if r.floor != nil {
					r.floor(&f)
				}
			}, func() {
				if r.options != nil {
					r.options(&o)
				}
			}} {
				change()
			}
			got := SEVSNP(c.Sign(t, report).Marshal(), c.Chain.PEM(), f, o)
			if got.Verdict != r.verdict {
				t.Fatalf("%s: %+v", got.Verdict, got.Checks)
			}
			if r.verdict == evidence.Accepted {
				if len(got.Mend) != 0 || got.Root != evidence.RootSoftware || got.TCB == "" || len(got.ChipID) != 128 {
					t.Errorf("%+v", got)
				}
				return
			}
			found := false
			for _, m := range got.Mend {
				found = found || m.Claim == r.claim && strings.Contains(m.Do, r.do) || strings.HasPrefix(m.Claim, r.claim+":")
			}
			if !found && !(r.claim == "authenticity" && len(got.Mend) == 1 && strings.Contains(got.Mend[0].Do, r.do)) {
				t.Errorf("remedies %+v, want one for %s with %q", got.Mend, r.claim, r.do)
			}
		})
	}
	flipped := c.Sign(t, c.Report()).Marshal()
	flipped[0x90] ^= 1
	if got := SEVSNP(flipped, c.Chain.PEM(), good(), o); got.Verdict != evidence.Refused {
		t.Errorf("a forged report: %s", got.Verdict)
	}
	o.RequireCRLs = true
	o.Software = nil
	if got := SEVSNP(nil, nil, good(), o); got.Verdict != evidence.Refused {
		t.Errorf("no report: %s", got.Verdict)
	}
}

// A real platform of 2024 is fit by the floor of its year and not by today's; without lists that were asked for,
// nobody knows.
func TestRealPlatform(t *testing.T) {
	dir := os.Getenv("CLOISTER_VECTORS")
	if dir == "" {
		dir = "../../../shared/vectors"
	}
	raw, err := os.ReadFile(filepath.Join(dir, "az-snp-vtpm-evidence", "hcl-report.bin"))
	if err != nil {
		t.Skipf("SKIPPED: test vectors are missing (%v); set CLOISTER_VECTORS", err)
	}
	chainPEM, err := os.ReadFile(filepath.Join(dir, "az-snp-vtpm-evidence", "vcek.pem"))
	if err != nil {
		t.Fatal(err)
	}
	report, err := hcl.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	chain, err := sevsnp.ParseChain(chainPEM)
	if err != nil {
		t.Fatal(err)
	}
	o := Options{At: chain.Leaf.NotBefore.Add(24 * time.Hour), Challenge: hcl.ReportData(report.Claims)}
	f := good()
	f.AliasCheck, f.Provisional = evidence.Any[bool](), evidence.Any[bool]()
	was, ok := sevsnp.DefaultFloor(sevsnp.Milan)
	if !ok {
		t.Fatal("no floor for Milan")
	}
	f.TCB[sevsnp.Milan] = was
	if got := SEVSNP(report.Hardware, chainPEM, f, o); got.Verdict != evidence.Accepted || got.Root != evidence.RootAMD || got.Product != "Milan" {
		t.Errorf("by the floor of its year: %s, %+v", got.Verdict, got.Mend)
	}
	today, ok := sevsnp.RecommendedFloor(sevsnp.Milan)
	if !ok {
		t.Fatal("no recommendation for Milan")
	}
	f.TCB[sevsnp.Milan] = today.TCB
	if got := SEVSNP(report.Hardware, chainPEM, f, o); got.Verdict != evidence.Refused || len(got.Mend) == 0 || !strings.Contains(got.Mend[0].Do, "SNP firmware") {
		t.Errorf("SNP-21 by today's floor: %s, %+v", got.Verdict, got.Mend)
	}
	o.RequireCRLs = true
	if got := SEVSNP(report.Hardware, chainPEM, f, o); got.Verdict != evidence.Unavailable {
		t.Errorf("SNP-18 SVC-28 without lists: %s", got.Verdict)
	}
}
