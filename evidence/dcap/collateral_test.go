package dcap_test

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"encoding/pem"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/dcap"
	"cloister.dev/cloister/evidence/dcap/dcaptest"
)

// judge makes a quote and collateral, and appraises one by the other.
func judge(t *testing.T, v *dcaptest.Vendor, tee dcap.TEE, svn [16]byte, o dcap.Options, qe func(*dcaptest.Section), edits ...func(*dcaptest.Documents)) (*dcap.TCBResult, error) {
	t.Helper()
	if qe == nil {
		qe = func(*dcaptest.Section) {}
	}
	signed := header(4, tee)
	got, err := v.Verify(t, signed, v.Section(t, signed, qe), dcap.Options{At: dcaptest.Now})
	if err != nil {
		t.Fatal(err)
	}
	c, err := dcap.ParseCollateral(v.Files(t, tee, dcaptest.Now, edits...))
	if err != nil {
		return nil, err
	}
	return got.Appraise(c, tee, svn, o)
}

type docs = dcaptest.Documents

func TestStatus(t *testing.T) {
	v := dcaptest.New(t, dcaptest.Options{})
	sgx := func(c ...int) []dcaptest.Component { return dcaptest.Components(c...) }
	at := sgx(2, 2, 2, 2, 3, 1, 0, 5)
	levels := func(l ...dcaptest.Level) func(*docs) { return func(d *docs) { d.TCBInfo.Levels = l } }
	qe := func(l ...dcaptest.Level) func(*docs) { return func(d *docs) { d.QEIdentity.Levels = l } }
	module := func(l ...dcaptest.Level) func(*docs) { return func(d *docs) { d.TCBInfo.Modules[1].Levels = l } }
	isv, platform := dcaptest.ISVSVN, dcaptest.Platform
	svn := dcaptest.TEETCBSVN
	low := svn
	low[2] = 1
	first := [16]byte{5, 0, 2}
	for _, r := range []struct {
		name       string
		tee        dcap.TEE
		svn        [16]byte
		edits      []func(*docs)
		want       dcap.Status
		advisories string
		code       evidence.Code
	}{
		{"TD up to date", dcap.TDX, svn, nil, dcap.UpToDate, "", ""},
		{"SGX up to date", dcap.SGX, [16]byte{}, nil, dcap.UpToDate, "", ""},
		{"TDX-04 OutOfDate", dcap.TDX, svn, []func(*docs){levels(platform(at, sgx(5, 0, 2), 11, "OutOfDate"))}, dcap.OutOfDate, "", ""},
		{"TDX-04 ConfigurationNeeded", dcap.TDX, svn, []func(*docs){levels(platform(at, sgx(5, 0, 2), 11, "ConfigurationNeeded"))}, dcap.ConfigurationNeeded, "", ""},
		{"TDX-04 SWHardeningNeeded", dcap.SGX, svn, []func(*docs){levels(platform(at, nil, 11, "SWHardeningNeeded"))}, dcap.SWHardeningNeeded, "", ""},
		{"TDX-04 platform Revoked", dcap.TDX, svn, []func(*docs){levels(platform(at, sgx(5, 0, 2), 11, "Revoked"))}, "", "", evidence.CodeRevoked},
		{"TDX-04 module Revoked", dcap.TDX, svn, []func(*docs){module(isv(5, "Revoked"))}, "", "", evidence.CodeRevoked},
		{"TDX-02 QE Revoked", dcap.TDX, svn, []func(*docs){qe(isv(5, "UpToDate"), isv(3, "Revoked"))}, "", "", evidence.CodeRevoked},
		{"TDX-02 QE below every level", dcap.TDX, svn, []func(*docs){qe(isv(5, "UpToDate"))}, "", "", evidence.CodeTCB},
		{"TDX-04 QE out of date", dcap.TDX, svn, []func(*docs){qe(isv(5, "UpToDate"), isv(4, "OutOfDate", "INTEL-SA-7"))}, dcap.OutOfDate, "INTEL-SA-7", ""},
		{"TDX-04 QE out of date, configuration needed", dcap.TDX, svn, []func(*docs){qe(isv(4, "OutOfDate")), levels(platform(at, sgx(5, 0, 2), 11, "ConfigurationNeeded"))}, dcap.OutOfDateConfigurationNeeded, "", ""},
		{"TDX-04 module out of date", dcap.TDX, [16]byte{4, 1, 2}, nil, dcap.OutOfDate, "INTEL-SA-00003", ""},
		{"TDX-09 module below every level", dcap.TDX, [16]byte{3, 1, 2}, nil, "", "", evidence.CodeTCB},
		{"TDX-09 module of a version that is not listed", dcap.TDX, [16]byte{9, 2, 2}, nil, "", "", evidence.CodeTCB},
		{"TDX-09 no module identities", dcap.TDX, svn, []func(*docs){func(d *docs) { d.TCBInfo.Modules = nil }}, "", "", evidence.CodeTCB},
		{"first line of modules, without identities", dcap.TDX, first, []func(*docs){func(d *docs) { d.TCBInfo.Modules = nil }}, dcap.UpToDate, "", ""},
		{"TDX-09 first line of modules, SVN below", dcap.TDX, [16]byte{4, 0, 2}, nil, "", "", evidence.CodeTCB},
		{"TDX-06 UpToDate with advisories of all levels", dcap.TDX, svn, []func(*docs){levels(platform(at, sgx(5, 0, 2), 11, "UpToDate", "INTEL-SA-2", "INTEL-SA-1")), qe(isv(4, "UpToDate", "INTEL-SA-1", "INTEL-SA-3")), module(isv(5, "UpToDate", "INTEL-SA-0"))}, dcap.UpToDate, "INTEL-SA-0 INTEL-SA-1 INTEL-SA-2 INTEL-SA-3", ""},
		{"TDX-07 SGX components pass, TDX components fail", dcap.TDX, low, nil, "", "", evidence.CodeTCB},
		{"TDX-07 TDX components pass, SGX components fail", dcap.TDX, svn, []func(*docs){levels(platform(sgx(2, 2, 2, 2, 3, 1, 0, 6), sgx(5, 0, 2), 11, "UpToDate"))}, "", "", evidence.CodeTCB},
		{"TDX-07 the level of the TDX components", dcap.TDX, low, []func(*docs){levels(platform(at, sgx(5, 0, 2), 11, "UpToDate"), platform(at, sgx(5, 0, 1), 11, "OutOfDate"))}, dcap.OutOfDate, "", ""},
		{"TDX-08 a later component is below, earlier ones are above", dcap.TDX, svn, []func(*docs){levels(platform(sgx(1, 2, 2, 2, 3, 1, 0, 6), sgx(5, 0, 2), 11, "UpToDate"))}, "", "", evidence.CodeTCB},
		{"TDX-08 the last component", dcap.TDX, svn, []func(*docs){levels(platform(at, sgx(5, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1), 11, "UpToDate"))}, "", "", evidence.CodeTCB},
		{"PCESVN below", dcap.TDX, svn, []func(*docs){levels(platform(at, sgx(5, 0, 2), 12, "UpToDate"), platform(at, sgx(5, 0, 2), 5, "OutOfDate"))}, dcap.OutOfDate, "", ""},
		{"PCESVN below every level", dcap.TDX, svn, []func(*docs){levels(platform(at, sgx(5, 0, 2), 12, "UpToDate"))}, "", "", evidence.CodeTCB},
	} {
		t.Run(r.name, func(t *testing.T) {
			got, err := judge(t, v, r.tee, r.svn, now, nil, r.edits...)
			if evidence.CodeOf(err) != r.code || (err == nil) != (r.code == "") {
				t.Fatalf("%v, want %q", err, r.code)
			}
			if err != nil {
				if got != nil {
					t.Error("a result with a refusal")
				}
				return
			}
			if got.Status != r.want || strings.Join(got.Advisories, " ") != r.advisories || got.EvaluationNumber != 20 || got.TCBDate.IsZero() {
				t.Errorf("%+v", got)
			}
		})
	}
}

func TestWorse(t *testing.T) {
	all := []dcap.Status{dcap.UpToDate, dcap.SWHardeningNeeded, dcap.ConfigurationNeeded, dcap.ConfigurationAndSWHardeningNeeded, dcap.OutOfDate, dcap.OutOfDateConfigurationNeeded, dcap.Revoked}
	// Intel's tables: what each becomes with a part that is out of date.
	outOfDate := []dcap.Status{dcap.OutOfDate, dcap.OutOfDate, dcap.OutOfDateConfigurationNeeded, dcap.OutOfDateConfigurationNeeded, dcap.OutOfDate, dcap.OutOfDateConfigurationNeeded, dcap.Revoked}
	for i, s := range all {
		if got := s.Worse(dcap.OutOfDate); got != outOfDate[i] {
			t.Errorf("%s with OutOfDate is %s, want %s", s, got, outOfDate[i])
		}
		if s.Worse(dcap.UpToDate) != s || s.Worse(s) != s || s.Worse(dcap.Revoked) != dcap.Revoked {
			t.Errorf("%s", s)
		}
		for _, o := range all {
			if s.Worse(o) != o.Worse(s) {
				t.Errorf("%s and %s differ by order", s, o)
			}
		}
		if s.Worse("") != dcap.Revoked || dcap.Status("SomethingNew").Worse(s) != dcap.Revoked {
			t.Errorf("TDX-05 %s with an unknown status", s)
		}
	}
}

func TestAppraiseRefuses(t *testing.T) {
	v, other := dcaptest.New(t, dcaptest.Options{}), dcaptest.New(t, dcaptest.Options{})
	processor := v.NewCA(t, dcap.Processor)
	expired := func(name string, ca bool) dcaptest.Authority {
		c := v.Template(name, ca)
		c.NotAfter = dcaptest.Now.AddDate(0, 0, -1)
		return v.Issue(t, &v.Root, c)
	}
	oldSigner := expired(" TCB Signing", false)
	days := func(n int) time.Time { return dcaptest.Now.AddDate(0, 0, n) }
	date := func(n int) string { return dcaptest.Date(days(n)) }
	text := func(from, to string) func(string) string {
		return func(s string) string {
			if !strings.Contains(s, from) {
				t.Fatalf("%q is not in the document", from)
			}
			return strings.Replace(s, from, to, 1)
		}
	}
	tcb := func(from, to string) func(*docs) { return func(d *docs) { d.EditTCBInfo = text(from, to) } }
	qe := func(from, to string) func(*docs) { return func(d *docs) { d.EditQEIdentity = text(from, to) } }
	if _, err := judge(t, v, dcap.TDX, dcaptest.TEETCBSVN, now, nil, tcb(`"00806f050000"`, `"00806F050000"`)); err != nil {
		t.Fatal("positive twin, FMSPC in another case:", err)
	}
	if _, err := judge(t, v, dcap.TDX, dcaptest.TEETCBSVN, now, nil, tcb(`"version":3`, `"somethingNew":{"a":[1]},"version":3`)); err != nil {
		t.Fatal("positive twin, a member not known:", err)
	}
	extra := func(critical bool, oid ...int) []pkix.Extension {
		return []pkix.Extension{{Id: asn1.ObjectIdentifier(oid), Critical: critical, Value: []byte{0x30, 0}}}
	}
	for _, r := range []struct {
		name string
		edit func(*docs)
		want evidence.Code
	}{
		{"TDX-01 other MRSIGNER in the identity", func(d *docs) { d.QEIdentity.MRSigner = strings.Repeat("11", 32) }, evidence.CodeChain},
		{"TDX-01 other product id in the identity", func(d *docs) { d.QEIdentity.ISVProdID = 1 }, evidence.CodeChain},
		{"TDX-01 other MISCSELECT", func(d *docs) { d.QEIdentity.MiscSelect = "01000000" }, evidence.CodeChain},
		{"TDX-01 other attributes", func(d *docs) { d.QEIdentity.Attributes = "13000000000000000000000000000000" }, evidence.CodeChain},
		{"TDX-05 unknown status of a platform", tcb(`"OutOfDate"`, `"SomethingNew"`), evidence.CodeTCB},
		{"TDX-05 status in another case", tcb(`"UpToDate"`, `"uptodate"`), evidence.CodeTCB},
		{"TDX-05 unknown status of a QE", qe(`"OutOfDate"`, `"SomethingNew"`), evidence.CodeTCB},
		{"TDX-05 no status", tcb(`,"tcbStatus":"OutOfDate"`, ``), evidence.CodeParse},
		{"TDX-08 15 SGX components", func(d *docs) { d.TCBInfo.Levels[0].TCB.SGX = d.TCBInfo.Levels[0].TCB.SGX[:15] }, evidence.CodeParse},
		{"TDX-08 17 SGX components", func(d *docs) { d.TCBInfo.Levels[0].TCB.SGX = append(d.TCBInfo.Levels[0].TCB.SGX, dcaptest.Component{}) }, evidence.CodeParse},
		{"TDX-08 15 TDX components", func(d *docs) { d.TCBInfo.Levels[0].TCB.TDX = d.TCBInfo.Levels[0].TCB.TDX[:15] }, evidence.CodeParse},
		{"TDX-08 17 TDX components", func(d *docs) { d.TCBInfo.Levels[0].TCB.TDX = append(dcaptest.Components(), dcaptest.Component{}) }, evidence.CodeParse},
		{"TDX-08 no TDX components", func(d *docs) { d.TCBInfo.Levels[0].TCB.TDX = nil }, evidence.CodeParse},
		{"TDX-08 component 256", tcb(`{"svn":5}`, `{"svn":256}`), evidence.CodeParse},
		{"TDX-08 component with a point", tcb(`{"svn":5}`, `{"svn":5.0}`), evidence.CodeParse},
		{"TDX-08 component as text", tcb(`{"svn":5}`, `{"svn":"5"}`), evidence.CodeParse},
		{"TDX-08 component negative", tcb(`{"svn":5}`, `{"svn":-5}`), evidence.CodeParse},
		{"no levels", func(d *docs) { d.TCBInfo.Levels = []dcaptest.Level{} }, evidence.CodeParse},
		{"no QE levels", func(d *docs) { d.QEIdentity.Levels = []dcaptest.Level{} }, evidence.CodeParse},
		{"member twice", tcb(`"version":3`, `"version":3,"version":3`), evidence.CodeParse},
		{"member twice in another case", tcb(`"version":3`, `"version":3,"Version":2`), evidence.CodeParse},
		{"status twice", tcb(`"tcbStatus":"OutOfDate"`, `"tcbStatus":"OutOfDate","tcbStatus":"UpToDate"`), evidence.CodeParse},
		{"TCB info of version 2", tcb(`"version":3`, `"version":2`), evidence.CodeUnsupported},
		{"QE identity of version 1", qe(`"version":2`, `"version":1`), evidence.CodeUnsupported},
		{"TCB info of another kind", tcb(`"id":"TDX"`, `"id":"XTD"`), evidence.CodeUnsupported},
		{"TCB type 1", tcb(`"tcbType":0`, `"tcbType":1`), evidence.CodeUnsupported},
		{"identity of the verifying enclave", qe(`"id":"TD_QE"`, `"id":"QVE"`), evidence.CodeUnsupported},
		{"module identity twice", func(d *docs) { d.TCBInfo.Modules[0].ID = "TDX_01" }, evidence.CodeParse},
		{"module identity of another name", func(d *docs) { d.TCBInfo.Modules[0].ID = "TDX_3" }, evidence.CodeParse},
		{"no tdxModule", func(d *docs) { d.TCBInfo.Module = nil }, evidence.CodeParse},
		{"date of another form", func(d *docs) { d.TCBInfo.IssueDate = "2026-10-22 12:00:00" }, evidence.CodeParse},
		{"ends before it begins", func(d *docs) { d.TCBInfo.NextUpdate = "2020-01-01T00:00:00Z" }, evidence.CodeParse},
		{"TDX-15 TCB info stale", func(d *docs) { d.TCBInfo.NextUpdate = date(0) }, evidence.CodeUnavailable},
		{"TDX-15 TCB info from the future", func(d *docs) { d.TCBInfo.IssueDate = date(1) }, evidence.CodeUnavailable},
		{"TDX-15 QE identity stale", func(d *docs) { d.QEIdentity.NextUpdate = date(0) }, evidence.CodeUnavailable},
		{"TDX-15 QE identity from the future", func(d *docs) { d.QEIdentity.IssueDate = date(1) }, evidence.CodeUnavailable},
		{"TDX-15 PCK CRL stale", func(d *docs) { d.PCKCRL.Template.NextUpdate = days(0) }, evidence.CodeUnavailable},
		{"TDX-15 PCK CRL from the future", func(d *docs) { d.PCKCRL.Template.ThisUpdate = days(1) }, evidence.CodeUnavailable},
		{"TDX-15 root CRL stale", func(d *docs) { d.RootCRL.Template.NextUpdate = days(0) }, evidence.CodeUnavailable},
		{"TDX-15 root CRL from the future", func(d *docs) { d.RootCRL.Template.ThisUpdate = days(1) }, evidence.CodeUnavailable},
		{"TDX-15 TCB info signer expired", func(d *docs) { d.TCBSigner = oldSigner }, evidence.CodeUnavailable},
		{"TDX-15 QE identity signer expired", func(d *docs) { d.QESigner = oldSigner }, evidence.CodeUnavailable},
		{"TDX-15 PCK CRL issuer expired", func(d *docs) { d.PCKCRL.By = expired(" PCK Platform CA", true) }, evidence.CodeUnavailable},
		{"TDX-17 TCB info under another root", func(d *docs) { d.TCBSigner, d.TCBInfoChain = other.Signer, dcaptest.PEM(other.Signer, other.Root) }, evidence.CodeChain},
		{"TDX-17 QE identity under another root", func(d *docs) { d.QESigner, d.QEChain = other.Signer, dcaptest.PEM(other.Signer, other.Root) }, evidence.CodeChain},
		{"TDX-17 PCK CRL under another root", func(d *docs) { d.PCKCRL.By, d.PCKCRLChain = other.CA, dcaptest.PEM(other.CA, other.Root) }, evidence.CodeChain},
		{"TDX-17 root CRL of another root of that name", func(d *docs) { d.RootCRL.By = other.Root }, evidence.CodeChain},
		{"TDX-17 another signer in the root's chain", func(d *docs) { d.TCBSigner, d.TCBInfoChain = other.Signer, dcaptest.PEM(other.Signer, v.Root) }, evidence.CodeChain},
		{"TDX-17 all under another root", func(d *docs) {
			d.TCBSigner, d.QESigner, d.PCKCRL.By, d.RootCRL.By = other.Signer, other.Signer, other.CA, other.Root
			d.TCBInfoChain, d.QEChain, d.PCKCRLChain = dcaptest.PEM(other.Signer, other.Root), dcaptest.PEM(other.Signer, other.Root), dcaptest.PEM(other.CA, other.Root)
		}, evidence.CodeChain},
		{"TDX-17 TCB info signed by the PCK", func(d *docs) { d.TCBSigner, d.TCBInfoChain = v.PCK, dcaptest.PEM(v.PCK, v.CA) }, evidence.CodeChain},
		{"TDX-17 TCB info signed by the PCK CA", func(d *docs) { d.TCBSigner = v.CA }, evidence.CodeChain},
		{"TDX-17 TCB info signed by another key", func(d *docs) { d.TCBSigner.Key = other.Signer.Key }, evidence.CodeChain},
		{"TDX-17 QE identity signed by another key", func(d *docs) { d.QESigner.Key = other.Signer.Key }, evidence.CodeChain},
		{"TDX-18 PCK CRL by the TCB signer", func(d *docs) { d.PCKCRL.By = v.Signer }, evidence.CodeChain},
		{"TDX-18 PCK CRL by the TCB signer, issuer chain of the CA", func(d *docs) { d.PCKCRL.By, d.PCKCRLChain = v.Signer, dcaptest.PEM(v.CA, v.Root) }, evidence.CodeChain},
		{"TDX-18 PCK CRL by an end certificate of the CA's name", func(d *docs) {
			d.PCKCRL.By = v.Issue(t, &v.Root, v.Template(" PCK Platform CA", false))
		}, evidence.CodeChain},
		{"TDX-18 PCK CRL by a CA that may not sign lists", func(d *docs) {
			c := v.Template(" PCK Platform CA", true)
			c.KeyUsage = x509.KeyUsageCertSign
			d.PCKCRL.By = v.Issue(t, &v.Root, c)
		}, evidence.CodeChain},
		{"TDX-18 PCK CRL by the root", func(d *docs) { d.PCKCRL.By, d.PCKCRLChain = v.Root, dcaptest.PEM(v.CA, v.Root) }, evidence.CodeChain},
		{"TDX-18 PCK CRL by another key of the CA's name", func(d *docs) { d.PCKCRL.By.Key = other.CA.Key }, evidence.CodeChain},
		{"TDX-18 root CRL by the CA", func(d *docs) { d.RootCRL.By = v.CA }, evidence.CodeChain},
		{"TDX-18 PCK CRL of the other CA", func(d *docs) { d.PCKCRL.By = processor }, evidence.CodeBinding},
		{"TDX-18 PCK CRL of another CA of that name and root", func(d *docs) { d.PCKCRL.By = v.NewCA(t, dcap.Platform) }, evidence.CodeBinding},
		{"TDX-19 FMSPC of another platform", func(d *docs) { d.TCBInfo.FMSPC = "90c06f000000" }, evidence.CodeBinding},
		{"TDX-19 PCE id of another platform", func(d *docs) { d.TCBInfo.PCEID = "0100" }, evidence.CodeBinding},
		{"FMSPC of 5 bytes", func(d *docs) { d.TCBInfo.FMSPC = "00806f0500" }, evidence.CodeParse},
		{"TDX-27 QE identity of SGX", func(d *docs) { d.QEIdentity.ID = "QE" }, evidence.CodeBinding},
		{"PCK revoked", func(d *docs) { d.PCKCRL.Revoke(v.PCK) }, evidence.CodeRevoked},
		{"PCK CA revoked", func(d *docs) { d.RootCRL.Revoke(v.CA) }, evidence.CodeRevoked},
		{"TCB signer revoked", func(d *docs) { d.RootCRL.Revoke(v.Signer) }, evidence.CodeRevoked},
		{"CRL of a part", func(d *docs) { d.PCKCRL.Template.ExtraExtensions = extra(true, 2, 5, 29, 28) }, evidence.CodeUnsupported},
		{"CRL of a part, not critical", func(d *docs) { d.PCKCRL.Template.ExtraExtensions = extra(false, 2, 5, 29, 28) }, evidence.CodeUnsupported},
		{"delta CRL", func(d *docs) { d.RootCRL.Template.ExtraExtensions = extra(true, 2, 5, 29, 27) }, evidence.CodeUnsupported},
		{"three certificates in an issuer chain", func(d *docs) { d.TCBInfoChain = dcaptest.PEM(v.Signer, v.Root, v.Root) }, evidence.CodeParse},
		{"one certificate in an issuer chain", func(d *docs) { d.TCBInfoChain = dcaptest.PEM(v.Signer) }, evidence.CodeParse},
	} {
		t.Run(r.name, func(t *testing.T) {
			got, err := judge(t, v, dcap.TDX, dcaptest.TEETCBSVN, now, nil, r.edit)
			if evidence.CodeOf(err) != r.want || got != nil {
				t.Errorf("%v, want %s", err, r.want)
			}
		})
	}
	t.Run("other certificates revoked", func(t *testing.T) {
		if _, err := judge(t, v, dcap.TDX, dcaptest.TEETCBSVN, now, nil, func(d *docs) { d.PCKCRL.Revoke(other.PCK); d.RootCRL.Revoke(other.CA) }); err != nil {
			t.Error(err)
		}
	})
}

// TestAppraiseArguments: what is missing, of another kind or made by nobody.
func TestAppraiseArguments(t *testing.T) {
	v := dcaptest.New(t, dcaptest.Options{})
	signed := header(4, dcap.TDX)
	good, err := v.Verify(t, signed, v.Section(t, signed), now)
	if err != nil {
		t.Fatal(err)
	}
	c := v.Collateral(t, dcap.TDX, dcaptest.Now)
	for _, r := range []struct {
		name string
		v    *dcap.Verified
		c    *dcap.Collateral
		tee  dcap.TEE
		o    dcap.Options
		want evidence.Code
	}{
		{"TDX-02 a quote that nobody verified", &dcap.Verified{}, c, dcap.TDX, now, evidence.CodeChain},
		{"TDX-02 no quote", nil, c, dcap.TDX, now, evidence.CodeChain},
		{"TDX-24 no collateral", good, nil, dcap.TDX, now, evidence.CodeUnavailable},
		{"TDX-24 collateral that nobody parsed", good, &dcap.Collateral{}, dcap.TDX, now, evidence.CodeUnavailable},
		{"no time", good, c, dcap.TDX, dcap.Options{}, evidence.CodeUnavailable},
		{"TDX-27 an enclave by collateral of TDs", good, c, dcap.SGX, now, evidence.CodeBinding},
		{"TDX-27 neither", good, c, 7, now, evidence.CodeUnsupported},
	} {
		t.Run(r.name, func(t *testing.T) {
			if got, err := r.v.Appraise(r.c, r.tee, dcaptest.TEETCBSVN, r.o); evidence.CodeOf(err) != r.want || got != nil {
				t.Errorf("%v, want %s", err, r.want)
			}
		})
	}
	t.Run("TDX-02 zero values say nothing", func(t *testing.T) {
		var none dcap.Verified
		if none.Root() != "" || !reflect.DeepEqual(*none.PCK(), dcap.PCK{}) || *none.QEReport() != (dcap.QEReport{}) || (dcap.TCBResult{}).Status == dcap.UpToDate {
			t.Error("something")
		}
	})
	files := v.Files(t, dcap.TDX, dcaptest.Now)
	parts := reflect.ValueOf(&files).Elem()
	for i := range parts.NumField() {
		t.Run("TDX-24 without "+parts.Type().Field(i).Name, func(t *testing.T) {
			f := files
			field := reflect.ValueOf(&f).Elem().Field(i)
			field.SetBytes(nil)
			if _, err := dcap.ParseCollateral(f); evidence.CodeOf(err) != evidence.CodeUnavailable {
				t.Error(err)
			}
			raw := parts.Field(i).Bytes()
			for n := 1; n < len(raw); n++ {
				field.SetBytes(raw[:n])
				if c, err := dcap.ParseCollateral(f); err == nil && bytes.HasPrefix(raw, []byte("-----")) && len(bytes.TrimSpace(raw)) == n {
					continue // only the last new line is missing
				} else if evidence.CodeOf(err) != evidence.CodeParse || c != nil {
					t.Fatalf("%d of %d bytes: %v", n, len(raw), err)
				}
			}
		})
	}
}

// TestDocumentBytes: the signature is over the exact text, so every byte of it counts.
func TestDocumentBytes(t *testing.T) {
	v := dcaptest.New(t, dcaptest.Options{})
	signed := header(4, dcap.TDX)
	good, err := v.Verify(t, signed, v.Section(t, signed), now)
	if err != nil {
		t.Fatal(err)
	}
	appraise := func(f dcap.Files) error {
		c, err := dcap.ParseCollateral(f)
		if err == nil {
			_, err = good.Appraise(c, dcap.TDX, dcaptest.TEETCBSVN, now)
		}
		return err
	}
	// White space and an order of Intel's own: what is read again and written would be another text.
	odd := v.Files(t, dcap.TDX, dcaptest.Now, func(d *docs) {
		d.EditTCBInfo = func(s string) string { return strings.Replace(s, ":", " :\n\t", 3) }
		d.EditQEIdentity = func(s string) string { return strings.Replace(s, "QE", `\u0051E`, 1) }
	})
	if err := appraise(odd); err != nil {
		t.Error("positive twin, odd white space:", err)
	}
	f := v.Files(t, dcap.TDX, dcaptest.Now)
	stride := 1
	if testing.Short() {
		stride = 37
	}
	for name, field := range map[string]*[]byte{"TCB info": &f.TCBInfo, "QE identity": &f.QEIdentity, "PCK CRL": &f.PCKCRL, "root CRL": &f.RootCRL} {
		t.Run("TDX-26 every byte of the "+name, func(t *testing.T) {
			raw := *field
			defer func() { *field = raw }()
			for i := 0; i < len(raw); i += stride {
				bad := bytes.Clone(raw)
				bad[i] ^= 1
				*field = bad
				if err := appraise(f); err == nil {
					t.Errorf("byte %d does not count", i)
				} else if evidence.CodeOf(err) == "" {
					t.Errorf("byte %d: %v", i, err)
				}
			}
		})
	}
	t.Run("more in the wrapper", func(t *testing.T) {
		g := f
		g.TCBInfo = bytes.Replace(f.TCBInfo, []byte(`{"tcbInfo"`), []byte(`{"x":1,"tcbInfo"`), 1)
		if err := appraise(g); evidence.CodeOf(err) != evidence.CodeParse {
			t.Error(err)
		}
	})
	t.Run("lists in all forms", func(t *testing.T) {
		g := f
		g.PCKCRL = []byte(hex.EncodeToString(f.PCKCRL) + "\n")
		g.RootCRL = pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: f.RootCRL})
		if err := appraise(g); err != nil {
			t.Error(err)
		}
		for _, bad := range [][]byte{append(bytes.Clone(f.RootCRL), 0), append(bytes.Clone(g.RootCRL), 'x'), []byte("30zz"), append(bytes.Clone(g.RootCRL), g.RootCRL...), {0x30}} {
			h := g
			h.RootCRL = bad
			if err := appraise(h); evidence.CodeOf(err) != evidence.CodeParse {
				t.Error(err)
			}
		}
	})
}

func TestFloor(t *testing.T) {
	v := dcaptest.New(t, dcaptest.Options{})
	seen := v.Collateral(t, dcap.TDX, dcaptest.Now).Floor()
	if seen.EvaluationNumber != 20 || seen != seen.Raise(dcap.Floor{}) || seen != (dcap.Floor{}).Raise(seen) {
		t.Fatalf("%+v", seen)
	}
	o := dcap.Options{At: dcaptest.Now, Floor: seen}
	if _, err := judge(t, v, dcap.TDX, dcaptest.TEETCBSVN, o, nil); err != nil {
		t.Fatal("positive twin:", err)
	}
	older := dcaptest.Now.AddDate(0, 0, -11)
	for _, r := range []struct {
		name string
		edit func(*docs)
	}{
		{"TDX-16 lower evaluation number of the TCB info", func(d *docs) { d.TCBInfo.Evaluation = 19 }},
		{"TDX-16 lower evaluation number of the QE identity", func(d *docs) { d.QEIdentity.Evaluation = 19 }},
		{"TDX-16 older TCB info", func(d *docs) { d.TCBInfo.IssueDate = dcaptest.Date(older) }},
		{"TDX-16 older QE identity", func(d *docs) { d.QEIdentity.IssueDate = dcaptest.Date(older) }},
		{"TDX-16 older PCK CRL", func(d *docs) { d.PCKCRL.Template.ThisUpdate = older }},
		{"TDX-16 older root CRL", func(d *docs) { d.RootCRL.Template.ThisUpdate = older }},
	} {
		t.Run(r.name, func(t *testing.T) {
			if _, err := judge(t, v, dcap.TDX, dcaptest.TEETCBSVN, now, nil, r.edit); err != nil {
				t.Error("positive twin, without a floor:", err)
			}
			if _, err := judge(t, v, dcap.TDX, dcaptest.TEETCBSVN, o, nil, r.edit); evidence.CodeOf(err) != evidence.CodeTCB {
				t.Error(err)
			}
		})
	}
}

func TestModuleIdentity(t *testing.T) {
	v := dcaptest.New(t, dcaptest.Options{})
	c := v.Collateral(t, dcap.TDX, dcaptest.Now, func(d *docs) {
		d.TCBInfo.Modules[1].MRSigner, d.TCBInfo.Modules[1].Attributes, d.TCBInfo.Modules[1].AttributesMask = strings.Repeat("ab", 48), "0100000000000000", "0F00000000000000"
	})
	m, ok := c.ModuleIdentity(1)
	if !ok || m.ID != "TDX_01" {
		t.Fatal(m, ok)
	}
	signer := [48]byte(bytes.Repeat([]byte{0xab}, 48))
	if err := m.Match(signer, [8]byte{0xf1}); err != nil {
		t.Error("positive twin:", err)
	}
	t.Run("TDX-09 other MRSIGNERSEAM", func(t *testing.T) {
		if err := m.Match([48]byte{}, [8]byte{1}); evidence.CodeOf(err) != evidence.CodeTCB {
			t.Error(err)
		}
	})
	t.Run("TDX-09 other SEAMATTRIBUTES", func(t *testing.T) {
		for _, a := range [][8]byte{{}, {3}, {9}} {
			if err := m.Match(signer, a); evidence.CodeOf(err) != evidence.CodeTCB {
				t.Errorf("%x: %v", a, err)
			}
		}
	})
	if base, ok := c.ModuleIdentity(0); !ok || base.ID != "" {
		t.Error(base, ok)
	}
	if _, ok := c.ModuleIdentity(2); ok {
		t.Error("an identity that is not listed")
	}
	if _, ok := v.Collateral(t, dcap.SGX, dcaptest.Now).ModuleIdentity(0); ok {
		t.Error("a TDX module in collateral of SGX")
	}
	if a, b := c.TCBEvaluationNumber(); a != 20 || b != 20 || !c.Expiry().Equal(dcaptest.Now.AddDate(0, 0, 20)) || !c.IssueDate().Equal(dcaptest.Now.AddDate(0, 0, -10)) || c.FMSPC() != v.Options.FMSPC {
		t.Error("numbers or dates", a, b, c.Expiry(), c.IssueDate())
	}
}

// TestShared uses one collateral from many goroutines, under two roots: what one root found says nothing under another.
func TestShared(t *testing.T) {
	v, other := dcaptest.New(t, dcaptest.Options{}), dcaptest.New(t, dcaptest.Options{})
	c := v.Collateral(t, dcap.TDX, dcaptest.Now)
	signed := header(4, dcap.TDX)
	var wg sync.WaitGroup
	for i := range 8 {
		vendor, want := v, evidence.Code("")
		if i%2 == 1 {
			vendor, want = other, evidence.CodeChain
		}
		got, err := vendor.Verify(t, signed, vendor.Section(t, signed), now)
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			if _, err := got.Appraise(c, dcap.TDX, dcaptest.TEETCBSVN, now); evidence.CodeOf(err) != want || (err == nil) != (want == "") {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// fuzzFiles puts a stranger's bytes in the place of one part. What is then accepted must hold what was signed.
func fuzzFiles(f *testing.F, part func(*dcap.Files) *[]byte, signedText func([]byte) []byte) {
	v := dcaptest.New(f, dcaptest.Options{})
	files, sgx := v.Files(f, dcap.TDX, dcaptest.Now), v.Files(f, dcap.SGX, dcaptest.Now)
	signed := header(4, dcap.TDX)
	good, err := v.Verify(f, signed, v.Section(f, signed), now)
	if err != nil {
		f.Fatal(err)
	}
	genuine := signedText(*part(&files))
	f.Add(*part(&files))
	f.Add(*part(&sgx))
	f.Fuzz(func(t *testing.T, raw []byte) {
		g := files
		*part(&g) = raw
		c, err := dcap.ParseCollateral(g)
		if err == nil {
			_, err = good.Appraise(c, dcap.TDX, dcaptest.TEETCBSVN, now)
		}
		switch {
		case err != nil && evidence.CodeOf(err) == "":
			t.Fatal(err)
		case err == nil && !bytes.Contains(raw, genuine):
			t.Fatal("accepted")
		}
	})
}

// inner is the text that a document's signature covers.
func inner(raw []byte) []byte {
	_, rest, _ := bytes.Cut(raw, []byte(":"))
	text, _, _ := bytes.Cut(rest, []byte(`,"signature"`))
	return text
}

func FuzzTCBInfo(f *testing.F) {
	fuzzFiles(f, func(x *dcap.Files) *[]byte { return &x.TCBInfo }, inner)
}

func FuzzQEIdentity(f *testing.F) {
	fuzzFiles(f, func(x *dcap.Files) *[]byte { return &x.QEIdentity }, inner)
}

// FuzzCRL: a list may come in other forms, so no text is looked for.
func FuzzCRL(f *testing.F) {
	fuzzFiles(f, func(x *dcap.Files) *[]byte { return &x.PCKCRL }, func([]byte) []byte { return nil })
}
