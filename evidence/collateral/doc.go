// Package collateral holds what a verdict needs besides the evidence: certificates, revocation lists, and Intel's signed
// documents about platforms.
//
// A Set takes files in any order and tells by their content what they are. It judges nothing: what it gives out is still to
// be checked, by packages sevsnp and dcap, up to a root that is pinned or was named. It only picks, and where it picks
// by a signature that is so as not to be led astray by another certificate of the same name. The exact bytes are kept,
// because signatures are over bytes.
package collateral
