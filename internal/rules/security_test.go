package rules

import (
	"go/ast"
	"go/build/constraint"
	"go/token"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// production calls visit for files that are part of programs.
func production(t *testing.T, visit func(path string, f *ast.File, set *token.FileSet)) {
	t.Helper()
	sources(t, func(path string, f *ast.File, set *token.FileSet) {
		if !strings.HasSuffix(path, "_test.go") && !strings.Contains(path, "test/") && !strings.HasPrefix(path, "integration/") {
			visit(path, f, set)
		}
	})
}

// TestNothingFollowsURLsOfCertificates: a stranger's certificate must never make a service fetch anything.
func TestNothingFollowsURLsOfCertificates(t *testing.T) {
	t.Log("SVC-09 SSRF through AIA or CRL pointers")
	production(t, func(path string, f *ast.File, set *token.FileSet) {
		ast.Inspect(f, func(n ast.Node) bool {
			if sel, ok := n.(*ast.SelectorExpr); ok && slices.Contains([]string{"IssuingCertificateURL", "CRLDistributionPoints", "OCSPServer"}, sel.Sel.Name) {
				t.Errorf("SVC-09 %s reads %s", set.Position(n.Pos()), sel.Sel.Name)
			}
			return true
		})
	})
}

// urlTag finds a member of a request that would be a URL.
var urlTag = regexp.MustCompile(`json:"[^"]*(?i:url|uri|endpoint)[^"]*"`)

// TestRequestsCarryNoURLs: the verifier's requests have no field that could name a place to fetch from.
func TestRequestsCarryNoURLs(t *testing.T) {
	production(t, func(path string, f *ast.File, set *token.FileSet) {
		if !strings.HasPrefix(path, "attest/request/") && !strings.HasPrefix(path, "attest/api/") {
			return
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if field, ok := n.(*ast.Field); ok && field.Tag != nil && urlTag.MatchString(field.Tag.Value) {
				t.Errorf("SVC-10 SSRF through a request field: %s", set.Position(n.Pos()))
			}
			return true
		})
	})
	if !urlTag.MatchString(`json:"pccs_url"`) {
		t.Error("SVC-10: the rule would not catch pccs_url")
	}
}

// TestSVC33NoCookies: a cookie would stand for a token that is bound to nothing.
func TestSVC33NoCookies(t *testing.T) {
	production(t, func(path string, f *ast.File, set *token.FileSet) {
		for _, name := range []string{"http.SetCookie", "http.Cookie"} {
			for _, pos := range calls(f)[name] {
				t.Errorf("SVC-33 session cookie stands for the token: %s", set.Position(pos))
			}
		}
	})
}

// tags are the build constraints that may be. None of them takes a check away: failpoints kill, boot and invm add tests.
var tags = []string{"failpoints", "boot", "invm", "linux"}

// TestSVC25BuildTagsTakeNoCheckAway: no build of this module lacks a verifier.
func TestSVC25BuildTagsTakeNoCheckAway(t *testing.T) {
	sources(t, func(path string, f *ast.File, set *token.FileSet) {
		for _, group := range f.Comments {
			for _, c := range group.List {
				if !constraint.IsGoBuild(c.Text) || c.Pos() > f.Package {
					continue
				}
				expr, err := constraint.Parse(c.Text)
				if err != nil {
					t.Errorf("%s: %v", path, err)
					continue
				}
				expr.Eval(func(tag string) bool {
					if !slices.Contains(tags, tag) {
						t.Errorf("SVC-25 a build without the checker: %s has the build tag %q", path, tag)
					}
					return true
				})
			}
		}
	})
}

// secretName says that a value is one that guesses must not be compared with step by step.
var secretName = regexp.MustCompile(`(?i:(^|_)(nonce|secret|passphrase))$|[a-z](Nonce|MAC|Secret|Passphrase)$|^(mac|MAC)$`)

// allowed comparisons of such values, each with its reason.
var allowedComparisons = map[string]string{}

// TestSVC21SecretsAreComparedInConstantTime looks for bytes.Equal and == on values whose names say that they are nonces,
// MACs or secrets, where services compare what came with what they hold.
func TestSVC21SecretsAreComparedInConstantTime(t *testing.T) {
	production(t, func(path string, f *ast.File, set *token.FileSet) {
		if !below(path, "attest") && !below(path, "keys") && !below(path, "paravisor") && !below(path, "evidence") && !below(path, "identity") {
			return
		}
		report := func(pos token.Pos, what string) {
			if allowedComparisons[path] == "" {
				t.Errorf("SVC-21 timing: %s compares %s step by step", set.Position(pos), what)
			}
		}
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.CallExpr:
				if sel, ok := n.Fun.(*ast.SelectorExpr); ok && (sel.Sel.Name == "Equal" || sel.Sel.Name == "Compare") {
					if x, ok := sel.X.(*ast.Ident); ok && (x.Name == "bytes" || x.Name == "strings") {
						for _, arg := range n.Args {
							if name := lastName(arg); secretName.MatchString(name) {
								report(n.Pos(), name)
							}
						}
					}
				}
			case *ast.BinaryExpr:
				if n.Op != token.EQL && n.Op != token.NEQ {
					return true
				}
				for _, side := range []ast.Expr{n.X, n.Y} {
					if name := lastName(side); secretName.MatchString(name) && !isEmpty(n.X) && !isEmpty(n.Y) {
						report(n.Pos(), name)
					}
				}
			}
			return true
		})
	})
}

func lastName(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		return e.Sel.Name
	}
	return ""
}

// isEmpty tells the comparison with nothing, which reveals only whether a value is there.
func isEmpty(e ast.Expr) bool {
	switch e := e.(type) {
	case *ast.BasicLit:
		return e.Value == `""` || e.Value == "0"
	case *ast.Ident:
		return e.Name == "nil"
	}
	return false
}

func TestChangelogHasASecurityHeading(t *testing.T) {
	raw, err := os.ReadFile("../../CHANGELOG.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(raw), "### Security") {
		t.Error("CHANGELOG.md has no Security heading")
	}
}
