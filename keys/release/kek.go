package release

import (
	"crypto/rsa"
	"encoding/base64"
	"fmt"
	"math/big"
	"strings"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/token"
	"cloister.dev/cloister/keys/client/keywrap"
)

// TransferKey is the name of the key that a paravisor makes for the transfer of its guest-state key.
const TransferKey = "HCLTransferKey"

// neverWrapTo are keys of the vTPM. They stay with a VM for its life and have other purposes; a key
// released to them would not be bound to the session that asked.
var neverWrapTo = map[string]bool{"HCLEkPub": true, "HCLAkPub": true}

// maxRuntimeKeys bounds the keys looked at in a token.
const maxRuntimeKeys = 32

// WrappingKey finds the key that a token's evidence is bound to and that is meant for encryption: the first RSA
// key of the top-level x-ms-runtime.keys with use "enc" or operation "encrypt". Runtime data below
// x-ms-isolation-tee belong to another report and are not looked at.
func WrappingKey(t *token.Token) (*rsa.PublicKey, string, error) {
	const field = "x-ms-runtime.keys"
	v, _ := t.Lookup(field)
	list, ok := v.([]any)
	if !ok || len(list) > maxRuntimeKeys {
		return nil, "", evidence.Refuse(evidence.CodeBinding, field, "no list of keys", fmt.Sprintf("1 to %d keys that the evidence is bound to", maxRuntimeKeys))
	}
	for _, item := range list {
		key, ok := item.(map[string]any)
		if !ok || key["kty"] != "RSA" || !forEncryption(key) {
			continue
		}
		kid, _ := key["kid"].(string)
		if neverWrapTo[kid] {
			continue
		}
		pub, err := rsaKey(key)
		if err != nil {
			return nil, "", fmt.Errorf("%s, key %q: %w", field, kid, err)
		}
		return pub, kid, nil
	}
	return nil, "", evidence.Refuse(evidence.CodeBinding, field, "no RSA key for encryption", "a key with use enc or operation encrypt that is not the vTPM's")
}

func forEncryption(key map[string]any) bool {
	if key["key_use"] == "enc" || key["use"] == "enc" {
		return true
	}
	ops, _ := key["key_ops"].([]any)
	for _, op := range ops {
		if op == "encrypt" {
			return true
		}
	}
	return false
}

func rsaKey(key map[string]any) (*rsa.PublicKey, error) {
	number := func(name string, max int) (*big.Int, error) {
		s, _ := key[name].(string)
		raw, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(s, "="))
		if err != nil || len(raw) == 0 || len(raw) > max {
			return nil, evidence.Refuse(evidence.CodeParse, name, fmt.Sprintf("%d characters", len(s)), fmt.Sprintf("base64url of 1 to %d bytes", max))
		}
		return new(big.Int).SetBytes(raw), nil
	}
	n, err := number("n", 513)
	if err != nil {
		return nil, err
	}
	e, err := number("e", 4)
	if err != nil {
		return nil, err
	}
	pub := &rsa.PublicKey{N: n, E: int(e.Int64())}
	return pub, keywrap.CheckKey(pub)
}
