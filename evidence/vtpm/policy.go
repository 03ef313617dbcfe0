package vtpm

import (
	"crypto/sha256"
	"fmt"
	"slices"

	"cloister.dev/cloister/evidence"
)

// PolicyPCRDigest is the SHA-256 session digest after PolicyPCR over the SHA-256 bank. Each PCR selected
// must have a value: a missing one is refused, never taken as zero.
func PolicyPCRDigest(prev [32]byte, sel []int, values PCRs) ([32]byte, error) {
	sel = slices.Clone(sel)
	slices.Sort(sel)
	var mask [3]byte
	for i, p := range sel {
		_, ok := values[p]
		if p < 0 || p > 23 || !ok || i > 0 && sel[i-1] == p {
			return [32]byte{}, evidence.Refuse(evidence.CodePolicy, "pcrs", fmt.Sprint(sel), "PCRs 0 to 23, once, each with a value")
		}
		mask[p/8] |= 1 << (p % 8)
	}
	if len(sel) == 0 {
		return [32]byte{}, evidence.Refuse(evidence.CodePolicy, "pcrs", "none", "at least one")
	}
	d := valuesDigest(sel, values)
	b := append(prev[:], 0, 0, 1, 0x7f, 0, 0, 0, 1, 0, 0x0b, 3)
	return sha256.Sum256(append(append(b, mask[:]...), d[:]...)), nil
}

// PolicyAuthorizeDigest is the digest after PolicyAuthorize: it replaces what was there.
func PolicyAuthorizeDigest(keyName, policyRef []byte) [32]byte {
	b := append(make([]byte, 32), 0, 0, 1, 0x6a)
	h := sha256.Sum256(append(b, keyName...))
	return sha256.Sum256(append(h[:], policyRef...))
}
