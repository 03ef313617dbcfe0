package attestation

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"time"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/sevsnp"
	"cloister.dev/cloister/evidence/soft"
)

// checkChain checks the hardware report's signature where the signed command line pins a software root. Without such a pin
// the guest judges nothing here: the chain comes from the host, and AMD's roots are the verifier's business.
func checkChain(hardware []byte, chainPEM, softRoot string, at time.Time) error {
	if softRoot == "" {
		return nil
	}
	r, err := sevsnp.Parse(hardware)
	if err != nil {
		return err
	}
	chain, err := sevsnp.ParseChain([]byte(chainPEM))
	if err != nil {
		return fmt.Errorf("reading the certificate chain: %w", err)
	}
	sum := sha256.Sum256(chain.Root.RawSubjectPublicKeyInfo)
	if got := hex.EncodeToString(sum[:]); got != softRoot {
		return evidence.Refuse(evidence.CodeChain, "software root", got, softRoot).By("cloister.softroot of the signed command line")
	}
	root, err := soft.ParseRoot(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: chain.Root.Raw}))
	if err != nil {
		return err
	}
	_, err = soft.Authenticate(r, chain, []soft.Root{root}, at)
	return err
}
