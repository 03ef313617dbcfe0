package bundle_test

import (
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"strings"
	"testing"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/bundle"
	"cloister.dev/cloister/evidence/hcl"
	"cloister.dev/cloister/evidence/sevsnp"
	"cloister.dev/cloister/evidence/sevsnp/sevsnptest"
	"cloister.dev/cloister/evidence/soft"
)

// hardware is a software root whose chip signs whatever a test wants, also what package softchip would not.
type hardware struct {
	chip *sevsnptest.Chip
	root soft.Root
}

func newHardware(t testing.TB) *hardware {
	t.Helper()
	v := sevsnptest.New(t, sevsnp.Milan)
	v.ARK = v.Authority(t, soft.RootName, 1, &v.ARKKey.PublicKey, nil, v.ARKKey)
	v.ASK = v.Authority(t, soft.IntermediateName, 2, &v.ASKKey.PublicKey, v.ARK, v.ARKKey)
	root, err := soft.ParseRoot(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: v.ARK.Raw}))
	if err != nil {
		t.Fatal(err)
	}
	return &hardware{v.Chip(t, sevsnp.TCB{BootLoader: 4, SNP: 0x18, Microcode: 0xdb}, nil), root}
}

// under puts the VM on this hardware: the same claims, in a report as change left it.
func (h *hardware) under(t testing.TB, b bundle.Bundle, change func(*sevsnp.Report)) bundle.Bundle {
	t.Helper()
	old, err := hcl.Parse(b.HCLReport)
	if err != nil {
		t.Fatal(err)
	}
	r := h.chip.Report()
	r.Measurement, r.HostData, r.ReportData = digest, hostData, hcl.ReportData(old.Claims)
	if change != nil {
		change(r)
	}
	old.Hardware = h.chip.Sign(t, r).Marshal()
	if b.HCLReport, err = old.Marshal(); err != nil {
		t.Fatal(err)
	}
	b.Chain = string(h.chip.Chain.PEM())
	return b
}

// TestHardwareIsJudged: genuine reports of the right measurement that a production VM must not have.
func TestHardwareIsJudged(t *testing.T) {
	v, h := newVM(t), newHardware(t)
	good, roots := v.bundle(nonce), bundle.Roots{Software: []soft.Root{h.root}}
	tcb := h.chip.TCB
	for _, row := range []struct {
		name   string
		change func(*sevsnp.Report)
		expect func(*bundle.Expect)
		claim  string // the check that must fail; none: accepted
	}{
		{"as it should be", nil, nil, ""},
		{"SNP-02 VMPL 1", func(r *sevsnp.Report) { r.VMPL = 1 }, nil, "VMPL"},
		{"SNP-02 VMPL 2", func(r *sevsnp.Report) { r.VMPL = 2 }, nil, "VMPL"},
		{"SNP-02 VMPL 3", func(r *sevsnp.Report) { r.VMPL = 3 }, nil, "VMPL"},
		{"SNP-02 a report that the host asked for", func(r *sevsnp.Report) { r.VMPL = sevsnp.HostVMPL }, nil, "VMPL"},
		{"SNP-03 debugging allowed, the same measurement", func(r *sevsnp.Report) { r.Policy |= sevsnp.PolicyDebug }, nil, "policy debug"},
		{"SNP-04 migration agent allowed", func(r *sevsnp.Report) { r.Policy |= sevsnp.PolicyMigrationAgent }, nil, "policy migration agent"},
		{"SNP-01 claims of another VM", func(r *sevsnp.Report) { r.ReportData[0] ^= 1 }, nil, "report data"},
		{"SNP-24 host data of other init data", func(r *sevsnp.Report) { r.HostData[0] ^= 1 }, nil, "host data"},
		{"another measurement", func(r *sevsnp.Report) { r.Measurement[0] ^= 1 }, nil, "measurement"},
		{"SNP-22 provisional firmware", func(r *sevsnp.Report) { r.CommittedTCB.SNP-- }, nil, "provisional firmware"},
		{"a TCB at its floor", nil, func(e *bundle.Expect) { e.SNP.ReportedTCB = sevsnp.TCBAtLeast(tcb) }, ""},
		{"SNP-21 a TCB below its floor", nil, func(e *bundle.Expect) {
			tcb := tcb
			tcb.Microcode++
			e.SNP.ReportedTCB = sevsnp.TCBAtLeast(tcb)
		}, "reported TCB"},
		{"SVC-24 software evidence where hardware is wanted", nil, func(e *bundle.Expect) { e.SNP.Root = evidence.Exactly(evidence.RootAMD) }, "root"},
	} {
		t.Run(row.name, func(t *testing.T) {
			e := v.expect()
			if row.expect != nil {
				row.expect(&e)
			}
			r, err := bundle.Appraise(h.under(t, good, row.change), roots, e, sevsnptest.Now)
			if err != nil {
				t.Fatal(err)
			}
			if row.claim == "" {
				if r.Verdict != evidence.Accepted {
					t.Fatalf("%+v", r)
				}
				return
			}
			if r.Verdict != evidence.Refused || !r.Authentic || r.Root != evidence.RootSoftware {
				t.Fatalf("verdict %v, authentic %t, root %s", r.Verdict, r.Authentic, r.Root)
			}
			for _, c := range r.Checks {
				if c.Result == evidence.NotMet && c.Claim != row.claim {
					t.Errorf("check %q failed too", c.Claim)
				}
			}
		})
	}
	t.Run("SVC-24 software evidence where nobody named its root", func(t *testing.T) {
		for _, roots := range []bundle.Roots{{AMD: true}, {AMD: true, Software: []soft.Root{v.root}}} {
			if r, err := bundle.Appraise(h.under(t, good, nil), roots, v.expect(), sevsnptest.Now); err != nil || r.Verdict == evidence.Accepted || r.Authentic || r.Root != "" {
				t.Errorf("%+v, %v", r, err)
			}
		}
	})
	t.Run("SVC-22 a software chip with AMD's names", func(t *testing.T) {
		fake := sevsnptest.New(t, sevsnp.Milan)
		f := &hardware{chip: fake.Chip(t, tcb, func(l *sevsnptest.Leaf) {
			l.Extensions = append(l.Extensions, pkix.Extension{Id: sevsnptest.OID(99), Value: []byte{5, 0}})
		})}
		if r, err := bundle.Appraise(f.under(t, good, nil), bundle.Roots{AMD: true, Software: roots.Software}, v.expect(), sevsnptest.Now); err != nil || r.Verdict == evidence.Accepted || r.Authentic {
			t.Errorf("%+v, %v", r, err)
		}
	})
	t.Run("SVC-20 runtime claims that cannot be read, read once", func(t *testing.T) {
		b := good
		report, err := hcl.Parse(b.HCLReport)
		if err != nil {
			t.Fatal(err)
		}
		report.Claims = []byte(strings.Replace(string(report.Claims), `"keys"`, `"keys":[],"keys"`, 1))
		if b.HCLReport, err = report.Marshal(); err != nil {
			t.Fatal(err)
		}
		r, err := bundle.Appraise(h.under(t, b, nil), roots, v.expect(), sevsnptest.Now)
		if err != nil || r.Verdict != evidence.Refused || r.Authentic {
			t.Fatalf("%+v, %v", r, err)
		}
		said := 0
		for _, c := range r.Checks {
			if strings.HasPrefix(c.Claim, "runtime claims") {
				said++
			}
		}
		if said != 1 {
			t.Errorf("said %d times: %+v", said, r.Checks)
		}
	})
}

// TestParseWantsExactNames: encoding/json takes a member in another case for the one that is known.
func TestParseWantsExactNames(t *testing.T) {
	raw, err := newVM(t).bundle(nonce).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bundle.Parse(raw); err != nil {
		t.Fatal("positive twin:", err)
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(raw, &members); err != nil {
		t.Fatal(err)
	}
	for name := range members {
		other := strings.ToUpper(name[:1]) + name[1:]
		if _, err := bundle.Parse([]byte(strings.Replace(string(raw), `"`+name+`":`, `"`+other+`":`, 1))); evidence.CodeOf(err) != evidence.CodeParse {
			t.Errorf("SVC-20 %s in place of %s: %v", other, name, err)
		}
	}
	if _, err := bundle.Parse([]byte(strings.Replace(string(raw), `"pcrs":`, `"more":"`+hex.EncodeToString(nonce)+`","pcrs":`, 1))); err == nil {
		t.Error("SVC-20 an unknown member")
	}
}
