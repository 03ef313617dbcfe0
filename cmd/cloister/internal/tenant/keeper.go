package tenant

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"

	"cloister.dev/cloister/cmd/cloister/internal/platform"
	"cloister.dev/cloister/evidence/initdata"
	keys "cloister.dev/cloister/keys/client"
)

// keeper is a key keeper with the tenant's sign-in there: the installation's, or one that the tenant runs.
type keeper struct {
	service initdata.Service
	http    *http.Client
	cred    azcore.TokenCredential
	options azcore.ClientOptions
}

// keeper opens the key keeper that a file tells of; "" is the installation's.
func (t *Tenant) keeper(path string) (*keeper, error) {
	if path == "" {
		return &keeper{t.Conn.Trust.Keys, t.Conn.HTTP(), t.Conn.Credential(), t.Conn.ClientOptions()}, nil
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("key service: %w", err)
	}
	a, err := keys.ParseAccess(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	h, err := platform.HTTPClient([]byte(a.Service.TLSCA))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	k := &keeper{service: a.Service, http: h, options: t.Conn.ClientOptions()}
	k.options.Transport = h
	k.options.Cloud = cloud.Configuration{ActiveDirectoryAuthorityHost: a.Authority}
	k.cred, err = azidentity.NewClientSecretCredential(a.TenantID, a.ClientID, a.ClientSecret, &azidentity.ClientSecretCredentialOptions{DisableInstanceDiscovery: true, ClientOptions: k.options})
	return k, err
}

// keeperOf opens the key keeper that has a VM's guest-state key, by the tenant's note of the VM.
func (t *Tenant) keeperOf(vm string) (*keeper, error) {
	n, err := t.note(vm)
	if err != nil {
		return nil, err
	}
	return t.keeper(n.KeyService)
}

func (k *keeper) url() string { return strings.TrimSuffix(k.service.URL, "/") }

// vault speaks the Key Vault protocol.
func (k *keeper) vault() (*azkeys.Client, error) {
	return azkeys.NewClient(k.url(), k.cred, &azkeys.ClientOptions{ClientOptions: k.options})
}

func (k *keeper) bearer(ctx context.Context) (string, error) {
	t, err := k.cred.GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{"https://vault.azure.net/.default"}})
	return t.Token, err
}
