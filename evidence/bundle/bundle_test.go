package bundle_test

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"maps"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf16"

	"github.com/google/go-tpm/tpm2"
	"golang.org/x/sys/unix"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/bundle"
	"cloister.dev/cloister/evidence/hcl"
	"cloister.dev/cloister/evidence/launch"
	"cloister.dev/cloister/evidence/sevsnp"
	"cloister.dev/cloister/evidence/soft"
	"cloister.dev/cloister/evidence/vtpm"
	"cloister.dev/cloister/softchip"
)

var (
	now      = time.Now()
	nonce    = bytes.Repeat([]byte{7}, 32)
	hostData = [32]byte{1, 2, 3}
	hostKey  = []byte("host key in wire format")
	digest   = [48]byte{0xaa}
)

// vm is a VM whose hardware is the software chip and whose vTPM's attestation key is in this test's hands.
type vm struct {
	t      testing.TB
	chip   *softchip.Chip
	handle string
	root   soft.Root
	ak     *rsa.PrivateKey
	log    []logEvent
	pcrs   vtpm.PCRs
}

// slow parts are made once: a root of 4096 bits takes its time.
var once = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "cloister-bundle-")
	if err != nil {
		return "", err
	}
	return dir, softchip.Init(dir, now.Add(-time.Hour))
})

func TestMain(m *testing.M) {
	code := m.Run()
	if dir, err := once(); err == nil {
		os.RemoveAll(dir)
	}
	os.Exit(code)
}

func newVM(t testing.TB) *vm {
	t.Helper()
	dir, err := once()
	if err != nil {
		t.Fatal(err)
	}
	chip, err := softchip.Open(dir, func([]byte, int, string) ([48]byte, error) { return digest, nil }, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.MemfdCreate("firmware", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		t.Fatal(err)
	}
	fw := os.NewFile(uintptr(fd), "firmware")
	defer fw.Close()
	if _, err := fw.Write(make([]byte, 4096)); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.FcntlInt(fw.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_WRITE|unix.F_SEAL_GROW|unix.F_SEAL_SHRINK|unix.F_SEAL_SEAL); err != nil {
		t.Fatal(err)
	}
	v := &vm{t: t, chip: chip, log: boot(true)}
	if v.handle, err = chip.Launch(fw, 1, "EPYC", 0x30000, hostData); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(dir + "/ark.pem")
	if err != nil {
		t.Fatal(err)
	}
	if v.root, err = soft.ParseRoot(text); err != nil {
		t.Fatal(err)
	}
	if v.ak, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
		t.Fatal(err)
	}
	v.pcrs = replay(v.log)
	v.pcrs[11] = [32]byte{11}
	v.pcrs[12], v.pcrs[13] = [32]byte{}, [32]byte{}
	return v
}

// bundle makes evidence that answers a challenge.
func (v *vm) bundle(challenge []byte) bundle.Bundle {
	v.t.Helper()
	user := bundle.UserData(hostKey)
	c := hcl.RuntimeClaims{Keys: []hcl.JWK{hcl.JWKFromRSA(hcl.KeyAK, "sign", &v.ak.PublicKey)}, VMConfiguration: hcl.VMConfiguration{SecureBoot: true, VMUniqueID: "A"},
		UserData: strings.ToUpper(hex.EncodeToString(user[:]))}
	claims, err := c.Marshal()
	if err != nil {
		v.t.Fatal(err)
	}
	report, err := v.chip.Report(v.handle, hcl.ReportData(claims))
	if err != nil {
		v.t.Fatal(err)
	}
	raw, err := (&hcl.Report{Version: 2, Type: hcl.TypeSNP, Hardware: report, Claims: claims}).Marshal()
	if err != nil {
		v.t.Fatal(err)
	}
	b := bundle.Bundle{Version: bundle.Version, HCLReport: raw, Chain: string(v.chip.ChainPEM()), AKPublic: public(&v.ak.PublicKey), PCRs: map[string]string{},
		EventLog: marshal(v.log), Nonce: challenge, SSHHostKey: hostKey}
	for n, value := range v.pcrs {
		b.PCRs[itoa(n)] = hex.EncodeToString(value[:])
	}
	b.Quote, b.Signature = v.quote(challenge, v.pcrs)
	return b
}

func (v *vm) quote(challenge []byte, pcrs vtpm.PCRs) (quote, signature []byte) {
	v.t.Helper()
	mask := make([]byte, 3)
	h := sha256.New()
	for n := range 24 {
		if value, ok := pcrs[n]; ok {
			mask[n/8] |= 1 << (n % 8)
			h.Write(value[:])
		}
	}
	quote = tpm2.Marshal(tpm2.TPMSAttest{Magic: tpm2.TPMGeneratedValue, Type: tpm2.TPMSTAttestQuote, ExtraData: tpm2.TPM2BData{Buffer: vtpm.NonceFor(challenge)},
		Attested: tpm2.NewTPMUAttest(tpm2.TPMSTAttestQuote, &tpm2.TPMSQuoteInfo{PCRDigest: tpm2.TPM2BDigest{Buffer: h.Sum(nil)},
			PCRSelect: tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: tpm2.TPMAlgSHA256, PCRSelect: mask}}}})})
	return quote, v.sign(quote)
}

func (v *vm) sign(quote []byte) []byte {
	v.t.Helper()
	sum := sha256.Sum256(quote)
	sig, err := rsa.SignPKCS1v15(rand.Reader, v.ak, crypto.SHA256, sum[:])
	if err != nil {
		v.t.Fatal(err)
	}
	return sig
}

func public(k *rsa.PublicKey) []byte {
	t := vtpm.AKTemplate()
	t.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: k.N.Bytes()})
	return tpm2.Marshal(tpm2.New2B(t))
}

func itoa(n int) string { b, _ := json.Marshal(n); return string(b) }

func (v *vm) expect() bundle.Expect {
	snp := sevsnp.Baseline()
	snp.Root = evidence.Exactly(evidence.RootSoftware)
	snp.Measurement = evidence.Exactly(digest)
	snp.HostData = evidence.Exactly(hostData)
	e := bundle.Expect{SNP: snp, Nonce: nonce, SecureBoot: evidence.Exactly(true), PCRs: map[int]evidence.Expectation[[32]byte]{}}
	for _, n := range []int{4, 7, 11, 12, 13} {
		e.PCRs[n] = evidence.Exactly(v.pcrs[n])
	}
	return e
}

func (v *vm) roots() bundle.Roots { return bundle.Roots{Software: []soft.Root{v.root}} }

// logEvent is one record of a log that is being made.
type logEvent struct {
	pcr  int
	typ  uint32
	data []byte
}

const (
	separator = 4
	variable  = 0x80000001
	action    = 0x80000007
	authority = 0x800000e0
)

var global = []byte{0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c}

func uefiVariable(name string, value []byte) []byte {
	b := bytes.Clone(global)
	units := utf16.Encode([]rune(name))
	b = binary.LittleEndian.AppendUint64(b, uint64(len(units)))
	b = binary.LittleEndian.AppendUint64(b, uint64(len(value)))
	for _, u := range units {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	return append(b, value...)
}

// boot is the log of a boot, as short as the rules allow.
func boot(secure bool) []logEvent {
	on := byte(0)
	if secure {
		on = 1
	}
	log := []logEvent{{0, 8, []byte("v")}, {7, variable, uefiVariable("SecureBoot", []byte{on})}, {7, variable, uefiVariable("PK", []byte("k"))},
		{4, action, []byte("Calling EFI Application from Boot Option")}}
	for p := range 8 {
		log = append(log, logEvent{p, separator, make([]byte, 4)})
	}
	return append(log, logEvent{7, authority, []byte("db")}, logEvent{4, 0x80000003, []byte("image")},
		logEvent{5, action, []byte("Exit Boot Services Invocation")}, logEvent{5, action, []byte("Exit Boot Services Returned with Success")})
}

func replay(log []logEvent) vtpm.PCRs {
	p := vtpm.PCRs{}
	for _, e := range log {
		old, d := p[e.pcr], sha256.Sum256(e.data)
		p[e.pcr] = sha256.Sum256(append(old[:], d[:]...))
	}
	return p
}

func marshal(log []logEvent) []byte {
	le := binary.LittleEndian
	spec := append([]byte("Spec ID Event03\x00"), 0, 0, 0, 0, 0, 2, 0, 2)
	spec = le.AppendUint32(spec, 1)
	spec = le.AppendUint16(spec, 0xb)
	spec = le.AppendUint16(spec, 32)
	spec = append(spec, 0)
	out := append(make([]byte, 4), 3, 0, 0, 0)
	out = append(out, make([]byte, 20)...)
	out = le.AppendUint32(out, uint32(len(spec)))
	out = append(out, spec...)
	for _, e := range log {
		d := sha256.Sum256(e.data)
		out = le.AppendUint32(out, uint32(e.pcr))
		out = le.AppendUint32(out, e.typ)
		out = le.AppendUint32(out, 1)
		out = le.AppendUint16(out, 0xb)
		out = append(out, d[:]...)
		out = le.AppendUint32(out, uint32(len(e.data)))
		out = append(out, e.data...)
	}
	return out
}

func TestAppraiseAccepts(t *testing.T) {
	v := newVM(t)
	r, err := bundle.Appraise(v.bundle(nonce), v.roots(), v.expect(), now)
	if err != nil {
		t.Fatal(err)
	}
	if r.Verdict != evidence.Accepted || !r.Authentic || r.Root != evidence.RootSoftware || r.Kind != "sevsnpvm" {
		t.Fatalf("%+v", r)
	}
	raw, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"verdict":"accepted"`, `"kind":"sevsnpvm"`, `"root":"software"`, `"authentic":true`, `"result":"pass"`, `"secure-boot":true`} {
		if !bytes.Contains(raw, []byte(want)) {
			t.Errorf("no %s in %s", want, raw)
		}
	}
}

// TestAppraiseRefuses changes one thing at a time; TestAppraiseAccepts is the twin of every row.
func TestAppraiseRefuses(t *testing.T) {
	v := newVM(t)
	good := v.bundle(nonce)
	stranger := newVM(t)
	foreign := stranger.bundle(nonce)
	for _, row := range []struct {
		name   string
		change func(*bundle.Bundle, *bundle.Expect)
		claim  string // the check that must fail
	}{
		{"TPM-01 a quote that answered another challenge", func(b *bundle.Bundle, _ *bundle.Expect) { b.Quote, b.Signature = v.quote([]byte("old"), v.pcrs) }, "quote"},
		{"TPM-02 the nonce itself in the quote, not its digest", func(b *bundle.Bundle, _ *bundle.Expect) {
			q := bytes.Replace(b.Quote, vtpm.NonceFor(nonce), nonce, 1)
			b.Quote, b.Signature = q, v.sign(q)
		}, "quote"},
		{"TPM-01 another nonce beside the quote", func(b *bundle.Bundle, _ *bundle.Expect) { b.Nonce = []byte("other") }, "nonce"},
		{"TPM-03 a quote over fewer PCRs than are claimed", func(b *bundle.Bundle, _ *bundle.Expect) {
			fewer := maps.Clone(v.pcrs)
			delete(fewer, 11)
			b.Quote, b.Signature = v.quote(nonce, fewer)
		}, "quote"},
		{"TPM-03 a quote over no PCRs", func(b *bundle.Bundle, _ *bundle.Expect) { b.Quote, b.Signature = v.quote(nonce, vtpm.PCRs{}) }, "quote"},
		{"TPM-03 a PCR value that was not quoted", func(b *bundle.Bundle, _ *bundle.Expect) { b.PCRs["4"] = strings.Repeat("ab", 32) }, "quote"},
		{"TPM-04 the Secure Boot variable retagged", func(b *bundle.Bundle, _ *bundle.Expect) {
			log := append([]logEvent(nil), v.log...)
			log[1].typ = separator
			b.EventLog = marshal(log)
		}, "event log"},
		{"TPM-05 event data edited, digest kept", func(b *bundle.Bundle, _ *bundle.Expect) {
			b.EventLog = bytes.Replace(b.EventLog, uefiVariable("SecureBoot", []byte{1}), uefiVariable("SecureBoot", []byte{0}), 1)
		}, "event log"},
		{"TPM-06 no log", func(b *bundle.Bundle, _ *bundle.Expect) { b.EventLog = nil }, "event log"},
		{"TPM-06 a log cut after an event", func(b *bundle.Bundle, _ *bundle.Expect) { b.EventLog = marshal(v.log[:len(v.log)-1]) }, "event log"},
		{"TPM-06 two events swapped", func(b *bundle.Bundle, _ *bundle.Expect) {
			log := append([]logEvent(nil), v.log...)
			log[1], log[2] = log[2], log[1]
			b.EventLog = marshal(log)
		}, "event log"},
		{"TPM-07 a quote by another TPM's key", func(b *bundle.Bundle, _ *bundle.Expect) {
			b.AKPublic, b.Quote, b.Signature = foreign.AKPublic, foreign.Quote, foreign.Signature
		}, "attestation key"},
		{"TPM-08 another magic", func(b *bundle.Bundle, _ *bundle.Expect) {
			q := bytes.Clone(b.Quote)
			q[0] ^= 1
			b.Quote, b.Signature = q, v.sign(q)
		}, "quote"},
		{"TPM-09 a random signature", func(b *bundle.Bundle, _ *bundle.Expect) { b.Signature = make([]byte, 256) }, "quote"},
		{"TPM-11 PCR values with no quote", func(b *bundle.Bundle, _ *bundle.Expect) { b.Quote, b.Signature = nil, nil }, "quote"},
		{"TPM-13 a PCR that nothing was measured into", func(b *bundle.Bundle, _ *bundle.Expect) {
			var log []logEvent
			for _, e := range v.log {
				if e.pcr != 2 {
					log = append(log, e)
				}
			}
			p := maps.Clone(v.pcrs)
			p[2] = [32]byte{}
			b.PCRs["2"], b.EventLog = strings.Repeat("0", 64), marshal(log)
			b.Quote, b.Signature = v.quote(nonce, p)
		}, "event log"},
		{"TPM-18 another SSH host key in the envelope", func(b *bundle.Bundle, _ *bundle.Expect) { b.SSHHostKey = []byte("mine") }, "user data"},
		{"SNP-01 runtime claims of another VM", func(b *bundle.Bundle, _ *bundle.Expect) {
			r, err := hcl.Parse(b.HCLReport)
			if err != nil {
				t.Fatal(err)
			}
			other, err := hcl.Parse(foreign.HCLReport)
			if err != nil {
				t.Fatal(err)
			}
			r.Claims = other.Claims
			if b.HCLReport, err = r.Marshal(); err != nil {
				t.Fatal(err)
			}
			b.AKPublic, b.Quote, b.Signature, b.PCRs, b.EventLog = foreign.AKPublic, foreign.Quote, foreign.Signature, foreign.PCRs, foreign.EventLog
		}, "report data"},
		{"SNP-24 other init data", func(_ *bundle.Bundle, e *bundle.Expect) { e.SNP.HostData = evidence.Exactly([32]byte{9}) }, "host data"},
		{"another launch", func(_ *bundle.Bundle, e *bundle.Expect) { e.SNP.Measurement = evidence.Exactly([48]byte{9}) }, "measurement"},
		{"SVC-22 the software root where AMD is wanted", func(_ *bundle.Bundle, e *bundle.Expect) { e.SNP.Root = evidence.Exactly(evidence.RootAMD) }, "root"},
		{"SNP-33 one flipped bit in the hardware report", func(b *bundle.Bundle, _ *bundle.Expect) {
			b.HCLReport = bytes.Clone(b.HCLReport)
			b.HCLReport[32+0x90] ^= 1
		}, "hardware report"},
		{"another kernel image", func(_ *bundle.Bundle, e *bundle.Expect) { e.PCRs[11] = evidence.Exactly([32]byte{9}) }, "PCR 11"},
		{"another boot loader", func(_ *bundle.Bundle, e *bundle.Expect) { e.PCRs[4] = evidence.Exactly([32]byte{9}) }, "PCR 4"},
		{"other Secure Boot keys", func(_ *bundle.Bundle, e *bundle.Expect) { e.PCRs[7] = evidence.Exactly([32]byte{9}) }, "PCR 7"},
		{"TDX-24 no evidence at all", func(b *bundle.Bundle, _ *bundle.Expect) { *b = bundle.Bundle{} }, "HCL report"},
		{"no chain", func(b *bundle.Bundle, _ *bundle.Expect) { b.Chain = "" }, "certificate chain"},
	} {
		t.Run(row.name, func(t *testing.T) {
			b, e := good, v.expect()
			b.PCRs = maps.Clone(good.PCRs)
			row.change(&b, &e)
			r, err := bundle.Appraise(b, v.roots(), e, now)
			if err != nil {
				t.Fatal(err)
			}
			if r.Verdict == evidence.Accepted {
				t.Fatal("accepted")
			}
			for _, c := range r.Checks {
				if c.Result == evidence.NotMet && strings.HasPrefix(c.Claim, row.claim) {
					return
				}
			}
			t.Errorf("no check %q failed: %+v", row.claim, r.Checks)
		})
	}
	t.Run("HD-13 Secure Boot off", func(t *testing.T) {
		off := newVM(t)
		off.log = boot(false)
		maps.Copy(off.pcrs, replay(off.log))
		e := off.expect()
		r, err := bundle.Appraise(off.bundle(nonce), off.roots(), e, now)
		if err != nil || r.Verdict == evidence.Accepted {
			t.Errorf("verdict %v, %v", r.Verdict, err)
		}
		e.SecureBoot = evidence.Any[bool]()
		if r, err := bundle.Appraise(off.bundle(nonce), off.roots(), e, now); err != nil || r.Verdict != evidence.Accepted {
			t.Errorf("with an explicit Any: %+v, %v", r, err)
		}
	})
	t.Run("SNP-14 a software root that was not named", func(t *testing.T) {
		if r, err := bundle.Appraise(good, bundle.Roots{AMD: true}, v.expect(), now); err != nil || r.Verdict == evidence.Accepted || r.Authentic {
			t.Errorf("%+v, %v", r, err)
		}
	})
	t.Run("SNP-32 endorsement that is no longer valid", func(t *testing.T) {
		if r, err := bundle.Appraise(good, v.roots(), v.expect(), now.AddDate(100, 0, 0)); err != nil || r.Verdict == evidence.Accepted {
			t.Errorf("%+v, %v", r, err)
		}
	})
}

func TestExpectationsAreCheckedFirst(t *testing.T) {
	v := newVM(t)
	b := v.bundle(nonce)
	if _, err := bundle.Appraise(b, v.roots(), v.expect(), now); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*bundle.Expect, *bundle.Roots){
		"SVC-03 no root":                     func(_ *bundle.Expect, r *bundle.Roots) { *r = bundle.Roots{} },
		"SVC-26 nothing expected":            func(e *bundle.Expect, _ *bundle.Roots) { *e = bundle.Expect{} },
		"SVC-26 no nonce":                    func(e *bundle.Expect, _ *bundle.Roots) { e.Nonce = nil },
		"SVC-26 no measurement":              func(e *bundle.Expect, _ *bundle.Roots) { e.SNP.Measurement = evidence.Expectation[[48]byte]{} },
		"TDX-22 an empty list":               func(e *bundle.Expect, _ *bundle.Roots) { e.SNP.Measurement = evidence.OneOf[[48]byte]() },
		"SVC-26 no PCR 12":                   func(e *bundle.Expect, _ *bundle.Roots) { delete(e.PCRs, 12) },
		"SVC-26 nothing said of Secure Boot": func(e *bundle.Expect, _ *bundle.Roots) { e.SecureBoot = evidence.Expectation[bool]{} },
		"TPM-14 a zero PCR as reference":     func(e *bundle.Expect, _ *bundle.Roots) { e.PCRs[4] = evidence.Exactly([32]byte{}) },
		"TPM-15 a PCR that anyone can reset": func(e *bundle.Expect, _ *bundle.Roots) { e.PCRs[23] = evidence.Exactly([32]byte{1}) },
		"TPM-15 a PCR of another locality":   func(e *bundle.Expect, _ *bundle.Roots) { e.PCRs[17] = evidence.Any[[32]byte]() },
		"a PCR that does not exist":          func(e *bundle.Expect, _ *bundle.Roots) { e.PCRs[99] = evidence.Exactly([32]byte{1}) },
	} {
		t.Run(name, func(t *testing.T) {
			e, r := v.expect(), v.roots()
			change(&e, &r)
			if got, err := bundle.Appraise(b, r, e, now); err == nil || got.Verdict == evidence.Accepted {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
}

func TestParse(t *testing.T) {
	v := newVM(t)
	raw, err := v.bundle(nonce).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bundle.Parse(raw); err != nil {
		t.Fatal(err)
	}
	var members map[string]any
	if err := json.Unmarshal(raw, &members); err != nil {
		t.Fatal(err)
	}
	for name := range members {
		t.Run("TDX-24 without "+name, func(t *testing.T) {
			without := maps.Clone(members)
			delete(without, name)
			text, err := json.Marshal(without)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := bundle.Parse(text); err == nil {
				t.Error("accepted")
			}
		})
	}
	for name, text := range map[string]string{"nothing": "", "a list": "[]", "SVC-20 a member twice": `{"version":"a","version":"b"}`, "an unknown member": strings.Replace(string(raw), "{", `{"more":1,`, 1),
		"SVC-31 another version": strings.Replace(string(raw), bundle.Version, "cloister.evidence/2", 1), "two objects": string(raw) + "{}"} {
		t.Run(name, func(t *testing.T) {
			if _, err := bundle.Parse([]byte(text)); err == nil {
				t.Error("accepted")
			}
		})
	}
}

func TestExpectFrom(t *testing.T) {
	v := newVM(t)
	x := launch.Expected{Version: launch.ExpectedVersion, Kind: bundle.Kind, Roots: []evidence.RootKind{evidence.RootSoftware}, Measurement: []string{hex.EncodeToString(digest[:])},
		HostData: hex.EncodeToString(hostData[:]), PCRs: map[string]string{}}
	for _, n := range []int{4, 7, 11, 12, 13} {
		value := v.pcrs[n]
		x.PCRs[itoa(n)] = hex.EncodeToString(value[:])
	}
	raw, err := json.Marshal(x)
	if err != nil {
		t.Fatal(err)
	}
	read, err := launch.ParseExpected(raw)
	if err != nil {
		t.Fatal(err)
	}
	e, err := bundle.ExpectFrom(read, nonce)
	if err != nil {
		t.Fatal(err)
	}
	if r, err := bundle.Appraise(v.bundle(nonce), v.roots(), e, now); err != nil || r.Verdict != evidence.Accepted {
		t.Errorf("%+v, %v", r, err)
	}
	for name, change := range map[string]func(*launch.Expected){
		"TDX-22 no measurement":      func(x *launch.Expected) { x.Measurement = nil },
		"TDX-22 a zero measurement":  func(x *launch.Expected) { x.Measurement = []string{strings.Repeat("0", 96)} },
		"SNP-31 a short measurement": func(x *launch.Expected) { x.Measurement = []string{"ab"} },
		"SNP-31 a long host data":    func(x *launch.Expected) { x.HostData += "00" },
		"SVC-26 no roots":            func(x *launch.Expected) { x.Roots = nil },
		"another kind":               func(x *launch.Expected) { x.Kind = "tdxvm" },
		"TPM-15 a resettable PCR":    func(x *launch.Expected) { x.PCRs = map[string]string{"16": strings.Repeat("ab", 32)} },
		"a PCR that is no number":    func(x *launch.Expected) { x.PCRs = map[string]string{"04": strings.Repeat("ab", 32)} },
	} {
		t.Run(name, func(t *testing.T) {
			bad := x
			bad.PCRs = maps.Clone(x.PCRs)
			change(&bad)
			raw, err := json.Marshal(bad)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := launch.ParseExpected(raw); err == nil {
				t.Error("accepted")
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"version":"cloister.evidence/1"}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		b, err := bundle.Parse(raw)
		if err != nil {
			return
		}
		if _, err := b.Marshal(); err != nil {
			t.Fatal(err)
		}
	})
}
