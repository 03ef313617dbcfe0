package compute_test

import (
	"encoding/pem"
	"slices"
	"testing"

	"cloister.dev/cloister/identity/identitytest"
	"cloister.dev/cloister/internal/azurejs"
)

// Azure's clients for JavaScript deploy a template, see the VM, and delete it.
func TestDeploymentByAzureSDKForJavaScript(t *testing.T) {
	modules := azurejs.Modules(t, "testdata/azure-sdk")
	e := newEnv(t)
	e.join(8)
	e.want(201, "PUT", group, `{"location":"local"}`)
	token := func(id string) string {
		tok, err := e.issuer.MintClient(id, e.arm.URL)
		if err != nil {
			t.Fatal(err)
		}
		return tok
	}
	type refusal struct {
		Status int
		Code   string
	}
	var got struct {
		Circle, Stranger, Missing, Gone, Forgotten refusal
		Validated                                  int
		Made                                       struct {
			State, Address string
			Secret         bool
			Resources      int
		}
		Operations, Listed []string
		Exported           string
		VM                 struct {
			ID, Output string
			Power      []string
		}
	}
	azurejs.Run(t, "testdata/azure-sdk/run.mjs", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: e.arm.Certificate().Raw}), map[string]any{
		"modules": modules, "url": e.arm.URL, "bearer": token(identitytest.AdminID), "stranger": token(identitytest.OtherIDs[0]), "subscription": sub, "group": "g", "template": vmTemplate,
		"circle":     oneTemplate(vnet("a", goodSpace+`,"dependsOn":["b"]`), vnet("b", goodSpace+`,"dependsOn":["a"]`)),
		"parameters": map[string]any{"image": map[string]string{"value": imagePath}, "data": map[string]string{"value": "topsecret"}}}, &got)
	for what, r := range map[string]struct {
		got    refusal
		status int
		code   string
	}{
		"a circle": {got.Circle, 400, "InvalidTemplate"}, "SVC-13 a stranger": {got.Stranger, 403, "AuthorizationFailed"}, "what was not made": {got.Missing, 404, "DeploymentNotFound"},
		"the deleted VM": {got.Gone, 404, "ResourceNotFound"}, "the deleted deployment": {got.Forgotten, 404, "DeploymentNotFound"},
	} {
		if r.got.Status != r.status || r.got.Code != r.code {
			t.Errorf("%s: %+v, want %d %s", what, r.got, r.status, r.code)
		}
	}
	if got.Validated != 3 || got.Made.State != "Succeeded" || got.Made.Address != "10.0.1.4" || got.Made.Secret || got.Made.Resources != 3 || len(got.Operations) != 3 || !slices.Equal(got.Listed, []string{"d"}) || got.Exported != "1.0.0.0" ||
		got.VM.ID == "" || got.VM.ID != got.VM.Output || !slices.Contains(got.VM.Power, "PowerState/running") {
		t.Errorf("%+v", got)
	}
}
