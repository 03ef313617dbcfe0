// Package dcap verifies what Intel's Data Center Attestation Primitives put around quotes of SGX enclaves and of TDs: the
// ECDSA signature section, the quoting enclave's report, the certificates of the platform (PCK), and Intel's collateral,
// which says what a platform's firmware is worth.
//
// Three steps. ParseSignatureData and ParseCollateral read bytes. Verify follows a quote's signature over the quoting
// enclave and the PCK to a pinned root. Verified.Appraise authenticates the collateral under the same root and gives
// the status of the platform's TCB. What a quote's body says is not looked at here: package tdx does.
//
// Without collateral it is not known whether the platform or its quoting enclave was revoked, or has known holes:
// Verify alone says who signed, and no more.
//
// Sources: Intel, "SGX ECDSA Quote Library API" and "TDX DCAP Quoting Library API", appendix A (quote formats);
// "SGX PCK Certificate and Certificate Revocation List Profile Specification"; the PCS API documentation, version 4
// (TCB info, enclave identity, and how a TCB level is found). Numbers in quotes are little-endian; signatures and
// keys are big-endian.
package dcap
