package rules

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// sources walks over the repository's own Go files.
func sources(t *testing.T, visit func(path string, file *ast.File, set *token.FileSet)) {
	t.Helper()
	root := "../.."
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == ".git" || d.Name() == "bin" || d.Name() == "tools") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, ".go") {
			return nil
		}
		set := token.NewFileSet()
		f, err := parser.ParseFile(set, path, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		visit(rel, f, set)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// calls lists the functions of imported packages that a file calls, as "time.Now".
func calls(f *ast.File) map[string][]token.Pos {
	found := map[string][]token.Pos{}
	ast.Inspect(f, func(n ast.Node) bool {
		if sel, ok := n.(*ast.SelectorExpr); ok {
			if x, ok := sel.X.(*ast.Ident); ok && x.Obj == nil {
				name := x.Name + "." + sel.Sel.Name
				found[name] = append(found[name], sel.Pos())
			}
		}
		return true
	})
	return found
}

// TestEvidenceHasNoClockAndNoIO keeps the library that judges free of everything but its arguments.
func TestEvidenceHasNoClockAndNoIO(t *testing.T) {
	sources(t, func(path string, f *ast.File, set *token.FileSet) {
		if !strings.HasPrefix(path, "evidence/") || strings.HasSuffix(path, "_test.go") || strings.Contains(path, "test/") {
			return
		}
		for _, imp := range f.Imports {
			switch p := strings.Trim(imp.Path.Value, `"`); p {
			case "net", "net/http", "os", "os/exec", "io/ioutil", "log", "log/slog", "syscall":
				t.Errorf("%s imports %s", path, p)
			}
		}
		for _, pos := range calls(f)["time.Now"] {
			t.Errorf("%s reads the clock", set.Position(pos))
		}
	})
}

// TestNoSleepsInTests: a test that waits for time is flaky or slow. Tests wait for conditions.
func TestNoSleepsInTests(t *testing.T) {
	sources(t, func(path string, f *ast.File, set *token.FileSet) {
		if strings.HasSuffix(path, "_test.go") {
			for _, pos := range calls(f)["time.Sleep"] {
				t.Errorf("%s sleeps", set.Position(pos))
			}
		}
	})
}

// TestNoCatchAllPackages keeps folder names that say nothing out.
func TestNoCatchAllPackages(t *testing.T) {
	sources(t, func(path string, f *ast.File, _ *token.FileSet) {
		for _, part := range strings.Split(filepath.ToSlash(filepath.Dir(path)), "/") {
			switch part {
			case "util", "utils", "common", "helpers", "misc", "lib":
				t.Errorf("%s lies in a folder whose name says nothing", path)
			}
		}
	})
}

func TestLicenceIsThere(t *testing.T) {
	raw, err := os.ReadFile("../../LICENSE")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(raw), "Apache License") || !strings.Contains(string(raw), "Version 2.0") {
		t.Error("LICENSE is not the Apache License 2.0")
	}
}
