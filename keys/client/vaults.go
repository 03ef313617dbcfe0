package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"
)

// VaultsPath is where a key keeper manages vaults, under its bare suffix.
const VaultsPath = "/cloister/vaults"

// OnBehalf is the header with the token of the tenant's caller, as "Bearer TOKEN". The control plane passes it on: what
// gives access to keys, or destroys them, is done for that caller and not for the control plane.
const OnBehalf = "x-ms-authorization-auxiliary"

var vaultName = regexp.MustCompile(`^[a-z][a-z0-9-]{1,22}[a-z0-9]$`)

// IsVaultName tells what can be the name of a vault or a pool, in lower case: 3 to 24 letters, digits and hyphens, beginning
// with a letter, ending with a letter or digit, no two hyphens in a row.
func IsVaultName(name string) bool {
	return vaultName.MatchString(name) && !strings.Contains(name, "--")
}

// Vault is a vault or a pool as a control plane asks for it and is told of it.
type Vault struct {
	Name            string            `json:"name"`
	Kind            string            `json:"kind"` // vault or pool
	TenantID        string            `json:"tenantId"`
	SKU             string            `json:"sku,omitempty"`
	Roles           bool              `json:"roles"` // access by roles, else by access policies
	AccessPolicies  []AccessPolicy    `json:"accessPolicies,omitempty"`
	Administrators  []string          `json:"administrators,omitempty"`
	RetentionDays   int               `json:"retentionDays"`
	PurgeProtection bool              `json:"purgeProtection,omitempty"`
	Resource        string            `json:"resource,omitempty"`
	Location        string            `json:"location,omitempty"`
	Tags            map[string]string `json:"tags,omitempty"`

	// Answered only.
	URL     string     `json:"url,omitempty"` // with a final slash
	Owner   string     `json:"owner,omitempty"`
	Created *time.Time `json:"created,omitempty"`
	Deleted *time.Time `json:"deleted,omitempty"`
	PurgeAt *time.Time `json:"purgeAt,omitempty"`
}

// AccessPolicy gives one identity permissions.
type AccessPolicy struct {
	TenantID      string      `json:"tenantId"`
	ObjectID      string      `json:"objectId"`
	ApplicationID string      `json:"applicationId,omitempty"`
	Permissions   Permissions `json:"permissions"`
}

// Permissions by what they are about.
type Permissions struct {
	Keys         []string `json:"keys,omitempty"`
	Secrets      []string `json:"secrets,omitempty"`
	Certificates []string `json:"certificates,omitempty"`
	Storage      []string `json:"storage,omitempty"`
}

// Vaults manages the vaults of a key keeper.
type Vaults struct {
	URL    string // of the key keeper: https://SUFFIX[:PORT]
	HTTP   *http.Client
	Bearer func(context.Context) (string, error) // the control plane's own token
}

// Put makes a vault or changes it.
func (s *Vaults) Put(ctx context.Context, onBehalf string, v Vault) (out Vault, err error) {
	err = s.call(ctx, http.MethodPut, "/"+url.PathEscape(v.Name), onBehalf, v, &out)
	return out, err
}

// Get reads a vault, also a deleted one.
func (s *Vaults) Get(ctx context.Context, name string) (out Vault, err error) {
	err = s.call(ctx, http.MethodGet, "/"+url.PathEscape(name), "", nil, &out)
	return out, err
}

// List reads all vaults that a control plane made, the deleted ones too.
func (s *Vaults) List(ctx context.Context) ([]Vault, error) {
	var out struct {
		Value []Vault `json:"value"`
	}
	err := s.call(ctx, http.MethodGet, "", "", nil, &out)
	return out.Value, err
}

// Delete deletes a vault, so that it can be recovered.
func (s *Vaults) Delete(ctx context.Context, name string) (out Vault, err error) {
	err = s.call(ctx, http.MethodDelete, "/"+url.PathEscape(name), "", nil, &out)
	return out, err
}

// Recover takes a deletion back.
func (s *Vaults) Recover(ctx context.Context, onBehalf, name string) (out Vault, err error) {
	err = s.call(ctx, http.MethodPost, "/"+url.PathEscape(name)+"/recover", onBehalf, nil, &out)
	return out, err
}

// Purge destroys a deleted vault and every key in it.
func (s *Vaults) Purge(ctx context.Context, onBehalf, name string) error {
	return s.call(ctx, http.MethodPost, "/"+url.PathEscape(name)+"/purge", onBehalf, nil, nil)
}

// VaultError is a key keeper's refusal of a call about a vault.
type VaultError struct {
	Status  int
	Refusal Error
}

func (e *VaultError) Error() string {
	return fmt.Sprintf("the key keeper answers %d %s: %s", e.Status, e.Refusal.Code, e.Refusal.Message)
}

// Code is Key Vault's code of the refusal.
func (e *VaultError) Code() string { return e.Refusal.Code }

// Message is what to tell the caller.
func (e *VaultError) Message() string { return e.Refusal.Message }

// maxVaults bounds an answer, in bytes.
const maxVaults = 64 << 20

func (s *Vaults) call(ctx context.Context, method, path, onBehalf string, body, into any) (err error) {
	own, err := s.Bearer(ctx)
	if err != nil {
		return fmt.Errorf("getting a token for the key keeper: %w", err)
	}
	var payload io.Reader
	if body != nil {
		raw, err := json.Marshal(body)
		if err != nil {
			return err
		}
		payload = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, method, s.URL+VaultsPath+path+"?api-version="+APIVersion, payload)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+own)
	req.Header.Set("Content-Type", "application/json")
	if onBehalf != "" {
		req.Header.Set(OnBehalf, "Bearer "+onBehalf)
	}
	resp, err := s.HTTP.Do(req)
	if err != nil {
		return fmt.Errorf("calling the key keeper: %w", err)
	}
	defer func() { err = errors.Join(err, resp.Body.Close()) }()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxVaults))
	if err != nil {
		return fmt.Errorf("reading the key keeper's answer: %w", err)
	}
	if resp.StatusCode >= http.StatusBadRequest {
		var e ErrorBody
		if err := json.Unmarshal(raw, &e); err != nil || e.Error.Code == "" {
			return fmt.Errorf("the key keeper answers %d", resp.StatusCode)
		}
		return &VaultError{resp.StatusCode, e.Error}
	}
	if into == nil || len(raw) == 0 {
		return nil
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return fmt.Errorf("reading the key keeper's answer: %w", err)
	}
	return nil
}
