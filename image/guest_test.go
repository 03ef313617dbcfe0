package image

import (
	"os"
	"testing"

	"cloister.dev/cloister/evidence"
)

func TestStatic(t *testing.T) {
	shell, err := os.ReadFile("/bin/sh") // dynamically linked on Debian
	if err != nil {
		t.Fatal(err)
	}
	if err := static(shell); evidence.CodeOf(err) != evidence.CodeParse {
		t.Errorf("a dynamically linked program: %v", err)
	}
	if err := static([]byte("#!/bin/sh")); evidence.CodeOf(err) != evidence.CodeParse {
		t.Errorf("a script: %v", err)
	}
	// An ELF header alone: 64-bit, little-endian, no program headers, and so no interpreter.
	header := make([]byte, 64)
	copy(header, "\x7fELF\x02\x01\x01")
	header[16], header[18], header[20], header[52], header[54] = 2, 62, 1, 64, 56
	if err := static(header); err != nil {
		t.Errorf("a static program: %v", err)
	}
}
