// Package hcl reads and writes the HCL attestation report of Azure's confidential VMs, which ties a vTPM
// to the hardware: it holds a hardware report and runtime claims (JSON), and the digest of the claims is
// in the hardware report's REPORT_DATA.
//
// The VM reads it from NV index 0x01400001. The layout was checked with real reports of SNP and TDX VMs,
// header versions 1 and 2. All integers are little-endian.
package hcl
