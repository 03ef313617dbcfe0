//go:build boot

package integration

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// networkTemplate makes a network whose address space is a secure parameter: nobody would write that, but the value shows
// in what becomes of it.
const networkTemplate = `{ // a comment
"$schema":"https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#","contentVersion":"1.0.0.0",
"parameters":{"name":{"type":"string"},"space":{"type":"secureString"}},
"resources":[{"type":"Microsoft.Network/virtualNetworks","apiVersion":"2024-05-01","name":"[parameters('name')]","location":"[resourceGroup().location]","properties":{"addressSpace":{"addressPrefixes":["[trim(parameters('space'))]"]}}}],
"outputs":{"id":{"type":"string","value":"[resourceId('Microsoft.Network/virtualNetworks',parameters('name'))]"},"space":{"type":"securestring","value":"[parameters('space')]"}}}`

const templateCanary = "canary-of-a-template-5d1f0c"

// testTemplates deploys by the command line, against the running platform.
func testTemplates(s *system) {
	dir := s.t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			s.t.Fatal(err)
		}
		return path
	}
	template, good, bad := file("net.json", networkTemplate), file("good", "10.40.0.0/16\n"), file("bad", templateCanary)
	with := func(command, space string, more ...string) []string {
		return append([]string{"deployment", command, "-g", "templates", "--template-file", template, "--parameters", "space=@" + space}, more...)
	}
	s.refused(1, "ResourceGroupNotFound", with("validate", good, "--parameters", "name=net")...)
	s.refused(3, "The value for the template parameter 'name' is not provided", with("create", good)...)
	s.refused(3, "want 1 to 64 characters", with("create", good, "--parameters", "name=net", "--name", strings.Repeat("x", 65))...)
	s.refused(1, "Address prefix '******' is invalid", with("create", bad, "--parameters", "name=net")...)
	if out := s.run(with("create", good, "--parameters", "name=net")...); !strings.Contains(out, "net: Succeeded") || !strings.Contains(out, "space = (secure)") || strings.Contains(out, "10.40.0.0") {
		s.t.Errorf("created:\n%s", out)
	}
	if out := s.run(with("validate", good, "--parameters", "name=net")...); !strings.Contains(out, "/providers/Microsoft.Network/virtualNetworks/net") {
		s.t.Errorf("validated:\n%s", out)
	}
	var list []struct {
		Name       string
		Properties struct{ ProvisioningState string }
	}
	s.json(&list, "deployment", "list", "-g", "templates")
	if len(list) != 1 || list[0].Name != "net" || list[0].Properties.ProvisioningState != "Succeeded" {
		s.t.Errorf("list: %+v", list)
	}
	for _, sub := range []string{"compute", "log"} { // etcd's files are among them
		err := filepath.WalkDir(filepath.Join(s.state, sub), func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			if _, found := search(s.t, path, []byte(templateCanary)); found {
				s.t.Errorf("%s holds the value of a secure parameter", path)
			}
			return nil
		})
		if err != nil {
			s.t.Fatal(err)
		}
	}
	s.run("deployment", "delete", "net", "-g", "templates")
	s.refused(1, "DeploymentNotFound", "deployment", "show", "net", "-g", "templates")
}
