package compute

import (
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"

	"cloister.dev/cloister/compute/hosts"
	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/health"
	"cloister.dev/cloister/evidence/sevsnp"
	"cloister.dev/cloister/evidence/soft"
	"cloister.dev/cloister/internal/tcbfloor"
)

// Health says what the platforms of hosts must be to take VMs. Everything is said: nothing is accepted for want of a word.
type Health struct {
	// MinimumTCB by product: Milan, Genoa, Turin. Hosts of other products take no VMs.
	MinimumTCB map[string]tcbfloor.Floor `json:"minimumTCB"`
	// Each of these is "required", "refused" or "any".
	Provisional      string `json:"provisional"`      // firmware runs that is not committed
	AliasCheck       string `json:"aliasCheck"`       // memory was checked for aliases
	SMT              string `json:"smt"`              // two threads share a core
	CiphertextHiding string `json:"ciphertextHiding"` // the host can't read encrypted memory
	RAPLDisabled     string `json:"raplDisabled"`     // the host can't measure power finely
	// RevocationLists are files of AMD's; with RequireRevocationLists nobody is fit without a current one.
	RevocationLists        []string `json:"revocationLists,omitempty"`
	RequireRevocationLists bool     `json:"requireRevocationLists"`
	// SoftwareRoots are PEM files of roots whose evidence counts too: software mode.
	SoftwareRoots []string `json:"softwareRoots,omitempty"`
}

const (
	required = "required"
	refused  = "refused"
	anyWord  = "any"
)

func expected(word string) evidence.Expectation[bool] {
	switch word {
	case required:
		return evidence.Exactly(true)
	case refused:
		return evidence.Exactly(false)
	case anyWord:
		return evidence.Any[bool]()
	}
	return evidence.Expectation[bool]{} // refuses
}

func (h Health) words() map[string]string {
	return map[string]string{"health.provisional": h.Provisional, "health.aliasCheck": h.AliasCheck, "health.smt": h.SMT,
		"health.ciphertextHiding": h.CiphertextHiding, "health.raplDisabled": h.RAPLDisabled}
}

func (h Health) validate(bad func(field, got, want string)) {
	if len(h.MinimumTCB) == 0 {
		bad("health.minimumTCB", "", "a floor for one product or more: no host could take VMs")
	}
	for _, name := range slices.Sorted(maps.Keys(h.MinimumTCB)) {
		if !slices.Contains([]sevsnp.Product{sevsnp.Milan, sevsnp.Genoa, sevsnp.Turin}, sevsnp.Product(name)) {
			bad("health.minimumTCB", name, "Milan, Genoa or Turin")
		} else if floor := h.MinimumTCB[name]; !floor.Whole() {
			bad("health.minimumTCB."+name, "a member that is missing", "fmc, bootLoader, tee, snp, microcode")
		}
	}
	for field, word := range h.words() {
		if !slices.Contains([]string{required, refused, anyWord}, word) {
			bad(field, word, "required, refused or any")
		}
	}
	if h.RequireRevocationLists && len(h.RevocationLists) == 0 {
		bad("health.revocationLists", "", "a list for each product, since they are required")
	}
}

// judge reads the files that are named.
func (h Health) judge() (hosts.Judge, error) {
	floor := health.Floor{TCB: map[sevsnp.Product]sevsnp.TCB{}, Provisional: expected(h.Provisional), AliasCheck: expected(h.AliasCheck), SMT: expected(h.SMT),
		CiphertextHiding: expected(h.CiphertextHiding), RAPLDisabled: expected(h.RAPLDisabled)}
	for name, m := range h.MinimumTCB {
		floor.TCB[sevsnp.Product(name)] = m.TCB()
	}
	o := health.Options{RequireCRLs: h.RequireRevocationLists}
	var lists, roots error
	o.CRLs, lists = readEach("health.revocationLists", h.RevocationLists, x509.ParseRevocationList)
	o.Software, roots = readEach("health.softwareRoots", h.SoftwareRoots, soft.ParseRoot)
	return hosts.JudgeBy(floor, o), errors.Join(lists, roots)
}

// readEach reads the files that a member of the configuration names, and reports all that can't be.
func readEach[T any](field string, files []string, parse func([]byte) (T, error)) (out []T, err error) {
	for _, file := range files {
		var one T
		raw, readErr := os.ReadFile(file)
		if readErr == nil {
			one, readErr = parse(raw)
		}
		if readErr != nil {
			err = errors.Join(err, fmt.Errorf("%s: %s: %w", field, file, readErr))
			continue
		}
		out = append(out, one)
	}
	return out, err
}
