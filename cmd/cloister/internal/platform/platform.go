// Package platform is a tenant's connection to a Cloister installation: where its services are, who the tenant
// is, and whom the tenant believes.
package platform

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/arm"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"

	"cloister.dev/cloister/evidence/initdata"
	"cloister.dev/cloister/identity"
	"cloister.dev/cloister/internal/localhost"
)

// Client is what client.env holds.
type Client struct {
	ARMEndpoint         string
	AuthorityHost       string
	TenantID            string
	ClientID            string
	ClientSecret        string
	SubscriptionID      string
	MAAEndpoint         string
	VaultEndpoint       string
	CAFile              string
	Location            string
	LimitedClientID     string
	LimitedClientSecret string
}

func (c *Client) names() []struct {
	name  string
	value *string
} {
	return []struct {
		name  string
		value *string
	}{{"ARM_ENDPOINT", &c.ARMEndpoint}, {"AUTHORITY_HOST", &c.AuthorityHost}, {"TENANT_ID", &c.TenantID}, {"CLIENT_ID", &c.ClientID},
		{"CLIENT_SECRET", &c.ClientSecret}, {"SUBSCRIPTION_ID", &c.SubscriptionID}, {"MAA_ENDPOINT", &c.MAAEndpoint}, {"VAULT_ENDPOINT", &c.VaultEndpoint},
		{"CA_FILE", &c.CAFile}, {"LOCATION", &c.Location}, {"LIMITED_CLIENT_ID", &c.LimitedClientID}, {"LIMITED_CLIENT_SECRET", &c.LimitedClientSecret}}
}

// Env writes client.env: NAME=value, a line each.
func (c Client) Env() []byte {
	var b strings.Builder
	for _, n := range c.names() {
		fmt.Fprintf(&b, "%s=%s\n", n.name, *n.value)
	}
	return []byte(b.String())
}

// ReadEnv reads client.env. Unknown names are left alone; a missing one is an error.
func ReadEnv(path string) (Client, error) {
	f, err := os.Open(path)
	if err != nil {
		return Client{}, err
	}
	defer f.Close()
	got := map[string]string{}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if name, value, ok := strings.Cut(lines.Text(), "="); ok {
			got[name] = value
		}
	}
	var c Client
	var errs []error
	for _, n := range c.names() {
		value, ok := got[n.name]
		if !ok || value == "" {
			errs = append(errs, fmt.Errorf("%s: %s is missing", path, n.name))
		}
		*n.value = value
	}
	return c, errors.Join(errs...)
}

// Trust is whom the tenant believes. On one machine `cloister up` writes it; elsewhere it comes to the tenant on a
// way of its own, never from the operator's API.
type Trust struct {
	Attest        initdata.Service      `json:"attest"`        // the verifier
	Keys          initdata.Service      `json:"keys"`          // the key keeper
	VMIdentity    identity.IssuerConfig `json:"vmIdentity"`    // who says which VM calls; for key keepers that tenants run
	SoftwareRoots []string              `json:"softwareRoots"` // PEM; empty where software mode is not accepted
	Firmware      string                `json:"firmware"`      // path of the tenant's copy of the firmware
	Images        string                `json:"images"`        // folder of the tenant's copies of images
	CPUModel      string                `json:"cpuModel"`      // that VMs are launched with; enters the launch digest
	MaxVCPUs      int                   `json:"maxVCPUs"`      // 0: as the size says; software mode gives fewer
}

// ReadTrust reads trust.json of a state folder.
func ReadTrust(state string) (Trust, error) {
	var t Trust
	raw, err := os.ReadFile(filepath.Join(state, "trust.json"))
	if errors.Is(err, os.ErrNotExist) {
		return t, fmt.Errorf("%s: %w", state, ErrNotUp)
	}
	if err != nil {
		return t, err
	}
	if err := json.Unmarshal(raw, &t); err != nil {
		return t, fmt.Errorf("trust.json: %w", err)
	}
	return t, nil
}

// Connection is a tenant's open connection.
type Connection struct {
	Client
	Trust Trust
	http  *http.Client
	cred  *azidentity.ClientSecretCredential
}

// ErrNotUp says that there is no installation where one was looked for.
var ErrNotUp = errors.New("no installation here; run: cloister up")

// Open reads client.env and trust.json of a state folder.
func Open(state string) (*Connection, error) {
	c, err := ReadEnv(filepath.Join(state, "client.env"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", state, ErrNotUp)
	}
	if err != nil {
		return nil, err
	}
	conn := &Connection{Client: c}
	if conn.Trust, err = ReadTrust(state); err != nil {
		return nil, err
	}
	ca, err := os.ReadFile(c.CAFile)
	if err != nil {
		return nil, err
	}
	if conn.http, err = HTTPClient(ca); err != nil {
		return nil, err
	}
	conn.cred, err = azidentity.NewClientSecretCredential(c.TenantID, c.ClientID, c.ClientSecret, &azidentity.ClientSecretCredentialOptions{
		DisableInstanceDiscovery: true, ClientOptions: conn.ClientOptions()})
	return conn, err
}

// HTTPClient makes a client that trusts one CA and knows where names under localhost are.
func HTTPClient(caPEM []byte) (*http.Client, error) {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(caPEM) {
		return nil, errors.New("the CA file holds no certificate")
	}
	t := localhost.Transport()
	t.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13}
	return &http.Client{Transport: t}, nil
}

// HTTP is the client for the installation's services.
func (c *Connection) HTTP() *http.Client { return c.http }

// Credential signs in as the tenant's user.
func (c *Connection) Credential() azcore.TokenCredential { return c.cred }

// Bearer gets a token for an audience.
func (c *Connection) Bearer(ctx context.Context, audience string) (string, error) {
	t, err := c.cred.GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{strings.TrimSuffix(audience, "/") + "/.default"}})
	return t.Token, err
}

// ClientOptions point an Azure client at the installation. Retries are few and quick: it is near.
func (c *Connection) ClientOptions() azcore.ClientOptions {
	return azcore.ClientOptions{
		Transport: c.http,
		Retry:     policy.RetryOptions{MaxRetries: 3, RetryDelay: 200 * time.Millisecond, MaxRetryDelay: 2 * time.Second},
		Cloud: cloud.Configuration{ActiveDirectoryAuthorityHost: c.AuthorityHost,
			Services: map[cloud.ServiceName]cloud.ServiceConfiguration{cloud.ResourceManager: {Endpoint: c.ARMEndpoint, Audience: c.ARMEndpoint}}},
	}
}

// ARMOptions are ClientOptions for the resource manager's clients.
func (c *Connection) ARMOptions() *arm.ClientOptions {
	return &arm.ClientOptions{ClientOptions: c.ClientOptions(), DisableRPRegistration: true}
}
