package vtpm

import (
	"bytes"
	"testing"
)

// TestNonceForNeverCuts: a challenge longer than a TPM takes is hashed, so that all of it counts.
func TestNonceForNeverCuts(t *testing.T) {
	long := bytes.Repeat([]byte{1}, 64)
	other := append(bytes.Repeat([]byte{1}, 63), 2)
	for name, challenge := range map[string][]byte{"TPM-19 64 bytes": long, "TPM-19 one byte": {1}, "TPM-19 a kilobyte": bytes.Repeat([]byte{1}, 1024)} {
		if got := NonceFor(challenge); len(got) != 32 {
			t.Errorf("%s: %d bytes", name, len(got))
		}
	}
	if bytes.Equal(NonceFor(long), NonceFor(other)) {
		t.Error("TPM-19 a challenge that differs in its last byte gives the same nonce")
	}
	if !bytes.Equal(NonceFor(long), NonceFor(bytes.Clone(long))) {
		t.Error("TPM-02 the same challenge gives two nonces")
	}
}
