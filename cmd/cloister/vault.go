package main

import (
	"context"
	"os"
	"strings"

	"cloister.dev/cloister/cmd/cloister/internal/install"
	"cloister.dev/cloister/cmd/cloister/internal/platform"
	"cloister.dev/cloister/compute/vault"
	"cloister.dev/cloister/evidence/launch"
	"cloister.dev/cloister/identity/provider"
	keys "cloister.dev/cloister/keys/client"
)

// vaultAudience is whom a token for the key keeper is for.
const vaultAudience = "https://vault.azure.net"

// openVault connects the control plane to the key keeper, under its own identity.
func openVault(c install.ComputeConfig, signIn *provider.Provider) (*vault.Destroyer, *vault.Maker, *keys.Vaults, error) {
	ca, err := os.ReadFile(c.Vault.CAFile)
	if err != nil {
		return nil, nil, nil, err
	}
	client, err := platform.HTTPClient(ca)
	if err != nil {
		return nil, nil, nil, err
	}
	bearer := func(context.Context) (string, error) { return signIn.MintClient(c.Vault.ClientID, vaultAudience) }
	url := strings.TrimSuffix(c.Vault.URL, "/")
	measure := func(vcpus int, cpuModel string) ([48]byte, error) {
		firmware, err := os.ReadFile(c.Vault.Firmware)
		if err != nil {
			return [48]byte{}, err
		}
		return launch.SNPDigest(launch.SNPInput{Firmware: firmware, VCPUs: vcpus, CPUModel: cpuModel, Metadata: launch.MetadataNone})
	}
	return &vault.Destroyer{Vault: url, HTTP: client, Bearer: bearer},
		&vault.Maker{Vault: url, Issuer: c.Compute.Attest.URL, HTTP: client, Bearer: bearer, Measure: measure},
		&keys.Vaults{URL: "https://" + c.Compute.VaultSuffix, HTTP: client, Bearer: bearer}, nil
}
