package bundle

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
)

// UserData is the vTPM's user data (NV 0x01400002): SHA-512 over a label and the SSH host key in wire format.
func UserData(sshHostKeyWire []byte) [64]byte {
	return sha512.Sum512(append([]byte("cloister.userdata/1\x00"), sshHostKeyWire...))
}

// Fingerprint writes an SSH host key as ssh-keygen -l does: SHA-256 in base64 without padding.
func Fingerprint(sshHostKeyWire []byte) string {
	sum := sha256.Sum256(sshHostKeyWire)
	return "SHA256:" + base64.RawStdEncoding.EncodeToString(sum[:])
}
