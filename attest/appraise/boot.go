package appraise

import (
	"fmt"

	"cloister.dev/cloister/evidence/vtpm"
)

// boot is what the replayed log says of Secure Boot.
type boot struct{ SecureBoot, DefaultKeys, DB, DBX bool }

// bootState reads the Secure Boot variables of a guest's log, which must keep the rules of the firmware profile and
// replay to the quoted registers 0 to 7. The guest may be of any vendor, so our own images' rules are not asked for.
func bootState(raw []byte, pcrs vtpm.PCRs) (*boot, error) {
	log, err := vtpm.ParseEventLog(raw)
	if err != nil {
		return nil, fmt.Errorf("reading TcgLogs: %w", err)
	}
	if err := log.Explains(pcrs); err != nil {
		return nil, fmt.Errorf("replaying TcgLogs: %w", err)
	}
	if err := log.Check(vtpm.Profile); err != nil {
		return nil, fmt.Errorf("judging TcgLogs: %w", err)
	}
	v, err := log.SecureBootVariables()
	if err != nil {
		return nil, fmt.Errorf("reading Secure Boot from TcgLogs: %w", err)
	}
	return &boot{SecureBoot: v.On(), DefaultKeys: v.PK != nil && v.KEK != nil, DB: v.DB != nil, DBX: v.DBX != nil}, nil
}
