package boot

import (
	"crypto/rsa"
	"encoding/hex"
	"fmt"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/hcl"
	"cloister.dev/cloister/evidence/initdata"
	"cloister.dev/cloister/evidence/sevsnp"
)

// vtpmKeys are the keys that the evidence names.
type vtpmKeys struct{ ek, ak *rsa.PublicKey }

// checkReport judges the HCL report that the platform gave.
//
// Checked here: structure; that the hardware report is about exactly these claims (REPORT_DATA); VMPL 0, no debugging, no
// migration agent; that HOST_DATA is the digest of the init data that were found; and that the claims name an EK and an
// AK. The caller then matches these with the TPM.
//
// Not checked here: the hardware signature. The certificate chain is not in the vTPM, and the initrd has no network. So a
// host that runs this image outside of a TEE, with a vTPM and a report of its own making, gets through to here. It
// gains nothing of a real VM: the secret on that VM's disk is sealed to that VM's vTPM, and what it booted cannot
// produce evidence that a verifier accepts. The running system checks the chain when it attests.
func checkReport(raw, initData []byte) (vtpmKeys, error) {
	var none vtpmKeys
	r, err := hcl.Parse(raw)
	if err != nil {
		return none, fmt.Errorf("reading the HCL report: %w", err)
	}
	if err := r.CheckBinding(); err != nil {
		return none, fmt.Errorf("checking the HCL report: %w", err)
	}
	hw, err := sevsnp.Parse(r.Hardware)
	if err != nil {
		return none, fmt.Errorf("reading the hardware report: %w", err)
	}
	bad := func(field, got, want string) (vtpmKeys, error) {
		return none, evidence.Refuse(evidence.CodeConfig, "hardware report "+field, got, want)
	}
	switch {
	case hw.VMPL != 0:
		return bad("VMPL", fmt.Sprint(hw.VMPL), "0")
	case hw.Policy.Debug():
		return bad("policy", "debugging allowed", "no debugging")
	case hw.Policy.MigrationAgent():
		return bad("policy", "migration agent allowed", "no migration agent")
	}
	if want := initdata.SNPHostData(initData); hw.HostData != want {
		got := hw.HostData
		return none, evidence.Refuse(evidence.CodeBinding, "init data", hex.EncodeToString(want[:]), hex.EncodeToString(got[:])).By("HOST_DATA of the hardware report")
	}
	claims, err := hcl.ParseClaims(r.Claims)
	if err != nil {
		return none, fmt.Errorf("reading the runtime claims: %w", err)
	}
	var k vtpmKeys
	if k.ek, err = claims.RSAKey(hcl.KeyEK); err != nil {
		return none, fmt.Errorf("reading the runtime claims: %w", err)
	}
	if k.ak, err = claims.RSAKey(hcl.KeyAK); err != nil {
		return none, fmt.Errorf("reading the runtime claims: %w", err)
	}
	return k, nil
}
