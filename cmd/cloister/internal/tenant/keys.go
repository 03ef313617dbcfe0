package tenant

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"
	"github.com/google/uuid"

	keys "cloister.dev/cloister/keys/client"
)

// encryptionUser is the id of the role "Key Vault Crypto Service Encryption User".
const encryptionUser = "e147488a-f6f5-4113-8e2d-b22465e65bf6"

// assignments is what the names of role assignments come from.
var assignments = uuid.MustParse("5ad2a3f5-0b3c-4b54-9a62-6b2f4f4f9f0e")

// Rewrap puts the key of a VM's guest state under another version of the customer's key, or under another key where one is named.
func (t *Tenant) Rewrap(ctx context.Context, vm, kid string, latest bool, principal string) (string, error) {
	_, id, err := t.Recall(vm)
	if err != nil {
		return "", err
	}
	body := map[string]string{}
	if kid != "" {
		body["customerKey"], body["identity"] = kid, principal
		if latest {
			body["rotation"] = keys.CustomerKeyLatest
		}
	}
	k, err := t.keeperOf(vm)
	if err != nil {
		return "", err
	}
	raw, err := k.call(ctx, http.MethodPost, "/gueststate/"+id+"/rewrap?api-version="+keys.APIVersion, body)
	if err != nil {
		return "", err
	}
	var out struct {
		CustomerKey string `json:"customerKey"`
	}
	if err := json.Unmarshal(raw, &out); err != nil {
		return "", fmt.Errorf("reading the key keeper's answer: %w", err)
	}
	return out.CustomerKey, nil
}

// ApproveRestore lets a VM start once from a guest state that the key keeper would refuse.
func (t *Tenant) ApproveRestore(ctx context.Context, vm string, generation uint64) error {
	_, id, err := t.Recall(vm)
	if err != nil {
		return err
	}
	k, err := t.keeperOf(vm)
	if err != nil {
		return err
	}
	_, err = k.call(ctx, http.MethodPost, "/gueststate/"+id+"/approve-restore?api-version="+keys.APIVersion, keys.ApproveBody{Generation: &generation})
	return err
}

// call makes a call that the Key Vault client doesn't have.
func (k *keeper) call(ctx context.Context, method, path string, body any) ([]byte, error) {
	token, err := k.bearer(ctx)
	if err != nil {
		return nil, err
	}
	payload, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, method, k.url()+path, bytes.NewReader(payload))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := k.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("calling the key keeper: %w", err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return nil, fmt.Errorf("reading the key keeper's answer: %w", err)
	}
	if resp.StatusCode/100 == 2 {
		return raw, nil
	}
	var refused keys.ErrorBody
	if err := json.Unmarshal(raw, &refused); err != nil || refused.Error.Code == "" {
		return nil, fmt.Errorf("the key keeper answers %d", resp.StatusCode)
	}
	if in := refused.Error.Inner; in != nil && in.Cloister != nil {
		return nil, in.Cloister
	}
	return nil, errors.New(refused.Error.Code + ": " + refused.Error.Message)
}

// EncryptionSets is the client for disk encryption sets.
func (t *Tenant) EncryptionSets() (*armcompute.DiskEncryptionSetsClient, error) {
	return armcompute.NewDiskEncryptionSetsClient(t.Conn.SubscriptionID, t.Conn.Credential(), t.Conn.ARMOptions())
}

// EncryptionSet is what a tenant's program needs of a disk encryption set.
type EncryptionSet struct {
	ID        string `json:"id"`
	Name      string `json:"name"`
	KeyURL    string `json:"keyUrl"`
	Follow    bool   `json:"rotationToLatestKeyVersionEnabled"`
	Principal string `json:"principalId"`
}

func encryptionSetOf(s armcompute.DiskEncryptionSet) (EncryptionSet, error) {
	if s.ID == nil || s.Name == nil || s.Identity == nil || s.Identity.PrincipalID == nil || s.Properties == nil || s.Properties.ActiveKey == nil || s.Properties.ActiveKey.KeyURL == nil {
		return EncryptionSet{}, errors.New("the control plane's answer names no key or no identity")
	}
	return EncryptionSet{ID: *s.ID, Name: *s.Name, KeyURL: *s.Properties.ActiveKey.KeyURL, Follow: s.Properties.RotationToLatestKeyVersionEnabled != nil && *s.Properties.RotationToLatestKeyVersionEnabled, Principal: *s.Identity.PrincipalID}, nil
}

// EncryptionSet reads a disk encryption set of the tenant's group.
func (t *Tenant) EncryptionSet(ctx context.Context, name string) (EncryptionSet, error) {
	sets, err := t.EncryptionSets()
	if err != nil {
		return EncryptionSet{}, err
	}
	got, err := sets.Get(ctx, t.Group, name, nil)
	if err != nil {
		return EncryptionSet{}, fmt.Errorf("disk encryption set %s: %w", name, err)
	}
	return encryptionSetOf(got.DiskEncryptionSet)
}

// MakeEncryptionSet makes a set for a key, or changes one, and lets its identity use the key.
func (t *Tenant) MakeEncryptionSet(ctx context.Context, name, vaultName, key string, follow bool) (EncryptionSet, error) {
	vault, err := t.KeysIn(ctx, vaultName)
	if err != nil {
		return EncryptionSet{}, err
	}
	got, err := vault.GetKey(ctx, key, "", nil)
	if err != nil {
		return EncryptionSet{}, fmt.Errorf("key %s: %w", key, err)
	}
	if got.Key == nil || got.Key.KID == nil {
		return EncryptionSet{}, fmt.Errorf("key %s: the answer names no key", key)
	}
	url := string(*got.Key.KID)
	in, err := vaultOfKey(url)
	if err != nil {
		return EncryptionSet{}, err
	}
	if follow {
		url = in + "/keys/" + got.Key.KID.Name()
	}
	if _, err := t.EnsureGroup(ctx); err != nil {
		return EncryptionSet{}, err
	}
	sets, err := t.EncryptionSets()
	if err != nil {
		return EncryptionSet{}, err
	}
	poller, err := sets.BeginCreateOrUpdate(ctx, t.Group, name, armcompute.DiskEncryptionSet{
		Location: &t.Conn.Location, Identity: &armcompute.EncryptionSetIdentity{Type: to.Ptr(armcompute.DiskEncryptionSetIdentityTypeSystemAssigned)},
		Properties: &armcompute.EncryptionSetProperties{EncryptionType: to.Ptr(armcompute.DiskEncryptionSetTypeConfidentialVMEncryptedWithCustomerKey),
			ActiveKey: &armcompute.KeyForDiskEncryptionSet{KeyURL: &url}, RotationToLatestKeyVersionEnabled: &follow},
	}, nil)
	if err != nil {
		return EncryptionSet{}, err
	}
	made, err := poller.PollUntilDone(ctx, nil)
	if err != nil {
		return EncryptionSet{}, err
	}
	set, err := encryptionSetOf(made.DiskEncryptionSet)
	if err != nil {
		return EncryptionSet{}, err
	}
	return set, t.assign(ctx, in, "/keys/"+got.Key.KID.Name(), encryptionUser, set.Principal)
}

// customerTags put a guest-state key under the customer's key.
func (s EncryptionSet) customerTags() map[string]*string {
	tags := map[string]*string{keys.CustomerKeyTag: &s.KeyURL, keys.CustomerKeyIdentityTag: &s.Principal}
	if s.Follow {
		tags[keys.CustomerKeyRotationTag] = to.Ptr(keys.CustomerKeyLatest)
	}
	return tags
}
