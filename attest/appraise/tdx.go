package appraise

import (
	"context"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"cloister.dev/cloister/attest/claims"
	"cloister.dev/cloister/attest/request"
	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/dcap"
	"cloister.dev/cloister/evidence/hcl"
	"cloister.dev/cloister/evidence/initdata"
	"cloister.dev/cloister/evidence/soft"
	"cloister.dev/cloister/evidence/tdx"
)

// Endorser gives Intel's collateral of a platform whose certificate was verified. What it can't give is "unavailable".
type Endorser interface {
	DCAP(ctx context.Context, pck *dcap.PCK, tee dcap.TEE) (*dcap.Collateral, error)
}

// IntelOptions are what a hardware issuer asks of Intel's evidence.
type IntelOptions struct {
	Collateral Endorser
	// Accept lists the TCB statuses that are accepted; a revoked platform never is.
	Accept []dcap.Status
	// MinimumEvaluation is the lowest TCB evaluation number of collateral that is taken.
	MinimumEvaluation uint32
}

// TdxVM judges a TD quote and the data that came with it.
func (v *Verifier) TdxVM(ctx context.Context, in *request.TdxVM, at time.Time) (*Result, error) {
	got, err := v.td(ctx, in.Quote, in.Runtime, in.InitTime, at)
	if err != nil {
		return nil, err
	}
	return got.result(in.Runtime), nil
}

// td authenticates a quote with its platform, and checks that it is about exactly this runtime and init-time data.
func (v *Verifier) td(ctx context.Context, raw []byte, runtime, init *request.Data, at time.Time) (*judged, error) {
	quote, err := tdx.ParseQuote(raw)
	if err != nil {
		return nil, err
	}
	authentic, err := v.roots.authenticateTD(ctx, quote, at)
	if err != nil {
		return nil, err
	}
	body := authentic.Quote().Body
	if runtime != nil {
		if want := hcl.ReportData(runtime.Raw); subtle.ConstantTimeCompare(body.ReportData[:], want[:]) != 1 {
			return nil, evidence.Refuse(evidence.CodeBinding, "REPORTDATA", hex.EncodeToString(body.ReportData[:]), hex.EncodeToString(want[:])).By("SHA-256 of runtimeData, then 32 zero bytes")
		}
	}
	if init != nil {
		if want := initdata.TDXConfigID(init.Raw); subtle.ConstantTimeCompare(body.MRConfigID[:], want[:]) != 1 {
			return nil, evidence.Refuse(evidence.CodeBinding, "MRCONFIGID", hex.EncodeToString(body.MRConfigID[:]), hex.EncodeToString(want[:])).By("SHA-384 of initTimeData")
		}
	}
	a := body.TDAttributes
	if a.Reserved() != 0 || a.Untrusted() && a&0xff != tdx.Debug {
		return nil, evidence.Refuse(evidence.CodeConfig, "TD attributes", a.String(), "none that are reserved, and no profiling by the host")
	}
	out := tdClaims(body, authentic.TCB())
	addData(out, runtime, init)
	return &judged{authentic.Root(), out}, nil
}

func tdClaims(b tdx.Body, tcb *dcap.TCBResult) map[string]any {
	a := b.TDAttributes
	c := claims.TDX{
		TEETCBSVN: b.TEETCBSVN, MRSeam: b.MRSeam, MRSignerSeam: b.MRSignerSeam, SeamAttributes: b.SeamAttributes, Attributes: uint64(a), XFAM: b.XFAM,
		MRTD: b.MRTD, MRConfigID: b.MRConfigID, MROwner: b.MROwner, MROwnerConfig: b.MROwnerConfig, RTMR: b.RTMR, ReportData: b.ReportData,
		Debug: a.Has(tdx.Debug), SEPTVEDisable: a.Has(tdx.SEPTVEDisable), PKS: a.Has(tdx.PKS), KeyLocker: a.Has(tdx.KeyLocker), Perfmon: a.Has(tdx.Perfmon), Migratable: a.Has(tdx.Migratable),
		MRServiceTD: b.MRServiceTD,
	}
	if tcb != nil {
		c.TCB = &claims.TCB{Status: string(tcb.Status), Advisories: tcb.Advisories, EvaluationNumber: tcb.EvaluationNumber}
	}
	return c.Claims()
}

// authenticateTD checks who signed a quote, and what Intel says of the platform.
func (r Roots) authenticateTD(ctx context.Context, q *tdx.Quote, at time.Time) (*tdx.Authentic, error) {
	if r.software { // nobody keeps collateral of software: its TCB has no status
		return soft.AuthenticateTDX(q, r.named.TDX, dcap.Options{At: at, Chains: r.pcks})
	}
	if r.intel == nil {
		return nil, evidence.Refuse(evidence.CodePolicy, "root", string(evidence.RootIntel), "a root that this issuer stands for")
	}
	o := dcap.Options{At: at, Chains: r.pcks, Floor: dcap.Floor{EvaluationNumber: r.intel.MinimumEvaluation}}
	genuine, err := tdx.Authenticate(q, o)
	if err != nil {
		if len(r.named.TDX) > 0 {
			if _, softErr := soft.AuthenticateTDX(q, r.named.TDX, dcap.Options{At: at}); softErr == nil {
				return nil, refuseSoftware(evidence.RootIntel)
			}
		}
		return nil, err
	}
	c, err := r.intel.Collateral.DCAP(ctx, genuine.PCK(), dcap.TDX)
	if err != nil {
		return nil, err
	}
	judged, err := genuine.WithCollateral(c, o)
	if err != nil {
		return nil, err
	}
	if got := judged.TCB().Status; !slices.Contains(r.intel.Accept, got) {
		var want []string
		for _, s := range r.intel.Accept {
			want = append(want, string(s))
		}
		return nil, evidence.Refuse(evidence.CodeTCB, "TCB status", fmt.Sprintf("%s (%s)", got, strings.Join(judged.TCB().Advisories, ", ")), strings.Join(want, " or ")).By("hardware.intel.acceptTCB")
	}
	return judged, nil
}
