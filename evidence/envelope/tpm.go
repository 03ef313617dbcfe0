package envelope

import (
	"encoding/binary"
	"fmt"

	"cloister.dev/cloister/evidence/vtpm"
)

// maxPCRs is the number of registers of a TPM for a PC.
const maxPCRs = 24

// openTPMContainer reads signature, message and PCRs, each behind its size in bytes, or for the PCRs their number, as
// 64-bit little-endian numbers. PCRs are 32 bytes, from 0 on.
func openTPMContainer(raw []byte) (*Evidence, error) {
	rest := raw
	take := func(name string) ([]byte, error) {
		if len(rest) < 8 {
			return nil, malformed("vTPM quote "+name, "an end", "a size")
		}
		n := binary.LittleEndian.Uint64(rest)
		if n == 0 || n > uint64(len(rest)-8) {
			return nil, malformed("vTPM quote "+name, fmt.Sprintf("%d bytes", n), "a size inside the container")
		}
		part := rest[8 : 8+n]
		rest = rest[8+n:]
		return part, nil
	}
	sig, err := take("signature")
	if err != nil {
		return nil, err
	}
	msg, err := take("message")
	if err != nil {
		return nil, err
	}
	if len(rest) < 8 || (len(rest)-8)%32 != 0 || binary.LittleEndian.Uint64(rest) != uint64((len(rest)-8)/32) {
		return nil, malformed("vTPM quote PCRs", fmt.Sprintf("%d bytes", len(rest)), "a number and as many values of 32 bytes")
	}
	var values [][]byte
	for b := rest[8:]; len(b) > 0; b = b[32:] {
		values = append(values, b[:32])
	}
	ev := &Evidence{Form: FormTPMQuote, Kind: KindTPM}
	ev.TPM, err = newTPMQuote(msg, sig, values)
	return ev, err
}

func newTPMQuote(msg, sig []byte, values [][]byte) (*TPMQuote, error) {
	if len(sig) == 0 {
		return nil, malformed("vTPM quote signature", "none", "a signature")
	}
	q, err := vtpm.ParseQuote(msg)
	if err != nil {
		return nil, err
	}
	if len(values) == 0 || len(values) > maxPCRs {
		return nil, malformed("vTPM quote PCRs", fmt.Sprint(len(values)), fmt.Sprintf("1 to %d", maxPCRs))
	}
	pcrs := vtpm.PCRs{}
	for n, v := range values {
		if len(v) != 32 {
			return nil, malformed(fmt.Sprintf("vTPM quote PCR %d", n), fmt.Sprintf("%d bytes", len(v)), "32")
		}
		pcrs[n] = [32]byte(v)
	}
	return &TPMQuote{Message: msg, Signature: sig, Quote: q, PCRs: pcrs}, nil
}
