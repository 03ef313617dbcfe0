// Package install sets up an installation on one machine: its certificates, its identities, and the configuration
// of each service. Setting up twice changes nothing.
package install

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/google/uuid"
	"sigs.k8s.io/yaml"

	"cloister.dev/cloister/attest"
	"cloister.dev/cloister/attest/issuer"
	"cloister.dev/cloister/cmd/cloister/internal/platform"
	"cloister.dev/cloister/cmd/cloister/internal/supervise"
	"cloister.dev/cloister/compute"
	"cloister.dev/cloister/compute/arm"
	"cloister.dev/cloister/compute/catalog"
	"cloister.dev/cloister/compute/quota"
	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/initdata"
	"cloister.dev/cloister/evidence/sevsnp"
	"cloister.dev/cloister/host"
	"cloister.dev/cloister/identity"
	"cloister.dev/cloister/identity/provider"
	"cloister.dev/cloister/identity/roles"
	"cloister.dev/cloister/internal/pemkey"
	"cloister.dev/cloister/internal/ratelimit"
	"cloister.dev/cloister/internal/tcbfloor"
	"cloister.dev/cloister/keys"
	"cloister.dev/cloister/softchip"
)

// Facts of a single-machine installation in software mode.
const (
	Location    = "local"
	vaultName   = "cloister"
	vaultSuffix = "vault.localhost"
	firmware    = "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd"
	cpuModel    = "EPYC" // quick under emulation, and has AES
	maxVCPUs    = 1      // of a VM under emulation: firmware with more than one is slower, not faster
	maxMemory   = 768    // MiB, of a VM under emulation
	minDiskGiB  = 3
	uidBase     = 900_000 // first user id of VMs, where the agent is root
)

// softwareIssuer is the name under which the verifier keeps the signing key of its software issuer.
const softwareIssuer = "software"

// file is installation.json: what was chosen once and stays.
type file struct {
	TenantID       string         `json:"tenantId"`
	SubscriptionID string         `json:"subscriptionId"`
	Ports          map[string]int `json:"ports"`
	Admin          secret         `json:"admin"`
	Tenant         secret         `json:"tenant"`
	Limited        secret         `json:"limited"`
	Compute        secret         `json:"compute"` // the control plane, as a client of the key keeper
	JoinToken      string         `json:"joinToken"`
	Passphrase     string         `json:"passphrase"` // of the software keystore
	HSM            *keys.PKCS11   `json:"hsm,omitempty"`
	HSMEnv         []string       `json:"hsmEnv,omitempty"` // NAME=VALUE for the token's library
}

type secret struct {
	ID     string `json:"id"`
	Secret string `json:"secret"`
}

// Installation is one state folder.
type Installation struct {
	Dir      string // absolute
	Programs string // folder of the programs
	Now      func() time.Time
	file     file
	pki      *pki
}

// Exists tells whether a folder holds an installation, and makes none.
func Exists(dir string) (bool, error) {
	_, err := os.Stat(filepath.Join(dir, "installation.json"))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// Open sets up what can be set up before any service runs.
func Open(dir, programs string, now func() time.Time) (*Installation, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	i := &Installation{Dir: dir, Programs: programs, Now: now}
	if err := i.loadFile(); err != nil {
		return nil, err
	}
	var err error
	if i.pki, err = openPKI(i.path("pki"), now()); err != nil {
		return nil, fmt.Errorf("certificates: %w", err)
	}
	return i, nil
}

func (i *Installation) path(parts ...string) string {
	return filepath.Join(append([]string{i.Dir}, parts...)...)
}

// Images is the folder of images.
func (i *Installation) Images() string { return i.path("images") }

// SecureBootKeys is the folder of the installation's own Secure Boot keys.
func (i *Installation) SecureBootKeys() string { return i.path("secureboot") }

func (i *Installation) loadFile() error {
	raw, err := os.ReadFile(i.path("installation.json"))
	if err == nil {
		return json.Unmarshal(raw, &i.file)
	}
	if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	i.file = file{TenantID: uuid.NewString(), SubscriptionID: uuid.NewString(), JoinToken: random(), Passphrase: random(), Ports: map[string]int{},
		Admin: newSecret(), Tenant: newSecret(), Limited: newSecret(), Compute: newSecret()}
	names := []string{"arm", "agent", "attest", "keys", "host"}
	ports, err := freePorts(len(names))
	if err != nil {
		return err
	}
	for n, name := range names {
		i.file.Ports[name] = ports[n]
	}
	raw, err = json.MarshalIndent(i.file, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(i.path("installation.json"), raw, 0o600)
}

// UseHSM has the key keeper keep key material in a token. That is chosen before the first start: keys don't move.
func (i *Installation) UseHSM(p keys.PKCS11, env []string) error {
	switch _, err := os.Stat(i.path("keys", "keystore")); {
	case i.file.HSM != nil && i.file.HSM.Module == p.Module && i.file.HSM.Token == p.Token:
	case err == nil:
		return evidence.Refuse(evidence.CodePolicy, "key keeper", "keys that lie elsewhere", "an installation that was not started yet: keys don't move to another token")
	case !errors.Is(err, os.ErrNotExist):
		return err
	}
	i.file.HSM, i.file.HSMEnv = &p, env
	raw, err := json.MarshalIndent(i.file, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(i.path("installation.json"), raw, 0o600)
}

func newSecret() secret { return secret{ID: uuid.NewString(), Secret: random()} }

func random() string {
	b := make([]byte, 24)
	if _, err := rand.Read(b); err != nil {
		panic(err) // crypto/rand does not fail
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// freePorts finds ports on the loopback address that nobody listens on, all open at once so that they differ.
func freePorts(n int) ([]int, error) {
	var ports []int
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close()
		a, ok := l.Addr().(*net.TCPAddr)
		if !ok {
			return nil, errors.New("a TCP listener has no TCP address")
		}
		ports = append(ports, a.Port)
	}
	return ports, nil
}

func (i *Installation) listen(name string) string {
	return fmt.Sprintf("127.0.0.1:%d", i.file.Ports[name])
}
func (i *Installation) url(name string) string {
	return fmt.Sprintf("https://localhost:%d", i.file.Ports[name])
}
func (i *Installation) vaultURL() string {
	return fmt.Sprintf("https://%s.%s:%d", vaultName, vaultSuffix, i.file.Ports["keys"])
}

// HostsLines are lines for /etc/hosts, for clients whose resolver does not know that names under localhost are here.
func (i *Installation) HostsLines() []string {
	return []string{"127.0.0.1 " + vaultName + "." + vaultSuffix}
}

// Services are the installation's processes, in the order in which they start.
func (i *Installation) Services() []supervise.Service {
	program := func(name string) string { return filepath.Join(i.Programs, name) }
	return []supervise.Service{
		{Name: "softchip", Program: program("cloister-softchip"), Args: []string{"run", "--config", i.path("softchip", "config.yaml")}, Health: "unix:" + i.softchipSocket() + ":/healthz"},
		{Name: "attest", Program: program("cloister-attest"), Args: []string{"run", "--config", i.path("attest", "config.yaml")}, Health: i.url("attest") + "/healthz"},
		{Name: "keys", Program: program("cloister-keys"), Args: []string{"run", "--config", i.path("keys", "config.yaml")}, Env: i.file.HSMEnv, Health: i.url("keys") + "/healthz"},
		{Name: "compute", Program: program("cloister"), Args: []string{"compute", "run", "--config", i.path("compute", "config.yaml")}, Health: i.url("arm") + "/healthz"},
		{Name: "host", Program: program("cloister"), Args: []string{"host", "run", "--config", i.path("host", "config.yaml")}, Health: fmt.Sprintf("http://127.0.0.1:%d/healthz", i.file.Ports["host"])},
	}
}

// RunDir is where sockets live: short, and reachable by the VMs' users.
func (i *Installation) RunDir() string {
	sum := sha256.Sum256([]byte(i.Dir))
	short := hex.EncodeToString(sum[:4])
	if os.Geteuid() == 0 {
		return "/run/cloister-" + short
	}
	if base := os.Getenv("XDG_RUNTIME_DIR"); base != "" && len(base) < 32 {
		return filepath.Join(base, "cloister-"+short)
	}
	return filepath.Join("/tmp", fmt.Sprintf("cloister-%d-%s", os.Getuid(), short))
}

func (i *Installation) softchipSocket() string { return filepath.Join(i.RunDir(), "softchip.sock") }

// HTTP is a client for the installation's own services.
func (i *Installation) HTTP() (*supervise.Supervisor, error) {
	ca, err := os.ReadFile(i.path("pki", "ca.crt"))
	if err != nil {
		return nil, err
	}
	client, err := platform.HTTPClient(ca)
	if err != nil {
		return nil, err
	}
	return &supervise.Supervisor{Dir: i.Dir, HTTP: client}, nil
}

// Prepare writes the configuration of the services that come before the key keeper's signing key is known: the
// software chip, the verifier and the key keeper.
func (i *Installation) Prepare(context.Context) error {
	if err := os.MkdirAll(i.RunDir(), 0o711); err != nil {
		return err
	}
	if err := os.Chmod(i.RunDir(), 0o711); err != nil {
		return err
	}
	for _, dir := range []string{"softchip", "attest", "keys", "compute", "host", "images"} {
		if err := os.MkdirAll(i.path(dir), 0o700); err != nil {
			return err
		}
	}
	if err := i.softchip(); err != nil {
		return fmt.Errorf("software chip: %w", err)
	}
	if err := i.attest(); err != nil {
		return fmt.Errorf("verifier: %w", err)
	}
	if err := i.keys(); err != nil {
		return fmt.Errorf("key keeper: %w", err)
	}
	return nil
}

func (i *Installation) softchip() error {
	dir := i.path("softchip", "chip")
	if _, err := os.Stat(i.softwareRoot()); errors.Is(err, os.ErrNotExist) {
		if err := softchip.Init(dir, i.Now()); err != nil {
			return err
		}
	}
	return writeConfig(i.path("softchip", "config.yaml"), "The software chip: signs evidence of the software root. Protects from nothing on this host.",
		softchip.Config{Dir: dir, Socket: i.softchipSocket()})
}

func (i *Installation) softwareRoot() string { return i.path("softchip", "chip", "ark.pem") }

// identity is what every service believes about sign-in.
func (i *Installation) issuer() (identity.IssuerConfig, error) {
	key, err := signingKey(i.path("compute", "identity.key"))
	if err != nil {
		return identity.IssuerConfig{}, err
	}
	text, err := pemkey.MarshalPublic(&key.PublicKey)
	if err != nil {
		return identity.IssuerConfig{}, err
	}
	return identity.IssuerConfig{URL: provider.IssuerURL(i.url("arm"), i.file.TenantID), TenantID: i.file.TenantID,
		Keys: []initdata.SigningKey{{KID: identityKeyID, PEM: string(text)}}}, nil
}

const identityKeyID = "identity-1"

// grants gives the administrator and the tenant's user a role each at a scope; the limited client has none anywhere.
func (i *Installation) grants(scope, admin, user string) roles.List {
	return roles.List{{PrincipalID: i.file.Admin.ID, Role: admin, Scope: scope}, {PrincipalID: i.file.Tenant.ID, Role: user, Scope: scope}}
}

func (i *Installation) attest() error {
	cert, key, err := i.pki.server("attest", "localhost", "127.0.0.1")
	if err != nil {
		return err
	}
	signIn, err := i.issuer()
	if err != nil {
		return err
	}
	return writeConfig(i.path("attest", "config.yaml"), "The verifier.", attest.Config{
		Listen: i.listen("attest"), TLS: attest.TLS{Certificate: cert, Key: key}, StateDir: i.path("attest"),
		Software:  &attest.Software{Issuer: i.url("attest"), Roots: []string{i.softwareRoot()}},
		Identity:  &identity.VerifierConfig{Issuers: []identity.IssuerConfig{signIn}, Audiences: []string{"https://attest.azure.net", i.url("attest")}},
		Roles:     i.grants("/attestation", "Attestation Contributor", "Attestation Contributor"),
		Operators: []string{i.file.Admin.ID},
	})
}

// verifier pins the verifier: its issuer and the key that signs its tokens.
func (i *Installation) verifier() (initdata.Service, error) {
	is, err := issuer.Open(i.path("attest"), softwareIssuer, i.url("attest"), issuer.Rotation{}, i.Now())
	if err != nil {
		return initdata.Service{}, err
	}
	pins, err := is.SigningKeys(i.Now())
	if err != nil {
		return initdata.Service{}, err
	}
	return initdata.Service{URL: i.url("attest"), SigningKeys: pins, TLSCA: i.caPEM()}, nil
}

func (i *Installation) caPEM() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: i.pki.cert.Raw}))
}

func (i *Installation) keys() error {
	cert, key, err := i.pki.server("keys", "localhost", "127.0.0.1", vaultSuffix, "*."+vaultSuffix)
	if err != nil {
		return err
	}
	signIn, err := i.issuer()
	if err != nil {
		return err
	}
	verifier, err := i.verifier()
	if err != nil {
		return err
	}
	pass := i.path("keys", "passphrase")
	if err := writeFile(pass, []byte(i.file.Passphrase), 0o600); err != nil {
		return err
	}
	granted := i.grants("/vaults/"+vaultName, "Key Vault Crypto Officer", "Key Vault Crypto Officer")
	// Who owns the keys says who may use them: both the administrator and the tenant of this one machine.
	granted = append(granted, i.grants("/vaults/"+vaultName, "Key Vault Data Access Administrator", "Key Vault Data Access Administrator")...)
	granted = append(granted, roles.Assignment{PrincipalID: i.file.Compute.ID, Role: "Key Vault Crypto Officer", Scope: "/vaults/" + vaultName},
		roles.Assignment{PrincipalID: i.file.Compute.ID, Role: "Key Vault Contributor", Scope: "/vaults"})
	return writeConfig(i.path("keys", "config.yaml"), "The key keeper.", keys.Config{
		Listen: i.listen("keys"), TLS: keys.TLS{Certificate: cert, Key: key}, Pools: []string{vaultName}, Suffix: vaultSuffix, StateDir: i.path("keys"),
		Keystore:    keys.Keystore{PassphraseFile: pass, PKCS11: i.file.HSM},
		Authorities: []keys.Authority{{Issuer: verifier.URL, Keys: keys.Pins(verifier.SigningKeys)}},
		Identity: keys.Identity{SignIn: i.url("arm") + "/" + i.file.TenantID, Audiences: []string{fmt.Sprintf("https://%s:%d", vaultSuffix, i.file.Ports["keys"]), "https://" + vaultSuffix, i.url("keys")},
			Issuers: []keys.Issuer{{URL: signIn.URL, TenantID: signIn.TenantID, Keys: keys.Pins(signIn.Keys)}}},
		Roles: granted, Operators: []string{i.file.Compute.ID},
		Management: &keys.Management{Audiences: i.armAudiences()},
	})
}

// armAudiences are those of tokens for the control plane.
func (i *Installation) armAudiences() []string {
	return []string{i.url("arm"), "https://management.azure.com", "https://management.core.windows.net"}
}

// Finish writes what needs the key keeper's signing key: the control plane's and the agent's configuration, and what
// tenants need.
func (i *Installation) Finish(context.Context) error {
	verifier, err := i.verifier()
	if err != nil {
		return err
	}
	raw, err := os.ReadFile(i.path("keys", keys.SigningKeysFile))
	if err != nil {
		return fmt.Errorf("key keeper's signing key: %w", err)
	}
	var published keys.SigningKeys
	if err := json.Unmarshal(raw, &published); err != nil {
		return fmt.Errorf("key keeper's signing key: %w", err)
	}
	keeper := initdata.Service{URL: i.vaultURL(), SigningKeys: published.SigningKeys, TLSCA: i.caPEM()}
	if err := i.compute(verifier, keeper); err != nil {
		return fmt.Errorf("control plane: %w", err)
	}
	if err := i.host(); err != nil {
		return fmt.Errorf("host agent: %w", err)
	}
	return i.tenants(verifier, keeper)
}

// ComputeConfig is the control plane's file: its own configuration and that of the embedded sign-in.
type ComputeConfig struct {
	Compute compute.Config  `json:"compute"`
	SignIn  SignIn          `json:"signIn"`
	Vault   VaultConnection `json:"vault"`
}

// SignIn configures the embedded OpenID Connect provider.
type SignIn struct {
	KeyFile string            `json:"keyFile"` // RSA, PEM
	KeyID   string            `json:"keyId"`
	Clients []provider.Client `json:"clients"`
}

// Validate reports every mistake.
func (s SignIn) Validate() error {
	var errs []error
	if s.KeyFile == "" || s.KeyID == "" {
		errs = append(errs, errors.New("signIn: keyFile and keyId are both needed"))
	}
	for n, c := range s.Clients {
		if c.ClientID == "" || c.ObjectID == "" || len(c.SecretSHA256) != 2*sha256.Size {
			errs = append(errs, fmt.Errorf("signIn.clients[%d]: clientId, objectId and secretSha256 (64 hex digits) are all needed", n))
		}
	}
	return errors.Join(errs...)
}

// VaultConnection is how the control plane reaches the key keeper: to make keys for VMs whose tenant brought none, and
// to destroy keys of deleted VMs. It can't get a key out.
type VaultConnection struct {
	URL      string `json:"url"`
	CAFile   string `json:"caFile"`
	ClientID string `json:"clientId"` // of the control plane's own identity
	Firmware string `json:"firmware"` // that VMs of this installation are launched with
}

// Validate reports every mistake.
func (v VaultConnection) Validate() error {
	if v.URL == "" || v.CAFile == "" || v.ClientID == "" || v.Firmware == "" {
		return errors.New("vault: url, caFile, clientId and firmware are all needed")
	}
	return nil
}

func (i *Installation) compute(verifier, keeper initdata.Service) error {
	cert, key, err := i.pki.server("compute", "localhost", "127.0.0.1")
	if err != nil {
		return err
	}
	signIn, err := i.issuer()
	if err != nil {
		return err
	}
	join := sha256.Sum256([]byte(i.file.JoinToken))
	scope := "/subscriptions/" + i.file.SubscriptionID
	client := func(name string, s secret) provider.Client {
		sum := sha256.Sum256([]byte(s.Secret))
		return provider.Client{ClientID: s.ID, ObjectID: s.ID, Name: name, SecretSHA256: hex.EncodeToString(sum[:])}
	}
	return writeConfig(i.path("compute", "config.yaml"), "The control plane, with the embedded sign-in.", ComputeConfig{
		Compute: compute.Config{
			Listen: i.listen("arm"), AgentListen: i.listen("agent"), Endpoint: i.url("arm"), TLS: compute.TLS{Cert: cert, Key: key}, StateDir: i.path("compute"),
			Location: Location, TenantID: i.file.TenantID, Subscriptions: []string{i.file.SubscriptionID}, Authority: i.url("arm"),
			Identity: identity.VerifierConfig{Issuers: []identity.IssuerConfig{signIn}, Audiences: i.armAudiences()},
			Roles:    i.grants(scope, "Owner", "Contributor"),
			ImageDir: i.Images(), MinDiskGiB: minDiskGiB, Quota: quota.Limits{Cores: 64, VMs: 32, Family: 64},
			Cap: catalog.Cap{VCPUs: maxVCPUs, MemoryMiB: maxMemory}, CPUModel: cpuModel, Attest: verifier, Keys: keeper,
			VaultSuffix: fmt.Sprintf("%s:%d", vaultSuffix, i.file.Ports["keys"]), JoinTokens: []string{hex.EncodeToString(join[:])},
			RateLimits: arm.Rates{Reads: ratelimit.Rate{Burst: 250, PerSecond: 25}, Writes: ratelimit.Rate{Burst: 200, PerSecond: 10}, Deletes: ratelimit.Rate{Burst: 200, PerSecond: 10}},
			Health: compute.Health{MinimumTCB: map[string]tcbfloor.Floor{string(sevsnp.Milan): tcbfloor.Of(softchip.Levels())},
				Provisional: "refused", AliasCheck: "any", SMT: "any", CiphertextHiding: "any", RAPLDisabled: "any", SoftwareRoots: []string{i.softwareRoot()}},
		},
		SignIn: SignIn{KeyFile: i.path("compute", "identity.key"), KeyID: identityKeyID, Clients: []provider.Client{client("administrator", i.file.Admin),
			client("tenant", i.file.Tenant), client("limited", i.file.Limited), client("control plane", i.file.Compute)}},
		Vault: VaultConnection{URL: i.vaultURL(), CAFile: i.path("pki", "ca.crt"), ClientID: i.file.Compute.ID, Firmware: firmware},
	})
}

func (i *Installation) host() error {
	if err := writeFile(i.path("host", "join-token"), []byte(i.file.JoinToken), 0o600); err != nil {
		return err
	}
	name, err := os.Hostname()
	if err != nil {
		return err
	}
	return writeConfig(i.path("host", "config.yaml"), "The agent on this host.", host.Config{
		Name: name, ControlPlane: i.url("agent"), CAFile: i.path("pki", "ca.crt"), JoinTokenFile: i.path("host", "join-token"),
		StateDir: i.path("host"), RunDir: i.RunDir(), ImagesDir: i.Images(),
		QEMU: "/usr/bin/qemu-system-x86_64", Paravisor: filepath.Join(i.Programs, "cloister-paravisor"), Forward: filepath.Join(i.Programs, "cloister-forward"),
		Software: &host.SoftwareConfig{Firmware: firmware, Socket: i.softchipSocket(), Accel: "tcg"},
		Attest:   i.listen("attest"), Keys: i.listen("keys"), VCPUs: 4 * runtime.NumCPU(), MemoryMiB: 16 << 10, Slots: 16, UIDBase: uidBase, BootMinutes: 15,
		Metrics: i.listen("host"),
	})
}

// tenants writes client.env, admin.env and trust.json.
func (i *Installation) tenants(verifier, keeper initdata.Service) error {
	env := func(s secret) []byte {
		return platform.Client{ARMEndpoint: i.url("arm"), AuthorityHost: i.url("arm"), TenantID: i.file.TenantID, ClientID: s.ID, ClientSecret: s.Secret,
			SubscriptionID: i.file.SubscriptionID, MAAEndpoint: verifier.URL, VaultEndpoint: keeper.URL, CAFile: i.path("pki", "ca.crt"), Location: Location,
			LimitedClientID: i.file.Limited.ID, LimitedClientSecret: i.file.Limited.Secret}.Env()
	}
	root, err := os.ReadFile(i.softwareRoot())
	if err != nil {
		return err
	}
	signIn, err := i.issuer()
	if err != nil {
		return err
	}
	trust, err := json.MarshalIndent(platform.Trust{Attest: verifier, Keys: keeper, VMIdentity: signIn, SoftwareRoots: []string{string(root)}, Firmware: firmware, Images: i.Images(),
		CPUModel: cpuModel, MaxVCPUs: maxVCPUs}, "", "  ")
	if err != nil {
		return err
	}
	return errors.Join(writeFile(i.path("client.env"), env(i.file.Tenant), 0o600), writeFile(i.path("admin.env"), env(i.file.Admin), 0o600),
		writeFile(i.path("trust.json"), trust, 0o600))
}

// writeConfig writes a YAML file with a line that says what it is; an unchanged file is left alone.
func writeConfig(path, what string, c any) error {
	body, err := yaml.Marshal(c)
	if err != nil {
		return err
	}
	content := append([]byte("# "+what+"\n# Written by cloister up. A full sample with comments is in docs/.\n"), body...)
	if old, err := os.ReadFile(path); err == nil && string(old) == string(content) {
		return nil
	}
	return writeFile(path, content, 0o600)
}
