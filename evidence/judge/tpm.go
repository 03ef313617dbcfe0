package judge

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"strings"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/bundle"
	"cloister.dev/cloister/evidence/hcl"
	"cloister.dev/cloister/evidence/vtpm"
)

// vtpm shows that the quote is by the key that the hardware report vouches for, and that it is over the PCRs given.
func (h *hearing) vtpm() {
	q := h.Evidence.TPM
	if q == nil {
		return
	}
	key := h.attestationKey()
	if key == nil {
		return
	}
	if err := vtpm.CheckSignature(q.Message, q.Signature, key); err != nil {
		h.failed(checkQuote, ruleAuthentic, err)
		return
	}
	h.met(checkQuote, "signed by the attestation key", "a quote by the attestation key", ruleAuthentic)
	if err := q.Quote.CheckPCRs(q.PCRs); err != nil {
		h.failed(checkPCRs, ruleBinding, err)
		return
	}
	h.quoted = true
	h.met(checkPCRs, "their digest is in the quote", "the values that the quote is over", ruleBinding)
}

// attestationKey is the key of the runtime claims. A quote that stands alone has none that anyone vouches for; its
// signature may still be checked by a key that was given with it.
func (h *hearing) attestationKey() crypto.PublicKey {
	ev := h.Evidence
	if ev.Runtime == nil {
		h.lacking(checkAK, ruleBinding, "no hardware report", "a hardware report that vouches for the attestation key")
		if ev.AK != nil {
			return ev.AK
		}
		if len(h.keys) == 1 {
			return h.keys[0]
		}
		h.lacking(checkQuote, ruleAuthentic, "no attestation key", "the key to check the signature by")
		return nil
	}
	key, err := ev.Runtime.RSAKey(hcl.KeyAK)
	if err != nil {
		h.failed(checkAK, ruleBinding, err)
		return nil
	}
	if ev.AK != nil && !sameKey(key, ev.AK) {
		h.failed(checkAK, ruleBinding, evidence.Refuse(evidence.CodeBinding, "", "another key", "the key in the runtime claims ("+hcl.KeyAK+")"))
		return nil
	}
	h.met(checkAK, "the key in the runtime claims", "the key in the runtime claims ("+hcl.KeyAK+")", ruleBinding)
	return key
}

func sameKey(a, b crypto.PublicKey) bool {
	switch a := a.(type) {
	case *rsa.PublicKey:
		return a.Equal(b)
	case *ecdsa.PublicKey:
		return a.Equal(b)
	}
	return false
}

// firmwarePCRs are those that the firmware's log must explain from start to end. Those behind them go on after the
// firmware hands over, so the log alone can't explain them.
var firmwarePCRs = []int{0, 1, 2, 3, 4, 5, 6, 7}

// eventLog judges the boot log: its rules, and that it explains the firmware's PCRs as quoted.
func (h *hearing) eventLog() {
	ev := h.Evidence
	if ev.EventLog == nil || ev.TPM == nil {
		return
	}
	log, err := vtpm.ParseEventLog(ev.EventLog)
	if err != nil {
		h.failed(checkEventLog, "bytes", err)
		return
	}
	if err := log.Check(vtpm.Strict); err != nil {
		h.failed(checkEventLog, "rules", err)
		return
	}
	replayed, err := log.Replay(vtpm.SHA256)
	if err != nil {
		h.failed(checkEventLog, "replay", err)
		return
	}
	for _, n := range firmwarePCRs {
		quoted, ok := ev.TPM.PCRs[n]
		name := fmt.Sprintf("PCR %d", n)
		if !ok || !bytes.Equal(replayed[n], quoted[:]) {
			h.failed(checkEventLog, "replay", evidence.Refuse(evidence.CodeMeasurement, name, hex.EncodeToString(replayed[n]), hex.EncodeToString(quoted[:])+", as quoted"))
			return
		}
		if quoted == ([32]byte{}) {
			h.failed(checkEventLog, "replay", evidence.Refuse(evidence.CodeMeasurement, name, "zero: nothing was measured", "a measured value"))
			return
		}
	}
	h.met(checkEventLog, "explains PCR 0 to 7 as quoted", "a log that replays to the quoted values", "replay")
	on, err := log.SecureBoot()
	if err != nil {
		h.failed(nameSecureBoot, "event log", err)
		return
	}
	h.claims[nameSecureBoot] = on
}

// userData judges what a bundle says of its guest: the SSH host key must be the one that the guest bound.
func (h *hearing) userData() {
	ev := h.Evidence
	if ev.SSHHostKey == nil || ev.Runtime == nil {
		return
	}
	want, got := bundle.UserData(ev.SSHHostKey), strings.ToLower(ev.Runtime.UserData)
	if subtle.ConstantTimeCompare([]byte(got), []byte(hex.EncodeToString(want[:]))) != 1 {
		h.failed(checkUserData, ruleBinding, evidence.Refuse(evidence.CodeBinding, "user data", got[:min(len(got), 128)], hex.EncodeToString(want[:])+", the digest of the SSH host key"))
		return
	}
	h.met(checkUserData, bundle.Fingerprint(ev.SSHHostKey), "the key whose digest is the user data", ruleBinding)
	h.claims[bundle.ClaimSSHHostKey] = bundle.Fingerprint(ev.SSHHostKey)
}
