package collateral

import (
	"context"
	"encoding/pem"
	"strings"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/dcap"
)

// parsedKey names what four endorsements make together.
type parsedKey struct {
	tee   dcap.TEE
	fmspc [6]byte
	ca    string
}

// parsedValue is collateral that was parsed once, and from what.
type parsedValue struct {
	from [4]*entry
	c    *dcap.Collateral
}

// maxParsed bounds parsed collateral in memory; there are some dozens of families of platforms.
const maxParsed = 1024

// TEEName is "tdx" or "sgx", as Intel's addresses have it.
func TEEName(tee dcap.TEE) string { return strings.ToLower(tee.String()) }

// DCAP gives the collateral of a platform, parsed. The PCK certificate must have been verified: what it says goes into
// the request.
func (c *Cache) DCAP(ctx context.Context, pck *dcap.PCK, tee dcap.TEE) (*dcap.Collateral, error) {
	if pck == nil {
		return nil, evidence.Refuse(evidence.CodeParse, "PCK certificate", "none", "a verified one")
	}
	ids, err := ForPlatform(TEEName(tee), pck.FMSPC, pck.CA)
	if err != nil {
		return nil, err
	}
	var parts [4]*entry
	for i, id := range ids {
		if parts[i], err = c.get(ctx, id); err != nil {
			return nil, err
		}
	}
	key := parsedKey{tee, pck.FMSPC, pck.CA}
	c.mu.Lock()
	known := c.parsed[key]
	c.mu.Unlock()
	if known.from == parts && known.c != nil {
		return known.c, nil
	}
	f := dcap.Files{
		TCBInfo: parts[0].raw, TCBInfoIssuerChain: parts[0].chain(),
		QEIdentity: parts[1].raw, QEIdentityIssuerChain: parts[1].chain(),
		PCKCRL: parts[2].raw, PCKCRLIssuerChain: parts[2].chain(),
		RootCRL: parts[3].raw,
	}
	out, err := dcap.ParseCollateral(f)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.parsed) >= maxParsed {
		clear(c.parsed)
	}
	c.parsed[key] = parsedValue{parts, out}
	return out, nil
}

// chain is the signer and the root in PEM, in this order whatever order they came in.
func (e *entry) chain() (out []byte) {
	for _, cert := range e.certs {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})...)
	}
	return out
}
