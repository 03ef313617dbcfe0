package judge_test

import (
	"strings"
	"testing"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/dcap"
	"cloister.dev/cloister/evidence/dcap/dcaptest"
	"cloister.dev/cloister/evidence/judge"
	"cloister.dev/cloister/evidence/judge/judgetest"
	"cloister.dev/cloister/evidence/tdx"
	"cloister.dev/cloister/evidence/tdx/tdxtest"
)

// collateralFiles are what a relying party would have beside a quote.
func collateralFiles(f dcap.Files) []judge.File {
	var out []judge.File
	for name, raw := range map[string][]byte{"TCB info": f.TCBInfo, "TCB info issuer": f.TCBInfoIssuerChain, "QE identity": f.QEIdentity, "QE identity issuer": f.QEIdentityIssuerChain,
		"PCK CRL": f.PCKCRL, "PCK CRL issuer": f.PCKCRLIssuerChain, "root CRL": f.RootCRL} {
		if len(raw) > 0 {
			out = append(out, judge.File{Name: name, Raw: raw})
		}
	}
	return out
}

// TestVerifyTD judges quotes of a stand-in for Intel, so that a copy of the repository without real evidence tests it too.
func TestVerifyTD(t *testing.T) {
	at := judgetest.Now
	v := dcaptest.New(t, dcaptest.Options{})
	input := func(change func(*tdx.Quote), edits ...func(*dcaptest.Documents)) judge.Input {
		q := tdxtest.Good()
		if change != nil {
			change(&q)
		}
		return judge.Input{Evidence: open(t, tdxtest.Quote(t, v, q)), Files: collateralFiles(v.Files(t, dcap.TDX, at, edits...)), Roots: judge.Roots{}.UnderDCAP(v.Anchor(t)), At: at}
	}
	good := mustInspect(t, input(nil))
	if !good.Authentic || good.Kind != "tdxvm" {
		show(t, good)
		t.Fatalf("authentic %t, kind %s", good.Authentic, good.Kind)
	}
	root := string(good.Root)
	doc := func(change m) judge.Expect {
		claims := m{}
		for _, name := range []string{"mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3", "mrconfigid", "report-data"} {
			claims[name] = m{"exactly": good.Claims[name]}
		}
		for name, x := range change {
			claims[name] = x
		}
		return expect(t, strings.Replace(document("tdxvm", claims), `"software"`, `"`+root+`"`, 1))
	}
	if j := verify(t, input(nil), doc(nil)); j.Verdict != evidence.Accepted {
		show(t, j)
		t.Fatalf("positive twin: verdict %s", j.Verdict)
	}
	var all judge.Expect
	if err := all.Any("all"); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		name    string
		in      judge.Input
		e       judge.Expect
		verdict evidence.Verdict
		claim   string
	}{
		{"TDX-10 debug", input(func(q *tdx.Quote) { q.Body.TDAttributes |= tdx.Debug }), all, evidence.Refused, "td-debug"},
		{"TDX-10 a reserved attribute", input(func(q *tdx.Quote) { q.Body.TDAttributes |= 1 << 40 }), all, evidence.Refused, "td-reserved-attributes"},
		{"TDX-11 migratable", input(func(q *tdx.Quote) { q.Body.TDAttributes |= tdx.Migratable }), all, evidence.Refused, "td-migratable"},
		{"TDX-20 right RTMRs, another MRTD", input(func(q *tdx.Quote) { q.Body.MRTD[0] ^= 1 }), doc(nil), evidence.Refused, "mrtd"},
		{"TDX-21 another RTMR 3", input(func(q *tdx.Quote) { q.Body.RTMR[3][0] ^= 1 }), doc(nil), evidence.Refused, "rtmr3"},
		{"another session", input(func(q *tdx.Quote) { q.Body.ReportData[0] ^= 1 }), doc(nil), evidence.Refused, "report-data"},
		{"TDX-27 a TD where SNP is expected", input(nil), expect(t, strings.Replace(document("sevsnpvm", m{"report-data": "any"}), "software", root, 1)), evidence.Refused, "kind"},
		{"TDX-17 Intel's own root only", func() judge.Input { in := input(nil); in.Roots = judge.VendorRoots(); return in }(), all, evidence.Refused, "hardware-report"},
		{"SVC-26 nothing expected", input(nil), judge.Expect{}, evidence.Refused, "expectations"},
		{"SVC-28 no collateral is no verdict", func() judge.Input { in := input(nil); in.Files = nil; return in }(), all, evidence.Unavailable, "collateral"},
		{"TDX-15 collateral that has run out", func() judge.Input { in := input(nil); in.At = at.AddDate(0, 6, 0); return in }(), all, evidence.Unavailable, "collateral"},
		{"TDX-06 an advisory that is denied", input(nil, func(d *dcaptest.Documents) {
			d.TCBInfo.Levels[0].Advisories = []string{"INTEL-SA-00837"}
		}), doc(m{"advisories": m{"noneOf": []string{"INTEL-SA-00837"}}}), evidence.Refused, "advisories"},
	} {
		t.Run(row.name, func(t *testing.T) {
			j := verify(t, row.in, row.e)
			if j.Verdict != row.verdict || !find(j, row.claim, evidence.NotMet) && !find(j, row.claim, evidence.NotHad) {
				show(t, j)
				t.Errorf("verdict %s, or no check %q", j.Verdict, row.claim)
			}
		})
	}
	t.Run("every claim that is compared can be expected", func(t *testing.T) {
		known := map[string]bool{"root": true, "hardware-report": true, "collateral": true}
		for _, name := range judge.Names() {
			known[name] = true
		}
		for _, c := range verify(t, input(nil), all).Checks {
			if !known[c.Claim] {
				t.Errorf("%s is compared, and can't be expected", c.Claim)
			}
		}
	})
}
