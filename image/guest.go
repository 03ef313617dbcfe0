package image

import (
	"bytes"
	"debug/elf"

	"cloister.dev/cloister/evidence"
)

// static refuses a guest program that wants a dynamic loader: the initial RAM disk has none, and the kernel would say
// no more than that it can't run /init.
func static(program []byte) error {
	f, err := elf.NewFile(bytes.NewReader(program))
	if err != nil {
		return evidence.Refuse(evidence.CodeParse, "guest program", err.Error(), "an ELF program")
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return evidence.Refuse(evidence.CodeParse, "guest program", "dynamically linked", "a static program, built with CGO_ENABLED=0")
		}
	}
	return nil
}
