package api

import (
	"fmt"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/keys/keystore"
)

// archive is a backend that can seal a whole key, with its versions, so that only it opens it again.
type archive interface {
	Archive(k *keystore.Key) ([]byte, error)
	Unarchive(vault keystore.VaultID, sealed []byte) (*keystore.Key, error)
}

type backupBody struct {
	Value string `json:"value"`
}

func (c *call) archive() (archive, error) {
	a, ok := c.Backend.(archive)
	if !ok {
		return nil, evidence.Refuse(evidence.CodeUnsupported, "backup", "keys in a token", "the token's own backup, beside one of the records")
	}
	return a, nil
}

// backup answers POST /keys/NAME/backup. A guest-state key has none: a copy of its record would set back its generation.
func (c *call) backup(name string) (any, error) {
	if err := c.may("backup/action", name); err != nil {
		return nil, err
	}
	a, err := c.archive()
	if err != nil {
		return nil, err
	}
	k, err := c.live(name)
	if err != nil {
		return nil, err
	}
	if k.GuestState != nil {
		return nil, evidence.Refuse(evidence.CodePolicy, "key "+name, "backup", "no copy of a guest-state key's record").By("a restored record would take a guest state back to an earlier generation")
	}
	sealed, err := a.Archive(k)
	if err != nil {
		return nil, err
	}
	return backupBody{encode(sealed)}, nil
}

// restore answers POST /keys/restore. The key comes back under its own name, with all its versions, where that name is free.
func (c *call) restore() (any, error) {
	if err := c.may("restore/action", ""); err != nil {
		return nil, err
	}
	a, err := c.archive()
	if err != nil {
		return nil, err
	}
	var in backupBody
	if err := decodeBody(c.body, &in); err != nil {
		return nil, err
	}
	raw, err := decode("value", in.Value)
	if err != nil {
		return nil, err
	}
	k, err := a.Unarchive(c.vault.ID(), raw)
	if err != nil {
		return nil, badParameter("the backup is not one of this vault's, or was changed")
	}
	if k.GuestState != nil || k.Latest() == nil {
		return nil, fmt.Errorf("a backup of %s that this service does not make", k.ID)
	}
	err = c.Backend.Update(c.req.Context(), k.ID, func(old *keystore.Key) (*keystore.Key, error) {
		if old != nil {
			return nil, conflict("Key "+k.ID.Name+" exists, or is deleted and not purged: a backup does not replace it.", "KeyExists")
		}
		return k, nil
	})
	if err != nil {
		return nil, err
	}
	return c.bundle(k, k.Latest())
}
