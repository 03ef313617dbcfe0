package api

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"

	"cloister.dev/cloister/attest/client"
)

// sealReply encrypts a token to the ephemeral key of the guest's vTPM: a fresh AES-256-GCM key, itself
// under RSAES-PKCS1-v1_5 as the protocol has it. The key decrypts only inside the TPM, and a wrong
// padding there shows nobody anything: each answer has its own key.
func sealReply(token string, to *rsa.PublicKey) (string, error) {
	key, iv := make([]byte, 32), make([]byte, 12)
	for _, b := range [][]byte{key, iv} {
		if _, err := rand.Read(b); err != nil {
			return "", err
		}
	}
	//lint:ignore SA1019 the protocol of the guest attestation client fixes this padding
	wrapped, err := rsa.EncryptPKCS1v15(rand.Reader, to, key)
	if err != nil {
		return "", err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return "", err
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		return "", err
	}
	sealed := gcm.Seal(nil, iv, []byte(token), []byte(client.TransportAAD))
	cut := len(sealed) - gcm.Overhead()
	raw, err := json.Marshal(client.WireEncrypted{
		Jwt: sealed[:cut], EncryptedInnerKey: wrapped, AuthenticationData: sealed[cut:],
		EncryptionParams: client.WireEncryption{Iv: iv, BlockMode: "ChainingModeGCM", BlockPadding: "PKCS7", Cipher: "AES", KeySizeInBits: 256},
	})
	return base64.RawURLEncoding.EncodeToString(raw), err
}
