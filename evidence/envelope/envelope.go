// Package envelope tells what a stranger's piece of evidence is and takes it apart. It goes by the content alone: a
// file's name says nothing. It judges nothing: what comes out is well-formed, and may still be forged.
//
// The forms that are known:
//
//   - SNP report: 1184 bytes, alone or followed by the certificate table of an extended request; the same as hex digits
//   - TD quote, version 4 or 5, and SGX quote, version 3, with or without zero padding; the same as hex digits
//   - TDREPORT, 1024 bytes
//   - HCL report, as NV index 0x01400001 of an Azure vTPM gives it
//   - JSON: our own bundle; HCL report with vTPM quote and VCEK or TD quote (members hcl_report or report, tpm_quote or
//     quote, vcek, td_quote); a vTPM quote alone, or with its key (ak_public); SnpReport with VcekCertChain, as the
//     attestation protocol of Azure carries them; configfs-tsm (outblob, auxblob, provider)
//   - CBOR: configfs-tsm
//   - vTPM quote in a container: signature, message and 32-byte PCRs, each behind a 64-bit little-endian size or count
//
// Sources: AMD "SEV Secure Nested Paging Firmware ABI" (report) and "GHCB Standardization" (certificate table); Intel
// "TDX DCAP Quoting Library API" (quote), "TDX Module ABI" (TDREPORT); Linux, Documentation/ABI/testing/configfs-tsm.
package envelope

import (
	"bytes"
	"crypto"
	"encoding/binary"
	"encoding/hex"
	"fmt"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/bundle"
	"cloister.dev/cloister/evidence/hcl"
	"cloister.dev/cloister/evidence/sevsnp"
	"cloister.dev/cloister/evidence/tdx"
	"cloister.dev/cloister/evidence/vtpm"
)

// MaxSize bounds a piece of evidence, in bytes; an event log is by far the largest part.
const MaxSize = bundle.MaxSize

// Form is how a piece of evidence is wrapped.
type Form string

// The forms.
const (
	FormSNPReport Form = "snp-report"
	FormTDQuote   Form = "td-quote"
	FormSGXQuote  Form = "sgx-quote"
	FormTDReport  Form = "td-report"
	FormHCLReport Form = "hcl-report"
	FormBundle    Form = "cloister-bundle"
	FormAzureVTPM Form = "azure-vtpm"
	FormTPMQuote  Form = "tpm-quote"
	FormTSM       Form = "configfs-tsm"
	FormMAASNP    Form = "maa-snp"
)

// Kinds of evidence, as judgements name them.
const (
	KindSNP   = "sevsnpvm"
	KindTDX   = "tdxvm"
	KindAzure = "azurevm" // an HCL report with a quote of the vTPM that it vouches for
	KindSGX   = "sgx"
	KindTPM   = "tpm"
)

// Evidence is what was found. Parts that were not there are nil. Every part is well-formed, none is trusted.
type Evidence struct {
	Form Form
	Kind string

	SNP      *sevsnp.Report // alone, or inside HCL
	HCL      *hcl.Report
	Runtime  *hcl.RuntimeClaims // of HCL
	TDQuote  *tdx.Quote
	TDReport *tdx.Report // alone, or inside HCL
	SGXQuote []byte
	TPM      *TPMQuote
	EventLog []byte

	// AK is the key that the evidence itself offers for its quote: nothing vouches for it.
	AK crypto.PublicKey
	// Nonce and SSHHostKey are what a bundle says of itself.
	Nonce, SSHHostKey []byte

	// Certificates are those that came along: PEM or DER each.
	Certificates [][]byte
}

// TPMQuote is a quote with the PCR values that came beside it, which no one signed.
type TPMQuote struct {
	Message   []byte // TPMS_ATTEST
	Signature []byte
	Quote     *vtpm.Quote
	PCRs      vtpm.PCRs
}

func malformed(what, got, want string) error {
	return evidence.Refuse(evidence.CodeParse, what, got, want)
}

func unsupported(what, got, want string) error {
	return evidence.Refuse(evidence.CodeUnsupported, what, got, want)
}

// Open recognises evidence and takes it apart. An error says that the bytes are no evidence of a known form, or that a
// part of it is not well-formed: what is there and broken is never taken as absent.
func Open(raw []byte) (*Evidence, error) {
	ev, err := open(raw)
	if err != nil {
		return nil, err // nothing of evidence that is broken in part
	}
	return ev, nil
}

func open(raw []byte) (*Evidence, error) {
	if len(raw) == 0 || len(raw) > MaxSize {
		return nil, malformed("evidence", fmt.Sprintf("%d bytes", len(raw)), fmt.Sprintf("1 to %d bytes", MaxSize))
	}
	text := bytes.TrimSpace(raw)
	switch {
	case len(text) > 0 && text[0] == '{':
		return openJSON(text)
	case bytes.HasPrefix(text, []byte("-----BEGIN ")):
		return nil, unsupported("evidence", "PEM", "a report, a quote or a bundle; certificates go beside it")
	}
	if bin, ok := hexText(text); ok {
		return openBinary(bin)
	}
	return openBinary(raw)
}

// hexText reads hex digits, with or without "0x" in front. Binary evidence never looks like that: its first bytes are
// version numbers.
func hexText(text []byte) ([]byte, bool) {
	text = bytes.TrimPrefix(text, []byte("0x"))
	if len(text) < 64 {
		return nil, false
	}
	bin, err := hex.DecodeString(string(text))
	return bin, err == nil
}

// firstSize is how many bytes must be there to tell what binary evidence is.
const firstSize = 16

func openBinary(raw []byte) (*Evidence, error) {
	if len(raw) < firstSize {
		return nil, malformed("evidence", fmt.Sprintf("%d bytes", len(raw)), "a report, a quote or a bundle")
	}
	le := binary.LittleEndian
	version, key, tee := le.Uint16(raw), le.Uint16(raw[2:]), le.Uint32(raw[4:])
	switch {
	case bytes.HasPrefix(raw, []byte("HCLA")):
		return openHCL(raw)
	case raw[0]>>5 == cborMap:
		return openTSMCBOR(raw)
	case len(raw) == tdx.ReportSize && raw[0] == tdReportType:
		return openTDReport(raw)
	case version >= 3 && version <= 15 && (key == attestationP256 || key == attestationP384):
		return openQuote(raw, version, tee)
	case le.Uint32(raw) < 0x100:
		return openSNP(raw)
	case le.Uint64(raw) < 1<<16:
		return openTPMContainer(raw)
	}
	return nil, unsupported("evidence", "bytes of no known form, beginning "+hex.EncodeToString(raw[:firstSize]), "a report, a quote or a bundle")
}

func openSNP(raw []byte) (*Evidence, error) {
	if len(raw) < sevsnp.ReportSize {
		return nil, malformed("SNP report size", fmt.Sprint(len(raw)), fmt.Sprint(sevsnp.ReportSize))
	}
	r, err := sevsnp.Parse(raw[:sevsnp.ReportSize])
	if err != nil {
		return nil, err
	}
	ev := &Evidence{Form: FormSNPReport, Kind: KindSNP, SNP: r}
	if table := raw[sevsnp.ReportSize:]; len(table) > 0 {
		if ev.Certificates, err = certificateTable(table); err != nil {
			return nil, err
		}
	}
	return ev, nil
}

func openHCL(raw []byte) (*Evidence, error) {
	ev := &Evidence{Form: FormHCLReport}
	if err := ev.addHCL(raw); err != nil {
		return nil, err
	}
	return ev, nil
}

// addHCL reads an HCL report and the hardware report and claims inside.
func (ev *Evidence) addHCL(raw []byte) error {
	r, err := hcl.Parse(raw)
	if err != nil {
		return err
	}
	ev.HCL = r
	if ev.Runtime, err = hcl.ParseClaims(r.Claims); err != nil {
		return err
	}
	if r.Type == hcl.TypeTDX {
		ev.Kind = KindTDX
		ev.TDReport, err = tdx.ParseReport(r.Hardware[:hcl.TDReportSize])
		return err
	}
	ev.Kind = KindSNP
	ev.SNP, err = sevsnp.Parse(r.Hardware)
	return err
}
