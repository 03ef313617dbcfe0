package attest

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"strings"
	"testing"
	"time"

	"cloister.dev/cloister/attest/claims"
	"cloister.dev/cloister/attest/client"
	"cloister.dev/cloister/internal/azurejs"
)

type sdkRefusal struct {
	Status        int
	Code, Message string
}

// Azure's own client for JavaScript finds here what it finds at Azure's service.
func TestAzureSDK(t *testing.T) {
	modules := azurejs.Modules(t, "testdata/azure-sdk")
	w := newWorld(t)
	w.now = time.Now().Truncate(time.Second) // the client looks at the clock
	const policy = "version=1.0;\nauthorizationrules { [type==\"x-cloister-root\", value==\"software\"] => permit(); };\nissuancerules {};"
	in := w.report(t, w.chip, nil)
	wrapped, err := json.Marshal(client.WireReport{SnpReport: base64.RawURLEncoding.EncodeToString(in.Report), VcekCertChain: base64.RawURLEncoding.EncodeToString(in.ChainPEM)})
	if err != nil {
		t.Fatal(err)
	}
	report, err := json.Marshal(client.WireSevSnpVM{Report: base64.RawURLEncoding.EncodeToString(wrapped), Nonce: "n"})
	if err != nil {
		t.Fatal(err)
	}
	input := map[string]string{"modules": modules, "url": w.url + "/software", "issuer": softwareURL, "bearer": adminToken(t, w),
		"stranger": signIn(t, w, "33333333-3333-4333-8333-333333333333"), "policy": policy, "report": string(report)}
	type policies struct{ Before, Set, Hash, After, Reset, Again string }
	var got struct {
		Metadata struct{ Issuer, JwksURI string }
		Signers  []struct {
			Kid          string
			Certificates int
		}
		SevSnpVM   policies `json:"SevSnpVm"`
		TdxVM      policies `json:"TdxVm"`
		AzureGuest policies
		Syntax     sdkRefusal
		Stranger   sdkRefusal
		Unknown    sdkRefusal
		Token      struct {
			Status   int
			Verified bool
			Claims   map[string]any
		}
	}
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: w.certificate.Raw})
	azurejs.Run(t, "testdata/azure-sdk/run.mjs", ca, input, &got)
	if got.Metadata.Issuer != softwareURL || got.Metadata.JwksURI != softwareURL+"/certs" || len(got.Signers) != 1 || got.Signers[0].Certificates != 1 {
		t.Errorf("discovery: %+v, %+v", got.Metadata, got.Signers)
	}
	jws, err := client.PolicyJWS(policy)
	if err != nil {
		t.Fatal(err)
	}
	for kind, p := range map[claims.Kind]policies{claims.SevSnpVM: got.SevSnpVM, claims.TdxVM: got.TdxVM, claims.AzureGuest: got.AzureGuest} {
		want := claims.DefaultPolicy(kind)
		sum := sha256.Sum256([]byte(jws))
		if p.Before != want || p.Again != want || p.After != policy || p.Set != "Updated" || p.Reset != "Removed" {
			t.Errorf("policies of %s: %+v", kind, p)
		}
		if p.Hash != base64.RawURLEncoding.EncodeToString(sum[:]) {
			t.Errorf("policy token hash of %s: %s, want that of %s", kind, p.Hash, jws)
		}
	}
	if got.Syntax.Status != 400 || got.Syntax.Code != "PolicyParsingError" || !strings.Contains(got.Syntax.Message, "line") && !strings.Contains(got.Syntax.Message, "column") && !strings.Contains(got.Syntax.Message, "nonsense") {
		t.Errorf("a policy that is none: %+v", got.Syntax)
	}
	if got.Stranger.Status != 403 {
		t.Errorf("a caller without a role: %+v", got.Stranger)
	}
	if got.Unknown.Status < 400 || got.Unknown.Status >= 500 || got.Unknown.Code == "" {
		t.Errorf("SGX, which is not served: %+v", got.Unknown)
	}
	if got.Token.Status != 200 || !got.Token.Verified || got.Token.Claims["x-cloister-root"] != "software" {
		t.Errorf("a token by plain HTTP: %+v", got.Token)
	}
}
