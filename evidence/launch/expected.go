package launch

import (
	"encoding/hex"
	"fmt"
	"strconv"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/strictjson"
	"cloister.dev/cloister/evidence/vtpm"
)

// ExpectedVersion is the only form of Expected that is known.
const ExpectedVersion = "cloister.expect/1"

// Expected is a document of what evidence must say, computed before the VM exists. Values are hex digits.
type Expected struct {
	Version     string              `json:"version"`
	Kind        string              `json:"kind"`        // "sevsnpvm"
	Roots       []evidence.RootKind `json:"roots"`       // roots of trust that are accepted
	Measurement []string            `json:"measurement"` // launch digests, one of which must be there
	HostData    string              `json:"hostData"`    // digest of the init data
	PCRs        map[string]string   `json:"pcrs"`        // number in decimal to value, SHA-256 bank, of the running system
	Events      []ExpectedEvent     `json:"events"`      // how the PCRs come about, for people
}

// ExpectedEvent is one extension of a PCR.
type ExpectedEvent struct {
	PCR    int    `json:"pcr"`
	Name   string `json:"name"`
	Digest string `json:"digest"`
}

// ParseExpected reads a document strictly, values included.
func ParseExpected(raw []byte) (Expected, error) {
	var x Expected
	if err := strictjson.Decode("expectations", raw, &x, "JSON of "+ExpectedVersion); err != nil {
		return Expected{}, err
	}
	if x.Version != ExpectedVersion || x.Kind != "sevsnpvm" {
		return Expected{}, evidence.Refuse(evidence.CodeUnsupported, "expectations", x.Version+" "+x.Kind, ExpectedVersion+" sevsnpvm")
	}
	for _, read := range []func() error{
		func() error { _, err := x.Measurements(); return err },
		func() error { _, err := x.HostDataBytes(); return err },
		func() error { _, err := x.PCRValues(); return err },
	} {
		if err := read(); err != nil {
			return Expected{}, err
		}
	}
	if len(x.Roots) == 0 {
		return Expected{}, evidence.Refuse(evidence.CodePolicy, "expectations roots", "none", "at least one root of trust")
	}
	for _, r := range x.Roots {
		if r != evidence.RootSoftware && r != evidence.RootAMD {
			return Expected{}, evidence.Refuse(evidence.CodeUnsupported, "expectations roots", string(r), string(evidence.RootSoftware)+" or "+string(evidence.RootAMD))
		}
	}
	return x, nil
}

// Measurements reads the launch digests. An empty list is refused: it would accept nothing, or be taken for "any".
func (x Expected) Measurements() ([][48]byte, error) {
	if len(x.Measurement) == 0 {
		return nil, evidence.Refuse(evidence.CodePolicy, "expectations measurement", "none", "at least one launch digest")
	}
	out := make([][48]byte, 0, len(x.Measurement))
	for _, text := range x.Measurement {
		raw, err := hexBytes("measurement", text, 48)
		if err != nil {
			return nil, err
		}
		if [48]byte(raw) == [48]byte{} {
			return nil, evidence.Refuse(evidence.CodePolicy, "expectations measurement", "zero", "a launch digest")
		}
		out = append(out, [48]byte(raw))
	}
	return out, nil
}

// HostDataBytes reads the digest of the init data.
func (x Expected) HostDataBytes() ([32]byte, error) {
	raw, err := hexBytes("hostData", x.HostData, 32)
	if err != nil {
		return [32]byte{}, err
	}
	return [32]byte(raw), nil
}

// PCRValues reads the PCRs.
func (x Expected) PCRValues() (vtpm.PCRs, error) {
	out := vtpm.PCRs{}
	for name, text := range x.PCRs {
		n, err := strconv.Atoi(name)
		if err != nil || n < 0 || n > 15 || strconv.Itoa(n) != name {
			return nil, evidence.Refuse(evidence.CodeParse, "expectations pcrs", name, "0 to 15")
		}
		raw, err := hexBytes("pcrs."+name, text, 32)
		if err != nil {
			return nil, err
		}
		out[n] = [32]byte(raw)
	}
	return out, nil
}

func hexBytes(field, text string, size int) ([]byte, error) {
	raw, err := hex.DecodeString(text)
	if err != nil || len(raw) != size {
		return nil, evidence.Refuse(evidence.CodeParse, "expectations "+field, fmt.Sprintf("%d characters", len(text)), fmt.Sprintf("%d hex digits", 2*size))
	}
	return raw, nil
}
