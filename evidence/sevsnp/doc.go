// Package sevsnp reads and judges AMD SEV-SNP attestation reports.
//
// Parse turns the 1184 bytes of a report into a Report, Authenticate turns a Report into an Authentic
// one when its signature ends at a pinned AMD root, and Appraise compares an Authentic report with what
// the relying party expects. Nothing else makes an Authentic report, and its zero value is refused.
//
// Source: AMD, "SEV Secure Nested Paging Firmware ABI Specification" (publication 56860), table
// ATTESTATION_REPORT; and "VCEK Certificate and KDS Interface Specification" (publication 57230).
// Report versions 2, 3 and 5 are known. All integers in a report are little-endian.
package sevsnp
