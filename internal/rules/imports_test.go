package rules

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"
)

const module = "cloister.dev/cloister/"

type pkg struct {
	ImportPath string
	Name       string
	Imports    []string
	Deps       []string
	Doc        string
}

// list asks the go command, so that build tags and generated files are seen as the build sees them.
func list(t *testing.T, patterns ...string) []pkg {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-json=ImportPath,Name,Imports,Deps,Doc"}, patterns...)...)
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("go list: %s", exit.Stderr)
		}
		t.Fatal(err)
	}
	var pkgs []pkg
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return pkgs
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
}

// rule says which of our own packages a folder may import. A name stands for itself and everything below it.
type rule struct {
	folder string
	may    []string
}

// The map of ARCHITECTURE.md. A folder that is not listed here may not exist.
var rules = []rule{
	{"evidence", []string{"evidence"}},
	{"identity", []string{"identity", "evidence", "internal"}},
	{"store", []string{"store", "internal"}},
	{"attest/client", []string{"attest/client", "evidence", "internal"}},
	{"attest", []string{"attest", "evidence", "identity", "store", "internal"}},
	{"keys/client", []string{"keys/client", "evidence", "internal"}},
	{"keys", []string{"keys", "evidence", "identity", "store", "internal"}},
	{"softchip/client", []string{"softchip/client", "evidence", "internal"}},
	{"softchip", []string{"softchip", "evidence", "internal"}},
	{"paravisor/client", []string{"paravisor/client", "evidence", "internal"}},
	{"paravisor", []string{"paravisor", "evidence", "attest/client", "keys/client", "softchip/client", "internal"}},
	{"guest", []string{"guest", "evidence", "attest/client", "keys/client", "internal"}},
	{"image", []string{"image", "evidence", "internal"}},
	{"host/api", []string{"host/api", "evidence"}},
	{"host", []string{"host", "evidence", "image", "softchip/client", "paravisor/client", "internal"}},
	{"compute/vault", []string{"compute", "host/api", "evidence", "identity", "store", "keys/client", "internal"}},
	{"compute", []string{"compute", "host/api", "evidence", "identity", "store", "internal"}},
	{"internal", []string{"internal", "evidence"}},
	{"cmd", []string{"cmd", "evidence", "attest", "keys", "compute", "host", "softchip", "paravisor", "guest", "image", "identity", "store", "internal"}},
	{"integration", []string{"integration", "cmd", "evidence", "attest", "keys", "compute", "host", "softchip", "paravisor", "guest", "image", "identity", "store", "internal"}},
}

func below(path, folder string) bool { return path == folder || strings.HasPrefix(path, folder+"/") }

func ruleFor(path string) (rule, bool) {
	for _, r := range rules {
		if below(path, r.folder) {
			return r, true
		}
	}
	return rule{}, false
}

// violations lists what a package imports against the map.
func violations(p pkg) []string {
	path := strings.TrimPrefix(p.ImportPath, module)
	r, known := ruleFor(path)
	if !known {
		return []string{path + " lies in no folder of the map"}
	}
	var found []string
imports:
	for _, i := range p.Imports {
		ours, isOurs := strings.CutPrefix(i, module)
		if !isOurs {
			continue
		}
		for _, may := range r.may {
			if below(ours, may) {
				continue imports
			}
		}
		found = append(found, path+" may not import "+ours)
	}
	return found
}

func TestImportsFollowTheMap(t *testing.T) {
	for _, p := range list(t, "./...") {
		for _, v := range violations(p) {
			t.Error(v)
		}
	}
}

func TestTheMapCatches(t *testing.T) {
	for path, imp := range map[string]string{
		"evidence/sevsnp": "internal/failpoint", "attest/policy": "compute/vm", "keys/api": "image", "guest/boot": "paravisor/vmgs",
		"compute/vm": "host/qemu", "host": "compute/vm", "keys/client": "identity", "elsewhere": "evidence", "compute": "keys/client",
	} {
		if len(violations(pkg{ImportPath: module + path, Imports: []string{module + imp}})) == 0 {
			t.Errorf("%s imports %s, and nothing was said", path, imp)
		}
	}
	if v := violations(pkg{ImportPath: module + "keys/api", Imports: []string{module + "evidence/token", "net/http"}}); len(v) != 0 {
		t.Errorf("a good import was called %v", v)
	}
}

// What a trust domain's program must not contain, however it gets in.
var forbidden = map[string][]string{
	"cmd/cloister-attest":    {"compute", "host", "image", "paravisor", "guest", "softchip", "keys"},
	"cmd/cloister-keys":      {"compute", "host", "image", "paravisor", "guest", "softchip", "attest"},
	"cmd/cloister-paravisor": {"compute", "host", "image", "guest", "softchip/root"},
	"cmd/cloister-softchip":  {"compute", "host", "image", "paravisor", "guest", "attest", "keys"},
	"cmd/cloister-guest":     {"compute", "host", "image", "paravisor", "softchip", "identity"},
}

func TestProgramsContainOnlyTheirDomain(t *testing.T) {
	for program, never := range forbidden {
		for _, p := range list(t, "./"+program) {
			for _, d := range p.Deps {
				ours, isOurs := strings.CutPrefix(d, module)
				for _, n := range never {
					if isOurs && below(ours, n) {
						t.Errorf("%s contains %s", program, ours)
					}
				}
				if strings.Contains(d, "azure-sdk-for-go/sdk/resourcemanager") {
					t.Errorf("%s contains ARM code: %s", program, d)
				}
			}
		}
	}
}

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	for _, p := range list(t, "./...") {
		if p.Doc == "" {
			t.Errorf("%s has no package comment", p.ImportPath)
		}
	}
}
