// Package keys is the key keeper: it gives a key only to who has a role and proves, with evidence judged by
// a verifier it was configured to believe, that the key's owner would let it have the key.
package keys

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/initdata"
	"cloister.dev/cloister/evidence/token"
	"cloister.dev/cloister/identity"
	"cloister.dev/cloister/identity/provider"
	"cloister.dev/cloister/identity/roles"
	"cloister.dev/cloister/keys/keystore"
	"cloister.dev/cloister/keys/keystore/hsm"
	"cloister.dev/cloister/keys/keystore/tpmseal"
	"cloister.dev/cloister/keys/vaults"
)

// Config is the file that cloister-keys reads. There is no switch that gives keys without evidence.
type Config struct {
	Listen         string      `json:"listen"` // host:port
	TLS            TLS         `json:"tls"`
	Vaults         []string    `json:"vaults,omitempty"`   // names; each is served as NAME.suffix
	Pools          []string    `json:"pools,omitempty"`    // the same for HSM pools
	TenantID       string      `json:"tenantId,omitempty"` // whose these are; absent: the tenant of the only issuer that is believed about more than VMs
	Suffix         string      `json:"suffix"`
	StateDir       string      `json:"stateDir"` // audit log, signing keys, and the keystore if it has no path
	Keystore       Keystore    `json:"keystore"`
	Authorities    []Authority `json:"authorities"` // verifiers that are believed
	Identity       Identity    `json:"identity"`
	Roles          roles.List  `json:"roles"`
	Operators      []string    `json:"operators,omitempty"`      // object ids whose policies are marked operator-trusted
	SoftDeleteDays int         `json:"softDeleteDays,omitempty"` // 7 to 90; absent: 90
	Throttle       Throttle    `json:"throttle"`
	Management     *Management `json:"management,omitempty"` // absent: there are no vaults but these
}

// Management lets a control plane, which has the role Key Vault Contributor at /vaults, make and delete vaults.
type Management struct {
	Audiences []string `json:"audiences"` // of the tokens of tenants' callers that it passes on: the control plane's own
}

// Throttle bounds what one caller may ask for.
type Throttle struct {
	RequestsPer10Seconds int `json:"requestsPer10Seconds,omitempty"` // 1 to 1000000; absent: 4000
}

// TLS names the files of the server's certificate, which must hold every vault's name.
type TLS struct {
	Certificate string `json:"certificate"`
	Key         string `json:"key"`
}

// Keystore says where keys are kept and where the passphrase comes from: exactly one of the four sources. Records
// (names, policies, generations) are always in the encrypted file; with PKCS11, key material is in a token instead.
type Keystore struct {
	Path                 string  `json:"path,omitempty"`                 // absent: STATEDIR/keystore
	Anchor               string  `json:"anchor,omitempty"`               // absent: PATH.anchor; where backups don't reach
	PassphraseFile       string  `json:"passphraseFile,omitempty"`       // a file
	PassphraseCredential string  `json:"passphraseCredential,omitempty"` // a systemd credential's name
	PassphraseFileEnv    string  `json:"passphraseFileEnv,omitempty"`    // an environment variable that names a file
	PassphraseTPM        *TPM    `json:"passphraseTPM,omitempty"`        // sealed to this machine's TPM
	PKCS11               *PKCS11 `json:"pkcs11,omitempty"`
}

// TPM names a passphrase that cloister-keys seal-passphrase sealed.
type TPM struct {
	Sealed string `json:"sealed"`           // the file that it wrote
	Device string `json:"device,omitempty"` // absent: /dev/tpmrm0
}

// PKCS11 names a token and where its PIN comes from: exactly one of the three sources.
type PKCS11 struct {
	Module        string         `json:"module"` // path of the library
	Token         string         `json:"token"`  // label
	PINFile       string         `json:"pinFile,omitempty"`
	PINCredential string         `json:"pinCredential,omitempty"`
	PINFileEnv    string         `json:"pinFileEnv,omitempty"`
	InMemory      []hsm.InMemory `json:"inMemory,omitempty"` // what may be done in memory where the token can't do it
	Sessions      int            `json:"sessions,omitempty"` // 1 to 256; absent: 8
}

// Authority is a verifier: the issuer of its tokens and the keys that sign them.
type Authority struct {
	Issuer string `json:"issuer"`
	Keys   []Key  `json:"keys"`
}

// Key is a pinned public key, inline or in a file.
type Key struct {
	KID     string `json:"kid"`
	PEM     string `json:"pem,omitempty"`
	PEMFile string `json:"pemFile,omitempty"`
}

// Identity says whose sign-in tokens count.
type Identity struct {
	SignIn    string    `json:"signIn"` // https://HOST/TENANT, named in challenges
	Issuers   []Issuer  `json:"issuers"`
	Audiences []string  `json:"audiences,omitempty"` // besides those that Azure's clients ask for
	Embedded  *Embedded `json:"embedded,omitempty"`  // absent: signing in is elsewhere
}

// Embedded signs a few clients in by their secrets, at the address that signIn names: for who has no issuer of their own. What
// it signs counts by the issuer's entry under issuers, as any other.
type Embedded struct {
	KeyFile string            `json:"keyFile"` // PEM, an RSA key
	KeyID   string            `json:"keyId"`
	Clients []provider.Client `json:"clients"`
}

// Issuer is a pinned issuer of sign-in tokens.
type Issuer struct {
	URL      string `json:"url"`
	TenantID string `json:"tenantId"`
	Keys     []Key  `json:"keys"`
	VMsOnly  bool   `json:"vmsOnly,omitempty"` // believed about which VM calls, and nothing else: an operator's
}

// Load reads a configuration strictly: an unknown member is a mistake, not a comment.
func Load(path string) (Config, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return Config{}, fmt.Errorf("reading the configuration: %w", err)
	}
	var c Config
	if err := yaml.UnmarshalStrict(raw, &c); err != nil {
		return Config{}, evidence.Refuse(evidence.CodeParse, "configuration "+path, err.Error(), "YAML with known members")
	}
	return c, nil
}

var (
	suffixForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$`)
)

// Validate reports all mistakes.
func (c Config) Validate() error {
	var errs []error
	bad := func(field, got, want string) {
		errs = append(errs, evidence.Refuse(evidence.CodeParse, field, got, want))
	}
	if _, port, err := net.SplitHostPort(c.Listen); err != nil || port == "" {
		bad("listen", fmt.Sprintf("%q", c.Listen), "host:port")
	}
	if c.TLS.Certificate == "" || c.TLS.Key == "" {
		bad("tls", "no certificate or no key", "both files")
	}
	if len(c.Vaults)+len(c.Pools) == 0 && c.Management == nil {
		bad("vaults", "none, and no management", "at least one name of a vault or pool, or a control plane that makes them")
	}
	seen := map[string]bool{}
	for _, v := range append(slices.Clone(c.Vaults), c.Pools...) {
		if err := vaults.CheckName(v); err != nil || seen[v] {
			bad("vaults", v, "names of 3 to 24 lower-case letters, digits and hyphens, each once")
		}
		seen[v] = true
	}
	if _, err := c.tenant(); err != nil {
		errs = append(errs, err)
	}
	if c.Management != nil && len(c.Management.Audiences) == 0 {
		bad("management.audiences", "none", "the audiences of tenants' tokens for the control plane")
	}
	if !suffixForm.MatchString(c.Suffix) {
		bad("suffix", fmt.Sprintf("%q", c.Suffix), "a host name in lower case without a port")
	}
	if !filepath.IsAbs(c.StateDir) {
		bad("stateDir", fmt.Sprintf("%q", c.StateDir), "an absolute path")
	}
	sources := given(c.Keystore.PassphraseFile, c.Keystore.PassphraseCredential, c.Keystore.PassphraseFileEnv)
	if t := c.Keystore.PassphraseTPM; t != nil {
		sources++
		if !filepath.IsAbs(t.Sealed) || t.Device != "" && !filepath.IsAbs(t.Device) {
			bad("keystore.passphraseTPM", fmt.Sprintf("%q, device %q", t.Sealed, t.Device), "absolute paths")
		}
	}
	if sources != 1 {
		bad("keystore", fmt.Sprintf("%d sources of the passphrase", sources), "one of passphraseFile, passphraseCredential, passphraseFileEnv, passphraseTPM")
	}
	for field, path := range map[string]string{"keystore.path": c.Keystore.Path, "keystore.anchor": c.Keystore.Anchor} {
		if path != "" && !filepath.IsAbs(path) {
			bad(field, fmt.Sprintf("%q", path), "an absolute path, or absent")
		}
	}
	if p := c.Keystore.PKCS11; p != nil {
		if !filepath.IsAbs(p.Module) {
			bad("keystore.pkcs11.module", fmt.Sprintf("%q", p.Module), "an absolute path")
		}
		if p.Token == "" {
			bad("keystore.pkcs11.token", "empty", "a token's label")
		}
		if n := given(p.PINFile, p.PINCredential, p.PINFileEnv); n != 1 {
			bad("keystore.pkcs11", fmt.Sprintf("%d sources of the PIN", n), "one of pinFile, pinCredential, pinFileEnv")
		}
		if p.Sessions < 0 || p.Sessions > 256 {
			bad("keystore.pkcs11.sessions", fmt.Sprint(p.Sessions), "1 to 256, or absent")
		}
		for _, m := range p.InMemory {
			if !slices.Contains(hsm.Known, m) {
				bad("keystore.pkcs11.inMemory", string(m), fmt.Sprintf("of %q", hsm.Known))
			}
		}
	}
	if c.SoftDeleteDays != 0 && (c.SoftDeleteDays < 7 || c.SoftDeleteDays > 90) {
		bad("softDeleteDays", fmt.Sprint(c.SoftDeleteDays), "7 to 90")
	}
	if n := c.Throttle.RequestsPer10Seconds; n < 0 || n > 1_000_000 {
		bad("throttle.requestsPer10Seconds", fmt.Sprint(n), "1 to 1000000, or absent")
	}
	if u, err := url.Parse(c.Identity.SignIn); err != nil || u.Scheme != "https" || u.Host == "" || len(strings.Trim(u.Path, "/")) == 0 || strings.ContainsAny(c.Identity.SignIn, ` "=?#,@`) {
		bad("identity.signIn", fmt.Sprintf("%q", c.Identity.SignIn), "https://HOST/TENANT without query")
	}
	if e := c.Identity.Embedded; e != nil && (!filepath.IsAbs(e.KeyFile) || e.KeyID == "" || len(e.Clients) == 0) {
		bad("identity.embedded", fmt.Sprintf("key file %q, key id %q, %d clients", e.KeyFile, e.KeyID, len(e.Clients)), "an absolute path, a name for the key, and a client")
	}
	for _, o := range c.Operators {
		if o == "" {
			bad("operators", "an empty id", "object ids")
		}
	}
	if _, err := c.authorities(); err != nil {
		errs = append(errs, err)
	}
	if _, err := c.verifier(); err != nil {
		errs = append(errs, err)
	}
	if err := c.Roles.Validate(); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Pins writes pinned keys as the configuration has them.
func Pins(list []initdata.SigningKey) (out []Key) {
	for _, k := range list {
		out = append(out, Key{KID: k.KID, PEM: k.PEM})
	}
	return out
}

func (k Key) resolve() (initdata.SigningKey, error) {
	if (k.PEM == "") == (k.PEMFile == "") {
		return initdata.SigningKey{}, evidence.Refuse(evidence.CodeParse, "key "+k.KID, "both or none of pem and pemFile", "one of them")
	}
	if k.PEM == "" {
		raw, err := os.ReadFile(k.PEMFile)
		if err != nil {
			return initdata.SigningKey{}, fmt.Errorf("key %s: %w", k.KID, err)
		}
		k.PEM = string(raw)
	}
	return initdata.SigningKey{KID: k.KID, PEM: k.PEM}, nil
}

func resolveAll(keys []Key) ([]initdata.SigningKey, error) {
	var errs []error
	out := make([]initdata.SigningKey, 0, len(keys))
	for _, k := range keys {
		s, err := k.resolve()
		if err != nil {
			errs = append(errs, err)
			continue
		}
		out = append(out, s)
	}
	return out, errors.Join(errs...)
}

// authorities are the verifiers that are believed. None is a mistake: nothing could ever be checked.
func (c Config) authorities() ([]token.Authority, error) {
	if len(c.Authorities) == 0 {
		return nil, evidence.Refuse(evidence.CodePolicy, "authorities", "none", "at least one verifier with a pinned key")
	}
	var errs []error
	var out []token.Authority
	kids := map[string]bool{}
	for i, a := range c.Authorities {
		field := fmt.Sprintf("authorities[%d]", i)
		if u, err := url.Parse(a.Issuer); err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
			errs = append(errs, evidence.Refuse(evidence.CodeParse, field+".issuer", fmt.Sprintf("%q", a.Issuer), "an https URL without user, query and fragment"))
		}
		for _, k := range a.Keys {
			if k.KID == "" || kids[k.KID] {
				errs = append(errs, evidence.Refuse(evidence.CodeParse, field+".keys", fmt.Sprintf("kid %q", k.KID), "an id that no other key has"))
			}
			kids[k.KID] = true
		}
		pinned, err := resolveAll(a.Keys)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", field, err))
			continue
		}
		auth, err := token.NewAuthority(initdata.Service{URL: a.Issuer, SigningKeys: pinned})
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", field, err))
			continue
		}
		out = append(out, auth)
	}
	return out, errors.Join(errs...)
}

func (c Config) verifier() (*identity.Verifier, error) {
	audiences := append([]string{"https://vault.azure.net", "https://managedhsm.azure.net", "https://" + c.Suffix}, c.Identity.Audiences...)
	if _, port, err := net.SplitHostPort(c.Listen); err == nil {
		audiences = append(audiences, "https://"+c.Suffix+":"+port)
	}
	return c.verifierOf(audiences)
}

// tenants verifies the tokens that a control plane passes on; nil without one.
func (c Config) tenants() (*identity.Verifier, error) {
	if c.Management == nil {
		return nil, nil
	}
	return c.verifierOf(c.Management.Audiences)
}

func (c Config) verifierOf(audiences []string) (*identity.Verifier, error) {
	v := identity.VerifierConfig{Audiences: audiences}
	for i, is := range c.Identity.Issuers {
		pinned, err := resolveAll(is.Keys)
		if err != nil {
			return nil, fmt.Errorf("identity.issuers[%d]: %w", i, err)
		}
		v.Issuers = append(v.Issuers, identity.IssuerConfig{URL: is.URL, TenantID: is.TenantID, Keys: pinned, VMsOnly: is.VMsOnly})
	}
	return identity.NewVerifier(v)
}

// tenant is whose the vaults of the configuration are.
func (c Config) tenant() (string, error) {
	if c.TenantID != "" {
		return c.TenantID, nil
	}
	var all []string
	for _, is := range c.Identity.Issuers {
		if !is.VMsOnly && !slices.Contains(all, is.TenantID) {
			all = append(all, is.TenantID)
		}
	}
	if len(all) != 1 {
		return "", evidence.Refuse(evidence.CodeParse, "tenantId", "absent, with issuers of "+fmt.Sprint(len(all))+" tenants", "the tenant whose the vaults are")
	}
	return all[0], nil
}

// declared are the vaults and pools of the configuration. Only the configuration gives access to their keys.
func (c Config) declared() ([]vaults.Vault, error) {
	tenant, err := c.tenant()
	if err != nil {
		return nil, err
	}
	days := c.SoftDeleteDays
	if days == 0 {
		days = vaults.MaxRetentionDays
	}
	var out []vaults.Vault
	for _, name := range c.Vaults {
		out = append(out, vaults.Vault{Name: name, Kind: vaults.KindVault, Tenant: tenant, Roles: true, RetentionDays: days})
	}
	for _, name := range c.Pools {
		out = append(out, vaults.Vault{Name: name, Kind: vaults.KindPool, Tenant: tenant, Roles: true, RetentionDays: days})
	}
	return out, nil
}

// given counts what is not empty.
func given(values ...string) (n int) {
	for _, v := range values {
		if v != "" {
			n++
		}
	}
	return n
}

// files are where the keystore lies.
func (c Config) files() keystore.Files {
	path := c.Keystore.Path
	if path == "" {
		path = filepath.Join(c.StateDir, "keystore")
	}
	f := keystore.In(path)
	if c.Keystore.Anchor != "" {
		f.Anchor = c.Keystore.Anchor
	}
	return f
}

// passphrase reads the keystore's passphrase.
func (k Keystore) passphrase(getenv func(string) string) ([]byte, error) {
	if k.PassphraseTPM != nil {
		return k.PassphraseTPM.unseal()
	}
	return secret("keystore.passphrase", k.PassphraseFile, k.PassphraseCredential, k.PassphraseFileEnv, getenv)
}

func (t TPM) unseal() (pass []byte, err error) {
	file, err := os.ReadFile(t.Sealed)
	if err != nil {
		return nil, fmt.Errorf("reading keystore.passphraseTPM: %w", err)
	}
	device := t.Device
	if device == "" {
		device = tpmseal.Device
	}
	tpm, err := tpmseal.Open(device)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, tpm.Close()) }()
	return tpmseal.Unseal(tpm, file)
}

func (p PKCS11) pin(getenv func(string) string) ([]byte, error) {
	return secret("keystore.pkcs11.pin", p.PINFile, p.PINCredential, p.PINFileEnv, getenv)
}

// secret reads a secret from a file, a systemd credential or the file that a variable names. One newline at its end does
// not count.
func secret(field, path, credential, fileEnv string, getenv func(string) string) ([]byte, error) {
	switch {
	case credential != "":
		dir := getenv("CREDENTIALS_DIRECTORY")
		if dir == "" || credential != filepath.Base(credential) {
			return nil, evidence.Refuse(evidence.CodePolicy, field+"Credential", credential, "a credential's name, and CREDENTIALS_DIRECTORY set by systemd")
		}
		path = filepath.Join(dir, credential)
	case fileEnv != "":
		if path = getenv(fileEnv); path == "" {
			return nil, evidence.Refuse(evidence.CodePolicy, field+"FileEnv", fileEnv+" is not set", "a file's name in it")
		}
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", field, err)
	}
	if n := len(raw); n > 0 && raw[n-1] == '\n' {
		raw = raw[:n-1]
	}
	return raw, nil
}
