package launch

import "crypto/sha256"

// LeaveInitrd is what the guest measures into PCR 11 right before it hands over to the distribution. What is sealed
// to PCR 11 before that can't be unsealed after it.
const LeaveInitrd = "leave-initrd"

// PCR11Running is the value of PCR 11 in a running system, from the value that the stub left: quotes show this one.
func PCR11Running(stub [32]byte) ([32]byte, Event) {
	e := Event{11, LeaveInitrd, sha256.Sum256([]byte(LeaveInitrd))}
	return Extend(stub, e.Digest), e
}
