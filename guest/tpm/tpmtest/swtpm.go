// Package tpmtest runs a real TPM (swtpm) for tests and provisions it as the platform does.
package tpmtest

import (
	"crypto/rsa"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"
)

// TPM is a running swtpm.
type TPM struct {
	transport.TPMCloser
	t   testing.TB
	dir string
	cmd *exec.Cmd
}

// Start starts a TPM with fresh state.
func Start(t testing.TB) *TPM {
	t.Helper()
	s := &TPM{t: t, dir: t.TempDir()}
	s.start()
	t.Cleanup(s.stop)
	return s
}

// Path is the socket by which another program opens this TPM.
func (s *TPM) Path() string { return filepath.Join(s.dir, "s") }

// Reboot is a power cycle: PCRs are reset, NV and seeds stay.
func (s *TPM) Reboot() {
	s.t.Helper()
	s.stop()
	s.start()
}

func (s *TPM) stop() {
	if s.cmd == nil {
		return
	}
	_ = s.TPMCloser.Close()
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
	s.cmd = nil
}

func (s *TPM) start() {
	s.t.Helper()
	bin, err := exec.LookPath("swtpm")
	if err != nil {
		s.t.Fatal("swtpm is missing: install the package swtpm")
	}
	sock := s.Path()
	_ = os.Remove(sock)
	log, err := os.Create(filepath.Join(s.dir, "log")) // not a pipe: a child that holds one hangs its parent
	if err != nil {
		s.t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(bin, "socket", "--tpm2", "--tpmstate", "dir="+s.dir, "--server", "type=unixio,path="+sock,
		"--ctrl", "type=unixio,path="+sock+".ctrl", "--flags", "not-need-init,startup-clear")
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.cmd = cmd
	deadline := time.Now().Add(10 * time.Second)
	for {
		if s.TPMCloser, err = linuxudstpm.Open(sock); err == nil { // the socket exists; does it listen?
			if _, err = (tpm2.GetRandom{BytesRequested: 1}).Execute(s); err == nil {
				return
			}
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("swtpm does not answer: %v", err)
		}
		time.Sleep(time.Millisecond) // polls for the socket; nothing is timed by it
	}
}

// Keys are the public keys that an HCL report would carry.
type Keys struct{ EK, AK *rsa.PublicKey }

// The handles and indexes of the platform, spelled out here so that a test notices when the package changes them.
const (
	ek        = tpm2.TPMHandle(0x81010001)
	ak        = tpm2.TPMHandle(0x81000003)
	nvMark    = tpm2.TPMHandle(0x01500010)
	nvDigest  = tpm2.TPMHandle(0x01500011)
	nvReport  = tpm2.TPMHandle(0x01400001)
	nvMaximum = 2048
)

// Provision makes EK, AK and the marks as the platform does.
func (s *TPM) Provision() Keys {
	s.t.Helper()
	var k Keys
	k.EK = s.primary(tpm2.TPMRHEndorsement, tpm2.RSAEKTemplate, ek)
	k.AK = s.primary(tpm2.TPMRHOwner, tpm2.TPMTPublic{
		Type: tpm2.TPMAlgRSA, NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, NoDA: true, Restricted: true, SignEncrypt: true},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{KeyBits: 2048,
			Scheme: tpm2.TPMTRSAScheme{Scheme: tpm2.TPMAlgRSASSA, Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgRSASSA, &tpm2.TPMSSigSchemeRSASSA{HashAlg: tpm2.TPMAlgSHA256})}}),
	}, ak)
	s.Define(nvMark, 1, true)
	s.Define(nvDigest, 32, true)
	return k
}

// Define makes an NV index with platform authorization.
func (s *TPM) Define(index tpm2.TPMHandle, size uint16, writeOnce bool) {
	s.t.Helper()
	_, err := tpm2.NVDefineSpace{AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHPlatform, Auth: tpm2.PasswordAuth(nil)},
		PublicInfo: tpm2.New2B(tpm2.TPMSNVPublic{NVIndex: index, NameAlg: tpm2.TPMAlgSHA256, DataSize: size,
			Attributes: tpm2.TPMANV{PlatformCreate: true, PPWrite: true, PPRead: true, OwnerWrite: writeOnce, OwnerRead: true, AuthRead: true, NoDA: true, WriteDefine: writeOnce, NT: tpm2.TPMNTOrdinary}})}.Execute(s)
	if err != nil {
		s.t.Fatal(err)
	}
}

// WriteReport puts bytes (at most 2048, swtpm's limit) where the HCL report is.
func (s *TPM) WriteReport(report []byte) {
	s.t.Helper()
	if len(report) > nvMaximum {
		s.t.Fatalf("report of %d bytes", len(report))
	}
	s.Define(nvReport, uint16(len(report)), false)
	pub, err := tpm2.NVReadPublic{NVIndex: nvReport}.Execute(s)
	if err != nil {
		s.t.Fatal(err)
	}
	for off := 0; off < len(report); off += 1024 {
		_, err := tpm2.NVWrite{AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHPlatform, Auth: tpm2.PasswordAuth(nil)},
			NVIndex: tpm2.NamedHandle{Handle: nvReport, Name: pub.NVName}, Data: tpm2.TPM2BMaxNVBuffer{Buffer: report[off:min(off+1024, len(report))]}, Offset: uint16(off)}.Execute(s)
		if err != nil {
			s.t.Fatal(err)
		}
	}
}

// Boot measures a boot: every PCR named gets the event.
func (s *TPM) Boot(events map[int]string) {
	s.t.Helper()
	for pcr, text := range events {
		_, err := tpm2.PCREvent{PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(pcr), Auth: tpm2.PasswordAuth(nil)}, EventData: tpm2.TPM2BEvent{Buffer: []byte(text)}}.Execute(s)
		if err != nil {
			s.t.Fatal(err)
		}
	}
}

func (s *TPM) primary(hierarchy tpm2.TPMHandle, template tpm2.TPMTPublic, persistent tpm2.TPMHandle) *rsa.PublicKey {
	s.t.Helper()
	r, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.AuthHandle{Handle: hierarchy, Auth: tpm2.PasswordAuth(nil)}, InPublic: tpm2.New2B(template)}.Execute(s)
	if err != nil {
		s.t.Fatal(err)
	}
	_, err = tpm2.EvictControl{Auth: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
		ObjectHandle: &tpm2.NamedHandle{Handle: r.ObjectHandle, Name: r.Name}, PersistentHandle: persistent}.Execute(s)
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := (tpm2.FlushContext{FlushHandle: r.ObjectHandle}).Execute(s); err != nil {
		s.t.Fatal(err)
	}
	pub, err := r.OutPublic.Contents()
	if err != nil {
		s.t.Fatal(err)
	}
	n, err := pub.Unique.RSA()
	if err != nil {
		s.t.Fatal(err)
	}
	return &rsa.PublicKey{N: new(big.Int).SetBytes(n.Buffer), E: 65537}
}
