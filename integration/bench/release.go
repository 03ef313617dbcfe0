package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"
	"github.com/google/uuid"
	"golang.org/x/sys/unix"
	"sigs.k8s.io/yaml"

	attest "cloister.dev/cloister/attest/client"
	"cloister.dev/cloister/evidence/hcl"
	"cloister.dev/cloister/evidence/initdata"
	"cloister.dev/cloister/evidence/sevsnp"
	"cloister.dev/cloister/internal/localhost"
	keys "cloister.dev/cloister/keys/client"
	"cloister.dev/cloister/softchip"
	chip "cloister.dev/cloister/softchip/client"
)

// rounds is how often each call is made; the figure is the mean.
const rounds = 50

// tenant is what a tenant's program needs of an installation: its files say it.
type tenant struct {
	env   map[string]string
	trust struct {
		Attest, Keys initdata.Service
		Firmware     string
		CPUModel     string
	}
	chip softchip.Config
	http *http.Client
	cred azcore.TokenCredential
}

func openTenant(state string) (*tenant, error) {
	t := &tenant{env: map[string]string{}}
	raw, err := os.ReadFile(filepath.Join(state, "client.env"))
	if err != nil {
		return nil, err
	}
	for lines := bufio.NewScanner(bytes.NewReader(raw)); lines.Scan(); {
		if name, value, ok := strings.Cut(lines.Text(), "="); ok {
			t.env[name] = value
		}
	}
	if raw, err = os.ReadFile(filepath.Join(state, "trust.json")); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(raw, &t.trust); err != nil {
		return nil, err
	}
	if raw, err = os.ReadFile(filepath.Join(state, "softchip", "config.yaml")); err != nil {
		return nil, err
	}
	if err := yaml.UnmarshalStrict(raw, &t.chip); err != nil {
		return nil, err
	}
	ca, err := os.ReadFile(t.env["CA_FILE"])
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("%s: no certificate", t.env["CA_FILE"])
	}
	transport := localhost.Transport()
	transport.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13}
	t.http = &http.Client{Transport: transport}
	t.cred, err = azidentity.NewClientSecretCredential(t.env["TENANT_ID"], t.env["CLIENT_ID"], t.env["CLIENT_SECRET"], &azidentity.ClientSecretCredentialOptions{
		DisableInstanceDiscovery: true, ClientOptions: t.options()})
	return t, err
}

func (t *tenant) options() azcore.ClientOptions {
	o := azcore.ClientOptions{Transport: t.http}
	o.Cloud.ActiveDirectoryAuthorityHost = t.env["AUTHORITY_HOST"]
	return o
}

func (t *tenant) bearer(ctx context.Context) (string, error) {
	token, err := t.cred.GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{"https://vault.azure.net/.default"}})
	return token.Token, err
}

// release times a token and the opening of a guest state, as a paravisor asks for them, beside the arithmetic and the
// durable writes that each can't do without.
func release(ctx context.Context, c cli, dir string) ([]row, error) {
	if _, err := c.run(ctx, "up"); err != nil {
		return nil, err
	}
	t, err := openTenant(c.state)
	if err != nil {
		return nil, err
	}
	vm, err := t.launch(ctx)
	if err != nil {
		return nil, err
	}
	verifier := attest.New(attest.Options{URL: t.trust.Attest.URL, HTTP: t.http})
	ask := func() (string, error) { return verifier.SevSnpVM(ctx, vm.request) }
	token, err := ask()
	if err != nil {
		return nil, err
	}
	issued, err := mean(rounds, func(int) error { _, err := ask(); return err })
	if err != nil {
		return nil, err
	}
	arithmetic, err := judgeAndSign()
	if err != nil {
		return nil, err
	}
	if err := t.makeKey(ctx, vm); err != nil {
		return nil, err
	}
	keeper := keys.New(keys.Options{URL: t.trust.Keys.URL, HTTP: t.http, Bearer: t.bearer, Signers: t.trust.Keys.SigningKeys})
	opened, err := mean(rounds, func(n int) error {
		session := make([]byte, 32)
		if _, err := rand.Read(session); err != nil {
			return err
		}
		o := keys.OpenRequest{VMID: vm.id, Generation: uint64(n), Session: hex.EncodeToString(session), Token: token, Nonce: "bench"}
		if _, err := keeper.Open(ctx, o); err != nil {
			return err
		}
		return keeper.Confirm(ctx, keys.ConfirmRequest{VMID: vm.id, Generation: uint64(n) + 1, Session: o.Session, Token: token, Nonce: "bench"})
	})
	if err != nil {
		return nil, err
	}
	synced, err := durable(filepath.Join(dir, "synced"))
	if err != nil {
		return nil, err
	}
	return []row{
		{Name: "token for a report, over TLS", Ours: ms(issued), Reference: ms(arithmetic), Unit: "ms", Target: "-", Beside: "one P-384 verification and one RSA-3072 signature"},
		{Name: "guest state opened and confirmed, over TLS", Ours: ms(opened), Reference: ms(synced), Unit: "ms", Target: "-", Beside: "four durable writes of 4 KiB"},
	}, nil
}

// launched is a VM of which only the evidence exists.
type launched struct {
	id       string
	request  attest.SevSnpVM
	digest   [48]byte
	hostData [32]byte
}

// launch has the software chip measure a VM that is never run, and report on it.
func (t *tenant) launch(ctx context.Context) (*launched, error) {
	firmware, err := sealed(t.trust.Firmware)
	if err != nil {
		return nil, err
	}
	defer firmware.Close()
	vm := &launched{id: uuid.NewString()}
	socket := chip.Dial(t.chip.Socket)
	handle, err := socket.Launch(ctx, chip.Launch{Firmware: firmware, VCPUs: 1, CPUModel: t.trust.CPUModel, Policy: 0x30000, HostData: vm.hostData})
	if err != nil {
		return nil, err
	}
	transfer, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	claims := hcl.RuntimeClaims{Keys: []hcl.JWK{hcl.JWKFromRSA("HCLTransferKey", "encrypt", &transfer.PublicKey)}, VMConfiguration: hcl.VMConfiguration{VMUniqueID: vm.id}}
	if vm.request.RuntimeData, err = claims.Marshal(); err != nil {
		return nil, err
	}
	vm.request.Report, vm.request.ChainPEM, err = socket.Report(ctx, handle, hcl.ReportData(vm.request.RuntimeData))
	if err != nil {
		return nil, err
	}
	report, err := sevsnp.Parse(vm.request.Report)
	if err != nil {
		return nil, err
	}
	vm.digest = report.Measurement
	return vm, socket.Destroy(ctx, handle)
}

func (t *tenant) makeKey(ctx context.Context, vm *launched) error {
	vault, err := azkeys.NewClient(t.env["VAULT_ENDPOINT"], t.cred, &azkeys.ClientOptions{ClientOptions: t.options()})
	if err != nil {
		return err
	}
	kind, size, yes := azkeys.KeyTypeOctHSM, int32(256), true
	_, err = vault.CreateKey(ctx, keys.KeyName(vm.id), azkeys.CreateKeyParameters{Kty: &kind, KeySize: &size, KeyAttributes: &azkeys.KeyAttributes{Exportable: &yes},
		ReleasePolicy: &azkeys.KeyReleasePolicy{EncodedPolicy: keys.GuestStatePolicy(t.trust.Attest.URL, [][48]byte{vm.digest}, vm.hostData), Immutable: &yes}}, nil)
	return err
}

// sealed copies a file into memory that nobody can change: the chip takes nothing else.
func sealed(path string) (*os.File, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	fd, err := unix.MemfdCreate("firmware", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, err
	}
	mem := os.NewFile(uintptr(fd), "firmware")
	if _, err := mem.Write(raw); err != nil {
		return nil, err
	}
	_, err = unix.FcntlInt(mem.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_WRITE|unix.F_SEAL_GROW|unix.F_SEAL_SHRINK|unix.F_SEAL_SEAL)
	return mem, err
}

// mean is how long a call takes on average.
func mean(times int, call func(n int) error) (time.Duration, error) {
	begun := time.Now()
	for n := range times {
		if err := call(n); err != nil {
			return 0, err
		}
	}
	return time.Since(begun) / time.Duration(times), nil
}

// judgeAndSign is the arithmetic that a token can't be had without.
func judgeAndSign() (time.Duration, error) {
	vcek, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		return 0, err
	}
	issuer, err := rsa.GenerateKey(rand.Reader, 3072)
	if err != nil {
		return 0, err
	}
	report, token := sha512.Sum384([]byte("report")), sha256.Sum256([]byte("token"))
	signature, err := ecdsa.SignASN1(rand.Reader, vcek, report[:])
	if err != nil {
		return 0, err
	}
	return mean(rounds, func(int) error {
		if !ecdsa.VerifyASN1(&vcek.PublicKey, report[:], signature) {
			return fmt.Errorf("a signature of ours does not verify")
		}
		_, err := rsa.SignPKCS1v15(rand.Reader, issuer, crypto.SHA256, token[:])
		return err
	})
}

// durable is four writes that each reach the disk: open and confirm each log a decision and change a record.
func durable(path string) (time.Duration, error) {
	f, err := os.Create(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	page := make([]byte, 4096)
	return mean(rounds, func(int) error {
		for range 4 {
			if _, err := f.Write(page); err != nil {
				return err
			}
			if err := f.Sync(); err != nil {
				return err
			}
		}
		return nil
	})
}
