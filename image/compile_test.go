package image

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// compile builds a static program as images want it.
func compile(t *testing.T, what string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "program")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", out, what)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building %s: %v\n%s", what, err, text)
	}
	return out
}
