// Package claims names what goes into tokens: Azure's names and types exactly, and ours beside them.
package claims

import (
	"encoding/hex"
	"fmt"
	"strings"

	"cloister.dev/cloister/attest/policy"
	"cloister.dev/cloister/evidence"
)

// Kind is an attestation type, as it stands in paths.
type Kind string

// The attestation types that this service knows.
const (
	SevSnpVM   Kind = "SevSnpVm"
	TdxVM      Kind = "TdxVm"
	AzureGuest Kind = "AzureGuest"
)

// Kinds lists them.
var Kinds = []Kind{SevSnpVM, TdxVM, AzureGuest}

// The members that hold other claims.
const (
	Runtime      = "x-ms-runtime"
	InitTime     = "x-ms-inittime"
	IsolationTEE = "x-ms-isolation-tee"
)

// Challenge holds a nonce of the challenge API that the evidence carries and that was redeemed for this token alone.
const Challenge = "x-cloister-challenge"

// Verifier names the other verifier whose judgement a token rests on; absent: this service judged.
const Verifier = "x-cloister-external-verifier"

// PolicyOrigin says whose the policy was that permitted a token: "tenant", "operator", "default" (the program's own) or "draft".
const PolicyOrigin = "x-cloister-policy-origin"

// SNP is what a token says of a SEV-SNP report. SVNs are those of the reported TCB.
type SNP struct {
	AuthorKeyDigest, IDKeyDigest, Measurement [48]byte
	FamilyID, ImageID                         [16]byte
	HostData, ReportID                        [32]byte
	ReportData                                [64]byte
	BootLoader, TEE, Firmware, Microcode      uint8
	GuestSVN, VMPL                            uint32
	Debug, MigrationAgent, SMT                bool
}

const snp = "x-ms-sevsnpvm-"

// Claims are the members of a token: lower-case hexadecimal digits, integers, booleans.
func (s SNP) Claims() map[string]any {
	return map[string]any{
		"x-ms-attestation-type":   "sevsnpvm",
		snp + "authorkeydigest":   hex.EncodeToString(s.AuthorKeyDigest[:]),
		snp + "idkeydigest":       hex.EncodeToString(s.IDKeyDigest[:]),
		snp + "launchmeasurement": hex.EncodeToString(s.Measurement[:]),
		snp + "familyId":          hex.EncodeToString(s.FamilyID[:]),
		snp + "imageId":           hex.EncodeToString(s.ImageID[:]),
		snp + "hostdata":          hex.EncodeToString(s.HostData[:]),
		snp + "reportid":          hex.EncodeToString(s.ReportID[:]),
		snp + "reportdata":        hex.EncodeToString(s.ReportData[:]),
		snp + "bootloader-svn":    int64(s.BootLoader),
		snp + "tee-svn":           int64(s.TEE),
		snp + "snpfw-svn":         int64(s.Firmware),
		snp + "microcode-svn":     int64(s.Microcode),
		snp + "guestsvn":          int64(s.GuestSVN),
		snp + "vmpl":              int64(s.VMPL),
		snp + "is-debuggable":     s.Debug,
		snp + "migration-allowed": s.MigrationAgent,
		snp + "smt-allowed":       s.SMT,
	}
}

// Guest is what a token says of a running guest, all of it from the verified quote and the replayed log,
// but for the system's own words about itself (OS…).
type Guest struct {
	PCRs                           []int // the registers that the quote covers, ascending
	SecureBoot                     bool
	DefaultKeys, DB, DBX           bool // the secure boot variables were seen in the replayed log and are the expected ones
	OSType, OSDistro, OSBuild      string
	OSVersionMajor, OSVersionMinor int
	VMID                           string // upper-case GUID from the HCL claims
}

const vm = "x-ms-azurevm-"

// Claims are the members of a token. The switches of a Windows boot are always off: only Linux guests
// are known here.
func (g Guest) Claims() map[string]any {
	pcrs := make([]any, len(g.PCRs))
	for i, n := range g.PCRs {
		pcrs[i] = int64(n)
	}
	return map[string]any{
		"x-ms-attestation-type":                "azurevm",
		"secureboot":                           g.SecureBoot,
		vm + "attestation-protocol-ver":        "2.0",
		vm + "attested-pcrs":                   pcrs,
		vm + "bootdebug-enabled":               false,
		vm + "dbvalidated":                     g.DB,
		vm + "dbxvalidated":                    g.DBX,
		vm + "debuggersdisabled":               true,
		vm + "default-securebootkeysvalidated": g.DefaultKeys,
		vm + "elam-enabled":                    false,
		vm + "flightsigning-enabled":           false,
		vm + "hvci-policy":                     int64(0),
		vm + "hypervisordebug-enabled":         false,
		vm + "is-windows":                      false,
		vm + "kerneldebug-enabled":             false,
		vm + "osbuild":                         g.OSBuild,
		vm + "osdistro":                        g.OSDistro,
		vm + "ostype":                          g.OSType,
		vm + "osversion-major":                 int64(g.OSVersionMajor),
		vm + "osversion-minor":                 int64(g.OSVersionMinor),
		vm + "signingdisabled":                 true,
		vm + "testsigning-enabled":             false,
		vm + "vmid":                            g.VMID,
	}
}

// CarriedPCRs are the registers whose values our tokens carry besides Azure's claims, each where the quote covers
// it. A policy names the value it wants: one that only forbids values says nothing of a register that was left out.
var CarriedPCRs = []int{4, 7, 11, 12, 13}

// PCR is the claim of a register.
func PCR(n int) string { return fmt.Sprintf("x-cloister-pcr%d", n) }

// Root adds which root the evidence ends at, and what separates the vTPM from the guest.
func Root(to map[string]any, root evidence.RootKind) {
	to["x-cloister-root"] = string(root)
	to["x-cloister-vtpm-isolation"] = "none"
	if root == evidence.RootSoftware {
		to["x-cloister-vtpm-isolation"] = "process"
	}
}

// Schema is what a policy of an attestation type can ask for.
func Schema(kind Kind) policy.Schema {
	sevsnp, tdx := keys(SNP{}.Claims()), keys(TDX{MRServiceTD: new([48]byte), TCB: &TCB{}}.Claims())
	s := policy.Schema{
		Known:      []string{Challenge, Verifier, "x-cloister-root", "x-cloister-vtpm-isolation", "x-ms-attestation-type", "x-ms-compliance-status", "x-ms-policy-hash", "x-ms-ver"},
		Open:       []string{Runtime + ".", InitTime + "."},
		Properties: []string{"report_validity_in_minutes", "omit_x5c"},
	}
	switch kind {
	case SevSnpVM:
		s.Known = append(s.Known, sevsnp...)
		return s
	case TdxVM:
		s.Known = append(s.Known, tdx...)
		return s
	}
	s.Known = append(s.Known, keys(Guest{}.Claims())...)
	for _, n := range CarriedPCRs {
		s.Known = append(s.Known, PCR(n))
	}
	for _, name := range append(append(sevsnp, tdx...), "x-ms-compliance-status") {
		s.Known = append(s.Known, IsolationTEE+"."+name)
	}
	s.Open = append(s.Open, IsolationTEE+"."+Runtime+".", IsolationTEE+"."+InitTime+".")
	return s
}

// Names lists the claims of all kinds of tokens, for the discovery document.
func Names() []string {
	out := map[string]any{"nonce": nil, Runtime: nil, InitTime: nil, IsolationTEE: nil}
	for _, kind := range Kinds {
		for _, k := range Schema(kind).Known {
			out[k] = nil
		}
	}
	return keys(out)
}

// DefaultPolicy is what holds while nobody has set a policy: genuine evidence that no debugger and no
// migration agent can look into, reported at VMPL 0. Which workload it is, is for the relying party to say.
func DefaultPolicy(kind Kind) string {
	prefix := ""
	if kind == AzureGuest {
		prefix = IsolationTEE + "."
	}
	deny := func(claim, test string) string {
		return `[type=="` + prefix + claim + `", value` + test + "] => deny();\n"
	}
	rules := ""
	if kind != TdxVM {
		rules += deny(snp+"is-debuggable", "==true") + deny(snp+"migration-allowed", "==true") + deny(snp+"vmpl", "!=0")
	}
	if kind != SevSnpVM {
		rules += deny("tdx_td_attributes_debug", "==true") + deny("tdx_td_attributes_septve_disable", "==false") + deny(migratable, "==true") + deny(serviceTD, `!="`+strings.Repeat("0", 96)+`"`)
	}
	return "version=1.0;\nauthorizationrules\n{\n" + rules + "=> permit();\n};\nissuancerules\n{\n};"
}
