package sevsnp_test

import (
	"crypto/x509"
	"sync"
	"testing"
	"time"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/sevsnp"
	"cloister.dev/cloister/evidence/sevsnp/sevsnptest"
)

// TestChainsAreJudgedAgain: what is remembered is that signatures held, and nothing else.
func TestChainsAreJudgedAgain(t *testing.T) {
	v, other := sevsnptest.New(t, sevsnp.Milan), sevsnptest.New(t, sevsnp.Milan)
	chip, stranger := v.Chip(t, testTCB, nil), other.Chip(t, testTCB, nil)
	report := chip.Sign(t, chip.Report())
	known := sevsnp.NewChains(4)
	o := sevsnp.Options{At: sevsnptest.Now, Chains: known}
	for range 2 {
		if _, err := sevsnptest.Authenticate(t, report, chip.Chain, o, v); err != nil {
			t.Fatal("positive twin:", err)
		}
	}
	if known.Len() != 1 {
		t.Fatalf("%d chains are known", known.Len())
	}
	with := func(change func(*sevsnp.Options)) sevsnp.Options { o := o; change(&o); return o }
	from, next := sevsnptest.Now.AddDate(0, -1, 0), sevsnptest.Now.AddDate(0, 1, 0)
	forged := chip.Chain
	raw := append([]byte(nil), chip.Chain.Leaf.Raw...)
	raw[len(raw)-1] ^= 1 // the signature
	leaf, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	forged.Leaf = leaf
	changed := chip.Report()
	changed.HostData[0] = 1
	changed.Signature = report.Signature
	for _, r := range []struct {
		name   string
		report *sevsnp.Report
		chain  sevsnp.Chain
		o      sevsnp.Options
		vendor *sevsnptest.Vendor
		want   evidence.Code
	}{
		{"SNP-32 expired since", report, chip.Chain, with(func(o *sevsnp.Options) { o.At = sevsnptest.Now.AddDate(50, 0, 0) }), v, evidence.CodeChain},
		{"no time", report, chip.Chain, with(func(o *sevsnp.Options) { o.At = time.Time{} }), v, evidence.CodeUnavailable},
		{"SNP-18 revoked since", report, chip.Chain, with(func(o *sevsnp.Options) { o.CRLs = []*x509.RevocationList{v.CRL(t, nil, from, next, 0x10001)} }), v, evidence.CodeRevoked},
		{"SNP-19 list gone stale since", report, chip.Chain, with(func(o *sevsnp.Options) { o.CRLs = []*x509.RevocationList{v.CRL(t, nil, from, from, 1)} }), v, evidence.CodeUnavailable},
		{"SNP-18 list demanded since", report, chip.Chain, with(func(o *sevsnp.Options) { o.RequireCRL = true }), v, evidence.CodeUnavailable},
		{"SNP-14 another root is pinned", report, chip.Chain, o, other, evidence.CodeChain},
		{"SNP-33 another report under the known chain", changed, chip.Chain, o, v, evidence.CodeChain},
		{"a leaf with another signature", report, forged, o, v, evidence.CodeChain},
		{"another chip's chain", report, stranger.Chain, o, v, evidence.CodeChain},
		{"SNP-06 a VLEK report under the known chain", func() *sevsnp.Report {
			r := chip.Report()
			r.KeyInfo.SigningKey = sevsnp.SignedByVLEK
			return chip.Sign(t, r)
		}(), chip.Chain, o, v, evidence.CodeChain},
	} {
		t.Run(r.name, func(t *testing.T) {
			if _, err := sevsnptest.Authenticate(t, r.report, r.chain, r.o, r.vendor); evidence.CodeOf(err) != r.want {
				t.Errorf("got %v, want %s", err, r.want)
			}
		})
	}
	if _, err := sevsnp.Authenticate(report, chip.Chain, o); evidence.CodeOf(err) != evidence.CodeChain {
		t.Errorf("SNP-14 a chain that is known is taken for AMD's: %v", err)
	}
	if known.Len() != 1 {
		t.Errorf("SNP-14 refused chains are remembered: %d", known.Len())
	}
}

func TestChainsAreBounded(t *testing.T) {
	v := sevsnptest.New(t, sevsnp.Milan)
	known := sevsnp.NewChains(3)
	var chips []*sevsnptest.Chip
	var reports []*sevsnp.Report
	for range 6 {
		c := v.Chip(t, testTCB, nil)
		chips, reports = append(chips, c), append(reports, c.Sign(t, c.Report()))
	}
	var wg sync.WaitGroup
	for i := range 24 {
		wg.Go(func() {
			c, r := chips[i%len(chips)], reports[i%len(chips)]
			if _, err := sevsnptest.Authenticate(t, r, c.Chain, sevsnp.Options{At: sevsnptest.Now, Chains: known}, v); err != nil {
				t.Error(err)
			}
			if n := known.Len(); n > 3 {
				t.Errorf("%d chains are known", n)
			}
		})
	}
	wg.Wait()
	for _, o := range []*sevsnp.Chains{nil, {}} {
		if _, err := sevsnptest.Authenticate(t, reports[0], chips[0].Chain, sevsnp.Options{At: sevsnptest.Now, Chains: o}, v); err != nil || o.Len() != 0 {
			t.Errorf("no memory: %v", err)
		}
	}
}

// BenchmarkAuthenticate: "warm" costs about one verification of P-384.
func BenchmarkAuthenticate(b *testing.B) {
	rep, err := sevsnp.Parse(realReport(b, "az-snp-vtpm-evidence/evidence-genoa.json"))
	if err != nil {
		b.Fatal(err)
	}
	c := realChain(b, "az-snp-vtpm-evidence/vcek-genoa.pem", "genoa", 0)
	at := time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	for name, known := range map[string]*sevsnp.Chains{"cold": nil, "warm": sevsnp.NewChains(1)} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, err := sevsnp.Authenticate(rep, c, sevsnp.Options{At: at, Chains: known}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
