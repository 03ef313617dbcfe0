// Package collateral gets endorsements for the verifier: from AMD's key distribution service, from Intel's provisioning
// certification service, or from a folder alone.
//
// Addresses come from the configuration and never from evidence or from a certificate: what evidence contributes to a
// request are a chip id, a TCB and an FMSPC, each of a fixed size, printed as hex digits. Whatever comes back is checked up
// to a pinned root before it is kept, and is kept as the exact bytes in plain files, which "cloister attest verify
// --collateral" reads too. Nothing out of date is handed out, and nothing older than what was seen before is taken.
//
// What could not be had is "unavailable", and only that: a service that is down never makes a platform revoked or
// up to date.
//
// Sources: AMD, "VCEK Certificate and KDS Interface Specification" (publication 57230), chapter 4; Intel, "Provisioning
// Certification Service for ECDSA Attestation" API, version 4.
package collateral
