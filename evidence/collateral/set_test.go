package collateral_test

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/collateral"
	"cloister.dev/cloister/evidence/sevsnp"
	"cloister.dev/cloister/evidence/sevsnp/sevsnptest"
)

var tcb = sevsnp.TCB{BootLoader: 3, TEE: 0, SNP: 0x18, Microcode: 0xdb}

func vector(t testing.TB, name string) []byte {
	t.Helper()
	dir := os.Getenv("CLOISTER_VECTORS")
	if dir == "" {
		dir = "../../../shared/vectors"
	}
	raw, err := os.ReadFile(filepath.Join(dir, name))
	if os.IsNotExist(err) {
		t.Skipf("SKIPPED: no vector %s; set CLOISTER_VECTORS", name)
	} else if err != nil {
		t.Fatal(err)
	}
	return raw
}

func pemOf(certs ...*x509.Certificate) (out []byte) {
	for _, c := range certs {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return out
}

func crlPEM(l *x509.RevocationList) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: l.Raw})
}

// TestForms: each form gives the same certificates, byte for byte.
func TestForms(t *testing.T) {
	v := sevsnptest.New(t, sevsnp.Milan)
	chip := v.Chip(t, tcb, nil)
	c := chip.Chain
	list := v.CRL(t, nil, sevsnptest.Now, sevsnptest.Now.AddDate(0, 1, 0), 7)
	text := pemOf(c.Leaf, c.Intermediate, c.Root)
	thim, err := json.Marshal(map[string]string{"vcekCert": string(pemOf(c.Leaf)), "tcbm": tcb.Hex(sevsnp.Milan), "certificateChain": string(pemOf(c.Intermediate, c.Root)), "cacheControl": "86400"})
	if err != nil {
		t.Fatal(err)
	}
	der := slices.Concat(c.Leaf.Raw, c.Intermediate.Raw, c.Root.Raw)
	for name, raw := range map[string][]byte{
		"PEM": text, "PEM with CRLF and a final NUL": append(bytes.ReplaceAll(text, []byte("\n"), []byte("\r\n")), 0),
		"DER": der, "hex": []byte(hex.EncodeToString(der)), "base64 of DER": []byte(base64.StdEncoding.EncodeToString(der)),
		"base64 of PEM": []byte(base64.StdEncoding.EncodeToString(text)), "URL-escaped PEM": []byte(url.PathEscape(string(text))), "THIM": thim,
	} {
		var s collateral.Set
		if err := s.Add(name, raw); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var got [][]byte
		for _, i := range s.Items() {
			got = append(got, i.Raw)
		}
		if !slices.EqualFunc(got, [][]byte{c.Leaf.Raw, c.Intermediate.Raw, c.Root.Raw}, bytes.Equal) {
			t.Errorf("%s: %d items, want the three certificates in order", name, len(got))
		}
		if err := s.Add(name, raw); err != nil || len(s.Items()) != 3 {
			t.Errorf("%s again: %v, %d items; want each once", name, err, len(s.Items()))
		}
	}
	for name, raw := range map[string][]byte{"CRL DER": list.Raw, "CRL PEM": crlPEM(list), "CRL hex": []byte(hex.EncodeToString(list.Raw) + "\n")} {
		var s collateral.Set
		if err := s.Add(name, raw); err != nil || len(s.SNPCRLs()) != 1 || !bytes.Equal(s.SNPCRLs()[0].Raw, list.Raw) {
			t.Errorf("%s: %v", name, err)
		}
	}

	for name, raw := range map[string][]byte{
		"nothing": nil, "white space": []byte(" \n"), "text": []byte("hello"), "zero bytes": make([]byte, 64), "a digit": []byte("0"),
		"certificate cut short": c.Leaf.Raw[:len(c.Leaf.Raw)-1], "certificate and more": append(bytes.Clone(c.Leaf.Raw), 0x30),
		"PEM cut short": text[:len(text)-40], "text before PEM": append([]byte("subject=x\n"), text...), "text between PEM": slices.Concat(pemOf(c.Leaf), []byte("x\n"), pemOf(c.Root)),
		"a private key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte{1}}), "empty object": []byte("{}"), "unknown object": []byte(`{"a":"b"}`),
		"member twice":                        []byte(`{"vcekCert":"x","vcekCert":"y"}`),
		"member twice, as libraries write it": []byte(`{"pck_crl":"00","pckCrl":"01"}`),
		"too large":                           bytes.Repeat([]byte{'\n'}, collateral.MaxFile+1), "deep": []byte(strings.Repeat(`{"vcekCert":`, 40) + `""` + strings.Repeat("}", 40)),
		"list of numbers": []byte("[1]"), "odd hex": []byte("308"),
	} {
		var s collateral.Set
		if err := s.Add(name, raw); evidence.CodeOf(err) != evidence.CodeParse {
			t.Errorf("%s: %v, want %s", name, err, evidence.CodeParse)
		}
		if len(s.Items()) != 0 {
			t.Errorf("%s: left %d items behind", name, len(s.Items()))
		}
	}
}

func TestBounds(t *testing.T) {
	v := sevsnptest.New(t, sevsnp.Milan)
	var s collateral.Set
	for n := range collateral.MaxLists {
		if err := s.Add("list", v.CRL(t, nil, sevsnptest.Now, sevsnptest.Now.AddDate(0, 0, n+1)).Raw); err != nil {
			t.Fatal(n, err)
		}
	}
	if err := s.Add("one more", v.CRL(t, nil, sevsnptest.Now, sevsnptest.Now.AddDate(3, 0, 0)).Raw); evidence.CodeOf(err) != evidence.CodeParse {
		t.Errorf("SVC-11 one list more: %v, want a refusal", err)
	}
	if err := s.Add("a certificate", v.ARK.Raw); err != nil {
		t.Errorf("positive twin: %v", err)
	}
}

func TestSNPChain(t *testing.T) {
	v, other := sevsnptest.New(t, sevsnp.Milan), sevsnptest.New(t, sevsnp.Milan) // the same names
	chip, neighbour := v.Chip(t, tcb, nil), v.Chip(t, tcb, nil)
	vlek := v.VLEK(t, tcb, nil)
	older := tcb
	older.SNP--
	sign := func(c *sevsnptest.Chip) *sevsnp.Report { return c.Sign(t, c.Report()) }
	set := func(files ...[]byte) *collateral.Set {
		s := &collateral.Set{}
		for _, f := range files {
			if err := s.Add("file", f); err != nil {
				t.Fatal(err)
			}
		}
		return s
	}
	c := chip.Chain
	for _, r := range []struct {
		name  string
		files [][]byte
		chip  *sevsnptest.Chip
	}{
		{"in order", [][]byte{pemOf(c.Leaf, c.Intermediate, c.Root)}, chip},
		{"backwards", [][]byte{c.Root.Raw, c.Intermediate.Raw, c.Leaf.Raw}, chip},
		{"among others", [][]byte{pemOf(neighbour.Chain.Leaf, vlek.Chain.Leaf, v.ASVK, c.Root, c.Leaf, c.Intermediate)}, chip},
		{"SNP-06 a VLEK", [][]byte{pemOf(neighbour.Chain.Leaf, v.ASK, v.ASVK, c.Root, c.Leaf, vlek.Chain.Leaf)}, vlek},
		{"after authorities of the same names", [][]byte{pemOf(other.ARK, other.ASK, c.Leaf, c.Root, c.Intermediate)}, chip},
		{"before authorities of the same names", [][]byte{pemOf(c.Leaf, c.Root, c.Intermediate, other.ARK, other.ASK)}, chip},
	} {
		got, err := set(r.files...).SNPChain(sign(r.chip))
		if err != nil {
			t.Errorf("%s: %v", r.name, err)
			continue
		}
		if _, err := sevsnptest.Authenticate(t, sign(r.chip), got, sevsnp.Options{At: sevsnptest.Now}, v); err != nil {
			t.Errorf("%s: %v", r.name, err)
		}
	}
	stale := chip.Report()
	stale.ReportedTCB = older
	for _, r := range []struct {
		name   string
		report *sevsnp.Report
		files  [][]byte
		names  string
	}{
		{"nothing", sign(chip), nil, "VCEK"},
		{"VCEK alone", sign(chip), [][]byte{c.Leaf.Raw}, "SEV-Milan"},
		{"no root", sign(chip), [][]byte{pemOf(c.Leaf, c.Intermediate)}, "ARK-Milan"},
		{"no leaf", sign(chip), [][]byte{pemOf(c.Intermediate, c.Root)}, "VCEK"},
		{"several other chips", sign(chip), [][]byte{pemOf(neighbour.Chain.Leaf, v.Chip(t, tcb, nil).Chain.Leaf, v.ASK, v.ARK)}, "VCEK"},
		{"several, another TCB", stale, [][]byte{pemOf(c.Leaf, neighbour.Chain.Leaf, v.ASK, v.ARK)}, "snp 23"},
		{"SNP-06 a VCEK for a VLEK", sign(vlek), [][]byte{pemOf(c.Leaf, c.Intermediate, c.Root)}, "VLEK"},
		{"SNP-06 a VLEK for a VCEK", sign(chip), [][]byte{pemOf(vlek.Chain.Leaf, v.ASVK, v.ARK)}, "VCEK"},
	} {
		_, err := set(r.files...).SNPChain(r.report)
		if evidence.CodeOf(err) != evidence.CodeUnavailable || !strings.Contains(err.Error(), r.names) {
			t.Errorf("%s: %v, want %s naming %s", r.name, err, evidence.CodeUnavailable, r.names)
		}
	}
	one, err := set(pemOf(neighbour.Chain.Leaf, v.ASK, v.ARK)).SNPChain(sign(chip))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sevsnptest.Authenticate(t, sign(chip), one, sevsnp.Options{At: sevsnptest.Now}, v); evidence.CodeOf(err) != evidence.CodeChain {
		t.Errorf("the only VCEK, of another chip: %v, want %s", err, evidence.CodeChain)
	}
	if _, err := set(c.Leaf.Raw).SNPChain(nil); evidence.CodeOf(err) != evidence.CodeParse {
		t.Errorf("no report: %v", err)
	}
}

func TestSNPCRLs(t *testing.T) {
	v, w := sevsnptest.New(t, sevsnp.Milan), sevsnptest.New(t, sevsnp.Genoa)
	at := sevsnptest.Now
	old, next := v.CRL(t, nil, at.AddDate(0, -2, 0), at.AddDate(0, -1, 0), 5), v.CRL(t, nil, at.AddDate(0, -1, 0), at.AddDate(0, 1, 0), 5, 6)
	forgets := v.CRL(t, nil, at, at.AddDate(0, 1, 0))
	genoa := w.CRL(t, nil, at, at.AddDate(0, 1, 0))
	for _, r := range []struct {
		name  string
		lists []*x509.RevocationList
		want  int
	}{
		{"one", []*x509.RevocationList{old}, 1}, {"superseded", []*x509.RevocationList{next, old}, 1}, {"of two roots", []*x509.RevocationList{next, genoa}, 2},
		{"SNP-18 the newer forgets a revocation", []*x509.RevocationList{next, forgets}, 2},
	} {
		var s collateral.Set
		for _, l := range r.lists {
			if err := s.Add("list", l.Raw); err != nil {
				t.Fatal(err)
			}
		}
		got := s.SNPCRLs()
		if len(got) != r.want || !bytes.Equal(got[0].Raw, r.lists[0].Raw) {
			t.Errorf("%s: %d lists, want %d", r.name, len(got), r.want)
		}
	}
}

// TestRealSNP: THIM's answer and the chains that AMD publishes endorse real reports, up to the pinned roots.
func TestRealSNP(t *testing.T) {
	raw := vector(t, "azure-aci-thim-snp/snp_report.bin")
	report, err := sevsnp.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2023, 6, 1, 0, 0, 0, 0, time.UTC)
	var all collateral.Set
	for _, name := range []string{"amd-roots/genoa_ask_ark_asvk.pem", "amd-roots/turin_ask_ark_asvk.pem", "amd-roots/milan_ask_ark_asvk.pem"} {
		if err := all.Add(name, vector(t, name)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := all.SNPChain(report); evidence.CodeOf(err) != evidence.CodeUnavailable {
		t.Errorf("roots alone: %v, want %s", err, evidence.CodeUnavailable)
	}
	for _, name := range []string{"azure-aci-thim-snp/uvm_host_amd_certificate.json", "azure-aci-thim-snp/uvm_host_amd_certificate.pem"} {
		s := &collateral.Set{}
		if err := s.Add(name, vector(t, name)); err != nil {
			t.Fatal(err)
		}
		c, err := s.SNPChain(report)
		if err != nil {
			t.Fatal(name, err)
		}
		if _, err := sevsnp.Authenticate(report, c, sevsnp.Options{At: at}); err != nil {
			t.Error(name, err)
		}
		if err := sevsnp.CheckChain(c, sevsnp.SignedByVCEK, sevsnp.Options{At: at}); err != nil {
			t.Error(name, err)
		}
		if err := sevsnp.CheckAuthorities(sevsnp.Genoa, sevsnp.SignedByVCEK, c.Intermediate, c.Root, sevsnp.Options{At: at}); evidence.CodeOf(err) != evidence.CodeChain {
			t.Errorf("SNP-15 Milan's authorities for Genoa: %v", err)
		}
	}
}
