package tpm

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/vtpm"
	"cloister.dev/cloister/guest/tpm/tpmtest"
)

var goodBoot = map[int]string{4: "uki", 7: "secure boot", 11: "sections"}

func bound(t *testing.T) (*tpmtest.TPM, tpmtest.Keys, *Device) {
	t.Helper()
	s := tpmtest.Start(t)
	k := s.Provision()
	d, err := Bind(s, k.EK, k.AK)
	if err != nil {
		t.Fatal(err)
	}
	return s, k, d
}

func TestBind(t *testing.T) {
	s, k, _ := bound(t)
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []struct {
		name   string
		ek, ak *rsa.PublicKey
	}{
		{"TPM-16 another endorsement key", &other.PublicKey, k.AK},
		{"TPM-07 another attestation key", k.EK, &other.PublicKey},
		{"no endorsement key in the report", nil, k.AK},
		{"no attestation key in the report", k.EK, nil},
		{"keys swapped", k.AK, k.EK},
	} {
		t.Run(r.name, func(t *testing.T) {
			if _, err := Bind(s, r.ek, r.ak); evidence.CodeOf(err) != evidence.CodeBinding {
				t.Errorf("got %v, want refuse/binding", err)
			}
		})
	}
}

func TestSealAndUnseal(t *testing.T) {
	secret := []byte(strings.Repeat("s", 32))
	s, k, d := bound(t)
	reboot := func(t *testing.T, events map[int]string) *Device {
		t.Helper()
		s.Reboot()
		s.Boot(events)
		d, err := Bind(s, k.EK, k.AK)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	s.Boot(goodBoot)
	sealed, err := d.Seal(secret)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(sealed, secret) {
		t.Error("the sealed form holds the secret")
	}
	t.Run("same boot and next boot", func(t *testing.T) {
		for _, d := range []*Device{d, reboot(t, goodBoot)} {
			got, err := d.Unseal(sealed)
			if err != nil || !bytes.Equal(got, secret) {
				t.Fatalf("unseal: %v", err)
			}
		}
	})
	with := func(pcr int, text string) map[int]string {
		m := map[int]string{pcr: text}
		for p, e := range goodBoot {
			if p != pcr {
				m[p] = e
			}
		}
		return m
	}
	for _, r := range []struct {
		name   string
		events map[int]string
	}{
		{"HD-13 other Secure Boot state", with(7, "secure boot off")},
		{"HD-14 other image", with(11, "other sections")},
		{"HD-03 command line added by the host", with(12, "init=/bin/sh")},
		{"system extension added by the host", with(13, "sysext")},
		{"TPM-13 nothing measured", nil},
	} {
		t.Run(r.name, func(t *testing.T) {
			if _, err := reboot(t, r.events).Unseal(sealed); evidence.CodeOf(err) != evidence.CodeMeasurement {
				t.Errorf("got %v, want refuse/measurement", err)
			}
		})
	}
	t.Run("HD-12 after leave-initrd nothing unseals", func(t *testing.T) {
		d := reboot(t, goodBoot)
		if _, err := d.Unseal(sealed); err != nil {
			t.Fatal(err)
		}
		if err := d.Measure(PCRUKI, []byte(LeaveInitrd)); err != nil {
			t.Fatal(err)
		}
		if _, err := d.Unseal(sealed); evidence.CodeOf(err) != evidence.CodeMeasurement {
			t.Errorf("got %v, want refuse/measurement", err)
		}
	})
	t.Run("the TPM itself refuses too", func(t *testing.T) {
		d := reboot(t, with(11, "other sections"))
		if err := unsealWithoutChecks(t, d, sealed); err == nil {
			t.Error("the TPM's policy let another image unseal")
		}
		if err := unsealWithoutChecks(t, reboot(t, goodBoot), sealed); err != nil {
			t.Errorf("positive twin: %v", err)
		}
	})
	t.Run("HD-12 secret sealed by a foreign system under the good policy", func(t *testing.T) {
		d := reboot(t, goodBoot)
		good, err := d.sealValues()
		if err != nil {
			t.Fatal(err)
		}
		forged := sealForeign(t, reboot(t, with(11, "attacker")), good, false)
		if _, err := reboot(t, goodBoot).Unseal(forged); evidence.CodeOf(err) != evidence.CodeMeasurement {
			t.Errorf("honest creation data: got %v, want refuse/measurement", err)
		}
		forged = sealForeign(t, reboot(t, with(11, "attacker")), good, true)
		if _, err := reboot(t, goodBoot).Unseal(forged); evidence.CodeOf(err) != evidence.CodeBoot {
			t.Errorf("forged creation data: got %v, want fail/boot", err)
		}
	})
	t.Run("damaged", func(t *testing.T) {
		d := reboot(t, goodBoot)
		for i := 0; i < len(sealed); i += 7 {
			b := append([]byte(nil), sealed...)
			b[i] ^= 0x10
			if got, err := d.Unseal(b); err == nil {
				t.Errorf("byte %d changed: unsealed %d bytes", i, len(got))
			}
		}
		for _, b := range [][]byte{nil, sealed[:len(sealed)-1], append(append([]byte(nil), sealed...), 0)} {
			if _, err := d.Unseal(b); err == nil {
				t.Error("a cut or longer form was unsealed")
			}
		}
	})
	t.Run("another TPM", func(t *testing.T) {
		s2, _, d2 := bound(t)
		s2.Boot(goodBoot)
		if _, err := d2.Unseal(sealed); err == nil {
			t.Error("another TPM unsealed")
		}
	})
}

// sealForeign does what a foreign system on the same vTPM can do: seal under a policy of its choice. With forge, it also
// rewrites the creation data to name the good PCRs.
func sealForeign(t *testing.T, d *Device, good PCRs, forge bool) []byte {
	t.Helper()
	policy, digest := policyPCR(sealPCRs, good)
	parent, flush, err := d.parent()
	if err != nil {
		t.Fatal(err)
	}
	defer flush()
	r, err := tpm2.Create{
		ParentHandle: tpm2.AuthHandle{Handle: parent.Handle, Name: parent.Name, Auth: d.session()},
		InSensitive:  tpm2.TPM2BSensitiveCreate{Sensitive: &tpm2.TPMSSensitiveCreate{Data: tpm2.NewTPMUSensitiveCreate(&tpm2.TPM2BSensitiveData{Buffer: []byte("known to the host")})}},
		InPublic: tpm2.New2B(tpm2.TPMTPublic{Type: tpm2.TPMAlgKeyedHash, NameAlg: tpm2.TPMAlgSHA256,
			ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, NoDA: true}, AuthPolicy: tpm2.TPM2BDigest{Buffer: policy}}),
		OutsideInfo: tpm2.TPM2BData{Buffer: []byte(purpose)},
		CreationPCR: selection(sealPCRs...),
	}.Execute(d.t)
	if err != nil {
		t.Fatal(err)
	}
	creation, err := r.CreationData.Contents()
	if err != nil {
		t.Fatal(err)
	}
	if forge {
		creation.PCRDigest.Buffer = digest
	}
	return encodeParts(tpm2.Marshal(r.OutPublic), tpm2.Marshal(r.OutPrivate), tpm2.Marshal(creation), tpm2.Marshal(r.CreationTicket))
}

func unsealWithoutChecks(t *testing.T, d *Device, sealed []byte) error {
	t.Helper()
	parts, err := decodeParts(sealed, 4)
	if err != nil {
		t.Fatal(err)
	}
	public, err := tpm2.Unmarshal[tpm2.TPM2BPublic](parts[0])
	if err != nil {
		t.Fatal(err)
	}
	private, err := tpm2.Unmarshal[tpm2.TPM2BPrivate](parts[1])
	if err != nil {
		t.Fatal(err)
	}
	parent, flush, err := d.parent()
	if err != nil {
		t.Fatal(err)
	}
	defer flush()
	obj, err := tpm2.Load{ParentHandle: tpm2.AuthHandle{Handle: parent.Handle, Name: parent.Name, Auth: d.session()}, InPrivate: *private, InPublic: *public}.Execute(d.t)
	if err != nil {
		t.Fatal(err)
	}
	defer d.flusher(obj.ObjectHandle)()
	_, err = tpm2.Unseal{ItemHandle: tpm2.AuthHandle{Handle: obj.ObjectHandle, Name: obj.Name,
		Auth: tpm2.Policy(tpm2.TPMAlgSHA256, nonceSize, func(t transport.TPM, s tpm2.TPMISHPolicy, _ tpm2.TPM2BNonce) error {
			_, err := tpm2.PolicyPCR{PolicySession: s, Pcrs: selection(sealPCRs...)}.Execute(t)
			return err
		})}}.Execute(d.t)
	return err
}

func TestTPM13SealingRefusesUnmeasuredBoots(t *testing.T) {
	for _, missing := range []int{4, 7, 11} {
		s, _, d := bound(t)
		for p, e := range goodBoot {
			if p != missing {
				s.Boot(map[int]string{p: e})
			}
		}
		if _, err := d.Seal([]byte("x")); evidence.CodeOf(err) != evidence.CodeMeasurement {
			t.Errorf("PCR %d zero: got %v, want refuse/measurement", missing, err)
		}
		s.Boot(map[int]string{missing: "now"})
		if _, err := d.Seal([]byte("x")); err != nil {
			t.Errorf("PCR %d, positive twin: %v", missing, err)
		}
		s.Boot(map[int]string{12: "extra"})
		if _, err := d.Seal([]byte("x")); evidence.CodeOf(err) != evidence.CodeMeasurement {
			t.Errorf("PCR 12 extended: got %v, want refuse/measurement", err)
		}
	}
}

func TestMarksAreWriteOnce(t *testing.T) {
	s, k, d := bound(t)
	v, err := d.ReadVolume()
	if err != nil || v.Provisioned {
		t.Fatalf("fresh vTPM: %+v, %v", v, err)
	}
	first, second := sha256.Sum256([]byte("1")), sha256.Sum256([]byte("2"))
	x, err := d.lookup(NVVolumeDigest)
	if err != nil {
		t.Fatal(err)
	}
	if err := x.write(second[:]); err != nil { // a first boot that died before its mark
		t.Fatal(err)
	}
	if v, err := d.ReadVolume(); err != nil || v.Provisioned {
		t.Fatalf("a digest alone counts as provisioned: %+v, %v", v, err)
	}
	if err := d.WriteVolume(first); err != nil {
		t.Fatal(err)
	}
	s.Reboot()
	if d, err = Bind(s, k.EK, k.AK); err != nil {
		t.Fatal(err)
	}
	if v, err = d.ReadVolume(); err != nil || !v.Provisioned || v.Digest != first {
		t.Fatalf("after a reboot: %+v, %v", v, err)
	}
	if err := d.WriteVolume(second); err == nil {
		t.Error("the digest was written twice")
	}
	if err := d.LockVolume(); err != nil {
		t.Errorf("locking again: %v", err)
	}
	_, err = tpm2.NVUndefineSpace{AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)}, NVIndex: tpm2.NamedHandle{Handle: NVProvisioned, Name: x.name.Name}}.Execute(s)
	if err == nil {
		t.Error("the owner removed the mark")
	}
}

func TestMarksMadeByTheGuestAreRefused(t *testing.T) {
	s := tpmtest.Start(t)
	k := s.Provision()
	d, err := Bind(s, k.EK, k.AK)
	if err != nil {
		t.Fatal(err)
	}
	x, err := d.lookup(NVProvisioned)
	if err != nil {
		t.Fatal(err)
	}
	_, err = tpm2.NVUndefineSpace{AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHPlatform, Auth: tpm2.PasswordAuth(nil)}, NVIndex: x.name}.Execute(s)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.ReadVolume(); err == nil {
		t.Error("a missing mark reads as a first boot")
	}
	_, err = tpm2.NVDefineSpace{AuthHandle: d.owner(), PublicInfo: tpm2.New2B(tpm2.TPMSNVPublic{NVIndex: NVProvisioned, NameAlg: tpm2.TPMAlgSHA256, DataSize: 1,
		Attributes: tpm2.TPMANV{OwnerWrite: true, OwnerRead: true, WriteDefine: true, NT: tpm2.TPMNTOrdinary}})}.Execute(s)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.ReadVolume(); evidence.CodeOf(err) != evidence.CodeBoot {
		t.Errorf("got %v, want fail/boot", err)
	}
}

func TestReadNV(t *testing.T) {
	s := tpmtest.Start(t)
	report := make([]byte, 2048)
	for i := range report {
		report[i] = byte(i * 7)
	}
	s.WriteReport(report)
	got, err := ReadNV(s, NVHCLReport)
	if err != nil || !bytes.Equal(got, report) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if _, err := ReadNV(s, NVAKCert); err == nil {
		t.Error("a missing index was read")
	}
}

func TestUserDataPCRsAndQuote(t *testing.T) {
	s, k, d := bound(t)
	for i := range 2 { // the first call defines the index
		if err := d.WriteUserData([64]byte{byte(i)}); err != nil {
			t.Fatal(err)
		}
	}
	s.Boot(goodBoot)
	v, err := d.ReadPCRs(4, 12)
	if err != nil {
		t.Fatal(err)
	}
	uki := sha256.Sum256([]byte("uki"))
	if v[4] != sha256.Sum256(append(make([]byte, 32), uki[:]...)) || v[12] != [32]byte{} {
		t.Errorf("PCRs %x", v)
	}
	if _, err := d.ReadPCRs(24); err == nil {
		t.Error("PCR 24 was read")
	}
	q, err := d.Quote([]byte("nonce"), 4, 7, 11)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(q.Message)
	if err := rsa.VerifyPKCS1v15(k.AK, crypto.SHA256, sum[:], q.Signature); err != nil {
		t.Error(err)
	}
	if !bytes.Contains(q.Message, []byte("nonce")) {
		t.Error("the quote lacks the nonce")
	}
}

// meddler changes answers on the way, as a host can.
type meddler struct {
	transport.TPM
	code  tpm2.TPMCC
	after func(answer []byte)
}

func (m *meddler) Send(in []byte) ([]byte, error) {
	out, err := m.TPM.Send(in)
	if err == nil && len(in) >= 10 && tpm2.TPMCC(uint32(in[6])<<24|uint32(in[7])<<16|uint32(in[8])<<8|uint32(in[9])) == m.code {
		m.after(out)
	}
	return out, err
}

func TestChangedAnswersAreNoticed(t *testing.T) {
	s, k, d := bound(t)
	s.Boot(goodBoot)
	flip := func(at int) func([]byte) { return func(b []byte) { b[at] ^= 1 } }
	for _, r := range []struct {
		name string
		code tpm2.TPMCC
		at   int
		do   func(d *Device) error
	}{
		{"PCR value", tpm2.TPMCCPCRRead, 40, func(d *Device) error { _, err := d.ReadPCRs(4); return err }},
		{"NV attributes", tpm2.TPMCCNVReadPublic, 25, func(d *Device) error { _, err := d.ReadVolume(); return err }},
		{"storage key", tpm2.TPMCCCreatePrimary, 60, func(d *Device) error { _, err := d.Seal([]byte("x")); return err }},
	} {
		t.Run(r.name, func(t *testing.T) {
			bad, err := Bind(&meddler{TPM: s, code: r.code, after: flip(r.at)}, k.EK, k.AK)
			if err != nil {
				t.Fatal(err)
			}
			if err := r.do(bad); err == nil {
				t.Error("not noticed")
			}
			if err := r.do(d); err != nil {
				t.Errorf("positive twin: %v", err)
			}
		})
	}
}

func TestPolicyIsThatOfTheVerifier(t *testing.T) {
	values := PCRs{7: {1}, 11: {2}, 12: {}, 13: {}}
	got, _ := policyPCR(sealPCRs, values)
	want, err := vtpm.PolicyPCRDigest([32]byte{}, sealPCRs, vtpm.PCRs(values))
	if err != nil || !bytes.Equal(got, want[:]) {
		t.Errorf("%x, want %x (%v)", got, want, err)
	}
}

func FuzzDecodeParts(f *testing.F) {
	f.Add(encodeParts([]byte("a"), nil, []byte("bc"), []byte("d")))
	f.Add([]byte{0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, err := decodeParts(b, 4); err == nil && !bytes.Equal(encodeParts(p...), b) {
			t.Error("another form of the same parts")
		}
	})
}
