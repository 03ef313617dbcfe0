package tdx_test

import (
	"bytes"
	"crypto/sha512"
	"encoding/binary"
	"slices"
	"strings"
	"testing"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/dcap"
	"cloister.dev/cloister/evidence/dcap/dcaptest"
	"cloister.dev/cloister/evidence/tdx"
	"cloister.dev/cloister/evidence/tdx/tdxtest"
)

var at = dcap.Options{At: dcaptest.Now}

// expect is what is expected of the good quote.
func expect(q tdx.Quote) tdx.Expect {
	e := tdx.Baseline()
	e.Root = evidence.Exactly(evidence.RootIntel)
	e.MRTD, e.ReportData, e.MRConfigID = evidence.Exactly(q.Body.MRTD), evidence.Exactly(q.Body.ReportData), evidence.Exactly(q.Body.MRConfigID)
	for i := range e.RTMR {
		e.RTMR[i] = evidence.Exactly(q.Body.RTMR[i])
	}
	return e
}

func judged(t *testing.T, v *dcaptest.Vendor, q tdx.Quote, edits ...func(*dcaptest.Documents)) *tdx.Authentic {
	t.Helper()
	a, err := tdxtest.Authenticate(t, v, tdxtest.Parsed(t, v, q), at)
	if err != nil {
		t.Fatal(err)
	}
	if a, err = a.WithCollateral(v.Collateral(t, dcap.TDX, dcaptest.Now, edits...), at); err != nil {
		t.Fatal(err)
	}
	return a
}

func TestAppraise(t *testing.T) {
	v := dcaptest.New(t, dcaptest.Options{})
	for _, good := range []tdx.Quote{tdxtest.Good(), tdxtest.Version5(tdxtest.Good())} {
		if err := expect(good).Validate(); err != nil {
			t.Fatal(err)
		}
		if got := tdx.Appraise(judged(t, v, good), expect(good)); got.Verdict != evidence.Accepted {
			t.Fatalf("version %d: %v", good.Version, got.Err(evidence.CodePolicy))
		}
	}
	good := tdxtest.Good()
	for _, r := range []struct {
		name   string
		change func(*tdx.Quote)
		code   evidence.Code
		claim  string
	}{
		{"TDX-10 debug", func(q *tdx.Quote) { q.Body.TDAttributes |= tdx.Debug }, evidence.CodeConfig, "attribute debug"},
		{"TDX-10 profiling from outside", func(q *tdx.Quote) { q.Body.TDAttributes |= tdx.PerfProf }, evidence.CodeConfig, "attribute debug"},
		{"TDX-10 an unknown bit of the untrusted group", func(q *tdx.Quote) { q.Body.TDAttributes |= 1 << 2 }, evidence.CodeConfig, "attribute debug"},
		{"TDX-10 a reserved bit", func(q *tdx.Quote) { q.Body.TDAttributes |= 1 << 40 }, evidence.CodeConfig, "reserved attributes"},
		{"TDX-11 a TD that may be moved", func(q *tdx.Quote) { q.Body.TDAttributes |= tdx.Migratable }, evidence.CodeConfig, "attribute migratable"},
		{"TDX-11 a service TD that nobody named", func(q *tdx.Quote) { *q = tdxtest.Version5(*q); q.Body.MRServiceTD[0] = 1 }, evidence.CodeConfig, "MRSERVICETD"},
		{"TDX-20 another MRTD under the right RTMRs", func(q *tdx.Quote) { q.Body.MRTD[0] ^= 1 }, evidence.CodeMeasurement, "MRTD"},
		{"TDX-20 another RTMR 0", func(q *tdx.Quote) { q.Body.RTMR[0][47] ^= 1 }, evidence.CodeMeasurement, "RTMR 0"},
		{"another RTMR 1", func(q *tdx.Quote) { q.Body.RTMR[1][0] ^= 1 }, evidence.CodeMeasurement, "RTMR 1"},
		{"another RTMR 2", func(q *tdx.Quote) { q.Body.RTMR[2][0] ^= 1 }, evidence.CodeMeasurement, "RTMR 2"},
		{"TDX-21 RTMR 3 is compared too", func(q *tdx.Quote) { q.Body.RTMR[3][0] ^= 1 }, evidence.CodeMeasurement, "RTMR 3"},
		{"report data of another session", func(q *tdx.Quote) { q.Body.ReportData[63] ^= 1 }, evidence.CodeBinding, "report data"},
		{"other init data", func(q *tdx.Quote) { q.Body.MRConfigID[0] ^= 1 }, evidence.CodeBinding, "MRCONFIGID"},
	} {
		t.Run(r.name, func(t *testing.T) {
			q := good
			r.change(&q)
			err := tdx.Refusal(tdx.Appraise(judged(t, v, q), expect(good)))
			if evidence.CodeOf(err) != r.code || !strings.Contains(err.Error(), r.claim) {
				t.Errorf("%v, want %s at %s", err, r.code, r.claim)
			}
		})
	}
	t.Run("TDX-09 another signer of the module", func(t *testing.T) {
		q := good
		q.Body.MRSignerSeam[0] = 1
		a, err := tdxtest.Authenticate(t, v, tdxtest.Parsed(t, v, q), at)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := a.WithCollateral(v.Collateral(t, dcap.TDX, dcaptest.Now), at); evidence.CodeOf(err) != evidence.CodeTCB {
			t.Errorf("by collateral: %v", err)
		}
		if err := tdx.Refusal(tdx.Appraise(a, expect(good))); evidence.CodeOf(err) != evidence.CodeTCB {
			t.Errorf("by expectation: %v", err)
		}
	})
}

// Each expectation alone decides.
func TestOneExpectationAtATime(t *testing.T) {
	v := dcaptest.New(t, dcaptest.Options{})
	q := tdxtest.Good()
	a := judged(t, v, q)
	pck, qe := a.PCK(), a.QEReport()
	for name, r := range map[string]struct {
		met, notMet func(*tdx.Expect)
	}{
		"root":                       {func(e *tdx.Expect) {}, func(e *tdx.Expect) { e.Root = evidence.Exactly(evidence.RootSoftware) }},
		"TCB status":                 {func(e *tdx.Expect) { e.TCBStatus = evidence.Exactly(dcap.UpToDate) }, func(e *tdx.Expect) { e.TCBStatus = evidence.Exactly(dcap.OutOfDate) }},
		"TCB evaluation number":      {func(e *tdx.Expect) { e.EvaluationNumber = evidence.AtLeast[uint32](20) }, func(e *tdx.Expect) { e.EvaluationNumber = evidence.AtLeast[uint32](21) }},
		"MROWNER":                    {func(e *tdx.Expect) { e.MROwner = evidence.Exactly([48]byte{}) }, func(e *tdx.Expect) { e.MROwner = evidence.Exactly([48]byte{1}) }},
		"MROWNERCONFIG":              {func(e *tdx.Expect) { e.MROwnerConfig = evidence.Exactly([48]byte{}) }, func(e *tdx.Expect) { e.MROwnerConfig = evidence.Exactly([48]byte{1}) }},
		"attribute SEPT_VE_DISABLE":  {func(e *tdx.Expect) { e.SEPTVEDisable = evidence.Exactly(true) }, func(e *tdx.Expect) { e.SEPTVEDisable = evidence.Exactly(false) }},
		"attribute PKS":              {func(e *tdx.Expect) { e.PKS = evidence.Exactly(false) }, func(e *tdx.Expect) { e.PKS = evidence.Exactly(true) }},
		"attribute key locker":       {func(e *tdx.Expect) { e.KeyLocker = evidence.Exactly(false) }, func(e *tdx.Expect) { e.KeyLocker = evidence.Exactly(true) }},
		"attribute perfmon":          {func(e *tdx.Expect) { e.Perfmon = evidence.Exactly(false) }, func(e *tdx.Expect) { e.Perfmon = evidence.Exactly(true) }},
		"XFAM":                       {func(e *tdx.Expect) { e.XFAM = evidence.Exactly(q.Body.XFAM) }, func(e *tdx.Expect) { e.XFAM = evidence.Exactly[uint64](3) }},
		"MRSEAM":                     {func(e *tdx.Expect) { e.MRSeam = evidence.Exactly(q.Body.MRSeam) }, func(e *tdx.Expect) { e.MRSeam = evidence.Exactly([48]byte{9}) }},
		"SEAM attributes":            {func(e *tdx.Expect) {}, func(e *tdx.Expect) { e.SeamAttributes = evidence.Exactly([8]byte{1}) }},
		"TEE TCB SVN":                {func(e *tdx.Expect) { e.TEETCBSVN = tdx.SVNAtLeast(q.Body.TEETCBSVN) }, func(e *tdx.Expect) { e.TEETCBSVN = tdx.SVNAtLeast([16]byte{5, 1, 2, 1}) }},
		"SVN of the quoting enclave": {func(e *tdx.Expect) { e.QESVN = evidence.AtLeast(qe.ISVSVN) }, func(e *tdx.Expect) { e.QESVN = evidence.AtLeast(qe.ISVSVN + 1) }},
		"PCE SVN":                    {func(e *tdx.Expect) { e.PCESVN = evidence.AtLeast(pck.PCESVN) }, func(e *tdx.Expect) { e.PCESVN = evidence.AtLeast(pck.PCESVN + 1) }},
		"FMSPC":                      {func(e *tdx.Expect) { e.FMSPC = evidence.Exactly(pck.FMSPC) }, func(e *tdx.Expect) { e.FMSPC = evidence.Exactly([6]byte{1}) }},
		"PPID":                       {func(e *tdx.Expect) { e.PPID = evidence.OneOf([16]byte{1}, pck.PPID) }, func(e *tdx.Expect) { e.PPID = evidence.OneOf([16]byte{1}) }}, // TDX-28
		"advisories":                 {func(e *tdx.Expect) { e.DeniedAdvisories = []string{"INTEL-SA-99999"} }, func(e *tdx.Expect) { e.DeniedAdvisories = nil }},
	} {
		e := expect(q)
		r.met(&e)
		if got := tdx.Appraise(a, e); got.Verdict != evidence.Accepted {
			t.Errorf("%s: %v", name, got.Err(evidence.CodePolicy))
		}
		r.notMet(&e)
		got := tdx.Appraise(a, e)
		if err := got.Err(evidence.CodePolicy); got.Verdict != evidence.Refused || !strings.Contains(err.Error(), name) {
			t.Errorf("%s was not what refused: %v", name, err)
		}
		if tdx.CodeFor(name) == evidence.CodePolicy && name != "advisories" {
			t.Errorf("%s has no code of its own", name)
		}
	}
	t.Run("TDX-28 a platform that is not the owner's", func(t *testing.T) {
		e := expect(q)
		e.PPID = evidence.OneOf([16]byte{1}, [16]byte{2})
		if err := tdx.Refusal(tdx.Appraise(a, e)); evidence.CodeOf(err) != evidence.CodeBinding {
			t.Error(err)
		}
	})
	t.Run("TDX-06 an advisory beside a good status", func(t *testing.T) {
		b := judged(t, v, q, func(d *dcaptest.Documents) { d.TCBInfo.Levels[0].Advisories = []string{"INTEL-SA-00837"} })
		if got := b.TCB(); got.Status != dcap.UpToDate || len(got.Advisories) != 1 {
			t.Fatalf("%+v", got)
		}
		e := expect(q)
		if got := tdx.Appraise(b, e); got.Verdict != evidence.Accepted {
			t.Errorf("denied by nobody: %v", got.Err(evidence.CodePolicy))
		}
		e.DeniedAdvisories = []string{"intel-sa-00837"}
		if err := tdx.Refusal(tdx.Appraise(b, e)); evidence.CodeOf(err) != evidence.CodePolicy {
			t.Errorf("denied: %v", err)
		}
	})
	t.Run("TDX-04 a platform that is out of date", func(t *testing.T) {
		old := dcaptest.New(t, dcaptest.Options{SGXTCB: [16]uint8{1, 2, 2, 2, 3, 1, 0, 5}})
		b := judged(t, old, q, func(d *dcaptest.Documents) {
			d.TCBInfo.Levels[0].TCB.SGX = dcaptest.Components(2, 2, 2, 2, 3, 1, 0, 5)
			d.TCBInfo.Levels[1].TCB.SGX = dcaptest.Components(1, 2, 2, 2, 3, 1, 0, 5)
		})
		e := expect(q)
		if err := tdx.Refusal(tdx.Appraise(b, e)); evidence.CodeOf(err) != evidence.CodeTCB {
			t.Errorf("by the baseline: %v", err)
		}
		e.TCBStatus = evidence.OneOf(dcap.UpToDate, dcap.OutOfDate)
		if got := tdx.Appraise(b, e); got.Verdict != evidence.Accepted {
			t.Errorf("by who takes it: %v", got.Err(evidence.CodePolicy))
		}
	})
}

func TestWithoutCollateral(t *testing.T) {
	v := dcaptest.New(t, dcaptest.Options{})
	q := tdxtest.Good()
	a, err := tdxtest.Authenticate(t, v, tdxtest.Parsed(t, v, q), at)
	if err != nil {
		t.Fatal(err)
	}
	e := expect(q)
	if got := tdx.Appraise(a, e); got.Verdict != evidence.Unavailable || evidence.CodeOf(tdx.Refusal(got)) != evidence.CodeUnavailable {
		t.Errorf("SVC-28 without collateral: %s", got.Verdict)
	}
	e.TCBStatus = evidence.Any[dcap.Status]()
	if got := tdx.Appraise(a, e); got.Verdict != evidence.Accepted {
		t.Errorf("where nobody asked: %v", got.Err(evidence.CodePolicy))
	}
	e.DeniedAdvisories = []string{"INTEL-SA-00001"}
	if got := tdx.Appraise(a, e); got.Verdict != evidence.Unavailable {
		t.Errorf("a denied advisory: %s", got.Verdict)
	}
	e.MRTD = evidence.Exactly([48]byte{1})
	if got := tdx.Appraise(a, e); got.Verdict != evidence.Refused {
		t.Errorf("what fails for sure is refused: %s", got.Verdict)
	}
}

func TestZeroValuesRefuse(t *testing.T) {
	v := dcaptest.New(t, dcaptest.Options{})
	q := tdxtest.Good()
	a := judged(t, v, q)
	for name, got := range map[string]evidence.Appraisal{
		"TDX-02 the zero Authentic": tdx.Appraise(&tdx.Authentic{}, expect(q)),
		"no Authentic":              tdx.Appraise(nil, expect(q)),
		"SVC-26 no expectation":     tdx.Appraise(a, tdx.Expect{}),
		"SVC-26 Baseline alone":     tdx.Appraise(a, tdx.Baseline()),
	} {
		if got.Verdict != evidence.Refused {
			t.Errorf("%s: %s", name, got.Verdict)
		}
	}
	if _, err := (&tdx.Authentic{}).WithCollateral(v.Collateral(t, dcap.TDX, dcaptest.Now), at); evidence.CodeOf(err) != evidence.CodeChain {
		t.Errorf("collateral for the zero value: %v", err)
	}
	if _, err := a.WithCollateral(nil, at); evidence.CodeOf(err) != evidence.CodeUnavailable {
		t.Errorf("SVC-28 no collateral: %v", err)
	}
	for name, change := range map[string]func(*tdx.Expect){
		"TDX-22 an empty list of measurements": func(e *tdx.Expect) { e.MRTD = evidence.OneOf[[48]byte]() },
		"TDX-22 zeros as a measurement":        func(e *tdx.Expect) { e.MRTD = evidence.Exactly([48]byte{}) },
		"TDX-22 zeros in a list":               func(e *tdx.Expect) { e.MRTD = evidence.OneOf(q.Body.MRTD, [48]byte{}) },
		"TDX-28 an empty list of platforms":    func(e *tdx.Expect) { e.PPID = evidence.OneOf[[16]byte]() },
		"nothing of RTMR 2":                    func(e *tdx.Expect) { e.RTMR[2] = evidence.Expectation[[48]byte]{} },
		"nothing of advisories":                func(e *tdx.Expect) { e.DeniedAdvisories = nil },
	} {
		e := expect(q)
		change(&e)
		if err := e.Validate(); evidence.CodeOf(err) != evidence.CodePolicy {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestQuoteBytes(t *testing.T) {
	v := dcaptest.New(t, dcaptest.Options{})
	le := binary.LittleEndian
	good := tdxtest.Quote(t, v, tdxtest.Good())
	five := tdxtest.Quote(t, v, tdxtest.Version5(tdxtest.Good()))
	for _, r := range []struct {
		name string
		raw  []byte
		edit func(b []byte) []byte
		code evidence.Code
	}{
		{"TDX-03 another vendor", good, func(b []byte) []byte { b[12] ^= 1; return b }, evidence.CodeUnsupported},
		{"TDX-12 a version 5 quote said to be 4", five, func(b []byte) []byte { le.PutUint16(b, 4); return b }, evidence.CodeParse},
		{"TDX-12 a version 4 quote said to be 5", good, func(b []byte) []byte { le.PutUint16(b, 5); return b }, evidence.CodeUnsupported},
		{"TDX-12 a body of TDX 1.5 said to be 1.0", five, func(b []byte) []byte { le.PutUint16(b[48:], 2); return b }, evidence.CodeParse},
		{"TDX-12 another size of the body", five, func(b []byte) []byte { le.PutUint32(b[50:], 584); return b }, evidence.CodeParse},
		{"TDX-27 a quote of an enclave", good, func(b []byte) []byte { le.PutUint32(b[4:], 0); return b }, evidence.CodeUnsupported},
		{"TDX-27 an enclave in version 5", five, func(b []byte) []byte { le.PutUint16(b[48:], 1); return b }, evidence.CodeUnsupported},
		{"TDX-27 version 3", good, func(b []byte) []byte { le.PutUint16(b, 3); return b }, evidence.CodeUnsupported},
		{"version 6", good, func(b []byte) []byte { le.PutUint16(b, 6); return b }, evidence.CodeUnsupported},
		{"another kind of attestation key", good, func(b []byte) []byte { le.PutUint16(b[2:], 3); return b }, evidence.CodeUnsupported},
		{"TDX-25 a signature section of 4 GiB", good, func(b []byte) []byte { le.PutUint32(b[632:], 0xffffffff); return b }, evidence.CodeParse},
		{"TDX-24 nothing", good, func([]byte) []byte { return nil }, evidence.CodeParse},
		{"TDX-25 far too much", good, func(b []byte) []byte { return append(b, make([]byte, tdx.MaxQuote)...) }, evidence.CodeParse},
	} {
		t.Run(r.name, func(t *testing.T) {
			if _, err := tdx.ParseQuote(r.edit(bytes.Clone(r.raw))); evidence.CodeOf(err) != r.code {
				t.Errorf("%v, want %s", err, r.code)
			}
		})
	}
	for name, raw := range map[string][]byte{"version 4": good, "version 5": five} {
		for n := range raw {
			if _, err := tdx.ParseQuote(raw[:n]); err == nil {
				t.Errorf("TDX-23 %s cut after %d bytes was read", name, n)
			}
		}
		if q, err := tdx.ParseQuote(append(bytes.Clone(raw), make([]byte, 70)...)); err != nil || q.Padding != 70 || q.OddPadding {
			t.Errorf("%s with padding: %v", name, err)
		}
		if q, err := tdx.ParseQuote(append(bytes.Clone(raw), 0, 1)); err != nil || q.Padding != 2 || !q.OddPadding {
			t.Errorf("%s with other bytes behind it: %v", name, err)
		}
	}
	if _, err := tdx.Authenticate(&tdx.Quote{}, at); evidence.CodeOf(err) != evidence.CodeParse {
		t.Errorf("a quote that nobody parsed: %v", err)
	}
}

// Every bit of what is signed counts, and every bit of the signatures.
func TestTDX26EveryBit(t *testing.T) {
	v := dcaptest.New(t, dcaptest.Options{})
	raw := tdxtest.Quote(t, v, tdxtest.Version5(tdxtest.Good()))
	o := at
	o.Chains = dcap.NewChainCache(4)
	const signatures = 54 + 648 + 4 + 128 + 6 + 384 + 64
	for bit := range 8 * signatures {
		bad := bytes.Clone(raw)
		bad[bit/8] ^= 1 << (bit % 8)
		q, err := tdx.ParseQuote(bad)
		if err != nil {
			continue
		}
		if _, err := tdxtest.Authenticate(t, v, q, o); err == nil {
			t.Fatalf("bit %d of byte %d flipped, and accepted", bit%8, bit/8)
		}
	}
	q, err := tdx.ParseQuote(raw)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tdx.Authenticate(q, at); evidence.CodeOf(err) != evidence.CodeChain {
		t.Errorf("TDX-17 a stand-in's quote under Intel's root: %v", err)
	}
	q.Body.MRTD[0] ^= 1
	q.QESVN ^= 1
	a, err := tdxtest.Authenticate(t, v, q, at)
	if err != nil || a.Quote().Body.MRTD == q.Body.MRTD || a.Quote().QESVN == q.QESVN {
		t.Errorf("a member that was changed by hand counted: %v", err)
	}
	a.Quote().Body.MRServiceTD[0] ^= 1
	if *a.Quote().Body.MRServiceTD != [48]byte{} {
		t.Error("a copy that was changed by hand changed the evidence")
	}
}

// A report and a quote of TDX 1.5 both name a service TD, and must name the same.
func TestQuotedByComparesServiceTD(t *testing.T) {
	v := dcaptest.New(t, dcaptest.Options{})
	five := tdxtest.Version5(tdxtest.Good())
	r, err := tdx.ParseReport(tdxtest.Report(t, five))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.QuotedBy(tdxtest.Parsed(t, v, tdxtest.Good())); err != nil {
		t.Errorf("quoted in the form of version 4: %v", err)
	}
	other := tdxtest.Version5(tdxtest.Good())
	other.Body.MRServiceTD[0] = 1
	if err := r.QuotedBy(tdxtest.Parsed(t, v, other)); evidence.CodeOf(err) != evidence.CodeBinding {
		t.Errorf("TDX-11 bound to another service TD: %v", err)
	}
	for _, q := range []*tdx.Quote{nil, tdxtest.Parsed(t, v, five)} {
		if err := (*tdx.Report)(nil).QuotedBy(q); evidence.CodeOf(err) != evidence.CodeParse {
			t.Errorf("TDX-24 no report: %v", err)
		}
	}
}

func TestReport(t *testing.T) {
	v := dcaptest.New(t, dcaptest.Options{})
	for _, good := range []tdx.Quote{tdxtest.Good(), tdxtest.Version5(tdxtest.Good())} {
		raw := tdxtest.Report(t, good)
		r, err := tdx.ParseReport(raw)
		if err != nil || !bytes.Equal(r.Marshal(), raw) {
			t.Fatal(err)
		}
		if err := r.QuotedBy(tdxtest.Parsed(t, v, good)); err != nil {
			t.Error(err)
		}
		other := good
		other.Body.ReportData[0] ^= 1
		if err := r.QuotedBy(tdxtest.Parsed(t, v, other)); evidence.CodeOf(err) != evidence.CodeBinding {
			t.Errorf("another TD's quote: %v", err)
		}
		for n := range raw {
			if _, err := tdx.ParseReport(raw[:n]); err == nil {
				t.Fatalf("cut after %d bytes, and read", n)
			}
		}
		for _, r := range []struct {
			name string
			at   int
			code evidence.Code
		}{{"another type", 0, evidence.CodeUnsupported}, {"another version", 2, evidence.CodeUnsupported}, {"a changed module", 256 + 30, evidence.CodeBinding}, {"a changed MRTD", 512 + 20, evidence.CodeBinding}} {
			bad := bytes.Clone(raw)
			bad[r.at] ^= 0x10
			if _, err := tdx.ParseReport(bad); evidence.CodeOf(err) != r.code {
				t.Errorf("%s: %v, want %s", r.name, err, r.code)
			}
		}
	}
}

func FuzzParseQuote(f *testing.F) {
	v := dcaptest.New(f, dcaptest.Options{})
	f.Add(tdxtest.Quote(f, v, tdxtest.Good()))
	f.Add(tdxtest.Quote(f, v, tdxtest.Version5(tdxtest.Good())))
	f.Fuzz(func(t *testing.T, raw []byte) {
		q, err := tdx.ParseQuote(raw)
		if err == nil && !bytes.HasPrefix(raw, q.Signed()) {
			t.Error("what was signed is not what came")
		}
	})
}

func FuzzParseReport(f *testing.F) {
	f.Add(tdxtest.Report(f, tdxtest.Good()))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if r, err := tdx.ParseReport(raw); err == nil && !bytes.Equal(r.Marshal(), raw) {
			t.Error("another report came back")
		}
	})
}

// ccel writes a log of one digest an event: register and digest, then data.
func ccel(events ...tdx.Event) []byte {
	le := binary.LittleEndian
	spec := append([]byte("Spec ID Event03\x00"), 0, 0, 0, 0, 0, 2, 0, 2)
	spec = le.AppendUint32(spec, 1)
	spec = append(le.AppendUint16(le.AppendUint16(spec, 0x0c), 48), 0)
	out := append(le.AppendUint32(le.AppendUint32(nil, 1), 3), make([]byte, 20)...)
	out = append(le.AppendUint32(out, uint32(len(spec))), spec...)
	for _, e := range events {
		out = le.AppendUint32(le.AppendUint32(out, uint32(e.Register+1)), e.Type)
		out = append(le.AppendUint16(le.AppendUint32(out, 1), 0x0c), e.Digest[:]...)
		out = append(le.AppendUint32(out, uint32(len(e.Data))), e.Data...)
	}
	return out
}

func TestCheckCCEL(t *testing.T) {
	zeros := make([]byte, 4)
	separator := tdx.Event{Type: 4, Digest: sha512.Sum384(zeros), Data: zeros}
	good := []tdx.Event{{Type: 5, Digest: [48]byte{1}}, separator, {Register: 1, Type: 5, Digest: [48]byte{2}}}
	registers := func(events []tdx.Event) [4][48]byte {
		values, read, err := tdx.ReplayCCEL(ccel(events...))
		if err != nil || len(read) != len(events) {
			t.Fatalf("%d of %d events: %v", len(read), len(events), err)
		}
		return values
	}
	if _, err := tdx.CheckCCEL(ccel(good...), registers(good)); err != nil {
		t.Fatal(err)
	}
	later := registers(good)
	later[3][0] = 1
	if _, err := tdx.CheckCCEL(ccel(good...), later); err != nil {
		t.Errorf("RTMR 3, which this log says nothing of: %v", err)
	}
	running := append(slices.Clone(good), tdx.Event{Register: 3, Type: 5, Digest: [48]byte{3}})
	if _, err := tdx.CheckCCEL(ccel(running...), registers(running)); err != nil {
		t.Errorf("RTMR 3, explained: %v", err)
	}
	lying := slices.Clone(good)
	lying[1].Data = []byte("another")
	twice := append(slices.Clone(good), separator)
	for name, r := range map[string]struct {
		events []tdx.Event
		quoted [4][48]byte
	}{
		"TDX-20 a log of RTMR 3 alone":            {running[3:], registers(running)},
		"TDX-20 RTMR 3 is not what the log says":  {running, registers(good)},
		"a separator whose data are not its own":  {lying, registers(lying)},
		"TPM-04 a second separator":               {twice, registers(twice)},
		"nothing was measured":                    {nil, [4][48]byte{}},
		"an event more than the registers":        {good, registers(good[:2])},
		"an event that was left out of the log":   {good[1:], registers(good)},
		"two events whose order was changed here": {[]tdx.Event{good[1], good[0], good[2]}, registers(good)},
	} {
		if _, err := tdx.CheckCCEL(ccel(r.events...), r.quoted); evidence.CodeOf(err) != evidence.CodeMeasurement {
			t.Errorf("%s: %v", name, err)
		}
	}
	whole := ccel(good...)
	for n := range len(whole) {
		if _, err := tdx.CheckCCEL(whole[:n], registers(good)); err == nil {
			t.Errorf("TPM-06 a log cut after %d bytes explains all registers", n)
		}
	}
}

func FuzzCCEL(f *testing.F) {
	f.Add(make([]byte, 64))
	f.Add(ccel(tdx.Event{Type: 5, Digest: [48]byte{1}}, tdx.Event{Register: 3, Type: 13, Digest: [48]byte{2}, Data: []byte("data")}))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if _, events, err := tdx.ReplayCCEL(raw); err == nil && len(events) > len(raw) {
			t.Error("more events than bytes")
		}
	})
}
