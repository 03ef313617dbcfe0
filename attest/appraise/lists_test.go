package appraise

import (
	"context"
	"crypto/x509"
	"os"
	"path/filepath"
	"testing"
	"time"

	"cloister.dev/cloister/attest/request"
	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/hcl"
	"cloister.dev/cloister/evidence/sevsnp"
)

// asked counts who asks for lists, and answers as told.
type asked struct {
	product sevsnp.Product
	times   int
	list    *x509.RevocationList
	err     error
}

func (a *asked) RevocationList(_ context.Context, p sevsnp.Product, _ sevsnp.SigningKey) (*x509.RevocationList, error) {
	a.product, a.times = p, a.times+1
	return a.list, a.err
}

// Lists are asked for where they are required and none is at hand, for the product of the chain.
func TestLists(t *testing.T) {
	dir := os.Getenv("CLOISTER_VECTORS")
	if dir == "" {
		dir = "../../../shared/vectors"
	}
	raw, err := os.ReadFile(filepath.Join(dir, "az-snp-vtpm-evidence", "hcl-report.bin"))
	if err != nil {
		t.Skipf("SKIPPED: test vectors are missing (%v); set CLOISTER_VECTORS", err)
	}
	report, err := hcl.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	chainPEM, err := os.ReadFile(filepath.Join(dir, "az-snp-vtpm-evidence", "vcek.pem"))
	if err != nil {
		t.Fatal(err)
	}
	chain, err := sevsnp.ParseChain(chainPEM)
	if err != nil {
		t.Fatal(err)
	}
	in := &request.SevSnpVM{Report: report.Hardware, Chain: chainPEM}
	at := chain.Leaf.NotBefore.Add(24 * time.Hour)
	judge := func(o AMDOptions) error {
		_, err := New(Hardware(&o, nil, SoftwareRoots{})).SevSnpVM(t.Context(), in, at)
		return err
	}
	away := evidence.Refuse(evidence.CodeUnavailable, "list", "no route", "one")
	for _, r := range []struct {
		name  string
		o     AMDOptions
		lists *asked
		code  evidence.Code
		times int
	}{
		{"not required", AMDOptions{}, &asked{err: away}, "", 0},
		{"SVC-28 the service is away", AMDOptions{RequireCRLs: true}, &asked{err: away}, evidence.CodeUnavailable, 1},
		{"SVC-29 a list that has ended", AMDOptions{RequireCRLs: true}, &asked{list: &x509.RevocationList{}}, evidence.CodeUnavailable, 1},
	} {
		r.o.Lists = r.lists
		if err := judge(r.o); evidence.CodeOf(err) != r.code || r.lists.times != r.times || r.times > 0 && r.lists.product != sevsnp.Milan {
			t.Errorf("%s: %v, asked %d times for %s", r.name, err, r.lists.times, r.lists.product)
		}
	}
	if err := judge(AMDOptions{RequireCRLs: true}); evidence.CodeOf(err) != evidence.CodeUnavailable {
		t.Errorf("SVC-28 nobody to ask: %v", err)
	}
}
