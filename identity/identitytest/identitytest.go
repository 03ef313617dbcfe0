// Package identitytest makes sign-in tokens for tests of services, with an issuer of its own.
package identitytest

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/hex"
	"testing"
	"time"

	"cloister.dev/cloister/evidence/initdata"
	"cloister.dev/cloister/identity"
	"cloister.dev/cloister/identity/provider"
	"cloister.dev/cloister/internal/pemkey"
)

// TenantID is the tenant of the fake issuer.
const TenantID = "11111111-2222-3333-4444-555555555555"

// Authority is the fake issuer's authority; nothing listens there.
const Authority = "https://login.cloister.test"

// Issuer is a fake issuer with the client "admin", whose secret is "secret", and others.
type Issuer struct {
	*provider.Provider
	Key *rsa.PrivateKey
}

// AdminID is the client id and object id of an administrator.
const AdminID = "aaaaaaaa-0000-0000-0000-000000000001"

// ControlPlaneID is the client id and object id of another client, for the control plane's own identity.
const ControlPlaneID = "cccccccc-0000-0000-0000-000000000001"

// OtherIDs are clients, with the same secret, that have no role unless a test gives them one.
var OtherIDs = []string{"aaaaaaaa-0000-0000-0000-000000000002", "aaaaaaaa-0000-0000-0000-000000000003", "aaaaaaaa-0000-0000-0000-000000000004"}

// New makes an issuer whose clock is now.
func New(t testing.TB, now func() time.Time) *Issuer {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte("secret"))
	clients := []provider.Client{{ClientID: AdminID, ObjectID: AdminID, Name: "admin", SecretSHA256: hex.EncodeToString(sum[:])}}
	for _, id := range append([]string{ControlPlaneID}, OtherIDs...) {
		clients = append(clients, provider.Client{ClientID: id, ObjectID: id, Name: id, SecretSHA256: hex.EncodeToString(sum[:])})
	}
	p, err := provider.New(provider.Config{
		Authority: Authority, TenantID: TenantID, Key: key, KeyID: "test", Now: now,
		Clients: clients,
	})
	if err != nil {
		t.Fatal(err)
	}
	return &Issuer{Provider: p, Key: key}
}

// Config pins the issuer for a verifier.
func (i *Issuer) Config(t testing.TB, audiences ...string) identity.VerifierConfig {
	t.Helper()
	text, err := pemkey.MarshalPublic(&i.Key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return identity.VerifierConfig{Audiences: audiences, Issuers: []identity.IssuerConfig{{
		URL: provider.IssuerURL(Authority, TenantID), TenantID: TenantID, Keys: []initdata.SigningKey{{KID: "test", PEM: string(text)}},
	}}}
}
