//go:build invm

package invm

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxtpm"

	"cloister.dev/cloister/evidence/hcl"
	"cloister.dev/cloister/evidence/vtpm"
)

// device is the kernel's resource manager, which programs in a VM use.
const device = "/dev/tpmrm0"

const (
	report   = tpm2.TPMHandle(vtpm.NVHCLReport)
	userData = tpm2.TPMHandle(vtpm.NVUserData)
	akCert   = tpm2.TPMHandle(vtpm.NVAKCert)
	ak       = tpm2.TPMHandle(vtpm.HandleAK)
	ek       = tpm2.TPMHandle(vtpm.HandleEK)
)

func open(t *testing.T) transport.TPM {
	t.Helper()
	tpm, err := linuxtpm.Open(device)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tpm.Close() })
	return tpm
}

func named(t *testing.T, tpm transport.TPM, index tpm2.TPMHandle) (tpm2.NamedHandle, int) {
	t.Helper()
	r, err := tpm2.NVReadPublic{NVIndex: index}.Execute(tpm)
	if err != nil {
		t.Fatal(err)
	}
	public, err := r.NVPublic.Contents()
	if err != nil {
		t.Fatal(err)
	}
	return tpm2.NamedHandle{Handle: index, Name: r.NVName}, int(public.DataSize)
}

func readAll(t *testing.T, tpm transport.TPM, index tpm2.TPMHandle) []byte {
	t.Helper()
	name, size := named(t, tpm, index)
	var all []byte
	for len(all) < size {
		r, err := tpm2.NVRead{AuthHandle: tpm2.TPMRHOwner, NVIndex: name, Size: uint16(min(1024, size-len(all))), Offset: uint16(len(all))}.Execute(tpm)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, r.Data.Buffer...)
	}
	return all
}

func readReport(t *testing.T, tpm transport.TPM) (*hcl.Report, *hcl.RuntimeClaims) {
	t.Helper()
	r, err := hcl.Parse(readAll(t, tpm, report))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.CheckBinding(); err != nil {
		t.Fatal(err)
	}
	claims, err := hcl.ParseClaims(r.Claims)
	if err != nil {
		t.Fatal(err)
	}
	return r, claims
}

func public(t *testing.T, tpm transport.TPM, handle tpm2.TPMHandle) (*rsa.PublicKey, tpm2.TPM2BName, tpm2.TPMTPublic) {
	t.Helper()
	r, err := tpm2.ReadPublic{ObjectHandle: handle}.Execute(tpm)
	if err != nil {
		t.Fatal(err)
	}
	key, _, err := vtpm.RSAPublic(tpm2.Marshal(r.OutPublic))
	if err != nil {
		t.Fatal(err)
	}
	area, err := r.OutPublic.Contents()
	if err != nil {
		t.Fatal(err)
	}
	return key, r.Name, *area
}

func TestReportNamesTheKeysOfThisTPM(t *testing.T) {
	tpm := open(t)
	_, claims := readReport(t, tpm)
	for kid, handle := range map[string]tpm2.TPMHandle{"HCLAkPub": ak, "HCLEkPub": ek} {
		inReport, err := claims.RSAKey(kid)
		if err != nil {
			t.Fatal(err)
		}
		if inTPM, _, _ := public(t, tpm, handle); !inTPM.Equal(inReport) {
			t.Errorf("%s of the report is not the key at %#x", kid, uint32(handle))
		}
	}
	var der asn1.RawValue
	if _, err := asn1.Unmarshal(readAll(t, tpm, akCert), &der); err != nil { // zeros follow it
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der.FullBytes)
	if err != nil {
		t.Fatal(err)
	}
	if key, _, _ := public(t, tpm, ak); !key.Equal(cert.PublicKey) {
		t.Error("the AK's certificate is of another key")
	}
}

func TestNewUserDataChangeTheReport(t *testing.T) {
	tpm := open(t)
	before, _ := readReport(t, tpm)
	if _, err := (tpm2.NVReadPublic{NVIndex: userData}).Execute(tpm); errors.Is(err, tpm2.TPMRCHandle) {
		_, err := tpm2.NVDefineSpace{AuthHandle: tpm2.TPMRHOwner, PublicInfo: tpm2.New2B(tpm2.TPMSNVPublic{
			NVIndex: userData, NameAlg: tpm2.TPMAlgSHA256, DataSize: 64,
			Attributes: tpm2.TPMANV{OwnerWrite: true, OwnerRead: true, AuthWrite: true, AuthRead: true},
		})}.Execute(tpm)
		if err != nil {
			t.Fatal(err)
		}
	}
	data := make([]byte, 64)
	if _, err := rand.Read(data); err != nil {
		t.Fatal(err)
	}
	index, _ := named(t, tpm, userData)
	if _, err := (tpm2.NVWrite{AuthHandle: tpm2.TPMRHOwner, NVIndex: index, Data: tpm2.TPM2BMaxNVBuffer{Buffer: data}}).Execute(tpm); err != nil {
		t.Fatal(err)
	}
	after, claims := readReport(t, tpm)
	if !strings.EqualFold(claims.UserData, hex.EncodeToString(data)) {
		t.Errorf("user data %s, want %x", claims.UserData, data)
	}
	if bytes.Equal(before.Hardware, after.Hardware) {
		t.Error("the hardware report is the old one")
	}
	if again, _ := readReport(t, tpm); !bytes.Equal(again.Hardware, after.Hardware) {
		t.Error("the same user data made another report")
	}
}

func TestSessions(t *testing.T) {
	tpm := open(t)
	index, size := named(t, tpm, report)
	_, _, ekArea := public(t, tpm, ek)
	hmac := func(more ...tpm2.AuthOption) tpm2.Session { return tpm2.HMAC(tpm2.TPMAlgSHA256, 16, more...) }
	for _, r := range []struct {
		name    string
		session tpm2.Session
		offset  int
		want    tpm2.TPMRC // 0: it is read
	}{
		{"a password", tpm2.PasswordAuth(nil), 0, 0},
		{"an HMAC session", hmac(), 0, 0},
		{"an HMAC session beyond the end", hmac(), size - 1, tpm2.TPMRCNVRange},
		{"a salted HMAC session", hmac(tpm2.Salted(ek, ekArea)), 0, tpm2.TPMRCAuthType},
		{"a bound HMAC session", hmac(tpm2.Bound(tpm2.TPMRHOwner, tpm2.HandleName(tpm2.TPMRHOwner), nil)), 0, tpm2.TPMRCAuthType},
		{"an HMAC session that encrypts", hmac(tpm2.AESEncryption(128, tpm2.EncryptOut)), 0, tpm2.TPMRCAuthType},
		{"an HMAC session with another authorization", hmac(tpm2.Auth([]byte("guess"))), 0, tpm2.TPMRCAuthFail},
	} {
		t.Run(r.name, func(t *testing.T) {
			_, err := tpm2.NVRead{AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: r.session}, NVIndex: index, Size: 16, Offset: uint16(r.offset)}.Execute(tpm)
			answered(t, err, r.want)
		})
	}
}

// answered wants a TPM's own answer; any other error is a broken TPM.
func answered(t *testing.T, err error, want tpm2.TPMRC) {
	t.Helper()
	switch {
	case want == 0 && err != nil:
		t.Errorf("refused: %v", err)
	case want != 0 && !errors.Is(err, want):
		t.Errorf("answer %v, want %v", err, want)
	}
}

func TestTPM16ReservedHandlesStay(t *testing.T) {
	tpm := open(t)
	_, akName, _ := public(t, tpm, ak)
	for _, index := range []tpm2.TPMHandle{report, akCert} {
		name, _ := named(t, tpm, index)
		for what, auth := range map[string]tpm2.AuthHandle{"owner": {Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)}, "itself": {Handle: index, Name: name.Name, Auth: tpm2.PasswordAuth(nil)}} {
			_, err := tpm2.NVWrite{AuthHandle: auth, NVIndex: name, Data: tpm2.TPM2BMaxNVBuffer{Buffer: []byte{1}}}.Execute(tpm)
			if !errors.Is(err, tpm2.TPMRCNVAuthorization) {
				t.Errorf("writing %#x by %s: %v", uint32(index), what, err)
			}
		}
		_, err := tpm2.NVUndefineSpace{AuthHandle: tpm2.TPMRHOwner, NVIndex: name}.Execute(tpm)
		answered(t, err, tpm2.TPMRCNVAuthorization)
		_, err = tpm2.NVDefineSpace{AuthHandle: tpm2.TPMRHOwner, PublicInfo: tpm2.New2B(tpm2.TPMSNVPublic{
			NVIndex: index, NameAlg: tpm2.TPMAlgSHA256, DataSize: 8, Attributes: tpm2.TPMANV{OwnerWrite: true, OwnerRead: true},
		})}.Execute(tpm)
		answered(t, err, tpm2.TPMRCNVDefined)
	}
	_, err := tpm2.EvictControl{Auth: tpm2.TPMRHOwner, ObjectHandle: &tpm2.NamedHandle{Handle: ak, Name: akName}, PersistentHandle: ak}.Execute(tpm)
	answered(t, err, tpm2.TPMRCHierarchy)
	_, err = tpm2.Clear{AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHLockout, Auth: tpm2.PasswordAuth(nil)}}.Execute(tpm)
	answered(t, err, tpm2.TPMRCDisabled)
	if _, again, _ := public(t, tpm, ak); !bytes.Equal(again.Buffer, akName.Buffer) {
		t.Error("the AK is another")
	}
	readReport(t, tpm)
}

func TestQuote(t *testing.T) {
	tpm := open(t)
	key, name, _ := public(t, tpm, ak)
	pcrs := vtpm.PCRs{}
	chosen := tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: tpm2.TPMAlgSHA256, PCRSelect: tpm2.PCClientCompatible.PCRs(4, 7, 11)}}}
	read, err := tpm2.PCRRead{PCRSelectionIn: chosen}.Execute(tpm)
	if err != nil {
		t.Fatal(err)
	}
	for n, pcr := range []int{4, 7, 11} {
		pcrs[pcr] = [32]byte(read.PCRValues.Digests[n].Buffer)
	}
	nonce := vtpm.NonceFor([]byte("a challenge"))
	r, err := tpm2.Quote{SignHandle: tpm2.AuthHandle{Handle: ak, Name: name, Auth: tpm2.PasswordAuth(nil)}, QualifyingData: tpm2.TPM2BData{Buffer: nonce},
		InScheme: tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull}, PCRSelect: chosen}.Execute(tpm)
	if err != nil {
		t.Fatal(err)
	}
	signature, err := r.Signature.Signature.RSASSA()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := vtpm.VerifyQuote(r.Quoted.Bytes(), signature.Sig.Buffer, key, nonce, pcrs); err != nil {
		t.Error(err)
	}
	other := vtpm.NonceFor([]byte("another challenge"))
	if _, err := vtpm.VerifyQuote(r.Quoted.Bytes(), signature.Sig.Buffer, key, other, pcrs); err == nil {
		t.Error("a quote for another challenge was accepted")
	}
}

// TestTPM2Tools does with tpm2-tools what the tests above do with go-tpm. CLOISTER_TPM2 is the command that runs "tpm2".
func TestTPM2Tools(t *testing.T) {
	command := strings.Fields(os.Getenv("CLOISTER_TPM2"))
	if len(command) == 0 {
		t.Fatal("CLOISTER_TPM2 is not set")
	}
	dir := t.TempDir()
	tpm2tools := func(args ...string) ([]byte, error) {
		c := exec.Command(command[0], append(command[1:], args...)...)
		c.Env = append(os.Environ(), "TPM2TOOLS_TCTI=device:"+device)
		c.Dir = dir
		out, err := c.CombinedOutput()
		t.Logf("tpm2 %s: %v\n%s", strings.Join(args, " "), err, bytes.TrimSpace(out))
		return out, err
	}
	must := func(args ...string) {
		t.Helper()
		if _, err := tpm2tools(args...); err != nil {
			t.Errorf("tpm2 %s: %v", args[0], err)
		}
	}
	file := func(name string) []byte {
		t.Helper()
		raw, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	tpm := open(t)
	for _, index := range []string{"0x1400001", "0x1C101D0"} {
		must("nvread", "-C", "o", "-o", "read-"+index, index)
	}
	if !bytes.Equal(file("read-0x1400001"), readAll(t, tpm, report)) || !bytes.Equal(file("read-0x1C101D0"), readAll(t, tpm, akCert)) {
		t.Error("tpm2-tools and go-tpm read different contents")
	}
	must("readpublic", "-c", "0x81000003", "-f", "pem", "-o", "ak.pem")
	must("quote", "-c", "0x81000003", "-l", "sha256:4,7,11", "-q", "abcd", "-m", "quote", "-s", "signature", "-o", "pcrs", "-g", "sha256")
	must("checkquote", "-u", "ak.pem", "-m", "quote", "-s", "signature", "-f", "pcrs", "-g", "sha256", "-q", "abcd")
	if _, err := tpm2tools("checkquote", "-u", "ak.pem", "-m", "quote", "-s", "signature", "-f", "pcrs", "-g", "sha256", "-q", "abce"); err == nil {
		t.Error("tpm2_checkquote takes a quote for another challenge")
	}
	if err := os.WriteFile(filepath.Join(dir, "user-data"), bytes.Repeat([]byte{0x5a}, 64), 0o600); err != nil {
		t.Fatal(err)
	}
	must("nvwrite", "-C", "o", "-i", "user-data", "0x1400002")
	if _, claims := readReport(t, tpm); claims.UserData != strings.Repeat("5A", 64) && claims.UserData != strings.Repeat("5a", 64) {
		t.Errorf("user data %s", claims.UserData)
	}
	for _, r := range []struct {
		code string // of the TPM, as tpm2-tools print it
		args []string
	}{
		{"0x149", []string{"nvwrite", "-C", "o", "-i", "user-data", "0x1400001"}},
		{"0x149", []string{"nvundefine", "-C", "o", "0x1400001"}},
		{"0x149", []string{"nvundefine", "-C", "o", "0x1C101D0"}},
		{"0x14C", []string{"nvdefine", "-C", "o", "-s", "8", "0x1400001"}},
		{"0x285", []string{"evictcontrol", "-C", "o", "-c", "0x81000003"}},
		{"0x120", []string{"clear", "-c", "l"}},
	} {
		if out, err := tpm2tools(r.args...); err == nil || !strings.Contains(strings.ToLower(string(out)), strings.ToLower(r.code)) {
			t.Errorf("tpm2 %s: %v, want the TPM's answer %s", r.args, err, r.code)
		}
	}
}
