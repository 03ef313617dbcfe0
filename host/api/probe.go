package api

import (
	"crypto/sha512"

	"cloister.dev/cloister/evidence"
)

// ReportResponse is the answer to a report.
type ReportResponse struct {
	// Probes are what the control plane wants to know of the host's platform. One may come more than once; the nonce tells.
	Probes []Probe `json:"probes,omitempty"`
}

// Probe asks for evidence of a launch that holds nothing.
type Probe struct {
	TEE   string `json:"tee"`   // "snp" or "tdx"
	Nonce []byte `json:"nonce"` // NonceSize bytes
}

// NonceSize is the size of a probe's nonce, in bytes.
const NonceSize = 32

// ProbeReport answers a probe: evidence, or the reason why there is none.
type ProbeReport struct {
	TEE      string            `json:"tee"`
	Nonce    []byte            `json:"nonce"`
	Evidence []byte            `json:"evidence,omitempty"` // SNP report or TD quote
	Chain    []byte            `json:"chain,omitempty"`    // PEM, of an SNP report
	Failure  *evidence.Refusal `json:"failure,omitempty"`
}

// ProbeData is the report data of a probe's evidence: SHA-512 over a purpose tag, the host's name and the nonce, the first two
// ended by a zero byte each. With the name in it, no host can answer with what another was asked for.
func ProbeData(host string, nonce []byte) [64]byte {
	text := append([]byte("cloister platform probe\x00"+host+"\x00"), nonce...)
	return sha512.Sum512(text)
}
