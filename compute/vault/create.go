package vault

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"

	"cloister.dev/cloister/compute/vm"
	"cloister.dev/cloister/evidence/initdata"
	keys "cloister.dev/cloister/keys/client"
)

// Maker makes the guest-state key of a VM whose tenant brought no init data. The key keeper marks such a key
// operator-trusted: its policy is the operator's, however right it may be.
type Maker struct {
	Vault  string // URL without a final slash
	Issuer string // of the verifier whose tokens the policy asks for
	HTTP   *http.Client
	Bearer func(context.Context) (string, error)
	// Measure computes the launch digest of a VM from the installation's firmware.
	Measure func(vcpus int, cpuModel string) ([48]byte, error)
}

// Create makes the key, or leaves one that is there: its policy is immutable and was made for the same VM.
func (m *Maker) Create(ctx context.Context, v vm.VM) error {
	digest, err := m.Measure(v.VCPUs, v.CPUModel)
	if err != nil {
		return fmt.Errorf("measuring the launch: %w", err)
	}
	policy := keys.GuestStatePolicy(m.Issuer, [][48]byte{digest}, initdata.SNPHostData(v.InitData))
	name := keys.KeyName(v.VMID)
	status, err := m.call(ctx, http.MethodGet, "/keys/"+name, nil)
	if err != nil || status == http.StatusOK {
		return err
	}
	if status != http.StatusNotFound {
		return fmt.Errorf("reading key %s: the vault answers %d", name, status)
	}
	tags := map[string]string{}
	if set := v.Customer; set != nil {
		tags[keys.CustomerKeyTag], tags[keys.CustomerKeyIdentityTag] = set.KeyURL, set.Principal
		if set.Latest {
			tags[keys.CustomerKeyRotationTag] = keys.CustomerKeyLatest
		}
	}
	status, err = m.call(ctx, http.MethodPost, "/keys/"+name+"/create", map[string]any{
		"tags": tags, "kty": "oct-HSM", "key_size": 256, "attributes": map[string]any{"enabled": true, "exportable": true},
		"release_policy": map[string]any{"contentType": "application/json; charset=utf-8", "data": base64.RawURLEncoding.EncodeToString(policy), "immutable": true},
	})
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("creating key %s: the vault answers %d", name, status)
	}
	return err
}

func (m *Maker) call(ctx context.Context, method, path string, body any) (int, error) {
	token, err := m.Bearer(ctx)
	if err != nil {
		return 0, fmt.Errorf("getting compute's own token: %w", err)
	}
	var payload io.Reader
	if body != nil {
		raw, err := json.Marshal(body)
		if err != nil {
			return 0, err
		}
		payload = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, method, m.Vault+path+version, payload)
	if err != nil {
		return 0, err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := m.HTTP.Do(req)
	if err != nil {
		return 0, fmt.Errorf("calling the vault: %w", err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20)); err != nil {
		return 0, fmt.Errorf("reading the vault's answer: %w", err)
	}
	return resp.StatusCode, nil
}
