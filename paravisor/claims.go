package paravisor

import (
	"encoding/hex"
	"strings"

	"cloister.dev/cloister/evidence/hcl"
	"cloister.dev/cloister/paravisor/vtpm"
)

// claims are the runtime claims of this VM: the exact bytes whose digest goes into a hardware report.
func (s *Session) claims(in *input, userData [vtpm.UserDataSize]byte, keys ...hcl.JWK) ([]byte, error) {
	return (&hcl.RuntimeClaims{
		Keys: keys,
		VMConfiguration: hcl.VMConfiguration{
			ConsoleEnabled: true,
			SecureBoot:     s.Config.SecureBoot,
			TPMEnabled:     true,
			TPMPersisted:   in.persisted(),
			VMUniqueID:     strings.ToUpper(in.data.VMID),
		},
		UserData: strings.ToUpper(hex.EncodeToString(userData[:])),
	}).Marshal()
}

// hclVersion is the header version of reports that are made today.
const hclVersion = 2

func hclReport(hardware, claims []byte) ([]byte, error) {
	return (&hcl.Report{Version: hclVersion, Type: hcl.TypeSNP, Hardware: hardware, Claims: claims}).Marshal()
}
