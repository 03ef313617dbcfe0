package dcap

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"cloister.dev/cloister/evidence"
)

// Certification data types of a signature section.
const (
	certChain    = 5 // PEM: PCK certificate, its CA, root
	certQEReport = 6 // the quoting enclave's report with its signature, and certification data in turn
)

// Sizes in bytes.
const (
	signatureSize = 64 // r, s of P-256
	keySize       = 64 // x, y of P-256
	maxPEM        = 64 << 10
)

// SignatureData is the signature section of a quote with an ECDSA P-256 key. Nothing in it is trusted yet.
type SignatureData struct {
	Signature      [64]byte  // r, s: by the attestation key, over header and body
	AttestationKey [64]byte  // x, y
	QEReport       [384]byte // of the quoting enclave, which made the attestation key
	QESignature    [64]byte  // r, s: by the PCK, over QEReport
	AuthData       []byte    // the quoting enclave's own data, at most 65535 bytes
	PCKChainPEM    []byte    // PCK certificate, its CA, root; sometimes with a NUL at its end
}

// section reads a byte string from its front. After the first missing byte it gives nothing but zeros.
type section struct {
	rest []byte
	bad  string // what was missing
}

func (r *section) take(n int, what string) []byte {
	if r.bad == "" && n > len(r.rest) {
		r.bad = fmt.Sprintf("%s needs %d bytes, %d are left", what, n, len(r.rest))
	}
	if r.bad != "" {
		return nil
	}
	out := r.rest[:n:n]
	r.rest = r.rest[n:]
	return out
}

func (r *section) u16(what string) uint16 {
	if b := r.take(2, what); b != nil {
		return binary.LittleEndian.Uint16(b)
	}
	return 0
}

// sized reads a 32-bit size and as many bytes. The size is compared before anything is made of it.
func (r *section) sized(what string) []byte {
	b := r.take(4, "size of the "+what)
	if b == nil {
		return nil
	}
	n := binary.LittleEndian.Uint32(b)
	if uint64(n) > uint64(len(r.rest)) {
		r.bad = fmt.Sprintf("%s of %d bytes, %d are left", what, n, len(r.rest))
		return nil
	}
	return r.take(int(n), what)
}

// ParseSignatureData reads the signature section of a quote of version 3 (SGX), 4 or 5. It must be used up exactly, and so
// must each part of it: padding behind a quote is the caller's to cut off. Refusals have the codes refuse/parse and,
// for another version or certification data type, refuse/unsupported or refuse/parse.
func ParseSignatureData(quoteVersion uint16, raw []byte) (*SignatureData, error) {
	refuse := func(got, want string) (*SignatureData, error) {
		return nil, evidence.Refuse(evidence.CodeParse, "quote signature", got, want)
	}
	if quoteVersion < 3 || quoteVersion > 5 {
		return nil, evidence.Refuse(evidence.CodeUnsupported, "quote version", fmt.Sprint(quoteVersion), "3, 4 or 5")
	}
	s, r := &SignatureData{}, &section{rest: raw}
	copy(s.Signature[:], r.take(signatureSize, "signature"))
	copy(s.AttestationKey[:], r.take(keySize, "attestation key"))
	if quoteVersion > 3 {
		kind := r.u16("certification data type")
		if r.bad == "" && kind != certQEReport {
			return refuse(fmt.Sprintf("certification data type %d after the attestation key", kind), fmt.Sprint(certQEReport))
		}
		inner := r.sized("certification data")
		if r.bad == "" && len(r.rest) > 0 {
			return refuse(fmt.Sprintf("%d bytes after the certification data", len(r.rest)), "none")
		}
		if r.bad == "" {
			r = &section{rest: inner}
		}
	}
	copy(s.QEReport[:], r.take(QEReportSize, "QE report"))
	copy(s.QESignature[:], r.take(signatureSize, "QE report signature"))
	s.AuthData = bytes.Clone(r.take(int(r.u16("size of the QE authentication data")), "QE authentication data"))
	kind := r.u16("inner certification data type")
	if r.bad == "" && kind != certChain {
		return refuse(fmt.Sprintf("inner certification data type %d", kind), fmt.Sprintf("%d, a PCK certificate chain", certChain))
	}
	chain := r.sized("PCK certificate chain")
	switch {
	case r.bad != "":
		return refuse(r.bad, "a whole signature section")
	case len(r.rest) > 0:
		return refuse(fmt.Sprintf("%d bytes after the PCK certificate chain", len(r.rest)), "none")
	case len(chain) == 0 || len(chain) > maxPEM:
		return refuse(fmt.Sprintf("a PCK certificate chain of %d bytes", len(chain)), fmt.Sprintf("1 to %d bytes", maxPEM))
	case !bytes.HasPrefix(chain, []byte(beginCertificate)):
		return refuse("a PCK certificate chain that is no PEM", beginCertificate)
	}
	s.PCKChainPEM = bytes.Clone(chain)
	return s, nil
}

// UnverifiedPCK reads the PCK certificate of the section, to know which collateral to get. Nothing of it is trusted.
func (s *SignatureData) UnverifiedPCK() (*PCK, error) {
	if s == nil {
		return nil, evidence.Refuse(evidence.CodeParse, "quote signature", "none", "a parsed signature section")
	}
	certs, err := parsePEM("PCK certificate chain", s.PCKChainPEM, 3)
	if err != nil {
		return nil, err
	}
	return ParsePCK(certs[0])
}
