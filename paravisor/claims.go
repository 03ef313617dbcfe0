package paravisor

import (
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/big"
	"strings"
)

type jwk struct {
	KID string   `json:"kid"`
	Ops []string `json:"key_ops"`
	Kty string   `json:"kty"`
	E   string   `json:"e"`
	N   string   `json:"n"`
}

type vmConfiguration struct {
	ConsoleEnabled bool   `json:"console-enabled"`
	SecureBoot     bool   `json:"secure-boot"`
	TPMEnabled     bool   `json:"tpm-enabled"`
	TPMPersisted   bool   `json:"tpm-persisted"`
	VMUniqueID     string `json:"vmUniqueId"`
}

const (
	keyTransfer = "HCLTransferKey"
	keyAK       = "HCLAkPub"
	keyEK       = "HCLEkPub"
)

func jwkOf(kid, op string, pub *rsa.PublicKey) jwk {
	b64 := base64.RawURLEncoding.EncodeToString
	return jwk{kid, []string{op}, "RSA", b64(big.NewInt(int64(pub.E)).Bytes()), b64(pub.N.FillBytes(make([]byte, pub.Size())))}
}

func (s *Session) claims(in *input, userData [64]byte, keys ...jwk) ([]byte, error) {
	return json.Marshal(struct {
		Keys []jwk           `json:"keys"`
		VM   vmConfiguration `json:"vm-configuration"`
		User string          `json:"user-data"`
	}{keys, vmConfiguration{true, s.Config.SecureBoot, true, in.persisted(), strings.ToUpper(in.data.VMID)}, fmt.Sprintf("%X", userData)})
}

func reportData(claims []byte) (out [64]byte) {
	sum := sha256.Sum256(claims)
	copy(out[:], sum[:])
	return out
}

func hclReport(hardware, claims []byte) ([]byte, error) {
	le := binary.LittleEndian
	b := []byte("HCLA")
	for _, v := range []uint32{2, uint32(1236 + len(claims)), 2, 0, 0, 0, 0} {
		b = le.AppendUint32(b, v)
	}
	b = append(b, hardware...)
	for _, v := range []uint32{uint32(20 + len(claims)), 1, 2, 1, uint32(len(claims))} {
		b = le.AppendUint32(b, v)
	}
	return append(b, claims...), nil
}
