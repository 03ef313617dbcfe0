// Package customerkey puts the key of one VM's guest state under a key of the customer's.
//
// The customer's key wraps a data key, and the data key encrypts the guest-state key with the VM's id as associated
// data. So what was wrapped for one VM opens for no other, and a new version of the customer's key wraps the same data
// key again: neither the guest state nor a disk is touched.
package customerkey

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"fmt"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/keys/keystore"
)

// dataKeySize is the size of the data key, in bytes: AES-256.
const dataKeySize = 32

// Algorithm is how a customer's key wraps data keys. Only kinds that can be kept from signing and from plain decryption
// for others are taken.
func Algorithm(s keystore.Spec) (string, error) {
	switch {
	case s.Family() == "RSA" && s.Bits >= 2048:
		return "RSA-OAEP-256", nil
	case s.Family() == "oct" && s.Bits == 256:
		return "A256GCM", nil
	}
	return "", evidence.Refuse(evidence.CodeUnsupported, "customer-managed key", fmt.Sprintf("%s %d%s", s.Kty, s.Bits, s.Crv), "RSA of 2048 bits or more, or oct-HSM of 256 bits")
}

// Wrapper wraps a data key under the customer's key. The associated data count where the algorithm has any.
type Wrapper func(dataKey, associated []byte) (keystore.Sealed, error)

// Unwrapper is the reverse.
type Unwrapper func(wrapped keystore.Sealed, associated []byte) ([]byte, error)

// associated binds to the VM and to this purpose.
func associated(vmID string) []byte { return []byte("cloister guest-state key of " + vmID) }

// Seal puts a guest-state key under the customer's key.
func Seal(vmID string, guestState []byte, wrap Wrapper) (keystore.Envelope, error) {
	dataKey := make([]byte, dataKeySize)
	defer clear(dataKey)
	if _, err := rand.Read(dataKey); err != nil {
		return keystore.Envelope{}, err
	}
	gcm, err := aead(dataKey)
	if err != nil {
		return keystore.Envelope{}, err
	}
	nonce := make([]byte, gcm.NonceSize(), gcm.NonceSize()+len(guestState)+gcm.Overhead())
	if _, err := rand.Read(nonce); err != nil {
		return keystore.Envelope{}, err
	}
	wrapped, err := wrap(dataKey, associated(vmID))
	if err != nil {
		return keystore.Envelope{}, fmt.Errorf("wrapping a data key under the customer's key: %w", err)
	}
	return keystore.Envelope{Wrapped: wrapped, Data: gcm.Seal(nonce, nonce, guestState, associated(vmID))}, nil
}

// Open takes the guest-state key out. The caller clears it.
func Open(vmID string, e keystore.Envelope, unwrap Unwrapper) ([]byte, error) {
	dataKey, err := unwrapped(vmID, e, unwrap)
	if err != nil {
		return nil, err
	}
	defer clear(dataKey)
	gcm, err := aead(dataKey)
	if err != nil {
		return nil, err
	}
	refuse := evidence.Refuse(evidence.CodeBinding, "guest-state key of "+vmID, "does not open under the customer's key", "what was sealed for this VM, unchanged")
	if len(e.Data) < gcm.NonceSize() {
		return nil, refuse
	}
	out, err := gcm.Open(nil, e.Data[:gcm.NonceSize()], e.Data[gcm.NonceSize():], associated(vmID))
	if err != nil {
		return nil, refuse
	}
	return out, nil
}

// Rewrap puts the same data key under another version of the customer's key, or under another key.
func Rewrap(vmID string, e keystore.Envelope, unwrap Unwrapper, wrap Wrapper) (keystore.Envelope, error) {
	// Opened as a whole first: a damaged envelope must not survive under a new key.
	plain, err := Open(vmID, e, unwrap)
	if err != nil {
		return keystore.Envelope{}, err
	}
	clear(plain)
	dataKey, err := unwrapped(vmID, e, unwrap)
	if err != nil {
		return keystore.Envelope{}, err
	}
	defer clear(dataKey)
	wrapped, err := wrap(dataKey, associated(vmID))
	if err != nil {
		return keystore.Envelope{}, fmt.Errorf("wrapping a data key under the customer's key: %w", err)
	}
	return keystore.Envelope{Wrapped: wrapped, Data: e.Data}, nil
}

func unwrapped(vmID string, e keystore.Envelope, unwrap Unwrapper) ([]byte, error) {
	dataKey, err := unwrap(e.Wrapped, associated(vmID))
	if err != nil {
		return nil, fmt.Errorf("unwrapping a data key with the customer's key: %w", err)
	}
	if len(dataKey) != dataKeySize {
		clear(dataKey)
		return nil, evidence.Refuse(evidence.CodeBinding, "data key", fmt.Sprintf("%d bytes", len(dataKey)), fmt.Sprint(dataKeySize))
	}
	return dataKey, nil
}

func aead(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}
