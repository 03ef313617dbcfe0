package envelope

import (
	"encoding/binary"
	"fmt"

	"cloister.dev/cloister/evidence/tdx"
)

// Fields of quotes and of a TDREPORT. Numbers are little-endian.
const (
	attestationP256 = 2 // attestation key types: ECDSA with P-256, with P-384
	attestationP384 = 3
	teeSGX          = 0
	teeTDX          = 0x81
	tdReportType    = 0x81
	quoteHeader     = 48
	sgxBody         = 384
)

// openQuote tells quotes apart by the version and TEE type of their header. The packages that judge them read the rest.
func openQuote(raw []byte, version uint16, tee uint32) (*Evidence, error) {
	switch {
	case version == 3 && tee == teeSGX:
		// Version 3 has no TEE type: four reserved bytes are there, and only SGX has this version.
		if len(raw) < quoteHeader+sgxBody+4 {
			return nil, malformed("SGX quote size", fmt.Sprint(len(raw)), fmt.Sprintf("at least %d", quoteHeader+sgxBody+4))
		}
		if n := binary.LittleEndian.Uint32(raw[quoteHeader+sgxBody:]); uint64(n) > uint64(len(raw)-quoteHeader-sgxBody-4) {
			return nil, malformed("SGX quote signature size", fmt.Sprint(n), "inside the quote")
		}
		return &Evidence{Form: FormSGXQuote, Kind: KindSGX, SGXQuote: raw}, nil
	case (version == 4 || version == 5) && tee == teeTDX:
		ev := &Evidence{Form: FormTDQuote, Kind: KindTDX}
		var err error
		if ev.TDQuote, err = tdx.ParseQuote(raw); err != nil {
			return nil, err
		}
		return ev, nil
	case version == 4 || version == 5:
		return nil, unsupported("quote TEE type", fmt.Sprintf("0x%x in version %d", tee, version), "0x81 (TDX)")
	}
	return nil, unsupported("quote version", fmt.Sprintf("%d, TEE type 0x%x", version, tee), "4 or 5 of a TD, 3 of SGX")
}

// openTDReport takes a TDREPORT. Its MAC means something on its own machine only.
func openTDReport(raw []byte) (*Evidence, error) {
	r, err := tdx.ParseReport(raw)
	if err != nil {
		return nil, err
	}
	return &Evidence{Form: FormTDReport, Kind: KindTDX, TDReport: r}, nil
}
