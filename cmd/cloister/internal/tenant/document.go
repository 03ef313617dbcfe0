package tenant

import (
	"encoding/hex"
	"strconv"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/bundle"
	"cloister.dev/cloister/evidence/launch"
)

// Document writes the expectations as a file, for others to judge by.
func (e *Expected) Document() launch.Expected {
	x := launch.Expected{Version: launch.ExpectedVersion, Kind: bundle.Kind, Roots: e.Roots, Measurement: []string{hex.EncodeToString(e.Measurement[:])},
		HostData: hex.EncodeToString(e.HostData[:]), PCRs: map[string]string{}}
	for n, v := range e.PCRs {
		x.PCRs[strconv.Itoa(n)] = hex.EncodeToString(v[:])
	}
	for _, v := range e.Events {
		x.Events = append(x.Events, launch.ExpectedEvent{PCR: v.PCR, Name: v.Name, Digest: hex.EncodeToString(v.Digest[:])})
	}
	return x
}

// Expect turns the expectations into what evidence that answers a challenge is judged by.
func (e *Expected) Expect(nonce []byte) (bundle.Expect, error) {
	return bundle.ExpectFrom(e.Document(), nonce)
}

// acceptedRoots are the roots of trust that the tenant named.
func acceptedRoots(software int) []evidence.RootKind {
	if software > 0 {
		return []evidence.RootKind{evidence.RootSoftware}
	}
	return []evidence.RootKind{evidence.RootAMD}
}
