package boot

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"testing"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/initdata"
)

// parts is an HCL report before it is put together; offsets are those of the formats.
type parts struct {
	hardware []byte
	claims   string
	unbound  bool // do not bind the claims
}

func jwk(kid, op string, k *rsa.PublicKey) string {
	return fmt.Sprintf(`{"kid":%q,"key_ops":[%q],"kty":"RSA","e":"AQAB","n":%q}`, kid, op, base64.RawURLEncoding.EncodeToString(k.N.Bytes()))
}

func (p parts) report() []byte {
	hw := append([]byte(nil), p.hardware...)
	if !p.unbound {
		sum := sha256.Sum256([]byte(p.claims))
		copy(hw[0x50:], sum[:])
	}
	le := binary.LittleEndian
	b := []byte("HCLA")
	for _, v := range []uint32{2, uint32(1236 + len(p.claims)), 2, 0, 0, 0, 0} {
		b = le.AppendUint32(b, v)
	}
	b = append(b, hw...)
	for _, v := range []uint32{uint32(20 + len(p.claims)), 1, 2, 1, uint32(len(p.claims))} {
		b = le.AppendUint32(b, v)
	}
	return append(append(b, p.claims...), make([]byte, 100)...)
}

func TestCheckReport(t *testing.T) {
	var keys [2]*rsa.PrivateKey
	for i := range keys {
		var err error
		if keys[i], err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
			t.Fatal(err)
		}
	}
	ek, ak := &keys[0].PublicKey, &keys[1].PublicKey
	data := []byte(`{"version":"x"}`)
	const config = `"vm-configuration":{"root-cert-thumbprint":"","console-enabled":true,"secure-boot":true,"tpm-enabled":true,"tpm-persisted":true,"vmUniqueId":"B6C98C3B-4EC7-4DA6-BD2F-7D98D20D7B75"},"user-data":"` +
		`00000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000"`
	good := func() parts {
		hw := make([]byte, 1184)
		hw[0], hw[0x34] = 2, 1
		binary.LittleEndian.PutUint64(hw[8:], 0x3001f)
		host := initdata.SNPHostData(data)
		copy(hw[0xc0:], host[:])
		return parts{hardware: hw, claims: `{"keys":[` + jwk("HCLAkPub", "sign", ak) + "," + jwk("HCLEkPub", "encrypt", ek) + "]," + config + "}"}
	}
	k, err := checkReport(good().report(), data)
	if err != nil {
		t.Fatal(err)
	}
	if !k.ek.Equal(ek) || !k.ak.Equal(ak) {
		t.Error("other keys than in the claims")
	}
	for _, r := range []struct {
		name   string
		code   evidence.Code
		change func(p *parts)
	}{
		{"claims that are not bound", evidence.CodeBinding, func(p *parts) { p.unbound = true }},
		{"report data longer than a digest", evidence.CodeBinding, func(p *parts) { p.hardware[0x50+40] = 1 }},
		{"HD-04 other init data", evidence.CodeBinding, func(p *parts) { p.hardware[0xc0] ^= 1 }},
		{"HD-04 no init data in the evidence", evidence.CodeBinding, func(p *parts) { clear(p.hardware[0xc0:0xe0]) }},
		{"VMPL 2", evidence.CodeConfig, func(p *parts) { p.hardware[0x30] = 2 }},
		{"debugging", evidence.CodeConfig, func(p *parts) { p.hardware[8+2] |= 1 << 3 }},
		{"migration agent", evidence.CodeConfig, func(p *parts) { p.hardware[8+2] |= 1 << 2 }},
		{"no EK", "", func(p *parts) { p.claims = `{"keys":[` + jwk("HCLAkPub", "sign", ak) + "]," + config + "}" }},
		{"no AK", "", func(p *parts) { p.claims = `{"keys":[` + jwk("HCLEkPub", "encrypt", ek) + "]," + config + "}" }},
		{"claims that are no JSON", "", func(p *parts) { p.claims = "{" }},
	} {
		t.Run(r.name, func(t *testing.T) {
			p := good()
			r.change(&p)
			_, err := checkReport(p.report(), data)
			if err == nil || (r.code != "" && evidence.CodeOf(err) != r.code) {
				t.Errorf("got %v, want %s", err, r.code)
			}
		})
	}
	for _, n := range []int{0, 31, 1236, 1300} {
		if _, err := checkReport(good().report()[:n], data); err == nil {
			t.Errorf("%d bytes were accepted", n)
		}
	}
}
