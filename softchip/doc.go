// Package softchip is the software "CPU": it measures launches and signs SEV-SNP reports under a software root.
//
// It is the only holder of the root's leaf key. It protects from nothing on the host that it runs on, and its
// evidence is accepted only where a relying party names its root (package evidence/soft).
package softchip
