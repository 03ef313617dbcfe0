package boot

import (
	"strings"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/guest/devmapper"
)

// paramVerity is the one parameter that the initrd reads. The command line is a section of the UKI and so is in PCR 11; what
// a host adds lands in PCR 12, which must be zero.
const paramVerity = "cloister.verity"

// parameter finds the one value of a parameter. Twice is refused: two readers could pick different ones.
func parameter(cmdline, name string) (string, error) {
	var values []string
	for _, word := range strings.Fields(cmdline) {
		if k, v, ok := strings.Cut(word, "="); ok && k == name {
			values = append(values, v)
		}
	}
	switch len(values) {
	case 0:
		return "", evidence.Refuse(evidence.CodeBoot, "command line "+name, "missing", "one value")
	case 1:
		return values[0], nil
	}
	return "", evidence.Refuse(evidence.CodeBoot, "command line "+name, "twice", "one value")
}

func verityOf(cmdline string) (devmapper.Verity, error) {
	text, err := parameter(cmdline, paramVerity)
	if err != nil {
		return devmapper.Verity{}, err
	}
	return devmapper.ParseVerity(strings.ReplaceAll(text, "_", " "))
}
