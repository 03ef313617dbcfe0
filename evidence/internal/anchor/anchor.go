// Package anchor names the roots that certificates of SNP chips and of Intel platforms may end at.
//
// It is internal to evidence: only sevsnp and dcap (AMD's and Intel's roots) and soft (roots that the relying party named) make
// anchors, and each calls the shared chain code with its own. So no caller can pass off one root as another.
package anchor

import "cloister.dev/cloister/evidence"

// Line is one product line under a root.
type Line struct {
	RootSPKI [][32]byte // SHA-256 of the root key's SubjectPublicKeyInfo, any of these
	RootName string     // common name of the root
	ASKName  string     // common name of the issuer of VCEKs
	ASVKName string     // common name of the issuer of VLEKs; empty where there are none
}

// Anchor is a kind of root with its product lines, by product name. The zero value accepts nothing.
type Anchor struct {
	Kind  evidence.RootKind
	Lines map[string]Line
}
