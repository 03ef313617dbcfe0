package compute_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/resources/armresources"

	"cloister.dev/cloister/compute"
	"cloister.dev/cloister/compute/deployment"
	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/identity/identitytest"
	"cloister.dev/cloister/identity/roles"
	"cloister.dev/cloister/store"
)

const (
	schemaHead = `"$schema":"https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#","contentVersion":"1.0.0.0"`
	imagePath  = "/subscriptions/" + sub + "/resourceGroups/cloister-images/providers/Microsoft.Compute/images/debian"
)

// vmTemplate makes a network, an interface and a confidential VM.
const vmTemplate = `{` + schemaHead + `,
"parameters":{"name":{"type":"string","defaultValue":"web"},"image":{"type":"string"},"key":{"type":"string","defaultValue":"ssh-ed25519 AAAA"},"data":{"type":"secureString","defaultValue":""}},
"variables":{"nic":"[concat(parameters('name'),'-nic')]","net":"net"},
"resources":[
{"type":"Microsoft.Compute/virtualMachines","apiVersion":"2024-07-01","name":"[parameters('name')]","location":"[resourceGroup().location]","dependsOn":["[resourceId('Microsoft.Network/networkInterfaces',variables('nic'))]"],
 "tags":{"address":"[reference(variables('nic')).ipConfigurations[0].properties.privateIPAddress]"},
 "properties":{"hardwareProfile":{"vmSize":"Standard_DC2as_v5"},"securityProfile":{"securityType":"ConfidentialVM","uefiSettings":{"secureBootEnabled":true,"vTpmEnabled":true}},
  "storageProfile":{"imageReference":{"id":"[parameters('image')]"},"osDisk":{"createOption":"fromImage","name":null,"managedDisk":{"storageAccountType":null,"securityProfile":{"securityEncryptionType":"DiskWithVMGuestState"}}}},
  "osProfile":{"computerName":"[parameters('name')]","adminUsername":"azureuser","customData":"[if(empty(parameters('data')),null(),base64(parameters('data')))]","linuxConfiguration":{"disablePasswordAuthentication":true,"ssh":{"publicKeys":[{"path":"/home/azureuser/.ssh/authorized_keys","keyData":"[parameters('key')]"}]}}},
  "networkProfile":{"networkInterfaces":[{"id":"[resourceId('Microsoft.Network/networkInterfaces',variables('nic'))]"}]}}},
{"type":"Microsoft.Network/networkInterfaces","apiVersion":"2015-06-15","name":"[variables('nic')]","location":"[resourceGroup().location]","dependsOn":["Microsoft.Network/virtualNetworks/net"],
 "properties":{"ipConfigurations":[{"name":"primary","properties":{"subnet":{"id":"[resourceId('Microsoft.Network/virtualNetworks/subnets',variables('net'),'a')]"}}}]}},
{"type":"Microsoft.Network/virtualNetworks","apiVersion":"2024-05-01","name":"[variables('net')]","location":"[resourceGroup().location]",
 "properties":{"addressSpace":{"addressPrefixes":["10.0.0.0/16"]},"subnets":[{"name":"a","properties":{"addressPrefix":"10.0.1.0/24"}}]}}],
"outputs":{"vmId":{"type":"string","value":"[reference(parameters('name')).vmId]"},"address":{"type":"string","value":"[reference(variables('nic')).ipConfigurations[0].properties.privateIPAddress]"},"data":{"type":"securestring","value":"[parameters('data')]"}}}`

const deployments = group + "/providers/Microsoft.Resources/deployments"

// deployBody is the body of a PUT.
func deployBody(template string, parameters map[string]any) string {
	values := map[string]any{}
	for name, v := range parameters {
		values[name] = map[string]any{"value": v}
	}
	return `{"properties":{"mode":"Incremental","parameters":` + jsonText(values) + `,"template":` + template + `}}`
}

func object(t *testing.T, text string) map[string]any {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// A network, an interface and a confidential VM come from one template, by Azure's own client.
func TestTemplateMakesAConfidentialVM(t *testing.T) {
	e := newEnv(t)
	e.join(8)
	ctx := t.Context()
	e.want(201, "PUT", group, `{"location":"local"}`)
	client := must[*armresources.DeploymentsClient](t)(armresources.NewDeploymentsClient(sub, e, e.options()))
	ops := must[*armresources.DeploymentOperationsClient](t)(armresources.NewDeploymentOperationsClient(sub, e, e.options()))
	want := armresources.Deployment{Tags: map[string]*string{"a": to.Ptr("b")}, Properties: &armresources.DeploymentProperties{Mode: to.Ptr(armresources.DeploymentModeIncremental), Template: object(t, vmTemplate),
		Parameters: map[string]any{"image": map[string]any{"value": imagePath}, "data": map[string]any{"value": "topsecret"}}}}

	vp, err := client.BeginValidate(ctx, "g", "d", want, nil)
	checked := done(t, vp, err)
	if checked.Error != nil || len(checked.Properties.ValidatedResources) != 3 {
		t.Fatalf("validate: %s", jsonText(checked))
	}
	if ok, err := client.CheckExistence(ctx, "g", "d", nil); err != nil || ok.Success {
		t.Fatalf("validating made a deployment: %v", err)
	}
	dp, err := client.BeginCreateOrUpdate(ctx, "g", "d", want, nil)
	made := done(t, dp, err)
	p := made.Properties
	outputs := p.Outputs.(map[string]any)
	vm := e.want(200, "GET", group+"/providers/Microsoft.Compute/virtualMachines/web", "")
	if *p.ProvisioningState != armresources.ProvisioningStateSucceeded || len(p.OutputResources) != 3 || outputs["address"].(map[string]any)["value"] != "10.0.1.4" || outputs["vmId"].(map[string]any)["value"] != vm["properties"].(map[string]any)["vmId"] ||
		vm["tags"].(map[string]any)["address"] != "10.0.1.4" || *p.Mode != armresources.DeploymentModeIncremental || len(p.Dependencies) != 2 || len(p.Providers) != 2 || p.CorrelationID == nil || p.Duration == nil || p.TemplateHash == nil || *made.Tags["a"] != "b" {
		t.Errorf("made: %s\n%s", jsonText(made), jsonText(vm))
	}
	if ok, err := client.CheckExistence(ctx, "g", "D", nil); err != nil || !ok.Success {
		t.Errorf("HEAD: %v", err)
	}
	page, err := ops.NewListPager("g", "d", nil).NextPage(ctx)
	if err != nil || len(page.Value) != 3 || *page.Value[0].Properties.ProvisioningState != "Succeeded" || *page.Value[0].Properties.StatusCode != "Created" {
		t.Errorf("operations: %s, %v", jsonText(page), err)
	}
	if one, err := ops.Get(ctx, "g", "d", *page.Value[0].OperationID, nil); err != nil || *one.Properties.TargetResource.ResourceName != "web" {
		t.Errorf("operation: %s, %v", jsonText(one), err)
	}
	if x, err := client.ExportTemplate(ctx, "g", "d", nil); err != nil || !strings.Contains(jsonText(x.Template), "contentVersion") {
		t.Errorf("export: %v", err)
	}
	list, err := client.NewListByResourceGroupPager("g", &armresources.DeploymentsClientListByResourceGroupOptions{Filter: to.Ptr("provisioningState eq 'Succeeded'")}).NextPage(ctx)
	if err != nil || len(list.Value) != 1 {
		t.Errorf("list: %s, %v", jsonText(list), err)
	}
	// The same again changes nothing, and comes to the same end.
	dp, err = client.BeginCreateOrUpdate(ctx, "g", "d", want, nil)
	if again := done(t, dp, err); *again.Properties.ProvisioningState != armresources.ProvisioningStateSucceeded {
		t.Errorf("again: %s", jsonText(again))
	}

	// The value of the secure parameter is nowhere: not in answers, not in the records of deployments.
	for _, path := range []string{"/d", "/d/operations", ""} {
		if text := jsonText(e.want(200, "GET", deployments+path, "")); strings.Contains(text, "topsecret") || strings.Contains(text, "dG9wc2VjcmV0") {
			t.Errorf("GET %s shows the secret: %s", path, text)
		}
	}
	for _, kind := range []string{"deployment", "deploymentsource", "operation"} {
		items, _, err := store.Of[json.RawMessage](store.Open(e.etcd, "/cloister/compute"), kind).List(ctx, "")
		if err != nil || len(items) == 0 {
			t.Fatalf("%s: %v", kind, err)
		}
		for _, it := range items {
			if strings.Contains(string(it.Value), "topsecret") || strings.Contains(string(it.Value), "dG9wc2VjcmV0") {
				t.Errorf("record %s %s holds the secret", kind, it.ID)
			}
		}
	}

	delp, err := client.BeginDelete(ctx, "g", "d", nil)
	done(t, delp, err)
	if ok, err := client.CheckExistence(ctx, "g", "d", nil); err != nil || ok.Success {
		t.Errorf("deleted: %v", err)
	}
	e.want(200, "GET", group+"/providers/Microsoft.Compute/virtualMachines/web", "")
	if status, _, _ := e.call("DELETE", deployments+"/d", ""); status != 204 {
		t.Errorf("DELETE of what is gone: %d", status)
	}
}

// deploy makes a deployment and waits for its end.
func (e *env) deploy(name, body string, change ...func(*http.Request)) (string, map[string]any) {
	e.t.Helper()
	status, out, h := e.call("PUT", deployments+"/"+name, body, change...)
	if status/100 != 2 {
		e.t.Fatalf("PUT of the deployment: %d %v", status, out)
	}
	return e.waitDone(h)
}

// waitDone is wait for operations that are under way as "Running".
func (e *env) waitDone(h http.Header) (string, map[string]any) {
	e.t.Helper()
	path := strings.TrimPrefix(h.Get("Azure-AsyncOperation"), e.arm.URL)
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); <-time.After(10 * time.Millisecond) {
		out := e.want(200, "GET", path, "")
		if s := out["status"].(string); s != "Running" {
			return s, out
		}
	}
	e.t.Fatal("the deployment did not end")
	return "", nil
}

func vnet(name, more string) string {
	return `{"type":"Microsoft.Network/virtualNetworks","apiVersion":"2024-05-01","name":"` + name + `","location":"[resourceGroup().location]"` + more + `}`
}

const goodSpace = `,"properties":{"addressSpace":{"addressPrefixes":["10.0.0.0/16"]}}`

func oneTemplate(resources ...string) string {
	return `{` + schemaHead + `,"parameters":{"p":{"type":"secureString","defaultValue":"defaultsecret"}},"resources":[` + strings.Join(resources, ",") + `]}`
}

// as makes a call by another principal.
func (e *env) as(id string) func(*http.Request) {
	return func(r *http.Request) {
		tok, err := e.issuer.MintClient(id, e.arm.URL)
		if err != nil {
			e.t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+tok)
	}
}

func TestDeploymentIsRefused(t *testing.T) {
	reader, part, stranger := identitytest.OtherIDs[0], identitytest.OtherIDs[1], identitytest.OtherIDs[2]
	e := newEnv(t, func(c *compute.Config, _ *compute.Deps) {
		c.Roles = append(c.Roles, roles.List{{PrincipalID: reader, Role: "Reader", Scope: "/subscriptions/" + sub}, {PrincipalID: part, Role: "Contributor", Scope: deployments}}...)
	})
	e.want(201, "PUT", group, `{"location":"local"}`)
	circle := oneTemplate(vnet("a", goodSpace+`,"dependsOn":["b"]`), vnet("b", goodSpace+`,"dependsOn":["a"]`))
	good := deployBody(oneTemplate(vnet("a", goodSpace)), nil)
	for name, r := range map[string]struct {
		path, body string
		status     int
		code, text string
		target     string
		as         string
	}{
		"a circle":                     {"/d", deployBody(circle, nil), 400, "InvalidTemplate", "Circular dependency detected on resource: '" + group + "/providers/Microsoft.Network/virtualNetworks/a'", "resources[0].dependsOn", ""},
		"no JSON":                      {"/d", `{"properties":`, 400, "InvalidRequestContent", "ends too early", "properties", ""},
		"no mode":                      {"/d", `{"properties":{"template":{}}}`, 400, "InvalidParameter", "mode is not given", "properties.mode", ""},
		"mode Complete":                {"/d", strings.Replace(good, "Incremental", "complete", 1), 400, "InvalidParameter", "'Complete' is not supported", "properties.mode", ""},
		"no template":                  {"/d", `{"properties":{"mode":"Incremental"}}`, 400, "InvalidTemplate", "no template", "properties.template", ""},
		"a linked template":            {"/d", `{"properties":{"mode":"Incremental","templateLink":{"uri":"https://a.test/x"}}}`, 400, "InvalidParameter", "templateLink", "properties.templateLink", ""},
		"linked parameters":            {"/d", `{"properties":{"mode":"Incremental","template":{},"parametersLink":{"uri":"https://a.test/x"}}}`, 400, "InvalidParameter", "parametersLink", "properties.parametersLink", ""},
		"a rollback":                   {"/d", `{"properties":{"mode":"Incremental","template":{},"onErrorDeployment":{"type":"LastSuccessful"}}}`, 400, "InvalidParameter", "onErrorDeployment", "properties.onErrorDeployment", ""},
		"debugging":                    {"/d", `{"properties":{"mode":"Incremental","template":{},"debugSetting":{"detailLevel":"requestContent"}}}`, 400, "InvalidParameter", "detailLevel", "properties.debugSetting.detailLevel", ""},
		"a secret of a vault":          {"/d", `{"properties":{"mode":"Incremental","template":` + oneTemplate() + `,"parameters":{"p":{"reference":{"keyVault":{"id":"x"},"secretName":"s"}}}}}`, 400, "InvalidTemplate", "can't read vaults", "properties.parameters.p.reference", ""},
		"a bare parameter":             {"/d", `{"properties":{"mode":"Incremental","template":` + oneTemplate() + `,"parameters":{"p":"x"}}}`, 400, "InvalidTemplate", "member 'value'", "properties.parameters.p", ""},
		"an empty parameter":           {"/d", `{"properties":{"mode":"Incremental","template":` + oneTemplate() + `,"parameters":{"p":{}}}}`, 400, "InvalidTemplate", "is null", "properties.parameters.p", ""},
		"an unknown parameter":         {"/d", deployBody(oneTemplate(), map[string]any{"q": 1}), 400, "InvalidTemplate", "'q' in the parameters file", "parameters", ""},
		"an unknown function":          {"/d", deployBody(oneTemplate(vnet("[nothing()]", goodSpace)), nil), 400, "InvalidTemplate", "'nothing' is not valid", "resources[0].name", ""},
		"a nested template":            {"/d", deployBody(oneTemplate(`{"type":"Microsoft.Resources/deployments","apiVersion":"2021-04-01","name":"n"}`), nil), 400, "InvalidTemplate", "nested and linked", "resources[0]", ""},
		"an unknown namespace":         {"/d", deployBody(oneTemplate(`{"type":"Microsoft.Web/sites","apiVersion":"2021-04-01","name":"n"}`), nil), 400, "InvalidTemplateDeployment", "not valid according to the validation procedure", "", ""},
		"an unknown type":              {"/d", deployBody(oneTemplate(`{"type":"Microsoft.Network/routers","apiVersion":"2021-04-01","name":"n"}`), nil), 400, "InvalidTemplateDeployment", "InvalidResourceType", "", ""},
		"an api-version of words":      {"/d", deployBody(oneTemplate(strings.Replace(vnet("a", goodSpace), "2024-05-01", "latest", 1)), nil), 400, "InvalidTemplateDeployment", "InvalidApiVersionParameter", "", ""},
		"SVC-12 a name with a dot-dot": {"/d", deployBody(oneTemplate(vnet("..", goodSpace)), nil), 400, "InvalidTemplateDeployment", "InvalidRequestUri", "", ""},
		"too many tags":                {"/d", `{"tags":{"a/b":"c"},` + good[1:], 400, "InvalidTagNameCharacters", "", "tags", ""},
		"too large a template":         {"/d", deployBody(oneTemplate(vnet("a", goodSpace+`,"comments":"`+strings.Repeat("x", 1<<20)+`"`)), nil), 400, "InvalidRequestContent", "at most 1048576", "properties.template", ""},
		"too long a name":              {"/" + strings.Repeat("d", 65), good, 400, "InvalidResourceName", "1 to 64", "", ""},
		"SVC-13 who may only read":     {"/d", good, 403, "AuthorizationFailed", "Microsoft.Resources/deployments/write", "", reader},
		"SVC-13 who may only deploy":   {"/d", good, 403, "InvalidTemplateDeployment", "does not have permission to perform action 'Microsoft.Network/virtualNetworks/write' at scope", "", part},
		"SVC-13 a stranger":            {"/d", good, 403, "AuthorizationFailed", "", "", stranger},
	} {
		t.Run(name, func(t *testing.T) {
			var change []func(*http.Request)
			if r.as != "" {
				change = append(change, e.as(r.as))
			}
			for _, c := range [][2]string{{"PUT", ""}, {"POST", "/validate"}} {
				status, out, _ := e.call(c[0], deployments+r.path+c[1], r.body, change...)
				if code, message, target := errorOf(out); status != r.status || code != r.code && !(c[1] != "" && r.status == 403) || !strings.Contains(jsonText(out), r.text) && c[1] == "" || r.target != "" && target != r.target {
					t.Errorf("%s %s: %d %s %.300s at %q; want %d %s %q at %q", c[0], c[1], status, code, message, target, r.status, r.code, r.text, r.target)
				}
				if strings.Contains(jsonText(out), "defaultsecret") {
					t.Errorf("shows a secret: %v", out)
				}
			}
			if status, _, _ := e.call("GET", deployments+"/d", ""); status != 404 {
				t.Errorf("a refused deployment was kept: %d", status)
			}
		})
	}
	if status, out := e.deploy("d", good); status != "Succeeded" {
		t.Errorf("the positive twin: %s %v", status, out)
	}
	for _, c := range []struct {
		method, path string
		status       int
		code         string
	}{
		{"GET", deployments + "/none", 404, "DeploymentNotFound"}, {"POST", deployments + "/none/cancel", 404, "DeploymentNotFound"}, {"GET", deployments + "/none/operations", 404, "DeploymentNotFound"}, {"POST", deployments + "/none/exportTemplate", 404, "DeploymentNotFound"},
		{"GET", deployments + "/d/operations/x", 404, "NotFound"}, {"GET", deployments + "/d/operationStatuses/x", 404, "NotFound"}, {"POST", deployments + "/d/cancel", 409, "Conflict"}, {"GET", deployments + "?api-version=2021-04-01&$filter=name%20eq%20'x'", 400, "InvalidFilterInQueryString"},
		{"GET", strings.Replace(deployments, "/g/", "/none/", 1), 404, "ResourceGroupNotFound"}, {"GET", strings.Replace(deployments, "/g/", "/none/", 1) + "/d", 404, "ResourceGroupNotFound"}, {"POST", deployments + "/d/whatIf", 404, "InvalidResourceType"},
		{"PUT", "/subscriptions/" + sub + "/providers/Microsoft.Resources/deployments/d", 404, "InvalidResourceType"}, {"PATCH", deployments + "/d", 405, "MethodNotAllowed"},
	} {
		status, out, _ := e.call(c.method, c.path, good)
		if code, _, _ := errorOf(out); status != c.status || code != c.code {
			t.Errorf("%s %s: %d %v", c.method, c.path, status, out)
		}
	}
	if status, out, _ := e.call("GET", deployments+"/d", "", e.as(stranger)); status != 403 {
		t.Errorf("SVC-13 a stranger reads: %d %v", status, out)
	}
}

// What az sends is no JSON: the template is pasted in as it is in the file.
func TestAzBodyWithABareNameAndComments(t *testing.T) {
	e := newEnv(t)
	e.want(201, "PUT", group, `{"location":"local"}`)
	body := `{"properties": {"parameters": {}, "mode": "Incremental", template:` + strings.Replace(oneTemplate(vnet("a", goodSpace)), "{", "{ // a comment\n", 1) + `}}`
	if status, out := e.deploy("az", body); status != "Succeeded" {
		t.Errorf("%s %v", status, out)
	}
}

func TestDeploymentThatFails(t *testing.T) {
	e := newEnv(t)
	e.want(201, "PUT", group, `{"location":"local"}`)
	// The first can't be made; the second waits for it and is never asked for; the third has nothing to do with it.
	status, out := e.deploy("d", deployBody(oneTemplate(vnet("bad", `,"properties":{"addressSpace":{"addressPrefixes":["[parameters('p')]"]}}`), vnet("waits", goodSpace+`,"dependsOn":["bad"]`), vnet("other", goodSpace), vnet("off", `,"condition":false`)), map[string]any{"p": "topsecret-network"}))
	failure := out["error"].(map[string]any)
	details := failure["details"].([]any)
	if status != "Failed" || failure["code"] != "DeploymentFailed" || !strings.HasPrefix(failure["message"].(string), "At least one resource deployment operation failed. Please list deployment operations for details.") ||
		len(details) != 1 || details[0].(map[string]any)["code"] != "InvalidRequestFormat" || !strings.Contains(jsonText(details), "Address prefix '******' is invalid") {
		t.Errorf("%s %v", status, out)
	}
	d := e.want(200, "GET", deployments+"/d", "")
	p := d["properties"].(map[string]any)
	if p["provisioningState"] != "Failed" || p["error"] == nil || p["outputs"] != nil || len(p["outputResources"].([]any)) != 1 {
		t.Errorf("shown: %v", d)
	}
	ops := e.want(200, "GET", deployments+"/d/operations", "")
	if text := jsonText(ops); len(ops["value"].([]any)) != 2 || !strings.Contains(text, `"statusCode":"BadRequest"`) || strings.Contains(text+jsonText(d)+jsonText(out), "topsecret") {
		t.Errorf("operations: %s", text)
	}
	for name, want := range map[string]int{"bad": 404, "waits": 404, "other": 200, "off": 404} {
		if status, _, _ := e.call("GET", group+"/providers/Microsoft.Network/virtualNetworks/"+name, ""); status != want {
			t.Errorf("%s: %d, want %d", name, status, want)
		}
	}
	for name, r := range map[string]struct{ resources, outputs, want string }{
		"a reference to what is not there": {vnet("a", goodSpace+`,"tags":{"x":"[reference(resourceId('Microsoft.Network/virtualNetworks','none'),'2024-05-01').y]"}`), "", "ResourceNotFound"},
		"a property that is not there":     {vnet("other", goodSpace) + "," + vnet("b", goodSpace+`,"tags":{"x":"[reference('other').nothing]"}`), "", "'nothing' doesn't exist"},
		"an output that is not there":      {vnet("other", goodSpace), `,"outputs":{"o":{"type":"string","value":"[reference('other').nothing]"}}`, "'nothing' doesn't exist"},
		"an output of another type":        {vnet("other", goodSpace), `,"outputs":{"o":{"type":"int","value":"[reference('other').provisioningState]"}}`, "expected 'Integer'"},
		"a property that is not served":    {vnet("c", `,"properties":{"addressSpace":{"addressPrefixes":["10.0.0.0/16"]},"flowTimeoutInMinutes":4}`), "", "flowTimeoutInMinutes"},
	} {
		status, out := e.deploy("e", deployBody(`{`+schemaHead+`,"resources":[`+r.resources+`]`+r.outputs+`}`, nil))
		if status != "Failed" || !strings.Contains(jsonText(out), r.want) || !strings.Contains(jsonText(out), "DeploymentFailed") {
			t.Errorf("%s: %s %v", name, status, out)
		}
	}
}

// What goes wrong later, or is refused by a rule at once, is a detail of the deployment's error, as the resource itself says it.
func TestVMThatFailsInADeployment(t *testing.T) {
	for name, r := range map[string]struct {
		option option
		fail   *evidence.Refusal
		code   string
	}{
		"its host can't start it": {func(*compute.Config, *compute.Deps) {}, evidence.Refuse(evidence.CodePolicy, "snp.guest_svn", "1", "2"), "VMStartFailed"},
		"its quota is used up":    {func(c *compute.Config, _ *compute.Deps) { c.Quota.Cores = 1 }, nil, "OperationNotAllowed"},
		"several rules refuse it": {func(c *compute.Config, _ *compute.Deps) { c.Location, c.Zones = location, nil }, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t, r.option)
			host := e.join(8)
			host.mu.Lock()
			host.fail = r.fail
			host.mu.Unlock()
			e.want(201, "PUT", group, `{"location":"local"}`)
			template, want := vmTemplate, r.code
			if want == "" {
				template, want = strings.Replace(strings.Replace(vmTemplate, "Standard_DC2as_v5", "Standard_D2s_v5", 1), `"vTpmEnabled":true`, `"vTpmEnabled":false`, 1), "details"
			}
			status, out := e.deploy("d", deployBody(template, map[string]any{"image": imagePath}))
			details, _ := out["error"].(map[string]any)["details"].([]any)
			if status != "Failed" || len(details) != 1 || want != "details" && details[0].(map[string]any)["code"] != want || want == "details" && len(details[0].(map[string]any)["details"].([]any)) < 2 {
				t.Errorf("%s %v", status, out)
			}
		})
	}
}

// SVC-13: a deployment has its caller's rights and no others, also where it reads, and also in its middle.
func TestDeploymentHasTheRightsOfItsCaller(t *testing.T) {
	caller := identitytest.OtherIDs[0]
	e := newEnv(t, func(c *compute.Config, _ *compute.Deps) {
		c.Roles = append(c.Roles, roles.Assignment{PrincipalID: caller, Role: "Contributor", Scope: group})
	})
	e.want(201, "PUT", group, `{"location":"local"}`)
	other := strings.Replace(group, "/g", "/secret", 1)
	e.want(201, "PUT", other, `{"location":"local"}`)
	e.want(201, "PUT", other+"/providers/Microsoft.Network/virtualNetworks/hidden", `{"location":"local"`+goodSpace+`}`)
	read := `{` + schemaHead + `,"resources":[` + vnet("a", goodSpace) + `],"outputs":{"o":{"type":"object","value":"[reference('` + other + `/providers/Microsoft.Network/virtualNetworks/hidden','2024-05-01')]"}}}`
	status, h := 0, http.Header(nil)
	if status, _, h = e.call("PUT", deployments+"/d", deployBody(read, nil), e.as(caller)); status != 201 {
		t.Fatal(status)
	}
	if s, out := e.waitDone(h); s != "Failed" || !strings.Contains(jsonText(out), "AuthorizationFailed") || strings.Contains(jsonText(out), "10.0.0.0") {
		t.Errorf("SVC-13 a reference into another group: %s %v", s, out)
	}
	if s, out := e.deploy("d", deployBody(read, nil)); s != "Succeeded" {
		t.Errorf("the positive twin, by who may read it: %s %v", s, out)
	}
}

// hold makes the keeper refuse, or not any more: VMs without init data stay as they are until it answers.
func (k *fakeKeys) hold(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.fail = err
}

// A deployment under way can't be replaced or deleted, but canceled; a group takes its deployments with it.
func TestDeploymentUnderWay(t *testing.T) {
	e := newEnv(t)
	e.join(8)
	e.want(201, "PUT", group, `{"location":"local"}`)
	e.keys.hold(errors.New("the key keeper does not answer"))
	body := deployBody(vmTemplate, map[string]any{"image": imagePath})
	status, _, h := e.call("PUT", deployments+"/d", body)
	if status != 201 {
		t.Fatal(status)
	}
	e.until(group+"/providers/Microsoft.Compute/virtualMachines/web", `"provisioningState":"Creating"`)
	for method, path := range map[string]string{"PUT": "/d", "DELETE": "/d"} {
		status, out, _ := e.call(method, deployments+path, body)
		if code, _, _ := errorOf(out); status != 409 || code != "DeploymentActive" {
			t.Errorf("%s of an active deployment: %d %v", method, status, out)
		}
	}
	if status, out, _ := e.call("POST", deployments+"/d/cancel", ""); status != 204 {
		t.Errorf("cancel: %d %v", status, out)
	}
	if s, out := e.waitDone(h); s != "Canceled" || !strings.Contains(jsonText(out), "DeploymentCanceled") {
		t.Errorf("canceled: %s %v", s, out)
	}
	if d := jsonText(e.want(200, "GET", deployments+"/d", "")); !strings.Contains(d, `"provisioningState":"Canceled"`) {
		t.Error(d)
	}
	e.keys.hold(nil)
	e.until(group+"/providers/Microsoft.Compute/virtualMachines/web", `"provisioningState":"Succeeded"`)
	if status, _, _ := e.call("DELETE", group, ""); status != 202 {
		t.Fatal(status)
	}
	e.until(group, "ResourceGroupNotFound")
	if items, _, err := store.Of[deployment.Deployment](store.Open(e.etcd, "/cloister/compute"), "deployment").List(t.Context(), ""); err != nil || len(items) != 0 {
		t.Errorf("left: %v, %v", items, err)
	}
}

// Another server goes on when the owner is gone: what needs the value of a secure parameter fails and says so, the rest is made.
func TestAnotherServerGoesOn(t *testing.T) {
	e := newEnv(t)
	e.want(201, "PUT", group, `{"location":"local"}`)
	template := oneTemplate(vnet("a", goodSpace), vnet("b", `,"dependsOn":["a"],"properties":{"addressSpace":{"addressPrefixes":["[parameters('p')]"]}}`), vnet("c", goodSpace+`,"dependsOn":["a"]`))
	if s, out := e.deploy("d", deployBody(template, map[string]any{"p": "10.9.0.0/16"})); s != "Succeeded" {
		t.Fatalf("%s %v", s, out)
	}
	db := store.Open(e.etcd, "/cloister/compute")
	records := store.Of[deployment.Deployment](db, "deployment")
	items, _, err := records.List(t.Context(), "")
	if err != nil || len(items) != 1 {
		t.Fatal(items, err)
	}
	it := items[0]
	it.Value.State, it.Value.Owner, it.Value.Run, it.Value.End = "Running", "gone", "another-run", time.Time{}
	for i := range it.Value.Steps {
		it.Value.Steps[i].State = []string{"Running", "Pending", "Pending"}[i]
	}
	if err := records.Update(t.Context(), it); err != nil {
		t.Fatal(err)
	}
	e.until(deployments+"/d", `"provisioningState":"Failed"`)
	d := e.want(200, "GET", deployments+"/d", "")
	if text := jsonText(d); !strings.Contains(text, "SecureParameterLost") || len(d["properties"].(map[string]any)["outputResources"].([]any)) != 2 {
		t.Errorf("%s", text)
	}
}

// The template of the documentation makes what it says.
func TestSampleTemplate(t *testing.T) {
	raw, err := os.ReadFile("../docs/samples/vm.template.json")
	if err != nil {
		t.Fatal(err)
	}
	e := newEnv(t)
	e.join(8)
	e.want(201, "PUT", group, `{"location":"local"}`)
	given := map[string]any{"name": "web", "count": 2, "image": "debian", "sshKey": "ssh-ed25519 AAAA\n", "customData": "#cloud-config"}
	if status, out := e.deploy("sample", deployBody(string(raw), given)); status != "Succeeded" {
		t.Fatalf("%s %v", status, out)
	}
	outputs := jsonText(e.want(200, "GET", deployments+"/sample", "")["properties"].(map[string]any)["outputs"])
	if !strings.Contains(outputs, `"value":["10.30.0.4","10.30.0.5"]`) && !strings.Contains(outputs, `"value":["10.30.0.5","10.30.0.4"]`) {
		t.Error(outputs)
	}
	for _, name := range []string{"web-1", "web-2"} {
		e.want(200, "GET", group+"/providers/Microsoft.Compute/virtualMachines/"+name, "")
	}
	for name, v := range map[string]any{"name": "a-name-too-long", "count": 10, "size": "Standard_D2s_v5"} {
		bad := maps.Clone(given)
		bad[name] = v
		if status, out, _ := e.call("PUT", deployments+"/bad", deployBody(string(raw), bad)); status != 400 || !strings.Contains(jsonText(out), "template parameter '"+name+"'") {
			t.Errorf("%s: %d %v", name, status, out)
		}
	}
}

// A group keeps 800 deployments: the oldest that is over makes room; where none is, a new one is refused.
func TestOldDeploymentsMakeRoom(t *testing.T) {
	e := newEnv(t)
	e.want(201, "PUT", group, `{"location":"local"}`)
	if s, out := e.deploy("first", deployBody(oneTemplate(), nil)); s != "Succeeded" {
		t.Fatalf("%s %v", s, out)
	}
	db := store.Open(e.etcd, "/cloister/compute")
	records := store.Of[deployment.Deployment](db, "deployment")
	it, err := records.Get(t.Context(), strings.ToLower(deployments+"/first"))
	if err != nil {
		t.Fatal(err)
	}
	// The others are under way at another server.
	if err := store.Of[time.Time](db, "deploymentowner").Put(t.Context(), "other", time.Now()); err != nil {
		t.Fatal(err)
	}
	d := it.Value
	for i := range 799 {
		d.ID.Name, d.Run, d.State, d.Owner = fmt.Sprint("busy", i), fmt.Sprint("run", i), "Running", "other"
		if err := records.Put(t.Context(), d.ID.Key(), d); err != nil {
			t.Fatal(err)
		}
	}
	if s, out := e.deploy("next", deployBody(oneTemplate(), nil)); s != "Succeeded" {
		t.Errorf("the oldest makes room: %s %v", s, out)
	}
	if status, _, _ := e.call("GET", deployments+"/first", ""); status != 404 {
		t.Errorf("the oldest: %d", status)
	}
	if s, out := e.deploy("next", deployBody(oneTemplate(), nil)); s != "Succeeded" {
		t.Errorf("the same again needs no room: %s %v", s, out)
	}
	next, err := records.Get(t.Context(), strings.ToLower(deployments+"/next"))
	if err != nil {
		t.Fatal(err)
	}
	next.Value.State, next.Value.Owner = "Running", "other"
	if err := records.Update(t.Context(), next); err != nil {
		t.Fatal(err)
	}
	status, out, _ := e.call("PUT", deployments+"/more", deployBody(oneTemplate(), nil))
	if code, _, _ := errorOf(out); status != 409 || code != "DeploymentQuotaExceeded" {
		t.Errorf("no room: %d %v", status, out)
	}
}

// One of two servers on one store ends in the middle of a deployment: the other brings it to its end, and nothing is doubled.
func TestTheOtherServerFinishes(t *testing.T) {
	e := newEnv(t)
	e.join(8)
	e.want(201, "PUT", group, `{"location":"local"}`)
	e.keys.hold(errors.New("the key keeper does not answer"))
	cfg := e.cfg
	cfg.StateDir = t.TempDir()
	other, err := compute.New(cfg, compute.Deps{Etcd: e.etcd, MintVM: e.issuer.MintVM, Now: time.Now, Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Keys: e.keys, Maker: e.keys, Judge: judgeFake})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- other.Run(ctx) }()
	front := httptest.NewTLSServer(other.ARM())
	defer front.Close()
	tok, err := e.issuer.MintClient(identitytest.AdminID, e.arm.URL)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequest("PUT", front.URL+deployments+"/d?api-version=2021-04-01", strings.NewReader(deployBody(vmTemplate, map[string]any{"image": imagePath})))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+tok)
	resp, err := front.Client().Do(req)
	if err != nil || resp.StatusCode != 201 {
		t.Fatal(resp, err)
	}
	resp.Body.Close()
	e.until(deployments+"/d/operations", `"resourceName":"web","resourceType":"Microsoft.Compute/virtualMachines"`)
	stop()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	e.keys.hold(nil)
	if s, out := e.waitDone(resp.Header); s != "Succeeded" { // polled at the server that is left
		t.Errorf("%s %v", s, out)
	}
	list := e.want(200, "GET", "/subscriptions/"+sub+"/resources", "")
	if n := len(list["value"].([]any)); n != 4 { // network, interface, disk, VM
		t.Errorf("%d resources: %v", n, list)
	}
}
