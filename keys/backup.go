package keys

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"cloister.dev/cloister/keys/audit"
	"cloister.dev/cloister/keys/keystore"
)

// Backup reads the keystore for a copy elsewhere, also while it is served. The copy is encrypted under the same passphrase;
// of keys in a token it holds the records only.
func Backup(c Config, env Environment) ([]byte, error) {
	pass, err := c.Keystore.passphrase(env.Getenv)
	if err != nil {
		return nil, err
	}
	defer clear(pass)
	return keystore.Snapshot(c.files(), pass)
}

// Restore puts a backup in the keystore's place while it is not served, logs that it did, and gives the new epoch of the
// store. From then on no guest state is opened before its owner approved that: the backup doesn't know what was confirmed
// after it. VMs that were made after it have no key any more.
func Restore(c Config, env Environment, backup []byte, replace bool) (epoch uint64, err error) {
	if err := c.Validate(); err != nil {
		return 0, fmt.Errorf("configuration: %w", err)
	}
	pass, err := c.Keystore.passphrase(env.Getenv)
	if err != nil {
		return 0, err
	}
	defer clear(pass)
	if err := os.MkdirAll(c.StateDir, 0o700); err != nil {
		return 0, fmt.Errorf("making the state folder: %w", err)
	}
	return keystore.RestoreSoftware(c.files(), pass, backup, replace, func(epoch uint64) error {
		log, err := audit.Open(filepath.Join(c.StateDir, AuditFile), env.Now)
		if err != nil {
			return err
		}
		return errors.Join(log.Write(audit.Entry{Event: "restore-store", Outcome: "granted", StoreEpoch: &epoch, Backup: keystore.Digest(backup)}), log.Close())
	})
}
