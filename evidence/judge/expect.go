package judge

import (
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"

	"cloister.dev/cloister/evidence"
)

// Expect is what a relying party expects, claim by claim. It is made by the methods below and by ParseExpect; each
// checks what it is given, so that a mistake is found before any evidence is read. The zero value expects nothing, and
// a verdict under it is "refused".
//
// Claims are of three kinds. What was started (measurement, host data, report data, the TD's registers, a nonce, PCRs)
// must be said something of: a claim of which nothing was said refuses. Safe ones (debug, migration, VMPL, the TCB, …)
// are judged by a default where nothing was said, and can't be waived. Provisional firmware is refused unless that is
// waived: real clouds run it, and the floor holds for the committed level, to which it could be rolled back, in any case.
// The others are not asked for unless named.
type Expect struct {
	rules  map[string]rule
	anyOf  map[string]bool // named to be accepted whatever it is
	all    bool            // everything that must be said something of is accepted whatever it is
	policy bool            // the same, since a policy decides
	kinds  []string
	roots  []evidence.RootKind
	nonce  []byte
}

// rule is one expectation as it was written.
type rule struct {
	op     string // "exactly", "oneOf", "atLeast"
	values []any
}

// Nothing tells that nothing at all was said.
func (e Expect) Nothing() bool {
	return len(e.rules) == 0 && len(e.anyOf) == 0 && !e.all && !e.policy && e.nonce == nil
}

func (e *Expect) say(name string, r rule) error {
	if _, twice := e.rules[name]; twice || e.anyOf[name] {
		return mistake(name, "named twice", "one expectation")
	}
	if err := try(name, r); err != nil {
		return err
	}
	if e.rules == nil {
		e.rules = map[string]rule{}
	}
	e.rules[name] = r
	return nil
}

func mistake(name, got, want string) error {
	return evidence.Refuse(evidence.CodePolicy, "expectation "+name, got, want)
}

// ReportData expects exactly these 64 bytes as the hardware report's data. Another size is a mistake: nothing is ever
// padded or cut.
func (e *Expect) ReportData(want []byte) error {
	if len(want) != 64 {
		return mistake(nameReportData, fmt.Sprintf("%d bytes", len(want)), "64 bytes")
	}
	return e.say(nameReportData, rule{op: opExactly, values: []any{hex.EncodeToString(want)}})
}

// maxNonce bounds a challenge, in bytes.
const maxNonce = 64

// Nonce expects that the evidence answers this challenge.
func (e *Expect) Nonce(want []byte) error {
	switch {
	case len(want) == 0 || len(want) > maxNonce:
		return mistake(nameNonce, fmt.Sprintf("%d bytes", len(want)), fmt.Sprintf("1 to %d bytes", maxNonce))
	case e.nonce != nil || e.anyOf[nameNonce]:
		return mistake(nameNonce, "named twice", "one expectation")
	}
	e.nonce = slices.Clone(want)
	return nil
}

// said tells whether a claim has an expectation already.
func (e *Expect) said(name string) bool {
	switch name {
	case nameNonce:
		return e.nonce != nil
	default:
		return e.rules[name].op != ""
	}
}

// Any accepts whatever the named claims are. "all" stands for all that must be said something of. What is judged by a
// safe default can't be named.
func (e *Expect) Any(names ...string) error {
	for _, name := range names {
		switch {
		case name == "all":
			e.all = true
			continue
		case !slices.Contains(AnyNames(), name):
			return mistake("any", fmt.Sprintf("%.64q", name), "all, or some of "+strings.Join(AnyNames(), ", "))
		case e.said(name):
			return mistake(name, "named twice", "one expectation")
		}
		if e.anyOf == nil {
			e.anyOf = map[string]bool{}
		}
		e.anyOf[name] = true
	}
	return nil
}

// LeaveToPolicy accepts whatever a claim is of which nothing was said, because an attestation policy, which the caller
// evaluates, decides. Safe defaults are judged all the same.
func (e *Expect) LeaveToPolicy() { e.policy = true }

// Roots expects the evidence to end at one of these kinds of root, which must also be among those that were named.
func (e Expect) Roots() []evidence.RootKind { return slices.Clone(e.roots) }

// waived tells whether a claim that must be said something of was given up.
func (e Expect) waived(name string) bool { return e.all || e.policy || e.anyOf[name] }

// AnyNames lists what Any takes, for people.
func AnyNames() []string {
	names := map[string]bool{nameNonce: true, namePCRs: true}
	for _, f := range fields {
		if f.standing != safe {
			names[f.name] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// Names lists the claims that a document may have expectations of, for people.
func Names() []string {
	names := map[string]bool{}
	for _, f := range fields {
		names[f.name] = true
	}
	for n := range 16 {
		names[pcrName(n)] = true
	}
	return slices.Sorted(maps.Keys(names))
}

// CodeFor is the code that a refusal over a check of this name has.
func CodeFor(claim string) evidence.Code {
	claim, _, _ = strings.Cut(claim, ":")
	for _, x := range []struct {
		code  evidence.Code
		names []string // beginnings
	}{
		{evidence.CodeRevoked, []string{checkRevocation + "\x00"}},
		{evidence.CodeChain, []string{checkHardware, checkChain, checkQuote + "\x00", "certificates", "root", "signing-key", checkCollateral}},
		{evidence.CodeBinding, []string{checkBinding, checkAK, checkPCRs, checkUserData, nameNonce, nameReportData, nameUserData, "mrconfigid", "mrowner", "fmspc", "ppid", "host-data", "chip-id", "vm-id"}},
		{evidence.CodeTCB, []string{"reported-tcb", "launch-tcb", "committed-tcb", "current-tcb", "provisional", nameTCBStatus, "launch-mit", "current-mit", "tcb", "tee-tcb", "seam-", "mrseam", "mrsignerseam", "qe-isv", "pck-pce"}},
		{evidence.CodeMeasurement, []string{"measurement", "mr", "rtmr", "isv-", "pcr", checkEventLog, nameSecureBoot, "id-key", "author-key", "family-id", "image-id", "guest-svn"}},
		{evidence.CodeConfig, []string{"vmpl", "policy-", "platform-", "mrservicetd", "td-", "sgx-", "xfam", "debug", "migrat"}},
	} {
		for _, name := range x.names {
			if strings.HasPrefix(claim+"\x00", name) {
				return x.code
			}
		}
	}
	return evidence.CodePolicy
}
