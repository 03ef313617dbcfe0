package judge

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"

	"cloister.dev/cloister/evidence/hcl"
	"cloister.dev/cloister/evidence/sevsnp"
)

// Names of claims that more than one place speaks of.
const (
	nameSecureBoot = "secure-boot" // what the firmware measured, by the replayed log
	nameNonce      = "nonce"
	nameUserData   = "user-data"
	nameReportData = "report-data"
)

// tell writes down everything that the bytes say. Names are lower case with hyphens and do not change; byte strings are
// lower-case hexadecimal digits, numbers are numbers, and bits are booleans.
func (h *hearing) tell() {
	ev := h.Evidence
	h.claims["form"] = string(ev.Form)
	if ev.SNP != nil {
		h.tellSNP(ev.SNP)
	}
	if ev.HCL != nil {
		h.tellHCL()
	}
	if ev.TPM != nil {
		h.tellTPM()
	}
	h.tellTDX()
	h.tellSGX()
}

func (h *hearing) tellSNP(r *sevsnp.Report) {
	say := func(name string, v any) { h.claims[name] = v }
	bytes := func(name string, b []byte) { say(name, hex.EncodeToString(b)) }
	say("report-version", r.Version)
	say("guest-svn", r.GuestSVN)
	say("policy", r.Policy.String())
	for _, b := range []struct {
		name string
		on   bool
	}{
		{"smt", r.Policy.SMT()}, {"migration-agent", r.Policy.MigrationAgent()}, {"debug", r.Policy.Debug()}, {"single-socket", r.Policy.SingleSocket()},
		{"cxl", r.Policy.CXL()}, {"aes-256-xts", r.Policy.MemAES256XTS()}, {"rapl-disabled", r.Policy.RAPLDisabled()},
		{"ciphertext-hiding", r.Policy.CiphertextHiding()}, {"page-swap-disabled", r.Policy.PageSwapDisabled()},
	} {
		say("policy-"+b.name, b.on)
	}
	say("policy-abi", r.Policy.ABI().String())
	bytes("family-id", r.FamilyID[:])
	bytes("image-id", r.ImageID[:])
	say("vmpl", r.VMPL)
	say("platform-info", r.PlatformInfo.String())
	for _, b := range []struct {
		name string
		bit  sevsnp.PlatformInfo
	}{
		{"smt", sevsnp.PlatformSMT}, {"tsme", sevsnp.PlatformTSME}, {"ecc", sevsnp.PlatformECC}, {"rapl-disabled", sevsnp.PlatformRAPLDisabled},
		{"ciphertext-hiding", sevsnp.PlatformCiphertextHiding}, {"alias-check", sevsnp.PlatformAliasCheck}, {"iommu-write-safe", sevsnp.PlatformIOMMUWriteSafe}, {"tio", sevsnp.PlatformTIO},
	} {
		say("platform-"+b.name, r.PlatformInfo.Has(b.bit))
	}
	say("signing-key", r.KeyInfo.SigningKey.String())
	say("author-key-enabled", r.KeyInfo.AuthorKeyEnabled)
	say("mask-chip-key", r.KeyInfo.MaskChipKey)
	bytes(nameReportData, r.ReportData[:])
	bytes("measurement", r.Measurement[:])
	bytes("host-data", r.HostData[:])
	bytes("id-key-digest", r.IDKeyDigest[:])
	bytes("author-key-digest", r.AuthorKeyDigest[:])
	bytes("report-id", r.ReportID[:])
	bytes("report-id-ma", r.ReportIDMA[:])
	bytes("chip-id", r.ChipID[:])
	product, err := r.Product()
	if err != nil {
		product = ""
	}
	if product != "" {
		say("product", string(product))
		say("cpuid", r.CPUID.String())
	}
	for _, t := range []struct {
		name string
		tcb  sevsnp.TCB
	}{{"reported", r.ReportedTCB}, {"current", r.CurrentTCB}, {"committed", r.CommittedTCB}, {"launch", r.LaunchTCB}} {
		name := t.name + "-tcb"
		say(name, t.tcb.Hex(product))
		say(name+"-bootloader", t.tcb.BootLoader)
		say(name+"-tee", t.tcb.TEE)
		say(name+"-snp", t.tcb.SNP)
		say(name+"-microcode", t.tcb.Microcode)
		if product == sevsnp.Turin {
			say(name+"-fmc", t.tcb.FMC)
		}
	}
	say("current-firmware", r.Current.String())
	say("committed-firmware", r.Committed.String())
	if r.Version >= 4 {
		say("launch-mitigations", fmt.Sprintf("0x%x", r.LaunchMitigations))
		say("current-mitigations", fmt.Sprintf("0x%x", r.CurrentMitigations))
	}
}

func (h *hearing) tellHCL() {
	ev := h.Evidence
	h.claims["hcl-version"] = ev.HCL.Version
	h.claims["hcl-report-type"] = ev.HCL.Type.String()
	var whole any
	if err := json.Unmarshal(ev.HCL.Claims, &whole); err == nil { // the envelope has read them strictly already
		h.claims["runtime-claims"] = whole
	}
	c := ev.Runtime.VMConfiguration
	h.claims["vm-id"] = strings.ToLower(c.VMUniqueID)
	h.claims["vm-secure-boot"] = c.SecureBoot
	h.claims["vm-tpm-enabled"] = c.TPMEnabled
	h.claims["vm-tpm-persisted"] = c.TPMPersisted
	h.claims["vm-console-enabled"] = c.ConsoleEnabled
	if ev.Runtime.UserData != "" {
		h.claims[nameUserData] = strings.ToLower(ev.Runtime.UserData)
	}
	if d, err := ev.HCL.HardwareReportData(); err == nil && ev.HCL.Type == hcl.TypeTDX {
		h.claims[nameReportData] = hex.EncodeToString(d[:])
	}
}

func (h *hearing) tellTPM() {
	q := h.Evidence.TPM
	h.claims["quote-nonce"] = hex.EncodeToString(q.Quote.ExtraData)
	h.claims["quote-pcrs"] = q.Quote.Selection
	h.claims["quote-clock"] = q.Quote.Clock
	h.claims["quote-reset-count"] = q.Quote.ResetCount
	h.claims["quote-restart-count"] = q.Quote.RestartCount
	for n, v := range q.PCRs {
		h.claims[pcrName(n)] = hex.EncodeToString(v[:])
	}
}

func pcrName(n int) string { return fmt.Sprintf("pcr%d", n) }

// kebab turns the name of a check of sevsnp or tdx into that of the claim: "policy SMT" into "policy-smt".
func kebab(name string) string {
	if name == "migration agent's report id" {
		return "report-id-ma" // as the specification calls the field
	}
	return strings.ReplaceAll(strings.ToLower(name), " ", "-")
}
