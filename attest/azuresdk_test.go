package attest

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cloister.dev/cloister/attest/claims"
	"cloister.dev/cloister/attest/client"
)

// azureSDK installs Azure's client once, at the versions of the lockfile, outside the repository.
func azureSDK(t *testing.T) string {
	t.Helper()
	for _, tool := range []string{"node", "npm"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("%s is missing: Azure's attestation client runs on it. Run make setup (%v)", tool, err)
		}
	}
	lock, err := os.ReadFile("testdata/azure-sdk/package-lock.json")
	if err != nil {
		t.Fatal(err)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(lock)
	dir := filepath.Join(cache, "cloister", "azure-sdk-"+hex.EncodeToString(sum[:8]))
	if _, err := os.Stat(dir); err == nil {
		return dir
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		t.Fatal(err)
	}
	fresh, err := os.MkdirTemp(filepath.Dir(dir), "azure-sdk-new-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(fresh)
	for _, name := range []string{"package.json", "package-lock.json"} {
		raw, err := os.ReadFile(filepath.Join("testdata/azure-sdk", name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(fresh, name), raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	install := exec.CommandContext(t.Context(), "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
	install.Dir = fresh
	if out, err := install.CombinedOutput(); err != nil {
		t.Fatalf("npm could not install Azure's attestation client; it needs the network once: %v\n%s", err, out)
	}
	if err := os.Rename(fresh, dir); err != nil {
		if _, there := os.Stat(dir); there != nil { // another run of this test was not faster
			t.Fatal(err)
		}
	}
	return dir
}

type sdkRefusal struct {
	Status        int
	Code, Message string
}

// Azure's own client for JavaScript finds here what it finds at Azure's service.
func TestAzureSDK(t *testing.T) {
	modules := azureSDK(t)
	w := newWorld(t)
	w.now = time.Now().Truncate(time.Second) // the client looks at the clock
	ca := filepath.Join(w.dir, "tls-ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: w.certificate.Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
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
	input, err := json.Marshal(map[string]string{"modules": modules, "url": w.url + "/software", "issuer": softwareURL, "bearer": adminToken(t, w),
		"stranger": signIn(t, w, "33333333-3333-4333-8333-333333333333"), "policy": policy, "report": string(report)})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(w.dir, "input.json")
	if err := os.WriteFile(file, input, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "node", "testdata/azure-sdk/run.mjs", file)
	cmd.Env = append(os.Environ(), "NODE_EXTRA_CA_CERTS="+ca)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("the client failed: %v\n%s", err, stderr.String())
	}
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
	if err := json.Unmarshal(stdout.Bytes(), &got); err != nil {
		t.Fatalf("%v: %s", err, stdout.String())
	}
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
