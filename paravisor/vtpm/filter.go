package vtpm

import (
	"encoding/binary"
	"slices"

	"github.com/google/go-tpm/tpm2"
)

// Answer codes of the proxy's own. The numbers are TPM 2.0's.
const (
	rcOK             uint32 = 0
	rcAuthMissing    uint32 = 0x125
	rcAuthType       uint32 = 0x124
	rcDisabled       uint32 = 0x120
	rcCommandCode    uint32 = 0x143
	rcNVAuthorized   uint32 = 0x149 // TPM_RC_NV_AUTHORIZATION
	rcNVRange        uint32 = 0x146
	rcNVUnavailable  uint32 = 0x923
	rcCommandSize    uint32 = 0x142
	rcSizeParameter1 uint32 = 0x1d5
	rcHierarchy2     uint32 = 0x285 // TPM_RC_HIERARCHY, handle 2
)

const (
	tagNoSessions uint16 = 0x8001
	tagSessions   uint16 = 0x8002

	sessionPassword uint32 = 0x40000009 // TPM_RS_PW
)

// command is a TPM command as it came: tag u16, size u32, code u32, then handles. Big-endian.
type command []byte

func (c command) tag() uint16      { return binary.BigEndian.Uint16(c) }
func (c command) code() tpm2.TPMCC { return tpm2.TPMCC(be32(c[6:])) }

// handle is the n-th handle from 0, or 0 where the command is too short; swtpm answers that itself.
func (c command) handle(n int) tpm2.TPMHandle {
	at := 10 + 4*n
	if len(c) < at+4 {
		return 0
	}
	return tpm2.TPMHandle(be32(c[at:]))
}

// authArea is the authorization area after n handles, and what follows it. ok is false where there is none, or its size doesn't fit.
func (c command) authArea(handles int) (area, params []byte, ok bool) {
	at := 10 + 4*handles
	if c.tag() != tagSessions || len(c) < at+4 {
		return nil, nil, false
	}
	size := be32(c[at:])
	rest := c[at+4:]
	if uint64(size) > uint64(len(rest)) {
		return nil, nil, false
	}
	return rest[:size], rest[size:], true
}

var (
	identityKeys   = []tpm2.TPMHandle{handleAK, handleEK}
	servedIndexes  = []tpm2.TPMHandle{nvHCLReport, nvAKCert}
	platformMarks  = []tpm2.TPMHandle{nvProvisioned, nvVolumeDigest}
	nvIndexAtHand1 = []tpm2.TPMCC{tpm2.TPMCCNVWrite, tpm2.TPMCCNVIncrement, tpm2.TPMCCNVExtend, tpm2.TPMCCNVSetBits,
		tpm2.TPMCCNVWriteLock, tpm2.TPMCCNVReadLock, tpm2.TPMCCPolicyNV, tpm2.TPMCCPolicyAuthorizeNV}
)

// refusal tells the answer to a command that would take away the vTPM's identity, or rcOK.
//
// The firmware holds platform authorization for its first moments and needs some of it: it allocates
// PCR banks, then sets a random platform authorization or switches the platform hierarchy off. Those
// stay. What it has no need of is refused, whoever asks.
func refusal(c command) uint32 {
	switch code := c.code(); code {
	case tpm2.TPMCCClear, tpm2.TPMCCClearControl:
		// Clear would evict the AK. The TPM's own answer when clearing is disabled.
		return rcDisabled
	case tpm2.TPMCCChangeEPS, tpm2.TPMCCChangePPS:
		return rcCommandCode // as a TPM without these optional commands
	case tpm2.TPMCCHierarchyControl:
		return hierarchyRefusal(c)
	case tpm2.TPMCCEvictControl:
		if slices.Contains(identityKeys, c.handle(1)) {
			return rcHierarchy2
		}
	case tpm2.TPMCCNVUndefineSpace:
		if reservedIndex(c.handle(1)) {
			return rcNVAuthorized
		}
	case tpm2.TPMCCNVUndefineSpaceSpecial, tpm2.TPMCCNVChangeAuth:
		if reservedIndex(c.handle(0)) {
			return rcNVAuthorized
		}
	case tpm2.TPMCCNVCertify:
		if slices.Contains(servedIndexes, c.handle(2)) {
			return rcNVAuthorized // it would certify the placeholder
		}
	default:
		if slices.Contains(nvIndexAtHand1, code) && slices.Contains(servedIndexes, c.handle(1)) {
			return rcNVAuthorized
		}
	}
	return rcOK
}

func reservedIndex(h tpm2.TPMHandle) bool {
	return slices.Contains(servedIndexes, h) || slices.Contains(platformMarks, h)
}

// hierarchyRefusal lets the platform hierarchy be switched off, and any be switched on. The others carry EK, AK and the reserved indexes.
func hierarchyRefusal(c command) uint32 {
	_, params, ok := c.authArea(1)
	if !ok {
		return rcOK // the TPM refuses it for its missing authorization
	}
	if len(params) < 5 {
		return rcCommandSize
	}
	if which, on := tpm2.TPMHandle(be32(params)), params[4] != 0; !on && which != tpm2.TPMRHPlatform {
		return rcDisabled
	}
	return rcOK
}

// stateNeutral are the commands that leave the permanent state alone when they succeed. Only they are
// answered without a look at that state; a command that is missing here costs time, never a lost write.
var stateNeutral = []tpm2.TPMCC{
	tpm2.TPMCCPCRExtend, tpm2.TPMCCPCREvent, tpm2.TPMCCPCRRead, tpm2.TPMCCGetCapability, tpm2.TPMCCGetRandom, tpm2.TPMCCReadPublic,
	tpm2.TPMCCNVReadPublic, tpm2.TPMCCReadClock, tpm2.TPMCCTestParms, tpm2.TPMCCSelfTest, tpm2.TPMCCGetTestResult, tpm2.TPMCCIncrementalSelfTest,
	tpm2.TPMCCStartAuthSession, tpm2.TPMCCFlushContext, tpm2.TPMCCContextLoad, tpm2.TPMCCContextSave, tpm2.TPMCCLoad, tpm2.TPMCCLoadExternal,
	tpm2.TPMCCHash, tpm2.TPMCCHashSequenceStart, tpm2.TPMCCSequenceUpdate, tpm2.TPMCCSequenceComplete, tpm2.TPMCCEventSequenceComplete, tpm2.TPMCCVerifySignature,
	tpm2.TPMCCPolicyPCR, tpm2.TPMCCPolicyAuthorize, tpm2.TPMCCPolicyGetDigest, tpm2.TPMCCPolicyCommandCode, tpm2.TPMCCPolicyOR,
	tpm2.TPMCCPolicyRestart, tpm2.TPMCCPolicyAuthValue, tpm2.TPMCCPolicyPassword,
}

func mayChangeState(c command, answer []byte) bool {
	succeeded := len(answer) >= 10 && be32(answer[6:]) == rcOK
	// A failed authorization moves the dictionary-attack counter, which is permanent.
	return !(slices.Contains(stateNeutral, c.code()) && (succeeded || c.tag() == tagNoSessions))
}

func errorAnswer(rc uint32) []byte {
	b := binary.BigEndian.AppendUint16(nil, tagNoSessions)
	b = binary.BigEndian.AppendUint32(b, 10)
	return binary.BigEndian.AppendUint32(b, rc)
}
