package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"cloister.dev/cloister/internal/failpoint"
	"cloister.dev/cloister/keys/keystore"
	"cloister.dev/cloister/keys/vaults"
)

var (
	afterVault      = failpoint.New("keys/vault-written")
	afterVaultKey   = failpoint.New("keys/vault-key-destroyed")
	afterVaultPurge = failpoint.New("keys/vault-purged")
)

// The vaults of the configuration are always there. Those that a control plane made are records; no vault has an empty
// name, so no key has their ids.

const (
	vaultMember = "vault"
	vaultPrefix = "vault-"
)

func vaultRecord(name string) keystore.ID {
	return keystore.ID{Name: vaultPrefix + strings.ToLower(name)}
}

// declared finds a vault of the configuration; nil where there is none of the name.
func (s *Server) declared(name string) *vaults.Vault {
	for _, v := range s.Vaults {
		if strings.EqualFold(v.Name, name) {
			return &v
		}
	}
	return nil
}

// vaultNamed finds a vault or a pool, also a deleted one; nil where there is none.
func (s *Server) vaultNamed(ctx context.Context, name string) (*vaults.Vault, error) {
	if v := s.declared(name); v != nil {
		return v, nil
	}
	k, err := s.Backend.Get(ctx, vaultRecord(name))
	if errors.Is(err, keystore.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return readVault(k)
}

func readVault(k *keystore.Key) (*vaults.Vault, error) {
	if k == nil {
		return nil, nil
	}
	var v vaults.Vault
	if err := json.Unmarshal(k.Extra[vaultMember], &v); err != nil {
		return nil, fmt.Errorf("record of a vault %s: %w", k.ID, err)
	}
	return &v, nil
}

// madeVaults are those that a control plane made.
func (s *Server) madeVaults(ctx context.Context) ([]vaults.Vault, error) {
	all, err := s.Backend.List(ctx, keystore.VaultID{})
	if err != nil {
		return nil, err
	}
	var out []vaults.Vault
	for _, k := range all {
		if !strings.HasPrefix(k.ID.Name, vaultPrefix) {
			continue
		}
		v, err := readVault(k)
		if err != nil {
			return nil, err
		}
		out = append(out, *v)
	}
	return out, nil
}

// changeVault writes a vault's record.
func (s *Server) changeVault(ctx context.Context, name string, change func(*vaults.Vault) (vaults.Vault, error)) error {
	id := vaultRecord(name)
	err := s.Backend.Update(ctx, id, func(k *keystore.Key) (*keystore.Key, error) {
		old, err := readVault(k)
		if err != nil {
			return nil, err
		}
		next, err := change(old)
		if err != nil {
			return nil, err
		}
		raw, err := json.Marshal(next)
		if err != nil {
			return nil, err
		}
		return &keystore.Key{ID: id, Extra: map[string][]byte{vaultMember: raw}}, nil
	})
	if err == nil {
		afterVault.Hit()
	}
	return err
}

// destroyVault destroys the keys of a vault that is being purged, its role assignments, and last its record: a crash
// between leaves a vault that the next sweep purges.
func (s *Server) destroyVault(ctx context.Context, v vaults.Vault) error {
	all, err := s.Backend.List(ctx, v.ID())
	if err != nil {
		return err
	}
	for _, k := range all {
		if k.Destroyed {
			continue
		}
		if err := s.Backend.Update(ctx, k.ID, func(k *keystore.Key) (*keystore.Key, error) {
			if k == nil {
				return nil, nil
			}
			return destroyed(k), nil
		}); err != nil {
			return fmt.Errorf("destroying %s: %w", k.ID, err)
		}
		afterVaultKey.Hit()
	}
	nothing := func(*keystore.Key) (*keystore.Key, error) { return nil, nil }
	if err := s.Backend.Update(ctx, assignmentsID(v.ID()), nothing); err != nil {
		return err
	}
	if err := s.Backend.Update(ctx, vaultRecord(v.Name), nothing); err != nil {
		return err
	}
	afterVaultPurge.Hit()
	return nil
}

// sweepVaults purges the vaults whose time is over, and gives those that are live.
func (s *Server) sweepVaults(ctx context.Context) ([]vaults.Vault, error) {
	live := slices.Clone(s.Vaults)
	made, err := s.madeVaults(ctx)
	if err != nil {
		return live, err
	}
	var errs []error
	for _, v := range made {
		switch {
		case v.Live():
			live = append(live, v)
		case v.Due(s.Now()):
			errs = append(errs, s.purgeDue(ctx, v))
		}
	}
	return live, errors.Join(errs...)
}

// vaultFailure puts a conflict of states into Key Vault's words.
func vaultFailure(err error) error {
	var c *vaults.Conflict
	if !errors.As(err, &c) {
		return err
	}
	f := &failure{message: c.Message}
	switch c.Reason {
	case vaults.Taken:
		f.status, f.code = http.StatusConflict, "VaultAlreadyExists"
	case vaults.IsDeleted:
		f.status, f.code = http.StatusConflict, "ConflictError"
	case vaults.Protected:
		f.status, f.code = http.StatusMethodNotAllowed, "MethodNotAllowed"
	default:
		f.status, f.code = http.StatusNotFound, "VaultNotFound"
	}
	return f
}
