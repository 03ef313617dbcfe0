package appraise

import (
	"context"
	"crypto/x509"
	"fmt"
	"time"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/dcap"
	"cloister.dev/cloister/evidence/sevsnp"
	"cloister.dev/cloister/evidence/soft"
)

// Roots are the roots of trust that one issuer stands for. The zero value accepts nothing.
type Roots struct {
	software bool
	amd      *AMDOptions // nil: evidence of AMD processors is refused
	chains   *sevsnp.Chains
	intel    *IntelOptions // nil: evidence of Intel processors is refused
	pcks     *dcap.ChainCache
	named    SoftwareRoots // of a software issuer; else those known to be refused, so that the refusal can say so
}

// SoftwareRoots are roots by what they sign.
type SoftwareRoots struct {
	SEVSNP []soft.Root
	TDX    []soft.Root
}

// AMDOptions are what a hardware issuer asks of AMD's evidence.
type AMDOptions struct {
	Floor       sevsnp.TCB // of the reported TCB
	CRLs        []*x509.RevocationList
	RequireCRLs bool
	// Lists gets lists that are not among CRLs; nil: nobody does. It is asked only where lists are required.
	Lists Lister
}

// Lister gives the current revocation list of a product's root. What it can't give is "unavailable".
type Lister interface {
	RevocationList(ctx context.Context, p sevsnp.Product, key sevsnp.SigningKey) (*x509.RevocationList, error)
}

// rememberedChains bounds how many certificate chains a hardware issuer verifies only once; one processor has one
// chain per TCB.
const rememberedChains = 10_000

// Hardware accepts evidence of processors of the makers for which options are given. Software roots that the
// installation also has are refused by name.
func Hardware(amd *AMDOptions, intel *IntelOptions, refused SoftwareRoots) Roots {
	return Roots{amd: amd, chains: sevsnp.NewChains(rememberedChains), intel: intel, pcks: dcap.NewChainCache(rememberedChains), named: refused}
}

// Software accepts evidence of the named software roots.
func Software(roots SoftwareRoots) Roots { return Roots{software: true, named: roots} }

// authenticate checks who signed a report.
func (r Roots) authenticate(ctx context.Context, report *sevsnp.Report, chainPEM []byte, at time.Time) (*sevsnp.Authentic, error) {
	chain, err := sevsnp.ParseChain(chainPEM)
	if err != nil {
		return nil, err
	}
	if r.software {
		return soft.Authenticate(report, chain, r.named.SEVSNP, at)
	}
	if r.amd == nil {
		return nil, evidence.Refuse(evidence.CodePolicy, "root", string(evidence.RootAMD), "a root that this issuer stands for")
	}
	o := sevsnp.Options{At: at, CRLs: r.amd.CRLs, RequireCRL: r.amd.RequireCRLs, Chains: r.chains}
	authentic, err := sevsnp.Authenticate(report, chain, o)
	if r.amd.Lists != nil && evidence.CodeOf(err) == evidence.CodeUnavailable {
		if o.CRLs, err = r.lists(ctx, chain, report.KeyInfo.SigningKey); err != nil {
			return nil, err
		}
		authentic, err = sevsnp.Authenticate(report, chain, o)
	}
	if err != nil {
		if len(r.named.SEVSNP) > 0 {
			if _, softErr := soft.Authenticate(report, chain, r.named.SEVSNP, at); softErr == nil {
				return nil, refuseSoftware(evidence.RootAMD)
			}
		}
		return nil, err
	}
	if got := report.ReportedTCB; !got.Meets(r.amd.Floor) {
		return nil, evidence.Refuse(evidence.CodeTCB, "reported TCB", got.String(), fmt.Sprintf("at least %s", r.amd.Floor)).By("hardware.amd.minimumTCB")
	}
	return authentic, nil
}

// lists gets the list of the chain's root. The root's name is not verified yet: a list of another product does not help,
// and a product that does not exist is refused.
func (r Roots) lists(ctx context.Context, c sevsnp.Chain, key sevsnp.SigningKey) ([]*x509.RevocationList, error) {
	name := "none"
	if c.Root != nil {
		name = c.Root.Subject.CommonName
	}
	for _, p := range []sevsnp.Product{sevsnp.Milan, sevsnp.Genoa, sevsnp.Turin} {
		if name == "ARK-"+string(p) {
			list, err := r.amd.Lists.RevocationList(ctx, p, key)
			return []*x509.RevocationList{list}, err
		}
	}
	return nil, evidence.Refuse(evidence.CodeChain, "root of the SNP chain", name, "a root of AMD's")
}

func refuseSoftware(want evidence.RootKind) error {
	return evidence.Refuse(evidence.CodePolicy, "root", string(evidence.RootSoftware), string(want)).By("this issuer does not stand for software roots")
}
