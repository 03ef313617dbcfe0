package rules

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
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

var (
	// named means: the name begins with the ID, or with several ("HD-01, HD-12 …").
	nameForm = regexp.MustCompile(`^(?:SNP|TDX|TPM|HD|SVC|CP)-[0-9]{2}(?:(?:, | and |/| )(?:SNP|TDX|TPM|HD|SVC|CP)-[0-9]{2})*(?:[ :,]|$)`)
	funcForm = regexp.MustCompile(`(?:SNP|TDX|TPM|HD|SVC|CP)[0-9]{2}`)
	// says are methods whose text is a message: it comes when a test fails, and names none.
	says = regexp.MustCompile(`^(?:Error|Errorf|Fatal|Fatalf|Log|Logf|Skip|Skipf|Print|Printf|Println|Sprintf|New)$`)
)

// attacks are the IDs that texts carry, each with a place.
type attacks struct {
	named     map[string]string // by names of tests and of their rows
	mentioned map[string]string // anywhere
}

func (a attacks) text(text, where string, isName bool) {
	for _, id := range idForm.FindAllString(text, -1) {
		a.mentioned[id] = where
	}
	if isName {
		for _, id := range idForm.FindAllString(nameForm.FindString(text), -1) {
			a.named[id] = where
		}
	}
}

// file takes a test's IDs: from strings that may be names of rows, and from names of test functions.
func (a attacks) file(f *ast.File, set *token.FileSet) {
	messages := map[ast.Expr]bool{}
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.CallExpr:
			if method, ok := n.Fun.(*ast.SelectorExpr); ok && says.MatchString(method.Sel.Name) {
				for _, arg := range n.Args {
					messages[arg] = true
				}
			}
		case *ast.BinaryExpr:
			messages[n.X] = messages[n]
			messages[n.Y] = true // its beginning is no name's beginning
		case *ast.BasicLit:
			if text, err := strconv.Unquote(n.Value); err == nil && n.Kind == token.STRING {
				a.text(text, set.Position(n.Pos()).String(), !messages[n])
			}
		case *ast.FuncDecl:
			if name, ok := strings.CutPrefix(n.Name.Name, "Test"); ok {
				for _, id := range funcForm.FindAllString(name, -1) {
					a.text(id[:len(id)-2]+"-"+id[len(id)-2:], set.Position(n.Pos()).String(), true)
				}
			}
		}
		return true
	})
}

// script takes a test script's IDs: a comment at a line's beginning names what comes after it. Files in the archive are data.
func (a attacks) script(path string, raw []byte) {
	for n, line := range strings.Split(string(txtar.Parse(raw).Comment), "\n") {
		comment, isName := strings.CutPrefix(line, "# ")
		if !isName {
			comment = line
		}
		a.text(comment, fmt.Sprintf("%s:%d", path, n+1), isName)
	}
}

// attacksOf collects the IDs of all tests.
func attacksOf(t *testing.T) attacks {
	t.Helper()
	a := attacks{map[string]string{}, map[string]string{}}
	sources(t, func(path string, f *ast.File, set *token.FileSet) {
		if strings.HasSuffix(path, "_test.go") && !strings.HasPrefix(path, "internal/rules/negative") {
			a.file(f, set)
		}
	})
	scripts, err := filepath.Glob("../../cmd/*/testdata/*.txtar")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, path := range scripts {
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		a.script(path, raw)
	}
	return a
}

// gaps lists what does not fit together.
func gaps(in map[string]bool, out map[string]string, a attacks) []string {
	var found []string
	for id := range in {
		if a.named[id] == "" {
			found = append(found, id+" is in scope and no test is named by it")
		}
	}
	for id, where := range a.mentioned {
		if _, excused := out[id]; !in[id] && !excused {
			found = append(found, where+": "+id+" is no known attack; is it written wrongly?")
		}
	}
	return found
}

func TestEveryKnownAttackHasATest(t *testing.T) {
	in, out := scope(t)
	for _, g := range gaps(in, out, attacksOf(t)) {
		t.Error(g)
	}
}

func TestGapsAreFound(t *testing.T) {
	in, out := map[string]bool{"SNP-01": true}, map[string]string{"TDX-01": "no TDX"}
	for name, r := range map[string]struct {
		source string // the body of a test
		script string
		gaps   int
	}{
		"a row":                    {source: `t.Run("SNP-01 a flipped bit", nil)`},
		"a row with two attacks":   {source: `t.Run("TDX-01, SNP-01 a flipped bit", nil)`},
		"the key of a table":       {source: `_ = map[string]int{"SNP-01 a flipped bit": 1}`},
		"a name in two parts":      {source: `t.Run("SNP-01 " + point, nil)`},
		"a script":                 {script: "# SNP-01 a flipped bit\nstatus 3 x\n"},
		"a function":               {source: `}; func TestSNP01Bits(t *testing.T) {`},
		"nothing":                  {gaps: 1},
		"an ID inside a name":      {source: `t.Run("as in SNP-01", nil)`, gaps: 1},
		"an ID in a message":       {source: `t.Errorf("SNP-01 was accepted")`, gaps: 1},
		"an ID in a second part":   {source: `t.Run(point + "SNP-01 x", nil)`, gaps: 1},
		"a longer number":          {source: `t.Run("SNP-011 a flipped bit", nil)`, gaps: 1},
		"an ID in a script's file": {script: "status 0 x\n-- a --\n# SNP-01 a flipped bit\n", gaps: 1},
		"an ID in a command":       {script: "status 0 cloister SNP-01\n", gaps: 1},
		"an unknown ID":            {source: `t.Run("SNP-01 x", nil); t.Log("as SNP-99")`, gaps: 1},
		"an excused ID":            {source: `t.Run("SNP-01 x", nil); t.Run("TDX-01 x", nil)`},
	} {
		t.Run(name, func(t *testing.T) {
			set := token.NewFileSet()
			f, err := parser.ParseFile(set, "a_test.go", "package a\nfunc TestA(t *testing.T) {"+r.source+"}", 0)
			if err != nil {
				t.Fatal(err)
			}
			a := attacks{map[string]string{}, map[string]string{}}
			a.file(f, set)
			a.script("a.txtar", []byte(r.script))
			if g := gaps(in, out, a); len(g) != r.gaps {
				t.Errorf("%v, want %d gaps", g, r.gaps)
			}
		})
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
