package judge_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/bundle"
	"cloister.dev/cloister/evidence/judge"
	"cloister.dev/cloister/evidence/judge/judgetest"
	"cloister.dev/cloister/evidence/launch"
	"cloister.dev/cloister/evidence/sevsnp"
	"cloister.dev/cloister/evidence/soft"
)

var reportData = [64]byte{9, 9, 9}

func expect(t testing.TB, doc string) judge.Expect {
	t.Helper()
	e, err := judge.ParseExpect([]byte(doc))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func document(kind string, claims map[string]any) string {
	raw, err := json.Marshal(map[string]any{"version": judge.DocumentVersion, "kind": kind, "roots": []string{"software"}, "claims": claims})
	if err != nil {
		panic(err)
	}
	return string(raw)
}

type m = map[string]any

func hexOf(b []byte) string { return hex.EncodeToString(b) }

// good expects exactly what a report of judgetest says.
func good() m {
	return m{"measurement": m{"exactly": hexOf(judgetest.Measurement[:])}, "host-data": m{"oneOf": []string{hexOf(judgetest.HostData[:])}}, "report-data": m{"exactly": hexOf(reportData[:])}}
}

func input(t testing.TB, v *judgetest.VM, raw []byte) judge.Input {
	return judge.Input{Evidence: open(t, raw), Files: []judge.File{{Name: "chain", Raw: v.Chip.Chain.PEM()}}, Roots: judge.Roots{Software: []soft.Root{v.Root(t)}}, At: judgetest.Now}
}

func verify(t testing.TB, in judge.Input, e judge.Expect) evidence.Judgement {
	t.Helper()
	j, err := judge.Verify(in, e)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func TestVerifyReport(t *testing.T) {
	v := judgetest.New(t)
	raw := v.Report(t, reportData, nil)
	j := verify(t, input(t, v, raw), expect(t, document("sevsnpvm", good())))
	if j.Verdict != evidence.Accepted || !j.Authentic || j.Root != evidence.RootSoftware || j.Kind != "sevsnpvm" || j.Claims["measurement"] != hexOf(judgetest.Measurement[:]) {
		show(t, j)
		t.Fatalf("verdict %s, authentic %t, root %s, kind %s", j.Verdict, j.Authentic, j.Root, j.Kind)
	}
	safe := func(change func(*sevsnp.Report)) func() evidence.Judgement {
		return func() evidence.Judgement {
			var e judge.Expect
			if err := e.Any("all"); err != nil {
				t.Fatal(err)
			}
			return verify(t, input(t, v, v.Report(t, reportData, change)), e)
		}
	}
	if j := safe(nil)(); j.Verdict != evidence.Accepted {
		show(t, j)
		t.Fatal("positive twin of the safe defaults")
	}
	with := func(name string, value any) func() evidence.Judgement {
		return func() evidence.Judgement {
			claims := good()
			claims[name] = value
			if value == nil {
				delete(claims, name)
			}
			return verify(t, input(t, v, raw), expect(t, document("sevsnpvm", claims)))
		}
	}
	for _, row := range []struct {
		name  string
		judge func() evidence.Judgement
		claim string
		code  evidence.Code
	}{
		{"SNP-01 another report data", with("report-data", m{"exactly": strings.Repeat("00", 64)}), "report-data", evidence.CodeBinding},
		{"SNP-24 another host data", with("host-data", m{"exactly": strings.Repeat("00", 32)}), "host-data", evidence.CodeBinding},
		{"another measurement", with("measurement", m{"oneOf": []string{strings.Repeat("01", 48)}}), "measurement", evidence.CodeMeasurement},
		{"SVC-26 nothing said of the measurement", with("measurement", nil), "measurement", evidence.CodeMeasurement},
		{"SVC-26 nothing said of the host data", with("host-data", nil), "host-data", evidence.CodeBinding},
		{"SVC-26 nothing said of the report data", with("report-data", nil), "report-data", evidence.CodeBinding},
		{"SNP-21 a TCB below what is asked", with("reported-tcb", m{"atLeast": m{"snp": 0x19}}), "reported-tcb", evidence.CodeTCB},
		{"SNP-23 another chip", with("chip-id", m{"exactly": strings.Repeat("01", 64)}), "chip-id", evidence.CodeBinding},
		{"TDX-21 a PCR without a quote", with("pcr4", m{"exactly": strings.Repeat("01", 32)}), "pcr4", evidence.CodeMeasurement},
		{"SNP-02 VMPL 1", safe(func(r *sevsnp.Report) { r.VMPL = 1 }), "vmpl", evidence.CodeConfig},
		{"SNP-02 VMPL of the host", safe(func(r *sevsnp.Report) { r.VMPL = sevsnp.HostVMPL }), "vmpl", evidence.CodeConfig},
		{"SNP-03 debug", safe(func(r *sevsnp.Report) { r.Policy |= sevsnp.PolicyDebug }), "policy-debug", evidence.CodeConfig},
		{"SNP-04 migration agent", safe(func(r *sevsnp.Report) { r.Policy |= sevsnp.PolicyMigrationAgent }), "policy-migration-agent", evidence.CodeConfig},
		{"SNP-21 committed TCB below the floor", safe(func(r *sevsnp.Report) { r.CommittedTCB.SNP = 1 }), "committed-tcb", evidence.CodeTCB},
		{"SNP-21 launch TCB below the floor", safe(func(r *sevsnp.Report) { r.LaunchTCB.Microcode = 1 }), "launch-tcb", evidence.CodeTCB},
		{"SNP-22 provisional firmware", func() evidence.Judgement {
			return verify(t, input(t, v, v.Report(t, reportData, func(r *sevsnp.Report) { r.CurrentTCB.SNP++ })), expect(t, document("sevsnpvm", good())))
		}, "provisional-firmware", evidence.CodeTCB},
		{"SVC-26 nothing expected at all", func() evidence.Judgement { return verify(t, input(t, v, raw), judge.Expect{}) }, "expectations", evidence.CodePolicy},
		{"TDX-27 an SNP report where a TD is expected", func() evidence.Judgement {
			return verify(t, input(t, v, raw), expect(t, document("tdxvm", m{"measurement": "any", "host-data": "any", "report-data": "any"})))
		}, "kind", evidence.CodePolicy},
		{"SVC-22 a software root that nobody named", func() evidence.Judgement {
			in := input(t, v, raw)
			in.Roots = judge.VendorRoots()
			return verify(t, in, expect(t, document("sevsnpvm", good())))
		}, "hardware-report", evidence.CodeChain},
		{"SVC-24 software evidence, any for all that may be any", func() evidence.Judgement {
			var e judge.Expect
			if err := e.Any("all"); err != nil {
				t.Fatal(err)
			}
			in := input(t, v, raw)
			in.Roots = judge.VendorRoots()
			return verify(t, in, e)
		}, "hardware-report", evidence.CodeChain},
		{"SNP-13 another root of the software root's name", func() evidence.Judgement {
			in := input(t, v, raw)
			in.Roots.Software = []soft.Root{judgetest.New(t).Root(t)}
			return verify(t, in, expect(t, document("sevsnpvm", good())))
		}, "hardware-report", evidence.CodeChain},
		{"a root that was named and that the document does not take", func() evidence.Judgement {
			return verify(t, input(t, v, raw), expect(t, strings.Replace(document("sevsnpvm", good()), `"software"`, `"amd"`, 1)))
		}, "root", evidence.CodeChain},
		{"SNP-32 a VCEK that has expired", func() evidence.Judgement {
			in := input(t, v, raw)
			in.At = in.At.AddDate(50, 0, 0)
			return verify(t, in, expect(t, document("sevsnpvm", good())))
		}, "hardware-report", evidence.CodeChain},
		{"SNP-33 a flipped bit", func() evidence.Judgement {
			bad := bytes.Clone(raw)
			bad[0x91] ^= 1
			return verify(t, input(t, v, bad), expect(t, document("sevsnpvm", good())))
		}, "hardware-report", evidence.CodeChain},
		{"TPM-01 a nonce where no quote could carry one", func() evidence.Judgement {
			e := expect(t, document("sevsnpvm", good()))
			if err := e.Nonce(judgetest.Nonce); err != nil {
				t.Fatal(err)
			}
			return verify(t, input(t, v, raw), e)
		}, "nonce", evidence.CodeBinding},
	} {
		t.Run(row.name, func(t *testing.T) {
			j := row.judge()
			if j.Verdict != evidence.Refused || !find(j, row.claim, evidence.NotMet) {
				show(t, j)
				t.Fatalf("verdict %s, or no failed check %q", j.Verdict, row.claim)
			}
			if got := judge.CodeFor(row.claim); got != row.code {
				t.Errorf("code %s, want %s", got, row.code)
			}
		})
	}
	t.Run("SNP-14 no certificates at all is no verdict", func(t *testing.T) {
		in := input(t, v, raw)
		in.Files = nil
		if j := verify(t, in, expect(t, document("sevsnpvm", good()))); j.Verdict != evidence.Unavailable || j.Authentic {
			t.Errorf("verdict %s, authentic %t", j.Verdict, j.Authentic)
		}
	})
}

func TestVerifyWithVTPM(t *testing.T) {
	v := judgetest.New(t)
	all := func() judge.Expect {
		var e judge.Expect
		if err := e.Any("all"); err != nil {
			t.Fatal(err)
		}
		if err := e.Nonce(judgetest.Nonce); err != nil {
			t.Fatal(err)
		}
		return e
	}
	j := verify(t, input(t, v, v.Azure(t, judgetest.Nonce, nil)), all())
	if j.Verdict != evidence.Accepted || !j.Authentic || j.Kind != "azurevm" {
		show(t, j)
		t.Fatalf("verdict %s, authentic %t, kind %s", j.Verdict, j.Authentic, j.Kind)
	}
	other := judgetest.New(t)
	quote := func(members map[string]any) map[string]any { return members["tpm_quote"].(map[string]any) }
	for _, row := range []struct {
		name, claim string
		change      func(map[string]any)
		nonce       []byte
	}{
		{"TPM-01 a quote of another session", "nonce", nil, []byte("another")},
		{"TPM-07 a quote by another TPM", "quote", func(members map[string]any) {
			q, s := other.Quote(t, judgetest.Nonce)
			quote(members)["message"], quote(members)["signature"] = hexOf(q), hexOf(s)
		}, nil},
		{"TPM-09 a random signature", "quote", func(members map[string]any) { quote(members)["signature"] = strings.Repeat("01", 256) }, nil},
		{"TPM-03 a PCR that was not quoted so", "quote-pcrs", func(members map[string]any) { quote(members)["pcrs"].([]string)[4] = strings.Repeat("01", 32) }, nil},
		{"SVC-27 an HCL report about other claims", "runtime-claims", func(members map[string]any) {
			raw := v.HCL(t, nil)
			raw[bytes.Index(raw, []byte("B6C98C3B"))] = 'C'
			members["hcl_report"] = base64.RawURLEncoding.EncodeToString(raw)
		}, nil},
		{"SVC-27 a VCEK that is no certificate", "certificates", func(members map[string]any) { members["vcek"] = "AAAA" }, nil},
	} {
		t.Run(row.name, func(t *testing.T) {
			nonce := row.nonce
			if nonce == nil {
				nonce = judgetest.Nonce
			}
			j := verify(t, input(t, v, v.Azure(t, nonce, row.change)), all())
			if j.Verdict != evidence.Refused || !find(j, row.claim, evidence.NotMet) {
				show(t, j)
				t.Errorf("verdict %s, or no failed check %q", j.Verdict, row.claim)
			}
		})
	}
	t.Run("SVC-26 no nonce", func(t *testing.T) {
		doc := document("azurevm", m{"measurement": "any", "host-data": "any", "pcrs": "any"})
		j := verify(t, input(t, v, v.Azure(t, judgetest.Nonce, nil)), expect(t, doc))
		if j.Verdict != evidence.Refused || !find(j, "nonce", evidence.NotMet) {
			t.Errorf("verdict %s", j.Verdict)
		}
		doc = document("azurevm", m{"measurement": "any", "host-data": "any", "pcrs": "any", "nonce": "any"})
		if j := verify(t, input(t, v, v.Azure(t, judgetest.Nonce, nil)), expect(t, doc)); j.Verdict != evidence.Accepted {
			show(t, j)
			t.Errorf("with an explicit any: verdict %s", j.Verdict)
		}
	})
	t.Run("SVC-26 no PCR", func(t *testing.T) {
		e := expect(t, document("azurevm", m{"measurement": "any", "host-data": "any"}))
		if err := e.Nonce(judgetest.Nonce); err != nil {
			t.Fatal(err)
		}
		if j := verify(t, input(t, v, v.Azure(t, judgetest.Nonce, nil)), e); j.Verdict != evidence.Refused || !find(j, "pcrs", evidence.NotMet) {
			t.Errorf("verdict %s", j.Verdict)
		}
	})
}

// TestCertificatesAreTakenWhole: DER may end in bytes that are white space in texts.
func TestCertificatesAreTakenWhole(t *testing.T) {
	v := judgetest.New(t)
	for tries := 0; !strings.ContainsAny(string(v.Chip.Chain.Leaf.Raw[len(v.Chip.Chain.Leaf.Raw)-1:]), " \t\r\n"); tries++ {
		if tries > 5000 {
			t.Fatal("no certificate ends so")
		}
		v.Chip = v.Chip.Vendor.Chip(t, v.Chip.TCB, nil)
	}
	if j := mustInspect(t, input(t, v, v.Azure(t, judgetest.Nonce, nil))); !j.Authentic {
		show(t, j)
		t.Error("not authentic")
	}
}

func TestVerifyBundle(t *testing.T) {
	v := judgetest.New(t)
	x := launch.Expected{Version: launch.ExpectedVersion, Kind: bundle.Kind, Roots: []evidence.RootKind{evidence.RootSoftware}, Measurement: []string{hexOf(judgetest.Measurement[:])},
		HostData: hexOf(judgetest.HostData[:]), PCRs: map[string]string{}}
	for _, n := range []int{4, 7, 11, 12, 13} {
		value := v.PCRs[n]
		x.PCRs[map[int]string{4: "4", 7: "7", 11: "11", 12: "12", 13: "13"}[n]] = hexOf(value[:])
	}
	doc, err := json.Marshal(x)
	if err != nil {
		t.Fatal(err)
	}
	want := func() judge.Expect {
		e := expect(t, string(doc))
		if err := e.Nonce(judgetest.Nonce); err != nil {
			t.Fatal(err)
		}
		return e
	}
	in := input(t, v, v.Bundle(t, judgetest.Nonce, nil))
	in.Files = nil // the bundle has its chain
	j := verify(t, in, want())
	if j.Verdict != evidence.Accepted || !j.Authentic || j.Kind != bundle.Kind || j.Claims["secure-boot"] != true {
		show(t, j)
		t.Fatalf("verdict %s", j.Verdict)
	}
	old, err := bundle.ExpectFrom(x, judgetest.Nonce)
	if err != nil {
		t.Fatal(err)
	}
	b, err := bundle.Parse(v.Bundle(t, judgetest.Nonce, nil))
	if err != nil {
		t.Fatal(err)
	}
	if r, err := bundle.Appraise(b, bundle.Roots{Software: in.Roots.Software}, old, in.At); err != nil || r.Verdict != j.Verdict {
		t.Errorf("package bundle says %v, %v", r.Verdict, err)
	}
	for _, row := range []struct {
		name, claim string
		change      func(*bundle.Bundle)
	}{
		{"TPM-01 an old challenge", "nonce", func(b *bundle.Bundle) { b.Nonce = []byte("an old one") }},
		{"TPM-18 another SSH host key", "ssh-host-key", func(b *bundle.Bundle) { b.SSHHostKey = []byte("another") }},
		{"TPM-06 a log cut off", "event-log", func(b *bundle.Bundle) { b.EventLog = b.EventLog[:len(b.EventLog)-1] }},
		{"TPM-07 another attestation key", "attestation-key", func(b *bundle.Bundle) {
			o, err := bundle.Parse(judgetest.New(t).Bundle(t, judgetest.Nonce, nil))
			if err != nil {
				t.Fatal(err)
			}
			b.AKPublic, b.Quote, b.Signature = o.AKPublic, o.Quote, o.Signature
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			in := in
			in.Evidence = open(t, v.Bundle(t, judgetest.Nonce, row.change))
			if j := verify(t, in, want()); j.Verdict != evidence.Refused || !find(j, row.claim, evidence.NotMet) {
				show(t, j)
				t.Errorf("verdict %s, or no failed check %q", j.Verdict, row.claim)
			}
		})
	}
	for _, n := range []string{"4", "7", "11", "12", "13"} {
		t.Run("SVC-26 nothing said of PCR "+n, func(t *testing.T) {
			less := x
			less.PCRs = map[string]string{}
			for k, value := range x.PCRs {
				if k != n {
					less.PCRs[k] = value
				}
			}
			raw, err := json.Marshal(less)
			if err != nil {
				t.Fatal(err)
			}
			e := expect(t, string(raw))
			if err := e.Nonce(judgetest.Nonce); err != nil {
				t.Fatal(err)
			}
			if j := verify(t, in, e); j.Verdict != evidence.Refused || !find(j, "pcr"+n, evidence.NotMet) {
				t.Errorf("verdict %s", j.Verdict)
			}
		})
	}
}

func TestInspectSaysWhatTheBytesSay(t *testing.T) {
	v := judgetest.New(t)
	j, err := judge.Inspect(input(t, v, v.Report(t, reportData, func(r *sevsnp.Report) { r.Policy |= sevsnp.PolicyDebug })))
	if err != nil {
		t.Fatal(err)
	}
	if !j.Authentic || j.Verdict == evidence.Accepted {
		t.Errorf("authentic %t, verdict %s", j.Authentic, j.Verdict)
	}
	for name, want := range map[string]any{"policy-debug": true, "vmpl": uint32(0), "report-data": hexOf(reportData[:]), "product": "Milan", "reported-tcb": "db18000000000004", "reported-tcb-snp": uint8(0x18)} {
		if j.Claims[name] != want {
			t.Errorf("%s is %v, want %v", name, j.Claims[name], want)
		}
	}
	in := input(t, v, v.Report(t, reportData, nil))
	in.Files = nil
	if j, err := judge.Inspect(in); err != nil || j.Authentic || j.Claims["vmpl"] != uint32(0) {
		t.Errorf("without certificates: authentic %t, claims %v, %v", j.Authentic, j.Claims["vmpl"], err)
	}
}

func TestInputOfNoUse(t *testing.T) {
	v := judgetest.New(t)
	ok := input(t, v, v.Report(t, reportData, nil))
	if _, err := judge.Inspect(ok); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*judge.Input){
		"TDX-24 no evidence":    func(in *judge.Input) { in.Evidence = nil },
		"SVC-03 no root":        func(in *judge.Input) { in.Roots = judge.Roots{} },
		"no time":               func(in *judge.Input) { in.At = time.Time{} },
		"a file that is no use": func(in *judge.Input) { in.Files = append(in.Files, judge.File{Name: "x", Raw: []byte("hello")}) },
	} {
		t.Run(name, func(t *testing.T) {
			in := ok
			change(&in)
			if j, err := judge.Verify(in, expect(t, document("sevsnpvm", good()))); err == nil || j.Verdict == evidence.Accepted {
				t.Errorf("verdict %s, %v", j.Verdict, err)
			}
		})
	}
}

func TestExpectationsThatAreMistakes(t *testing.T) {
	if _, err := judge.ParseExpect([]byte(document("sevsnpvm", good()))); err != nil {
		t.Fatal(err)
	}
	one := func(name string, value any) string { return document("sevsnpvm", m{name: value}) }
	for name, doc := range map[string]string{
		"nothing":                            "",
		"no version":                         `{"kind":"sevsnpvm","roots":["amd"],"claims":{"vmpl":{"exactly":0}}}`,
		"another version":                    strings.Replace(one("vmpl", m{"exactly": 0}), judge.DocumentVersion, "cloister.expect/3", 1),
		"an unknown member":                  strings.Replace(one("vmpl", m{"exactly": 0}), "{", `{"more":1,`, 1),
		"an unknown claim":                   one("measurment", "any"),
		"another kind":                       strings.Replace(one("vmpl", m{"exactly": 0}), "sevsnpvm", "vm", 1),
		"no root":                            strings.Replace(one("vmpl", m{"exactly": 0}), `["software"]`, `[]`, 1),
		"an unknown root":                    strings.Replace(one("vmpl", m{"exactly": 0}), `"software"`, `"arm"`, 1),
		"TDX-22 no claims":                   document("sevsnpvm", m{}),
		"TDX-22 an empty list":               one("measurement", m{"oneOf": []string{}}),
		"TDX-22 an empty text":               one("measurement", m{"oneOf": []string{""}}),
		"TDX-22 null":                        one("measurement", nil),
		"TDX-22 a measurement of zeros":      one("measurement", m{"exactly": strings.Repeat("00", 48)}),
		"SNP-31 a short measurement":         one("measurement", m{"exactly": "ab"}),
		"SNP-31 report data of 63 bytes":     one("report-data", m{"exactly": strings.Repeat("01", 63)}),
		"SNP-31 report data of 65 bytes":     one("report-data", m{"exactly": strings.Repeat("01", 65)}),
		"SNP-31 report data of no bytes":     one("report-data", m{"exactly": ""}),
		"an order where there is none":       one("measurement", m{"atLeast": strings.Repeat("01", 48)}),
		"two rules":                          one("vmpl", m{"exactly": 0, "atLeast": 0}),
		"a number as text":                   one("vmpl", m{"exactly": "0"}),
		"a text as truth":                    one("policy-smt", m{"exactly": "true"}),
		"SVC-26 any for debug":               one("policy-debug", "any"),
		"SVC-26 any for the VMPL":            one("vmpl", "any"),
		"SVC-26 any for the TCB":             one("reported-tcb", "any"),
		"a component that is none":           one("reported-tcb", m{"atLeast": m{"snpfw": 1}}),
		"a component that does not fit":      one("reported-tcb", m{"atLeast": m{"snp": 256}}),
		"TPM-15 a PCR that anyone can reset": one("pcr16", m{"exactly": strings.Repeat("01", 32)}),
		"TPM-14 a PCR 4 of zeros":            one("pcr4", m{"exactly": strings.Repeat("00", 32)}),
		"TPM-14 only PCRs of zeros":          one("pcr12", m{"exactly": strings.Repeat("00", 32)}),
		"SVC-20 a claim twice":               strings.Replace(one("vmpl", m{"exactly": 0}), `"vmpl"`, `"vmpl":{"exactly":1},"vmpl"`, 1),
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := judge.ParseExpect([]byte(doc)); err == nil {
				t.Errorf("accepted: %s", doc)
			}
		})
	}
	for _, n := range []int{0, 63, 65} {
		t.Run("SNP-31 report data", func(t *testing.T) {
			var e judge.Expect
			if err := e.ReportData(make([]byte, n)); err == nil || !e.Nothing() {
				t.Errorf("%d bytes: %v", n, err)
			}
		})
	}
	var e judge.Expect
	for _, err := range []error{e.Any("vmpl"), e.Any("everything"), e.Nonce(nil), e.Nonce(make([]byte, 65))} {
		if err == nil || !e.Nothing() {
			t.Errorf("%v", err)
		}
	}
}

// TestEveryExpectationDecides changes one expectation at a time to something that the evidence does not say: only that
// one may fail.
func TestEveryExpectationDecides(t *testing.T) {
	v := judgetest.New(t)
	in := input(t, v, v.Bundle(t, judgetest.Nonce, nil))
	base := m{"nonce": "any", "measurement": "any", "host-data": "any", "secure-boot": "any", "pcrs": "any"}
	if j := verify(t, in, expect(t, document("sevsnpvm", base))); j.Verdict != evidence.Accepted {
		show(t, j)
		t.Fatal("positive twin")
	}
	said := mustInspect(t, in).Claims
	wrong := map[string]any{"vmpl": m{"exactly": 3}, "guest-svn": m{"atLeast": 77}, "policy-abi": m{"atLeast": "9.9"}, "signing-key": m{"exactly": "VLEK"}, "vm-id": m{"exactly": "x"},
		"launch-mitigations": m{"atLeast": "0x10"}, "current-mitigations": m{"atLeast": "0x10"}, "provisional-firmware": m{"exactly": true},
		"reported-tcb": m{"atLeast": m{"snp": 200}}, "launch-tcb": m{"atLeast": m{"snp": 200}}, "committed-tcb": m{"atLeast": m{"snp": 200}}, "current-tcb": m{"atLeast": m{"snp": 200}}}
	for _, name := range judge.Names() {
		value := wrong[name]
		switch x := said[name].(type) {
		case bool:
			value = m{"exactly": !x}
		case string:
			if raw, err := hex.DecodeString(x); err == nil && value == nil {
				value = m{"oneOf": []string{strings.Repeat("7e", len(raw))}}
			}
		}
		if value == nil {
			value = m{"exactly": strings.Repeat("7e", 48)} // of a TD: not in this evidence at all
			if _, err := judge.ParseExpect([]byte(document("sevsnpvm", m{name: value}))); err != nil {
				continue // has another type; the tests of TDs see to it
			}
		}
		t.Run(name, func(t *testing.T) {
			claims := m{name: value}
			for n, x := range base {
				if n != name {
					claims[n] = x
				}
			}
			j := verify(t, in, expect(t, document("sevsnpvm", claims)))
			for _, c := range j.Checks {
				if c.Result == evidence.NotMet && c.Claim != name {
					t.Errorf("%s fails too", c.Claim)
				}
			}
			if j.Verdict != evidence.Refused || !find(j, name, evidence.NotMet) {
				t.Errorf("verdict %s", j.Verdict)
			}
		})
	}
}

// TestEveryClaimCanBeExpected: whatever a verdict compares, a document can speak of, under the same name, and it is told.
func TestEveryClaimCanBeExpected(t *testing.T) {
	v := judgetest.New(t)
	var e judge.Expect
	if err := e.Any("all"); err != nil {
		t.Fatal(err)
	}
	in := input(t, v, v.Report(t, reportData, nil))
	authenticity := map[string]bool{"root": true, "kind": true}
	for _, c := range mustInspect(t, in).Checks {
		authenticity[c.Claim] = true
	}
	seen := 0
	for _, c := range verify(t, in, e).Checks {
		if !authenticity[c.Claim] {
			seen++
			if !slices.Contains(judge.Names(), c.Claim) {
				t.Errorf("%s is compared, and can't be expected", c.Claim)
			}
		}
	}
	if seen < 30 {
		t.Errorf("%d claims compared", seen)
	}
}

func mustInspect(t testing.TB, in judge.Input) evidence.Judgement {
	t.Helper()
	j, err := judge.Inspect(in)
	if err != nil {
		t.Fatal(err)
	}
	return j
}
