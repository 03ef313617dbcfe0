package soft_test

import (
	"testing"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/dcap"
	"cloister.dev/cloister/evidence/dcap/dcaptest"
	"cloister.dev/cloister/evidence/soft"
	"cloister.dev/cloister/evidence/tdx"
	"cloister.dev/cloister/evidence/tdx/tdxtest"
)

// A software TD is taken under the root that was named, and under no other; a root that looks like Intel's is never a software root.
func TestAuthenticateTDX(t *testing.T) {
	o := dcap.Options{At: dcaptest.Now}
	ours, others := dcaptest.New(t, dcaptest.Options{Software: true}), dcaptest.New(t, dcaptest.Options{Software: true})
	intels := dcaptest.New(t, dcaptest.Options{})
	root := func(v *dcaptest.Vendor) soft.Root {
		r, err := soft.ParseTDXRoot(dcaptest.PEM(v.Root))
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	q := tdxtest.Parsed(t, ours, tdxtest.Good())
	a, err := soft.AuthenticateTDX(q, []soft.Root{root(others), root(ours)}, o)
	if err != nil || a.Root() != evidence.RootSoftware {
		t.Fatalf("root %q: %v", a.Root(), err)
	}
	if a, err := a.WithCollateral(ours.Collateral(t, dcap.TDX, dcaptest.Now), o); err != nil || a.TCB().Status != dcap.UpToDate {
		t.Errorf("by its own collateral: %v", err)
	}
	if _, err := a.WithCollateral(others.Collateral(t, dcap.TDX, dcaptest.Now), o); evidence.CodeOf(err) != evidence.CodeChain {
		t.Errorf("TDX-17 by the collateral of another root: %v", err)
	}
	e := tdx.Baseline()
	e.Root = evidence.Exactly(evidence.RootIntel)
	if err := tdx.Refusal(tdx.Appraise(a, e)); evidence.CodeOf(err) != evidence.CodeChain {
		t.Errorf("where Intel's root is wanted: %v", err)
	}
	for name, try := range map[string]func() (*tdx.Authentic, error){
		"no root":             func() (*tdx.Authentic, error) { return soft.AuthenticateTDX(q, nil, o) },
		"the zero root":       func() (*tdx.Authentic, error) { return soft.AuthenticateTDX(q, []soft.Root{root(ours), {}}, o) },
		"another root":        func() (*tdx.Authentic, error) { return soft.AuthenticateTDX(q, []soft.Root{root(others)}, o) },
		"as Intel's evidence": func() (*tdx.Authentic, error) { return tdx.Authenticate(q, o) },
		"Intel's names": func() (*tdx.Authentic, error) {
			return soft.AuthenticateTDX(tdxtest.Parsed(t, intels, tdxtest.Good()), []soft.Root{root(ours)}, o)
		},
	} {
		if _, err := try(); evidence.CodeOf(err) != evidence.CodeChain {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, r := range map[string]struct {
		text []byte
		code evidence.Code
	}{
		"nothing":              {nil, evidence.CodeParse},
		"Intel's name":         {dcaptest.PEM(intels.Root), evidence.CodeChain},
		"two certificates":     {dcaptest.PEM(ours.Root, others.Root), evidence.CodeParse},
		"a CA that is no root": {dcaptest.PEM(ours.CA), evidence.CodeChain},
	} {
		if _, err := soft.ParseTDXRoot(r.text); evidence.CodeOf(err) != r.code {
			t.Errorf("%s: %v, want %s", name, err, r.code)
		}
	}
}
