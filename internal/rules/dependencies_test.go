package rules

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// direct lists the modules that a go.mod requires and does not mark as indirect.
func direct(gomod string) []string {
	var found []string
	inside := false
	for _, line := range strings.Split(gomod, "\n") {
		line = strings.TrimSpace(line)
		switch {
		case line == "require (":
			inside = true
			continue
		case line == ")":
			inside = false
		}
		one, alone := strings.CutPrefix(line, "require ")
		if !inside && !alone {
			continue
		}
		if fields := strings.Fields(one); len(fields) == 2 {
			found = append(found, fields[0])
		}
	}
	return found
}

// explained lists the modules that the table of dependencies gives a reason for.
func explained(architecture string) []string {
	_, section, _ := strings.Cut(architecture, "\n## Dependencies\n")
	var found []string
	for _, line := range strings.Split(section, "\n") {
		if cells := strings.Split(line, "|"); len(cells) == 4 && strings.TrimSpace(cells[2]) != "" {
			if name := strings.TrimSpace(cells[1]); strings.HasPrefix(name, "`") {
				found = append(found, strings.Trim(name, "`"))
			}
		}
	}
	return found
}

// TestEveryDependencyHasAReason keeps ARCHITECTURE.md's table equal to go.mod.
func TestEveryDependencyHasAReason(t *testing.T) {
	mod, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("../../ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	reasons := explained(string(text))
	for _, m := range direct(string(mod)) {
		if !slices.Contains(reasons, m) {
			t.Errorf("ARCHITECTURE.md gives no reason for %s", m)
		}
	}
	for _, m := range reasons {
		if !strings.Contains(string(mod), m+" v") {
			t.Errorf("ARCHITECTURE.md has %s, which go.mod does not require", m)
		}
	}
}

func TestDependenciesAreFound(t *testing.T) {
	got := direct("module m\n\nrequire (\n\ta.b/c v1.0.0\n\ta.b/d v1.0.0 // indirect\n)\n\nrequire a.b/e v2.0.0\n")
	if !slices.Equal(got, []string{"a.b/c", "a.b/e"}) {
		t.Errorf("got %v", got)
	}
	if got := explained("\n## Dependencies\n| `a.b/c` | why |\n| `a.b/d` | |\n"); !slices.Equal(got, []string{"a.b/c"}) {
		t.Errorf("got %v", got)
	}
}
