package rules

import (
	"go/ast"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

var (
	idForm   = regexp.MustCompile(`\b(?:SNP|TDX|TPM|HD|SVC|CP)-[0-9]{2}\b`)
	tableRow = regexp.MustCompile(`(?m)^\| ((?:SNP|TDX|TPM|HD|SVC|CP)-[0-9]{2}) \|`)
)

// scope reads which known attacks are in scope, and why others are not.
func scope(t *testing.T) (in map[string]bool, out map[string]string) {
	t.Helper()
	raw, err := os.ReadFile("negative.txt")
	if err != nil {
		t.Fatal(err)
	}
	in, out = map[string]bool{}, map[string]string{}
	for n, line := range strings.Split(string(raw), "\n") {
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		word, rest, _ := strings.Cut(line, " ")
		id, reason, _ := strings.Cut(rest, " ")
		_, twice := out[id]
		switch {
		case in[id] || twice:
			t.Errorf("negative.txt:%d: %s twice", n+1, id)
		case word == "in" && idForm.MatchString(id) && reason == "":
			in[id] = true
		case word == "out" && idForm.MatchString(id) && reason != "":
			out[id] = reason
		default:
			t.Errorf("negative.txt:%d: %q, want \"in ID\" or \"out ID reason\"", n+1, line)
		}
	}
	return in, out
}

// named collects the IDs that tests carry: in strings (names of rows), and in names of test functions.
func named(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{}
	sources(t, func(path string, f *ast.File, set *token.FileSet) {
		if !strings.HasSuffix(path, "_test.go") || strings.HasPrefix(path, "internal/rules/negative") {
			return
		}
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.BasicLit:
				if n.Kind != token.STRING {
					return true
				}
				if text, err := strconv.Unquote(n.Value); err == nil {
					for _, id := range idForm.FindAllString(text, -1) {
						found[id] = set.Position(n.Pos()).String()
					}
				}
			case *ast.FuncDecl:
				if name, ok := strings.CutPrefix(n.Name.Name, "Test"); ok {
					for _, id := range regexp.MustCompile(`(?:SNP|TDX|TPM|HD|SVC|CP)[0-9]{2}`).FindAllString(name, -1) {
						found[id[:len(id)-2]+"-"+id[len(id)-2:]] = set.Position(n.Pos()).String()
					}
				}
			}
			return true
		})
	})
	return found
}

// gaps lists what does not fit together.
func gaps(in map[string]bool, out map[string]string, tests map[string]string) []string {
	var found []string
	for id := range in {
		if tests[id] == "" {
			found = append(found, id+" is in scope and no test is named by it")
		}
	}
	for id, where := range tests {
		if _, excused := out[id]; !in[id] && !excused {
			found = append(found, where+": "+id+" is no known attack; is it written wrongly?")
		}
	}
	return found
}

func TestEveryKnownAttackHasATest(t *testing.T) {
	in, out := scope(t)
	for _, g := range gaps(in, out, named(t)) {
		t.Error(g)
	}
}

func TestGapsAreFound(t *testing.T) {
	in, out := map[string]bool{"SNP-01": true}, map[string]string{"TDX-01": "no TDX"}
	if g := gaps(in, out, map[string]string{"SNP-01": "a_test.go:1"}); len(g) != 0 {
		t.Errorf("a full list has gaps: %v", g)
	}
	if g := gaps(in, out, nil); len(g) != 1 {
		t.Errorf("a missing test was not found: %v", g)
	}
	if g := gaps(in, out, map[string]string{"SNP-01": "a", "SNP-99": "b"}); len(g) != 1 {
		t.Errorf("an unknown ID was not found: %v", g)
	}
}

// TestTheListIsTheTable compares with the shared table, where it is at hand.
func TestTheListIsTheTable(t *testing.T) {
	vectors := os.Getenv("CLOISTER_VECTORS")
	if vectors == "" {
		vectors = "../../../shared/vectors"
	}
	path := filepath.Join(vectors, "..", "facts", "negative-tests.md")
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Skipf("SKIPPED: the shared table is not here (%v)", err)
	}
	in, out := scope(t)
	table := map[string]bool{}
	for _, m := range tableRow.FindAllStringSubmatch(string(raw), -1) {
		table[m[1]] = true
		if _, excused := out[m[1]]; !in[m[1]] && !excused {
			t.Errorf("%s of the table is not in negative.txt", m[1])
		}
	}
	for id := range in {
		if !table[id] {
			t.Errorf("%s is not in the table", id)
		}
	}
}
