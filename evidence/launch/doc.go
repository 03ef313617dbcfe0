// Package launch computes, from files alone, what the evidence of a VM will say: the SNP launch digest
// and the values of PCR 4, 7 and 11. Firmware images, PE files and variable stores are hostile input.
package launch
