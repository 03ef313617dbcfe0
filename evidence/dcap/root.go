package dcap

import "crypto/x509"

// CheckRoot refuses a certificate whose key is not Intel's pinned root key. It is for those who keep collateral and want to
// know before a quote comes whether it can be of use; Appraise checks again, all of it.
func CheckRoot(root *x509.Certificate) error { return pinned(root, intel) }
