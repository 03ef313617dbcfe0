// Package sevsnp reads and judges AMD SEV-SNP attestation reports.
//
// Parse turns the 1184 bytes of a report into a Report, Authenticate turns a Report into an Authentic
// one when its signature ends at a pinned AMD root, and Appraise compares an Authentic report with what
// the relying party expects. Nothing else makes an Authentic report, and its zero value is refused.
//
// Source: AMD, "SEV Secure Nested Paging Firmware ABI Specification" (publication 56860), table
// ATTESTATION_REPORT; and "VCEK Certificate and KDS Interface Specification" (publication 57230).
// All integers in a report are little-endian.
//
// Report versions 2 to 5 are known. Version 3 adds the CPUID; version 5 adds the mitigation vectors at 0x1f8 and 0x200.
// Of version 4, which clouds handed out before 5, no table of AMD's was at hand: other verifiers read it as version 3,
// and reports with the vectors filled were seen; so both forms are read, and the vectors are zero where they are not
// filled. The rest of the layout is the same.
package sevsnp
