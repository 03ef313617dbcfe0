// Package vault is how the control plane reaches the key keeper: so far, to destroy the guest-state key of a VM that
// is deleted. It has no more rights there than the tenant gives to compute's identity.
package vault

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"

	"cloister.dev/cloister/compute/vm"
	"cloister.dev/cloister/evidence/initdata"
)

// Destroyer destroys guest-state keys in one vault.
type Destroyer struct {
	// Vault is the installation's vault, URL without a final slash. Compute's token goes nowhere else, whatever
	// vault a tenant's init data name.
	Vault  string
	HTTP   *http.Client
	Bearer func(context.Context) (string, error)
}

const version = "?api-version=7.4"

// Destroy deletes the key and then purges it, as far as the tenant lets compute do that.
func (d *Destroyer) Destroy(ctx context.Context, v vm.VM) (string, error) {
	init, err := initdata.Parse(v.InitData)
	if err != nil {
		return "", fmt.Errorf("reading the VM's own init data: %w", err)
	}
	if strings.TrimSuffix(init.Keys.URL, "/") != d.Vault {
		return "left to the tenant: the key lies in another vault", nil
	}
	key := "gs-" + v.VMID
	gone := false
	switch status, err := d.delete(ctx, "/keys/"+key); {
	case err != nil:
		return "", err
	case status == http.StatusForbidden:
		return "left to the tenant: compute has no role on the key", nil
	case status == http.StatusNotFound:
		gone = true // by the tenant, or by this call before a crash: then it may still wait for its purge
	case status != http.StatusOK:
		return "", fmt.Errorf("deleting key %s: the vault answers %d", key, status)
	}
	switch status, err := d.delete(ctx, "/deletedkeys/"+key); {
	case err != nil:
		return "", err
	case gone && (status == http.StatusForbidden || status == http.StatusNotFound):
		return "gone already", nil
	case status == http.StatusForbidden:
		return "deleted; only the tenant may purge it", nil
	case status != http.StatusNoContent && status != http.StatusNotFound:
		return "", fmt.Errorf("purging key %s: the vault answers %d", key, status)
	}
	return "destroyed", nil
}

func (d *Destroyer) delete(ctx context.Context, path string) (int, error) {
	token, err := d.Bearer(ctx)
	if err != nil {
		return 0, fmt.Errorf("getting compute's own token: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodDelete, d.Vault+path+version, nil)
	if err != nil {
		return 0, err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := d.HTTP.Do(req)
	if err != nil {
		return 0, fmt.Errorf("calling the vault: %w", err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20)); err != nil {
		return 0, fmt.Errorf("reading the vault's answer: %w", err)
	}
	return resp.StatusCode, nil
}
