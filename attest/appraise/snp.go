package appraise

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"strings"
	"time"

	"cloister.dev/cloister/attest/claims"
	"cloister.dev/cloister/attest/request"
	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/hcl"
	"cloister.dev/cloister/evidence/sevsnp"
)

// Verifier judges evidence for one issuer.
type Verifier struct{ roots Roots }

// New makes a verifier of the roots that its issuer stands for.
func New(roots Roots) *Verifier { return &Verifier{roots} }

// judged is hardware evidence that is genuine, and about the data that came with it.
type judged struct {
	root   evidence.RootKind
	claims map[string]any
}

// result is what a VM without its vTPM gets.
func (j *judged) result(runtime *request.Data) *Result {
	out := &Result{root: j.root, claims: j.claims, carries: runtimeCarries(runtime)}
	claims.Root(out.claims, out.root)
	return out
}

// SevSnpVM judges a hardware report and the data that came with it.
func (v *Verifier) SevSnpVM(ctx context.Context, in *request.SevSnpVM, at time.Time) (*Result, error) {
	got, err := v.snp(ctx, in.Report, in.Chain, in.Runtime, in.InitTime, at)
	if err != nil {
		return nil, err
	}
	return got.result(in.Runtime), nil
}

// snp authenticates a report and checks that it is about exactly this runtime and init-time data.
func (v *Verifier) snp(ctx context.Context, raw, chain []byte, runtime, init *request.Data, at time.Time) (*judged, error) {
	report, err := sevsnp.Parse(raw)
	if err != nil {
		return nil, err
	}
	authentic, err := v.roots.authenticate(ctx, report, chain, at)
	if err != nil {
		return nil, err
	}
	report = authentic.Report()
	if runtime != nil {
		if want := hcl.ReportData(runtime.Raw); subtle.ConstantTimeCompare(report.ReportData[:], want[:]) != 1 {
			return nil, evidence.Refuse(evidence.CodeBinding, "REPORT_DATA", hex.EncodeToString(report.ReportData[:]), hex.EncodeToString(want[:])).By("SHA-256 of runtimeData, then 32 zero bytes")
		}
	}
	if init != nil {
		if want := sha256.Sum256(init.Raw); subtle.ConstantTimeCompare(report.HostData[:], want[:]) != 1 {
			return nil, evidence.Refuse(evidence.CodeBinding, "HOST_DATA", hex.EncodeToString(report.HostData[:]), hex.EncodeToString(want[:])).By("SHA-256 of initTimeData")
		}
	}
	return &judged{authentic.Root(), snpClaims(report, runtime, init)}, nil
}

func snpClaims(r *sevsnp.Report, runtime, init *request.Data) map[string]any {
	out := claims.SNP{
		AuthorKeyDigest: r.AuthorKeyDigest, IDKeyDigest: r.IDKeyDigest, Measurement: r.Measurement,
		FamilyID: r.FamilyID, ImageID: r.ImageID, HostData: r.HostData, ReportID: r.ReportID, ReportData: r.ReportData,
		BootLoader: r.ReportedTCB.BootLoader, TEE: r.ReportedTCB.TEE, Firmware: r.ReportedTCB.SNP, Microcode: r.ReportedTCB.Microcode,
		GuestSVN: r.GuestSVN, VMPL: r.VMPL, Debug: r.Policy.Debug(), MigrationAgent: r.Policy.MigrationAgent(), SMT: r.Policy.SMT(),
	}.Claims()
	addData(out, runtime, init)
	return out
}

// addData shows runtime and init-time data, where they are JSON.
func addData(to map[string]any, runtime, init *request.Data) {
	if runtime != nil && runtime.Object != nil {
		to[claims.Runtime] = runtime.Object
	}
	if init != nil && init.Object != nil {
		to[claims.InitTime] = init.Object
	}
}

// AK judges evidence for a certificate: the hardware report inside the HCL report is genuine and about
// the claims beside it, and the claims name exactly these two keys of a vTPM.
func (v *Verifier) AK(ctx context.Context, in *request.AK, at time.Time) (*AK, error) {
	report, err := hcl.Parse(in.HCLReport)
	if err != nil {
		return nil, err
	}
	if report.Type != hcl.TypeSNP {
		return nil, evidence.Refuse(evidence.CodeUnsupported, "HCL report type", report.Type.String(), hcl.TypeSNP.String())
	}
	if err := report.CheckBinding(); err != nil {
		return nil, err
	}
	runtime, err := request.NewJSONData("HCL claims", report.Claims)
	if err != nil {
		return nil, err
	}
	got, err := v.snp(ctx, report.Hardware, in.Chain, runtime, in.InitTime, at)
	if err != nil {
		return nil, err
	}
	named, err := hcl.ParseClaims(report.Claims)
	if err != nil {
		return nil, err
	}
	ak, err := sameKey(named, hcl.KeyAK, in.AKPublic, akAttributes)
	if err != nil {
		return nil, err
	}
	if _, err := sameKey(named, hcl.KeyEK, in.EKPublic, ekAttributes); err != nil {
		return nil, err
	}
	out := &AK{Result: &Result{root: got.root, claims: got.claims}, public: ak}
	claims.Root(out.claims, out.root)
	out.vmID, err = vmID(runtime)
	return out, err
}

// vmID takes the VM's GUID from the HCL claims, in upper case as Azure writes it.
func vmID(runtime *request.Data) (string, error) {
	config, _ := runtime.Object["vm-configuration"].(map[string]any)
	id, _ := config["vmUniqueId"].(string)
	if !guid(id) {
		return "", evidence.Refuse(evidence.CodeParse, "vm-configuration.vmUniqueId", id, "a GUID")
	}
	return strings.ToUpper(id), nil
}

func guid(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i, c := range []byte(s) {
		hyphen := i == 8 || i == 13 || i == 18 || i == 23
		if hyphen != (c == '-') || !hyphen && !bytes.ContainsRune([]byte("0123456789abcdefABCDEF"), rune(c)) {
			return false
		}
	}
	return true
}
