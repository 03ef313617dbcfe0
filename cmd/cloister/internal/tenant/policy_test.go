package tenant

import (
	"strings"
	"testing"
)

func TestAddRule(t *testing.T) {
	pcrs := map[int][32]byte{4: {4}, 7: {7}, 11: {11}, 12: {}, 13: {}}
	rule := ImageRule("sha256:aa", pcrs)
	for _, want := range []string{"// cloister image sha256:aa\n", `[type=="secureboot", value==true]`, `[type=="x-cloister-pcr4", value=="04000000`, `[type=="x-cloister-pcr12", value=="0000`, "=> permit();\n"} {
		if !strings.Contains(rule, want) {
			t.Errorf("no %q in\n%s", want, rule)
		}
	}
	once, err := AddRule(emptyText, "sha256:aa", rule)
	if err != nil || !strings.Contains(once, rule) {
		t.Fatalf("%s\n%v", once, err)
	}
	twice, err := AddRule(once, "sha256:aa", rule)
	if err != nil || twice != once {
		t.Errorf("adding twice changed the policy:\n%s\n%v", twice, err)
	}
	other := ImageRule("sha256:bb", map[int][32]byte{4: {5}})
	both, err := AddRule(once, "sha256:bb", other)
	if err != nil || !strings.Contains(both, rule) || !strings.Contains(both, other) {
		t.Errorf("the first rule is gone:\n%s\n%v", both, err)
	}
	changed := ImageRule("sha256:aa", map[int][32]byte{4: {6}})
	replaced, err := AddRule(both, "sha256:aa", changed)
	if err != nil || strings.Contains(replaced, rule) || !strings.Contains(replaced, changed) || !strings.Contains(replaced, other) {
		t.Errorf("the same image's old rule is still there:\n%s\n%v", replaced, err)
	}
	mine := "version=1.0;\nauthorizationrules {\n  [type==\"x\", value==\"y\"] => deny();\n};\n"
	kept, err := AddRule(mine, "sha256:aa", rule)
	if err != nil || !strings.Contains(kept, "deny();") {
		t.Errorf("the tenant's own rule is gone:\n%s\n%v", kept, err)
	}
	for name, policy := range map[string]string{"no section": "version=1.0;", "a section that does not open": "version=1.0;\nauthorizationrules"} {
		if _, err := AddRule(policy, "sha256:aa", rule); err == nil || !strings.Contains(err.Error(), "by hand") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
