package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/initdata"
	"cloister.dev/cloister/identity"
	"cloister.dev/cloister/identity/provider"
	"cloister.dev/cloister/identity/roles"
	"cloister.dev/cloister/internal/pemkey"
	"cloister.dev/cloister/keys"
	"cloister.dev/cloister/keys/client"
)

// operatorTrust is what a tenant takes over from an installation: which verifier judges its VMs, and who says which VM calls.
type operatorTrust struct {
	Attest     initdata.Service      `json:"attest"`
	VMIdentity identity.IssuerConfig `json:"vmIdentity"`
}

func newInit() *cobra.Command {
	var listen, suffix, vault, trust string
	cmd := &cobra.Command{
		Use: "init DIR", Short: "Set up a key keeper of your own in a new folder", Args: cobra.ExactArgs(1),
		Long: `Set up a key keeper of your own in a new folder: a configuration, an encrypted keystore with its passphrase beside it, a TLS
certificate, and one client that may use the keys. From the operator come the verifier to believe and the issuer of VMs'
identities, which is believed about nothing else. Compare the verifier's keys with those you got from it yourself.

It prints what to start. access.json is for your own tools, such as cloister vm create --key-service; it holds a secret.`,
		Example: "  cloister-keys init mine --trust ~/.local/state/cloister/trust.json\n  cloister-keys serve --config mine/config.yaml",
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := filepath.Abs(args[0])
			if err != nil {
				return err
			}
			raw, err := os.ReadFile(trust)
			if err != nil {
				return err
			}
			var from operatorTrust
			if err := json.Unmarshal(raw, &from); err != nil {
				return fmt.Errorf("%s: %w", trust, err)
			}
			if from.Attest.URL == "" || from.VMIdentity.URL == "" {
				return evidence.Refuse(evidence.CodeParse, trust, "no verifier or no issuer of VMs' identities", "the trust.json of an installation")
			}
			if err := os.Mkdir(dir, 0o700); err != nil {
				return err
			}
			s := setup{dir: dir, listen: listen, suffix: suffix, vault: vault, trust: from}
			if err := s.make(cmd); err != nil {
				return errors.Join(err, os.RemoveAll(dir)) // it was made a moment ago, and nothing uses it
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "made %s; start it: cloister-keys serve --config %s\nyour tools need: %s\n", dir, s.path("config.yaml"), s.path("access.json"))
			return err
		},
	}
	cmd.Flags().StringVar(&listen, "listen", "127.0.0.1:8444", "host:port to serve at")
	cmd.Flags().StringVar(&suffix, "suffix", "keys.localhost", "what the names of its vaults end in; names under localhost are this machine's")
	cmd.Flags().StringVar(&vault, "vault", "mine", "name of its vault")
	cmd.Flags().StringVar(&trust, "trust", "", "trust.json of the installation that runs the VMs")
	require(cmd, "trust")
	return cmd
}

type setup struct {
	dir, listen, suffix, vault string
	trust                      operatorTrust
}

func (s setup) path(name string) string { return filepath.Join(s.dir, name) }

func random() (string, error) {
	b := make([]byte, 32)
	_, err := rand.Read(b)
	return base64.RawURLEncoding.EncodeToString(b), err
}

const signInKey = "sign-in-1"

func (s setup) make(cmd *cobra.Command) error {
	_, port, err := net.SplitHostPort(s.listen)
	if err != nil {
		return evidence.Refuse(evidence.CodeParse, "listen", s.listen, "host:port")
	}
	passphrase, err := random()
	if err != nil {
		return err
	}
	secret, err := random()
	if err != nil {
		return err
	}
	ca, err := s.certificate()
	if err != nil {
		return err
	}
	signer, err := s.signInKey()
	if err != nil {
		return err
	}
	if err := writeNew(s.path("passphrase"), []byte(passphrase)); err != nil {
		return err
	}
	tenant, id, base := uuid.NewString(), uuid.NewString(), "https://"+s.suffix+":"+port
	sum := sha256.Sum256([]byte(secret))
	operator := s.trust.VMIdentity
	c := keys.Config{
		Listen: s.listen, TLS: keys.TLS{Certificate: s.path("tls.crt"), Key: s.path("tls.key")}, Pools: []string{s.vault}, TenantID: tenant, Suffix: s.suffix, StateDir: s.path("state"),
		Keystore: keys.Keystore{PassphraseFile: s.path("passphrase")}, Authorities: []keys.Authority{{Issuer: s.trust.Attest.URL, Keys: keys.Pins(s.trust.Attest.SigningKeys)}},
		Identity: keys.Identity{SignIn: base + "/" + tenant,
			Issuers: []keys.Issuer{{URL: provider.IssuerURL(base, tenant), TenantID: tenant, Keys: []keys.Key{{KID: signInKey, PEM: signer}}},
				{URL: operator.URL, TenantID: operator.TenantID, Keys: keys.Pins(operator.Keys), VMsOnly: true}},
			Embedded: &keys.Embedded{KeyFile: s.path("sign-in.key"), KeyID: signInKey, Clients: []provider.Client{{ClientID: id, ObjectID: id, Name: "owner", SecretSHA256: hex.EncodeToString(sum[:])}}}},
		Roles: roles.List{{PrincipalID: id, Role: "Key Vault Crypto Officer", Scope: "/vaults/" + s.vault}, {PrincipalID: id, Role: "Key Vault Data Access Administrator", Scope: "/vaults/" + s.vault}},
	}
	text, err := yaml.Marshal(c)
	if err != nil {
		return err
	}
	if err := writeNew(s.path("config.yaml"), append([]byte("# A key keeper of its owner's. docs/samples/keys.yaml explains each member.\n"), text...)); err != nil {
		return err
	}
	slog.SetDefault(slog.New(slog.DiscardHandler)) // a library says there which routes it serves
	// Opened once: that makes the keystore and the key that signs answers, and finds mistakes now.
	service, err := keys.New(cmd.Context(), c, environment(), slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		return err
	}
	access := client.Access{Service: initdata.Service{URL: "https://" + s.vault + "." + s.suffix + ":" + port, SigningKeys: service.SigningKeys(), TLSCA: ca}, Authority: base, TenantID: tenant, ClientID: id, ClientSecret: secret}
	if err := service.Close(); err != nil {
		return err
	}
	raw, err := json.MarshalIndent(access, "", "  ")
	if err != nil {
		return err
	}
	return writeNew(s.path("access.json"), append(raw, '\n'))
}

// certificateLifetime is that of the TLS certificate, which secures transport: answers are believed by their own signatures.
const certificateLifetime = 5 * 365 * 24 * time.Hour

// certificate makes the TLS certificate for the suffix and all names below it. It is its own authority.
func (s setup) certificate() (string, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return "", err
	}
	now := time.Now()
	template := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: "cloister-keys " + s.suffix}, DNSNames: []string{s.suffix, "*." + s.suffix}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(certificateLifetime),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return "", err
	}
	text, err := pemkey.Marshal(key)
	if err != nil {
		return "", err
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return string(cert), errors.Join(writeNew(s.path("tls.key"), text), writeNew(s.path("tls.crt"), cert))
}

// signInKey makes the key of the embedded sign-in and gives its public half.
func (s setup) signInKey() (string, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return "", err
	}
	text, err := pemkey.Marshal(key)
	if err != nil {
		return "", err
	}
	public, err := pemkey.MarshalPublic(&key.PublicKey)
	if err != nil {
		return "", err
	}
	return string(public), writeNew(s.path("sign-in.key"), text)
}
