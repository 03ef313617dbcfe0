package identity_test

import (
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/identity"
	"cloister.dev/cloister/identity/identitytest"
)

var now = time.Unix(1_800_000_000, 0)

const vault = "https://vault.cloister.test"

func TestVerify(t *testing.T) {
	ours := identitytest.New(t, func() time.Time { return now })
	stranger := identitytest.New(t, func() time.Time { return now })
	mint := func(i *identitytest.Issuer, audience string) string {
		tok, err := i.MintVM("0e4a1b7c-0000-4000-8000-000000000001", "/subscriptions/s", audience)
		if err != nil {
			t.Fatal(err)
		}
		return tok
	}
	good := mint(ours, vault)
	parts := strings.Split(good, ".")
	v, err := identity.NewVerifier(ours.Config(t, vault))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []struct {
		name, bearer string
		at           time.Time
		ok           bool
	}{
		{"a token of the issuer", good, now, true},
		{"an audience with a final slash", mint(ours, vault+"/"), now, true},
		{"SVC-05 another audience", mint(ours, "https://other"), now, false},
		{"SVC-05 no audience", mint(ours, ""), now, false},
		{"SVC-05 expired", good, now.Add(2 * time.Hour), false},
		{"SVC-05 not yet valid", good, now.Add(-2 * time.Minute), false},
		{"SVC-05 a little too early", good, now.Add(-30 * time.Second), false},
		{"SVC-02 signed by a stranger", mint(stranger, vault), now, false},
		{"SVC-04 no signature", parts[0] + "." + parts[1] + ".", now, false},
		{"SVC-04 alg none", "eyJhbGciOiJub25lIn0." + parts[1] + ".", now, false},
		{"empty", "", now, false},
	} {
		t.Run(r.name, func(t *testing.T) {
			p, err := v.Verify(r.bearer, r.at)
			if (err == nil) != r.ok {
				t.Fatalf("error %v", err)
			}
			if err != nil && evidence.CodeOf(err) != evidence.CodeAuthz {
				t.Errorf("code %s, want deny/authz", evidence.CodeOf(err))
			}
			if err == nil && (p.Kind != identity.KindVM || p.VMID == "") {
				t.Errorf("principal %+v", p)
			}
		})
	}
	req := httptest.NewRequest("GET", "/", nil)
	if _, err := v.FromRequest(req, now); evidence.CodeOf(err) != evidence.CodeAuthz {
		t.Errorf("no header: %v", err)
	}
	req.Header.Set("Authorization", "Bearer "+good)
	if _, err := v.FromRequest(req, now); err != nil {
		t.Errorf("good header: %v", err)
	}
}

// An operator's issuer that is believed about VMs can't make itself a caller of another kind.
func TestVMsOnly(t *testing.T) {
	issuer := identitytest.New(t, func() time.Time { return now })
	c := issuer.Config(t, vault)
	c.Issuers[0].VMsOnly = true
	v, err := identity.NewVerifier(c)
	if err != nil {
		t.Fatal(err)
	}
	app, err := issuer.MintClient(identitytest.AdminID, vault)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.Verify(app, now); evidence.CodeOf(err) != evidence.CodeAuthz || !strings.Contains(err.Error(), "believed about nothing else") {
		t.Errorf("an application: %v", err)
	}
	vm, err := issuer.MintVM("0e4a1b7c-0000-4000-8000-000000000001", "/subscriptions/s", vault)
	if err != nil {
		t.Fatal(err)
	}
	if p, err := v.Verify(vm, now); err != nil || p.Kind != identity.KindVM {
		t.Errorf("a VM: %v", err)
	}
}

func TestNewVerifierRefusesTrustInNobody(t *testing.T) {
	good := identitytest.New(t, time.Now).Config(t, vault)
	if _, err := identity.NewVerifier(good); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*identity.VerifierConfig){
		"SVC-03 no issuer":   func(c *identity.VerifierConfig) { c.Issuers = nil },
		"SVC-03 no keys":     func(c *identity.VerifierConfig) { c.Issuers[0].Keys = nil },
		"no audience":        func(c *identity.VerifierConfig) { c.Audiences = nil },
		"an empty audience":  func(c *identity.VerifierConfig) { c.Audiences = []string{""} },
		"no tenant":          func(c *identity.VerifierConfig) { c.Issuers[0].TenantID = "" },
		"a key that is none": func(c *identity.VerifierConfig) { c.Issuers[0].Keys[0].PEM = "x" },
	} {
		t.Run(name, func(t *testing.T) {
			c := identitytest.New(t, time.Now).Config(t, vault)
			change(&c)
			if _, err := identity.NewVerifier(c); err == nil {
				t.Error("accepted")
			}
		})
	}
}
